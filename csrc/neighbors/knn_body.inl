// The k nearest: each query keeps a reservoir of candidates that beat its limit. Compiled once per instruction set.
#include "neighbors/select.h"
#include "neighbors/sweep.h"

namespace gm {
inline namespace GM_ISA {
namespace {

template <class F>
struct KeepNearest {
    const Sweep<F>& s;
    const Reservoirs<F>& to;

    GM_HD void operator()(int64_t row, int64_t reference, int lanes, x16<F> squares) const {
        const uint32_t bits = bits_not_ge(squares, x16<F>(to.limits[row])) & ((1u << lanes) - 1);
        if (__builtin_expect(bits != 0, 0)) admit(row, reference, bits, squares);
    }

    __attribute__((noinline)) void admit(int64_t row, int64_t reference, uint32_t bits, x16<F> squares) const {
        alignas(64) F square[kGroup];
        squares.store(square);
        auto* keys = to.keys + row * to.capacity;
        int64_t count = to.counts[row];
        const int64_t self = s.selves != nullptr ? s.selves[row] : -1;
        for (; bits != 0; bits &= bits - 1) {
            const int lane = __builtin_ctz(bits);
            const int64_t index = s.first + reference + lane;
            if (index == self || square[lane] >= to.limits[row]) continue;
            keys[count++] = make_key(to.root ? sqrt(square[lane]) : square[lane], index);
            if (count == to.capacity) {
                keep_smallest(keys, count, to.k);
                count = to.k;
                // References come in the order of their index: one at the k-th distance itself comes too late.
                const F kth = key_distance(keys[to.k - 1]);
                to.limits[row] = to.root ? least_square(kth) : kth;
            }
        }
        to.counts[row] = count;
    }
};

}  // namespace

void knn_sweep_fp32(const Sweep<float>& s, const Reservoirs<float>& to) {
    sweep<SquaredDifference>(s, KeepNearest<float>{s, to});
}
void knn_sweep_fp64(const Sweep<double>& s, const Reservoirs<double>& to) {
    sweep<SquaredDifference>(s, KeepNearest<double>{s, to});
}

}  // namespace GM_ISA
}  // namespace gm
