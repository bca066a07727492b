"""The engine joined into one file: it compiles alone, needs four functions of C, and gives the golden hashes."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from engine_build import ENGINE
from engine_models import CACHES, seeded_gguf
from test_engine import GOLDEN, TOKENS, digest

# Tile formats of every kind, and every cache.
SOME = [
    ("F32", "i8"),
    ("F16", "f16"),
    ("Q8_0", "f32"),
    ("Q4_0", "i8"),
    ("Q4_1", "f16"),
    ("Q4_K", "f32"),
    ("Q6_K", "i8"),
]

NODE = ["node", "--no-warnings"]


@pytest.fixture(scope="module")
def joined(tmp_path_factory):
    folder = tmp_path_factory.mktemp("joined")
    subprocess.run([sys.executable, ENGINE / "tools" / "amalgamate.py", folder], check=True)
    return folder


def compiled(folder, compiler, *arguments):
    command = [compiler]
    if compiler == "zig":
        if importlib.util.find_spec("ziglang") is None:
            pytest.skip("needs zig: pip install ziglang")
        command = [sys.executable, "-m", "ziglang", "cc"]
    elif shutil.which(compiler) is None:
        pytest.skip(f"needs {compiler}")
    command += ["-std=c99", "-Wall", "-Wextra", "-I", folder, folder / "edgekit.c", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def node(command):
    """With the program that runs WebAssembly, and the flag for relaxed SIMD where node still has it."""
    options = subprocess.run(["node", "--v8-options"], capture_output=True, text=True).stdout
    flags = [flag for flag in ["--experimental-wasm-relaxed-simd"] if flag in options]
    return [*command, *flags, Path(__file__).with_name("wasi.mjs")]


def logits(command, path, kv):
    done = subprocess.run([*command, path, str(CACHES[kv]), *map(str, TOKENS)], capture_output=True)
    assert done.returncode == 0, done.stderr
    return np.frombuffer(done.stdout, "<f4")


@pytest.mark.slow
@pytest.mark.parametrize("compiler, flags, run", [
    ("gcc", ["-O0"], []), ("clang", ["-O0"], []),
    # Clang's default, which Swift packages cannot change: product and sum have one rounding unless a file forbids it.
    ("clang", ["-O2", "-march=haswell", "-ffp-contract=on"], []),
    ("clang", ["-O2", "-ffp-contract=on", "--target=aarch64-linux-gnu", "-static"],
     ["qemu-aarch64-static", "-cpu", "max"]),
    ("aarch64-linux-gnu-gcc", ["-O2", "-static"], ["qemu-aarch64-static", "-cpu", "max"]),
    ("aarch64-linux-gnu-gcc", ["-O2", "-static"], ["qemu-aarch64-static", "-cpu", "cortex-a53"]),  # no sdot
    ("riscv64-linux-gnu-gcc", ["-O2", "-static"], ["qemu-riscv64-static"]),
    ("zig", ["-O1", "-target", "x86-linux-musl", "-msse2", "-mfpmath=sse"], []),  # 32 bits
    ("zig", ["-O2", "-target", "wasm32-wasi", "-msimd128"], NODE),
    ("zig", ["-O2", "-target", "wasm32-wasi", "-msimd128", "-mrelaxed-simd"], NODE),
    ("zig", ["-O2", "-target", "wasm32-wasi"], NODE),
])  # fmt: skip
def test_joined_file_gives_the_golden_hashes(joined, tmp_path, compiler, flags, run):
    program = tmp_path / "logits"
    if run and shutil.which(run[0]) is None:
        pytest.skip(f"needs {run[0]}")
    compiled(joined, compiler, *flags, "-DEK_NO_THREADS", ENGINE / "tests" / "logits.c", "-o", program)
    run = node(run) if run == NODE else run
    for kind, kv in SOME:
        path = seeded_gguf(tmp_path / f"{kind}.gguf", kind)
        assert digest(logits([*run, program], path, kv)) == GOLDEN[kind].split()[list(CACHES).index(kv)], (kind, kv)


def test_joined_file_needs_no_library(joined, tmp_path):
    if shutil.which("nm") is None:
        pytest.skip("needs nm")
    compiled(joined, "cc", "-O0", "-DEK_NO_THREADS", "-ffreestanding", "-c", "-o", tmp_path / "edgekit.o")
    names = subprocess.run(["nm", "-u", tmp_path / "edgekit.o"], stdout=subprocess.PIPE, text=True).stdout.split()
    needed = set(names) - {"U", "__stack_chk_fail", "_GLOBAL_OFFSET_TABLE_"}
    assert needed <= {"memcpy", "memmove", "memset", "memcmp", "strlen"}
