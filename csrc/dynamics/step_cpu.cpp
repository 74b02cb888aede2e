// One step of Euler-Maruyama around a drift that is computed elsewhere, and the log density of such a step: each is one
// pass over a system's numbers. Sums are eight chains of float64, whose order depends on nothing.
#include <cmath>
#include <torch/csrc/stable/library.h>

#include "common/check.h"
#include "common/new_tensor.h"
#include "common/noise.h"
#include "common/parallel.h"
#include "noise/noise.h"

namespace gm {
namespace {

constexpr int64_t kChains = 8;
constexpr double kHalfLog2Pi = 0.91893853320467274178;

// [S, E] with a row of coefficients (dt, scale) for all systems or for each.
struct Rows {
    int64_t systems, elements, grain;
    const double* coefficients;
    int64_t stride;

    template <class R>
    R dt(int64_t s) const {
        return static_cast<R>(coefficients[s * stride]);
    }
    template <class R>
    R scale(int64_t s) const {
        return static_cast<R>(coefficients[s * stride + 1]);
    }
};
Rows check_rows(const Tensor& x, const Tensor& coefficients) {
    const auto dtype = x.scalar_type();
    GM_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double, "x: got dtype ",
             torch::headeronly::toString(dtype), "; takes Float or Double");
    check_dim("x", x, 2);
    check_contiguous_cpu("x", x);
    check_dim("coefficients", coefficients, 2);
    check_dtype("coefficients", coefficients, ScalarType::Double);
    check_contiguous_cpu("coefficients", coefficients);
    check_size("coefficients", coefficients, 1, 2);
    const int64_t systems = x.size(0), elements = x.size(1), given = coefficients.size(0);
    GM_CHECK(given == 1 || given == systems, "coefficients: got shape ", shape_text(coefficients), "; takes 1 or ",
             systems, " rows");
    const int64_t grain = elements >= 4096 ? 1 : (4096 + elements) / (elements + 1);
    return {systems, elements, grain, coefficients.const_data_ptr<double>(), given == 1 ? 0 : 2};
}
void check_like(const char* name, const Tensor& t, const Tensor& x) {
    check_dtype(name, t, x.scalar_type());
    check_dim(name, t, 2);
    check_size(name, t, 0, x.size(0));
    check_size(name, t, 1, x.size(1));
    check_contiguous_cpu(name, t);
}

template <class R>
void move(const Rows& rows, void (*noise)(const NoiseRow&, R*), const R* x, const R* drift, PerRow seed,
          const int64_t* ids, uint32_t step, R* to) {
    parallel_for(0, rows.systems, rows.grain, [&](int64_t begin, int64_t end) {
        for (int64_t s = begin; s < end; ++s) {
            const int64_t at = s * rows.elements;
            const R dt = rows.dt<R>(s), scale = rows.scale<R>(s);
            noise({NoiseKind::normal, seed[s], ids[s], rows.elements, kStreamKick, step}, to + at);
            for (int64_t e = at; e < at + rows.elements; ++e) to[e] = (x[e] + dt * drift[e]) + scale * to[e];
        }
    });
}

Tensor euler_maruyama_step(const Tensor& x, const Tensor& drift, const Tensor& coefficients, const Tensor& seed,
                           const Tensor& sample_ids, const Tensor& step) {
    const Rows rows = check_rows(x, coefficients);
    check_like("drift", drift, x);
    check_dim("sample_ids", sample_ids, 1);
    check_dtype("sample_ids", sample_ids, ScalarType::Long);
    check_contiguous_cpu("sample_ids", sample_ids);
    check_size("sample_ids", sample_ids, 0, rows.systems);
    const PerRow seeds = per_row("seed", seed, rows.systems), number = per_row("step", step, 1);
    Tensor to = new_tensor_like(x);
    const int64_t* ids = sample_ids.const_data_ptr<int64_t>();
    const auto at = static_cast<uint32_t>(number[0]);
    if (x.scalar_type() == ScalarType::Double)
        move(rows, GM_CALL_ISA(noise_row_fp64), x.const_data_ptr<double>(), drift.const_data_ptr<double>(), seeds, ids,
             at, to.mutable_data_ptr<double>());
    else
        move(rows, GM_CALL_ISA(noise_row_fp32), x.const_data_ptr<float>(), drift.const_data_ptr<float>(), seeds, ids,
             at, to.mutable_data_ptr<float>());
    return to;
}

template <class R>
void density(const Rows& rows, const R* to, const R* start, const R* drift, double* out) {
    parallel_for(0, rows.systems, rows.grain, [&](int64_t begin, int64_t end) {
        for (int64_t s = begin; s < end; ++s) {
            const double dt = rows.dt<R>(s), scale = rows.scale<R>(s);
            const int64_t first = s * rows.elements;
            double sums[kChains] = {};
            for (int64_t e = 0; e < rows.elements; ++e) {
                const int64_t at = first + e;
                double z = static_cast<double>(to[at]) - static_cast<double>(start[at]);
                if (drift != nullptr) z -= dt * static_cast<double>(drift[at]);
                z /= scale;
                sums[e % kChains] += z * z;
            }
            double sum = 0.0;
            for (const double each : sums) sum += each;
            out[s] = -0.5 * sum - static_cast<double>(rows.elements) * (std::log(scale) + kHalfLog2Pi);
        }
    });
}

Tensor gaussian_log_prob(const Tensor& to, const Tensor& start, const Tensor& drift, const Tensor& coefficients) {
    const Rows rows = check_rows(to, coefficients);
    check_like("start", start, to);
    const bool drifts = drift.size(0) > 0 || rows.systems == 0;
    if (drifts) check_like("drift", drift, to);
    Tensor out = new_tensor({rows.systems}, ScalarType::Double);
    double* sums = out.mutable_data_ptr<double>();
    if (to.scalar_type() == ScalarType::Double)
        density(rows, to.const_data_ptr<double>(), start.const_data_ptr<double>(),
                drifts ? drift.const_data_ptr<double>() : nullptr, sums);
    else
        density(rows, to.const_data_ptr<float>(), start.const_data_ptr<float>(),
                drifts ? drift.const_data_ptr<float>() : nullptr, sums);
    return out;
}

}  // namespace
}  // namespace gm

STABLE_TORCH_LIBRARY_IMPL(gmkern, CPU, m) {
    m.impl("euler_maruyama_step", TORCH_BOX(&gm::euler_maruyama_step));
    m.impl("gaussian_log_prob", TORCH_BOX(&gm::gaussian_log_prob));
}
