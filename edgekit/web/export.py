"""`edgekit export-web`: a static folder with pages and a model that runs in the browser.

    index.html, style.css, *.js        the pages of `web/pages`, as `edgekit demo` serves them
    engine.js                          selects the engine that runs in the browser
    models/NAME-TYPE-HASH.gguf         the models
    edgekit-lm-HASH/                   the npm package of `web/javascript`: the C engine as WebAssembly
    site.json                          the models, and the paths of everything
    sw.js, manifest.webmanifest        offline use after the first visit; an icon on a phone's home screen

A browser downloads the one of the engine's three builds that it can run, and reads the GGUF file as it is.
"""

import contextlib
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.conversion import base
from edgekit.conversion import convert as converting
from edgekit.doctor import inspect
from edgekit.errors import CheckpointError, EdgekitError, FileError, SettingError, UsageError, VocabularyError
from edgekit.formats import hub
from edgekit.formats.generation_config import RULES, caveats, generation_config
from edgekit.formats.hub_cache import model_name
from edgekit.formats.open import open_model
from edgekit.model import Model, load
from edgekit.settings import Converting
from edgekit.tokenizers.engine import EngineTokenizer
from edgekit.tokenizers.sample_texts import COUNT, sample_texts
from edgekit.utils import engine, files
from edgekit.utils.progress import Progress, silent
from edgekit.web import chat_strings

PAGES = Path(__file__).parent / "pages"
PACKAGE = Path(__file__).parent / "javascript"

QUANTS = ("q4_0", "q8_0", "f16")
LIMIT = 5_500_000
"""Bytes of weights: with more of them a first visit exceeds 6 MB."""
VARIANTS = ("relaxed", "simd", "scalar")
"""The engine's builds, `engine-NAME.wasm`: with relaxed SIMD, with SIMD, and with neither."""

# Pages that an exported folder has in another form, or not at all.
REPLACED = {"engine.js", "engine_server.js", "sw.js"}
# For readers and for Node, not for browsers.
NOT_FETCHED = {"package.json"}
ENGINE = '// The model runs in the browser.\nexport { engine } from "./engine_browser.js";\n'
SITE = "const SITE = {"
POLICY = "connect-src 'self'"
"""In index.html; an exported page also opens models of other addresses."""

SETTINGS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_new_tokens")


@dataclass(frozen=True)
class Exported:
    """A folder that was written, and its sizes."""

    path: Path
    models: list[dict[str, Any]]
    """The entries of `site.json`."""
    first_visit: int
    """Bytes that a browser downloads before the first model runs, with the largest build of the engine."""
    total: int
    """Bytes of the whole folder."""
    notes: list[str]


def export_web(
    models: Sequence[str | Path | None],
    out: Path,
    *,
    quants: Sequence[str] = (),
    revision: str | None = None,
    force: bool = False,
    progress: Progress = silent,
) -> Exported:
    """Write the folder, whole or not at all.

    Args:
        models: as `-m` takes them. A page opens with the first.
        quants: of `QUANTS`; each model is written in each of them. Without any, a `.gguf` is copied as it is, and
            another model gets the most exact type whose weights have at most `LIMIT` bytes, or the smallest.

    Raises:
        SettingError, UsageError: an unknown type, or an `.onnx`.
        UnsupportedError, VocabularyError: a model or tokenizer that the engine does not run.
        FileError: `out` exists and `force` is off, or something cannot be read or written.
    """
    for named in quants:
        if named not in QUANTS:
            raise SettingError(f"unknown quantization {named!r} for a page: choose from {', '.join(QUANTS)}")
    out = Path(out)
    if force and out.is_dir() and any(out.iterdir()) and not (out / "site.json").is_file():
        raise UsageError(f"{out} was not written by export-web, so --force does not replace it")
    with files.replacing(out, force=force) as folder:
        folder.mkdir()
        (folder / "models").mkdir()
        listed: list[dict[str, Any]] = []
        notes: list[str] = []
        types: list[str | None] = list(quants) if quants else [None]
        for model in models or [None]:
            where = hub.resolve(model, revision=revision)
            for quant in types:
                entry, remarks = _add(where, quant, folder, progress)
                if entry["file"] in [other["file"] for other in listed]:
                    continue  # the same model twice
                if entry["id"] in [other["id"] for other in listed]:  # two models with one name
                    same = 1 + sum(other["id"].startswith(entry["id"]) for other in listed)
                    entry |= {"id": f"{entry['id']}-{same}", "name": f"{entry['name']} {same}"}
                listed.append(entry)
                notes += [note for note in remarks if note not in notes]
        _write(folder, listed)
        return _summed(out, folder, listed, notes)


