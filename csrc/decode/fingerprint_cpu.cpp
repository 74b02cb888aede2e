// A number that changes when any byte of some tensors changes. Each step of the hash is a bijection of the state and of
// the word it takes in, so a change within one word is always seen; of others, one in 2^64 is not.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "common/check.h"
#include "common/new_tensor.h"
#include "common/parallel.h"

namespace gm {
namespace {

constexpr int64_t kChunk = 1 << 20;  // bytes hashed by one thread at a time

uint64_t mix(uint64_t state, uint64_t word) {
    state = (state ^ word) * 0x9E3779B97F4A7C15u;
    return state ^ (state >> 32);
}

// Eight states, each over an eighth of the bytes: memory gives more to a reader of several places. They stay in general
// registers, where a 64-bit product is one instruction on every processor.
#if defined(__GNUC__) && !defined(__clang__)
__attribute__((optimize("no-tree-vectorize", "no-tree-slp-vectorize")))
#endif
uint64_t hash(const char* from, int64_t bytes) {
    uint64_t lane[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    const int64_t part = bytes / 64 * 8;
    for (int64_t at = 0; at < part; at += 8)
        for (int i = 0; i < 8; ++i) {
            uint64_t word;
            std::memcpy(&word, from + i * part + at, 8);
            lane[i] = mix(lane[i], word);
        }
    uint64_t rest[8] = {};
    std::memcpy(rest, from + 8 * part, static_cast<size_t>(bytes - 8 * part));
    uint64_t all = static_cast<uint64_t>(bytes);
    for (int i = 0; i < 8; ++i) all = mix(all, mix(lane[i], rest[i]));
    return all;
}

Tensor fingerprint(const std::vector<Tensor>& tensors) {
    struct Piece {
        const char* from;
        int64_t bytes;
    };
    std::vector<Piece> pieces;
    for (const Tensor& t : tensors) {
        check_contiguous_cpu("tensors", t);
        const auto* from = static_cast<const char*>(t.const_data_ptr());
        const int64_t bytes = t.numel() * t.element_size();
        for (int64_t at = 0; at < bytes; at += kChunk) pieces.push_back({from + at, std::min(kChunk, bytes - at)});
    }
    std::vector<uint64_t> hashes(pieces.size());
    parallel_for(0, static_cast<int64_t>(pieces.size()), 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
            const auto at = static_cast<size_t>(i);
            hashes[at] = hash(pieces[at].from, pieces[at].bytes);
        }
    });
    uint64_t all = tensors.size();
    for (const uint64_t h : hashes) all = mix(all, h);
    Tensor out = new_tensor({1}, ScalarType::Long);
    *out.mutable_data_ptr<int64_t>() = static_cast<int64_t>(all);
    return out;
}

}  // namespace
}  // namespace gm

STABLE_TORCH_LIBRARY_IMPL(gmkern, CPU, m) { m.impl("fingerprint", TORCH_BOX(&gm::fingerprint)); }
