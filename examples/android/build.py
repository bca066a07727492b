"""Builds edgekit-lm-VERSION.aar, edgekit for Android apps, in a folder with its parts.

    pip install ziglang                  # or clang and lld
    npm install kotlin-compiler          # or another kotlinc; and a JDK
    PATH=$PWD/node_modules/kotlin-compiler/bin:$PATH python examples/android/build.py -o build/android

Needs no NDK and no Gradle.
"""

import argparse
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SOURCES = HERE / "src"
ABIS = {
    "arm64-v8a": ["-target", "aarch64-linux-none", "-mno-outline-atomics"],  # they would need the compiler's library
    "x86_64": ["-target", "x86_64-linux-none"],
}
MIN_SDK = 21  # Android 5, the first with 64 bits
LIBC = (
    "clock_gettime free getauxval memcpy memmove memset posix_memalign pthread_cond_broadcast pthread_cond_destroy "
    "pthread_cond_init pthread_cond_wait pthread_create pthread_join pthread_mutex_destroy pthread_mutex_init "
    "pthread_mutex_lock pthread_mutex_unlock pthread_sigmask sigfillset"
).split()
"""What the library may use of Android's libc; another name is an error of the linker."""
MANIFEST = f"""<?xml version="1.0" encoding="utf-8"?>
<manifest xmlns:android="http://schemas.android.com/apk/res/android" package="edgekit.lm">
    <uses-sdk android:minSdkVersion="{MIN_SDK}" />
</manifest>
"""
KEEP = """# C finds these by their names.
-keep class edgekit.Native { native <methods>; }
-keep class edgekit.EdgekitException { <init>(java.lang.String); }
# Flow.kt alone needs kotlinx-coroutines; an app may do without.
-dontwarn kotlinx.coroutines.**
"""
METADATA = "aarFormatVersion=1.0\naarMetadataVersion=1.0\nminCompileSdk=1\nminAndroidGradlePluginVersion=1.0.0\n"


def version() -> str:
    found = re.search(r'^__version__ = "(.+)"', (ROOT / "edgekit" / "__init__.py").read_text(), re.MULTILINE)
    assert found
    return found[1]


def run(*command: object) -> None:
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(f"{command[0]} failed:\n{done.stdout}")


def c_compiler() -> list[str] | None:
    """zig or clang, which compile for every processor; None if there is neither."""
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "cc"]
    if shutil.which("zig"):
        return ["zig", "cc"]
    return ["clang", "-fuse-ld=lld"] if shutil.which("clang") and shutil.which("ld.lld") else None


def java_headers() -> Path | None:
    """The folder of jni.h. Its functions are those of Android's."""
    javac = shutil.which("javac")
    folder = Path(javac).resolve().parents[1] / "include" if javac else None
    return folder if folder and (folder / "jni.h").exists() else None


def library(abi: str, folder: Path, compiler: Sequence[str], headers: Path) -> Path:
    """libedgekit.so for one kind of processor, in `folder`: the engine with the functions for Java."""
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / "libedgekit.so"
    command = [*compiler, *ABIS[abi]]
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        run(sys.executable, ROOT / "engine" / "tools" / "amalgamate.py", work)
        # A library with the names of Android's libc, to link against.
        (work / "libc.s").write_text("".join(f".globl {n}\n.type {n}, %function\n{n}:\n" for n in LIBC))
        run(*command, "-nostdlib", "-shared", "-Wl,-soname,libc.so", work / "libc.s", "-o", work / "libc.so")
        (work / "exports").write_text("{ global: Java_*; local: *; };\n")
        run(
            *command, "-D__ANDROID__", "-std=c99", "-O3", "-Wall", "-Wextra", "-Werror", "-fPIC", "-fvisibility=hidden",
            "-ffp-contract=off", "-ffunction-sections", "-ffreestanding",  # the compiler's headers, and ours:
            "-isystem", SOURCES / "bionic", "-isystem", headers, f"-I{work}",
            *sorted((SOURCES / "jni").glob("*.c")), work / "edgekit.c", work / "libc.so",
            "-shared", "-nostdlib", "-s", "-Wl,-soname,libedgekit.so", f"-Wl,--version-script={work / 'exports'}",
            "-Wl,--gc-sections", "-Wl,--no-undefined", "-Wl,--hash-style=both",  # Android 5 reads the older one
            "-Wl,-z,max-page-size=16384", "-o", out,
        )  # fmt: skip
    return out


def classes(out: Path, kotlinc: str) -> None:
    """classes.jar: the Kotlin part. kotlinc brings the library of coroutines to compile against."""
    coroutines = Path(kotlinc).resolve().parents[1] / "lib" / "kotlinx-coroutines-core-jvm.jar"
    run(
        "bash", kotlinc, "-Werror", "-module-name", "edgekit", "-jvm-target", "1.8", "-Xjdk-release=8",
        "-language-version", "2.2", "-cp", coroutines, *sorted((SOURCES / "kotlin").rglob("*.kt")), "-d", out,
    )  # fmt: skip


def pack(out: Path, libraries: Mapping[str, Path], jar: Path) -> None:
    """The AAR: a zip file that depends on its content alone."""
    files: dict[str, bytes] = {
        "AndroidManifest.xml": MANIFEST.encode(),
        "R.txt": b"",  # no resources
        "proguard.txt": KEEP.encode(),
        "classes.jar": jar.read_bytes(),
        "META-INF/com/android/build/gradle/aar-metadata.properties": METADATA.encode(),
        **{f"jni/{abi}/libedgekit.so": path.read_bytes() for abi, path in libraries.items()},
    }
    with zipfile.ZipFile(out, "w") as file:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            file.writestr(entry, content)


def main() -> None:
    parser = argparse.ArgumentParser(description="Builds edgekit-lm-VERSION.aar.")
    parser.add_argument("-o", "--out", type=Path, default=ROOT / "build" / "android", help="folder for the results")
    parser.add_argument("--cc", type=shlex.split, default=c_compiler(), help="zig cc or clang; default: what there is")
    arguments = parser.parse_args()
    headers, kotlinc = java_headers(), shutil.which("kotlinc")
    if not arguments.cc:
        sys.exit("build.py needs a C compiler for Android's processors: pip install ziglang")
    if headers is None:
        sys.exit("build.py needs a JDK, with javac on the PATH")
    if kotlinc is None:
        sys.exit("build.py needs kotlinc on the PATH: npm install kotlin-compiler, node_modules/kotlin-compiler/bin")
    libraries = {abi: library(abi, arguments.out / abi, arguments.cc, headers) for abi in ABIS}
    classes(arguments.out / "classes.jar", kotlinc)
    out = arguments.out / f"edgekit-lm-{version()}.aar"
    pack(out, libraries, arguments.out / "classes.jar")
    print(f"{out}: {out.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
