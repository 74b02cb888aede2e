"""GRPO on a small task: groups of rollouts, and importance ratios of exactly 1.

The policy is a small Llama. A prompt is a digit; the reward counts how often a token is one more than the one before.
The loop runs with gmkern's `generate` and `score`, then with Hugging Face's `generate` and forward, from the same
weights and for as many steps, and both are timed. Without the package transformers only the first runs.

Run: python examples/rollouts.py
"""

import time

import torch

from gmkern.decode import Transformer, TransformerConfig, generate, score

try:
    from transformers import LlamaConfig, LlamaForCausalLM
except ModuleNotFoundError:
    LlamaForCausalLM = None

DIGITS, LENGTH, PROMPTS, GROUP, STEPS = 10, 12, 8, 16, 60
LAYERS, HEADS, WIDTH, HIDDEN = 2, 2, 48, 96


def new_policy():
    torch.manual_seed(0)
    if LlamaForCausalLM is None:
        return Transformer(TransformerConfig(DIGITS, LAYERS, HEADS, WIDTH, LENGTH + 1, d_ff=HIDDEN))
    config = LlamaConfig(
        vocab_size=DIGITS, hidden_size=WIDTH, intermediate_size=HIDDEN, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, max_position_embeddings=LENGTH + 1, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def roll_out_here(policy, prompts, step):
    """Tokens, the sampler's log-probabilities, and the same again with a gradient."""
    drawn = generate(policy, prompts, num_samples=GROUP, max_new_tokens=LENGTH, seed=step)
    return drawn.tokens, drawn.logprobs, score(policy, drawn.tokens, drawn.lengths, prompts=prompts, num_samples=GROUP)


def roll_out_there(policy, prompts, step):
    """The same with Hugging Face alone."""
    torch.manual_seed(step)
    start = prompts.repeat_interleave(GROUP, 0)
    with torch.no_grad():
        out = policy.generate(
            start, attention_mask=torch.ones_like(start), max_new_tokens=LENGTH, do_sample=True, top_k=0,
            output_scores=True, return_dict_in_generate=True,
        )  # fmt: skip
    tokens = out.sequences[:, 1:]
    said = torch.stack(out.scores, 1).log_softmax(-1).gather(2, tokens[..., None])[..., 0]
    logprobs = policy(out.sequences[:, :-1]).logits.log_softmax(-1).gather(2, tokens[..., None])[..., 0]
    return tokens, said, logprobs


def train(name, roll_out):
    policy = new_policy()
    optimiser = torch.optim.Adam(policy.parameters(), lr=3e-3)
    prompts = torch.arange(PROMPTS)[:, None]
    rolling, off = 0.0, 0.0
    for step in range(STEPS):
        begin = time.perf_counter()
        tokens, said, logprobs = roll_out(policy, prompts, step)
        rolling += time.perf_counter() - begin
        before = torch.cat([prompts.repeat_interleave(GROUP, 0), tokens[:, :-1]], 1)
        reward = (tokens == (before + 1) % DIGITS).float().mean(1)

        ratio = (logprobs - said).exp()  # 1 for a fresh rollout, if the trainer believes the sampler
        off = max(off, float((ratio.detach() - 1).abs().max()))
        groups = reward.view(PROMPTS, GROUP)
        advantage = (groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-4)
        loss = -(ratio * advantage.view(-1, 1)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step in (0, STEPS - 1):
            print(f"{name}: step {step:2d}, reward {reward.mean():.2f}")
    print(
        f"{name}: ratios are off 1 by at most {off:.1e}; {1e3 * rolling / STEPS:.1f} ms a step for rollouts and scores"
    )
    return rolling


ours = train("gmkern", roll_out_here)
if LlamaForCausalLM is None:
    print("transformers is not installed: nothing to time beside it")
else:
    theirs = train("transformers", roll_out_there)
    print(f"rollouts and scores took {theirs / ours:.1f} times as long with transformers")
