// Steps of systems that are too large for one block (kMostInBlock atoms): a warp an atom, the state in global memory,
// and a launch for each look at the forces, in which the atom's warp also ends the step before and begins the next. So
// one large system is spread over the whole device. A sum's order depends on the system alone, not on lists of
// neighbours: where they serve, the warp that moves an atom sees whether it has gone too far for them, and kernels
// before the next look, which else return at once, make them anew.
#include "dynamics/element_cuda.h"
#include "dynamics/rows_cuda.h"
#include "dynamics/system_cuda.h"

namespace gm {
namespace {

constexpr int kThreads = 128, kAtoms = kThreads / 32, kSumThreads = 256;

// What an element does with the force at the positions that are looked at.
enum class Act {
    step,        // end step `done`, and begin the next
    heun_end,    // Heun: to the step's end
    rk4_second,  // RK4: to the third stage, and so on
    rk4_third,
    rk4_end,
};

struct Look {
    CudaTrajectory a;
    Act act;
    int64_t done;        // steps
    bool begins;         // whether there is a next
    const void* at;      // [M, D] where the forces are looked at
    const void* x;       // [M, D] the state: `at`, but for a stage
    const void* before;  // [M, D] the state a step earlier; may be `to`
    void* to;            // [M, D] the next state, or the next stage
    void *first, *sum;   // [M, D] slopes of Heun and RK4
    double* squares;     // [2 by the step's parity, 2, M, D]
    double* energies;    // [M]
};

// The rows of an atom's system, if it is one that is served here; count 0 otherwise.
__device__ inline Rows place_of(const CudaTrajectory& a, int64_t atom) {
    Rows rows = rows_at(a.system_ptr, a.systems, a.field.atoms, atom);
    if (!holds(rows, atom) || rows.count > a.largest || rows.count <= kMostInBlock) rows.count = 0;
    return rows;
}
template <class R>
__device__ Constants<R> constants_of(const CudaTrajectory& a, int64_t system, int64_t step) {
    return Constants<R>(a.constants[(a.rows == 1 ? 0 : step) * a.columns + (a.columns == 1 ? 0 : system)]);
}
__device__ inline bool is_recorded(const CudaTrajectory& a, int64_t done) {
    return a.record_every > 0 && done > 0 && (a.phase + done) % a.record_every == 0;
}
__host__ __device__ inline int64_t frame_of(const CudaTrajectory& a, int64_t done) {
    return (a.phase + done) / a.record_every - a.phase / a.record_every - 1;
}

// The normal number of one element: docs/noise.md.
__device__ inline float normal(NoiseKey key, int64_t id, uint32_t step, int element, float) {
    const auto n = noise_block<uint32_t>(key, id, step, static_cast<uint32_t>(element / 4));
    const bool late = element % 4 >= 2;
    const Pair<float> p = normals_from_words<float>(late ? n.w[2] : n.w[0], late ? n.w[3] : n.w[1]);
    return element % 2 == 0 ? p.first : p.second;
}
__device__ inline double normal(NoiseKey key, int64_t id, uint32_t step, int element, double) {
    const auto n = noise_block<uint32_t>(key, id, step, static_cast<uint32_t>(element / 2));
    const auto word = [&](int i) { return n.w[i] | (static_cast<uint64_t>(n.w[i + 1]) << 32); };
    const Pair<double> p = normals_from_words<double>(word(0), word(2));
    return element % 2 == 0 ? p.first : p.second;
}

// One element of a large system; `e` is its number in the batch, `own` in the system.
template <class R>
struct Element {
    const Look& l;
    const Rows& p;
    int64_t atom, e;
    int own;
    R force;

    __device__ R read(const void* from) const { return static_cast<const R*>(from)[e]; }
    __device__ void write(void* to, R value) const { static_cast<R*>(to)[e] = value; }

    // Keeps a square, forward or backward, for sum_up after the look that ends the step.
    __device__ void keep(int64_t step, int which, double value) const {
        l.squares[(2 * (step & 1) + which) * l.a.field.atoms * l.a.field.dim + e] = value;
    }

