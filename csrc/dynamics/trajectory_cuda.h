// What the launcher hands to the trajectory kernel: raw pointers on the device, sizes and a stream. No torch header.
#pragma once

#include <cstdint>

#include "dynamics/field.h"

namespace gm {

struct CudaTrajectory {
    bool fp64;
    int device;
    void* stream;
    int64_t systems, atoms, dim, largest;
    int32_t terms, kinds[plain::kMostTerms];
    const double* parameters;
    int64_t boxes;
    const double *cell, *inverse;
    int64_t integrator;  // 0 velocity Verlet, 1 BAOAB, 2 Euler-Maruyama
    const double* coefficients;
    int64_t coefficient_rows;
    const int64_t* system_ptr;
    const int64_t *seed, *sample_ids, *step;
    int64_t seed_stride;
    int64_t steps, record_every, phase;
    const void* inverse_masses;
    const void *x_in, *v_in;
    void *x, *v, *frames, *energies;
};

// Queues all steps of all systems on the stream; gives what went wrong, or nullptr.
const char* launch_trajectory(const CudaTrajectory&);

}  // namespace gm
