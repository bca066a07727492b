"""Reading and writing files: whole or not at all, with one clear line for every failure."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from edgekit.errors import FileError


def os_reason(error: OSError) -> str:
    """An operating system's error in a few words: `No space left on device`."""
    return error.strerror or str(error)


def read_bytes(path: Path) -> bytes:
    """The whole file. Raises `FileError` naming the path and the system's reason."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise FileError(f"cannot read {path}: {os_reason(error)}") from error


@contextlib.contextmanager
def replacing(path: Path, *, force: bool = True) -> Iterator[Path]:
    """Yield a temporary name next to `path`; on success flush it to disk and rename it to `path`.

    The temporary may become a file or a folder. A killed run leaves the old file or the new one; a failed one
    leaves nothing behind. The temporary keeps the suffix, since some writers depend on it.

    Raises:
        FileError: the target exists and `force` is off, or the system refuses to write.
    """
    path = Path(path)
    if not force and path.exists():
        raise FileError(f"{path} exists already: add --force to replace it, or name another file with -o")
    temporary = path.with_name(f".{path.stem}.{os.urandom(4).hex()}.tmp{path.suffix}")
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            for written in [temporary, *temporary.rglob("*")] if temporary.is_dir() else [temporary]:
                _flush(written)
            _rename(temporary, path)
        except OSError as error:
            raise FileError(f"cannot write {path}: {os_reason(error)}") from error
    finally:
        _remove(temporary)


def write_bytes(path: Path, data: bytes, *, force: bool = True) -> None:
    """Write one file atomically. Raises `FileError`."""
    with replacing(path, force=force) as temporary:
        temporary.write_bytes(data)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _rename(temporary: Path, path: Path) -> None:
    if not (temporary.is_dir() and path.is_dir()):
        os.replace(temporary, path)
        return
    # A folder cannot be renamed over a full one: move the old aside first, and back if the second step fails.
    aside = path.with_name(f".{path.name}.{os.urandom(4).hex()}.old")
    os.replace(path, aside)
    try:
        os.replace(temporary, path)
    except OSError:
        os.replace(aside, path)
        raise
    _remove(aside)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        import shutil  # all compression libraries, which nothing else here needs

        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
