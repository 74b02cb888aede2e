// What the launchers of every dynamics op check alike.
#pragma once

#include <vector>

#include "common/check.h"
#include "dynamics/dynamics.h"
#include "dynamics/field.h"

namespace gm {

// A potential and the boxes, as the ops take them.
struct Potential {
    const Tensor& types;
    const std::vector<int64_t>&kinds, &sizes;
    const Tensor &parameters, &cell, &inverse;
};

// Shapes alone: for a launcher that cannot read the tensors' values. Gives how many types there are.
inline int64_t check_batch_shapes(const Tensor& positions, const Tensor& system_ptr, const Potential& p) {
    const auto dtype = positions.scalar_type();
    GM_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double, "positions: got dtype ",
             torch::headeronly::toString(dtype), "; takes Float or Double");
    check_dim("positions", positions, 2);
    check_dim("system_ptr", system_ptr, 1);
    check_dtype("system_ptr", system_ptr, ScalarType::Long);
    GM_CHECK(system_ptr.size(0) >= 1, "system_ptr: got shape [0]; takes S + 1 offsets");
    const int64_t dim = positions.size(1), systems = system_ptr.size(0) - 1;
    check_dim("types", p.types, 1);
    check_dtype("types", p.types, ScalarType::Long);
    GM_CHECK(p.types.size(0) == 0 || p.types.size(0) == positions.size(0), "types: got shape ", shape_text(p.types),
             "; takes [0] or [", positions.size(0), "]");
    check_dim("parameters", p.parameters, 1);
    check_dtype("parameters", p.parameters, ScalarType::Double);
    GM_CHECK(p.kinds.size() <= static_cast<size_t>(kMostTerms), "kinds: got ", p.kinds.size(), " terms; takes up to ",
             kMostTerms);
    GM_CHECK(p.sizes.size() == p.kinds.size(), "sizes: got ", p.sizes.size(), "; takes one a kind, ", p.kinds.size());
    int64_t wanted = 0, types = 1;
    for (size_t t = 0; t < p.kinds.size(); ++t) {
        const int64_t kind = p.kinds[t], size = p.sizes[t];
        GM_CHECK(kind >= 0 && kind < kKinds, "kinds: got ", kind, "; takes 0 to ", kKinds - 1);
        GM_CHECK(kind == kHarmonic || dim == 2 || dim == 3, "positions: got dimension ", dim,
                 "; terms between atoms take 2 or 3");
        GM_CHECK((kind == kNodes) == (t > 0 && p.kinds[t - 1] == kLearned),
                 "kinds: takes nodes after each learnt term");
        GM_CHECK(kind != kLearned || t + 1 < p.kinds.size(), "kinds: takes nodes after each learnt term");
        if (kind == kNodes) {
            GM_CHECK(size >= 6 && size % 6 == 0 && size < kMostNodes, "sizes: got ", size, " nodes; takes six numbers ",
                     "an interval, fewer than 2^24");
            wanted += size;
            continue;
        }
        int64_t own = 1;
        const int64_t each = is_pair(kind) ? kPairParameters : kind == kBonds ? kBondParameters : 1 + dim;
        if (is_pair(kind))
            while (own < kMostTypes && own * own * each < size) ++own;
        else if (kind == kHarmonic)
            own = size / each;
        const int64_t full = is_pair(kind) ? own * own * each : kind == kBonds ? size / each * each : own * each;
        GM_CHECK(size == full && size >= 0 && own >= 1 && own <= kMostTypes, "sizes: got ", size, " for kind ", kind,
                 "; takes ", each, " numbers for each ",
                 is_pair(kind)    ? "pair of types"
                 : kind == kBonds ? "bond"
                                  : "type",
                 ", of up to ", kMostTypes, " types");
        GM_CHECK(own == 1 || types == 1 || own == types, "sizes: got terms of ", types, " and of ", own, " types");
        types = own > types ? own : types;
        wanted += size;
    }
    GM_CHECK(types == 1 || p.types.size(0) == positions.size(0), "types: got none; the terms take ", types, " types");
    check_size("parameters", p.parameters, 0, wanted);
    for (const auto* box : {&p.cell, &p.inverse}) {
        const char* name = box == &p.cell ? "cell" : "inverse";
        check_dim(name, *box, 3);
        check_dtype(name, *box, ScalarType::Double);
        const int64_t boxes = box->size(0);
        GM_CHECK(boxes == 0 || boxes == 1 || boxes == systems, name, ": got shape ", shape_text(*box),
                 "; takes 0, 1 or ", systems, " boxes");
        check_size(name, *box, 1, dim);
        check_size(name, *box, 2, dim);
    }
    check_size("inverse", p.inverse, 0, p.cell.size(0));
    return types;
}

