"""Conversions that a runtime needs, done once and kept in the user's cache folder.

The key covers the source's bytes, the quantization and edgekit's version, so nothing stale is ever used. A record next
to each file has its size, time and sha256: a file with another size or time is hashed, and made again if it differs.
`EDGEKIT_CACHE` names another folder. Where none can be written, a conversion is kept until the process ends.
"""

import atexit
import contextlib
import hashlib
import json
import logging
import os
from pathlib import Path

from edgekit import __version__
from edgekit.conversion.convert import convert
from edgekit.errors import FileError
from edgekit.formats import embedded
from edgekit.formats.hub_cache import model_name
from edgekit.settings import Converting
from edgekit.utils import registry, temporaries
from edgekit.utils.files import open_regular, os_reason, write_bytes
from edgekit.utils.progress import Progress, silent

log = logging.getLogger(__name__)


def folder() -> Path:
    """Where converted models are kept; safe to delete at any time."""
    if folder := os.environ.get("EDGEKIT_CACHE"):
        return Path(folder) / "converted"
    import platformdirs  # here: most runs need no cache, and should not wait for the import

    return platformdirs.user_cache_path("edgekit") / "converted"


def converted(source: Path, to: str, quant: str, progress: Progress = silent) -> Path:
    """`source` in another format, from the cache or converted now. Raises as `edgekit.conversion.convert.convert`."""
    name = Path(model_name(source)).stem
    path = folder() / f"{name}-{quant}-{digest(source, quant)}{registry.suffix('converters', to)}"
    if is_whole(path):
        return path
    if path.exists():
        log.warning("%s in the cache is damaged: converting again", path.name)
    path = place(path.name)
    if path.parent != folder() and path.exists():
        return path
    settings = Converting(quant=quant)
    convert(source, to, path, settings=settings, force=True, progress=progress)
    remember(path)
    return path


def place(name: str) -> Path:
    """Where a conversion of this name is written: in the cache folder, or in one that is deleted at the end."""
    if _can_write(folder()):
        return folder() / name
    path = _until_the_end() / name
    if not path.exists():
        log.warning("the cache folder %s cannot be written: the conversion is not kept", folder())
    return path


def remember(path: Path, record: Path | None = None) -> None:
    """Write the record of a file, next to it or at another place."""
    with contextlib.suppress(FileError):  # without a record it is converted again next time
        write_bytes(record or _record(path), json.dumps(_stamp(path) | {"sha256": _sha256(path)}).encode())


def is_whole(path: Path, at: Path | None = None) -> bool:
    """Whether a file of the cache is there and holds what was written. `at`: its record, if not next to it."""
    at = at or _record(path)
    try:
        record, stamp = json.loads(at.read_bytes()), _stamp(path)
        if {key: record[key] for key in stamp} == stamp:
            return True
        if record["sha256"] != _sha256(path):
            return False
    except (OSError, ValueError, TypeError, KeyError, FileError):
        return False
    with contextlib.suppress(FileError):
        write_bytes(at, json.dumps(record | stamp).encode())
    return True


def digest(source: Path, quant: str) -> str:
    """24 hexadecimal digits over the bytes of every file that a conversion reads, the quantization and the version."""
    source = Path(source)
    files = [source]
    if source.is_dir():
        files = sorted(
            path
            for path in source.iterdir()
            if path.name in embedded.CARRIED or ".safetensors" in path.name or path.suffix == ".vocab"
        )
    total = hashlib.sha256(f"{__version__}\0{quant}".encode())
    for path in files:
        total.update(b"\0" + os.fsencode(path.name) + b"\0" + bytes.fromhex(_sha256(path)))
    return total.hexdigest()[:24]


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _stamp(path: Path) -> dict[str, int]:
    status = path.stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _sha256(path: Path) -> str:
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise FileError(f"cannot read {path}: {os_reason(error)}") from error


def _can_write(folder: Path) -> bool:
    """Whether a file can be created there. Asking for permission is not enough: root has it on a read-only disk."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = temporaries.name_for(folder / "probe")
        probe.touch()
        probe.unlink()
    except OSError:
        return False
    return True


_kept = contextlib.ExitStack()
_folder: list[Path] = []


def _until_the_end() -> Path:
    """A folder that is deleted when the process ends."""
    if not _folder:
        _folder.append(_kept.enter_context(temporaries.scratch()))
        atexit.register(_kept.close)
    return _folder[0]
