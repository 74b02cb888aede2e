// The search of a tree by sixteen queries that lie near each other: boxes are left out for all of them, and a point
// meets them in the lanes of one vector. Compiled once per instruction set.
#include "neighbors/select.h"
#include "neighbors/tree_limits.h"

namespace gm {
inline namespace GM_ISA {

void tree_search_fp32(const TreeSearch<float>&);  // tree_body.inl
void tree_search_fp64(const TreeSearch<double>&);

namespace {

template <int W, class F>
class Together {
 public:
    using V = x16<F>;
    using Number = typename Bits<V>::U::scalar;
    using N = x16<Number>;
    using Mask = x16<typename MaskOf<F>::type>;
    static constexpr int64_t kMostLeaves = 96;

    Together(const TreeSearch<F>& s, int64_t first) : s_(s), t_(*s.tree) {
        alignas(64) F x[W][kGroup];
        alignas(64) Number self[kGroup];
        for (int i = 0; i < kGroup; ++i) {  // missing queries are copies of the last
            const int64_t row = first + i < s.count ? first + i : s.count - 1;
            for (int d = 0; d < W; ++d) x[d][i] = s.queries[row * W + d];
            self[i] = s.selves != nullptr ? static_cast<Number>(s.selves[row]) : kNone;
        }
        for (int d = 0; d < W; ++d) {
            x_[d] = V::load(x[d]);
            most_[d] = max_lanes(x_[d]);
            least_[d] = -max_lanes(-x_[d]);
        }
        self_ = N::load(self);
        for (int64_t i = 0; i < s.k; ++i) {
            V(Limits<F>::infinity).store(distance_[i]);
            N(kNone).store(index_[i]);
        }
        limits_ = V(Limits<F>::infinity);
    }

    // False where the queries lie too far apart: nothing is found.
    bool search() {
        struct Frame {
            alignas(64) F bounds[kGroup];
            uint32_t left;
            int64_t first;
        };
        Frame frames[kTreeLevels];
        int64_t children[kTreeLevels], leaves = 0;
        children_of_levels(t_, children);
        const auto open = [&](int level, int64_t node) {
            Frame& f = frames[level];
            squares_between_boxes<W>(least_, most_, t_.boxes[level] + node * 2 * W * kGroup).store(f.bounds);
            f.first = node * kGroup;
            f.left = first_bits(children[level] - f.first);
        };
        int level = t_.levels - 1;
        open(level, 0);
        while (level < t_.levels) {
            Frame& f = frames[level];
            f.left &= bits_le(V::load(f.bounds), V(limit_));
            if (limit_ == F(0)) f.left &= bits_below(t_.firsts[level] + f.first, last_index());
            if (f.left == 0) {
                ++level;
                continue;
            }
            const int lane = nearest_lane(f.bounds, f.left);
            f.left &= ~(1u << lane);
            if (level > 0) {
                open(--level, f.first + lane);
                continue;
            }
            if (++leaves > kMostLeaves) return false;
            meet(f.first + lane);
        }
        return true;
    }
    void keys(int lane, typename KeyOf<F>::type* to) const {
        for (int64_t i = 0; i < s_.k; ++i) to[i] = make_key(distance_[i][lane], static_cast<int64_t>(index_[i][lane]));
    }

 private:
    static constexpr Number kNone = static_cast<Number>(-1);

    // The points of a leaf.
    GM_HD void meet(int64_t leaf) {
        const F* box = t_.boxes[0] + leaf / kGroup * 2 * W * kGroup + leaf % kGroup;
        V v[W];
#pragma GCC unroll 4
        for (int d = 0; d < W; ++d) {
            const V e = max(max(V(box[d * kGroup]) - x_[d], x_[d] - V(box[(W + d) * kGroup])), V(F(0)));
            v[d] = e * e;
        }
        if (bits_le(join_variables<SquaredDifference, W>(v), limits_) == 0) return;
        const F* points = t_.points + leaf * W * kGroup;
        const uint32_t* index = t_.index + leaf * kGroup;
        const int64_t held = t_.count - leaf * kGroup < kGroup ? t_.count - leaf * kGroup : kGroup;
        if (s_.k == 1 && nearest_of(points, index, held)) return;
        bool drawn_in = false;
        for (int64_t i = 0; i < held; ++i) {
            const V squares = squares_from(points + i);
            if (bits_le(squares, limits_) == 0) continue;
            insert(squares, N(static_cast<Number>(index[i])));
            drawn_in = true;
        }
        if (drawn_in) limit_ = max_lanes(limits_);
    }
    // The squared distance of each query to one point of a leaf.
    GM_HD V squares_from(const F* point) const {
        V v[W];
#pragma GCC unroll 4
        for (int d = 0; d < W; ++d) {
            const V e = x_[d] - V(point[d * kGroup]);
            v[d] = e * e;
        }
        return join_variables<SquaredDifference, W>(v);
    }
    // For k = 1, without a branch or a root for each point: the least square of the leaf decides, unless the next could
    // have the same root. False where it could, in any lane: nothing is done then.
    GM_HD bool nearest_of(const F* points, const uint32_t* index, int64_t held) {
        V least(Limits<F>::infinity), next = least;
        N number(kNone);
        for (int64_t i = 0; i < held; ++i) {
            const N at(static_cast<Number>(index[i]));
            V squares = squares_from(points + i);
            if (s_.selves != nullptr) squares = select(self_ == at, V(Limits<F>::infinity), squares);
            const Mask nearer = squares < least;
            const V other = select(nearer, least, squares);
            next = select(other < next, other, next);
            least = select(nearer, squares, least);
            number = select(nearer, at, number);
        }
        if (bits_le(least, limits_) == 0) return true;
        const V d = s_.root ? sqrt(least) : least, reach = s_.root ? square_limits(d) : d;
        const V held_distance = V::load(distance_[0]);
        const N held_number = N::load(index_[0]);
        if (bits_le(next, min(reach, limits_)) != 0) return false;
        const Mask takes = (d < held_distance) | ((d == held_distance) & (number < held_number));
        const V kept = select(takes, d, held_distance);
        kept.store(distance_[0]);
        select(takes, number, held_number).store(index_[0]);
        limits_ = s_.root ? square_limits(kept) : kept;
        limit_ = max_lanes(limits_);
        return true;
    }
    // One point into the lists of the lanes that it is near enough to.
    GM_HD void insert(const V& squares, const N& number) {
        const Mask takes = (squares <= limits_) & (self_ != number);
        V d = select(takes, s_.root ? sqrt(squares) : squares, V(Limits<F>::infinity));
        N n = select(takes, number, N(kNone));
        V kth = d;
        for (int64_t i = 0; i < s_.k; ++i) {
            const V held = V::load(distance_[i]);
            const N held_number = N::load(index_[i]);
            const Mask nearer = (d < held) | ((d == held) & (n < held_number));
            kth = select(nearer, d, held);
            kth.store(distance_[i]);
            select(nearer, n, held_number).store(index_[i]);
            d = select(nearer, held, d);
            n = select(nearer, held_number, n);
        }
        limits_ = s_.root ? square_limits(kth) : kth;
    }
    int64_t last_index() const {
        Number last = 0;
        for (int i = 0; i < kGroup; ++i) last = index_[s_.k - 1][i] > last ? index_[s_.k - 1][i] : last;
        return static_cast<int64_t>(last);
    }

    const TreeSearch<F>& s_;
    const Tree<F>& t_;
    V x_[W], limits_;
    N self_;
    F least_[W], most_[W], limit_ = Limits<F>::infinity;
    alignas(64) F distance_[kTreeSortedKeys][kGroup];
    alignas(64) Number index_[kTreeSortedKeys][kGroup];
};

template <int W, class F>
void search(const TreeSearch<F>& s, void (*alone)(const TreeSearch<F>&)) {
    for (int64_t first = 0; first < s.count; first += kGroup) {
        const int64_t held = s.count - first < kGroup ? s.count - first : kGroup;
        Together<W, F> together(s, first);
        if (!together.search()) {
            TreeSearch<F> some = s;
            some.queries += first * W;
            some.selves += s.selves != nullptr ? first : 0;
            some.count = held;
            some.first += first;
            alone(some);
            continue;
        }
        for (int i = 0; i < held; ++i) {
            together.keys(i, s.keys);
            s.done(s.context, s.first + first + i, s.keys, s.k);
        }
    }
}

template <class F>
void search_any(const TreeSearch<F>& s, void (*alone)(const TreeSearch<F>&)) {
    switch (s.tree->width) {
        case 1:
            return search<1>(s, alone);
        case 2:
            return search<2>(s, alone);
        case 3:
            return search<3>(s, alone);
        default:
            return search<4>(s, alone);
    }
}

}  // namespace

void tree_search_together_fp32(const TreeSearch<float>& s) { search_any(s, &tree_search_fp32); }
void tree_search_together_fp64(const TreeSearch<double>& s) { search_any(s, &tree_search_fp64); }

}  // namespace GM_ISA
}  // namespace gm
