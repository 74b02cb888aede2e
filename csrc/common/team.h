// A caller and its helpers, awake together for many short pieces of work, such as the layers of one step of a model.
// Starting torch's threads takes longer than many a piece, so they are started once; a piece is then handed out in
// parts to whoever asks, and a helper that is late (its core is busy with something else) is not waited for.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>

#include "common/parallel.h"

namespace gm {

inline void pause_thread() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

class Team {
 public:
    // f(team), once, on the calling thread, with torch's other threads as its helpers. May throw what f throws; f is to
    // hear() where it takes long.
    template <class F>
    static void run(const F& f) {
        Team team;
        torch::stable::parallel_for(0, num_threads(), 1, [&](int64_t begin, int64_t end) {
            for (int64_t member = begin; member < end; ++member)
                if (member == 0) {
                    const End at_the_end{team};
                    f(team);
                } else {
                    team.help();
                }
        });
    }

    // f(begin, end) over parts of [0, count), `unit` items each, whoever takes them. To be called by f of run alone;
    // what a part computes may not depend on where the parts are cut, and f may not throw.
    template <class F>
    void share(int64_t count, int64_t unit, const F& f) {
        const auto some = [&](int64_t part) { f(part * unit, (part + 1) * unit < count ? (part + 1) * unit : count); };
        work_.store([](const void* of, int64_t part) { (*static_cast<const decltype(some)*>(of))(part); },
                    std::memory_order_relaxed);
        of_.store(&some, std::memory_order_relaxed);
        const int64_t parts = (count + unit - 1) / unit;
        parts_.store(parts, std::memory_order_relaxed);
        done_.store(0, std::memory_order_relaxed);
        ++piece_;
        left_.store(piece_ << kBits | static_cast<uint64_t>(parts), std::memory_order_release);
        while (take_part()) {
        }
        for (int spins = 0; done_.load(std::memory_order_acquire) != parts; ++spins) rest(spins);
    }

 private:
    static constexpr int kBits = 32;        // of left_ that count parts; those above number the piece
    static constexpr int kSpins = 1 << 11;  // pauses, about 0.1 ms, before the core is offered to others

    struct End {
        Team& team;
        ~End() { team.over_.store(true, std::memory_order_release); }
    };

    static void rest(int spins) {
        if (spins < kSpins)
            pause_thread();
        else
            std::this_thread::yield();
    }

    // One part of the piece at hand; false where none is left. A part is taken by counting left_ down from the value
    // read before the piece's description was: success means that the piece was still the same, since the next is
    // described only when all parts of this one are done.
    bool take_part() {
        uint64_t left = left_.load(std::memory_order_acquire);
        const auto parts = static_cast<int64_t>(left & ((uint64_t(1) << kBits) - 1));
        if (parts == 0) return false;
        const Work work = work_.load(std::memory_order_relaxed);
        const void* of = of_.load(std::memory_order_relaxed);
        const int64_t all = parts_.load(std::memory_order_relaxed);
        if (!left_.compare_exchange_strong(left, left - 1, std::memory_order_acq_rel, std::memory_order_relaxed))
            return true;  // another was faster: ask again
        work(of, all - parts);
        done_.fetch_add(1, std::memory_order_release);
        return true;
    }

    void help() {
        for (int spins = 0; !over_.load(std::memory_order_acquire); ++spins)
            if (take_part())
                spins = 0;
            else
                rest(spins);
    }

    using Work = void (*)(const void*, int64_t);
    std::atomic<Work> work_{nullptr};
    std::atomic<const void*> of_{nullptr};
    std::atomic<int64_t> parts_{0};
    uint64_t piece_ = 0;
    alignas(64) std::atomic<uint64_t> left_{0};
    alignas(64) std::atomic<int64_t> done_{0};
    std::atomic<bool> over_{false};
};

}  // namespace gm
