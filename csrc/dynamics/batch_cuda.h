// A batch of systems and its potential, from the tensors of an op to what the CUDA kernels take.
#pragma once

#include <limits>

#include "common/cuda_tensor.h"
#include "common/new_tensor.h"
#include "dynamics/batch.h"
#include "dynamics/near_cuda.h"

namespace gm {

struct CudaBatch {
    CudaField field;
    Tensor ready;  // owns field.ready
    bool fp64;
    int32_t device;
    void* stream;
    int64_t systems, atoms, dim;
};

// Shapes, devices and layouts are checked; types, bonds and splines by the kernels, which give NaN for bad ones.
inline CudaBatch cuda_batch(const char* op, const Tensor& positions, const Tensor& system_ptr, const Potential& p) {
    const int64_t types = check_batch_shapes(positions, system_ptr, p);
    const int32_t device = cuda_device("positions", positions);
    check_here("positions", positions, device);
    check_here("system_ptr", system_ptr, device);
    check_here("types", p.types, device);
    check_here("parameters", p.parameters, device);
    check_here("cell", p.cell, device);
    check_here("inverse", p.inverse, device);
    const int64_t atoms = positions.size(0), dim = positions.size(1), systems = system_ptr.size(0) - 1;
    GM_CHECK(dim == 2 || dim == 3, "positions: got dimension ", dim, "; the CUDA kernels take 2 or 3");
    GM_CHECK(atoms * dim <= std::numeric_limits<int32_t>::max(), "positions: got ", atoms * dim,
             " numbers; the CUDA kernels take below 2^31");
    GM_CHECK(systems <= std::numeric_limits<int32_t>::max(), "system_ptr: got ", systems, " systems; takes below 2^31");

    GM_CHECK(systems > 0 || atoms == 0, "system_ptr: got no system with ", atoms, " atoms");

    CudaField f = {};
    f.dim = dim;
    f.atoms = atoms;
    f.terms = static_cast<int32_t>(p.kinds.size());
    for (size_t t = 0; t < p.kinds.size(); ++t) {
        f.kinds[t] = static_cast<int32_t>(p.kinds[t]);
        f.sizes[t] = p.sizes[t];
    }
    f.parameters = p.parameters.const_data_ptr<double>();
    f.parameter_count = p.parameters.size(0);
    f.type_count = types;
    f.types = p.types.const_data_ptr<int64_t>();
    f.boxes = p.cell.size(0);
    f.cell = p.cell.const_data_ptr<double>();
    f.inverse = p.inverse.const_data_ptr<double>();
    const bool fp64 = positions.scalar_type() == ScalarType::Double;
    const int64_t bytes = lay_out(f, fp64);
    Tensor ready = new_tensor_beside(p.parameters, {bytes / 8});
    f.ready = static_cast<char*>(ready.mutable_data_ptr());
    return {f, ready, fp64, device, current_stream(op, device), systems, atoms, dim};
}

// Lists for the systems of `fewest` to `most` atoms, `most` being the largest system's; none where they are of no use.
inline Tensor room_for_lists(CudaNear& near, const CudaBatch& b, const int64_t* system_ptr, int64_t fewest,
                             int64_t most, double skin) {
    CudaCells& c = near.cells;
    c.fp64 = b.fp64;
    c.stream = b.stream;
    c.systems = b.systems;
    c.atoms = b.atoms;
    c.dim = b.dim;
    c.fewest = fewest;
    c.most = most;
    c.system_ptr = system_ptr;
    c.boxes = b.field.boxes;
    c.cell = b.field.cell;
    c.inverse = b.field.inverse;
    c.skin = skin;
    c.types = b.field.type_count > 1 ? b.field.types : nullptr;
    c.type_count = b.field.type_count;
    Tensor room = new_tensor_beside(b.ready, {may_list(b.field, most) ? lay_out(near, nullptr) / 8 : 0});
    if (room.numel() > 0) lay_out(near, static_cast<char*>(room.mutable_data_ptr()));
    return room;
}

}  // namespace gm
