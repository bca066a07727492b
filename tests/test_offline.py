"""The main commands with the network cut off: they work, and none of them tries to connect.

Python's own sockets are watched by an audit hook in every child; where Linux allows it, the command also runs in a
network namespace without interfaces, which holds for compiled code, too.
"""

import os
import subprocess
import sys

import pytest

# Audit events: https://docs.python.org/3/library/audit_events.html
WATCH = """
import errno, os, sys

def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.sendmsg"):
        with open(os.environ["WATCH_LOG"], "a") as log:
            log.write(f"{event} {arguments[-1] if event == 'socket.connect' else arguments[0]}\\n")
        raise OSError(errno.ENETUNREACH, "the network is cut off")

sys.addaudithook(watch)
"""
TEXT = "Once upon a time there was a little dog. It ran over the hill and found a red ball.\n" * 4


@pytest.fixture(scope="module")
def cut_off(tmp_path_factory):
    """Runs edgekit without a network: (exit status, stdout, stderr, attempts to connect)."""
    folder = tmp_path_factory.mktemp("offline")
    (folder / "hook").mkdir()
    (folder / "hook" / "sitecustomize.py").write_text(WATCH)
    log = folder / "attempts"
    isolated = ["unshare", "-rn"]
    try:
        if subprocess.run([*isolated, "true"], capture_output=True).returncode:
            isolated = []
    except OSError:
        isolated = []
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "EDGEKIT_"))}
    paths = {"PYTHONPATH": str(folder / "hook"), "WATCH_LOG": str(log), "HOME": str(folder)}
    caches = {"XDG_CACHE_HOME": str(folder / "cache")}

    def run(*arguments):
        log.unlink(missing_ok=True)
        done = subprocess.run(
            [*isolated, sys.executable, "-m", "edgekit", *map(str, arguments)],
            capture_output=True, text=True, timeout=300, cwd=folder, env=kept | paths | caches,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr, log.read_text() if log.exists() else ""

    return run


@pytest.fixture(scope="module")
def gguf(cut_off, tmp_path_factory):
    """Converted and verified without a network."""
    path = tmp_path_factory.mktemp("converted") / "story.gguf"
    status, out, errors, attempts = cut_off("convert", "--to", "gguf", "--quant", "q8_0", "-o", path)
    assert status == 0 and out == f"{path}\n" and attempts == "", errors
    return path


@pytest.mark.parametrize("runtime", ["native", "onnx", "llamacpp", pytest.param("torch", marks=pytest.mark.slow)])
def test_run_without_a_network_makes_a_text(cut_off, gguf, runtime):
    for package in {"onnx": ["onnxruntime"], "llamacpp": ["llama_cpp"], "torch": ["torch", "transformers"]}.get(
        runtime, []
    ):
        pytest.importorskip(package)
    model = ["-m", gguf] if runtime == "llamacpp" else []
    ask = ["run", *model, "--runtime", runtime, "Once upon a time", "--max-new-tokens", 4, "--seed", 7]
    status, out, errors, attempts = cut_off(*ask)
    assert status == 0 and len(out) > 10 and attempts == "", errors


def test_commands_without_a_network_work(cut_off, gguf, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    for arguments, shown in (
        (["inspect"], "llama"), (["inspect", "-m", gguf], "q8_0"), (["tokenize", "Once upon a time"], "Once"),
        (["verify", gguf], ""), (["eval", "ppl", text], "perplexity"), (["doctor"], ""),
    ):  # fmt: skip
        status, out, errors, attempts = cut_off(*arguments)
        assert status == 0 and attempts == "" and shown in out.lower() + errors.lower() + out, (arguments, out, errors)


def test_hub_without_a_network_is_one_line(cut_off):
    """The counterpart: a command that needs the network is seen to ask for it."""
    status, out, errors, attempts = cut_off("inspect", "-m", "owner/name")
    assert status == 1 and out == "" and errors.count("\n") == 1 and errors.startswith("Error: ")
    assert attempts != "", "the watch does not work"
