"""The Raspberry Pi example: the button without a board, the systemd unit, the script that emulates one."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from test_examples import GREEDY, opened_script

import edgekit
from edgekit.errors import MissingExtraError
from edgekit.formats.hub import BUNDLED

PI = Path(__file__).resolve().parents[1] / "examples" / "raspberry_pi"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> edgekit.Model:
    patch = pytest.MonkeyPatch()
    patch.setenv("EDGEKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
    try:
        return edgekit.load(BUNDLED, runtime="native", threads=1)
    except MissingExtraError as error:
        pytest.skip(str(error))
    finally:
        patch.undo()


# ---- the button ----------------------------------------------------------------------------------------------------


@pytest.fixture
def pin():
    """GPIO 17 of a mock board: high, because of the pull-up resistor."""
    gpiozero = pytest.importorskip("gpiozero", reason="needs gpiozero: pip install gpiozero")
    from gpiozero.pins.mock import MockFactory

    gpiozero.Device.pin_factory = MockFactory()
    yield gpiozero.Device.pin_factory.pin(17)
    gpiozero.Device.pin_factory.close()
    gpiozero.Device.pin_factory = None


class Page:
    """Collects the text that was shown."""

    def __init__(self):
        self.text = ""
        self.grew = threading.Condition()

    def show(self, piece: str) -> None:
        with self.grew:
            self.text += piece
            self.grew.notify_all()

    def wait(self, expected) -> None:
        with self.grew:
            assert self.grew.wait_for(lambda: expected(self.text), timeout=60), self.text


def press(pin, seconds: float) -> None:
    pin.drive_low()
    time.sleep(seconds)
    pin.drive_high()


def test_button_press_tells_and_speaks_a_story(model, pin, monkeypatch):
    story_button = opened_script(PI / "story_button.py")
    monkeypatch.setattr(story_button, "BEGINNINGS", ["Once upon a time"])
    page, spoken = Page(), []
    settings = GREEDY | {"max_new_tokens": 40}
    teller = story_button.StoryTeller(model, page.show, spoken.append, **settings)
    button = story_button.connect(teller, 17, hold=30)
    expected = "Once upon a time" + model.generate("Once upon a time", **settings).text
    for count in (1, 2):  # and again, after the first one has ended
        press(pin, 0.05)
        page.wait(lambda text, count=count: text == (expected + "\n\n") * count)
        teller.wait()
    button.close()
    # All words of the story are spoken, in order, in sentences.
    words = re.findall(r"\w+", expected) * 2
    assert re.findall(r"\w+", " ".join(spoken)) == words
    assert len(spoken) >= 4 and all(sentence.count(". ") <= 1 for sentence in spoken)


def test_button_second_press_is_ignored_and_long_press_stops(model, pin, monkeypatch):
    story_button = opened_script(PI / "story_button.py")
    monkeypatch.setattr(story_button, "BEGINNINGS", ["Once upon a time"])
    page, hushed, turn = Page(), threading.Event(), threading.Semaphore(0)

    def show(piece: str) -> None:  # one piece at a time, when the test allows it
        page.show(piece)
        turn.acquire()

    teller = story_button.StoryTeller(model, show, **GREEDY, max_new_tokens=400)
    button = story_button.connect(teller, 17, hold=1.5, hush=hushed.set)
    press(pin, 0.05)
    turn.release(4)
    page.wait(lambda text: len(text) > len("Once upon a time"))
    press(pin, 0.05)
    assert page.text.count("Once upon a time") == 1 and not hushed.is_set()
    pin.drive_low()
    assert hushed.wait(60)
    pin.drive_high()
    turn.release(1000)
    teller.wait()
    button.close()
    assert page.text.endswith("\n\n")
    whole = "Once upon a time" + model.generate("Once upon a time", **GREEDY, max_new_tokens=400).text
    assert whole.startswith(page.text.strip()) and len(page.text) < len(whole)


def test_voice_speaks_in_order_and_hush_drops_the_rest(tmp_path):
    story_button = opened_script(PI / "story_button.py")
    log = tmp_path / "spoken"
    program = tmp_path / "espeak-ng"
    program.write_text(f'#!/bin/sh\nread -r words\necho "$words" >>{log}\ncase $words in Long*) exec sleep 60;; esac\n')
    program.chmod(0o755)
    voice = story_button.Voice(str(program))

    def until(expected: list[str]) -> None:
        end = time.monotonic() + 30
        while (log.read_text().splitlines() if log.exists() else []) != expected:
            assert time.monotonic() < end, "the voice spoke something else"
            time.sleep(0.02)

    for sentence in ("One.", "Two.", "Long.", "Never."):
        voice.say(sentence)
    until(["One.", "Two.", "Long."])
    voice.hush()
    voice.say("Three.")
    until(["One.", "Two.", "Long.", "Three."])


def test_story_button_script_waits_until_interrupted(tmp_path):
    pytest.importorskip("gpiozero", reason="needs gpiozero: pip install gpiozero")
    script = subprocess.Popen(
        [sys.executable, PI / "story_button.py", "--pin", "27"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"GPIOZERO_PIN_FACTORY": "mock", "EDGEKIT_CACHE": str(tmp_path)},
        # Ctrl-C works even if the shell that started the tests made its jobs ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert "GPIO 27" in script.stderr.readline()
    script.send_signal(signal.SIGINT)
    out, errors = script.communicate(timeout=60)
    assert script.returncode == 0 and not out and "Traceback" not in errors, errors


def test_story_button_missing_model_prints_one_line():
    pytest.importorskip("gpiozero", reason="needs gpiozero: pip install gpiozero")
    done = subprocess.run([sys.executable, PI / "story_button.py", "-m", "none.gguf"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("story_button: ") and done.stderr.count("\n") == 1
    assert "none.gguf" in done.stderr


# ---- shell and service ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", sorted(PI.glob("*.sh")), ids=lambda path: path.name)
def test_shell_scripts_shellcheck_has_no_findings(script):
    if shutil.which("shellcheck") is None:
        pytest.skip("needs shellcheck")
    done = subprocess.run(["shellcheck", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_service_unit_systemd_verifies(tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    text = (PI / "edgekit.service").read_text()
    assert "ExecStart=/opt/edgekit/bin/edgekit serve " in text
    unit = tmp_path / "edgekit.service"
    unit.write_text(text.replace("/opt/edgekit/bin/edgekit", shutil.which("true")))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    assert done.returncode == 0 and str(unit) not in done.stderr, done.stderr


def test_service_arguments_are_options_of_serve():
    serve = pytest.importorskip("edgekit.cli.serve", reason="needs `edgekit serve`")
    known = {name for option in serve.COMMAND.params for name in option.opts}
    for file in ("edgekit.service", "README.md"):
        used = set(re.findall(r"(?<= )--?[a-z]\S*", " ".join(re.findall("ARGUMENTS=(.*)", (PI / file).read_text()))))
        assert used and used <= known, (file, used - known)
