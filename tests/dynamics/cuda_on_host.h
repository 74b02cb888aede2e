// Just enough of CUDA to run trajectory_cuda.cu on a host, a thread for each of a block's threads and one block after
// another: the kernel's indices, barriers and shuffles are tested where no GPU is. Races are not: every access between
// two barriers happens, in some order.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>
#include <cmath>

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __launch_bounds__(N)

// A barrier that a thread may leave for good, as threads that return from a kernel do.
class Barrier {
 public:
    explicit Barrier(int threads) : expected_(threads) {}
    void wait() {
        std::unique_lock<std::mutex> lock(mutex_);
        const long turn = turn_;
        if (++waiting_ == expected_)
            open();
        else
            opened_.wait(lock, [&] { return turn_ != turn; });
    }
    void leave() {
        std::unique_lock<std::mutex> lock(mutex_);
        if (--expected_ == waiting_ && waiting_ > 0) open();
    }

 private:
    void open() {
        waiting_ = 0;
        ++turn_;
        opened_.notify_all();
    }
    std::mutex mutex_;
    std::condition_variable opened_;
    int expected_, waiting_ = 0;
    long turn_ = 0;
};

struct Index {
    unsigned x;
};
inline thread_local Index threadIdx, blockIdx;
inline Index blockDim;
inline Barrier* block_barrier;
inline std::vector<std::unique_ptr<Barrier>> warp_barriers;
inline double lanes[1024];

inline void __syncthreads() { block_barrier->wait(); }
template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
    Barrier& warp = *warp_barriers[threadIdx.x / 32];
    std::memcpy(&lanes[threadIdx.x], &value, sizeof(T));
    warp.wait();
    T other;
    std::memcpy(&other, &lanes[threadIdx.x ^ mask], sizeof(T));
    warp.wait();
    return other;
}

using cudaError_t = int;
using cudaStream_t = void*;
constexpr int cudaSuccess = 0, cudaFuncAttributeMaxDynamicSharedMemorySize = 0;
inline int cudaGetLastError() { return 0; }
inline int cudaGetDevice(int* device) { return *device = 0; }
inline int cudaSetDevice(int) { return 0; }
inline const char* cudaGetErrorString(int) { return "error"; }
template <class K>
int cudaFuncSetAttribute(K, int, int) {
    return 0;
}

inline double shared_memory[1 << 16];

// kernel<<<blocks, threads, bytes, stream>>>(a) is rewritten to this.
template <class Kernel, class Arguments>
void run_kernel(Kernel kernel, unsigned blocks, int threads, size_t bytes, const Arguments& a) {
    blockDim.x = static_cast<unsigned>(threads);
    for (unsigned block = 0; block < blocks; ++block) {
        std::memset(shared_memory, 0xFF, bytes);  // NaN: nothing is read before it is written
        Barrier all(threads);
        block_barrier = &all;
        warp_barriers.clear();
        for (int w = 0; w < threads / 32; ++w) warp_barriers.push_back(std::make_unique<Barrier>(32));
        std::vector<std::thread> running;
        for (int t = 0; t < threads; ++t)
            running.emplace_back([&, t] {
                threadIdx.x = static_cast<unsigned>(t);
                blockIdx.x = block;
                kernel(a);
                all.leave();
            });
        for (std::thread& thread : running) thread.join();
    }
}
