// What the launcher hands to the kernels of neighbour lists. No torch header.
#pragma once

#include <cstdint>

namespace gm {

struct CudaNeighborList {
    bool fp64;
    int device;
    void* stream;
    int64_t systems, atoms, dim;
    const void* x;  // [M, D]
    const int64_t* system_ptr;
    int64_t boxes;  // 1 or S
    const double *cell, *fractions;
    int32_t repeats[3];
    double cutoff;
    bool half;
    int64_t* rows;  // [M + 1]; the last is -1 where a system or an image cannot be counted
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
