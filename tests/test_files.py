"""Files are written whole or not at all."""

import errno
import os
import signal
import subprocess
import sys
import time

import pytest

from edgekit.errors import FileError
from edgekit.utils.files import read_bytes, replacing, write_bytes


def test_write_bytes_writes_and_replaces(tmp_path):
    path = tmp_path / "new" / "a.bin"
    write_bytes(path, b"one")
    write_bytes(path, b"two")
    assert path.read_bytes() == b"two" and os.listdir(path.parent) == ["a.bin"]


def test_replacing_existing_file_needs_force(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(FileError, match="exists already: add --force"):
        write_bytes(path, b"new", force=False)
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_replacing_failure_keeps_old_file(tmp_path, kind):
    path = tmp_path / "a"
    write_bytes(path / "x" if kind == "folder" else path, b"old")
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
        if kind == "folder":
            temporary.mkdir()
            (temporary / "x").write_bytes(b"half")
        else:
            temporary.write_bytes(b"half")
        1 / 0  # noqa: B018
    assert os.listdir(tmp_path) == ["a"]
    assert (path / "x" if kind == "folder" else path).read_bytes() == b"old"


def test_replacing_folder_replaces_folder(tmp_path):
    for n in (1, 2):
        with replacing(tmp_path / "d") as temporary:
            temporary.mkdir()
            (temporary / f"f{n}").write_text("x")
    assert os.listdir(tmp_path / "d") == ["f2"] and os.listdir(tmp_path) == ["d"]


def test_replacing_full_disk_is_one_line(tmp_path):
    with (
        pytest.raises(FileError, match=r"cannot write .*a\.bin: No space left on device"),
        replacing(tmp_path / "a.bin") as temporary,
    ):
        temporary.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert os.listdir(tmp_path) == []


def test_replacing_system_refusal_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="cannot write"):
        write_bytes(tmp_path / "file" / "below", b"")
    with pytest.raises(FileError, match="No such file"):
        read_bytes(tmp_path / "absent")
    with pytest.raises(FileError, match="Is a directory"):
        read_bytes(tmp_path)


def test_replacing_killed_keeps_old_file(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom edgekit.utils.files import replacing\n"
        f"with replacing(Path({str(path)!r})) as t:\n    t.write_bytes(b'half'); "
        "print('ready', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    time.sleep(0.05)
    assert path.read_bytes() == b"old"
