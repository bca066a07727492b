"""A line on a terminal that says how far something is, how fast, and how long it will take; lines in a log file."""

import time
from typing import TextIO

EVERY, EVERY_LOGGED = 0.2, 30.0


class Line:
    """A `Meter` that writes to a stream: over itself on a terminal, else a line every half minute."""

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
        """Wipe the line, so that something else can be written."""
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
