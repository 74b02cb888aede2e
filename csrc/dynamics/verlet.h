// Verlet lists of the systems that one worker takes: every pair within the largest cutoff and a skin, found by cells,
// and found again when an atom has moved half the skin. That is for time alone: the sweeps give the bits of all pairs.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "dynamics/batch.h"
#include "dynamics/cells.h"
#include "dynamics/rising.h"
#include "dynamics/workers.h"

namespace gm {

// The largest cutoff of a potential's pair terms: 0 without such terms, inf where one has none.
inline double largest_cutoff(const FieldArgs& field) {
    double most = 0.0;
    const double* q = field.parameters;
    for (int64_t t = 0; t < field.terms; q += field.sizes[t++])
        for (int64_t at = 0; is_pair(field.kinds[t]) && at < field.sizes[t]; at += kPairParameters)
            most = std::max(most, q[at + kCutoff]);
    return most;
}

template <class R>
class VerletLists {
 public:
    // For systems of up to `largest` atoms, lists being for those of `fewest` or more, on up to `threads` threads.
    // skin: in cutoffs; 0 for positions that are looked at once.
    VerletLists(const FieldArgs& field, int64_t largest, int64_t fewest, double skin, int64_t threads)
        : field_(field), fewest_(fewest), cutoff_(largest_cutoff(field)), skin_(skin) {
        serves_ = cutoff_ > 0.0 && cutoff_ < 0x1p60 && largest >= fewest && largest < (int64_t{1} << 31);
        if (!serves_) return;
        const auto lanes = static_cast<size_t>((largest + 15) / 16 * 16);
        listed_.resize(static_cast<size_t>(field.dim) * lanes);
        packed_.resize(4 * lanes);
        packed_u_.resize(4 * lanes);
        searches_.resize(static_cast<size_t>(threads), Search(largest));
    }

    // What the body takes for system `index` of `count` atoms, or nullptr where lists are of no use.
    Neighbors<R>* of(int64_t index, int64_t count, const Crew& crew) {
        if (!serves_ || count < fewest_) return nullptr;
        count_ = count;
        crew_ = crew;
        frame_ = frame_of(index);
        hopeless_ = false;
        face_ = {this, &VerletLists::list, nullptr, nullptr, listed_.data(), packed_.data(), packed_u_.data(), R(-1)};
        return &face_;
    }

 private:
    static constexpr int64_t kQueries = 256;  // of one task

    struct Search {  // one worker's
        explicit Search(int64_t atoms) : rising(atoms) {}
        Rising rising;
        std::vector<Segment> segments;
        std::vector<Near> near;
    };
    struct Task {
        std::vector<int32_t> found;  // of one atom after another
        std::vector<size_t> first;
    };

    static size_t index(int64_t i) { return static_cast<size_t>(i); }

    static bool list(Neighbors<R>& face, const R* x) { return static_cast<VerletLists*>(face.self)->make(x); }

    bool make(const R* x) {
        face_.most = R(-1);
        if (hopeless_) return false;
        const int64_t dim = field_.dim, stride = (count_ + 15) / 16 * 16;
        rows_.resize(index(count_ * dim));
        double size = cutoff_;
        for (int64_t d = 0; d < dim; ++d)
            for (int64_t i = 0; i < count_; ++i) {
                const R own = x[d * stride + i];
                if (!(std::fabs(static_cast<double>(own)) < 0x1p100)) return false;
                size = std::max(size, std::fabs(static_cast<double>(own)));
                rows_[index(i * dim + d)] = own;
            }
        const Skin skin = skin_of(frame_, cutoff_, skin_, size, static_cast<double>(std::numeric_limits<R>::epsilon()));
        if (!skin.serves) return false;
        find(Cells(rows_.data(), count_, dim, frame_, skin.radius, 1.0));
        if (hopeless_) return false;
        std::copy(x, x + dim * stride, listed_.begin());
        face_.tiles = tiles_.data();
        face_.lengths = lengths_.data();
        face_.most = static_cast<R>(skin.half * skin.half);
        return true;
    }

