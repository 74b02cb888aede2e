"""Hugging Face models as Transformers: the same parameters and greedy tokens, errors that name what is not served."""

from __future__ import annotations

import pytest
import torch

from gmkern.decode import SamplingParams, Transformer, TransformerConfig, generate, score
from gmkern.decode.adapters import resolve
from tests.decode.transformer_truth import tolerance

transformers = pytest.importorskip("transformers")

GREEDY = SamplingParams(temperature=0.0)
VOCAB = 97
BASE = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": None, "pad_token_id": 0,
}  # fmt: skip
GPT2 = {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "bos_token_id": 1,
        "eos_token_id": None, "pad_token_id": 0}  # fmt: skip
LLAMA3 = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 16}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16}
GEMMA2 = BASE | {
    "num_key_value_heads": 2,
    "head_dim": 16,
    "query_pre_attn_scalar": 7,
    "sliding_window": 6,
    "attn_logit_softcapping": 1.5,
    "final_logit_softcapping": 2.0,
}
CASES = {
    "gpt2": ("GPT2", GPT2),
    "gpt2 untied": ("GPT2", GPT2 | {"tie_word_embeddings": False, "n_inner": 40, "activation_function": "relu"}),
    "gpt_neox": ("GPTNeoX", BASE),
    "gpt_neox serial": ("GPTNeoX", BASE | {"use_parallel_residual": False, "attention_bias": False, "rotary_pct": 0.5}),
    "llama": ("Llama", BASE | {"num_key_value_heads": 2}),
    "llama3": ("Llama", BASE | {"num_key_value_heads": 2, "rope_parameters": LLAMA3, "tie_word_embeddings": True}),
    "llama yarn": ("Llama", BASE | {"rope_parameters": YARN, "attention_bias": True, "mlp_bias": True}),
    "llama linear": ("Llama", BASE | {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}),
    "mistral": ("Mistral", BASE | {"num_key_value_heads": 2, "sliding_window": None}),
    "mistral window": ("Mistral", BASE | {"num_key_value_heads": 1, "sliding_window": 7}),
    "qwen2": ("Qwen2", BASE | {"num_key_value_heads": 2}),
    "qwen2 windows": ("Qwen2", BASE | {"num_key_value_heads": 2, "use_sliding_window": True,
                                       "sliding_window": 6, "max_window_layers": 1}),
    "qwen3 windows": ("Qwen3", BASE | {"num_key_value_heads": 2, "head_dim": 16, "use_sliding_window": True,
                                       "sliding_window": 5, "max_window_layers": 0}),
    "gemma2": ("Gemma2", GEMMA2),
    "gemma2 uncapped": ("Gemma2", GEMMA2 | {"attn_logit_softcapping": None, "final_logit_softcapping": None}),
    "qwen3": ("Qwen3", BASE | {"num_key_value_heads": 2, "head_dim": 16}),
    "gemma": ("Gemma", BASE | {"num_key_value_heads": 1, "head_dim": 16}),
}  # fmt: skip


def make(family, config):
    config = getattr(transformers, f"{family}Config")(**config)
    return getattr(transformers, "GPT2LMHeadModel" if family == "GPT2" else f"{family}ForCausalLM")(config).eval()


def build(case):
    """Random weights, norms and biases moved off their initial values."""
    model = make(*CASES[case])
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.4 * torch.randn(parameter.shape, generator=generator) / parameter.shape[-1] ** 0.5
    return model


def prompts(generator, sizes):
    return [torch.randint(2, VOCAB, (size,), generator=generator) for size in sizes]


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_logits_are_theirs(case, generator):
    theirs = build(case)
    ours = Transformer.from_transformers(theirs)
    tokens = torch.randint(0, VOCAB, (3, 40), generator=generator)
    want = theirs(tokens).logits.double()
    # both sides round in float32
    assert (ours(tokens) - want).abs().max() < 2 * tolerance(ours, want)
    exact = ours.double()(tokens)  # the same parameters: theirs are float64 now, too
    want = theirs(tokens).logits
    if case.startswith("gpt2"):  # all of theirs is float64: 10 chained reductions of up to 128 terms
        assert (exact - want).abs().max() < 10 * 128 * 2.3e-16 * float(want.abs().max())
    else:  # rotations (angles up to 40 in float32) and root-mean-square norms are float32 in theirs
        assert (exact - want).abs().max() < 40 * tolerance(ours, want)


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_greedy_tokens_are_theirs(case, generator):
    theirs = build(case)
    given = prompts(generator, (5, 1, 11, 2))
    got = generate(theirs, given, max_new_tokens=20, params=GREEDY)
    for row, prompt in enumerate(given):
        want = theirs.generate(prompt[None], max_new_tokens=20, do_sample=False)[0, prompt.numel() :]
        assert torch.equal(got.tokens[row], want)
    # ragged prompts in their way: padded on the left
    width = 11
    padded = torch.stack([torch.cat([torch.zeros(width - p.numel(), dtype=torch.int64), p]) for p in given])
    mask = torch.stack([torch.arange(width) >= width - p.numel() for p in given]).long()
    want = theirs.generate(padded, attention_mask=mask, max_new_tokens=20, do_sample=False)[:, width:]
    assert torch.equal(got.tokens, want)


