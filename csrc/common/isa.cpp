#include "common/isa.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace gm {

Isa best_isa() {
#if defined(GM_HAVE_X86_ISAS)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("fma") &&
        __builtin_cpu_supports("bmi2"))
        return Isa::avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2"))
        return Isa::avx2;
#endif
    return Isa::baseline;
}

namespace {

Isa detect() {
    const Isa best = best_isa();
    const char* wanted = std::getenv("GMKERN_ISA");
    if (wanted == nullptr || *wanted == '\0') return best;
    for (const Isa isa : {Isa::baseline, Isa::avx2, Isa::avx512}) {
        if (std::string(wanted) != isa_name(isa)) continue;
        if (isa > best)
            throw std::runtime_error(std::string("GMKERN_ISA: got ") + wanted +
                                     ", which this processor lacks; takes up to " + isa_name(best));
        return isa;
    }
    throw std::runtime_error(std::string("GMKERN_ISA: got ") + wanted + "; takes baseline, avx2 or avx512");
}

}  // namespace

const char* isa_name(Isa isa) {
    switch (isa) {
        case Isa::avx512:
            return "avx512";
        case Isa::avx2:
            return "avx2";
        default:
            return "baseline";
    }
}

Isa isa() {
    static const Isa chosen = detect();
    return chosen;
}

}  // namespace gm
