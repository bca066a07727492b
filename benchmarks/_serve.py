"""The measuring end of a pipe: `peers.py` is at the other. Standard library only, for it runs in foreign environments.

One JSON line in, one out. The first names the numbers of threads, the prompt and how many new tokens; each number gets
a short trial, and the fastest is kept. Every line after it has the text made once more, and timed.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

Run = Callable[[list[int], int], tuple[float | None, list[int]]]
"""(prompt, new tokens) -> (seconds to the first token where that is known, the new tokens)."""

Open = Callable[[int], Run]
"""A number of threads -> a model that is ready to run."""

TRIAL, WARM = 48, 12
TRIALS = 5
"""Of which the median counts: where other programs take a core now and then, two threads that wait for each other have
fast moments and are slow all the same."""


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
        run, threads, trials = fastest(open_model, job["threads"], prompt)
    except Exception as error:  # whatever a peer throws: the others go on without it
        lines = str(error).strip().splitlines() or [""]
        return say({"absent": f"{type(error).__name__}: {lines[0]}"})
    versions = {
        name: sys.modules[name].__version__ for name in packages if hasattr(sys.modules.get(name), "__version__")
    }
    say({"threads": threads, "trials": trials, "packages": versions})
    for _ in sys.stdin:
        run(prompt, WARM)  # it sat idle while the others ran
        begin = time.perf_counter()
        first, tokens = run(prompt, count)
        say({"seconds": time.perf_counter() - begin, "first": first, "tokens": [int(token) for token in tokens]})


def fastest(open_model: Open, threads: Sequence[int], prompt: list[int]) -> tuple[Run, int, dict[str, float]]:
    """The model with the number of threads that suits it best, that number, and tokens a second for each tried."""
    rates: dict[int, float] = {}
    run: Run | None = None
    for count in threads:
        run = None  # gives its memory and threads back before the next takes as many
        run = open_model(count)
        run(prompt, WARM)
        seconds = []
        for _ in range(TRIALS):
            begin = time.perf_counter()
            run(prompt, TRIAL)
            seconds.append(time.perf_counter() - begin)
        rates[count] = TRIAL / statistics.median(seconds)
    best = max(rates, key=lambda count: rates[count])
    if best != threads[-1] or run is None:
        run = None
        run = open_model(best)
    return run, best, {str(count): rate for count, rate in rates.items()}
