"""The child process of `edgekit bench`: measures one model once. `python -m edgekit.evaluation.bench_worker`.

It reads a job from stdin and writes the result to stdout, both JSON. A separate process keeps models out of each
other's memory, thread pools and caches, and its peak memory is the model's alone.

The figures, in seconds or bytes:

    load         `edgekit.load`: the backend's import, the weights, the tokenizer; not the interpreter's start
    first_token  from the call to the first token chosen: prefill and sampler
    prefill      the forward call with the whole prompt
    decode       from the first token chosen to the last: forward calls, sampler, text; n - 1 steps for n tokens
    outside      the part of `decode` not spent in the runtime's `forward`: sampler, text and loop. `forward`'s own
                 checks and copies count as backend
    peak         peak resident memory of the process, after the texts and before the long contexts
    growth       seconds of a decode step, sampler and text included, by tokens of context at its end

Each text is started once before it is timed, so that buffers are allocated and pages are mapped.
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
from edgekit.errors import EdgekitError, MissingExtraError, UnsupportedError, VocabularyError
from edgekit.formats import hub
from edgekit.formats.embedded import FILES
from edgekit.formats.generation_config import defaults
from edgekit.inference import threads as tuning
from edgekit.inference.runtime import plugin
from edgekit.model import Model
from edgekit.settings import Running
from edgekit.utils import registry

WARM = 4
"""Tokens of the untimed text."""
GROWTH_STEPS = 32
"""How many decode steps are timed before each length of context."""

PACKAGES = ("numpy", "onnxruntime", "llama_cpp", "torch", "transformers")

Job = Mapping[str, Any]


def main() -> None:
    """Do one job. An `EdgekitError` is a result too."""
    # Keep what backends print to stdout out of the result.
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    job = json.load(sys.stdin)
    try:
        answer = {"prepare": prepare, "measure": measure}[job["verb"]](job)
    except EdgekitError as error:
        answer = {"error": " ".join(str(error).split()), "kind": type(error).__name__}
    except KeyboardInterrupt:
        sys.exit(130)
    with output:
        json.dump(answer, output)


def prepare(job: Job) -> dict[str, Any]:
    """Everything that must not be timed: a download, a conversion, the choice of threads.

    Returns what the measuring job needs (the artefact to open, its runtime, a number of threads), and facts about it.
    """
    where = hub.resolve(job["model"], revision=job["revision"])
    names = [job["runtime"]] if job["runtime"] else model.candidates(where)
    for name in names[:-1]:
        with contextlib.suppress(MissingExtraError, UnsupportedError):
            return prepare_on(name, where, job)
    return prepare_on(names[-1], where, job)


def prepare_on(name: str, where: Path, job: Job) -> dict[str, Any]:
    """`prepare` on one runtime."""
    name, artefact = find(where, name, job["quant"])
    running = Running(**job["running"])
    seconds: dict[int, float] = {}
    threads = job["threads"]
    if threads == "auto":
        choice = tuning.choose(artefact, running, plugin(name).load)
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
    """Open the artefact and measure it once; see the module's docstring."""
    opened = open_model(Path(job["artefact"]), job["runtime"], {**job["running"], "threads": job["threads"]})
    settings = {**job["sampling"], "ignore_eos": True, "stop": ()}
    longest = max([*job["prompt_tokens"], *job["context"]])
    excluded = frozenset(i for i in (*opened.tokenizer.stop, opened.tokenizer.bos) if i is not None)
    ids = prompt(opened.runtime.files, opened.runtime.vocab_size, excluded, longest)
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
# which model, and which tokens


def find(where: Path, runtime: str, quant: str | None) -> tuple[str, Path]:
    """The runtime's name, and the file or folder that `edgekit.load` would open on it.

    A model that the runtime cannot open directly is converted into the cache. Raises as `edgekit.load`.
    """
    name = registry.ALIASES.get(runtime, runtime)
    plugin(name)  # raises if it is unknown or not installed, before anything is converted
    return name, model.artefact(where, name, quant)


def open_model(artefact: Path, runtime: str, running: dict[str, Any]) -> Model:
    """`edgekit.load`, but a model without a tokenizer is opened too, with `Wordless`."""
    try:
        return model.load(artefact, runtime=runtime, **running)
    except VocabularyError:
        begin = time.perf_counter()
        opened = plugin(runtime).load(artefact, Running(**running))
        if any(name in opened.files for name in FILES):
            raise
        wordless = Model(opened, Wordless(opened.vocab_size), defaults(opened.files))
        wordless.load_seconds = time.perf_counter() - begin
        return wordless


class Wordless:
    """A `Tokenizer` whose tokens are all empty texts."""

    bos: int | None = None
    stop: frozenset[int] = frozenset()

    def __init__(self, vocab_size: int):
        self.vocab_size = vocab_size
        self.token_bytes = [b""] * vocab_size

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

    def piece(self, id: int) -> str:
        return ""

    def utf8_mask(self, decoder: object, remaining: int | None = None) -> Any:
        return np.ones(self.vocab_size, bool)

    def facts(self) -> dict[str, Any]:
        return {"kind": "none"}


def prompt(files: Mapping[str, bytes], vocab_size: int, excluded: frozenset[int], count: int) -> list[int]:
    """`count` ids from a seeded generator, the same on every machine; a shorter prompt is a prefix of a longer one.

    Ids in `excluded`, and those that the model's files name as special, are left out.
    """
    left_out = excluded | special_ids(files)
    ids = np.array([i for i in range(vocab_size) if i not in left_out] or range(vocab_size))
    return [int(i) for i in ids[np.random.default_rng(12).integers(len(ids), size=count)]]


def special_ids(files: Mapping[str, bytes]) -> frozenset[int]:
    """Ids of specials in config.json, generation_config.json and tokenizer.json; damaged files are skipped."""
    specials: list[Any] = []
    for name in ("config.json", "generation_config.json", "tokenizer.json"):
        with contextlib.suppress(ValueError, RecursionError, AttributeError, TypeError):
            values = json.loads(files.get(name, b"{}"))
            for kind in ("bos", "eos", "pad", "unk"):
                ids = values.get(f"{kind}_token_id")
                specials += ids if isinstance(ids, list) else [ids]
            specials += [token.get("id") for token in values.get("added_tokens", []) if token.get("special")]
    return frozenset(i for i in specials if isinstance(i, int))


def peak_bytes() -> int:
    """Peak resident memory of this process.

    Linux resets `VmHWM` at exec; `ru_maxrss` would start with the memory of the parent that forked us.
    """
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


if __name__ == "__main__":
    main()
