// The ops of dynamics: many systems over threads, and threads inside one large system with its lists of neighbours.
#include "cases.h"

namespace gm::native {
namespace {

using Pair = std::tuple<Tensor, Tensor>;
using EnergyAndForces = Pair(const Tensor&, const Tensor&, const Tensor&, Ints, Ints, const Tensor&, const Tensor&,
                             const Tensor&);
using EnergyAndForcesBackward = Pair(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, Ints,
                                     Ints, const Tensor&, const Tensor&, const Tensor&, bool);
using Simulate = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>(
    const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, Ints, Ints, const Tensor&, const Tensor&,
    const Tensor&, int64_t, const Tensor&, const Tensor&, const Tensor&, const Tensor&, int64_t, int64_t, int64_t,
    int64_t, const Tensor&, int64_t, const Tensor&);
using PathLogProb = Tensor(const Tensor&, const Tensor&, const Tensor&, Ints, Ints, const Tensor&, const Tensor&,
                           const Tensor&, const Tensor&, int64_t, const Tensor&, int64_t, const Tensor&);
using NeighborList = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>(const Tensor&, const Tensor&,
                                                                                const Tensor&, const Tensor&, Ints,
                                                                                double, bool, int64_t);
using EgnnLayer = std::tuple<Tensor, Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                                     const Tensor&, const Tensor&, bool, double, double);
using EgnnLayerBackward = std::tuple<Tensor, Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                                             const Tensor&, const Tensor&, bool, double, double,
                                                             const Tensor&, const Tensor&, const Tensor&, bool);
using EulerMaruyamaStep = Tensor(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                 const Tensor&);
using GaussianLogProb = Tensor(const Tensor&, const Tensor&, const Tensor&, const Tensor&);

constexpr auto kFloat = ScalarType::Float;
constexpr auto kDouble = ScalarType::Double;

// Systems of atoms on a shaken lattice, 1.2 apart, under Lennard-Jones and a trap.
struct Liquid {
    int64_t side, systems, atoms;
    ScalarType dtype;
    Tensor positions, system_ptr, types = nothing(ScalarType::Long);
    Ints kinds{0, 1}, sizes{6, 4};
    Tensor parameters, cell = nothing(kDouble, {0, 3, 3}), inverse = nothing(kDouble, {0, 3, 3});

    Liquid(int64_t side_, int64_t systems_, ScalarType dtype_, double cutoff)
        : side(side_),
          systems(systems_),
          atoms(side_ * side_ * side_ * systems_),
          dtype(dtype_),
          positions(Numbers(1).reals({atoms, 3}, -0.05, 0.05, dtype_)),
          system_ptr(counting(systems_ + 1, side_ * side_ * side_)),
          parameters(tensor<double>({1.0, 1.0, 0.0, 0.0, cutoff, 0.0, 0.5, 0.0, 0.0, 0.0})) {
        for (int64_t i = 0; i < atoms; ++i)
            for (int64_t d = 0; d < 3; ++d) {
                const int64_t place = i / (d == 0 ? 1 : d == 1 ? side : side * side) % side;
                const double at = 1.2 * (static_cast<double>(place) - 0.5 * static_cast<double>(side - 1));
                if (dtype == kDouble)
                    positions.mutable_data_ptr<double>()[i * 3 + d] += at;
                else
                    positions.mutable_data_ptr<float>()[i * 3 + d] += static_cast<float>(at);
            }
    }
    int64_t each() const { return side * side * side; }
    // A box around the lattice.
    void close() {
        const double length = 1.2 * static_cast<double>(side);
        for (Tensor* box : {&cell, &inverse}) {
            *box = filled({1, 3, 3}, 0.0, kDouble);
            for (int64_t d = 0; d < 3; ++d)
                box->mutable_data_ptr<double>()[4 * d] = box == &cell ? length : 1.0 / length;
        }
    }
};

enum Integrator : int64_t { verlet = 0, baoab = 1, euler_maruyama = 2, rk4 = 4 };
constexpr double kInfinity = std::numeric_limits<double>::infinity();

std::vector<Tensor> moved(const Liquid& m, Integrator integrator, int64_t steps) {
    const bool scored = integrator == baoab || integrator == euler_maruyama;
    return listed(op<Simulate>("simulate")(
        m.positions, Numbers(2).reals({m.atoms, 3}, -0.5, 0.5, m.dtype), filled({m.atoms}, 1.0, m.dtype), m.system_ptr,
        m.types, m.kinds, m.sizes, m.parameters, m.cell, m.inverse, integrator,
        tensor<double>({0.004, 0.7, 1.0, 0.3, 0.0}, {1, 1, 5}), scalar(3), counting(m.systems), scalar(0), steps, 5, 0,
        m.each(), filled({2, scored ? m.systems : 0}, 0.0, kDouble), 0, nothing(m.dtype, {0, 3})));
}
GM_CASE("simulate, systems over threads", Bits::own) { return moved(Liquid(3, 11, kFloat, kInfinity), baoab, 20); }
GM_CASE("simulate, systems over threads, fp64", Bits::own) {
    return moved(Liquid(3, 11, kDouble, kInfinity), euler_maruyama, 20);
}
GM_CASE("simulate, threads inside a system", Bits::own) { return moved(Liquid(7, 2, kFloat, kInfinity), verlet, 6); }
GM_CASE("simulate, threads inside a system with lists", Bits::own) {
    Liquid m(9, 1, kFloat, 2.5);
    m.close();
    return moved(m, baoab, 40);
}
GM_CASE("simulate, lists in fp64, fourth order", Bits::own) { return moved(Liquid(8, 1, kDouble, 2.0), rk4, 10); }

