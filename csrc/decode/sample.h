// One row's choice of a token: what goes in and what comes out. docs/sampling.md has the maths.
//
// The row function is called by the op (sample_cpu.cpp) and by an engine that has logits of its own:
//
//     const auto body = gm::sample_body(type);           // once, before any threads
//     alignas(64) char scratch[...];                     // gm::sample_scratch_bytes(type, vocab), one a thread
//     gm::SampleOut out = body(row, scratch);            // throws nothing; out.flaw says what was wrong
#pragma once

#include <cstdint>

#include "common/isa.h"

namespace gm {

enum class LogitType : int { fp32 = 0, fp64 = 1, bf16 = 2, fp16 = 3 };

// Neutral values leave a filter out. All are rounded to the arithmetic's precision: fp64 for fp64 logits, else fp32.
struct SampleParams {
    double temperature = 1;  // 0: argmax
    double top_k = 0;        // whole; 0, or >= vocab: all
    double top_p = 1, min_p = 0, typical_p = 1;
    double repetition_penalty = 1, presence_penalty = 0, frequency_penalty = 0;
    double epsilon = 0;  // the probability of a uniform choice among the legal tokens
    double prompt = 0;   // the first tokens of history, which the repetition penalty alone meets

    bool remembers() const { return repetition_penalty != 1 || presence_penalty != 0 || frequency_penalty != 0; }
};
constexpr int kSampleParams = 10;  // the struct is this many doubles, the rows of the op's `params` tensor

enum class SampleFlaw : int { none = 0, not_finite = 1, no_legal_token = 2, token_out_of_range = 3, bad_params = 4 };

struct SampleRow {
    const void* logits;
    LogitType type = LogitType::fp32;
    int64_t vocab = 0;           // 1 to kSampleVocab
    int64_t logits_stride = 1;   // between neighbouring tokens, in elements
    const bool* mask = nullptr;  // false: illegal
    int64_t mask_stride = 1;
    const int64_t* history = nullptr;  // tokens that penalties meet; those outside [0, vocab) are padding
    int64_t history_size = 0;
    SampleParams params;
    int64_t seed = 0, id = 0;
    uint32_t step = 0;
    int64_t token = -1;                       // >= 0: nothing is drawn, this token is scored
    bool entropy = false;                     // whether the entropy is asked for
    double slope = 0;                         // with `gradient`: d loss / d logprob of `token`
    double slope_raw = 0, slope_entropy = 0;  // d loss / d raw_logprob, d loss / d entropy
    void* gradient = nullptr;  // [vocab] floats (fp64 logits: doubles): d loss / d logits, at a fixed kept set
};
// Room in the fixed-point sums of probability.
constexpr int64_t kSampleVocab = (int64_t(1) << 21) - 1;

// With a flaw, token is -1 and the others are NaN.
struct SampleOut {
    int64_t token;
    double logprob, raw_logprob, log_kept_mass;  // of the arithmetic's precision
    SampleFlaw flaw;
    double entropy = 0;  // of the distribution the token is drawn from, where asked for
};

// Bytes of scratch, aligned to 64, that a row needs.
inline int64_t sample_scratch_bytes(LogitType type, int64_t vocab) {
    const int64_t real = type == LogitType::fp64 ? 8 : 4, mass = 2 * real, lanes = (vocab + 63) / 64 * 64;
    // logits, processed logits; survivors: logit, e, index; selection: key, mass, place
    return lanes * (2 * real + (2 * real + 4) + (real + mass + 4)) + 64 * 9;
}

GM_DECLARE_ISA(SampleOut, sample_row_fp32, (const SampleRow&, void*))  // fp32, bf16, fp16 logits
GM_DECLARE_ISA(SampleOut, sample_row_fp64, (const SampleRow&, void*))  // fp64 logits

using SampleBody = SampleOut (*)(const SampleRow&, void*);
inline SampleBody sample_body(LogitType type) {
    return type == LogitType::fp64 ? GM_CALL_ISA(sample_row_fp64) : GM_CALL_ISA(sample_row_fp32);
}

}  // namespace gm
