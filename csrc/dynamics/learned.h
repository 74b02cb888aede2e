// A learnt pair energy as a spline: polynomials of degree 5, one an interval of the distance, whose coefficients follow
// the term. Lanes alone.
#pragma once

#include "common/simd.h"
#include "dynamics/field.h"

GM_NAMESPACE_BEGIN

namespace {

constexpr int kDegree = 5;

// As wide as a lane of R.
template <class R>
using Place = typename MaskOf<R>::type;

// Lane l of at gives from[at[l]].
template <class R>
GM_HD x16<R> look_up(const R* from, x16<Place<R>> at) {
    Place<R> index[16];
    R values[16];
    at.store(index);
    for (int l = 0; l < 16; ++l) values[l] = from[index[l]];
    return x16<R>::load(values);
}

// Where a distance lies: the place of its interval's coefficients, and how far into the interval, 0 to 1.
template <class R>
struct SplinePlace {
    x16<Place<R>> at;
    x16<R> t;
};
// p: the place of the first coefficient, the number of intervals, where they begin, how many a unit of distance.
template <class V, class Parameters>
GM_HD auto spline_place(const Parameters& p, V r) {
    using R = typename Bits<V>::real;
    const V last = p(1) - V(R(1)), s = (r - p(2)) * p(3);
    V whole = select(s < last, s, last);  // a NaN becomes the last: its value stays NaN by t
    whole = select(whole > V(R(0)), whole, V(R(0)));
    const auto interval = convert<Place<R>>(whole);  // towards 0
    const x16<Place<R>> width(kDegree + 1);
    return SplinePlace<R>{convert<Place<R>>(p(0)) + interval * width, s - convert<R>(interval)};
}

template <bool kEnergy, bool kSlope, class V, class R, class Parameters>
GM_HD PairValues<V> learned_values(const Parameters& p, const R* coefficients, V r2, V inverse_r2) {
    const V inverse_r = sqrt(inverse_r2), r = r2 * inverse_r;
    const SplinePlace<R> place = spline_place(p, r);
    V c[kDegree + 1];
    for (int k = 0; k <= kDegree; ++k) c[k] = look_up(coefficients + k, place.at);
    V value = c[kDegree], first = V(R(0)), second = V(R(0));  // Horner; second is half of it
    for (int k = kDegree - 1; k >= 0; --k) {
        if (kSlope) second = fma(second, place.t, first);
        first = fma(first, place.t, value);
        value = fma(value, place.t, c[k]);
    }
    first = first * p(3);
    PairValues<V> v;
    v.pull = -(first * inverse_r);
    if (kEnergy) v.energy = value;
    if (kSlope) {
        second = (second + second) * (p(3) * p(3));
        v.slope = V(R(-0.5)) * inverse_r2 * fma(-first, inverse_r, second);
    }
    return v;
}

// Adds the derivatives in the coefficients of by_energy * energy + by_pull * pull, halved since a pair meets twice, for
// the first `lanes` of those in which `counts` is not 0.
template <class V, class Parameters>
GM_HD void learned_slopes(const Parameters& p, V r2, V inverse_r2, V by_energy, V by_pull, V counts, int64_t lanes,
                          double* slopes) {
    using R = typename Bits<V>::real;
    const V inverse_r = sqrt(inverse_r2);
    const SplinePlace<R> place = spline_place(p, r2 * inverse_r);
    Place<R> at[16];
    R t[16], energy[16], along[16], counted[16];
    place.at.store(at);
    place.t.store(t);
    by_energy.store(energy);
    (-(by_pull * inverse_r) * p(3)).store(along);
    counts.store(counted);
    for (int l = 0; l < 16 && l < lanes; ++l) {
        if (counted[l] == R(0)) continue;
        double power = 1.0, below = 0.0;  // t^k, and its derivative
        for (int k = 0; k <= kDegree; ++k) {
            const double s = static_cast<double>(t[l]);
            slopes[at[l] + k] += 0.5 * (static_cast<double>(energy[l]) * power + static_cast<double>(along[l]) * below);
            below = below * s + power;
            power *= s;
        }
    }
}

}  // namespace

GM_NAMESPACE_END
