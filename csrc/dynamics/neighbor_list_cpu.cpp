#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <tuple>
#include <vector>

#include "common/check.h"
#include "common/new_tensor.h"
#include "common/parallel.h"
#include "dynamics/cells.h"
#include "dynamics/rising.h"

namespace gm {
namespace {

constexpr int64_t kQueries = 512;  // of one task: a large system is many

struct Job {
    const int64_t* ptr;
    int64_t systems, atoms, dim;
    double cutoff;
    bool half;
    std::vector<Frame> frames;  // [1 | systems]
    const Frame& frame(int64_t s) const { return frames[frames.size() == 1 ? 0 : static_cast<size_t>(s)]; }
};

// Atom `to` of the system is within the cutoff, seen with that image.
struct Found {
    int32_t to, image[3];
};
// Queries begin, begin + 1, ... in the order of a system's cells: that at begin + n found [first[n], first[n + 1]), by
// rising atom and then by rising image.
struct Task {
    int64_t system, begin, end;
    std::vector<int64_t> first;
    std::vector<Found> found;
};

// The first 1 to 3 numbers; written out, since compilers make a call of memcpy of a loop.
template <class To, class From>
inline void copy_axes(const From* from, int64_t dim, To* to) {
    to[0] = static_cast<To>(from[0]);
    if (dim > 1) to[1] = static_cast<To>(from[1]);
    if (dim > 2) to[2] = static_cast<To>(from[2]);
}

// Puts what one query found in order. Images of one atom come by rising image already.
class Order {
 public:
    explicit Order(int64_t atoms) : rising_(atoms), place_(static_cast<size_t>(atoms)) {}

    void append(const std::vector<Found>& found, std::vector<Found>& to) {
        bool once = true;
        for (size_t n = 0; n < found.size(); ++n) {
            once &= rising_.add(found[n].to);
            place_[static_cast<size_t>(found[n].to)] = static_cast<int32_t>(n);
        }
        rising_.take([&](int32_t atom) {
            if (once) to.push_back(found[static_cast<size_t>(place_[static_cast<size_t>(atom)])]);
        });
        if (once) return;
        const size_t before = to.size();
        to.insert(to.end(), found.begin(), found.end());
        std::stable_sort(to.begin() + static_cast<std::ptrdiff_t>(before), to.end(),
                         [](const Found& a, const Found& b) { return a.to < b.to; });
    }