    // Ends a step and begins the next; gives where the next look finds the element.
    __device__ R step() const {
        const CudaTrajectory& a = l.a;
        const bool moves_v = moves_velocities(a), with_squares = a.log_probs != nullptr;
        const R x = read(l.at), mass = moves_v ? static_cast<const R*>(a.inverse_masses)[atom] : R(1);
        R v = moves_v ? (l.done == 0 ? read(a.v_in) : read(a.v)) : R(0);
        if (l.done > 0) {
            const Constants<R> c = constants_of<R>(a, p.system, l.done - 1);
            if (moves_v) v = fma(c.half, force * mass, v);
            if (with_squares && !moves_v) {
                const R start = a.pin != nullptr ? read(a.pin) : R(0);
                keep(l.done, 1, backward_square(a, c, read(l.before), x, force, start));
            }
        }
        if (is_recorded(a, l.done))
            static_cast<R*>(a.frames)[frame_of(a, l.done) * a.field.atoms * a.field.dim + e] = x;
        if (l.begins) {
            const R to = begin(x, v, mass);
            if (moves_v) write(a.v, v);
            return to;
        }
        if (a.x != nullptr) write(a.x, x);
        if (a.v != nullptr) write(a.v, moves_v ? v : read(a.v_in));
        return x;
    }
    __device__ R begin(R x, R& v, R mass) const {
        const CudaTrajectory& a = l.a;
        const Constants<R> c = constants_of<R>(a, p.system, l.done);
        R drawn = 0;
        if (draws_noise(a)) {
            const NoiseKey key = noise_key(a.seed[p.system * a.seed_stride], kStreamKick);
            const uint32_t number = static_cast<uint32_t>(*a.step) + static_cast<uint32_t>(l.done);
            drawn = normal(key, a.sample_ids[p.system], number, own, R());
        }
        if (moves_velocities(a)) {
            double squares[2] = {0.0, 0.0};
            open_step(a, c, force, mass, drawn, a.log_probs != nullptr, x, v, squares);
            if (a.log_probs != nullptr) {
                keep(l.done + 1, 0, squares[0]);
                keep(l.done + 1, 1, squares[1]);
            }
            return moved(x);
        }
        if (a.kind == IntegratorKind::euler_maruyama) {
            const int64_t there = (l.done + 1) * a.field.atoms * a.field.dim + e;
            const R to =
                a.path != nullptr ? static_cast<const R*>(a.path)[there] : fma(c.kick, drawn, fma(c.dt, force, x));
            if (a.log_probs != nullptr) keep(l.done + 1, 0, forward_square(c, x, force, to));
            return moved(to);
        }
        write(l.first, force);
        return moved(fma(a.kind == IntegratorKind::heun ? c.dt : c.half, force, x));
    }
    __device__ R moved(R to) const {
        write(l.to, to);
        return to;
    }
    __device__ R stage() const {
        const Constants<R> c = constants_of<R>(l.a, p.system, l.done);
        const R x = read(l.x);
        if (l.act == Act::heun_end) return moved(fma(c.half, read(l.first) + force, x));
        if (l.act == Act::rk4_second) {
            write(l.sum, force);
            return moved(fma(c.half, force, x));
        }
        if (l.act == Act::rk4_third) {
            write(l.sum, read(l.sum) + force);
            return moved(fma(c.dt, force, x));
        }
        return moved(fma(c.sixth, fma(R(2), read(l.sum), read(l.first)) + force, x));
    }
};

template <Want want, class R, int D>
__global__ void __launch_bounds__(kThreads, 6) look(const Look l) {
    __shared__ CudaTerms<R> terms;
    __shared__ PeriodicBox<R, D> boxes[kAtoms];
    __shared__ PairShare<R, D> shares[kThreads];
    const CudaTrajectory& a = l.a;
    const CudaNear& near = a.near;
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32;
    const int64_t atom = static_cast<int64_t>(blockIdx.x) * kAtoms + warp;
    const Rows p = place_of(a, atom);
    if (threadIdx.x == 0) terms.read(a.field);
    if (g == 0 && p.count > 0 && a.field.boxes > 0) {
        const int64_t at = (a.field.boxes == 1 ? 0 : p.system) * D * D;
        boxes[warp].read(a.field.cell + at, a.field.inverse + at);
    }
    __syncthreads();
    if (p.count == 0) return;  // the whole warp
    const int32_t* types = reinterpret_cast<const int32_t*>(a.field.ready + a.field.types_at) + p.first;
    const CudaSystem<R, D> s = {terms,
                                a.field.type_count > 1 ? types : nullptr,
                                a.field.boxes > 0 ? &boxes[warp] : nullptr,
                                static_cast<const R*>(l.at) + p.first * D,
                                nullptr,
                                static_cast<int>(p.count),
                                0.0};
    const int i = static_cast<int>(atom - p.first);
    const bool listed = near.lists != nullptr;
    const ListedPairs<R, D> pairs = {listed ? near.lists + atom * near.room : nullptr, listed ? near.lengths[atom] : -1,
                                     shares + 32 * warp};
    const AtomSums<R, D> sums = atom_sums<want, true>(s, i, g, 32, pairs);
    if (want == Want::forces_and_energy) {
        double energy = sums.energy();
        for (int half = 16; half > 0; half /= 2) energy += __shfl_xor_sync(kAllLanes, energy, half);
        if (g == 0) l.energies[atom] = energy;
    }
    R force = sums.force[0];
    for (int d = 1; d < D; ++d) force = g == d ? sums.force[d] : force;
    R away = 0;
    if (g < D) {
        const Element<R> element = {l, p, atom, atom * D + g, i * D + g, force};
        away = l.act == Act::step ? element.step() : element.stage();
    }
    if (!listed || !near.cells.grids[p.system].listed) return;
    if (g < D) away -= static_cast<const R*>(near.listed)[atom * D + g];
    R square = away * away;
    for (int half = 2; half > 0; half /= 2) square += __shfl_xor_sync(kAllLanes, square, half);
    const R most = static_cast<R>(near.cells.grids[p.system].most);
    if (g == 0 && !(square <= most)) near.cells.stale[1 - near.cells.look % 2] = 1;
}

// A block a system: the energy of a frame, and the log-probabilities of the step that was ended.
template <class R>
__global__ void __launch_bounds__(kSumThreads) sum_up(const Look l) {
    __shared__ double partial[3 * kSumThreads / 32];
    const CudaTrajectory& a = l.a;
    const int64_t system = blockIdx.x, first = a.system_ptr[system];
    if (first < 0 || first >= a.field.atoms) return;
    const Rows p = place_of(a, first);
    if (p.count == 0 || p.system != system) return;
    const bool random = a.log_probs != nullptr && l.done > 0, recorded = is_recorded(a, l.done);
    const int64_t elements = p.count * a.field.dim, all = a.field.atoms * a.field.dim;
    double energy[1] = {0.0}, squares[2] = {0.0, 0.0}, logs[1] = {0.0};
    for (int64_t i = threadIdx.x; recorded && i < p.count; i += kSumThreads) energy[0] += l.energies[first + i];
    for (int64_t e = threadIdx.x; random && e < elements; e += kSumThreads)
        for (int n = 0; n < 2; ++n) squares[n] += l.squares[(2 * (l.done & 1) + n) * all + first * a.field.dim + e];
    for (int64_t i = threadIdx.x; random && a.kind == IntegratorKind::baoab && i < p.count; i += kSumThreads) {
        const R root = sqrt(static_cast<const R*>(a.inverse_masses)[first + i]);
        logs[0] += static_cast<double>(a.field.dim) * log_positive(static_cast<double>(root));
    }
    block_sums(energy, partial, kSumThreads);
    block_sums(squares, partial, kSumThreads);
    block_sums(logs, partial, kSumThreads);
    if (threadIdx.x != 0) return;
    if (recorded) static_cast<R*>(a.energies)[frame_of(a, l.done) * a.systems + system] = static_cast<R>(energy[0]);
    if (a.log_probs == nullptr) return;
    double totals[2];
    for (int n = 0; n < 2; ++n) {
        const int64_t at = n * a.systems + system;
        totals[n] = l.done == 0 ? a.log_probs_in[at] : a.log_probs[at];
    }
    if (random)
        add_step(a, constants_of<R>(a, system, l.done - 1), static_cast<double>(elements), logs[0], squares, totals);
    for (int n = 0; n < 2; ++n) a.log_probs[n * a.systems + system] = totals[n];
}

template <class R, int D>
cudaError_t queue(Look& l, bool with_energy) {
    CudaNear& near = l.a.near;
    if (near.lists != nullptr) {
        near.cells.x = l.at;
        near.cells.look = 1 - near.cells.look;
        const int status = make_lists(near);
        if (status != cudaSuccess) return static_cast<cudaError_t>(status);
    }
    const int64_t blocks = (l.a.field.atoms + kAtoms - 1) / kAtoms;
    return with_energy ? launch(look<Want::forces_and_energy, R, D>, blocks, kThreads, 0, l.a.stream, l)
                       : launch(look<Want::forces, R, D>, blocks, kThreads, 0, l.a.stream, l);
}

template <class R, int D>
cudaError_t walk(const CudaTrajectory& a) {
    const int64_t all = a.field.atoms * D;
    R* states[3];
    for (int n = 0; n < 3; ++n) states[n] = static_cast<R*>(a.room) + n * all;
    Look l = {
        a,         Act::step,      0, false, a.x_in, a.x_in, nullptr, nullptr, states[0] + 3 * all, states[0] + 4 * all,
        a.squares, a.atom_energies};
    if (a.near.lists != nullptr) {
        const int status = start_lists(a.near, a.field);
        if (status != cudaSuccess) return static_cast<cudaError_t>(status);
    }
    int next = 0;  // which of two states is written; the third is a stage
    for (int64_t done = 0; done <= a.steps; ++done) {
        l.done = done;
        l.act = Act::step;
        l.begins = done < a.steps;
        const bool staged = a.kind == IntegratorKind::heun || a.kind == IntegratorKind::rk4;
        l.before = done == 1 ? a.x_in : states[next];
        l.to = staged ? states[2] : states[next];
        const bool records = a.record_every > 0 && done > 0 && (a.phase + done) % a.record_every == 0;
        cudaError_t status = queue<R, D>(l, records);
        if (status == cudaSuccess && (records || a.log_probs != nullptr))
            status = launch(sum_up<R>, a.systems, kSumThreads, 0, a.stream, l);
        const Act heun[] = {Act::heun_end}, rk4[] = {Act::rk4_second, Act::rk4_third, Act::rk4_end};
        const int stages = !staged || !l.begins ? 0 : a.kind == IntegratorKind::heun ? 1 : 3;
        for (int k = 0; k < stages && status == cudaSuccess; ++k) {
            l.act = stages == 1 ? heun[k] : rk4[k];
            l.at = l.to;  // a stage is read where the one before was written
            l.to = k + 1 == stages ? states[next] : k % 2 == 0 ? states[0] + 5 * all : states[2];
            status = queue<R, D>(l, false);
        }
        if (status != cudaSuccess) return status;
        l.at = l.x = states[next];
        next = 1 - next;
    }
    return cudaSuccess;
}

}  // namespace

const char* launch_wide_trajectory(const CudaTrajectory& a) {
    const OnDevice here(a.device);
    if (here.status() != cudaSuccess) return message(here.status());
    if (a.field.dim == 3) return message(a.fp64 ? walk<double, 3>(a) : walk<float, 3>(a));
    return message(a.fp64 ? walk<double, 2>(a) : walk<float, 2>(a));
}

}  // namespace gm
