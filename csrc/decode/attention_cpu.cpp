// The attention op: checks, and rows, key heads and splits spread over threads.
#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <torch/csrc/stable/library.h>
#include <tuple>
#include <vector>

#include "common/check.h"
#include "common/new_tensor.h"
#include "common/parallel.h"
#include "decode/attention.h"

namespace gm {
namespace {

using Optional = std::optional<Tensor>;

CacheType cache_type(const Tensor& keys) {
    switch (keys.scalar_type()) {
        case ScalarType::Float:
            return CacheType::fp32;
        case ScalarType::BFloat16:
            return CacheType::bf16;
        case ScalarType::Half:
            return CacheType::fp16;
        case ScalarType::Char:
            return CacheType::int8;
        default:
            fail("keys: got dtype ", torch::headeronly::toString(keys.scalar_type()),
                 "; takes Float, BFloat16, Half or Char");
    }
}

// The numbers and scales [pages, page_size, heads, head_dim] of keys or of values.
CacheSide cache_side(const char* name, const Tensor& t, const Optional& scale, const Tensor& like) {
    check_dim(name, t, 4);
    GM_CHECK(t.is_cpu(), name, ": takes a CPU tensor");
    check_dtype(name, t, like.scalar_type());
    for (int64_t axis = 0; axis < 4; ++axis) check_size(name, t, axis, like.size(axis));
    GM_CHECK(t.stride(3) == 1 || t.size(3) == 1, name, ": takes numbers of a head side by side");
    const auto bytes = static_cast<int64_t>(t.element_size());
    CacheSide side{static_cast<const char*>(t.const_data_ptr()),
                   nullptr,
                   t.stride(0) * bytes,
                   t.stride(1) * bytes,
                   t.stride(2) * bytes,
                   0,
                   0,
                   0,
                   t.size(3) * bytes};
    GM_CHECK(scale.has_value() == (t.scalar_type() == ScalarType::Char), name,
             ": takes scales for int8, and for it alone");
    if (scale) {
        check_dim("scale", *scale, 3);
        check_dtype("scale", *scale, ScalarType::Float);
        GM_CHECK(scale->is_cpu(), "scale: takes a CPU tensor");
        for (int64_t axis = 0; axis < 3; ++axis) check_size("scale", *scale, axis, t.size(axis));
        side.scale = scale->const_data_ptr<float>();
        side.scale_page = scale->stride(0);
        side.scale_row = scale->stride(1);
        side.scale_head = scale->stride(2);
    }
    return side;
}

// Sums of some queries, carved out of one allocation.
struct SumsRoom {
    int64_t queries, wide;
    int64_t size() const { return queries * (2 + wide); }
    AttentionSums at(float* room) const { return {room, room + queries, room + 2 * queries}; }
};

// q [., head_dim] with zeros up to `wide` behind each query.
std::vector<float> padded(const Tensor& q, int64_t wide) {
    const int64_t dim = q.size(3), count = dim > 0 ? q.numel() / dim : 0;
    std::vector<float> out(static_cast<size_t>(count * wide));
    const float* from = q.const_data_ptr<float>();
    for (int64_t i = 0; i < count; ++i) std::copy_n(from + i * dim, dim, out.data() + i * wide);
    return out;
}

std::tuple<Tensor, Tensor> attention(const Tensor& q, const Tensor& keys, const Tensor& values, const Tensor& lengths,
                                     const Optional& page_table, const Optional& key_scale, const Optional& value_scale,
                                     const Optional& slopes, int64_t window, double softcap, double scale) {
    check_dim("q", q, 4);
    check_dtype("q", q, ScalarType::Float);
    check_contiguous_cpu("q", q);
    check_dim("keys", keys, 4);
    const CacheType type = cache_type(keys);
    const CacheSide key_side = cache_side("keys", keys, key_scale, keys);
    const CacheSide value_side = cache_side("values", values, value_scale, keys);
    const int64_t rows = q.size(0), asked = q.size(1), heads = q.size(2), head_dim = q.size(3);
    const int64_t key_heads = keys.size(2), page_size = keys.size(1), pages = keys.size(0);
    GM_CHECK(head_dim >= 1 && head_dim <= kHeadMost && keys.size(3) == head_dim, "q: got head_dim ", head_dim,
             "; takes that of the keys, ", keys.size(3), ", from 1 to ", kHeadMost);
    GM_CHECK(key_heads >= 1 && heads % key_heads == 0, "q: got ", heads, " heads; takes a multiple of ", key_heads);
    check_dim("lengths", lengths, 1);
    check_size("lengths", lengths, 0, rows);
    check_dtype("lengths", lengths, ScalarType::Int);
    check_contiguous_cpu("lengths", lengths);
    GM_CHECK(window >= 0, "window: got ", window, "; takes 0 (all) or more");
    GM_CHECK(softcap >= 0.0 && std::isfinite(softcap), "softcap: got ", softcap, "; takes 0 (none) or more");
    GM_CHECK(std::isfinite(scale), "scale: got ", scale, "; takes a finite number");
    if (slopes) {
        check_dim("slopes", *slopes, 1);
        check_size("slopes", *slopes, 0, heads);
        check_dtype("slopes", *slopes, ScalarType::Float);
        check_contiguous_cpu("slopes", *slopes);
    }
    // Without a table, row b is page b.
    std::vector<int32_t> own;
    const int32_t* table = nullptr;
    int64_t row_pages = 1;
    if (page_table) {
        check_dim("page_table", *page_table, 2);
        check_size("page_table", *page_table, 0, rows);
        check_dtype("page_table", *page_table, ScalarType::Int);
        check_contiguous_cpu("page_table", *page_table);
        table = page_table->const_data_ptr<int32_t>();
        row_pages = page_table->size(1);
    } else {
        GM_CHECK(pages == rows, "keys: got ", pages, " rows; takes ", rows, ", one a query");
        for (int64_t b = 0; b < rows; ++b) own.push_back(static_cast<int32_t>(b));
        table = own.data();
    }
    const int32_t* length = lengths.const_data_ptr<int32_t>();
    int64_t longest = 0;
    for (int64_t b = 0; b < rows; ++b) {
        GM_CHECK(length[b] >= 0 && length[b] <= row_pages * page_size, "lengths: got ", length[b], " for row ", b,
                 "; takes 0 to ", row_pages * page_size, ", what its cache holds");
        for (int64_t p = 0; p * page_size < length[b]; ++p)
            GM_CHECK(table[b * row_pages + p] >= 0 && table[b * row_pages + p] < pages, "page_table: got page ",
                     table[b * row_pages + p], " for row ", b, "; takes 0 to ", pages - 1);
        longest = std::max<int64_t>(longest, length[b]);
    }

    Tensor out = new_tensor({rows, asked, heads, head_dim}, ScalarType::Float);
    Tensor lse = new_tensor({rows, asked, heads}, ScalarType::Float);
    float *to = out.mutable_data_ptr<float>(), *to_lse = lse.mutable_data_ptr<float>();
    const int64_t group = heads / key_heads, wide = (head_dim + 15) / 16 * 16;
    std::vector<float> widened;
    if (wide != head_dim) widened = padded(q, wide);
    const float* from = wide != head_dim ? widened.data() : q.const_data_ptr<float>();
    const auto attend = GM_CALL_ISA(attend_split);
    const auto fold = GM_CALL_ISA(fold_splits);
    const auto finish = GM_CALL_ISA(finish_attention);

    // Item (row, query, run of key heads): all heads together, unless that leaves a thread without work.
    const int64_t threads = num_threads(), splits = (longest + kSplit - 1) / kSplit;
    const int64_t units = std::max<int64_t>(1, rows * asked * splits);
    const int64_t run = std::max<int64_t>(1, key_heads / std::max<int64_t>(1, (2 * threads + units - 1) / units));
    const int64_t runs = (key_heads + run - 1) / run, items = rows * asked * runs;
    const auto first_query = [&](int64_t item) { return item / runs * heads + item % runs * run * group; };
    const auto arguments = [&](int64_t item) {
        const int64_t h = item % runs * run, i = item / runs % asked, b = item / runs / asked;
        const int64_t position = length[b] - asked + i;
        const auto head = [&](CacheSide side) {
            side.data += h * side.head;
            if (side.scale) side.scale += h * side.scale_head;
            return side;
        };
        return AttentionArgs{from + first_query(item) * wide,
                             slopes ? slopes->const_data_ptr<float>() + h * group : nullptr,
                             head(key_side),
                             head(value_side),
                             table + b * row_pages,
                             page_size,
                             type,
                             std::min(run, key_heads - h),
                             group,
                             head_dim,
                             window > 0 ? std::max<int64_t>(0, position + 1 - window) : 0,
                             position,
                             static_cast<float>(scale),
                             static_cast<float>(softcap)};
    };
    const auto write = [&](int64_t item, const AttentionArgs& a, const AttentionSums& sums) {
        const int64_t at = first_query(item);
        finish(a, sums, to + at * head_dim);
        for (int64_t q = 0; q < a.heads * group; ++q) to_lse[at + q] = sums.most[q] + std::log(sums.total[q]);
    };
    const auto write_nothing = [&](int64_t item, const AttentionArgs& a) {
        const int64_t at = first_query(item), queries = a.heads * group;
        std::fill_n(to + at * head_dim, queries * head_dim, 0.0f);
        std::fill_n(to_lse + at, queries, -std::numeric_limits<float>::infinity());
    };
    const SumsRoom sums{run * group, wide};
    const int64_t scores_size = run * group * kSplit;

    if (items >= 2 * threads || splits <= 1) {  // a thread folds the splits of its items as they come
        const int64_t room_of_part = scores_size + 2 * sums.size();
        std::vector<float> room(static_cast<size_t>(threads * room_of_part));
        parallel_parts(0, items, 1, [&](int64_t first, int64_t last, int64_t part) {
            float* scores = room.data() + part * room_of_part;
            const AttentionSums all = sums.at(scores + scores_size);
            const AttentionSums more = sums.at(scores + scores_size + sums.size());
            for (int64_t item = first; item < last; ++item) {
                const AttentionArgs a = arguments(item);
                if (a.position < 0) {
                    write_nothing(item, a);
                    continue;
                }
                const int64_t first_split = a.first / kSplit;
                attend(a, first_split, scores, all);
                for (int64_t split = first_split + 1; split <= a.position / kSplit; ++split) {
                    attend(a, split, scores, more);
                    fold(a, more, all);
                }
                write(item, a, all);
            }
        });
    } else {  // few items: their splits side by side, then folded in order
        std::vector<float> parts(static_cast<size_t>(items * splits * sums.size()));
        parallel_for(0, items * splits, 1, [&](int64_t first, int64_t last) {
            std::vector<float> scores(static_cast<size_t>(scores_size));
            for (int64_t at = first; at < last; ++at) {
                const AttentionArgs a = arguments(at / splits);
                const int64_t split = at % splits;
                if (a.position >= 0 && split >= a.first / kSplit && split <= a.position / kSplit)
                    attend(a, split, scores.data(), sums.at(parts.data() + at * sums.size()));
            }
        });
        for (int64_t item = 0; item < items; ++item) {
            const AttentionArgs a = arguments(item);
            if (a.position < 0) {
                write_nothing(item, a);
                continue;
            }
            const auto part = [&](int64_t split) {
                return sums.at(parts.data() + (item * splits + split) * sums.size());
            };
            const AttentionSums all = part(a.first / kSplit);
            for (int64_t split = a.first / kSplit + 1; split <= a.position / kSplit; ++split) fold(a, part(split), all);
            write(item, a, all);
        }
    }
    return {out, lse};
}

}  // namespace
}  // namespace gm

STABLE_TORCH_LIBRARY_IMPL(gmkern, CPU, m) { m.impl("attention", TORCH_BOX(&gm::attention)); }
