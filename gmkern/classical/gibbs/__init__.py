"""Block Gibbs chains of a restricted Boltzmann machine: the op and its reference."""
