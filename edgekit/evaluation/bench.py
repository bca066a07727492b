"""`edgekit bench`: how fast is a model on this machine, and how much memory does it need?

Each line of the table is a model on a runtime with a number of threads and a prompt. In every round the models take
turns (A B A B ...), each in a fresh process, so that neither heat nor other programs nor another model's memory favours
one of them. bench_worker.py measures and documents the figures. A figure is the median of the rounds, its spread half
the distance between the slowest and the fastest.
"""

import contextlib
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit import __version__, errors
from edgekit.errors import ContextError, EdgekitError, RuntimeFailure
from edgekit.evaluation.bench_settings import AUTO, Benching
from edgekit.utils import registry
from edgekit.utils.machine import cpu_name, physical_cores
from edgekit.utils.progress import Progress, silent

Ask = Callable[[dict[str, Any]], dict[str, Any]]
"""A job to its result; `child`, except in tests."""

SEED = 0
"""The default seed, so that sampled texts are the same in each round."""


@dataclass(frozen=True)
class Figure:
    """One value per round, in order."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    @property
    def spread(self) -> float:
        """Half the distance between the smallest and the largest, as a fraction of the median."""
        return (max(self.rounds) - min(self.rounds)) / 2 / self.median if self.median else 0.0

    def record(self) -> dict[str, Any]:
        return {"median": self.median, "min": min(self.rounds), "max": max(self.rounds), "rounds": list(self.rounds)}


@dataclass(frozen=True)
class Line:
    """One model on one runtime with one number of threads and one prompt."""

    model: str
    runtime: str
    threads: int
    auto: bool
    """Whether the number of threads was chosen by measurement."""
    prompt_tokens: int
    new_tokens: int
    load: Figure
    """Seconds."""
    first_token: Figure
    """Seconds."""
    prefill: Figure
    """Tokens per second."""
    decode: Figure
    """Tokens per second, the first not counted."""
    overhead: Figure
    """Seconds per token outside the runtime's `forward`: sampler, text, loop."""
    peak: Figure
    """Bytes."""
    bytes: int
    """Size of the file, or of a folder's weights."""
    growth: dict[int, Figure] = field(default_factory=dict)
    """Tokens per second, by tokens of context."""
    tried: dict[str, float] = field(default_factory=dict)
    """Seconds of a decode step by number of threads, if `auto` measured them."""

    def record(self) -> dict[str, Any]:
        """The line in JSON; the keys name the units. MB are 10^6 bytes."""
        return {
            "model": self.model,
            "runtime": self.runtime,
            "threads": self.threads,
            "threads_measured": self.auto,
            "step_ms_by_threads": {threads: 1e3 * seconds for threads, seconds in self.tried.items()},
            "prompt_tokens": self.prompt_tokens,
            "new_tokens": self.new_tokens,
            "load_ms": _scaled(self.load, 1e3),
            "first_token_ms": _scaled(self.first_token, 1e3),
            "prefill_tokens_per_second": self.prefill.record(),
            "decode_tokens_per_second": self.decode.record(),
            "overhead_us": _scaled(self.overhead, 1e6) | {"outside": "forward"},
            "peak_mb": _scaled(self.peak, 1e-6),
            "file_mb": self.bytes / 1e6,
            "decode_at_context": {str(length): rate.record() for length, rate in self.growth.items()},
        }


def _scaled(figure: Figure, factor: float) -> dict[str, Any]:
    return Figure(tuple(factor * each for each in figure.rounds)).record()


@dataclass(frozen=True)
class Bench:
    """The table, the machine, and notes on what differs from the request."""

    lines: list[Line]
    machine: dict[str, Any]
    notes: list[str]

    def record(self) -> dict[str, Any]:
        return {"machine": self.machine, "notes": self.notes, "lines": [line.record() for line in self.lines]}


@dataclass
class _Entry:
    """One process per round."""

    label: str
    job: dict[str, Any]
    auto: bool
    facts: dict[str, Any] = field(default_factory=dict)
    answers: list[dict[str, Any]] = field(default_factory=list)


