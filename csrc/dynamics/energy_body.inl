// Energy and forces of one system, or their adjoint: compiled once per instruction set.
#include "dynamics/system_field.h"

namespace gm {
inline namespace GM_ISA {
namespace {

template <class R>
void energy_forces(const EnergyArgs<R>& a, R* scratch) {
    const int64_t dim = a.field.dim, stride = padded_atoms(a.count);
    R *x = scratch, *f = x + dim * stride, *u = f + dim * stride, *e = u + dim * stride;
    for (int64_t i = 0; i < 2 * dim * stride; ++i) x[i] = R(0);
    to_arrays(a.x, a.count, dim, stride, x);
    SystemField<R> field(a.field, a.index, a.first, a.count, a.crew, a.near, scratch + energy_scratch(a.count, dim));
    if (a.u != nullptr) {
        for (int64_t i = 0; i < dim * stride; ++i) u[i] = R(0);
        to_arrays(a.u, a.count, dim, stride, u);
        field.pull_back(x, f, e, {u, a.by_energy, a.parameters});
    } else {
        *a.energy = static_cast<R>(field.template evaluate<Want::forces_and_energy>(x, f, e));
    }
    from_arrays(f, a.count, dim, stride, a.out);
}

}  // namespace

void energy_forces_fp32(const EnergyArgs<float>& a, float* scratch) { energy_forces(a, scratch); }
void energy_forces_fp64(const EnergyArgs<double>& a, double* scratch) { energy_forces(a, scratch); }

}  // namespace GM_ISA
}  // namespace gm
