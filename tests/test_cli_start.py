"""The first moments of a command: Ctrl-C while Python still imports, and output that cannot be written."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

INTERRUPTED = """
import os, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
from edgekit.__main__ import start
sys.meta_path.insert(0, Finder())
sys.argv = ["edgekit", *{arguments!r}]
start()
"""


@pytest.mark.parametrize("module, arguments", [
    ("edgekit.cli", ["--help"]),
    ("click", ["--help"]),
    ("edgekit.cli.main", ["--version"]),
    ("edgekit.cli.run", ["run", "Once"]),
    ("numpy", ["eval", "ppl", "a.txt"]),
    ("edgekit.model", ["run", "Once"]),
    ("edgekit.doctor", ["doctor"]),
])  # fmt: skip
def test_interrupt_during_start_is_silent_or_one_line(module, arguments):
    code = INTERRUPTED.format(module=module, arguments=arguments)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, stdin=subprocess.DEVNULL)
    assert done.returncode in (130, -signal.SIGINT), done.stderr
    assert done.stdout == b"" and done.stderr.strip() in (b"", b"stopped")


def test_interrupt_under_nohup_stays_ignored():
    code = INTERRUPTED.format(module="click", arguments=["--version"]).replace("signal.default_int_handler", "1")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert done.returncode == 0 and done.stdout.startswith(b"edgekit, version"), done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["run", "--help"], ["eval", "ppl", "--help"]])
def test_help_on_a_full_disk_is_one_line(arguments):
    with open("/dev/full", "wb") as full:
        done = subprocess.run([sys.executable, "-m", "edgekit", *arguments], stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr == b"Error: cannot write the output: No space left on device\n"


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"]])
def test_help_into_a_closed_pipe_is_silent(arguments):
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run([sys.executable, "-m", "edgekit", *arguments], stdout=write, stderr=subprocess.PIPE)
    finally:
        os.close(write)
    assert done.returncode == 1 and done.stderr == b""
