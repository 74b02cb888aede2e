// Rows of uniforms, normals and Gumbels: compiled once per instruction set.
#include "common/noise_fill.h"
#include "noise/noise.h"

namespace gm {
inline namespace GM_ISA {
namespace {

template <class F>
void row(const NoiseRow& r, F* to) {
    switch (r.kind) {
        case NoiseKind::uniform:
            return fill_noise<UniformKind>(to, 0, r.count, r.seed, r.stream, r.id, r.step);
        case NoiseKind::normal:
            return fill_noise<NormalKind>(to, 0, r.count, r.seed, r.stream, r.id, r.step);
        case NoiseKind::gumbel:
            return fill_noise<GumbelKind>(to, 0, r.count, r.seed, r.stream, r.id, r.step);
    }
}

}  // namespace

void noise_row_fp32(const NoiseRow& r, float* to) { row(r, to); }
void noise_row_fp64(const NoiseRow& r, double* to) { row(r, to); }

}  // namespace GM_ISA
}  // namespace gm
