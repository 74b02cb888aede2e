// One layer of an equivariant graph network: messages of a tile of edges go through the network together, lanes over
// features, and are summed before they reach memory. A sum runs over an atom's neighbours in their order and a product
// over its depth, so a system's bits do not depend on the tile, the batch or the threads.
#include "common/vector_math.h"
#include "dynamics/box.h"
#include "dynamics/egnn.h"

namespace gm {
inline namespace GM_ISA {
namespace {

constexpr int64_t kLanes = 16;

// Rows and packs of the register tile of a product: what fits the registers of an instruction set.
template <class R>
struct Tile {
    static constexpr int registers = static_cast<int>(kLanes * sizeof(R)) / GM_BYTES;  // of a pack
    static constexpr int columns = GM_BYTES == 64 ? 4 / registers : 1;
    static constexpr int rows = GM_BYTES == 64 ? 6 : registers == 2 ? 5 : registers == 4 ? 3 : 1;
};

// out[r, c] += sum over k of a[r, k] w[k, c], by rising k; a has any strides, w and out have rows of `padded`.
template <class R, int rows, int columns>
void product_tile(const R* a, int64_t row_stride, int64_t depth_stride, const R* w, int64_t padded, int64_t depth,
                  R* out) {
    x16<R> sum[rows][columns];
    for (int r = 0; r < rows; ++r)
        for (int c = 0; c < columns; ++c) sum[r][c] = x16<R>(R(0));
    for (int64_t k = 0; k < depth; ++k) {
        x16<R> right[columns];
        for (int c = 0; c < columns; ++c) right[c] = x16<R>::load(w + k * padded + c * kLanes);
        for (int r = 0; r < rows; ++r) {
            const x16<R> left(a[r * row_stride + k * depth_stride]);
            for (int c = 0; c < columns; ++c) sum[r][c] = fma(left, right[c], sum[r][c]);
        }
    }
    for (int r = 0; r < rows; ++r)
        for (int c = 0; c < columns; ++c) {
            R* to = out + r * padded + c * kLanes;
            (x16<R>::load(to) + sum[r][c]).store(to);
        }
}
template <class R, int columns>
void product_columns(const R* a, int64_t row_stride, int64_t depth_stride, const R* w, int64_t padded, int64_t depth,
                     int64_t rows, R* out) {
    constexpr int together = Tile<R>::rows;
    int64_t r = 0;
    for (; r + together <= rows; r += together)
        product_tile<R, together, columns>(a + r * row_stride, row_stride, depth_stride, w, padded, depth,
                                           out + r * padded);
    for (; r < rows; ++r)
        product_tile<R, 1, columns>(a + r * row_stride, row_stride, depth_stride, w, padded, depth, out + r * padded);
}
template <class R>
void product(const R* a, int64_t row_stride, int64_t depth_stride, const R* w, int64_t padded, int64_t depth,
             int64_t rows, R* out) {
    constexpr int64_t wide = Tile<R>::columns * kLanes;
    int64_t c = 0;
    for (; c + wide <= padded; c += wide)
        product_columns<R, Tile<R>::columns>(a, row_stride, depth_stride, w + c, padded, depth, rows, out + c);
    for (; c < padded; c += kLanes)
        product_columns<R, 1>(a, row_stride, depth_stride, w + c, padded, depth, rows, out + c);
}

template <class R>
void fill_rows(R* to, const R* row, int64_t padded, int64_t rows) {
    for (int64_t r = 0; r < rows; ++r) std::memcpy(to + r * padded, row, static_cast<size_t>(padded) * sizeof(R));
}

GM_HD f64x16 logistic(f64x16 x) {
    alignas(64) double v[16];
    x.store(v);
    for (double& each : v) each = 1.0 / (1.0 + __builtin_exp(-each));
    return f64x16::load(v);
}

// x becomes silu(x) = x / (1 + exp(-x)), and `slopes`, where wanted, its derivative.
template <class R>
void activate(R* x, R* slopes, int64_t count) {
    for (int64_t i = 0; i < count; i += kLanes) {
        const x16<R> u = x16<R>::load(x + i), gate = logistic(u), y = u * gate;
        y.store(x + i);
        if (slopes != nullptr) fma(gate, u - y, gate).store(slopes + i);
    }
}

template <class R>
R dot(const R* a, const R* b, int64_t padded) {
    x16<R> sum(R(0));
    for (int64_t i = 0; i < padded; i += kLanes) sum = fma(x16<R>::load(a + i), x16<R>::load(b + i), sum);
    return sum_lanes(sum);
}
// to += factor a
template <class R>
void add(R* to, R factor, const R* a, int64_t padded) {
    const x16<R> f(factor);
    for (int64_t i = 0; i < padded; i += kLanes) fma(f, x16<R>::load(a + i), x16<R>::load(to + i)).store(to + i);
}
template <class R>
void multiply(R* to, const R* a, int64_t count) {
    for (int64_t i = 0; i < count; i += kLanes) (x16<R>::load(to + i) * x16<R>::load(a + i)).store(to + i);
}

// The nearest image of d in the box of a system.
template <class R>
void nearest_image(R* d, int64_t dim, const double* cell, const double* inverse) {
    R images[kEgnnMostDim];
    for (int64_t k = 0; k < dim; ++k) {
        R s = R(0);
        for (int64_t a = 0; a < dim; ++a) s += d[a] * static_cast<R>(inverse[a * dim + k]);
        images[k] = nearest(s);
    }
    for (int64_t a = 0; a < dim; ++a)
        for (int64_t k = 0; k < dim; ++k) d[a] -= images[k] * static_cast<R>(cell[k * dim + a]);
}

// The messages of one tile, to atoms i from atoms j.
template <class R>
struct Edges {
    int64_t i[kEgnnTile], j[kEgnnTile];
    int64_t count = 0;
    R *square, *weight, *shrink, *out;  // [tile]: |r|^2, the end's weight, 1 / (1 + |r|), what moves the atom
    R* r;                               // [tile, D]: x_i - x_j
    R *first, *second, *third;          // [tile, P]: silu of each layer
};

// Calls flush(edges) whenever the tile is full of the messages to atoms [first, last), and at the end.
template <class R, class F>
void each_tile(const EgnnWeights<R>& w, const EgnnBatch<R>& b, int64_t first, int64_t last, Edges<R>& e,
               const F& flush) {
    const int64_t padded = w.padded, dim = b.dim;
    for (int64_t i = first; i < last; ++i) {
        const int64_t s = b.system_of[i];
        const double* cell = b.cell + (b.boxes > 1 ? s * dim * dim : 0);
        const double* inverse = b.inverse + (b.boxes > 1 ? s * dim * dim : 0);
        for (int64_t j = b.ptr[s]; j < b.ptr[s + 1]; ++j) {
            if (j == i) continue;
            R* r = e.r + e.count * dim;
            for (int64_t a = 0; a < dim; ++a) r[a] = b.positions[i * dim + a] - b.positions[j * dim + a];
            if (b.boxes > 0) nearest_image(r, dim, cell, inverse);
            R square = R(0);
            for (int64_t a = 0; a < dim; ++a) square += r[a] * r[a];
            if (square >= b.cutoff2) continue;  // a NaN stays in
            const R inside = R(1) - square / b.cutoff2;
            e.i[e.count] = i;
            e.j[e.count] = j;
            e.square[e.count] = square;
            e.weight[e.count] = inside * inside * inside;
            const R *from_i = b.from_i + i * padded, *from_j = b.from_j + j * padded, *slope = w.vectors[kFromSquare];
            const x16<R> factor(square);
            for (int64_t c = 0; c < padded; c += kLanes)
                fma(factor, x16<R>::load(slope + c), x16<R>::load(from_i + c) + x16<R>::load(from_j + c))
                    .store(e.first + e.count * padded + c);
            if (++e.count == kEgnnTile) {
                flush(e);
                e.count = 0;
            }
        }
    }
    if (e.count > 0) flush(e);
    e.count = 0;
}

// The tile's messages through the network, and with slopes their derivatives in slopes[0 .. 2].
template <class R>
void network(const EgnnWeights<R>& w, Edges<R>& e, R* const* slopes) {
    const int64_t padded = w.padded, all = e.count * padded;
    activate(e.first, slopes ? slopes[0] : nullptr, all);
    fill_rows(e.second, w.vectors[kMessageBias], padded, e.count);
    product(e.first, padded, 1, w.forward[kMessage], padded, padded, e.count, e.second);
    activate(e.second, slopes ? slopes[1] : nullptr, all);
    if (!w.moves) return;
    fill_rows(e.third, w.vectors[kMoveBias], padded, e.count);
    product(e.second, padded, 1, w.forward[kMove], padded, padded, e.count, e.third);
    activate(e.third, slopes ? slopes[2] : nullptr, all);
    for (int64_t n = 0; n < e.count; ++n) {
        e.out[n] = dot(e.third + n * padded, w.vectors[kMoveOut], padded);
        alignas(64) R square[kLanes] = {e.square[n]};
        sqrt(x16<R>::load(square)).store(square);
        e.shrink[n] = R(1) / (R(1) + square[0]);
    }
}

// Cuts the worker's scratch.
template <class R>
struct Scratch {
    R* at;
    R* take(int64_t count) {
        R* here = at;
        at += count;
        return here;
    }
};
template <class R>
Edges<R> edges_in(Scratch<R>& scratch, int64_t padded, int64_t dim) {
    Edges<R> e;
    e.first = scratch.take(kEgnnTile * padded);
    e.second = scratch.take(kEgnnTile * padded);
    e.third = scratch.take(kEgnnTile * padded);
    e.square = scratch.take(kEgnnTile);
    e.weight = scratch.take(kEgnnTile);
    e.shrink = scratch.take(kEgnnTile);
    e.out = scratch.take(kEgnnTile);
    e.r = scratch.take(kEgnnTile * dim);
    return e;
}

// [rows, P] each: the two halves of the first product, of the atom that hears and of the one that speaks.
template <class R>
void project(const EgnnWeights<R>& w, const R* features, int64_t rows, R* from_i, R* from_j) {
    const int64_t padded = w.padded;
    fill_rows(from_i, w.vectors[kFirstBias], padded, rows);
    product(features, padded, 1, w.forward[kFromI], padded, padded, rows, from_i);
    for (int64_t c = 0; c < rows * padded; ++c) from_j[c] = R(0);
    product(features, padded, 1, w.forward[kFromJ], padded, padded, rows, from_j);
}

// The argument of the update's activation, [rows, P].
template <class R>
void before_update(const EgnnWeights<R>& w, const R* features, const R* sums, int64_t rows, R* u) {
    const int64_t padded = w.padded;
    fill_rows(u, w.vectors[kUpdateBias], padded, rows);
    product(features, padded, 1, w.forward[kUpdateH], padded, padded, rows, u);
    product(sums, padded, 1, w.forward[kUpdateM], padded, padded, rows, u);
}

template <class R>
void forward(const EgnnWeights<R>& w, const EgnnBatch<R>& b, int64_t first, int64_t last, const EgnnForward<R>& out,
             R* memory) {
    const int64_t padded = w.padded, dim = b.dim, rows = last - first;
    Scratch<R> scratch{memory};
    Edges<R> e = edges_in(scratch, padded, dim);
    R *u = scratch.take(kEgnnRows * padded), *moved = scratch.take(kEgnnRows * dim);
    R* sums = out.sums + first * padded;
    for (int64_t c = 0; c < rows * padded; ++c) sums[c] = R(0);
    for (int64_t c = 0; c < rows * dim; ++c) moved[c] = R(0);
    each_tile(w, b, first, last, e, [&](Edges<R>& tile) {
        network(w, tile, static_cast<R* const*>(nullptr));
        for (int64_t n = 0; n < tile.count; ++n) {
            const int64_t row = tile.i[n] - first;
            add(sums + row * padded, tile.weight[n], tile.second + n * padded, padded);
            if (!w.moves) continue;
            const R pull = tile.weight[n] * tile.out[n] * tile.shrink[n];
            for (int64_t a = 0; a < dim; ++a) moved[row * dim + a] += pull * tile.r[n * dim + a];
        }
    });
    for (int64_t c = 0; c < rows * padded; ++c) sums[c] *= b.scale;
    const R* features = b.features + first * padded;
    before_update(w, features, sums, rows, u);
    activate<R>(u, nullptr, rows * padded);
    R* to = out.features + first * padded;
    fill_rows(to, w.vectors[kOutBias], padded, rows);
    product(u, padded, 1, w.forward[kUpdateOut], padded, padded, rows, to);
    for (int64_t c = 0; c < rows * padded; ++c) to[c] += features[c];
    for (int64_t c = 0; c < rows * dim; ++c)
        out.positions[first * dim + c] = b.positions[first * dim + c] + b.scale * moved[c];
}

// Adds to a matrix [out, in] the sum over rows n of by_out[n] in[n], and to a vector the sum of by_out.
template <class R>
void add_outer(R* matrix, R* vector, const R* by_out, const R* in, int64_t padded, int64_t rows) {
    product(by_out, 1, padded, in, padded, rows, padded, matrix);
    if (vector != nullptr)
        for (int64_t n = 0; n < rows; ++n) add(vector, R(1), by_out + n * padded, padded);
}

template <class R>
void backward(const EgnnWeights<R>& w, const EgnnBatch<R>& b, int64_t system, const EgnnBackward<R>& g, R* memory) {
    const int64_t padded = w.padded, dim = b.dim, first = b.ptr[system], atoms = b.ptr[system + 1] - first;
    Scratch<R> scratch{memory};
    Edges<R> e = edges_in(scratch, padded, dim);
    R* slopes[3];
    for (R*& each : slopes) each = scratch.take(kEgnnTile * padded);
    R* by_message = scratch.take(kEgnnTile * padded);
    R *u = scratch.take(kEgnnRows * padded), *slope = scratch.take(kEgnnRows * padded);
    scratch.take(kEgnnRows * dim);
    R *by_sums = scratch.take(atoms * padded), *by_i = scratch.take(atoms * padded),
      *by_j = scratch.take(atoms * padded);
    R *matrices[kEgnnMatrices] = {}, *vectors[kEgnnVectors] = {};
    if (g.weights != nullptr) {
        for (int64_t k = 0; k < kEgnnMatrices; ++k) matrices[k] = g.weights + k * padded * padded;
        for (int64_t k = 0; k < kEgnnVectors; ++k) vectors[k] = g.weights + (kEgnnMatrices * padded + k) * padded;
    }
    for (int64_t c = 0; c < 3 * atoms * padded; ++c) by_sums[c] = R(0);  // the three lie together
    for (int64_t c = 0; c < atoms * dim; ++c) g.positions[first * dim + c] = g.by_positions[first * dim + c];
    // the update of the features
    for (int64_t begin = 0; begin < atoms; begin += kEgnnRows) {
        const int64_t rows = atoms - begin < kEgnnRows ? atoms - begin : kEgnnRows, at = (first + begin) * padded;
        before_update(w, b.features + at, g.sums + at, rows, u);
        activate(u, slope, rows * padded);
        if (g.weights != nullptr)
            add_outer(matrices[kUpdateOut], vectors[kOutBias], g.by_features + at, u, padded, rows);
        for (int64_t c = 0; c < rows * padded; ++c) u[c] = R(0);
        product(g.by_features + at, padded, 1, w.backward[kUpdateOut], padded, padded, rows, u);
        multiply(u, slope, rows * padded);
        if (g.weights != nullptr) {
            add_outer(matrices[kUpdateH], vectors[kUpdateBias], u, b.features + at, padded, rows);
            add_outer<R>(matrices[kUpdateM], nullptr, u, g.sums + at, padded, rows);
        }
        std::memcpy(g.features + at, g.by_features + at, static_cast<size_t>(rows * padded) * sizeof(R));
        product(u, padded, 1, w.backward[kUpdateH], padded, padded, rows, g.features + at);
        R* by = by_sums + begin * padded;
        product(u, padded, 1, w.backward[kUpdateM], padded, padded, rows, by);
        for (int64_t c = 0; c < rows * padded; ++c) by[c] *= b.scale;
    }
    // the messages
    each_tile(w, b, first, first + atoms, e, [&](Edges<R>& tile) {
        network(w, tile, slopes);
        R along[kEgnnTile] = {}, by_square[kEgnnTile];
        for (int64_t n = 0; n < tile.count; ++n) {
            const R *by = by_sums + (tile.i[n] - first) * padded, *r = tile.r + n * dim;
            R by_weight = dot(by, tile.second + n * padded, padded);
            R* message = by_message + n * padded;
            const x16<R> weight(tile.weight[n]);
            for (int64_t c = 0; c < padded; c += kLanes) (weight * x16<R>::load(by + c)).store(message + c);
            by_square[n] = R(0);
            if (w.moves) {
                for (int64_t a = 0; a < dim; ++a) along[n] += b.scale * g.by_positions[tile.i[n] * dim + a] * r[a];
                const R shrink = tile.shrink[n], root = R(1) / shrink - R(1);
                by_weight += tile.out[n] * shrink * along[n];
                if (tile.square[n] > R(0))
                    by_square[n] = -tile.weight[n] * tile.out[n] * along[n] * shrink * shrink / (R(2) * root);
                const R by_out = tile.weight[n] * shrink * along[n];
                if (g.weights != nullptr) add(vectors[kMoveOut], by_out, tile.third + n * padded, padded);
                R* third = slopes[2] + n * padded;
                const x16<R> factor(by_out);
                for (int64_t c = 0; c < padded; c += kLanes)
                    (factor * x16<R>::load(w.vectors[kMoveOut] + c) * x16<R>::load(third + c)).store(third + c);
            }
            const R inside = R(1) - tile.square[n] / b.cutoff2;
            by_square[n] -= R(3) * inside * inside / b.cutoff2 * by_weight;
        }
        const int64_t all = tile.count * padded;
        if (w.moves) {
            product(slopes[2], padded, 1, w.backward[kMove], padded, padded, tile.count, by_message);
            if (g.weights != nullptr)
                add_outer(matrices[kMove], vectors[kMoveBias], slopes[2], tile.second, padded, tile.count);
        }
        multiply(by_message, slopes[1], all);
        if (g.weights != nullptr)
            add_outer(matrices[kMessage], vectors[kMessageBias], by_message, tile.first, padded, tile.count);
        R* by_first = tile.third;  // no longer needed
        for (int64_t c = 0; c < all; ++c) by_first[c] = R(0);
        product(by_message, padded, 1, w.backward[kMessage], padded, padded, tile.count, by_first);
        multiply(by_first, slopes[0], all);
        for (int64_t n = 0; n < tile.count; ++n) {
            const int64_t i = tile.i[n], j = tile.j[n];
            const R *by = by_first + n * padded, *r = tile.r + n * dim;
            add(by_i + (i - first) * padded, R(1), by, padded);
            add(by_j + (j - first) * padded, R(1), by, padded);
            if (g.weights != nullptr) add(vectors[kFromSquare], tile.square[n], by, padded);
            by_square[n] += dot(by, w.vectors[kFromSquare], padded);
            const R pull = w.moves ? b.scale * tile.weight[n] * tile.out[n] * tile.shrink[n] : R(0);
            for (int64_t a = 0; a < dim; ++a) {
                const R by_r = pull * g.by_positions[i * dim + a] + R(2) * by_square[n] * r[a];
                g.positions[i * dim + a] += by_r;
                g.positions[j * dim + a] -= by_r;
            }
        }
    });
    product(by_i, padded, 1, w.backward[kFromI], padded, padded, atoms, g.features + first * padded);
    product(by_j, padded, 1, w.backward[kFromJ], padded, padded, atoms, g.features + first * padded);
    if (g.weights != nullptr) {
        add_outer(matrices[kFromI], vectors[kFirstBias], by_i, b.features + first * padded, padded, atoms);
        add_outer<R>(matrices[kFromJ], nullptr, by_j, b.features + first * padded, padded, atoms);
    }
}

}  // namespace

#define GM_EGNN_BODIES(R, SUFFIX)                                                                                \
    void egnn_project_##SUFFIX(const EgnnWeights<R>& w, const R* features, int64_t rows, R* from_i, R* from_j) { \
        project(w, features, rows, from_i, from_j);                                                              \
    }                                                                                                            \
    void egnn_forward_##SUFFIX(const EgnnWeights<R>& w, const EgnnBatch<R>& b, int64_t first, int64_t last,      \
                               const EgnnForward<R>& out, R* scratch) {                                          \
        forward(w, b, first, last, out, scratch);                                                                \
    }                                                                                                            \
    void egnn_backward_##SUFFIX(const EgnnWeights<R>& w, const EgnnBatch<R>& b, int64_t system,                  \
                                const EgnnBackward<R>& g, R* scratch) {                                          \
        backward(w, b, system, g, scratch);                                                                      \
    }
GM_EGNN_BODIES(float, fp32)
GM_EGNN_BODIES(double, fp64)
#undef GM_EGNN_BODIES

}  // namespace GM_ISA
}  // namespace gm
