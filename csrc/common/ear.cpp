// The library knows no Python: gmkern._interrupt gives it the addresses of what it needs of the interpreter.
#include "common/ear.h"

#include <pthread.h>
#include <torch/csrc/stable/library.h>

#include <cstdint>
#include <vector>

#include "common/check.h"

namespace gm {
namespace {

constexpr std::chrono::milliseconds kSlice{250};

// In the order of gmkern._interrupt.
struct Interpreter {
    const int64_t* call;  // the number of the call that wishes to be interrupted; 0: none
    pthread_t main;       // its main thread
    int (*acquire)();     // PyGILState_Ensure
    void (*release)(int);
    int (*run_handlers)();                       // PyErr_CheckSignals: not 0 where one raised
    void (*take_error)(void**, void**, void**);  // PyErr_Fetch
};
Interpreter interpreter{};
// Of the main thread alone.
int64_t call = 0;
Clock::time_point stop;
void* error[3] = {};

void set_interpreter(std::vector<int64_t> a) {
    GM_CHECK(a.size() == 6, "addresses: got ", a.size(), "; takes 6");
    interpreter = {reinterpret_cast<const int64_t*>(a[0]), (pthread_t)a[1],
                   reinterpret_cast<int (*)()>(a[2]),      reinterpret_cast<void (*)(int)>(a[3]),
                   reinterpret_cast<int (*)()>(a[4]),      reinterpret_cast<void (*)(void**, void**, void**)>(a[5])};
}

// What a handler raised, as PyErr_Restore takes it: the caller owns it. Zeros: nothing.
std::vector<int64_t> take_raised() {
    std::vector<int64_t> taken;
    for (void*& part : error) {
        taken.push_back(reinterpret_cast<int64_t>(part));
        part = nullptr;
    }
    return taken;
}

}  // namespace

bool has_ear(Clock::time_point& until) {
    if (interpreter.call == nullptr || pthread_equal(pthread_self(), interpreter.main) == 0) return false;
    const int64_t now = *interpreter.call;
    if (now == 0) return false;
    if (now != call) {
        call = now;
        stop = Clock::now() + kSlice;
    }
    until = stop;
    return true;
}

void hear() {
    Clock::time_point until;
    if (!has_ear(until) || Clock::now() < until) return;
    const int state = interpreter.acquire();
    const bool raised = interpreter.run_handlers() != 0;
    if (raised) interpreter.take_error(&error[0], &error[1], &error[2]);
    interpreter.release(state);
    stop = Clock::now() + kSlice;
    if (raised) fail("interrupted by a signal");
}

}  // namespace gm

STABLE_TORCH_LIBRARY_FRAGMENT(gmkern, m) {
    // addresses for the signals of the interpreter (common/ear.cpp), and what a handler of one raised
    m.def("set_interpreter(int[] addresses) -> ()");
    m.def("take_raised() -> int[]");
}

STABLE_TORCH_LIBRARY_IMPL(gmkern, CompositeExplicitAutograd, m) {
    m.impl("set_interpreter", TORCH_BOX(&gm::set_interpreter));
    m.impl("take_raised", TORCH_BOX(&gm::take_raised));
}
