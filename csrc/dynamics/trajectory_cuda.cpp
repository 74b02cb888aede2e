// The trajectory op on CUDA tensors: checks shapes, never a value, so that a call can be captured in a graph.
#include <torch/csrc/stable/library.h>

#include <limits>
#include <tuple>

#include "dynamics/batch.h"
#include "dynamics/trajectory_cuda.h"

// Weak: a CPU-only torch has no such function, and the library loads there all the same.
extern "C" __attribute__((weak)) int32_t aoti_torch_get_current_cuda_stream(int32_t device_index, void** stream);

namespace gm {
namespace {

void check_here(const char* name, const Tensor& t, int32_t device) {
    GM_CHECK(t.is_cuda() && t.get_device_index() == device, name, ": takes a tensor on cuda:", device);
    GM_CHECK(t.is_contiguous(), name, ": takes a contiguous tensor");
}
const int64_t* per_row_here(const char* name, const Tensor& t, int64_t rows) {
    check_dtype(name, t, ScalarType::Long);
    GM_CHECK(t.dim() <= 1 && (t.numel() == 1 || t.numel() == rows), name, ": got shape ", shape_text(t),
             "; takes one value or ", rows);
    return t.const_data_ptr<int64_t>();
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> simulate(
    const Tensor& positions, const Tensor& velocities, const Tensor& inverse_masses, const Tensor& system_ptr,
    const Tensor& types, std::vector<int64_t> kinds, std::vector<int64_t> sizes, const Tensor& parameters,
    const Tensor& cell, const Tensor& inverse, int64_t integrator, const Tensor& coefficients, const Tensor& seed,
    const Tensor& sample_ids, const Tensor& step, int64_t steps, int64_t record_every, int64_t phase, int64_t largest,
    const Tensor& log_probs, int64_t backward, const Tensor& pin) {
    const int64_t type_count =
        check_batch_shapes(positions, system_ptr, {types, kinds, sizes, parameters, cell, inverse});
    const int64_t systems = system_ptr.size(0) - 1, atoms = positions.size(0), dim = positions.size(1);
    check_trajectory(positions, velocities, inverse_masses, systems, integrator, coefficients, sample_ids, step, steps,
                     record_every, phase);
    check_log_probs(log_probs, systems, integrator);
    check_backward(backward, pin, positions);
    GM_CHECK(coefficients.size(0) == 1, "coefficients: got shape ", shape_text(coefficients),
             "; the CUDA kernel takes no schedule");
    GM_CHECK(log_probs.numel() == 0, "log_probs: got some; the CUDA kernel takes none");
    GM_CHECK(integrator <= 2, "integrator: got ", integrator, "; the CUDA kernel takes 0 to 2");
    GM_CHECK(dim == 2 || dim == 3, "positions: got dimension ", dim, "; the CUDA kernel takes 2 or 3");
    GM_CHECK(largest >= 0 && largest <= atoms, "largest: got ", largest, "; takes 0 to ", atoms);
    GM_CHECK(systems <= std::numeric_limits<int32_t>::max(), "system_ptr: got ", systems, " systems; takes below 2^31");
    GM_CHECK(type_count == 1, "types: got terms of ", type_count, " types; the CUDA kernel takes one");
    for (const int64_t kind : kinds)
        GM_CHECK(kind < kBonds, "kinds: got bonds or a learnt term; the CUDA kernel takes none");
    const int32_t device = positions.get_device_index();
    const Tensor* const all[] = {&positions, &velocities,   &inverse_masses, &system_ptr, &parameters, &cell,
                                 &inverse,   &coefficients, &seed,           &sample_ids, &step};
    const char* const names[] = {"positions", "velocities",   "inverse_masses", "system_ptr", "parameters", "cell",
                                 "inverse",   "coefficients", "seed",           "sample_ids", "step"};
    for (int i = 0; i < 11; ++i) check_here(names[i], *all[i], device);

    Tensor x = torch::stable::empty_like(positions), v = torch::stable::empty_like(velocities);
    torch::stable::fill_(x, std::numeric_limits<double>::quiet_NaN());
    torch::stable::fill_(v, std::numeric_limits<double>::quiet_NaN());
    const int64_t count = recorded(steps, record_every, phase);
    Tensor frames = torch::stable::new_empty(positions, {count, atoms, dim});
    Tensor energies = torch::stable::new_empty(positions, {count, systems});

    CudaTrajectory a = {};
    a.fp64 = positions.scalar_type() == ScalarType::Double;
    a.device = device;
    GM_CHECK(
        aoti_torch_get_current_cuda_stream != nullptr && aoti_torch_get_current_cuda_stream(device, &a.stream) == 0,
        "simulate: this torch gives no CUDA stream");
    a.systems = systems;
    a.atoms = atoms;
    a.dim = dim;
    a.largest = largest;
    a.terms = static_cast<int32_t>(kinds.size());
    for (size_t t = 0; t < kinds.size(); ++t) a.kinds[t] = static_cast<int32_t>(kinds[t]);
    a.parameters = parameters.const_data_ptr<double>();
    a.boxes = cell.size(0);
    a.cell = cell.const_data_ptr<double>();
    a.inverse = inverse.const_data_ptr<double>();
    a.integrator = integrator;
    a.coefficients = coefficients.const_data_ptr<double>();
    a.coefficient_rows = coefficients.size(1);
    a.system_ptr = system_ptr.const_data_ptr<int64_t>();
    a.seed = per_row_here("seed", seed, systems);
    a.seed_stride = seed.numel() == 1 ? 0 : 1;
    a.sample_ids = sample_ids.const_data_ptr<int64_t>();
    a.step = step.const_data_ptr<int64_t>();
    a.steps = steps;
    a.record_every = record_every;
    a.phase = phase;
    a.inverse_masses = inverse_masses.const_data_ptr();
    a.x_in = positions.const_data_ptr();
    a.v_in = velocities.const_data_ptr();
    a.x = x.mutable_data_ptr();
    a.v = v.mutable_data_ptr();
    a.frames = frames.mutable_data_ptr();
    a.energies = energies.mutable_data_ptr();
    const char* wrong = launch_trajectory(a);
    GM_CHECK(wrong == nullptr, "simulate: CUDA says: ", wrong, " (systems of up to ", largest, " atoms)");
    return {x, v, frames, energies, torch::stable::clone(log_probs)};
}

}  // namespace
}  // namespace gm

STABLE_TORCH_LIBRARY_IMPL(gmkern, CUDA, m) { m.impl("simulate", TORCH_BOX(&gm::simulate)); }
