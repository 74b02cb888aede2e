// Lists of the neighbours of large systems' atoms, made on the device and made anew there when an atom has gone half
// the skin: what the launchers and kernels share. No torch header.
#pragma once

#include "dynamics/cells_cuda.h"
#include "dynamics/field_cuda.h"

namespace gm {

// For time alone: sums over lists have the bits of those over all pairs, which serve where an atom has more neighbours
// than its list has room for, where a term has no cutoff, and where positions are not finite or too far out.
struct CudaNear {
    CudaCells cells;  // of the positions that are looked at
    int64_t room;     // neighbours an atom
    // [M]: how many neighbours, or -1 for all pairs; [M, room]: they rise. nullptr: no atom has a list.
    int32_t *lengths, *lists;
    void* listed;   // [M, D] where they were when lists were made
    double* reach;  // [1] the largest cutoff
};

constexpr int64_t kFewestListed = 3000;  // atoms of the largest system that are worth the launches
constexpr double kCudaSkin = 0.15;       // in cutoffs

// Whether lists may be of use: not what the cutoffs are, which the host does not read.
inline bool may_list(const CudaField& f, int64_t largest) {
    bool pairs = false;
    for (int t = 0; t < f.terms; ++t) pairs = pairs || is_pair(f.kinds[t]);
    return pairs && largest >= kFewestListed;
}

// Gives out the room, if there is any yet, and says how many bytes it takes.
inline int64_t lay_out(CudaNear& n, char* room) {
    const int64_t atoms = n.cells.atoms, cells = lay_out(n.cells, room), listed = (n.cells.fp64 ? 8 : 4) * n.cells.dim;
    n.room = atoms <= int64_t{1} << 18 ? 512 : 256;
    if (room != nullptr) {
        n.reach = reinterpret_cast<double*>(room + cells);
        n.listed = n.reach + 1;
        n.cells.stale = reinterpret_cast<int32_t*>(static_cast<char*>(n.listed) + listed * atoms);
        n.lengths = n.cells.stale + 2;
        n.lists = n.lengths + atoms;
        n.cells.reach = n.reach;
    }
    return cells + 8 + (listed * atoms + 8 + 4 * atoms * (1 + n.room) + 7) / 8 * 8;
}

// Queue, on the stream of the current device, what comes before the first look, and before each what makes its lists if
// an atom has gone too far; give what went wrong (a cudaError_t), or 0.
int start_lists(const CudaNear&, const CudaField&);
int make_lists(const CudaNear&);

}  // namespace gm