 private:
    Rising rising_;
    std::vector<int32_t> place_;
};

// Whether (i, j, image) is the one of a pair's two that a half list keeps.
bool in_half(int64_t i, int64_t j, const int32_t* image) {
    if (i != j) return i < j;
    for (int k = 0; k < 3; ++k)
        if (image[k] != 0) return image[k] > 0;
    return false;
}

void search(const Cells& cells, const Job& job, int64_t (*near_atoms)(const NearArgs&, Near*), Task& task) {
    std::vector<Segment> segments;
    std::vector<Near> near;
    std::vector<Found> found;
    Order order(job.ptr[task.system + 1] - job.ptr[task.system]);
    const double most = job.cutoff * job.cutoff;
    int64_t cell = -1;
    for (int64_t at = task.begin; at < task.end; ++at) {
        task.first.push_back(static_cast<int64_t>(task.found.size()));
        if (cells.cell_of(at) != cell) {
            cell = cells.cell_of(at);
            near.resize(static_cast<size_t>(cells.segments(cell, segments)));
        }
        NearArgs args = cells.near(at);
        args.segments = segments.data();
        args.count = static_cast<int64_t>(segments.size());
        const int64_t i = cells.atom(at), count = near_atoms(args, near.data());
        found.clear();
        for (int64_t n = 0; n < count; ++n) {
            const Near& one = near[static_cast<size_t>(n)];
            const int64_t j = cells.atom(one.at);
            Found f = {static_cast<int32_t>(j), {}};
            cells.image_seen(i, j, segments[static_cast<size_t>(one.segment)].image, f.image);
            double v[3];
            if (!(cells.vector(i, j, f.image, v) < most)) continue;
            if (i == j && f.image[0] == 0 && f.image[1] == 0 && f.image[2] == 0) continue;
            if (!job.half || in_half(i, j, f.image)) found.push_back(f);
        }
        order.append(found, task.found);
    }
    task.first.push_back(static_cast<int64_t>(task.found.size()));
}

Job check_job(const Tensor& positions, const Tensor& system_ptr, const Tensor& cell, const Tensor& fractions,
              const std::vector<int64_t>& repeats, double cutoff, bool half) {
    const auto dtype = positions.scalar_type();
    GM_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double, "positions: got dtype ",
             torch::headeronly::toString(dtype), "; takes Float or Double");
    check_dim("positions", positions, 2);
    check_contiguous_cpu("positions", positions);
    check_dim("system_ptr", system_ptr, 1);
    check_dtype("system_ptr", system_ptr, ScalarType::Long);
    check_contiguous_cpu("system_ptr", system_ptr);
    Job job = {system_ptr.const_data_ptr<int64_t>(),
               system_ptr.size(0) - 1,
               positions.size(0),
               positions.size(1),
               cutoff,
               half,
               {}};
    GM_CHECK(job.dim >= 1 && job.dim <= 3, "positions: got dimension ", job.dim, "; takes 1 to 3");
    GM_CHECK(cutoff > 0.0 && cutoff <= std::numeric_limits<double>::max(), "cutoff: got ", cutoff,
             "; takes a finite number > 0");
    GM_CHECK(job.systems >= 0 && job.ptr[0] == 0 && job.ptr[job.systems] == job.atoms,
             "system_ptr: takes offsets from 0 to ", job.atoms);
    for (int64_t s = 0; s < job.systems; ++s)
        GM_CHECK(job.ptr[s + 1] >= job.ptr[s] && job.ptr[s + 1] - job.ptr[s] < (int64_t{1} << 31),
                 "system_ptr: takes offsets that rise, by less than 2^31");
    GM_CHECK(static_cast<int64_t>(repeats.size()) == job.dim, "repeats: got ", repeats.size(), "; takes ", job.dim);
    for (const auto* one : {&cell, &fractions}) {
        const char* name = one == &cell ? "cell" : "fractions";
        check_dim(name, *one, 3);
        check_dtype(name, *one, ScalarType::Double);
        check_contiguous_cpu(name, *one);
        GM_CHECK(one->size(0) == 1 || one->size(0) == job.systems, name, ": got shape ", shape_text(*one),
                 "; takes 1 or ", job.systems);
        check_size(name, *one, 0, cell.size(0));
        for (const int axis : {1, 2}) check_size(name, *one, axis, job.dim);
    }
    job.frames.resize(static_cast<size_t>(cell.size(0)));
    for (size_t s = 0; s < job.frames.size(); ++s)
        for (int64_t k = 0; k < job.dim; ++k) {
            Frame& frame = job.frames[s];
            frame.repeats[k] = repeats[static_cast<size_t>(k)] != 0;
            double square = 0.0;
            for (int64_t d = 0; d < job.dim; ++d) {
                const int64_t row = (static_cast<int64_t>(s) * job.dim + k) * job.dim + d;
                if (frame.repeats[k]) frame.cell[k][d] = cell.const_data_ptr<double>()[row];
                frame.fractions[k][d] = fractions.const_data_ptr<double>()[row];
                square += frame.fractions[k][d] * frame.fractions[k][d];
            }
            GM_CHECK(!frame.repeats[k] || cutoff * std::sqrt(square) < 0x1p20, "cutoff: got ", cutoff,
                     "; takes one that spans fewer than 2^20 boxes");
        }
    return job;
}

template <class R>
void check_positions(const R* x, const Job& job) {
    for (int64_t s = 0; s < job.systems; ++s)
        for (int64_t i = job.ptr[s]; i < job.ptr[s + 1]; ++i)
            for (int64_t k = 0; k < job.dim; ++k) {
                double at = 0.0;
                for (int64_t d = 0; d < job.dim; ++d)
                    at += static_cast<double>(x[i * job.dim + d]) * job.frame(s).fractions[k][d];
                const double most = job.frame(s).repeats[k] ? 0x1p30 : 0x1p100;
                GM_CHECK(std::fabs(at) < most, "positions: got atom ", i, " ", at, " along axis ", k,
                         "; takes finite numbers, within 2^30 boxes or 2^100");
            }
}

using List = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

template <class R>
List list_of(const Job& job, const Tensor& positions, int64_t capacity) {
    const R* x = positions.const_data_ptr<R>();
    check_positions(x, job);
    std::vector<Task> tasks;
    for (int64_t s = 0; s < job.systems; ++s) {
        const int64_t count = job.ptr[s + 1] - job.ptr[s];
        for (int64_t begin = 0; begin < count; begin += kQueries)
            tasks.push_back({s, begin, std::min(begin + kQueries, count), {}, {}});
    }
    std::vector<std::unique_ptr<Cells>> cells(static_cast<size_t>(job.systems));
    parallel_for(0, job.systems, 1, [&](int64_t begin, int64_t end) {
        for (int64_t s = begin; s < end; ++s)
            cells[static_cast<size_t>(s)] = std::make_unique<Cells>(
                x + job.ptr[s] * job.dim, job.ptr[s + 1] - job.ptr[s], job.dim, job.frame(s), job.cutoff);
    });
    const auto each_task = [&](const auto& f) {
        parallel_for(0, static_cast<int64_t>(tasks.size()), 1, [&](int64_t begin, int64_t end) {
            for (int64_t t = begin; t < end; ++t) {
                Task& task = tasks[static_cast<size_t>(t)];
                f(task, *cells[static_cast<size_t>(task.system)], job.ptr[task.system]);
            }
        });
    };
    Tensor row_ptr = new_tensor({job.atoms + 1}, ScalarType::Long);
    int64_t* rows = row_ptr.mutable_data_ptr<int64_t>();
    rows[0] = 0;
    const auto near_atoms = GM_CALL_ISA(near_atoms);
    each_task([&](Task& task, const Cells& own, int64_t first) {
        search(own, job, near_atoms, task);
        for (int64_t at = task.begin; at < task.end; ++at) {
            const int64_t* range = &task.first[static_cast<size_t>(at - task.begin)];
            rows[first + own.atom(at) + 1] = range[1] - range[0];
        }
    });
    for (int64_t i = 0; i < job.atoms; ++i) rows[i + 1] += rows[i];

    const int64_t pairs = rows[job.atoms], size = capacity < 0 ? pairs : capacity;
    Tensor from = new_tensor({size}, ScalarType::Long), to = new_tensor({size}, ScalarType::Long);
    Tensor shift = new_tensor({size, job.dim}, ScalarType::Int);
    Tensor vector = new_tensor({size, job.dim}, positions.scalar_type());
    Tensor distance = new_tensor({size}, positions.scalar_type());
    int64_t *i = from.mutable_data_ptr<int64_t>(), *j = to.mutable_data_ptr<int64_t>();
    auto* image = shift.mutable_data_ptr<int32_t>();
    R *v = vector.mutable_data_ptr<R>(), *length = distance.mutable_data_ptr<R>();
    const int64_t kept = pairs <= size ? pairs : 0;  // the caller reads from row_ptr that they do not fit
    std::fill(i + kept, i + size, int64_t{-1});
    std::fill(j + kept, j + size, int64_t{-1});
    std::fill(image + kept * job.dim, image + size * job.dim, 0);
    std::fill(v + kept * job.dim, v + size * job.dim, R(0));
    std::fill(length + kept, length + size, std::numeric_limits<R>::infinity());
    if (kept == 0) return {distance, vector, from, to, shift, row_ptr};
    each_task([&](const Task& task, const Cells& own, int64_t first) {
        for (int64_t at = task.begin; at < task.end; ++at) {
            const int64_t atom = own.atom(at);
            int64_t to_row = rows[first + atom];
            for (int64_t n = task.first[static_cast<size_t>(at - task.begin)];
                 n < task.first[static_cast<size_t>(at - task.begin + 1)]; ++n, ++to_row) {
                const Found& f = task.found[static_cast<size_t>(n)];
                i[to_row] = first + atom;
                j[to_row] = first + f.to;
                copy_axes(f.image, job.dim, image + to_row * job.dim);
                double exact[3];
                length[to_row] = static_cast<R>(std::sqrt(own.vector(atom, f.to, f.image, exact)));
                copy_axes(exact, job.dim, v + to_row * job.dim);
            }
        }
    });
    return {distance, vector, from, to, shift, row_ptr};
}

List neighbor_list(const Tensor& positions, const Tensor& system_ptr, const Tensor& cell, const Tensor& fractions,
                   std::vector<int64_t> repeats, double cutoff, bool half, int64_t capacity) {
    const Job job = check_job(positions, system_ptr, cell, fractions, repeats, cutoff, half);
    return positions.scalar_type() == ScalarType::Double ? list_of<double>(job, positions, capacity)
                                                         : list_of<float>(job, positions, capacity);
}

}  // namespace
}  // namespace gm

STABLE_TORCH_LIBRARY_IMPL(gmkern, CPU, m) { m.impl("neighbor_list", TORCH_BOX(&gm::neighbor_list)); }