struct Batch {
    FieldArgs field;
    const int64_t* ptr;
    int64_t systems, atoms, largest;
};
inline Batch check_batch(const Tensor& positions, const Tensor& system_ptr, const Potential& p) {
    Batch b;
    b.field.type_count = check_batch_shapes(positions, system_ptr, p);
    check_contiguous_cpu("positions", positions);
    check_contiguous_cpu("system_ptr", system_ptr);
    check_contiguous_cpu("types", p.types);
    check_contiguous_cpu("parameters", p.parameters);
    check_contiguous_cpu("cell", p.cell);
    check_contiguous_cpu("inverse", p.inverse);
    b.field.dim = positions.size(1);
    b.field.terms = static_cast<int64_t>(p.kinds.size());
    b.field.kinds = p.kinds.data();
    b.field.sizes = p.sizes.data();
    b.field.parameters = p.parameters.const_data_ptr<double>();
    b.field.parameter_count = p.parameters.size(0);
    b.field.types = p.types.const_data_ptr<int64_t>();
    b.field.boxes = p.cell.size(0);
    b.field.cell = p.cell.const_data_ptr<double>();
    b.field.inverse = p.inverse.const_data_ptr<double>();
    b.ptr = system_ptr.const_data_ptr<int64_t>();
    b.systems = system_ptr.size(0) - 1;
    b.atoms = positions.size(0);
    b.largest = 0;
    GM_CHECK(b.ptr[0] == 0 && b.ptr[b.systems] == b.atoms, "system_ptr: got ", b.ptr[0], " to ", b.ptr[b.systems],
             "; takes 0 to ", b.atoms);
    int64_t smallest = b.atoms;
    for (int64_t s = 0; s < b.systems; ++s) {
        const int64_t size = b.ptr[s + 1] - b.ptr[s];
        GM_CHECK(size >= 0, "system_ptr: falls after entry ", s, "; takes offsets that rise");
        if (size > b.largest) b.largest = size;
        if (size < smallest) smallest = size;
    }
    if (b.field.type_count > 1)
        for (int64_t i = 0; i < b.atoms; ++i)
            GM_CHECK(b.field.types[i] >= 0 && b.field.types[i] < b.field.type_count, "types: got ", b.field.types[i],
                     "; takes 0 to ", b.field.type_count - 1);
    b.field.pair_terms = b.field.node_count = 0;
    const double* q = b.field.parameters;
    for (size_t t = 0; t < p.kinds.size(); q += p.sizes[t++]) {
        b.field.pair_terms += is_pair(p.kinds[t]);
        if (p.kinds[t] == kNodes) b.field.node_count += p.sizes[t];
        if (p.kinds[t] == kLearned)
            for (const double* own = q; own < q + p.sizes[t]; own += kPairParameters) {
                const auto nodes = static_cast<double>(p.sizes[t + 1]);
                GM_CHECK(own[0] >= 0.0 && own[0] < nodes &&
                             own[0] == static_cast<double>(static_cast<int64_t>(own[0])) && own[1] >= 1.0 &&
                             own[0] + 6.0 * own[1] <= nodes,
                         "parameters: got a spline from ", own[0], " of ", own[1], " intervals; takes one within ",
                         nodes, " nodes");
            }
        if (p.kinds[t] != kBonds || b.systems == 0) continue;
        for (int64_t at = 0; at < p.sizes[t]; at += kBondParameters)
            for (int64_t end = at; end < at + 2; ++end)
                GM_CHECK(q[end] >= 0.0 && q[end] < static_cast<double>(smallest), "parameters: got a bond with atom ",
                         q[end], "; takes 0 to ", smallest - 1, ", the atoms of the smallest system");
    }
    return b;
}
inline void check_like_positions(const char* name, const Tensor& t, const Tensor& positions) {
    check_dtype(name, t, positions.scalar_type());
    check_dim(name, t, 2);
    check_size(name, t, 0, positions.size(0));
    check_size(name, t, 1, positions.size(1));
    GM_CHECK(t.is_contiguous(), name, ": takes a contiguous tensor");
}

