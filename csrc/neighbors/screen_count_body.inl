// Counts within radii by integer dot products; what they cannot decide is computed. Compiled once per instruction set.
// See docs/neighbors-algorithms.md for the proof.
#include "neighbors/screen_tile.h"

namespace gm {
inline namespace GM_ISA {
namespace {

template <class F>
class Counter {
 public:
    explicit Counter(const ScreenCount<F>& s) : s_(s) {}

    // Counts those of `bits` that are surely in; the others wait for their exact squares.
    __attribute__((always_inline)) void admit(int64_t row, int64_t reference, uint32_t bits, const f32x16& squares) {
        if (s_.selves != nullptr) {
            const int64_t self = s_.selves[row] - s_.first - reference;
            if (self >= 0 && self < kGroup) bits &= ~(1u << self);
        }
        const f32x16 zero(0.0f);
        const f32x16 inner = max(f32x16::load(s_.inner + reference) + f32x16(s_.inner_rows[row]), zero);
        const f32x16 most =
            max(squares, zero) * f32x16(1 + 8 * kScreenSlack) + f32x16(11 * kScreenSlack * s_.tile.queries.norms[row]);
        const uint32_t in = bits_not_ge(most, inner * inner) & bits;
        s_.counts[row] += __builtin_popcount(in);
        if (bits != in) wait(row, reference, bits & ~in);
    }
    __attribute__((noinline)) void wait(int64_t row, int64_t reference, uint32_t bits) {
        Waiting& waiting = waiting_[row % kScreenQueries];
        for (; bits != 0; bits &= bits - 1)
            waiting.index[waiting.held++] = static_cast<uint32_t>(s_.first + reference + __builtin_ctz(bits));
        if (waiting.held > kRoom - kGroup) decide(row);
    }
    void decide(int64_t row) {
        Waiting& waiting = waiting_[row % kScreenQueries];
        if (waiting.held == 0) return;
        const int64_t width = s_.tile.width;
        const F* query = s_.queries.row(s_.queries.context, s_.first_query + row, s_.scratch);
        int64_t found = 0;
        for (int from = 0; from < waiting.held; from += kRerank) {
            const int held = waiting.held - from < kRerank ? waiting.held - from : kRerank;
            const uint32_t* index = waiting.index + from;
            F square[kRerank];
            squares_of(query, s_.references, width, index, held, s_.scratch + width, square);
            for (int j = 0; j < held; ++j) found += square[j] <= s_.bounds[s_.per_reference ? index[j] : row];
        }
        s_.counts[row] += found;
        s_.undecided[row] += waiting.held;
        waiting.held = 0;
    }

 private:
    static constexpr int kRoom = 128;
    struct Waiting {
        uint32_t index[kRoom];
        int held = 0;
    };
    const ScreenCount<F>& s_;
    Waiting waiting_[kScreenQueries];
};

template <class F>
void count(const ScreenCount<F>& s) {
    Counter<F> counter(s);
    ScreenTile tile = s.tile;
    for (int64_t q = 0; q < s.tile.query_count; q += kScreenQueries) {  // a tile's open pairs wait together
        tile.queries = s.tile.queries.from(q * s.tile.width * (s.tile.bytes ? 1 : 2), q);
        tile.query_count = s.tile.query_count - q < kScreenQueries ? s.tile.query_count - q : kScreenQueries;
        tile.row_edges = s.tile.row_edges + q;
        screen_pairs(tile, [&](int64_t row, int64_t reference, uint32_t bits, const f32x16& squares) {
            counter.admit(q + row, reference, bits, squares);
        });
        for (int64_t row = q; row < q + tile.query_count; ++row) counter.decide(row);
    }
}

}  // namespace

void screen_count_fp32(const ScreenCount<float>& s) { count(s); }
void screen_count_fp64(const ScreenCount<double>& s) { count(s); }

}  // namespace GM_ISA
}  // namespace gm
