// The large systems of a batch sorted into cells on the device: what the launchers and kernels share. No torch header.
#pragma once

#include <cstdint>

#include "dynamics/grid.h"

namespace gm {

constexpr int64_t kFewestCelled = 256;  // atoms of a system that are worth cells
constexpr int64_t kSumTile = 1024;      // counts that are summed by one block (sums_cuda.h)
GM_HD int64_t sum_tiles(int64_t count) { return count / kSumTile + 1; }

// One system's, made on the device.
struct CudaGrid {
    Frame frame;
    Grid grid;
    double low[3];  // the least fraction along an axis that does not repeat
    bool celled;    // whether its atoms are in cells
    // Of lists of neighbours: whether it has any, how far they reach, and the square of how far its atoms may go.
    bool listed;
    double radius, most;
};

struct CudaCells {
    bool fp64;
    void* stream;
    int64_t systems, atoms, dim;  // below 2^31 atoms
    int64_t fewest, most;         // atoms of a system that gets a grid
    const void* x;                // [M, D]
    const int64_t* system_ptr;
    int64_t boxes;  // 0, 1 or S
    const double *cell, *fractions;
    bool repeats[3];
    double cutoff;
    // Of lists of neighbours, in place of the last three: a potential's box and its largest cutoff, on the device; the
    // skin, in cutoffs; and which of two flags says whether there is anything to do.
    const double *inverse, *reach;
    double skin;
    const int64_t*
        types;  // [M], or nullptr; one that is none of `type_count` spoils its whole system, so without lists
    int64_t type_count;
    int32_t* stale;  // [2], or nullptr: there is
    int look;
    // Room, nullptr where no system gets cells: a grid for each system; for each atom its cell and its number in it;
    // the atoms by cells. A system's cells have the numbers of its rows: there are as many at most.
    CudaGrid* grids;                    // [S]
    int32_t *cell_of, *number, *order;  // [M]
    int32_t *start, *sums;              // [M + 1], [sum_tiles(M)]
};

// Gives out the room, if there is any yet, and says how many bytes it takes.
inline int64_t lay_out(CudaCells& c, char* room) {
    const int64_t grids = (c.systems * static_cast<int64_t>(sizeof(CudaGrid)) + 15) / 16 * 16;
    const int64_t numbers = 4 * c.atoms + 1 + sum_tiles(c.atoms);
    if (room != nullptr) {
        c.grids = reinterpret_cast<CudaGrid*>(room);
        c.cell_of = reinterpret_cast<int32_t*>(room + grids);
        c.number = c.cell_of + c.atoms;
        c.order = c.number + c.atoms;
        c.start = c.order + c.atoms;
        c.sums = c.start + c.atoms + 1;
    }
    return (grids + 4 * numbers + 7) / 8 * 8;
}

// Queues the sorting on the stream of the current device; gives what went wrong (a cudaError_t), or 0.
int sort_into_cells(const CudaCells&);

}  // namespace gm
