// Noise through an MLP: a thread carries some rows through all layers in its cache, so that no layer's values reach
// memory but the last one's. A row's sums are in an order of their own (decode/transformer.h), so its bits do not
// depend on the rows beside it.
#include <algorithm>
#include <torch/csrc/stable/library.h>
#include <vector>

#include "common/check.h"
#include "common/new_tensor.h"
#include "common/noise.h"
#include "common/parallel.h"
#include "latent/latent.h"
#include "latent/panels.h"
#include "noise/noise.h"

namespace gm {
namespace {

constexpr int64_t kRows = 96;  // of a block: a multiple of the register tile's 6 rows and of its 3

struct Layer {
    Panels linear;
    Elementwise kind;
    float slope;
};

Layer pack(const Tensor& weight, const Tensor& bias, int64_t kind, double slope) {
    check_dim("weights", weight, 2);
    check_dim("biases", bias, 1);
    for (const Tensor* t : {&weight, &bias}) {
        check_dtype("weights and biases", *t, ScalarType::Float);
        check_contiguous_cpu("weights and biases", *t);
    }
    check_size("biases", bias, 0, weight.size(0));
    GM_CHECK(weight.size(0) >= 1 && weight.size(1) >= 1, "weights: got shape ", shape_text(weight),
             "; takes at least 1 output and 1 input");
    GM_CHECK(kind >= 0 && kind <= static_cast<int64_t>(Elementwise::sigmoid), "activations: got ", kind,
             "; takes 0 to 8");
    const int64_t outputs = weight.size(0), inputs = weight.size(1);
    return {Panels(weight.const_data_ptr<float>(), inputs, 1, bias.const_data_ptr<float>(), inputs, outputs),
            static_cast<Elementwise>(kind), static_cast<float>(slope)};
}

Tensor latent_mlp(const Tensor& seed, const Tensor& sample_ids, const std::vector<Tensor>& weights,
                  const std::vector<Tensor>& biases, const std::vector<int64_t>& activations,
                  const std::vector<double>& slopes) {
    check_dim("sample_ids", sample_ids, 1);
    check_dtype("sample_ids", sample_ids, ScalarType::Long);
    check_contiguous_cpu("sample_ids", sample_ids);
    const int64_t rows = sample_ids.size(0);
    const PerRow seeds = per_row("seed", seed, rows);
    const size_t depth = weights.size();
    GM_CHECK(depth >= 1, "weights: got none; takes one a layer");
    GM_CHECK(biases.size() == depth && activations.size() == depth && slopes.size() == depth,
             "biases, activations, slopes: got ", biases.size(), ", ", activations.size(), " and ", slopes.size(),
             "; takes ", depth, " each");
    std::vector<Layer> layers;
    int64_t widest = 0;
    for (size_t l = 0; l < depth; ++l) {
        layers.push_back(pack(weights[l], biases[l], activations[l], slopes[l]));
        GM_CHECK(l == 0 || layers[l].linear.inputs == layers[l - 1].linear.outputs, "weights: got ",
                 layers[l].linear.inputs, " inputs in layer ", l, "; takes ", layers[l ? l - 1 : 0].linear.outputs);
        widest = std::max({widest, layers[l].linear.inputs, layers[l].linear.outputs});
    }
    const int64_t latent = layers.front().linear.inputs, outputs = layers.back().linear.outputs,
                  stride = lanes_up(widest);
    Tensor out = new_tensor({rows, outputs}, ScalarType::Float);
    float* to = out.mutable_data_ptr<float>();
    const int64_t* ids = sample_ids.const_data_ptr<int64_t>();
    const auto noise = GM_CALL_ISA(noise_row_fp32);
    const auto linear = GM_CALL_ISA(linear_panels);
    const auto elementwise = GM_CALL_ISA(apply_elementwise);
    const int64_t blocks = (rows + kRows - 1) / kRows;
    std::vector<float> room(static_cast<size_t>(num_threads() * 2 * kRows * stride));
    parallel_parts(0, blocks, 1, [&](int64_t first, int64_t last, int64_t part) {
        float* x = room.data() + part * 2 * kRows * stride;
        float* y = x + kRows * stride;
        for (int64_t block = first; block < last; ++block) {
            const int64_t begin = block * kRows, count = std::min(kRows, rows - begin);
            for (int64_t r = 0; r < count; ++r)
                noise({NoiseKind::normal, seeds[begin + r], ids[begin + r], latent, kStreamLatent, 0}, x + r * stride);
            for (const Layer& l : layers) {
                linear(l.linear.args(x, stride, y, stride, count), 0, l.linear.panels());
                const int64_t wide = l.linear.panels() * kLanes;
                for (int64_t r = 0; r < count; ++r) elementwise(y + r * stride, wide, l.kind, l.slope);
                std::swap(x, y);
            }
            for (int64_t r = 0; r < count; ++r) std::copy_n(x + r * stride, outputs, to + (begin + r) * outputs);
        }
    });
    return out;
}

}  // namespace
}  // namespace gm

STABLE_TORCH_LIBRARY_IMPL(gmkern, CPU, m) { m.impl("latent_mlp", TORCH_BOX(&gm::latent_mlp)); }
