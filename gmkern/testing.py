"""What the tests of gmkern, and of code built on it, share: tolerances, and runs on a chosen instruction set.

Nothing here is imported by the rest of the package.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gmkern._backend import ISAS
from gmkern._library import ops


def supported_isas() -> tuple[str, ...]:
    """The CPU instruction sets that this machine can run, least first."""
    return ISAS[: int(ops.best_isa()) + 1]


def tolerance(dtype: torch.dtype, reduction_length: int = 1) -> float:
    """How far a result may lie from the truth, relative to the sum of the magnitudes that were added.

    Rounding errors of ``n`` additions in unit roundoff ``u`` behave as a random walk: their sum passes ``8 sqrt(n) u``
    with probability below ``2 n exp(-8^2 / 2)``, under 1e-7 at n = 1e6 (Higham and Mary, SIAM J. Sci. Comput., 2019).
    bf16 and fp16 are accumulated in fp32 and rounded once at the end, which adds their own ``u``.

    Parameters
    ----------
    dtype : of the result: float64, float32, bfloat16 or float16.
    reduction_length : the number of terms added, n >= 1.
    """
    narrow = dtype in (torch.bfloat16, torch.float16)
    unit = torch.finfo(torch.float32 if narrow else dtype).eps / 2
    return 8 * math.sqrt(reduction_length) * unit + (torch.finfo(dtype).eps / 2 if narrow else 0.0)


_RUNNER = """\
import sys, torch
inputs = torch.load(sys.argv[1], weights_only=True)
threads = inputs.pop("__threads__")
if threads is not None:
    torch.set_num_threads(threads)
names = {{**inputs, "torch": torch}}
exec(compile({code!r}, "<run_isa>", "exec"), names)
torch.save(names.get("out", {{}}), sys.argv[2])
"""


def run_isa(isa: str | None, code: str, *, threads: int | None = None, timeout: float = 300, **inputs: Any) -> Any:
    """Runs ``code`` in a Python process of its own on instruction set ``isa`` and returns what it left in ``out``.

    The set is chosen once per process, so that comparing two needs two processes::

        run_isa("avx2", "import gmkern; out = gmkern.knn(x, k=3).distances", x=x)

    Parameters
    ----------
    isa : a name in :func:`supported_isas`, set as ``GMKERN_ISA``; None leaves the choice to the library.
    code : Python source, dedented; it sees ``inputs`` by name, and ``torch``.
    threads : for ``torch.set_num_threads``.
    inputs : anything that ``torch.save`` takes: tensors of any dtype, numbers, dicts of them.

    Raises
    ------
    RuntimeError : the process failed; the text is what it printed.
    """
    environment = {key: value for key, value in os.environ.items() if key != "GMKERN_ISA"}
    if isa is not None:
        environment["GMKERN_ISA"] = isa
    root = str(Path(__file__).parent.parent)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (root, environment.get("PYTHONPATH"))))
    with tempfile.TemporaryDirectory() as folder:
        source, given, result = (Path(folder) / name for name in ("run.py", "given.pt", "result.pt"))
        source.write_text(_RUNNER.format(code=textwrap.dedent(code)))
        torch.save({**inputs, "__threads__": threads}, given)
        done = subprocess.run(
            [sys.executable, str(source), str(given), str(result)],
            env=environment, capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise RuntimeError(f"GMKERN_ISA={isa}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
        return torch.load(result, weights_only=True)


def relative_error(got: Tensor, truth: Tensor, magnitude: Tensor | float | None = None) -> float:
    """The largest ``|got - truth| / magnitude``, in float64; ``magnitude`` is ``|truth|`` unless given.

    Non-finite values must agree exactly: a NaN or an infinity that the truth does not have gives infinity.
    """
    got64, truth64 = got.detach().double().cpu(), truth.detach().double().cpu()
    if got64.shape != truth64.shape:
        raise AssertionError(f"got shape {list(got64.shape)}, want {list(truth64.shape)}")
    finite = torch.isfinite(truth64)
    if not torch.equal(got64[~finite].nan_to_num(nan=7.0), truth64[~finite].nan_to_num(nan=7.0)):
        return math.inf
    scale = truth64.abs() if magnitude is None else torch.as_tensor(magnitude).double().cpu().expand_as(truth64)
    error = (got64 - truth64).abs()[finite]
    error = torch.where(error == 0, 0.0, error / scale[finite])
    return float(error.nan_to_num(nan=math.inf).max()) if error.numel() else 0.0
