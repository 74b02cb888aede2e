// Launches on a device that need not be the current one.
#pragma once

#include <cuda_runtime.h>

namespace gm {

// Makes a device the current one for as long as it lives.
class OnDevice {
 public:
    explicit OnDevice(int device) : status_(cudaGetDevice(&before_)) {
        changed_ = status_ == cudaSuccess && before_ != device;
        if (changed_) status_ = cudaSetDevice(device);
    }
    ~OnDevice() {
        if (changed_) cudaSetDevice(before_);
    }
    OnDevice(const OnDevice&) = delete;
    OnDevice& operator=(const OnDevice&) = delete;
    cudaError_t status() const { return status_; }

 private:
    int before_ = 0;
    bool changed_ = false;
    cudaError_t status_;
};

template <class T>
struct Given {
    using type = T;
};
// kernel<<<blocks, threads, bytes, stream>>>(arguments...), each argument being made the kernel's own type.
template <class... Parameters>
cudaError_t launch(void (*kernel)(Parameters...), int64_t blocks, int threads, size_t bytes, void* stream,
                   typename Given<Parameters>::type... arguments) {
    void* all[] = {&arguments...};
    return cudaLaunchKernel(kernel, dim3(static_cast<unsigned>(blocks)), dim3(static_cast<unsigned>(threads)), all,
                            bytes, static_cast<cudaStream_t>(stream));
}

inline const char* message(cudaError_t status) { return status == cudaSuccess ? nullptr : cudaGetErrorString(status); }

}  // namespace gm