# -----------------------------------------------------------------------------
# models


def _add(where: Path, quant: str | None, folder: Path, progress: Progress) -> tuple[dict[str, Any], list[str]]:
    """Add a model's file to the folder. Returns its entry of `site.json`, and notes for the user."""
    if where.suffix == ".onnx":
        raise UsageError(f"{where.name} cannot run on a page, which needs GGUF: give the model folder it was made from")
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        path = Path(temporary) / "model.gguf"
        if where.suffix == ".gguf" and quant is None:
            path.write_bytes(files.read_bytes(where))
            notes: list[str] = []
        else:
            settings = Converting(quant=quant or _fitting(where))
            converted = converting.convert(where, "gguf", path, settings=settings, force=True, progress=progress)
            notes = [note for note in converted.notes if "llama.cpp" not in note]  # it has no part in a page
        model, different = _opened(path, where)
        described = inspect.describe(path)
        strings, why_not = _chat(model)
        carried = model.runtime.files
        about = [f"{where.name}: {note}" for note in (why_not, _left_out(carried), different) if note]
        notes += [note for note in (*caveats(carried), *about) if note not in notes]
        kind = described["metadata"].get("edgekit.quant") or _main_type(described)
        stem = where.stem if where.is_file() else model_name(where)
        name = re.sub(r"[^\w.-]+", "-", re.sub(rf"[-.]{re.escape(kind)}$", "", stem, flags=re.IGNORECASE))
        size = path.stat().st_size
        file = f"models/{name}-{kind}-{_digest(path)}.gguf"
        entry = {
            "id": f"{name}-{kind}", "name": f"{name} ({kind})", "file": file, "format": f"gguf {kind}", "bytes": size,
            "parameters": described["parameters"]["total"], "context_length": model.runtime.context_length,
            "vocab_size": model.runtime.vocab_size, "defaults": _defaults(model), "chat": strings,
        }  # fmt: skip
        model.runtime.close()
        shutil.move(path, folder / file)
    return entry, notes


def _fitting(where: Path) -> str:
    """The most exact of `QUANTS` whose weights have at most `LIMIT` bytes; the smallest if none has."""
    module, checkpoint = base.converter("gguf"), open_model(where)
    if not isinstance(module, base.PlansTensors):
        raise SettingError("the gguf converter does not plan sizes: name a type with --quant")
    for quant in reversed(QUANTS):
        if sum(tensor.bytes for tensor in module.planned(checkpoint.config, quant)) <= LIMIT:
            return quant
    return QUANTS[0]


def _opened(path: Path, where: Path) -> tuple[Model, str]:
    """The model on the engine, as the page will run it, and what its tokenizer does differently there.

    Raises:
        UnsupportedError, VocabularyError: the engine does not have the architecture, a type or the tokenizer.
        CheckpointError: the file is damaged.
    """
    try:
        model = load(path, runtime="native", threads=1)
        library = engine.library()
        assert library is not None  # `load` needs it
        tokenizer = EngineTokenizer(library, files.read_bytes(path))
    except (CheckpointError, VocabularyError) as error:
        reason = str(error).replace(f"{path}: ", "")
        raise type(error)(f"{where.name} cannot run on a page: {reason}") from error
    parsed = (False, True)
    texts = [
        text
        for text in sample_texts([])
        if any(model.tokenizer.encode(text, specials=mode) != tokenizer.encode(text, specials=mode) for mode in parsed)
    ]
    if not texts:
        return model, ""
    return model, f"the page splits {len(texts)} of {COUNT} texts differently than Python, e.g. {texts[0]!r:.60}"


def _main_type(described: dict[str, Any]) -> str:
    """The type of most of the weights."""
    sizes = described["size_by_type"]
    return max(sizes, key=lambda kind: sizes[kind]["bytes"]).lower()


