"""One command on a GPU machine: tests, measures the ceilings, times every kernel beside its rivals.

    python benchmarks/gpu_check.py --seconds 400 --out results/

Needs PyTorch with NumPy, Triton and the prebuilt library in ``gmkern/lib`` (``make build GMKERN_CUDA=1``); gmkern need
not be installed, nor any rival: one that is absent is named in its row. Cases run in a process of their own, and in a
new one after a case that fails, hangs or ends it: that is a red row, and the rest go on. Finishes within its budget,
prints a short table last and writes ``gpu_check.json`` as it goes. Without a GPU it says so and exits with status 2;
``--dry-run`` runs it all in tiny shapes on the CPU, to test this program.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.util
import json
import os
import platform
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

LONGEST_CASE = 90.0  # seconds, compilation included
SHORTEST_CASE = 3.0
TESTS_SHARE = 0.35  # of the budget
MEASURING = 0.3  # of a case's time: the rest is for compilation and the check
OURS = "gmkern"
Row = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=400.0, help="budget for the whole run (default 400)")
    parser.add_argument("--out", type=Path, default=Path("gpu_check"), help="folder for gpu_check.json")
    parser.add_argument("--only", default="", help="the cases alone whose names contain this")
    parser.add_argument(
        "--dry-run", action="store_true", help="tiny shapes on the CPU: tests this program, measures nothing"
    )
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    deadline = time.monotonic() + options.seconds

    import torch

    if not options.dry_run and not torch.cuda.is_available():
        print("gpu_check: this machine has no CUDA device; nothing was measured", file=sys.stderr)
        return 2
    device = torch.device("cpu" if options.dry_run else "cuda")
    if options.worker:
        return serve(device, options.dry_run)

    from gpu_cases import CASES
    from gpu_cases.judging import judged, told

    facts = environment(device)
    rows: list[Row] = []
    options.out.mkdir(parents=True, exist_ok=True)

    def keep(row: Row) -> None:
        rows.append(row | {"environment": facts})  # a row has all that it needs to mean something elsewhere
        report = {"dry_run": options.dry_run, "rows": rows}
        (options.out / "gpu_check.json").write_text(json.dumps(report, indent=1))

    with Worker(options.dry_run) as worker:
        ceilings = worker.measure("ceilings", min(30.0, options.seconds / 8))
        keep(ceilings)
        if not options.dry_run:
            worker.stop()  # the tests have the device for themselves
            keep(gpu_tests(deadline - options.seconds * (1 - TESTS_SHARE)))
        names = [name for name in CASES if options.only in name]
        for i, name in enumerate(names):
            left = deadline - time.monotonic() - 1.0  # to write and print
            keep(judged(worker.measure(name, allowed(left, len(names) - i)), ceilings, options.dry_run))
    print_table(rows, told, options.dry_run)
    return 0 if all(row["status"] == "ok" for row in rows) else 1


def allowed(left: float, cases: int) -> float:
    """Seconds that the next of ``cases`` may take: what others leave, with room for four at a time, is shared again."""
    return min(LONGEST_CASE, max(left / cases, min(left - SHORTEST_CASE * (cases - 1), 4 * left / (cases + 3))))


def environment(device: Any) -> Row:
    """Machine, versions and commit: what a row must carry to mean anything."""
    import torch

    import gmkern

    try:
        import triton

        triton_version = triton.__version__
    except ImportError:
        triton_version = None
    try:
        git = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
        commit = git.stdout.strip()
    except OSError:
        commit = ""  # no git there
    facts: Row = {
        "device": "cpu",
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": triton_version,
        "python": platform.python_version(),
        "gmkern": gmkern.__version__,
        "commit": commit or os.environ.get("GMKERN_COMMIT", "unknown"),
        "when": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }
    if device.type == "cuda":
        of = torch.cuda.get_device_properties(device)
        facts |= {"device": of.name, "capability": f"sm_{of.major}{of.minor}", "L2 bytes": of.L2_cache_size}
    return facts


def serve(device: Any, tiny: bool) -> int:
    """The worker's whole work: measures what each line of its input asks for, until one fails."""
    out = os.fdopen(os.dup(1), "w", buffering=1)  # rows; what libraries print goes beside them
    os.dup2(2, 1)
    from gpu_cases import CASES
    from gpu_cases.measuring import ceilings, check_owner, give_back, rows_of

    for line in sys.stdin:
        name, budget = json.loads(line)
        try:
            if name == "ceilings":
                out.write(json.dumps({"row": ceilings(device, tiny, budget)}) + "\n")
            else:
                check_owner(name, device)
                for row in rows_of(CASES[name], device, tiny, budget):
                    out.write(json.dumps({"row": row}) + "\n")
                give_back(device)
        except Exception as error:  # the device may be spoiled: whatever it was, another process goes on
            traceback.print_exc()
            first = next((text for text in str(error).splitlines() if text.strip()), "no message")
            out.write(json.dumps({"failed": f"{type(error).__name__}: {first}"}) + "\n")
            return 1
        out.write(json.dumps({"done": name}) + "\n")
    return 0


