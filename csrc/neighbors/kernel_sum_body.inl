// Sums of kernels over the references, and their gradients, on the tile engine. Compiled once per instruction set.
//
// A reducer is called through a pointer, a group of pairs at a time: the sweeps are compiled once for all of them.
#include "common/elementary.h"
#include "neighbors/kernel_sum.h"
#include "neighbors/sweep.h"

namespace gm {
inline namespace GM_ISA {
namespace {

template <class F>
struct Called {
    const void* reducer;
    void (*function)(const void*, int64_t row, int64_t reference, int lanes, const x16<F>& values);
    GM_HD void operator()(int64_t row, int64_t reference, int lanes, x16<F> values) const {
        function(reducer, row, reference, lanes, values);
    }
};

template <class F>
__attribute__((noinline)) void sweep_for(Kernel kernel, const Sweep<F>& s, const Called<F>& reduce) {
    if (kernel == Kernel::polynomial)
        sweep<Product>(s, reduce);
    else
        sweep<SquaredDifference>(s, reduce);
}

template <class F, class Reducer>
void run(const KernelShape& shape, const Sweep<F>& s, const Reducer& reducer) {
    sweep_for<F>(shape.kernel, s,
                 {&reducer, [](const void* r, int64_t row, int64_t reference, int lanes, const x16<F>& values) {
                      (*static_cast<const Reducer*>(r))(row, reference, lanes, values);
                  }});
}

template <class F>
struct Limits;
template <>
struct Limits<float> {
    static constexpr float largest = 0x1.fffffep127f, most = 88.0f;  // e^most is finite
};
template <>
struct Limits<double> {
    static constexpr double largest = 0x1.fffffffffffffp1023, most = 709.0;
};

GM_HD f64x16 to_double(f32x16 a) { return widen<double>(a); }
GM_HD f64x16 to_double(f64x16 a) { return a; }

// Whether some lane of a is above that of b.
template <class F>
GM_HD bool any_above(x16<F> a, x16<F> b) {
    return bits_le(a, b) != 0xffffu;
}

// A kernel that is an exponential as its exponent, with the slopes of that; else the kernel itself, with its own.
template <class F>
struct Evaluated {
    x16<F> value, by_s, by_rate;
};
GM_HD bool is_exponential(Kernel kernel) { return kernel <= Kernel::rational; }

template <bool kSlopes, class F>
GM_HD Evaluated<F> evaluate(const KernelShape& shape, x16<F> s, x16<F> rate) {
    using V = x16<F>;
    Evaluated<F> e;
    e.by_s = e.by_rate = V(F(0));
    if (shape.kernel != Kernel::polynomial) s = min(s, V(Limits<F>::largest));  // infinity times 0 is no number
    switch (shape.kernel) {
        case Kernel::rbf:
            e.value = -(rate * s);
            e.by_s = -rate;
            e.by_rate = -s;
            break;
        case Kernel::laplace:
        case Kernel::energy: {
            const V d = sqrt(s);
            e.value = -(rate * d);
            // At distance 0 there is a kink, and the subgradient 0 is taken.
            if (kSlopes) e.by_s = select(d > V(F(0)), -rate / (d + d), V(F(0)));
            e.by_rate = -d;
            break;
        }
        case Kernel::rational: {
            const V exponent(static_cast<F>(-shape.exponent));
            const V t = rate * s, q = min(V(F(1)) + t, V(Limits<F>::largest));
            // The last bits of a small t, which 1 + t loses and a large exponent asks for.
            const V lost = select(t < V(F(1)), t - (q - V(F(1))), V(F(0)));
            e.value = exponent * (log_positive(q) + lost);
            if (kSlopes) {
                e.by_s = exponent * (rate / q);
                e.by_rate = exponent * (s / q);
            }
            break;
        }
        case Kernel::polynomial: {
            const V base = rate * s + V(static_cast<F>(shape.offset));
            V below(F(1));  // base^(degree - 1)
            for (int64_t i = 1; i < shape.degree; ++i) below = below * base;
            e.value = below * base;
            const V slope = V(static_cast<F>(shape.degree)) * below;
            e.by_s = slope * rate;
            e.by_rate = slope * s;
            break;
        }
    }
    return e;
}

// Lanes past the end, and the query itself, become `nothing`.
template <class F>
GM_HD void leave_out(const Sweep<F>& s, int64_t row, int64_t reference, int lanes, x16<F>& value, F nothing) {
    const int64_t self = s.selves != nullptr ? s.selves[row] - s.first - reference : -1;
    if (lanes == kGroup && (self < 0 || self >= kGroup)) return;
    alignas(64) F v[kGroup];
    value.store(v);
    for (int lane = 0; lane < kGroup; ++lane)
        if (lane >= lanes || lane == self) v[lane] = nothing;
    value = x16<F>::load(v);
}

template <class F>
struct Accumulate {
    const Sweep<F>& s;
    const KernelSums<F>& to;
    using V = x16<F>;

    void operator()(int64_t row, int64_t reference, int lanes, const V& values) const {
        V value = evaluate<false, F>(to.shape, values, V::load(to.of.rates + reference)).value;
        double* sums = to.lanes + row * kGroup;
        if (to.of.mass == nullptr) {
            if (is_exponential(to.shape.kernel)) value = exp_nonpositive(value);
            value = V::load(to.of.weights + reference) * value;
            leave_out(s, row, reference, lanes, value, F(0));
        } else {
            const F none = -__builtin_inf();
            value = value + V::load(to.of.mass + reference);
            leave_out(s, row, reference, lanes, value, none);
            if (any_above(value, V(static_cast<F>(to.peaks[row])))) {
                const double peak = static_cast<double>(max_lanes(value));
                // The sums so far, taken over the new peak: in double, as this may happen often.
                const f64x16 scale(exp_nonpositive(to.peaks[row] - peak));
                (f64x16::load(sums) * scale).store(sums);
                to.peaks[row] = peak;
            }
            const F peak = static_cast<F>(to.peaks[row]);
            if (peak == none) return;  // nothing but zero weights as yet
            value = exp_nonpositive(value - V(peak));
        }
        (f64x16::load(sums) + to_double(value)).store(sums);
    }
};

template <class F>
struct Pull {
    const Sweep<F>& s;
    const KernelPull<F>& to;
    using V = x16<F>;

    void operator()(int64_t row, int64_t group, int lanes, const V& values) const {
        const bool turned = to.rows_are_references;
        // Each side's numbers: those of the row in every lane, those of the group lane by lane.
        const auto of_reference = [&](const F* x) { return turned ? V(x[row]) : V::load(x + group); };
        const auto of_query = [&](const F* x) { return turned ? V::load(x + group) : V(x[row]); };
        const V incoming = of_query(to.incoming);
        Evaluated<F> e = evaluate<true, F>(to.shape, values, of_reference(to.of.rates));
        // share: what the pair gives to its sum or, where the logarithm is wanted, which part of the total that is
        V share = incoming * of_reference(to.of.weights), by_weight = incoming;
        if (to.of.mass != nullptr) {
            const V total = of_query(to.totals);
            share = incoming * exponential((e.value + of_reference(to.of.mass)) - total);
            by_weight = incoming * exponential((e.value + of_reference(to.of.logs)) - total);
        } else if (is_exponential(to.shape.kernel)) {
            const V kernel = exp_nonpositive(e.value);
            share = share * kernel;
            by_weight = by_weight * kernel;
        } else {
            by_weight = by_weight * e.value;
        }
        V factor = share * e.by_s;
        leave_out(s, row, group, lanes, factor, F(0));
        if (turned) {
            leave_out(s, row, group, lanes, by_weight, F(0));
            add(to.weights + row * kGroup, by_weight);
            V by_rate = share * e.by_rate;
            leave_out(s, row, group, lanes, by_rate, F(0));
            add(to.rates + row * kGroup, by_rate);
        }
        if (bits_le(factor, V(F(0))) == 0xffffu && bits_le(V(F(0)), factor) == 0xffffu) return;  // all of them 0
        pull_points(row, group, lanes, factor);
    }

    // A total is rounded, and a weight may be 0: the exponent may lie above 0.
    GM_HD static V exponential(V x) { return exp_nonpositive(min(x, V(Limits<F>::most))); }
    GM_HD static void add(double* sums, V value) { (f64x16::load(sums) + to_double(value)).store(sums); }

    // factor (x - y), or factor y, into the row's gradient
    void pull_points(int64_t row, int64_t group, int lanes, V factor) const {
        const bool product = to.shape.kernel == Kernel::polynomial;
        const F *x = s.queries + row * s.width, *y = s.references + group * s.width;
        if (s.width <= kLowWidth) {
            double* sums = to.points + row * s.width * kGroup;
            for (int64_t d = 0; d < s.width; ++d) {
                const V column = V::load(y + d * kGroup);
                add(sums + d * kGroup, factor * (product ? column : V(x[d]) - column));
            }
            return;
        }
        alignas(64) F factors[kGroup];
        factor.store(factors);
        double* sums = to.points + row * s.width;
        for (int64_t d = 0; d < s.width; d += 16) {
            const V here = V::load(x + d);
            V sum(F(0));
            for (int j = 0; j < lanes; ++j) {
                const V there = V::load(y + j * s.width + d);
                sum = sum + V(factors[j]) * (product ? there : here - there);
            }
            add(sums + d, sum);
        }
    }
};

}  // namespace

void kernel_sum_fp32(const Sweep<float>& s, const KernelSums<float>& to) { run(to.shape, s, Accumulate<float>{s, to}); }
void kernel_sum_fp64(const Sweep<double>& s, const KernelSums<double>& to) {
    run(to.shape, s, Accumulate<double>{s, to});
}
void kernel_pull_fp32(const Sweep<float>& s, const KernelPull<float>& to) { run(to.shape, s, Pull<float>{s, to}); }
void kernel_pull_fp64(const Sweep<double>& s, const KernelPull<double>& to) { run(to.shape, s, Pull<double>{s, to}); }

double kernel_total(const double* lanes, double peak, bool log) {
    const double sum = sum_lanes(f64x16::load(lanes));
    if (!log) return sum;
    return sum > 0 ? peak + log_positive(sum) : -__builtin_inf();
}

}  // namespace GM_ISA
}  // namespace gm
