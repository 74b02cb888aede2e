// A stand-in for PyTorch's header of this name: contiguous CPU tensors, as much of them as the launchers use.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <torch/headeronly/core/ScalarType.h>
#include <vector>

namespace torch::headeronly {
using IntHeaderOnlyArrayRef = std::vector<int64_t>;
}

namespace torch::stable {

using headeronly::ScalarType;

inline size_t element_bytes(ScalarType dtype) {
    switch (dtype) {
        case ScalarType::Bool:
        case ScalarType::Byte:
        case ScalarType::Char:
            return 1;
        case ScalarType::Half:
        case ScalarType::BFloat16:
            return 2;
        case ScalarType::Int:
        case ScalarType::Float:
            return 4;
        case ScalarType::Long:
        case ScalarType::Double:
            return 8;
        default:
            throw std::runtime_error("the stand-in has no tensors of this dtype");
    }
}

// Copies share memory. New memory is all ones, NaN in every floating-point type.
class Tensor {
 public:
    Tensor(std::vector<int64_t> sizes, ScalarType dtype) : sizes_(std::move(sizes)), dtype_(dtype) {
        const size_t bytes = static_cast<size_t>(numel()) * element_bytes(dtype);
        memory_.reset(std::aligned_alloc(64, bytes / 64 * 64 + 64), &std::free);
        std::memset(memory_.get(), 0xff, bytes);
    }

    int64_t dim() const { return static_cast<int64_t>(sizes_.size()); }
    int64_t size(int64_t axis) const { return sizes_.at(static_cast<size_t>(axis < 0 ? axis + dim() : axis)); }
    const std::vector<int64_t>& sizes() const { return sizes_; }
    int64_t stride(int64_t axis) const {
        int64_t step = 1;
        for (int64_t a = dim() - 1; a > (axis < 0 ? axis + dim() : axis); --a) step *= size(a);
        return step;
    }
    int64_t numel() const {
        int64_t count = 1;
        for (const int64_t size : sizes_) count *= size;
        return count;
    }
    ScalarType scalar_type() const { return dtype_; }
    size_t element_size() const { return element_bytes(dtype_); }
    bool is_cpu() const { return true; }
    bool is_contiguous() const { return true; }

    void* data_ptr() const { return memory_.get(); }
    const void* const_data_ptr() const { return memory_.get(); }
    void* mutable_data_ptr() const { return memory_.get(); }
    template <class T>
    const T* const_data_ptr() const {
        return static_cast<const T*>(memory_.get());
    }
    template <class T>
    T* mutable_data_ptr() const {
        return static_cast<T*>(memory_.get());
    }

 private:
    std::vector<int64_t> sizes_;
    ScalarType dtype_;
    std::shared_ptr<void> memory_;
};

}  // namespace torch::stable
