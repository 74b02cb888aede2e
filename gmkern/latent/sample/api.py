"""The public function that samples a decoder."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gmkern import _backend, _progress, _validate
from gmkern.latent.sample import layers, ops
from gmkern.random.api import SampleIds, normal
from gmkern.random.streams import LATENT

_SLICE = 1 << 16  # samples of a call of the kernel: a fraction of a second


def sample(
    decoder: nn.Module,
    n: int,
    *,
    seed: int | Tensor,
    latent_dim: int | None = None,
    sample_ids: SampleIds | None = None,
    batch_size: int = 1024,
    progress: bool = False,
    backend: str | None = None,
) -> Tensor:
    """``n`` samples ``decoder(z)``, each of its own standard normal vector z.

    Parameters
    ----------
    decoder : a module, z [B, latent_dim] -> [B, ...]. An ``nn.Sequential`` (nested or not) of Linear layers, each with
        at most one activation (ReLU, LeakyReLU, ELU, GELU, SiLU, Tanh, Sigmoid), with BatchNorm1d and Dropout in eval
        mode and a closing Unflatten, with float32 parameters on one device, runs in one kernel; any other module runs
        in PyTorch on the same noise.
    n : how many samples, 0 or more.
    seed : int, taken modulo 2^64, or an int64 tensor [] or [n].
    latent_dim : numbers in z. Taken from the decoder where its first module is a Linear; needed elsewhere.
    sample_ids : [n] int64 or int32, or a sequence or an array of ints from -2^63 to 2^63 - 1; 0 to n - 1 unless
        given.
    batch_size : samples that a decoder in PyTorch makes at a time, which bounds memory.
    progress : draw a progress bar on a terminal's standard error.
    backend : None, "cpu" or "triton" (the kernels), or "reference" (PyTorch, any device and decoder).

    Returns
    -------
    Tensor [n, ...] in the decoder's dtype.

    Raises
    ------
    TypeError, ValueError : naming the argument; a kernel's name with a decoder that it cannot serve says why.

    Notes
    -----
    z of sample i is the float32 (float64 for a float64 decoder) normal noise of (seed, ``LATENT``, sample_ids[i],
    step 0), and the kernel's sums over inputs are in one order, so that a sample has the same bits alone, in any batch
    and for any number of threads. Modes, ``no_grad`` and devices are the caller's: a decoder in training mode runs as
    it is. Gradients reach the decoder's parameters, through the kernel (which draws the noise again in blocks) or
    through PyTorch's checkpoints: memory does not grow with n beyond the samples. Works under
    ``torch.compile(fullgraph=True)`` where the kernel serves and n is at most 65,536, and in CUDA graphs (with tensors
    for seed and sample_ids, so that replays differ).

    Examples
    --------
    >>> import torch
    >>> from gmkern import latent
    >>> decoder = torch.nn.Sequential(torch.nn.Linear(16, 128), torch.nn.GELU(), torch.nn.Linear(128, 64))
    >>> with torch.no_grad():
    ...     latent.sample(decoder, n=1000, seed=0).shape
    torch.Size([1000, 64])
    """
    if not isinstance(decoder, nn.Module):
        raise _validate.bad("decoder", decoder, "a torch.nn.Module", error=TypeError)
    _validate.held("decoder", decoder)
    rows = _validate.integer("n", n, low=0)
    batch = _validate.integer("batch_size", batch_size, low=1)
    parameter = next(decoder.parameters(), torch.empty(0))
    ids = _validate.sample_ids(sample_ids, parameter.device, rows=rows)
    key = _validate.seed(seed, parameter.device, rows=rows)
    found, why_not = None, None
    try:
        found = layers.read(decoder)
    except layers.NotLayers as reason:
        why_not = str(reason)
    dim = _latent_dim(decoder, latent_dim)
    candidates = [
        ("cpu", why_not or _backend.on_cpu(parameter.device)),
        ("triton", why_not or _on_triton(parameter)),
        ("reference", None),
    ]
    chosen = _backend.choose("latent.sample", backend, candidates)
    step = batch if chosen == "reference" else _SLICE
    network: Callable[..., Tensor] = ops.latent_mlp
    if chosen == "triton" and parameter.device.type == "cpu":
        from gmkern.latent.sample import triton_kernels  # in the interpreter

        network = triton_kernels.latent_mlp

    def drawn(part: slice) -> Tensor:
        some, mine = ids[part], key[part] if key.ndim else key
        if chosen == "reference" or found is None:
            return _in_pytorch(decoder, mine, some, dim, parameter.dtype)
        _validate.no_tangents("latent.sample", *found.weights, *found.biases)
        weights = [weight.contiguous() for weight in found.weights]
        biases = [bias.contiguous() for bias in found.biases]
        flat = network(mine, some, weights, biases, found.activations, found.slopes)
        return flat.reshape(len(some), *found.shape)

    with _progress.bar(progress, "sample", rows) as show:
        first = drawn(slice(0, step))
        show(min(step, rows))
        parts, out = [first], None
        if rows > step and not first.requires_grad:  # one tensor from the start, so that samples are held once
            out = first.new_empty((rows, *first.shape[1:]))
            out[:step] = first
        for begin in range(step, rows, step):
            part = slice(begin, begin + step)
            if out is None:
                parts.append(drawn(part))
            else:
                out[part] = drawn(part)
            show(min(begin + step, rows))
    if out is not None:
        return out
    return first if len(parts) == 1 else torch.cat(parts)


def _on_triton(parameter: Tensor) -> str | None:
    """Why the Triton kernels cannot serve a decoder's layers, or None."""
    if parameter.device.type == "cpu" and torch.is_grad_enabled() and parameter.requires_grad:
        return "takes CUDA tensors where a gradient is wanted"
    return _backend.on_triton(parameter.device)


def _in_pytorch(decoder: nn.Module, seed: Tensor, ids: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    """Samples of any decoder; where gradients are asked for, its layers' values are made again in the backward pass."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32

    def decode(seed: Tensor, ids: Tensor) -> Tensor:
        return decoder(normal(seed, ids, 0, dim, stream=LATENT, dtype=wide).to(dtype))

    wanted = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in decoder.parameters())
    x = checkpoint(decode, seed, ids, use_reentrant=False) if wanted else decode(seed, ids)
    if not isinstance(x, Tensor) or x.ndim < 1 or x.shape[0] != len(ids):
        raise _validate.bad("decoder", f"{_validate.describe(x)} from it", f"a tensor [{len(ids)}, ...]")
    return x


def _latent_dim(decoder: nn.Module, given: int | None) -> int:
    """Numbers in z, from the first module that computes where that says so."""
    first = next((module for module in decoder.modules() if not list(module.children())), None)
    inputs = first.in_features if isinstance(first, nn.Linear) else None
    if given is None:
        if inputs is None:
            raise _validate.bad("latent_dim", None, "an int where the decoder does not begin with a Linear")
        return inputs
    dim = _validate.integer("latent_dim", given, low=1)
    if inputs is not None and dim != inputs:
        raise _validate.bad("latent_dim", str(dim), f"{inputs}, which the decoder's first Linear takes")
    return dim
