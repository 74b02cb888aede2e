// All steps of one system: compiled once per instruction set. The state lives in scratch as structures of arrays.
#include "common/noise_fill.h"
#include "dynamics/system_field.h"

namespace gm {
inline namespace GM_ISA {
namespace {

constexpr double kHalfLog2Pi = 0.91893853320467274178;

template <class R>
struct Stepper {
    using V = x16<R>;
    const TrajectoryArgs<R>& a;
    const SystemArgs<R>& s;
    StepConstants now;  // of the step that is taken
    const SystemField<R> field;
    const int64_t dim, stride, size;  // size: of one structure of arrays
    R *x, *v, *f, *stage, *sum, *extra, *noise, *inverse_mass, *inverse_root, *e;
    bool has_force = false;   // f is the force at x
    double normaliser = 0.0;  // of a step's Gaussians, with log-probabilities
    double energy = 0.0;      // at x, where it was asked for

    Stepper(const TrajectoryArgs<R>& args, const SystemArgs<R>& system, R* scratch)
        : a(args),
          s(system),
          now(system.constants[0]),
          field(args.field, system.index, system.first, system.count, system.crew, system.near,
                scratch + trajectory_scratch(system.count, args.field.dim)),
          dim(args.field.dim),
          stride(padded_atoms(system.count)),
          size(dim * stride) {
        R** arrays[] = {&x, &v, &f, &stage, &sum, &extra, &noise};
        for (R** array : arrays) {
            *array = scratch;
            scratch += size;
        }
        inverse_mass = scratch;
        inverse_root = scratch + stride;
        e = scratch + 2 * stride;
        for (R* at = x; at != f; ++at) *at = R(0);
        for (int64_t i = 0; i < 2 * stride; ++i) inverse_mass[i] = R(0);
        to_arrays(s.x, s.count, dim, stride, x);
        to_arrays(s.v, s.count, dim, stride, v);
        for (int64_t i = 0; i < s.count; ++i) inverse_mass[i] = a.inverse_masses[s.first + i];
        for (int64_t i = 0; i < stride; i += 16) sqrt(V::load(inverse_mass + i)).store(inverse_root + i);
        if (a.pin != nullptr) {  // in an array that Euler-Maruyama leaves free
            for (int64_t i = 0; i < size; ++i) sum[i] = R(0);
            to_arrays(a.pin + s.first * dim, s.count, dim, stride, sum);
        }
    }

    // The constants of this call's step number `at`.
    void set_step(int64_t at) {
        if (s.scheduled) now = s.constants[at];
        if (a.forward == nullptr || (at > 0 && !s.scheduled)) return;
        const double kick = static_cast<double>(static_cast<R>(now.kick));
        normaliser = 0.0;
        for (int64_t i = 0; i < s.count; ++i) {
            const double scale = a.kind == IntegratorKind::baoab ? kick * static_cast<double>(inverse_root[i]) : kick;
            normaliser -= static_cast<double>(dim) * (kHalfLog2Pi + __builtin_log(scale));
        }
    }

    static f64x16 wide(f32x16 value) { return widen<double>(value); }
    static f64x16 wide(f64x16 value) { return value; }

    // The Gaussian of one step: its mean is keep * from + dt * drift, or with a pin, pin + keep * (from - pin).
    struct Gaussian {
        const R *from, *drift, *pin;
        double keep, dt, kick;
        bool by_mass;  // the scale is kick times the root of the inverse mass
    };
    Gaussian kick_of(const R* from) const {  // of the Ornstein-Uhlenbeck part
        return {from, nullptr, nullptr, rounded(now.keep), 0.0, rounded(now.kick), true};
    }
    Gaussian drift_of(const R* from, const R* drift, double sign) const {  // of Euler-Maruyama's step
        return {from, drift, nullptr, 1.0, sign * rounded(now.dt), rounded(now.kick), false};
    }
    static double rounded(double value) { return static_cast<double>(static_cast<R>(value)); }

    // Adds one step's log-probability: normalisers, and -z^2 / 2 with z = (to - mean) / scale of each element. In
    // double, lane by lane, axes in their order.
    void add_gaussians(double* total, const R* to, const Gaussian& g, double normalisers) const {
        f64x16 squares(0.0);
        const f64x16 keep(g.keep), dt(g.dt), kick(g.kick), lane = convert<double>(iota<int64_t>());
        each([&](int64_t at, int64_t atom) {
            f64x16 z = wide(V::load(to + at)), from = wide(V::load(g.from + at));
            if (g.pin != nullptr) {
                const f64x16 pin = wide(V::load(g.pin + at));
                z = z - pin;
                from = from - pin;
            }
            z = z - keep * from;
            if (g.drift != nullptr) z = z - dt * wide(V::load(g.drift + at));
            z = z / (g.by_mass ? kick * wide(V::load(inverse_root + atom)) : kick);
            squares = squares + select(lane < f64x16(static_cast<double>(s.count - atom)), z * z, f64x16(0.0));
        });
        total[s.index] += normalisers - 0.5 * sum_lanes(squares);
    }

    // The reversed step from x to `before` of Euler-Maruyama.
    void add_backward(const R* before, bool record) {
        if (a.backward_kind == BackwardKind::bridge) {
            if (now.bridge == 0.0) return;  // it ends where it is pinned, with certainty
            const double atoms = static_cast<double>(s.count * dim);
            add_gaussians(a.backward, before,
                          {x, nullptr, sum, now.bridge, 0.0, rounded(now.kick) * __builtin_sqrt(now.bridge), false},
                          normaliser - 0.5 * atoms * __builtin_log(now.bridge));
        } else if (a.backward_kind == BackwardKind::brownian) {
            add_gaussians(a.backward, before, drift_of(x, nullptr, 0.0), normaliser);
        } else {
            force_here(record);
            const double sign = a.backward_kind == BackwardKind::reversed ? -1.0 : 1.0;
            add_gaussians(a.backward, before, drift_of(x, f, sign), normaliser);
        }
    }

    void force_at(const R* at, R* to) { field.template evaluate<Want::forces>(at, to, e); }
    void force_here(bool with_energy) {
        if (with_energy)
            energy = field.template evaluate<Want::forces_and_energy>(x, f, e);
        else if (!has_force)
            force_at(x, f);
        has_force = true;
    }

    // stage[d * stride + i] = normal number i * D + d of this step, for atoms i from `begin` to `end`
    void kicks(uint32_t step, int64_t begin, int64_t end) const {
        const int64_t n = (end < s.count ? end : s.count) - begin;
        if (n <= 0) return;
        fill_noise<NormalKind>(noise + begin * dim, begin * dim, n * dim, s.seed, kStreamKick, s.id, step);
        to_arrays(noise + begin * dim, n, dim, stride, stage + begin);
    }

    // body(at, atom) over the lanes of all axes; `at` indexes arrays, `atom` masses
    template <class Body>
    GM_HD void each(const Body& body) const {
        between(0, stride, body);
    }
    template <class Body>
    GM_HD void between(int64_t begin, int64_t end, const Body& body) const {
        for (int64_t d = 0; d < dim; ++d)
            for (int64_t i = begin; i < end; i += 16) body(d * stride + i, i);
    }
    // The same, a system's threads sharing the atoms; before(begin, end) is called for each share of them.
    template <class Before, class Body>
    void move(const Before& before, const Body& body) const {
        shared(s.crew, (stride + kShare - 1) / kShare, [&](int64_t part, int64_t) {
            const int64_t begin = kShare * part, end = begin + kShare < stride ? begin + kShare : stride;
            before(begin, end);
            between(begin, end, body);
        });
    }
    template <class Body>
    void move(const Body& body) const {
        move([](int64_t, int64_t) {}, body);
    }
    static constexpr int64_t kShare = 512;  // atoms; a multiple of 16, so that their noise begins with a block

    void half_kick() const {
        const V half(static_cast<R>(now.half_dt));
        move([&](int64_t at, int64_t atom) {
            const V push = V::load(f + at) * V::load(inverse_mass + atom);
            fma(half, push, V::load(v + at)).store(v + at);
        });
    }

    void velocity_verlet(bool record) {
        force_here(false);
        half_kick();
        const V dt(static_cast<R>(now.dt));
        move([&](int64_t at, int64_t) { fma(dt, V::load(v + at), V::load(x + at)).store(x + at); });
        has_force = false;
        force_here(record);
        half_kick();
    }

    void baoab(uint32_t step, bool record) {
        force_here(false);
        const V half(static_cast<R>(now.half_dt)), keep(static_cast<R>(now.keep)), kick(static_cast<R>(now.kick));
        const auto draw = [&](int64_t begin, int64_t end) { kicks(step, begin, end); };
        move(draw, [&](int64_t at, int64_t atom) {
            V vi = fma(half, V::load(f + at) * V::load(inverse_mass + atom), V::load(v + at));
            V xi = fma(half, vi, V::load(x + at));
            if (a.forward != nullptr) vi.store(extra + at);
            vi = fma(kick * V::load(inverse_root + atom), V::load(stage + at), keep * vi);
            vi.store(v + at);
            fma(half, vi, xi).store(x + at);
        });
        if (a.forward != nullptr) {
            add_gaussians(a.forward, v, kick_of(extra), normaliser);
            add_gaussians(a.backward, extra, kick_of(v), normaliser);
        }
        has_force = false;
        force_here(record);
        half_kick();
    }

    void euler_maruyama(int64_t at_step, uint32_t step, bool record) {
        force_here(false);
        const V dt(static_cast<R>(now.dt)), kick(static_cast<R>(now.kick));
        if (a.forward != nullptr) each([&](int64_t at, int64_t) { V::load(x + at).store(extra + at); });
        if (a.path != nullptr) {
            to_arrays(a.path + ((at_step + 1) * a.atoms + s.first) * dim, s.count, dim, stride, x);
        } else if (now.kick != 0.0) {
            const auto draw = [&](int64_t begin, int64_t end) { kicks(step, begin, end); };
            move(draw, [&](int64_t at, int64_t) {
                const V xi = fma(dt, V::load(f + at), V::load(x + at));
                fma(kick, V::load(stage + at), xi).store(x + at);
            });
        } else {
            move([&](int64_t at, int64_t) { fma(dt, V::load(f + at), V::load(x + at)).store(x + at); });
        }
        has_force = false;
        if (a.forward == nullptr) return;
        add_gaussians(a.forward, x, drift_of(extra, f, 1.0), normaliser);
        add_backward(extra, record);
    }

    // to = x + h * k
    void staged(double h, const R* k, R* to) const {
        const V by(static_cast<R>(h));
        move([&](int64_t at, int64_t) { fma(by, V::load(k + at), V::load(x + at)).store(to + at); });
    }

    void heun() {
        force_here(false);
        staged(now.dt, f, stage);
        force_at(stage, extra);
        const V half(static_cast<R>(now.half_dt));
        move([&](int64_t at, int64_t) {
            fma(half, V::load(f + at) + V::load(extra + at), V::load(x + at)).store(x + at);
        });
        has_force = false;
    }

    void rk4() {
        force_here(false);
        staged(now.half_dt, f, stage);
        force_at(stage, sum);
        staged(now.half_dt, sum, stage);
        force_at(stage, extra);
        move([&](int64_t at, int64_t) { (V::load(sum + at) + V::load(extra + at)).store(sum + at); });
        staged(now.dt, extra, stage);
        force_at(stage, extra);
        const V sixth(static_cast<R>(now.sixth_dt)), two(R(2));
        move([&](int64_t at, int64_t) {
            const V k = fma(two, V::load(sum + at), V::load(f + at)) + V::load(extra + at);
            fma(sixth, k, V::load(x + at)).store(x + at);
        });
        has_force = false;
    }

    void run() {
        int64_t frame = 0;
        for (int64_t done = 1; done <= a.steps; ++done) {
            const uint32_t step = s.step + static_cast<uint32_t>(done - 1);
            const bool record = a.record_every > 0 && (a.recorded_before + done) % a.record_every == 0;
            set_step(done - 1);
            switch (a.kind) {
                case IntegratorKind::velocity_verlet:
                    velocity_verlet(record);
                    break;
                case IntegratorKind::baoab:
                    baoab(step, record);
                    break;
                case IntegratorKind::euler_maruyama:
                    euler_maruyama(done - 1, step, record);
                    break;
                case IntegratorKind::heun:
                    heun();
                    break;
                case IntegratorKind::rk4:
                    rk4();
                    break;
            }
            if (!record) continue;
            if (!has_force) force_here(true);
            from_arrays(x, s.count, dim, stride, a.frames + (frame * a.atoms + s.first) * dim);
            a.energies[frame * a.systems + s.index] = static_cast<R>(energy);
            ++frame;
        }
        from_arrays(x, s.count, dim, stride, s.x);
        from_arrays(v, s.count, dim, stride, s.v);
    }
};

}  // namespace

void trajectory_fp32(const TrajectoryArgs<float>& a, const SystemArgs<float>& s, float* scratch) {
    Stepper<float>(a, s, scratch).run();
}
void trajectory_fp64(const TrajectoryArgs<double>& a, const SystemArgs<double>& s, double* scratch) {
    Stepper<double>(a, s, scratch).run();
}

}  // namespace GM_ISA
}  // namespace gm
