"""Ctrl-C and SIGTERM as a wish, not a blow: the step at hand is finished and saved."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def listening(heard: Callable[[], None]) -> Iterator[None]:
    """Call `heard` at the first signal; a second one raises KeyboardInterrupt. Only the main thread can listen."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    count = 0

    def stop(number: int, frame: Any) -> None:
        nonlocal count
        count += 1
        if count > 1:
            raise KeyboardInterrupt
        heard()

    old = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
