// All steps of all systems in one launch: a block a system, its state in shared memory.
//
// A step has two phases. First each group of G threads sums the force on its atom, thread g over the atoms j = g,
// g + G, ..., joined by a butterfly, while the block draws the step's noise, a Philox block a thread. Then each thread
// moves its elements. G and the block's size depend on the system's number of atoms alone, and so does every sum's
// order.
#include <cuda_runtime.h>

#include "common/noise.h"
#include "dynamics/box.h"
#include "dynamics/field.h"
#include "dynamics/trajectory_cuda.h"

namespace gm {
namespace {

constexpr int kMostThreads = 256;
constexpr unsigned kAllLanes = 0xFFFFFFFFu;

enum Integrator { kVelocityVerlet = 0, kBaoab = 1, kEulerMaruyama = 2 };

__host__ __device__ inline int group_of(int64_t count) {  // threads an atom
    return count <= 64 ? 4 : count <= 128 ? 2 : 1;
}
__host__ __device__ inline int threads_of(int64_t count) {
    const int64_t wanted = (count * group_of(count) + 31) / 32 * 32;
    return wanted < 32 ? 32 : wanted > kMostThreads ? kMostThreads : static_cast<int>(wanted);
}
int threads_for_all(int64_t largest) { return largest >= 64 ? kMostThreads : threads_of(largest); }

// x, v, f and noise of `largest` atoms (noise in whole Philox blocks), and a double a thread.
__host__ __device__ inline size_t array_size(int64_t largest, int64_t dim) {
    return static_cast<size_t>((largest * dim + 3) / 4 * 4);
}
size_t shared_bytes(int64_t largest, int64_t dim, size_t real) {
    return 4 * array_size(largest, dim) * real + kMostThreads * sizeof(double);
}

template <class R, int D>
struct Potential {
    PairTerm<R> pair[kMostTerms];
    int pairs, traps;
    R k[kMostTerms], center[kMostTerms][D];
    PeriodicBox<R, D> box;
    bool periodic;
};

template <class R, int D>
__device__ void read_potential(const CudaTrajectory& a, int64_t system, Potential<R, D>& p) {
    p.pairs = p.traps = 0;
    const double* q = a.parameters;
    for (int t = 0; t < a.terms; ++t) {
        if (a.kinds[t] == kHarmonic) {
            p.k[p.traps] = static_cast<R>(q[0]);
            for (int d = 0; d < D; ++d) p.center[p.traps][d] = static_cast<R>(q[1 + d]);
            ++p.traps;
            q += 1 + D;
        } else {
            p.pair[p.pairs++] = pair_term<R>(a.kinds[t], q);
            q += kPairParameters;
        }
    }
    p.periodic = a.boxes > 0;
    if (p.periodic) {
        const int64_t at = (a.boxes == 1 ? 0 : system) * D * D;
        p.box.read(a.cell + at, a.inverse + at);
    }
}

// Sums over the pairs of atom i that thread g of its group takes; with kEnergy, of their energies too.
template <bool kEnergy, class R, int D>
__device__ R pair_sums(const Potential<R, D>& p, const R* x, int i, int count, int g, int group, R (&force)[D]) {
    R energy = 0;
    Vector<R, D> xi;
    for (int d = 0; d < D; ++d) xi.c[d] = x[i * D + d];
    for (int j = g; j < count; j += group) {
        if (j == i) continue;
        Vector<R, D> r;
        for (int d = 0; d < D; ++d) r.c[d] = xi.c[d] - x[j * D + d];
        if (p.periodic) p.box.nearest_image(r);
        R r2 = r.c[0] * r.c[0];
        for (int d = 1; d < D; ++d) r2 = fma(r.c[d], r.c[d], r2);
        const R inverse_r2 = R(1) / r2;
        R pull = 0;
        for (int t = 0; t < p.pairs; ++t) {
            if (r2 >= p.pair[t](kCutoff)) continue;  // a distance that is NaN goes on
            const PairValues<R> v =
                pair_values<kEnergy, false>(p.pair[t].kind, p.pair[t].exponent, p.pair[t], r2, inverse_r2);
            pull += v.pull;
            if (kEnergy) energy += v.energy;
        }
        for (int d = 0; d < D; ++d) force[d] = fma(pull, r.c[d], force[d]);
    }
    return energy;
}

// Forces of all atoms into f; with kEnergy, gives the energy, to thread 0 alone.
template <bool kEnergy, class R, int D>
__device__ double forces(const Potential<R, D>& p, const R* x, R* f, double* partial, int count, int threads) {
    const int group = group_of(count), g = threadIdx.x % group, atoms_at_once = threads / group;
    double mine = 0.0;
    for (int first = 0; first < count; first += atoms_at_once) {  // the same number of turns for a warp's threads
        const int i = first + threadIdx.x / group;
        R force[D] = {}, energy = 0;
        if (i < count) energy = pair_sums<kEnergy>(p, x, i, count, g, group, force);
        for (int half = group / 2; half > 0; half /= 2)
            for (int d = 0; d < D; ++d) force[d] += __shfl_xor_sync(kAllLanes, force[d], half);
        if (kEnergy) mine += 0.5 * static_cast<double>(energy);
        if (i < count && g == 0) {
            for (int t = 0; t < p.traps; ++t)
                for (int d = 0; d < D; ++d) {
                    const R away = x[i * D + d] - p.center[t][d];
                    force[d] -= p.k[t] * away;
                    if (kEnergy) mine += 0.5 * static_cast<double>(p.k[t]) * away * away;
                }
            for (int d = 0; d < D; ++d) f[i * D + d] = force[d];
        }
    }
    if (!kEnergy) return 0.0;
    partial[threadIdx.x] = mine;
    __syncthreads();
    double total = 0.0;
    if (threadIdx.x == 0)
        for (int t = 0; t < threads; ++t) total += partial[t];
    __syncthreads();
    return total;
}

// The step's normals, element e of the system at to[e]: docs/noise.md.
__device__ void draw(float* to, int elements, int64_t seed, int64_t id, uint32_t step, int threads) {
    const NoiseKey key = noise_key(seed, kStreamKick);
    for (int block = threadIdx.x; 4 * block < elements; block += threads) {
        const auto n = noise_block<uint32_t>(key, id, step, static_cast<uint32_t>(block));
        const Pair<float> a = normals_from_words<float>(n.w[0], n.w[1]), b = normals_from_words<float>(n.w[2], n.w[3]);
        to[4 * block] = a.first;
        to[4 * block + 1] = a.second;
        to[4 * block + 2] = b.first;
        to[4 * block + 3] = b.second;
    }
}
__device__ void draw(double* to, int elements, int64_t seed, int64_t id, uint32_t step, int threads) {
    const NoiseKey key = noise_key(seed, kStreamKick);
    for (int block = threadIdx.x; 2 * block < elements; block += threads) {
        const auto n = noise_block<uint32_t>(key, id, step, static_cast<uint32_t>(block));
        const auto word = [&](int i) { return n.w[i] | (static_cast<uint64_t>(n.w[i + 1]) << 32); };
        const Pair<double> a = normals_from_words<double>(word(0), word(2));
        to[2 * block] = a.first;
        to[2 * block + 1] = a.second;
    }
}

template <class R, int D>
__global__ void __launch_bounds__(kMostThreads) trajectory(const CudaTrajectory a) {
    const int64_t system = blockIdx.x, first = a.system_ptr[system], size = a.system_ptr[system + 1] - first;
    const R *x_in = static_cast<const R*>(a.x_in) + first * D, *v_in = static_cast<const R*>(a.v_in) + first * D;
    R *x_out = static_cast<R*>(a.x) + first * D, *v_out = static_cast<R*>(a.v) + first * D;
    // Offsets that the host could not read: rows that no valid system covers stay NaN, as the launcher set them.
    if (first < 0 || size < 0 || size > a.largest || first + size > a.atoms) return;
    const int count = static_cast<int>(size), elements = count * D, threads = threads_of(size);
    if (static_cast<int>(threadIdx.x) >= threads) return;  // whole warps; see the barrier below

    extern __shared__ double shared[];
    double* partial = shared;
    R* x = reinterpret_cast<R*>(shared + kMostThreads);
    const size_t each = array_size(a.largest, D);
    R *v = x + each, *f = v + each, *noise = f + each;
    __shared__ Potential<R, D> p;
    if (threadIdx.x == 0) read_potential(a, system, p);
    for (int e = threadIdx.x; e < elements; e += threads) {
        x[e] = x_in[e];
        v[e] = v_in[e];
    }
    const R* inverse_mass = static_cast<const R*>(a.inverse_masses) + first;
    const double* c = a.coefficients + (a.coefficient_rows == 1 ? 0 : system) * 5;
    const double dt64 = c[0];
    const bool has_kick = a.integrator != kVelocityVerlet;
    const R dt = static_cast<R>(dt64), half = static_cast<R>(0.5 * dt64);
    R keep = 1, kick = 0;
    if (a.integrator == kBaoab) {
        keep = static_cast<R>(::exp(-c[2] * dt64));
        kick = static_cast<R>(::sqrt(-::expm1(-2.0 * c[2] * dt64) * c[1]));
    } else if (a.integrator == kEulerMaruyama) {
        kick = static_cast<R>(c[3] * ::sqrt(dt64));
    }
    const int64_t seed = a.seed[system * a.seed_stride], id = a.sample_ids[system];
    const uint32_t step = static_cast<uint32_t>(*a.step);
    __syncthreads();

    forces<false>(p, x, f, partial, count, threads);
    int64_t frame = 0;
    for (int64_t done = 1; done <= a.steps; ++done) {
        if (has_kick) draw(noise, elements, seed, id, step + static_cast<uint32_t>(done - 1), threads);
        __syncthreads();
        for (int e = threadIdx.x; e < elements; e += threads) {
            const R mass = inverse_mass[e / D];
            if (a.integrator == kEulerMaruyama) {
                x[e] = fma(kick, noise[e], fma(dt, f[e], x[e]));
                continue;
            }
            R vi = fma(half, f[e] * mass, v[e]);
            if (a.integrator == kBaoab) {
                const R xi = fma(half, vi, x[e]);
                vi = fma(kick * sqrt(mass), noise[e], keep * vi);
                x[e] = fma(half, vi, xi);
            } else {
                x[e] = fma(dt, vi, x[e]);
            }
            v[e] = vi;
        }
        __syncthreads();
        const bool record = a.record_every > 0 && (a.phase + done) % a.record_every == 0;
        double energy = 0.0;
        if (record)
            energy = forces<true>(p, x, f, partial, count, threads);
        else
            forces<false>(p, x, f, partial, count, threads);
        if (a.integrator != kEulerMaruyama) {
            __syncthreads();
            for (int e = threadIdx.x; e < elements; e += threads) v[e] = fma(half, f[e] * inverse_mass[e / D], v[e]);
        }
        if (record) {
            R* to = static_cast<R*>(a.frames) + (frame * a.atoms + first) * D;
            for (int e = threadIdx.x; e < elements; e += threads) to[e] = x[e];
            if (threadIdx.x == 0) static_cast<R*>(a.energies)[frame * a.systems + system] = static_cast<R>(energy);
            ++frame;
        }
    }
    __syncthreads();
    for (int e = threadIdx.x; e < elements; e += threads) {
        x_out[e] = x[e];
        v_out[e] = v[e];
    }
}

template <class R, int D>
cudaError_t launch(const CudaTrajectory& a) {
    const size_t bytes = shared_bytes(a.largest, D, sizeof(R));
    if (bytes > 48 * 1024) {
        const cudaError_t grown = cudaFuncSetAttribute(trajectory<R, D>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                       static_cast<int>(bytes));
        if (grown != cudaSuccess) return grown;
    }
    trajectory<R, D>
        <<<static_cast<unsigned>(a.systems), threads_for_all(a.largest), bytes, static_cast<cudaStream_t>(a.stream)>>>(
            a);
    return cudaGetLastError();
}

}  // namespace

const char* launch_trajectory(const CudaTrajectory& a) {
    if (a.systems == 0) return nullptr;
    int before = 0;
    cudaError_t status = cudaGetDevice(&before);
    if (status == cudaSuccess && before != a.device) status = cudaSetDevice(a.device);
    if (status == cudaSuccess) {
        if (a.dim == 3)
            status = a.fp64 ? launch<double, 3>(a) : launch<float, 3>(a);
        else
            status = a.fp64 ? launch<double, 2>(a) : launch<float, 2>(a);
    }
    if (before != a.device) cudaSetDevice(before);
    return status == cudaSuccess ? nullptr : cudaGetErrorString(status);
}

}  // namespace gm
