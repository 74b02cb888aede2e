"""What survives the filters, from sorts in float64 NumPy: shares nothing with gmkern."""

from __future__ import annotations

import numpy as np


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max())
    return e / e.sum()


def processed(logits, temperature=1.0, penalty=1.0, mask=None, history=()) -> np.ndarray:
    z = np.array(logits, dtype=np.float64)
    for v in {int(h) for h in history if 0 <= h < len(z)}:
        z[v] = z[v] / penalty if z[v] > 0 else z[v] * penalty
    z = z / temperature
    return z if mask is None else np.where(mask, z, -np.inf)


def _prefix(order: list[int], p: np.ndarray, part: float) -> list[int]:
    """The shortest beginning of ``order`` that holds ``part`` of its mass."""
    masses = p[order] / p[order].sum()
    held = np.cumsum(masses)
    return order[: int(np.searchsorted(held, part * (1 - 1e-12))) + 1]


def kept(z: np.ndarray, top_k=0, top_p=1.0, min_p=0.0, typical_p=1.0) -> np.ndarray:
    """Bool [V]. Among equals the lower index comes first."""
    p = softmax(z)
    order = [v for v in np.lexsort((np.arange(len(z)), -z)) if z[v] > -np.inf]
    if top_k:
        order = order[:top_k]
    if top_p < 1:
        order = _prefix(order, p, top_p)
    order = [v for v in order if p[v] >= min_p * p[order[0]]]
    if typical_p < 1:
        q = p[order] / p[order].sum()
        surprise = -np.log(q)
        far = np.abs(surprise - (q * surprise).sum())
        order = _prefix([order[i] for i in np.lexsort((order, far))], p, typical_p)
    inside = np.zeros(len(z), dtype=bool)
    inside[order] = True
    return inside


def logprobs(z: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """log_softmax over the kept tokens; -inf elsewhere."""
    with np.errstate(divide="ignore"):
        return np.log(np.where(inside, softmax(z), 0.0) / softmax(z)[inside].sum())
