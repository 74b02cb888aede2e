// All steps of all systems in one launch: a block a system, its state in shared memory. Larger systems than a block
// serves are trajectory_wide_cuda.cu's, whatever else is in the batch.
//
// A step has two phases. First each thread moves its elements; then each group of G threads sums the force on its atom,
// while the block draws the next step's noise, a Philox block a thread. G and the block's size depend on the system's
// number of atoms alone, and so does every sum's order.
#include "dynamics/trajectory_cuda.h"

#include "dynamics/element_cuda.h"
#include "dynamics/step_constants.h"
#include "dynamics/system_cuda.h"

namespace gm {
namespace {

constexpr int kMostThreads = 256, kWarps = kMostThreads / 32;

__host__ __device__ inline int group_of(int64_t count) {  // threads an atom
    return count <= 64 ? 4 : count <= 128 ? 2 : 1;
}
__host__ __device__ inline int threads_of(int64_t count) {
    const int64_t wanted = (count * group_of(count) + 31) / 32 * 32;
    return wanted < 32 ? 32 : wanted > kMostThreads ? kMostThreads : static_cast<int>(wanted);
}
int threads_for_all(int64_t largest) { return largest >= 64 ? kMostThreads : threads_of(largest); }

// x, v, f and noise of `largest` atoms (noise in whole Philox blocks), one more for RK4, and two doubles a warp.
__host__ __device__ inline size_t array_size(int64_t largest, int64_t dim) {
    return static_cast<size_t>((largest * dim + 3) / 4 * 4);
}
__host__ __device__ inline int64_t in_block(const CudaTrajectory& a) {
    return a.largest < kMostInBlock ? a.largest : kMostInBlock;
}
size_t shared_bytes(const CudaTrajectory& a) {
    const size_t arrays = a.kind == IntegratorKind::rk4 ? 5 : 4, real = a.fp64 ? 8 : 4;
    return 2 * kWarps * sizeof(double) + arrays * array_size(in_block(a), a.field.dim) * real;
}

// The step's normals, element e of the system at to[e]: docs/noise.md.
__device__ void draw(float* to, int elements, NoiseKey key, int64_t id, uint32_t step, int threads) {
    for (int block = threadIdx.x; 4 * block < elements; block += threads) {
        const auto n = noise_block<uint32_t>(key, id, step, static_cast<uint32_t>(block));
        const Pair<float> a = normals_from_words<float>(n.w[0], n.w[1]), b = normals_from_words<float>(n.w[2], n.w[3]);
        to[4 * block] = a.first;
        to[4 * block + 1] = a.second;
        to[4 * block + 2] = b.first;
        to[4 * block + 3] = b.second;
    }
}
__device__ void draw(double* to, int elements, NoiseKey key, int64_t id, uint32_t step, int threads) {
    for (int block = threadIdx.x; 2 * block < elements; block += threads) {
        const auto n = noise_block<uint32_t>(key, id, step, static_cast<uint32_t>(block));
        const auto word = [&](int i) { return n.w[i] | (static_cast<uint64_t>(n.w[i + 1]) << 32); };
        const Pair<double> a = normals_from_words<double>(word(0), word(2));
        to[2 * block] = a.first;
        to[2 * block + 1] = a.second;
    }
}

// One system's steps by one block. Without kAll: velocity Verlet, BAOAB and Euler-Maruyama of constant numbers, atoms
// all alike, no bonds, no splines and no log-probabilities, so that the common case asks after none of them.
template <class R, int D, bool kAll>
struct Walk {
    const CudaTrajectory& a;
    const CudaSystem<R, D> s;
    const int64_t system, first;
    const int elements, threads;
    double* partial;
    R *x, *v, *f, *noise, *extra;
    const R* inverse_mass;
    NoiseKey key;
    int64_t id;
    uint32_t step;
    double log_masses, squares[2], totals[2];  // with log-probabilities: forward and backward, the totals thread 0's

    // f(e) for the elements of this thread, the same ones in every phase.
    template <class F>
    __device__ void each(const F& f) const {
        for (int e = threadIdx.x; e < elements; e += threads) f(e);
    }
    // to = forces at `from`; the energy is given where it is wanted. Noise of step `ahead` is drawn meanwhile.
    template <Want want>
    __device__ double forces(const R* from, R* to, bool draws, uint32_t ahead) const {
        __syncthreads();
        if (draws) draw(noise, elements, key, id, ahead, threads);
        CudaSystem<R, D> here = s;
        here.x = from;
        const int group = group_of(s.count), g = threadIdx.x % group, at_once = threads / group;
        double energy[1] = {0.0};
        for (int start = 0; start < s.count; start += at_once) {  // the same number of turns for a warp's threads
            const int i = start + threadIdx.x / group;
            const AtomSums<R, D> sums = atom_sums<want, kAll>(here, i, g, group);
            if (want == Want::forces_and_energy) energy[0] += sums.energy();
            if (i < s.count && g == 0)
                for (int d = 0; d < D; ++d) to[i * D + d] = sums.force[d];
        }
        if (want == Want::forces_and_energy) block_sums(energy, partial, threads);
        __syncthreads();
        return energy[0];
    }
    __device__ double force_here(bool with_energy, bool draws, uint32_t ahead) const {
        if (with_energy) return forces<Want::forces_and_energy>(x, f, draws, ahead);
        return forces<Want::forces>(x, f, draws, ahead);
    }
    __device__ void half_kick(const Constants<R>& c) const {
        each([&](int e) { v[e] = fma(c.half, f[e] * inverse_mass[e / D], v[e]); });
    }

