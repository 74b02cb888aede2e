// Which system an atom of a ragged batch is of, for .cu files. The host has not read the offsets.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace gm {
namespace {

struct Rows {
    int64_t first, count, system;
};
// A system's rows; count -1 where the offsets are not those of a batch of `atoms`.
__device__ inline Rows rows_of(const int64_t* system_ptr, int64_t atoms, int64_t system) {
    const int64_t first = system_ptr[system], end = system_ptr[system + 1];
    return first >= 0 && first <= end && end <= atoms ? Rows{first, end - first, system} : Rows{0, -1, system};
}
// Those of the last system that begins at or before an atom.
__device__ inline Rows rows_at(const int64_t* system_ptr, int64_t systems, int64_t atoms, int64_t atom) {
    int64_t low = 0, high = systems;
    while (high - low > 1) {
        const int64_t middle = (low + high) / 2;
        if (system_ptr[middle] <= atom)
            low = middle;
        else
            high = middle;
    }
    return rows_of(system_ptr, atoms, low);
}
// Whether the atom is among them.
__device__ inline bool holds(const Rows& rows, int64_t atom) {
    return atom >= rows.first && atom < rows.first + rows.count;
}

}  // namespace
}  // namespace gm
