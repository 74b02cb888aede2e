// The ops of neighbors: every method of a search, each over several blocks of threads.
#include <optional>

#include "cases.h"

namespace gm::native {
namespace {

using Optional = std::optional<Tensor>;
using Knn = std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, int64_t, int64_t, bool, int64_t, int64_t);
using KnnCourse = Tensor(const Tensor&, const Tensor&, int64_t, int64_t, bool, int64_t);
using CountWithin = Tensor(const Tensor&, const Tensor&, const Tensor&, bool, bool, bool, int64_t);
using EdgePull = std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, const Tensor&, int64_t);
using KernelSum = Tensor(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Optional&, int64_t, double,
                         double, int64_t, bool);
using KernelSumBackward = std::tuple<Tensor, Tensor, Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&,
                                                                     const Tensor&, const Tensor&, const Tensor&,
                                                                     const Optional&, int64_t, double, double, int64_t,
                                                                     bool, bool, bool);
using KernelSumResume = Tensor(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                               const Optional&, int64_t, double, double, int64_t, bool, int64_t);
using KernelSumTotal = Tensor(const Tensor&, bool);

enum Method : int64_t { direct = 1, screened = 2, tree = 3, words = 4 };

// Coordinates in hundredths, so that there are ties and copies among the points.
Tensor points(uint64_t seed, int64_t count, int64_t dim, ScalarType dtype = ScalarType::Float) {
    Numbers numbers(seed);
    Tensor x = numbers.reals({1, count, dim}, 0.0, 1.0, dtype);
    const auto round = [&](auto* to) {
        for (int64_t i = 0; i < x.numel(); ++i)
            to[i] = static_cast<std::decay_t<decltype(*to)>>(std::floor(static_cast<float>(to[i]) * 100.0f) / 100.0f);
    };
    if (dtype == ScalarType::Double)
        round(x.mutable_data_ptr<double>());
    else if (dtype == ScalarType::Float)
        round(x.mutable_data_ptr<float>());
    return x;
}

// Sizes that fill neither tiles nor groups.
std::vector<Tensor> nearest(int64_t dim, int64_t metric, int64_t method, int64_t k = 5,
                            ScalarType dtype = ScalarType::Float, bool self = false, int64_t queries = 301,
                            int64_t references = 715) {
    const Tensor y = points(2, references, dim, dtype), x = self ? y : points(1, queries, dim, dtype);
    return listed(op<Knn>("knn")(x, y, k, metric, self, 0, method));
}
GM_CASE("knn, differences, 19 coordinates", Bits::promised) { return nearest(19, 0, direct); }
GM_CASE("knn, differences, fp64", Bits::promised) { return nearest(7, 1, direct, 9, ScalarType::Double); }
GM_CASE("knn, differences, bf16", Bits::promised) { return nearest(33, 0, direct, 1, ScalarType::BFloat16); }
GM_CASE("knn, within, many neighbours", Bits::promised) { return nearest(5, 1, direct, 70, ScalarType::Float, true); }
GM_CASE("knn, manhattan", Bits::promised) { return nearest(19, 2, direct); }
GM_CASE("knn, chebyshev", Bits::promised) { return nearest(19, 3, direct); }
GM_CASE("knn, inner product", Bits::promised) { return nearest(19, 4, direct); }
GM_CASE("knn, screened by bytes", Bits::promised) { return nearest(64, 0, screened); }
GM_CASE("knn, screened by words", Bits::promised) { return nearest(40, 0, words); }
GM_CASE("knn, screened, within", Bits::promised) { return nearest(64, 1, screened, 3, ScalarType::Float, true); }
GM_CASE("knn, tree in a plane", Bits::promised) { return nearest(2, 0, tree, 1, ScalarType::Float, false, 3000, 9000); }
GM_CASE("knn, tree of groups, within", Bits::promised) {
    return nearest(3, 0, tree, 10, ScalarType::Float, true, 0, 9000);
}
GM_CASE("knn, tree in 7 coordinates", Bits::promised) {
    return nearest(7, 1, tree, 5, ScalarType::Float, false, 600, 9000);
}
GM_CASE("knn, tree in fp64", Bits::promised) { return nearest(3, 1, tree, 4, ScalarType::Double, false, 600, 9000); }
// How a search went is each instruction set's own.
GM_CASE("knn_course", Bits::own) {
    return {op<KnnCourse>("knn_course")(points(1, 301, 64), points(2, 715, 64), 5, 0, false, screened)};
}