    __device__ bool with_log_probs() const { return kAll && a.log_probs != nullptr; }

    __device__ void verlet_or_baoab(const Constants<R>& c) {
        each([&](int e) {
            const R drawn = a.kind == IntegratorKind::baoab ? noise[e] : R(0);
            open_step(a, c, f[e], inverse_mass[e / D], drawn, with_log_probs(), x[e], v[e], squares);
        });
    }
    __device__ void euler_maruyama(const Constants<R>& c, int64_t done) {
        const R* path = static_cast<const R*>(a.path);
        if (path != nullptr) path += (done * a.field.atoms + first) * D;
        each([&](int e) {
            const R before = x[e];
            const R to = kAll && path != nullptr ? path[e] : fma(c.kick, noise[e], fma(c.dt, f[e], before));
            if (with_log_probs()) {
                squares[0] += forward_square(c, before, f[e], to);
                v[e] = before;
            }
            x[e] = to;
        });
    }
    // The reversed step of Euler-Maruyama from x, where the force is f, to where it came from.
    __device__ void backward(const Constants<R>& c) {
        const R* pin = static_cast<const R*>(a.pin);
        each([&](int e) {
            squares[1] += backward_square(a, c, v[e], x[e], f[e], pin != nullptr ? pin[first * D + e] : R(0));
        });
    }

    // x to the step's end, f being the force at its start; v is free.
    __device__ void heun(const Constants<R>& c) {
        R *stage = noise, *there = v;
        each([&](int e) { stage[e] = fma(c.dt, f[e], x[e]); });
        forces<Want::forces>(stage, there, false, 0);
        each([&](int e) { x[e] = fma(c.half, f[e] + there[e], x[e]); });
    }
    __device__ void rk4(const Constants<R>& c) {
        R *stage = noise, *sum = v;
        for (int k = 0; k < 3; ++k) {
            const R* slope = k == 0 ? f : k == 1 ? sum : extra;
            each([&](int e) {
                if (k == 2) sum[e] += extra[e];
                stage[e] = fma(k == 2 ? c.dt : c.half, slope[e], x[e]);
            });
            forces<Want::forces>(stage, k == 0 ? sum : extra, false, 0);
        }
        each([&](int e) { x[e] = fma(c.sixth, fma(R(2), sum[e], f[e]) + extra[e], x[e]); });
    }

