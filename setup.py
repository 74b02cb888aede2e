"""Thin: hands the build to CMakeLists.txt. Metadata and tool settings are in pyproject.toml.

Environment: GMKERN_CUDA=1 adds the CUDA sources; CMAKE_ARGS passes further arguments to CMake.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


class CMakeBuild(build_ext):
    """One 'extension' stands for everything that CMake builds."""

    def build_extension(self, ext: Extension) -> None:
        package = Path(self.get_ext_fullpath(ext.name)).parent.resolve()
        build = ROOT / "build" if self.editable_mode or self.inplace else Path(self.build_temp).resolve()
        configure = [
            "cmake", "-S", str(ROOT), "-B", str(build), "-G", "Ninja",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DGMKERN_OUTPUT_DIR={package}",
            f"-DGMKERN_CUDA={'ON' if os.environ.get('GMKERN_CUDA', '0') not in ('', '0') else 'OFF'}",
            *shlex.split(os.environ.get("CMAKE_ARGS", "")),
        ]  # fmt: skip
        subprocess.run(configure, check=True)
        subprocess.run(["cmake", "--build", str(build)], check=True)

    def get_outputs(self) -> list[str]:
        package = Path(self.get_ext_fullpath("gmkern._host")).parent
        return [str(path) for path in (*package.glob("lib/*.so"), *package.glob("_host*.so"))]


class Py3Wheel(bdist_wheel):
    """The shared library needs no particular Python: gmkern._host, which does, serves the tests alone."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[Extension("gmkern._host", sources=[])],
    cmdclass={"build_ext": CMakeBuild, "bdist_wheel": Py3Wheel},
)
