// A potential made ready for one system: its terms sorted into pairs and traps, its box in the system's type, and the
// one place where dimension, box and terms choose the sweep. For body files.
#pragma once

#include "dynamics/near_sweep.h"

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

// What an adjoint gives besides forces: the gradient of by_energy * energy + the sum of u * forces.
template <class R>
struct Adjoint {
    const R* u;  // [D][stride]
    double by_energy;
    double* parameters;  // its gradient in the parameters, which grow by it, or nullptr
};

template <class R>
struct SystemField {
    FieldArgs args;
    const int64_t* types;  // of this system's atoms, or nullptr
    int64_t count, stride;
    PairTable<R> pairs;
    PlainPairs<R> plain;
    bool is_plain = false, is_cut = false;
    CutPairs<R> cut;  // where is_cut
    const Crew crew;
    Neighbors<R>* const near;
    R *zeros, *table;

    // `scratch` holds field_scratch(...) numbers; `lists`, or nullptr, are the system's own.
    SystemField(const FieldArgs& given, int64_t index, int64_t first, int64_t atoms, const Crew& threads,
                Neighbors<R>* lists, R* scratch)
        : args(given),
          types(given.type_count > 1 ? given.types + first : nullptr),
          count(atoms),
          crew(threads),
          near(lists) {
        stride = padded_atoms(count);
        zeros = scratch;
        R* nodes = scratch + 2 * stride;
        table = nodes + padded_atoms(args.node_count);
        for (int64_t i = 0; i < stride; ++i) zeros[i] = R(0);
        pairs.stride = stride;
        pairs.atoms = count;
        pairs.table = table;
        pairs.slopes = nullptr;
        pairs.types = types;
        pairs.periodic = args.boxes > 0;
        if (pairs.periodic) read_box((args.boxes == 1 ? 0 : index) * args.dim * args.dim);
        each_term([&](int64_t kind, int64_t size, const double* q, double*) {
            if (kind == kNodes) {  // of the pair term before
                pairs.nodes[pairs.count - 1] = nodes;
                for (int64_t i = 0; i < size; ++i) *nodes++ = static_cast<R>(q[i]);
            }
            if (!is_pair(kind)) return;
            const int64_t t = pairs.count++;
            pairs.kind[t] = static_cast<int32_t>(kind);
            const PairTerm<R> term = pair_term<R>(pairs.kind[t], q);
            pairs.exponent[t] = term.exponent;
            const bool alone = args.pair_terms == 1 && size == kPairParameters && kind == kLennardJones;
            is_plain = alone && !pairs.periodic && term.p[kCutoff] == static_cast<R>(__builtin_inf());
            is_cut = alone && near != nullptr && cut.read(pairs);
            plain.term = cut.term = term;
        });
        if (!is_plain && pairs.count > 0) fill_table();
    }

    // f = forces; with an energy wanted, returned. x, f: [D][stride]; e: [stride].
    template <Want want>
    double evaluate(const R* x, R* f, R* e) const {
        const SweepArgs<R> a = arrays(x, nullptr, f, e, 0.0);
        const bool in_reach = is_plain && squares_are_normal(x);
        if (is_plain && !in_reach) fill_table();
        if (in_reach)
            PairSweep<R, PlainPairs<R>>{plain, a}.template run<want>(crew);
        else if (pairs.count > 0 && !listed(a))
            PairSweep<R, PairTable<R>>{pairs, a}.template run<want>(crew);
        else if (is_cut)
            NearSweep<R, CutPairs<R>>{cut, a, *near}.template run<want>(crew);
        else if (pairs.count > 0)
            NearSweep<R, PairTable<R>>{pairs, a, *near}.template run<want>(crew);
        else
            clear(f, e);
        double energy = 0.0;
        if (want == Want::forces_and_energy)
            for (int64_t i = 0; i < count; ++i) energy += 0.5 * static_cast<double>(e[i]);
        each_term([&](int64_t kind, int64_t size, const double* q, double*) {
            if (kind == kHarmonic) energy += trap(x, f, size, q, want == Want::forces_and_energy);
            if (kind == kBonds) energy += bonds(x, f, size, q);
        });
        return energy;
    }

