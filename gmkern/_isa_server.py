"""``python -m gmkern._isa_server``: imports torch and gmkern once, then runs each job in a fork of its own.

What :func:`gmkern.testing.run_isa` talks to. A job is a line of JSON on standard input, the paths [source, given,
result, log]; the answer is a line with its exit status. A fork is as fresh as a new process, since nothing has run
here before it but imports, and costs none of their seconds. Ends with its standard input.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path

import torch


def run(source: str, given: str, result: str) -> None:
    inputs = torch.load(given, weights_only=True)
    threads = inputs.pop("__threads__")
    if threads is not None:
        torch.set_num_threads(threads)
    names = {**inputs, "torch": torch}
    exec(compile(Path(source).read_text(), "<run_isa>", "exec"), names)
    torch.save(names.get("out", {}), result)


def in_fork(source: str, given: str, result: str, log: str) -> int:
    """Exit status of the job; what it prints is in ``log``."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    printed = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    status = 1
    try:
        run(source, given, result)
        status = 0
    except BaseException:  # SystemExit too: a job that leaves early has no result
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    for line in sys.stdin:
        print(in_fork(*json.loads(line)), flush=True)
