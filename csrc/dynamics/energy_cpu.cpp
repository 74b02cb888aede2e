#include <torch/csrc/stable/library.h>

#include <tuple>

#include "common/new_tensor.h"
#include "dynamics/verlet.h"

namespace gm {
namespace {

constexpr int64_t kFewestListed = 1000;  // atoms, from where on lists for one look are worth their making

// Where a system is computed.
template <class R>
struct Place {
    R* scratch;
    Crew crew;
    Neighbors<R>* near;
};
// f(system, place) for each
template <class R, class F>
void each_system(const Batch& b, ScalarType dtype, bool with_slopes, const F& f) {
    const Workers workers(b.systems, b.largest);
    std::vector<VerletLists<R>> lists = lists_of<R>(workers, b, kFewestListed, 0.0);
    workers.each<R>(energy_scratch(b.largest, b.field.dim) + field_scratch(b.field, b.largest, with_slopes), dtype,
                    [&](int64_t s, R* scratch, const Crew& crew, int64_t team) {
                        const int64_t count = b.ptr[s + 1] - b.ptr[s];
                        f(s, Place<R>{scratch, crew, lists[static_cast<size_t>(team)].of(s, count, crew)});
                    });
}

template <class R>
void run(void (*body)(const EnergyArgs<R>&, R*), const Batch& b, const Tensor& positions, Tensor& energy,
         Tensor& forces) {
    const R* x = positions.const_data_ptr<R>();
    R *e = energy.mutable_data_ptr<R>(), *to = forces.mutable_data_ptr<R>();
    each_system<R>(b, positions.scalar_type(), false, [&](int64_t s, const Place<R>& at) {
        const int64_t first = b.ptr[s], row = first * b.field.dim;
        body({b.field, s, first, b.ptr[s + 1] - first, x + row, nullptr, 0.0, nullptr, e + s, to + row, at.crew,
              at.near},
             at.scratch);
    });
}

// Slopes of the parameters come one system after another, and are summed in that order.
template <class R>
void run_backward(void (*body)(const EnergyArgs<R>&, R*), const Batch& b, const Tensor& positions,
                  const Tensor& grad_energy, const Tensor& grad_forces, Tensor& out, Tensor& slopes) {
    const R *x = positions.const_data_ptr<R>(), *u = grad_forces.const_data_ptr<R>(),
            *by_energy = grad_energy.const_data_ptr<R>();
    R* to = out.mutable_data_ptr<R>();
    double* sums = slopes.numel() > 0 ? slopes.mutable_data_ptr<double>() : nullptr;
    each_system<R>(b, positions.scalar_type(), true, [&](int64_t s, const Place<R>& at) {
        const int64_t first = b.ptr[s], row = first * b.field.dim;
        double* own = sums == nullptr ? nullptr : sums + s * b.field.parameter_count;
        body({b.field, s, first, b.ptr[s + 1] - first, x + row, u + row, static_cast<double>(by_energy[s]), own,
              nullptr, to + row, at.crew, at.near},
             at.scratch);
    });
}

std::tuple<Tensor, Tensor> energy_and_forces(const Tensor& positions, const Tensor& system_ptr, const Tensor& types,
                                             std::vector<int64_t> kinds, std::vector<int64_t> sizes,
                                             const Tensor& parameters, const Tensor& cell, const Tensor& inverse) {
    const Batch b = check_batch(positions, system_ptr, {types, kinds, sizes, parameters, cell, inverse});
    Tensor energy = new_tensor({b.systems}, positions.scalar_type());
    Tensor forces = new_tensor_like(positions);
    if (positions.scalar_type() == ScalarType::Double)
        run<double>(GM_CALL_ISA(energy_forces_fp64), b, positions, energy, forces);
    else
        run<float>(GM_CALL_ISA(energy_forces_fp32), b, positions, energy, forces);
    return {energy, forces};
}

std::tuple<Tensor, Tensor> energy_and_forces_backward(const Tensor& positions, const Tensor& grad_energy,
                                                      const Tensor& grad_forces, const Tensor& system_ptr,
                                                      const Tensor& types, std::vector<int64_t> kinds,
                                                      std::vector<int64_t> sizes, const Tensor& parameters,
                                                      const Tensor& cell, const Tensor& inverse, bool with_parameters) {
    const Batch b = check_batch(positions, system_ptr, {types, kinds, sizes, parameters, cell, inverse});
    check_like_positions("grad_forces", grad_forces, positions);
    check_contiguous_cpu("grad_forces", grad_forces);
    check_dim("grad_energy", grad_energy, 1);
    check_dtype("grad_energy", grad_energy, positions.scalar_type());
    check_size("grad_energy", grad_energy, 0, b.systems);
    check_contiguous_cpu("grad_energy", grad_energy);
    Tensor out = new_tensor_like(positions);
    const int64_t count = b.field.parameter_count;
    Tensor slopes = new_tensor({with_parameters ? b.systems : 0, count}, ScalarType::Double);
    torch::stable::fill_(slopes, 0.0);
    if (positions.scalar_type() == ScalarType::Double)
        run_backward<double>(GM_CALL_ISA(energy_forces_fp64), b, positions, grad_energy, grad_forces, out, slopes);
    else
        run_backward<float>(GM_CALL_ISA(energy_forces_fp32), b, positions, grad_energy, grad_forces, out, slopes);
    Tensor total = new_tensor({count}, ScalarType::Double);
    torch::stable::fill_(total, 0.0);
    double* to = total.mutable_data_ptr<double>();
    const double* from = slopes.const_data_ptr<double>();
    for (int64_t s = 0; s < slopes.size(0); ++s)
        for (int64_t p = 0; p < count; ++p) to[p] += from[s * count + p];
    return {out, total};
}

}  // namespace
}  // namespace gm

STABLE_TORCH_LIBRARY_IMPL(gmkern, CPU, m) {
    m.impl("energy_and_forces", TORCH_BOX(&gm::energy_and_forces));
    m.impl("energy_and_forces_backward", TORCH_BOX(&gm::energy_and_forces_backward));
}
