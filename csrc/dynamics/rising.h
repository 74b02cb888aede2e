// A set of atoms that gives them in order: by bits set for the atoms and read from the first word on, a summary saying
// which words have some. No comparison is made.
#pragma once

#include <cstdint>
#include <vector>

namespace gm {

class Rising {
 public:
    explicit Rising(int64_t atoms) : bits_(words(atoms), 0), summary_(words(static_cast<int64_t>(bits_.size())), 0) {}

    // Whether the atom is new.
    bool add(int32_t number) {
        const auto atom = static_cast<uint32_t>(number);
        const uint64_t bit = uint64_t{1} << (atom & 63);
        const bool is_new = (bits_[atom >> 6] & bit) == 0;
        bits_[atom >> 6] |= bit;
        summary_[atom >> 12] |= uint64_t{1} << (atom >> 6 & 63);
        return is_new;
    }
    // f(atom) for each, rising; the set is empty then.
    template <class F>
    void take(const F& f) {
        for (size_t high = 0; high < summary_.size(); ++high)
            for (; summary_[high] != 0; summary_[high] &= summary_[high] - 1) {
                const size_t word = high << 6 | lowest(summary_[high]);
                for (; bits_[word] != 0; bits_[word] &= bits_[word] - 1)
                    f(static_cast<int32_t>(word << 6 | lowest(bits_[word])));
            }
    }

 private:
    static size_t words(int64_t bits) { return static_cast<size_t>((bits + 63) / 64); }
    static size_t lowest(uint64_t word) { return static_cast<size_t>(__builtin_ctzll(word)); }
    std::vector<uint64_t> bits_, summary_;
};

}  // namespace gm