    void find(const Cells& cells) {
        const int64_t tasks = (count_ + kQueries - 1) / kQueries;
        tasks_.resize(std::max(tasks_.size(), index(tasks)));
        row_.resize(index(count_));
        found_.resize(index(count_));
        const auto near_atoms = GM_CALL_ISA(near_atoms);
        shared(crew_, tasks, [&](int64_t t, int64_t worker) {
            search(cells, kQueries * t, std::min(kQueries * (t + 1), count_), near_atoms, tasks_[index(t)],
                   searches_[index(worker)]);
        });
        const int64_t tiles = (count_ + 15) / 16;
        lists_.resize(std::max(lists_.size(), index(tiles)));
        tiles_.resize(index(tiles));
        lengths_.resize(index(tiles));
        int64_t all = 0;
        for (int64_t t = 0; t < tiles; ++t) {
            int64_t most = 0;
            for (int64_t i = 16 * t; i < std::min(16 * t + 16, count_); ++i) most = std::max(most, found_[index(i)]);
            lengths_[index(t)] = most;
            all += 16 * most;
        }
        hopeless_ = 3 * all > count_ * count_;
        if (hopeless_) return;
        shared(crew_, tiles, [&](int64_t t, int64_t) {
            std::vector<int32_t>& list = lists_[index(t)];
            const int64_t length = lengths_[index(t)];
            list.resize(index(16 * length));
            for (int64_t lane = 0; lane < 16; ++lane) {
                const int64_t i = std::min(16 * t + lane, count_ - 1);
                const int32_t* from = row_[index(i)];
                for (int64_t n = 0; n < length; ++n)
                    list[index(16 * n + lane)] = n < found_[index(i)] ? from[n] : static_cast<int32_t>(i);
            }
            tiles_[index(t)] = list.data();
        });
    }

    // The lists of the atoms begin, begin + 1, ... in the order of cells.
    void search(const Cells& cells, int64_t begin, int64_t end, int64_t (*near_atoms)(const NearArgs&, Near*),
                Task& task, Search& own) {
        task.found.clear();
        task.first.clear();
        int64_t cell = -1;
        for (int64_t at = begin; at < end; ++at) {
            task.first.push_back(task.found.size());
            if (cells.cell_of(at) != cell) {
                cell = cells.cell_of(at);
                own.near.resize(index(cells.segments(cell, own.segments)));
            }
            NearArgs args = cells.near(at);
            args.segments = own.segments.data();
            args.count = static_cast<int64_t>(own.segments.size());
            const int64_t i = cells.atom(at), count = near_atoms(args, own.near.data());
            for (int64_t n = 0; n < count; ++n) {
                const int64_t j = cells.atom(own.near[index(n)].at);
                if (j != i) own.rising.add(static_cast<int32_t>(j));  // its images once
            }
            own.rising.take([&](int32_t j) { task.found.push_back(j); });
        }
        task.first.push_back(task.found.size());
        for (int64_t at = begin; at < end; ++at) {
            const size_t n = index(at - begin);
            row_[index(cells.atom(at))] = task.found.data() + task.first[n];
            found_[index(cells.atom(at))] = static_cast<int64_t>(task.first[n + 1] - task.first[n]);
        }
    }

    Frame frame_of(int64_t system) const {
        const int64_t dim = field_.dim, at = field_.boxes > 1 ? system * dim * dim : 0;
        if (field_.boxes == 0) return frame_of_box(nullptr, nullptr, dim);
        return frame_of_box(field_.cell + at, field_.inverse + at, dim);
    }

    FieldArgs field_;
    Crew crew_;
    int64_t fewest_, count_ = 0;
    double cutoff_, skin_;
    bool serves_;
    Frame frame_;
    bool hopeless_ = false;
    Neighbors<R> face_;
    std::vector<R> rows_, listed_, packed_, packed_u_;
    std::vector<Search> searches_;
    std::vector<Task> tasks_;
    std::vector<const int32_t*> row_;
    std::vector<int64_t> found_;
    std::vector<std::vector<int32_t>> lists_;
    std::vector<const int32_t*> tiles_;
    std::vector<int64_t> lengths_;
};

// The lists of each team.
template <class R>
std::vector<VerletLists<R>> lists_of(const Workers& workers, const Batch& b, int64_t fewest, double skin) {
    std::vector<VerletLists<R>> lists;
    lists.reserve(static_cast<size_t>(workers.teams()));
    for (int64_t t = 0; t < workers.teams(); ++t)
        lists.emplace_back(b.field, b.largest, fewest, skin, workers.threads());
    return lists;
}

}  // namespace gm
