"""What the tests of gmkern, and of code built on it, share: tolerances, and runs on a chosen instruction set.

Nothing here is imported by the rest of the package.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gmkern._backend import ISAS
from gmkern._library import ops


def supported_isas() -> tuple[str, ...]:
    """The CPU instruction sets that this machine can run, least first.

    Examples
    --------
    >>> from gmkern.testing import supported_isas
    >>> supported_isas()[0]
    'baseline'
    """
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

    Examples
    --------
    >>> import torch
    >>> from gmkern.testing import tolerance
    >>> f"{tolerance(torch.float32, 1024):.1e}"
    '1.5e-05'
    """
    narrow = dtype in (torch.bfloat16, torch.float16)
    unit = torch.finfo(torch.float32 if narrow else dtype).eps / 2
    return 8 * math.sqrt(reduction_length) * unit + (torch.finfo(dtype).eps / 2 if narrow else 0.0)


_servers: dict[tuple[tuple[str, str], ...], subprocess.Popen[str]] = {}
_one_at_a_time = threading.Lock()


def _server(environment: dict[str, str]) -> subprocess.Popen[str]:
    """The process that forks jobs in an environment; its standard input, and so the process, ends with this one."""
    key = tuple(sorted(environment.items()))
    if key not in _servers:
        _servers[key] = subprocess.Popen(
            [sys.executable, "-m", "gmkern._isa_server"],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
    return _servers[key]


def _ask(environment: dict[str, str], job: list[str], timeout: float) -> str:
    """Exit status of a job, or why there is none."""
    with _one_at_a_time:
        server = _server(environment)
        assert server.stdin is not None
        assert server.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended: what it said is read below
            print(json.dumps(job), file=server.stdin, flush=True)
        answered, _, _ = select.select([server.stdout], [], [], timeout)
        status = server.stdout.readline().strip() if answered else ""
        if status:
            return status
        _servers.pop(tuple(sorted(environment.items())))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)  # the job as well
        with contextlib.suppress(BrokenPipeError):
            server.stdin.close()
        said = server.stderr.read() if server.stderr is not None else ""
        return f"{server.wait() if answered else f'none within {timeout} s'}\n{said}"


def run_isa(isa: str | None, code: str, *, threads: int | None = None, timeout: float = 300, **inputs: Any) -> Any:
    """Runs ``code`` in a process of its own on instruction set ``isa`` and returns what it left in ``out``.

    The set is chosen once per process, so that comparing two needs two processes::

        run_isa("avx2", "import gmkern; out = gmkern.neighbors.knn(x, k=3).distances", x=x)

    Parameters
    ----------
    isa : a name in :func:`supported_isas`, set as ``GMKERN_ISA``; None leaves the choice to the library.
    code : Python source, dedented; it sees ``inputs`` by name, and ``torch``.
    threads : for ``torch.set_num_threads``.
    inputs : anything that ``torch.save`` takes: tensors of any dtype, numbers, dicts of them.

    Raises
    ------
    RuntimeError : the process failed; the text is what it printed.

    Examples
    --------
    >>> import torch
    >>> from gmkern.testing import run_isa
    >>> run_isa("baseline", "import gmkern; out = gmkern.neighbors.knn(x, x).distances", x=torch.eye(3))
    tensor([[0.],
            [0.],
            [0.]])
    """
    environment = {key: value for key, value in os.environ.items() if key not in ("GMKERN_ISA", "PYTEST_CURRENT_TEST")}
    if isa is not None:
        environment["GMKERN_ISA"] = isa
    root = str(Path(__file__).parent.parent)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (root, environment.get("PYTHONPATH"))))
    with tempfile.TemporaryDirectory() as folder:
        source, given, result, log = (Path(folder) / name for name in ("run.py", "given.pt", "result.pt", "log"))
        source.write_text(textwrap.dedent(code))
        log.touch()
        torch.save({**inputs, "__threads__": threads}, given)
        status = _ask(environment, [str(path) for path in (source, given, result, log)], timeout)
        if status != "0":
            raise RuntimeError(f"GMKERN_ISA={isa}: exit status {status}\n{log.read_text()}")
        return torch.load(result, weights_only=True)


def relative_error(got: Tensor, truth: Tensor, magnitude: Tensor | float | None = None) -> float:
    """The largest ``|got - truth| / magnitude``, in float64; ``magnitude`` is ``|truth|`` unless given.

    Non-finite values must agree exactly: a NaN or an infinity that the truth does not have gives infinity.

    Examples
    --------
    >>> import torch
    >>> from gmkern.testing import relative_error
    >>> relative_error(torch.tensor([1.0, 2.5]), torch.tensor([1.0, 2.0]))
    0.25
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
