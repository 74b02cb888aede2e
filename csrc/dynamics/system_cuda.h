// The force on one atom of a system, its energy, or an adjoint's sums, by a group of threads: thread g takes the atoms
// and bonds g, g + group, ..., and a butterfly joins the group. So a sum's order depends on the group's size and the
// system alone. For .cu files.
#pragma once

#include <cuda_runtime.h>

#include "dynamics/box.h"
#include "dynamics/field_cuda.h"
#include "dynamics/learned.h"
#include "dynamics/warp_cuda.h"

namespace gm {
namespace {

enum class Want { forces, forces_and_energy, adjoint };

// The terms of a potential, sorted: one thread reads them into shared memory.
template <class R>
struct CudaTerms {
    PairTerm<R> pair[kMostTerms];          // where types make no difference
    const PairTerm<R>* table[kMostTerms];  // else [side, side], or nullptr
    const R* nodes[kMostTerms];            // of a learnt term
    const double *trap[kMostTerms], *bond[kMostTerms];
    const BondEnds* ends[kMostTerms];
    int64_t bonds[kMostTerms];
    bool trap_by_type[kMostTerms];
    int pairs, traps, chains, side;

    __device__ void read(const CudaField& f) {
        pairs = traps = chains = 0;
        side = f.type_count > 1 ? static_cast<int>(f.type_count) + 1 : 1;
        const double* q = f.parameters;
        for (int t = 0; t < f.terms; q += f.sizes[t++]) {
            const int32_t kind = f.kinds[t];
            const char* ready = f.ready + f.at[t];
            if (kind == kHarmonic) {
                trap_by_type[traps] = f.type_count > 1 && f.sizes[t] != 1 + f.dim;
                trap[traps++] = q;
            } else if (kind == kBonds) {
                ends[chains] = reinterpret_cast<const BondEnds*>(ready);
                bonds[chains] = f.sizes[t] / kBondParameters;
                bond[chains++] = q;
            } else if (kind == kNodes) {
                nodes[pairs - 1] = reinterpret_cast<const R*>(ready);
            } else {
                const PairTerm<R>* own = reinterpret_cast<const PairTerm<R>*>(ready);
                pair[pairs] = *own;
                table[pairs] = f.side(t) == 1 ? nullptr : own;
                nodes[pairs++] = nullptr;
            }
        }
    }
};

// One system, and for an adjoint what by_energy * energy + the sum of u * forces has as its gradient.
template <class R, int D>
struct CudaSystem {
    const CudaTerms<R>& terms;
    const int32_t* types;          // of its atoms, or nullptr
    const PeriodicBox<R, D>* box;  // or nullptr
    const R *x, *u;                // [count, D]
    int count;
    double by_energy;

    __device__ Vector<R, D> apart(const R* from, int i, int j) const {
        Vector<R, D> d;
        GM_UNROLL
        for (int c = 0; c < D; ++c) d.c[c] = from[i * D + c] - from[j * D + c];
        return d;
    }
    __device__ Vector<R, D> between(int i, int j) const {
        Vector<R, D> d = apart(x, i, j);
        if (box != nullptr) box->nearest_image(d);
        return d;
    }
    __device__ int type(int i) const { return types == nullptr ? 0 : types[i]; }
};

template <class R, int D>
__device__ R squared(const Vector<R, D>& d) {
    R sum = d.c[0] * d.c[0];
    GM_UNROLL
    for (int c = 1; c < D; ++c) sum = fma(d.c[c], d.c[c], sum);
    return sum;
}
template <class R, int D>
__device__ R dot(const Vector<R, D>& a, const Vector<R, D>& b) {
    R sum = a.c[0] * b.c[0];
    GM_UNROLL
    for (int c = 1; c < D; ++c) sum = fma(a.c[c], b.c[c], sum);
    return sum;
}

// What a pair adds to the sums of its atom i: pull * along to the force, or to an adjoint's gradient.
template <class R, int D>
struct PairShare {
    R pull, energy;
    Vector<R, D> along;
};

// What one thread has summed of an atom. A pair's energy is counted at both its ends, all else once.
template <class R, int D>
struct AtomSums {
    R force[D], pairs;
    double rest;

