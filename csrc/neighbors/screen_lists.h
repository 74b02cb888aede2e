// What a screened search keeps of each query of a slab: the list of its candidates. And the order in which the parts
// of one set meet each other.
#pragma once

#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "common/parallel.h"
#include "neighbors/neighbors.h"

namespace gm {

class CandidateLists {
 public:
    CandidateLists(int64_t rows, int64_t capacity, int64_t k, float stretch)
        : entries_(new char[static_cast<size_t>(rows * kEntryBytes * capacity)]),
          reach_(static_cast<size_t>(rows)),
          counts_(reach_.size()),
          next_(reach_.size()),
          capacity_(capacity),
          k_(k),
          stretch_(stretch) {}

    static constexpr int64_t kEntryBytes = 12;  // a square, a residual, an index

    // An empty list. A query that has no lattice is not screened.
    void begin(int64_t row, const Lattice& own) {
        const bool boundless = std::isinf(own.residuals[0]);
        const auto i = static_cast<size_t>(row);
        counts_[i] = boundless ? -1 : 0;
        next_[i] = static_cast<int32_t>(2 * k_ + 32);
        reach_[i] = boundless ? std::numeric_limits<float>::quiet_NaN() : std::numeric_limits<float>::infinity();
    }
    // The lists from `row` on, whose lattice is `own`. A row's three arrays lie together.
    Candidates at(int64_t row, const Lattice& own) {
        char* entries = entries_.get() + row * kEntryBytes * capacity_;
        return Candidates{reinterpret_cast<float*>(entries),
                          reinterpret_cast<float*>(entries) + capacity_,
                          reinterpret_cast<uint32_t*>(entries) + 2 * capacity_,
                          counts_.data() + row,
                          next_.data() + row,
                          reach_.data() + row,
                          own.norms,
                          own.residuals,
                          capacity_,
                          3 * capacity_,
                          k_,
                          stretch_};
    }

 private:
    std::unique_ptr<char[]> entries_;
    std::vector<float> reach_;
    std::vector<int32_t> counts_, next_;
    int64_t capacity_, k_;
    float stretch_;
};

// The parts of `rows` rows of one set, if there are enough of them for every thread: an even number. Else 0.
inline int64_t parts_of(int64_t rows) {
    constexpr int64_t kLeastRows = 256, kMostParts = 256;
    const int64_t parts = std::min(kMostParts, rows / kLeastRows) / 2 * 2;
    return parts >= 2 * num_threads() && parts >= 8 ? parts : 0;
}

// meet(a, b) for each part with itself and once for each two parts, in parallel: a part is in one meeting at a time.
// Two parts meet as in a round-robin tournament: the last stays, the others go round.
template <class Meet>
inline void each_meeting(int64_t parts, const Meet& meet) {
    parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
        for (int64_t part = begin; part < end; ++part) meet(part, part);
    });
    const int64_t turn = parts - 1;
    for (int64_t round = 0; round < turn; ++round)
        parallel_for(0, parts / 2, 1, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) meet((round + i) % turn, i == 0 ? turn : (round + turn - i) % turn);
        });
}

}  // namespace gm