// [1 | steps, 1 | systems, 5]
inline void check_coefficients(const Tensor& coefficients, int64_t systems, int64_t steps) {
    check_dim("coefficients", coefficients, 3);
    check_dtype("coefficients", coefficients, ScalarType::Double);
    check_size("coefficients", coefficients, 2, kCoefficients);
    const int64_t rows = coefficients.size(0), columns = coefficients.size(1);
    GM_CHECK((rows == 1 || (rows == steps && steps > 0)) && (columns == 1 || columns == systems),
             "coefficients: got shape ", shape_text(coefficients), "; takes 1 or ", steps, " steps of 1 or ", systems,
             " systems");
}

inline void check_trajectory(const Tensor& positions, const Tensor& velocities, const Tensor& inverse_masses,
                             int64_t systems, int64_t integrator, const Tensor& coefficients, const Tensor& sample_ids,
                             const Tensor& step, int64_t steps, int64_t record_every, int64_t phase) {
    check_like_positions("velocities", velocities, positions);
    check_dim("inverse_masses", inverse_masses, 1);
    check_dtype("inverse_masses", inverse_masses, positions.scalar_type());
    check_size("inverse_masses", inverse_masses, 0, positions.size(0));
    GM_CHECK(integrator >= 0 && integrator <= 4, "integrator: got ", integrator, "; takes 0 to 4");
    check_coefficients(coefficients, systems, steps);
    check_dim("sample_ids", sample_ids, 1);
    check_dtype("sample_ids", sample_ids, ScalarType::Long);
    check_size("sample_ids", sample_ids, 0, systems);
    check_dtype("step", step, ScalarType::Long);
    GM_CHECK(step.numel() == 1, "step: got shape ", shape_text(step), "; takes one value");
    GM_CHECK(steps >= 0 && record_every >= 0 && phase >= 0, "steps, record_every, phase: got ", steps, ", ",
             record_every, ", ", phase, "; takes numbers >= 0");
}

inline void check_log_probs(const Tensor& log_probs, int64_t systems, int64_t integrator) {
    check_dim("log_probs", log_probs, 2);
    check_dtype("log_probs", log_probs, ScalarType::Double);
    check_size("log_probs", log_probs, 0, 2);
    GM_CHECK(log_probs.size(1) == 0 || log_probs.size(1) == systems, "log_probs: got shape ", shape_text(log_probs),
             "; takes [2, 0] or [2, ", systems, "]");
    GM_CHECK(log_probs.numel() == 0 || integrator == 1 || integrator == 2, "log_probs: got some with integrator ",
             integrator, "; takes them with 1 or 2");
}

inline void check_backward(int64_t backward, const Tensor& pin, const Tensor& positions) {
    GM_CHECK(backward >= 0 && backward <= 3, "backward: got ", backward, "; takes 0 to 3");
    check_dtype("pin", pin, positions.scalar_type());
    check_dim("pin", pin, 2);
    check_size("pin", pin, 0, backward == 3 ? positions.size(0) : 0);
    check_size("pin", pin, 1, positions.size(1));
    GM_CHECK(pin.is_contiguous(), "pin: takes a contiguous tensor");
}

// How many of the next `steps` steps are recorded.
inline int64_t recorded(int64_t steps, int64_t record_every, int64_t phase) {
    return record_every == 0 ? 0 : (phase + steps) / record_every - phase / record_every;
}

}  // namespace gm
