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
    F greatest_, slack_, best_ = -__builtin_inff(), scale_ = __builtin_inff();
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
    // A token may win only if its top word / 2^32 is at most this times e^(logit - greatest).
    F scale() const { return scale_; }

    void consider(int64_t token, F z) {
        const F score = z + gumbel(block_of(token), token, F());
        if (!(score > best_ || (score == best_ && token < token_))) return;
        best_ = score;
        token_ = token;
        const F room = (greatest_ - best_) + slack_;
        scale_ = room <= 0 ? exp_nonpositive<F>(room) : F(1) / exp_nonpositive<F>(room < F(80) ? -room : F(-80));
    }
    // The top words of 64 tokens from `first`, a multiple of 64.
    GM_HD void top_words(int64_t first, uint32_t* to, float) const {
        const u32x16 block = u32x16(static_cast<uint32_t>(first / 4)) + iota<uint32_t>();
        const Words4<u32x16> n = noise_block(key_, id_, step_, block);
        alignas(64) float lanes[64];
        store_groups_of_4(lanes, bit_cast<float>(n.w[0]), bit_cast<float>(n.w[1]), bit_cast<float>(n.w[2]),
                          bit_cast<float>(n.w[3]));
        std::memcpy(to, lanes, sizeof(lanes));
    }
    GM_HD void top_words(int64_t first, uint32_t* to, double) const {
        for (int half = 0; half < 2; ++half) {
            const u32x16 block = u32x16(static_cast<uint32_t>(first / 2 + 16 * half)) + iota<uint32_t>();
            const Words4<u32x16> n = noise_block(key_, id_, step_, block);
            alignas(64) uint32_t even[16], odd[16];
            n.w[1].store(even);
            n.w[3].store(odd);
            for (int i = 0; i < 16; ++i) {
                to[32 * half + 2 * i] = even[i];
                to[32 * half + 2 * i + 1] = odd[i];
            }
        }
    }
    // The lanes of sixteen tokens that may win: e = e^(logit - greatest).
    GM_HD uint32_t may_win(const uint32_t* words, f32x16 e) const {
        const f32x16 u = convert<float>(u32x16::load(words)) * f32x16(0x1p-32f);
        return movemask(u <= e * f32x16(scale_));
    }
    GM_HD uint32_t may_win(const uint32_t* words, f64x16 e) const {
        alignas(64) double bound[16];
        (e * f64x16(scale_)).store(bound);
        uint32_t lanes = 0;
        for (int i = 0; i < 16; ++i) lanes |= static_cast<uint32_t>(words[i] * 0x1p-32 <= bound[i]) << i;
        return lanes;
    }
};

GM_NAMESPACE_END