    // f = the adjoint's gradient in x; its parameters' grows. `table` has room for both tables.
    void pull_back(const R* x, R* f, R* e, const Adjoint<R>& adjoint) {
        SweepArgs<R> a = arrays(x, adjoint.u, f, e, adjoint.by_energy);
        if (pairs.count > 0) {
            if (is_plain) fill_table();
            const int64_t size = table_numbers();
            if (adjoint.parameters != nullptr) {
                pairs.slopes = table + size;
                for (int64_t i = 0; i < size; ++i) pairs.slopes[i] = R(0);
                int64_t t = 0;
                each_term(
                    [&](int64_t kind, int64_t, const double*, double* slopes) {
                        t += is_pair(kind);
                        if (kind == kNodes) pairs.node_slopes[t - 1] = slopes;
                    },
                    adjoint.parameters);
            }
            // splines' slopes are sums over all atoms: one thread's
            const Crew own = adjoint.parameters != nullptr && args.node_count > 0 ? Crew() : crew;
            if (listed(a))
                NearSweep<R, PairTable<R>>{pairs, a, *near}.template run<Want::adjoint>(own);
            else
                PairSweep<R, PairTable<R>>{pairs, a}.template run<Want::adjoint>(own);
        } else {
            clear(f, e);
        }
        int64_t at = 0;
        each_term(
            [&](int64_t kind, int64_t size, const double* q, double* slopes) {
                if (kind == kHarmonic) trap_adjoint(x, f, size, q, adjoint, slopes);
                if (kind == kBonds) bonds_adjoint(x, f, size, q, adjoint, slopes);
                if (is_pair(kind) && slopes != nullptr) gather(at, kind, size, q, slopes);
                if (is_pair(kind)) ++at;
            },
            adjoint.parameters);
    }

 private:
    template <class F>
    void each_term(const F& f, double* slopes = nullptr) const {
        const double* q = args.parameters;
        for (int64_t t = 0; t < args.terms; ++t) {
            f(args.kinds[t], args.sizes[t], q, slopes);
            q += args.sizes[t];
            if (slopes != nullptr) slopes += args.sizes[t];
        }
    }
    // Whether a square of a distance can neither overflow nor have an inverse that is not a normal number, in which
    // case reciprocal() would give NaN and not 0. NaN coordinates stay NaN either way.
    bool squares_are_normal(const R* x) const {
        using V = x16<R>;
        V largest(R(0));
        for (int64_t d = 0; d < args.dim; ++d)
            for (int64_t i = 0; i < count; i += 16) {
                const int64_t left = count - i;
                const R* from = x + d * stride + i;
                const V v = left >= 16 ? V::load(from) : V::load_first(from, static_cast<int>(left), R(0));
                largest = max(max(v, -v), largest);
            }
        return max_lanes(largest) < R(sizeof(R) == 4 ? 0x1p60 : 0x1p500);
    }
    // Whether there are lists that hold all pairs at a.x, made anew where an atom has moved too far; then the sweep's
    // copies are there too. Not where a coordinate is not finite: all pairs pass that on.
    bool listed(const SweepArgs<R>& a) const {
        if (near == nullptr) return false;
        if (stays(a) || (near->list(*near, a.x[0]) && stays(a))) return true;
        return false;
    }
    bool stays(const SweepArgs<R>& a) const {
        using V = x16<R>;
        if (!(near->most >= R(0))) return false;
        typename PairSums<R>::Mask moved = V(R(0)) != V(R(0));
        const V lane = convert<R>(iota<typename MaskOf<R>::type>()), most(near->most);
        for (int64_t i = 0; i < count; i += 16) {
            V x[3], r2 = V(R(0));
            for (int64_t d = 0; d < 3; ++d) {
                x[d] = V::load(a.x[d] + i);
                const V by = d < args.dim ? x[d] - V::load(near->listed + d * stride + i) : V(R(0));
                r2 = fma(by, by, r2);
            }
            pack(x, near->packed + 4 * i);
            moved = moved | (~(r2 <= most) & (lane < V(static_cast<R>(count - i))));
            if (a.u[0] == nullptr) continue;
            for (int64_t d = 0; d < 3; ++d) x[d] = V::load(a.u[d] + i);
            pack(x, near->packed_u + 4 * i);
        }
        return max_lanes(select(moved, V(R(1)), V(R(0)))) == R(0);
    }
    int64_t table_numbers() const { return args.type_count * pairs.count * kPairParameters * stride; }

