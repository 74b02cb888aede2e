"""What else generates from the weights of a GPT-2: each a function of the same prompts, giving greedy tokens."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gmkern.decode import Transformer

Run = Callable[[], Tensor]
FOUND = {name: importlib.util.find_spec(name) is not None for name in ("transformers", "ctranslate2")}


def rivals(model: Transformer, prompts: Tensor, length: int, ends: list[int], cpus: int) -> dict[str, dict[int, Run]]:
    """By name and number of threads. prompts [N, 1]; a run returns tokens [N, up to ``length``] or [N, length]."""
    found = {"torch loop": _in_torch(lambda: torch_loop(model, prompts, length, ends), cpus)}
    if FOUND["transformers"]:
        gpt2 = hugging_face(model)
        mask, stop = torch.ones_like(prompts), {"eos_token_id": ends} if ends else {}
        found["transformers"] = _in_torch(
            lambda: gpt2.generate(
                prompts, attention_mask=mask, max_new_tokens=length, pad_token_id=0, do_sample=False, **stop
            )[:, 1:],
            cpus,
        )
        if FOUND["ctranslate2"]:
            found["ctranslate2"] = ctranslate2(gpt2, prompts, length, ends, cpus)
    return found


def _in_torch(run: Run, cpus: int) -> dict[int, Run]:
    def at(threads: int) -> Run:
        def call() -> Tensor:
            torch.set_num_threads(threads)
            return run()

        return call

    return {threads: at(threads) for threads in {1, cpus}}


def torch_loop(model: Transformer, prompts: Tensor, length: int, ends: list[int]) -> Tensor:
    """The loop one writes by hand: one cached forward a token."""
    rows, tokens, out = prompts.shape[0], prompts, []
    cache = model.new_cache(rows, length + 1)
    stop, going = torch.tensor(ends, dtype=torch.int64), torch.ones(rows, dtype=torch.bool)
    for i in range(length):
        tokens = model(tokens, torch.full((rows, 1), i), cache)[:, -1].argmax(-1, keepdim=True)
        out.append(tokens)
        going &= ~torch.isin(tokens[:, 0], stop)
        if not going.any():
            break
    return torch.cat(out, 1)


def hugging_face(model: Transformer) -> Any:
    """A GPT2LMHeadModel with the model's weights."""
    from transformers import GPT2Config, GPT2LMHeadModel

    c = model.config
    gpt2 = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=c.vocab_size,
            n_positions=c.max_seq_len,
            n_embd=c.d_model,
            n_layer=c.n_layers,
            n_head=c.n_heads,
            n_inner=c.d_ff,
            bos_token_id=0,
            eos_token_id=None,
            pad_token_id=0,
            tie_word_embeddings=c.tie_embeddings,
        )
    )
    gpt2.load_state_dict(model.hf_state_dict("gpt2"))
    return gpt2.eval()


def ctranslate2(gpt2: Any, prompts: Tensor, length: int, ends: list[int], cpus: int) -> dict[int, Run]:
    """The same weights in CTranslate2, fp32. A token's text is its number; ends are stops by number."""
    import ctranslate2
    from ctranslate2.converters import transformers as converters

    spec = converters._MODEL_LOADERS["GPT2Config"].get_model_spec(gpt2)
    size = gpt2.config.vocab_size
    spec.register_vocabulary([str(i) for i in range(size)])
    spec.config.bos_token = spec.config.unk_token = "0"
    spec.config.eos_token = str(size - 1)
    spec.validate()
    spec.optimize(quantization="float32")
    starts = [[str(int(token)) for token in row] for row in prompts]
    least = 0 if ends else length
    with tempfile.TemporaryDirectory() as folder:
        spec.save(folder)

        def at(threads: int) -> Run:
            generator = ctranslate2.Generator(folder, device="cpu", compute_type="float32", intra_threads=threads)

            def call() -> Tensor:
                done = generator.generate_batch(
                    starts,
                    max_length=length,
                    min_length=least,
                    sampling_topk=1,
                    include_prompt_in_result=False,
                    end_token=ends or None,
                    return_end_token=True,
                    max_batch_size=len(starts),
                )
                rows = [torch.tensor(row.sequences_ids[0], dtype=torch.int64) for row in done]
                return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)

            return call

        return {threads: at(threads) for threads in {1, cpus}}
