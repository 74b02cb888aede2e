// Atoms near one atom: compiled once per instruction set. A filter in fp32 with slack; the launcher decides in double.
#include "common/simd.h"
#include "dynamics/neighbor_list.h"

namespace gm {
inline namespace GM_ISA {

int64_t near_atoms(const NearArgs& a, Near* to) {
    int64_t found = 0;
    for (int64_t s = 0; s < a.count; ++s) {
        const Segment& segment = a.segments[s];
        f32x16 middle[3];
        for (int c = 0; c < 3; ++c) middle[c] = f32x16(a.query[c] - segment.offset[c]);
        for (int64_t at = segment.begin; at < segment.end; at += 16) {
            f32x16 square = f32x16(0.0f);
            for (int c = 0; c < 3; ++c) {
                const f32x16 d = f32x16::load(a.x[c] + at) - middle[c];
                square = fma(d, d, square);
            }
            uint32_t bits = movemask(square <= f32x16(a.bound));
            const int64_t left = segment.end - at;
            if (left < 16) bits &= (1u << left) - 1u;
            for (; bits != 0; bits &= bits - 1)
                to[found++] = {static_cast<int32_t>(at + __builtin_ctz(bits)), static_cast<int32_t>(s)};
        }
    }
    return found;
}

}  // namespace GM_ISA
}  // namespace gm
