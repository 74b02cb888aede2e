"""A restricted Boltzmann machine of binary units."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmkern import _backend, _progress, _validate
from gmkern.classical.gibbs import ops, reference
from gmkern.random.api import SampleIds, uniform
from gmkern.random.streams import INITIAL

_SLICE = 1 << 26  # multiply-adds of a unit's sum, all chains together, in a call of the kernel: well under a second
_SLICE_OF_GPU = 1 << 36
_MOST = 24  # units that are enumerated


class RBM(nn.Module):
    """p(v, h) = exp(v·a + h·b + h·W v) / Z, v and h of zeros and ones (Smolensky, 1986; Hinton, 2002).

    Parameters
    ----------
    visible, hidden : numbers of units, at least 1.
    seed : an int taken modulo 2^64, of the initial weights, normal of standard deviation 0.01; biases begin at 0.

    Attributes
    ----------
    weight [hidden, visible], visible_bias [visible], hidden_bias [hidden] : parameters, float32.

    Examples
    --------
    >>> from gmkern.classical import RBM
    >>> machine = RBM(visible=6, hidden=3)
    >>> chains = machine.sample(4, steps=10, seed=0)
    >>> chains.shape, machine.log_prob(chains).shape
    (torch.Size([4, 6]), torch.Size([4]))
    """

    def __init__(self, visible: int, hidden: int, *, seed: int = 0):
        super().__init__()
        shape = (_validate.integer("hidden", hidden, low=1), _validate.integer("visible", visible, low=1))
        generator = torch.Generator().manual_seed(_validate.integer("seed", seed) % (1 << 64))
        self.weight = nn.Parameter(0.01 * torch.randn(shape, generator=generator))
        self.visible_bias = nn.Parameter(torch.zeros(shape[1]))
        self.hidden_bias = nn.Parameter(torch.zeros(shape[0]))

    def free_energy(self, visible: Tensor) -> Tensor:
        """F(v) = -v·a - sum_j log(1 + exp(b_j + (W v)_j)), so that p(v) = exp(-F(v)) / Z. [N, visible] -> [N]."""
        visible = self._units("visible", visible, None)
        return -(visible @ self.visible_bias) - F.softplus(F.linear(visible, self.weight, self.hidden_bias)).sum(1)

    def log_partition(self) -> Tensor:
        """log Z by enumeration of the smaller layer, in float64; at most 24 units."""
        weight, ours, theirs = self.weight.double(), self.visible_bias.double(), self.hidden_bias.double()
        if weight.shape[0] < weight.shape[1]:
            weight, ours, theirs = weight.t(), theirs, ours
        units = weight.shape[1]  # of the layer that is enumerated
        if units > _MOST:
            raise ValueError(f"log_partition: got {units} units in the smaller layer; takes at most {_MOST}")
        blocks = []
        for codes in torch.arange(1 << units, device=weight.device).split(1 << 14):
            states = (codes[:, None] >> torch.arange(units, device=weight.device) & 1).double()
            blocks.append(torch.logsumexp(states @ ours + F.softplus(states @ weight.t() + theirs).sum(1), 0))
        return torch.logsumexp(torch.stack(blocks), 0)

    def log_prob(self, visible: Tensor) -> Tensor:
        """Exact log p(v), where :meth:`log_partition` can be had. [N, visible] -> [N]."""
        return -self.free_energy(visible) - self.log_partition().to(self.weight.dtype)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        steps: int,
        seed: int | Tensor,
        sample_ids: SampleIds | None = None,
        initial: Tensor | None = None,
        start_step: int = 0,
        progress: bool = False,
        backend: str | None = None,
    ) -> Tensor:
        """``n`` chains of block Gibbs sampling, each ``steps`` long: the visible units at the end.

        Parameters
        ----------
        n : how many chains, 0 or more.
        steps : sweeps of both layers, at least 1. The law of the end tends to p(v) as they grow.
        seed : int, taken modulo 2^64, or an int64 tensor [] or [n].
        sample_ids : [n] int64 or int32, or a sequence or an array of ints from -2^63 to 2^63 - 1; 0 to n - 1 unless
            given.
        initial : [n, visible] of zeros and ones, where chains begin; fair coins unless given.
        start_step : steps that these chains have taken before: a chain cut in two is the chain in one.
        progress : draw a progress bar on a terminal's standard error.
        backend : None, "cpu" (C++), "triton" (CUDA) or "reference" (plain PyTorch, any device).

        Returns
        -------
        Tensor [n, visible] of zeros and ones, in the parameters' dtype.

        Raises
        ------
        TypeError, ValueError : naming the argument, what it got and what it takes.

        Notes
        -----
        All steps of all chains run in compiled code, in slices. At step t a hidden unit j is 1 where the uniform of
        (seed, ``GIBBS``, id, step 2t, element j) is below its probability, then visible units with step 2t + 1. A
        chain does not depend on the chains beside it or on threads; across instruction sets and devices the
        probabilities may differ in the last bits, and then, rarely, a unit and what follows. On a GPU nothing
        synchronises, and a CUDA graph may hold the call, where the seed is a tensor there and chains begin with coins.
        """
        rows = _validate.integer("n", n, low=0)
        most = (1 << 31) - 1
        count = _validate.integer("steps", steps, low=1, high=most)
        start = _validate.integer("start_step", start_step, low=0, high=most - count)
        device, dtype = self.weight.device, self.weight.dtype
        ids = _validate.sample_ids(sample_ids, device, rows=rows)
        key = _validate.seed(seed, device, rows=rows)
        width = self.weight.shape[1]
        if initial is None:
            visible = (uniform(key, ids, 0, width, stream=INITIAL) < 0.5).to(dtype)
        else:
            visible = self._units("initial", initial, rows)
        why_not = None if dtype == torch.float32 else f"takes float32 parameters, got {dtype}"
        candidates = [
            ("cpu", _backend.on_cpu(device) or why_not),
            ("triton", _backend.on_triton(device) or why_not),
            ("reference", None),
        ]
        chosen = _backend.choose("classical.RBM.sample", backend, candidates)
        chain: Callable[..., tuple[Tensor, Tensor]] = ops.gibbs_chain
        if chosen == "reference":
            chain = reference.gibbs_chain
        elif chosen == "triton" and device.type == "cpu":
            from gmkern.classical.gibbs import triton_kernels  # in the interpreter

            chain = triton_kernels.gibbs_chain
        parameters = (self.weight.contiguous(), self.visible_bias.contiguous(), self.hidden_bias.contiguous())
        slices = _SLICE if device.type == "cpu" else _SLICE_OF_GPU
        length = max(1, slices // max(1, rows * self.weight.numel()))
        with _progress.bar(progress, "sample", count) as show:
            for first in range(0, count, length):
                here = min(length, count - first)
                begin = torch.full((), start + first, device=device)  # filled there: a copy would wait for the device
                visible, _ = chain(*parameters, visible.contiguous(), key, ids, begin, here)
                show(first + here)
        return visible

    def fit(
        self,
        data: Tensor,
        *,
        epochs: int,
        seed: int,
        learning_rate: float = 0.05,
        batch_size: int = 64,
        chains: int = 256,
        gibbs_steps: int = 1,
        weight_decay: float = 1e-4,
        progress: bool = False,
    ) -> RBM:
        """Maximum likelihood by persistent contrastive divergence (Tieleman, ICML 2008).

        The gradient of the mean log-likelihood is the difference of the free energy's gradient on the model's samples
        and on the data; the model's samples are ``chains`` Gibbs chains that go on from batch to batch.

        Parameters
        ----------
        data : [N, visible] of numbers in [0, 1]: states, or probabilities of them.
        epochs : passes over the data, at least 1.
        seed : int: of the order of the data and of the chains.
        learning_rate : of stochastic gradient ascent with momentum 0.5, falling to zero along a line.
        batch_size, chains, gibbs_steps : of each update, at least 1.
        weight_decay : pull of the weights to 0.
        progress : draw a progress bar on a terminal's standard error.

        Returns
        -------
        RBM : itself.
        """
        rows = self._units("data", data, None)
        count = _validate.integer("epochs", epochs, low=1)
        batch = _validate.integer("batch_size", batch_size, low=1)
        width = _validate.integer("chains", chains, low=1)
        sweeps = _validate.integer("gibbs_steps", gibbs_steps, low=1)
        largest = torch.finfo(self.weight.dtype).max
        rate = _validate.number("learning_rate", learning_rate, above=0.0, high=largest)
        decay = _validate.number("weight_decay", weight_decay, low=0.0, high=largest)
        key = _validate.integer("seed", seed)
        updates = count * -(-len(rows) // batch)
        groups: list[dict[str, Any]] = [{"params": [self.weight], "weight_decay": decay}]
        groups += [{"params": [self.visible_bias, self.hidden_bias]}]
        ascent = torch.optim.SGD(groups, lr=rate, momentum=0.5)
        schedule = torch.optim.lr_scheduler.LinearLR(ascent, 1.0, 1.0 / updates, updates)
        fantasy: Tensor | None = None
        done = 0
        with _progress.bar(progress, "train", updates) as show:
            for epoch in range(count):
                order = uniform(key, [epoch], 0, len(rows), stream=INITIAL, dtype=torch.float64)[0].argsort()
                for part in order.to(rows.device).split(batch):
                    fantasy = self.sample(width, steps=sweeps, seed=key, initial=fantasy, start_step=done * sweeps)
                    ascent.zero_grad()
                    loss = self.free_energy(rows[part]).mean() - self.free_energy(fantasy).mean()
                    loss.backward()
                    ascent.step()
                    schedule.step()
                    done += 1
                    show(done)
        return self

    def _units(self, name: str, value: Tensor, rows: int | None) -> Tensor:
        """States [N, visible] on the parameters' device, in their dtype."""
        x = _validate.tensor(name, value, ndim=2, device=self.weight.device).to(self.weight.dtype)
        width = self.weight.shape[1]
        if x.shape[1] != width or (rows is not None and x.shape[0] != rows) or (rows is None and x.shape[0] < 1):
            raise _validate.bad(name, x, f"shape [{'N' if rows is None else rows}, {width}]")
        if not bool(((x >= 0) & (x <= 1)).all()):
            raise _validate.bad(name, "a number outside [0, 1]", "numbers from 0 to 1")
        return x
