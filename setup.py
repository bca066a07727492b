"""Builds the C engine, a shared library that ctypes loads; everything else is in pyproject.toml.

The library does not use Python's C API, so one wheel, tagged py3-none-PLATFORM, serves every Python. Without a C
compiler the package installs all the same, without the library; such a wheel is tagged py3-none-any.

With CC and --plat-name a wheel is built for another platform: engine/tools/wheels.py.
"""

import os
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ENGINE = "edgekit._engine"
SUFFIXES = {"win": ".dll", "mac": ".dylib"}
FLAGS = ["-std=c99", "-O3", "-g0", "-ffp-contract=off", "-fvisibility=hidden", "-DEK_SHARED"]


class BuildEngine(build_ext):
    """A plain shared library: no Python in its name, its flags or its symbols."""

    succeeded = False
    platform = sysconfig.get_platform()

    def build_extension(self, ext: Extension) -> None:
        super().build_extension(ext)
        self.succeeded = True

    def build_extensions(self) -> None:
        # Python was compiled with flags of its own, which would come before ours.
        command = os.environ.get("CC", "").split() or None
        if self.compiler.compiler_type == "unix":
            compiler = command or self.compiler.compiler_so[:1]
            link = ["-shared"]
            if self.platform.startswith("mac"):
                link = ["-dynamiclib", "-Wl,-install_name,@rpath/_engine.dylib"]
            code = [] if self.platform.startswith("win") else ["-fPIC"]
            if "linux" in self.platform:
                link.append("-pthread")
            self.compiler.set_executables(
                compiler_so=[*compiler, *code], linker_so=[*compiler, *link], compiler_so_cxx=[], linker_so_cxx=[]
            )
        super().build_extensions()

    def get_ext_filename(self, fullname: str) -> str:
        return f"{fullname.replace('.', os.sep)}{SUFFIXES.get(self.platform[:3], '.so')}"

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return []

    def get_libraries(self, ext: Extension) -> list[str]:
        return ext.libraries


class Wheel(bdist_wheel):
    """Tagged after what was built."""

    def run(self) -> None:
        if self.plat_name_supplied:
            self.get_finalized_command("build_ext").platform = self.plat_name
        self.run_command("build_ext")
        self.root_is_pure = not self.get_finalized_command("build_ext").succeeded
        super().run()

    def get_tag(self) -> tuple[str, str, str]:
        platform = "any" if self.root_is_pure else super().get_tag()[2]
        return "py3", "none", platform


setup(
    ext_modules=[
        Extension(
            ENGINE,
            sorted(str(path) for path in Path("engine").glob("*.c")),
            depends=sorted(str(path) for pattern in ("*.h", "*.inc") for path in Path("engine").glob(pattern)),
            extra_compile_args=FLAGS,
            optional=True,
        )
    ],
    cmdclass={"build_ext": BuildEngine, "bdist_wheel": Wheel},
)
