"""The start of the program: the script `edgekit`, and `python -m edgekit`."""

import signal


def start() -> None:
    """Run the command line. While Python imports and when it ends, Ctrl-C ends the process without a traceback."""
    interrupt = signal.getsignal(signal.SIGINT)
    if interrupt is signal.default_int_handler:  # not under nohup
        signal.signal(signal.SIGINT, signal.SIG_DFL)
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