def bench(
    models: Sequence[str | None],
    settings: Benching,
    *,
    runtimes: Sequence[str] = (),
    quant: str | None = None,
    revision: str | None = None,
    running: Mapping[str, Any] | None = None,
    sampling: Mapping[str, Any] | None = None,
    progress: Progress = silent,
    ask: Ask | None = None,
) -> Bench:
    """Measure models side by side.

    Args:
        models: as `-m` takes them; None is the bundled model.
        runtimes: each model is measured on each of them that can open it; if empty, on its default runtime.
        quant, revision: as in `edgekit.load`.
        running: further fields of `edgekit.settings.Running`, without `threads`.
        sampling: fields of `edgekit.settings.Sampling`; the model's own defaults apply to the others.

    Raises:
        ContextError: a prompt and its new tokens do not fit into a model's context.
        EdgekitError: as `edgekit.load`, or a measuring process died.
    """
    ask = ask or child
    notes: list[str] = []
    entries = [
        _Entry(label, {
            "model": str(path) if path is not None else None, "runtime": runtime, "quant": quant,
            "revision": revision, "threads": threads, "running": dict(running or {}),
            "sampling": {"seed": SEED, **(sampling or {})}, "prompt_tokens": list(settings.prompt_tokens),
            "new_tokens": settings.new_tokens,
        }, threads == AUTO)
        for path, label in zip(models, labels(models), strict=True)
        for runtime in openable(path, runtimes, notes)
        for threads in settings.threads
    ]  # fmt: skip
    for entry in progress(entries, "open", len(entries)):
        entry.facts = ask({"verb": "prepare", **entry.job})
        entry.job |= {name: entry.facts[name] for name in ("artefact", "runtime", "threads")}
        entry.job["context"] = _fitting(entry, settings, notes)
    turns = [entry for _ in range(settings.repeat) for entry in entries]
    for entry in progress(turns, "measure", len(turns)):
        entry.answers.append(ask({"verb": "measure", **entry.job}))
    lines = [_line(entry, i) for entry in entries for i in range(len(settings.prompt_tokens))]
    packages = {name: version for entry in entries for name, version in entry.facts["packages"].items()}
    return Bench(lines, machine(packages), list(dict.fromkeys(notes)))


def labels(models: Sequence[str | None]) -> list[str]:
    """File names; whole paths where two names are equal."""
    names = ["bundled" if path is None else Path(path).name or str(path) for path in models]
    return [
        name if path is None or names.count(name) == 1 else str(path) for path, name in zip(models, names, strict=True)
    ]


def openable(path: str | None, runtimes: Sequence[str], notes: list[str]) -> list[str | None]:
    """Those of `runtimes` that can open a model. An `.onnx` runs on onnx only; all others can be converted."""
    names: list[str | None] = [*dict.fromkeys(registry.ALIASES.get(name, name) for name in runtimes)]
    if path is None or Path(path).suffix != ".onnx" or "onnx" not in names:
        return names or [None]
    notes += [f"{Path(path).name} runs on onnx only: not measured on {name}" for name in names if name != "onnx"]
    return ["onnx"]


def _fitting(entry: _Entry, settings: Benching, notes: list[str]) -> list[int]:
    """The lengths of context to measure at, clipped to the model's; raises `ContextError` if a prompt is too long."""
    limit = entry.facts["context_length"]
    for length in settings.prompt_tokens:
        if length + settings.new_tokens > limit:
            raise ContextError(
                f"{entry.label}: a prompt of {length} tokens and {settings.new_tokens} new ones do not fit into its "
                f"context of {limit}: choose others with --prompt-tokens and --new-tokens"
            )
    if beyond := [length for length in settings.context if length > limit]:
        notes.append(f"{entry.label}: context {', '.join(map(str, beyond))} clipped to its {limit} tokens")
    return list(dict.fromkeys(min(length, limit) for length in settings.context))


def _line(entry: _Entry, i: int) -> Line:
    answers, texts = entry.answers, [answer["texts"][i] for answer in entry.answers]
    length = texts[0]["prompt_tokens"]

    def figure(values: Iterable[float]) -> Figure:
        return Figure(tuple(values))

    return Line(
        entry.label, entry.facts["runtime"], entry.facts["threads"], entry.auto, length, entry.job["new_tokens"],
        load=figure(answer["load"] for answer in answers),
        first_token=figure(text["first_token"] for text in texts),
        prefill=figure(length / text["prefill"] for text in texts),
        decode=figure(text["steps"] / text["decode"] for text in texts),
        overhead=figure(text["outside"] / text["steps"] for text in texts),
        peak=figure(answer["peak"] for answer in answers),
        bytes=entry.facts["bytes"],
        growth={at: figure(1 / answer["growth"][str(at)] for answer in answers) for at in entry.job["context"]},
        tried=entry.facts["tuned"],
    )  # fmt: skip


def machine(packages: Mapping[str, str]) -> dict[str, Any]:
    """What the figures depend on besides the model."""
    return {
        "cpu": cpu_name(),
        "cores": physical_cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "edgekit": __version__,
        "packages": dict(sorted(packages.items())),
    }


def child(job: dict[str, Any]) -> dict[str, Any]:
    """Do one job in a fresh process.

    Raises:
        EdgekitError: the child's own error, of its class; `RuntimeFailure` if it died.
    """
    done = subprocess.run(
        [sys.executable, "-m", "edgekit.evaluation.bench_worker"],
        input=json.dumps(job), capture_output=True, text=True, errors="replace", env=os.environ,
    )  # fmt: skip
    answer: dict[str, Any] = {}
    if done.returncode == 0:
        with contextlib.suppress(ValueError, IndexError):
            answer = json.loads(done.stdout.splitlines()[-1])
    if "error" in answer:
        raise getattr(errors, answer["kind"], EdgekitError)(answer["error"])
    if not answer:
        code = done.returncode
        how = signal.Signals(-code).name if code < 0 else f"status {code}"
        reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise RuntimeFailure(f"{job['model']}: the process that measured it ended with {how}: {reason}")
    return answer
