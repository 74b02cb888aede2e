#include <torch/csrc/stable/library.h>

#include <cmath>
#include <limits>
#include <tuple>

#include "common/new_tensor.h"
#include "neighbors/screen.h"
#include "neighbors/tree_build.h"

namespace gm {
namespace {

void (*body_of(float))(const Sweep<float>&, const Reservoirs<float>&) { return GM_CALL_ISA(knn_sweep_fp32); }
void (*body_of(double))(const Sweep<double>&, const Reservoirs<double>&) { return GM_CALL_ISA(knn_sweep_fp64); }
void (*metric_body_of(float))(Metric, const Sweep<float>&, const Reservoirs<float>&) {
    return GM_CALL_ISA(knn_metric_sweep_fp32);
}
void (*metric_body_of(double))(Metric, const Sweep<double>&, const Reservoirs<double>&) {
    return GM_CALL_ISA(knn_metric_sweep_fp64);
}

// Room for k candidates and those that come before the limit is tightened again.
int64_t reservoir_capacity(int64_t k, int64_t references) {
    return std::min(k + std::clamp<int64_t>(k, 4, 256), references + 1);
}

// The chosen rows by every pair. done(row, keys, count) for each row, in parallel.
template <class F, class T, class Done>
void run_direct(const T* queries, const T* references, const Points& p, const Rows& chosen, int64_t k, Metric metric,
                bool exclude_self, int64_t block_rows, const Done& done) {
    using Key = typename KeyOf<F>::type;
    const int64_t capacity = reservoir_capacity(k, p.references);
    const int64_t state = capacity * static_cast<int64_t>(sizeof(Key)) + 8 + static_cast<int64_t>(sizeof(F));
    const Blocking rows = blocking(p, chosen.count, sizeof(F), state, block_rows);
    const auto slab = static_cast<size_t>(rows.slab);
    const std::unique_ptr<Key[]> keys(new Key[slab * static_cast<size_t>(capacity)]);
    const std::unique_ptr<int64_t[]> counts(new int64_t[slab]);
    const std::unique_ptr<F[]> limits(new F[slab]);
    const auto body = body_of(F());
    const auto metric_body = metric_body_of(F());
    run_sweeps<F>(
        queries, references, p, chosen, exclude_self, rows,
        [&](int64_t, int64_t count) {
            std::fill(counts.get(), counts.get() + count, 0);
            std::fill(limits.get(), limits.get() + count, std::numeric_limits<F>::quiet_NaN());
        },
        [&](int64_t first, const Sweep<F>& sweep) {
            const Reservoirs<F> to{
                keys.get() + first * capacity, counts.get() + first, limits.get() + first, capacity, k,
                metric == Metric::euclidean};
            metric <= Metric::sqeuclidean ? body(sweep, to) : metric_body(metric, sweep, to);
        },
        [&](int64_t q, int64_t count) {
            parallel_for(0, count, std::max<int64_t>(1, 4096 / k), [&](int64_t begin, int64_t end) {
                for (int64_t i = begin; i < end; ++i)
                    done(chosen[q + i], keys.get() + i * capacity, counts[static_cast<size_t>(i)]);
            });
        });
}

enum class Method : int64_t { automatic = 0, direct = 1, screened = 2, tree = 3, words = 4 };

// Of one batch: the method that was taken, and what it did.
struct Course {
    Method method;
    Tally tally;
};

template <class F, class T>
Course knn_rows(const T* queries, const T* references, const Points& p, int64_t k, Metric metric, bool exclude_self,
                int64_t block_rows, Method method, F* distances, int64_t* indices) {
    const bool root = metric == Metric::euclidean, squares = metric <= Metric::sqeuclidean;
    Tally tally;
    const auto write = [&](int64_t row, auto* keys, int64_t count) {
        if (count > k) keep_smallest(keys, count, k);
        if (!std::is_sorted(keys, keys + k)) std::sort(keys, keys + k);
        for (int64_t i = 0; i < k; ++i) {
            const F distance = key_distance(keys[i]);
            distances[row * k + i] = metric == Metric::inner_product ? out_of_order(distance) : distance;
            indices[row * k + i] = key_index(keys[i]);
        }
    };
    if (method == Method::tree || (method == Method::automatic && squares && tree_pays(p, k))) {
        run_tree<F>(queries, references, p, k, root, exclude_self, write);
        return {Method::tree, tally};
    }
    Rows chosen{nullptr, p.queries};
    std::vector<int64_t> left;
    const bool screened = method == Method::screened || method == Method::words ||
                          (method == Method::automatic && squares && screening_pays(p, k));
    if (screened) {
        left = run_screen<F>(queries, references, p, k, root, exclude_self, block_rows, method == Method::words, write,
                             tally);
        chosen = {left.data(), static_cast<int64_t>(left.size())};
    }
    if (chosen.count > 0) run_direct<F>(queries, references, p, chosen, k, metric, exclude_self, block_rows, write);
    return {!screened ? Method::direct : tally.by_words > 0 ? Method::words : Method::screened, tally};
}

// Distances, indices, and [B, 4] of each batch: method, rows screened, certified, exact distances of the certified.
std::tuple<Tensor, Tensor, Tensor> search(const Tensor& queries, const Tensor& references, int64_t k, int64_t metric,
                                          bool exclude_self, int64_t block_rows, int64_t method) {
    const Points p = check_points(queries, references, exclude_self);
    GM_CHECK(metric >= 0 && metric <= 4, "metric: got ", metric, "; takes 0 to 4");
    GM_CHECK(block_rows >= 0, "block_rows: got ", block_rows, "; takes 0 or a number of rows");
    GM_CHECK(k >= 1 && k <= p.references - exclude_self, "k: got ", k, "; takes 1 to ", p.references - exclude_self,
             exclude_self ? ", the references but for the query itself" : ", the number of references");
    GM_CHECK(method >= 0 && method <= 4, "method: got ", method, "; takes 0 to 4");
    GM_CHECK(metric <= 1 || method <= 1, "method: got ", method, "; takes 0 or 1 for metric ", metric);
    GM_CHECK((method != 2 && method != 4) || screening_can(p, k), "method: got ", method,
             "; takes it for 9 to 2^15 coordinates and k <= ", kMostScreened);
    GM_CHECK(method != 3 || tree_can(p), "method: got 3; takes it for up to ", kTreeWidth, " coordinates");
    return with_points("queries", queries, [&](const auto* x) {
        using T = std::decay_t<decltype(*x)>;
        using F = std::conditional_t<std::is_same_v<T, double>, double, float>;
        check_points_finite(queries, references, p, x);
        Tensor distances = new_tensor({p.batch, p.queries, k}, sizeof(F) == 8 ? ScalarType::Double : ScalarType::Float);
        Tensor indices = new_tensor({p.batch, p.queries, k}, ScalarType::Long);
        Tensor courses = new_tensor({p.batch, 4}, ScalarType::Long);
        int64_t* told = courses.mutable_data_ptr<int64_t>();
        const T* y = static_cast<const T*>(references.const_data_ptr());
        for (int64_t b = 0; b < p.batch; ++b, told += 4) {
            const Course course =
                knn_rows<F>(x + b * p.queries * p.dim, y + b * p.references * p.dim, p, k, static_cast<Metric>(metric),
                            exclude_self, std::min(block_rows, p.references), static_cast<Method>(method),
                            distances.mutable_data_ptr<F>() + b * p.queries * k,
                            indices.mutable_data_ptr<int64_t>() + b * p.queries * k);
            told[0] = static_cast<int64_t>(course.method);
            told[1] = course.tally.by_bytes + course.tally.by_words;
            told[2] = course.tally.certified;
            told[3] = course.tally.candidates;
        }
        return std::make_tuple(distances, indices, courses);
    });
}

std::tuple<Tensor, Tensor> knn(const Tensor& queries, const Tensor& references, int64_t k, int64_t metric,
                               bool exclude_self, int64_t block_rows, int64_t method) {
    auto [distances, indices, courses] = search(queries, references, k, metric, exclude_self, block_rows, method);
    return {distances, indices};
}
Tensor knn_course(const Tensor& queries, const Tensor& references, int64_t k, int64_t metric, bool exclude_self,
                  int64_t method) {
    return std::get<2>(search(queries, references, k, metric, exclude_self, 0, method));
}

}  // namespace
}  // namespace gm

STABLE_TORCH_LIBRARY_IMPL(gmkern, CPU, m) {
    m.impl("knn", TORCH_BOX(&gm::knn));
    m.impl("knn_course", TORCH_BOX(&gm::knn_course));
}
