// Just enough of CUDA to run the dynamics kernels on a host, in place of NVIDIA's header: a fiber for each of a block's
// threads, one block after another. Indices, barriers and shuffles are tested where no GPU is; a barrier that a thread
// waits at in vain ends the program with a word. Races are not tested: a fiber runs from one barrier to the next.
#pragma once

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

// The threads of the block that runs.
class Block {
 public:
    template <class Run>
    static void run(int threads, const Run& run) {
        Block block;
        current() = &block;
        block.fibers_.resize(static_cast<size_t>(threads));
        static const Run* body;
        body = &run;
        for (size_t t = 0; t < block.fibers_.size(); ++t) {
            Fiber& f = block.fibers_[t];
            getcontext(&f.context);
            f.context.uc_stack.ss_sp = stack(t);
            f.context.uc_stack.ss_size = kStack;
            f.context.uc_link = &block.scheduler_;
            makecontext(&f.context, reinterpret_cast<void (*)()>(+[] {
                (*body)();
                Block& own = *current();
                own.fibers_[own.at_].state = done;
            }),
                        0);
        }
        block.schedule();
    }
    enum State { runs, at_warp, at_block, done };
    static void wait(State state) {
        Block& own = *current();
        Fiber& f = own.fibers_[own.at_];
        f.state = state;
        swapcontext(&f.context, &own.scheduler_);
    }

 private:
    static constexpr size_t kStack = 1 << 16;
    struct Fiber {
        ucontext_t context;
        State state = runs;
    };
    static void* stack(size_t thread) {
        static std::vector<char> stacks(1024 * kStack);
        return stacks.data() + thread * kStack;
    }
    static Block*& current() {
        static Block* block;
        return block;
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
            for (at_ = 0; at_ < fibers_.size(); ++at_) {
                if (fibers_[at_].state != runs) continue;
                threadIdx.x = static_cast<unsigned>(at_);
                swapcontext(&scheduler_, &fibers_[at_].context);
            }
            again = wake(0, fibers_.size(), at_block);
            for (size_t warp = 0; warp < fibers_.size(); warp += 32) again = wake(warp, warp + 32, at_warp) || again;
        }
        for (const Fiber& f : fibers_)
            if (f.state != done) {
                std::fprintf(stderr, "a barrier that not all threads reach\n");
                std::abort();
            }
    }
    std::vector<Fiber> fibers_;
    ucontext_t scheduler_;
    size_t at_ = 0;
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
