"""The command line: what it prints where, its exit status, and one line for every mistake."""

import dataclasses
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers import STENTOR, write_model

from edgekit.cli.main import main

EDGEKIT = [sys.executable, "-m", "edgekit"]
STORY = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park."


def call(*arguments, input=None, **environment):
    return subprocess.run(
        [*EDGEKIT, *map(str, arguments)], capture_output=True, input=input, timeout=120, env=os.environ | environment
    )


@pytest.fixture(scope="session")
def gguf(stories, tmp_path_factory):
    pytest.importorskip("gguf")
    path = tmp_path_factory.mktemp("cli") / "stories.gguf"
    done = call("convert", "-m", stories, "--to", "gguf", "--quant", "q8_0", "-o", path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode() == f"{path}\n", "stdout is the path alone"
    return path


def test_help_of_commands_has_examples():
    for arguments in ([], ["run"], ["convert"], ["inspect"], ["tokenize"]):
        shown = CliRunner().invoke(main, [*arguments, "--help"])
        assert shown.exit_code == 0 and "edgekit " + " ".join(arguments) in shown.output


def test_help_of_train_lists_every_recipe():
    shown = " ".join(CliRunner().invoke(main, ["train", "--help"]).output.split()).replace("- ", "-")
    recipes = sorted(path.stem for path in (Path(__file__).parents[1] / "training" / "recipes").glob("*.toml"))
    assert recipes and f"comes with edgekit: {', '.join(recipes)}." in shown


def test_run_prompt_streams_text_to_stdout_and_statistics_to_stderr(gguf):
    pytest.importorskip("llama_cpp")
    done = call("run", "-m", gguf, "Once upon a time", "--max-new-tokens", 40, "--stats")
    assert done.returncode == 0 and done.stdout.decode().startswith(STORY[:60])
    assert done.stdout.endswith(b"\n") and b"tokens" not in done.stdout
    assert b"first token" in done.stderr and b"decode 40 tokens" in done.stderr and b"seed" in done.stderr


def test_run_piped_prompt_no_echo_prints_only_the_continuation(gguf):
    pytest.importorskip("llama_cpp")
    piped = call("run", "-m", gguf, "--max-new-tokens", 20, "--no-echo", input=b"Once upon a time\n")
    assert piped.returncode == 0 and piped.stdout.decode().startswith(", there was")


def test_run_json_has_tokens_logprobs_and_timings(gguf):
    pytest.importorskip("llama_cpp")
    more = ("--max-new-tokens", 3, "--json", "--logprobs", 2, "--seed", 5, "--runtime", "llamacpp")
    record = json.loads(call("run", "-m", gguf, "Once", *more).stdout)
    assert record["finish_reason"] == "length" and len(record["tokens"]) == 3 and record["seed"] == 5
    assert record["runtime"] == "llamacpp" and len(record["logprobs"][0]["top"]) == 2
    assert record["timings"]["decode_rate"] > 0


def test_inspect_folder_and_gguf_report_the_same_model(stories, gguf):
    for path, kind in ((stories, "F32"), (gguf, "Q8_0")):
        found = json.loads(call("inspect", "-m", path, "--json").stdout)
        assert found["parameters"]["total"] == 260_032 and found["architecture"] == "llama"
        assert kind in found["size_by_type"] and found["vocabulary"]["ids"] == 512
        assert sum(t["bytes"] for t in found["tensors"]) == found["weights_bytes"]
        shown = call("inspect", "-m", path).stdout.decode()
        assert "260,032" in shown and "8 heads of 8 (4 key/value)" in shown


def test_inspect_stentor2_equals_its_model_card(stentor):
    counts = json.loads(call("inspect", "-m", stentor, "--json").stdout)["parameters"]
    # The model card's parameter breakdown.
    assert counts == {
        "total": 12_294_400, "embedding": 2_064_384, "norms": 6_144 + 256, "attention": 3_145_728, "ffn": 7_077_888,
    }  # fmt: skip
    sizes = json.loads(call("inspect", "-m", stentor, "--json").stdout)["size_as_gguf"]
    assert sizes["f32"] == 4 * 12_294_400
    assert sizes["q8_0"] == (12_294_400 - 6_400) * 34 // 32 + 4 * 6_400
    assert "16.8 %" in call("inspect", "-m", stentor).stdout.decode()


def test_tokenize_and_decode_print_ids_pieces_and_text(stentor):
    ids = [98, 1637, 593, 15, 3346, 4]
    record = json.loads(call("tokenize", "-m", stentor, "Hello, World!", "--json").stdout)
    assert record["ids"] == ids and "".join(record["pieces"]) == "Hello, World!" and record["count"] == 6
    assert call("tokenize", "-m", stentor, "--decode", "98, 1637 593").stdout == b"Hello\n"
    assert call("tokenize", "-m", stentor, "--count", input=b"Hello, World!\n").stdout == b"6\n"
    shown = call("tokenize", "-m", stentor, "Hello").stdout.decode()
    assert shown.splitlines()[1].split() == ["1637", '"Hel"']


def test_tokenize_vocabulary_by_path_or_name_needs_no_model(shared):
    vocabs = shared / "tokenmonster" / "vocabs"
    name = "english-8000-strict-nocapcode-v1"
    for vocab in (vocabs / f"{name}.vocab", name):
        done = call("tokenize", "--vocab", vocab, "Hello", "--count", EDGEKIT_VOCABS=str(vocabs))
        assert done.stdout == b"3\n", done.stderr


# ----------------------------------------------------------------------------- mistakes


@pytest.fixture(scope="session")
def broken(tmp_path_factory):
    """A folder of files that are not models, and models that are damaged."""
    folder = tmp_path_factory.mktemp("broken")
    sizes = {
        "vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16,
        "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8,
    }  # fmt: skip
    ids = {"bos_token_id": None, "eos_token_id": (), "pad_token_id": None}
    small = write_model(folder / "model", dataclasses.replace(STENTOR, **sizes, **ids))
    (folder / "text.gguf").write_bytes(b"hello world, this is no model at all")
    (folder / "empty.gguf").write_bytes(b"")
    (folder / "text.onnx").write_bytes(b"hello world, this is no model at all")
    (folder / "text.vocab").write_bytes(b"\x01\x01\x01\x04 no vocabulary at all, though it begins like one")
    (folder / "text.txt").write_text("x")
    cut = folder / "cut"
    cut.mkdir()
    (cut / "config.json").write_bytes((small / "config.json").read_bytes())
    (cut / "model.safetensors").write_bytes((small / "model.safetensors").read_bytes()[:-100])
    return folder


MISTAKES = [
    (["run", "-m", "{b}/absent", "x"], 1, "does not exist"),
    (["run", "-m", "{b}/text.gguf", "x"], 1, "text.gguf"),
    (["run", "-m", "{b}/empty.gguf", "x"], 1, "empty.gguf"),
    (["run", "-m", "{b}/text.onnx", "x"], 1, "text.onnx"),
    (["run", "-m", "{b}/text.txt", "x"], 1, "not a model edgekit can open"),
    (["run", "-m", "{b}/cut", "--runtime", "torch", "x"], 1, "not a whole safetensors file"),
    (["run", "-m", "{b}/model", "--runtime", "torch", "x"], 1, "no tokenizer"),
    (["run", "-m", "{b}/model", "--runtime", "nonsense", "x"], 2, "unknown runtime 'nonsense': choose from"),
    (["run", "-m", "{b}/text.onnx", "--runtime", "llama.cpp", "x"], 2, "runs on onnx only"),
    (["convert", "-m", "{b}/model", "--to", "gguf", "--quant", "q9_9"], 2, "unknown quantization 'q9_9'"),
    (["convert", "-m", "{b}/model", "--to", "nonsense"], 2, "unknown format 'nonsense': choose from gguf, hf,"),
    (["convert", "-m", "{b}/model"], 2, "Missing option '--to'"),
    (["convert", "-m", "{b}/cut", "--to", "gguf"], 1, "not a whole safetensors file"),
    (["convert", "-m", "{b}/text.onnx", "--to", "gguf"], 1, "cannot be turned back"),
    (["convert", "-m", "{b}/model", "--to", "gguf", "-o", "{b}/text.txt"], 1, "exists already: add --force"),
    (["convert", "-m", "{b}/model", "--to", "gguf", "-o", "/proc/x.gguf"], 1, "cannot write /proc/x.gguf"),
    (["inspect", "-m", "{b}/text.gguf"], 1, "text.gguf"),
    (["inspect", "-m", "{b}/text.onnx"], 1, "text.onnx"),
    (["tokenize", "--vocab", "{b}/text.vocab", "x"], 1, "text.vocab"),
    (["tokenize", "--vocab", "{b}/absent.vocab", "x"], 1, "absent.vocab"),
    (["tokenize", "--vocab", "a", "-m", "b", "x"], 2, "not both"),
    (["nonsense"], 2, "No such command"),
]


@pytest.mark.parametrize("arguments, status, message", MISTAKES, ids=[f"{m[0][0]}-{m[2][:20]}" for m in MISTAKES])
def test_command_invalid_input_prints_one_line_and_leaves_nothing(broken, tmp_path, arguments, status, message):
    before = sorted(broken.rglob("*"))
    done = subprocess.run(
        [*EDGEKIT, *[a.format(b=broken) for a in arguments]],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "EDGEKIT_CACHE": str(tmp_path / "cache")},
    )
    assert done.returncode == status, done.stderr
    assert message in done.stderr and "Traceback" not in done.stderr and done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert lines[-1].startswith("Error: ") and (len(lines) == 1 or lines[0].startswith("Usage: ")), done.stderr
    assert sorted(broken.rglob("*")) == before
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [], "nothing is left behind"


