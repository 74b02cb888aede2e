// What splines (learned.h) have of their own for lanes: looking up, and slopes of coefficients. For body files.
#pragma once

#include "common/simd.h"
#include "dynamics/learned.h"

GM_NAMESPACE_BEGIN

// Lane l of at gives from[at[l]].
template <class R>
GM_HD x16<R> look_up(const R* from, x16<Place<R>> at) {
    Place<R> index[16];
    R values[16];
    at.store(index);
    for (int l = 0; l < 16; ++l) values[l] = from[index[l]];
    return x16<R>::load(values);
}

namespace {

// Adds the derivatives in the coefficients of by_energy * energy + by_pull * pull, for the first `lanes` of those in
// which `counts` is not 0.
template <class V, class Parameters>
GM_HD void learned_slopes(const Parameters& p, V r2, V inverse_r2, V by_energy, V by_pull, V counts, int64_t lanes,
                          double* slopes) {
    using R = typename Bits<V>::real;
    const V inverse_r = sqrt(inverse_r2);
    const auto place = spline_place(p, r2 * inverse_r);
    Place<R> at[16];
    R t[16], energy[16], along[16], counted[16];
    place.at.store(at);
    place.t.store(t);
    by_energy.store(energy);
    (-(by_pull * inverse_r) * p(3)).store(along);
    counts.store(counted);
    for (int l = 0; l < 16 && l < lanes; ++l) {
        if (counted[l] == R(0)) continue;
        spline_slopes(static_cast<double>(t[l]), static_cast<double>(energy[l]), static_cast<double>(along[l]),
                      [&](int k, double slope) { slopes[at[l] + k] += slope; });
    }
}

}  // namespace

GM_NAMESPACE_END
