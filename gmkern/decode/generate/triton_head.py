"""The head and a draw without filters for few rows, in Triton: three launches in which the vocabulary is spread.

``sample_kernel`` gives a row one program, which is right where rows are many. Here each tile of the head leaves its
candidate, masses are added in parts, and a last program a tile of rows puts them together: the same bits, since
candidates are maxima and masses whole numbers. Logits are written once all the same: a mass is relative to the greatest
logit of all, which no tile knows, and to make them again the head's weights would have to be read again.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gmkern import _backend
from gmkern.decode.generate.triton_kernels import RUNS, move
from gmkern.decode.sample.params import COLUMNS
from gmkern.decode.sample.triton_kept import NO_PLACE
from gmkern.decode.sample.triton_plain import best_of, better, candidates, masses, nobody, spoken
from gmkern.decode.transformer.device_weights import Linear
from gmkern.decode.transformer.triton_kernels import STAGES, WARPS, blocks
from gmkern.decode.transformer.triton_tiles import ROWS, product, put

FEW = 64  # rows: half the programs that a large GPU runs at once, as one program a row would leave it
_RUNS = tl.constexpr(RUNS)
_PART = tl.constexpr(1024)  # tokens whose masses a program adds
_WIDE = tl.constexpr(128)  # of them, or of candidates, at once


@triton.jit(do_not_specialize=["rows"])
def head_kernel(
    x, weight, scale, packed, seeds, sample_ids, steps, logits, greatest, best, best_token, rows,
    INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, SCALED: tl.constexpr, CAP: tl.constexpr, NARROW: tl.constexpr,
    PARAMS: tl.constexpr, I: tl.constexpr, O: tl.constexpr,
):  # fmt: skip
    """A tile of logits [rows, OUTPUTS] of normed rows x [rows, INPUTS], and its candidates [rows, tiles]."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = row < rows
    first = tl.program_id(1) * O
    o = first + tl.arange(0, O)
    x_at = x + row.to(tl.int64)[:, None] * INPUTS
    unused = tl.zeros([ROWS], tl.float32)
    total = product(
        x_at, there, unused, unused, x, x, weight, x, scale, weight, x, scale, o, INPUTS, OUTPUTS, "none", "none",
        False, False, SCALED, CAP, NARROW, I, O,
    )  # fmt: skip
    put(logits, total, row, there, o, OUTPUTS, False)
    most, score, token = candidates(
        total, first, there[:, None] & (o < OUTPUTS)[None, :],
        tl.load(packed + row * PARAMS, mask=there, other=1.0).to(tl.float32),
        tl.load(seeds + row, mask=there, other=0), tl.load(sample_ids + row, mask=there, other=0),
        tl.load(steps + row, mask=there, other=0), O,
    )  # fmt: skip
    at = row.to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    tl.store(greatest + at, most, mask=there)
    tl.store(best + at, score, mask=there)
    tl.store(best_token + at, token, mask=there)


