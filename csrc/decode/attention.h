// Attention of queries over a cache, by splits of a fixed number of positions (docs/attention.md).
//
// A split's scores, their exponentials relative to the split's own largest and its sums are functions of the query and
// the positions in it; splits are folded in their order. So a result does not depend on threads, on the rows beside it,
// or on whether its query came alone or with a prompt.
#pragma once

#include <cstdint>

#include "common/isa.h"

namespace gm {

enum class CacheType : int64_t { fp32 = 0, bf16 = 1, fp16 = 2, int8 = 3 };

constexpr int64_t kSplit = 256;     // positions
constexpr int64_t kHeadMost = 256;  // dimensions

// Where the numbers of key heads lie: position t is at row t % page_size of page pages[t / page_size].
struct CacheSide {
    const char* data;                           // the first head's first number in page 0
    const float* scale;                         // the same for scales, or null
    int64_t page, row, head;                    // strides, in bytes
    int64_t scale_page, scale_row, scale_head;  // strides, in floats
    int64_t bytes;                              // of a head's numbers at a position
};

// The queries of one row at one position that some key heads serve, each `group` of them.
struct AttentionArgs {
    const float* q;       // [heads group, head_dim up to a multiple of sixteen]: zeros behind
    const float* slopes;  // [heads group]: added slope (t - position); or null
    CacheSide keys, values;
    const int32_t* pages;  // of the row
    int64_t page_size;
    CacheType type;
    int64_t heads, group, head_dim;
    int64_t first, position;  // the positions that are seen: first to position, both included
    float scale, softcap;     // scores are q k scale, then softcap tanh(score / softcap) where softcap > 0
};

// What a split (or a fold of several) says of queries: for each the largest score, the sum of exp(score - it), and that
// sum weighted by the values, [heads group][head_dim up to a multiple of sixteen].
struct AttentionSums {
    float *most, *total, *values;
};

GM_DECLARE_ISA(void, attend_split, (const AttentionArgs&, int64_t split, float* scores, const AttentionSums& to))
GM_DECLARE_ISA(void, fold_splits, (const AttentionArgs&, const AttentionSums& more, const AttentionSums& to))
GM_DECLARE_ISA(void, finish_attention, (const AttentionArgs&, const AttentionSums& sums, float* out))

}  // namespace gm
