// One layer of an equivariant graph network and its adjoint: packs the weights, hands atoms (forward) or systems
// (backward) to threads, and sums the gradients of the weights over groups of systems in their order.
#include <algorithm>
#include <cmath>
#include <limits>
#include <torch/csrc/stable/library.h>
#include <tuple>
#include <vector>

#include "common/check.h"
#include "common/new_tensor.h"
#include "common/parallel.h"
#include "dynamics/egnn.h"

namespace gm {
namespace {

constexpr int64_t kGroups = 64;  // of systems, each with a gradient of the weights of its own

// Where a matrix or a vector lies in `weights`: entry [o, i] at offset + o * stride + i.
struct Place {
    int64_t offset, stride;
};
struct Layout {
    Place matrices[kEgnnMatrices], vectors[kEgnnVectors];  // vectors: entry [o] at offset + o * stride
    int64_t size;
};
Layout layout(int64_t h, bool moves) {
    Layout l{};
    int64_t at = 0;
    const auto block = [&](int64_t rows, int64_t columns) {
        const int64_t begin = at;
        at += rows * columns;
        return begin;
    };
    const int64_t first = block(h, 2 * h + 1);
    l.matrices[kFromI] = {first, 2 * h + 1};
    l.matrices[kFromJ] = {first + h, 2 * h + 1};
    l.vectors[kFromSquare] = {first + 2 * h, 2 * h + 1};
    l.vectors[kFirstBias] = {block(h, 1), 1};
    l.matrices[kMessage] = {block(h, h), h};
    l.vectors[kMessageBias] = {block(h, 1), 1};
    const int64_t update = block(h, 2 * h);
    l.matrices[kUpdateH] = {update, 2 * h};
    l.matrices[kUpdateM] = {update + h, 2 * h};
    l.vectors[kUpdateBias] = {block(h, 1), 1};
    l.matrices[kUpdateOut] = {block(h, h), h};
    l.vectors[kOutBias] = {block(h, 1), 1};
    if (moves) {
        l.matrices[kMove] = {block(h, h), h};
        l.vectors[kMoveBias] = {block(h, 1), 1};
        l.vectors[kMoveOut] = {block(h, 1), 1};
    }
    l.size = at;
    return l;
}
constexpr bool is_of_moves(EgnnMatrix m) { return m == kMove; }
constexpr bool is_of_moves(EgnnVector v) { return v == kMoveBias || v == kMoveOut; }

template <class R>
struct Packed {
    std::vector<R> room;
    EgnnWeights<R> weights{};

