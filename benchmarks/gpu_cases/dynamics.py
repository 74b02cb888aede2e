"""The path dynamics."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor

from gmkern import dynamics
from gmkern.dynamics.systems import systems_of
from gpu_cases.case import RATE, Case, Mark, with_gradient


def _cloud(systems: int, atoms: int, device: torch.device) -> Tensor:
    """Atoms on a cubic grid at 1.2 sigma, jittered: [S, N, 3]."""
    side = math.ceil(atoms ** (1 / 3))
    grid = torch.cartesian_prod(*[torch.arange(side, dtype=torch.float32)] * 3)[:atoms] * 1.2
    generator = torch.Generator().manual_seed(1)
    return (grid + 0.05 * torch.randn(systems, atoms, 3, generator=generator)).to(device)


_EAGER = "eager PyTorch"


def _langevin(device: torch.device, systems: int, atoms: int, steps: int, rival_steps: int, mark: float) -> Case:
    start = _cloud(systems, atoms, device)
    field = dynamics.LennardJones()
    integrator = dynamics.BAOAB(dt=0.002, temperature=0.5, friction=1.0)

    def run(positions: Tensor, count: int, backend: str | None = None) -> Tensor:
        return dynamics.simulate(
            field, positions, integrator=integrator, steps=count, seed=7, backend=backend
        ).positions

    def check() -> None:
        ours = run(start[:4], 10).cpu()
        truth = run(start[:4].cpu(), 10, "reference")
        # Ten steps of three updates round each coordinate 30 times by eps/2 of its size; sums of forces in another
        # order add dt^2 eps |f|, which is less.
        close = 30 * torch.finfo(torch.float32).eps * float(start.abs().max())
        torch.testing.assert_close(ours, truth, rtol=0, atol=close)

    return Case(
        f"{systems} x {atoms} LJ BAOAB, {steps} steps",
        lambda: run(start, steps),
        check,
        {_EAGER: lambda: run(start, rival_steps, "reference")},
        work=float(steps if systems == 1 else systems * atoms * steps),
        unit="steps" if systems == 1 else "atom-steps",
        rival_scale=steps / rival_steps,
        captures=False,
        marks=(Mark(mark, RATE),),
    )


def langevin_many(device: torch.device, tiny: bool) -> Case:
    return _langevin(device, *((4, 8, 20, 10) if tiny else (4096, 32, 1000, 10)), mark=5e9)


def langevin_one(device: torch.device, tiny: bool) -> Case:
    return _langevin(device, *((1, 27, 20, 10) if tiny else (1, 512, 1000, 10)), mark=1e5)


def _forces(device: torch.device, systems: int, atoms: int) -> Case:
    start = _cloud(systems, atoms, device)
    field = dynamics.LennardJones(cutoff=2.5)

    def check() -> None:
        ours = dynamics.energy_and_forces(field, start[:4]).forces.cpu()
        truth = dynamics.energy_and_forces(field, start[:4].cpu().double(), backend="reference").forces
        # each of a few dozen pairs within the cutoff rounds a few times, the largest pull being a few forces' size
        close = 400 * torch.finfo(torch.float32).eps * float(truth.abs().max())
        torch.testing.assert_close(ours.double(), truth, rtol=0, atol=close)

    return Case(
        f"{systems} x {atoms} LJ cutoff 2.5",
        lambda: dynamics.energy_and_forces(field, start),
        check,
        {_EAGER: lambda: dynamics.energy_and_forces(field, start, backend="reference")},
        work=float(systems) * atoms * (atoms - 1),
        unit="ordered pairs",
        captures=False,
    )


def forces_many(device: torch.device, tiny: bool) -> Case:
    return _forces(device, *((4, 8) if tiny else (4096, 32)))


def forces_one(device: torch.device, tiny: bool) -> Case:
    return _forces(device, *((1, 27) if tiny else (1, 4096)))


def forces_backward(device: torch.device, tiny: bool) -> Case:
    """What training on forces takes: a gradient of forces, to positions."""
    systems, atoms = (4, 8) if tiny else (4096, 32)
    start = _cloud(systems, atoms, device).requires_grad_()
    field = dynamics.LennardJones(cutoff=2.5)

    def gradient(positions: Tensor, backend: str | None) -> Tensor:
        forces = dynamics.energy_and_forces(field, positions, backend=backend).forces
        return torch.autograd.grad(forces.square().sum(), positions)[0]

    def check() -> None:
        few = start[:4].detach().double().requires_grad_()
        ours, truth = gradient(few, None), gradient(few.cpu().detach().requires_grad_(), "reference")
        torch.testing.assert_close(ours.cpu(), truth, rtol=0, atol=1e-9 * float(truth.abs().max()))

    return Case(
        f"{systems} x {atoms} LJ cutoff 2.5",
        lambda: gradient(start, None),
        check,
        {_EAGER: lambda: gradient(start, "reference")},
        work=float(systems) * atoms * (atoms - 1),
        unit="ordered pairs",
        captures=False,
    )


_LAW = dynamics.EulerMaruyama(dt=1e-4, noise=1.0)


def _bound() -> dynamics.Potential:
    return dynamics.LennardJones(cutoff=2.5) + dynamics.Harmonic(0.5)


def path_log_probabilities(device: torch.device, tiny: bool) -> Case:
    """A sampler's rollout with both log-probabilities."""
    systems, atoms, steps, rival_steps = (4, 8, 20, 10) if tiny else (4096, 13, 500, 10)
    start = _cloud(systems, atoms, device)
    field = _bound()

    def run(positions: Tensor, count: int, backend: str | None = None) -> dynamics.Trajectory:
        return dynamics.simulate(
            field, positions, integrator=_LAW, steps=count, seed=7, log_prob=True, backward="bridge", backend=backend
        )

    def check() -> None:
        ours, truth = run(start[:4].double(), 10), run(start[:4].cpu().double(), 10, "reference")
        torch.testing.assert_close(ours.log_prob_forward.cpu(), truth.log_prob_forward, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(ours.log_prob_backward.cpu(), truth.log_prob_backward, rtol=1e-8, atol=1e-8)

    return Case(
        f"{systems} x {atoms} LJ Euler-Maruyama with log-probabilities, {steps} steps",
        lambda: run(start, steps),
        check,
        {_EAGER: lambda: run(start, rival_steps, "reference")},
        work=float(systems * atoms * steps),
        unit="atom-steps",
        rival_scale=steps / rival_steps,
        captures=False,
    )


def stored_paths(device: torch.device, tiny: bool) -> Case:
    """Log-probabilities of paths that were drawn before: simulate's own."""
    systems, atoms, steps, rival_steps = (4, 8, 20, 10) if tiny else (4096, 13, 100, 10)
    start, field = _cloud(systems, atoms, device), _bound()
    drawn = dynamics.simulate(
        field, start, integrator=_LAW, steps=steps, seed=7, log_prob=True, backward="bridge", record_every=1
    )

    def check() -> None:
        again = dynamics.path_log_prob(field, drawn.frames, integrator=_LAW, backward="bridge")
        assert torch.equal(again.forward, drawn.log_prob_forward), "not simulate's bits"
        assert torch.equal(again.backward, drawn.log_prob_backward), "not simulate's bits"

    def run(frames: Tensor, backend: str | None = None) -> dynamics.PathLogProb:
        return dynamics.path_log_prob(field, frames, integrator=_LAW, backward="bridge", backend=backend)

    return Case(
        f"{systems} x {atoms} LJ Euler-Maruyama, {steps} stored steps",
        lambda: run(drawn.frames),
        check,
        {_EAGER: lambda: run(drawn.frames[: rival_steps + 1], "reference")},
        work=float(systems * atoms * steps),
        unit="atom-steps",
        rival_scale=steps / rival_steps,
        captures=False,
    )


def through_a_trajectory(device: torch.device, tiny: bool) -> Case:
    """Gradients through a rollout, recorded and replayed: of the start and of the field's parameters."""
    systems, atoms, steps, rival_steps = (4, 8, 20, 10) if tiny else (4096, 13, 100, 10)
    start = _cloud(systems, atoms, device).requires_grad_()
    depth = torch.tensor(1.0, device=device, requires_grad=True)
    field = dynamics.LennardJones(epsilon=depth, cutoff=2.5)
    integrator = dynamics.BAOAB(dt=0.002, temperature=0.5, friction=1.0)

    def run(positions: Tensor, count: int, backend: str | None = None) -> Tensor:
        of = field if positions.is_cuda == depth.is_cuda else dynamics.LennardJones(depth.cpu(), cutoff=2.5)
        return dynamics.simulate(of, positions, integrator=integrator, steps=count, seed=7, backend=backend).positions

    def check() -> None:
        few = start[:4].detach().double()
        got = [x.clone().requires_grad_() for x in (few, few.cpu())]
        ours, truth = (
            torch.autograd.grad(run(x, 10, backend).square().sum(), x)[0]
            for x, backend in zip(got, (None, "reference"), strict=True)
        )
        torch.testing.assert_close(ours.cpu(), truth, rtol=0, atol=1e-9 * float(truth.abs().max()))

    return Case(
        f"{systems} x {atoms} LJ BAOAB, {steps} steps and back",
        with_gradient(lambda: run(start, steps), [start, depth]),
        check,
        {_EAGER: with_gradient(lambda: run(start, rival_steps, "reference"), [start, depth])},
        work=float(systems * atoms * steps),
        unit="atom-steps",
        rival_scale=steps / rival_steps,
        captures=False,
    )


def _network(device: torch.device, systems: int, atoms: int, trains: bool) -> Case:
    """An EGNN's velocities, as a step of `simulate` takes them, and where it trains the gradients of positions and
    parameters too."""
    start = _cloud(systems, atoms, device)
    torch.manual_seed(5)
    network = dynamics.EGNN(width=64, layers=4, neighbors=atoms - 1).to(device).requires_grad_(trains)
    for layer in network.layers:  # atoms that move by numbers of order 1, as a trained network's do
        torch.nn.init.normal_(layer.move_out.weight, std=0.5)
    parameters = [p for p in network.parameters() if p.requires_grad]

    def run(backend: str | None = None) -> Callable[[], object]:
        bound = network.bind(systems_of(start, None), start, None, None, False, backend)
        times = bound.time_of(0.5, start)

        def both() -> object:
            at = start.clone().requires_grad_()
            return torch.autograd.grad(bound.field(at, times).square().sum(), [at, *parameters])

        return both if trains else lambda: bound.field(start, times)

    def check() -> None:
        few = start[:4]
        wide = copy.deepcopy(network).cpu().double()
        at, exact = few.clone().requires_grad_(), few.cpu().double().requires_grad_()
        ours, truth = network(at, 0.5), wide(exact, 0.5, backend="reference")
        # products of depth 2 x 64 + 1 in each of 4 layers, summed over the atoms, and with a gradient twice as deep; a
        # velocity is the difference of two positions
        slack, far = 8 * 2**-24 * 129 * 4 * atoms, float(start.abs().max())
        size = float(truth.detach().abs().max())
        torch.testing.assert_close(ours.cpu().double(), truth, rtol=0, atol=slack * (far + size))
        slopes = [torch.autograd.grad(v.square().sum(), x)[0].cpu().double() for v, x in ((ours, at), (truth, exact))]
        torch.testing.assert_close(*slopes, rtol=0, atol=slack * (far + float(slopes[1].abs().max())))

    return Case(
        f"{systems} x {atoms} EGNN of width 64, 4 layers, fp32" + (", with gradients" if trains else ""),
        run(),
        check,
        {_EAGER: run("reference")},
        # two products of 64 x 64 a message, and with gradients two more for each
        flop=systems * atoms * (atoms - 1) * 4 * 2 * 2.0 * 64 * 64 * (3 if trains else 1),
        captures=not trains,
        marks=() if trains else (Mark(4.0, _EAGER),),
    )


def network(device: torch.device, tiny: bool) -> Case:
    return _network(device, *((3, 5) if tiny else (256, 32)), trains=False)


def network_backward(device: torch.device, tiny: bool) -> Case:
    return _network(device, *((3, 5) if tiny else (128, 32)), trains=True)


CASES = {
    "dynamics.simulate": langevin_many,
    "dynamics.simulate one system": langevin_one,
    "dynamics.simulate log_prob": path_log_probabilities,
    "dynamics.simulate backward": through_a_trajectory,
    "dynamics.path_log_prob": stored_paths,
    "dynamics.energy_and_forces": forces_many,
    "dynamics.energy_and_forces one system": forces_one,
    "dynamics.energy_and_forces backward": forces_backward,
    "dynamics.EGNN": network,
    "dynamics.EGNN backward": network_backward,
}
