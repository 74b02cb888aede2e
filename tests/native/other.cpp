// Noise, and the processes that begin with it: latent, context, classical; and what the library says of itself.
#include "cases.h"

namespace gm::native {
namespace {

using Noise = Tensor(const Tensor&, const Tensor&, const Tensor&, int64_t, int64_t, int64_t, bool);
using LatentMlp = Tensor(const Tensor&, const Tensor&, const std::vector<Tensor>&, const std::vector<Tensor>&,
                         const Ints&, const std::vector<double>&);
using GibbsChain = std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                              const Tensor&, const Tensor&, int64_t);
using DrawSets = std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, int64_t);

std::vector<Tensor> noise(int64_t kind, bool fp64) {
    return {op<Noise>("noise")(scalar(-5), counting(40, 3), scalar(9), 1001, 2, kind, fp64)};
}
GM_CASE("noise, uniform", Bits::promised) { return noise(0, false); }
GM_CASE("noise, normal", Bits::promised) { return noise(1, false); }
GM_CASE("noise, gumbel", Bits::promised) { return noise(2, false); }
GM_CASE("noise, uniform in fp64", Bits::promised) { return noise(0, true); }
GM_CASE("noise, normal in fp64", Bits::promised) { return noise(1, true); }
GM_CASE("noise, gumbel in fp64", Bits::promised) { return noise(2, true); }

GM_CASE("latent_mlp", Bits::own) {
    Numbers numbers(1);
    const std::vector<Tensor> weights{numbers.reals({50, 9}), numbers.reals({33, 50}), numbers.reals({7, 33})};
    const std::vector<Tensor> biases{numbers.reals({50}), numbers.reals({33}), numbers.reals({7})};
    return {op<LatentMlp>("latent_mlp")(scalar(3), counting(700), weights, biases, {1, 4, 0}, {0.0, 0.1, 0.0})};
}
GM_CASE("gibbs_chain", Bits::own) {
    Numbers numbers(2);
    const Tensor weight = numbers.reals({30, 50}), below = numbers.reals({50}), above = numbers.reals({30});
    return listed(op<GibbsChain>("gibbs_chain")(weight, below, above, filled({300, 50}, 1.0, ScalarType::Float),
                                                scalar(6), counting(300), scalar(0), 5));
}
GM_CASE("draw_sets", Bits::promised) {
    return listed(op<DrawSets>("draw_sets")(Numbers(3).reals({900, 7}), scalar(8), counting(2000), 10));
}

}  // namespace
}  // namespace gm::native
