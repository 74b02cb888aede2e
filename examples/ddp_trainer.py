"""Policy gradients under DDP: rollouts split by sample ids, novelty judged against references spread over ranks.

The policy is a small Transformer that writes words of digits. Words are stored too, a shard of them on each rank, and a
written word's reward is its distance from the nearest stored one, in counts of digits: the policy learns to write what
is not there. `generate` gives each rank its share of one set of words, the same for any number of ranks; `knn` looks
among the stored words of all; the loss goes through DDP, which averages gradients over ranks.

Run: torchrun --nproc-per-node 2 examples/ddp_trainer.py     (or any number; alone: python examples/ddp_trainer.py)
"""

import argparse
import gc
import os
import tempfile
import zlib

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from gmkern import distributed
from gmkern.decode import Transformer, TransformerConfig, score

DIGITS, LENGTH, WORDS, STORED = 8, 10, 96, 400


class Scorer(nn.Module):
    """DDP reduces the gradients of the forward that it wraps: here that is a score."""

    def __init__(self, policy):
        super().__init__()
        self.policy = policy

    def forward(self, tokens, lengths):
        return score(self.policy, tokens, lengths)


def counts_of(words):
    """How often each digit occurs [N, DIGITS]."""
    return nn.functional.one_hot(words, DIGITS).sum(1).float()


def over_ranks(number):
    """The sum of all ranks' numbers, the same on each."""
    total = torch.as_tensor(number).detach().clone()
    dist.all_reduce(total)
    return total


def fingerprint(words, share):
    """A number that tells this set of (id, word) from others, however it is split over ranks."""
    rows = torch.cat([torch.arange(share.start, share.stop)[:, None], words], 1).numpy()
    return int(over_ranks(sum(zlib.crc32(row.tobytes()) for row in rows))) % (1 << 32)


def train(steps):
    torch.manual_seed(0)
    policy = Transformer(TransformerConfig(DIGITS, n_layers=2, n_heads=2, d_model=32, max_seq_len=LENGTH + 1, bos_id=0))
    scorer = DistributedDataParallel(Scorer(policy))  # every rank gets rank 0's parameters
    optimiser = torch.optim.Adam(policy.parameters(), lr=3e-3)
    stored = torch.randint(0, DIGITS, (STORED, LENGTH), generator=torch.Generator().manual_seed(1))
    shard, mine = counts_of(stored[distributed.share(STORED)]), distributed.share(WORDS)

    for step in range(steps):
        drawn = distributed.generate(policy, n=WORDS, max_new_tokens=LENGTH, seed=step)  # this rank's share
        reward = distributed.knn(counts_of(drawn.tokens), shard, metric="manhattan").distances[:, 0]
        mean = over_ranks(reward.sum()) / WORDS
        logprobs = scorer(drawn.tokens, drawn.lengths).sum(1)
        # A sum over this rank's words, so that shares may differ; DDP divides gradients by the number of ranks.
        loss = -((reward - mean) * logprobs).sum() / WORDS * dist.get_world_size()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        total = over_ranks(loss) / dist.get_world_size()
        told = f"step {step:2d}: reward {mean:.4f}, loss {total:9.4f}, words {fingerprint(drawn.tokens, mine):08x}"
        if dist.get_rank() == 0:
            print(told, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=30, help="of the optimiser")
    given = parser.parse_args()
    if "WORLD_SIZE" in os.environ:  # torchrun tells where the others are
        dist.init_process_group("gloo")
    else:
        dist.init_process_group("gloo", f"file://{tempfile.mkdtemp()}/store", rank=0, world_size=1)
    train(given.steps)
    gc.collect()  # DDP's cycles hold the group, whose threads are to end before the interpreter does
    dist.barrier()
    dist.destroy_process_group()
