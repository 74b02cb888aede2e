// Which instruction set the bodies run on: detected once, overridden by the environment variable GMKERN_ISA.
//
// A body exports its function under a name of its own (no overloads), declared for every set with GM_DECLARE_ISA and
// called with GM_CALL_ISA:
//
//     GM_DECLARE_ISA(void, knn_rows, (const KnnArgs&));     // in <op>.h or <op>_cpu.cpp, inside namespace gm
//     const auto body = GM_CALL_ISA(knn_rows);              // gm::avx512::knn_rows, gm::avx2::knn_rows, ...
//
// The first call of isa() may throw, and a thread may not: take the pointer before parallel_for.
#pragma once

namespace gm {

enum class Isa : int { baseline = 0, avx2 = 1, avx512 = 2 };

// The set in use. Throws std::runtime_error where GMKERN_ISA names no set, or one that this processor lacks.
Isa isa();
// The best set that this processor has.
Isa best_isa();
const char* isa_name(Isa);

}  // namespace gm

#if defined(GM_HAVE_X86_ISAS)
#define GM_DECLARE_ISA(RET, NAME, ARGS) \
    namespace avx512 {                  \
    RET NAME ARGS;                      \
    }                                   \
    namespace avx2 {                    \
    RET NAME ARGS;                      \
    }                                   \
    namespace baseline {                \
    RET NAME ARGS;                      \
    }
#define GM_CALL_ISA(NAME)                                   \
    (::gm::isa() == ::gm::Isa::avx512 ? &::gm::avx512::NAME \
     : ::gm::isa() == ::gm::Isa::avx2 ? &::gm::avx2::NAME   \
                                      : &::gm::baseline::NAME)
#else
#define GM_DECLARE_ISA(RET, NAME, ARGS) \
    namespace baseline {                \
    RET NAME ARGS;                      \
    }
#define GM_CALL_ISA(NAME) (&::gm::baseline::NAME)
#endif
