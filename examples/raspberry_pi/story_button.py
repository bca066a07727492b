"""A story at the press of a button: press to start, hold to stop.

    python story_button.py                                  # a button between GPIO 17 and ground
    python story_button.py -m story-q4_0.gguf --pin 27 --speak

The text streams to the terminal. With --speak, espeak-ng reads it aloud sentence by sentence while it is generated. The
wiring is in README.md. Also needs `pip install gpiozero lgpio`.
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
    """Tells one story at a time: `begin` starts one in a thread, `stop` ends it after the current token.

    Args:
        model: from `edgekit.load`.
        show: called with each piece of text.
        speak: called with each finished sentence; None for a silent story.
        settings: keywords of `Model.stream`.
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
        """Start a story; returns False and does nothing while another one is running."""
        with self._lock:
            if self._thread and self._thread.is_alive():
                return False
            self._stopped.clear()
            self._thread = threading.Thread(target=self._tell, args=(random.choice(BEGINNINGS),), daemon=True)
            self._thread.start()
            return True

    def stop(self) -> None:
        """End the story, if there is one."""
        self._stopped.set()

    def wait(self) -> None:
        """Wait until the story has ended."""
        if self._thread:
            self._thread.join()

    def _tell(self, beginning: str) -> None:
        self._show(beginning)
        unspoken = beginning
        try:
            for piece in self._model.stream(beginning, cancelled=self._stopped.is_set, **self._settings):
                self._show(piece)
                unspoken = self._speak_sentences(unspoken + piece)
            self._speak_sentences(unspoken + " . ")  # the last sentence may be unfinished
        except edgekit.EdgekitError as error:
            self._show(f" [{error}]")
        self._show("\n\n")

    def _speak_sentences(self, text: str) -> str:
        """Speak the finished sentences and return the rest."""
        while self._speak and not self._stopped.is_set() and (sentence := SENTENCE.match(text)):
            self._speak(sentence[0].strip())
            text = text[sentence.end() :]
        return text


class Voice:
    """Runs espeak-ng in a thread, so that the story continues while it speaks."""

    def __init__(self, program: str):
        self._program, self._process = program, None
        self._waiting: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._run, daemon=True).start()

    def say(self, sentence: str) -> None:
        self._waiting.put(sentence)

    def hush(self) -> None:
        """Drop the waiting sentences and stop at once."""
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
    """A gpiozero Button on a BCM pin: a press starts a story, holding it for `hold` seconds stops it."""
    from gpiozero import Button

    button = Button(pin, hold_time=hold, bounce_time=0.02)

    def stop() -> None:
        teller.stop()
        hush()

    button.when_pressed = lambda: teller.begin()
    button.when_held = stop
    return button


def main() -> int:
    parser = argparse.ArgumentParser(description="A story at the press of a button.")
    parser.add_argument("-m", "--model", help="model folder, .gguf or .onnx; default: the bundled model")
    parser.add_argument("--pin", type=int, default=17, help="GPIO of the button, in BCM numbering [17]")
    parser.add_argument("--hold", type=float, default=1.0, help="seconds to hold the button to stop the story [1]")
    parser.add_argument("--speak", action="store_true", help="read the story aloud with espeak-ng")
    parser.add_argument("--max-new-tokens", type=int, default=200, help="length limit of a story [200]")
    args = parser.parse_args()
    program = shutil.which("espeak-ng")
    if args.speak and program is None:
        parser.error("--speak needs espeak-ng: sudo apt install espeak-ng")
    voice = Voice(program) if args.speak and program else None

    def show(piece: str) -> None:
        print(piece, end="", flush=True)

    try:
        import gpiozero
    except ModuleNotFoundError:
        parser.exit(1, "story_button: gpiozero is missing: pip install gpiozero lgpio\n")
    warnings.simplefilter("ignore", gpiozero.PinFactoryFallback)  # one warning for each missing library
    teller = None
    try:
        model = edgekit.load(args.model)
        teller = StoryTeller(model, show, voice.say if voice else None, max_new_tokens=args.max_new_tokens)
        usage = f"Press the button on GPIO {args.pin} for a story, hold it to stop; Ctrl-C quits.\n"
        with connect(teller, args.pin, args.hold, voice.hush if voice else lambda: None):
            print(usage, file=sys.stderr, flush=True)
            threading.Event().wait()  # gpiozero watches the pin in its own thread
    except KeyboardInterrupt:
        if teller:
            teller.stop()
            teller.wait()
    except edgekit.EdgekitError as error:
        parser.exit(error.exit_code, f"story_button: {error}\n")
    except gpiozero.GPIOZeroError as error:
        parser.exit(1, f"story_button: cannot use GPIO {args.pin}: {error} (on a Raspberry Pi: pip install lgpio)\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
