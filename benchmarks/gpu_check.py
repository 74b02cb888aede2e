"""One command on a GPU machine: tests, measures two ceilings, times every kernel beside its rivals.

    python benchmarks/gpu_check.py --seconds 400 --out results/

Needs PyTorch, Triton and the prebuilt library in ``gmkern/lib`` (``make build GMKERN_CUDA=1``); gmkern itself need not
be installed. Each case runs in a process of its own, so one that fails, hangs or poisons the device is a red row and
does not stop the rest. Finishes within its budget, prints a short table last and writes ``gpu_check.json``. Without a
GPU it says so and exits with status 2; ``--dry-run`` runs it all in tiny shapes on the CPU, to test this program.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

LONGEST_CASE = 90.0  # seconds, compilation included
TESTS_SHARE = 0.35  # of the budget


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=400.0, help="budget for the whole run (default 400)")
    parser.add_argument("--out", type=Path, default=Path("gpu_check"), help="folder for gpu_check.json")
    parser.add_argument(
        "--dry-run", action="store_true", help="tiny shapes on the CPU: tests this program, measures nothing"
    )
    parser.add_argument("--case", help=argparse.SUPPRESS)  # one case, in a process of its own
    options = parser.parse_args()

    import torch

    if not options.dry_run and not torch.cuda.is_available():
        print("gpu_check: this machine has no CUDA device; nothing was measured", file=sys.stderr)
        return 2
    device = torch.device("cpu" if options.dry_run else "cuda")
    if options.case:
        print(json.dumps(run_case(options.case, device, options.dry_run, options.seconds)))
        return 0

    deadline = time.monotonic() + options.seconds
    report = {"environment": environment(device), "dry_run": options.dry_run, "rows": []}
    rows: list[dict[str, Any]] = report["rows"]
    ceilings = in_process("ceilings", device, options.dry_run, min(20.0, options.seconds / 10), deadline)
    rows.append(ceilings)
    if not options.dry_run:
        rows.append(gpu_tests(deadline - options.seconds * (1 - TESTS_SHARE)))
    from gpu_cases import CASES

    for i, name in enumerate(CASES):
        left = deadline - time.monotonic()
        share = left / (len(CASES) - i)
        row = in_process(name, device, options.dry_run, share, deadline)
        if row.get("bytes a second") and ceilings.get("copy, bytes a second"):
            row["share of copy"] = row["bytes a second"] / ceilings["copy, bytes a second"]
        rows.append(row)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "gpu_check.json").write_text(json.dumps(report, indent=1))
    print_table(report)
    return 0 if all(row["status"] == "ok" for row in rows) else 1


def environment(device: Any) -> dict[str, Any]:
    """Machine, versions and commit: what a row must carry to mean anything."""
    import torch

    import gmkern

    try:
        import triton

        triton_version = triton.__version__
    except ImportError:
        triton_version = None
    git = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": triton_version,
        "python": platform.python_version(),
        "gmkern": gmkern.__version__,
        "commit": git.stdout.strip() or os.environ.get("GMKERN_COMMIT", "unknown"),
        "when": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def run_case(name: str, device: Any, tiny: bool, budget: float) -> dict[str, Any]:
    """Checks, then times one case (or the ceilings): the child process's whole work."""
    import torch
    from gpu_cases import CASES
    from timing import copy_bandwidth, matrix_rate, side_by_side

    if name == "ceilings":
        size, n = (1 << 20, 64) if tiny else (1 << 32, 8192)
        return {
            "copy, bytes a second": copy_bandwidth(device, size=size, budget=budget / 2),
            "bf16 matrix, flop a second": matrix_rate(device, n=n, dtype=torch.bfloat16, budget=budget / 2),
        }
    case = CASES[name](device, tiny)
    case.check()
    times = side_by_side({"gmkern": case.run} | case.rivals, device, budget=budget)
    row: dict[str, Any] = {"shape": case.shape, "seconds": times}
    if case.moved:
        row["bytes a second"] = case.moved / times["gmkern"]
    if case.work:
        row[f"{case.unit} a second"] = case.work / times["gmkern"]
    row["ratio"] = {rival: times[rival] * case.rival_scale / times["gmkern"] for rival in case.rivals}
    return row


def in_process(name: str, device: Any, tiny: bool, share: float, deadline: float) -> dict[str, Any]:
    """One case in a process of its own, within its share of the time: a row, red if anything went wrong."""
    limit = min(LONGEST_CASE, share, deadline - time.monotonic())
    if limit < 5 and not tiny:
        return {"case": name, "status": "not run: the time budget was spent"}
    command = [sys.executable, __file__, "--case", name, "--seconds", str(0.1 if tiny else limit / 4)]
    command += ["--dry-run"] if tiny else []
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=max(limit, 60 if tiny else 5), cwd=ROOT)
    except subprocess.TimeoutExpired:
        return {"case": name, "status": f"FAILED: not finished in {limit:.0f} s"}
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        print(f"--- {name}\n{done.stderr}", file=sys.stderr)
        return {"case": name, "status": f"FAILED: {lines[-1]}"}
    return {"case": name, "status": "ok"} | json.loads(done.stdout.splitlines()[-1])


def gpu_tests(until: float) -> dict[str, Any]:
    """The tests marked gpu, in a process of their own."""
    limit = max(30.0, until - time.monotonic())
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "--maxfail=20", str(ROOT / "tests" / "gpu")]
    env = dict(os.environ, PYTHONPATH=str(ROOT))
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, cwd=ROOT, env=env)
    except subprocess.TimeoutExpired:
        return {"case": "tests -m gpu", "status": f"FAILED: not finished in {limit:.0f} s"}
    print(done.stdout[-6000:], done.stderr[-2000:], sep="\n")
    closing = (done.stdout.strip().splitlines() or ["no output"])[-1]
    return {
        "case": "tests -m gpu",
        "status": "ok" if done.returncode == 0 else f"FAILED: {closing}",
        "closing": closing,
    }


def print_table(report: dict[str, Any]) -> None:
    """A few lines, each a case: what a person reads first."""
    facts = report["environment"]
    print(f"\n{facts['device']}  torch {facts['torch']}  triton {facts['triton']}  commit {facts['commit']}")
    if report["dry_run"]:
        print("dry run: shapes are tiny and on the CPU; no figure below is a measurement")
    for row in report["rows"]:
        print(f"{row['case']:<30} {describe(row)}")


def describe(row: dict[str, Any]) -> str:
    if row["status"] != "ok":
        return row["status"]
    if row["case"] == "ceilings":
        copy, matrix = row["copy, bytes a second"], row["bf16 matrix, flop a second"]
        return f"copy {copy / 1e12:.2f} TB/s, bf16 matrix {matrix / 1e12:.0f} TFLOP/s"
    if "closing" in row:
        return row["closing"]
    parts = [row["shape"], f"{row['seconds']['gmkern'] * 1e3:.3f} ms"]
    if "share of copy" in row:
        parts.append(f"{row['share of copy']:.0%} of copy")
    parts += [f"{value:.2e} {key}" for key, value in row.items() if key.endswith("steps a second")]
    parts += [f"{ratio:.1f}x {rival}" for rival, ratio in row["ratio"].items()]
    return ", ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
