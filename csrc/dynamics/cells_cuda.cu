// Sorts the atoms of large systems into cells: their span, their cells, a running sum of how many each has, and their
// places. Within a cell they come in any order: who asks for neighbours puts them in order.
#include "dynamics/cells_cuda.h"

#include "dynamics/launch_cuda.h"
#include "dynamics/search_cuda.h"
#include "dynamics/sums_cuda.h"

namespace gm {
namespace {

constexpr int64_t kMostBlocks = 1024;  // of the kernels over atoms
constexpr int kThreads = 256;

__device__ inline Frame frame_of(const CudaCells& c, int64_t system) {
    Frame frame = {};
    const int64_t dim = c.dim, at = (c.boxes == 1 ? 0 : system) * dim * dim;
    if (c.reach != nullptr) return frame_of_box(c.boxes == 0 ? nullptr : c.cell + at, c.inverse + at, dim);
    for (int64_t k = 0; k < dim; ++k) {
        frame.repeats[k] = c.repeats[k];
        for (int64_t d = 0; d < dim; ++d) {
            if (frame.repeats[k]) frame.cell[k][d] = c.cell[at + k * dim + d];
            frame.fractions[k][d] = c.fractions[at + k * dim + d];
        }
    }
    return frame;
}
template <class R>
__device__ void fractions_of(const CudaCells& c, const Frame& frame, int64_t atom, double (&to)[3]) {
    double x[3] = {0.0, 0.0, 0.0};
    for (int64_t d = 0; d < c.dim; ++d) x[d] = static_cast<double>(static_cast<const R*>(c.x)[atom * c.dim + d]);
    for (int k = 0; k < 3; ++k) {
        const double* f = frame.fractions[k];
        to[k] = (x[0] * f[0] + x[1] * f[1]) + x[2] * f[2];
    }
}

// The smallest and the largest of a block's numbers.
struct Span {
    double low, high;

