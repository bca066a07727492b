"""Press the button and a story begins; hold it down and the story stops.

    python story_button.py                                  # a button between GPIO 17 and ground
    python story_button.py -m story-q4_0.gguf --pin 27 --speak

The text streams to the terminal; with --speak espeak-ng reads it out, sentence by sentence, while it is written.
README.md beside this file has the wiring. Needs `pip install gpiozero lgpio` beside edgekit.
"""

import argparse
import queue
import random
import re
import shutil
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable

import edgekit

BEGINNINGS = ["Once upon a time", "One day, a little", "In a small house by the sea", "There was an old", "Last night"]
SENTENCE = re.compile(r"[^.!?]*[.!?]+[\"'”’]*\s+")


class StoryTeller:
    """One story at a time: `begin` starts one in a thread of its own, `stop` ends it after the current token.

    Args:
        model: what `edgekit.load` gives.
        show: takes each piece of text as it comes.
        speak: takes each finished sentence, or None.
        settings: of `Model.stream`.
    """

    def __init__(
        self,
        model: edgekit.Model,
        show: Callable[[str], object],
        speak: Callable[[str], object] | None = None,
        **settings,
    ):
        self._model, self._show, self._speak, self._settings = model, show, speak, settings
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self) -> bool:
        """Start a story; False, and nothing happens, while another one is told."""
        with self._lock:
            if self._thread and self._thread.is_alive():
                return False
            self._stopped.clear()
            self._thread = threading.Thread(target=self._tell, args=(random.choice(BEGINNINGS),), daemon=True)
            self._thread.start()
            return True

    def stop(self) -> None:
        """End the story, if one is told."""
        self._stopped.set()

    def wait(self) -> None:
        """Until the story is over."""
        if self._thread:
            self._thread.join()

    def _tell(self, beginning: str) -> None:
        self._show(beginning)
        unspoken = beginning
        try:
            for piece in self._model.stream(beginning, cancelled=self._stopped.is_set, **self._settings):
                self._show(piece)
                unspoken = self._say(unspoken + piece)
            self._say(unspoken + " . ")  # what a story that was cut off has left
        except edgekit.EdgekitError as error:
            self._show(f" [{error}]")
        self._show("\n\n")

    def _say(self, text: str) -> str:
        """Speak the sentences that are finished, and return the rest."""
        while self._speak and not self._stopped.is_set() and (found := SENTENCE.match(text)):
            self._speak(found[0].strip())
            text = text[found.end() :]
        return text


class Voice:
    """espeak-ng in a thread of its own: the next words are written while it speaks."""

    def __init__(self, program: str):
        self._program, self._process = program, None
        self._waiting: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._run, daemon=True).start()

    def say(self, sentence: str) -> None:
        self._waiting.put(sentence)

    def hush(self) -> None:
        """Forget what waits and stop in the middle of a word."""
        while not self._waiting.empty():
            self._waiting.get()
        if self._process:
            self._process.terminate()

    def _run(self) -> None:
        while True:
            sentence = self._waiting.get()
            self._process = subprocess.Popen([self._program, "--stdin"], stdin=subprocess.PIPE)
            self._process.communicate(sentence.encode())


def connect(teller: StoryTeller, pin: int, hold: float, hush: Callable[[], object] = lambda: None):
    """A gpiozero Button on a BCM pin: pressed begins a story, held for `hold` seconds stops it."""
    from gpiozero import Button

    button = Button(pin, hold_time=hold, bounce_time=0.02)

    def held() -> None:
        teller.stop()
        hush()

    button.when_pressed = lambda: teller.begin()
    button.when_held = held
    return button


def main() -> int:
    parser = argparse.ArgumentParser(description="A story at the press of a button.")
    parser.add_argument("-m", "--model", help="model folder, .gguf or .onnx; default: the one that comes with edgekit")
    parser.add_argument("--pin", type=int, default=17, help="the button's GPIO, in BCM numbers [17]")
    parser.add_argument("--hold", type=float, default=1.0, help="seconds until a long press stops the story [1]")
    parser.add_argument("--speak", action="store_true", help="read it out with espeak-ng")
    parser.add_argument("--max-new-tokens", type=int, default=200, help="the longest story [200]")
    wanted = parser.parse_args()
    program = shutil.which("espeak-ng")
    if wanted.speak and program is None:
        parser.error("--speak needs espeak-ng: sudo apt install espeak-ng")
    voice = Voice(program) if wanted.speak and program else None

    def show(piece: str) -> None:
        print(piece, end="", flush=True)

    try:
        import gpiozero
    except ModuleNotFoundError:
        parser.exit(1, "story_button: gpiozero is missing: pip install gpiozero lgpio\n")
    warnings.simplefilter("ignore", gpiozero.PinFactoryFallback)  # a line for each library that is not there
    teller = None
    try:
        model = edgekit.load(wanted.model)
        teller = StoryTeller(model, show, voice.say if voice else None, max_new_tokens=wanted.max_new_tokens)
        said = f"Press the button on GPIO {wanted.pin} for a story; hold it to stop; Ctrl-C ends.\n"
        with connect(teller, wanted.pin, wanted.hold, voice.hush if voice else lambda: None):
            print(said, file=sys.stderr, flush=True)
            threading.Event().wait()  # gpiozero watches the pin in a thread of its own
    except KeyboardInterrupt:
        if teller:
            teller.stop()
            teller.wait()
    except edgekit.EdgekitError as error:
        parser.exit(error.exit_code, f"story_button: {error}\n")
    except gpiozero.GPIOZeroError as error:
        parser.exit(
            1, f"story_button: no button on GPIO {wanted.pin}: {error} (on a Raspberry Pi: pip install lgpio)\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
