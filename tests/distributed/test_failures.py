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
    "length": "ValueError: max_new_tokens: got -1",
    "in a decoder": "KeyError: 'mine'",
    "in a mask": "KeyError: 'mine'",
    "in a field": "KeyError: 'mine'",
}
# What both are told where they quarrel, or err alike.
BOTH = {
    "width": ("D=3", "D=2"),
    "k": ("k=1", "k=2"),
    "many": ("ValueError: k: got 11; takes an int >= 1 and <= 10",),
    "gradient": ("[True, False]", "[False, False]"),
    "sum": ("[True, False, False, False, False]",),
    "few": ("ValueError: generated: got 1 samples; takes 2 or more",),
    "seed": ("seed=0", "seed=1"),
    "n": ("n=3", "n=4"),
    "noise": ("seed=0", "seed=1"),
    "ids": ("ids ",),
    "ptr": ("system_ptr",),
    "prompts": ("TypeError: prompts: got a tensor of shape []",),
    "one system": ("ValueError: positions: got a tensor of shape [8, 3]", "takes shape [S, N, D]"),
}


def test_a_mistake_of_one_rank_is_told_to_all(tmp_path):
    first, second = start(2, tmp_path, failing.mistakes)
    assert set(first) == {*ALONE, *BOTH}
    for name, said in ALONE.items():
        assert second[name].startswith(said), name
        kind, _, text = said.partition(": ")
        text = said if kind == "KeyError" else text
        assert first[name].startswith("RuntimeError: distributed."), name
        assert f": rank 1: {text}" in first[name]
    for name, words in BOTH.items():
        for told in (first, second):
            assert all(word in told[name] for word in words), (name, told[name])


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
