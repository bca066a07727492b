"""Compiles the engine's WebAssembly modules for edgekit/web/javascript.

`python engine/tools/make_wasm.py FOLDER` writes engine-relaxed.wasm, engine-simd.wasm and engine-scalar.wasm there. It
needs the package ziglang in the version of constraints.txt: then the bytes are the same on every machine.
"""

import subprocess
import sys
from pathlib import Path

ENGINE = Path(__file__).resolve().parents[1]
FEATURES = {"relaxed": ["simd128", "relaxed_simd"], "simd": ["simd128"], "scalar": []}
"""What a module needs, besides what every browser has since 2021."""

# -Os: as fast as -O3, and a quarter smaller; the kernels say themselves which loops are unrolled.
FLAGS = "-std=c99 -Os -g0 -DEK_NO_THREADS -ffp-contract=off -fvisibility=hidden".split()
LINK = "-O ReleaseSmall -fstrip -fno-entry --stack 65536 -target wasm32-freestanding".split()


def build(name: str, out: Path) -> None:
    """Compile one module. Paths are relative to the engine, so that none gets into the file."""
    sources = sorted(path.name for path in ENGINE.glob("*.c") if path.name != "threads_posix.c")
    cpu = "+".join(["generic", "bulk_memory", "sign_ext", "nontrapping_fptoint", *FEATURES[name]])
    command = ["build-exe", *LINK, f"-mcpu={cpu}", f"-femit-bin={out}", "-cflags", *FLAGS, "--", *sources]
    subprocess.run([sys.executable, "-m", "ziglang", *command, "wasm/module.c"], cwd=ENGINE, check=True)
    out.chmod(0o644)  # not a program


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    for name in FEATURES:
        build(name, folder / f"engine-{name}.wasm")


if __name__ == "__main__":
    main()
