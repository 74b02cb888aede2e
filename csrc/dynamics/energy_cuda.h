// What the launcher hands to the kernels of energies, forces and their adjoint. No torch header.
#pragma once

#include <cstdint>

#include "dynamics/near_cuda.h"

namespace gm {

struct CudaEnergy {
    bool fp64;
    int device;
    void* stream;
    int64_t systems;
    CudaField field;
    const int64_t* system_ptr;
    const void* x;          // [M, D]
    CudaNear near;          // of x
    double* atom_energies;  // [M], room
    void *energy, *forces;  // [S], [M, D]; `forces` has an adjoint's gradient in x in their place
    // Of an adjoint alone, the gradient of by_energy * energy + the sum of u * forces; its parameters' may be nullptr.
    const void *u, *by_energy;    // [M, D], [S]
    double *slopes, *parameters;  // [S, parameters], all 0, and [parameters]
};

// Queue all on the stream; give what went wrong, or nullptr.
const char* launch_energy(const CudaEnergy&);
const char* launch_energy_backward(const CudaEnergy&);

}  // namespace gm
