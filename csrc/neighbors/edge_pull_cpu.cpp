// The gradient of neighbour distances: each point gathers its edges in a fixed order, so that no bit depends on
// threads.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cmath>
#include <tuple>
#include <vector>

#include "common/check.h"
#include "common/new_tensor.h"
#include "common/parallel.h"

namespace gm {
namespace {

enum class Form : int64_t { difference = 0, signs = 1, largest = 2, other = 3 };

template <class F>
F sign(F x) {
    return static_cast<F>((x > F(0)) - (x < F(0)));
}

template <class F>
void add_edge(Form form, F* to, F weight, const F* x, const F* y, int64_t dim) {
    switch (form) {
        case Form::difference:
            for (int64_t d = 0; d < dim; ++d) to[d] += weight * (x[d] - y[d]);
            return;
        case Form::signs:
            for (int64_t d = 0; d < dim; ++d) to[d] += weight * sign(x[d] - y[d]);
            return;
        case Form::largest: {
            int64_t at = 0;
            for (int64_t d = 1; d < dim; ++d)
                if (std::abs(x[d] - y[d]) > std::abs(x[at] - y[at])) at = d;
            to[at] += weight * sign(x[at] - y[at]);
            return;
        }
        case Form::other:
            for (int64_t d = 0; d < dim; ++d) to[d] += weight * y[d];
    }
}

// One batch: queries [n, dim], references [m, dim], indices and weights [n, k].
template <class F>
void pull(Form form, const F* x, const F* y, const int64_t* index, const F* weight, int64_t n, int64_t m, int64_t k,
          int64_t dim, F* to_x, F* to_y) {
    parallel_for(0, n, 16, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
            std::fill_n(to_x + i * dim, dim, F(0));
            for (int64_t e = i * k; e < (i + 1) * k; ++e)
                add_edge(form, to_x + i * dim, weight[e], x + i * dim, y + index[e] * dim, dim);
        }
    });
    // The edges sorted by reference (a counting sort keeps them in the order of the queries).
    std::vector<int64_t> start(static_cast<size_t>(m + 1), 0), edges(static_cast<size_t>(n * k));
    const auto each_edge = [&](const auto& f) {
        constexpr int64_t kBetween = 1 << 20;
        for (int64_t e = 0; e < n * k; hear())
            for (const int64_t stop = std::min(n * k, e + kBetween); e < stop; ++e) f(e);
    };
    each_edge([&](int64_t e) { ++start[static_cast<size_t>(index[e] + 1)]; });
    for (size_t j = 1; j < start.size(); ++j) start[j] += start[j - 1];
    {
        std::vector<int64_t> next(start.begin(), start.end() - 1);
        each_edge([&](int64_t e) { edges[static_cast<size_t>(next[static_cast<size_t>(index[e])]++)] = e; });
    }
    parallel_for(0, m, 1 + 4096 * m / (n * k * dim + 1), [&](int64_t begin, int64_t end) {
        for (int64_t j = begin; j < end; ++j) {
            std::fill_n(to_y + j * dim, dim, F(0));
            for (int64_t s = start[static_cast<size_t>(j)]; s < start[static_cast<size_t>(j + 1)]; ++s) {
                const int64_t e = edges[static_cast<size_t>(s)];
                add_edge(form, to_y + j * dim, weight[e], y + j * dim, x + e / k * dim, dim);
            }
        }
    });
}

std::tuple<Tensor, Tensor> edge_pull(const Tensor& queries, const Tensor& references, const Tensor& indices,
                                     const Tensor& weights, int64_t form) {
    check_dim("queries", queries, 3);
    check_dim("references", references, 3);
    check_dim("indices", indices, 3);
    check_dim("weights", weights, 3);
    const int64_t batch = queries.size(0), n = queries.size(1), dim = queries.size(2), m = references.size(1),
                  k = indices.size(2);
    check_size("references", references, 0, batch);
    check_size("references", references, 2, dim);
    for (const auto& [name, t] : {std::pair{"indices", &indices}, std::pair{"weights", &weights}}) {
        check_size(name, *t, 0, batch);
        check_size(name, *t, 1, n);
        check_size(name, *t, 2, k);
    }
    GM_CHECK(form >= 0 && form <= 3, "form: got ", form, "; takes 0 to 3");
    const ScalarType dtype = queries.scalar_type();
    GM_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double, "queries: got dtype ",
             torch::headeronly::toString(dtype), "; takes Float or Double");
    check_dtype("references", references, dtype);
    check_dtype("weights", weights, dtype);
    check_dtype("indices", indices, ScalarType::Long);
    for (const auto& [name, t] : {std::pair{"queries", &queries}, std::pair{"references", &references},
                                  std::pair{"indices", &indices}, std::pair{"weights", &weights}})
        check_contiguous_cpu(name, *t);
    const int64_t* index = indices.const_data_ptr<int64_t>();
    for (int64_t e = 0; e < batch * n * k; ++e)
        GM_CHECK(index[e] >= 0 && index[e] < m, "indices: got ", index[e], " at position ", e, "; takes 0 to ", m - 1);
    Tensor to_queries = new_tensor({batch, n, dim}, dtype);
    Tensor to_references = new_tensor({batch, m, dim}, dtype);
    const auto run = [&](auto zero) {
        using F = decltype(zero);
        for (int64_t b = 0; b < batch; ++b)
            pull(static_cast<Form>(form), queries.const_data_ptr<F>() + b * n * dim,
                 references.const_data_ptr<F>() + b * m * dim, index + b * n * k,
                 weights.const_data_ptr<F>() + b * n * k, n, m, k, dim, to_queries.mutable_data_ptr<F>() + b * n * dim,
                 to_references.mutable_data_ptr<F>() + b * m * dim);
    };
    if (dtype == ScalarType::Float)
        run(0.0f);
    else
        run(0.0);
    return std::make_tuple(to_queries, to_references);
}

}  // namespace
}  // namespace gm

STABLE_TORCH_LIBRARY_IMPL(gmkern, CPU, m) { m.impl("edge_pull", TORCH_BOX(&gm::edge_pull)); }
