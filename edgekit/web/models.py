"""The models of a server. A (model, runtime) pair is opened on first use and kept; only a few are open at a time."""

import gc
import importlib.util
import math
import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.doctor.case import Case, open_case
from edgekit.errors import CheckpointError, MissingExtraError, UnsupportedError, VocabularyError
from edgekit.formats import hub
from edgekit.formats.embedded import FILES
from edgekit.formats.generation_config import defaults
from edgekit.model import Model, load, runtimes_for
from edgekit.settings import Generating
from edgekit.tokenizers import chat
from edgekit.utils import registry
from edgekit.utils.engine import library
from edgekit.utils.progress import Progress, silent
from edgekit.web.validation import RequestError, shown

MAX_OPEN = 4

# The packages that a runtime, and a conversion to a suffix, need. They are looked up without an import, which would
# cost the backend's memory. A runtime that is not listed counts as usable.
PACKAGES = {"onnx": ("onnxruntime",), "llamacpp": ("llama_cpp",), "torch": ("torch",)}
CONVERTING = {".onnx": ("onnx",), ".gguf": ("gguf",)}


@dataclass
class Entry:
    """What is known of a model before it is opened. Numbers that its files do not tell are None until then."""

    id: str
    name: str
    path: Path
    runtime: str
    """The runtime for requests that name none."""
    runtimes: list[str]
    """Those that can open it and whose packages are installed."""
    format: str
    bytes: int
    parameters: int | None
    context_length: int | None
    vocab_size: int | None
    chat: bool
    """Whether it has a chat template."""
    defaults: Generating

    def record(self) -> dict[str, Any]:
        """The entry of /api/models."""
        return {name: value for name, value in vars(self).items() if name not in ("path", "defaults")}


class ModelPool:
    """The models of one server. Only the worker's thread may call `open` and use what it returns.

    Args:
        models: as `-m` takes them; None is the bundled model.
        runtime, quant, revision, running: as in `edgekit.load`; `quant` applies to each entry's default runtime.

    Raises:
        EdgekitError: a model cannot be found, or no installed runtime opens it.
    """

    def __init__(
        self,
        models: Sequence[str | Path | None],
        *,
        runtime: str | None = None,
        quant: str | None = None,
        revision: str | None = None,
        progress: Progress = silent,
        note: hub.Note = hub.ignore,
        **running: Any,
    ):
        self._quant, self._progress, self._running = quant, progress, running
        self._chosen = runtime is not None
        self.entries: dict[str, Entry] = {}
        self._open: OrderedDict[tuple[str, str], Model] = OrderedDict()
        for model in models:
            entry = describe(hub.resolve(model, revision=revision, note=note), runtime)
            if isinstance(model, str) and hub.parse(model):
                entry.id = entry.name = model.removeprefix(hub.SCHEME)
            count, base = 1, entry.id
            while entry.id in self.entries:
                entry.id = f"{base}-{(count := count + 1)}"
            self.entries[entry.id] = entry

    @property
    def first(self) -> Entry:
        return next(iter(self.entries.values()))

    def find(self, id: str | None) -> Entry:
        """By id; the first if None. Raises `RequestError` (404)."""
        if id is None:
            return self.first
        if id not in self.entries:
            known = ", ".join(self.entries)
            raise RequestError(
                f"unknown model {shown(id)}: choose from {known}", "model", status=404, code="model_not_found"
            )
        return self.entries[id]

    def runtime(self, entry: Entry, name: str | None) -> str:
        """The runtime for a request. Raises `RequestError` (400) for one that cannot open this model."""
        name = entry.runtime if name is None else registry.ALIASES.get(name, name)
        if name not in entry.runtimes:
            raise RequestError(f"runtime must be one of {', '.join(entry.runtimes)}, not {shown(name)}", "runtime")
        return name

    def open(self, entry: Entry, runtime: str) -> Model:
        """The model, opened now if it is not open yet; at most `MAX_OPEN` stay open. Raises as `edgekit.load`."""
        key = (entry.id, runtime)
        if key in self._open:
            self._open.move_to_end(key)
            return self._open[key]
        while len(self._open) >= MAX_OPEN:  # before the next is opened, since both may not fit into memory
            self._close(self._open.popitem(last=False)[1])
        quant = self._quant if runtime == entry.runtime else None
        try:
            model = load(entry.path, runtime=runtime, quant=quant, progress=self._progress, **self._running)
        except UnsupportedError:
            if self._chosen or runtime != entry.runtime or len(entry.runtimes) == 1:
                raise
            entry.runtimes.remove(runtime)
            entry.runtime = entry.runtimes[0]
            return self.open(entry, entry.runtime)
        self._open[key] = model
        entry.context_length, entry.vocab_size = model.runtime.context_length, model.runtime.vocab_size
        return model

    def close(self) -> None:
        while self._open:
            self._close(self._open.popitem()[1])

    @staticmethod
    def _close(model: Model) -> None:
        model.runtime.close()
        del model
        gc.collect()


def describe(path: Path, runtime: str | None) -> Entry:
    """What a model's files tell of it. Raises `CheckpointError`, `MissingExtraError`, `UnknownPluginError`."""
    case = open_case(path)
    if case.trouble and not case.files and not case.tensors:
        raise CheckpointError(f"{path}: {case.trouble[0].what}")
    names = runtimes_for(path)
    usable = [name for name in names if missing_for(path, name) is None]
    if runtime is not None:
        runtime = registry.ALIASES.get(runtime, runtime)
        if runtime not in usable:
            usable = [runtime, *usable]  # opening it reports what is wrong
    elif not usable:
        package = missing_for(path, names[0])
        raise MissingExtraError(
            f"{names[0]} needs {package}, which is not installed: "
            f"{registry.install_command(registry.extra('runtimes', names[0]))}"
        )
    config = case.shape
    total = None if config is None else sum(math.prod(shape) for shape in config.shapes().values())
    name = os.fsencode(os.path.basename(os.path.abspath(path))).decode("utf-8", "replace")  # not a link's target
    name = name if path.is_dir() else Path(name).stem
    return Entry(
        id=name,
        name=name,
        path=path,
        runtime=runtime or usable[0],
        runtimes=usable,
        format=case.format,
        bytes=sum(part.stat().st_size for part in ([path / n for n in case.shards] if path.is_dir() else [path])),
        parameters=total,
        context_length=config.max_position_embeddings if config else None,
        vocab_size=case.rows,
        chat=_has_template(case),
        defaults=defaults(case.files),
    )


def _has_template(case: Case) -> bool:
    """As `chat.template_of` finds it. A damaged one counts: its first use reports what is wrong."""
    try:
        inside = chat.from_files(case.files) is not None
    except VocabularyError:
        return True
    own = not any(name in case.files for name in FILES)  # then llama.cpp's tokenizer is used, with the file's template
    return inside or (own and isinstance(case.keys.get("tokenizer.chat_template"), str))


def missing_for(path: Path, runtime: str) -> str | None:
    """What this runtime lacks to open this model, such as a package that is not installed; None if nothing."""
    if runtime == "native" and library() is None:
        return "a C compiler"
    needed = list(PACKAGES.get(runtime, ()))
    if not registry.opens("runtimes", runtime, path):  # it is converted first
        needed += CONVERTING.get(registry.suffix("runtimes", runtime), ())
    return next((package for package in needed if importlib.util.find_spec(package) is None), None)
