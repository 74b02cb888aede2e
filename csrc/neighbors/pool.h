// The candidates of one query as plain arrays of distances and indices, appended and sifted by whole vectors. For body
// files.
#pragma once

#include "neighbors/select.h"
#include "neighbors/sweep.h"

GM_NAMESPACE_BEGIN

// Writes the lanes of `bits` from `to` on, in their order, and returns their number; there is room for sixteen.
template <class T>
GM_HD int compress(T* to, uint32_t bits, const x16<T>& from) {
    alignas(64) T lanes[16];
    from.store(lanes);
    int count = 0;
    for (; bits != 0; bits &= bits - 1) to[count++] = lanes[__builtin_ctz(bits)];
    return count;
}
#if defined(__AVX512F__)
GM_HD int compress(float* to, uint32_t bits, const f32x16& from) {
    _mm512_storeu_ps(to, _mm512_maskz_compress_ps(static_cast<__mmask16>(bits), (__m512)from.p[0]));
    return __builtin_popcount(bits);
}
GM_HD int compress(uint32_t* to, uint32_t bits, const u32x16& from) {
    _mm512_storeu_si512(to, _mm512_maskz_compress_epi32(static_cast<__mmask16>(bits), (__m512i)from.p[0]));
    return __builtin_popcount(bits);
}
#endif

// A value that at least k of n >= k numbers >= 0 do not pass, and few more: bisection, for the k-th smallest itself is
// not needed. There is room for a whole vector behind the last.
template <class F>
inline F near_kth_smallest(F* numbers, int64_t n, int64_t k) {
    constexpr F kInfinity = static_cast<F>(__builtin_inff());
    for (int64_t i = n; i % 16 != 0; ++i) numbers[i] = kInfinity;
    const auto within = [&](F bound) {
        int64_t count = 0;
        for (int64_t i = 0; i < n; i += 16)
            count += __builtin_popcount(bits_le(x16<F>::load(numbers + i), x16<F>(bound)));
        return count;
    };
    x16<F> most(F(0)), least(kInfinity);
    for (int64_t i = 0; i < n; i += 16) {
        const x16<F> v = x16<F>::load(numbers + i);
        most = select(v < x16<F>(kInfinity), max(most, v), most);
        least = min(least, v);
    }
    F low = -max_lanes(-least), high = max_lanes(most);
    if (within(high) < k) return kInfinity;
    for (int step = 0; step < 16; ++step) {
        const F middle = F(0.5) * low + F(0.5) * high;
        const int64_t count = within(middle);
        (count >= k ? high : low) = middle;
        if (count == k) break;
    }
    return high;
}

template <class F>
class Pool {
 public:
    static constexpr int64_t kMost = 256;  // neighbours

    explicit Pool(int64_t k) : k_(k), room_(2 * k + 32) {}

    // Appends the points of `bits`. True when there is no more room: then draw_in().
    GM_HD bool add(const uint32_t* index, uint32_t bits, const x16<F>& distances) {
        compress(distances_ + count_, bits, distances);
        count_ += compress(index_ + count_, bits, u32x16::load(index));
        return count_ > room_ - kGroup;
    }
    // Drops what is not among the k nearest, or nearly. A distance that the k-th does not pass comes back.
    __attribute__((noinline)) F draw_in() {
        F kth = near_kth_smallest(distances_, count_, k_);
        int64_t kept = 0;
        for (int64_t i = 0; i < count_; i += kGroup) {
            const int64_t lanes = count_ - i < kGroup ? count_ - i : kGroup;
            const x16<F> d = x16<F>::load(distances_ + i);
            const uint32_t bits = bits_le(d, x16<F>(kth)) & ((1u << lanes) - 1);
            const u32x16 numbers = u32x16::load(index_ + i);
            compress(distances_ + kept, bits, d);
            kept += compress(index_ + kept, bits, numbers);
        }
        count_ = kept;
        if (kept > k_ + k_ / 2 || kth == F(0)) {  // many at one distance: keys tell them apart
            Key keys[kRoom];
            kth = key_distance(keys[to_keys(keys) - 1]);
            for (int64_t i = 0; i < k_; ++i) {
                distances_[i] = key_distance(keys[i]);
                index_[i] = static_cast<uint32_t>(key_index(keys[i]));
            }
            count_ = k_;
            last_ = index_[k_ - 1];
        }
        return kth;
    }
    // The index of the k-th nearest so far, where draw_in said 0.
    int64_t kth_index() const { return last_; }
    // The k nearest in order; fewer where there are not as many.
    int64_t finish(typename KeyOf<F>::type* keys) {
        if (count_ > k_) draw_in();
        if (sort_by_distance(keys)) return k_ < count_ ? k_ : count_;
        Key all[kRoom];
        const int64_t held = to_keys(all);
        for (int64_t i = 0; i < held; ++i) keys[i] = all[i];
        return held;
    }

 private:
    using Key = typename KeyOf<F>::type;
    static constexpr int64_t kRoom = 2 * kMost + 32 + kGroup;

    // All of them, the k smallest first and in order; returns the number of those.
    int64_t to_keys(Key* keys) const {
        for (int64_t i = 0; i < count_; ++i) keys[i] = make_key(distances_[i], index_[i]);
        const int64_t held = count_ < k_ ? count_ : k_;
        keep_smallest(keys, count_, held);
        for (int64_t i = 1; i < held; ++i) {  // few come here
            const Key key = keys[i];
            int64_t j = i;
            for (; j > 0 && key < keys[j - 1]; --j) keys[j] = keys[j - 1];
            keys[j] = key;
        }
        return held;
    }
    // By counting for each those nearer: n^2 comparisons without a branch. False, and nothing done, where some tie.
    bool sort_by_distance(Key* keys) {
        using Rank = typename MaskOf<F>::type;
        constexpr int kVectors = 4;
        alignas(64) Rank rank[kRoom];
        for (int64_t i = count_; i % kGroup != 0; ++i) distances_[i] = static_cast<F>(__builtin_inff());
        int64_t sum = 0;
        for (int64_t i = 0; i < count_; i += kVectors * kGroup) {
            x16<F> own[kVectors];
            x16<Rank> above[kVectors];
#pragma GCC unroll 4
            for (int v = 0; v < kVectors; ++v) {
                own[v] = x16<F>::load(distances_ + (i + v * kGroup < count_ ? i + v * kGroup : i));
                above[v] = x16<Rank>(Rank(0));
            }
            for (int64_t j = 0; j < count_; ++j) {
                const x16<F> other(distances_[j]);
#pragma GCC unroll 4
                for (int v = 0; v < kVectors; ++v) above[v] = above[v] - (other < own[v]);
            }
            for (int v = 0; v < kVectors && i + v * kGroup < count_; ++v) above[v].store(rank + i + v * kGroup);
        }
        for (int64_t i = 0; i < count_; ++i) sum += static_cast<int64_t>(rank[i]);
        if (sum != count_ * (count_ - 1) / 2) return false;
        for (int64_t i = 0; i < count_; ++i)
            if (rank[i] < static_cast<Rank>(k_)) keys[rank[i]] = make_key(distances_[i], index_[i]);
        return true;
    }

    const int64_t k_, room_;
    int64_t count_ = 0, last_ = 0;
    alignas(64) F distances_[kRoom];
    alignas(64) uint32_t index_[kRoom];
};

GM_NAMESPACE_END
