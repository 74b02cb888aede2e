"""What else generates from the weights of a GPT-2: each a tool of :class:`Task`, giving greedy tokens."""

from __future__ import annotations

import functools
import tempfile
from typing import Any, NamedTuple

import torch
from _case import Run
from _hugging_face import hugging_face
from torch import Tensor

from gmkern.decode import Transformer


class Task(NamedTuple):
    model: Transformer
    prompts: Tensor  # [N, 1]
    length: int
    ends: list[int]


def torch_loop(task: Task) -> Run:
    """The loop one writes by hand: one cached forward a token. Gives tokens [N, up to the length]."""
    model, rows = task.model, len(task.prompts)
    stop = torch.tensor(task.ends, dtype=torch.int64)

    @torch.inference_mode()
    def run(_: int) -> Tensor:
        tokens, out, cache = task.prompts, [], model.new_cache(rows, task.length + 1)
        going = torch.ones(rows, dtype=torch.bool)
        for i in range(task.length):
            tokens = model(tokens, torch.full((rows, 1), i), cache)[:, -1].argmax(-1, keepdim=True)
            out.append(tokens)
            going &= ~torch.isin(tokens[:, 0], stop)
            if not going.any():
                break
        return torch.cat(out, 1)

    return run


def transformers(task: Task) -> Run:
    gpt2, mask = hugging_face(task.model), torch.ones_like(task.prompts)
    stop = {"eos_token_id": task.ends} if task.ends else {}

    @torch.inference_mode()
    def run(_: int) -> Tensor:
        law = {"max_new_tokens": task.length, "pad_token_id": 0, "do_sample": False, **stop}
        return gpt2.generate(task.prompts, attention_mask=mask, **law)[:, 1:]

    return run


def ctranslate2(task: Task) -> Run:
    """The same weights in CTranslate2, fp32. A token's text is its number; ends are stops by number."""
    import ctranslate2
    from ctranslate2.converters import transformers as converters

    gpt2 = hugging_face(task.model)
    spec = converters._MODEL_LOADERS["GPT2Config"].get_model_spec(gpt2)
    size = gpt2.config.vocab_size
    spec.register_vocabulary([str(i) for i in range(size)])
    spec.config.bos_token = spec.config.unk_token = "0"
    spec.config.eos_token = str(size - 1)
    spec.validate()
    spec.optimize(quantization="float32")
    folder = tempfile.TemporaryDirectory()
    spec.save(folder.name)
    starts = [[str(int(token)) for token in row] for row in task.prompts]

    @functools.cache
    def generator(threads: int) -> Any:  # it holds the folder, which stays as long as it may be read
        return ctranslate2.Generator(folder.name, device="cpu", compute_type="float32", intra_threads=threads)

    def run(threads: int) -> Tensor:
        done = generator(threads).generate_batch(
            starts,
            max_length=task.length,
            min_length=0 if task.ends else task.length,
            sampling_topk=1,
            include_prompt_in_result=False,
            end_token=task.ends or None,
            return_end_token=True,
            max_batch_size=len(starts),
        )
        rows = [torch.tensor(row.sequences_ids[0], dtype=torch.int64) for row in done]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)

    return run
