"""What a user would do with a file, done with a damaged one; reports what escaped.

A job is (format, seed); its result a dict for one line of JSON: `outcome` is clean (an `EdgekitError`), accepted,
traceback, and, judged by the driver, abort or hang. `guarded` has the lines where only `edgekit.utils.guard` caught it.
"""

import json
import os
import resource
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mutate

import edgekit
from edgekit.errors import EdgekitError
from edgekit.settings import Converting
from edgekit.utils import registry

PROMPT = "Once upon"
ROOT = str(Path(edgekit.__file__).resolve().parents[1])
SPACE = 3 << 30
"""More address space than this a case cannot take."""


def preload() -> None:
    """Import what cases need, before processes are forked."""
    import onnx  # noqa: F401
    import onnxruntime  # noqa: F401
    import torch

    from edgekit.doctor import examine, inspect  # noqa: F401
    from edgekit.evaluation import blimp  # noqa: F401
    from edgekit.tokenizers import huggingface, open  # noqa: F401
    from edgekit.training import checkpoints, recipe, shards  # noqa: F401

    torch.set_num_threads(1)
    for name in ("native", "onnx", "torch", "llamacpp"):
        registry.load("runtimes", name)
    for name in ("gguf", "onnx", "hf", "llama2c"):
        registry.load("converters", name)


Step = tuple[str, Callable[[], Any]]


def two_tokens(path: Path, runtime: str | None = None) -> None:
    model = edgekit.load(path, runtime=runtime, threads=1)
    try:
        model.generate(PROMPT, max_new_tokens=2)
    finally:
        model.runtime.close()


def steps(format: str, seed: int, path: Path, out: Path) -> Iterator[Step]:
    from edgekit.conversion.convert import convert
    from edgekit.doctor import examine, inspect
    from edgekit.tokenizers.open import open_tokenizer

    def converting(to: str, quant: str) -> Step:
        return f"convert {to}", lambda: convert(
            path, to, out / f"converted-{to}", settings=Converting(quant), verify=False
        )

    if format in ("folder", "gguf", "receipt", "onnx"):
        yield "inspect", lambda: inspect.report(inspect.describe(path))
        yield "doctor", lambda: examine.report(examine.examine(path))
        yield "tokenize", lambda: open_tokenizer(path, None).encode(PROMPT)
        yield "run", lambda: two_tokens(path)
    if format == "folder" and seed % 3 == 0:
        yield "run torch", lambda: two_tokens(path, "torch")
    elif format == "folder":
        yield converting(*[("gguf", "q4_0"), ("onnx", "int8"), ("gguf", "q8_0"), ("hf", "f32")][seed // 3 % 4])
    if format in ("gguf", "receipt"):
        yield "run llama.cpp", lambda: two_tokens(path, "llamacpp")
        if seed % 3 == 0:
            yield converting("hf", "f32")
    if format == "onnx":
        yield "read back", lambda: list(registry.load("converters", "onnx").weights(path))
    if format == "vocab":
        yield "tokenize", lambda: open_tokenizer(None, str(path)).encode(PROMPT)
    if format == "llama2c":
        yield "run", lambda: two_tokens(path)
        yield converting("gguf", "f32")
    if format == "template":
        yield "chat", lambda: edgekit.load(path, threads=1).chat(PROMPT, max_new_tokens=2).drain()
    yield from data_steps(format, path)


def data_steps(format: str, path: Path) -> Iterator[Step]:
    from edgekit.evaluation import blimp
    from edgekit.training import checkpoints, recipe, shards
    from edgekit.utils import texts

    if format == "recipe":
        yield "recipe", lambda: recipe.load(path)
    if format == "shards":
        yield "shards", lambda: shards.open_shards(path).summary()
    if format == "checkpoint":
        yield "resume", lambda: checkpoints.load(path, recipe.load("smoke"))
    if format == "blimp":
        yield "blimp", lambda: blimp.read(path)
    if format == "texts":
        yield "texts", lambda: texts.read([path])


def peak(reset: bool = False) -> float:
    """Megabytes of the process at most, since the last reset (Linux)."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024
    except (OSError, ValueError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def place(error: BaseException) -> str:
    """The last line of edgekit in a traceback, and the exception."""
    frames = [
        f
        for f in traceback.extract_tb(error.__traceback__)
        if f.filename.startswith(ROOT) and "/tests/" not in f.filename
    ]
    where = f"{Path(frames[-1].filename).relative_to(ROOT)}:{frames[-1].lineno}" if frames else "?"
    return f"{where} {type(error).__name__}"


def case(format: str, seed: int, base: Path) -> dict[str, Any]:
    """One file, from its mutation to the last step."""
    out = Path(tempfile.mkdtemp(prefix="hostile-"))
    result: dict[str, Any] = {"format": format, "seed": seed, "outcome": "accepted", "where": [], "guarded": []}
    try:
        path = mutate.write(format, seed, base, out)
        before = peak(reset=True)
        for name, step in steps(format, seed, path, out):
            try:
                step()
            except EdgekitError as error:
                if result["outcome"] == "accepted":
                    result["outcome"] = "clean"
                cause = error.__cause__
                if cause is not None and "what edgekit reads (" in str(error):
                    result["guarded"].append(place(cause))
                if "\n" in str(error):
                    result["where"].append(f"{place(error)}: two lines")
            except BaseException as error:  # a library in Rust panics with one that is no Exception
                if isinstance(error, KeyboardInterrupt | SystemExit):
                    raise
                result["outcome"] = "traceback"
                result["where"].append(f"{place(error)} ({name})")
        result["mb"] = round(peak() - before)
    finally:
        shutil.rmtree(out, ignore_errors=True)
    return result


def serve(jobs: Any, results: Any, base: Path) -> None:
    """A job a line from `jobs`, a result a line to `results`, until the end of input."""
    os.environ.pop("EDGEKIT_TRACEBACKS", None)
    size = (
        int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if sys.platform == "linux" else 0
    )
    if size:
        resource.setrlimit(resource.RLIMIT_AS, (size + SPACE, size + SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in jobs:
        format, seed = line.split()
        results.write(json.dumps(case(format, int(seed), base)) + "\n")
        results.flush()
