"""Whole steps of a small Transformer in one launch, in Triton: a program takes a few lanes through layers and draws.

No program waits for another: each reads all weights itself, and what it wrote of its own rows. The work is that of
the kernels of one op (``product``, ``place_heads``, attention's ``split_of``, ``candidates``, ``move``), and so are the
bits. After each phase stands a barrier: rows that some of a program's threads wrote to global memory are read by others
of them, and it is the barrier that makes writes seen within a program.
"""

from __future__ import annotations

import triton
import triton.language as tl

from gmkern.decode.attention.triton_kernels import NOTHING, SPLIT_SIZE, filled, fold, mean_of, split_of
from gmkern.decode.generate.triton_kernels import RUNS, move
from gmkern.decode.sample.triton_plain import better, candidates, masses, nobody, spoken
from gmkern.decode.transformer.triton_tiles import ROWS, embedded, norm_rows, place_heads, product, put, statistics

_RUNS = tl.constexpr(RUNS)
_WIDE = tl.constexpr(128)  # numbers of an embedding, and tokens whose masses are added, at once
HELD = tl.constexpr(4)  # lanes of a program: the rest of a tile's rows are empty
COLUMNS = tl.constexpr(25)  # pointers a layer: the fields of device_weights.Layer
_PLACED = tl.constexpr(16)  # heads at once
_GROUP = tl.constexpr(4)  # tiles of attention at once: eight are more than registers hold


@triton.jit
def _pointer(table, column: tl.constexpr, kind: tl.constexpr):
    return tl.multiple_of(tl.load(table + column).to(tl.pointer_type(kind)), 16)


@triton.jit
def _vector(table, column: tl.constexpr):
    return _pointer(table, column, tl.float32)


@triton.jit
def _linear(
    x, norms, weights, gates, out, row, there,
    INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, NORM: tl.constexpr, EPS: tl.constexpr, ACTIVATION: tl.constexpr,
    GATED: tl.constexpr, BIASED: tl.constexpr, SCALED: tl.constexpr, ADDED: tl.constexpr, NARROW: tl.constexpr,
    I: tl.constexpr, O: tl.constexpr,
):  # fmt: skip
    """As ``linear_kernel``, all outputs of one tile of rows."""
    x_at = x + row.to(tl.int64)[:, None] * INPUTS
    mean, size = tl.zeros([ROWS], tl.float32), tl.zeros([ROWS], tl.float32)
    if NORM != "none":
        mean, size = statistics(x_at, there, INPUTS, NORM == "layernorm", EPS, I)
    for first in range(0, OUTPUTS, O):
        o = first + tl.arange(0, O)
        total = product(
            x_at, there, mean, size, norms[0], norms[1], weights[0], weights[1], weights[2], gates[0], gates[1],
            gates[2], o, INPUTS, OUTPUTS, NORM, ACTIVATION, GATED, BIASED, SCALED, 0.0, NARROW, I, O,
        )  # fmt: skip
        put(out, total, row, there, o, OUTPUTS, ADDED)
    tl.debug_barrier()


