// The ops of docs/neighbors.md. Queries and references are [B, N, D] and [B, M, D] of one dtype (fp32, fp64, bf16,
// fp16).
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(gmkern, m) {
    // metric: 0 euclidean, 1 sqeuclidean; exclude_self: reference i is query i; block_rows: references of a block, 0
    // for the library's choice; method: 0 the faster, 1 the differences of all pairs, 2 screened, 3 a tree
    // (all the same result)
    // -> distances [B, N, k] (fp64 for fp64, else fp32), indices [B, N, k] int64
    m.def(
        "knn(Tensor queries, Tensor references, SymInt k, int metric, bool exclude_self, SymInt block_rows, int "
        "method) -> "
        "(Tensor, Tensor)");
    // radii [B, N] (per_reference False) or [B, M], of the distances' dtype -> counts [B, N] int64
    m.def(
        "count_within(Tensor queries, Tensor references, Tensor radii, bool per_reference, bool strict, "
        "bool exclude_self) -> Tensor");
    // The pull of weighted edges, weights and indices [B, N, k]: to_queries[i] = sum_k w_ik (q_i - r_j) over its edges
    // (i, j = indices[i, k]), to_references[j] = the same sum, negated, over the edges that end in j; fp32 or fp64
    m.def("edge_pull(Tensor queries, Tensor references, Tensor indices, Tensor weights) -> (Tensor, Tensor)");
}
