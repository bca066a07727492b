"""ONNX Runtime for exported pages: the npm package onnxruntime-web, from a folder or fetched by npm.

edgekit does not download it directly: npm knows its registry and verifies what it gets. The files that pages need are
kept in the user's cache folder.
"""

import gzip
import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from edgekit.conversion import cache
from edgekit.errors import FileError
from edgekit.utils import files

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"

# For each of a page's runtimes: the script, with ONNX Runtime's loader inside, and its WebAssembly.
NEEDED = {
    "wasm": ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"),
    "webgpu": ("ort.webgpu.bundle.min.mjs", "ort-wasm-simd-threaded.asyncify.wasm"),
}

NOTICE = "onnxruntime-web {version}, from npm. Copyright (c) Microsoft Corporation. MIT License.\n"


@dataclass(frozen=True)
class Assets:
    """Files for a page, by their path in its folder, and the `runtimes` of `site.json`."""

    files: dict[str, bytes]
    runtimes: dict[str, dict[str, object]]


def assets(package: Path | None, *, webgpu: bool) -> Assets:
    """The files of ONNX Runtime for a page; the WebAssembly is gzipped to a quarter of its size.

    Args:
        package: the npm package as a folder; None for the cached one, which npm fetches if needed.
        webgpu: include the files for WebGPU.

    Raises:
        FileError: the folder is not that package, or npm is missing or cannot fetch it.
    """
    folder = package or cached()
    version = _version(folder)
    prefix = f"ort/{version}/"
    contents = {prefix + "NOTICE": NOTICE.format(version=version).encode()}
    runtimes: dict[str, dict[str, object]] = {}
    for name, (script, binary) in NEEDED.items():
        if name == "webgpu" and not webgpu:
            continue
        packed = gzip.compress(_read(folder, binary), 9, mtime=0)
        wasm = f"{prefix}{Path(binary).stem}-{hashlib.sha256(packed).hexdigest()[:10]}.wasm.gz"
        contents |= {prefix + script: _read(folder, script), wasm: packed}
        runtimes[name] = {"script": prefix + script, "wasm": wasm, "bytes": len(packed)}
    return Assets(contents, runtimes)


def _read(folder: Path, name: str) -> bytes:
    for path in (folder / "dist" / name, folder / name):
        if path.is_file():
            return files.read_bytes(path)
    raise FileError(f"{folder} is not {PACKAGE}: it has no dist/{name}")


def _version(folder: Path) -> str:
    path = folder / "package.json"
    if not path.is_file():
        raise FileError(f"{folder} is not an npm package: it has no package.json")
    try:
        description = json.loads(files.read_bytes(path))
        name, version = description["name"], description["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise FileError(f"{path} is damaged: it has no name and version") from error
    if name != PACKAGE or not isinstance(version, str) or not all(part.isalnum() for part in version.split(".")):
        raise FileError(f"{folder} is the npm package {name} {version}, not {PACKAGE}")
    return version


def cached() -> Path:
    """The package in the cache folder; npm fetches it if it is not there yet."""
    folder = cache.folder().parent / f"{PACKAGE}-{VERSION}"
    if not (folder / "package.json").is_file():
        with files.replacing(folder) as temporary:
            _fetch(temporary)
    return folder


def _fetch(out: Path) -> None:
    fix = f"install npm, or give --onnxruntime-web DIR, the unpacked npm package {PACKAGE} {VERSION}"
    npm = shutil.which("npm")
    if npm is None:
        raise FileError(f"the page needs {PACKAGE}, but npm, which fetches it, is not installed: {fix}")
    with tempfile.TemporaryDirectory() as temporary:
        command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--silent", "--pack-destination", temporary]
        done = subprocess.run(command, capture_output=True, text=True, cwd=temporary)
        packed = list(Path(temporary).glob("*.tgz"))
        if done.returncode or not packed:
            reason = (done.stderr.strip().splitlines() or ["no output"])[0]
            raise FileError(f"npm could not fetch {PACKAGE}@{VERSION} ({reason}): {fix}")
        needed = {"package/package.json"} | {f"package/dist/{name}" for both in NEEDED.values() for name in both}
        with tarfile.open(packed[0]) as tar:
            members = [member for member in tar.getmembers() if member.name in needed]
            tar.extractall(temporary, members=members, filter="data")
        shutil.move(Path(temporary) / "package", out)
