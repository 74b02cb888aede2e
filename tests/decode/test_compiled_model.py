"""A model of one's own that calls the ops, compiled whole."""

from __future__ import annotations

import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from gmkern.decode import SamplingParams, attention, sample, token_logprobs

VOCAB, HEADS, DIM, LENGTH = 23, 4, 6, 9


class Step(nn.Module):
    """One decoding step: the token joins the cache, the query attends to it, the head's logits are drawn from."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, HEADS * DIM)
        self.qkv = nn.Linear(HEADS * DIM, (HEADS + 4) * DIM)
        self.head = nn.Linear(HEADS * DIM, VOCAB)

    def forward(self, tokens, keys, values, at, seed, step):
        q, k, v = self.qkv(self.embedding(tokens)).unflatten(1, (-1, DIM)).split([HEADS, 2, 2], 1)
        rows = torch.arange(tokens.shape[0])
        keys, values = keys.index_put((rows, at), k), values.index_put((rows, at), v)
        logits = self.head(attention(q, keys, values, at + 1, window=5).out.flatten(1))
        params = SamplingParams(0.8, top_k=7)
        drawn = sample(logits.detach(), params, seed=seed, sample_ids=rows, step=step)
        return drawn.tokens, drawn.logprobs, token_logprobs(logits, drawn.tokens, params), keys, values


def test_a_model_that_calls_the_ops_is_one_graph():
    torch.manual_seed(1)
    model, graphs = Step(), CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, fullgraph=True, backend=graphs)
    found = []
    for run in (model, compiled):
        model.zero_grad()
        tokens, at = torch.tensor([3, 1, 4]), torch.tensor([2, 0, 5])
        keys, values = (torch.randn(3, LENGTH, 2, DIM, generator=torch.Generator().manual_seed(2)) for _ in range(2))
        seen, loss = [], torch.zeros(())
        for step in range(3):
            tokens, said, again, keys, values = run(tokens, keys, values, at, torch.tensor(7), torch.tensor(step))
            assert torch.equal(said, again)
            seen += [tokens, said]
            loss, at = loss + again.sum(), at + 1
        loss.backward()
        found.append([*seen, *(parameter.grad for parameter in model.parameters())])
    # the first step's cache has no gradient: one graph for it, one for the rest
    assert graphs.frame_count == 2
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert float(found[0][-1].abs().sum()) > 0
