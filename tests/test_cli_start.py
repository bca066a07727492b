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


def closed(streams, *arguments):
    """(exit status, stdout, stderr) of edgekit started with some of its standard streams closed."""
    command = 'exec "$@" ' + " ".join({"0": "<&-", "1": ">&-", "2": "2>&-"}[one] for one in streams)
    done = subprocess.run(
        ["sh", "-c", command, "sh", sys.executable, "-m", "edgekit", *map(str, arguments)],
        capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


RUN = ["run", "Once", "--max-new-tokens", "3", "--seed", "1"]
NO_OUTPUT = "Error: cannot write the output: Bad file descriptor\n"


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
@pytest.mark.parametrize("streams, arguments, status, errors", [
    ("1", ["--version"], 1, NO_OUTPUT), ("1", ["--help"], 1, NO_OUTPUT), ("1", RUN, 1, NO_OUTPUT),
    ("1", ["inspect"], 1, NO_OUTPUT), ("1", ["tokenize", "Once"], 1, NO_OUTPUT), ("0", RUN, 0, ""), ("2", RUN, 0, ""),
    ("12", RUN, 1, ""), ("012", RUN, 1, ""), ("2", ["run", "Once", "-m", "/nowhere"], 1, ""), ("02", RUN, 0, ""),
])  # fmt: skip
def test_closed_streams_are_one_line_or_none(streams, arguments, status, errors):
    got = closed(streams, *arguments)
    assert (got[0], got[2]) == (status, errors)
    assert bool(got[1]) == (status == 0)


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
def test_closed_output_ends_the_server_with_one_line():
    pytest.importorskip("uvicorn")
    assert closed("1", "serve", "--port", "0") == (1, "", NO_OUTPUT)


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
def test_closed_streams_keep_output_out_of_files(tmp_path):
    path = tmp_path / "story.gguf"
    status, out, errors = closed("12", "convert", "--to", "gguf", "--quant", "q8_0", "--no-verify", "-o", path)
    assert status == 1 and path.read_bytes()[:4] == b"GGUF" and b"story.gguf" not in path.read_bytes()


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
@pytest.mark.parametrize("arguments", [["run"], ["tokenize"], ["chat"]])
def test_closed_input_is_an_empty_one(arguments):
    status, out, errors = closed("0", *arguments)
    assert "Traceback" not in errors and errors.count("\n") <= 1 and (status == 0 or errors)
