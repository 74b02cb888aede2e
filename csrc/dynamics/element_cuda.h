// What one element of a system's state does in a step, for .cu files: shared by the kernel that holds a system in a
// block and the one that spreads it over many.
#pragma once

#include "common/noise.h"
#include "dynamics/launch_cuda.h"
#include "dynamics/trajectory_cuda.h"

namespace gm {
namespace {

constexpr double kHalfLog2Pi = 0.91893853320467274178;

// A step's constants in the state's type.
template <class R>
struct Constants {
    R dt, half, sixth, keep, kick;
    double bridge;
    __device__ explicit Constants(const StepConstants& c)
        : dt(static_cast<R>(c.dt)),
          half(static_cast<R>(c.half_dt)),
          sixth(static_cast<R>(c.sixth_dt)),
          keep(static_cast<R>(c.keep)),
          kick(static_cast<R>(c.kick)),
          bridge(c.bridge) {}
};

__device__ inline bool moves_velocities(const CudaTrajectory& a) {
    return a.kind == IntegratorKind::velocity_verlet || a.kind == IntegratorKind::baoab;
}
__device__ inline bool draws_noise(const CudaTrajectory& a) {
    return (a.kind == IntegratorKind::baoab || a.kind == IntegratorKind::euler_maruyama) && a.path == nullptr;
}

// z^2 with z = away / scale: -z^2 / 2 is what an element adds to the logarithm of a Gaussian, but for normaliser().
__device__ inline double square(double away, double scale) {
    const double z = away / scale;
    return z * z;
}
// `log_masses`: the sum of the logarithms of the roots of BAOAB's inverse masses, an element each.
template <class R>
__device__ double normaliser(const Constants<R>& c, double elements, double log_masses) {
    return -elements * (kHalfLog2Pi + log_positive(static_cast<double>(c.kick))) - log_masses;
}
// Adds a step to the log-probabilities so far, of the sums of squares forward and backward.
template <class R>
__device__ void add_step(const CudaTrajectory& a, const Constants<R>& c, double elements, double log_masses,
                         const double (&squares)[2], double (&totals)[2]) {
    const double own = normaliser(c, elements, log_masses);
    totals[0] += own - 0.5 * squares[0];
    if (a.backward != BackwardKind::bridge)
        totals[1] += own - 0.5 * squares[1];
    else if (c.bridge != 0.0)  // else it ends where it is pinned, with certainty
        totals[1] += own - 0.5 * elements * log_positive(c.bridge) - 0.5 * squares[1];
}

// The opening half kick, and the drift with BAOAB's noise in its middle; its squares, forward and backward, are added
// where they are wanted.
template <class R>
__device__ void open_step(const CudaTrajectory& a, const Constants<R>& c, R force, R mass, R noise, bool with_squares,
                          R& x, R& v, double (&squares)[2]) {
    R vi = fma(c.half, force * mass, v);
    if (a.kind == IntegratorKind::baoab) {
        const R xi = fma(c.half, vi, x), before = vi, root = sqrt(mass);
        vi = fma(c.kick * root, noise, c.keep * vi);
        x = fma(c.half, vi, xi);
        if (with_squares) {
            const double from = before, to = vi, keep = c.keep;
            const double scale = static_cast<double>(c.kick) * static_cast<double>(root);
            squares[0] += square(to - keep * from, scale);
            squares[1] += square(from - keep * to, scale);
        }
    } else {
        x = fma(c.dt, vi, x);
    }
    v = vi;
}

// z^2 of Euler-Maruyama's step from `before`, where the force is, and of the reversed one from `here`, where it is.
template <class R>
__device__ double forward_square(const Constants<R>& c, R before, R force, R to) {
    const double away = static_cast<double>(to) - static_cast<double>(before);
    return square(away - static_cast<double>(c.dt) * static_cast<double>(force), c.kick);
}
template <class R>
__device__ double backward_square(const CudaTrajectory& a, const Constants<R>& c, double before, double here,
                                  double force, double start) {
    if (a.backward == BackwardKind::bridge) {
        if (c.bridge == 0.0) return 0.0;
        return square((before - start) - c.bridge * (here - start), static_cast<double>(c.kick) * sqrt(c.bridge));
    }
    if (a.backward == BackwardKind::brownian) return square(before - here, c.kick);
    const double dt = a.backward == BackwardKind::reversed ? -static_cast<double>(c.dt) : static_cast<double>(c.dt);
    return square((before - here) - dt * force, c.kick);
}

// The sums over a block's threads, whole warps of them, by warps and then by number; `partial` has N for each warp.
template <int N>
__device__ void block_sums(double (&sums)[N], double* partial, int threads) {
    for (int half = 16; half > 0; half /= 2)
        for (int n = 0; n < N; ++n) sums[n] += __shfl_xor_sync(0xFFFFFFFFu, sums[n], half);
    if (threadIdx.x % 32 == 0)
        for (int n = 0; n < N; ++n) partial[N * (threadIdx.x / 32) + n] = sums[n];
    __syncthreads();
    for (int n = 0; n < N; ++n) sums[n] = 0.0;
    for (int w = 0; w < threads / 32; ++w)
        for (int n = 0; n < N; ++n) sums[n] += partial[N * w + n];
    __syncthreads();
}

}  // namespace
}  // namespace gm
