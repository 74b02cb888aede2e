// Neighbour lists of all pairs: a warp an atom counts, the counts are summed, and the warp writes its pairs in the
// list's one order: thread by thread the atoms j rise, and for each its images.
#include "dynamics/neighbor_list_cuda.h"

#include "common/scalar.h"
#include "dynamics/launch_cuda.h"

namespace gm {
namespace {

constexpr int kThreads = 128, kAtoms = kThreads / 32, kScanThreads = 256;
constexpr int kBlocks = 8;  // of kThreads on a multiprocessor: 64 registers a thread, where ptxas would spill for fewer
constexpr unsigned kAllLanes = 0xFFFFFFFFu;
constexpr double kMostImages = 0x1p20, kFurthest = 0x1p30;  // boxes

struct Rows {
    int64_t first, count, system;
};
// The system of an atom; count 0 where the offsets are not those of a batch.
__device__ inline Rows rows_of(const CudaNeighborList& a, int64_t atom) {
    int64_t low = 0, high = a.systems;
    while (high - low > 1) {
        const int64_t middle = (low + high) / 2;
        if (a.system_ptr[middle] <= atom)
            low = middle;
        else
            high = middle;
    }
    const int64_t first = a.system_ptr[low], end = a.system_ptr[low + 1];
    const bool there = first >= 0 && first <= atom && atom < end && end <= a.atoms;
    return {first, there ? end - first : 0, low};
}

// One system's box, and the atoms in it; the order of operations is that of cells.h.
template <class R>
struct Lattice {
    const CudaNeighborList& a;
    const R* x;
    const double *cell, *fractions;
    int dim;