    __device__ void clear() {
        for (int d = 0; d < D; ++d) force[d] = R(0);
        pairs = R(0);
        rest = 0.0;
    }
    template <Want want>
    __device__ void add(const PairShare<R, D>& p) {
        for (int d = 0; d < D; ++d) force[d] = fma(p.pull, p.along.c[d], force[d]);
        if (want == Want::forces_and_energy) pairs += p.energy;
    }
    __device__ double energy() const { return 0.5 * static_cast<double>(pairs) + rest; }
    __device__ void join(int group) {
        for (int half = group / 2; half > 0; half /= 2)
            for (int d = 0; d < D; ++d) force[d] += __shfl_xor_sync(kAllLanes, force[d], half);
    }
};

// Whether the pair is within a cutoff; without one, what it adds is 0.
// kAny: types, learnt terms and bonds; without it the loop over pairs asks after none.
template <Want want, bool kAny, class R, int D>
__device__ bool share_of(const CudaSystem<R, D>& s, int i, int j, PairShare<R, D>& to) {
    constexpr bool kEnergy = want == Want::forces_and_energy, kSlope = want == Want::adjoint;
    const Vector<R, D> r = s.between(i, j);
    const R r2 = squared(r), inverse_r2 = R(1) / r2;
    R pull = 0, slope = 0;
    bool near = false;
    to.energy = R(0);
    for (int t = 0; t < s.terms.pairs; ++t) {
        const PairTerm<R>* term = &s.terms.pair[t];
        if (kAny && s.terms.table[t] != nullptr) term = s.terms.table[t] + s.types[i] * s.terms.side + s.types[j];
        if (r2 >= (*term)(kCutoff)) continue;  // a distance that is NaN goes on
        const PairValues<R> v = kAny && term->kind == kLearned
                                    ? learned_values<kEnergy, kSlope>(*term, s.terms.nodes[t], r2, inverse_r2)
                                    : pair_values<kEnergy, kSlope>(term->kind, term->exponent, *term, r2, inverse_r2);
        near = true;
        pull += v.pull;
        if (kEnergy) to.energy += v.energy;
        if (kSlope) slope += v.slope;
    }
    to.pull = pull;
    to.along = r;
    if (!kSlope) return near;
    const Vector<R, D> du = s.apart(s.u, i, j);
    const R along = dot(r, du), by = fma(along + along, slope, -(static_cast<R>(s.by_energy) * pull));
    to.pull = R(1);
    for (int d = 0; d < D; ++d) to.along.c[d] = fma(by, r.c[d], pull * du.c[d]);
    return near;
}

// Where the sums over an atom's pairs come from: thread g of a group takes the atoms j = g, g + group, ...
struct AllPairs {
    template <Want want, bool kAny, class R, int D>
    __device__ void add(const CudaSystem<R, D>& s, int i, int g, int group, AtomSums<R, D>& sums) const {
        if (i >= s.count || s.terms.pairs == 0) return;
        PairShare<R, D> share;
        for (int j = g; j < s.count; j += group) {
            if (j == i) continue;
            share_of<want, kAny>(s, i, j, share);
            sums.template add<want>(share);
        }
    }
};
// The same sums to the bit from a list that rises and has every pair within a cutoff: the threads look at the next so
// many of the list, and each then adds, in their order, those that it would have met among all. A warp's groups come
// together; without a list, count -1, an atom goes by all pairs.
template <class R, int D>
struct ListedPairs {
    const int32_t* list;
    int count;
    PairShare<R, D>* shares;  // shared memory, [group]

    template <Want want, bool kAny>
    __device__ void add(const CudaSystem<R, D>& s, int i, int g, int group, AtomSums<R, D>& sums) const {
        const int before = static_cast<int>(threadIdx.x % 32) - g;
        const unsigned all = group == 32 ? kAllLanes : (1u << group) - 1u;
        for (int first = 0; __ballot_sync(kAllLanes, first < count) != 0; first += group) {
            const bool there = first + g < count;
            const int j = there ? list[first + g] : 0;
            const bool near = there && share_of<want, kAny>(s, i, j, shares[g]);
            unsigned mine = __ballot_sync(kAllLanes, near) >> before & all;
            for (int bit = 1; bit < group; bit *= 2) {
                const unsigned odd = __ballot_sync(kAllLanes, (j & bit) != 0) >> before;
                mine &= (g & bit) != 0 ? odd : ~odd;
            }
            __syncwarp();
            for (; mine != 0; mine &= mine - 1) sums.template add<want>(shares[__ffs(mine) - 1]);
            __syncwarp();
        }
        if (count < 0) AllPairs().add<want, kAny>(s, i, g, group, sums);
    }
};

// A bond's vector, its squared length and length / r (0 for a spring, whatever r is), in double.
template <int D>
struct BondShape {
    double d[D], r2, ratio;

