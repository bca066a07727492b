"""The Raspberry Pi example: the button without a board, the installer without a network, the systemd unit."""

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
        return edgekit.load(BUNDLED, runtime="onnx", threads=1)
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
    pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install 'edgekit-lm[onnx]'")
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


# ---- the installer -------------------------------------------------------------------------------------------------

PYTHON = """#!/bin/sh
echo "${0##*/} $*" >>LOG
case "$1 $2" in
    "-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
esac
exit 0
"""


@pytest.fixture
def install(tmp_path):
    """Runs install.sh with a python3 that only records its arguments, isolated from this machine."""
    stubs, log = tmp_path / "stubs", tmp_path / "log"
    stubs.mkdir()
    for tool in "sh dirname uname id cp mkdir sed install".split():
        (stubs / tool).symlink_to(shutil.which(tool))

    def stub(name: str, text: str) -> None:
        (stubs / name).unlink(missing_ok=True)
        (stubs / name).write_text(text)
        (stubs / name).chmod(0o755)

    stub("python3", PYTHON.replace("LOG", str(log)))
    stub("getconf", "#!/bin/sh\necho 64\n")

    def run(*arguments: str, home: Path = tmp_path / "home") -> tuple[subprocess.CompletedProcess[str], list[str]]:
        log.write_text("")
        environment = {"PATH": str(stubs), "HOME": str(home)}
        script = PI / "install.sh"
        done = subprocess.run(["/bin/sh", script, *arguments], capture_output=True, text=True, env=environment)
        return done, log.read_text().splitlines()

    run.stub = stub
    return run


def test_install_twice_creates_then_updates_the_venv(install, tmp_path):
    done, calls = install()
    assert done.returncode == 0, done.stderr
    venv = tmp_path / "home" / ".local" / "share" / "edgekit"
    assert f"python3 -m venv {venv}" in calls
    (pip,) = (line for line in calls if " pip install " in line)
    assert pip.startswith("python -m pip") and pip.endswith(f" {PI.parents[1]}[onnx]")
    assert f'ready: {venv}/bin/edgekit run "Once upon a time"' in done.stdout
    done, calls = install()
    assert done.returncode == 0 and not [line for line in calls if "-m venv" in line]
    assert [line for line in calls if " pip install " in line] == [pip] and "updating" in done.stdout


def test_install_options_choose_source_extra_and_folder(install, tmp_path):
    install.stub("c++", "#!/bin/sh\n")
    done, calls = install("--with", "llamacpp", "--from", "edgekit-lm", "--to", str(tmp_path / "a b"))
    assert done.returncode == 0, done.stderr
    assert any(line.endswith(" edgekit-lm[llamacpp,gguf]") for line in calls)
    assert (tmp_path / "a b" / "bin" / "python").exists()
    _, calls = install("--from", "new.whl")
    first, second = (line for line in calls if " pip install " in line)
    assert first.endswith(" new.whl[onnx]") and second.endswith("--no-deps --force-reinstall new.whl")


@pytest.mark.parametrize(
    "arguments, status, message",
    [
        (["--frm", "x"], 2, "unknown argument '--frm'"),
        (["--to"], 2, "--to needs a value"),
        (["--with", "torch"], 2, "choose onnx or llamacpp"),
        (["--with", "llamacpp"], 1, "sudo apt install g++"),
    ],
)
def test_install_bad_arguments_fail_before_any_change(install, arguments, status, message):
    done, calls = install(*arguments)
    assert done.returncode == status and message in done.stderr and done.stderr.count("\n") == 1
    assert not any("-m venv" in line or " pip install " in line for line in calls)


def test_install_unsuitable_system_reports_what_is_missing(install):
    install.stub("getconf", "#!/bin/sh\necho 32\n")
    assert "64-bit Raspberry Pi OS" in install()[0].stderr
    install.stub("getconf", "#!/bin/sh\necho 64\n")
    install.stub("python3", '#!/bin/sh\ncase "$2" in *ensurepip*) exit 1;; esac\n')
    assert "sudo apt install python3-venv" in install()[0].stderr
    install.stub("python3", '#!/bin/sh\ncase "$2" in *version_info*) exit 1;; --version) echo Python 3.9.2;; esac\n')
    assert "edgekit needs 3.11" in install()[0].stderr


def test_install_service_needs_root_and_systemd(install):
    install.stub("id", "#!/bin/sh\necho 1000\n")
    assert "run it with sudo" in install("--service")[0].stderr
    install.stub("id", "#!/bin/sh\necho 0\n")
    done, calls = install("--service", "--to", "/elsewhere")
    assert done.returncode == 1 and not calls
    assert "does not run systemd" in done.stderr or "leave out --to" in done.stderr


def test_install_torch_in_the_venv_fails(install, tmp_path):
    # The environment's python, asked about torch on its standard input, reports that it is installed.
    install.stub("python3", PYTHON.replace("LOG", "/dev/null").replace("exit 0", '[ "$1" != - ]'))
    done, _ = install()
    assert done.returncode == 1 and "torch or transformers was installed too" in done.stderr


@pytest.mark.parametrize("script", sorted(PI.glob("*.sh")), ids=lambda path: path.name)
def test_shell_scripts_shellcheck_has_no_findings(script):
    if shutil.which("shellcheck") is None:
        pytest.skip("needs shellcheck")
    done = subprocess.run(["shellcheck", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


# ---- the service ---------------------------------------------------------------------------------------------------


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
    for file in ("edgekit.service", "edgekit.conf"):
        used = set(re.findall(r"(?<= )--?[a-z]\S*", " ".join(re.findall("ARGUMENTS=.*", (PI / file).read_text()))))
        assert used and used <= known, (file, used - known)


# ---- comparing tokens between machines -----------------------------------------------------------------------------


def test_tokens_lines_equal_generate(model, tmp_path):
    tokens = opened_script(PI / "tokens.py")
    lines = list(tokens.lines(tmp_path, formats=[("onnx", "fp32")], length=6))
    assert len(lines) == len(tokens.PROMPTS) * len(tokens.SETTINGS)
    for line in lines:
        settings = tokens.SETTINGS[line["settings"]]
        assert line["tokens"] == model.generate(line["prompt"], max_new_tokens=6, **settings).tokens
        assert line["format"] == "onnx fp32"


def test_tokens_compare_reports_first_difference():
    compare = opened_script(PI / "tokens.py").compare
    line = {"format": "onnx fp32", "settings": "greedy", "prompt": "a", "tokens": [1, 2, 3]}
    for change, same, text in (
        ({}, True, "3 tokens, the same"),
        ({"tokens": [1, 5, 3]}, False, "they differ after 1 tokens"),
        ({"tokens": [1, 2]}, False, "they differ after 2 tokens"),
        ({"prompt": "b"}, False, "they differ after 3 tokens"),
    ):
        assert compare([line], [line | change]) == (same, [f"onnx fp32  greedy  'a': {text}"])
    rough = line | {"format": "onnx int8"}
    assert compare([line, rough], [line, rough | {"tokens": [1, 2, 4]}])[0]
    assert not compare([line], [])[0]
