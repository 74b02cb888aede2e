"""Train a diffusion sampler of 13 Lennard-Jones atoms on the likelihood of paths.

Clusters of a BAOAB run are dissolved by noise, dy = -y dt + sqrt(2) dw, in steps that grow. Read backwards each such
path is one of a sampler from Gaussian clouds to clusters, dx = f(x, t) dt + sqrt(2) dw, and f is fitted by the
log-likelihood of those paths, `path_log_prob`. f is a force between pairs, learnt in distance and time, and an
equivariant graph network's correction. The energies of what the sampler draws are held against those of a second, long
BAOAB run; log-weights, log exp(-energy / T) p(path dissolved) / p(start) p(path), say how far the paths themselves are
from exact.

Run: python examples/lj13_sampler.py [--quick] [--plot lj13_energies.png]
"""

import argparse
import math

import torch

from gmkern.dynamics import (
    BAOAB,
    EGNN,
    EulerMaruyama,
    Harmonic,
    LennardJones,
    VectorField,
    energy_and_forces,
    path_log_prob,
    simulate,
)

ATOMS, STEPS, TEMPERATURE = 13, 60, 1.0
TARGET = LennardJones() + Harmonic(1.0)
DT = torch.logspace(math.log10(0.15), math.log10(5e-5), STEPS, dtype=torch.float64)[:, None]  # of the sampler
HORIZON = float(DT.sum())
NOISE = math.sqrt(2.0)
DISSOLVING = VectorField(lambda y, t: -y)
LEFT = DT.flip(0).cumsum(0).flip(0).flatten()  # the time from each step's start to the clusters


class Drift(torch.nn.Module):
    """x + 2 F(x, t) / sqrt(time left): F is a pair force (Gaussians of the distance, hats of log time), a trap and an
    EGNN."""

    def __init__(self, distances=32, times=12):
        super().__init__()
        self.register_buffer("centres", torch.linspace(0.2, 3.3, distances))
        self.register_buffer("knots", torch.linspace(math.log(LEFT[-1]), math.log(LEFT[0]), times))
        first, second = torch.triu_indices(ATOMS, ATOMS, 1)
        ends = torch.eye(ATOMS)
        self.register_buffer("pairs", ends[first] - ends[second])  # [P, N]: x_i - x_j of each pair
        self.weight = torch.nn.Parameter(torch.zeros(times, distances))
        self.trap = torch.nn.Parameter(torch.zeros(times))
        self.many = EGNN(16, 2, neighbors=ATOMS - 1)

    def forward(self, x, t):  # x [S, N, 3], t [S]: all systems are at one time
        left = max(HORIZON - float(t[0]), float(LEFT[-1]))
        hats = (1 - (math.log(left) - self.knots).abs() / (self.knots[1] - self.knots[0])).clamp_min(0)
        d = self.pairs @ x
        r = (d * d).sum(-1, keepdim=True).sqrt()
        bumps = torch.exp(-0.5 * ((r - self.centres) / (self.centres[1] - self.centres[0])) ** 2)  # [S, P, distances]
        pull = self.pairs.T @ ((bumps @ (hats @ self.weight))[..., None] * d / r)
        pull = pull - (hats @ self.trap) * x + self.many(x, math.log(left))
        return x + 2 / math.sqrt(left) * pull


def clusters(chains, frames, seed):
    """Configurations [F, 13, 3] of the target's Boltzmann law: chains from a lattice, their first half thrown away."""
    axis = 1.2 * torch.arange(3.0) - 1.2
    start = torch.cartesian_prod(axis, axis, axis)[:ATOMS].repeat(chains, 1, 1)
    path = simulate(TARGET, start, integrator=BAOAB(0.004, TEMPERATURE, 1.0), steps=2 * frames * 100, seed=seed,
                    record_every=100)  # fmt: skip
    return path.frames[frames:].flatten(0, 1)


def energies(x):
    return energy_and_forces(TARGET, x).energy.double()


def draw(drift, spread, systems, seed):
    """Samples, and their paths' log-weights."""
    start = spread * torch.randn(systems, ATOMS, 3, generator=torch.Generator().manual_seed(seed))
    law = {"integrator": EulerMaruyama(DT, NOISE), "backward": DISSOLVING}
    path = simulate(VectorField(drift), start, steps=STEPS, seed=seed, log_prob=True, **law)
    log_start = -0.5 * (start.double() / spread).square().sum((1, 2)) - start[0].numel() * math.log(spread)
    return path.positions, path.log_prob_backward - path.log_prob_forward - log_start - energies(path.positions)


def distance(a, b):
    """Wasserstein-1 between two sets of energies: the mean gap between their quantiles."""
    at = (torch.arange(500, dtype=torch.float64) + 0.5) / 500
    return float((torch.quantile(a, at) - torch.quantile(b, at)).abs().mean())


def report(name, drift, spread, systems, truth):
    with torch.no_grad():
        x, log_weight = draw(drift, spread, systems, seed=10**6)
    found = energies(x)
    middle = log_weight.quantile(0.75) - log_weight.quantile(0.25)
    print(
        f"{name}: median energy {found.median():7.2f} (BAOAB {truth.median():.2f}), distance of histograms "
        f"{distance(found, truth):8.3f}, spread of log-weights {middle:.2f}",
        flush=True,
    )
    return found


def plot(path, drawn):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.5))
    truth = drawn["long BAOAB"]
    edges = torch.linspace(float(truth.min()) - 3, float(truth.max()) + 10, 60).numpy()
    for name, energy in drawn.items():
        beyond = float((energy > edges[-1]).double().mean())
        label = name + (f" ({beyond:.0%} beyond)" if beyond > 0.005 else "")
        weights = torch.full_like(energy, 1 / (len(energy) * (edges[1] - edges[0]))).numpy()
        axes.hist(energy.numpy(), edges, weights=weights, histtype="step", label=label)
    axes.set(xlabel="energy", ylabel="density", title="13 Lennard-Jones atoms in a trap")
    axes.set_ylim(top=1.4 * axes.get_ylim()[1])
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few updates: to see that it runs")
    parser.add_argument("--plot", metavar="FILE", help="write the histograms there (needs matplotlib)")
    given = parser.parse_args()
    updates, batch, tested, frames = (10, 8, 24, 2) if given.quick else (120, 32, 1000, 60)
    torch.manual_seed(0)
    data, truth = clusters(64, frames, seed=1), energies(clusters(64, frames, seed=2))
    dissolved = {"integrator": EulerMaruyama(DT.flip(0), NOISE), "steps": STEPS}
    spread = float(simulate(DISSOLVING, data[:2000], seed=3, **dissolved).positions.std())
    drift = Drift()
    before = report("before training", drift, spread, tested, truth)
    optimiser = torch.optim.Adam(drift.parameters(), lr=0.1)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, updates)
    for update in range(updates):
        chosen = data[torch.randint(len(data), (batch,))]
        path = simulate(DISSOLVING, chosen, seed=100 + update, record_every=1, **dissolved).frames.flip(0)
        likelihood = path_log_prob(
            VectorField(drift), path, integrator=EulerMaruyama(DT, NOISE), backward=DISSOLVING, checkpoint_every=STEPS
        ).forward
        loss = -likelihood.mean() / (STEPS * path[0, 0].numel())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rate.step()
        if update % max(updates // 10, 1) == 0:
            print(f"update {update:3d}: log-likelihood {-loss:8.4f} a step and coordinate", flush=True)
    after = report("after training ", drift, spread, tested, truth)
    if given.plot:
        plot(given.plot, {"long BAOAB": truth, "before training": before, "after training": after})


if __name__ == "__main__":
    main()
