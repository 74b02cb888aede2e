// From tensors to packed points: dtypes, the search for the first value that is not finite, and the two layouts.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>
#include <memory>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "common/check.h"
#include "common/parallel.h"
#include "neighbors/neighbors.h"

namespace gm {

inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// 1, 2, 3, 4, 8, 16 or a multiple of 16: the widths that the bodies know.
inline int64_t packed_width(int64_t dim) { return dim <= 4 ? dim : dim <= 8 ? 8 : round_up(dim, 16); }

// f(const T* of the tensor's dtype): float, double, BFloat16 or Half.
template <class Function>
inline auto with_points(const char* name, const Tensor& t, const Function& f) {
    switch (t.scalar_type()) {
        case ScalarType::Float:
            return f(t.const_data_ptr<float>());
        case ScalarType::Double:
            return f(t.const_data_ptr<double>());
        case ScalarType::BFloat16:
            return f(static_cast<const torch::headeronly::BFloat16*>(t.const_data_ptr()));
        case ScalarType::Half:
            return f(static_cast<const torch::headeronly::Half*>(t.const_data_ptr()));
        default:
            fail(name, ": got dtype ", torch::headeronly::toString(t.scalar_type()),
                 "; takes Float, Double, BFloat16 or Half");
    }
}

template <class Bits, class T>
inline Bits all_bits_set(T value, Bits exponent) {
    Bits bits;
    std::memcpy(&bits, &value, sizeof(bits));
    return static_cast<Bits>((bits & exponent) == exponent);
}
// 1 or 0, as wide as the number, for the vectors of check_finite.
inline uint32_t not_finite(float x) { return all_bits_set<uint32_t>(x, 0x7f800000u); }
inline uint64_t not_finite(double x) { return all_bits_set<uint64_t>(x, 0x7ff0000000000000ull); }
inline uint16_t not_finite(torch::headeronly::BFloat16 x) { return all_bits_set<uint16_t>(x, 0x7f80u); }
inline uint16_t not_finite(torch::headeronly::Half x) { return all_bits_set<uint16_t>(x, 0x7c00u); }

// Refuses NaN and infinities, naming the first: [row, d], or [b, row, d] in a batch of several.
template <class T>
inline void check_finite(const char* name, const T* data, int64_t batch, int64_t rows, int64_t dim) {
    constexpr int64_t kStep = 4096;
    const int64_t total = batch * rows * dim, steps = (total + kStep - 1) / kStep;
    std::atomic<int64_t> first{steps};
    parallel_for(0, steps, 64, [&](int64_t begin, int64_t end) {
        for (int64_t step = begin; step < end; ++step) {
            const int64_t stop = std::min(total, (step + 1) * kStep);
            decltype(not_finite(*data)) found = 0;
            for (int64_t i = step * kStep; i < stop; ++i)
                found = static_cast<decltype(found)>(found | not_finite(data[i]));
            if (found == 0) continue;
            int64_t before = first.load();
            while (step < before && !first.compare_exchange_weak(before, step)) {
            }
            return;  // later steps of this range hold nothing earlier
        }
    });
    if (first == steps) return;
    int64_t i = first * kStep;
    while (!not_finite(data[i])) ++i;
    std::ostringstream where;
    if (batch > 1) where << i / (rows * dim) << ", ";
    where << i / dim % rows << ", " << i % dim;
    const double value = static_cast<double>(data[i]);
    fail(name, ": got ",
         value != value ? "nan"
         : value > 0    ? "inf"
                        : "-inf",
         " at [", where.str(), "]; takes finite numbers");
}

// Rows [begin, end) of T [., dim] as F [., width]; the rows up to `padded` and the coordinates from dim on are 0.
template <class F, class T>
inline void pack_rows(F* to, const T* from, int64_t begin, int64_t end, int64_t padded, int64_t dim, int64_t width) {
    for (int64_t row = begin; row < end; ++row, to += width) {
        for (int64_t d = 0; d < dim; ++d) to[d] = static_cast<F>(from[row * dim + d]);
        std::fill(to + dim, to + width, F(0));
    }
    std::fill(to, to + (padded - (end - begin)) * width, F(0));
}

// The references [begin, end), end - begin <= 16, as one group of neighbors.h's layout.
template <class F, class T>
inline void pack_group(F* to, const T* from, int64_t begin, int64_t end, int64_t dim, int64_t width) {
    if (width > kLowWidth) return pack_rows(to, from, begin, end, kGroup, dim, width);
    std::fill(to, to + width * kGroup, F(0));
    for (int64_t row = begin; row < end; ++row)
        for (int64_t d = 0; d < dim; ++d) to[d * kGroup + row - begin] = static_cast<F>(from[row * dim + d]);
}

// Two tensors of points, checked: [B, N, D] and [B, M, D] of one dtype.
struct Points {
    int64_t batch, queries, references, dim, width;
};
inline Points check_points(const Tensor& queries, const Tensor& references, bool exclude_self) {
    check_dim("queries", queries, 3);
    check_dim("references", references, 3);
    check_contiguous_cpu("queries", queries);
    check_contiguous_cpu("references", references);
    check_dtype("references", references, queries.scalar_type());
    const Points p{queries.size(0), queries.size(1), references.size(1), queries.size(2),
                   packed_width(queries.size(2))};
    check_size("references", references, 0, p.batch);
    check_size("references", references, 2, p.dim);
    GM_CHECK(p.dim >= 1, "queries: got shape ", shape_text(queries), "; takes at least one coordinate");
    GM_CHECK(p.references < int64_t(1) << 32, "references: got ", p.references, " rows; takes fewer than 2^32");
    GM_CHECK(!exclude_self || p.queries == p.references, "exclude_self: got ", p.queries, " queries and ", p.references,
             " references; takes as many of both (reference i is query i)");
    return p;
}
template <class T>
inline void check_points_finite(const Tensor& queries, const Tensor& references, const Points& p, const T*) {
    check_finite("queries", static_cast<const T*>(queries.const_data_ptr()), p.batch, p.queries, p.dim);
    if (queries.const_data_ptr() != references.const_data_ptr() || p.queries != p.references)
        check_finite("references", static_cast<const T*>(references.const_data_ptr()), p.batch, p.references, p.dim);
}

// The working set of one pass: queries of a slab are packed once, references a block at a time.
// Memory beyond inputs and outputs: kSlabBytes for the slab and its reducer's state (or a few rows for each thread
// where a row needs more), kBlockBytes for the block (or `block_rows` references).
constexpr int64_t kSlabBytes = int64_t(64) << 20, kBlockBytes = int64_t(512) << 10;

struct Blocking {
    int64_t slab, block;  // rows
};
inline Blocking blocking(const Points& p, int64_t queries, int64_t real_bytes, int64_t state_bytes,
                         int64_t block_rows) {
    const int64_t row = p.width * real_bytes;
    const int64_t least = kQueryTile * num_threads();
    const int64_t slab = std::min(round_up(queries, kQueryTile),
                                  round_up(std::max(kSlabBytes / (row + state_bytes), least), kQueryTile));
    const int64_t wanted = block_rows > 0 ? block_rows : std::clamp<int64_t>(kBlockBytes / row, 64, 16384);
    return {slab, std::min(round_up(p.references, kGroup), round_up(wanted, kGroup))};
}

// Queries of one batch: rows 0 .. count - 1, or those of a list.
struct Rows {
    const int64_t* list;
    int64_t count;
    int64_t operator[](int64_t i) const { return list != nullptr ? list[i] : i; }
};

// For each slab of queries: begin(first, count), then body(row of the slab, Sweep) for pieces of it against each block
// of references, in parallel, then finish(first, count). A query meets references in the order of their index.
template <class F, class T, class Begin, class Body, class Finish>
inline void run_sweeps(const T* queries, const T* references, const Points& p, const Rows& chosen, bool exclude_self,
                       const Blocking& rows, const Begin& begin, const Body& body, const Finish& finish) {
    const auto slab = std::make_unique<F[]>(static_cast<size_t>(rows.slab * p.width));
    const auto block = std::make_unique<F[]>(static_cast<size_t>(rows.block * p.width));
    const auto selves = std::make_unique<int64_t[]>(exclude_self ? static_cast<size_t>(rows.slab) : 0);
    for (int64_t q = 0; q < chosen.count; q += rows.slab) {
        const int64_t count = std::min(rows.slab, chosen.count - q);
        for (int64_t i = 0; i < count; ++i) {
            const int64_t row = chosen[q + i];
            pack_rows(slab.get() + i * p.width, queries, row, row + 1, 1, p.dim, p.width);
            if (exclude_self) selves[static_cast<size_t>(i)] = row;
        }
        begin(q, count);
        for (int64_t r = 0; r < p.references; r += rows.block) {
            const int64_t held = std::min(rows.block, p.references - r);
            parallel_for(0, (held + kGroup - 1) / kGroup, 16, [&](int64_t from, int64_t to) {
                for (int64_t g = from; g < to; ++g)
                    pack_group(block.get() + g * kGroup * p.width, references, r + g * kGroup,
                               std::min(r + (g + 1) * kGroup, r + held), p.dim, p.width);
            });
            parallel_for(0, (count + kQueryTile - 1) / kQueryTile, 1, [&](int64_t from, int64_t to) {
                const int64_t first = from * kQueryTile;
                body(first, Sweep<F>{slab.get() + first * p.width, exclude_self ? selves.get() + first : nullptr,
                                     std::min(to * kQueryTile, count) - first, block.get(), r, held, p.width});
            });
        }
        finish(q, count);
    }
}

}  // namespace gm
