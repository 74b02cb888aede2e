// A potential as the launchers hand it to the CUDA kernels: pointers on the device and sizes. No torch header.
#pragma once

#include <cstdint>

#include "dynamics/field.h"

namespace gm {

// The two atoms of a bond, counted from a system's first; -1 for what is no atom's number.
struct BondEnds {
    int32_t i, j;
};

struct CudaField {
    int64_t dim, atoms;
    int32_t terms, kinds[kMostTerms];
    int64_t sizes[kMostTerms];
    const double* parameters;
    int64_t parameter_count, type_count;
    const int64_t* types;  // [M], where type_count > 1
    int64_t boxes;         // 0, 1 or S
    const double *cell, *inverse;
    // What prepare_field makes, once a call: of a pair term PairTerm<R> for each pair of types, of bonds their ends, of
    // splines their coefficients in R; and the types in 32 bits. A type or a spline that is not there gets a term of
    // NaN, so that what it would have given is NaN.
    char* ready;
    int64_t at[kMostTerms], types_at;

    GM_HD int64_t side(int t) const {  // of the table of pair term t
        return sizes[t] == kPairParameters || type_count == 1 ? 1 : type_count + 1;
    }
};

// Where each part of `ready` begins; gives the bytes of all.
inline int64_t lay_out(CudaField& f, bool fp64) {
    const int64_t term = fp64 ? sizeof(PairTerm<double>) : sizeof(PairTerm<float>), real = fp64 ? 8 : 4;
    int64_t bytes = 0;
    for (int t = 0; t < f.terms; ++t) {
        f.at[t] = bytes;
        const int32_t kind = f.kinds[t];
        int64_t own = 0;
        if (is_pair(kind)) own = f.side(t) * f.side(t) * term;
        if (kind == kBonds) own = f.sizes[t] / kBondParameters * static_cast<int64_t>(sizeof(BondEnds));
        if (kind == kNodes) own = f.sizes[t] * real;
        bytes += (own + 15) / 16 * 16;
    }
    f.types_at = bytes;
    return bytes + (f.type_count > 1 ? (4 * f.atoms + 15) / 16 * 16 : 0);
}

// Queues the making of `ready` on the stream; gives what went wrong, or nullptr.
const char* prepare_field(const CudaField&, bool fp64, int device, void* stream);

}  // namespace gm
