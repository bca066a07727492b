"""The engine on other processors and systems: compiled for ARM here, and the libraries of wheels that
`python engine/tools/wheels.py FOLDER` built, run in emulators with the golden hashes.

EDGEKIT_WHEELS=FOLDER pytest tests/test_wheels.py
"""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from engine_build import ENGINE
from engine_models import CACHES, seeded_gguf
from test_engine import GOLDEN, TOKENS, digest
from test_engine_joined import SOME

LOGITS = ENGINE / "tests" / "logits.c"
AARCH64 = ["qemu-aarch64-static", "-L", "/usr/aarch64-linux-gnu", "-cpu"]
ARMV7 = ["qemu-arm-static", "-L", "/usr/arm-linux-gnueabihf", "-cpu"]
RUNNERS = {
    "manylinux_2_17_x86_64": [],
    "manylinux_2_17_aarch64": [*AARCH64, "cortex-a72"],
    "manylinux_2_17_armv7l": [*ARMV7, "cortex-a7"],
    "musllinux_1_2_x86_64": ["/lib/ld-musl-x86_64.so.1"],
    "win_amd64": ["wine"],
}
"""How a program of a platform is run here."""


def check_hashes(command: list[str | Path], folder: Path, models: list[tuple[str, str]], **environment: str) -> None:
    """Run the logits program on seeded models, and compare its output with the hashes of every machine."""
    for kind, kv in models:
        path = seeded_gguf(folder / f"{kind}.gguf", kind)
        done = subprocess.run(
            [*command, path.name, str(CACHES[kv]), *map(str, TOKENS)],
            capture_output=True, cwd=folder, env=os.environ | environment,
        )  # fmt: skip
        assert done.returncode == 0, (done.returncode, done.stderr)
        values = np.frombuffer(done.stdout, "<f4")
        assert digest(values) == GOLDEN[kind].split()[list(CACHES).index(kv)], (kind, kv)


@pytest.mark.parametrize(
    "compiler, run",
    [("aarch64-linux-gnu-gcc", [*AARCH64, "cortex-a72"]), ("arm-linux-gnueabihf-gcc", [*ARMV7, "cortex-a7"])],
    ids=["aarch64", "armv7"],
)
def test_engine_on_a_raspberry_pi_gives_the_golden_hashes(tmp_path, compiler, run):
    for program in (compiler, run[0]):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}: apt install gcc-aarch64-linux-gnu gcc-arm-linux-gnueabihf qemu-user-static")
    joined, program = tmp_path / "joined", tmp_path / "logits"
    subprocess.run([sys.executable, ENGINE / "tools" / "amalgamate.py", joined], check=True)
    command = [
        compiler,
        "-std=c99",
        "-O1",
        "-static",
        "-pthread",
        "-I",
        joined,
        joined / "edgekit.c",
        LOGITS,
        "-o",
        program,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    check_hashes([*run, program], tmp_path, [("Q4_0", "i8"), ("F32", "f32")])


@pytest.mark.slow
@pytest.mark.parametrize("platform", RUNNERS)
def test_library_of_a_wheel_gives_the_golden_hashes(tmp_path, platform):
    folder = os.environ.get("EDGEKIT_WHEELS")
    if not folder:
        pytest.skip("needs EDGEKIT_WHEELS, a folder of python engine/tools/wheels.py")
    sys.path.insert(0, str(ENGINE / "tools"))
    wheels = pytest.importorskip("wheels", reason="needs lief: pip install --group release")
    pytest.importorskip("ziglang", reason="needs zig: pip install --group release")
    if (run := RUNNERS[platform]) and shutil.which(run[0]) is None:
        pytest.skip(f"needs {run[0]}")
    wheel = next(Path(folder).glob(f"*-{platform}.whl"), None) or pytest.skip(f"no wheel for {platform} in {folder}")
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.startswith("edgekit/_engine."))
        library = tmp_path / Path(name).name
        library.write_bytes(archive.read(name))
    program = tmp_path / ("logits.exe" if platform.startswith("win") else "logits")
    origin = [] if platform.startswith("win") else ["-Wl,-rpath,$ORIGIN"]
    command = [
        sys.executable, "-m", "ziglang", "cc", "-target", *wheels.TARGETS[platform].split(), "-O1", *origin,
        "-I", ENGINE, LOGITS, library.name, "-o", program.name,
    ]  # fmt: skip
    subprocess.run(command, check=True, cwd=tmp_path)
    check_hashes([*run, program], tmp_path, SOME, WINEDEBUG="-all", WINEPREFIX=str(tmp_path / "wine"))
