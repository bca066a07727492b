"""The measured process: `peers.py` talks to it over a pipe. Standard library only, since it runs in other environments.

One JSON line in, one JSON line out. The first line gives the number of threads, the prompt and the number of new
tokens. Every later line generates the text once more and times it.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

Run = Callable[[list[int], int], tuple[float | None, list[int]]]
"""(prompt, number of new tokens) -> (seconds to the first token or None, the new tokens)."""

Open = Callable[[int], Run]
"""Number of threads -> a model that is ready to run."""

WARM, PIECE = 1.0, 64
"""Seconds of warm-up before each timed text, and the tokens of a warm-up text. An idle core is slow at first: on a
virtual machine the same text took 1.3 to 1.7 times as long after a second of rest, and a second of work restored its
speed. Without it, a contestant that needs 0.2 s for a text would be timed cold, and one that needs 2 s warm."""


def serve(open_model: Open, packages: Sequence[str] = ()) -> None:
    """Answer until the pipe closes. An error while the model is opened is answered as `absent` and ends the process."""
    # Output that a library prints must not get between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def send(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    job = json.loads(sys.stdin.readline())
    prompt, count = job["prompt"], job["new_tokens"]
    try:
        run = open_model(job["threads"])
        run(prompt, PIECE)
    except Exception as error:  # whatever a peer raises: the others continue without it
        lines = str(error).strip().splitlines() or [""]
        return send({"absent": f"{type(error).__name__}: {lines[0]}"})
    versions = {
        name: sys.modules[name].__version__ for name in packages if hasattr(sys.modules.get(name), "__version__")
    }
    send({"packages": versions})
    for _ in sys.stdin:
        begin = time.perf_counter()
        while time.perf_counter() < begin + WARM:
            run(prompt, PIECE)
        begin = time.perf_counter()
        first, tokens = run(prompt, count)
        send({"seconds": time.perf_counter() - begin, "first": first, "tokens": [int(token) for token in tokens]})
