// Arguments of the dynamics bodies, shared with their launchers. Plain pointers: the launcher owns everything.
#pragma once

#include <cstdint>

#include "common/isa.h"
#include "common/macros.h"
#include "dynamics/near.h"

namespace gm {

// A potential and the boxes, as the ops receive them.
struct FieldArgs {
    int64_t dim;
    int64_t terms;
    const int64_t *kinds, *sizes;  // [terms] each; sizes: how many parameters
    const double* parameters;      // one term's after another's
    int64_t parameter_count, pair_terms;
    int64_t node_count;            // coefficients of splines, of all learnt terms
    int64_t type_count;            // 1: all atoms alike
    const int64_t* types;          // [M], where type_count > 1
    int64_t boxes;                 // 0 (not periodic), 1 (one for all) or S
    const double *cell, *inverse;  // [boxes, D, D] each
};

enum class IntegratorKind : int64_t { velocity_verlet = 0, baoab = 1, euler_maruyama = 2, heun = 3, rk4 = 4 };

// The reversed step whose density log_prob_backward sums: its mean, for the step from x to x' of Euler-Maruyama.
enum class BackwardKind : int64_t {
    same_drift = 0,  // x' + f(x') dt
    reversed = 1,    // x' - f(x') dt
    brownian = 2,    // x'
    bridge = 3,      // pin + bridge (x' - pin), with the variance of the step times `bridge`
};

// The constants of one system's step, in double: rounded once to the state's type.
struct StepConstants {
    double dt, half_dt, sixth_dt;
    double keep;    // exp(-friction dt)
    double kick;    // sqrt((1 - keep^2) temperature), or noise sqrt(dt)
    double bridge;  // the part of the variance since the pin that was there before the step
};
constexpr int64_t kCoefficients = 5;  // dt, temperature, friction, noise, bridge

// What all systems of a call share.
template <class R>
struct TrajectoryArgs {
    FieldArgs field;
    IntegratorKind kind;
    int64_t steps, record_every, recorded_before;  // a step is recorded when recorded_before + done is a multiple
    int64_t systems, atoms;
    const R* inverse_masses;     // [M]
    R *frames, *energies;        // [F, M, D], [F, S]
    double *forward, *backward;  // [S] log-probabilities that grow by this call's, or nullptr
    BackwardKind backward_kind;
    const R* pin;   // [M, D] where a bridge starts, or nullptr
    const R* path;  // [steps + 1, M, D]: the states are these, not the integrator's own (Euler-Maruyama); or nullptr
};

// One system: where it lies in the batch, its noise and its state, which is changed in place.
template <class R>
struct SystemArgs {
    int64_t index, first, count;     // which system, its first atom, its atoms
    const StepConstants* constants;  // of each step, or of all
    bool scheduled;                  // of each
    int64_t seed, id;
    uint32_t step;
    R *x, *v;  // [count, D]
    Crew crew;
    Neighbors<R>* near;  // or nullptr
};

// Scratch of one thread, in numbers of R, for a system of `count` atoms.
GM_HD int64_t padded_atoms(int64_t count) { return (count + 15) / 16 * 16; }
GM_HD int64_t trajectory_scratch(int64_t count, int64_t dim) {
    const int64_t lanes = padded_atoms(count);
    return lanes * (7 * dim + 4) + 64;  // x, v, f, a stage, two sums and noise; masses twice, energies, and slack
}
GM_HD int64_t energy_scratch(int64_t count, int64_t dim) { return padded_atoms(count) * (3 * dim + 2) + 64; }
// A third axis, splines' coefficients, and six parameters of each pair term between each atom and each type; as many
// slopes for an adjoint.
inline int64_t field_scratch(const FieldArgs& a, int64_t count, bool with_slopes) {
    return padded_atoms(count) * (2 + a.type_count * a.pair_terms * 6 * (with_slopes ? 2 : 1)) +
           padded_atoms(a.node_count);
}

GM_DECLARE_ISA(void, trajectory_fp32, (const TrajectoryArgs<float>&, const SystemArgs<float>&, float*))
GM_DECLARE_ISA(void, trajectory_fp64, (const TrajectoryArgs<double>&, const SystemArgs<double>&, double*))

// One system's energy and forces [count, D]; or with `u` [count, D], the gradient of by_energy * energy + the sum of
// u * forces, in place of the forces and, added, in the parameters.
template <class R>
struct EnergyArgs {
    FieldArgs field;
    int64_t index, first, count;
    const R *x, *u;
    double by_energy;
    double* parameters;  // or nullptr
    R *energy, *out;
    Crew crew;
    Neighbors<R>* near;  // or nullptr
};
GM_DECLARE_ISA(void, energy_forces_fp32, (const EnergyArgs<float>&, float*))
GM_DECLARE_ISA(void, energy_forces_fp64, (const EnergyArgs<double>&, double*))

}  // namespace gm
