"""The owner table says what the ops do: in info(), in docs/architecture.md and in the dispatch."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import torch

import gmkern
from gmkern._owners import OWNERS

PACKAGE = Path(gmkern.__file__).parent
ARCHITECTURE = Path(__file__).parents[2] / "docs" / "architecture.md"


def public(name: str):
    found = gmkern
    for part in name.split("."):
        found = getattr(found, part)
    return found


@pytest.mark.parametrize("owner", OWNERS, ids=lambda owner: owner.op)
def test_owners_are_public_and_their_kernels_registered(owner):
    function = public(owner.op)
    assert callable(function)
    for kernel in owner.kernels:
        assert hasattr(torch.ops.gmkern, kernel), kernel
        keys = ("CPU", "CompositeExplicitAutograd")
        on_cpu = any(torch._C._dispatch_has_kernel_for_dispatch_key(f"gmkern::{kernel}", key) for key in keys)
        assert on_cpu == (owner.cpu == "cpu"), kernel
    if owner.cuda == "triton":
        folder = Path(torch_file(function)).parent
        homes = (folder, folder.parent / "transformer")  # of which generate and score are made
        assert any(list(home.rglob("triton_kernels.py")) for home in homes), owner.op
    assert owner.cpu in ("cpu", "reference")
    assert owner.cuda in ("cuda", "triton", "reference")


def torch_file(function) -> str:
    import inspect

    return inspect.getsourcefile(inspect.unwrap(function))


def test_every_op_that_chooses_a_backend_has_an_owner():
    """Each `choose("op", ...)` of the package names an op of the table, or a part of one (random.{kind})."""
    named = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == "choose":
                first = node.args[0]
                if not isinstance(first, ast.Name):  # a name stands for what its callers passed
                    named.add(ast.unparse(first).strip("f'\"").partition("{")[0])
    assert named
    owned = [owner.op for owner in OWNERS]
    for name in named:
        assert any(op == name or op.endswith("." + name) or op.startswith(name) for op in owned), name


def test_every_compiled_op_has_an_owner():
    registered = {name.split("::")[1] for name in torch._C._dispatch_get_all_op_names() if name.startswith("gmkern::")}
    owned = {kernel for owner in OWNERS for kernel in owner.kernels}
    of_the_library = {"isa", "best_isa", "has_cuda", "set_interpreter", "take_raised"}
    assert registered - owned == of_the_library | {"symmetric_eigen", "cholesky"}  # PyTorch's own, heard


@pytest.mark.skipif(not ARCHITECTURE.exists(), reason="docs/ is not beside an installed wheel")
def test_architecture_page_has_the_same_table():
    rows = re.findall(r"^\| `([\w.]+)` \| (\w+) \| (\w+) \| (.*?) \|$", ARCHITECTURE.read_text(), flags=re.M)
    assert rows == [(owner.op, owner.cpu, owner.cuda, owner.why) for owner in OWNERS]


def test_info_prints_the_table_and_says_what_a_gpu_lacks():
    info = gmkern.info()
    text = str(info)
    assert info.version == gmkern.__version__
    assert info.threads == torch.get_num_threads()
    assert Path(info.library).is_file()
    for owner in OWNERS:
        assert re.search(rf"^{re.escape(owner.op)} +{owner.cpu} +{owner.cuda}$", text, flags=re.M)
    assert info.missing() == () or info.cuda_devices
    from dataclasses import replace

    bare = replace(info, cuda_devices=("a GPU",), cuda_kernels=False, triton=None)
    lost = " ".join(bare.missing())
    for owner in OWNERS:
        assert (owner.op in lost) == (owner.cuda in ("cuda", "triton"))
    assert replace(bare, cuda_kernels=True, triton="3.6").missing() == ()
