"""``gmkern.info()``: what runs where, on this machine, in this build."""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import dataclass

import torch

from gmkern import _backend
from gmkern._library import LIBRARY, ops
from gmkern._owners import OWNERS, Owner
from gmkern._version import __version__


@dataclass(frozen=True)
class Info:
    """What :func:`gmkern.info` returns; ``print`` it, or read the fields."""

    version: str
    python: str
    torch: str
    library: str
    """The shared library of compiled ops that this process loaded."""
    isa: str
    """The CPU instruction set in use (``GMKERN_ISA`` overrides)."""
    isas: tuple[str, ...]
    """Those that this processor has and the library holds code for, least first."""
    threads: int
    """torch's: ``torch.set_num_threads`` rules."""
    cuda_kernels: bool
    """Whether the library was built with the CUDA sources."""
    cuda_devices: tuple[str, ...]
    triton: str | None
    """Triton's version, or None where it is not installed."""
    triton_interprets: bool
    owners: tuple[Owner, ...]
    """Which backend serves each op on each kind of device."""

    def missing(self) -> tuple[str, ...]:
        """What a GPU here would lack: each line names the ops that it costs. Empty on a machine without one."""
        if not self.cuda_devices:
            return ()
        lacks = []
        for backend, here, remedy in (
            ("cuda", self.cuda_kernels, "the CUDA kernels (build with GMKERN_CUDA=1)"),
            ("triton", self.triton is not None, "Triton (pip install triton)"),
        ):
            lost = [owner.op for owner in self.owners if owner.cuda == backend]
            if lost and not here:
                lacks.append(f"{remedy}, for {', '.join(lost)}")
        return tuple(lacks)

    def facts(self) -> list[tuple[str, str]]:
        """Name and value of what is here, the owners aside."""
        triton = "not installed" if self.triton is None else self.triton
        if self.triton_interprets:
            triton += ", in its interpreter"
        return [
            ("gmkern", f"{self.version}, Python {self.python}, torch {self.torch}"),
            ("library", self.library),
            ("CPU", f"{self.isa} (of {', '.join(self.isas)}), {self.threads} thread{'s' * (self.threads != 1)}"),
            ("GPU", ", ".join(self.cuda_devices) or "none"),
            ("CUDA kernels", "in this build" if self.cuda_kernels else "not in this build (GMKERN_CUDA=1 adds them)"),
            ("Triton", triton),
            *(("missing", line) for line in self.missing()),
        ]

    def __str__(self) -> str:
        rows = [("op", "CPU", "GPU"), *((owner.op, owner.cpu, owner.cuda) for owner in self.owners)]
        left = max(len(op) for op, _, _ in rows)
        lines = [f"{name:<{max(left, 12)}}  {text}" for name, text in self.facts()]
        return "\n".join([*lines, "", *(f"{op:<{max(left, 12)}}  {cpu:<9}  {gpu}" for op, cpu, gpu in rows)])


def info() -> Info:
    """What runs where: versions, the instruction set in use, threads, CUDA and Triton, and the owner of each op.

    Returns
    -------
    Info : a frozen dataclass that prints as a table.

    Raises
    ------
    RuntimeError : ``GMKERN_ISA`` names no instruction set, or one that this processor lacks.

    Examples
    --------
    >>> import gmkern
    >>> gmkern.info().version == gmkern.__version__
    True
    """
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    return Info(
        version=__version__,
        python=platform.python_version(),
        torch=torch.__version__,
        library=str(LIBRARY),
        isa=_backend.isa(),
        isas=_backend.ISAS[: int(ops.best_isa()) + 1],
        threads=torch.get_num_threads(),
        cuda_kernels=_backend.has_cuda(),
        cuda_devices=tuple(torch.cuda.get_device_name(device) for device in devices),
        triton=importlib.metadata.version("triton") if _backend.has_triton() else None,
        triton_interprets=_backend.triton_interprets(),
        owners=OWNERS,
    )
