"""The library's symbol table keeps the promises of the stable ABI, and each instruction set's code is its own."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from gmkern._library import LIBRARY

ROOT = Path(__file__).parents[2]
OBJECTS = sorted((ROOT / "build" / "CMakeFiles" / "gmkern_bodies.dir").rglob("*.o"))
ISAS = ("avx512", "avx2", "baseline")

pytestmark = pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm and objdump (binutils)")
needs_objects = pytest.mark.skipif(not OBJECTS, reason="no build folder here: the object files are read in a checkout")

# A C++ name of torch's own libraries, or Python's C API: what would tie the library to one torch or one Python.
FORBIDDEN = re.compile(r"^(_ZN?K?[SV]?(2at|3c10|5torch)|_ZT[ISV]N(2at|3c10|5torch)|_?Py[A-Z_])")
SHIM = re.compile(r"^(aoti_torch_|torch_)")


def symbols(path: Path, *flags: str) -> list[tuple[str, str]]:
    """(kind, name) of each symbol that `nm` lists."""
    lines = subprocess.check_output(["nm", "-P", *flags, str(path)], text=True).splitlines()
    return [(line.split()[1], line.split()[0].split("@")[0]) for line in lines]


def tied(path: Path) -> list[str]:
    return [name for _, name in symbols(path, "-D", "--undefined-only") if FORBIDDEN.match(name)]


def test_library_needs_only_torchs_c_shims():
    assert tied(LIBRARY) == []
    needed = {name for _, name in symbols(LIBRARY, "-D", "--undefined-only")}
    assert any(SHIM.match(name) for name in needed), "it registers ops: it must import some of torch's C shims"


def test_the_symbol_check_can_fail():
    """torch's own Python library needs what ours must not."""
    found = tied(Path(torch.__file__).parent / "lib" / "libtorch_python.so")
    assert any(name.startswith("_ZN") for name in found)
    assert any(name.startswith("Py") for name in found)


def test_library_is_linked_to_no_python_and_no_cuda():
    dynamic = subprocess.check_output(["readelf", "-d", str(LIBRARY)], text=True)
    needed = set(re.findall(r"\(NEEDED\).*\[(.+?)\]", dynamic))
    assert "libtorch_cpu.so" in needed
    for name in needed:
        assert not re.match(r"lib(python|torch_python|cuda|cudart|c10|torch_cuda)", name), name
    assert "RPATH" not in dynamic
    assert "RUNPATH" not in dynamic


@pytest.mark.parametrize("path", [LIBRARY, *LIBRARY.parents[1].glob("_host*.so")], ids=lambda path: path.name[:5])
def test_binaries_hold_no_path_of_the_machine_that_built_them(path):
    paths = re.findall(rb"(?<![\w.+-])/[\w.+/-]+/(?:csrc|build|include)/[\w.+/-]+", path.read_bytes())
    assert paths == []


@needs_objects
def test_bodies_share_no_code_between_instruction_sets():
    """Two files may hold one weak symbol, and the linker keeps either: it must be of one set's namespace, as all that a
    body defines for others to see."""
    for path in OBJECTS:
        isa = next(isa for isa in ISAS if path.name.endswith(f"_{isa}.cpp.o"))
        own = re.compile(rf"_ZN?K?2gm{len(isa)}{isa}")
        defined = symbols(path, "--defined-only")
        visible = [name for kind, name in defined if kind.isupper() or kind in "uvw"]
        assert any(kind == "T" for kind, _ in defined), path.name
        assert [name for name in visible if not own.match(name)] == [], path.name


def disassembly(path: Path) -> str:
    return subprocess.check_output(["objdump", "-d", "--no-show-raw-insn", str(path)], text=True)


def avx(code: str) -> set[str]:
    """The instructions of AVX and later among a disassembly's: their names begin with v, as few others do."""
    return set(re.findall(r"^\s*[0-9a-f]+:\t(v\w+)", code, flags=re.M)) - {"verr", "verw"}


HAS_SETS = any("4avx2" in name for _, name in symbols(LIBRARY)) if shutil.which("nm") else False


@needs_objects
@pytest.mark.skipif(not any("avx2" in path.name for path in OBJECTS), reason="x86-64 only")
def test_each_body_is_compiled_for_its_own_instruction_set():
    """Wide registers appear where the set has them, and nowhere else: not in the baseline, nor in the launchers."""
    launchers = sorted((ROOT / "build" / "CMakeFiles" / "gmkern.dir").rglob("*.cpp.o"))
    assert launchers
    for path in [*OBJECTS, *launchers]:
        code = disassembly(path)
        zmm, ymm = "%zmm" in code, "%ymm" in code
        if path.name.endswith("_avx512.cpp.o"):
            assert zmm, path.name
        elif path.name.endswith("_avx2.cpp.o"):
            assert ymm, path.name
            assert not zmm, path.name
            assert avx(code), path.name
        else:
            assert not zmm, path.name
            assert not ymm, path.name
            assert avx(code) == set(), path.name


@pytest.mark.skipif(HAS_SETS, reason="this library has bodies for AVX: `make baseline` builds one that has none")
def test_a_library_of_the_baseline_holds_no_avx():
    assert avx(disassembly(LIBRARY)) == set()
