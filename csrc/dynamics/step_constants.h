// The constants of a step, from an integrator's numbers: written once for CPU and GPU.
#pragma once

#include <cmath>

#include "dynamics/dynamics.h"

namespace gm {

GM_HD StepConstants step_constants(IntegratorKind kind, const double* c) {  // dt, temperature, friction, noise, bridge
    StepConstants k = {c[0], 0.5 * c[0], c[0] / 6.0, 1.0, 0.0, c[4]};
    if (kind == IntegratorKind::baoab) {
        k.keep = ::exp(-c[2] * c[0]);
        k.kick = ::sqrt(-::expm1(-2.0 * c[2] * c[0]) * c[1]);
    } else if (kind == IntegratorKind::euler_maruyama) {
        k.kick = c[3] * ::sqrt(c[0]);
    }
    return k;
}

}  // namespace gm
