"""Under DDP and FSDP, parameters get the gradient of one process that has the whole batch."""

from __future__ import annotations

import pytest
import torch

from tests.distributed import training
from tests.distributed.processes import start


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    return start(2, tmp_path_factory.mktemp("trainers"), training.both)


@pytest.mark.parametrize("trainer", ["ddp", "fsdp"])
def test_gradients_are_those_of_the_whole_batch(ran, trainer):
    for name, want in training.alone().items():
        for part in ran:
            for got, truth in zip(part[trainer][name], want, strict=True):
                # Sums of up to 25 rows with 50 references (or 6 tokens) and over 16 units, in another order: some 2000
                # roundings of terms that are at most twenty times the largest gradient.
                largest = float(max(t.abs().max() for t in want))
                bound = 2000 * 20 * torch.finfo(truth.dtype).eps / 2 * largest
                torch.testing.assert_close(got, truth, rtol=0, atol=bound)
                assert bound < 0.01 * largest  # a missing half would be seen


@pytest.mark.parametrize("trainer", ["ddp", "fsdp"])
def test_scores_in_a_trainer_are_the_rollouts(ran, trainer):
    for part in ran:
        assert part[trainer]["exact"] == [torch.tensor(True)]


def test_sharded_parameters_are_refused_by_name(ran):
    for part in ran:
        (said,) = part["fsdp"]["sharded"]
        assert said.startswith(
            "ValueError: model: got embedding.weight of type DTensor; takes parameters that are whole"
        )
        assert "DTensor" in part["fsdp"]["scored sharded"][0]
        assert part["fsdp"]["sharded points"] == [
            "ValueError: queries: got a DTensor; takes this rank's own rows: its to_local()"
        ]