@triton.jit
def _attend(
    queries, keys, values, slots, state, position, out, lanes, room, window, softcap, scale,
    HEADS: tl.constexpr, KEY_HEADS: tl.constexpr, DIM: tl.constexpr, CAPPED: tl.constexpr, D: tl.constexpr,
    T: tl.constexpr,
):  # fmt: skip
    """As ``attention_kernel`` for one query a lane: a tile a lane and key head, _GROUP tiles at once."""
    of_key: tl.constexpr = HEADS // KEY_HEADS
    r = tl.arange(0, ROWS)
    d = tl.arange(0, D)
    for first_pair in range(0, HELD * KEY_HEADS, _GROUP):
        pair = first_pair + tl.arange(0, _GROUP)
        lane = tl.program_id(0) * HELD + pair // KEY_HEADS
        runs = (pair < HELD * KEY_HEADS) & (lane < lanes)
        runs = runs & (tl.load(state + lane, mask=runs, other=0) == _RUNS)
        length = tl.where(runs, tl.load(position + lane, mask=runs, other=0) + 1, 0)
        end = tl.max(length, 0)
        lowest = tl.min(tl.where(runs, length - 1, 2147483647), 0)
        begin = tl.maximum(lowest - window + 1, 0) // SPLIT_SIZE if window > 0 else 0
        slot = tl.load(slots + lane, mask=runs, other=0).to(tl.int64)[:, None]
        key_head = (pair % KEY_HEADS).to(tl.int64)[:, None]
        at_position = (length - 1)[:, None] + tl.zeros([_GROUP, ROWS], tl.int32)
        for tile in range(0, of_key, ROWS):
            there = runs[:, None] & (tile + r < of_key)[None, :]
            at = (lane.to(tl.int64)[:, None] * HEADS + key_head * of_key + tile + r[None, :]) * DIM
            total = filled(0.0, _GROUP, [ROWS, D])
            mass = filled(0.0, _GROUP, [ROWS])
            peak = filled(NOTHING, _GROUP, [ROWS])
            for part in range(begin, tl.cdiv(end, SPLIT_SIZE)):
                some, some_mass, some_peak = split_of(
                    queries + tl.expand_dims(at, -1), there, keys, values, slots, queries, queries, at_position,
                    at_position, slot, key_head, length[:, None], part * SPLIT_SIZE, end, DIM, 1, room, window, softcap,
                    scale, room.to(tl.int64) * KEY_HEADS * DIM, KEY_HEADS * DIM, DIM,
                    room.to(tl.int64) * KEY_HEADS * DIM, KEY_HEADS * DIM, DIM, 0, 0, 0, 0, 0, 0,
                    False, False, False, CAPPED, D, T, _GROUP,
                )  # fmt: skip
                total, mass, peak = fold(total, mass, peak, some, some_mass, some_peak)
            kept = tl.expand_dims(there, -1) & (d < DIM)
            tl.store(out + tl.expand_dims(at, -1) + d, mean_of(total, mass, peak), mask=kept)
    tl.debug_barrier()


