"""Builds a wheel for every platform, with zig as the compiler, and checks the engine's library in each.

    pip install --group release
    python engine/tools/wheels.py dist                    # sdist and all wheels
    python engine/tools/wheels.py dist win_amd64          # the wheels of some platforms
    python engine/tools/wheels.py --check dist/*.whl      # only the checks

setup.py has the sources and the flags; this file says which compiler a platform gets, and what its library may need.
"""

import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import lief

ROOT = Path(__file__).resolve().parents[2]
ARMV7 = "-mcpu=generic+v7a+vfp3d16"
"""What every 32-bit ARM Debian may use. NEON stays off: it flushes subnormal numbers to zero."""
TARGETS = {
    "manylinux_2_17_x86_64": "x86_64-linux-gnu.2.17",
    "manylinux_2_17_aarch64": "aarch64-linux-gnu.2.17",
    "manylinux_2_17_armv7l": f"arm-linux-gnueabihf.2.17 {ARMV7}",
    "musllinux_1_2_x86_64": "x86_64-linux-musl",
    "musllinux_1_2_aarch64": "aarch64-linux-musl",
    "musllinux_1_2_armv7l": f"arm-linux-musleabihf {ARMV7}",
    "win_amd64": "x86_64-windows-gnu",
    "macosx_11_0_arm64": "aarch64-macos.11.0",
    "macosx_10_13_x86_64": "x86_64-macos.10.13",
}
MACHINES = {"x86_64": "X86_64", "amd64": "AMD64", "aarch64": "AARCH64", "arm64": "ARM64", "armv7l": "ARM"}
NEEDED = {
    "manylinux": ("libc.so.6", "libpthread.so.0", "ld-linux-"),
    "musllinux": ("libc.so",),
    "win": ("KERNEL32.dll", "api-ms-win-crt-"),  # the C runtime is a part of Windows 10
    "macosx": ("/usr/lib/libSystem.B.dylib",),
}
"""Beginnings of the names of the libraries that the engine may need."""


MACHO_NAMES = {"_mh_dylib_header", "__dso_handle"}
"""Names that zig's linker exports from every Mach-O library."""


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """The output of a command. Ends the program if it fails."""
    done = subprocess.run(
        command, cwd=cwd, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        sys.exit(f"{done.stdout}\nwheels: failed: {' '.join(map(str, command))}")
    return done.stdout


def build_sdist(folder: Path) -> Path:
    """The source distribution, which every wheel is built from."""
    for old in folder.glob("edgekit_lm-*.tar.gz"):
        old.unlink()
    run(sys.executable, "-m", "build", "--sdist", "--outdir", folder, ROOT, cwd=ROOT)
    return next(folder.glob("edgekit_lm-*.tar.gz"))


def build_wheel(sdist: Path, platform: str) -> Path:
    """The wheel of a platform, beside the source distribution."""
    path = sdist.with_name(f"{sdist.name.removesuffix('.tar.gz')}-py3-none-{platform}.whl")
    with tempfile.TemporaryDirectory() as scratch, tarfile.open(sdist) as archive:
        archive.extractall(scratch, filter="data")
        compiler = f"{sys.executable} -m ziglang cc -s -target {TARGETS[platform]}"
        log = run(
            sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", sdist.parent,
            f"-C--build-option=--plat-name={platform}", next(Path(scratch).iterdir()), cwd=ROOT, CC=compiler,
        )  # fmt: skip
    if not path.exists():
        sys.exit(f"{log}\nwheels: the engine does not compile for {platform}")
    return path


def needed(library) -> list[str]:
    """The libraries that it needs. A Mach-O library also lists its own name."""
    if isinstance(library, lief.MachO.Binary):
        own = lief.MachO.LoadCommand.TYPE.ID_DYLIB
        return [item.name for item in library.libraries if item.command != own]
    return [item if isinstance(item, str) else item.name for item in library.libraries]


def glibc(library: lief.ELF.Binary) -> tuple[int, ...]:
    """The newest version of glibc that a symbol asks for."""
    names = [item.name for need in library.symbols_version_requirement for item in need.get_auxiliary_symbols()]
    return max((tuple(map(int, name[6:].split("."))) for name in names if name.startswith("GLIBC_")), default=())


def oldest_macos(library: lief.MachO.Binary) -> tuple[int, ...]:
    command = library.build_version or library.version_min
    return tuple((command.minos if library.build_version else command.version)[:2])


def faults(library, platform: str) -> list[str]:
    """What contradicts the platform that the wheel names."""
    system, _, rest = platform.partition("_")
    machine = next(name for name in MACHINES if rest.endswith(name))
    version = tuple(int(part) for part in rest.removesuffix(machine).split("_") if part)
    header = library.header
    found = str(
        header.machine_type if system.endswith("linux") else getattr(header, "cpu_type", None) or header.machine
    )
    result = [] if found.rpartition(".")[2] == MACHINES[machine] else [f"is for {found}"]
    result += [f"needs {name}" for name in needed(library) if not name.startswith(NEEDED[system])]
    functions = [item.name.removeprefix("_") for item in library.exported_functions if item.name]
    result += [f"exports {name}" for name in functions if not name.startswith("ek_") and name not in MACHO_NAMES]
    if "ek_forward" not in functions:
        result.append("does not export ek_forward")
    if system == "manylinux" and glibc(library) > version:
        result.append(f"needs glibc {glibc(library)}")
    if system == "macosx" and oldest_macos(library) != version:
        result.append(f"is for macOS {oldest_macos(library)}")
    if system == "macosx" and machine == "arm64" and not library.has_code_signature:
        result.append("has no code signature")
    return result


def check(path: Path) -> str:
    """A line about the library in a wheel. Ends the program if it is not what the wheel's name says."""
    platform = path.stem.rpartition("-")[2]
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.startswith("edgekit/_engine.")]
        if len(names) != 1:
            sys.exit(f"wheels: {path.name} has {len(names)} engines")
        data = archive.read(names[0])
    library = lief.parse(list(data))
    if isinstance(library, lief.MachO.FatBinary):
        library = library.at(0)
    if wrong := faults(library, platform):
        sys.exit(f"wheels: {names[0]} in {path.name}: {'; '.join(wrong)}")
    return f"{platform:24} {path.stat().st_size:>10,} {names[0]:24} {len(data):>8,}  {' '.join(needed(library))}"


def main(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.exit(__doc__)
    if arguments[0] == "--check":
        wheels = [Path(name) for name in arguments[1:]]
    else:
        if unknown := [name for name in arguments[1:] if name not in TARGETS]:
            sys.exit(f"wheels: no platform {unknown[0]}; there are {', '.join(TARGETS)}")
        folder = Path(arguments[0]).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        source = build_sdist(folder)
        wheels = [build_wheel(source, platform) for platform in arguments[1:] or TARGETS]
    for path in wheels:
        sys.stdout.write(check(path) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
