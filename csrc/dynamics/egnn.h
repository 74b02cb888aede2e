// One layer of an equivariant graph network: what the launcher hands to the bodies. H features are padded with zeros to
// P, a multiple of 16; R is float or double.
#pragma once

#include <cstdint>

#include "common/isa.h"

namespace gm {

constexpr int64_t kEgnnTile = 48;  // messages that go through the network together
constexpr int64_t kEgnnRows = 16;  // atoms of a unit of forward work
constexpr int64_t kEgnnMostDim = 8;

// The layer's matrices and vectors, in the order in which they lie in the op's `weights`; the last three are those of a
// layer that moves its atoms.
enum EgnnMatrix { kFromI, kFromJ, kMessage, kUpdateH, kUpdateM, kUpdateOut, kMove, kEgnnMatrices };
enum EgnnVector { kFromSquare, kFirstBias, kMessageBias, kUpdateBias, kOutBias, kMoveBias, kMoveOut, kEgnnVectors };

template <class R>
struct EgnnWeights {
    int64_t padded;                    // P
    bool moves;                        // whether positions are updated
    const R* forward[kEgnnMatrices];   // [in, out], P x P
    const R* backward[kEgnnMatrices];  // [out, in], P x P; null where no gradient is asked for
    const R* vectors[kEgnnVectors];    // P
};

template <class R>
struct EgnnBatch {
    int64_t dim, boxes;
    const R* positions;                   // [M, D]
    const int64_t* system_of;             // [M]
    const int64_t* ptr;                   // [S + 1]
    const double *cell, *inverse;         // [boxes, D, D]
    R cutoff2;                            // inf without a cutoff
    R scale;                              // of the sums over neighbours
    const R *features, *from_i, *from_j;  // [M, P]
};

template <class R>
struct EgnnForward {
    R *positions, *features, *sums;  // [M, D], [M, P], [M, P]
};

template <class R>
struct EgnnBackward {
    const R* sums;                        // [M, P], of the forward pass
    const R *by_positions, *by_features;  // gradients [M, D], [M, P]
    R *positions, *features;              // [M, D], [M, P], written
    R* weights;  // kEgnnMatrices x [out, in] and kEgnnVectors x P, added to; null where not asked for
};

// Scratch of one worker, in numbers.
inline int64_t egnn_scratch(int64_t padded, int64_t dim, int64_t largest) {
    return (7 * kEgnnTile + 3 * kEgnnRows) * padded + kEgnnTile * (dim + 4) + kEgnnRows * dim + 3 * largest * padded;
}

#define GM_EGNN_BODIES(R, SUFFIX)                                                                                     \
    GM_DECLARE_ISA(void, egnn_project_##SUFFIX,                                                                       \
                   (const EgnnWeights<R>&, const R* features, int64_t rows, R* from_i, R* from_j))                    \
    GM_DECLARE_ISA(                                                                                                   \
        void, egnn_forward_##SUFFIX,                                                                                  \
        (const EgnnWeights<R>&, const EgnnBatch<R>&, int64_t first, int64_t last, const EgnnForward<R>&, R* scratch)) \
    GM_DECLARE_ISA(void, egnn_backward_##SUFFIX,                                                                      \
                   (const EgnnWeights<R>&, const EgnnBatch<R>&, int64_t system, const EgnnBackward<R>&, R* scratch))
GM_EGNN_BODIES(float, fp32)
GM_EGNN_BODIES(double, fp64)
#undef GM_EGNN_BODIES

}  // namespace gm
