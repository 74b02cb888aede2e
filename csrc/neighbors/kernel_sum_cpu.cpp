#include "common/new_tensor.h"
#include "neighbors/kernel_sum.h"

#include <torch/csrc/stable/library.h>

#include <cmath>
#include <optional>
#include <tuple>
#include <vector>

#include "neighbors/pack.h"

namespace gm {
namespace {

void (*body_of(const KernelSums<float>&))(const Sweep<float>&, const KernelSums<float>&) {
    return GM_CALL_ISA(kernel_sum_fp32);
}
void (*body_of(const KernelSums<double>&))(const Sweep<double>&, const KernelSums<double>&) {
    return GM_CALL_ISA(kernel_sum_fp64);
}
void (*body_of(const KernelPull<float>&))(const Sweep<float>&, const KernelPull<float>&) {
    return GM_CALL_ISA(kernel_pull_fp32);
}
void (*body_of(const KernelPull<double>&))(const Sweep<double>&, const KernelPull<double>&) {
    return GM_CALL_ISA(kernel_pull_fp64);
}

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Numbers of one batch's points, up to whole groups: bodies read whole vectors.
template <class F>
std::vector<F> padded(const F* from, int64_t count, F padding) {
    std::vector<F> to(static_cast<size_t>(round_up(count, kGroup)), padding);
    std::copy_n(from, count, to.begin());
    return to;
}

template <class F>
struct PaddedMixture {
    std::vector<F> rates, weights, logs, mass;

