// What the launchers of CUDA kernels ask of their tensors: device, layout and stream, never a value, so that a call can
// be captured in a graph.
#pragma once

#include "common/check.h"

// Weak: a CPU-only torch has no such function, and the library loads there all the same.
extern "C" __attribute__((weak)) int32_t aoti_torch_get_current_cuda_stream(int32_t device_index, void** stream);

namespace gm {

inline int32_t cuda_device(const char* name, const Tensor& t) {
    GM_CHECK(t.is_cuda(), name, ": takes a CUDA tensor");
    return t.get_device_index();
}
inline void check_here(const char* name, const Tensor& t, int32_t device) {
    GM_CHECK(t.is_cuda() && t.get_device_index() == device, name, ": takes a tensor on cuda:", device);
    GM_CHECK(t.is_contiguous(), name, ": takes a contiguous tensor");
}
inline void* current_stream(const char* op, int32_t device) {
    void* stream = nullptr;
    GM_CHECK(aoti_torch_get_current_cuda_stream != nullptr && aoti_torch_get_current_cuda_stream(device, &stream) == 0,
             op, ": this torch gives no CUDA stream");
    return stream;
}

}  // namespace gm
