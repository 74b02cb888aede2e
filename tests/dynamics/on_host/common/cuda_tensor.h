// csrc/common/cuda_tensor.h for a launcher whose kernels run on the host.
#pragma once

#include "common/check.h"

namespace gm {

inline int32_t cuda_device(const char* name, const Tensor& t) {
    GM_CHECK(t.is_cpu(), name, ": takes a CPU tensor");
    return 0;
}
inline void check_here(const char* name, const Tensor& t, int32_t) { check_contiguous_cpu(name, t); }
inline void* current_stream(const char*, int32_t) { return nullptr; }

}  // namespace gm
