"""The child process of `edgekit bench`: one model, measured once, figures as JSON. `python -m edgekit.bench_worker`.

A job comes on stdin, the answer goes to stdout. A process of its own keeps models out of each other's memory, thread
pools and caches, and its peak memory is the model's alone.

What the figures are, each in seconds or bytes, in one process:

    load         `edgekit.load`: the backend's import, the weights, the tokenizer; not the interpreter's start
    first_token  from the call to the first token chosen: prefill and sampler
    prefill      the forward call with the whole prompt
    decode       from the first token chosen to the last: forward calls, sampler, text; n - 1 steps for n tokens
    outside      what of `decode` was not spent in the backend: the sampler, the text, the loop. The loop times each
                 call of the runtime's `forward`, whose own checks and copies count as backend
    peak         the most memory the process ever held (resident), after the texts and before the long contexts
    growth       seconds of a decode step, sampler and text included, by tokens of context at its end

Each text is begun once before it is timed, so that buffers are there and pages are mapped.
"""

import contextlib
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit import model
from edgekit.conversion import cache
from edgekit.errors import EdgekitError, MissingExtraError, VocabularyError
from edgekit.formats import hub
from edgekit.formats.embedded import FILES
from edgekit.formats.generation_config import defaults
from edgekit.inference import threads as tuning
from edgekit.model import Model
from edgekit.settings import Running
from edgekit.utils import registry

WARM = 4
"""Tokens of the text that is not timed."""
GROWTH_STEPS = 32
"""Decode steps that end at a length of context."""

PACKAGES = ("numpy", "onnxruntime", "llama_cpp", "torch", "transformers")

Job = Mapping[str, Any]


def main() -> None:
    """Answer one job. A deliberate error is an answer too."""
    # Whatever a backend prints must not get between the figures.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    job = json.load(sys.stdin)
    try:
        answer = {"prepare": prepare, "measure": measure}[job["verb"]](job)
    except EdgekitError as error:
        answer = {"error": " ".join(str(error).split()), "kind": type(error).__name__}
    except KeyboardInterrupt:
        sys.exit(130)
    with answers:
        json.dump(answer, answers)


def prepare(job: Job) -> dict[str, Any]:
    """Everything that must not be timed: a download, a conversion, the choice of threads.

    Returns what the measuring job needs (the artefact that is opened, its runtime, a number of threads), and facts.
    """
    name, artefact = find(job["model"], job["runtime"], job["quant"], job["revision"])
    running = Running(**job["running"])
    seconds: dict[int, float] = {}
    threads = job["threads"]
    if threads == "auto":
        choice = tuning.choose(artefact, running, registry.load("runtimes", name).load)
        threads, seconds = choice.threads, choice.seconds
    opened = open_model(artefact, name, {**job["running"], "threads": threads}).runtime
    opened.forward(prompt(opened.files, opened.vocab_size, frozenset(), 1))
    return {
        "artefact": str(artefact),
        "runtime": name,
        "threads": threads,
        "tuned": {str(count): each for count, each in seconds.items()},
        "bytes": tuning.weight_bytes(artefact),
        "context_length": opened.context_length,
        "packages": {p: sys.modules[p].__version__ for p in PACKAGES if hasattr(sys.modules.get(p), "__version__")},
    }


