"""A language model and its tokenizer from a local folder in Hugging Face's layout.

Nothing that could run code is loaded, and nothing is fetched.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from gmkern.decode import Transformer


class NotLoaded(Exception):
    """What is wrong with a folder, in a line."""


class Checkpoint(NamedTuple):
    """A model of a family that is served, its tokenizer, and the tokens that end a text."""

    model: Transformer
    tokenizer: Any
    end_tokens: list[int]


def load(folder: Path) -> Checkpoint:
    """The checkpoint in ``folder``: config.json, weights in safetensors, a tokenizer.

    Raises
    ------
    NotLoaded : transformers is not installed, a file is missing or of another format, or the model is not served.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"  # read when transformers is imported
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise NotLoaded(
            "reading it needs the package transformers, which is not installed. "
            "The extra \"hf\" brings it: pip install 'gmkern[hf]'"
        ) from error
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if not (folder / "config.json").is_file():
        raise NotLoaded("holds no config.json; takes a folder that save_pretrained wrote")
    if not any(folder.glob("*.safetensors")):
        raise NotLoaded("holds no *.safetensors; weights in other formats can run code and are not read")
    local = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **local)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto", use_safetensors=True, **local)
        ours = Transformer.from_transformers(model.eval())
    except Exception as error:  # transformers raises what its many parts raise
        raise NotLoaded(str(error).strip().partition("\n")[0] or type(error).__name__) from error
    ends = model.generation_config.eos_token_id
    if ends is None:
        ends = tokenizer.eos_token_id
    return Checkpoint(ours, tokenizer, [] if ends is None else [ends] if isinstance(ends, int) else list(ends))