    void read_box(int64_t at) {
        double cell[9] = {}, inverse[9] = {};
        for (int64_t r = 0; r < args.dim && args.dim <= 3; ++r)
            for (int64_t c = 0; c < args.dim; ++c) {
                cell[r * 3 + c] = args.cell[at + r * args.dim + c];
                inverse[r * 3 + c] = args.inverse[at + r * args.dim + c];
            }
        pairs.box.read(cell, inverse);
    }

    // Where the parameters of a pair of types lie in a term's own.
    static const double* of_types(const double* q, int64_t size, int64_t types, int64_t a, int64_t b) {
        return size == kPairParameters ? q : q + (a * types + b) * kPairParameters;
    }
    void fill_table() const {
        int64_t t = 0;
        each_term([&](int64_t kind, int64_t size, const double* q, double*) {
            if (!is_pair(kind)) return;
            for (int64_t y = 0; y < args.type_count; ++y) {
                R* to = table + (y * pairs.count + t) * kPairParameters * stride;
                PairTerm<R> term = pair_term<R>(static_cast<int32_t>(kind), q);
                for (int64_t i = 0; i < stride; ++i) {
                    if (types != nullptr && i < count)
                        term =
                            pair_term<R>(static_cast<int32_t>(kind), of_types(q, size, args.type_count, types[i], y));
                    for (int k = 0; k < kPairParameters; ++k) to[k * stride + i] = term.p[k];
                }
            }
            ++t;
        });
    }
    // The table of slopes of pair term number `at` summed into the term's own: j's type outside, atoms i in their
    // order.
    void gather(int64_t at, int64_t kind, int64_t size, const double* q, double* to) const {
        for (int64_t y = 0; y < args.type_count; ++y) {
            const R* from = pairs.slopes + (y * pairs.count + at) * kPairParameters * stride;
            for (int64_t i = 0; i < count; ++i) {
                const int64_t x = types == nullptr ? 0 : types[i];
                double* sums = to + (of_types(q, size, args.type_count, x, y) - q);
                for (int k = 0; k < kPairParameters; ++k) {
                    double slope = 0.5 * static_cast<double>(from[k * stride + i]);
                    if (kind == kLennardJones && k == 1) slope *= 2.0 / of_types(q, size, args.type_count, x, y)[1];
                    sums[k] += slope;
                }
            }
        }
    }

    SweepArgs<R> arrays(const R* x, const R* u, R* f, R* e, double by_energy) const {
        SweepArgs<R> a = {{}, {}, {}, e, count, stride, static_cast<R>(by_energy)};
        for (int64_t d = 0; d < 3; ++d) {
            const bool there = d < args.dim;
            a.x[d] = there ? x + d * stride : zeros;
            a.u[d] = u == nullptr ? nullptr : there ? u + d * stride : zeros;
            a.f[d] = there ? f + d * stride : zeros + stride;
        }
        return a;
    }
    void clear(R* f, R* e) const {
        for (int64_t i = 0; i < args.dim * stride; ++i) f[i] = R(0);
        for (int64_t i = 0; i < stride; ++i) e[i] = R(0);
    }

    // k and center (D numbers) of atom i's trap.
    const double* trap_of(const double* q, int64_t size, int64_t i) const {
        return size == 1 + args.dim || types == nullptr ? q : q + types[i] * (1 + args.dim);
    }
    double trap(const R* x, R* f, int64_t size, const double* q, bool with_energy) const {
        double energy = 0.0;
        for (int64_t d = 0; d < args.dim; ++d) {
            const R* xd = x + d * stride;
            R* fd = f + d * stride;
            if (trap_of(q, size, 0) == q && size == 1 + args.dim) {
                const R k = static_cast<R>(q[0]), c = static_cast<R>(q[1 + d]);
                for (int64_t i = 0; i < stride; ++i) fd[i] -= k * (xd[i] - c);
            } else {
                for (int64_t i = 0; i < count; ++i) {
                    const double* own = trap_of(q, size, i);
                    fd[i] -= static_cast<R>(own[0]) * (xd[i] - static_cast<R>(own[1 + d]));
                }
            }
        }
        for (int64_t i = 0; i < count && with_energy; ++i) {
            const double* own = trap_of(q, size, i);
            for (int64_t d = 0; d < args.dim; ++d) {
                const double away = static_cast<double>(x[d * stride + i]) - own[1 + d];
                energy += 0.5 * own[0] * (away * away);
            }
        }
        return energy;
    }
    void trap_adjoint(const R* x, R* f, int64_t size, const double* q, const Adjoint<R>& adjoint,
                      double* slopes) const {
        for (int64_t i = 0; i < count; ++i) {
            const double* own = trap_of(q, size, i);
            double* to = slopes == nullptr ? nullptr : slopes + (own - q);
            for (int64_t d = 0; d < args.dim; ++d) {
                const double away = static_cast<double>(x[d * stride + i]) - own[1 + d];
                const double u = static_cast<double>(adjoint.u[d * stride + i]);
                const double by = adjoint.by_energy * away - u;
                f[d * stride + i] += static_cast<R>(own[0] * by);
                if (to == nullptr) continue;
                to[0] += (by - 0.5 * adjoint.by_energy * away) * away;
                to[1 + d] -= own[0] * by;
            }
        }
    }

