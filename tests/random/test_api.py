"""The public functions: arguments, bad input, operator checks, compilation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import gmkern
from gmkern.random import ops


def test_sample_ids_as_count_sequence_array_or_tensor():
    expected = gmkern.random.uniform(1, torch.arange(3), 0, 4)
    assert torch.equal(gmkern.random.uniform(1, 3, 0, 4), expected)
    assert torch.equal(gmkern.random.uniform(1, [0, 1, 2], 0, 4), expected)
    assert torch.equal(gmkern.random.uniform(1, np.arange(3, dtype=np.int32), 0, 4), expected)
    assert torch.equal(gmkern.random.uniform(1, torch.arange(6)[::2] // 2, 0, 4), expected)


def test_an_integer_seed_is_taken_modulo_2_64():
    expected = gmkern.random.uniform(-1, 2, 0, 4)
    assert torch.equal(gmkern.random.uniform((1 << 64) - 1, 2, 0, 4), expected)
    assert torch.equal(gmkern.random.uniform(torch.tensor(-1), 2, 0, 4), expected)
    assert torch.equal(gmkern.random.uniform((1 << 64) + 5, 2, 0, 4), gmkern.random.uniform(5, 2, 0, 4))


def test_per_row_seeds_and_steps():
    together = gmkern.random.normal(torch.tensor([3, 4]), [8, 9], torch.tensor([0, 5]), 6)
    assert torch.equal(together[0], gmkern.random.normal(3, [8], 0, 6)[0])
    assert torch.equal(together[1], gmkern.random.normal(4, [9], 5, 6)[0])


@pytest.mark.parametrize("n", [0, 5])
def test_empty_batches(n):
    for ids in (0, [], (), torch.empty(0, dtype=torch.int64)):
        assert gmkern.random.gumbel(0, ids, 0, n).shape == (0, n)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"seed": 1.5}, TypeError, "seed: got 1.5"),
        ({"seed": torch.tensor([1, 2])}, ValueError, r"seed: got .*takes one value or shape \[3\]"),
        ({"seed": torch.tensor(1.0)}, TypeError, "seed: .*takes dtype int64"),
        ({"sample_ids": -1}, ValueError, "sample_ids: got -1"),
        ({"sample_ids": 1 << 63}, ValueError, "sample_ids: got 9223372036854775808"),
        ({"sample_ids": [0.5]}, TypeError, r"sample_ids: got 0.5 \(float\) in it; takes ints from -2\^63 to 2\^63 - 1"),
        ({"sample_ids": [1 << 63, -1]}, ValueError, "sample_ids: got 9223372036854775808 in it; takes ints from"),
        ({"sample_ids": [-1 - (1 << 63)]}, ValueError, "sample_ids: got -9223372036854775809 in it; takes ints from"),
        ({"sample_ids": np.array([1 << 63], np.uint64)}, ValueError, "sample_ids: got 9223372036854775808 in it"),
        ({"sample_ids": [[1], [2, 3]]}, TypeError, r"sample_ids: got \[1\] \(list\) in it"),
        ({"sample_ids": [True]}, TypeError, r"sample_ids: got True \(bool\) in it"),
        ({"sample_ids": torch.arange(3, dtype=torch.int16)}, TypeError, "sample_ids: .*takes dtype int64, int32"),
        ({"sample_ids": 0.5}, TypeError, "sample_ids: got 0.5 .*takes an int64 or int32 tensor, or an array or a seq"),
        ({"sample_ids": torch.zeros(2, 2, dtype=torch.int64)}, ValueError, "sample_ids: .*takes 1 dimension"),
        ({"step": -1}, ValueError, "step: got -1"),
        ({"step": 1 << 32}, ValueError, "step: got 4294967296"),
        ({"n": -1}, ValueError, "n: got -1"),
        ({"n": True}, TypeError, "n: got True"),
        ({"n": (1 << 32) + 1}, ValueError, "n: got 4294967297"),
        ({"stream": -1}, ValueError, "stream: got -1"),
        ({"stream": 1 << 31}, ValueError, "stream: got 2147483648"),
        ({"device": 2**70}, ValueError, "device: got 1180591620717411303424"),
        ({"dtype": torch.float16}, TypeError, "dtype: got torch.float16"),
        ({"backend": "gpu"}, ValueError, "backend: got 'gpu'"),
        ({"backend": "cuda"}, ValueError, "random.normal: backend 'cuda' cannot serve"),
    ],
)
def test_bad_input_names_the_argument(arguments, error, words):
    call = {"seed": 0, "sample_ids": 3, "step": 0, "n": 4} | arguments
    with pytest.raises(error, match=words):
        gmkern.random.normal(call.pop("seed"), call.pop("sample_ids"), call.pop("step"), call.pop("n"), **call)


def test_the_op_itself_refuses_what_it_cannot_read():
    one, ids = torch.tensor(0), torch.arange(3)
    for bad in (
        (torch.tensor([0, 1]), ids, one, 4, 0, 0, False),
        (one.float(), ids, one, 4, 0, 0, False),
        (one, torch.arange(6)[::2], one, 4, 0, 0, False),
        (one, ids, one, -4, 0, 0, False),
        (one, ids, one, 4, 0, 3, False),
        (one, ids, one, 4, -1, 0, False),
    ):
        with pytest.raises(RuntimeError, match=r"gmkern: .*(takes|got)"):
            ops.noise(*bad)


@pytest.mark.parametrize("fp64", [False, True])
def test_opcheck(fp64):
    arguments = (torch.tensor([1, 2, 3]), torch.arange(3), torch.tensor(0), 7, 0, 1, fp64)
    torch.library.opcheck(torch.ops.gmkern.noise.default, arguments)


def test_compiles_whole_and_replays_differ():
    @torch.compile(fullgraph=True, backend="aot_eager")
    def draw(seed, step, ids):
        return gmkern.random.normal(seed, ids, step, 5) * 2

    ids, drawn = torch.arange(4), []
    for step in range(12):  # more steps than a guard on an int would survive
        drawn.append(draw(torch.tensor(3), torch.tensor(step), ids))
        assert torch.equal(drawn[-1], gmkern.random.normal(3, ids, step, 5) * 2)
    assert len({tuple(x.flatten().tolist()) for x in drawn}) == 12
