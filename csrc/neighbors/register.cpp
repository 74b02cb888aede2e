// The ops of docs/neighbors.md. Queries and references are [B, N, D] and [B, M, D] of one dtype (fp32, fp64, bf16,
// fp16).
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(gmkern, m) {
    // metric: 0 euclidean, 1 sqeuclidean, 2 manhattan, 3 chebyshev, 4 the negative inner product; exclude_self:
    // reference i is query i; block_rows: references of a block, 0 for the library's choice; method: 0 the faster, 1
    // the differences of all pairs, 2 screened, 3 a tree, 4 screened by words alone (all the same result)
    // -> distances [B, N, k] (fp64 for fp64, else fp32), indices [B, N, k] int64
    m.def(
        "knn(Tensor queries, Tensor references, SymInt k, int metric, bool exclude_self, SymInt block_rows, int "
        "method) -> "
        "(Tensor, Tensor)");
    // How that search went, [B, 4]: the method it took, rows screened, rows certified, exact distances of those
    m.def(
        "knn_course(Tensor queries, Tensor references, SymInt k, int metric, bool exclude_self, int method) -> Tensor");
    // radii [B, N] (per_reference False) or [B, M], of the distances' dtype; method as for knn -> counts [B, N] int64
    m.def(
        "count_within(Tensor queries, Tensor references, Tensor radii, bool per_reference, bool strict, "
        "bool exclude_self, int method) -> Tensor");
    // The pull of weighted edges, weights and indices [B, N, k]: to_queries[i] = sum_k w_ik e(q_i, r_j) over its edges
    // (i, j = indices[i, k]), to_references[j] = sum w_ik e(r_j, q_i) over the edges that end in j; fp32 or fp64.
    // form: 0 e(x, y) = x - y, 1 the signs of that, 2 the sign of its largest coordinate (the first one), 3 y
    m.def("edge_pull(Tensor queries, Tensor references, Tensor indices, Tensor weights, int form) -> (Tensor, Tensor)");
    // sum_j weights_j K(q_i, r_j), or its logarithm where log_weights are given. rates, weights, log_weights [B, M] of
    // the distances' dtype; kernel: 0 exp(-rate d^2), 1 exp(-rate d), 2 (1 + rate d^2)^-exponent, 3 -rate d, 4 (rate
    // <q, r> + offset)^degree (no logarithm of the last two) -> [B, N]
    m.def(
        "kernel_sum(Tensor queries, Tensor references, Tensor rates, Tensor weights, Tensor? log_weights, int kernel, "
        "float exponent, float offset, int degree, bool exclude_self) -> Tensor");
    // The gradients of queries, references, weights and rates, for the gradient `incoming` of the sums; those that are
    // not asked for have no rows
    m.def(
        "kernel_sum_backward(Tensor incoming, Tensor sums, Tensor queries, Tensor references, Tensor rates, "
        "Tensor weights, Tensor? log_weights, int kernel, float exponent, float offset, int degree, "
        "bool exclude_self, bool of_queries, bool of_references) -> (Tensor, Tensor, Tensor, Tensor)");
    // The same sums over references first, first + 1, ... (first a multiple of 16), gone on from a state [B, N, 17] of
    // float64: sixteen lanes of 0 and a peak of -inf at the start; kernel_sum_total ends it -> [B, N] float64
    m.def(
        "kernel_sum_resume(Tensor state, Tensor queries, Tensor references, Tensor rates, Tensor weights, "
        "Tensor? log_weights, int kernel, float exponent, float offset, int degree, bool exclude_self, SymInt first) "
        "-> Tensor");
    m.def("kernel_sum_total(Tensor state, bool log) -> Tensor");
}