def _chat(model: Model) -> tuple[dict[str, Any] | None, str]:
    """The entry `chat` of `site.json`: the strings of the model's template; or None and why there are none."""
    try:
        template = model.chat_template
        if template is None:
            return None, ""
        with contextlib.closing(template):
            return {**chat_strings.strings_of(template), "ends": sorted(template.turn_ends(model.tokenizer))}, ""
    except EdgekitError as error:
        return None, f"no chat on the page: {error}"


def _left_out(carried: Mapping[str, bytes]) -> str:
    """The model's own settings that a page does not have."""
    config = generation_config(carried)
    named = ", ".join(name for name in RULES if config.get(name))
    return f"settings of the model that the page does not apply: {named}" if named else ""


def _defaults(model: Model) -> dict[str, Any]:
    return {name: getattr(model.defaults, name) for name in SETTINGS}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:10]


# -----------------------------------------------------------------------------
# the folder


def _write(folder: Path, models: list[dict[str, Any]]) -> None:
    for page in sorted(PAGES.rglob("*")):
        if page.is_file() and page.name not in REPLACED:
            target = folder / page.relative_to(PAGES)
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(page.read_bytes())
    (folder / "engine.js").write_text(ENGINE, encoding="utf-8")
    _replace(folder / "index.html", POLICY, "connect-src * blob: data:")
    package = _engine(folder)
    _json(folder / "site.json", {"models": models, "engine": package})
    assets = [model["file"] for model in models] + [one["wasm"] for one in package["variants"].values()]
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    shell = [path for path in paths if path not in assets and Path(path).name not in NOT_FETCHED]
    version = hashlib.sha256()
    for path in shell:
        version.update(f"{path}\0".encode() + hashlib.sha256((folder / path).read_bytes()).digest())
    # The start page is requested as "./"; index.html would be the same bytes again.
    shell[shell.index("index.html")] = "./"
    site = {"version": version.hexdigest()[:12], "shell": shell, "assets": assets}
    worker = (PAGES / "sw.js").read_text(encoding="utf-8")
    line = next((line for line in worker.splitlines() if line.startswith(SITE)), SITE)
    (folder / "sw.js").write_text(worker, encoding="utf-8")
    _replace(folder / "sw.js", line, f"const SITE = {json.dumps(site)};")


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    if text.count(old) != 1:
        raise FileError("the playground's pages are damaged: install edgekit again")
    path.write_text(text.replace(old, new), encoding="utf-8")


def _engine(folder: Path) -> dict[str, Any]:
    """Copy the npm package under a name with its hash. Returns the entry `engine` of `site.json`."""
    wanted = sorted(path for path in PACKAGE.glob("*") if path.suffix in (".js", ".wasm"))
    names = {path.name for path in wanted}
    if missing := {"index.js", *(f"engine-{name}.wasm" for name in VARIANTS)} - names:
        raise FileError(f"the engine for browsers is incomplete ({min(missing)} is missing): install edgekit again")
    digest = hashlib.sha256()
    for path in wanted:
        digest.update(f"{path.name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    target = folder / f"edgekit-lm-{digest.hexdigest()[:10]}"
    target.mkdir()
    for path in wanted:
        (target / path.name).write_bytes(path.read_bytes())
    variants = {name: target / f"engine-{name}.wasm" for name in VARIANTS}
    return {
        "module": f"{target.name}/index.js",
        "variants": {
            name: {"wasm": f"{target.name}/{path.name}", "bytes": path.stat().st_size}
            for name, path in variants.items()
        },
    }


def _json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def _summed(out: Path, folder: Path, models: list[dict[str, Any]], notes: list[str]) -> Exported:
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    later = {model["file"] for model in models[1:]}
    builds = [size for name, size in sizes.items() if name.endswith(".wasm")]
    first = sum(size for name, size in sizes.items() if name not in later) - sum(builds) + max(builds)
    return Exported(out, models, first, sum(sizes.values()), notes)


def summary(exported: Exported) -> str:
    """Sizes and notes, as text."""
    lines = [
        f"{exported.path}: {exported.total / 1e6:.2f} MB; a first visit fetches {exported.first_visit / 1e6:.2f} MB"
    ]
    for model in exported.models:
        lines.append(f"  {model['name']}: {model['bytes'] / 1e6:.2f} MB, {model['parameters'] / 1e6:.1f}M parameters")
    lines += [f"  note: {note}" for note in exported.notes]
    lines.append(f"  try it: python -m http.server --directory {exported.path} 8000")
    return "\n".join(lines)