PROMPT_MISTAKES = [
    ([], b"\xff\xfe", 1, "not UTF-8 (at byte 0)"),
    ([b"caf\xe9"], None, 1, "not UTF-8"),
    (["word " * 600], None, 1, "the model's context holds 512"),
    (["x", "--temperature", "-1"], None, 2, "temperature must be a number of at least 0, not -1.0"),
    (["x", "--top-p", "-0.1"], None, 2, "top_p"),
    (["x", "--top-k", "-4"], None, 2, "top_k"),
    (["x", "--repetition-penalty", "0"], None, 2, "repetition_penalty"),
    (["x", "--temperature", "warm"], None, 2, "--temperature"),
    (["x", "--threads", "0"], None, 2, "threads"),
    (["x", "--max-new-tokens", "0"], None, 2, "max_new_tokens"),
    (["x", "--quant", "q4_0"], None, 2, "--quant does not apply"),
]


@pytest.mark.parametrize("arguments, input, status, message", PROMPT_MISTAKES, ids=[m[3][:24] for m in PROMPT_MISTAKES])
def test_run_invalid_prompt_or_setting_prints_one_line(gguf, arguments, input, status, message):
    pytest.importorskip("llama_cpp")
    done = subprocess.run([*EDGEKIT, "run", "-m", str(gguf), *arguments], capture_output=True, input=input, timeout=60)
    assert done.returncode == status and message in done.stderr.decode(), done.stderr
    assert b"Traceback" not in done.stderr and done.stderr.strip().splitlines()[-1].startswith(b"Error: ")