    Packed(const R* from, int64_t h, int64_t padded, bool moves, bool backward) {
        const Layout l = layout(h, moves);
        const int64_t square = padded * padded;
        room.assign(static_cast<size_t>((backward ? 2 : 1) * kEgnnMatrices * square + kEgnnVectors * padded), R(0));
        weights.padded = padded;
        weights.moves = moves;
        R* at = room.data();
        for (int64_t k = 0; k < kEgnnMatrices; ++k) {
            const bool there = moves || !is_of_moves(static_cast<EgnnMatrix>(k));
            const Place p = l.matrices[k];
            for (const bool transposed : {true, false}) {
                if (!transposed && !backward) continue;
                (transposed ? weights.forward : weights.backward)[k] = at;
                for (int64_t o = 0; there && o < h; ++o)
                    for (int64_t i = 0; i < h; ++i)
                        at[transposed ? i * padded + o : o * padded + i] = from[p.offset + o * p.stride + i];
                at += square;
            }
        }
        for (int64_t k = 0; k < kEgnnVectors; ++k, at += padded) {
            weights.vectors[k] = at;
            if (!moves && is_of_moves(static_cast<EgnnVector>(k))) continue;
            for (int64_t o = 0; o < h; ++o) at[o] = from[l.vectors[k].offset + o * l.vectors[k].stride];
        }
    }
};

// The checked arguments of a call.
struct Layer {
    int64_t atoms, dim, width, padded, systems, largest;
    bool moves;
    std::vector<int64_t> system_of;
};
Layer check_layer(const Tensor& positions, const Tensor& features, const Tensor& weights, const Tensor& system_ptr,
                  const Tensor& cell, const Tensor& inverse, bool moves, double cutoff, double neighbors) {
    const auto dtype = positions.scalar_type();
    GM_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double, "positions: got dtype ",
             torch::headeronly::toString(dtype), "; takes Float or Double");
    check_dim("positions", positions, 2);
    check_dim("features", features, 2);
    check_dim("weights", weights, 1);
    check_dim("system_ptr", system_ptr, 1);
    check_dtype("features", features, dtype);
    check_dtype("weights", weights, dtype);
    check_dtype("system_ptr", system_ptr, ScalarType::Long);
    for (const auto& [name, t] :
         {std::pair("positions", &positions), std::pair("features", &features), std::pair("weights", &weights),
          std::pair("system_ptr", &system_ptr), std::pair("cell", &cell), std::pair("inverse", &inverse)})
        check_contiguous_cpu(name, *t);
    Layer l{positions.size(0),
            positions.size(1),
            features.size(1),
            (features.size(1) + 15) / 16 * 16,
            system_ptr.size(0) - 1,
            0,
            moves,
            {}};
    check_size("features", features, 0, l.atoms);
    GM_CHECK(l.dim >= 1 && l.dim <= kEgnnMostDim, "positions: got dimension ", l.dim, "; takes 1 to ", kEgnnMostDim);
    GM_CHECK(l.width >= 1, "features: got shape ", shape_text(features), "; takes at least one feature");
    check_size("weights", weights, 0, layout(l.width, moves).size);
    GM_CHECK(cutoff > 0.0, "cutoff: got ", cutoff, "; takes a number above 0");
    GM_CHECK(neighbors > 0.0, "neighbors: got ", neighbors, "; takes a number above 0");
    for (const auto& [name, box] : {std::pair("cell", &cell), std::pair("inverse", &inverse)}) {
        check_dim(name, *box, 3);
        check_dtype(name, *box, ScalarType::Double);
        const int64_t boxes = box->size(0);
        GM_CHECK(boxes == 0 || boxes == 1 || boxes == l.systems, name, ": got shape ", shape_text(*box),
                 "; takes 0, 1 or ", l.systems, " boxes");
        check_size(name, *box, 1, l.dim);
        check_size(name, *box, 2, l.dim);
    }
    check_size("inverse", inverse, 0, cell.size(0));
    GM_CHECK(l.systems >= 0, "system_ptr: got shape [0]; takes S + 1 offsets");
    const int64_t* ptr = system_ptr.const_data_ptr<int64_t>();
    GM_CHECK(ptr[0] == 0 && ptr[l.systems] == l.atoms, "system_ptr: got ", ptr[0], " to ", ptr[l.systems],
             "; takes 0 to ", l.atoms);
    for (int64_t s = 0; s < l.systems; ++s) {
        GM_CHECK(ptr[s + 1] >= ptr[s], "system_ptr: falls after entry ", s, "; takes offsets that rise");
        l.largest = std::max(l.largest, ptr[s + 1] - ptr[s]);
    }
    l.system_of.resize(static_cast<size_t>(l.atoms));
    for (int64_t s = 0; s < l.systems; ++s)
        std::fill(l.system_of.begin() + ptr[s], l.system_of.begin() + ptr[s + 1], s);
    return l;
}

// [M, P] of [M, H], the features beyond H being 0.
template <class R>
std::vector<R> padded_rows(const R* from, const Layer& l) {
    std::vector<R> to(static_cast<size_t>(l.atoms * l.padded), R(0));
    for (int64_t i = 0; i < l.atoms; ++i) std::copy_n(from + i * l.width, l.width, to.data() + i * l.padded);
    return to;
}
template <class R>
void unpadded_rows(const std::vector<R>& from, const Layer& l, R* to) {
    for (int64_t i = 0; i < l.atoms; ++i) std::copy_n(from.data() + i * l.padded, l.width, to + i * l.width);
}

template <class R>
struct Calls;
template <>
struct Calls<float> {
    decltype(&baseline::egnn_project_fp32) project = GM_CALL_ISA(egnn_project_fp32);
    decltype(&baseline::egnn_forward_fp32) forward = GM_CALL_ISA(egnn_forward_fp32);
    decltype(&baseline::egnn_backward_fp32) backward = GM_CALL_ISA(egnn_backward_fp32);
};
template <>
struct Calls<double> {
    decltype(&baseline::egnn_project_fp64) project = GM_CALL_ISA(egnn_project_fp64);
    decltype(&baseline::egnn_forward_fp64) forward = GM_CALL_ISA(egnn_forward_fp64);
    decltype(&baseline::egnn_backward_fp64) backward = GM_CALL_ISA(egnn_backward_fp64);
};

// A call made ready: padded features, their first products, and what every body reads.
template <class R>
struct Ready {
    Calls<R> calls;
    Packed<R> packed;
    std::vector<R> features, from_i, from_j;
    EgnnBatch<R> batch;

