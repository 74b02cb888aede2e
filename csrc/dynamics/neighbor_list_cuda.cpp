// Neighbour lists on CUDA tensors. Without a capacity the number of pairs is read back, so the call waits for the
// stream; with one nothing is read, and the call can be captured in a graph.
#include "dynamics/neighbor_list_cuda.h"

#include <torch/csrc/stable/library.h>

#include <cmath>
#include <limits>
#include <tuple>
#include <vector>

#include "common/cuda_tensor.h"
#include "common/new_tensor.h"

namespace gm {
namespace {

constexpr int64_t kFewestAtoms = 1024;  // of a batch that is worth the launches that sort it into cells

using List = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

void check(const char* wrong) { GM_CHECK(wrong == nullptr, "neighbor_list: CUDA says: ", wrong); }

List neighbor_list(const Tensor& positions, const Tensor& system_ptr, const Tensor& cell, const Tensor& fractions,
                   std::vector<int64_t> repeats, double cutoff, bool half, int64_t capacity) {
    const auto dtype = positions.scalar_type();
    GM_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double, "positions: got dtype ",
             torch::headeronly::toString(dtype), "; takes Float or Double");
    check_dim("positions", positions, 2);
    const int32_t device = cuda_device("positions", positions);
    check_here("positions", positions, device);
    check_dim("system_ptr", system_ptr, 1);
    check_dtype("system_ptr", system_ptr, ScalarType::Long);
    check_here("system_ptr", system_ptr, device);
    const int64_t atoms = positions.size(0), dim = positions.size(1), systems = system_ptr.size(0) - 1;
    GM_CHECK(systems >= 0 && (systems > 0 || atoms == 0), "system_ptr: got ", systems, " systems of ", atoms, " atoms");
    GM_CHECK(atoms <= std::numeric_limits<int32_t>::max(), "positions: got ", atoms, " atoms; takes below 2^31");
    GM_CHECK(dim >= 1 && dim <= 3, "positions: got dimension ", dim, "; takes 1 to 3");
    GM_CHECK(cutoff > 0.0 && std::isfinite(cutoff), "cutoff: got ", cutoff, "; takes a finite number > 0");
    GM_CHECK(static_cast<int64_t>(repeats.size()) == dim, "repeats: got ", repeats.size(), "; takes ", dim);
    for (const auto* one : {&cell, &fractions}) {
        const char* name = one == &cell ? "cell" : "fractions";
        check_dim(name, *one, 3);
        check_dtype(name, *one, ScalarType::Double);
        check_here(name, *one, device);
        GM_CHECK(one->size(0) == 1 || one->size(0) == systems, name, ": got shape ", shape_text(*one), "; takes 1 or ",
                 systems);
        check_size(name, *one, 0, cell.size(0));
        for (const int axis : {1, 2}) check_size(name, *one, axis, dim);
    }

    CudaNeighborList a = {};
    a.device = device;
    CudaCells& c = a.cells;
    c.fp64 = dtype == ScalarType::Double;
    c.stream = current_stream("neighbor_list", device);
    c.systems = systems;
    c.atoms = atoms;
    c.dim = dim;
    c.fewest = kFewestCelled;
    c.most = atoms;
    c.x = positions.const_data_ptr();
    c.system_ptr = system_ptr.const_data_ptr<int64_t>();
    c.boxes = cell.size(0);
    c.cell = cell.const_data_ptr<double>();
    c.fractions = fractions.const_data_ptr<double>();
    for (int64_t k = 0; k < dim; ++k) c.repeats[k] = repeats[static_cast<size_t>(k)] != 0;
    c.cutoff = cutoff;
    Tensor room = new_tensor_beside(system_ptr, {atoms < kFewestAtoms ? 0 : lay_out(c, nullptr) / 8});
    if (room.numel() > 0) lay_out(c, static_cast<char*>(room.mutable_data_ptr()));
    Tensor rows = new_tensor_beside(system_ptr, {atoms + 1});
    Tensor sums = new_tensor_beside(system_ptr, {sum_tiles(atoms) + 1});
    a.half = half;
    a.rows = rows.mutable_data_ptr<int64_t>();
    a.sums = sums.mutable_data_ptr<int64_t>();
    check(launch_count(a));
    a.size = capacity;
    if (capacity < 0) {
        check(read_total(a, &a.size));
        GM_CHECK(a.size >= 0,
                 "positions: takes finite numbers within 2^30 boxes of each other, offsets of a batch, and "
                 "a cutoff that spans fewer than 2^20 boxes");
    }
    Tensor distance = new_tensor_beside(positions, {a.size});
    Tensor vector = new_tensor_beside(positions, {a.size, dim});
    Tensor from = new_tensor_beside(system_ptr, {a.size}), to = new_tensor_beside(system_ptr, {a.size});
    Tensor shift = new_tensor_beside(system_ptr, {a.size, dim}, ScalarType::Int);
    a.distance = distance.mutable_data_ptr();
    a.vector = vector.mutable_data_ptr();
    a.i = from.mutable_data_ptr<int64_t>();
    a.j = to.mutable_data_ptr<int64_t>();
    a.shift = shift.mutable_data_ptr<int32_t>();
    check(launch_fill(a));
    return {distance, vector, from, to, shift, rows};
}

}  // namespace
}  // namespace gm

STABLE_TORCH_LIBRARY_IMPL(gmkern, CUDA, m) { m.impl("neighbor_list", TORCH_BOX(&gm::neighbor_list)); }
