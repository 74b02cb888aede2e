// Checks at the door of every op. The Python face reports bad input with the argument's name first; these make sure
// that a direct call of torch.ops.gmkern.* cannot read outside a tensor.
#pragma once

#include <cstdint>
#include <sstream>
#include <stdexcept>
#include <string>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

namespace gm {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Becomes a RuntimeError whose text is the words alone, with no path of the machine that built the library.
template <class... Words>
[[noreturn]] inline void fail(const Words&... words) {
    std::ostringstream text;
    text << "gmkern: ";
    ((text << words), ...);
    throw std::runtime_error(text.str());
}
#define GM_CHECK(CONDITION, ...)                   \
    do {                                           \
        if (!(CONDITION)) ::gm::fail(__VA_ARGS__); \
    } while (false)

inline std::string shape_text(const Tensor& t) {
    std::string text = "[";
    for (int64_t i = 0; i < t.dim(); ++i) text += (i ? ", " : "") + std::to_string(t.size(i));
    return text + "]";
}

inline void check_dtype(const char* name, const Tensor& t, ScalarType dtype) {
    GM_CHECK(t.scalar_type() == dtype, name, ": got dtype ", torch::headeronly::toString(t.scalar_type()), "; takes ",
             torch::headeronly::toString(dtype));
}
inline void check_dim(const char* name, const Tensor& t, int64_t dim) {
    GM_CHECK(t.dim() == dim, name, ": got shape ", shape_text(t), "; takes ", dim, " dimensions");
}
inline void check_size(const char* name, const Tensor& t, int64_t axis, int64_t size) {
    GM_CHECK(t.size(axis) == size, name, ": got shape ", shape_text(t), "; takes size ", size, " along axis ", axis);
}
inline void check_contiguous_cpu(const char* name, const Tensor& t) {
    GM_CHECK(t.is_cpu(), name, ": takes a CPU tensor");
    GM_CHECK(t.is_contiguous(), name, ": takes a contiguous tensor");
}

// Where a seed, step or sample id is given once for all rows or once per row: value(i) for row i.
struct PerRow {
    const int64_t* data;
    int64_t stride;
    int64_t operator[](int64_t row) const { return data[row * stride]; }
};
inline PerRow per_row(const char* name, const Tensor& t, int64_t rows) {
    check_dtype(name, t, ScalarType::Long);
    check_contiguous_cpu(name, t);
    GM_CHECK(t.dim() <= 1 && (t.numel() == 1 || t.numel() == rows), name, ": got shape ", shape_text(t),
             "; takes one value or ", rows);
    return {t.const_data_ptr<int64_t>(), t.numel() == 1 ? 0 : 1};
}

}  // namespace gm