@pytest.mark.parametrize("case", CASES)
def test_the_parameters_are_theirs(case):
    theirs = build(case)
    ours = Transformer.from_transformers(theirs)
    assert set(map(id, ours.parameters())) == set(map(id, theirs.parameters()))
    before = generate(ours, n=2, max_new_tokens=6, params=GREEDY)
    tokens = torch.randint(0, VOCAB, (2, 12))
    optimiser = torch.optim.SGD(theirs.parameters(), lr=0.5)
    theirs(tokens).logits.square().mean().backward()
    gradients = {name: p.grad.clone() for name, p in theirs.named_parameters()}
    optimiser.zero_grad()
    ours(tokens).square().mean().backward()
    for name, parameter in theirs.named_parameters():
        # the same function of the same parameters: gradients differ by float32 rounding through 2 layers
        limit = 2e-4 * float(gradients[name].abs().max()) + 1e-7
        assert (parameter.grad - gradients[name]).abs().max() < limit, name
    optimiser.step()  # the trainer's update is seen
    after = generate(ours, n=2, max_new_tokens=6, params=GREEDY)
    assert not torch.equal(before.raw_logprobs, after.raw_logprobs)
    assert torch.equal(after.raw_logprobs, generate(theirs, n=2, max_new_tokens=6, params=GREEDY).raw_logprobs)


@pytest.mark.parametrize("case", CASES)
def test_state_dict_round_trip(case):
    theirs = build(case)
    ours = Transformer.from_transformers(theirs)
    state = ours.hf_state_dict(theirs.config.model_type)
    want = theirs.state_dict()
    assert set(state) == set(want)
    assert all(torch.equal(state[name], want[name]) for name in want)
    # a Transformer of our own, in a Hugging Face model, and back
    own = Transformer(ours.config)
    other = make(*CASES[case])
    other.load_state_dict(own.hf_state_dict(theirs.config.model_type))
    tokens = torch.randint(0, VOCAB, (2, 9))
    with torch.no_grad():
        want = own(tokens)
        assert (Transformer.from_transformers(other)(tokens) - want).abs().max() < 2 * tolerance(own, want)


def test_a_model_is_adapted_once_and_again_when_it_changes():
    theirs = build("llama")
    ours = resolve(theirs)
    assert resolve(theirs) is ours
    theirs.lm_head = torch.nn.Linear(32, VOCAB, bias=False)
    assert resolve(theirs) is not ours
    assert resolve(theirs).head is theirs.lm_head
    assert resolve(torch.nn.Linear(3, 3)).in_features == 3  # any other module is left alone


def test_a_row_of_an_adapted_model_does_not_change_with_its_batch(generator):
    theirs = build("gpt_neox")
    given = prompts(generator, torch.randint(1, 9, (16,), generator=generator).tolist())
    batch = generate(theirs, given, max_new_tokens=10, seed=1)
    alone = generate(theirs, given[7:8], max_new_tokens=10, seed=1, sample_ids=[7])
    assert all(torch.equal(a[0], b[7]) for a, b in zip(alone, batch, strict=True))
    other = generate(theirs, given[7:8], max_new_tokens=10, seed=1, sample_ids=[8])
    assert not torch.equal(other.tokens[0], batch.tokens[7])


@pytest.mark.parametrize(
    ("family", "change", "text"),
    [
        ("GPT2", {"scale_attn_by_inverse_layer_idx": True}, "config.scale_attn_by_inverse_layer_idx: got True"),
        ("GPT2", {"scale_attn_weights": False}, "config.scale_attn_weights: got False"),
        ("GPT2", {"activation_function": "tanh"}, "config.activation_function: got 'tanh'"),
        ("Llama", {"hidden_act": "tanh"}, "config.hidden_act: got 'tanh'"),
        ("Llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
         "config.rope_parameters: got .*dynamic"),
        ("Qwen2", {"layer_types": ["full_attention", "chunked_attention"]}, "config.layer_types: got"),
        ("Gemma2", {"use_bidirectional_attention": True}, "config.use_bidirectional_attention: got True"),
        ("Gemma", {"use_bidirectional_attention": True}, "config.use_bidirectional_attention: got True"),
    ],
)  # fmt: skip
def test_what_is_not_served_is_named(family, change, text):
    theirs = make(family, (GPT2 if family == "GPT2" else BASE) | change)
    with pytest.raises(ValueError, match=f"^{text}"):
        Transformer.from_transformers(theirs)
    with pytest.raises(ValueError, match=f"^{text}"):
        generate(theirs, n=1, max_new_tokens=2, seed=1)


