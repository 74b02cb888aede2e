"""generate on a real GPU: the reference's logits and samples, rows by themselves, graphs that follow the weights."""

from __future__ import annotations

import copy

import pytest
import torch

from gmkern.decode import Guidance, SamplingParams, Transformer, TransformerConfig, generate, score
from tests.decode.small_models import build, prompts, same

pytestmark = pytest.mark.gpu


def on_gpu(name="llama", dtype=torch.float32, **more):
    return build(name, **more).to("cuda", dtype)


def engine_logits(model, tokens):
    """[B, T, V]: a prompt of all but the last two tokens, and then token by token."""
    from gmkern.decode.transformer.device import DeviceEngine

    engine, (rows, length) = DeviceEngine(model), tokens.shape
    cache, slots = engine.new_cache(rows, length), torch.arange(rows, dtype=torch.int32, device="cuda")
    parts = [
        engine.run(cache, tokens[:, begin:end], slots, torch.full_like(slots, begin))
        for begin, end in ((0, length - 2), (length - 2, length - 1), (length - 1, length))
    ]
    return engine.logits(engine.normed(torch.cat(parts, 1).flatten(0, 1))).unflatten(0, (rows, length))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["gpt2", "qwen2", "qwen3", "neox", "gemma2", "geglu", "relu", "wide"])
@torch.no_grad()
def test_logits(name, dtype):
    model = on_gpu(name, dtype)
    tokens = torch.randint(0, 17, (40, 30), device="cuda")
    ours, truth = engine_logits(model, tokens), copy.deepcopy(model).double()(tokens)
    # float32 throughout, but for keys and values in bfloat16 where the weights are: 2^-9 of each
    far = (2**-6 if dtype == torch.bfloat16 else 2**-15) * (1 + float(truth.abs().max()))
    assert float((ours - truth).abs().max()) < far
    for row in (0, 17, 39):
        assert torch.equal(engine_logits(model, tokens[row : row + 1])[0], ours[row])
    assert torch.equal(model.head_weight, copy.deepcopy(model).head_weight)  # read where it lies, and left alone


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_depends_on_itself_alone(dtype, generator):
    model = Transformer(TransformerConfig(1000, 3, 8, 256, 400, n_kv_heads=2, bos_id=0)).to("cuda", dtype)
    given = prompts(generator, torch.randint(1, 40, (300,), generator=generator).tolist(), vocab=1000)
    asked = {"max_new_tokens": 300, "seed": 11, "end_token": list(range(10)), "params": SamplingParams(top_p=0.95)}
    batch = generate(model, given, **asked)
    assert same(batch, generate(model, given, batch_size=37, **asked))
    for row in (0, 100, 299):
        alone = generate(model, given[row : row + 1], sample_ids=[row], **asked)
        assert same([field[0] for field in alone], [field[row] for field in batch])
    other = generate(model, given[:1], sample_ids=[5], **asked)  # the comparison can fail
    assert not torch.equal(other.tokens[0], batch.tokens[0])


@pytest.mark.parametrize("case", ["plain", "penalties", "guided"])
def test_what_the_reference_draws(case, generator):
    model = on_gpu()
    given = prompts(generator, (3, 1, 7, 2, 9, 4))
    asked = {"max_new_tokens": 20, "seed": 7, "end_token": [4, 5]}
    asked |= {
        "plain": {"params": SamplingParams(top_k=torch.tensor([0, 5, 0, 3, 0, 0], device="cuda"), top_p=0.95)},
        "penalties": {"params": SamplingParams(repetition_penalty=1.5, presence_penalty=0.5), "epsilon": 0.1},
        "guided": {"guidance": Guidance(1.5, [[2, 3]])},
    }[case]
    ours, truth = generate(model, given, **asked), generate(model, given, backend="reference", **asked)
    for name in ("tokens", "lengths", "finished", "mask"):  # with 17 tokens and this seed no draw is a near tie
        assert torch.equal(getattr(ours, name), getattr(truth, name)), name
    torch.testing.assert_close(ours.logprobs, truth.logprobs, rtol=0, atol=1e-3)


