// The nearest image of a vector in a periodic box, for lanes on a CPU and for numbers on a GPU.
#pragma once

#include "dynamics/field.h"

GM_NAMESPACE_BEGIN

// Rounded to the nearest whole number, ties to even; the lanes' own is in pair_sweep.h.
GM_HD float nearest(float a) {
#if defined(__CUDACC__)
    return ::rintf(a);
#else
    return __builtin_rintf(a);
#endif
}
GM_HD double nearest(double a) {
#if defined(__CUDACC__)
    return ::rint(a);
#else
    return __builtin_rint(a);
#endif
}

template <class T, int D>
struct Vector {
    T c[D];
};

// One system's box in R; rows of `inverse` are axes, its columns the cell's vectors (zero where not periodic).
// A vector shorter than half the distance of each pair of faces has no nearer image than the one found here: its
// coordinate along cell vector k is below its length over the distance h_k of faces k, so below 1/2, and rounds to 0.
template <class R, int D>
struct PeriodicBox {
    R cell[D][D], inverse[D][D];

    GM_HD void read(const double* c, const double* i) {
        for (int a = 0; a < D * D; ++a) {
            cell[a / D][a % D] = static_cast<R>(c[a]);
            inverse[a / D][a % D] = static_cast<R>(i[a]);
        }
    }

    template <class F>
    GM_HD void nearest_image(Vector<F, D>& d) const {
        F images[D];
        GM_UNROLL
        for (int k = 0; k < D; ++k) {
            F s = d.c[0] * F(inverse[0][k]);
            GM_UNROLL
            for (int a = 1; a < D; ++a) s = fma(d.c[a], F(inverse[a][k]), s);
            images[k] = nearest(s);
        }
        GM_UNROLL
        for (int a = 0; a < D; ++a) GM_UNROLL
        for (int k = 0; k < D; ++k) d.c[a] = fma(-images[k], F(cell[k][a]), d.c[a]);
    }
};
template <class R, int D>
struct NoBox {
    template <class F>
    GM_HD void nearest_image(Vector<F, D>&) const {}
};

GM_NAMESPACE_END
