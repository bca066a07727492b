"""The measuring end of a pipe: `peers.py` is at the other. Standard library only, for it runs in foreign environments.

One JSON line in, one out. The first names the number of threads, the prompt and how many new tokens. Every line after
it has the text made once more, and timed.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

Run = Callable[[list[int], int], tuple[float | None, list[int]]]
"""(prompt, new tokens) -> (seconds to the first token where that is known, the new tokens)."""

Open = Callable[[int], Run]
"""A number of threads -> a model that is ready to run."""

WARM, PIECE = 1.0, 64
"""Seconds that a contestant runs before each text that is timed, in texts of so many tokens. A core that had nothing to
do is slow at first: on a virtual machine the same text took 1.3 to 1.7 times as long after a second of rest, and a
second of work mended it. Who makes a text in 0.2 s would be timed within that second, who needs 2 s behind it."""


def serve(open_model: Open, packages: Sequence[str] = ()) -> None:
    """Answer until the pipe closes. What goes wrong while the model is opened is an answer, and the end."""
    # A library's own prints must not get between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    job = json.loads(sys.stdin.readline())
    prompt, count = job["prompt"], job["new_tokens"]
    try:
        run = open_model(job["threads"])
        run(prompt, PIECE)
    except Exception as error:  # whatever a peer throws: the others go on without it
        lines = str(error).strip().splitlines() or [""]
        return say({"absent": f"{type(error).__name__}: {lines[0]}"})
    versions = {
        name: sys.modules[name].__version__ for name in packages if hasattr(sys.modules.get(name), "__version__")
    }
    say({"packages": versions})
    for _ in sys.stdin:
        begin = time.perf_counter()
        while time.perf_counter() < begin + WARM:
            run(prompt, PIECE)
        begin = time.perf_counter()
        first, tokens = run(prompt, count)
        say({"seconds": time.perf_counter() - begin, "first": first, "tokens": [int(token) for token in tokens]})
