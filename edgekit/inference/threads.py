"""How many threads: measured once for a model on a machine, and remembered.

The rule of `edgekit.runtime.choose_threads` knows the model's size and nothing of the machine. Here a few dozen
decode steps are timed with the rule's own number, then with twice and half as many for as long as that pays.

When that is done, since the first text must not wait for it:

- `edgekit bench` measures anew, and what it finds is remembered;
- `threads="auto"` (`edgekit run --threads auto`) measures what was not measured before: about a third of a second, and
  the time to open the model for each number, where its runtime cannot change that (`set_threads`);
- without either, opening a model looks for a remembered choice (one look into the cache folder) and otherwise takes
  the rule. Nothing is ever measured unasked, so a first `edgekit run` costs what it did;
- a number (`--threads 2`) always wins.

A choice holds for one file on one machine: its key covers the file's size, modification time and first bytes, the CPU's
name and abilities, the cores this process may use, the runtime, its settings and edgekit's version. It is kept as
`threads/KEY.json` in the cache folder (`EDGEKIT_CACHE`), which may be deleted at any time; a damaged one is ignored.
"""

import contextlib
import dataclasses
import json
import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from edgekit import __version__
from edgekit.errors import FileError
from edgekit.inference.runtime import Runtime
from edgekit.settings import Running

BUDGET = 0.3
"""Seconds after which no third number is tried; two always are, however slow the model."""
SLICE = 0.04
"""Seconds of steps for each number, within the bounds of `STEPS`."""
STEPS = (6, 64)
LIMIT = 0.25
"""Seconds after which a number gets no further step: threads that fight another program for a core can take thousands
of times as long as one alone."""
PROMPT, WARM = 8, 4
"""Tokens in the cache before the first step, and steps that do not count if there are others."""
MARGIN = 1.05
"""More threads must be so much faster: those that wait for each other suffer most from other programs."""

HEAD = 1 << 16

Clock = Callable[[], float]


@dataclass(frozen=True)
class Choice:
    """How many threads, and what was measured to choose them: seconds of a decode step by number of threads."""

    threads: int
    seconds: dict[int, float] = field(default_factory=dict)


def settled(path: Path, runtime: str, running: Running, load: Callable[[Path, Running], Runtime]) -> Running:
    """`running` with the number of threads that `path` shall be opened with; None leaves it to the rule.

    Args:
        path: the artefact or model folder that `load` opens.
        runtime: the name of the runtime that `load` belongs to.
        load: a runtime's own `load`; called only if `threads` is "auto" and nothing is remembered.

    Raises:
        EdgekitError: as `load`, and only where that is called.
    """
    if isinstance(running.threads, int):
        return running
    threads = remembered(path, runtime, running)
    if threads is None and running.threads == "auto":
        threads = choose(path, runtime, running, load).threads
    return dataclasses.replace(running, threads=threads)


