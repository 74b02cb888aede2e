#include <torch/csrc/stable/library.h>

#include <tuple>

#include "dynamics/batch.h"
#include "dynamics/workers.h"

namespace gm {
namespace {

template <class R>
void run(void (*body)(const EnergyArgs<R>&, R*), const Batch& b, const Tensor& positions, const Tensor* directions,
         Tensor* energy, Tensor& out) {
    const R* x = positions.const_data_ptr<R>();
    const R* u = directions != nullptr ? directions->const_data_ptr<R>() : nullptr;
    R* e = energy != nullptr ? energy->mutable_data_ptr<R>() : nullptr;
    R* to = out.mutable_data_ptr<R>();
    for_each_system<R>(
        b.systems, energy_scratch(b.largest, b.field.dim), positions.scalar_type(), [&](int64_t s, R* scratch) {
            const int64_t at = b.ptr[s] * b.field.dim;
            EnergyArgs<R> args = {b.field, s, b.ptr[s + 1] - b.ptr[s], x + at, nullptr, nullptr, to + at};
            if (u != nullptr) args.u = u + at;
            if (e != nullptr) args.energy = e + s;
            body(args, scratch);
        });
}

std::tuple<Tensor, Tensor> energy_and_forces(const Tensor& positions, const Tensor& system_ptr,
                                             std::vector<int64_t> kinds, const Tensor& parameters, const Tensor& cell,
                                             const Tensor& inverse) {
    const Batch b = check_batch(positions, system_ptr, kinds, parameters, cell, inverse);
    Tensor energy = torch::stable::empty({b.systems}, positions.scalar_type());
    Tensor forces = torch::stable::empty_like(positions);
    if (positions.scalar_type() == ScalarType::Double)
        run<double>(GM_CALL_ISA(energy_forces_fp64), b, positions, nullptr, &energy, forces);
    else
        run<float>(GM_CALL_ISA(energy_forces_fp32), b, positions, nullptr, &energy, forces);
    return {energy, forces};
}

Tensor hessian_times(const Tensor& positions, const Tensor& directions, const Tensor& system_ptr,
                     std::vector<int64_t> kinds, const Tensor& parameters, const Tensor& cell, const Tensor& inverse) {
    const Batch b = check_batch(positions, system_ptr, kinds, parameters, cell, inverse);
    check_like_positions("directions", directions, positions);
    check_contiguous_cpu("directions", directions);
    Tensor out = torch::stable::empty_like(positions);
    if (positions.scalar_type() == ScalarType::Double)
        run<double>(GM_CALL_ISA(energy_forces_fp64), b, positions, &directions, nullptr, out);
    else
        run<float>(GM_CALL_ISA(energy_forces_fp32), b, positions, &directions, nullptr, out);
    return out;
}

}  // namespace
}  // namespace gm

STABLE_TORCH_LIBRARY_IMPL(gmkern, CPU, m) {
    m.impl("energy_and_forces", TORCH_BOX(&gm::energy_and_forces));
    m.impl("hessian_times", TORCH_BOX(&gm::hessian_times));
}