    struct Bond {
        int64_t i, j;
        double k, length, d[3], r2;
    };
    // Bonds one after another, in double.
    template <class F>
    void each_bond(const R* x, int64_t size, const double* q, const F& f) const {
        for (int64_t at = 0; at < size; at += kBondParameters) {
            Bond b = {static_cast<int64_t>(q[at]), static_cast<int64_t>(q[at + 1]), q[at + 2], q[at + 3], {}, 0.0};
            if (b.i >= count || b.j >= count) continue;  // the launcher refuses such
            Vector<R, 3> d = {};
            for (int64_t c = 0; c < args.dim; ++c) d.c[c] = x[c * stride + b.i] - x[c * stride + b.j];
            if (pairs.periodic) pairs.box.nearest_image(d);
            for (int c = 0; c < 3; ++c) b.d[c] = static_cast<double>(d.c[c]);
            b.r2 = b.d[0] * b.d[0] + b.d[1] * b.d[1] + b.d[2] * b.d[2];
            f(b, at);
        }
    }
    // length / r, and 0 for a bond of no length, whatever r is
    static double ratio(const Bond& b) { return b.length == 0.0 ? 0.0 : b.length / __builtin_sqrt(b.r2); }
    double bonds(const R* x, R* f, int64_t size, const double* q) const {
        double energy = 0.0;
        each_bond(x, size, q, [&](const Bond& b, int64_t) {
            const double r = __builtin_sqrt(b.r2), pull = -b.k * (1.0 - ratio(b));
            energy += 0.5 * b.k * ((r - b.length) * (r - b.length));
            for (int64_t c = 0; c < args.dim; ++c) {
                const R push = static_cast<R>(pull * b.d[c]);
                f[c * stride + b.i] += push;
                f[c * stride + b.j] -= push;
            }
        });
        return energy;
    }
    void bonds_adjoint(const R* x, R* f, int64_t size, const double* q, const Adjoint<R>& adjoint,
                       double* slopes) const {
        each_bond(x, size, q, [&](const Bond& b, int64_t at) {
            const double r = __builtin_sqrt(b.r2), near = ratio(b), pull = -b.k * (1.0 - near);
            double du[3] = {}, along = 0.0;
            for (int64_t c = 0; c < args.dim; ++c) {
                du[c] =
                    static_cast<double>(adjoint.u[c * stride + b.i]) - static_cast<double>(adjoint.u[c * stride + b.j]);
                along += du[c] * b.d[c];
            }
            const double bend = near == 0.0 ? 0.0 : -b.k * near / b.r2 * along;  // 2 slope along
            for (int64_t c = 0; c < args.dim; ++c) {
                const R push = static_cast<R>((bend - adjoint.by_energy * pull) * b.d[c] + pull * du[c]);
                f[c * stride + b.i] += push;
                f[c * stride + b.j] -= push;
            }
            if (slopes == nullptr) return;
            slopes[at + 2] += 0.5 * adjoint.by_energy * ((r - b.length) * (r - b.length)) - along * (1.0 - near);
            slopes[at + 3] += -adjoint.by_energy * b.k * (r - b.length) + (along == 0.0 ? 0.0 : along * b.k / r);
        });
    }
};

}  // namespace

GM_NAMESPACE_END
