// How many references lie within a bound of each query, or within bounds of their own. Compiled once per instruction
// set.
#include "neighbors/sweep.h"

namespace gm {
inline namespace GM_ISA {
namespace {

template <class F>
struct CountWithin {
    const Sweep<F>& s;
    const Counts<F>& to;

    GM_HD void operator()(int64_t row, int64_t reference, int lanes, x16<F> squares) const {
        const x16<F> bounds = to.per_reference ? x16<F>::load(to.bounds + reference) : x16<F>(to.bounds[row]);
        uint32_t bits = bits_le(squares, bounds) & ((1u << lanes) - 1);
        if (s.selves != nullptr) {
            const int64_t self = s.selves[row] - s.first - reference;
            if (self >= 0 && self < kGroup) bits &= ~(1u << self);
        }
        to.counts[row] += __builtin_popcount(bits);
    }
};

}  // namespace

void count_sweep_fp32(const Sweep<float>& s, const Counts<float>& to) {
    sweep<SquaredDifference>(s, CountWithin<float>{s, to});
}
void count_sweep_fp64(const Sweep<double>& s, const Counts<double>& to) {
    sweep<SquaredDifference>(s, CountWithin<double>{s, to});
}

}  // namespace GM_ISA
}  // namespace gm
