"""Reading and writing files: whole or not at all, with one clear line for every failure."""

import contextlib
import errno
import io
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from edgekit.errors import FileError

if sys.platform == "win32":
    READ = os.O_RDONLY | os.O_BINARY
else:
    READ = os.O_RDONLY | os.O_NONBLOCK  # opening a pipe would wait for its writer
KINDS = {
    stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
}  # fmt: skip


def os_reason(error: OSError) -> str:
    """An operating system's error in a few words: `No space left on device`."""
    return error.strerror or str(error)


def open_regular(path: Path) -> io.BufferedReader:
    """Open a file for reading; raises `FileError`, also for pipes and devices, without ever waiting for one."""
    try:
        handle = os.open(path, READ)
        try:
            mode = os.fstat(handle).st_mode
            if stat.S_ISDIR(mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if not stat.S_ISREG(mode):
                raise FileError(f"cannot read {path}: it is {KINDS.get(stat.S_IFMT(mode), 'special')}, not a file")
            return os.fdopen(handle, "rb")
        except BaseException:
            os.close(handle)
            raise
    except OSError as error:
        raise FileError(f"cannot read {path}: {os_reason(error)}") from error
    except ValueError as error:  # a NUL in the name
        raise FileError(f"cannot read {str(path)!r}: {error}") from error


def read_bytes(path: Path) -> bytes:
    """The whole file. Raises `FileError` naming the path and the system's reason."""
    with open_regular(path) as file:
        try:
            return file.read()
        except OSError as error:
            raise FileError(f"cannot read {path}: {os_reason(error)}") from error


@contextlib.contextmanager
def replacing(path: Path, *, force: bool = True) -> Iterator[Path]:
    """Yield a temporary name next to `path`; on success flush it to disk and rename it to `path`.

    The temporary may become a file or a folder. A killed run leaves the old file or the new one, and a temporary that
    the next run in this folder deletes; a failed run leaves nothing behind.

    Raises:
        FileError: the target exists and `force` is off, or the system refuses to write.
    """
    # Here: reading a model should not wait for what it imports.
    from edgekit.utils.temporaries import name_for, remove, sweep

    path = Path(path)
    sweep(path.parent)
    if not force and path.exists():
        raise FileError(f"{path} exists already: add --force to replace it, or name another file with -o")
    temporary = name_for(path)
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            for written in [temporary, *temporary.rglob("*")] if temporary.is_dir() else [temporary]:
                _flush(written)
            _rename(temporary, path)
            _flush(path.parent)
        except OSError as error:
            raise FileError(f"cannot write {path}: {os_reason(error)}") from error
    finally:
        remove(temporary)


def write_bytes(path: Path, data: bytes, *, force: bool = True) -> None:
    """Write one file atomically. Raises `FileError`."""
    with replacing(path, force=force) as temporary:
        temporary.write_bytes(data)


def _flush(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return  # Windows does not open folders
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)  # Windows flushes what it may write
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems do not flush folders
            raise
    finally:
        os.close(descriptor)


def _rename(temporary: Path, path: Path) -> None:
    if not (temporary.is_dir() and path.is_dir()):
        os.replace(temporary, path)
        return
    # A folder cannot be renamed over a full one. Where two cannot be exchanged, the old one goes aside first; if the
    # run ends in between, the next one that writes there brings it back (`temporaries.sweep`).
    from edgekit.utils.exchange import exchange
    from edgekit.utils.temporaries import name_for, remove

    if exchange(temporary, path):
        return
    aside = name_for(path, "old")
    os.replace(path, aside)
    try:
        os.replace(temporary, path)
    except OSError:
        os.replace(aside, path)
        raise
    remove(aside)
