"""How many CPU threads a model runs on.

- A number (`--threads 2`) is used as given.
- By default `choose_threads` goes by the size of the weights.
- `auto` times decode steps, first with the default number, then with twice and half as many for as long as that pays.
  This takes about a third of a second in each process, and the time to open the model for each number if its runtime
  cannot change it (`set_threads`).
"""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from edgekit.inference.runtime import Runtime, SetsThreads
from edgekit.settings import Running
from edgekit.utils.machine import physical_cores

BYTES_PER_THREAD = 16 << 20

BUDGET = 0.3
"""Seconds after which no further number is tried. Two are always tried, however slow the model is."""
SLICE = 0.04
"""Seconds of decode steps to time for each number, limited by `STEPS`."""
STEPS = (6, 64)
LIMIT = 0.25
"""Seconds after which a number gets no further step. Threads that compete with another program for a core can be
thousands of times slower than one thread."""
PROMPT, WARMUP = 8, 4
"""Tokens in the cache before the first step, and steps that are not counted if others follow."""
MARGIN = 1.05
"""More threads must be faster by this factor: threads that wait for each other suffer most from other programs."""

Clock = Callable[[], float]


class Choice(NamedTuple):
    """A number of threads, and the measured seconds of a decode step by number of threads (empty: one core)."""

    threads: int
    seconds: dict[int, float]


def choose_threads(threads: int | str | None, weight_bytes: int) -> int:
    """The given number, or by default one thread for each 16 MiB of weights, at most four and the physical cores.

    A decode step of a small model ends before a second thread has woken up: at 12.3M parameters on two cores the second
    thread made float32 (49 MB) 1.1 to 1.5 times as fast, but q8_0, q4_0 and int8 (8 to 13 MB) 0.8 to 1.1 times. Threads
    that wait for each other also fall far behind when another program wants a core.
    """
    if isinstance(threads, int):
        return threads
    return max(1, min(4, physical_cores(), -(-weight_bytes // BYTES_PER_THREAD)))


def resolve_auto(path: Path, running: Running, load: Callable[[Path, Running], Runtime]) -> Running:
    """`running` with "auto" replaced by a measured number of threads; other settings are returned unchanged.

    Args:
        path: the artefact or model folder that `load` opens.
        load: the runtime plugin's `load`; called only for "auto".

    Raises:
        EdgekitError: as `load` and `Runtime.forward`.
    """
    if running.threads != "auto":
        return running
    return dataclasses.replace(running, threads=choose(path, running, load).threads)


def choose(
    path: Path, running: Running, load: Callable[[Path, Running], Runtime], *, clock: Clock = time.perf_counter
) -> Choice:
    """Measure, and choose the fewest threads that are within `MARGIN` of the fastest. Raises as `resolve_auto`."""
    cores = physical_cores()
    if cores == 1:
        return Choice(1, {})
    first = choose_threads(None, weight_bytes(path))
    seconds = measure(lambda n: load(path, dataclasses.replace(running, threads=n)), first, cores, clock=clock)
    return Choice(best(seconds), seconds)


def measure(
    open: Callable[[int], Runtime], first: int, cores: int, *, clock: Clock = time.perf_counter
) -> dict[int, float]:
    """Median seconds of a decode step by number of threads, for the numbers worth trying.

    Starts with `first` (or the next lower power of two) and goes up while more threads are faster; if they are not,
    goes down while fewer are not slower.

    Args:
        open: opens the runtime with this many threads. A `SetsThreads` is opened only once.
        cores: the most threads to try.
    """
    counts = sorted({2**i for i in range(cores.bit_length()) if 2**i <= cores} | {cores})
    start = max(i for i, count in enumerate(counts) if count <= max(1, first))
    begin = clock()
    runtime: Runtime | None = None
    seconds: dict[int, float] = {}

    def worth_trying(i: int) -> bool:
        return 0 <= i < len(counts) and (len(seconds) < 2 or clock() - begin < BUDGET)

    def time_step(i: int) -> float:
        nonlocal runtime
        if isinstance(runtime, SetsThreads):
            runtime.set_threads(counts[i])
        else:
            runtime = None  # free its memory before the next one takes as much
            runtime = open(counts[i])
        seconds[counts[i]] = step_seconds(runtime, clock)
        return seconds[counts[i]]

    current, i = time_step(start), start
    while worth_trying(i + 1):
        more = time_step(i + 1)
        if more * MARGIN >= current:
            break
        current, i = more, i + 1
    if i == start:
        while worth_trying(i - 1):
            fewer = time_step(i - 1)
            if fewer > current * MARGIN:
                break
            current, i = fewer, i - 1
    return seconds


def best(seconds: dict[int, float]) -> int:
    """The fewest threads that are within `MARGIN` of the fastest."""
    limit = min(seconds.values()) * MARGIN
    return min(threads for threads, each in seconds.items() if each <= limit)


def step_seconds(runtime: Runtime, clock: Clock = time.perf_counter) -> float:
    """Median seconds of one decode step after a short prompt. The runtime's cache is empty afterwards."""
    prompt = [i % runtime.vocab_size for i in range(1, min(PROMPT, runtime.context_length - 1) + 1)]
    start = clock()
    runtime.rewind(0)
    runtime.forward(prompt)
    times: list[float] = []
    while True:
        if runtime.length >= runtime.context_length:
            runtime.rewind(len(prompt))
        begin = clock()
        runtime.forward(prompt[:1])
        now = clock()
        times.append(now - begin)
        counted = times[WARMUP:]
        enough = len(counted) >= STEPS[0] and sum(counted) >= SLICE
        if enough or len(counted) >= STEPS[1] or now - start >= LIMIT:
            break
    runtime.rewind(0)
    counted = sorted(counted or times)
    return counted[len(counted) // 2]


def weight_bytes(path: Path) -> int:
    """The size of an artefact, or of the .safetensors files in a model folder; 0 if there is no such path."""
    path = Path(path)
    files = path.glob("*.safetensors") if path.is_dir() else [path] if path.is_file() else []
    return sum(file.stat().st_size for file in files)
