// Neighbour lists: a warp an atom counts its pairs, in the cells around it or among all atoms; the counts are summed,
// and the warp writes its pairs in the list's one order, by rising atom j and then by rising image.
#include "dynamics/neighbor_list_cuda.h"

#include "common/scalar.h"
#include "dynamics/launch_cuda.h"
#include "dynamics/search_cuda.h"
#include "dynamics/sums_cuda.h"

namespace gm {
namespace {

constexpr int kThreads = 128, kAtoms = kThreads / 32;
constexpr int kBlocks = 6;  // of kThreads on a multiprocessor: 80 registers a thread

template <class R>
struct Pairs {
    Lattice<R> lattice;
    bool half;

    // As Lattice::each_image, without an atom itself, and of a half list what it keeps.
    template <class F>
    __device__ bool each(int64_t i, int64_t j, const F& f) const {
        return lattice.each_image(i, j, [&](const int32_t* image, const double* v, double square) {
            int sign = 0;
            for (int k = 2; k >= 0; --k) sign = image[k] == 0 ? sign : image[k];
            if (i != j ? !half || i < j : half ? sign > 0 : sign != 0) f(image, v, square);
        });
    }
    __device__ int32_t count(int64_t i, int64_t j) const {
        int32_t found = 0;
        each(i, j, [&](const int32_t*, const double*, double) { ++found; });
        return found;
    }
};
template <class R>
__device__ Pairs<R> pairs_of(const CudaNeighborList& a, const Rows& rows) {
    const CudaCells& c = a.cells;
    const int64_t at = (c.boxes == 1 ? 0 : rows.system) * c.dim * c.dim;
    const int dim = static_cast<int>(c.dim);
    return {
        {static_cast<const R*>(c.x) + rows.first * c.dim, c.cell + at, c.fractions + at, c.repeats, c.cutoff, dim, dim},
        a.half};
}

// rows[atom + 1] = its pairs.
template <class R>
__global__ void __launch_bounds__(kThreads, kBlocks) count(const CudaNeighborList a) {
    const CudaCells& c = a.cells;
    const int64_t atom = static_cast<int64_t>(blockIdx.x) * kAtoms + threadIdx.x / 32;
    if (atom >= c.atoms) return;  // the whole warp
    const int lane = threadIdx.x % 32;
    const Rows rows = rows_at(c.system_ptr, c.systems, c.atoms, atom);
    const Pairs<R> pairs = pairs_of<R>(a, rows);
    int64_t found = 0;
    bool bad = !holds(rows, atom);
    if (!bad)
        each_candidate(c, rows, atom - rows.first, lane, [&](int64_t j, bool there) {
            const auto one = [&](const int32_t*, const double*, double) { ++found; };
            if (there && !pairs.each(atom - rows.first, j, one)) bad = true;
        });
    found = prefix(found, lane).all;
    if (bad) a.sums[sum_tiles(c.atoms)] = 1;
    if (lane != 0) return;
    a.rows[atom + 1] = found;
    atomicAdd(reinterpret_cast<unsigned long long*>(a.sums + atom / kSumTile), static_cast<unsigned long long>(found));
}

// What follows the last pair, or everything where the pairs do not fit.
template <class R>
__global__ void __launch_bounds__(kThreads) pad(const CudaNeighborList a) {
    const int64_t total = a.rows[a.cells.atoms], kept = total >= 0 && total <= a.size ? total : 0;
    const int64_t all = static_cast<int64_t>(gridDim.x) * kThreads;
    for (int64_t p = kept + static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; p < a.size; p += all) {
        a.i[p] = a.j[p] = -1;
        static_cast<R*>(a.distance)[p] = static_cast<R>(__builtin_inf());
        for (int64_t d = 0; d < a.cells.dim; ++d) {
            static_cast<R*>(a.vector)[p * a.cells.dim + d] = R(0);
            a.shift[p * a.cells.dim + d] = 0;
        }
    }
}

template <class R>
__global__ void __launch_bounds__(kThreads, kBlocks) fill(const CudaNeighborList a) {
    const CudaCells& c = a.cells;
    const int64_t atom = static_cast<int64_t>(blockIdx.x) * kAtoms + threadIdx.x / 32;
    const int64_t total = a.rows[c.atoms];
    if (atom >= c.atoms || total < 0 || total > a.size) return;  // the whole warp
    const int lane = threadIdx.x % 32;
    const Rows rows = rows_at(c.system_ptr, c.systems, c.atoms, atom);
    const Pairs<R> pairs = pairs_of<R>(a, rows);
    const int64_t i = atom - rows.first, begin = a.rows[atom];
    int64_t end = a.rows[atom + 1], left = 0;
    each_candidate(c, rows, i, lane, [&](int64_t j, bool there) {
        left = append(j, there && pairs.count(i, j) > 0, a.j + begin, left, end - begin, lane);
    });
    const bool once = left == end - begin;  // each with one image
    sort_rising(a.j + begin, static_cast<int>(left), lane);
    // From the last on: where an atom has several images, the pairs after it move up.
    while (left > 0) {
        const int64_t first = left > 32 ? left - 32 : 0;
        const bool there = first + lane < left;
        const int64_t j = there ? a.j[begin + first + lane] : 0;
        const Prefix<int32_t> images = prefix(!there ? 0 : once ? 1 : pairs.count(i, j), lane);
        int64_t at = end - images.all + images.before;
        end -= images.all;
        left = first;
        if (!there) continue;  // the next turn's shuffles wait for all lanes
        pairs.each(i, j, [&](const int32_t* image, const double* v, double square) {
            a.i[at] = atom;
            a.j[at] = rows.first + j;
            static_cast<R*>(a.distance)[at] = static_cast<R>(sqrt(square));
            for (int64_t d = 0; d < c.dim; ++d) {
                static_cast<R*>(a.vector)[at * c.dim + d] = static_cast<R>(v[d]);
                a.shift[at * c.dim + d] = image[d];
            }
            ++at;
        });
    }
}

// launch(), of a kernel by the positions' type.
cudaError_t launch_for(const CudaNeighborList& a, void (*fp32)(CudaNeighborList), void (*fp64)(CudaNeighborList),
                       int64_t blocks) {
    return blocks == 0 ? cudaSuccess : launch(a.cells.fp64 ? fp64 : fp32, blocks, kThreads, 0, a.cells.stream, a);
}

}  // namespace

const char* launch_count(const CudaNeighborList& a) {
    const OnDevice here(a.device);
    const CudaCells& c = a.cells;
    const int64_t tiles = sum_tiles(c.atoms);
    cudaError_t status = here.status();
    if (status == cudaSuccess)
        status = cudaMemsetAsync(a.sums, 0, (tiles + 1) * sizeof(int64_t), static_cast<cudaStream_t>(c.stream));
    if (status == cudaSuccess && c.grids != nullptr) status = static_cast<cudaError_t>(sort_into_cells(c));
    if (status == cudaSuccess) status = launch_for(a, count<float>, count<double>, (c.atoms + kAtoms - 1) / kAtoms);
    if (status == cudaSuccess)
        status = launch(running_sums<int64_t>, tiles, kSumThreads, 0, c.stream, a.rows, a.sums, c.atoms, a.sums + tiles,
                        nullptr);
    return message(status);
}

const char* launch_fill(const CudaNeighborList& a) {
    const OnDevice here(a.device);
    cudaError_t status = here.status();
    const int64_t wanted = (a.size + kThreads - 1) / kThreads, padding = wanted < 1024 ? wanted : 1024;
    if (status == cudaSuccess) status = launch_for(a, pad<float>, pad<double>, padding);
    const int64_t blocks = a.size > 0 ? (a.cells.atoms + kAtoms - 1) / kAtoms : 0;
    if (status == cudaSuccess) status = launch_for(a, fill<float>, fill<double>, blocks);
    return message(status);
}

const char* read_total(const CudaNeighborList& a, int64_t* total) {
    const OnDevice here(a.device);
    cudaError_t status = here.status();
    const auto stream = static_cast<cudaStream_t>(a.cells.stream);
    if (status == cudaSuccess)
        status = cudaMemcpyAsync(total, a.rows + a.cells.atoms, sizeof(int64_t), cudaMemcpyDeviceToHost, stream);
    if (status == cudaSuccess) status = cudaStreamSynchronize(stream);
    return message(status);
}

}  // namespace gm
