"""Names of temporary files and folders that tell whose they are, so that what a killed run left is deleted later.

    .NAME.HOST-PID-START-RANDOM.tmp.SUFFIX      being written; renamed to its target, or deleted
    .NAME.HOST-PID-START-RANDOM.old             what a folder held before it was replaced

`HOST` is a checksum of the machine's name, `START` the time at which the process started (0 where the system does not
tell), so that another process with the same number is not taken for the owner.
"""

import contextlib
import os
import re
import secrets
import shutil
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

OWNED = re.compile(r"\.(?P<name>.+)\.(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-(?P<start>\d+)-[0-9a-f]{8}\.(?P<kind>tmp|old)")
LONGEST = 255
"""Bytes of a file's name in most file systems."""
A_DAY = 24 * 3600
"""Seconds after which a temporary of another machine, in a shared folder, counts as left behind."""


def name_for(path: Path, kind: str = "tmp") -> Path:
    """A temporary name next to `path`. A `tmp` keeps the suffix, since some writers depend on it."""
    stem, suffix = (path.stem, path.suffix) if kind == "tmp" else (path.name, "")
    owner = f".{_host()}-{os.getpid()}-{_start(os.getpid())}-{secrets.token_hex(4)}.{kind}{suffix}"
    room = LONGEST - len(os.fsencode(owner)) - 1
    while len(os.fsencode(stem)) > room:
        stem = stem[:-1]
    return path.with_name(f".{stem or '_'}{owner}")


def remove(path: Path) -> None:
    """Delete a file or folder, if there is one and the system allows it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Delete the temporaries of processes that have ended. A folder whose replacement was interrupted comes back."""
    try:
        entries = [entry.name for entry in os.scandir(folder) if entry.name.startswith(".")]
    except OSError:
        return
    for entry in entries:
        found = OWNED.match(entry)
        if found is None or not _is_dead(folder / entry, found):
            continue
        if found["kind"] == "old" and not os.path.lexists(folder / found["name"]):
            with contextlib.suppress(OSError):
                os.replace(folder / entry, folder / found["name"])
        else:
            remove(folder / entry)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder in the system's place for temporary files, deleted at the end or by a later run."""
    parent = Path(tempfile.gettempdir())
    sweep(parent)
    folder = name_for(parent / "edgekit")
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        remove(folder)


def _host() -> str:
    node = os.environ.get("COMPUTERNAME", "") if sys.platform == "win32" else os.uname().nodename
    return f"{zlib.crc32(os.fsencode(node)):08x}"


def _start(pid: int) -> int:
    """When a process started, in the kernel's ticks; 0 if the system does not tell. See proc(5), `stat`."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0


def _is_dead(path: Path, found: re.Match[str]) -> bool:
    pid, start = int(found["pid"]), int(found["start"])
    if found["host"] != _host() or sys.platform == "win32":
        with contextlib.suppress(OSError):
            return path.lstat().st_mtime < time.time() - A_DAY
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False  # another user's, which runs
    return start != _start(pid)
