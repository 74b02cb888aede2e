// What the launcher hands to the trajectory kernel: raw pointers on the device, sizes and a stream. No torch header.
#pragma once

#include <cstdint>

#include "dynamics/dynamics.h"
#include "dynamics/field_cuda.h"

namespace gm {

struct CudaTrajectory {
    bool fp64;
    int device;
    void* stream;
    int64_t systems, largest;
    CudaField field;
    IntegratorKind kind;
    BackwardKind backward;
    const double* coefficients;  // [rows, columns, 5]
    int64_t rows, columns;
    StepConstants* constants;  // [rows, columns], made of them by the call
    const int64_t* system_ptr;
    const int64_t *seed, *sample_ids, *step;  // unread where the states are a path's
    int64_t seed_stride;
    int64_t steps, record_every, phase;
    const void *inverse_masses, *x_in, *v_in;  // masses and velocities unread for Euler-Maruyama, Heun and RK4
    const void *pin, *path;                    // or nullptr
    const double* log_probs_in;                // [2, S], or nullptr
    double* log_probs;
    void *x, *v, *frames, *energies;  // x and v nullptr where they are not wanted
};

// Queues all steps of all systems on the stream; gives what went wrong, or nullptr.
const char* launch_trajectory(const CudaTrajectory&);

}  // namespace gm