    template <class R>
    __device__ BondShape(const Vector<R, D>& vector, double length) {
        r2 = 0.0;
        for (int c = 0; c < D; ++c) {
            d[c] = static_cast<double>(vector.c[c]);
            r2 += d[c] * d[c];
        }
        ratio = length == 0.0 ? 0.0 : length / sqrt(r2);
    }
};

template <Want want, class R, int D>
__device__ void add_bonds(const CudaSystem<R, D>& s, int chain, int i, int g, int group, AtomSums<R, D>& sums) {
    const BondEnds* ends = s.terms.ends[chain];
    for (int64_t b = g; b < s.terms.bonds[chain]; b += group) {
        const BondEnds e = ends[b];
        if (e.i < 0 || e.j < 0 || e.i >= s.count || e.j >= s.count) {  // the system has no such bond: no forces either
            for (int d = 0; d < D; ++d) sums.force[d] = static_cast<R>(__builtin_nan(""));
            sums.rest = __builtin_nan("");
            continue;
        }
        if (e.i != i && e.j != i) continue;
        const int other = e.i == i ? e.j : e.i;
        const double k = s.terms.bond[chain][b * kBondParameters + 2];
        const double length = s.terms.bond[chain][b * kBondParameters + 3];
        const BondShape<D> shape(s.between(i, other), length);
        const double pull = -k * (1.0 - shape.ratio);
        if (want != Want::adjoint) {
            for (int d = 0; d < D; ++d) sums.force[d] += static_cast<R>(pull * shape.d[d]);
            const double stretch = sqrt(shape.r2) - length;
            if (want == Want::forces_and_energy && e.i == i) sums.rest += 0.5 * k * (stretch * stretch);
            continue;
        }
        const Vector<R, D> du = s.apart(s.u, i, other);
        double along = 0.0;
        for (int d = 0; d < D; ++d) along += static_cast<double>(du.c[d]) * shape.d[d];
        const double bend = shape.ratio == 0.0 ? 0.0 : -k * shape.ratio / shape.r2 * along;
        for (int d = 0; d < D; ++d)
            sums.force[d] +=
                static_cast<R>((bend - s.by_energy * pull) * shape.d[d] + pull * static_cast<double>(du.c[d]));
    }
}

// k and center of atom i's trap; nullptr where its type has none.
template <class R, int D>
__device__ const double* trap_of(const CudaSystem<R, D>& s, int trap, int i) {
    if (!s.terms.trap_by_type[trap]) return s.terms.trap[trap];
    return s.types[i] + 1 < s.terms.side ? s.terms.trap[trap] + s.types[i] * (1 + D) : nullptr;
}
template <Want want, class R, int D>
__device__ void add_trap(const CudaSystem<R, D>& s, int trap, int i, bool counts, AtomSums<R, D>& sums) {
    const double* own = trap_of(s, trap, i);
    for (int d = 0; d < D; ++d) {
        const double k = own != nullptr ? own[0] : __builtin_nan(""), center = own != nullptr ? own[1 + d] : k;
        if (want == Want::adjoint) {
            const double away = static_cast<double>(s.x[i * D + d]) - center;
            sums.force[d] += static_cast<R>(k * (s.by_energy * away - static_cast<double>(s.u[i * D + d])));
            continue;
        }
        sums.force[d] -= static_cast<R>(k) * (s.x[i * D + d] - static_cast<R>(center));
        const double away = static_cast<double>(s.x[i * D + d]) - center;
        if (want == Want::forces_and_energy && counts) sums.rest += 0.5 * k * (away * away);
    }
}

// The sums of atom i: its force joined, and the same in all threads of the group, its energy still in parts. i may lie
// beyond the system, so that all of a warp's threads join.
template <Want want, bool kAny, class R, int D, class Pairs = AllPairs>
__device__ AtomSums<R, D> atom_sums(const CudaSystem<R, D>& s, int i, int g, int group, const Pairs& pairs = {}) {
    AtomSums<R, D> sums;
    sums.clear();
    pairs.template add<want, kAny>(s, i, g, group, sums);
    if (kAny && i < s.count)
        for (int c = 0; c < s.terms.chains; ++c) add_bonds<want>(s, c, i, g, group, sums);
    sums.join(group);
    if (i < s.count)
        for (int t = 0; t < s.terms.traps; ++t) add_trap<want>(s, t, i, g == 0, sums);
    return sums;
}

}  // namespace
}  // namespace gm
