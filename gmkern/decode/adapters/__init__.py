"""Hugging Face models in and out: the same parameters, read where they are."""

from gmkern.decode.adapters.load import from_transformers, resolve
from gmkern.decode.adapters.names import hf_state_dict

__all__ = ["from_transformers", "hf_state_dict", "resolve"]
