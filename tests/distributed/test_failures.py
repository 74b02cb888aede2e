"""A rank that errs, dies or stalls is an error on the others, and no rank waits for ever."""

from __future__ import annotations

from tests.distributed import failing
from tests.distributed.processes import start

# What rank 1 raises, where it alone errs: rank 0 is told the same as a RuntimeError that names rank 1.
ALONE = {
    "nan": "ValueError: queries: got nan at [2, 1]; takes finite numbers",
    "dtype": "TypeError: queries: got a tensor of shape [5, 3] and dtype int32; takes dtype float32",
    "metric": "ValueError: metric: got 'far'",
    "backend": "ValueError: neighbors.knn: backend 'cuda' cannot serve this call (cuda: not a backend of this op",
    "cosine": "ValueError: references: got a row of zeros at [0]",
    "self": "ValueError: exclude_self: got True with 5 queries and 4 references",
    "strict": "TypeError: strict: got 'no' (str); takes True or False",
    "radii": "ValueError: radii: got a tensor of shape [4]",
    "bandwidth": "ValueError: bandwidth, as the kernel's rate: got nan at position 2",
    "log weights": "ValueError: weights: got -1 at position 3",
    "report": "ValueError: train: got nan at [2, 1]",
    "progress": "TypeError: progress: got 0 (int)",
    "in a decoder": "KeyError: 'mine'",
    "in a mask": "KeyError: 'mine'",
    "in a field": "KeyError: 'mine'",
}
# What both are told where they err alike.
BOTH = {
    "many": "ValueError: k: got 11; takes an int >= 1 and <= 10",
    "few": "ValueError: generated: got 1 samples; takes 2 or more",
    "prompts": "TypeError: prompts: got a tensor of shape []",
    "one system": "ValueError: positions: got a tensor of shape [8, 3] and dtype float32; takes shape [S, N, D]",
    "ptr": "ValueError: system_ptr",
}
# The argument in which they quarrel, and what each has.
GRADIENTS = "gradients of (queries, references, bandwidth, weights, log_weights)"
QUARRELS = {
    "width": ("D", "3", "2"),
    "k": ("k", "1", "2"),
    "gradient": ("gradients of (queries, references)", "[True, False]", "[False, False]"),
    "sum": (GRADIENTS, "[True, False, False, False, False]", "[False, False, False, False, False]"),
    "seed": ("seed", "0", "1"),
    "n": ("n", "3", "4"),
    "noise": ("seed", "0", "1"),
    "radius": ("radii", "1.0", "2.0"),
    "rate": ("bandwidth", "1.0", "2.0"),
    "alpha": ("alpha", "1.0", "2.0"),
    "picture": ("image_shape", "None", "[3, 1]"),
    "latent_dim": ("latent_dim", "2", "3"),
    "temperature": ("params.temperature", "1.0", "2.0"),
    "length": ("max_new_tokens", "1", "-1"),
    "own prompts": ("prompts", "2 items, checksum ", "2 items, checksum "),
    "steps": ("steps", "3", "4"),
    "time": ("integrator.dt", "0.1", "1.1"),
    "depth": ("field[0].epsilon", "1.0", "2.0"),
    "own systems": ("positions", "a tensor of shape [1, 8, 3]", "a tensor of shape [1, 8, 3]"),
    "record": ("record_every", "nothing", "1"),
    "ids": ("sample_ids", "a tensor of shape [2] and dtype int64, checksum ", "a tensor of shape [2]"),
}


def test_a_mistake_of_one_rank_is_told_to_all(tmp_path):
    first, second = start(2, tmp_path, failing.mistakes)
    assert set(first) == {*ALONE, *BOTH, *QUARRELS, "call"}
    for name, said in ALONE.items():
        assert second[name].startswith(said), name
        kind, _, text = said.partition(": ")
        text = said if kind == "KeyError" else text
        assert first[name].startswith("RuntimeError: distributed."), name
        assert f": rank 1: {text}" in first[name]
    for told in (first, second):
        for name, said in BOTH.items():
            assert told[name].startswith(said), (name, told[name])
        for name, (argument, one, other) in QUARRELS.items():
            of_first, _, of_other = told[name].partition(" on rank 0 and ")
            assert of_first.startswith(f"ValueError: {argument}: got {one}"), (name, told[name])
            assert of_other.startswith(other), (name, told[name])
            assert " on rank 1; takes one value on all ranks of distributed." in of_other, (name, told[name])
        for call in ("rank 0 is in distributed.knn of ", "rank 1 in distributed.log_kernel_sum of "):
            assert told["call"].startswith("RuntimeError")
            assert call in told["call"]


def test_a_dead_rank_is_told_in_each_collective(tmp_path):
    *others, dead = start(len(failing.NAMES) + 1, tmp_path, failing.dies)
    assert dead is None
    for name, found in zip(failing.NAMES, others, strict=True):
        assert found["told"].startswith(f"RuntimeError: distributed.{name}: a rank died, or did not come")
        assert found["seconds"] < 100  # by the connection, not by the timeout of 120 s


def test_a_stalled_rank_is_told_within_the_timeout(tmp_path):
    *others, last = start(len(failing.NAMES) + 1, tmp_path, failing.stalls)
    for name, found in zip(failing.NAMES, others, strict=True):
        assert found["told"].startswith(f"RuntimeError: distributed.{name}: a rank died, or did not come")
        assert found["seconds"] > failing.TIMEOUT / 2  # it was waited for
    assert "RuntimeError: distributed.generate: " in last["told"]