def measure(job: Job) -> dict[str, Any]:
    """Open the artefact and measure it once; see the head of this file."""
    opened = open_model(Path(job["artefact"]), job["runtime"], {**job["running"], "threads": job["threads"]})
    settings = {**job["sampling"], "ignore_eos": True, "stop": ()}
    longest = max([*job["prompt_tokens"], *job["context"]])
    unwanted = frozenset(i for i in (*opened.tokenizer.stop, opened.tokenizer.bos) if i is not None)
    ids = prompt(opened.runtime.files, opened.runtime.vocab_size, unwanted, longest)
    texts = []
    for length in job["prompt_tokens"]:
        opened.generate(ids[:length], **settings, max_new_tokens=WARM)
        stream = opened.stream(ids[:length], **settings, max_new_tokens=job["new_tokens"])
        forward_seconds = [step.forward_seconds for step in stream.steps()]
        timings = stream.result.timings
        texts.append(
            {
                "prompt_tokens": length,
                "first_token": timings.first_token,
                "prefill": timings.prefill,
                "decode": timings.decode,
                "outside": timings.decode - sum(forward_seconds[1:]),
                "steps": timings.new_tokens - 1,
            }
        )
    peak = peak_bytes()
    growth = {}
    for length in job["context"]:
        steps = min(GROWTH_STEPS, length // 2)
        timings = opened.generate(ids[: length - steps], **settings, max_new_tokens=steps + 1).timings
        growth[str(length)] = timings.decode / steps
    return {
        "load": opened.load_seconds,
        "texts": texts,
        "peak": peak,
        "growth": growth,
    }


# -----------------------------------------------------------------------------
# which model, and what is fed to it


def find(wanted: str | None, runtime: str | None, quant: str | None, revision: str | None) -> tuple[str, Path]:
    """The runtime's name and the file or folder that it opens, as `edgekit.load` would take them.

    A model that the runtime cannot open as it is, is converted into the cache. Raises as `edgekit.load`.
    """
    where = hub.resolve(wanted, revision=revision)
    name = registry.ALIASES.get(runtime, runtime) if runtime else _default(where)
    room = registry.load("runtimes", name)
    direct = where.suffix == room.SUFFIX if room.SUFFIX else where.is_dir() or where.suffix == ".gguf"
    if direct and quant is None:
        return name, where
    if direct or where.suffix == ".onnx":
        model.load(where, runtime=name, quant=quant)  # raises: it says best what of the two cannot be meant
    to = next(c for c in registry.names("converters") if registry.suffix("converters", c) == room.SUFFIX)
    return name, cache.converted(where, to, quant or registry.load("converters", to).QUANTS[0])


def _default(where: Path) -> str:
    """The runtime that opens a model where none is named; see `edgekit.model.load`."""
    if not where.is_dir():
        fitting = [
            r for r in registry.names("runtimes") if where.suffix and registry.suffix("runtimes", r) == where.suffix
        ]
        if not fitting:
            model.load(where)  # says which files edgekit knows
        return fitting[0]
    for name in model.PREFERENCE:
        with contextlib.suppress(MissingExtraError):
            registry.load("runtimes", name)
            return name
    return model.PREFERENCE[0]


def open_model(artefact: Path, runtime: str, running: dict[str, Any]) -> Model:
    """`edgekit.load`; a model without any tokenizer is opened all the same, and its tokens are no text."""
    try:
        return model.load(artefact, runtime=runtime, **running)
    except VocabularyError:
        begin = time.perf_counter()
        opened = registry.load("runtimes", runtime).load(artefact, Running(**running))
        if any(name in opened.files for name in FILES):
            raise
        wordless = Model(opened, Wordless(opened.vocab_size), defaults(opened.files))
        wordless.load_seconds = time.perf_counter() - begin
        return wordless


class Wordless:
    """A tokenizer whose every token is the empty text. See `edgekit.tokenizers.base.Tokenizer`."""

    bos: int | None = None
    stop: frozenset[int] = frozenset()

    def __init__(self, vocab_size: int):
        self.vocab_size = vocab_size

    def encode(self, text: str, *, specials: bool = False) -> list[int]:
        return []

    def decode(self, tokens: Sequence[int]) -> str:
        return ""

    def decoder(self, context: Sequence[int] = ()) -> "Wordless":
        return self

    def feed(self, token: int) -> str:
        return ""

    def flush(self) -> str:
        return ""

    def utf8_mask(self, decoder: object, remaining: int | None = None) -> Any:
        return np.ones(self.vocab_size, bool)

    def facts(self) -> dict[str, Any]:
        return {"kind": "none"}


def prompt(files: Mapping[str, bytes], vocab_size: int, unwanted: frozenset[int], count: int) -> list[int]:
    """So many ids from a seeded generator, the same on every machine; a shorter prompt begins a longer one.

    Ids in `unwanted`, and those that the model's files name as special, are left out.
    """
    left_out = unwanted | special_ids(files)
    ids = np.array([i for i in range(vocab_size) if i not in left_out] or range(vocab_size))
    return [int(i) for i in ids[np.random.default_rng(12).integers(len(ids), size=count)]]


def special_ids(files: Mapping[str, bytes]) -> frozenset[int]:
    """Ids of specials by config.json, generation_config.json and tokenizer.json; damaged files name none here."""
    found: list[Any] = []
    for name in ("config.json", "generation_config.json", "tokenizer.json"):
        with contextlib.suppress(ValueError, RecursionError, AttributeError, TypeError):
            values = json.loads(files.get(name, b"{}"))
            for kind in ("bos", "eos", "pad", "unk"):
                ids = values.get(f"{kind}_token_id")
                found += ids if isinstance(ids, list) else [ids]
            found += [token.get("id") for token in values.get("added_tokens", []) if token.get("special")]
    return frozenset(i for i in found if isinstance(i, int))


def peak_bytes() -> int:
    """The most memory that this process has held, resident.

    Linux counts `VmHWM` anew for each program; `ru_maxrss` would begin with what the parent held when it started us.
    """
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


if __name__ == "__main__":
    main()
