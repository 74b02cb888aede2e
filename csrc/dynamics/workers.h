// Systems over threads, or where there are fewer systems than threads, the threads inside one system after another.
// What a system computes does not depend on who computes it.
#pragma once

#include <algorithm>
#include <atomic>
#include <thread>

#include "common/check.h"
#include "common/new_tensor.h"
#include "common/parallel.h"
#include "dynamics/near.h"

namespace gm {

// Worker 0, on the calling thread, leads and hands out tasks; others help while it does. It takes what tasks they do
// not, so it never waits for one who has not come.
class SystemTeam {
 public:
    template <class F>
    void work(int64_t worker, const F& lead) {
        if (worker == 0) {
            struct End {
                std::atomic<bool>& over;
                ~End() { over.store(true); }
            } end{over_};
            lead(Crew{this, &SystemTeam::share});
            return;
        }
        for (int idle = 0; !over_.load(std::memory_order_acquire);)
            if (left_.load(std::memory_order_acquire) > 0 && take(worker))
                idle = 0;
            else if (++idle > kIdle)
                std::this_thread::yield();
    }

 private:
    static constexpr int kIdle = 2000;

    static void share(void* self, int64_t tasks, Crew::Task task, const void* context) {
        static_cast<SystemTeam*>(self)->run(tasks, task, context);
    }
    void run(int64_t tasks, Crew::Task task, const void* context) {
        task_ = task;
        context_ = context;
        tasks_ = tasks;
        done_.store(0, std::memory_order_relaxed);
        left_.store(tasks, std::memory_order_release);
        Clock::time_point until;
        const bool ear = has_ear(until);
        while (take(0)) {
            if (!ear || Clock::now() < until) continue;
            const int64_t left = std::max<int64_t>(0, left_.exchange(0));
            wait_for(tasks - left);  // whom a handler of a signal would find at work
            hear();
            has_ear(until);
            left_.store(left, std::memory_order_release);
        }
        wait_for(tasks);
    }
    void wait_for(int64_t tasks) const {
        for (int idle = 0; done_.load(std::memory_order_acquire) < tasks;)
            if (++idle > kIdle) std::this_thread::yield();
    }
    // A ticket above 0 is a task of the present run, which waits for it; a late ticket is below, and none.
    bool take(int64_t worker) {
        const int64_t ticket = left_.fetch_sub(1, std::memory_order_acq_rel);
        if (ticket <= 0) return false;
        task_(context_, tasks_ - ticket, worker);
        done_.fetch_add(1, std::memory_order_release);
        return true;
    }

    std::atomic<bool> over_{false};
    std::atomic<int64_t> left_{0}, done_{0};
    int64_t tasks_ = 0;
    Crew::Task task_ = nullptr;
    const void* context_ = nullptr;
};

// Who computes `systems` systems of up to `largest` atoms.
struct Workers {
    static constexpr int64_t kFewest = 256;  // atoms that threads share
    static constexpr int64_t kLong = 8192;   // atoms whose pairs take long: the work is to stop for signals inside

    Workers(int64_t systems, int64_t largest) : systems_(systems), threads_(num_threads()) {
        inside_ = largest >= (systems < threads_ ? kFewest : kLong);
        teams_ = inside_ ? 1 : systems < threads_ ? systems : threads_;
    }
    int64_t teams() const { return teams_; }                    // that compute systems at one time
    int64_t threads() const { return inside_ ? threads_ : 1; }  // of each

    // f(system, scratch, crew, team) for each system; a team's scratch is `scratch_size` numbers of R.
    template <class R, class F>
    void each(int64_t scratch_size, ScalarType dtype, const F& f) const {
        if (systems_ <= 0) return;
        scratch_size = (scratch_size + 63) / 64 * 64;
        Tensor scratch = new_tensor({teams_ * scratch_size}, dtype);
        R* memory = scratch.mutable_data_ptr<R>();
        if (inside_) {
            SystemTeam team;
            torch::stable::parallel_for(0, threads_, 1, [&](int64_t begin, int64_t end) {
                for (int64_t thread = begin; thread < end; ++thread)
                    team.work(thread, [&](const Crew& crew) {
                        for (int64_t s = 0; s < systems_; ++s) f(s, memory, crew, int64_t{0});
                    });
            });
            return;
        }
        std::atomic<int64_t> next{0};
        while (next < systems_) {
            Clock::time_point until;
            const bool ear = has_ear(until);
            torch::stable::parallel_for(0, teams_, 1, [&](int64_t begin, int64_t end) {
                for (int64_t team = begin; team < end; ++team)
                    while (!ear || Clock::now() < until) {
                        const int64_t s = next++;
                        if (s >= systems_) break;
                        f(s, memory + team * scratch_size, Crew{}, team);
                    }
            });
            hear();
        }
    }

 private:
    int64_t systems_, threads_, teams_;
    bool inside_;
};

}  // namespace gm
