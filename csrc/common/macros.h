// Names that every translation unit shares: host/device functions and the namespace of the instruction set.
//
// A body file is compiled once per instruction set with GM_ISA defined. Everything it includes from csrc/common is
// then in namespace gm::<isa>, so that no inline function or template is shared between files built with different
// -m flags: the linker would keep one copy, perhaps the AVX-512 one, for all of them.
#pragma once

#if defined(__CUDACC__)
#define GM_HD __host__ __device__ __forceinline__
#else
#define GM_HD inline __attribute__((always_inline))
#endif

#if !defined(GM_ISA)
#define GM_ISA plain
#endif

#define GM_NAMESPACE_BEGIN \
    namespace gm {         \
    inline namespace GM_ISA {
#define GM_NAMESPACE_END \
    }                    \
    }
