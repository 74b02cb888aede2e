"""Attention of queries over a cache of keys and values. See docs/attention.md."""

from gmkern.decode.attention.api import Attention, attention
from gmkern.decode.attention.cache import KVCache

__all__ = ["Attention", "KVCache", "attention"]