    // f(image, v, square) for each image of j within the cutoff of i, by rising image; false where one cannot be told.
    template <class F>
    __device__ bool each_image(int64_t i, int64_t j, const F& f) const {
        double apart[3] = {0.0, 0.0, 0.0};
        int32_t low[3] = {0, 0, 0}, high[3] = {0, 0, 0};
        for (int d = 0; d < dim; ++d)
            apart[d] = static_cast<double>(x[j * dim + d]) - static_cast<double>(x[i * dim + d]);
        for (int k = 0; k < dim; ++k) {
            double along = 0.0, length = 0.0;
            for (int d = 0; d < dim; ++d) {
                along += apart[d] * fractions[k * dim + d];
                length += fractions[k * dim + d] * fractions[k * dim + d];
            }
            const double reach = a.cutoff * sqrt(length);
            // Images that may be within the cutoff; each is asked once more below. The slack is above what rounds.
            const double slack = 1e-6 + 1e-12 * (along < 0.0 ? -along : along);
            if (!a.repeats[k]) {
                if (!(along < kFurthest * kFurthest && along > -kFurthest * kFurthest)) return false;
                continue;
            }
            if (!(reach < kMostImages && along < kFurthest && along > -kFurthest)) return false;
            low[k] = static_cast<int32_t>(ceil(-reach - along - slack));
            high[k] = static_cast<int32_t>(floor(reach - along + slack));
        }
        int32_t n[3];
        for (n[0] = low[0]; n[0] <= high[0]; ++n[0])
            for (n[1] = low[1]; n[1] <= high[1]; ++n[1])
                for (n[2] = low[2]; n[2] <= high[2]; ++n[2]) {
                    double v[3], square = 0.0;
                    for (int d = 0; d < dim; ++d) {
                        double shift = static_cast<double>(n[0]) * cell[d];
                        for (int k = 1; k < dim; ++k) shift += static_cast<double>(n[k]) * cell[k * dim + d];
                        v[d] = apart[d] + shift;
                        square = d == 0 ? v[d] * v[d] : square + v[d] * v[d];
                    }
                    if (!(square < a.cutoff * a.cutoff)) continue;
                    if (i == j && n[0] == 0 && n[1] == 0 && n[2] == 0) continue;
                    if (!a.half || in_half(i, j, n)) f(n, v, square);
                }
        return true;
    }
    // Whether (i, j, image) is the one of a pair's two that a half list keeps.
    __device__ static bool in_half(int64_t i, int64_t j, const int32_t* image) {
        if (i != j) return i < j;
        for (int k = 0; k < 3; ++k)
            if (image[k] != 0) return image[k] > 0;
        return false;
    }
};
template <class R>
__device__ Lattice<R> lattice_of(const CudaNeighborList& a, const Rows& rows) {
    const int64_t at = (a.boxes == 1 ? 0 : rows.system) * a.dim * a.dim;
    return {a, static_cast<const R*>(a.x) + rows.first * a.dim, a.cell + at, a.fractions + at, static_cast<int>(a.dim)};
}

// rows[atom + 1] = its pairs, or -1 where they cannot be counted.
template <class R>
__global__ void __launch_bounds__(kThreads, kBlocks) count(const CudaNeighborList a) {
    const int64_t atom = static_cast<int64_t>(blockIdx.x) * kAtoms + threadIdx.x / 32;
    if (atom >= a.atoms) return;  // the whole warp
    const Rows rows = rows_of(a, atom);
    const Lattice<R> lattice = lattice_of<R>(a, rows);
    int64_t found = rows.count == 0 ? -1 : 0, bad = 0;
    for (int64_t j = threadIdx.x % 32; j < rows.count; j += 32)
        if (!lattice.each_image(atom - rows.first, j, [&](const int32_t*, const double*, double) { ++found; })) bad = 1;
    for (int half = 16; half > 0; half /= 2) {
        found += __shfl_xor_sync(kAllLanes, found, half);
        bad += __shfl_xor_sync(kAllLanes, bad, half);
    }
    if (threadIdx.x % 32 == 0) a.rows[atom + 1] = bad != 0 || found < 0 ? -1 : found;
}

// Sums the counts, by one block: each thread its own part, then the parts in their order.
__global__ void __launch_bounds__(kScanThreads) scan(const CudaNeighborList a) {
    __shared__ int64_t sums[kScanThreads], bad[kScanThreads];
    const int me = threadIdx.x;
    const int64_t part = (a.atoms + kScanThreads - 1) / kScanThreads;
    const int64_t begin = me * part < a.atoms ? me * part : a.atoms;
    const int64_t end = begin + part < a.atoms ? begin + part : a.atoms;
    sums[me] = bad[me] = 0;
    for (int64_t i = begin; i < end; ++i) {
        const int64_t own = a.rows[i + 1];
        bad[me] += own < 0;
        sums[me] += own < 0 ? 0 : own;
    }
    __syncthreads();
    int64_t before = 0, spoilt = 0;
    for (int t = 0; t < kScanThreads; ++t) {
        before += t < me ? sums[t] : 0;
        spoilt += bad[t];
    }
    if (me == 0) a.rows[0] = 0;
    for (int64_t i = begin; i < end; ++i) {
        const int64_t own = a.rows[i + 1];
        before += own < 0 ? 0 : own;
        a.rows[i + 1] = spoilt != 0 && i + 1 == a.atoms ? -1 : before;
    }
}

// What follows the last pair, or everything where the pairs do not fit.
template <class R>
__global__ void __launch_bounds__(kThreads) pad(const CudaNeighborList a) {
    const int64_t total = a.rows[a.atoms], kept = total >= 0 && total <= a.size ? total : 0;
    const int64_t all = static_cast<int64_t>(gridDim.x) * kThreads;
    for (int64_t p = kept + static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; p < a.size; p += all) {
        a.i[p] = a.j[p] = -1;
        static_cast<R*>(a.distance)[p] = static_cast<R>(__builtin_inf());
        for (int64_t d = 0; d < a.dim; ++d) {
            static_cast<R*>(a.vector)[p * a.dim + d] = R(0);
            a.shift[p * a.dim + d] = 0;
        }
    }
}

template <class R>
__global__ void __launch_bounds__(kThreads, kBlocks) fill(const CudaNeighborList a) {
    const int64_t atom = static_cast<int64_t>(blockIdx.x) * kAtoms + threadIdx.x / 32;
    const int64_t total = a.rows[a.atoms];
    if (atom >= a.atoms || total < 0 || total > a.size) return;  // the whole warp
    const Rows rows = rows_of(a, atom);
    const Lattice<R> lattice = lattice_of<R>(a, rows);
    const int64_t i = atom - rows.first;
    const int lane = threadIdx.x % 32;
    int64_t next = a.rows[atom];
    for (int64_t first = 0; first < rows.count; first += 32) {
        const int64_t j = first + lane;
        int64_t own = 0;
        if (j < rows.count) lattice.each_image(i, j, [&](const int32_t*, const double*, double) { ++own; });
        int64_t before = 0, sum = own;  // of the lanes below, and of more and more lanes
        for (int half = 1; half < 32; half *= 2) {
            const int64_t other = __shfl_xor_sync(kAllLanes, sum, half);
            if ((lane & half) != 0) before += other;
            sum += other;
        }
        int64_t at = next + before;
        next += sum;
        if (own == 0) continue;  // the next turn's shuffles wait for all lanes
        lattice.each_image(i, j, [&](const int32_t* image, const double* v, double square) {
            a.i[at] = atom;
            a.j[at] = rows.first + j;
            static_cast<R*>(a.distance)[at] = static_cast<R>(sqrt(square));
            for (int64_t d = 0; d < a.dim; ++d) {
                static_cast<R*>(a.vector)[at * a.dim + d] = static_cast<R>(v[d]);
                a.shift[at * a.dim + d] = image[d];
            }
            ++at;
        });
    }
}

}  // namespace

const char* launch_count(const CudaNeighborList& a) {
    const OnDevice here(a.device);
    cudaError_t status = here.status();
    const int64_t blocks = (a.atoms + kAtoms - 1) / kAtoms;
    if (status == cudaSuccess && a.atoms > 0)
        status = a.fp64 ? launch(count<double>, blocks, kThreads, 0, a.stream, a)
                        : launch(count<float>, blocks, kThreads, 0, a.stream, a);
    if (status == cudaSuccess) status = launch(scan, 1, kScanThreads, 0, a.stream, a);
    return message(status);
}

const char* launch_fill(const CudaNeighborList& a) {
    const OnDevice here(a.device);
    cudaError_t status = here.status();
    const int64_t wanted = (a.size + kThreads - 1) / kThreads, padding = wanted < 1024 ? wanted : 1024;
    if (status == cudaSuccess && a.size > 0)
        status = a.fp64 ? launch(pad<double>, padding, kThreads, 0, a.stream, a)
                        : launch(pad<float>, padding, kThreads, 0, a.stream, a);
    const int64_t blocks = (a.atoms + kAtoms - 1) / kAtoms;
    if (status == cudaSuccess && a.atoms > 0 && a.size > 0)
        status = a.fp64 ? launch(fill<double>, blocks, kThreads, 0, a.stream, a)
                        : launch(fill<float>, blocks, kThreads, 0, a.stream, a);
    return message(status);
}

const char* read_total(const CudaNeighborList& a, int64_t* total) {
    const OnDevice here(a.device);
    cudaError_t status = here.status();
    const auto stream = static_cast<cudaStream_t>(a.stream);
    if (status == cudaSuccess)
        status = cudaMemcpyAsync(total, a.rows + a.atoms, sizeof(int64_t), cudaMemcpyDeviceToHost, stream);
    if (status == cudaSuccess) status = cudaStreamSynchronize(stream);
    return message(status);
}

}  // namespace gm
