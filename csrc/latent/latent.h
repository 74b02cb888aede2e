// The elementwise functions between the linears of an MLP, shared by its launcher and its bodies.
#pragma once

#include <cstdint>

#include "common/isa.h"

namespace gm {

enum class Elementwise : int64_t {
    identity = 0,
    relu = 1,
    leaky_relu = 2,  // slope: of the negative side
    elu = 3,         // slope: alpha
    gelu = 4,
    gelu_tanh = 5,
    silu = 6,
    tanh = 7,
    sigmoid = 8
};

// x[i] = kind(x[i]) for i < count, a multiple of 16.
GM_DECLARE_ISA(void, apply_elementwise, (float* x, int64_t count, Elementwise kind, float slope))

}  // namespace gm
