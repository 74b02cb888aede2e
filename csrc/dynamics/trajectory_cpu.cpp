#include <torch/csrc/stable/library.h>

#include <cmath>
#include <tuple>

#include "dynamics/batch.h"
#include "dynamics/workers.h"

namespace gm {
namespace {

StepConstants step_constants(IntegratorKind kind, const double* c) {  // c: dt, temperature, friction, noise
    StepConstants k = {c[0], 0.5 * c[0], c[0] / 6.0, 1.0, 0.0};
    if (kind == IntegratorKind::baoab) {
        k.keep = std::exp(-c[2] * c[0]);
        k.kick = std::sqrt(-std::expm1(-2.0 * c[2] * c[0]) * c[1]);
    } else if (kind == IntegratorKind::euler_maruyama) {
        k.kick = c[3] * std::sqrt(c[0]);
    }
    return k;
}

template <class R>
void run(void (*body)(const TrajectoryArgs<R>&, const SystemArgs<R>&, R*), const Batch& b, TrajectoryArgs<R> args,
         const Tensor& inverse_masses, const Tensor& coefficients, PerRow seed, const int64_t* ids, int64_t step,
         Tensor& x, Tensor& v, Tensor& frames, Tensor& energies) {
    args.inverse_masses = inverse_masses.const_data_ptr<R>();
    args.frames = frames.mutable_data_ptr<R>();
    args.energies = energies.mutable_data_ptr<R>();
    const double* c = coefficients.const_data_ptr<double>();
    const int64_t stride = coefficients.size(0) == 1 ? 0 : 4;
    R *xs = x.mutable_data_ptr<R>(), *vs = v.mutable_data_ptr<R>();
    for_each_system<R>(b.systems, trajectory_scratch(b.largest, b.field.dim), x.scalar_type(),
                       [&](int64_t s, R* scratch) {
                           const int64_t first = b.ptr[s], at = first * b.field.dim;
                           body(args,
                                {s, first, b.ptr[s + 1] - first, step_constants(args.kind, c + s * stride), seed[s],
                                 ids[s], static_cast<uint32_t>(step), xs + at, vs + at},
                                scratch);
                       });
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> simulate(
    const Tensor& positions, const Tensor& velocities, const Tensor& inverse_masses, const Tensor& system_ptr,
    std::vector<int64_t> kinds, const Tensor& parameters, const Tensor& cell, const Tensor& inverse, int64_t integrator,
    const Tensor& coefficients, const Tensor& seed, const Tensor& sample_ids, const Tensor& step, int64_t steps,
    int64_t record_every, int64_t phase, int64_t largest, const Tensor& log_probs) {
    const Batch b = check_batch(positions, system_ptr, kinds, parameters, cell, inverse);
    check_trajectory(positions, velocities, inverse_masses, b.systems, integrator, coefficients, sample_ids, step,
                     steps, record_every, phase);
    for (const auto* t : {&velocities, &inverse_masses, &coefficients, &sample_ids, &step})
        check_contiguous_cpu("simulate", *t);
    GM_CHECK(b.largest <= largest, "largest: got ", largest, "; a system has ", b.largest, " atoms");
    check_log_probs(log_probs, b.systems, integrator);
    check_contiguous_cpu("log_probs", log_probs);
    const PerRow seeds = per_row("seed", seed, b.systems);

    Tensor x = torch::stable::clone(positions), v = torch::stable::clone(velocities);
    const int64_t count = recorded(steps, record_every, phase);
    Tensor frames = torch::stable::empty({count, b.atoms, b.field.dim}, positions.scalar_type());
    Tensor energies = torch::stable::empty({count, b.systems}, positions.scalar_type());
    const auto kind = static_cast<IntegratorKind>(integrator);
    Tensor sums = torch::stable::clone(log_probs);
    double* forward = sums.numel() > 0 ? sums.mutable_data_ptr<double>() : nullptr;
    double* backward = forward != nullptr ? forward + b.systems : nullptr;
    const int64_t* ids = sample_ids.const_data_ptr<int64_t>();
    const int64_t first = *step.const_data_ptr<int64_t>();
    if (positions.scalar_type() == ScalarType::Double)
        run<double>(GM_CALL_ISA(trajectory_fp64), b,
                    {b.field, kind, steps, record_every, phase, b.systems, b.atoms, nullptr, nullptr, nullptr, forward,
                     backward},
                    inverse_masses, coefficients, seeds, ids, first, x, v, frames, energies);
    else
        run<float>(GM_CALL_ISA(trajectory_fp32), b,
                   {b.field, kind, steps, record_every, phase, b.systems, b.atoms, nullptr, nullptr, nullptr, forward,
                    backward},
                   inverse_masses, coefficients, seeds, ids, first, x, v, frames, energies);
    return {x, v, frames, energies, sums};
}

}  // namespace
}  // namespace gm

STABLE_TORCH_LIBRARY_IMPL(gmkern, CPU, m) { m.impl("simulate", TORCH_BOX(&gm::simulate)); }
