// The k nearest. Compiled once per instruction set.
#include "neighbors/keep_nearest.h"

namespace gm {
inline namespace GM_ISA {
void knn_sweep_fp32(const Sweep<float>& s, const Reservoirs<float>& to) {
    sweep<SquaredDifference>(s, KeepNearest<float>{s, to});
}
void knn_sweep_fp64(const Sweep<double>& s, const Reservoirs<double>& to) {
    sweep<SquaredDifference>(s, KeepNearest<double>{s, to});
}

}  // namespace GM_ISA
}  // namespace gm
