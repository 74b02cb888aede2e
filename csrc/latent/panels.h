// A linear layer packed for linear_panels (decode/transformer.h): panels of 16 outputs, [inputs][16] each, with zeros
// past the last output.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "decode/transformer.h"

namespace gm {

struct Panels {
    int64_t inputs, outputs;
    std::vector<float> weight, bias;

    // The weight of output o and input i is from[o * output_step + i * input_step].
    Panels(const float* from, int64_t output_step, int64_t input_step, const float* bias_from, int64_t inputs_,
           int64_t outputs_)
        : inputs(inputs_),
          outputs(outputs_),
          weight(static_cast<size_t>(lanes_up(outputs_) * inputs_)),
          bias(static_cast<size_t>(lanes_up(outputs_))) {
        for (int64_t o = 0; o < outputs; ++o)
            for (int64_t i = 0; i < inputs; ++i)
                weight[static_cast<size_t>((o / kLanes * inputs + i) * kLanes + o % kLanes)] =
                    from[o * output_step + i * input_step];
        std::copy_n(bias_from, outputs, bias.data());
    }

    int64_t panels() const { return lanes_up(outputs) / kLanes; }
    // What linear_panels takes for `rows` rows: x [rows, x_stride] -> out [rows, out_stride], lanes_up(outputs)
    // written.
    LinearArgs args(const float* x, int64_t x_stride, float* out, int64_t out_stride, int64_t rows) const {
        const auto* words = reinterpret_cast<const uint32_t*>(weight.data());
        return {x,    words,  bias.data(),     nullptr,           out, x_stride, out_stride,
                rows, inputs, Epilogue::store, WeightFormat::fp32};
    }
};

}  // namespace gm