    Ready(const Layer& l, const Tensor& positions, const Tensor& h, const Tensor& weights, const Tensor& system_ptr,
          const Tensor& cell, const Tensor& inverse, double cutoff, double neighbors, bool backward)
        : packed(weights.const_data_ptr<R>(), l.width, l.padded, l.moves, backward),
          features(padded_rows(h.const_data_ptr<R>(), l)),
          from_i(features.size()),
          from_j(features.size()) {
        parallel_for(0, l.atoms, 64, [&](int64_t first, int64_t last) {
            const int64_t at = first * l.padded;
            calls.project(packed.weights, features.data() + at, last - first, from_i.data() + at, from_j.data() + at);
        });
        batch = {l.dim,
                 cell.size(0),
                 positions.const_data_ptr<R>(),
                 l.system_of.data(),
                 system_ptr.const_data_ptr<int64_t>(),
                 cell.const_data_ptr<double>(),
                 inverse.const_data_ptr<double>(),
                 static_cast<R>(cutoff * cutoff),
                 static_cast<R>(1.0 / neighbors),
                 features.data(),
                 from_i.data(),
                 from_j.data()};
    }
};

template <class R>
void run(const Layer& l, const Ready<R>& ready, Tensor& positions, Tensor& features, Tensor& sums) {
    std::vector<R> to(ready.features.size()), summed(ready.features.size());
    const EgnnForward<R> out{positions.mutable_data_ptr<R>(), to.data(), summed.data()};
    const int64_t units = (l.atoms + kEgnnRows - 1) / kEgnnRows;
    parallel_for(0, units, 1, [&](int64_t first, int64_t last) {
        std::vector<R> scratch(static_cast<size_t>(egnn_scratch(l.padded, l.dim, 0)));
        for (int64_t unit = first; unit < last; ++unit)
            ready.calls.forward(ready.packed.weights, ready.batch, unit * kEgnnRows,
                                std::min(l.atoms, (unit + 1) * kEgnnRows), out, scratch.data());
    });
    unpadded_rows(to, l, features.mutable_data_ptr<R>());
    unpadded_rows(summed, l, sums.mutable_data_ptr<R>());
}

template <class R>
void run_backward(const Layer& l, const Ready<R>& ready, const Tensor& sums, const Tensor& by_positions,
                  const Tensor& by_features, Tensor& positions, Tensor& features, Tensor& weights) {
    const std::vector<R> summed = padded_rows(sums.const_data_ptr<R>(), l),
                         by = padded_rows(by_features.const_data_ptr<R>(), l);
    std::vector<R> to(ready.features.size());
    const bool wanted = weights.numel() > 0;
    const int64_t groups = std::min(kGroups, l.systems), each = (kEgnnMatrices * l.padded + kEgnnVectors) * l.padded;
    std::vector<R> slopes(static_cast<size_t>(wanted ? groups * each : 0), R(0));
    parallel_for(0, groups, 1, [&](int64_t first, int64_t last) {
        std::vector<R> scratch(static_cast<size_t>(egnn_scratch(l.padded, l.dim, l.largest)));
        for (int64_t group = first; group < last; ++group) {
            const EgnnBackward<R> out{summed.data(), by_positions.const_data_ptr<R>(),
                                      by.data(),     positions.mutable_data_ptr<R>(),
                                      to.data(),     wanted ? slopes.data() + group * each : nullptr};
            for (int64_t s = l.systems * group / groups; s < l.systems * (group + 1) / groups; ++s)
                ready.calls.backward(ready.packed.weights, ready.batch, s, out, scratch.data());
        }
    });
    unpadded_rows(to, l, features.mutable_data_ptr<R>());
    if (!wanted) return;
    const Layout places = layout(l.width, l.moves);
    R* out = weights.mutable_data_ptr<R>();
    const auto total = [&](int64_t at) {
        double sum = 0.0;
        for (int64_t group = 0; group < groups; ++group) sum += static_cast<double>(slopes[group * each + at]);
        return static_cast<R>(sum);
    };
    for (int64_t k = 0; k < kEgnnMatrices; ++k) {
        if (!l.moves && is_of_moves(static_cast<EgnnMatrix>(k))) continue;
        for (int64_t o = 0; o < l.width; ++o)
            for (int64_t i = 0; i < l.width; ++i)
                out[places.matrices[k].offset + o * places.matrices[k].stride + i] =
                    total((k * l.padded + o) * l.padded + i);
    }
    for (int64_t k = 0; k < kEgnnVectors; ++k) {
        if (!l.moves && is_of_moves(static_cast<EgnnVector>(k))) continue;
        for (int64_t o = 0; o < l.width; ++o)
            out[places.vectors[k].offset + o * places.vectors[k].stride] =
                total((kEgnnMatrices * l.padded + k) * l.padded + o);
    }
}

template <class R>
std::tuple<Tensor, Tensor, Tensor> forward_of(const Layer& l, const Tensor& positions, const Tensor& features,
                                              const Tensor& weights, const Tensor& system_ptr, const Tensor& cell,
                                              const Tensor& inverse, double cutoff, double neighbors) {
    Tensor x = new_tensor_like(positions), h = new_tensor_like(features), sums = new_tensor_like(features);
    const Ready<R> ready(l, positions, features, weights, system_ptr, cell, inverse, cutoff, neighbors, false);
    run<R>(l, ready, x, h, sums);
    return {x, h, sums};
}

std::tuple<Tensor, Tensor, Tensor> egnn_layer(const Tensor& positions, const Tensor& features, const Tensor& weights,
                                              const Tensor& system_ptr, const Tensor& cell, const Tensor& inverse,
                                              bool moves, double cutoff, double neighbors) {
    const Layer l = check_layer(positions, features, weights, system_ptr, cell, inverse, moves, cutoff, neighbors);
    const auto run = positions.scalar_type() == ScalarType::Double ? &forward_of<double> : &forward_of<float>;
    return run(l, positions, features, weights, system_ptr, cell, inverse, cutoff, neighbors);
}

std::tuple<Tensor, Tensor, Tensor> egnn_layer_backward(const Tensor& positions, const Tensor& features,
                                                       const Tensor& weights, const Tensor& system_ptr,
                                                       const Tensor& cell, const Tensor& inverse, bool moves,
                                                       double cutoff, double neighbors, const Tensor& sums,
                                                       const Tensor& grad_positions, const Tensor& grad_features,
                                                       bool with_weights) {
    const Layer l = check_layer(positions, features, weights, system_ptr, cell, inverse, moves, cutoff, neighbors);
    for (const auto& [name, t, columns] :
         {std::tuple("sums", &sums, l.width), std::tuple("grad_positions", &grad_positions, l.dim),
          std::tuple("grad_features", &grad_features, l.width)}) {
        check_dim(name, *t, 2);
        check_dtype(name, *t, positions.scalar_type());
        check_contiguous_cpu(name, *t);
        check_size(name, *t, 0, l.atoms);
        check_size(name, *t, 1, columns);
    }
    Tensor x = new_tensor_like(positions), h = new_tensor_like(features);
    Tensor w = new_tensor({with_weights ? weights.size(0) : 0}, positions.scalar_type());
    const auto run = [&](auto zero) {
        using R = decltype(zero);
        const Ready<R> ready(l, positions, features, weights, system_ptr, cell, inverse, cutoff, neighbors, true);
        run_backward<R>(l, ready, sums, grad_positions, grad_features, x, h, w);
    };
    positions.scalar_type() == ScalarType::Double ? run(0.0) : run(0.0f);
    return {x, h, w};
}

}  // namespace
}  // namespace gm

STABLE_TORCH_LIBRARY_IMPL(gmkern, CPU, m) {
    m.impl("egnn_layer", TORCH_BOX(&gm::egnn_layer));
    m.impl("egnn_layer_backward", TORCH_BOX(&gm::egnn_layer_backward));
}
