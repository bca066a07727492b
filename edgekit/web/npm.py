"""Where a page's ONNX Runtime comes from: the npm package onnxruntime-web, unpacked somewhere or fetched by npm itself.

edgekit fetches nothing on its own: npm is asked, which knows its registry and checks what it gets. The files that are
needed of the package are then kept in the user's cache folder.
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

# By the name that a page has for it: the script, with ONNX Runtime's own loader inside, and its WebAssembly.
NEEDED = {
    "wasm": ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"),
    "webgpu": ("ort.webgpu.bundle.min.mjs", "ort-wasm-simd-threaded.asyncify.wasm"),
}

NOTICE = "onnxruntime-web {version}, from npm. Copyright (c) Microsoft Corporation. MIT License.\n"


@dataclass(frozen=True)
class Assets:
    """Files for a page, by their path in its folder, and what `site.json` says of them."""

    files: dict[str, bytes]
    runtimes: dict[str, dict[str, object]]


def assets(package: Path | None, *, webgpu: bool) -> Assets:
    """The files of ONNX Runtime that a page serves; the WebAssembly as gzip, a quarter of its size.

    Args:
        package: the npm package as a folder; None for the cache or, failing that, npm.
        webgpu: with those for WebGPU, which are fetched only by a page that uses them.

    Raises:
        FileError: there is no such package, and npm is not there or cannot fetch it.
    """
    folder = package or cached()
    version = _version(folder)
    place = f"ort/{version}/"
    found = {place + "NOTICE": NOTICE.format(version=version).encode()}
    runtimes: dict[str, dict[str, object]] = {}
    for name, (script, binary) in NEEDED.items():
        if name == "webgpu" and not webgpu:
            continue
        packed = gzip.compress(_read(folder, binary), 9, mtime=0)
        wasm = f"{place}{Path(binary).stem}-{hashlib.sha256(packed).hexdigest()[:10]}.wasm.gz"
        found |= {place + script: _read(folder, script), wasm: packed}
        runtimes[name] = {"script": place + script, "wasm": wasm, "bytes": len(packed)}
    return Assets(found, runtimes)


def _read(folder: Path, name: str) -> bytes:
    for path in (folder / "dist" / name, folder / name):
        if path.is_file():
            return files.read_bytes(path)
    raise FileError(f"{folder} is no {PACKAGE}: it has no dist/{name}")


def _version(folder: Path) -> str:
    path = folder / "package.json"
    if not path.is_file():
        raise FileError(f"{folder} is no npm package: it has no package.json")
    try:
        found = json.loads(files.read_bytes(path))
        name, version = found["name"], found["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise FileError(f"{path} is damaged: it does not say name and version") from error
    if name != PACKAGE or not isinstance(version, str) or not all(part.isalnum() for part in version.split(".")):
        raise FileError(f"{folder} is the npm package {name} {version}, and {PACKAGE} is needed")
    return version


def cached() -> Path:
    """The package's files in the cache folder, fetched by npm if they are not there yet."""
    kept = cache.folder().parent / f"{PACKAGE}-{VERSION}"
    if not (kept / "package.json").is_file():
        with files.replacing(kept) as temporary:
            _fetch(temporary)
    return kept


def _fetch(out: Path) -> None:
    cure = f"install npm, or give --onnxruntime-web DIR: the unpacked npm package {PACKAGE} {VERSION}"
    npm = shutil.which("npm")
    if npm is None:
        raise FileError(f"the page needs {PACKAGE}, and npm is not there to fetch it: {cure}")
    with tempfile.TemporaryDirectory() as place:
        command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--silent", "--pack-destination", place]
        done = subprocess.run(command, capture_output=True, text=True, cwd=place)
        packed = list(Path(place).glob("*.tgz"))
        if done.returncode or not packed:
            reason = (done.stderr.strip().splitlines() or ["it said nothing"])[0]
            raise FileError(f"npm could not fetch {PACKAGE}@{VERSION} ({reason}): {cure}")
        wanted = {"package/package.json"} | {f"package/dist/{name}" for both in NEEDED.values() for name in both}
        with tarfile.open(packed[0]) as tar:
            members = [member for member in tar.getmembers() if member.name in wanted]
            tar.extractall(place, members=members, filter="data")
        shutil.move(Path(place) / "package", out)
