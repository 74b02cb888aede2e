// One system's space cut into cells, for CPU and GPU: fractions of positions along a frame, in equal parts. All in
// double.
#pragma once

#include <cmath>

#include "common/scalar.h"

namespace gm {

// Axes that the system does not have are zeros, and do not repeat. A fraction along axis k is x . fractions[k], below
// 2^30; shifts by the rows of `cell` change the fraction along their own axis alone, by 1.
struct Frame {
    double cell[3][3], fractions[3][3];
    bool repeats[3];
};

struct Grid {
    double length[3],
        largest[3];              // of the fractions: what they span (1 where an axis repeats), and how far out they are
    int64_t parts[3], reach[3];  // atoms within the cutoff of each other are up to `reach` parts apart

    GM_HD int64_t cells() const { return parts[0] * parts[1] * parts[2]; }

    // Parts about a cutoff over `cuts` wide, but up to `most` cells.
    GM_HD void cut(const Frame& frame, double cutoff, double cuts, int64_t most) {
        double apart[3];  // of the ends of an axis, at right angles to the two others
        for (int k = 0; k < 3; ++k) {
            const double* f = frame.fractions[k];
            const double size = sqrt((f[0] * f[0] + f[1] * f[1]) + f[2] * f[2]);
            apart[k] = size > 0.0 ? length[k] / size : 0.0;
            const double wanted = ::floor(apart[k] * cuts / cutoff);
            parts[k] = static_cast<int64_t>(!(wanted >= 1.0) ? 1.0 : wanted > 1048576.0 ? 1048576.0 : wanted);
        }
        for (int64_t all = cells(); all > most; all = cells()) {
            int64_t* widest = parts;
            if (parts[1] > *widest) widest = parts + 1;
            if (parts[2] > *widest) widest = parts + 2;
            *widest = (*widest + 1) / 2;
        }
        for (int k = 0; k < 3; ++k) {
            // a part's width, and a slack for the roundings of fractions
            const double all = static_cast<double>(parts[k]), width = apart[k] / all;
            const double wanted = apart[k] > 0.0 ? ::ceil(cutoff / width + 1e-9 + all * largest[k] * 1e-14) : 0.0;
            reach[k] = static_cast<int64_t>(frame.repeats[k] || wanted < all ? wanted : all);
        }
    }
    // The part of a fraction of [0, length].
    GM_HD int64_t part(int k, double fraction) const {
        const double scale = length[k] > 0.0 ? static_cast<double>(parts[k]) / length[k] : 0.0;
        const auto own = static_cast<int64_t>(fraction * scale);
        return own < parts[k] - 1 ? own : parts[k] - 1;
    }
};

// v less its parts along the fractions that repeat, and along those found before k, and of length 1; gives the square
// of what was left.
GM_HD double reject(const Frame& frame, int64_t dim, int64_t k, double* v) {
    double basis[4][3];
    int64_t size = 0;
    for (int64_t r = 0; r <= dim; ++r) {  // v is the last of them
        if (r < dim && !frame.repeats[r] && r >= k) continue;
        double* to = r < dim ? basis[size] : v;
        for (int d = 0; d < 3 && r < dim; ++d) to[d] = frame.fractions[r][d];
        for (int twice = 0; twice < 2; ++twice)
            for (int64_t b = 0; b < size; ++b) {
                const double along = to[0] * basis[b][0] + to[1] * basis[b][1] + to[2] * basis[b][2];
                for (int d = 0; d < 3; ++d) to[d] -= along * basis[b][d];
            }
        const double left = to[0] * to[0] + to[1] * to[1] + to[2] * to[2];
        for (int d = 0; d < 3; ++d) to[d] /= left > 0.0 ? sqrt(left) : 1.0;
        if (r == dim) return left;
        ++size;
    }
    return 0.0;
}
// A potential's box as a frame: directions that do not repeat are unit vectors at right angles to those that do. cell
// and inverse [dim, dim] as the ops of dynamics have them, nullptr where nothing repeats.
GM_HD Frame frame_of_box(const double* cell, const double* inverse, int64_t dim) {
    Frame frame = {};
    for (int64_t k = 0; k < dim && cell != nullptr; ++k)
        for (int64_t d = 0; d < dim; ++d) {
            frame.cell[k][d] = cell[k * dim + d];
            frame.fractions[k][d] = inverse[d * dim + k];
            frame.repeats[k] |= frame.fractions[k][d] != 0.0;
        }
    for (int64_t k = 0; k < dim; ++k) {
        if (frame.repeats[k]) continue;
        double best = -1.0;
        for (int64_t axis = 0; axis < dim; ++axis) {
            double v[3] = {};
            v[axis] = 1.0;
            const double left = reject(frame, dim, k, v);
            if (left <= best) continue;
            best = left;
            for (int d = 0; d < 3; ++d) frame.fractions[k][d] = v[d];
        }
    }
    return frame;
}

// Lists of what is within `radius` hold every pair within the cutoff while no atom is further than `half` from where it
// was listed.
struct Skin {
    double radius, half;
    bool serves;  // else positions are so far out that their type tells no distances
};
// skin: in cutoffs; size: the largest of the cutoff and the coordinates; epsilon: of the positions' type.
GM_HD Skin skin_of(const Frame& frame, double cutoff, double skin, double size, double epsilon) {
    double turns = 0.0;
    for (int k = 0; k < 3; ++k) {
        const double* f = frame.fractions[k];
        const double own = (f[0] < 0.0 ? -f[0] : f[0]) + (f[1] < 0.0 ? -f[1] : f[1]) + (f[2] < 0.0 ? -f[2] : f[2]);
        turns = own > turns ? own : turns;
    }
    const double slack = 64.0 * epsilon * size;  // the roundings of a distance, images included
    return {cutoff + skin * cutoff + 4.0 * slack, 0.5 * (skin * cutoff) + slack,
            size * turns <= 0x1p29 && slack <= 0.02 * cutoff};
}

}  // namespace gm