def remembered(path: Path, runtime: str, running: Running) -> int | None:
    """The number measured before for this file, runtime and machine, or None."""
    kept = folder()
    if not kept.is_dir():
        return None  # nothing was ever measured here: the usual case costs one system call
    try:
        threads = json.loads((kept / f"{key(path, runtime, running)}.json").read_bytes())["threads"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    whole = isinstance(threads, int) and not isinstance(threads, bool)
    return threads if whole and 1 <= threads <= physical_cores() else None


def choose(
    path: Path,
    runtime: str,
    running: Running,
    load: Callable[[Path, Running], Runtime],
    *,
    clock: Clock = time.perf_counter,
) -> Choice:
    """Measure now and remember; where the cache cannot be written, the choice holds for this time only.

    Raises:
        EdgekitError: as `load` and `Runtime.forward`.
    """
    cores = physical_cores()
    if cores == 1:
        return Choice(1)
    weights = sum(part.stat().st_size for part in parts(path))

    def open(threads: int) -> Runtime:
        return load(path, dataclasses.replace(running, threads=threads))

    seconds = measure(open, choose_threads(None, weights), cores, clock=clock)
    choice = Choice(best(seconds), seconds)
    record = {
        "threads": choice.threads,
        "seconds": {str(threads): each for threads, each in seconds.items()},
        "model": Path(path).name,
        "runtime": runtime,
        "cpu": cpu_name(),
        "version": __version__,
    }
    from edgekit.utils import files

    with contextlib.suppress(FileError):
        files.write_bytes(folder() / f"{key(path, runtime, running)}.json", json.dumps(record, indent=1).encode())
    return choice


def measure(
    open: Callable[[int], Runtime], first: int, cores: int, *, clock: Clock = time.perf_counter
) -> dict[int, float]:
    """Median seconds of a decode step, for the numbers of threads that were worth a try.

    It begins with `first` (or the next power of two below) and climbs while more threads are faster; if they are not,
    it goes down while fewer are not slower.

    Args:
        open: makes the runtime with so many threads. One with a method `set_threads` is opened once only.
        first: the rule's own choice.
        cores: the most threads to try.
    """
    counts = sorted({2**i for i in range(cores.bit_length()) if 2**i <= cores} | {cores})
    start = max(i for i, count in enumerate(counts) if count <= max(1, first))
    begin = clock()
    runtime: Runtime | None = None
    seconds: dict[int, float] = {}

    def worth(i: int) -> bool:
        return 0 <= i < len(counts) and (len(seconds) < 2 or clock() - begin < BUDGET)

    def tried(i: int) -> float:
        nonlocal runtime
        change = getattr(runtime, "set_threads", None)
        if change is not None:
            change(counts[i])
        else:
            runtime = None  # gives its memory back before the next one takes as much
            runtime = open(counts[i])
        assert runtime is not None
        seconds[counts[i]] = step_seconds(runtime, clock)
        return seconds[counts[i]]

    now, i = tried(start), start
    while worth(i + 1):
        more = tried(i + 1)
        if more * MARGIN >= now:
            break
        now, i = more, i + 1
    if i == start:
        while worth(i - 1):
            fewer = tried(i - 1)
            if fewer > now * MARGIN:
                break
            now, i = fewer, i - 1
    return seconds


def best(seconds: dict[int, float]) -> int:
    """The fewest threads that are within `MARGIN` of the fastest."""
    limit = min(seconds.values()) * MARGIN
    return min(threads for threads, each in seconds.items() if each <= limit)


def step_seconds(runtime: Runtime, clock: Clock = time.perf_counter) -> float:
    """Median seconds of one decode step behind a short prompt; the runtime's cache is empty afterwards."""
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
        counted = times[WARM:]
        enough = len(counted) >= STEPS[0] and sum(counted) >= SLICE
        if enough or len(counted) >= STEPS[1] or now - start >= LIMIT:
            break
    runtime.rewind(0)
    counted = sorted(counted or times)
    return counted[len(counted) // 2]


# -----------------------------------------------------------------------------
# where a choice is kept, and what it holds for


def folder() -> Path:
    """Where choices are kept: beside the converted models of `edgekit.cache`."""
    if named := os.environ.get("EDGEKIT_CACHE"):
        return Path(named) / "threads"
    if sys.platform == "linux" and "ANDROID_ROOT" not in os.environ:
        # What platformdirs says there, without the dozen modules that it imports: every start comes by here.
        return Path(os.environ.get("XDG_CACHE_HOME", "").strip() or Path.home() / ".cache") / "edgekit" / "threads"
    import platformdirs

    return platformdirs.user_cache_path("edgekit") / "threads"


def key(path: Path, runtime: str, running: Running) -> str:
    """24 hexadecimal digits over all that a choice depends on."""
    import hashlib  # here: where nothing is remembered, nothing of this is needed

    settings = {k: v for k, v in dataclasses.asdict(running).items() if k != "threads"}
    total = hashlib.sha256(
        f"{__version__}\0{runtime}\0{sorted(settings.items())}\0{cpu()}\0{physical_cores()}".encode()
    )
    for part in parts(path):
        try:
            found = part.stat()
            with part.open("rb") as file:
                head = file.read(HEAD)
        except OSError:  # it is gone or unreadable: whoever opens the model says so better
            continue
        total.update(f"\0{found.st_size}\0{found.st_mtime_ns}\0".encode() + head)
    return total.hexdigest()[:24]


def parts(path: Path) -> list[Path]:
    """The files that hold the weights (and a folder's configuration); none if there is no such path."""
    path = Path(path)
    if path.is_dir():
        return sorted([*path.glob("*.safetensors"), *path.glob("config.json")])
    return [path] if path.is_file() else []


def cpu() -> str:
    """The CPU's name and abilities: a virtual machine may show the same name with fewer of them."""
    return "\n".join(re.findall(r"^(?:model name|flags|Features|CPU part)\s*:.*$", _cpuinfo(), re.M)) or cpu_name()


def cpu_name() -> str:
    """The CPU as its maker calls it, or as much as the system says."""
    if named := re.search(r"^model name\s*:\s*(.+)$", _cpuinfo(), re.M):
        return named.group(1).strip()
    try:  # single-board computers name the board
        return Path("/proc/device-tree/model").read_text().strip("\0\n ")
    except OSError:
        import platform

        return platform.processor() or platform.machine() or os.name


def _cpuinfo() -> str:
    """What Linux says of the first processor; empty elsewhere."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            return file.read(8192).split("\n\n")[0]
    except OSError:
        return ""


WEIGHTS_A_THREAD = 16 << 20


def physical_cores() -> int:
    """The physical cores that this process may use.

    Hyper-threads share one core's arithmetic units, so they are not counted where Linux tells them apart.
    """
    try:
        allowed = sorted(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        return os.cpu_count() or 1
    cores = set()
    for cpu in allowed:
        try:
            siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text()
        except OSError:
            siblings = str(cpu)
        cores.add(siblings.strip())
    return max(1, len(cores))


def choose_threads(threads: int | str | None, weights: int) -> int:
    """The number of threads for a setting that may be none or a word, and a model of so many bytes of weights.

    What `edgekit.tuning` has measured comes before this rule.

    By default one for each 16 MB of weights begun, at most four and at most the physical cores. A step through a
    small model is over before a second thread has woken: at 12.3M parameters on two cores the second one made
    float32 (49 MB) 1.1 to 1.5 times as fast, q8_0, q4_0 and int8 (8 to 13 MB) 0.8 to 1.1 times; and threads that wait
    for each other fall far behind as soon as another program wants a core.
    """
    if isinstance(threads, int):
        return threads
    return max(1, min(4, physical_cores(), -(-weights // WEIGHTS_A_THREAD)))
