#include <torch/csrc/stable/library.h>

#include <vector>

#include "common/new_tensor.h"
#include "neighbors/screen_count.h"
#include "neighbors/tree_count.h"

namespace gm {
namespace {

void (*body_of(float))(const Sweep<float>&, const Counts<float>&) { return GM_CALL_ISA(count_sweep_fp32); }
void (*body_of(double))(const Sweep<double>&, const Counts<double>&) { return GM_CALL_ISA(count_sweep_fp64); }

// The largest t with fl(sqrt(t)) <= radius (strict: < radius), so that a squared distance decides as its root does;
// -1 where no distance is within.
template <class F>
F largest_square(F radius, bool strict) {
    if (!(radius >= F(0)) || (strict && radius == F(0))) return F(-1);
    if (is_infinite(radius) && !strict) return radius;
    return next_down(least_square(strict ? radius : next_up(radius)));  // the least t that is not within, less one step
}

enum class Method : int64_t { automatic = 0, direct = 1, screened = 2, tree = 3, words = 4 };

// One batch, by every pair.
template <class F, class T>
void count_direct(const T* queries, const T* references, const F* bounds, const Points& p, bool per_reference,
                  bool exclude_self, int64_t* counts) {
    std::fill_n(counts, p.queries, 0);
    const auto body = body_of(F());
    int64_t slab = 0;  // the number of its first query
    run_sweeps<F>(
        queries, references, p, Rows{nullptr, p.queries}, exclude_self, blocking(p, p.queries, sizeof(F), sizeof(F), 0),
        [&](int64_t q, int64_t) { slab = q; },
        [&](int64_t first, const Sweep<F>& sweep) {
            const int64_t query = slab + first;
            body(sweep, {bounds + (per_reference ? sweep.first : query), per_reference, counts + query});
        },
        [](int64_t, int64_t) {});
}

// One batch.
template <class F, class T>
void count_rows(const T* queries, const T* references, const F* radii, const Points& p, bool per_reference, bool strict,
                bool exclude_self, Method method, int64_t* counts) {
    const int64_t n = per_reference ? p.references : p.queries;
    std::vector<F> bounds(static_cast<size_t>(round_up(n, kGroup)), F(-1));  // groups of references read whole vectors
    for (int64_t i = 0; i < n; ++i) bounds[static_cast<size_t>(i)] = largest_square(radii[i], strict);
    if ((method == Method::tree && p.references > 0) || (method == Method::automatic && tree_pays(p, 1)))
        return count_in_tree<F>(queries, references, p, bounds.data(), per_reference, exclude_self, counts);
    CountBy by = method == Method::words ? CountBy::words : CountBy::differences;
    if (method == Method::screened || (method == Method::automatic && screening_pays(p, 1)))
        by = choose_count<F>(queries, references, p, bounds.data(), per_reference, method == Method::screened);
    if (by == CountBy::differences)
        count_direct<F>(queries, references, bounds.data(), p, per_reference, exclude_self, counts);
    else
        screen_count_rows<F>(queries, references, p, by == CountBy::bytes, bounds.data(), per_reference, exclude_self,
                             counts);
}

Tensor count_within(const Tensor& queries, const Tensor& references, const Tensor& radii, bool per_reference,
                    bool strict, bool exclude_self, int64_t method) {
    const Points p = check_points(queries, references, exclude_self);
    check_dim("radii", radii, 2);
    check_contiguous_cpu("radii", radii);
    check_size("radii", radii, 0, p.batch);
    check_size("radii", radii, 1, per_reference ? p.references : p.queries);
    GM_CHECK(method >= 0 && method <= 4, "method: got ", method, "; takes 0 to 4");
    GM_CHECK((method != 2 && method != 4) || screening_can(p, 1), "method: got ", method,
             "; takes it for 9 to 2^15 coordinates");
    GM_CHECK(method != 3 || tree_can(p), "method: got 3; takes it for up to ", kTreeWidth, " coordinates");
    const bool fp64 = queries.scalar_type() == ScalarType::Double;
    check_dtype("radii", radii, fp64 ? ScalarType::Double : ScalarType::Float);
    return with_points("queries", queries, [&](const auto* x) {
        using T = std::decay_t<decltype(*x)>;
        using F = std::conditional_t<std::is_same_v<T, double>, double, float>;
        check_points_finite(queries, references, p, x);
        const F* r = radii.const_data_ptr<F>();
        for (int64_t i = 0; i < radii.numel(); ++i)
            GM_CHECK(r[i] == r[i], "radii: got nan at position ", i, "; takes numbers");
        Tensor counts = new_tensor({p.batch, p.queries}, ScalarType::Long);
        const T* y = static_cast<const T*>(references.const_data_ptr());
        for (int64_t b = 0; b < p.batch; ++b)
            count_rows<F>(x + b * p.queries * p.dim, y + b * p.references * p.dim, r + b * radii.size(1), p,
                          per_reference, strict, exclude_self, static_cast<Method>(method),
                          counts.mutable_data_ptr<int64_t>() + b * p.queries);
        return counts;
    });
}

}  // namespace
}  // namespace gm

STABLE_TORCH_LIBRARY_IMPL(gmkern, CPU, m) { m.impl("count_within", TORCH_BOX(&gm::count_within)); }
