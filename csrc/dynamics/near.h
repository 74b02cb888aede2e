// What the bodies see of the threads inside one large system and of its neighbour lists: both are the launcher's.
#pragma once

#include <cstdint>

#include "common/macros.h"

namespace gm {

// Runs task(context, index, worker) for each index below `tasks` and returns when all are done; no two at a time have
// one worker. Without `share` a system has one thread.
struct Crew {
    using Task = void (*)(const void* context, int64_t index, int64_t worker);
    void* self = nullptr;
    void (*share)(void* self, int64_t tasks, Task task, const void* context) = nullptr;
};

}  // namespace gm

GM_NAMESPACE_BEGIN

// f(index, worker) for each index below `tasks`, which may not care for their order.
template <class F>
inline void shared(const Crew& crew, int64_t tasks, const F& f) {
    if (crew.share == nullptr || tasks < 2) {
        for (int64_t i = 0; i < tasks; ++i) f(i, int64_t{0});
        return;
    }
    crew.share(
        crew.self, tasks,
        [](const void* context, int64_t index, int64_t worker) { (*static_cast<const F*>(context))(index, worker); },
        &f);
}

GM_NAMESPACE_END

namespace gm {

// Lists of one system's atoms, in tiles of sixteen: number n of atom i is tiles[i / 16][16 * n + i % 16], for n below
// lengths[i / 16]. An atom's neighbours rise, and then it is itself, up to the tile's length. They hold every pair
// within the cutoffs until an atom is further than the root of `most` from where it was `listed`.
template <class R>
struct Neighbors {
    void* self = nullptr;
    bool (*list)(Neighbors& own, const R* x) = nullptr;  // x [D][stride]; false where there is no use in lists
    const int32_t* const* tiles = nullptr;
    const int64_t* lengths = nullptr;
    R* listed = nullptr;   // [D][stride]
    R *packed, *packed_u;  // [count, 4] each: room for the sweep's own copies
    R most = R(-1);        // below 0: there are no lists yet
};

}  // namespace gm
