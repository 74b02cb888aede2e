// A learnt pair energy as a spline: polynomials of degree 5, one an interval of the distance, whose coefficients follow
// the term. For lanes on a CPU (learned_lanes.h) and for numbers on a GPU.
#pragma once

#include "dynamics/field.h"

GM_NAMESPACE_BEGIN

constexpr int kDegree = 5;

// A place among coefficients: an integer as wide as R.
template <class R>
struct PlaceOf;
template <>
struct PlaceOf<float> {
    using type = int32_t;
};
template <>
struct PlaceOf<double> {
    using type = int64_t;
};
template <class R>
using Place = typename PlaceOf<R>::type;

GM_HD float look_up(const float* from, int32_t at) { return from[at]; }
GM_HD double look_up(const double* from, int64_t at) { return from[at]; }

// Where a distance lies: the place of its interval's coefficients, and how far into the interval, 0 to 1.
template <class V, class At>
struct SplinePlace {
    At at;
    V t;
};
// p: the place of the first coefficient, the number of intervals, where they begin, how many a unit of distance.
template <class V, class Parameters>
GM_HD auto spline_place(const Parameters& p, V r) {
    using R = typename Bits<V>::real;
    const V last = p(1) - V(R(1)), s = (r - p(2)) * p(3);
    V whole = select(s < last, s, last);  // a NaN becomes the last: its value stays NaN by t
    whole = select(whole > V(R(0)), whole, V(R(0)));
    auto interval = convert<Place<R>>(whole);  // towards 0
    using At = decltype(interval);
    return SplinePlace<V, At>{convert<Place<R>>(p(0)) + interval * At(Place<R>(kDegree + 1)), s - convert<R>(interval)};
}

template <bool kEnergy, bool kSlope, class V, class R, class Parameters>
GM_HD PairValues<V> learned_values(const Parameters& p, const R* coefficients, V r2, V inverse_r2) {
    const V inverse_r = sqrt(inverse_r2), r = r2 * inverse_r;
    const auto place = spline_place(p, r);
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

// f(k, slope) for each coefficient c_k of a pair at t in its interval: what by_energy * energy + along * d energy / dt
// has as its derivative in c_k, halved since a pair meets twice.
template <class F>
GM_HD void spline_slopes(double t, double by_energy, double along, const F& f) {
    double power = 1.0, below = 0.0;  // t^k, and its derivative
    for (int k = 0; k <= kDegree; ++k) {
        f(k, 0.5 * (by_energy * power + along * below));
        below = below * t + power;
        power *= t;
    }
}

GM_NAMESPACE_END
