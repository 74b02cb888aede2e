// The noise op's arguments, shared by its launcher and its bodies.
#pragma once

#include <cstdint>

#include "common/isa.h"

namespace gm {

enum class NoiseKind : int64_t { uniform = 0, normal = 1, gumbel = 2 };

// Elements [0, count) of one row: the noise of (seed, stream, id, step).
struct NoiseRow {
    NoiseKind kind;
    int64_t seed, id, count;
    uint32_t stream, step;
};

GM_DECLARE_ISA(void, noise_row_fp32, (const NoiseRow&, float*))
GM_DECLARE_ISA(void, noise_row_fp64, (const NoiseRow&, double*))

}  // namespace gm
