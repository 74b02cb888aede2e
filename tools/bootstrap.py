"""Makes .venv, with a torch that suits this machine, and installs gmkern into it in place. `make` calls this.

    python3 tools/bootstrap.py --venv .venv --torch torch==2.13.0 --triton triton==3.6.0 [--extras cli,test]

An interpreter that already imports torch >= 2.10 keeps its own: .venv then sees that interpreter's packages. Otherwise
the requirement given as --torch is installed, before anything that could ask for another. Prints everything that is
missing on the machine at once, and how to get it.
"""

import argparse
import importlib.metadata
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HAS_TORCH = "import torch; assert tuple(map(int, torch.__version__.split('+')[0].split('.')[:2])) >= (2, 10)"


def succeeds(*command):
    try:
        return (
            subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode == 0
        )
    except OSError:
        return False


def missing():
    """What this machine lacks, each with the way to get it."""
    if sys.version_info < (3, 10):  # noqa: UP036  an older Python must be told so
        found = "{} is {}.{}".format(sys.executable, *sys.version_info[:2])
        yield f"Python >= 3.10 ({found}): name another with `make PYTHON=python3.12 ...`"
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").exists():
        yield "Python's headers (Debian, Ubuntu: apt-get install python3-dev; Fedora: dnf install python3-devel)"
    if not succeeds(sys.executable, "-c", "import venv, ensurepip"):
        yield "Python's venv module (Debian, Ubuntu: apt-get install python3-venv)"
    compiler = shlex.split(os.environ.get("CXX", "")) or [shutil.which("c++") or shutil.which("g++") or "c++"]
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "program.cpp"
        program.write_text("#include <optional>\nint main() { if constexpr (true) return *std::optional<int>(0); }\n")
        if not succeeds(*compiler, "-std=c++17", str(program), "-o", str(Path(folder) / "program")):
            yield (
                f"a C++17 compiler, {shlex.join(compiler)} is none (Debian, Ubuntu: apt-get install g++; "
                "Fedora: dnf install gcc-c++)"
            )


def run(*command):
    print("+", shlex.join(command), flush=True)
    done = subprocess.run(command, cwd=ROOT, check=False)
    if done.returncode != 0:
        sys.exit(f"\nstopped: the command above ended with status {done.returncode}")


def make_venv(venv):
    """.venv, which sees this interpreter's packages if they hold a torch that will do."""
    keep_torch = succeeds(sys.executable, "-c", HAS_TORCH)
    run(sys.executable, "-m", "venv", "--clear", *(["--system-site-packages"] if keep_torch else []), str(venv))
    python = str(venv / "bin" / "python")
    if keep_torch and not succeeds(python, "-c", HAS_TORCH):
        # This interpreter is a virtual environment itself, and a venv made from one sees only what lies below it.
        site = subprocess.check_output([python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"])
        paths = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
        Path(site.decode().strip(), "base.pth").write_text("\n".join(paths) + "\n")
    return python


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv")
    parser.add_argument("--torch", default="torch==2.13.0", help="what to give pip where there is no torch")
    parser.add_argument("--triton", default="triton==3.6.0", help="the same for triton; empty leaves it out")
    parser.add_argument("--extras", default="cli,test")
    parser.add_argument("--list", metavar="EXTRA", help="print what an extra of the installed gmkern requires")
    given = parser.parse_args()
    if given.list:
        requirements = (requirement.split(";") for requirement in importlib.metadata.requires("gmkern") or ())
        print(*(name.strip() for name, *mark in requirements if f'extra == "{given.list}"' in "".join(mark)))
        return

    lacks = list(missing())
    if lacks:
        sys.exit("gmkern cannot be built here; missing:\n" + "".join(f"  - {line}\n" for line in lacks))

    venv = given.venv.resolve()
    python = str(venv / "bin" / "python")
    if not succeeds(python, "-c", "import pip"):
        python = make_venv(venv)
    # --no-compile: Python compiles what is imported, which is a tenth of what torch installs.
    pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile")
    if not succeeds(python, "-c", HAS_TORCH):
        run(*pip, *shlex.split(given.torch))
    # A torch with CUDA brings the triton that it was built for; the CPU's does not.
    if given.triton and not succeeds(python, "-c", "import triton.language"):
        run(*pip, *shlex.split(given.triton))
    run(*pip, "setuptools>=77", "pybind11>=2.13")
    # Programs must be in .venv/bin, also where the interpreter it sees has the packages.
    tools = {"cmake": "cmake>=3.24", "ninja": "ninja"}
    absent = [requirement for name, requirement in tools.items() if not (venv / "bin" / name).exists()]
    if absent:
        run(*pip, "--ignore-installed", *absent)
    os.environ["PATH"] = os.pathsep.join((str(venv / "bin"), os.environ.get("PATH", "")))
    print("compiling the library: several minutes, in silence", flush=True)
    run(*pip, "--no-build-isolation", "--editable", f".[{given.extras}]")


if __name__ == "__main__":
    main()
