// The order of a tree's points in space: ranges of groups are halved at the median of their widest side. Compiled once
// per instruction set.
//
// A median is found by selection: the points are parted at a coordinate drawn from a sample of them, sixteen at a time,
// then the part with the median in it, until what is left needs no parting. Every step is stable, so points of equal
// coordinates, copies among them, stay in the order of their index.
#include "common/compress.h"
#include "neighbors/tree_limits.h"

namespace gm {
inline namespace GM_ISA {
namespace {

template <int W, class F>
class Halving {
 public:
    explicit Halving(const TreeOrder<F>& o) : o_(o) {}

    // Halved where whole nodes end.
    int64_t halve(int64_t begin, int64_t end) const {
        int64_t unit = 1;
        while (unit * kGroup < end - begin) unit *= kGroup;
        const int64_t middle = begin + (end - begin + unit - 1) / unit / 2 * unit;
        const int64_t first = begin * kGroup, last = end * kGroup < o_.count ? end * kGroup : o_.count;
        const int side = widest_side(first, last);
        if (side >= 0) select_at(o_.columns[side], first, last, middle * kGroup);
        return middle;
    }
    void order(int64_t begin, int64_t end) const {
        while (end - begin > 1) {
            const int64_t middle = halve(begin, end);
            order(begin, middle);
            begin = middle;
        }
    }

 private:
    static constexpr int64_t kSample = 64;

    // -1 where all points are one. Halves: the width of all finite numbers would overflow.
    int widest_side(int64_t first, int64_t last) const {
        int side = -1;
        F widest = 0;
        for (int d = 0; d < W; ++d) {
            const F* column = o_.columns[d];
            x16<F> least = x16<F>::load(column + last - kGroup), most = least;  // more than one group: sixteen at least
            for (int64_t i = first; i + kGroup < last; i += kGroup) {
                const x16<F> x = x16<F>::load(column + i);
                least = min(least, x);
                most = max(most, x);
            }
            const F from = -max_lanes(-least), to = max_lanes(most), width = to / 2 - from / 2;
            if (width > widest || (side < 0 && from < to)) {
                widest = width;
                side = d;
            }
        }
        return side;
    }

    // Nothing before `target` is then greater in `column` than anything from there on.
    void select_at(const F* column, int64_t first, int64_t last, int64_t target) const {
        while (first < target && target < last) {
            const F pivot = pivot_of(column, first, last, target);
            int64_t middle = part<false>(column, first, last, pivot);
            if (middle == first) {  // the least of all
                middle = part<true>(column, first, last, pivot);
                if (middle >= target) return;
            }
            (middle > target ? last : first) = middle;
        }
    }

    // One of the coordinates: that at `target` in their order, or about that where there are many.
    static F pivot_of(const F* column, int64_t first, int64_t last, int64_t target) {
        alignas(64) F sample[kSample];
        const int64_t count = last - first, held = count < kSample ? count : kSample;
        int64_t at = target - first;
        if (count <= kSample) {
            for (int64_t i = 0; i < held; ++i) sample[i] = column[first + i];
        } else {
            uint32_t place = 0;  // multiples of the golden ratio: spread evenly, in step with no lattice
            for (F& x : sample) {
                place += 0x9e3779b9u;
                x = column[first +
                           static_cast<int64_t>((static_cast<uint64_t>(place) * static_cast<uint64_t>(count)) >> 32)];
            }
            at = at * kSample / count;
        }
        const int64_t room = (held + kGroup - 1) / kGroup * kGroup;
        for (int64_t i = held; i < room; ++i) sample[i] = sample[0];
        return with_rank(sample, held, room, at);
    }
    // The greatest of the first `held` of `room` values with at most `rank` below it; the others are copies.
    static F with_rank(const F* values, int64_t held, int64_t room, int64_t rank) {
        using I = typename MaskOf<F>::type;
        x16<F> found(-Limits<F>::infinity);
        for (int64_t j = 0; j < room; j += kGroup) {
            const x16<F> x = x16<F>::load(values + j);
            x16<I> below(I(0));
            for (int64_t i = 0; i < held; ++i) below = below - (x16<F>(values[i]) < x);  // a mask is -1
            found = select(below > x16<I>(static_cast<I>(rank)), found, max(found, x));
        }
        return max_lanes(found);
    }

    // Points below the pivot (or at it) first, each part in the order it had; where the second part begins.
    template <bool kAtIt>
    int64_t part(const F* column, int64_t first, int64_t last, F pivot) const {
        F *columns[W], *spare[W];  // no store can change these copies
        uint32_t *const index = o_.index, *const spare_index = o_.spare_index;
        for (int d = 0; d < W; ++d) {
            columns[d] = o_.columns[d];
            spare[d] = o_.spare[d];
        }
        const x16<F> at(pivot);
        int64_t left = first, right = first, i = first;
        for (; i + kGroup <= last; i += kGroup) {
            const x16<F> x = x16<F>::load(column + i);
            const uint32_t goes_left = kAtIt ? bits_le(x, at) : 0xffffu & ~bits_le(at, x);
            const Compress to_left{goes_left}, to_right{0xffffu & ~goes_left};
#pragma GCC unroll 8
            for (int d = 0; d < W; ++d) move(columns[d], spare[d], i, left, right, to_left, to_right);
            move(index, spare_index, i, left, right, to_left, to_right);
            const int count = __builtin_popcount(goes_left);
            left += count;
            right += kGroup - count;
        }
        for (; i < last; ++i) {
            const bool goes_left = kAtIt ? column[i] <= pivot : column[i] < pivot;
#pragma GCC unroll 8
            for (int d = 0; d < W; ++d) columns[d][left] = spare[d][right] = columns[d][i];
            index[left] = spare_index[right] = index[i];
            left += goes_left;
            right += !goes_left;
        }
        for (int d = 0; d < W; ++d) copy(spare[d] + first, right - first, columns[d] + left);
        copy(spare_index + first, right - first, index + left);
        return left;
    }
    // Sixteen from `i`: no more is written than has been read, in either place.
    template <class T>
    GM_HD static void move(T* values, T* spare, int64_t i, int64_t left, int64_t right, const Compress& to_left,
                           const Compress& to_right) {
        const x16<T> v = x16<T>::load(values + i);
        to_left(v, values + left);
        to_right(v, spare + right);
    }
    template <class T>
    static void copy(const T* from, int64_t count, T* to) {
        std::memcpy(to, from, static_cast<size_t>(count) * sizeof(T));
    }

    const TreeOrder<F>& o_;
};

// f(Halving) of the points' width.
template <class F, class Function>
auto with_halving(const TreeOrder<F>& o, const Function& f) {
    switch (o.width) {
        case 1:
            return f(Halving<1, F>(o));
        case 2:
            return f(Halving<2, F>(o));
        case 3:
            return f(Halving<3, F>(o));
        case 4:
            return f(Halving<4, F>(o));
        default:
            return f(Halving<8, F>(o));
    }
}
template <class F>
int64_t halve(const TreeOrder<F>& o, int64_t begin, int64_t end) {
    return with_halving(o, [&](const auto& halving) { return halving.halve(begin, end); });
}
template <class F>
void order(const TreeOrder<F>& o, int64_t begin, int64_t end) {
    with_halving(o, [&](const auto& halving) { halving.order(begin, end); });
}

}  // namespace

int64_t tree_halve_fp32(const TreeOrder<float>& o, int64_t begin, int64_t end) { return halve(o, begin, end); }
int64_t tree_halve_fp64(const TreeOrder<double>& o, int64_t begin, int64_t end) { return halve(o, begin, end); }
void tree_order_fp32(const TreeOrder<float>& o, int64_t begin, int64_t end) { order(o, begin, end); }
void tree_order_fp64(const TreeOrder<double>& o, int64_t begin, int64_t end) { order(o, begin, end); }

}  // namespace GM_ISA
}  // namespace gm
