from gmkern.neighbors.count_within.api import count_within

__all__ = ["count_within"]
