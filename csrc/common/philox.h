// Philox4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3; SC 2011), and the mapping of
// the noise contract onto it. docs/noise.md is the specification; gmkern/random.py and the Triton kernels repeat it.
#pragma once

#include "common/scalar.h"

GM_NAMESPACE_BEGIN

// Four words of noise; U is uint32_t, or u32x16 for sixteen blocks at once.
template <class U>
struct Words4 {
    U w[4];
};

struct NoiseKey {
    uint32_t low, high;
};

// The finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): a bijection of 64-bit words.
GM_HD uint64_t mix64(uint64_t z) {
    z += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

// For one stream a bijection of the seed; seeds one apart, or streams one apart, share nothing.
GM_HD NoiseKey noise_key(int64_t seed, uint32_t stream) {
    const uint64_t k = mix64(mix64(static_cast<uint64_t>(seed)) + stream);
    return {static_cast<uint32_t>(k), static_cast<uint32_t>(k >> 32)};
}

template <class U>
GM_HD Words4<U> philox4x32_10(Words4<U> c, NoiseKey key) {
    uint32_t k0 = key.low, k1 = key.high;
    const U m0 = U(0xD2511F53u), m1 = U(0xCD9E8D57u);
    for (int round = 0; round < 10; ++round) {
        const U high0 = mulhi(m0, c.w[0]), low0 = m0 * c.w[0];
        const U high1 = mulhi(m1, c.w[2]), low1 = m1 * c.w[2];
        c.w[0] = high1 ^ c.w[1] ^ U(k0);
        c.w[1] = low1;
        c.w[2] = high0 ^ c.w[3] ^ U(k1);
        c.w[3] = low0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return c;
}

// The four words of block `block` of sample `id` at step `step`: counter = (block, step, low id, high id).
template <class U>
GM_HD Words4<U> noise_block(NoiseKey key, int64_t id, uint32_t step, U block) {
    const uint64_t bits = static_cast<uint64_t>(id);
    return philox4x32_10(
        Words4<U>{{block, U(step), U(static_cast<uint32_t>(bits)), U(static_cast<uint32_t>(bits >> 32))}}, key);
}

GM_NAMESPACE_END
