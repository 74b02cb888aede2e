// Makes lists of neighbours: a warp an atom looks through the cells around it, and puts in order whom it finds.
#include "dynamics/near_cuda.h"

#include "common/scalar.h"
#include "dynamics/launch_cuda.h"
#include "dynamics/search_cuda.h"

namespace gm {
namespace {

constexpr int kThreads = 128, kAtoms = kThreads / 32, kBlocks = 6;
constexpr int64_t kMostBlocks = 4096;

// Whether what prepare_field made of a pair of types is a term.
template <class R>
__device__ bool is_term(const CudaField& f, int t, int64_t n) {
    const int64_t side = f.side(t), types = side == 1 ? 1 : f.type_count;
    const R cutoff = reinterpret_cast<const PairTerm<R>*>(f.ready + f.at[t])[n / types * side + n % types](kCutoff);
    return cutoff == cutoff;
}

// A NaN stays: then no list serves.
__device__ inline double larger(double most, double own) { return own > most || own != own ? own : most; }

// One block: inf where a term has no cutoff, NaN where one is no term (field_cuda.h), which spoils every pair.
template <class R>
__global__ void __launch_bounds__(kThreads) find_reach(const CudaField f, double* reach) {
    __shared__ double warps[kAtoms];
    double most = 0.0;
    const double* q = f.parameters;
    for (int t = 0; t < f.terms; q += f.sizes[t++])
        for (int64_t n = threadIdx.x; is_pair(f.kinds[t]) && n < f.sizes[t] / kPairParameters; n += kThreads) {
            const double own = q[n * kPairParameters + kCutoff];
            most = larger(most, is_term<R>(f, t, n) ? own : __builtin_nan(""));
        }
    for (int half = 16; half > 0; half /= 2) most = larger(most, __shfl_xor_sync(kAllLanes, most, half));
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = most;
    __syncthreads();
    if (threadIdx.x != 0) return;
    for (int w = 0; w < kAtoms; ++w) most = larger(most, warps[w]);
    *reach = most;
}

template <class R>
__global__ void __launch_bounds__(kThreads, kBlocks) list(const CudaNear n) {
    const CudaCells& c = n.cells;
    if (!is_wanted(c)) return;
    const int lane = threadIdx.x % 32, dim = static_cast<int>(c.dim);
    const int64_t warps = static_cast<int64_t>(gridDim.x) * kAtoms;
    for (int64_t atom = static_cast<int64_t>(blockIdx.x) * kAtoms + threadIdx.x / 32; atom < c.atoms; atom += warps) {
        const Rows rows = rows_at(c.system_ptr, c.systems, c.atoms, atom);
        const CudaGrid& g = c.grids[rows.system];
        if (!holds(rows, atom) || !g.listed) {
            if (lane == 0) n.lengths[atom] = -1;
            continue;
        }
        const R* x = static_cast<const R*>(c.x);
        const Lattice<R> lattice = {
            x + rows.first * dim, &g.frame.cell[0][0], &g.frame.fractions[0][0], g.frame.repeats, g.radius, dim, 3};
        const int64_t i = atom - rows.first;
        int32_t* to = n.lists + atom * n.room;
        int64_t found = 0;
        each_candidate(c, rows, i, lane, [&](int64_t j, bool there) {
            bool near = false;
            if (there && j != i) lattice.each_image(i, j, [&](const int32_t*, const double*, double) { near = true; });
            found = append(static_cast<int32_t>(j), near, to, found, n.room, lane);
        });
        const bool fits = found <= n.room;
        if (lane == 0) n.lengths[atom] = fits ? static_cast<int32_t>(found) : -1;
        if (lane < dim) static_cast<R*>(n.listed)[atom * dim + lane] = x[atom * dim + lane];
        if (fits && g.celled) sort_rising(to, static_cast<int>(found), lane);
    }
}

}  // namespace

int start_lists(const CudaNear& n, const CudaField& f) {
    const auto stream = static_cast<cudaStream_t>(n.cells.stream);
    const cudaError_t status = cudaMemsetAsync(n.cells.stale, 0xFF, 2 * sizeof(int32_t), stream);  // both are set
    return status != cudaSuccess ? status
                                 : launch(n.cells.fp64 ? find_reach<double> : find_reach<float>, 1, kThreads, 0,
                                          n.cells.stream, f, n.reach);
}

int make_lists(const CudaNear& n) {
    const int status = sort_into_cells(n.cells);
    const int64_t wanted = (n.cells.atoms + kAtoms - 1) / kAtoms, blocks = wanted < kMostBlocks ? wanted : kMostBlocks;
    if (status != cudaSuccess) return status;
    return launch(n.cells.fp64 ? list<double> : list<float>, blocks, kThreads, 0, n.cells.stream, n);
}

}  // namespace gm
