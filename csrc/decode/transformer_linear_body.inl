// Rows times packed panels: a register tile of R rows and C panels, one chain of multiply-adds an output.
#include "common/vector_math.h"
#include "decode/transformer.h"

namespace gm {
inline namespace GM_ISA {
namespace {

// The tile that fits the registers: accumulators, one panel row a column, one broadcast.
#if defined(__AVX512F__)
constexpr int kRows = 6, kPanels = 4, kPanelsOfOne = 8;
#elif defined(__AVX2__)
constexpr int kRows = 3, kPanels = 2, kPanelsOfOne = 4;
#else
constexpr int kRows = 1, kPanels = 2, kPanelsOfOne = 2;
#endif

f32x16 activate(Epilogue kind, f32x16 x) {
    switch (kind) {
        case Epilogue::swiglu:
        case Epilogue::silu:
            return silu(x);
        case Epilogue::geglu:
        case Epilogue::gelu:
            return gelu(x);
        case Epilogue::gelu_tanh:
        case Epilogue::geglu_tanh:
            return gelu_tanh(x);
        case Epilogue::relu:
            return relu(x);
        default:
            return x;
    }
}

__attribute__((noinline)) void finish(const LinearArgs& a, const float* sums, int64_t row, int64_t panel, int rows,
                                      int panels) {
    const bool gated = is_gated(a.epilogue);
    for (int r = 0; r < rows; ++r) {
        const float* from = sums + r * panels * kLanes;
        float* to = a.out + (row + r) * a.out_stride;
        for (int c = 0; c < panels; c += gated ? 2 : 1) {
            const int64_t at = (panel + c) * kLanes;
            f32x16 y = f32x16::load(from + c * kLanes) + f32x16::load(a.bias + at);
            if (gated) {
                const f32x16 up = f32x16::load(from + (c + 1) * kLanes) + f32x16::load(a.bias + at + kLanes);
                (activate(a.epilogue, y) * up).store(to + at / 2);
            } else if (a.epilogue == Epilogue::add) {
                (f32x16::load(to + at) + y).store(to + at);
            } else {
                activate(a.epilogue, y).store(to + at);
            }
        }
    }
}

template <int R, int C>
GM_HD void tile(const LinearArgs& a, int64_t row, int64_t panel) {
    f32x16 sum[R][C];
    for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; ++c) sum[r][c] = f32x16(0.0f);
    const float* x = a.x + row * a.x_stride;
    const float* w = a.weight + panel * a.inputs * kLanes;
    const int64_t step = a.inputs * kLanes;
    for (int64_t k = 0; k < a.inputs; ++k) {
        f32x16 column[C];
        for (int c = 0; c < C; ++c) column[c] = f32x16::load(w + c * step + k * kLanes);
        for (int r = 0; r < R; ++r) {
            const f32x16 value(x[r * a.x_stride + k]);
            for (int c = 0; c < C; ++c) sum[r][c] = fma(value, column[c], sum[r][c]);
        }
    }
    alignas(64) float sums[R * C * kLanes];
    for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; ++c) sum[r][c].store(sums + (r * C + c) * kLanes);
    finish(a, sums, row, panel, R, C);
}

template <int C>
void rows_of(const LinearArgs& a, int64_t panel) {
    int64_t row = 0;
    for (; row + kRows <= a.rows; row += kRows) tile<kRows, C>(a, row, panel);
    switch (a.rows - row) {
        case 5:
            return tile<(kRows > 5 ? 5 : 1), C>(a, row, panel);
        case 4:
            return tile<(kRows > 4 ? 4 : 1), C>(a, row, panel);
        case 3:
            return tile<(kRows > 3 ? 3 : 1), C>(a, row, panel);
        case 2:
            return tile<(kRows > 2 ? 2 : 1), C>(a, row, panel);
        case 1:
            return tile<1, C>(a, row, panel);
        default:
            return;
    }
}

}  // namespace

// Panels [begin, end): even numbers where the activation is gated.
void linear_panels(const LinearArgs& a, int64_t begin, int64_t end) {
    int64_t panel = begin;
    if (a.rows == 1)
        for (; panel + kPanelsOfOne <= end; panel += kPanelsOfOne) tile<1, kPanelsOfOne>(a, 0, panel);
    for (; panel + kPanels <= end; panel += kPanels) rows_of<kPanels>(a, panel);
    if (kPanels > 2)
        for (; panel + 2 <= end; panel += 2) rows_of<2>(a, panel);
    for (; panel < end; ++panel) rows_of<1>(a, panel);
}

}  // namespace GM_ISA
}  // namespace gm