    __device__ void run() {
        const bool moves_v = moves_velocities(a), random = draws_noise(a);
        const StepConstants* constants = a.constants + (a.columns == 1 ? 0 : system);
        Constants<R> c(constants[0]);
        if (with_log_probs()) start_log_probs();
        force_here(false, random && a.steps > 0, step);
        int64_t frame = 0;
        for (int64_t done = 1; done <= a.steps; ++done) {
            const bool record = a.record_every > 0 && (a.phase + done) % a.record_every == 0, more = done < a.steps;
            if (kAll && a.rows > 1) c = Constants<R>(constants[(done - 1) * a.columns]);
            if (moves_v)
                verlet_or_baoab(c);
            else if (a.kind == IntegratorKind::euler_maruyama)
                euler_maruyama(c, done);
            else if (kAll && a.kind == IntegratorKind::heun)
                heun(c);
            else if (kAll)
                rk4(c);
            double energy = 0.0;
            if (more || record || moves_v || with_log_probs())
                energy = force_here(record, random && more, step + static_cast<uint32_t>(done));
            if (moves_v) half_kick(c);
            if (with_log_probs()) {
                if (!moves_v) backward(c);
                block_sums(squares, partial, threads);
                add_step(a, c, elements, log_masses, squares, totals);
                squares[0] = squares[1] = 0.0;
            }
            if (!record) continue;
            R* to = static_cast<R*>(a.frames) + (frame * a.field.atoms + first) * D;
            each([&](int e) { to[e] = x[e]; });
            if (threadIdx.x == 0) static_cast<R*>(a.energies)[frame * a.systems + system] = static_cast<R>(energy);
            ++frame;
        }
        if (a.x != nullptr) each([&](int e) { static_cast<R*>(a.x)[first * D + e] = x[e]; });
        const R* still = static_cast<const R*>(a.v_in) + first * D;
        if (a.v != nullptr) each([&](int e) { static_cast<R*>(a.v)[first * D + e] = moves_v ? v[e] : still[e]; });
        if (!with_log_probs() || threadIdx.x != 0) return;
        a.log_probs[system] = totals[0];
        a.log_probs[a.systems + system] = totals[1];
    }
    __device__ void start_log_probs() {
        totals[0] = a.log_probs_in[system];
        totals[1] = a.log_probs_in[a.systems + system];
        double logs[1] = {0.0};
        if (a.kind == IntegratorKind::baoab)
            each([&](int e) { logs[0] += log_positive(static_cast<double>(sqrt(inverse_mass[e / D]))); });
        block_sums(logs, partial, threads);
        log_masses = logs[0];
        squares[0] = squares[1] = 0.0;
    }
};

template <class R, int D, bool kAll>
__global__ void __launch_bounds__(kMostThreads, 2) trajectory(const CudaTrajectory a) {
    const int64_t system = blockIdx.x, first = a.system_ptr[system], size = a.system_ptr[system + 1] - first;
    // Offsets that the host could not read: rows that no valid system covers stay NaN, as the launcher set them.
    if (first < 0 || size < 0 || size > a.largest || first + size > a.field.atoms || size > kMostInBlock) return;
    const int count = static_cast<int>(size), elements = count * D, threads = threads_of(size);
    if (static_cast<int>(threadIdx.x) >= threads) return;  // whole warps, so that none waits for them

    extern __shared__ double shared[];
    __shared__ CudaTerms<R> terms;
    __shared__ PeriodicBox<R, D> box;
    const bool periodic = a.field.boxes > 0;
    if (threadIdx.x == 0) {
        terms.read(a.field);
        const int64_t at = (a.field.boxes == 1 ? 0 : system) * D * D;
        if (periodic) box.read(a.field.cell + at, a.field.inverse + at);
    }
    const size_t each = array_size(in_block(a), D);
    R *x = reinterpret_cast<R*>(shared + 2 * kWarps), *v = x + each, *f = v + each, *noise = f + each;
    const bool moves_v = moves_velocities(a);
    for (int e = threadIdx.x; e < elements; e += threads) {
        x[e] = static_cast<const R*>(a.x_in)[first * D + e];
        if (moves_v) v[e] = static_cast<const R*>(a.v_in)[first * D + e];
    }
    __syncthreads();
    const bool on_path = kAll && a.path != nullptr;
    const int32_t* types =
        a.field.type_count > 1 ? reinterpret_cast<const int32_t*>(a.field.ready + a.field.types_at) + first : nullptr;
    Walk<R, D, kAll> walk = {a,
                             {terms, kAll ? types : nullptr, periodic ? &box : nullptr, x, nullptr, count, 0.0},
                             system,
                             first,
                             elements,
                             threads,
                             shared,
                             x,
                             v,
                             f,
                             noise,
                             noise + each,
                             static_cast<const R*>(a.inverse_masses) + first,
                             on_path ? NoiseKey{} : noise_key(a.seed[system * a.seed_stride], kStreamKick),
                             on_path ? 0 : a.sample_ids[system],
                             on_path ? 0 : static_cast<uint32_t>(*a.step)};
    walk.run();
}

// The constants of each step: exp() and expm1() come from CUDA's library, whose last bits are its own.
__global__ void make_constants(const CudaTrajectory a) {
    const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < a.rows * a.columns) a.constants[i] = step_constants(a.kind, a.coefficients + i * kCoefficients);
}

template <class R, int D, bool kAll>
cudaError_t walk_all(const CudaTrajectory& a) {
    return launch(trajectory<R, D, kAll>, a.systems, threads_for_all(a.largest), shared_bytes(a), a.stream, a);
}

bool needs_all(const CudaTrajectory& a) {
    bool all = a.field.type_count > 1 || a.rows > 1 || a.log_probs != nullptr || a.path != nullptr ||
               a.kind == IntegratorKind::heun || a.kind == IntegratorKind::rk4;
    for (int t = 0; t < a.field.terms; ++t) all = all || a.field.kinds[t] >= kBonds;
    return all;
}
template <class R, int D>
cudaError_t walk_for(const CudaTrajectory& a) {
    return needs_all(a) ? walk_all<R, D, true>(a) : walk_all<R, D, false>(a);
}

}  // namespace

const char* launch_trajectory(const CudaTrajectory& a) {
    if (a.systems == 0) return nullptr;
    const char* wrong = prepare_field(a.field, a.fp64, a.device, a.stream);
    if (wrong != nullptr) return wrong;
    const OnDevice here(a.device);
    cudaError_t status = here.status();
    if (status == cudaSuccess) status = launch(make_constants, (a.rows * a.columns + 127) / 128, 128, 0, a.stream, a);
    if (status == cudaSuccess && a.field.dim == 3) status = a.fp64 ? walk_for<double, 3>(a) : walk_for<float, 3>(a);
    if (status == cudaSuccess && a.field.dim == 2) status = a.fp64 ? walk_for<double, 2>(a) : walk_for<float, 2>(a);
    if (status != cudaSuccess || a.largest <= kMostInBlock) return message(status);
    return launch_wide_trajectory(a);
}

}  // namespace gm
