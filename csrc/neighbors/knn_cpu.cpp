#include <torch/csrc/stable/library.h>

#include <cmath>
#include <limits>
#include <tuple>

#include "neighbors/pack.h"
#include "neighbors/select.h"

namespace gm {
namespace {

void (*body_of(float))(const Sweep<float>&, const Reservoirs<float>&) { return GM_CALL_ISA(knn_sweep_fp32); }
void (*body_of(double))(const Sweep<double>&, const Reservoirs<double>&) { return GM_CALL_ISA(knn_sweep_fp64); }

// Room for k candidates and those that come before the limit is tightened again.
int64_t reservoir_capacity(int64_t k, int64_t references) {
    return std::min(k + std::max<int64_t>(std::min<int64_t>(k, 256), 4), references + 1);
}

template <class F, class T>
void knn_rows(const T* queries, const T* references, const Points& p, int64_t k, bool root, bool exclude_self,
              int64_t block_rows, F* distances, int64_t* indices) {
    using Key = typename KeyOf<F>::type;
    const int64_t capacity = reservoir_capacity(k, p.references);
    const Blocking rows =
        blocking(p, sizeof(F), capacity * static_cast<int64_t>(sizeof(Key)) + 8 + sizeof(F), block_rows);
    const auto slab = static_cast<size_t>(rows.slab);
    const std::unique_ptr<Key[]> keys(new Key[slab * static_cast<size_t>(capacity)]);
    const std::unique_ptr<int64_t[]> counts(new int64_t[slab]);
    const std::unique_ptr<F[]> limits(new F[slab]);
    const auto body = body_of(F());
    run_sweeps<F>(
        queries, references, p, exclude_self, rows,
        [&](int64_t, int64_t, int64_t count) {
            std::fill(counts.get(), counts.get() + count, 0);
            std::fill(limits.get(), limits.get() + count, std::numeric_limits<F>::quiet_NaN());
        },
        [&](int64_t, int64_t first, const Sweep<F>& sweep) {
            body(sweep, {keys.get() + first * capacity, counts.get() + first, limits.get() + first, capacity, k, root});
        },
        [&](int64_t b, int64_t q, int64_t count) {
            parallel_for(0, count, std::max<int64_t>(1, 4096 / k), [&](int64_t begin, int64_t end) {
                for (int64_t row = begin; row < end; ++row) {
                    Key* found = keys.get() + row * capacity;
                    keep_smallest(found, counts[row], k);
                    std::sort(found, found + k);
                    const int64_t to = (b * p.queries + q + row) * k;
                    for (int64_t i = 0; i < k; ++i) {
                        distances[to + i] = key_distance(found[i]);
                        indices[to + i] = key_index(found[i]);
                    }
                }
            });
        });
}

template <class T>
struct ResultOf {
    using type = float;
};
template <>
struct ResultOf<double> {
    using type = double;
};

std::tuple<Tensor, Tensor> knn(const Tensor& queries, const Tensor& references, int64_t k, int64_t metric,
                               bool exclude_self, int64_t block_rows) {
    const Points p = check_points(queries, references, exclude_self);
    GM_CHECK(metric == 0 || metric == 1, "metric: got ", metric, "; takes 0 or 1");
    GM_CHECK(block_rows >= 0, "block_rows: got ", block_rows, "; takes 0 or a number of rows");
    GM_CHECK(k >= 1 && k <= p.references - exclude_self, "k: got ", k, "; takes 1 to ", p.references - exclude_self,
             exclude_self ? ", the references but for the query itself" : ", the number of references");
    return with_points("queries", queries, [&](const auto* x) {
        using T = std::decay_t<decltype(*x)>;
        using F = typename ResultOf<T>::type;
        check_points_finite(queries, references, p, x);
        Tensor distances =
            torch::stable::empty({p.batch, p.queries, k}, sizeof(F) == 8 ? ScalarType::Double : ScalarType::Float);
        Tensor indices = torch::stable::empty({p.batch, p.queries, k}, ScalarType::Long);
        knn_rows<F>(x, static_cast<const T*>(references.const_data_ptr()), p, k, metric == 0, exclude_self, block_rows,
                    distances.mutable_data_ptr<F>(), indices.mutable_data_ptr<int64_t>());
        return std::make_tuple(distances, indices);
    });
}

}  // namespace
}  // namespace gm

STABLE_TORCH_LIBRARY_IMPL(gmkern, CPU, m) { m.impl("knn", TORCH_BOX(&gm::knn)); }
