"""`edgekit chat` and `edgekit run --chat`."""

import json
import subprocess
import sys

import pytest
from helpers import write_model
from test_chat import TINY
from test_chat_template import CHATML, files_with
from test_cli import Terminal, call

from edgekit.cli.chat import Conversation
from edgekit.errors import ContextError, FileError
from edgekit.model import load

pytest.importorskip("torch")
ARGUMENTS = ("--runtime", "torch", "--max-new-tokens", 6, "--ban-replacement", "--temperature", 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("cli-chat") / "tiny", TINY, files=files_with(CHATML), std=0.3)


@pytest.fixture(scope="module")
def expected(folder):
    """The answer to a conversation, in Python."""
    model = load(folder, runtime="torch")

    def answer(*messages, count=6):
        return model.chat(list(messages), max_new_tokens=count, ban_replacement=True).drain().text

    return answer


def say(terminal, text):
    terminal.settle()
    terminal.type(text)


def user(text):
    return {"role": "user", "content": text}


def test_run_chat_prints_the_answer_alone(folder, expected):
    done = call("run", "-m", folder, *ARGUMENTS, "--chat", "hello there")
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode() == expected(user("hello there")) + "\n"
    assert b"cut off after 6 tokens" in done.stderr
    piped = call("run", "-m", folder, *ARGUMENTS, "--chat", input=b"hello there\n")
    assert piped.stdout == done.stdout
    record = json.loads(call("run", "-m", folder, *ARGUMENTS, "--chat", "hello there", "--json").stdout)
    assert record["text"] == expected(user("hello there")) and record["dropped_messages"] == 0
    plain = json.loads(call("run", "-m", folder, *ARGUMENTS, "hello there", "--json").stdout)
    assert "dropped_messages" not in plain and "reused_tokens" not in plain["timings"]


def test_chat_piped_stdin_is_one_message(folder, expected):
    done = call("chat", "-m", folder, *ARGUMENTS, "--system", "Be brief.", input=b"first line\nsecond line\n")
    assert done.returncode == 0, done.stderr
    system = {"role": "system", "content": "Be brief."}
    assert done.stdout.decode() == expected(system, user("first line\nsecond line")) + "\n"


def test_chat_without_a_template_is_one_line(tmp_path):
    folder = write_model(tmp_path / "plain", TINY, files=files_with(None))
    for arguments in (["chat", "-m", folder], ["run", "-m", folder, "--chat", "hi"]):
        done = call(*arguments, "--runtime", "torch", input=b"hi")
        assert done.returncode == 1 and done.stdout == b""
        assert done.stderr.startswith(b"Error: the model has no chat template") and done.stderr.count(b"\n") == 1


def test_chat_hostile_template_is_one_line(tmp_path):
    loop = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    folder = write_model(tmp_path / "hostile", TINY, files=files_with(loop))
    done = call("run", "-m", folder, "--runtime", "torch", "--chat", "hi")
    assert done.returncode == 1 and done.stderr.count(b"\n") == 1 and b"does not end within 2 seconds" in done.stderr


def test_chat_terminal_commands_history_and_ends(folder, expected, tmp_path):
    terminal = Terminal("chat", "-m", folder, *ARGUMENTS)
    terminal.until("Type a message, or /help")
    terminal.until("> ")
    say(terminal, "/help\n")
    terminal.until("/save FILE     write the conversation")
    say(terminal, "/nonsense\n")
    terminal.until("unknown command /nonsense")
    say(terminal, "/system Be kind.\n")
    terminal.until("system's message is set")
    say(terminal, "one\n")
    terminal.until("cut off after 6 tokens")
    say(terminal, "two\n")
    terminal.until("cut off after 6 tokens")
    saved = tmp_path / "talk.json"
    say(terminal, f"/save {saved}\n")
    terminal.until("5 messages written")
    messages = json.loads(saved.read_text())
    system = {"role": "system", "content": "Be kind."}
    assert [m["role"] for m in messages] == ["system", "user", "assistant", "user", "assistant"]
    assert messages[0] == system and messages[2]["content"] == expected(system, user("one"))
    assert messages[4]["content"] == expected(*messages[:4])
    say(terminal, "/reset\n")
    terminal.until("a new conversation")
    say(terminal, "/system\n")
    terminal.until("no system's message")
    say(terminal, f"/save {saved}\n")
    terminal.until("0 messages written")
    assert json.loads(saved.read_text()) == []
    say(terminal, "/save /absent/folder/x\n")
    terminal.until("cannot write /absent/folder/x")
    say(terminal, "half a line\x03")
    terminal.until("> ")
    say(terminal, "\x04")
    assert terminal.ended() == 0 and "Traceback" not in terminal.seen