    __device__ void take(const Span& other) {
        low = other.low < low ? other.low : low;
        high = other.high > high ? other.high : high;
    }
    __device__ void join(Span* warps) {
        for (int half = 16; half > 0; half /= 2)
            take({__shfl_xor_sync(kAllLanes, low, half), __shfl_xor_sync(kAllLanes, high, half)});
        __syncthreads();
        if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = *this;
        __syncthreads();
        for (int w = 0; w < kThreads / 32; ++w) take(warps[w]);
    }
};

// A block a system; and those after them help to clear the counts.
template <class R>
__global__ void __launch_bounds__(kThreads, 2) survey(const CudaCells c) {
    __shared__ Frame frame;
    __shared__ Span warps[kThreads / 32];
    if (c.stale != nullptr && blockIdx.x == 0 && threadIdx.x == 0) c.stale[1 - c.look % 2] = 0;  // the next look's
    if (!is_wanted(c)) return;
    const int64_t all = static_cast<int64_t>(gridDim.x) * kThreads;
    for (int64_t n = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; n <= c.atoms; n += all) {
        c.start[n] = 0;
        if (n < sum_tiles(c.atoms)) c.sums[n] = 0;
    }
    if (blockIdx.x >= c.systems) return;
    const Rows rows = rows_of(c.system_ptr, c.atoms, blockIdx.x);
    if (rows.count < c.fewest || rows.count > c.most) {
        if (threadIdx.x == 0) c.grids[blockIdx.x].celled = c.grids[blockIdx.x].listed = false;
        return;
    }
    if (threadIdx.x == 0) frame = frame_of(c, blockIdx.x);
    __syncthreads();
    const double inf = __builtin_inf();
    Span spans[3] = {{inf, -inf}, {inf, -inf}, {inf, -inf}}, size = {inf, -inf};
    bool good = true;
    for (int64_t i = threadIdx.x; i < rows.count; i += kThreads) {
        double at[3];
        fractions_of<R>(c, frame, rows.first + i, at);
        if (c.types != nullptr) {
            const int64_t type = c.types[rows.first + i];
            good = good && type >= 0 && type < c.type_count;
        }
        for (int64_t d = 0; d < c.dim; ++d) {
            const auto x = static_cast<double>(static_cast<const R*>(c.x)[(rows.first + i) * c.dim + d]);
            size.take({x, x});
        }
        for (int k = 0; k < 3; ++k) {
            good = good && at[k] > -0x1p28 && at[k] < 0x1p28;
            spans[k].take({at[k], at[k]});
        }
    }
    Span bad = {0.0, good ? 0.0 : 1.0};
    bad.join(warps);
    size.join(warps);
    for (int k = 0; k < 3; ++k) spans[k].join(warps);
    if (threadIdx.x != 0) return;
    CudaGrid g;
    g.frame = frame;
    for (int k = 0; k < 3; ++k) {
        g.low[k] = frame.repeats[k] ? 0.0 : spans[k].low;
        g.grid.length[k] = frame.repeats[k] ? 1.0 : spans[k].high - spans[k].low;
        g.grid.largest[k] = spans[k].high > -spans[k].low ? spans[k].high : -spans[k].low;
    }
    g.celled = bad.high == 0.0;
    g.radius = c.cutoff;
    g.listed = false;
    if (c.reach != nullptr) {
        const double cutoff = *c.reach, far = size.high > -size.low ? size.high : -size.low;
        const Skin skin = skin_of(frame, cutoff, c.skin, far > cutoff ? far : cutoff, c.fp64 ? 0x1p-52 : 0x1p-23);
        g.listed = g.celled = g.celled && cutoff > 0.0 && cutoff < 0x1p60 && skin.serves;
        g.radius = skin.radius;
        g.most = skin.half * skin.half;
    }
    if (g.celled) {
        g.grid.cut(frame, g.radius, 2.0, rows.count);
        int64_t around = 1;
        for (int k = 0; k < 3; ++k) {
            const int64_t own = 2 * g.grid.reach[k] + 1;
            around *= own < g.grid.parts[k] ? own : g.grid.parts[k];
        }
        g.celled = 2 * around <= g.grid.cells();  // else all pairs are as soon asked
    }
    c.grids[blockIdx.x] = g;
}

// f(atom, its rows, the grid) for the atoms that are to be in cells.
template <class F>
__device__ void each_celled(const CudaCells& c, const F& f) {
    if (!is_wanted(c)) return;
    const int64_t all = static_cast<int64_t>(gridDim.x) * kThreads;
    for (int64_t atom = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; atom < c.atoms; atom += all) {
        const Rows rows = rows_at(c.system_ptr, c.systems, c.atoms, atom);
        if (holds(rows, atom) && c.grids[rows.system].celled) f(atom, rows, c.grids[rows.system]);
    }
}

template <class R>
__global__ void __launch_bounds__(kThreads) assign(const CudaCells c) {
    each_celled(c, [&](int64_t atom, const Rows& rows, const CudaGrid& g) {
        double at[3];
        fractions_of<R>(c, g.frame, atom, at);
        int64_t own = 0;
        for (int k = 0; k < 3; ++k) {
            const double in = g.frame.repeats[k] ? at[k] - ::floor(at[k]) : at[k] - g.low[k];
            own = own * g.grid.parts[k] + g.grid.part(k, in);
        }
        const int64_t cell = rows.first + own;
        c.cell_of[atom] = static_cast<int32_t>(own);
        c.number[atom] = atomicAdd(c.start + cell + 1, 1);
        atomicAdd(c.sums + cell / kSumTile, 1);
    });
}

__global__ void __launch_bounds__(kThreads) place(const CudaCells c) {
    each_celled(c, [&](int64_t atom, const Rows& rows, const CudaGrid&) {
        c.order[c.start[rows.first + c.cell_of[atom]] + c.number[atom]] = static_cast<int32_t>(atom);
    });
}

template <class R>
cudaError_t sort(const CudaCells& c) {
    const int64_t wanted = (c.atoms + kThreads - 1) / kThreads, blocks = wanted < kMostBlocks ? wanted : kMostBlocks;
    const int64_t helpers = blocks < 64 ? blocks : 64;
    cudaError_t status = launch(survey<R>, c.systems + helpers, kThreads, 0, c.stream, c);
    if (status == cudaSuccess) status = launch(assign<R>, blocks, kThreads, 0, c.stream, c);
    const int32_t* flag = c.stale == nullptr ? nullptr : c.stale + c.look % 2;
    if (status == cudaSuccess)
        status = launch(running_sums<int32_t>, sum_tiles(c.atoms), kSumThreads, 0, c.stream, c.start, c.sums, c.atoms,
                        nullptr, flag);
    if (status == cudaSuccess) status = launch(place, blocks, kThreads, 0, c.stream, c);
    return status;
}

}  // namespace

int sort_into_cells(const CudaCells& c) { return c.fp64 ? sort<double>(c) : sort<float>(c); }

}  // namespace gm
