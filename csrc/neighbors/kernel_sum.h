// What the launcher and the body of the kernel sums share.
//
// The kernel of a pair is a function of s, its squared distance (or its inner product, for the polynomial), and of the
// reference's rate r:
//   rbf  exp(-r s)    laplace  exp(-r sqrt(s))    rational  (1 + r s)^-exponent    energy  -r sqrt(s)
//   polynomial  (r s + offset)^degree
#pragma once

#include "neighbors/neighbors.h"

namespace gm {

enum class Kernel : int64_t { rbf = 0, laplace = 1, rational = 2, energy = 3, polynomial = 4 };

struct KernelShape {
    Kernel kernel;
    double exponent, offset;
    int64_t degree;
};

// Of the references, as long as whole groups.
template <class F>
struct Mixture {
    const F *rates, *weights;
    // Where the sum is wanted as its logarithm: logarithms of further weights, and those of both together; or null.
    const F *logs, *mass;
};

// Running sums of a row: sixteen lanes, of which lane j % 16 adds reference j, in the order of j.
template <class F>
struct KernelSums {
    KernelShape shape;
    Mixture<F> of;  // from the block's first reference on
    double* lanes;  // [query_count, 16]
    double* peaks;  // [query_count]: lanes are over e^peak; -inf before the first term
};

// Gradients of the sums, gathered by the rows of a sweep: queries meet references, or references meet queries.
template <class F>
struct KernelPull {
    KernelShape shape;
    bool rows_are_references;
    Mixture<F> of;      // of the references
    const F* incoming;  // of the queries: the gradients of their sums,
    const F* totals;    // and, where logarithms are wanted, the sums (+inf for -inf, so that nothing comes of them)
    double* points;     // [query_count, width, 16 lanes], or [query_count, width] above kLowWidth
    double* weights;    // [query_count, 16], for rows that are references, or null
    double* rates;      // the same
};

GM_DECLARE_ISA(void, kernel_sum_fp32, (const Sweep<float>&, const KernelSums<float>&))
GM_DECLARE_ISA(void, kernel_sum_fp64, (const Sweep<double>&, const KernelSums<double>&))
GM_DECLARE_ISA(void, kernel_pull_fp32, (const Sweep<float>&, const KernelPull<float>&))
GM_DECLARE_ISA(void, kernel_pull_fp64, (const Sweep<double>&, const KernelPull<double>&))
// log(sum of the lanes) + peak, or the sum of the lanes
GM_DECLARE_ISA(double, kernel_total, (const double* lanes, double peak, bool log))

}  // namespace gm
