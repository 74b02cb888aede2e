// Energies, forces and their adjoint on CUDA tensors.
#include "dynamics/energy_cuda.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "common/new_tensor.h"
#include "dynamics/batch_cuda.h"

namespace gm {
namespace {

// Lists are of use to one look where systems are large on average: none is known to be to the host.
constexpr int64_t kFewestOnAverage = 1000;

struct Call {
    CudaEnergy a;
    Tensor near;
};
Call call_of(const CudaBatch& b, const Tensor& positions, const Tensor& system_ptr, Tensor& forces) {
    Call call = {{}, forces};
    CudaEnergy& a = call.a;
    a.fp64 = b.fp64;
    a.device = b.device;
    a.stream = b.stream;
    a.systems = b.systems;
    a.field = b.field;
    a.system_ptr = system_ptr.const_data_ptr<int64_t>();
    a.x = positions.const_data_ptr();
    a.forces = forces.mutable_data_ptr();
    const bool large = b.systems > 0 && b.atoms / b.systems >= kFewestOnAverage;
    call.near = room_for_lists(a.near, b, a.system_ptr, kFewestCelled, large ? b.atoms : 0, 0.0);
    a.near.cells.x = a.x;
    return call;
}

std::tuple<Tensor, Tensor> energy_and_forces(const Tensor& positions, const Tensor& system_ptr, const Tensor& types,
                                             std::vector<int64_t> kinds, std::vector<int64_t> sizes,
                                             const Tensor& parameters, const Tensor& cell, const Tensor& inverse) {
    const CudaBatch b =
        cuda_batch("energy_and_forces", positions, system_ptr, {types, kinds, sizes, parameters, cell, inverse});
    Tensor energy = new_tensor_beside(positions, {b.systems});
    Tensor forces = new_tensor_beside(positions, {b.atoms, b.dim});
    Tensor each = new_tensor_beside(parameters, {b.atoms});
    Call call = call_of(b, positions, system_ptr, forces);
    CudaEnergy& a = call.a;
    a.energy = energy.mutable_data_ptr();
    a.atom_energies = each.mutable_data_ptr<double>();
    const char* wrong = launch_energy(a);
    GM_CHECK(wrong == nullptr, "energy_and_forces: CUDA says: ", wrong);
    return {energy, forces};
}

std::tuple<Tensor, Tensor> energy_and_forces_backward(const Tensor& positions, const Tensor& grad_energy,
                                                      const Tensor& grad_forces, const Tensor& system_ptr,
                                                      const Tensor& types, std::vector<int64_t> kinds,
                                                      std::vector<int64_t> sizes, const Tensor& parameters,
                                                      const Tensor& cell, const Tensor& inverse, bool with_parameters) {
    const CudaBatch b = cuda_batch("energy_and_forces_backward", positions, system_ptr,
                                   {types, kinds, sizes, parameters, cell, inverse});
    check_like_positions("grad_forces", grad_forces, positions);
    check_here("grad_forces", grad_forces, b.device);
    check_dim("grad_energy", grad_energy, 1);
    check_dtype("grad_energy", grad_energy, positions.scalar_type());
    check_size("grad_energy", grad_energy, 0, b.systems);
    check_here("grad_energy", grad_energy, b.device);
    Tensor out = new_tensor_beside(positions, {b.atoms, b.dim});
    const int64_t count = parameters.size(0);
    Tensor slopes = new_tensor_beside(parameters, {with_parameters ? b.systems : 0, count});
    torch::stable::fill_(slopes, 0.0);
    Tensor total = new_tensor_beside(parameters, {count});
    torch::stable::fill_(total, 0.0);
    Call call = call_of(b, positions, system_ptr, out);
    CudaEnergy& a = call.a;
    a.u = grad_forces.const_data_ptr();
    a.by_energy = grad_energy.const_data_ptr();
    if (with_parameters) {
        a.slopes = slopes.mutable_data_ptr<double>();
        a.parameters = total.mutable_data_ptr<double>();
    }
    const char* wrong = launch_energy_backward(a);
    GM_CHECK(wrong == nullptr, "energy_and_forces_backward: CUDA says: ", wrong);
    return {out, total};
}

}  // namespace
}  // namespace gm

STABLE_TORCH_LIBRARY_IMPL(gmkern, CUDA, m) {
    m.impl("energy_and_forces", TORCH_BOX(&gm::energy_and_forces));
    m.impl("energy_and_forces_backward", TORCH_BOX(&gm::energy_and_forces_backward));
}
