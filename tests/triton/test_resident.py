"""Whole steps in one launch, in the interpreter: the bits of the kernels of one op each."""

from __future__ import annotations

import pytest
import torch

from gmkern.decode import Guidance, SamplingParams, generate
from gmkern.decode.generate import device, resident
from gmkern.decode.generate.job import make_job
from gmkern.decode.sample import ops
from gmkern.decode.transformer.device import DeviceEngine
from tests.decode.small_models import build, prompts, same


@pytest.fixture
def launches(monkeypatch):
    """How many launches took how many steps each."""
    seen, run = [], resident.Resident.run

    def counted(self, lanes, active, steps):
        seen.append(steps)
        run(self, lanes, active, steps)

    monkeypatch.setattr(resident.Resident, "run", counted)
    # of the kernels of one op each: C++ draws the bits of the Triton sampler (test_sample.py), and sooner
    monkeypatch.setattr(device.sampler, "sample", ops.sample)
    return seen


def both(monkeypatch, model, given, **asked):
    whole = generate(model, given, backend="triton", **asked)
    device._REST.clear()
    with monkeypatch.context() as patch:
        patch.setattr(device, "takes", lambda *_: False)
        return whole, generate(model, given, backend="triton", **asked)


@pytest.mark.parametrize("name", ["gpt2", "neox", "gemma2"])
def test_bits_of_the_graph(name, launches, monkeypatch, generator):
    """Norms, positions, gates, caps, windows, biases, parallel and post norms; five lanes, so two programs."""
    model = build(name, n_layers=2 if name == "gemma2" else 1)
    given = prompts(generator, (3, 1, 18, 2, 4))
    heat = torch.tensor([1.0, 0.0, 0.7, 2.0, 0.3])
    asked = {"max_new_tokens": 3, "seed": 3, "end_token": [4, 5, 6], "params": SamplingParams(temperature=heat)}
    whole, parts = both(monkeypatch, model, given, **asked)
    for field, ours, theirs in zip(whole._fields, whole, parts, strict=True):
        assert torch.equal(ours, theirs), field
    assert launches == [3]
    assert len(set(whole.lengths.tolist())) > 1
    with torch.no_grad():  # the comparison can fail
        model.norm.weight.mul_(1.5)
    other = generate(model, given[:1], sample_ids=[0], backend="triton", **asked | {"params": SamplingParams()})
    assert not torch.equal(other.raw_logprobs[0, :1], whole.raw_logprobs[0, :1])


def test_rows_wait_for_lanes_and_formats(launches, monkeypatch, generator):
    model = build("qwen3", n_layers=1)
    given = prompts(generator, (2, 1, 5))
    asked = {"max_new_tokens": 2, "seed": 3, "batch_size": 2, "weights": "int8"}
    whole, parts = both(monkeypatch, model, given, **asked)
    assert same(whole, parts)
    assert launches == [2, 2]


def test_what_goes_by_the_graph(generator):
    model = build("llama", n_layers=1)
    engine = DeviceEngine(model)
    asked = dict.fromkeys(("n", "end_token", "sample_ids", "batch_size", "guidance", "mask_fn", "logits_processor"))
    asked |= {"max_new_tokens": 2, "params": SamplingParams(0.5), "seed": 1, "epsilon": 0.0, "num_samples": 1}
    asked |= {"pad_token": 0, "progress": False, "bos_id": 1, "vocab_size": 17, "max_seq_len": 64}

    def served(**more):
        return resident.takes(engine, make_job([[1, 2]], **asked | more), 4)

    assert served()
    assert served(params=SamplingParams(torch.tensor([0.5])))
    for more in (
        {"params": SamplingParams(top_k=5)}, {"params": SamplingParams(top_p=torch.tensor([0.9]))},
        {"params": SamplingParams(presence_penalty=0.1)}, {"epsilon": 0.1}, {"guidance": Guidance(1.5, [[2]])},
    ):  # fmt: skip
        assert not served(**more), more
    big = DeviceEngine(build("llama", n_layers=1, d_model=400))  # 5 MB of weights, which take longer than 12 launches
    assert not resident.takes(big, make_job([[1, 2]], **asked), 4)