def test_run_empty_prompt_begins_at_bos(gguf):
    pytest.importorskip("llama_cpp")
    settings = ("-m", gguf, "--json", "--max-new-tokens", 5, "--temperature", 0)
    given, piped = call("run", "", *settings), call("run", *settings, input=b"")
    assert given.returncode == piped.returncode == 0, given.stderr + piped.stderr
    records = [json.loads(done.stdout) for done in (given, piped)]
    assert [record["prompt"] for record in records] == [[1], [1]]
    assert records[0]["tokens"] == records[1]["tokens"] and len(records[0]["tokens"]) == 5


def test_run_truncate_left_fits_a_long_prompt(gguf):
    pytest.importorskip("llama_cpp")
    done = call("run", "-m", gguf, "word " * 600, "--truncate", "left", "--max-new-tokens", 5)
    assert done.returncode == 0, done.stderr


# ----------------------------------------------------------------------------- terminals


class Terminal:
    """edgekit on a pseudo-terminal."""

    def __init__(self, *arguments):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            signal.signal(
                signal.SIGINT, signal.SIG_DFL
            )  # background jobs of a shell ignore it, and children inherit that
            os.execv(sys.executable, [*EDGEKIT, *map(str, arguments)])
        self.seen = ""

    def until(self, text, seconds=30.0):
        deadline = time.monotonic() + seconds
        while text not in self.seen:
            ready, _, _ = select.select([self.fd], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"{text!r} did not come; seen: {self.seen!r}"
            try:
                self.seen += os.read(self.fd, 4096).decode(errors="replace")
            except OSError:
                break
        assert text in self.seen, self.seen

    def settle(self):
        """Wait: a key or signal may be lost while readline sets itself up after the prompt."""
        self.seen = ""
        time.sleep(1)

    def type(self, text):
        os.write(self.fd, text.encode())

    def ended(self):
        for _ in range(300):
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            if select.select([self.fd], [], [], 0.05)[0]:
                try:
                    self.seen += os.read(self.fd, 4096).decode(errors="replace")
                except OSError:
                    time.sleep(0.05)
        os.kill(self.pid, signal.SIGKILL)
        raise AssertionError("it did not end")


def test_run_terminal_asks_for_prompts_until_ctrl_d(gguf):
    pytest.importorskip("llama_cpp")
    terminal = Terminal("run", "-m", gguf, "--max-new-tokens", 12)
    terminal.until("> ")
    terminal.settle()
    terminal.type("Once upon a time\n")
    terminal.until("there was")
    terminal.until("> ")
    terminal.settle()
    terminal.type("word " * 600 + "\n")
    terminal.until("context holds 512")  # a mistake does not end the session
    terminal.until("> ")
    terminal.settle()
    terminal.type("\x04")
    assert terminal.ended() == 0 and "Traceback" not in terminal.seen


def test_run_ctrl_c_keeps_the_text_and_ends(gguf):
    pytest.importorskip("llama_cpp")
    terminal = Terminal("run", "-m", gguf, "Once upon a time", "--max-new-tokens", "400", "--ignore-eos")
    terminal.until("there was")
    terminal.type("\x03")
    assert terminal.ended() in (130, 0)  # 0 if the text ended before the signal came
    assert "Traceback" not in terminal.seen and "Once upon a time, there was" in terminal.seen


def test_run_ctrl_c_at_the_prompt_ends(gguf):
    pytest.importorskip("llama_cpp")
    terminal = Terminal("run", "-m", gguf)
    terminal.until("> ")
    terminal.settle()
    terminal.type("\x03")
    assert terminal.ended() == 0 and "Traceback" not in terminal.seen


def test_command_ctrl_c_while_the_model_opens_exits_with_130(monkeypatch):
    def interrupted(*arguments, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr("edgekit.model.load", interrupted)
    done = CliRunner().invoke(main, ["run", "Once"])
    assert done.exit_code == 130 and done.stderr == "\nstopped\n" and not done.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_command_stdout_on_a_full_disk_prints_one_line():
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*EDGEKIT, "tokenize", "Hello"], stdout=full, stderr=subprocess.PIPE, timeout=120)
    assert done.returncode == 1 and done.stderr == b"Error: cannot write the output: No space left on device\n"
