// The search in a tree of boxes, nearest boxes first. Compiled once per instruction set.
#include "neighbors/pool.h"
#include "neighbors/tree_limits.h"

namespace gm {
inline namespace GM_ISA {
namespace {

// The candidates of one query. Points come in no order of their index: keys decide, ties included.
template <class F>
struct Nearest {
    using Key = typename KeyOf<F>::type;
    const TreeSearch<F>& s;
    int64_t self;
    int64_t count = 0;
    F limit = Limits<F>::infinity;  // no square beyond it can matter

    Pool<F> pool{s.k};

    bool pooled() const { return s.k > kTreeSortedKeys && s.k <= Pool<F>::kMost; }
    void admit(const uint32_t* index, uint32_t bits, const x16<F>& vector) {
        if (pooled()) {
            if (self >= 0) bits &= ~bits_equal(index, self);
            if (bits != 0 && pool.add(index, bits, s.root ? sqrt(vector) : vector)) set_limit(pool.draw_in());
            return;
        }
        alignas(64) F squares[kGroup];
        vector.store(squares);
        Key* keys = s.keys;
        const bool sorted = s.k <= kTreeSortedKeys;
        if (s.k == 1 && count == 0 && bits != 0) {  // the nearest first: the others then mostly fail
            const int lane = nearest_lane(squares, bits);
            if (index[lane] != self) {
                insert(make_key(s.root ? sqrt(squares[lane]) : squares[lane], index[lane]));
                bits &= ~(1u << lane);
            }
        }
        for (; bits != 0; bits &= bits - 1) {
            const int lane = __builtin_ctz(bits);
            if (squares[lane] > limit || index[lane] == self) continue;
            const Key key = make_key(s.root ? sqrt(squares[lane]) : squares[lane], index[lane]);
            if (sorted) {
                insert(key);
                continue;
            }
            keys[count++] = key;
            if (count < s.capacity) continue;
            keep_smallest(keys, count, s.k);
            count = s.k;
            draw_in();
        }
    }

    void finish() {
        if (pooled()) count = pool.finish(s.keys);
    }
    int64_t kth_index() const { return pooled() ? pool.kth_index() : key_index(s.keys[s.k - 1]); }

 private:
    void insert(Key key) {
        Key* keys = s.keys;
        if (count == s.k && !(key < keys[s.k - 1])) return;
        int64_t i = count < s.k ? count++ : s.k - 1;
        for (; i > 0 && key < keys[i - 1]; --i) keys[i] = keys[i - 1];
        keys[i] = key;
        if (count == s.k) draw_in();
    }
    void draw_in() { set_limit(key_distance(s.keys[s.k - 1])); }
    void set_limit(F kth) { limit = s.root ? square_limit(kth) : kth; }
};

template <int W, class F>
void search(const TreeSearch<F>& s) {
    const Tree<F>& t = *s.tree;
    struct Frame {  // a node whose children are being visited
        alignas(64) F bounds[kGroup];
        uint32_t left;
        int64_t first;  // its first child
    };
    Frame frames[kTreeLevels];
    int64_t children[kTreeLevels];
    children_of_levels(t, children);
    for (int64_t row = 0; row < s.count; ++row) {
        const F* x = s.queries + row * W;
        Nearest<F> nearest{s, s.selves != nullptr ? s.selves[row] : -1};
        const auto open = [&](int level, int64_t node) {
            Frame& f = frames[level];
            squares_to_boxes<W>(x, t.boxes[level] + node * 2 * W * kGroup).store(f.bounds);
            f.first = node * kGroup;
            f.left = first_bits(children[level] - f.first);
        };
        int level = t.levels - 1;
        open(level, 0);
        while (level < t.levels) {
            Frame& f = frames[level];
            f.left &= bits_le(x16<F>::load(f.bounds), x16<F>(nearest.limit));
            if (nearest.limit == F(0))  // k copies: another is nearer by its index alone
                f.left &= bits_below(t.firsts[level] + f.first, nearest.kth_index());
            if (f.left == 0) {
                ++level;
                continue;
            }
            const int lane = nearest_lane(f.bounds, f.left);
            f.left &= ~(1u << lane);
            const int64_t child = f.first + lane;
            if (level > 0) {
                open(--level, child);
                continue;
            }
            const x16<F> squares = squares_to<W>(x, t.points + child * W * kGroup);
            const uint32_t bits = bits_le(squares, x16<F>(nearest.limit)) & first_bits(t.count - child * kGroup);
            if (bits == 0) continue;
            nearest.admit(t.index + child * kGroup, bits, squares);
        }
        nearest.finish();
        s.done(s.context, s.first + row, s.keys, nearest.count);
    }
}

template <class F>
void search_any(const TreeSearch<F>& s) {
    switch (s.tree->width) {
        case 1:
            return search<1>(s);
        case 2:
            return search<2>(s);
        case 3:
            return search<3>(s);
        case 4:
            return search<4>(s);
        default:
            return search<8>(s);
    }
}

}  // namespace

void tree_search_fp32(const TreeSearch<float>& s) { search_any(s); }
void tree_search_fp64(const TreeSearch<double>& s) { search_any(s); }

}  // namespace GM_ISA
}  // namespace gm
