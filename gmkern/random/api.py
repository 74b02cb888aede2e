"""Public functions of the noise contract."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gmkern import _backend, _validate
from gmkern.random import ops, reference
from gmkern.random.streams import USER

_REFERENCE = {"uniform": reference.uniform, "normal": reference.normal, "gumbel": reference.gumbel}
_MOST = 1 << 32  # elements of a row

SampleIds = int | Sequence[int] | np.ndarray | Tensor


def uniform(
    seed: int | Tensor,
    sample_ids: SampleIds,
    step: int | Tensor,
    n: int,
    *,
    stream: int = USER,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    backend: str | None = None,
) -> Tensor:
    """Uniform noise in (0, 1), a pure function of (seed, stream, sample id, step, element).

    Parameters
    ----------
    seed : int, taken modulo 2^64, or an int64 tensor of shape [] or [B].
    sample_ids : which samples: [B] int64 or int32, a sequence or an array of ints from -2^63 to 2^63 - 1, or an int B
        for samples 0 to B - 1.
    step : int in [0, 2^32), or an int64 tensor of shape [] or [B] (taken modulo 2^32).
    n : elements a sample, 0 to 2^32.
    stream : the purpose of the noise: 0, or 256 to 2^31 - 1; smaller numbers are the library's
        (docs/noise.md).
    dtype : float32 (values in [2^-33, 1 - 2^-24]) or float64 (values in [2^-65, 1 - 2^-53]).
    device : where to draw; the tensors' device, or the CPU.
    backend : None, "cpu", "triton" or "reference": all give the same bits.

    Returns
    -------
    Tensor [B, n]. Element e of a sample does not depend on n, on B, or on the other samples.

    Raises
    ------
    TypeError, ValueError : naming the argument, what it got and what it takes.

    Notes
    -----
    Deterministic to the bit on every backend, instruction set and device. Works under ``torch.compile(fullgraph=True)``
    and CUDA graphs; give seed and step as tensors there, so that replays differ. Not differentiable: noise has no
    inputs to differentiate. Method: Philox4x32-10 (Salmon et al., SC 2011); the mapping is in docs/noise.md.

    Examples
    --------
    >>> import gmkern
    >>> alone = gmkern.random.uniform(7, [3], step=0, n=5)
    >>> batch = gmkern.random.uniform(7, [1, 2, 3], step=0, n=5)
    >>> bool((alone[0] == batch[2]).all())
    True
    """
    return _draw("uniform", seed, sample_ids, step, n, stream, dtype, device, backend)


def normal(
    seed: int | Tensor,
    sample_ids: SampleIds,
    step: int | Tensor,
    n: int,
    *,
    stream: int = USER,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    backend: str | None = None,
) -> Tensor:
    """Standard normal noise; arguments, errors and guarantees are those of :func:`uniform`.

    Returns
    -------
    Tensor [B, n]; |value| < 6.8 in float32 and < 9.6 in float64.

    Notes
    -----
    Method: Box and Muller (1958), with the angle's quadrant taken exactly from the word and own polynomials for the
    logarithm, sine and cosine (docs/noise.md).

    Examples
    --------
    >>> import gmkern
    >>> gmkern.random.normal(0, [5], step=2, n=3).shape
    torch.Size([1, 3])
    """
    return _draw("normal", seed, sample_ids, step, n, stream, dtype, device, backend)


def gumbel(
    seed: int | Tensor,
    sample_ids: SampleIds,
    step: int | Tensor,
    n: int,
    *,
    stream: int = USER,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    backend: str | None = None,
) -> Tensor:
    """Standard Gumbel noise; arguments, errors and guarantees are those of :func:`uniform`.

    Returns
    -------
    Tensor [B, n], finite, in [-3.2, 45.1]: the upper tail is resolved to probabilities of 2^-65 in either dtype.

    Notes
    -----
    Method: -log(-log(1 - u)) from the integer word; in float32 a word below 256 is refined by a second one
    (docs/noise.md).

    Examples
    --------
    >>> import torch, gmkern
    >>> logits = torch.tensor([0.0, 1.0, 2.0])
    >>> tokens = (logits + gmkern.random.gumbel(0, 10000, step=0, n=3)).argmax(1)  # draws from softmax(logits)
    >>> shares = tokens.bincount() / 10000
    >>> bool((shares - logits.softmax(0)).abs().max() < 0.02)
    True
    """
    return _draw("gumbel", seed, sample_ids, step, n, stream, dtype, device, backend)


def _draw(
    kind: str,
    seed: int | Tensor,
    sample_ids: SampleIds,
    step: int | Tensor,
    n: int,
    stream: int,
    dtype: torch.dtype,
    device: torch.device | str | None,
    backend: str | None,
) -> Tensor:
    if device is None:
        device = next((a.device for a in (sample_ids, seed, step) if isinstance(a, Tensor)), torch.device("cpu"))
    else:
        device = _validate.device("device", device)
    if isinstance(sample_ids, (int, np.integer)) and not isinstance(sample_ids, bool):
        rows: int | None = _validate.integer("sample_ids", sample_ids, low=0, high=(1 << 63) - 1)
        ids = _validate.sample_ids(None, device, rows=rows)
    else:
        ids = _validate.sample_ids(sample_ids, device)
    rows = ids.shape[0]
    n = _validate.integer("n", n, low=0, high=_MOST)
    stream = _validate.integer("stream", stream, low=0, high=(1 << 31) - 1)
    if dtype not in (torch.float32, torch.float64):
        raise _validate.bad("dtype", str(dtype), "torch.float32 or torch.float64", error=TypeError)
    seeds = _validate.seed(seed, device, rows=rows)
    steps = _validate.step(step, device, rows=rows)

    chosen = _backend.choose(
        f"random.{kind}",
        backend,
        [("cpu", _backend.on_cpu(device)), ("triton", _backend.on_triton(device)), ("reference", None)],
    )
    if chosen == "cpu" or (chosen == "triton" and device.type == "cuda"):
        return ops.noise(seeds, ids, steps, n, stream, ops.KINDS.index(kind), dtype == torch.float64)
    if chosen == "triton":
        from gmkern.random import triton_kernels  # in the interpreter

        return triton_kernels.noise(seeds, ids, steps, n, stream, ops.KINDS.index(kind), dtype == torch.float64)
    return _REFERENCE[kind](seeds, ids, steps, n, stream, dtype)
