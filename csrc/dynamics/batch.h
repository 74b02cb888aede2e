// What the launchers of every dynamics op check alike.
#pragma once

#include <vector>

#include "common/check.h"
#include "dynamics/dynamics.h"
#include "dynamics/field.h"

namespace gm {

// Shapes alone: for a launcher that cannot read the tensors' values.
inline void check_batch_shapes(const Tensor& positions, const Tensor& system_ptr, const std::vector<int64_t>& kinds,
                               const Tensor& parameters, const Tensor& cell, const Tensor& inverse) {
    const auto dtype = positions.scalar_type();
    GM_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double, "positions: got dtype ",
             torch::headeronly::toString(dtype), "; takes Float or Double");
    check_dim("positions", positions, 2);
    check_dim("system_ptr", system_ptr, 1);
    check_dtype("system_ptr", system_ptr, ScalarType::Long);
    GM_CHECK(system_ptr.size(0) >= 1, "system_ptr: got shape [0]; takes S + 1 offsets");
    const int64_t dim = positions.size(1), systems = system_ptr.size(0) - 1;
    check_dim("parameters", parameters, 1);
    check_dtype("parameters", parameters, ScalarType::Double);
    GM_CHECK(kinds.size() <= static_cast<size_t>(kMostTerms), "kinds: got ", kinds.size(), " terms; takes up to ",
             kMostTerms);
    int64_t wanted = 0;
    for (const int64_t kind : kinds) {
        GM_CHECK(kind == kLennardJones || kind == kHarmonic, "kinds: got ", kind, "; takes 0 or 1");
        GM_CHECK(kind == kHarmonic || dim == 2 || dim == 3, "positions: got dimension ", dim,
                 "; pair terms take 2 or 3");
        wanted += kind == kHarmonic ? 1 + dim : 4;
    }
    check_size("parameters", parameters, 0, wanted);
    for (const auto* box : {&cell, &inverse}) {
        const char* name = box == &cell ? "cell" : "inverse";
        check_dim(name, *box, 3);
        check_dtype(name, *box, ScalarType::Double);
        const int64_t boxes = box->size(0);
        GM_CHECK(boxes == 0 || boxes == 1 || boxes == systems, name, ": got shape ", shape_text(*box),
                 "; takes 0, 1 or ", systems, " boxes");
        check_size(name, *box, 1, dim);
        check_size(name, *box, 2, dim);
    }
    check_size("inverse", inverse, 0, cell.size(0));
}

struct Batch {
    FieldArgs field;
    const int64_t* ptr;
    int64_t systems, atoms, largest;
};
inline Batch check_batch(const Tensor& positions, const Tensor& system_ptr, const std::vector<int64_t>& kinds,
                         const Tensor& parameters, const Tensor& cell, const Tensor& inverse) {
    check_batch_shapes(positions, system_ptr, kinds, parameters, cell, inverse);
    check_contiguous_cpu("positions", positions);
    check_contiguous_cpu("system_ptr", system_ptr);
    check_contiguous_cpu("parameters", parameters);
    check_contiguous_cpu("cell", cell);
    check_contiguous_cpu("inverse", inverse);
    Batch b;
    b.field = {positions.size(1),
               static_cast<int64_t>(kinds.size()),
               kinds.data(),
               parameters.const_data_ptr<double>(),
               cell.size(0),
               cell.const_data_ptr<double>(),
               inverse.const_data_ptr<double>()};
    b.ptr = system_ptr.const_data_ptr<int64_t>();
    b.systems = system_ptr.size(0) - 1;
    b.atoms = positions.size(0);
    b.largest = 0;
    GM_CHECK(b.ptr[0] == 0 && b.ptr[b.systems] == b.atoms, "system_ptr: got ", b.ptr[0], " to ", b.ptr[b.systems],
             "; takes 0 to ", b.atoms);
    for (int64_t s = 0; s < b.systems; ++s) {
        const int64_t size = b.ptr[s + 1] - b.ptr[s];
        GM_CHECK(size >= 0, "system_ptr: falls after entry ", s, "; takes offsets that rise");
        if (size > b.largest) b.largest = size;
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
