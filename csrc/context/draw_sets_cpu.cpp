// Sets of distinct rows: the first steps of a Fisher-Yates shuffle of 0 ... M - 1, of which only what moved is kept.
#include <algorithm>
#include <cstring>
#include <torch/csrc/stable/library.h>
#include <tuple>
#include <vector>

#include "common/check.h"
#include "common/new_tensor.h"
#include "common/noise.h"
#include "common/parallel.h"

namespace gm {
namespace {

// A permutation of 0 ... M - 1 that is the identity where nothing was put: open addressing, at most half full.
class Moved {
 public:
    explicit Moved(int64_t most) {
        size_t slots = 4;
        while (slots < 2 * static_cast<size_t>(most)) slots *= 2;
        keys_.resize(slots);
        values_.resize(slots);
    }
    void clear() { std::fill(keys_.begin(), keys_.end(), -1); }
    int64_t operator[](int64_t key) const {
        const size_t slot = find(key);
        return keys_[slot] == key ? values_[slot] : key;
    }
    void put(int64_t key, int64_t value) {
        const size_t slot = find(key);
        keys_[slot] = key;
        values_[slot] = value;
    }

 private:
    size_t find(int64_t key) const {
        size_t slot = mix64(static_cast<uint64_t>(key)) & (keys_.size() - 1);
        while (keys_[slot] != key && keys_[slot] != -1) slot = (slot + 1) & (keys_.size() - 1);
        return slot;
    }
    std::vector<int64_t> keys_, values_;
};

// Word i of 64 bits: words 2i (low) and 2i + 1 (high) of the row's noise, as for float64 draws.
uint64_t word64(NoiseKey key, int64_t id, int64_t i) {
    const Words4<uint32_t> block = noise_block<uint32_t>(key, id, 0, static_cast<uint32_t>(i / 2));
    const int at = static_cast<int>(i % 2) * 2;
    return block.w[at] | static_cast<uint64_t>(block.w[at + 1]) << 32;
}

// floor(word count / 2^64): each of 0 ... count - 1 with probability 1 / count, to within 2^-64. count < 2^31.
int64_t below(int64_t count, uint64_t word) {
    const auto n = static_cast<uint64_t>(count);
    return static_cast<int64_t>(((word >> 32) * n + ((word & 0xFFFFFFFFu) * n >> 32)) >> 32);
}

std::tuple<Tensor, Tensor> draw_sets(const Tensor& train, const Tensor& seed, const Tensor& sample_ids, int64_t size) {
    GM_CHECK(train.dim() >= 1, "train: got shape ", shape_text(train), "; takes at least 1 dimension");
    check_contiguous_cpu("train", train);
    check_dim("sample_ids", sample_ids, 1);
    check_dtype("sample_ids", sample_ids, ScalarType::Long);
    check_contiguous_cpu("sample_ids", sample_ids);
    const int64_t count = train.size(0), sets = sample_ids.size(0);
    const PerRow seeds = per_row("seed", seed, sets);
    GM_CHECK(count < int64_t(1) << 31, "train: got ", count, " points; takes fewer than 2^31");
    GM_CHECK(size >= 1 && size <= count, "size: got ", size, "; takes 1 to ", count, ", the number of points");

    std::vector<int64_t> shape{sets, size};
    for (int64_t axis = 1; axis < train.dim(); ++axis) shape.push_back(train.size(axis));
    Tensor indices = new_tensor({sets, size}, ScalarType::Long);
    Tensor points = new_tensor(shape, train.scalar_type());
    const int64_t bytes = count == 0 ? 0 : train.numel() / count * static_cast<int64_t>(train.element_size());
    const auto* from = static_cast<const char*>(train.const_data_ptr());
    auto* to = static_cast<char*>(points.mutable_data_ptr());
    auto* chosen = indices.mutable_data_ptr<int64_t>();
    const int64_t* ids = sample_ids.const_data_ptr<int64_t>();
    const int64_t grain = std::max<int64_t>(1, 4096 / (size * (1 + bytes / 256)));
    parallel_for(0, sets, grain, [&](int64_t begin, int64_t end) {
        Moved moved(size);
        for (int64_t set = begin; set < end; ++set) {
            const NoiseKey key = noise_key(seeds[set], kStreamContext);
            moved.clear();
            for (int64_t i = 0; i < size; ++i) {
                const int64_t at = i + below(count - i, word64(key, ids[set], i));
                const int64_t index = moved[at];
                moved.put(at, moved[i]);  // place i itself is not looked at again
                chosen[set * size + i] = index;
                if (bytes > 0) std::memcpy(to + (set * size + i) * bytes, from + index * bytes, bytes);
            }
        }
    });
    return {points, indices};
}

}  // namespace
}  // namespace gm

STABLE_TORCH_LIBRARY_IMPL(gmkern, CPU, m) { m.impl("draw_sets", TORCH_BOX(&gm::draw_sets)); }
