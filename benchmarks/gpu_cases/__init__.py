"""What ``gpu_check.py`` times: each case checks its result first, then times the kernel beside its rivals.

A case is a function of (device, tiny) that returns a :class:`Case`; ``tiny`` shapes are for a dry run without a GPU. A
file is a path or a part of one, and its ``CASES`` says how the table names them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from gpu_cases import attention, decode, dynamics, large_systems, latent, neighbors, noise, sampling
from gpu_cases.case import Case

CASES: dict[str, Callable[[torch.device, bool], Case]] = {
    **sampling.CASES,
    **attention.CASES,
    **neighbors.CASES,
    **dynamics.CASES,
    **large_systems.CASES,
    **noise.CASES,
    **latent.CASES,
    **decode.CASES,  # last: time that others left is for its rivals, which compile for a minute
}
