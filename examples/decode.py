"""Policy gradients on a transformer: sample with the kernels, learn from what they report.

The reward counts how often a token is one more than the token before it. Sampling draws 256 sequences a step.

Run: python examples/decode.py
"""

import torch

from gmkern.decode import Transformer, TransformerConfig, generate, token_logprobs

VOCABULARY, LENGTH, ROWS, STEPS = 8, 16, 256, 60
BEGIN = VOCABULARY  # one more token, to begin with
torch.manual_seed(0)
model = Transformer(
    TransformerConfig(VOCABULARY + 1, n_layers=2, n_heads=2, d_model=32, max_seq_len=LENGTH + 1, bos_id=BEGIN)
)
optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)

for step in range(STEPS):
    drawn = generate(model, n=ROWS, max_new_tokens=LENGTH, seed=step)
    tokens = drawn.tokens
    reward = (tokens[:, 1:] == (tokens[:, :-1] + 1) % VOCABULARY).float().mean(1)

    # The same log-probabilities again, now with a gradient.
    logits = model(torch.cat([torch.full((ROWS, 1), BEGIN), tokens[:, :-1]], 1))
    logprobs = token_logprobs(logits.flatten(0, 1), tokens.flatten()).view_as(tokens)
    gap = float((logprobs.detach() - drawn.logprobs).abs().max())

    loss = -((reward - reward.mean()).unsqueeze(1) * logprobs).mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    if step % 10 == 0 or step == STEPS - 1:
        print(f"step {step:3d}: reward {reward.mean():.2f}, sampler and trainer differ by at most {gap:.0e}")