std::vector<Tensor> counts(int64_t dim, int64_t method, double radius, bool per_reference = false,
                           int64_t references = 907) {
    const Tensor x = points(3, 301, dim), y = points(4, references, dim);
    const Tensor radii = Numbers(5).reals({1, per_reference ? references : 301}, 0.5 * radius, radius);
    return {op<CountWithin>("count_within")(x, y, radii, per_reference, true, false, method)};
}
GM_CASE("count_within, differences", Bits::promised) { return counts(19, direct, 2.0); }
GM_CASE("count_within, balls around references", Bits::promised) { return counts(19, direct, 2.0, true); }
GM_CASE("count_within, screened by bytes", Bits::promised) { return counts(64, screened, 3.2); }
GM_CASE("count_within, screened by words", Bits::promised) { return counts(64, words, 3.2, true); }
GM_CASE("count_within, tree", Bits::promised) { return counts(3, tree, 0.3, false, 9000); }

GM_CASE("edge_pull", Bits::promised) {
    Numbers numbers(6);
    const Tensor x = points(7, 200, 9), y = points(8, 150, 9), index = numbers.whole({1, 200, 4}, 150);
    return listed(op<EdgePull>("edge_pull")(x, y, index, numbers.reals({1, 200, 4}), 0));
}

struct Mixture {
    Tensor x, y, rates, weights;
    Optional logs;
    Mixture(ScalarType dtype, int64_t dim, bool log)
        : x(points(9, 300, dim, dtype)),
          y(points(10, 500, dim, dtype)),
          rates(Numbers(11).reals({1, 500}, 0.5, 2.0, dtype)),
          weights(Numbers(12).reals({1, 500}, 0.0, 1.0, dtype)) {
        if (log) logs = Numbers(13).reals({1, 500}, -2.0, 0.0, dtype);
    }
};
std::vector<Tensor> sums(ScalarType dtype, int64_t dim, bool log, int64_t kernel, bool gradients) {
    const Mixture m(dtype, dim, log);
    const Tensor sum = op<KernelSum>("kernel_sum")(m.x, m.y, m.rates, m.weights, m.logs, kernel, 1.5, 0.25, 3, false);
    if (!gradients) return {sum};
    const Tensor incoming = Numbers(14).reals({1, 300}, -1.0, 1.0, dtype);
    return listed(op<KernelSumBackward>("kernel_sum_backward")(incoming, sum, m.x, m.y, m.rates, m.weights, m.logs,
                                                               kernel, 1.5, 0.25, 3, false, true, true));
}
GM_CASE("kernel_sum, rbf", Bits::own) { return sums(ScalarType::Float, 19, false, 0, false); }
GM_CASE("kernel_sum, laplace in fp64", Bits::own) { return sums(ScalarType::Double, 3, false, 1, false); }
GM_CASE("kernel_sum, polynomial", Bits::own) { return sums(ScalarType::Float, 19, false, 4, false); }
GM_CASE("kernel_sum, logarithm", Bits::own) { return sums(ScalarType::Float, 19, true, 2, false); }
GM_CASE("kernel_sum_backward, rbf", Bits::own) { return sums(ScalarType::Float, 3, false, 0, true); }
GM_CASE("kernel_sum_backward, logarithm", Bits::own) { return sums(ScalarType::Double, 19, true, 0, true); }
GM_CASE("kernel_sum_resume and kernel_sum_total", Bits::own) {
    const Mixture m(ScalarType::Float, 19, false);
    Tensor state = filled({1, 300, 17}, 0.0, ScalarType::Double);
    for (int64_t i = 0; i < 300; ++i)
        state.mutable_data_ptr<double>()[i * 17 + 16] = -std::numeric_limits<double>::infinity();
    for (int64_t block = 0; block < 2; ++block)
        state = op<KernelSumResume>("kernel_sum_resume")(state, m.x, m.y, m.rates, m.weights, m.logs, 0, 1.0, 0.0, 1,
                                                         false, 512 * block);
    return {op<KernelSumTotal>("kernel_sum_total")(state, false)};
}

}  // namespace
}  // namespace gm::native
