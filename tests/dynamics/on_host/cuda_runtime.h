// Just enough of CUDA to run the dynamics kernels on a host, in place of NVIDIA's header: a fiber for each of a block's
// threads, one block after another. Indices, barriers and shuffles are tested where no GPU is; a barrier that a thread
// waits at in vain ends the program with a word. Races are not tested: a fiber runs from one barrier to the next.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __launch_bounds__(...)

struct dim3 {
    unsigned x;
    explicit dim3(unsigned n = 1) : x(n) {}
};
inline dim3 threadIdx, blockIdx, blockDim, gridDim;

// The threads of the block that runs. A fiber is made once and serves block after block; jumps between fibers that run
// already make no system call.
class Block {
 public:
    template <class Run>
    static void run(int threads, const Run& run) {
        Block& own = one();
        own.body_ = [](const void* of) { (*static_cast<const Run*>(of))(); };
        own.of_ = &run;
        own.count_ = static_cast<size_t>(threads);
        for (size_t t = 0; t < own.count_; ++t) own.fibers_[t].state = runs;
        own.schedule();
    }
    enum State { runs, at_warp, at_block, done };
    static void wait(State state) {
        Block& own = one();
        Fiber& f = own.fibers_[own.at_];
        f.state = state;
        if (_setjmp(f.here) == 0) _longjmp(own.scheduler_, 1);
    }

 private:
    static constexpr size_t kStack = 1 << 16, kMost = 1024;
    struct Fiber {
        jmp_buf here;
        State state = runs;
        bool made = false;
    };
    static Block& one() {
        static Block block;
        return block;
    }
    static void live() {
        for (;;) {
            Block& own = one();
            own.body_(own.of_);
            wait(done);
        }
    }
    void resume(Fiber& f) {
        if (_setjmp(scheduler_) != 0) return;
        if (f.made) _longjmp(f.here, 1);
        f.made = true;
        ucontext_t context;
        getcontext(&context);
        context.uc_stack.ss_sp = stacks_.data() + at_ * kStack;
        context.uc_stack.ss_size = kStack;
        context.uc_link = nullptr;
        makecontext(&context, &Block::live, 0);
        setcontext(&context);
    }
    // Wakes the fibers from `first` to `end` if all that are left wait as `state` says.
    bool wake(size_t first, size_t end, State state) {
        bool some = false;
        for (size_t t = first; t < end; ++t) {
            if (fibers_[t].state != state && fibers_[t].state != done) return false;
            some = some || fibers_[t].state == state;
        }
        for (size_t t = first; t < end; ++t)
            if (fibers_[t].state == state) fibers_[t].state = runs;
        return some;
    }
    void schedule() {
        for (bool again = true; again;) {
            for (at_ = 0; at_ < count_; ++at_) {
                if (fibers_[at_].state != runs) continue;
                threadIdx.x = static_cast<unsigned>(at_);
                resume(fibers_[at_]);
            }
            again = wake(0, count_, at_block);
            for (size_t warp = 0; warp < count_; warp += 32) again = wake(warp, warp + 32, at_warp) || again;
        }
        for (size_t t = 0; t < count_; ++t)
            if (fibers_[t].state != done) {
                std::fprintf(stderr, "a barrier that not all threads reach\n");
                std::abort();
            }
    }
    std::vector<Fiber> fibers_ = std::vector<Fiber>(kMost);
    std::vector<char> stacks_ = std::vector<char>(kMost * kStack);
    void (*body_)(const void*) = nullptr;
    const void* of_ = nullptr;
    size_t count_ = 0, at_ = 0;
    jmp_buf scheduler_;
};

inline void __syncthreads() { Block::wait(Block::at_block); }
template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
    static T lanes[1024];
    const unsigned me = threadIdx.x;
    lanes[me] = value;
    Block::wait(Block::at_warp);
    const T other = lanes[me ^ static_cast<unsigned>(mask)];
    Block::wait(Block::at_warp);
    return other;
}

template <class T>
T __shfl_sync(unsigned, T value, int from) {
    static T lanes[1024];
    const unsigned me = threadIdx.x;
    lanes[me] = value;
    Block::wait(Block::at_warp);
    const T other = lanes[me / 32 * 32 + static_cast<unsigned>(from) % 32];
    Block::wait(Block::at_warp);
    return other;
}
inline unsigned __ballot_sync(unsigned, bool value) {
    static bool lanes[1024];
    const unsigned me = threadIdx.x;
    lanes[me] = value;
    Block::wait(Block::at_warp);
    unsigned bits = 0;
    for (unsigned lane = 0; lane < 32; ++lane) bits |= static_cast<unsigned>(lanes[me / 32 * 32 + lane]) << lane;
    Block::wait(Block::at_warp);
    return bits;
}
inline void __syncwarp() { Block::wait(Block::at_warp); }
inline int __ffs(unsigned bits) { return __builtin_ffs(static_cast<int>(bits)); }
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
template <class T, class V>
T atomicAdd(T* to, V value) {
    const T before = *to;
    *to += static_cast<T>(value);
    return before;
}

using cudaError_t = int;
using cudaStream_t = void*;
constexpr int cudaSuccess = 0, cudaFuncAttributeMaxDynamicSharedMemorySize = 0;
inline int cudaGetDevice(int* device) { return *device = 0; }
inline int cudaSetDevice(int) { return 0; }
inline const char* cudaGetErrorString(int) { return "error"; }
template <class K>
int cudaFuncSetAttribute(K, int, int) {
    return 0;
}

constexpr int cudaMemcpyDeviceToHost = 0;
inline int cudaMemcpyAsync(void* to, const void* from, size_t bytes, int, cudaStream_t) {
    std::memcpy(to, from, bytes);
    return cudaSuccess;
}
inline int cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
    std::memset(to, value, bytes);
    return cudaSuccess;
}
inline int cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }

inline double shared_memory[1 << 16];

template <class... A, size_t... I>
void run_kernel(void (*kernel)(A...), unsigned blocks, int threads, void** all, size_t bytes,
                std::index_sequence<I...>) {
    gridDim = dim3(blocks);
    blockDim = dim3(static_cast<unsigned>(threads));
    for (unsigned block = 0; block < blocks; ++block) {
        blockIdx = dim3(block);
        std::memset(shared_memory, 0xFF, bytes);  // NaN: nothing is read before it is written
        Block::run(threads, [&] { kernel(*static_cast<std::remove_reference_t<A>*>(all[I])...); });
    }
}
template <class... A>
int cudaLaunchKernel(void (*kernel)(A...), dim3 blocks, dim3 threads, void** all, size_t bytes, cudaStream_t) {
    run_kernel(kernel, blocks.x, static_cast<int>(threads.x), all, bytes, std::index_sequence_for<A...>());
    return cudaSuccess;
}
