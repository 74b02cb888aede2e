// The k nearest by sums of absolute differences, largest differences and inner products. Compiled once per instruction
// set.
#include "neighbors/keep_nearest.h"

namespace gm {
inline namespace GM_ISA {
namespace {

template <class F>
void sweep_for(Metric metric, const Sweep<F>& s, const Reservoirs<F>& to) {
    if (metric == Metric::manhattan) return sweep<AbsoluteDifference>(s, KeepNearest<F>{s, to});
    if (metric == Metric::chebyshev) return sweep<LargestDifference>(s, KeepNearest<F>{s, to});
    sweep<Product>(s, KeepNearest<F, true>{s, to});
}

}  // namespace

void knn_metric_sweep_fp32(Metric metric, const Sweep<float>& s, const Reservoirs<float>& to) {
    sweep_for(metric, s, to);
}
void knn_metric_sweep_fp64(Metric metric, const Sweep<double>& s, const Reservoirs<double>& to) {
    sweep_for(metric, s, to);
}

}  // namespace GM_ISA
}  // namespace gm
