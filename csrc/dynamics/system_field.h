// A potential made ready for one system: its terms sorted into pairs and traps, its box in the system's type, and the
// one place where dimension, box and terms choose the sweep. For body files.
#pragma once

#include "dynamics/pair_sweep.h"

GM_NAMESPACE_BEGIN

namespace {

// Coordinates between [count, D] and a structure of arrays of `stride`.
template <class R>
void to_arrays(const R* from, int64_t count, int64_t dim, int64_t stride, R* to) {
    if (dim == 3) {  // the common case, in a form that compilers turn into shuffles
        R *a = to, *b = to + stride, *c = to + 2 * stride;
        for (int64_t i = 0; i < count; ++i) {
            a[i] = from[3 * i];
            b[i] = from[3 * i + 1];
            c[i] = from[3 * i + 2];
        }
        return;
    }
    for (int64_t i = 0; i < count; ++i)
        for (int64_t d = 0; d < dim; ++d) to[d * stride + i] = from[i * dim + d];
}
template <class R>
void from_arrays(const R* from, int64_t count, int64_t dim, int64_t stride, R* to) {
    for (int64_t i = 0; i < count; ++i)
        for (int64_t d = 0; d < dim; ++d) to[i * dim + d] = from[d * stride + i];
}

template <class R>
struct SystemField {
    FieldArgs args;
    PairTerm<R> pairs[kMostTerms];
    int64_t pair_count = 0;
    bool cut = false;
    struct Trap {
        double k;
        const double* center;
    } traps[kMostTerms];
    int64_t trap_count = 0;
    const double *cell = nullptr, *inverse = nullptr;

    SystemField(const FieldArgs& given, int64_t index) : args(given) {
        const double* q = args.parameters;
        for (int64_t t = 0; t < args.terms; ++t) {
            if (args.kinds[t] == kHarmonic) {
                traps[trap_count++] = {q[0], q + 1};
                q += 1 + args.dim;
            } else {
                const PairTerm<R> term = pair_term<R>(static_cast<int32_t>(args.kinds[t]), q);
                cut = cut || term.cutoff2 < static_cast<R>(__builtin_inf());
                pairs[pair_count++] = term;
                q += 4;
            }
        }
        if (args.boxes > 0) {
            const int64_t at = (args.boxes == 1 ? 0 : index) * args.dim * args.dim;
            cell = args.cell + at;
            inverse = args.inverse + at;
        }
    }

    // f = forces, or the Hessian times u; with an energy wanted, returned. x, u, f: [D][stride]; e: [stride].
    template <Want want>
    double evaluate(const R* x, const R* u, R* f, R* e, int64_t count, int64_t stride) const {
        if (pair_count > 0) {
            if (args.dim == 3)
                sweep<want, 3>(x, u, f, e, count, stride);
            else
                sweep<want, 2>(x, u, f, e, count, stride);
        } else {
            for (int64_t i = 0; i < args.dim * stride; ++i) f[i] = R(0);
            for (int64_t i = 0; i < stride; ++i) e[i] = R(0);
        }
        for (int64_t t = 0; t < trap_count; ++t) {
            const R k = static_cast<R>(traps[t].k);
            for (int64_t d = 0; d < args.dim; ++d) {
                const R c = static_cast<R>(traps[t].center[d]);
                R* fd = f + d * stride;
                if (want == Want::hessian_times)
                    for (int64_t i = 0; i < stride; ++i) fd[i] += k * u[d * stride + i];
                else
                    for (int64_t i = 0; i < stride; ++i) fd[i] -= k * (x[d * stride + i] - c);
            }
        }
        return want == Want::forces_and_energy ? energy(x, e, count, stride) : 0.0;
    }

 private:
    double energy(const R* x, const R* e, int64_t count, int64_t stride) const {  // atoms in their order, in double
        double total = 0.0;
        for (int64_t i = 0; i < count; ++i) {
            total += 0.5 * static_cast<double>(e[i]);
            for (int64_t t = 0; t < trap_count; ++t)
                for (int64_t d = 0; d < args.dim; ++d) {
                    const double away = static_cast<double>(x[d * stride + i]) - traps[t].center[d];
                    total += 0.5 * traps[t].k * (away * away);
                }
        }
        return total;
    }

    template <Want want, int D>
    void sweep(const R* x, const R* u, R* f, R* e, int64_t count, int64_t stride) const {
        const TermList<R> list = {pairs, pair_count};
        if (cell != nullptr) {
            PeriodicBox<R, D> box;
            box.read(cell, inverse);
            run<want, D>(list, box, x, u, f, e, count, stride);
        } else if (pair_count == 1 && !cut) {
            run<want, D>(OneTerm<R>{pairs[0]}, NoBox<R, D>(), x, u, f, e, count, stride);
        } else {
            run<want, D>(list, NoBox<R, D>(), x, u, f, e, count, stride);
        }
    }
    template <Want want, int D, class Pairs, class Box>
    static void run(const Pairs& terms, const Box& box, const R* x, const R* u, R* f, R* e, int64_t count,
                    int64_t stride) {
        PairSweep<R, D, Box, Pairs>{terms, box, x, u, f, e, count, stride}.template run<want>();
    }
};

}  // namespace

GM_NAMESPACE_END