def test_other_models_are_named():
    with pytest.raises(TypeError, match="^hf_model: got a Linear; takes .*GPT2LMHeadModel"):
        Transformer.from_transformers(torch.nn.Linear(3, 3))
    theirs = transformers.OPTForCausalLM(
        transformers.OPTConfig(
            vocab_size=9, hidden_size=8, ffn_dim=8, num_hidden_layers=1, num_attention_heads=2, word_embed_proj_dim=8
        )
    )
    with pytest.raises(TypeError, match="^model: got a OPTForCausalLM"):
        generate(theirs, [[1]], max_new_tokens=2, seed=1)
    theirs = build("llama")
    theirs.model.layers[1].mlp.up_proj = torch.nn.Bilinear(3, 3, 3)
    with pytest.raises(TypeError, match="^model.mlp.up_proj: got a Bilinear"):
        Transformer.from_transformers(theirs)
    with pytest.raises(ValueError, match="^model_type: got 'gpt2'.* norm = 'rmsnorm'"):
        Transformer(TransformerConfig(5, 1, 1, 4, 8)).hf_state_dict("gpt2")
    with pytest.raises(ValueError, match="^model_type: got"):
        Transformer(TransformerConfig(5, 1, 1, 4, 8)).hf_state_dict("opt")


def test_lora_layers_are_read_merged(generator):
    peft = pytest.importorskip("peft")
    for case, target in (("llama", ["q_proj", "down_proj"]), ("gpt2", ["c_attn"]), ("gpt_neox", ["query_key_value"])):
        theirs = build(case)
        plain = generate(theirs, n=3, max_new_tokens=8, params=GREEDY)
        wrapped = peft.get_peft_model(theirs, peft.LoraConfig(r=3, target_modules=target, lora_alpha=5)).eval()
        with torch.no_grad():
            for name, parameter in wrapped.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(generator=generator)
        got = generate(wrapped, n=3, max_new_tokens=8, params=GREEDY)
        assert not torch.equal(got.raw_logprobs, plain.raw_logprobs)
        tokens = torch.cat([torch.ones(3, 1, dtype=torch.int64), got.tokens], 1)
        with torch.no_grad():
            log = wrapped(tokens).logits[:, :-1].log_softmax(-1).gather(2, got.tokens[..., None])[..., 0]
        ours = resolve(wrapped)
        assert (got.raw_logprobs - log).abs().max() < 8 * tolerance(ours, torch.ones(1))
        ours(tokens).square().mean().backward()
        trained = {name for name, p in wrapped.named_parameters() if p.grad is not None}
        assert trained == {name for name, p in wrapped.named_parameters() if "lora_" in name}
        with wrapped.disable_adapter():
            assert torch.equal(generate(wrapped, n=3, max_new_tokens=8, params=GREEDY).raw_logprobs, plain.raw_logprobs)
    dora = peft.get_peft_model(build("llama"), peft.LoraConfig(r=3, target_modules=["q_proj"], use_dora=True))
    with pytest.raises(ValueError, match="^model.self_attn.q_proj: got a LoRA layer with use_dora; .*merge_and_unload"):
        generate(dora, n=1, max_new_tokens=2, seed=1)


@pytest.mark.parametrize("case", ["gpt2", "gpt_neox", "llama3", "gemma", "gemma2"])
def test_scores_are_exact_and_train_their_parameters(case, generator):
    theirs = build(case)
    given = prompts(generator, (5, 1, 11, 2))
    drawn = generate(theirs, given, max_new_tokens=12, seed=1)
    got = score(theirs, drawn.tokens, drawn.lengths, prompts=given)
    assert torch.equal(got, drawn.logprobs)
    got.sum().backward()
    gradients = {name: p.grad.clone() for name, p in theirs.named_parameters()}
    theirs.zero_grad()
    total = 0.0
    for row, prompt in enumerate(given):
        log = theirs(torch.cat([prompt, drawn.tokens[row, :-1]])[None]).logits[0, prompt.numel() - 1 :].log_softmax(-1)
        total = total + log.gather(1, drawn.tokens[row, :, None]).sum()
    total.backward()
    for name, parameter in theirs.named_parameters():
        # float32 on both sides: rounding through 2 layers, of sums over 48 tokens
        assert (parameter.grad - gradients[name]).abs().max() < 2e-4 * float(gradients[name].abs().max()) + 1e-6, name


def test_dropout_in_train_mode_is_named():
    theirs = build("gpt2").train()
    drawn = generate(theirs, n=2, max_new_tokens=3, seed=1)
    with pytest.raises(ValueError, match=r"^exact: got True for a model in train mode with resid_pdrop = 0.1; takes"):
        score(theirs, drawn.tokens, drawn.lengths)
    assert torch.equal(score(theirs.eval(), drawn.tokens, drawn.lengths), drawn.logprobs)
    llama = build("llama").train()  # no dropout in its config
    drawn = generate(llama, n=2, max_new_tokens=3, seed=1)
    assert torch.equal(score(llama, drawn.tokens, drawn.lengths), drawn.logprobs)
