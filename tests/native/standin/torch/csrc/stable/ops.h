// A stand-in for PyTorch's header of this name: the functions that the launchers call, and threads of the standard
// library, which a sanitizer sees into.
#pragma once

#include <algorithm>
#include <atomic>
#include <thread>
#include <torch/csrc/stable/tensor.h>

namespace torch::stable {

inline Tensor empty(std::vector<int64_t> sizes, ScalarType dtype) { return {std::move(sizes), dtype}; }
inline Tensor new_empty(const Tensor&, std::vector<int64_t> sizes, ScalarType dtype) {
    return {std::move(sizes), dtype};
}
inline Tensor empty_like(const Tensor& t) { return {t.sizes(), t.scalar_type()}; }
inline Tensor clone(const Tensor& t) {
    Tensor copy = empty_like(t);
    std::memcpy(copy.data_ptr(), t.data_ptr(), static_cast<size_t>(t.numel()) * t.element_size());
    return copy;
}
// t[index] along the first axis, as a copy.
inline Tensor select(const Tensor& t, int64_t axis, int64_t index) {
    if (axis != 0) throw std::runtime_error("the stand-in selects along axis 0 alone");
    Tensor part({t.sizes().begin() + 1, t.sizes().end()}, t.scalar_type());
    const size_t bytes = static_cast<size_t>(part.numel()) * part.element_size();
    std::memcpy(part.data_ptr(), static_cast<const char*>(t.data_ptr()) + static_cast<size_t>(index) * bytes, bytes);
    return part;
}
inline Tensor fill_(Tensor& t, double value) {
    const auto fill = [&](auto* to) { std::fill_n(to, t.numel(), static_cast<std::decay_t<decltype(*to)>>(value)); };
    switch (t.scalar_type()) {
        case ScalarType::Float:
            fill(t.mutable_data_ptr<float>());
            break;
        case ScalarType::Double:
            fill(t.mutable_data_ptr<double>());
            break;
        case ScalarType::Long:
            fill(t.mutable_data_ptr<int64_t>());
            break;
        default:
            throw std::runtime_error("the stand-in does not fill this dtype");
    }
    return t;
}

struct Threads {
    uint32_t count = 1;
    std::atomic<int64_t> regions{0};  // how often work was handed to more than one
    static Threads& all() {
        static Threads threads;
        return threads;
    }
    static bool& within() {
        static thread_local bool inside = false;
        return inside;
    }
};
inline uint32_t get_num_threads() { return Threads::all().count; }

// As PyTorch's: ranges of at least `grain`, one a thread, the first on the caller; one inside another runs where it is.
template <class F>
void parallel_for(int64_t begin, int64_t end, int64_t grain, const F& f) {
    const int64_t count = end - begin, most = std::max<int64_t>(1, (count + grain - 1) / std::max<int64_t>(grain, 1));
    const int64_t threads = std::min<int64_t>(get_num_threads(), most);
    if (threads <= 1 || Threads::within()) return f(begin, end);
    ++Threads::all().regions;
    const int64_t each = (count + threads - 1) / threads;
    const auto run = [&](int64_t t) {
        if (begin + t * each >= end) return;
        Threads::within() = true;
        f(begin + t * each, std::min(end, begin + (t + 1) * each));
        Threads::within() = false;
    };
    std::vector<std::thread> others;
    for (int64_t t = 1; t < threads; ++t) others.emplace_back(run, t);
    run(0);
    for (std::thread& other : others) other.join();
}

}  // namespace torch::stable
