// One system's atoms sorted into cells: fractions of their positions along a frame, cut into equal parts, and a stable
// counting sort, so that the atoms of a cell keep their order. All decisions are in double.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "dynamics/grid.h"
#include "dynamics/neighbor_list.h"

namespace gm {

class Cells {
 public:
    // positions [count, dim], cutoff > 0; cells are about a cutoff over `cuts` wide
    template <class R>
    Cells(const R* positions, int64_t count, int64_t dim, const Frame& frame, double cutoff, double cuts = 2.0)
        : count_(count), frame_(frame), x_(static_cast<size_t>(3 * count), 0.0) {
        for (int64_t i = 0; i < count; ++i)
            for (int64_t d = 0; d < dim; ++d) x_[index(3 * i + d)] = static_cast<double>(positions[i * dim + d]);
        const std::vector<double> fraction = fractions();
        grid_.cut(frame, cutoff, cuts, count + 64);
        sort(fraction);
        place(cutoff);
    }

    // The atom in a place of the order of cells.
    int64_t atom(int64_t at) const { return order_[index(at)]; }
    int64_t cell_of(int64_t at) const { return cell_[index(atom(at))]; }
    const double* x(int64_t atom) const { return &x_[index(3 * atom)]; }

    // What the body takes for the atom at `at`, but for the segments.
    NearArgs near(int64_t at) const {
        NearArgs a = {{near_[0].data(), near_[1].data(), near_[2].data()}, nullptr, 0, {}, bound_};
        for (int c = 0; c < 3; ++c) a.query[c] = near_[c][index(at)];
        return a;
    }
    // Segments that hold every image of an atom within the cutoff of a cell's atoms; those of one atom come by rising
    // image. Gives how many atoms they hold.
    int64_t segments(int64_t cell, std::vector<Segment>& to) const {
        to.clear();
        const int64_t *parts = grid_.parts, *reach = grid_.reach;
        const int64_t c[3] = {cell / (parts[1] * parts[2]), cell / parts[2] % parts[1], cell % parts[2]};
        int64_t atoms = 0, low[3], high[3];
        for (int k = 0; k < 3; ++k) {
            low[k] = frame_.repeats[k] ? c[k] - reach[k] : std::max<int64_t>(c[k] - reach[k], 0);
            high[k] = frame_.repeats[k] ? c[k] + reach[k] : std::min<int64_t>(c[k] + reach[k], parts[k] - 1);
        }
        for (int64_t a = low[0]; a <= high[0]; ++a)
            for (int64_t b = low[1]; b <= high[1]; ++b)
                for (int64_t begin = low[2]; begin <= high[2];) {  // a run of cells within one image
                    const int64_t image = floor_div(begin, parts[2]);
                    const int64_t end = std::min(high[2], (image + 1) * parts[2] - 1);
                    const int64_t row = (wrapped(a, 0) * parts[1] + wrapped(b, 1)) * parts[2];
                    Segment s = {start_[index(row + begin - image * parts[2])],
                                 start_[index(row + end - image * parts[2] + 1)],
                                 {},
                                 {}};
                    s.image[0] = static_cast<int32_t>(floor_div(a, parts[0]));
                    s.image[1] = static_cast<int32_t>(floor_div(b, parts[1]));
                    s.image[2] = static_cast<int32_t>(image);
                    for (int d = 0; d < 3; ++d) s.offset[d] = static_cast<float>(shift(s.image, d));
                    atoms += s.end - s.begin;
                    if (s.begin < s.end) to.push_back(s);
                    begin = end + 1;
                }
        return atoms;
    }
    // The shift of atom j's image, from the positions as they were given, as atom i sees it.
    void image_seen(int64_t i, int64_t j, const int32_t* image, int32_t* seen) const {
        for (int k = 0; k < 3; ++k) seen[k] = image[k] + turns_[index(3 * i + k)] - turns_[index(3 * j + k)];
    }
    // The vector from atom i to atom j shifted, and its square. The other way round it is the same but for its sign.
    double vector(int64_t i, int64_t j, const int32_t* image, double* v) const {
        double square = 0.0;
        for (int d = 0; d < 3; ++d) {
            v[d] = (x(j)[d] - x(i)[d]) + shift(image, d);
            square += v[d] * v[d];
        }
        return square;
    }

