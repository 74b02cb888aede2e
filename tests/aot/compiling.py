"""Compiles GPU code with no GPU, and reads what came out."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ARCHITECTURES = (80, 90, 100)
CSRC = Path(__file__).parents[2] / "csrc"

# The flags of CMakeLists.txt for .cu files.
NVCC_FLAGS = ("-std=c++17", "-O3", "-fmad=false", "--expt-relaxed-constexpr")


@dataclass(frozen=True)
class Compiled:
    ptx: str
    shared: int  # bytes
    registers: int  # a thread
    spilled: int  # bytes of local memory a thread
    ttgir: str = ""  # of Triton kernels: tiles and their layouts


def compile_triton(
    kernel,
    architecture: int,
    *,
    types: Mapping[str, str | tuple[str, ...]],
    constants: dict,
    aligned: tuple[str, ...] = (),
    **options,
) -> Compiled:
    """A Triton kernel for sm_<architecture>; arguments without a type are i32.

    ``types`` has a tuple of types for an argument that is a tuple. ``aligned`` names arguments that are multiples of
    16, as a launch finds out by itself of pointers and sizes.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in kernel.arg_names}
    attributes = {}
    for name in aligned:
        at, kind = kernel.arg_names.index(name), types.get(name)
        for path in [(at, i) for i in range(len(kind))] if isinstance(kind, tuple) else [(at,)]:
            attributes[path] = [["tt.divisibility", 16]]
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options={"num_warps": 4} | options)
    registers, spilled = _resources(compiled.asm["cubin"], kernel.__name__)
    return Compiled(compiled.asm["ptx"], compiled.metadata.shared, registers, spilled, compiled.asm["ttgir"])


def products(ttgir: str) -> dict[tuple[int, int, str], set[str]]:
    """How tensor cores are handed the terms of each product's sums, by their number, the outputs' and their type.

    A product's bits depend on these alone: not on the warps that share it, nor on how many outputs there are.
    """
    operand = r"tensor<(?:\d+x)*(\d+)x(\d+)x([a-z]\w*), #ttg\.dot_op<\{opIdx = %d, parent = #\w+, kWidth = (\d+)\}>>"
    found: dict[tuple[int, int, str], set[str]] = {}
    for line in ttgir.splitlines():
        if " tt.dot " in line:
            pair = re.search(rf"{operand % 0} \* {operand % 1}", line)
            assert pair, line
            _rows, terms, kind, width, _terms, outputs, _kind, other_width = pair.groups()
            found.setdefault((int(terms), int(outputs), kind), set()).add(f"{width} {other_width}")
    return found


def _resources(cubin: bytes, kernel: str) -> tuple[int, int]:
    """Registers and bytes of stack a thread, as cuobjdump reports them for a cubin."""
    import triton

    tool = shutil.which("cuobjdump") or next(Path(triton.__file__).parent.rglob("bin/cuobjdump"), None)
    if tool is None:
        pytest.fail("cuobjdump is neither on the PATH nor in the triton package: the budget cannot be read")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = subprocess.run(
            [str(tool), "--dump-resource-usage", file.name], check=True, capture_output=True, text=True
        ).stdout
    found = re.search(rf"Function {kernel}:\s*\n?\s*REG:(\d+) STACK:(\d+)", usage)
    assert found, usage
    return int(found[1]), int(found[2])


def nvcc_ptx(source: str, architecture: int, folder: Path, *, flags: tuple[str, ...] = ()) -> str:
    """The PTX of CUDA source text that may include csrc/'s headers."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("nvcc is not installed")
    (folder / "k.cu").write_text(source)
    command = [
        nvcc,
        *NVCC_FLAGS,
        *flags,
        f"-arch=compute_{architecture}",
        "-ptx",
        "-I",
        str(CSRC),
        "-o",
        "k.ptx",
        "k.cu",
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return (folder / "k.ptx").read_text()


def unpromised_instructions(ptx: str) -> list[str]:
    """Floating-point instructions whose bits IEEE 754 does not give, or that contract a product and a sum."""
    floating = re.findall(
        r"^\s*(?:@\S+ )?([a-z0-9]+(?:\.[a-z0-9_]+)*\.f(?:16|32|64)(?:x2)?)\b", ptx, flags=re.MULTILINE
    )
    bad = [i for i in floating if re.match(r"(fma|mad)\b", i) or re.search(r"\.(approx|full|ftz)\b", i)]
    return sorted(set(bad))
