"""Temporaries of ended processes are deleted, those of running ones stay, and a folder is never missing."""

import os
import signal
import socket
import subprocess
import sys
import time
import zlib

import pytest

from edgekit.errors import FileError
from edgekit.utils import exchange, files, temporaries
from edgekit.utils.files import open_regular, read_bytes, replacing, write_bytes

HOST = f"{zlib.crc32(socket.gethostname().encode()):08x}"
ENDED = 4194305
"""Above the largest number of a process on Linux."""


def python(code: str, *arguments, **more) -> subprocess.Popen:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **more)


HALF = """
import sys, time
from pathlib import Path
from edgekit.utils.files import replacing
with replacing(Path(sys.argv[1])) as temporary:
    temporary.mkdir()
    (temporary / "half").write_bytes(b"x")
    print("ready", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_run_left_goes_with_the_next_write(tmp_path):
    process = python(HALF, tmp_path / "model")
    assert process.stdout.readline() == "ready\n"
    write_bytes(tmp_path / "other", b"1")
    assert len(list(tmp_path.glob(".model.*.tmp"))) == 1, "its owner is still running"
    process.kill()
    process.wait(10)
    write_bytes(tmp_path / "other", b"2")
    assert os.listdir(tmp_path) == ["other"]


def test_a_process_that_has_the_number_of_an_ended_one_does_not_own_its_files(tmp_path):
    if not os.path.exists("/proc/self/stat"):
        pytest.skip("this system does not tell when a process started")
    left = tmp_path / f".a.{HOST}-{os.getpid()}-1-00000000.tmp.bin"
    left.write_bytes(b"x")
    write_bytes(tmp_path / "b", b"1")
    assert os.listdir(tmp_path) == ["b"]


def test_temporaries_of_another_machine_stay_for_a_day(tmp_path):
    left = tmp_path / f".a.00000000-{ENDED}-1-00000000.tmp"
    left.write_bytes(b"x")
    temporaries.sweep(tmp_path)
    assert left.exists()
    os.utime(left, (time.time() - 2 * temporaries.A_DAY,) * 2)
    temporaries.sweep(tmp_path)
    assert not left.exists()


def test_files_of_others_are_never_swept(tmp_path):
    names = [".a.tmp", ".bashrc", f".a.{HOST}-{ENDED}-1-0000.tmp", f"a.{HOST}-{ENDED}-1-00000000.tmp", ".a.old"]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    temporaries.sweep(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(names)


def test_a_folder_whose_replacement_was_interrupted_comes_back(tmp_path):
    aside = tmp_path / f".model.{HOST}-{ENDED}-1-00000000.old"
    aside.mkdir()
    (aside / "weights").write_bytes(b"old")
    write_bytes(tmp_path / "other", b"1")
    assert (tmp_path / "model" / "weights").read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["model", "other"]


@pytest.mark.parametrize("exchanges", [True, False])
def test_a_folder_is_replaced_with_and_without_an_exchange(tmp_path, monkeypatch, exchanges):
    if not exchanges:
        monkeypatch.setattr(exchange, "exchange", lambda one, other: False)
    for content in (b"1", b"2"):
        with replacing(tmp_path / "d") as temporary:
            temporary.mkdir()
            (temporary / "f").write_bytes(content)
    assert (tmp_path / "d" / "f").read_bytes() == b"2" and os.listdir(tmp_path) == ["d"]


WRITES = """
import sys
from pathlib import Path
from edgekit.utils.files import replacing
for i in range(100000):
    with replacing(Path(sys.argv[1])) as temporary:
        temporary.mkdir()
        (temporary / "f").write_bytes(b"whole")
    if i == 0:
        print("ready", flush=True)
"""


def test_a_folder_being_replaced_is_there_whenever_the_run_is_killed(tmp_path):
    """Twenty kills at random moments; after each the folder is complete, and the next run cleans up."""
    path = tmp_path / "model"
    write_bytes(path / "f", b"whole")
    for i in range(20):
        process = python(WRITES, path)
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.003 * i)
        process.kill()
        process.wait(10)
        assert (path / "f").read_bytes() == b"whole"
    temporaries.sweep(tmp_path)
    assert os.listdir(tmp_path) == ["model"]


def test_scratch_is_deleted_and_what_a_killed_run_left_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr(temporaries.tempfile, "gettempdir", lambda: str(tmp_path))
    left = tmp_path / f".edgekit.{HOST}-{ENDED}-1-00000000.tmp"
    left.mkdir()
    with temporaries.scratch() as folder:
        (folder / "x").write_bytes(b"x")
        assert os.listdir(tmp_path) == [folder.name]
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["a" * 255, "é" * 127, "a" * 240 + ".safetensors"])
def test_the_longest_names_can_be_written(tmp_path, name):
    write_bytes(tmp_path / name, b"1")
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("make, what", [
    (os.mkfifo, "a named pipe"),
    (lambda path: socket.socket(socket.AF_UNIX).bind(str(path)), "No such device"),
    (lambda path: path.symlink_to("/dev/zero"), "a device"),
    (os.mkdir, "Is a directory"),
])  # fmt: skip
def test_what_is_not_a_file_is_one_line_at_once(tmp_path, make, what):
    make(tmp_path / "model.gguf")
    with pytest.raises(FileError, match=what):
        open_regular(tmp_path / "model.gguf")
    with pytest.raises(FileError, match=what):
        read_bytes(tmp_path / "model.gguf")


def test_a_name_with_a_zero_is_one_line():
    with pytest.raises(FileError, match="cannot read"):
        read_bytes(files.Path("a\0b"))


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_conversion_that_is_stopped_leaves_nothing(tmp_path, number, status):
    """In the middle of writing; `convert` itself is too fast to hit, so its writer waits."""
    code = """
import signal, sys, time
from edgekit.cli.main import main
from edgekit.utils import files
signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background have it ignored
def waits(*_, **__):
    print("ready", flush=True)
    time.sleep(60)
files._flush = waits
main(["convert", "--to", "gguf", "--quant", "q8_0", "--no-verify", "-o", sys.argv[1]])
"""
    pytest.importorskip("gguf")
    process = python(code, tmp_path / "m.gguf", stderr=subprocess.PIPE)
    assert process.stdout.readline() == "ready\n"
    assert len(os.listdir(tmp_path)) == 1
    process.send_signal(number)
    assert process.wait(30) == status
    assert process.stderr.read().strip().splitlines()[-1] == "stopped"
    assert os.listdir(tmp_path) == []
