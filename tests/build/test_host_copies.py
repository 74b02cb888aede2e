"""Nothing in the ops that a GPU serves copies between host and device but where it is said, with the reason.

Such a copy waits for the device, and cannot be captured in a graph. What launchers do is seen as it runs, by
tests/triton/test_waiting.py; this reads what stands before them.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import gmkern

PACKAGE = Path(gmkern.__file__).parent
READ = ("_validate.py", "random/**/*.py", "neighbors/**/*.py", "latent/**/*.py", "context/draw/*.py",
        "decode/attention/*.py", "decode/sample/*.py")  # fmt: skip
ASKING = {"item", "tolist", "cpu", "numpy", "nonzero", "unique", "masked_select", "bincount"}
MAKING = {"torch.tensor", "torch.as_tensor", "torch.from_numpy"}

_ARRAY = "what was given is in the host's memory"
_FLAW = "an error is being told, or a CPU's tensor is looked at"
_NAMED = "said in the public docstring"
ALLOWED = {
    ("_validate.py", "tensor"): _ARRAY,
    ("_validate.py", "sample_ids"): _ARRAY,
    ("_validate.py", "sequence"): "of lists that the host needs: never points, noise or logits",
    ("random/reference.py", "_const"): "plain PyTorch",
    ("neighbors/reference.py", "check_finite"): _FLAW,
    ("neighbors/reference.py", "directions"): _FLAW,
    ("neighbors/triton_screening.py", "read_flags"): _NAMED,
    ("neighbors/triton_screening.py", "done_over"): _NAMED,
    ("neighbors/knn/triton_kernels.py", "knn_course"): "how a search went, asked for by who tunes it",
    ("neighbors/knn/certificate.py", "knn_certificate"): "how a search went, asked for by who tunes it",
    ("neighbors/count_within/triton_kernels.py", "count_within"): _FLAW,
    ("neighbors/count_within/reference.py", "count_within"): "plain PyTorch, which raises for NaN",
    ("neighbors/kernel_sum/reference.py", "_check"): _FLAW,
    ("decode/attention/api.py", "_check_pages"): _FLAW,
    ("decode/attention/cache.py", "append"): _NAMED,
    ("decode/attention/cache.py", "share"): _NAMED,
    ("decode/attention/cache.py", "attend"): _NAMED,
    ("decode/attention/cache.py", "free"): _NAMED,
    ("decode/attention/cache.py", "_rows"): _NAMED,
    ("decode/sample/params.py", "remembers"): "asked once a generation",
    ("decode/sample/params.py", "_row"): "of a CPU",
    ("decode/sample/api.py", "_refuse"): _FLAW,
}


def copies(file: Path) -> set[str]:
    """The functions of a file that copy."""
    found = set()
    for outer in ast.walk(ast.parse(file.read_text())):
        if isinstance(outer, ast.FunctionDef):
            for call in ast.walk(outer):
                if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
                    named = ast.unparse(call.func)
                    if call.func.attr in ASKING or named in MAKING:
                        found.add(outer.name)
    return found


FILES = sorted({file for pattern in READ for file in PACKAGE.glob(pattern)})


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_copies_are_known(file):
    name = str(file.relative_to(PACKAGE))
    assert copies(file) == {function for at, function in ALLOWED if at == name}


def test_each_reason_is_of_a_file_that_is_read():
    assert {at for at, _ in ALLOWED} <= {str(file.relative_to(PACKAGE)) for file in FILES}
