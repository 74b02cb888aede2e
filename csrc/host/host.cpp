// gmkern._host: the host/device maths, for the tests alone. Nothing users call goes through here.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>

#include "common/noise.h"
#include "common/vector_math.h"
#include "dynamics/box.h"

namespace py = pybind11;

namespace {

// f over an array of a multiple of sixteen floats.
template <gm::f32x16 (*f)(gm::f32x16)>
py::array_t<float> lanes(const py::array_t<float, py::array::c_style>& x) {
    py::array_t<float> y(x.size());
    if (x.size() % 16) throw py::value_error("x: takes a multiple of 16 values");
    for (py::ssize_t i = 0; i < x.size(); i += 16) f(gm::f32x16::load(x.data() + i)).store(y.mutable_data() + i);
    return y;
}

}  // namespace

PYBIND11_MODULE(_host, m) {
    m.doc() = "Host build of the maths that CPU and CUDA kernels share; used by the tests.";
    m.def("philox4x32_10", [](std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
        const auto n = gm::philox4x32_10(gm::Words4<uint32_t>{{counter[0], counter[1], counter[2], counter[3]}},
                                         gm::NoiseKey{key[0], key[1]});
        return std::array<uint32_t, 4>{n.w[0], n.w[1], n.w[2], n.w[3]};
    });
    m.def("noise_key", [](int64_t seed, uint32_t stream) {
        const auto key = gm::noise_key(seed, stream);
        return std::array<uint32_t, 2>{key.low, key.high};
    });
    m.def("uniform_from_word", [](uint32_t w) { return gm::uniform_from_word<float>(w); });
    m.def("uniform_from_word64", [](uint64_t w) { return gm::uniform_from_word<double>(w); });
    m.def("exponential_from_word", [](uint32_t w) { return gm::exponential_from_word<float>(w); });
    m.def("exponential_from_word64", [](uint64_t w) { return gm::exponential_from_word<double>(w); });
    m.def("gumbel_from_word", [](uint32_t w) { return gm::gumbel_from_word<float>(w); });
    m.def("gumbel_from_word64", [](uint64_t w) { return gm::gumbel_from_word<double>(w); });
    m.def("gumbel_from_tail", &gm::gumbel_from_tail);
    m.def("normals_from_words", [](uint32_t a, uint32_t b) {
        const auto p = gm::normals_from_words<float>(a, b);
        return std::array<float, 2>{p.first, p.second};
    });
    m.def("normals_from_words64", [](uint64_t a, uint64_t b) {
        const auto p = gm::normals_from_words<double>(a, b);
        return std::array<double, 2>{p.first, p.second};
    });
    // energy, pull, slope, and the four derivatives of by_energy * energy + by_pull * pull
    m.def("pair_term", [](int kind, std::array<double, 6> parameters, double r2, double by_energy, double by_pull) {
        const auto term = gm::pair_term<double>(kind, parameters.data());
        const double inverse = 1.0 / r2;
        const auto v = gm::pair_values<true, true>(kind, term.exponent, term, r2, inverse);
        const auto s = gm::pair_parameter_slopes(kind, term.exponent, term, r2, inverse, by_energy, by_pull);
        return std::array<double, 7>{v.energy, v.pull, v.slope, s.of[0], s.of[1], s.of[2], s.of[3]};
    });
    m.def("nearest_image", [](std::array<double, 9> cell, std::array<double, 9> inverse, std::array<double, 3> d) {
        gm::PeriodicBox<double, 3> box;
        box.read(cell.data(), inverse.data());
        gm::Vector<double, 3> v = {{d[0], d[1], d[2]}};
        box.nearest_image(v);
        return std::array<double, 3>{v.c[0], v.c[1], v.c[2]};
    });
    m.def("log_positive", [](float x) { return gm::log_positive(x); });
    m.def("log_positive64", [](double x) { return gm::log_positive(x); });
    m.def("fast_exp", &lanes<gm::fast_exp>);
    m.def("fast_tanh", &lanes<gm::fast_tanh>);
    m.def("fast_erf", &lanes<gm::fast_erf>);
    m.def("silu", &lanes<gm::silu>);
    m.def("gelu", &lanes<gm::gelu>);
    m.def("gelu_tanh", &lanes<gm::gelu_tanh>);
    m.def("relu", &lanes<gm::relu>);
}
