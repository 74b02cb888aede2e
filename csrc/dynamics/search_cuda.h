// Who may be near an atom, and who is, for .cu files: a warp looks through the cells around it, or through all atoms of
// its system, and each lane decides in double.
#pragma once

#include "dynamics/cells_cuda.h"
#include "dynamics/field.h"
#include "dynamics/rows_cuda.h"
#include "dynamics/warp_cuda.h"

namespace gm {
namespace {

constexpr double kMostImages = 0x1p20, kFurthest = 0x1p30;  // boxes

// One system's box, and the atoms in it; the order of operations is that of cells.h.
template <class R>
struct Lattice {
    const R* x;
    const double *cell, *fractions;  // rows of `stride` numbers
    const bool* repeats;
    double cutoff;
    int dim, stride;

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
                along += apart[d] * fractions[k * stride + d];
                length += fractions[k * stride + d] * fractions[k * stride + d];
            }
            const double reach = cutoff * sqrt(length);
            // Images that may be within the cutoff; each is asked once more below. The slack is above what rounds.
            const double slack = 1e-6 + 1e-12 * (along < 0.0 ? -along : along);
            if (!repeats[k]) {
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
                        for (int k = 1; k < dim; ++k) shift += static_cast<double>(n[k]) * cell[k * stride + d];
                        v[d] = apart[d] + shift;
                        square = d == 0 ? v[d] * v[d] : square + v[d] * v[d];
                    }
                    if (square < cutoff * cutoff) f(n, v, square);
                }
        return true;
    }
};

// Whether there is anything to sort or to list.
__device__ inline bool is_wanted(const CudaCells& c) { return c.stale == nullptr || c.stale[c.look % 2] != 0; }

// The cells around one, axis by axis: none twice.
struct Around {
    int begin[3], count[3], parts[3];

    __device__ Around(const CudaGrid& g, int cell) {
        int at = cell;
        GM_UNROLL
        for (int k = 2; k >= 0; --k) {
            parts[k] = static_cast<int>(g.grid.parts[k]);
            const int own = at % parts[k];
            at /= parts[k];
            const int reach = g.grid.reach[k] < parts[k] ? static_cast<int>(g.grid.reach[k]) : parts[k];
            begin[k] = own - reach;
            count[k] = 2 * reach + 1;
            if (g.frame.repeats[k]) {
                if (count[k] < parts[k]) continue;
                begin[k] = 0;
                count[k] = parts[k];
            } else {
                const int end = own + reach < parts[k] ? own + reach + 1 : parts[k];
                begin[k] = begin[k] < 0 ? 0 : begin[k];
                count[k] = end - begin[k];
            }
        }
    }
    __device__ int wrapped(int part, int k) const {
        return part < 0 ? part + parts[k] : part < parts[k] ? part : part - parts[k];
    }
    // Runs of cells that follow each other: two for each row, the second being what comes round.
    __device__ int runs() const { return 2 * count[0] * count[1]; }
    __device__ void run(int number, int* from, int* to) const {
        const int row = number / 2, a = wrapped(begin[0] + row / count[1], 0),
                  b = wrapped(begin[1] + row % count[1], 1);
        const int first = begin[2], end = begin[2] + count[2], n = parts[2], start = (a * parts[1] + b) * n;
        if (number % 2 == 0) {
            *from = start + (first < 0 ? 0 : first);
            *to = start + (end < n ? end : n);
        } else {
            *from = start + (first < 0 ? first + n : 0);
            *to = start + (first < 0 ? n : end > n ? end - n : 0);
        }
    }
};

// f(j, there) by all lanes of a warp together, until each atom j of the system that may be near atom i has been there
// once: in their order where the system has no cells, in any order where it has.
template <class F>
__device__ void each_candidate(const CudaCells& c, const Rows& rows, int64_t i, int lane, const F& f) {
    if (c.grids == nullptr || !c.grids[rows.system].celled) {
        for (int64_t first = 0; first < rows.count; first += 32) f(first + lane, first + lane < rows.count);
        return;
    }
    const Around around(c.grids[rows.system], c.cell_of[rows.first + i]);
    const int32_t* start = c.start + rows.first;
    for (int first = 0; first < around.runs(); first += 32) {
        int from = 0, to = 0;
        if (first + lane < around.runs()) around.run(first + lane, &from, &to);
        const int32_t begin = start[from], size = start[to] - begin;
        const Prefix<int32_t> sizes = prefix(size, lane);
        const int32_t upto = sizes.before + size, shift = begin - sizes.before;
        for (int32_t at = 0; at < sizes.all; at += 32) {
            int owner = 0;  // the lane whose run has the candidate
            for (int half = 16; half > 0; half /= 2)
                owner += __shfl_sync(kAllLanes, upto, owner + half - 1) <= at + lane ? half : 0;
            const int32_t place = at + lane + __shfl_sync(kAllLanes, shift, owner);
            const bool there = at + lane < sizes.all;
            const int64_t j = there ? c.order[place] - rows.first : 0;
            f(j, there && j >= 0 && j < rows.count);
        }
    }
}

}  // namespace
}  // namespace gm
