"""Launches of decode and noise as a call makes them, bound and compiled for sm_90, and not run: no GPU is needed.

What a launch does ahead of the GPU (names, kinds and specialisation of its real arguments) is seen here alone without
one. In a process of its own: Triton keeps what it compiled, and its driver, for each process.
"""

from __future__ import annotations

import contextlib

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from gmkern.decode import SamplingParams, Transformer, TransformerConfig
from gmkern.decode.generate import device
from gmkern.decode.generate.job import make_job
from gmkern.decode.sample import triton_kernels as rows
from gmkern.random import triton_kernels as noise


class NoGPU:
    """As much of a driver as compiling asks for."""

    get_current_target = staticmethod(lambda: GPUTarget("cuda", 90, 32))
    get_current_device = staticmethod(lambda: 0)
    get_current_stream = staticmethod(lambda device=None: 0)


def generation(params: SamplingParams, lanes: int) -> device.Lanes:
    shape = TransformerConfig(100, 1, 2, 32, 40, norm="layernorm", position="learned", bias=True, bos_id=0)
    asked = dict.fromkeys(("n", "end_token", "sample_ids", "batch_size", "guidance", "mask_fn", "logits_processor"))
    job = make_job(
        [[0]] * lanes, **asked, max_new_tokens=20, params=params, seed=1, epsilon=0.0, num_samples=1, pad_token=0,
        progress=False, bos_id=0, vocab_size=100, max_seq_len=40,
    )  # fmt: skip
    made = device._lanes(Transformer(shape), job, None)
    made.open(job)
    return made


def main() -> None:
    driver.set_active(NoGPU())
    torch.cuda.device_of = lambda tensor: contextlib.nullcontext()
    launch, compiled = JITFunction.run, set()

    def run(self, *args, grid, warmup, **options):
        assert launch(self, *args, grid=grid, warmup=True, **options) is not None
        compiled.add(self.__name__)

    JITFunction.run = run
    one = generation(SamplingParams(0.5), 1)  # sizes of 1 are specialised on
    assert one.whole
    one.advance(1, 16)
    one.whole = False
    one.advance(1, 1)
    generation(SamplingParams(top_k=3), 20).advance(20, 1)
    noise.noise(torch.tensor([3]), torch.arange(1), torch.tensor([1]), 1, 1, 2, False)
    logits, tokens, ones = torch.zeros(3, 100), torch.zeros(3, dtype=torch.int64), torch.ones(3)
    given = (
        logits,
        tokens,
        SamplingParams().packed(3, logits.device),
        torch.ones(3, 100, dtype=torch.bool),
        tokens[:, None],
    )
    rows.score_tokens(*given, True)
    rows.score_tokens_backward(ones, ones, ones, *given)
    rows.token_logprobs(*given)
    rows.token_logprobs_backward(ones, *given)
    print(*sorted(compiled))


if __name__ == "__main__":
    main()