 private:
    static size_t index(int64_t i) { return static_cast<size_t>(i); }
    static int64_t floor_div(int64_t a, int64_t b) { return a >= 0 ? a / b : -((b - 1 - a) / b); }
    int64_t wrapped(int64_t part, int k) const { return part - floor_div(part, grid_.parts[k]) * grid_.parts[k]; }
    double shift(const int32_t* image, int d) const {
        return (image[0] * frame_.cell[0][d] + image[1] * frame_.cell[1][d]) + image[2] * frame_.cell[2][d];
    }

    // [count, 3]: along axes that repeat in [0, 1), the turns taken away being kept; along others from 0.
    std::vector<double> fractions() {
        std::vector<double> fraction(index(3 * count_));
        turns_.assign(index(3 * count_), 0);
        for (int k = 0; k < 3; ++k) {
            const double* f = frame_.fractions[k];
            double low = 0.0, high = 0.0;
            grid_.largest[k] = 0.0;
            for (int64_t i = 0; i < count_; ++i) {
                const double* own = x(i);
                const double at = (own[0] * f[0] + own[1] * f[1]) + own[2] * f[2];
                low = i == 0 ? at : std::min(low, at);
                high = i == 0 ? at : std::max(high, at);
                grid_.largest[k] = std::max(grid_.largest[k], std::fabs(at));
                fraction[index(3 * i + k)] = at;
            }
            grid_.length[k] = frame_.repeats[k] ? 1.0 : high - low;
            for (int64_t i = 0; i < count_; ++i) {
                double& at = fraction[index(3 * i + k)];
                if (!frame_.repeats[k]) {
                    at -= low;
                    continue;
                }
                const double turns = std::floor(at);
                turns_[index(3 * i + k)] = static_cast<int32_t>(turns);
                at -= turns;
            }
        }
        return fraction;
    }
    void sort(const std::vector<double>& fraction) {
        cell_.resize(index(count_));
        start_.assign(index(grid_.cells() + 1), 0);
        for (int64_t i = 0; i < count_; ++i) {
            int64_t cell = 0;
            for (int k = 0; k < 3; ++k) cell = cell * grid_.parts[k] + grid_.part(k, fraction[index(3 * i + k)]);
            cell_[index(i)] = cell;
            ++start_[index(cell + 1)];
        }
        for (size_t c = 1; c < start_.size(); ++c) start_[c] += start_[c - 1];
        order_.resize(index(count_));
        std::vector<int64_t> next(start_.begin(), start_.end() - 1);
        for (int64_t i = 0; i < count_; ++i) order_[index(next[index(cell_[index(i)])]++)] = i;
    }
    // Positions within the box for the filter in fp32, from the middle of all, and its slack: 2^-21 of the numbers that
    // are subtracted covers the roundings of both, of the offset and of the square.
    void place(double cutoff) {
        double middle[3] = {}, size = cutoff;
        std::vector<double> within(index(3 * count_));
        for (int64_t at = 0; at < count_; ++at)
            for (int d = 0; d < 3; ++d) {
                const int64_t i = atom(at);
                within[index(3 * at + d)] = x(i)[d] - shift(&turns_[index(3 * i)], d);
                middle[d] += within[index(3 * at + d)] / static_cast<double>(count_);
            }
        for (int d = 0; d < 3; ++d) {
            near_[d].assign(index(count_ + 16), 0.0f);
            for (int64_t at = 0; at < count_; ++at) {
                const double own = within[index(3 * at + d)] - middle[d];
                near_[d][index(at)] = static_cast<float>(own);
                size = std::max(size, std::fabs(own));
            }
            for (int k = 0; k < 3; ++k)
                size = std::max(
                    size, static_cast<double>(grid_.reach[k] / grid_.parts[k] + 1) * std::fabs(frame_.cell[k][d]));
        }
        const double slack = cutoff + 8.0 * size * 0x1p-21;
        bound_ = static_cast<float>(slack * slack * (1.0 + 0x1p-20));
    }

    int64_t count_;
    Frame frame_;
    std::vector<double> x_;       // [count, 3]
    std::vector<int32_t> turns_;  // [count, 3]
    std::vector<int64_t> cell_, order_, start_;
    std::vector<float> near_[3];  // [count + 16], in the order of cells
    Grid grid_;
    float bound_;
};

}  // namespace gm