def test_chat_terminal_pasted_lines_and_paths_are_messages(folder, tmp_path):
    terminal = Terminal("chat", "-m", folder, *ARGUMENTS)
    terminal.until("> ")
    say(terminal, "\x1b[200~one\ntwo\x1b[201~\n")
    terminal.until("cut off after 6 tokens")
    say(terminal, "/usr/bin\n")
    terminal.until("cut off after 6 tokens")
    saved = tmp_path / "talk.json"
    say(terminal, f"/save {saved}\n")
    terminal.until("4 messages written")
    assert [m["content"] for m in json.loads(saved.read_text())][::2] == ["one\ntwo", "/usr/bin"]
    say(terminal, "/quit\n")
    assert terminal.ended() == 0


def test_chat_save_replaces_only_its_own_file(folder, tmp_path):
    conversation = Conversation(load(folder, runtime="torch"), {}, "Be kind.", stats=False)
    mine, other = tmp_path / "talk.json", tmp_path / "notes.txt"
    other.write_text("mine")
    conversation.command(f"/save {mine}")
    conversation.system = None
    conversation.command(f"/save {mine}")
    assert json.loads(mine.read_text()) == []
    with pytest.raises(FileError, match=r"notes\.txt exists already: name another file"):
        conversation.command(f"/save {other}")
    assert other.read_text() == "mine"


def test_chat_ctrl_c_ends_an_answer_and_the_conversation_continues(folder, capsys):
    model = load(folder, runtime="torch")
    settings = {"max_new_tokens": 8, "ban_replacement": True}
    whole = model.chat("tell me more", **settings).drain()
    conversation, forward, calls = Conversation(model, settings, None, stats=True), model.runtime.forward, []

    def interrupted(tokens, *, every=False):
        calls.append(tokens)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return forward(tokens, every=every)

    model.runtime.forward = interrupted
    assert not conversation.answer("tell me more")
    part = conversation.messages[1]["content"]
    assert whole.text.startswith(part) and capsys.readouterr().out == part + "\n"
    assert conversation.answer("go on") and len(conversation.messages) == 4
    assert "of them in the cache" in capsys.readouterr().err


def test_chat_error_takes_the_message_back(folder):
    conversation = Conversation(load(folder, runtime="torch"), {"max_new_tokens": 2}, None, stats=False)
    with pytest.raises(ContextError):
        conversation.answer("x" * 1000)
    assert conversation.messages == []


def test_chat_says_once_that_turns_were_left_out(folder, capsys):
    conversation = Conversation(load(folder, runtime="torch"), {"max_new_tokens": 2}, None, stats=False)
    conversation.turns = [{"role": ("user", "assistant")[i % 2], "content": "word " * 8} for i in range(4)]
    conversation.answer("word " * 8)
    assert "[the 2 oldest messages left out: the context holds 256 tokens]" in capsys.readouterr().err
    conversation.turns = conversation.turns[:4]
    conversation.answer("word " * 8)
    assert "left out" not in capsys.readouterr().err
    assert len(conversation.turns) == 6, "the conversation itself is whole"


def test_run_chat_without_a_message_names_the_other_command(folder):
    terminal = Terminal("run", "-m", folder, "--chat")
    terminal.until("edgekit chat")
    assert terminal.ended() == 2


def test_template_time_limit_of_windows_ends_the_process():
    """Its branch, here: there is no timer whose signal ends a process."""
    code = (
        "import sys, time; sys.platform = 'win32'; from edgekit.tokenizers import render; render.SECONDS = 0.3\n"
        "with render.limited(): pass\n"
        "time.sleep(0.5)\n"
        "with render.limited():\n    while True: time.sleep(0.01)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 124
