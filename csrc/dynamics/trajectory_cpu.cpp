#include <torch/csrc/stable/library.h>

#include <tuple>

#include "common/new_tensor.h"
#include "dynamics/step_constants.h"
#include "dynamics/verlet.h"

namespace gm {
namespace {

constexpr int64_t kFewestListed = 300;  // atoms, from where on lists are worth their making
constexpr double kSkin = 0.15;          // in cutoffs

// One call's tensors, those of `x` and `v` being changed in place.
struct Call {
    const Batch& batch;
    IntegratorKind kind;
    int64_t steps, record_every, phase;
    const Tensor &inverse_masses, &coefficients;
    PerRow seed;
    const int64_t* ids;
    int64_t step;
    Tensor &x, &v, &frames, &energies, &sums;
    int64_t backward;
    const Tensor& pin;
    const Tensor* path;
};

template <class R>
void run(void (*body)(const TrajectoryArgs<R>&, const SystemArgs<R>&, R*), const Call& call) {
    const Batch& b = call.batch;
    double* forward = call.sums.numel() > 0 ? call.sums.mutable_data_ptr<double>() : nullptr;
    const TrajectoryArgs<R> args = {b.field,
                                    call.kind,
                                    call.steps,
                                    call.record_every,
                                    call.phase,
                                    b.systems,
                                    b.atoms,
                                    call.inverse_masses.const_data_ptr<R>(),
                                    call.frames.mutable_data_ptr<R>(),
                                    call.energies.mutable_data_ptr<R>(),
                                    forward,
                                    forward != nullptr ? forward + b.systems : nullptr,
                                    static_cast<BackwardKind>(call.backward),
                                    call.pin.numel() > 0 ? call.pin.const_data_ptr<R>() : nullptr,
                                    call.path != nullptr ? call.path->const_data_ptr<R>() : nullptr};
    const double* c = call.coefficients.const_data_ptr<double>();
    const int64_t rows = call.coefficients.size(0), columns = call.coefficients.size(1);
    R *xs = call.x.mutable_data_ptr<R>(), *vs = call.v.mutable_data_ptr<R>();
    const Workers workers(b.systems, b.largest);
    std::vector<VerletLists<R>> lists = lists_of<R>(workers, b, kFewestListed, kSkin);
    workers.each<R>(trajectory_scratch(b.largest, b.field.dim) + field_scratch(b.field, b.largest, false),
                    call.x.scalar_type(), [&](int64_t s, R* scratch, const Crew& crew, int64_t team) {
                        std::vector<StepConstants> constants(static_cast<size_t>(rows));
                        for (int64_t k = 0; k < rows; ++k)
                            constants[static_cast<size_t>(k)] =
                                step_constants(args.kind, c + (k * columns + (columns == 1 ? 0 : s)) * kCoefficients);
                        const int64_t first = b.ptr[s], count = b.ptr[s + 1] - first, at = first * b.field.dim;
                        body(args,
                             {s, first, count, constants.data(), rows > 1, call.seed[s], call.ids[s],
                              static_cast<uint32_t>(call.step), xs + at, vs + at, crew,
                              lists[static_cast<size_t>(team)].of(s, count, crew)},
                             scratch);
                    });
}
void run_for(const Call& call) {
    if (call.x.scalar_type() == ScalarType::Double)
        run<double>(GM_CALL_ISA(trajectory_fp64), call);
    else
        run<float>(GM_CALL_ISA(trajectory_fp32), call);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> simulate(
    const Tensor& positions, const Tensor& velocities, const Tensor& inverse_masses, const Tensor& system_ptr,
    const Tensor& types, std::vector<int64_t> kinds, std::vector<int64_t> sizes, const Tensor& parameters,
    const Tensor& cell, const Tensor& inverse, int64_t integrator, const Tensor& coefficients, const Tensor& seed,
    const Tensor& sample_ids, const Tensor& step, int64_t steps, int64_t record_every, int64_t phase, int64_t largest,
    const Tensor& log_probs, int64_t backward, const Tensor& pin) {
    const Batch b = check_batch(positions, system_ptr, {types, kinds, sizes, parameters, cell, inverse});
    check_trajectory(positions, velocities, inverse_masses, b.systems, integrator, coefficients, sample_ids, step,
                     steps, record_every, phase);
    for (const auto* t : {&velocities, &inverse_masses, &coefficients, &sample_ids, &step})
        check_contiguous_cpu("simulate", *t);
    GM_CHECK(b.largest <= largest, "largest: got ", largest, "; a system has ", b.largest, " atoms");
    check_log_probs(log_probs, b.systems, integrator);
    check_contiguous_cpu("log_probs", log_probs);
    check_backward(backward, pin, positions);
    GM_CHECK(backward == 0 || integrator == 2, "backward: got ", backward, " with integrator ", integrator,
             "; takes 0, or integrator 2");

    Tensor x = torch::stable::clone(positions), v = torch::stable::clone(velocities);
    const int64_t count = recorded(steps, record_every, phase);
    Tensor frames = new_tensor({count, b.atoms, b.field.dim}, positions.scalar_type());
    Tensor energies = new_tensor({count, b.systems}, positions.scalar_type());
    Tensor sums = torch::stable::clone(log_probs);
    run_for({b, static_cast<IntegratorKind>(integrator), steps, record_every, phase, inverse_masses, coefficients,
             per_row("seed", seed, b.systems), sample_ids.const_data_ptr<int64_t>(), *step.const_data_ptr<int64_t>(), x,
             v, frames, energies, sums, backward, pin, nullptr});
    return {x, v, frames, energies, sums};
}

Tensor path_log_prob(const Tensor& frames, const Tensor& system_ptr, const Tensor& types, std::vector<int64_t> kinds,
                     std::vector<int64_t> sizes, const Tensor& parameters, const Tensor& cell, const Tensor& inverse,
                     const Tensor& coefficients, int64_t largest, const Tensor& log_probs, int64_t backward,
                     const Tensor& pin) {
    check_dim("frames", frames, 3);
    check_contiguous_cpu("frames", frames);
    GM_CHECK(frames.size(0) >= 1, "frames: got none; takes at least one");
    Tensor x = torch::stable::clone(torch::stable::select(frames, 0, 0));
    Tensor v = new_tensor_like(x);
    torch::stable::fill_(v, 0.0);
    const Batch b = check_batch(x, system_ptr, {types, kinds, sizes, parameters, cell, inverse});
    GM_CHECK(b.largest <= largest, "largest: got ", largest, "; a system has ", b.largest, " atoms");
    const int64_t steps = frames.size(0) - 1;
    check_coefficients(coefficients, b.systems, steps);
    check_contiguous_cpu("coefficients", coefficients);
    check_log_probs(log_probs, b.systems, 2);
    check_size("log_probs", log_probs, 1, b.systems);
    check_contiguous_cpu("log_probs", log_probs);
    check_backward(backward, pin, x);

    Tensor none = new_tensor({0, b.atoms, b.field.dim}, x.scalar_type());
    Tensor masses = new_tensor({b.atoms}, x.scalar_type());
    torch::stable::fill_(masses, 1.0);
    Tensor ids = new_tensor({b.systems}, ScalarType::Long);
    torch::stable::fill_(ids, 0.0);
    Tensor sums = torch::stable::clone(log_probs);
    run_for({b, IntegratorKind::euler_maruyama, steps, 0, 0, masses, coefficients, per_row("seed", ids, b.systems),
             ids.const_data_ptr<int64_t>(), 0, x, v, none, none, sums, backward, pin, &frames});
    return sums;
}

}  // namespace
}  // namespace gm

STABLE_TORCH_LIBRARY_IMPL(gmkern, CPU, m) {
    m.impl("simulate", TORCH_BOX(&gm::simulate));
    m.impl("path_log_prob", TORCH_BOX(&gm::path_log_prob));
}
