"""What bfloat16 and int8 weights compute: the written rounding, one order of sums, and no gradient where they round."""

import pytest
import torch

from gmkern.decode import Guidance, Transformer, generate, score
from gmkern.decode.generate.engine import EngineSteps
from gmkern.decode.transformer import ops, packed
from tests.decode.small_models import NARROW, build, int8_steps, prompts, rounded, same
from tests.decode.transformer_truth import CONFIGS, logits, tolerance

pytestmark = pytest.mark.sanitize


@pytest.mark.parametrize("format", NARROW)
@pytest.mark.parametrize("name", CONFIGS)
def test_logits_are_those_of_the_rounded_model(name, format, generator):
    model = build(name, tie_embeddings=False)
    tokens = torch.randint(0, 17, (2, 9), generator=generator)
    steps, live = EngineSteps(model, format), torch.arange(2)
    steps.open(live, 9)
    fed = torch.stack([steps.feed(tokens[:, i : i + 1], live) for i in range(9)], 1)
    for row in range(2):
        truth = torch.from_numpy(logits(rounded(model, format), tokens[row].numpy()))
        assert (fed[row] - truth).abs().max() < tolerance(model, truth)


def test_bfloat16_parameters_are_held_as_they_are_and_computed_in_fp32():
    model = build("gpt2").bfloat16()
    wide = Transformer(model.config)
    wide.load_state_dict(model.state_dict())
    assert packed.pack(model).format == "bfloat16"
    assert packed.pack(wide).format == "float32"
    got = generate(model, n=5, max_new_tokens=12, seed=1)
    assert same(got, generate(wide, n=5, max_new_tokens=12, seed=1))
    assert same(got, generate(model, n=5, max_new_tokens=12, seed=1, weights="float32"))


def test_an_int8_output_is_within_half_a_step_of_each_weight(generator):
    """|sum x w - sum x ŵ| <= scale/2 sum |x|, and K roundings of fp32 to either sum."""
    model = build("wide", vocab_size=61)
    weight = model.head_weight.detach()
    hidden = 3 * torch.randn(7, 128, generator=generator)
    form = packed.pack(model, "int8")
    got = ops.transformer_head(form.weights, hidden, form.shape, form.reals).double()
    error = (got - hidden.double() @ weight.double().t()).abs()
    scale, _ = int8_steps(weight)
    reach = hidden.abs().sum(1, keepdim=True).double()
    half = reach * scale.double() / 2
    assert (error <= half + 128 * 2**-24 * reach * weight.abs().max()).all()
    assert error.mean() > 0.01 * half.mean()  # it does round


@pytest.mark.parametrize("format", NARROW)
def test_rows_of_a_format_change_with_nothing_beside_them(format, generator, threads):
    for name in ("wide", "gelu", "qwen3"):
        model = build(name)
        whole = generate(model, n=230, max_new_tokens=6, seed=2, end_token=3, batch_size=211, weights=format)
        for some in ([7], [200, 7], [199, 7, 3, 4, 5, 6, 8]):
            few = generate(model, n=len(some), sample_ids=some, max_new_tokens=6, seed=2, end_token=3, weights=format)
            assert same(few, [field[some] for field in whole]), name
        with torch.no_grad():
            assert torch.equal(score(model, whole.tokens, whole.lengths, weights=format), whole.logprobs)
            assert not torch.equal(score(model, whole.tokens, whole.lengths), whole.logprobs)
    given, guided = prompts(generator, (3, 1, 9)), {"guidance": Guidance(1.5, [[4]]), "weights": format}
    drawn = generate(model, given, max_new_tokens=6, seed=1, **guided)
    with torch.no_grad():
        assert torch.equal(score(model, drawn.tokens, drawn.lengths, prompts=given, **guided), drawn.logprobs)


def test_weights_are_packed_once_a_format_and_again_when_they_change():
    model = build("llama")
    first = {format: packed.pack(model, format) for format in (None, *packed.FORMATS)}
    assert first[None] is first["float32"]
    assert all(packed.pack(model, format) is form for format, form in first.items())
    with torch.no_grad():
        model.blocks[0].mlp.up.weight[1, 2] = 9.0
    again = packed.pack(model, "int8")
    assert not torch.equal(again.weights, first["int8"].weights)


def test_parameters_that_are_zero_or_not_finite():
    model = build("gpt2", tie_embeddings=False)
    with torch.no_grad():
        model.blocks[1].mlp.down.weight[3] = 0.0
        assert torch.isfinite(generate(model, n=2, max_new_tokens=4, seed=1, weights="int8").raw_logprobs).all()
        for value in (float("nan"), float("inf")):
            model.blocks[1].mlp.down.weight[3, 1] = value
            for format in packed.FORMATS:
                with pytest.raises(ValueError, match="model: got logits of row 0 that are not finite"):
                    generate(model, n=1, max_new_tokens=4, seed=1, weights=format)


@pytest.mark.parametrize("format", NARROW)
def test_rounded_parameters_have_no_gradient(format):
    model = build("llama")
    drawn = generate(model, n=3, max_new_tokens=5, seed=1, weights=format)
    with pytest.raises(ValueError, match=f"^weights: got '{format}' for parameters that require gradients"):
        score(model, drawn.tokens, drawn.lengths, weights=format)
    model.requires_grad_(False)
    assert torch.equal(score(model, drawn.tokens, drawn.lengths, weights=format), drawn.logprobs)


def test_the_gradient_of_bfloat16_parameters_is_the_modules():
    model = build("llama").bfloat16()
    drawn = generate(model, n=3, max_new_tokens=5, seed=1)
    score(model, drawn.tokens, drawn.lengths).sum().backward()
    got = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    score(model, drawn.tokens, drawn.lengths, exact=False).sum().backward()
    # the module's logits have passed 2 L + 2 bfloat16 sub-layers, each within 2^-8 of its values; a gradient in them is
    # wrong by as much as they are
    with torch.no_grad():
        most = float(model(drawn.tokens).abs().max())
    for name, parameter in model.named_parameters():
        assert (got[name] - parameter.grad).norm() < 6 * 2**-8 * most * parameter.grad.norm(), name


def test_bad_arguments_are_named():
    model = build("llama")
    tokens, lengths = torch.zeros(1, 2, dtype=torch.int64), torch.tensor([2])
    for function, given in ((generate, {"n": 1, "max_new_tokens": 2, "seed": 1}), (score, {})):
        first = (model,) if function is generate else (model, tokens, lengths)
        with pytest.raises(ValueError, match="^weights: got 'int4'; takes None, 'float32', 'bfloat16' or 'int8'"):
            function(*first, weights="int4", **given)
    with pytest.raises(ValueError, match="^weights: got 'int8' with backend 'reference'"):
        generate(model, n=1, max_new_tokens=2, seed=1, weights="int8", backend="reference")
    with pytest.raises(ValueError, match="^weights: got 'int8' with a callable model"):
        generate(lambda t, s: (torch.zeros(1, 3), s), [[1]], max_new_tokens=2, seed=1, weights="int8")
    with pytest.raises(ValueError, match="^weights: got 'int8' with exact=False"):
        score(model, tokens, lengths, weights="int8", exact=False)
