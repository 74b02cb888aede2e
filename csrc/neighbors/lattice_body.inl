// Points to the lattice of the screened search. Compiled once per instruction set. See docs/neighbors-algorithms.md.
#include "neighbors/select.h"
#include "neighbors/sweep.h"

namespace gm {
inline namespace GM_ISA {

bool screen_has_bytes() {
#if defined(__AVX512F__)
    static const bool vnni = __builtin_cpu_supports("avx512vnni");
    return vnni;
#else
    return false;
#endif
}

namespace {

constexpr float kUnit = 1.0f / (1 << 24);
constexpr float kInfinity = __builtin_inff();

// Rounding of a sum of `width` squares in the written order, relative, and of everything beside it.
GM_HD float sum_error(int64_t width) { return static_cast<float>(width / 16 + 16) * kUnit; }

struct LatticePoint {
    float scale, norm, residual;
};

// Any integers within the bounds would do: the residual is measured.
GM_HD i32x16 nearest(f32x16 t) { return convert<int32_t>(t + select(t < f32x16(0.0f), f32x16(-0.5f), f32x16(0.5f))); }
GM_HD i32x16 nearest(f64x16 t) {
    alignas(64) double from[16];
    alignas(64) float to[16];
    t.store(from);
    for (int i = 0; i < 16; ++i) to[i] = static_cast<float>(from[i]);
    return nearest(f32x16::load(to));
}
GM_HD f32x16 real_of(i32x16 n, float) { return convert<float>(n); }
GM_HD f64x16 real_of(i32x16 n, double) {
    alignas(64) int32_t from[16];
    alignas(64) double to[16];
    n.store(from);
    for (int i = 0; i < 16; ++i) to[i] = from[i];
    return f64x16::load(to);
}

// The integers of one row are left in `values` [width].
template <class F>
LatticePoint to_lattice(const F* row, const F* centre, int64_t width, bool bytes, int32_t* values) {
    using V = x16<F>;
    V most = V(F(0)), lengths = V(F(0));
    for (int64_t d = 0; d < width; d += 16) {
        const V e = V::load(row + d) - V::load(centre + d);
        most = max(most, max(e, -e));
        lengths = lengths + e * e;
    }
    const F largest = max_lanes(most);
    const float spread = __builtin_sqrtf(static_cast<float>(width)) * (1.0f + kScreenSlack);
    if (!(largest >= F(1e-15f) && largest <= F(1e15f))) {  // squares might underflow or overflow: all is residual
        for (int64_t d = 0; d < width; ++d) values[d] = 0;
        return {0, 0, largest < F(1) ? (largest > F(0) ? 1e-15f * spread : 0.0f) : kInfinity};
    }
    float scale = static_cast<float>(largest) / (bytes ? 127.0f : kScreenWord);
    if (!bytes) {
        const float length = static_cast<float>(sqrt(sum_lanes(lengths))) / kScreenLength;
        scale = length > scale ? length : scale;
    }
    const float inverse = 1.0f / scale;
    V squares = V(F(0));
    i32x16 norm(0);
    for (int64_t d = 0; d < width; d += 16) {
        const V e = V::load(row + d) - V::load(centre + d);
        const i32x16 n = nearest(e * V(F(inverse)));
        n.store(values + d);
        norm = norm + n * n;
        const V lost = e - real_of(n, F()) * V(F(scale));
        squares = squares + lost * lost;
    }
    const float lost = static_cast<float>(sqrt(sum_lanes(squares)));
    const float units = 4 * kUnit * static_cast<float>(largest) * spread;  // of e, of the product, of the difference
    return {scale, static_cast<float>(sum_lanes(norm)) * scale * scale * (1 - kScreenSlack),
            (lost * (1 + 2 * sum_error(width)) + units) * (1 + kScreenSlack)};
}

// Row i of the queries, or lane i % 16 of the group's dwords, from the integers of a point.
template <class Value, int Bias>
void put(const int32_t* values, int64_t i, int64_t width, bool references, void* to) {
    constexpr int64_t kPerWord = 4 / static_cast<int64_t>(sizeof(Value));
    Value* rows = static_cast<Value*>(to);
    if (!references) {
        for (int64_t d = 0; d < width; ++d) rows[i * width + d] = static_cast<Value>(values[d] + Bias);
        return;
    }
    alignas(64) Value packed[kScreenWidth];
    for (int64_t d = 0; d < width; ++d) packed[d] = static_cast<Value>(values[d]);
    char* words =
        static_cast<char*>(to) + (i / kGroup * width * kGroup) * static_cast<int64_t>(sizeof(Value)) + i % kGroup * 4;
    for (int64_t w = 0; w < width / kPerWord; ++w) std::memcpy(words + w * kGroup * 4, packed + w * kPerWord, 4);
}

template <class F>
void quantise(const Quantise<F>& q) {
    int32_t values[kScreenWidth];
    const int64_t rows = q.references ? (q.count + kGroup - 1) / kGroup * kGroup : q.count;
    for (int64_t i = 0; i < rows; ++i) {
        LatticePoint p{0, 0, 0};
        if (i < q.count)
            p = to_lattice(q.rows + i * q.width, q.centre, q.width, q.bytes, values);
        else
            for (int64_t d = 0; d < q.width; ++d) values[d] = 0;
        q.to.scales[i] = q.references ? p.scale : -2 * p.scale;
        q.to.norms[i] = p.norm;
        q.to.residuals[i] = p.residual;
        int32_t sum = 0;
        for (int64_t d = 0; d < q.width; ++d) sum += values[d];
        q.to.starts[i] = q.bytes ? -128 * sum : 0;
        if (q.bytes)
            put<uint8_t, 128>(values, i, q.width, q.references, q.to.values);
        else
            put<int16_t, 0>(values, i, q.width, q.references, q.to.values);
    }
}

}  // namespace

void quantise_fp32(const Quantise<float>& q) { quantise(q); }
void quantise_fp64(const Quantise<double>& q) { quantise(q); }

}  // namespace GM_ISA
}  // namespace gm
