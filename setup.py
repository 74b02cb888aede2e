"""Thin: hands the build to CMakeLists.txt. Metadata and tool settings are in pyproject.toml.

Environment: GMKERN_CUDA=1 adds the CUDA sources; CMAKE_ARGS passes further arguments to CMake.
"""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
PACKAGE = ROOT / "gmkern"


class CMakeBuild(build_ext):
    """One 'extension' stands for everything that CMake builds: in place, in build/, then copied if a wheel wants it."""

    def build_extension(self, ext: Extension) -> None:
        configure = [
            "cmake", "-S", str(ROOT), "-B", str(ROOT / "build"), "-G", "Ninja",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DGMKERN_OUTPUT_DIR={PACKAGE}",
            f"-DGMKERN_CUDA={'OFF' if os.environ.get('GMKERN_CUDA', '') in ('', '0', 'OFF') else 'ON'}",
            *shlex.split(os.environ.get("CMAKE_ARGS", "")),
        ]  # fmt: skip
        subprocess.run(configure, check=True)
        subprocess.run(["cmake", "--build", str(ROOT / "build")], check=True)
        if not self.inplace:
            for path in self._built():
                target = Path(self.build_lib).resolve() / path.relative_to(ROOT)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, target)

    def get_outputs(self) -> list[str]:
        folder = ROOT if self.inplace else Path(self.build_lib)
        return [str(folder / path.relative_to(ROOT)) for path in self._built()]

    def _built(self) -> list[Path]:
        host = PACKAGE / f"_host{sysconfig.get_config_var('EXT_SUFFIX')}"
        return [PACKAGE / "lib" / "libgmkern.so", *([host] if host.exists() else [])]


class Py3Wheel(bdist_wheel):
    """The shared library needs no particular Python: gmkern._host, which does, serves the tests alone."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[Extension("gmkern._host", sources=[])],
    cmdclass={"build_ext": CMakeBuild, "bdist_wheel": Py3Wheel},
)
