// Activations of sixteen numbers at a time, each a function of its argument alone.
#include "common/vector_math.h"
#include "latent/latent.h"

namespace gm {
inline namespace GM_ISA {
namespace {

// exp(x) - 1 for x <= 0, without cancellation near 0: 2 t / (1 - t) with t = tanh(x / 2).
f32x16 exp_less_one(f32x16 x) {
    const f32x16 t = fast_tanh(f32x16(0.5f) * x);
    return (t + t) / (f32x16(1.0f) - t);
}

template <class F>
void each(float* x, int64_t count, const F& f) {
    for (int64_t i = 0; i < count; i += 16) f(f32x16::load(x + i)).store(x + i);
}

}  // namespace

void apply_elementwise(float* x, int64_t count, Elementwise kind, float slope) {
    const f32x16 zero(0.0f), one(1.0f), s(slope);
    switch (kind) {
        case Elementwise::identity:
            return;
        case Elementwise::relu:
            return each(x, count, [](f32x16 v) { return relu(v); });
        case Elementwise::leaky_relu:
            return each(x, count, [=](f32x16 v) { return select(v < zero, v * s, v); });
        case Elementwise::elu:
            return each(x, count, [=](f32x16 v) { return select(v < zero, s * exp_less_one(min(v, zero)), v); });
        case Elementwise::gelu:
            return each(x, count, [](f32x16 v) { return gelu(v); });
        case Elementwise::gelu_tanh:
            return each(x, count, [](f32x16 v) { return gelu_tanh(v); });
        case Elementwise::silu:
            return each(x, count, [](f32x16 v) { return silu(v); });
        case Elementwise::tanh:
            return each(x, count, [](f32x16 v) { return fast_tanh(v); });
        case Elementwise::sigmoid:
            return each(x, count, [=](f32x16 v) { return one / (one + fast_exp(-v)); });
    }
}

}  // namespace GM_ISA
}  // namespace gm
