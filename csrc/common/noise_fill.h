// Rows of noise in the order of their elements, sixteen blocks at a time. For body files.
//
// fp32: element e is word e % 4 of block e / 4; normals 2i and 2i+1 share words 2i and 2i+1.
// fp64: element e is words 2(e % 2), 2(e % 2)+1 of block e / 2 (low word first); normals 2i and 2i+1 share block i.
#pragma once

#include "common/noise.h"
#include "common/simd.h"

GM_NAMESPACE_BEGIN

// What a kind makes of the four words of sixteen blocks: values of elements 4 b + j (fp32) or 2 b + j (fp64).
struct UniformKind {
    static GM_HD void values(const Words4<u32x16>& n, f32x16* v) {
        for (int j = 0; j < 4; ++j) v[j] = uniform_from_word<f32x16>(n.w[j]);
    }
    static GM_HD void values(const Words4<u32x16>& n, f64x16* v) {
        for (int j = 0; j < 2; ++j) v[j] = uniform_from_word<f64x16>(join(n.w[2 * j], n.w[2 * j + 1]));
    }
    static constexpr bool refines = false;
};
struct NormalKind {
    static GM_HD void values(const Words4<u32x16>& n, f32x16* v) {
        for (int j = 0; j < 4; j += 2) {
            const Pair<f32x16> p = normals_from_words<f32x16>(n.w[j], n.w[j + 1]);
            v[j] = p.first;
            v[j + 1] = p.second;
        }
    }
    static GM_HD void values(const Words4<u32x16>& n, f64x16* v) {
        const Pair<f64x16> p = normals_from_words<f64x16>(join(n.w[0], n.w[1]), join(n.w[2], n.w[3]));
        v[0] = p.first;
        v[1] = p.second;
    }
    static constexpr bool refines = false;
};
struct GumbelKind {
    static GM_HD void values(const Words4<u32x16>& n, f32x16* v) {
        for (int j = 0; j < 4; ++j) v[j] = gumbel_from_word<f32x16>(n.w[j]);
    }
    static GM_HD void values(const Words4<u32x16>& n, f64x16* v) {
        for (int j = 0; j < 2; ++j) v[j] = gumbel_from_word<f64x16>(join(n.w[2 * j], n.w[2 * j + 1]));
    }
    static constexpr bool refines = true;
};

// Gumbels whose word is below kTailWords take a second word: one in 16 million, so lane by lane.
GM_HD void refine_tails(const Words4<u32x16>& n, f32x16* v, int64_t seed, uint32_t stream, int64_t id, uint32_t step,
                        uint32_t block) {
    for (int j = 0; j < 4; ++j) {
        uint32_t lanes = movemask(n.w[j] < u32x16(kTailWords));
        if (lanes == 0) continue;
        alignas(64) float values[16];
        alignas(64) uint32_t words[16];
        v[j].store(values);
        n.w[j].store(words);
        for (int lane = 0; lane < 16; ++lane)
            if (lanes >> lane & 1)
                values[lane] = gumbel_from_tail(
                    words[lane], tail_word(seed, stream, id, step, block + static_cast<uint32_t>(lane), j));
        v[j] = f32x16::load(values);
    }
}

// to[0, count) = elements [first, first + count) of a row; `first` is a multiple of 4.
template <class Kind>
GM_HD void fill_noise(float* to, int64_t first, int64_t count, int64_t seed, uint32_t stream, int64_t id,
                      uint32_t step) {
    const NoiseKey key = noise_key(seed, stream);
    const u32x16 lane = iota<uint32_t>();
    for (int64_t at = 0; at < count; at += 64) {
        const uint32_t block = static_cast<uint32_t>((first + at) / 4);
        const Words4<u32x16> n = noise_block(key, id, step, u32x16(block) + lane);
        f32x16 v[4];
        Kind::values(n, v);
        if (Kind::refines) refine_tails(n, v, seed, stream, id, step, block);
        if (count - at >= 64) {
            store_groups_of_4(to + at, v[0], v[1], v[2], v[3]);
        } else {
            alignas(64) float rest[64];
            store_groups_of_4(rest, v[0], v[1], v[2], v[3]);
            std::memcpy(to + at, rest, static_cast<size_t>(count - at) * sizeof(float));
        }
    }
}
// fp64: `first` is a multiple of 2.
template <class Kind>
GM_HD void fill_noise(double* to, int64_t first, int64_t count, int64_t seed, uint32_t stream, int64_t id,
                      uint32_t step) {
    const NoiseKey key = noise_key(seed, stream);
    const u32x16 lane = iota<uint32_t>();
    for (int64_t at = 0; at < count; at += 32) {
        const uint32_t block = static_cast<uint32_t>((first + at) / 2);
        f64x16 v[2];
        Kind::values(noise_block(key, id, step, u32x16(block) + lane), v);
        alignas(64) double lanes[2][16];
        v[0].store(lanes[0]);
        v[1].store(lanes[1]);
        const int64_t here = count - at < 32 ? count - at : 32;
        for (int64_t i = 0; i < here; ++i) to[at + i] = lanes[i % 2][i / 2];
    }
}

GM_NAMESPACE_END