GM_CASE("path_log_prob", Bits::own) {
    const Liquid m(3, 6, kFloat, kInfinity);
    const Tensor frames = Numbers(4).reals({5, m.atoms, 3}, -2.0, 2.0);
    return {op<PathLogProb>("path_log_prob")(frames, m.system_ptr, m.types, m.kinds, m.sizes, m.parameters, m.cell,
                                             m.inverse, tensor<double>({0.004, 0.0, 0.0, 0.3, 0.0}, {1, 1, 5}),
                                             m.each(), filled({2, m.systems}, 0.0, kDouble), 1,
                                             nothing(kFloat, {0, 3}))};
}

std::vector<Tensor> forces(const Liquid& m) {
    return listed(op<EnergyAndForces>("energy_and_forces")(m.positions, m.system_ptr, m.types, m.kinds, m.sizes,
                                                           m.parameters, m.cell, m.inverse));
}
std::vector<Tensor> forces_backward(const Liquid& m) {
    return listed(op<EnergyAndForcesBackward>("energy_and_forces_backward")(
        m.positions, Numbers(5).reals({m.systems}, -1.0, 1.0, m.dtype),
        Numbers(6).reals({m.atoms, 3}, -1.0, 1.0, m.dtype), m.system_ptr, m.types, m.kinds, m.sizes, m.parameters,
        m.cell, m.inverse, true));
}
GM_CASE("energy_and_forces", Bits::own) { return forces(Liquid(3, 9, kFloat, kInfinity)); }
GM_CASE("energy_and_forces, a large system", Bits::own) { return forces(Liquid(12, 1, kDouble, 2.0)); }
GM_CASE("energy_and_forces_backward", Bits::own) { return forces_backward(Liquid(3, 9, kDouble, kInfinity)); }
GM_CASE("energy_and_forces_backward, a large system", Bits::own) { return forces_backward(Liquid(12, 1, kFloat, 2.0)); }

GM_CASE("neighbor_list", Bits::own) {
    Liquid m(7, 3, kFloat, 2.0);
    m.close();
    return listed(
        op<NeighborList>("neighbor_list")(m.positions, m.system_ptr, m.cell, m.inverse, {1, 1, 1}, 2.0, false, -1));
}

struct Graph {
    static constexpr int64_t kWidth = 20;
    Liquid m{3, 5, kFloat, kInfinity};
    Tensor features = Numbers(7).reals({m.atoms, kWidth});
    Tensor weights = Numbers(8).reals(
        {kWidth * (2 * kWidth + 1) + kWidth + 3 * (kWidth * kWidth + kWidth) + kWidth * 2 * kWidth + kWidth + kWidth},
        -0.2, 0.2);
    std::vector<Tensor> layer() const {
        return listed(op<EgnnLayer>("egnn_layer")(m.positions, features, weights, m.system_ptr, m.cell, m.inverse, true,
                                                  kInfinity, 26.0));
    }
};
GM_CASE("egnn_layer", Bits::own) { return Graph().layer(); }
GM_CASE("egnn_layer_backward", Bits::own) {
    const Graph g;
    return listed(op<EgnnLayerBackward>("egnn_layer_backward")(
        g.m.positions, g.features, g.weights, g.m.system_ptr, g.m.cell, g.m.inverse, true, kInfinity, 26.0,
        g.layer()[2], Numbers(9).reals({g.m.atoms, 3}), Numbers(10).reals({g.m.atoms, Graph::kWidth}), true));
}

GM_CASE("euler_maruyama_step", Bits::promised) {
    const Tensor x = Numbers(11).reals({20, 1000}), drift = Numbers(12).reals({20, 1000});
    return {op<EulerMaruyamaStep>("euler_maruyama_step")(x, drift, tensor<double>({0.01, 0.2}, {1, 2}), scalar(4),
                                                         counting(20), scalar(7))};
}
GM_CASE("gaussian_log_prob", Bits::own) {
    const Tensor x = Numbers(11).reals({20, 1000}), y = Numbers(12).reals({20, 1000});
    return {op<GaussianLogProb>("gaussian_log_prob")(x, y, nothing(kFloat, {0, 1000}),
                                                     tensor<double>({0.01, 0.2}, {1, 2}))};
}

}  // namespace
}  // namespace gm::native
