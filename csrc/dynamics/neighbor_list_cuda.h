// What the launcher hands to the kernels of neighbour lists. No torch header.
#pragma once

#include <cstdint>

#include "dynamics/cells_cuda.h"

namespace gm {

struct CudaNeighborList {
    int device;
    CudaCells cells;  // with the systems, their boxes and the cutoff; its room is nullptr where all pairs are asked
    bool half;
    int64_t* rows;  // [M + 1]; the last is -1 where a system or an image cannot be counted
    int64_t* sums;  // [sum_tiles(M) + 1], room; the last says that there is such a one
    int64_t size;   // of what follows
    void *distance, *vector;
    int64_t *i, *j;
    int32_t* shift;
};

// Queue their work on the stream; give what went wrong, or nullptr. The second needs the first's rows, and writes no
// pair where they do not fit.
const char* launch_count(const CudaNeighborList&);
const char* launch_fill(const CudaNeighborList&);
// Waits for the stream, and gives rows[M].
const char* read_total(const CudaNeighborList&, int64_t* total);

}  // namespace gm