def test_hooks_siblings_and_graphs_of_changed_weights(generator):
    model = on_gpu("qwen3")
    given = prompts(generator, (4, 2))
    asked = {"max_new_tokens": 40, "seed": 5, "end_token": 3, "num_samples": 20}
    with torch.inference_mode():
        first = generate(model, given, **asked)
    legal = lambda tokens, lengths: torch.ones(len(tokens), 17, dtype=torch.bool, device="cuda")  # noqa: E731
    assert same(generate(model, given, mask_fn=legal, **asked), first)
    assert same(generate(model, given, **asked), first)  # the graph again
    with torch.no_grad():
        model.blocks[0].attention.k.weight.mul_(1.5)
        model.blocks[0].mlp.down.weight.data.copy_(model.blocks[0].mlp.down.weight * 1.5)
    second = generate(model, given, **asked)
    fresh = Transformer(model.config).cuda()
    fresh.load_state_dict(model.state_dict())
    assert same(second, generate(fresh, given, **asked))
    assert not torch.equal(second.logprobs, first.logprobs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", ["filters", "penalties", "guided"])
def test_score_says_what_generate_said(case, dtype, generator):
    model = on_gpu("qwen3", dtype)
    given = prompts(generator, (3, 1, 17, 2, 9, 4))
    shared = {
        "filters": {"params": SamplingParams(0.8, top_k=12, top_p=0.95, typical_p=0.9)},
        "penalties": {"params": SamplingParams(repetition_penalty=1.5, presence_penalty=0.5), "epsilon": 0.1},
        "guided": {"guidance": Guidance(1.5, [[2, 3]])},
    }[case]
    drawn = generate(model, given, max_new_tokens=30, seed=7, end_token=4, **shared)
    said = score(model, drawn.tokens, drawn.lengths, prompts=given, return_entropy=True, **shared)
    for name in ("logprobs", "raw_logprobs", "log_kept_mass"):
        assert torch.equal(getattr(said, name), getattr(drawn, name)), name
    assert not torch.equal(score(model, drawn.tokens, drawn.lengths, prompts=given), drawn.logprobs)  # other params
    said.logprobs.masked_fill(~drawn.mask, 0.0).square().sum().backward()
    ours = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    plain = score(model, drawn.tokens, drawn.lengths, prompts=given, exact=False, **shared)
    plain.masked_fill(~drawn.mask, 0.0).square().sum().backward()
    if dtype == torch.float32:
        for a, b in zip(ours, (parameter.grad for parameter in model.parameters()), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * float(b.abs().max()))


def by_graph(monkeypatch, *args, **options):
    """The same with a graph of kernels of one op."""
    from gmkern.decode.generate import device

    with monkeypatch.context() as patch:
        patch.setattr(device, "takes", lambda *_: False)
        return generate(*args, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["gpt2", "qwen3", "neox", "gemma2", "geglu", "wide"])
def test_whole_steps_in_one_launch(name, dtype, monkeypatch, generator):
    from gmkern.decode.generate.resident import Resident

    model, launches, run = on_gpu(name, dtype), [], Resident.run
    monkeypatch.setattr(Resident, "run", lambda *args: (launches.append(args[-1]), run(*args)))
    given = prompts(generator, torch.randint(1, 20, (50,), generator=generator).tolist())
    asked = {"params": SamplingParams(torch.rand(50, generator=generator).cuda()), "max_new_tokens": 40, "seed": 7}
    whole = generate(model, given, end_token=[4, 5], batch_size=37, **asked)
    assert launches
    count = len(launches)
    assert same(whole, by_graph(monkeypatch, model, given, end_token=[4, 5], **asked))
    assert len(launches) == count
    said = score(model, whole.tokens, whole.lengths, prompts=given, params=asked["params"])
    assert torch.equal(said, whole.logprobs)
    other = generate(model, given, end_token=[4, 5], **asked | {"seed": 8})  # the comparison can fail
    assert not torch.equal(other.tokens, whole.tokens)


@pytest.mark.parametrize("weights", [None, "bfloat16", "int8"])
def test_whole_steps_of_the_benchmarks_model(weights, monkeypatch):
    """Several splits of attention and tiles of the head; a graph that holds a launch."""
    from gmkern.decode.generate import device

    shape = TransformerConfig(
        1000, 4, 4, 128, 600, norm="layernorm", activation="gelu_tanh", position="learned", qkv_bias=True, bias=True,
        bos_id=0, window=(None, 300, None, 40),
    )  # fmt: skip
    model = Transformer(shape).cuda()
    asked = {"n": 256, "max_new_tokens": 599, "seed": 8, "end_token": list(range(5)), "weights": weights}
    whole = generate(model, **asked)
    assert int(whole.lengths.max()) > 512
    lanes = device._REST[model][1]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        lanes.resident.run(lanes, 256, 2)
    lanes.state.fill_(device.RUNS), lanes.step.zero_(), lanes.position.zero_(), lanes.token.zero_()
    graph.replay()
    assert bool((lanes.step > 0).all())
    assert bool((lanes.step == 2).any())
    assert same(whole, by_graph(monkeypatch, model, **asked))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 16, 37])
def test_the_head_and_the_draw_together(rows, dtype, monkeypatch):
    """A vocabulary of many tiles and parts; the bits of the head, the sampler and score."""
    from gmkern.decode.generate import device

    monkeypatch.setattr(device, "takes", lambda *_: False)
    model = Transformer(TransformerConfig(50257, 2, 4, 256, 60, bos_id=0)).to("cuda", dtype)
    heat = torch.linspace(0, 1.5, rows, device="cuda")
    asked = {"n": rows, "max_new_tokens": 40, "seed": 8, "end_token": list(range(900)), "params": SamplingParams(heat)}
    ours = generate(model, **asked)
    monkeypatch.setattr(device, "FEW", 0)
    assert same(ours, generate(model, **asked))
    assert len(device._REST[model][1].graphs) >= 2
    assert torch.equal(score(model, ours.tokens, ours.lengths, params=asked["params"]), ours.logprobs)


def test_flawed_logits_are_named():
    model = on_gpu()
    with torch.no_grad():
        model.head_weight[3] = torch.nan
    with pytest.raises(ValueError, match="model: got logits of row 0 that are not finite"):
        generate(model, n=2, max_new_tokens=2, seed=1)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_on_the_second_gpu(generator):
    model, given = on_gpu(), prompts(generator, (3, 1))
    one = generate(model, given, max_new_tokens=20, seed=7)
    two = generate(copy.deepcopy(model).to("cuda:1"), given, max_new_tokens=20, seed=7)
    assert same(one, [field.to("cuda:0") for field in two])