class Worker:
    """A process that measures cases one after another, and is replaced where it fails, hangs or ends."""

    def __init__(self, tiny: bool):
        self.command = [sys.executable, __file__, "--worker", *(["--dry-run"] if tiny else [])]
        self.tiny = tiny
        self.process: subprocess.Popen[str] | None = None
        self.lines: queue.Queue[str | None] = queue.Queue()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def measure(self, name: str, limit: float) -> Row:
        """The case's row, red if anything went wrong; what was said of it before ``limit`` seconds were over stays."""
        if limit < SHORTEST_CASE and not self.tiny:
            return {"case": name, "status": "not run: the time budget was spent"}
        until = time.monotonic() + limit
        row: Row = {"case": name}
        wrong = ""
        try:
            self._ask([name, 0.05 if self.tiny else MEASURING * limit])
            while "status" not in row and not wrong:
                line = self.lines.get(timeout=max(0.0, until - time.monotonic()))
                said = {} if line is None else json.loads(line)
                row |= said.get("row", {})
                if line is None:
                    wrong = f"its process ended with status {self.process.wait() if self.process else None}"
                elif "failed" in said:
                    wrong = said["failed"]
                elif "done" in said:
                    row["status"] = "ok"
        except queue.Empty:
            wrong = f"not finished in {limit:.0f} s"
        except OSError as error:
            wrong = f"its process could not be asked: {error}"
        if wrong:
            self.stop()
            if row.get("doing", OURS) == OURS:
                row["status"] = f"FAILED: {wrong}"
            else:  # a rival's fault: ours was checked and measured
                row["status"] = "ok"
                row["not measured"][row["doing"]] = wrong
        row.pop("doing", None)
        if "not captured" in row:
            self.stop()  # PyTorch's generators may still believe that a graph is captured
        return row

    def _ask(self, task: list[Any]) -> None:
        if self.process is None:
            self.process = subprocess.Popen(
                self.command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
            )
            self.lines = queue.Queue()
            threading.Thread(target=_read, args=(self.process.stdout, self.lines), daemon=True).start()
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()

    def stop(self) -> None:
        """Ends the process and those that it started (compilers of a rival's, say)."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):  # it may have ended
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


def _read(stream: IO[str], lines: queue.Queue[str | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def gpu_tests(until: float) -> Row:
    """The tests marked gpu, in a process of their own."""
    row: Row = {"case": "tests -m gpu"}
    absent = [name for name in ("pytest", "hypothesis") if importlib.util.find_spec(name) is None]
    if absent:
        return row | {"status": f"not run: {' and '.join(absent)} not installed"}
    limit = max(1.0, until - time.monotonic())
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "--maxfail=20", str(ROOT / "tests" / "gpu")]
    if importlib.util.find_spec("xdist"):  # kernels are compiled side by side
        command += ["-n", str(min(4, os.cpu_count() or 1))]
    env = dict(os.environ, PYTHONPATH=str(ROOT))
    with subprocess.Popen(
        command, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    ) as process:
        try:
            said, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            said, _ = process.communicate()
            said += f"\nnot finished in {limit:.0f} s"
    print(said[-6000:])
    closing = " ".join(said.strip().splitlines()[-2:] if process.returncode < 0 else said.strip().splitlines()[-1:])
    return row | {"status": "ok" if process.returncode == 0 else f"FAILED: {closing}", "closing": closing}


def print_table(rows: list[Row], told: Any, dry: bool) -> None:
    """A line a case, last of all: what a person reads first."""
    facts = rows[0]["environment"]
    print(f"\n{facts['device']}  torch {facts['torch']}  triton {facts['triton']}  commit {facts['commit']}")
    if dry:
        print("dry run: shapes are tiny and on the CPU; no figure below is a measurement")
    for row in rows:
        print(f"{row['case']:<34} {told(row)}")
    marks = [mark for row in rows for mark in row.get("marks", ())]
    if marks:
        counts = [sum(mark["met"] is met for mark in marks) for met in (True, False, None)]
        print("marks: {} met, {} missed, {} undecided".format(*counts))


if __name__ == "__main__":
    sys.exit(main())
