// What a case of the driver is made of: tensors of numbers that follow from a seed, and ops by their names.
#pragma once

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <torch/csrc/stable/library.h>
#include <tuple>
#include <vector>

#include "common/scalar.h"

namespace gm::native {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Ints = std::vector<int64_t>;
using Shape = std::vector<int64_t>;

// Whether results are promised to be the same bits on every instruction set and processor.
enum class Bits { promised, own };

struct Case {
    std::string name;
    Bits bits;
    std::function<std::vector<Tensor>()> run;
};
inline std::vector<Case>& cases() {
    static std::vector<Case> all;
    return all;
}
inline bool add_case(const char* name, Bits bits, std::function<std::vector<Tensor>()> run) {
    cases().push_back({name, bits, std::move(run)});
    return true;
}

// op<Result(Arguments...)>("name")(arguments...): the types are those of the registered function, to the letter.
template <class Signature>
Signature* op(const char* name) {
    const auto& all = torch::stable::Library::ops();
    const auto found = all.find(name);
    if (found == all.end() || found->second.type != typeid(Signature*))
        throw std::runtime_error(std::string("no op of this name and type: ") + name);
    return reinterpret_cast<Signature*>(found->second.function);
}

// A stream of numbers, one of a case's own.
class Numbers {
 public:
    explicit Numbers(uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15u + 1) {}
    uint64_t word() {
        uint64_t z = (state_ += 0x9E3779B97F4A7C15u);
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
        return z ^ (z >> 31);
    }
    double uniform(double low, double high) {
        return low + (high - low) * (static_cast<double>(word() >> 40) * 0x1p-24);
    }
    int64_t below(int64_t count) { return static_cast<int64_t>(word() % static_cast<uint64_t>(count)); }

    // Numbers of [low, high) in fp32, fp64 or bf16.
    Tensor reals(Shape shape, double low = -1.0, double high = 1.0, ScalarType dtype = ScalarType::Float) {
        Tensor t(std::move(shape), dtype);
        for (int64_t i = 0; i < t.numel(); ++i) {
            const double x = uniform(low, high);
            if (dtype == ScalarType::Double)
                t.mutable_data_ptr<double>()[i] = x;
            else if (dtype == ScalarType::BFloat16)
                t.mutable_data_ptr<c10::BFloat16>()[i] = static_cast<float>(x);
            else
                t.mutable_data_ptr<float>()[i] = static_cast<float>(x);
        }
        return t;
    }
    // Whole numbers of [0, count).
    Tensor whole(Shape shape, int64_t count) {
        Tensor t(std::move(shape), ScalarType::Long);
        for (int64_t i = 0; i < t.numel(); ++i) t.mutable_data_ptr<int64_t>()[i] = below(count);
        return t;
    }

 private:
    uint64_t state_;
};

template <class T>
Tensor tensor(const std::vector<T>& values, Shape shape = {}) {
    constexpr ScalarType dtype = std::is_same_v<T, double>    ? ScalarType::Double
                                 : std::is_same_v<T, float>   ? ScalarType::Float
                                 : std::is_same_v<T, int32_t> ? ScalarType::Int
                                                              : ScalarType::Long;
    if (shape.empty()) shape = {static_cast<int64_t>(values.size())};
    Tensor t(shape, dtype);
    std::copy(values.begin(), values.end(), t.template mutable_data_ptr<T>());
    return t;
}
inline Tensor scalar(int64_t value) { return tensor<int64_t>({value}); }
inline Tensor filled(Shape shape, double value, ScalarType dtype) {
    Tensor t(std::move(shape), dtype);
    torch::stable::fill_(t, value);
    return t;
}
// first, first + step, ...
inline Tensor counting(int64_t count, int64_t step = 1, int64_t first = 0) {
    Ints values;
    for (int64_t i = 0; i < count; ++i) values.push_back(first + i * step);
    return tensor(values, {count});
}
inline Tensor nothing(ScalarType dtype, Shape shape = {0}) { return {std::move(shape), dtype}; }

template <class... T>
std::vector<Tensor> listed(const std::tuple<T...>& tensors) {
    return std::apply([](const auto&... t) { return std::vector<Tensor>{t...}; }, tensors);
}

}  // namespace gm::native

// GM_CASE("path, what", Bits::promised) { ...; return {tensors}; }
#define GM_CASE_OF(NUMBER, NAME, BITS)                                                                         \
    static std::vector<Tensor> GM_STANDIN_JOIN(case_, NUMBER)();                                               \
    static const bool GM_STANDIN_JOIN(added_, NUMBER) = add_case(NAME, BITS, &GM_STANDIN_JOIN(case_, NUMBER)); \
    static std::vector<Tensor> GM_STANDIN_JOIN(case_, NUMBER)()
#define GM_CASE(NAME, BITS) GM_CASE_OF(__COUNTER__, NAME, BITS)