    PaddedMixture(const F* r, const F* w, const F* l, int64_t count)
        : rates(padded(r, count, F(1))), weights(padded(w, count, F(0))) {
        if (l == nullptr) return;
        logs = padded(l, count, F(0));
        mass = logs;
        for (size_t j = 0; j < mass.size(); ++j)
            mass[j] = static_cast<F>(static_cast<double>(logs[j]) + std::log(static_cast<double>(weights[j])));
    }
    Mixture<F> from(int64_t first) const {
        const bool log = !logs.empty();
        return {rates.data() + first, weights.data() + first, log ? logs.data() + first : nullptr,
                log ? mass.data() + first : nullptr};
    }
};

// The arguments of every op here, checked.
struct Arguments {
    Points p;
    KernelShape shape;
    ScalarType wide;
    bool log, exclude_self;
};

template <class F>
void check_numbers(const char* name, const Tensor& t, const char* takes, bool (*good)(double)) {
    const F* x = t.const_data_ptr<F>();
    for (int64_t i = 0; i < t.numel(); ++i)
        GM_CHECK(good(static_cast<double>(x[i])), name, ": got ", x[i], " at position ", i, "; takes ", takes);
}

Arguments check_arguments(const Tensor& queries, const Tensor& references, const Tensor& rates, const Tensor& weights,
                          const std::optional<Tensor>& log_weights, int64_t kernel, double exponent, double offset,
                          int64_t degree, bool exclude_self) {
    Arguments a{check_points(queries, references, exclude_self),
                {static_cast<Kernel>(kernel), exponent, offset, degree},
                queries.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float,
                log_weights.has_value(),
                exclude_self};
    GM_CHECK(kernel >= 0 && kernel <= 4, "kernel: got ", kernel, "; takes 0 to 4");
    GM_CHECK(!a.log || kernel <= 2, "kernel: got ", kernel, "; takes 0, 1 or 2 where log_weights are given");
    GM_CHECK(exponent > 0 && exponent < kInfinity, "exponent: got ", exponent, "; takes a positive number");
    GM_CHECK(std::isfinite(offset), "offset: got ", offset, "; takes a finite number");
    GM_CHECK(degree >= 1 && degree <= 64, "degree: got ", degree, "; takes 1 to 64");
    std::vector<std::pair<const char*, const Tensor*>> numbers{{"rates", &rates}, {"weights", &weights}};
    if (a.log) numbers.emplace_back("log_weights", &*log_weights);
    for (const auto& [name, t] : numbers) {
        check_dim(name, *t, 2);
        check_contiguous_cpu(name, *t);
        check_size(name, *t, 0, a.p.batch);
        check_size(name, *t, 1, a.p.references);
        check_dtype(name, *t, a.wide);
    }
    const auto check = [&](auto zero) {
        using F = decltype(zero);
        // A rate is made of the bandwidth, which is what the caller knows.
        check_numbers<F>(kernel <= 2 ? "bandwidth, as the kernel's rate" : "rates", rates, "positive finite numbers",
                         [](double x) { return x > 0 && x < kInfinity; });
        check_numbers<F>(
            "weights", weights, a.log ? "finite numbers that are not negative" : "finite numbers",
            a.log ? [](double x) { return x >= 0 && x < kInfinity; } : [](double x) { return std::isfinite(x); });
        if (a.log)
            check_numbers<F>("log_weights", *log_weights, "numbers below infinity",
                             [](double x) { return x < kInfinity; });
    };
    a.wide == ScalarType::Double ? check(double()) : check(float());
    return a;
}

// f(F(), T*) of the queries' dtype, their values checked.
template <class Function>
void with_checked_points(const Tensor& queries, const Tensor& references, const Points& p, const Function& f) {
    with_points("queries", queries, [&](const auto* x) {
        using T = std::decay_t<decltype(*x)>;
        check_points_finite(queries, references, p, x);
        f(std::conditional_t<std::is_same_v<T, double>, double, float>(), x,
          static_cast<const T*>(references.const_data_ptr()));
    });
}

// One batch. begin(row, lanes) gives the peak to go on from; finish(row, lanes, peak).
template <class F, class T, class Begin, class Finish>
void sum_rows(const T* x, const T* y, const Arguments& a, const PaddedMixture<F>& of, int64_t offset,
              const Begin& begin, const Finish& finish) {
    const Blocking rows = blocking(a.p, a.p.queries, sizeof(F), (kGroup + 1) * sizeof(double), 0);
    std::vector<double> lanes(static_cast<size_t>(rows.slab * kGroup)), peaks(static_cast<size_t>(rows.slab));
    const auto body = body_of(KernelSums<F>());
    run_sweeps<F>(
        x, y, a.p, Rows{nullptr, a.p.queries}, a.exclude_self, rows,
        [&](int64_t q, int64_t count) {
            for (int64_t i = 0; i < count; ++i) peaks[static_cast<size_t>(i)] = begin(q + i, lanes.data() + i * kGroup);
        },
        [&](int64_t first, Sweep<F> sweep) {
            const Mixture<F> block = of.from(sweep.first);
            sweep.first += offset;
            body(sweep, {a.shape, block, lanes.data() + first * kGroup, peaks.data() + first});
        },
        [&](int64_t q, int64_t count) {
            for (int64_t i = 0; i < count; ++i) finish(q + i, lanes.data() + i * kGroup, peaks[static_cast<size_t>(i)]);
        });
}

template <class F>
const F* of_batch(const Tensor& t, int64_t b) {
    return t.const_data_ptr<F>() + b * t.size(1);
}

Tensor kernel_sum(const Tensor& queries, const Tensor& references, const Tensor& rates, const Tensor& weights,
                  const std::optional<Tensor>& log_weights, int64_t kernel, double exponent, double offset,
                  int64_t degree, bool exclude_self) {
    const Arguments a = check_arguments(queries, references, rates, weights, log_weights, kernel, exponent, offset,
                                        degree, exclude_self);
    Tensor sums = new_tensor({a.p.batch, a.p.queries}, a.wide);
    const auto total = GM_CALL_ISA(kernel_total);
    with_checked_points(queries, references, a.p, [&](auto zero, const auto* x, const auto* y) {
        using F = decltype(zero);
        for (int64_t b = 0; b < a.p.batch; ++b) {
            F* to = sums.mutable_data_ptr<F>() + b * a.p.queries;
            const PaddedMixture<F> of(of_batch<F>(rates, b), of_batch<F>(weights, b),
                                      a.log ? of_batch<F>(*log_weights, b) : nullptr, a.p.references);
            sum_rows<F>(
                x + b * a.p.queries * a.p.dim, y + b * a.p.references * a.p.dim, a, of, 0,
                [](int64_t, double* lanes) {
                    std::fill_n(lanes, kGroup, 0.0);
                    return -kInfinity;
                },
                [&](int64_t row, const double* lanes, double peak) {
                    to[row] = static_cast<F>(total(lanes, peak, a.log));
                });
        }
    });
    return sums;
}

// One batch of gradients: points [rows, dim] and, for rows that are references, those of weights and rates.
template <class F, class T>
void pull_rows(const T* rows_of, const T* columns, const Points& p, const Arguments& a, const PaddedMixture<F>& of,
               const std::vector<F>& incoming, const std::vector<F>& totals, bool rows_are_references, F* to_points,
               F* to_weights, F* to_rates) {
    const int64_t lanes = p.width <= kLowWidth ? kGroup : 1, state = p.width * lanes, extra = 2 * kGroup;
    const Blocking rows = blocking(p, p.queries, sizeof(F), (state + extra) * static_cast<int64_t>(sizeof(double)), 0);
    std::vector<double> points(static_cast<size_t>(rows.slab * state));
    std::vector<double> weight(static_cast<size_t>(rows_are_references ? rows.slab * kGroup : 0)), rate(weight.size());
    const auto body = body_of(KernelPull<F>());
    const auto total = GM_CALL_ISA(kernel_total);
    const double factor = a.shape.kernel == Kernel::polynomial ? 1.0 : 2.0;  // d|x - y|^2 = 2 (x - y) dx
    int64_t slab = 0;
    run_sweeps<F>(
        rows_of, columns, p, Rows{nullptr, p.queries}, a.exclude_self, rows,
        [&](int64_t q, int64_t) {
            slab = q;
            for (auto* sums : {&points, &weight, &rate}) std::fill(sums->begin(), sums->end(), 0.0);
        },
        [&](int64_t first, const Sweep<F>& sweep) {
            // Numbers of the rows are read row by row, those of the columns from the block's first on.
            const int64_t reference = rows_are_references ? slab + first : sweep.first;
            const int64_t query = rows_are_references ? sweep.first : slab + first;
            body(sweep,
                 {a.shape, rows_are_references, of.from(reference), incoming.data() + query, totals.data() + query,
                  points.data() + first * state, rows_are_references ? weight.data() + first * kGroup : nullptr,
                  rows_are_references ? rate.data() + first * kGroup : nullptr});
        },
        [&](int64_t q, int64_t count) {
            for (int64_t i = 0; i < count; ++i) {
                for (int64_t d = 0; d < p.dim; ++d) {
                    const double* sums = points.data() + i * state + d * lanes;
                    to_points[(q + i) * p.dim + d] =
                        static_cast<F>(factor * (lanes == 1 ? *sums : total(sums, 0, false)));
                }
                if (!rows_are_references) continue;
                to_weights[q + i] = static_cast<F>(total(weight.data() + i * kGroup, 0, false));
                to_rates[q + i] = static_cast<F>(total(rate.data() + i * kGroup, 0, false));
            }
        });
}

std::tuple<Tensor, Tensor, Tensor, Tensor> kernel_sum_backward(const Tensor& incoming, const Tensor& sums,
                                                               const Tensor& queries, const Tensor& references,
                                                               const Tensor& rates, const Tensor& weights,
                                                               const std::optional<Tensor>& log_weights, int64_t kernel,
                                                               double exponent, double offset, int64_t degree,
                                                               bool exclude_self, bool of_queries, bool of_references) {
    const Arguments a = check_arguments(queries, references, rates, weights, log_weights, kernel, exponent, offset,
                                        degree, exclude_self);
    for (const auto& [name, t] : {std::pair{"incoming", &incoming}, std::pair{"sums", &sums}}) {
        check_dim(name, *t, 2);
        check_contiguous_cpu(name, *t);
        check_size(name, *t, 0, a.p.batch);
        check_size(name, *t, 1, a.p.queries);
        check_dtype(name, *t, a.wide);
    }
    const Points& p = a.p;
    Tensor to_queries = new_tensor({p.batch, of_queries ? p.queries : 0, p.dim}, a.wide);
    Tensor to_references = new_tensor({p.batch, of_references ? p.references : 0, p.dim}, a.wide);
    Tensor to_weights = new_tensor({p.batch, of_references ? p.references : 0}, a.wide);
    Tensor to_rates = new_tensor({p.batch, of_references ? p.references : 0}, a.wide);
    with_checked_points(queries, references, p, [&](auto zero, const auto* x, const auto* y) {
        using F = decltype(zero);
        for (int64_t b = 0; b < p.batch; ++b) {
            const PaddedMixture<F> of(of_batch<F>(rates, b), of_batch<F>(weights, b),
                                      a.log ? of_batch<F>(*log_weights, b) : nullptr, p.references);
            const std::vector<F> gradients = padded(of_batch<F>(incoming, b), p.queries, F(0));
            std::vector<F> totals = padded(of_batch<F>(sums, b), p.queries, F(0));
            std::replace(totals.begin(), totals.end(), -std::numeric_limits<F>::infinity(),
                         std::numeric_limits<F>::infinity());
            const auto* xb = x + b * p.queries * p.dim;
            const auto* yb = y + b * p.references * p.dim;
            if (of_queries)
                pull_rows<F>(xb, yb, p, a, of, gradients, totals, false,
                             to_queries.mutable_data_ptr<F>() + b * p.queries * p.dim, nullptr, nullptr);
            if (of_references)
                pull_rows<F>(yb, xb, Points{p.batch, p.references, p.queries, p.dim, p.width}, a, of, gradients, totals,
                             true, to_references.mutable_data_ptr<F>() + b * p.references * p.dim,
                             to_weights.mutable_data_ptr<F>() + b * p.references,
                             to_rates.mutable_data_ptr<F>() + b * p.references);
        }
    });
    return {to_queries, to_references, to_weights, to_rates};
}

// Sums over references that come a block at a time: the state [B, N, 17] holds lanes and peak.
Tensor kernel_sum_resume(const Tensor& state, const Tensor& queries, const Tensor& references, const Tensor& rates,
                         const Tensor& weights, const std::optional<Tensor>& log_weights, int64_t kernel,
                         double exponent, double offset, int64_t degree, bool exclude_self, int64_t first) {
    Arguments a =
        check_arguments(queries, references, rates, weights, log_weights, kernel, exponent, offset, degree, false);
    a.exclude_self = exclude_self;
    check_dim("state", state, 3);
    check_contiguous_cpu("state", state);
    check_dtype("state", state, ScalarType::Double);
    check_size("state", state, 0, a.p.batch);
    check_size("state", state, 1, a.p.queries);
    check_size("state", state, 2, kGroup + 1);
    GM_CHECK(first >= 0 && first % kGroup == 0, "first: got ", first, "; takes a multiple of 16");
    Tensor next = new_tensor({a.p.batch, a.p.queries, kGroup + 1}, ScalarType::Double);
    with_checked_points(queries, references, a.p, [&](auto zero, const auto* x, const auto* y) {
        using F = decltype(zero);
        for (int64_t b = 0; b < a.p.batch; ++b) {
            const double* from = state.const_data_ptr<double>() + b * a.p.queries * (kGroup + 1);
            double* to = next.mutable_data_ptr<double>() + b * a.p.queries * (kGroup + 1);
            const PaddedMixture<F> of(of_batch<F>(rates, b), of_batch<F>(weights, b),
                                      a.log ? of_batch<F>(*log_weights, b) : nullptr, a.p.references);
            sum_rows<F>(
                x + b * a.p.queries * a.p.dim, y + b * a.p.references * a.p.dim, a, of, first,
                [&](int64_t row, double* lanes) {
                    std::copy_n(from + row * (kGroup + 1), kGroup, lanes);
                    return from[row * (kGroup + 1) + kGroup];
                },
                [&](int64_t row, const double* lanes, double peak) {
                    std::copy_n(lanes, kGroup, to + row * (kGroup + 1));
                    to[row * (kGroup + 1) + kGroup] = peak;
                });
        }
    });
    return next;
}

Tensor kernel_sum_total(const Tensor& state, bool log) {
    check_dim("state", state, 3);
    check_contiguous_cpu("state", state);
    check_dtype("state", state, ScalarType::Double);
    check_size("state", state, 2, kGroup + 1);
    Tensor sums = new_tensor({state.size(0), state.size(1)}, ScalarType::Double);
    const auto total = GM_CALL_ISA(kernel_total);
    const double* from = state.const_data_ptr<double>();
    for (int64_t i = 0; i < sums.numel(); ++i, from += kGroup + 1)
        sums.mutable_data_ptr<double>()[i] = total(from, from[kGroup], log);
    return sums;
}

}  // namespace
}  // namespace gm

STABLE_TORCH_LIBRARY_IMPL(gmkern, CPU, m) {
    m.impl("kernel_sum", TORCH_BOX(&gm::kernel_sum));
    m.impl("kernel_sum_backward", TORCH_BOX(&gm::kernel_sum_backward));
    m.impl("kernel_sum_resume", TORCH_BOX(&gm::kernel_sum_resume));
    m.impl("kernel_sum_total", TORCH_BOX(&gm::kernel_sum_total));
}