@triton.jit(do_not_specialize=["lanes", "steps", "room", "end_count", "most"])
def steps_kernel(
    table, windows, embedding, places, norm_weight, norm_bias, head, head_scale, turns, keys, values, x, qkv, queries,
    attended, hidden, made, logits, seeds, sample_ids, packed, slots, ends, state, step, token, position, tokens,
    logprobs, raws, kepts, lanes, steps, layers, layer_stride, room, lane_room, end_count, most, softcap, scale,
    WIDTH: tl.constexpr, HEADS: tl.constexpr, KEY_HEADS: tl.constexpr, DIM: tl.constexpr, TURNED: tl.constexpr,
    HIDDEN: tl.constexpr, VOCAB: tl.constexpr, NORM: tl.constexpr, EPS: tl.constexpr, ACTIVATION: tl.constexpr,
    WEIGHT: tl.constexpr, GATED: tl.constexpr, PARALLEL: tl.constexpr, POST: tl.constexpr, HEAD_NORMED: tl.constexpr,
    LEARNED: tl.constexpr, QKV_BIASED: tl.constexpr, OUT_BIASED: tl.constexpr, BIASED: tl.constexpr,
    SCALED: tl.constexpr, HEAD_SCALED: tl.constexpr, CAPPED: tl.constexpr, CAP: tl.constexpr, NARROW: tl.constexpr,
    HEAD_NARROW: tl.constexpr, QKV: tl.constexpr, OUT: tl.constexpr, UP: tl.constexpr, DOWN: tl.constexpr,
    LAST: tl.constexpr, BLOCK: tl.constexpr, D: tl.constexpr, T: tl.constexpr, PARAMS: tl.constexpr,
):  # fmt: skip
    """``steps`` steps of lanes that run, of the first ``lanes``: HELD lanes a program.

    table [layers, COLUMNS] holds the addresses of a layer's weights, windows [layers] what its attention sees (0: all).
    x ... logits are scratch, a row a lane. QKV ... LAST are (I, O) of each linear, BLOCK that of a norm by itself.
    """
    r = tl.arange(0, ROWS)
    row = tl.program_id(0) * HELD + r
    mine = (r < HELD) & (row < lanes)
    heads: tl.constexpr = HEADS + 2 * KEY_HEADS
    attended_width: tl.constexpr = HEADS * DIM
    layer_norm: tl.constexpr = NORM == "layernorm"
    nothing = (norm_weight, norm_bias)
    for _ in range(steps):
        there = mine & (tl.load(state + row, mask=mine, other=0) == _RUNS)
        if tl.max(there.to(tl.int32), 0) > 0:
            last = tl.load(token + row, mask=there, other=0)[:, None]
            now = tl.load(position + row, mask=there, other=0).to(tl.int64)[:, None]
            for start in range(0, WIDTH, _WIDE):
                i = start + tl.arange(0, _WIDE)
                inside = there[:, None] & (i < WIDTH)[None, :]
                put(
                    x, embedded(embedding, places, last, now, i[None, :], inside, WIDTH, LEARNED), row, there, i,
                    WIDTH, False,
                )  # fmt: skip
            tl.debug_barrier()
            for layer in range(layers):
                of = table + layer * COLUMNS
                far = tl.cast(layer, tl.int64) * layer_stride
                layer_keys, layer_values = keys + far, values + far
                of_qkv = (_pointer(of, 2, WEIGHT), _vector(of, 3), _vector(of, 4))
                _linear(
                    x, (_vector(of, 0), _vector(of, 1)), of_qkv, of_qkv, qkv, row, there, WIDTH, heads * DIM, NORM, EPS,
                    "none", False, QKV_BIASED, SCALED, False, NARROW, QKV[0], QKV[1],
                )  # fmt: skip
                for first in range(0, HELD * heads, _PLACED):
                    pair = first + tl.arange(0, _PLACED)
                    lane = tl.program_id(0) * HELD + pair // heads
                    placed = (pair < HELD * heads) & (lane < lanes)
                    placed = placed & (tl.load(state + lane, mask=placed, other=0) == _RUNS)
                    at = tl.load(position + lane, mask=placed, other=0).to(tl.int64)[:, None]
                    slot = tl.load(slots + lane, mask=placed, other=0).to(tl.int64)[:, None]
                    place_heads(
                        qkv, _vector(of, 8), _vector(of, 9), turns, queries, layer_keys, layer_values,
                        lane.to(tl.int64)[:, None], at, slot, pair % heads, placed, room,
                        HEADS, KEY_HEADS, DIM, TURNED, HEAD_NORMED, EPS, D,
                    )  # fmt: skip
                tl.debug_barrier()
                _attend(
                    queries, layer_keys, layer_values, slots, state, position, attended, lanes, room,
                    tl.load(windows + layer), softcap, scale, HEADS, KEY_HEADS, DIM, CAPPED, D, T,
                )  # fmt: skip
                of_out = (_pointer(of, 5, WEIGHT), _vector(of, 6), _vector(of, 7))
                of_gate = (_pointer(of, 14, WEIGHT), _vector(of, 15), _vector(of, 16))
                of_up = (_pointer(of, 17, WEIGHT), _vector(of, 18), _vector(of, 19))
                of_down = (_pointer(of, 20, WEIGHT), _vector(of, 21), _vector(of, 22))
                before = (_vector(of, 12), _vector(of, 13))
                if PARALLEL:  # the MLP reads x as attention did
                    _linear(
                        x, before, of_up, of_gate, hidden, row, there, WIDTH, HIDDEN, NORM, EPS, ACTIVATION, GATED,
                        BIASED, SCALED, False, NARROW, UP[0], UP[1],
                    )  # fmt: skip
                _linear(
                    attended, nothing, of_out, of_out, made if POST else x, row, there, attended_width, WIDTH, "none",
                    EPS, "none", False, OUT_BIASED, SCALED, not POST, NARROW, OUT[0], OUT[1],
                )  # fmt: skip
                if POST:
                    norm_rows(
                        made, _vector(of, 10), _vector(of, 11), x, row, there, WIDTH, layer_norm, EPS, True, BLOCK
                    )
                    tl.debug_barrier()
                if not PARALLEL:
                    _linear(
                        x, before, of_up, of_gate, hidden, row, there, WIDTH, HIDDEN, NORM, EPS, ACTIVATION, GATED,
                        BIASED, SCALED, False, NARROW, UP[0], UP[1],
                    )  # fmt: skip
                _linear(
                    hidden, nothing, of_down, of_down, made if POST else x, row, there, HIDDEN, WIDTH, "none", EPS,
                    "none", False, BIASED, SCALED, not POST, NARROW, DOWN[0], DOWN[1],
                )  # fmt: skip
                if POST:
                    norm_rows(
                        made, _vector(of, 23), _vector(of, 24), x, row, there, WIDTH, layer_norm, EPS, True, BLOCK
                    )
                    tl.debug_barrier()
            norm_rows(x, norm_weight, norm_bias, made, row, there, WIDTH, layer_norm, EPS, False, BLOCK)
            tl.debug_barrier()

            # the head, the best of each tile of logits, and then the masses relative to the greatest of all
            temperature = tl.load(packed + row * PARAMS, mask=there, other=1.0).to(tl.float32)
            seed = tl.load(seeds + row, mask=there, other=0)
            sample_id = tl.load(sample_ids + row, mask=there, other=0)
            at_step = tl.load(step + row, mask=there, other=0)
            made_at = made + row.to(tl.int64)[:, None] * WIDTH
            greatest, best, new = nobody(ROWS)
            for first in range(0, VOCAB, LAST[1]):
                o = first + tl.arange(0, LAST[1])
                total = product(
                    made_at, there, temperature, temperature, norm_weight, norm_bias, head, norm_bias, head_scale, head,
                    norm_bias, head_scale, o, WIDTH, VOCAB, "none", "none", False, False, HEAD_SCALED, CAP, HEAD_NARROW,
                    LAST[0], LAST[1],
                )  # fmt: skip
                put(logits, total, row, there, o, VOCAB, False)
                inside = there[:, None] & (o < VOCAB)[None, :]
                found = candidates(total, first, inside, temperature, seed, sample_id, at_step, LAST[1])
                greatest, best, new = better(greatest, best, new, found[0], found[1], found[2])
            tl.debug_barrier()
            raw = tl.zeros([ROWS, _WIDE], tl.int64)
            mass = tl.zeros([ROWS, _WIDE], tl.int64)
            logits_at = logits + row.to(tl.int64) * VOCAB
            for first in range(0, VOCAB, _WIDE):
                i = first + tl.arange(0, _WIDE)
                inside = there[:, None] & (i < VOCAB)[None, :]
                part = tl.load(logits_at[:, None] + i[None, :], mask=inside, other=0.0)
                more_raw, more = masses(part, inside, temperature, greatest)
                raw += more_raw
                mass += more
            chosen = tl.load(logits_at + new, mask=there & (new < VOCAB), other=0.0)
            drawn = spoken(chosen, new, temperature, greatest, tl.sum(raw, 1), tl.sum(mass, 1))
            move(
                row, there, drawn[0], drawn[1], drawn[2], drawn[3], ends, state, step, token, position, tokens,
                logprobs, raws, kepts, state, lane_room, end_count, most, 0, 0, 1, False,
            )  # fmt: skip
            tl.debug_barrier()
