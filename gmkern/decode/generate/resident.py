"""Small models on a GPU: when a launch takes lanes through many steps, and what that launch is given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from gmkern import _backend
from gmkern.decode.attention.triton_kernels import tiles_of
from gmkern.decode.generate.job import Job
from gmkern.decode.generate.triton_steps import COLUMNS, HELD, steps_kernel
from gmkern.decode.sample.params import COLUMNS as PARAMS
from gmkern.decode.transformer.device import PLAIN, DeviceEngine
from gmkern.decode.transformer.device_weights import Layer, Linear
from gmkern.decode.transformer.triton_kernels import blocks

if TYPE_CHECKING:
    from gmkern.decode.generate.device import Lanes

WARPS = 8
STAGES = 2  # blocks of weights on their way; three do not fit beside a group of attention's tiles on sm_80
_LAUNCHES = 7  # of a layer's kernels of one op each
_BYTES = 1 << 18  # that a program reads of weights in the time of a launch: about 100 GB/s for about 2.5 us
_WIDTHS = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16, torch.int8: tl.int8}


def takes(engine: DeviceEngine, job: Job, lanes: int) -> bool:
    """Whether steps of ``lanes`` lanes run many to a launch; all else goes by the graph of kernels of one op.

    That is where nothing but temperature shapes the draw and nobody stands in between (hooks never come here); where
    all programs run at once; where each program, which reads all weights itself, needs no longer for it than the
    launches that it saves; and where heads are no wider than a program can hold.
    """
    if not job.plain or engine.config.head_dim > 64:
        return False
    at_once = lanes
    if engine.device.type == "cuda":
        at_once = HELD.value * torch.cuda.get_device_properties(engine.device).multi_processor_count
    matrices = [linear.weight for layer in engine.weights.layers for linear in layer if isinstance(linear, Linear)]
    if len({weight.dtype for weight in matrices}) > 1 or not _aligned(engine):
        return False
    read = sum(weight.nbytes for weight in [*matrices, engine.weights.head.weight])
    return lanes <= at_once and read <= _BYTES * (_LAUNCHES * len(engine.weights.layers) + 5)


def _addresses(layer: Layer) -> list[int]:
    """Of a layer's tensors in the order of its fields; 0 where there is none."""
    widths = (2, 3, 3, 1, 1, 2, 2, 3, 3, 3, 2)
    found: list[int] = []
    for field, width in zip(layer, widths, strict=True):
        parts = (None,) * width if field is None else (field,) if isinstance(field, Tensor) else field
        found += [0 if part is None else part.data_ptr() for part in parts]
    return found


def _aligned(engine: DeviceEngine) -> bool:
    return all(address % 16 == 0 for layer in engine.weights.layers for address in _addresses(layer))


class Resident:
    """Scratch of some lanes, and the addresses of a model's weights."""

    def __init__(self, engine: DeviceEngine, lanes: int):
        self.engine, config, weights = engine, engine.config, engine.weights
        rows = [_addresses(layer) for layer in weights.layers]
        assert all(len(row) == COLUMNS.value for row in rows)
        self.table = torch.tensor(rows, dtype=torch.int64, device=engine.device)
        windows = [window or 0 for window in config.windows]
        self.windows = torch.tensor(windows, dtype=torch.int32, device=engine.device)
        heads, dim = config.n_heads, config.head_dim
        widths = (
            config.d_model, (heads + 2 * config.n_kv_heads) * dim, heads * dim, heads * dim, config.d_ff,
            config.d_model, config.vocab_size,
        )  # fmt: skip
        self.scratch = [torch.empty(lanes, width, dtype=torch.float32, device=engine.device) for width in widths]
        self.constants = self._constants()

    def _constants(self) -> dict[str, Any]:
        config, weights = self.engine.config, self.engine.weights
        layer, head = weights.layers[0], weights.head
        kind = layer.qkv.weight.dtype
        narrow = (torch.bfloat16, torch.int8) if not _backend.triton_interprets() else ()
        return {
            "WIDTH": config.d_model, "HEADS": config.n_heads, "KEY_HEADS": config.n_kv_heads, "DIM": config.head_dim,
            "HIDDEN": config.d_ff, "VOCAB": config.vocab_size, "NORM": config.norm, "EPS": config.norm_eps,
            "ACTIVATION": PLAIN.get(config.activation, config.activation), "WEIGHT": _WIDTHS[kind],
            "GATED": layer.gate is not None, "PARALLEL": config.parallel, "POST": layer.after_mlp is not None,
            "HEAD_NORMED": layer.q_norm is not None, "LEARNED": weights.places is not None,
            "QKV_BIASED": layer.qkv.bias is not None, "OUT_BIASED": layer.out.bias is not None,
            "BIASED": layer.up.bias is not None, "SCALED": layer.qkv.scale is not None,
            "HEAD_SCALED": head.scale is not None, "CAPPED": config.attention_softcap is not None,
            "CAP": config.logit_softcap or 0.0, "NARROW": kind in narrow, "HEAD_NARROW": head.weight.dtype in narrow,
            "QKV": _tile(layer.qkv), "OUT": _tile(layer.out), "UP": _tile(layer.up, layer.gate),
            "DOWN": _tile(layer.down), "LAST": _tile(head), "BLOCK": blocks(config.d_model, config.d_model, 4)["I"],
            "PARAMS": PARAMS, **tiles_of(config.head_dim),
        }  # fmt: skip

    def run(self, lanes: Lanes, active: int, steps: int) -> None:
        """``steps`` steps of the first lanes. Nothing waits for them."""
        config, weights, cache = self.engine.config, self.engine.weights, lanes.cache
        scale = config.head_dim**-0.5 if config.attention_scale is None else config.attention_scale
        bare = weights.norm.weight  # in place of what is not there and not read
        with torch.cuda.device_of(self.table):
            steps_kernel[(triton.cdiv(active, HELD.value),)](
                self.table, self.windows, weights.embedding, bare if weights.places is None else weights.places,
                weights.norm.weight, bare if weights.norm.bias is None else weights.norm.bias, weights.head.weight,
                bare if weights.head.scale is None else weights.head.scale, cache.turns, cache.keys, cache.values,
                *self.scratch, lanes.seed, lanes.sample_id, lanes.params, lanes.slot, lanes.ends, lanes.state,
                lanes.step, lanes.token, lanes.position, *lanes.drawn, active, steps, len(weights.layers),
                cache.keys.stride(0), lanes.shape.room, lanes.shape.lanes, lanes.ends.shape[0], lanes.shape.new_tokens,
                config.attention_softcap or 0.0, scale, TURNED=cache.turns.shape[1], **self.constants, num_warps=WARPS,
                num_stages=STAGES, enable_fp_fusion=False,
            )  # fmt: skip


def _tile(linear: Linear, gate: Linear | None = None) -> tuple[int, int]:
    outputs, inputs = linear.weight.shape
    return tile(inputs, outputs, linear.weight.itemsize * (1 if gate is None else 2))


def tile(inputs: int, outputs: int, size: int) -> tuple[int, int]:
    """(I, O) where one program computes all outputs: the inputs that sums are cut by as in ``blocks``, wide outputs."""
    few = blocks(inputs, outputs, size)
    most = 128 if size <= 4 else 64
    # in the interpreter NumPy multiplies, and may add in another order where there are other outputs
    wide = few["O"] if _backend.triton_interprets() else max(16, min(most, triton.next_power_of_2(outputs)))
    return few["I"], wide
