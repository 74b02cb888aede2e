// What the launcher hands to the trajectory kernel: raw pointers on the device, sizes and a stream. No torch header.
#pragma once

#include <cstdint>

#include "dynamics/dynamics.h"
#include "dynamics/near_cuda.h"

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
    // Of systems that are too large for a block; nullptr where `largest` says that there are none.
    void* room;             // wide_arrays() times [M, D]
    double* squares;        // [4, M, D], with log_probs
    double* atom_energies;  // [M]
    CudaNear near;
};

// A system of more atoms is spread over many blocks.
constexpr int64_t kMostInBlock = 256;
// Two states and a stage; for Heun and RK4 two slopes and another stage.
inline int64_t wide_arrays(IntegratorKind kind) {
    return kind == IntegratorKind::heun || kind == IntegratorKind::rk4 ? 6 : 3;
}

// Queues all steps of all systems on the stream; gives what went wrong, or nullptr.
const char* launch_trajectory(const CudaTrajectory&);
// The part of it that is of large systems, once the field and the constants are made.
const char* launch_wide_trajectory(const CudaTrajectory&);

}  // namespace gm