@triton.jit(do_not_specialize=["rows", "tiles"])
def masses_kernel(logits, packed, greatest, raw, mass, rows, tiles, vocab, PARAMS: tl.constexpr):
    """The masses of a part of the vocabulary: raw and mass [rows, parts]."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = row < rows
    at = row.to(tl.int64)
    most = tl.full([ROWS, _WIDE], float("-inf"), tl.float32)
    for start in range(0, tiles, _WIDE):
        i = start + tl.arange(0, _WIDE)
        of_tiles = greatest + at[:, None] * tiles + i[None, :]
        inside = there[:, None] & (i < tiles)[None, :]
        most = tl.maximum(most, tl.load(of_tiles, mask=inside, other=float("-inf")))
    top = tl.max(most, 1)
    temperature = tl.load(packed + row * PARAMS, mask=there, other=1.0).to(tl.float32)
    raw_sum = tl.zeros([ROWS, _WIDE], tl.int64)
    mass_sum = tl.zeros([ROWS, _WIDE], tl.int64)
    begin = tl.program_id(1) * _PART
    for start in range(begin, begin + _PART, _WIDE):
        i = start + tl.arange(0, _WIDE)
        inside = there[:, None] & (i < vocab)[None, :]
        x = tl.load(logits + at[:, None] * vocab + i[None, :], mask=inside, other=0.0)
        more_raw, more = masses(x, inside, temperature, top)
        raw_sum += more_raw
        mass_sum += more
    to = at * tl.num_programs(1) + tl.program_id(1)
    tl.store(raw + to, tl.sum(raw_sum, 1), mask=there)
    tl.store(mass + to, tl.sum(mass_sum, 1), mask=there)


@triton.jit(do_not_specialize=["rows", "tiles", "parts", "end_count", "most"])
def finish_kernel(
    logits, packed, greatest, best, best_token, raw, mass, ends, state, step, token, position, tokens, logprobs, raws,
    kepts, rows, tiles, parts, vocab, room, end_count, most, PARAMS: tl.constexpr,
):  # fmt: skip
    """The best of the candidates, the sums of the parts, and :func:`move` of lanes that run."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = row < rows
    at = row.to(tl.int64)
    top, score, new = nobody(ROWS)
    for start in range(0, tiles, _WIDE):
        i = start + tl.arange(0, _WIDE)
        inside = there[:, None] & (i < tiles)[None, :]
        of = at[:, None] * tiles + i[None, :]
        found = best_of(
            tl.load(greatest + of, mask=inside, other=float("-inf")),
            tl.load(best + of, mask=inside, other=float("-inf")),
            tl.load(best_token + of, mask=inside, other=NO_PLACE),
        )
        top, score, new = better(top, score, new, found[0], found[1], found[2])
    raw_sum = tl.zeros([ROWS, _WIDE], tl.int64)
    mass_sum = tl.zeros([ROWS, _WIDE], tl.int64)
    for start in range(0, parts, _WIDE):
        i = start + tl.arange(0, _WIDE)
        inside = there[:, None] & (i < parts)[None, :]
        of = at[:, None] * parts + i[None, :]
        raw_sum += tl.load(raw + of, mask=inside, other=0)
        mass_sum += tl.load(mass + of, mask=inside, other=0)
    temperature = tl.load(packed + row * PARAMS, mask=there, other=1.0).to(tl.float32)
    chosen = tl.load(logits + at * vocab + new, mask=there & (new < vocab), other=0.0)
    drawn = spoken(chosen, new, temperature, top, tl.sum(raw_sum, 1), tl.sum(mass_sum, 1))
    runs = there & (tl.load(state + row, mask=there, other=0) == _RUNS)
    move(
        row, runs, drawn[0], drawn[1], drawn[2], drawn[3], ends, state, step, token, position, tokens, logprobs, raws,
        kepts, state, room, end_count, most, 0, 0, 1, False,
    )  # fmt: skip


def draw(
    normed: Tensor,
    head: Linear,
    cap: float,
    params: Tensor,
    noise: tuple[Tensor, Tensor, Tensor],
    moving: tuple[Tensor, ...],
    kept: tuple[Tensor, ...],
) -> None:
    """A token for each of the rows normed [rows, d_model], which are the first lanes, and the lanes moved on.

    ``params`` (packed) and ``noise`` (seeds, sample ids, steps) are of those rows; ``moving`` and ``kept`` as in
    ``advance``.
    """
    rows, (vocab, width) = normed.shape[0], head.weight.shape
    sizes = blocks(width, vocab, head.weight.itemsize)
    above, tiles, parts = triton.cdiv(rows, ROWS.value), triton.cdiv(vocab, sizes["O"]), triton.cdiv(vocab, _PART.value)
    logits = normed.new_empty(rows, vocab)
    greatest, best = normed.new_empty(2, rows, tiles)
    token = normed.new_empty(rows, tiles, dtype=torch.int32)
    raw, mass = normed.new_empty(2, rows, parts, dtype=torch.int64)
    narrow = head.weight.dtype in (torch.bfloat16, torch.int8) and not _backend.triton_interprets()
    exact = {"PARAMS": COLUMNS, "num_warps": WARPS, "enable_fp_fusion": False}
    with torch.cuda.device_of(normed):
        head_kernel[(above, tiles)](
            normed, head.weight, normed if head.scale is None else head.scale, params, *noise, logits, greatest, best,
            token, rows, INPUTS=width, OUTPUTS=vocab, SCALED=head.scale is not None, CAP=cap, NARROW=narrow, **sizes,
            num_stages=STAGES, **exact,
        )  # fmt: skip
        masses_kernel[(above, parts)](logits, params, greatest, raw, mass, rows, tiles, vocab, **exact)
        finish_kernel[(above,)](
            logits, params, greatest, best, token, raw, mass, *moving, *kept, rows, tiles, parts, vocab,
            moving[3].shape[1], moving[0].shape[0], kept[0].shape[1], **exact,
        )  # fmt: skip
