// The trajectory ops on CUDA tensors.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "common/new_tensor.h"
#include "dynamics/batch_cuda.h"
#include "dynamics/trajectory_cuda.h"

namespace gm {
namespace {

const int64_t* per_row_here(const char* name, const Tensor& t, int64_t rows, int32_t device) {
    check_dtype(name, t, ScalarType::Long);
    check_here(name, t, device);
    GM_CHECK(t.dim() <= 1 && (t.numel() == 1 || t.numel() == rows), name, ": got shape ", shape_text(t),
             "; takes one value or ", rows);
    return t.const_data_ptr<int64_t>();
}
Tensor filled(const Tensor& like, std::initializer_list<int64_t> shape) {
    Tensor t = new_tensor_beside(like, shape);
    return torch::stable::fill_(t, std::numeric_limits<double>::quiet_NaN());
}

// A call with what both ops have: NaN is given where no valid system writes.
struct Call {
    CudaTrajectory a;
    Tensor constants, log_probs, room, squares, energies, near;
};
Call call_of(const CudaBatch& b, const Tensor& system_ptr, int64_t integrator, const Tensor& coefficients,
             const Tensor& log_probs, int64_t backward, const Tensor& pin, int64_t steps, int64_t largest) {
    check_here("coefficients", coefficients, b.device);
    check_here("log_probs", log_probs, b.device);
    check_here("pin", pin, b.device);
    GM_CHECK(largest >= 0 && largest <= b.atoms, "largest: got ", largest, "; takes 0 to ", b.atoms);
    GM_CHECK(backward == 0 || integrator == 2, "backward: got ", backward, " with integrator ", integrator,
             "; takes 0, or integrator 2");
    static_assert(sizeof(StepConstants) == 6 * sizeof(double), "a row of `constants`");
    const Tensor none = new_tensor_beside(coefficients, {0});
    Call call = {{},
                 new_tensor_beside(coefficients, {coefficients.size(0), coefficients.size(1), 6}),
                 filled(log_probs, {2, log_probs.size(1)}),
                 none,
                 none,
                 none,
                 none};
    CudaTrajectory& a = call.a;
    a.fp64 = b.fp64;
    a.device = b.device;
    a.stream = b.stream;
    a.systems = b.systems;
    a.largest = largest;
    a.field = b.field;
    a.kind = static_cast<IntegratorKind>(integrator);
    a.backward = static_cast<BackwardKind>(backward);
    a.coefficients = coefficients.const_data_ptr<double>();
    a.rows = coefficients.size(0);
    a.columns = coefficients.size(1);
    a.constants = static_cast<StepConstants*>(call.constants.mutable_data_ptr());
    a.system_ptr = system_ptr.const_data_ptr<int64_t>();
    a.steps = steps;
    if (largest > kMostInBlock) {
        const int64_t real = b.fp64 ? 8 : 4, elements = b.atoms * b.dim;
        call.room = new_tensor_beside(coefficients, {(wide_arrays(a.kind) * elements * real + 7) / 8});
        call.squares = new_tensor_beside(coefficients, {log_probs.numel() > 0 ? 4 * elements : 0});
        call.energies = new_tensor_beside(coefficients, {b.atoms});
        a.room = call.room.mutable_data_ptr();
        a.squares = call.squares.mutable_data_ptr<double>();
        a.atom_energies = call.energies.mutable_data_ptr<double>();
        call.near = room_for_lists(a.near, b, a.system_ptr, kMostInBlock + 1, largest, kCudaSkin);
    }
    a.pin = pin.numel() > 0 ? pin.const_data_ptr() : nullptr;
    if (log_probs.numel() == 0) return call;
    a.log_probs_in = log_probs.const_data_ptr<double>();
    a.log_probs = call.log_probs.mutable_data_ptr<double>();
    return call;
}
void run(const char* op, const CudaTrajectory& a) {
    const char* wrong = launch_trajectory(a);
    GM_CHECK(wrong == nullptr, op, ": CUDA says: ", wrong, " (systems of up to ", a.largest, " atoms)");
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> simulate(
    const Tensor& positions, const Tensor& velocities, const Tensor& inverse_masses, const Tensor& system_ptr,
    const Tensor& types, std::vector<int64_t> kinds, std::vector<int64_t> sizes, const Tensor& parameters,
    const Tensor& cell, const Tensor& inverse, int64_t integrator, const Tensor& coefficients, const Tensor& seed,
    const Tensor& sample_ids, const Tensor& step, int64_t steps, int64_t record_every, int64_t phase, int64_t largest,
    const Tensor& log_probs, int64_t backward, const Tensor& pin) {
    const CudaBatch b = cuda_batch("simulate", positions, system_ptr, {types, kinds, sizes, parameters, cell, inverse});
    check_trajectory(positions, velocities, inverse_masses, b.systems, integrator, coefficients, sample_ids, step,
                     steps, record_every, phase);
    check_log_probs(log_probs, b.systems, integrator);
    check_backward(backward, pin, positions);
    check_here("velocities", velocities, b.device);
    check_here("inverse_masses", inverse_masses, b.device);
    check_here("sample_ids", sample_ids, b.device);
    check_here("step", step, b.device);
    Call call = call_of(b, system_ptr, integrator, coefficients, log_probs, backward, pin, steps, largest);
    const int64_t count = recorded(steps, record_every, phase);
    Tensor x = filled(positions, {b.atoms, b.dim}), v = filled(positions, {b.atoms, b.dim});
    Tensor frames = filled(positions, {count, b.atoms, b.dim}), energies = filled(positions, {count, b.systems});
    CudaTrajectory& a = call.a;
    a.seed = per_row_here("seed", seed, b.systems, b.device);
    a.seed_stride = seed.numel() == 1 ? 0 : 1;
    a.sample_ids = sample_ids.const_data_ptr<int64_t>();
    a.step = step.const_data_ptr<int64_t>();
    a.record_every = record_every;
    a.phase = phase;
    a.inverse_masses = inverse_masses.const_data_ptr();
    a.x_in = positions.const_data_ptr();
    a.v_in = velocities.const_data_ptr();
    a.x = x.mutable_data_ptr();
    a.v = v.mutable_data_ptr();
    a.frames = frames.mutable_data_ptr();
    a.energies = energies.mutable_data_ptr();
    run("simulate", a);
    return {x, v, frames, energies, call.log_probs};
}

Tensor path_log_prob(const Tensor& frames, const Tensor& system_ptr, const Tensor& types, std::vector<int64_t> kinds,
                     std::vector<int64_t> sizes, const Tensor& parameters, const Tensor& cell, const Tensor& inverse,
                     const Tensor& coefficients, int64_t largest, const Tensor& log_probs, int64_t backward,
                     const Tensor& pin) {
    check_dim("frames", frames, 3);
    GM_CHECK(frames.size(0) >= 1, "frames: got none; takes at least one");
    GM_CHECK(frames.is_contiguous(), "frames: takes a contiguous tensor");
    const Tensor x = torch::stable::select(frames, 0, 0);
    const CudaBatch b = cuda_batch("path_log_prob", x, system_ptr, {types, kinds, sizes, parameters, cell, inverse});
    const int64_t steps = frames.size(0) - 1;
    check_coefficients(coefficients, b.systems, steps);
    check_log_probs(log_probs, b.systems, 2);
    check_size("log_probs", log_probs, 1, b.systems);
    check_backward(backward, pin, x);
    Call call = call_of(b, system_ptr, 2, coefficients, log_probs, backward, pin, steps, largest);
    call.a.x_in = call.a.path = frames.const_data_ptr();
    run("path_log_prob", call.a);
    return call.log_probs;
}

}  // namespace
}  // namespace gm

STABLE_TORCH_LIBRARY_IMPL(gmkern, CUDA, m) {
    m.impl("simulate", TORCH_BOX(&gm::simulate));
    m.impl("path_log_prob", TORCH_BOX(&gm::path_log_prob));
}
