// Block Gibbs sampling of a restricted Boltzmann machine: a thread carries some chains through all steps in its cache.
#include <algorithm>
#include <torch/csrc/stable/library.h>
#include <tuple>
#include <utility>
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

constexpr int64_t kRows = 48;  // chains of a block: a multiple of the register tile's 6 rows and of its 3

std::tuple<Tensor, Tensor> gibbs_chain(const Tensor& weight, const Tensor& visible_bias, const Tensor& hidden_bias,
                                       const Tensor& visible, const Tensor& seed, const Tensor& sample_ids,
                                       const Tensor& first_step, int64_t steps) {
    check_dim("weight", weight, 2);
    check_dim("visible", visible, 2);
    const int64_t rows = visible.size(0), hidden_units = weight.size(0), visible_units = weight.size(1);
    GM_CHECK(hidden_units >= 1 && visible_units >= 1, "weight: got shape ", shape_text(weight),
             "; takes at least [1, 1]");
    check_size("visible", visible, 1, visible_units);
    const std::pair<const char*, const Tensor*> floats[] = {
        {"weight", &weight}, {"visible_bias", &visible_bias}, {"hidden_bias", &hidden_bias}, {"visible", &visible}};
    for (const auto& [name, t] : floats) {
        check_dtype(name, *t, ScalarType::Float);
        check_contiguous_cpu(name, *t);
    }
    check_dim("visible_bias", visible_bias, 1);
    check_dim("hidden_bias", hidden_bias, 1);
    check_size("visible_bias", visible_bias, 0, visible_units);
    check_size("hidden_bias", hidden_bias, 0, hidden_units);
    check_dim("sample_ids", sample_ids, 1);
    check_size("sample_ids", sample_ids, 0, rows);
    check_dtype("sample_ids", sample_ids, ScalarType::Long);
    check_contiguous_cpu("sample_ids", sample_ids);
    const PerRow seeds = per_row("seed", seed, rows), first = per_row("first_step", first_step, 1);
    GM_CHECK(steps >= 1 && first[0] >= 0 && first[0] < (int64_t(1) << 31) - steps, "steps: got ", steps, " from ",
             first[0], "; takes at least 1, and less than 2^31 in all");

    const float* w = weight.const_data_ptr<float>();
    const Panels up(w, visible_units, 1, hidden_bias.const_data_ptr<float>(), visible_units, hidden_units);
    const Panels down(w, 1, visible_units, visible_bias.const_data_ptr<float>(), hidden_units, visible_units);
    Tensor visible_out = new_tensor({rows, visible_units}, ScalarType::Float);
    Tensor hidden_out = new_tensor({rows, hidden_units}, ScalarType::Float);
    const float* from = visible.const_data_ptr<float>();
    float *to_visible = visible_out.mutable_data_ptr<float>(), *to_hidden = hidden_out.mutable_data_ptr<float>();
    const int64_t* ids = sample_ids.const_data_ptr<int64_t>();
    const auto noise = GM_CALL_ISA(noise_row_fp32);
    const auto linear = GM_CALL_ISA(linear_panels);
    const auto elementwise = GM_CALL_ISA(apply_elementwise);

    const int64_t wide_v = lanes_up(visible_units), wide_h = lanes_up(hidden_units);
    const int64_t blocks = (rows + kRows - 1) / kRows;
    const int64_t room_of_part = kRows * (wide_v + wide_h) + std::max(wide_v, wide_h);
    std::vector<float> room(static_cast<size_t>(num_threads() * room_of_part));
    parallel_parts(0, blocks, 1, [&](int64_t first_block, int64_t last_block, int64_t part) {
        float* v = room.data() + part * room_of_part;
        float* h = v + kRows * wide_v;
        float* u = h + kRows * wide_h;  // the uniforms of one chain's units
        for (int64_t block = first_block; block < last_block; ++block) {
            const int64_t begin = block * kRows, count = std::min(kRows, rows - begin);
            for (int64_t r = 0; r < count; ++r)
                std::copy_n(from + (begin + r) * visible_units, visible_units, v + r * wide_v);
            const auto draw = [&](const Panels& side, const float* x, int64_t x_wide, float* y, int64_t step) {
                const int64_t wide = lanes_up(side.outputs);
                linear(side.args(x, x_wide, y, wide, count), 0, side.panels());
                elementwise(y, count * wide, Elementwise::sigmoid, 0.0f);
                for (int64_t r = 0; r < count; ++r) {
                    noise({NoiseKind::uniform, seeds[begin + r], ids[begin + r], side.outputs, kStreamGibbs,
                           static_cast<uint32_t>(step)},
                          u);
                    float* row = y + r * wide;
                    for (int64_t i = 0; i < side.outputs; ++i) row[i] = u[i] < row[i] ? 1.0f : 0.0f;
                }
            };
            for (int64_t t = first[0]; t < first[0] + steps; ++t) {
                draw(up, v, wide_v, h, 2 * t);
                draw(down, h, wide_h, v, 2 * t + 1);
            }
            for (int64_t r = 0; r < count; ++r) {
                std::copy_n(v + r * wide_v, visible_units, to_visible + (begin + r) * visible_units);
                std::copy_n(h + r * wide_h, hidden_units, to_hidden + (begin + r) * hidden_units);
            }
        }
    });
    return {visible_out, hidden_out};
}

}  // namespace
}  // namespace gm

STABLE_TORCH_LIBRARY_IMPL(gmkern, CPU, m) { m.impl("gibbs_chain", TORCH_BOX(&gm::gibbs_chain)); }
