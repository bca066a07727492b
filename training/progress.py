"""Progress of a run: how far, how fast and how long still. One changing line on a terminal, lines in a log file."""

import time
from typing import Protocol, TextIO

EVERY, EVERY_LOGGED = 0.2, 30.0
"""Seconds between updates, on a terminal and in a log file."""


class Meter(Protocol):
    """Reports how far something is. `total` is None where it is not known."""

    def __call__(self, what: str, done: float, total: float | None, unit: str, note: str = "") -> None: ...


def silent(what: str, done: float, total: float | None, unit: str, note: str = "") -> None:
    """The meter that shows nothing."""


class StreamMeter:
    """A `Meter` that writes to a stream: it overwrites its line on a terminal, else writes a line every 30 seconds."""

    def __init__(self, stream: TextIO):
        self.stream, self.terminal = stream, stream.isatty()
        self.what, self.began, self.first, self.shown, self.width = "", 0.0, 0.0, 0.0, 0

    def __call__(self, what: str, done: float, total: float | None, unit: str, note: str = "") -> None:
        now = time.monotonic()
        if what != self.what:
            self.clear()
            self.what, self.began, self.first, self.shown = what, now, done, 0.0 if self.terminal else now
        last = total is not None and done >= total
        if not last and now - self.shown < (EVERY if self.terminal else EVERY_LOGGED):
            return
        self.shown = now
        text = describe(what, done, total, unit, (done - self.first) / max(now - self.began, 1e-9))
        text = f"{text} · {note}" if note else text
        if self.terminal:
            self.stream.write("\r" + text.ljust(self.width))
            self.width = len(text)
        else:
            self.stream.write(text + "\n")
        self.stream.flush()

    def clear(self) -> None:
        """Erase the line, so that something else can be written."""
        if self.terminal and self.width:
            self.stream.write("\r" + " " * self.width + "\r")
            self.stream.flush()
        self.width = 0


def describe(what: str, done: float, total: float | None, unit: str, rate: float) -> str:
    """`training 120/500 steps · 24 % · 3.1 steps/s · 2:03 left`."""
    parts = [f"{what} {done:,.0f}{f'/{total:,.0f}' if total else ''} {unit}"]
    if total:
        parts.append(f"{100 * done / total:.0f} %")
    if rate > 0:
        parts.append(f"{rate:,.0f} {unit}/s" if rate >= 10 else f"{rate:.2f} {unit}/s")
        if total and done < total:
            parts.append(f"{clock((total - done) / rate)} left")
    return " · ".join(parts)


def clock(seconds: float) -> str:
    """`2:03`, or `1:02:03` from an hour on."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
