// Rows times packed panels: a register tile of R rows and C panels. An output's sum is one chain of multiply-adds a
// block of kBlock inputs, in their order, and the chain of the blocks' sums. Where many rows read the same weights, a
// block of the weights is widened once and stays in the near cache while the rows pass, their sums waiting in memory.
#include "common/vector_math.h"
#include "decode/transformer.h"

namespace gm {
inline namespace GM_ISA {
namespace {

// The tile that fits the registers: accumulators, one panel row a column, one broadcast.
#if defined(__AVX512F__)
constexpr int kRows = 6, kPanels = 4, kPanelsOfOne = 8;
#elif defined(__AVX2__)
constexpr int kRows = 3, kPanels = 2, kPanelsOfOne = 4;
#else
constexpr int kRows = 1, kPanels = 2, kPanelsOfOne = 2;
#endif

constexpr int64_t kBlock = 128;  // inputs of one chain; their weights are widened at once, and stay in the near cache
constexpr int kPassing = 96;     // rows whose sums wait meanwhile, a multiple of kRows

f32x16 activate(Epilogue kind, f32x16 x) {
    switch (kind) {
        case Epilogue::swiglu:
        case Epilogue::silu:
            return silu(x);
        case Epilogue::geglu:
        case Epilogue::gelu:
            return gelu(x);
        case Epilogue::gelu_tanh:
        case Epilogue::geglu_tanh:
            return gelu_tanh(x);
        case Epilogue::relu:
            return relu(x);
        default:
            return x;
    }
}

GM_HD f32x16 biased(const LinearArgs& a, const float* sum, int64_t at) {
    const f32x16 y = f32x16::load(sum);
    return (a.scale ? y * f32x16::load(a.scale + at) : y) + f32x16::load(a.bias + at);
}

__attribute__((noinline)) void finish(const LinearArgs& a, const float* sums, int64_t row, int64_t panel, int rows,
                                      int panels) {
    const bool gated = is_gated(a.epilogue);
    for (int r = 0; r < rows; ++r) {
        const float* from = sums + r * panels * kLanes;
        float* to = a.out + (row + r) * a.out_stride;
        for (int c = 0; c < panels; c += gated ? 2 : 1) {
            const int64_t at = (panel + c) * kLanes;
            const f32x16 y = biased(a, from + c * kLanes, at);
            if (gated) {
                const f32x16 up = biased(a, from + (c + 1) * kLanes, at + kLanes);
                (activate(a.epilogue, y) * up).store(to + at / 2);
            } else if (a.epilogue == Epilogue::add) {
                (f32x16::load(to + at) + y).store(to + at);
            } else {
                activate(a.epilogue, y).store(to + at);
            }
        }
    }
}

// The weights of input number i of a word.
template <WeightFormat F>
GM_HD f32x16 widened(u32x16 word, int i) {
    if (F == WeightFormat::fp32) return bit_cast<float>(word);
    if (F == WeightFormat::bf16) return bit_cast<float>(i == 0 ? word << 16 : word & u32x16(0xFFFF0000u));
    return convert<float>(bit_cast<int32_t>(word << (24 - 8 * i)) >> 24);
}

// What is wanted soon: as many words of each of `panels` panels as are read now. A hint: it may point past the weights.
struct Ahead {
    const uint32_t* from;
    int panels;
};

// sum[r][c] += x[r][k] w[c][k] for k < inputs; panels stand `step` words apart.
template <WeightFormat F, int R, int C>
GM_HD void accumulate(const float* x, int64_t stride, const uint32_t* w, int64_t step, int64_t inputs,
                      f32x16 (&sum)[R][C], Ahead ahead = {nullptr, 0}) {
    constexpr int each = weights_per_word(F);
    const int64_t whole = inputs / each;
    for (int64_t word = 0; word < whole; ++word) {
        for (int c = 0; c < ahead.panels; ++c) __builtin_prefetch(ahead.from + c * step + word * kLanes, 0, 2);
        u32x16 words[C];
        for (int c = 0; c < C; ++c) words[c] = u32x16::load(w + c * step + word * kLanes);
        for (int i = 0; i < each; ++i) {
            f32x16 column[C];
            for (int c = 0; c < C; ++c) column[c] = widened<F>(words[c], i);
            for (int r = 0; r < R; ++r) {
                const f32x16 value(x[r * stride + word * each + i]);
                for (int c = 0; c < C; ++c) sum[r][c] = fma(value, column[c], sum[r][c]);
            }
        }
    }
    for (int64_t k = whole * each; k < inputs; ++k)
        for (int c = 0; c < C; ++c) {
            const f32x16 column = widened<F>(u32x16::load(w + c * step + whole * kLanes), static_cast<int>(k % each));
            for (int r = 0; r < R; ++r) sum[r][c] = fma(f32x16(x[r * stride + k]), column, sum[r][c]);
        }
}

// Adds the products of inputs [first, first + count) to the sums of R rows and C panels, each panel's `step` words from
// the last. They are summed from zero: registers that are loaded with sums first are given up to memory by the
// compiler.
template <WeightFormat F, int R, int C>
GM_HD void piece(const LinearArgs& a, int64_t row, int64_t first, int64_t count, const uint32_t* w, int64_t step,
                 float* sums, Ahead ahead) {
    f32x16 sum[R][C];
    for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; ++c) sum[r][c] = f32x16(0.0f);
    accumulate<F, R, C>(a.x + row * a.x_stride + first, a.x_stride, w, step, count, sum, ahead);
    for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; ++c) {
            float* to = sums + (r * C + c) * kLanes;
            (f32x16::load(to) + sum[r][c]).store(to);
        }
}

// The same of any number of rows. Each tile asks for its part of `next`, the weights that follow (null: they are near),
// so that memory is read while products are made.
template <int C>
void pieces(const LinearArgs& a, int64_t begin, int64_t rows, int64_t first, int64_t count, const uint32_t* w,
            int64_t step, const uint32_t* next, float* sums) {
    const int tiles = static_cast<int>((rows + kRows - 1) / kRows), part = (C + tiles - 1) / tiles;
    int64_t row = 0;
    const auto ahead = [&]() -> Ahead {
        const int asked = static_cast<int>(row / kRows) * part;
        if (!next || asked >= C) return {nullptr, 0};
        return {next + asked * step, asked + part > C ? C - asked : part};
    };
    for (; row + kRows <= rows; row += kRows)
        piece<WeightFormat::fp32, kRows, C>(a, begin + row, first, count, w, step, sums + row * C * kLanes, ahead());
    float* rest = sums + row * C * kLanes;
    switch (rows - row) {
        case 5:
            return piece<WeightFormat::fp32, (kRows > 5 ? 5 : 1), C>(a, begin + row, first, count, w, step, rest,
                                                                     ahead());
        case 4:
            return piece<WeightFormat::fp32, (kRows > 4 ? 4 : 1), C>(a, begin + row, first, count, w, step, rest,
                                                                     ahead());
        case 3:
            return piece<WeightFormat::fp32, (kRows > 3 ? 3 : 1), C>(a, begin + row, first, count, w, step, rest,
                                                                     ahead());
        case 2:
            return piece<WeightFormat::fp32, (kRows > 2 ? 2 : 1), C>(a, begin + row, first, count, w, step, rest,
                                                                     ahead());
        case 1:
            return piece<WeightFormat::fp32, 1, C>(a, begin + row, first, count, w, step, rest, ahead());
        default:
            return;
    }
}

template <WeightFormat F>
GM_HD void widen_block(const uint32_t* from, int64_t count, float* to) {
    constexpr int each = weights_per_word(F);
    for (int64_t k = 0; k < count; k += each) {
        const u32x16 word = u32x16::load(from + k / each * kLanes);
        for (int i = 0; i < each; ++i) widened<F>(word, i).store(to + (k + i) * kLanes);
    }
}

// All rows of C panels, their weights a block at a time.
template <int C>
__attribute__((noinline)) void passing_rows(const LinearArgs& a, int64_t panel) {
    alignas(64) float sums[kPassing * C * kLanes];
    alignas(64) float wide[C * kBlock * kLanes];
    const int64_t step = row_words(a.format, a.inputs) * kLanes;
    const uint32_t* weight = a.weight + panel * step;
    for (int64_t begin = 0; begin < a.rows; begin += kPassing) {
        const int64_t rows = a.rows - begin < kPassing ? a.rows - begin : kPassing;
        for (int64_t i = 0; i < rows * C; ++i) f32x16(0.0f).store(sums + i * kLanes);
        for (int64_t first = 0; first < a.inputs; first += kBlock) {
            const int64_t count = a.inputs - first < kBlock ? a.inputs - first : kBlock;
            const uint32_t* w = weight + first / weights_per_word(a.format) * kLanes;
            const uint32_t* next = first + kBlock < a.inputs ? w + kBlock * kLanes : weight + C * step;
            if (!a.far) next = nullptr;
            int64_t apart = step;
            if (a.format != WeightFormat::fp32) {
                for (int c = 0; c < C; ++c)
                    if (a.format == WeightFormat::bf16)
                        widen_block<WeightFormat::bf16>(w + c * step, count, wide + c * kBlock * kLanes);
                    else
                        widen_block<WeightFormat::int8>(w + c * step, count, wide + c * kBlock * kLanes);
                w = reinterpret_cast<const uint32_t*>(wide);
                apart = kBlock * kLanes;
                next = nullptr;
            }
            pieces<C>(a, begin, rows, first, count, w, apart, next, sums);
        }
        for (int64_t row = 0; row < rows; row += kRows)
            finish(a, sums + row * C * kLanes, begin + row, panel,
                   static_cast<int>(rows - row < kRows ? rows - row : kRows), C);
    }
}

// All inputs of one row and C panels.
template <WeightFormat F, int C>
void one_row(const LinearArgs& a, int64_t panel) {
    const int64_t step = row_words(F, a.inputs) * kLanes;
    alignas(64) float sums[C * kLanes];
    for (int c = 0; c < C; ++c) f32x16(0.0f).store(sums + c * kLanes);
    for (int64_t first = 0; first < a.inputs; first += kBlock) {
        const int64_t count = a.inputs - first < kBlock ? a.inputs - first : kBlock;
        const uint32_t* w = a.weight + panel * step + first / weights_per_word(F) * kLanes;
        piece<F, 1, C>(a, 0, first, count, w, step, sums, {nullptr, 0});
    }
    finish(a, sums, 0, panel, 1, C);
}

template <WeightFormat F>
void panels_of_one(const LinearArgs& a, int64_t panel, int64_t end) {
    for (; panel + kPanelsOfOne <= end; panel += kPanelsOfOne) one_row<F, kPanelsOfOne>(a, panel);
    if (kPanelsOfOne > 4)
        for (; panel + 4 <= end; panel += 4) one_row<F, 4>(a, panel);
    for (; panel + 2 <= end; panel += 2) one_row<F, 2>(a, panel);
    for (; panel < end; ++panel) one_row<F, 1>(a, panel);
}

}  // namespace

// Panels [begin, end): even numbers where the activation is gated.
void linear_panels(const LinearArgs& a, int64_t begin, int64_t end) {
    if (a.rows == 1) {
        if (a.format == WeightFormat::bf16) return panels_of_one<WeightFormat::bf16>(a, begin, end);
        if (a.format == WeightFormat::int8) return panels_of_one<WeightFormat::int8>(a, begin, end);
        return panels_of_one<WeightFormat::fp32>(a, begin, end);
    }
    int64_t panel = begin;
    for (; panel + kPanels <= end; panel += kPanels) passing_rows<kPanels>(a, panel);
    if (kPanels > 2)
        for (; panel + 2 <= end; panel += 2) passing_rows<2>(a, panel);
    for (; panel < end; ++panel) passing_rows<1>(a, panel);
}

}  // namespace GM_ISA
}  // namespace gm
