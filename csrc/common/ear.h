// Signals in the midst of long work. Python runs the handlers of signals (Ctrl-C) in its main thread, between its own
// instructions: while that thread is in here, they wait. So work that was called by gmkern._interrupt stops for them
// about four times a second (parallel.h), and goes on where it was, unless a handler raised.
#pragma once

#include <chrono>

namespace gm {

using Clock = std::chrono::steady_clock;

// Whether this thread is Python's main one, in a call that wishes to be interrupted; if so, `until` is when to stop.
bool has_ear(Clock::time_point& until);

// Lets Python run the handlers of signals that came, where `until` has passed. To be called by the thread that called
// the op, outside of parallel work. Throws if a handler raised: the op is to end without a result.
void hear();

}  // namespace gm
