// argmax(processed logit + Gumbel) with a logarithm only where a token might win. For body files.
//
// A Gumbel is at most -log(u), and u at least its word's top 32 bits / 2^32, so a token can pass the best score so far
// only if that is at most e^(logit - best). What is pruned could not have won; the result is the exact argmax.
#pragma once

#include "common/noise_fill.h"
#include "decode/sample.h"

GM_NAMESPACE_BEGIN

template <class F>
class Draw {
    static constexpr int kPerBlock = sizeof(F) == 4 ? 4 : 2;
    int64_t seed_, id_;
    uint32_t step_;
    NoiseKey key_;
    F greatest_, slack_, best_ = -__builtin_inff();
    F scale_ = __builtin_inff();  // a token may win only if its top word / 2^32 <= this times e^(logit - greatest)
    int64_t token_ = -1;

    Words4<uint32_t> block_of(int64_t token) const {
        return noise_block<uint32_t>(key_, id_, step_, static_cast<uint32_t>(token / kPerBlock));
    }
    float gumbel(const Words4<uint32_t>& n, int64_t token, float) const {
        const uint32_t w = n.w[token % 4];
        if (w >= kTailWords) return gumbel_from_word<float>(w);
        const auto block = static_cast<uint32_t>(token / 4);
        return gumbel_from_tail(w, tail_word(seed_, kStreamToken, id_, step_, block, static_cast<int>(token % 4)));
    }
    double gumbel(const Words4<uint32_t>& n, int64_t token, double) const {
        const uint32_t* w = n.w + token % 2 * 2;
        return gumbel_from_word<double>(static_cast<uint64_t>(w[0]) | (static_cast<uint64_t>(w[1]) << 32));
    }

 public:
    // greatest: the largest processed logit; the slack covers rounding in scores of its size.
    Draw(const SampleRow& row, F greatest)
        : seed_(row.seed),
          id_(row.id),
          step_(row.step),
          key_(noise_key(row.seed, kStreamToken)),
          greatest_(greatest),
          slack_(F(1e-3) + (greatest < 0 ? -greatest : greatest) * F(0x1p-20)) {}

    int64_t token() const { return token_; }

    void consider(int64_t token, F z) {
        const F score = z + gumbel(block_of(token), token, F());
        if (!(score > best_ || (score == best_ && token < token_))) return;
        best_ = score;
        token_ = token;
        const F room = (greatest_ - best_) + slack_;
        scale_ = room <= 0 ? exp_nonpositive<F>(room) : F(1) / exp_nonpositive<F>(room < F(80) ? -room : F(-80));
    }
    // The top words of 64 tokens from `first`, a multiple of 64, in the order of the tokens.
    GM_HD void top_words(int64_t first, u32x16* to, float) const {
#if defined(__AVX512F__)
        words_of_16_blocks(static_cast<uint32_t>(first / 4), to);
#else
        const u32x16 block = u32x16(static_cast<uint32_t>(first / 4)) + iota<uint32_t>();
        const Words4<u32x16> n = noise_block(key_, id_, step_, block);
        alignas(64) float lanes[64];
        store_groups_of_4(lanes, bit_cast<float>(n.w[0]), bit_cast<float>(n.w[1]), bit_cast<float>(n.w[2]),
                          bit_cast<float>(n.w[3]));
        for (int j = 0; j < 4; ++j) to[j] = bit_cast<uint32_t>(f32x16::load(lanes + 16 * j));
#endif
    }
    GM_HD void top_words(int64_t first, u32x16* to, double) const {
        for (int half = 0; half < 2; ++half) {
            const u32x16 block = u32x16(static_cast<uint32_t>(first / 2 + 16 * half)) + iota<uint32_t>();
            const Words4<u32x16> n = noise_block(key_, id_, step_, block);
            alignas(64) uint32_t even[16], odd[16], words[32];
            n.w[1].store(even);
            n.w[3].store(odd);
            for (int i = 0; i < 16; ++i) {
                words[2 * i] = even[i];
                words[2 * i + 1] = odd[i];
            }
            for (int j = 0; j < 2; ++j) to[2 * half + j] = u32x16::load(words + 16 * j);
        }
    }
    // The lanes of sixteen tokens that may win: e = e^(logit - greatest).
    GM_HD uint32_t may_win(u32x16 words, f32x16 e) const {
        const f32x16 u = convert<float>(words) * f32x16(0x1p-32f);
        return movemask(u <= e * f32x16(scale_));
    }
    GM_HD uint32_t may_win(u32x16 words, f64x16 e) const {
        alignas(64) uint32_t word[16];
        alignas(64) double bound[16];
        words.store(word);
        (e * f64x16(scale_)).store(bound);
        uint32_t lanes = 0;
        for (int i = 0; i < 16; ++i) lanes |= static_cast<uint32_t>(word[i] * 0x1p-32 <= bound[i]) << i;
        return lanes;
    }

 private:
#if defined(__AVX512F__)
    // Philox with each word in the low half of a 64-bit lane: a product then needs no shuffle (what lies in the high
    // halves is never read), which makes a round of eight blocks six instructions. Twice eight, in the order of tokens.
    GM_HD void words_of_16_blocks(uint32_t block, u32x16* to) const {
        const __m512i m0 = _mm512_set1_epi64(0xD2511F53), m1 = _mm512_set1_epi64(0xCD9E8D57);
        __m512i c0[2], c1[2], c2[2], c3[2], p0[2], p1[2];
        for (int i = 0; i < 2; ++i) {
            c0[i] = _mm512_add_epi64(_mm512_set1_epi64(block + 8 * i), _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7));
            c1[i] = _mm512_set1_epi64(step_);
            c2[i] = _mm512_set1_epi64(id_);
            c3[i] = _mm512_srli_epi64(c2[i], 32);
        }
        uint32_t k0 = key_.low, k1 = key_.high;
        for (int round = 0; round < 10; ++round) {
            const __m512i low = _mm512_set1_epi32(static_cast<int>(k0)), high = _mm512_set1_epi32(static_cast<int>(k1));
            for (int i = 0; i < 2; ++i) {
                p0[i] = _mm512_mul_epu32(m0, c0[i]);
                p1[i] = _mm512_mul_epu32(m1, c2[i]);
            }
            for (int i = 0; i < 2; ++i) {
                c0[i] = _mm512_xor_si512(_mm512_xor_si512(_mm512_srli_epi64(p1[i], 32), c1[i]), low);
                c2[i] = _mm512_xor_si512(_mm512_xor_si512(_mm512_srli_epi64(p0[i], 32), c3[i]), high);
                c1[i] = p1[i];
                c3[i] = p0[i];
            }
            k0 += 0x9E3779B9u;
            k1 += 0xBB67AE85u;
        }
        const __m512i first = _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11);
        const __m512i last = _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15);
        for (int i = 0; i < 2; ++i) {  // words 0 and 1 of a block, and words 2 and 3, side by side; then their pairs
            const __m512i front = _mm512_mask_shuffle_epi32(c0[i], 0xAAAA, c1[i], _MM_PERM_CCAA);
            const __m512i back = _mm512_mask_shuffle_epi32(c2[i], 0xAAAA, c3[i], _MM_PERM_CCAA);
            to[2 * i].p[0] = (u32x16::native)_mm512_permutex2var_epi64(front, first, back);
            to[2 * i + 1].p[0] = (u32x16::native)_mm512_permutex2var_epi64(front, last, back);
        }
    }
#endif
};

GM_NAMESPACE_END
