// Makes what the dynamics kernels read of a potential: csrc/dynamics/field_cuda.h.
#include "dynamics/field_cuda.h"

#include "dynamics/launch_cuda.h"

namespace gm {
namespace {

constexpr int kThreads = 256;

template <class R>
__device__ PairTerm<R> no_term(int32_t kind) {
    PairTerm<R> p = {};
    p.kind = kind;
    p.exponent = 4;
    for (int k = 0; k < kPairParameters; ++k) p.p[k] = static_cast<R>(__builtin_nan(""));
    if (kind == kLearned) p.p[0] = R(0);  // there is a first interval
    return p;
}
// q: the place of its first coefficient and the number of intervals, among `nodes` coefficients.
__device__ inline bool spline_fits(const double* q, double nodes) {
    return q[0] >= 0.0 && q[0] < nodes && q[0] == static_cast<double>(static_cast<int64_t>(q[0])) && q[1] >= 1.0 &&
           q[0] + 6.0 * q[1] <= nodes;
}
__device__ inline int32_t atom_of(double number) {
    return number >= 0.0 && number < 2147483647.0 ? static_cast<int32_t>(number) : -1;
}

template <class R>
__global__ void __launch_bounds__(kThreads) prepare(const CudaField f) {
    const int64_t me = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    const int64_t all = static_cast<int64_t>(gridDim.x) * blockDim.x;
    const double* q = f.parameters;
    for (int t = 0; t < f.terms; q += f.sizes[t++]) {
        const int32_t kind = f.kinds[t];
        char* to = f.ready + f.at[t];
        if (is_pair(kind)) {
            const int64_t side = f.side(t), types = side == 1 ? 1 : f.type_count;
            for (int64_t i = me; i < side * side; i += all) {
                const int64_t a = i / side, b = i % side;
                const double* own = q + (a * types + b) * kPairParameters;
                bool there = a < types && b < types;
                if (there && kind == kLearned) there = spline_fits(own, static_cast<double>(f.sizes[t + 1]));
                reinterpret_cast<PairTerm<R>*>(to)[i] = there ? pair_term<R>(kind, own) : no_term<R>(kind);
            }
        } else if (kind == kBonds) {
            for (int64_t i = me; i < f.sizes[t] / kBondParameters; i += all)
                reinterpret_cast<BondEnds*>(to)[i] = {atom_of(q[i * kBondParameters]),
                                                      atom_of(q[i * kBondParameters + 1])};
        } else if (kind == kNodes) {
            for (int64_t i = me; i < f.sizes[t]; i += all) reinterpret_cast<R*>(to)[i] = static_cast<R>(q[i]);
        }
    }
    if (f.type_count == 1) return;
    int32_t* to = reinterpret_cast<int32_t*>(f.ready + f.types_at);
    for (int64_t i = me; i < f.atoms; i += all) {
        const bool there = f.types[i] >= 0 && f.types[i] < f.type_count;
        to[i] = static_cast<int32_t>(there ? f.types[i] : f.type_count);
    }
}

}  // namespace

const char* prepare_field(const CudaField& f, bool fp64, int device, void* stream) {
    const OnDevice here(device);
    if (here.status() != cudaSuccess) return message(here.status());
    int64_t most = f.type_count > 1 ? f.atoms : 1;
    for (int t = 0; t < f.terms; ++t) most = f.sizes[t] > most ? f.sizes[t] : most;
    const int64_t blocks = (most + kThreads - 1) / kThreads;
    return message(fp64 ? launch(prepare<double>, blocks < 512 ? blocks : 512, kThreads, 0, stream, f)
                        : launch(prepare<float>, blocks < 512 ? blocks : 512, kThreads, 0, stream, f));
}

}  // namespace gm
