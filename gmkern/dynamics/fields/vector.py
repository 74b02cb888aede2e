"""A network as a field of forces or velocities."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from gmkern import _validate


@dataclass(frozen=True, eq=False)
class VectorField:
    """A force or velocity field learnt by a network.

    Parameters
    ----------
    module : called as ``module(x, t)`` with x of shape [S, ...] and t of shape [S], in x's dtype and on its device;
        gives a floating tensor of x's shape, taken to x's dtype. Any callable that leaves x as it is will do.
    start_time : the time at step 0; step n runs from ``start_time + n dt``.

    Examples
    --------
    >>> import torch
    >>> from gmkern.dynamics import Heun, VectorField, simulate
    >>> layer = torch.nn.Linear(3, 2)
    >>> flow = VectorField(lambda x, t: layer(torch.cat([x, t[:, None]], 1)))
    >>> simulate(flow, torch.randn(5, 2), integrator=Heun(0.1), steps=10).positions.shape
    torch.Size([5, 2])
    """

    module: nn.Module
    start_time: float = 0.0

    def __post_init__(self) -> None:
        if not callable(self.module):
            raise _validate.bad("module", self.module, "a module or a function f(x, t)", error=TypeError)
        _validate.number("start_time", self.start_time)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        version = 0 if x.is_inference() else x._version
        out = self.module(x, t)
        if not isinstance(out, Tensor) or out.shape != x.shape or not out.is_floating_point():
            raise _validate.bad("field", out, f"a module that gives a floating tensor of x's shape {list(x.shape)}")
        if version != (0 if x.is_inference() else x._version):
            raise _validate.bad("field", "a module that changes x in place", "one that leaves x as it is")
        return out.to(x.dtype)
