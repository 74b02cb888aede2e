// One look at all systems: energies and forces, or the adjoint of both. Eight threads an atom, whatever its system; so
// systems of any size are served, and an atom's sum has one order, over all pairs or over lists of neighbours.
#include "dynamics/energy_cuda.h"

#include "dynamics/keyed_sums_cuda.h"
#include "dynamics/launch_cuda.h"
#include "dynamics/rows_cuda.h"
#include "dynamics/system_cuda.h"

namespace gm {
namespace {

constexpr int kGroup = 8, kThreads = 128, kAtoms = kThreads / kGroup;

template <class R, int D>
__device__ void read_box(const CudaEnergy& a, int64_t system, PeriodicBox<R, D>& box) {
    const int64_t at = (a.field.boxes == 1 ? 0 : system) * D * D;
    box.read(a.field.cell + at, a.field.inverse + at);
}
template <class R, int D>
__device__ CudaSystem<R, D> system_at(const CudaEnergy& a, const Rows& rows, const CudaTerms<R>& terms,
                                      const PeriodicBox<R, D>& box) {
    const int32_t* types = reinterpret_cast<const int32_t*>(a.field.ready + a.field.types_at) + rows.first;
    const R *x = static_cast<const R*>(a.x) + rows.first * D, *u = static_cast<const R*>(a.u);
    return {terms,
            a.field.type_count > 1 ? types : nullptr,
            a.field.boxes > 0 ? &box : nullptr,
            x,
            u == nullptr ? nullptr : u + rows.first * D,
            static_cast<int>(rows.count),
            u == nullptr ? 0.0 : static_cast<double>(static_cast<const R*>(a.by_energy)[rows.system])};
}

template <Want want, class R, int D>
__global__ void __launch_bounds__(kThreads) per_atom(const CudaEnergy a) {
    __shared__ CudaTerms<R> terms;
    __shared__ PeriodicBox<R, D> boxes[kAtoms];
    __shared__ PairShare<R, D> shares[kThreads];
    const int slot = threadIdx.x / kGroup, g = threadIdx.x % kGroup;
    const int64_t atom = static_cast<int64_t>(blockIdx.x) * kAtoms + slot;
    const Rows rows = rows_at(a.system_ptr, a.systems, a.field.atoms, atom);
    if (threadIdx.x == 0) terms.read(a.field);
    if (g == 0 && a.field.boxes > 0) read_box(a, rows.system, boxes[slot]);
    __syncthreads();
    const bool there = holds(rows, atom), listed = there && a.near.lists != nullptr;
    const CudaSystem<R, D> s = system_at(a, rows, terms, boxes[slot]);
    const int i = there ? static_cast<int>(atom - rows.first) : s.count;
    const ListedPairs<R, D> pairs = {listed ? a.near.lists + atom * a.near.room : nullptr,
                                     listed ? a.near.lengths[atom] : -1, shares + kGroup * slot};
    const AtomSums<R, D> sums = atom_sums<want, true>(s, i, g, kGroup, pairs);
    double energy = sums.energy();
    for (int half = kGroup / 2; half > 0; half /= 2) energy += __shfl_xor_sync(kAllLanes, energy, half);
    if (g != 0 || atom >= a.field.atoms) return;
    R* to = static_cast<R*>(a.forces) + atom * D;
    for (int d = 0; d < D; ++d) to[d] = there ? sums.force[d] : static_cast<R>(__builtin_nan(""));
    if (want == Want::forces_and_energy) a.atom_energies[atom] = energy;
}

// A warp a system.
template <class R>
__global__ void __launch_bounds__(kThreads) sum_energies(const CudaEnergy a) {
    const int64_t system = static_cast<int64_t>(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
    const Rows rows = system < a.systems ? rows_of(a.system_ptr, a.field.atoms, system) : Rows{0, 0, 0};
    double sum = 0.0;
    for (int64_t i = threadIdx.x % 32; i < rows.count; i += 32) sum += a.atom_energies[rows.first + i];
    for (int half = 16; half > 0; half /= 2) sum += __shfl_xor_sync(kAllLanes, sum, half);
    if (threadIdx.x % 32 == 0 && system < a.systems)
        static_cast<R*>(a.energy)[system] = rows.count < 0 ? static_cast<R>(__builtin_nan("")) : static_cast<R>(sum);
}

// The slopes of one system's parameters, term by term.
template <class R, int D>
struct Slopes {
    const CudaSystem<R, D>& s;
    KeyedSums& sums;

    // Ordered pairs e = count i + j: half of a pair's slopes at each of its two.
    // node_count coefficients' slopes follow the term's own, where it is learnt.
    __device__ void pair_term(int n, int32_t kind, const double* q, int64_t size, int64_t node_count, double* to) {
        const int types = s.terms.table[n] == nullptr ? 1 : s.terms.side - 1;
        const bool learned = kind == kLearned;
        const int64_t keys = size / kPairParameters, all = static_cast<int64_t>(s.count) * s.count;
        const R by_energy = static_cast<R>(s.by_energy);
        const auto entry = [&](int64_t e, double* values) -> int64_t {
            const int i = static_cast<int>(e / s.count), j = static_cast<int>(e % s.count);
            if (i == j) return -1;
            const PairTerm<R>* term = &s.terms.pair[n];
            if (types > 1) term = s.terms.table[n] + s.types[i] * s.terms.side + s.types[j];
            const Vector<R, D> r = s.between(i, j);
            const R r2 = squared(r), inverse_r2 = R(1) / r2;
            if (r2 >= (*term)(kCutoff)) return -1;
            const R along = dot(r, s.apart(s.u, i, j));
            if (learned) {
                const R inverse_r = sqrt(inverse_r2);
                const auto place = spline_place(*term, r2 * inverse_r);
                spline_slopes(static_cast<double>(place.t), s.by_energy,
                              static_cast<double>(-(along * inverse_r) * (*term)(3)),
                              [&](int k, double slope) { values[k] = slope; });
                return place.at / (kDegree + 1);
            }
            const ParameterSlopes<R> own =
                pair_parameter_slopes(term->kind, term->exponent, *term, r2, inverse_r2, by_energy, along);
            for (int k = 0; k < 4; ++k) values[k] = 0.5 * static_cast<double>(own.of[k]);
            values[kCutoff] = 0.0;
            values[kTaken] = -0.5 * s.by_energy;
            if (types == 1) return 0;
            const int x = s.types[i], y = s.types[j];
            return x < types && y < types ? x * types + y : 0;  // what is of no type is NaN
        };
        if (learned) {
            sums.run(all, node_count / (kDegree + 1), kDegree + 1, to + size, entry, [](int64_t, int) { return 1.0; });
            return;
        }
        sums.run(all, keys, kPairParameters, to, entry, [&](int64_t key, int k) {
            return kind == kLennardJones && k == 1 ? 2.0 / q[key * kPairParameters + 1] : 1.0;
        });
    }

    __device__ void trap(int n, double* to) {
        const auto entry = [&](int64_t i, double* values) -> int64_t {
            const double* own = trap_of(s, n, static_cast<int>(i));
            values[0] = 0.0;
            for (int d = 0; d < D; ++d) {
                const double k = own != nullptr ? own[0] : __builtin_nan(""), center = own != nullptr ? own[1 + d] : k;
                const double away = static_cast<double>(s.x[i * D + d]) - center;
                const double by = s.by_energy * away - static_cast<double>(s.u[i * D + d]);
                values[0] += (by - 0.5 * s.by_energy * away) * away;
                values[1 + d] = -k * by;
            }
            return own != nullptr && s.terms.trap_by_type[n] ? s.types[i] : 0;
        };
        const int64_t keys = s.terms.trap_by_type[n] ? s.terms.side - 1 : 1;
        sums.run(s.count, keys, 1 + D, to, entry, [](int64_t, int) { return 1.0; });
    }

    __device__ void bonds(int chain, double* to) {
        for (int64_t b = threadIdx.x; b < s.terms.bonds[chain]; b += blockDim.x) {
            const BondEnds e = s.terms.ends[chain][b];
            double* slopes = to + b * kBondParameters;
            if (e.i < 0 || e.j < 0 || e.i >= s.count || e.j >= s.count) {
                slopes[2] = slopes[3] = __builtin_nan("");
                continue;
            }
            const double k = s.terms.bond[chain][b * kBondParameters + 2];
            const double length = s.terms.bond[chain][b * kBondParameters + 3];
            const BondShape<D> shape(s.between(e.i, e.j), length);
            const Vector<R, D> du = s.apart(s.u, e.i, e.j);
            const double r = sqrt(shape.r2);
            double along = 0.0;
            for (int d = 0; d < D; ++d) along += static_cast<double>(du.c[d]) * shape.d[d];
            slopes[2] = 0.5 * s.by_energy * ((r - length) * (r - length)) - along * (1.0 - shape.ratio);
            slopes[3] = -s.by_energy * k * (r - length) + (along == 0.0 ? 0.0 : along * k / r);
        }
    }
};

// A block a system.
template <class R, int D>
__global__ void __launch_bounds__(kKeyedThreads) per_system(const CudaEnergy a) {
    __shared__ CudaTerms<R> terms;
    __shared__ PeriodicBox<R, D> box;
    __shared__ KeyedTile tile;
    const int64_t system = blockIdx.x;
    const Rows rows = rows_of(a.system_ptr, a.field.atoms, system);
    double* to = a.slopes + system * a.field.parameter_count;
    if (rows.count < 0) {
        for (int64_t k = threadIdx.x; k < a.field.parameter_count; k += blockDim.x) to[k] = __builtin_nan("");
        return;
    }
    if (threadIdx.x == 0) {
        terms.read(a.field);
        if (a.field.boxes > 0) read_box(a, system, box);
    }
    __syncthreads();
    const CudaSystem<R, D> s = system_at(a, rows, terms, box);
    KeyedSums sums = {tile};
    Slopes<R, D> slopes = {s, sums};
    int pairs = 0, traps = 0, chains = 0;
    const double* q = a.field.parameters;
    for (int t = 0; t < a.field.terms; ++t) {
        const int32_t kind = a.field.kinds[t];
        const int64_t size = a.field.sizes[t];
        const int64_t nodes = kind == kLearned ? a.field.sizes[t + 1] : 0;
        if (is_pair(kind)) slopes.pair_term(pairs++, kind, q, size, nodes, to);
        if (kind == kHarmonic) slopes.trap(traps++, to);
        if (kind == kBonds) slopes.bonds(chains++, to);
        q += size;
        to += size;
    }
}

// A block a parameter: thread t takes the systems t, t + kThreads, ...
__global__ void __launch_bounds__(kThreads) sum_systems(const CudaEnergy a) {
    __shared__ double partial[kThreads / 32];
    const int64_t parameter = blockIdx.x;
    double sum = 0.0;
    for (int64_t s = threadIdx.x; s < a.systems; s += kThreads)
        sum += a.slopes[s * a.field.parameter_count + parameter];
    for (int half = 16; half > 0; half /= 2) sum += __shfl_xor_sync(kAllLanes, sum, half);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x != 0) return;
    sum = 0.0;
    for (int w = 0; w < kThreads / 32; ++w) sum += partial[w];
    a.parameters[parameter] = sum;
}

template <Want want, class R, int D>
cudaError_t all_atoms(const CudaEnergy& a) {
    if (a.field.atoms == 0) return cudaSuccess;
    if (a.near.lists != nullptr) {
        int status = start_lists(a.near, a.field);
        if (status == cudaSuccess) status = make_lists(a.near);
        if (status != cudaSuccess) return static_cast<cudaError_t>(status);
    }
    return launch(per_atom<want, R, D>, (a.field.atoms + kAtoms - 1) / kAtoms, kThreads, 0, a.stream, a);
}
template <class R, int D>
cudaError_t energy(const CudaEnergy& a) {
    const cudaError_t status = all_atoms<Want::forces_and_energy, R, D>(a);
    if (status != cudaSuccess || a.systems == 0) return status;
    constexpr int kSystems = kThreads / 32;
    return launch(sum_energies<R>, (a.systems + kSystems - 1) / kSystems, kThreads, 0, a.stream, a);
}
template <class R, int D>
cudaError_t backward(const CudaEnergy& a) {
    cudaError_t status = all_atoms<Want::adjoint, R, D>(a);
    if (status != cudaSuccess || a.parameters == nullptr || a.field.parameter_count == 0) return status;
    if (a.systems > 0) status = launch(per_system<R, D>, a.systems, kKeyedThreads, 0, a.stream, a);
    if (status != cudaSuccess) return status;
    return launch(sum_systems, a.field.parameter_count, kThreads, 0, a.stream, a);
}

}  // namespace

const char* launch_energy(const CudaEnergy& a) {
    const char* wrong = prepare_field(a.field, a.fp64, a.device, a.stream);
    if (wrong != nullptr) return wrong;
    const OnDevice here(a.device);
    if (here.status() != cudaSuccess) return message(here.status());
    if (a.field.dim == 3) return message(a.fp64 ? energy<double, 3>(a) : energy<float, 3>(a));
    return message(a.fp64 ? energy<double, 2>(a) : energy<float, 2>(a));
}

const char* launch_energy_backward(const CudaEnergy& a) {
    const char* wrong = prepare_field(a.field, a.fp64, a.device, a.stream);
    if (wrong != nullptr) return wrong;
    const OnDevice here(a.device);
    if (here.status() != cudaSuccess) return message(here.status());
    if (a.field.dim == 3) return message(a.fp64 ? backward<double, 3>(a) : backward<float, 3>(a));
    return message(a.fp64 ? backward<double, 2>(a) : backward<float, 2>(a));
}

}  // namespace gm
