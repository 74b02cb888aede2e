#include <torch/csrc/stable/library.h>

#include "common/check.h"
#include "common/new_tensor.h"
#include "common/parallel.h"
#include "noise/noise.h"

namespace gm {
namespace {

template <class F>
void fill(void (*body)(const NoiseRow&, F*), F* to, NoiseKind kind, PerRow seed, const int64_t* ids, PerRow step,
          int64_t rows, int64_t n, uint32_t stream) {
    const int64_t grain = n >= 4096 ? 1 : (4096 + n) / (n + 1);
    parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i)
            body({kind, seed[i], ids[i], n, stream, static_cast<uint32_t>(step[i])}, to + i * n);
    });
}

Tensor noise(const Tensor& seed, const Tensor& sample_ids, const Tensor& step, int64_t n, int64_t stream, int64_t kind,
             bool fp64) {
    check_dim("sample_ids", sample_ids, 1);
    check_dtype("sample_ids", sample_ids, ScalarType::Long);
    check_contiguous_cpu("sample_ids", sample_ids);
    const int64_t rows = sample_ids.size(0);
    const PerRow seeds = per_row("seed", seed, rows), steps = per_row("step", step, rows);
    GM_CHECK(n >= 0 && n <= int64_t(1) << 32, "n: got ", n, "; takes 0 to 2^32");
    GM_CHECK(stream >= 0 && stream < int64_t(1) << 31, "stream: got ", stream, "; takes 0 to 2^31 - 1");
    GM_CHECK(kind >= 0 && kind <= 2, "kind: got ", kind, "; takes 0, 1 or 2");
    Tensor out = new_tensor({rows, n}, fp64 ? ScalarType::Double : ScalarType::Float);
    const int64_t* ids = sample_ids.const_data_ptr<int64_t>();
    const auto k = static_cast<NoiseKind>(kind);
    const auto s = static_cast<uint32_t>(stream);
    if (fp64)
        fill(GM_CALL_ISA(noise_row_fp64), out.mutable_data_ptr<double>(), k, seeds, ids, steps, rows, n, s);
    else
        fill(GM_CALL_ISA(noise_row_fp32), out.mutable_data_ptr<float>(), k, seeds, ids, steps, rows, n, s);
    return out;
}

}  // namespace
}  // namespace gm

STABLE_TORCH_LIBRARY_IMPL(gmkern, CPU, m) { m.impl("noise", TORCH_BOX(&gm::noise)); }
