// New tensors of an op, their numbers not written yet. The stable ABI says of a failure only where it was noticed; what
// was asked for is said here; not as an error of `fail`, which blames an argument.
#pragma once

#include <exception>

#include "common/check.h"

namespace gm {

using Shape = torch::headeronly::IntHeaderOnlyArrayRef;

template <class Make>
inline Tensor made(Shape shape, ScalarType dtype, bool earlier, const Make& make) {
    try {
        return make();
    } catch (const std::exception&) {
        std::string sizes;
        for (const int64_t size : shape) sizes += (sizes.empty() ? "" : ", ") + std::to_string(size);
        // On a CPU nothing else fails; on a device what failed before may be told only now.
        throw std::runtime_error(
            std::string("out of memory") + (earlier ? ", or an earlier call on its device failed" : "") +
            ": gmkern asked for a tensor of shape [" + sizes + "] and dtype " + torch::headeronly::toString(dtype));
    }
}

inline Tensor new_tensor(Shape shape, ScalarType dtype) {
    return made(shape, dtype, false, [&] { return torch::stable::empty(shape, dtype); });
}
// On the device of `like`, and of its dtype unless another is given.
inline Tensor new_tensor_beside(const Tensor& like, Shape shape, ScalarType dtype) {
    return made(shape, dtype, !like.is_cpu(), [&] { return torch::stable::new_empty(like, shape, dtype); });
}
inline Tensor new_tensor_beside(const Tensor& like, Shape shape) {
    return new_tensor_beside(like, shape, like.scalar_type());
}
inline Tensor new_tensor_like(const Tensor& like) {
    return made(like.sizes(), like.scalar_type(), !like.is_cpu(), [&] { return torch::stable::empty_like(like); });
}

}  // namespace gm
