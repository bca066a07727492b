"""The start of the program: the script `edgekit`, and `python -m edgekit`."""

import io
import os
import signal
import sys


def open_closed_streams() -> None:
    """Give standard streams that the caller closed a place: their numbers would go to the next files that are opened,
    and output would go into those. Nothing can be read there; writing fails on stdout, and is lost on stderr."""
    for number, name, flags in ((0, "stdin", os.O_RDONLY), (1, "stdout", os.O_RDONLY), (2, "stderr", os.O_WRONLY)):
        if getattr(sys, name) is None:
            file = os.open(os.devnull, flags)
            if file != number:
                os.dup2(file, number)
                os.close(file)
            raw = io.FileIO(number, "w" if number else "r")
            # Without a buffer, whose rest Python would try to write when it ends.
            setattr(sys, name, io.TextIOWrapper(raw, "utf-8", "replace", write_through=True))  # type: ignore[type-var]


def start() -> None:
    """Run the command line. While Python imports and when it ends, Ctrl-C ends the process without a traceback."""
    interrupt = signal.getsignal(signal.SIGINT)
    if interrupt is signal.default_int_handler:  # not under nohup
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    open_closed_streams()
    from edgekit.cli.main import main

    try:
        if interrupt is signal.default_int_handler:
            signal.signal(signal.SIGINT, interrupt)
        main()
    finally:
        if interrupt is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)


if __name__ == "__main__":
    start()
