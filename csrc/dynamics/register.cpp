// The dynamics ops. M atoms of S systems lie one after another in positions [M, D]; system s is rows system_ptr[s] to
// system_ptr[s + 1] (int64 [S + 1]). kinds, sizes (how many parameters each has) and parameters (float64) are the terms
// of the potential (csrc/dynamics/field.h), types (int64 [M], or [0] where atoms are all alike) its atoms' types; cell
// and inverse are boxes [0 | 1 | S, D, D] (float64), 0 of them without periodicity.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(gmkern, m) {
    // -> energy [S], forces [M, D]
    m.def(
        "energy_and_forces(Tensor positions, Tensor system_ptr, Tensor types, int[] kinds, int[] sizes, "
        "Tensor parameters, Tensor cell, Tensor inverse) -> (Tensor, Tensor)");
    // -> the gradient of sum(grad_energy * energy) + sum(grad_forces * forces) in the positions and in the parameters
    // (zeros unless with_parameters)
    m.def(
        "energy_and_forces_backward(Tensor positions, Tensor grad_energy, Tensor grad_forces, Tensor system_ptr, "
        "Tensor types, int[] kinds, int[] sizes, Tensor parameters, Tensor cell, Tensor inverse, "
        "bool with_parameters) -> (Tensor, Tensor)");
    // Steps step to step + steps - 1 of an integrator (0 velocity Verlet, 1 BAOAB, 2 Euler-Maruyama, 3 Heun, 4 RK4) of
    // coefficients [1 | steps, 1 | S, 5] float64 (dt, temperature, friction, noise, bridge). A frame is kept whenever
    // phase + steps done is a multiple of record_every (0: never). No system has more than `largest` atoms. log_probs
    // [2, S] float64 are the path's, forward and backward, so far; [2, 0] asks for none. backward is the reversed step
    // (BackwardKind of csrc/dynamics/dynamics.h), and pin [M, D] where a bridge starts, else [0, D].
    // -> positions [M, D], velocities [M, D], frames [F, M, D], energies [F, S], log_probs
    m.def(
        "simulate(Tensor positions, Tensor velocities, Tensor inverse_masses, Tensor system_ptr, "
        "Tensor types, int[] kinds, int[] sizes, Tensor parameters, Tensor cell, Tensor inverse, int integrator, "
        "Tensor coefficients, Tensor seed, "
        "Tensor sample_ids, Tensor step, SymInt steps, SymInt record_every, SymInt phase, SymInt largest, "
        "Tensor log_probs, int backward, Tensor pin) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
    // log_probs [2, S] and the log-probabilities of Euler-Maruyama's steps along frames [steps + 1, M, D]; no
    // system has more than `largest` atoms
    m.def(
        "path_log_prob(Tensor frames, Tensor system_ptr, Tensor types, int[] kinds, int[] sizes, "
        "Tensor parameters, Tensor cell, Tensor inverse, Tensor coefficients, SymInt largest, Tensor log_probs, "
        "int backward, Tensor pin) -> Tensor");
    // All pairs (i, j, shift) with |x_j + shift . cell - x_i| < cutoff, by rising i, then j, then shift. cell and
    // fractions [1 | S, D, D] float64: lattice vectors (rows), and what takes positions to fractions along each;
    // repeats [D] 0 or 1. half keeps one of a pair's two. capacity: how many pairs to leave room for (-1: as many as
    // there are); where they do not fit, nothing is written but row_ptr.
    // -> distance [P], vector [P, D], i [P], j [P] int64, shift [P, D] int32, row_ptr [M + 1] int64; where P is the
    // capacity, the rest is inf, 0, -1, -1, 0
    m.def(
        "neighbor_list(Tensor positions, Tensor system_ptr, Tensor cell, Tensor fractions, int[] repeats, "
        "float cutoff, bool half, SymInt capacity) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
    // One layer of an equivariant graph network of H features an atom. weights, of the positions' dtype, are its linear
    // layers one after another, each [out, in] then its bias: messages [H, 2 H + 1] (of i, of j, squared distance),
    // [H, H]; update [H, 2 H] (features, sum of messages), [H, H]; and where it moves its atoms [H, H] and, without a
    // bias, [1, H]. cutoff: inf for none; neighbors: what sums over neighbours are divided by.
    // -> positions [M, D], features [M, H], sums of messages [M, H]
    m.def(
        "egnn_layer(Tensor positions, Tensor features, Tensor weights, Tensor system_ptr, Tensor cell, "
        "Tensor inverse, bool moves, float cutoff, float neighbors) -> (Tensor, Tensor, Tensor)");
    // -> the gradients of positions, features and weights (none, [0], unless with_weights)
    m.def(
        "egnn_layer_backward(Tensor positions, Tensor features, Tensor weights, Tensor system_ptr, Tensor cell, "
        "Tensor inverse, bool moves, float cutoff, float neighbors, Tensor sums, Tensor grad_positions, "
        "Tensor grad_features, bool with_weights) -> (Tensor, Tensor, Tensor)");
    // x + dt drift + scale noise of the stream of kicks, for x and drift [S, E] and coefficients [1 | S, 2] (dt, scale)
    m.def(
        "euler_maruyama_step(Tensor x, Tensor drift, Tensor coefficients, Tensor seed, Tensor sample_ids, "
        "Tensor step) -> Tensor");
    // [S] float64: log N(to; start + dt drift, scale^2), summed over E; drift [0, E] stands for none
    m.def("gaussian_log_prob(Tensor to, Tensor start, Tensor drift, Tensor coefficients) -> Tensor");
}
