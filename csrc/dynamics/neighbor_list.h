// Arguments of the neighbour list's body, shared with its launcher.
#pragma once

#include <cstdint>

#include "common/isa.h"

namespace gm {

// Atoms [begin, end) in the order of cells, seen `offset` away from where they are.
struct Segment {
    int64_t begin, end;
    float offset[3];
    int32_t image[3];
};

// An atom of a segment: its place in the order of cells, and which segment.
struct Near {
    int32_t at, segment;
};

struct NearArgs {
    const float* x[3];  // in the order of cells, readable 16 past the end
    const Segment* segments;
    int64_t count;
    float query[3];
    float bound;  // of the squared distance
};

// Writes the atoms of the segments up to the bound away from the query, in the segments' order; gives how many. `to`
// has room for all.
GM_DECLARE_ISA(int64_t, near_atoms, (const NearArgs&, Near* to))

}  // namespace gm
