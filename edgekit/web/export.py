"""`edgekit export-web`: a static folder with pages and a model that runs in the browser.

    index.html, style.css, *.js, core/     the pages of `web/pages`, as `edgekit demo` serves them
    engine.js                              selects the engine that runs in the browser
    models/NAME-TYPE-HASH.onnx             fused graphs, as `edgekit convert --to onnx` writes them
    ort/VERSION/                           onnxruntime-web
    site.json                              the models, and the paths of everything
    sw.js, manifest.webmanifest            offline use after the first visit; an icon on a phone's home screen

The type of the weights affects only the download: the page widens them to float32 before it runs them
(`onnx_widen.js`), which is fastest in WebAssembly. `fp16` is lossless for a float16 checkpoint; `int8`
(converters/_onnx_rows.py) is half its size. The default is fp16, or int8 for a model that would be over 15 MB.
"""

import contextlib
import dataclasses
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.conversion import base
from edgekit.conversion import convert as converting
from edgekit.doctor import inspect
from edgekit.errors import CheckpointError, EdgekitError, FileError, SettingError, UsageError, VocabularyError
from edgekit.formats import embedded, hub
from edgekit.formats.generation_config import RULES, caveats, defaults, generation_config
from edgekit.formats.hub_cache import model_name
from edgekit.formats.open import open_model
from edgekit.settings import Converting
from edgekit.tokenizers import chat
from edgekit.tokenizers.base import Tokenizer
from edgekit.tokenizers.load import from_files
from edgekit.utils import files
from edgekit.utils.progress import Progress, silent
from edgekit.web import chat_strings, npm

PAGES = Path(__file__).parent / "pages"

QUANTS = ("fp32", "fp16", "int8")
LIMIT = 15_000_000
"""Bytes: the largest model that a phone should have to download."""

# Pages that an exported folder has in another form, or not at all.
REPLACED = {"engine.js", "engine_server.js", "sw.js"}
# For readers and for Node, not for browsers.
NOT_FETCHED = {"NOTICE", "package.json"}
ENGINE = '// The model runs in the browser.\nexport { engine } from "./engine_browser.js";\n'
SITE = "const SITE = {"

SETTINGS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_new_tokens")


@dataclass(frozen=True)
class Exported:
    """A folder that was written, and its sizes."""

    path: Path
    models: list[dict[str, Any]]
    """The entries of `site.json`."""
    first_visit: int
    """Bytes that a browser downloads before the first model runs."""
    total: int
    """Bytes of the whole folder."""
    notes: list[str]


def export_web(
    models: Sequence[str | Path | None],
    out: Path,
    *,
    quants: Sequence[str] = (),
    onnxruntime_web: Path | None = None,
    webgpu: bool = False,
    revision: str | None = None,
    force: bool = False,
    progress: Progress = silent,
) -> Exported:
    """Write the folder, whole or not at all.

    Args:
        models: as `-m` takes them; a fused `.onnx` is copied, anything else is converted. A page opens with the first.
        quants: of `QUANTS`; each model is written in each of them.
        onnxruntime_web: the npm package as a folder; None fetches it with npm. See `npm.py`.
        webgpu: include ONNX Runtime's files for WebGPU. Only browsers that use WebGPU download them; a page switches to
            it automatically once it has run there and was faster.

    Raises:
        SettingError, UsageError: an unknown type, or a type for an `.onnx`, which is not converted.
        CheckpointError, VocabularyError: a model or tokenizer that a page cannot run.
        FileError: `out` exists and `force` is off, or something cannot be read, fetched or written.
    """
    for named in quants:
        if named not in QUANTS:
            raise SettingError(f"unknown quantization {named!r} for a page: choose from {', '.join(QUANTS)}")
    out = Path(out)
    if force and out.is_dir() and any(out.iterdir()) and not (out / "site.json").is_file():
        raise UsageError(f"{out} was not written by export-web, so --force does not replace it")
    with files.replacing(out, force=force) as folder:
        folder.mkdir()
        ort = npm.assets(onnxruntime_web, webgpu=webgpu)
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
        _write(folder, listed, ort)
        return _summed(out, folder, listed, ort, notes)


# -----------------------------------------------------------------------------
# models


def _add(where: Path, quant: str | None, folder: Path, progress: Progress) -> tuple[dict[str, Any], list[str]]:
    """Add a model's file to the folder. Returns its entry of `site.json`, and notes for the user."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        path = Path(temporary) / "model.onnx"
        if where.suffix == ".onnx":
            if quant is not None:
                raise UsageError(f"--quant does not apply: {where.name} is copied into the page")
            path.write_bytes(files.read_bytes(where))
            notes: list[str] = []
        else:
            notes = _convert(where, quant, path, progress)
        described = inspect.describe(path)
        config, metadata = described["config"], described["metadata"]
        if metadata.get("edgekit.graph") != "fused":
            raise CheckpointError(
                f"{where.name} does not have a fused graph: convert it with edgekit convert --to onnx"
            )
        if metadata.get("edgekit.kv_cache", "f32") != "f32":
            raise CheckpointError(
                f"{where.name} has an int8 KV cache, but pages need float32: convert it with --kv-cache f32"
            )
        carried = embedded.files_in_texts(base.describe("onnx", path)[0], where)
        tokenizer = _tokenizer(carried, config["vocab_size"], where)
        strings, why_not = _chat(carried, tokenizer)
        about = [f"{where.name}: {note}" for note in (why_not, _left_out(carried)) if note]
        notes += [note for note in (*caveats(carried), *about) if note not in notes]
        kind = metadata["edgekit.quant"]
        name = re.sub(r"[^\w.-]+", "-", where.stem.removesuffix(f"-{kind}") if where.is_file() else model_name(where))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:10]
        file = f"models/{name}-{kind}-{digest}.onnx"
        size = path.stat().st_size
        shutil.move(path, folder / file)
    entry = {
        "id": f"{name}-{kind}", "name": f"{name} ({kind})", "file": file, "format": f"onnx {kind}", "bytes": size,
        "parameters": described["parameters"]["total"], "context_length": config["max_position_embeddings"],
        "vocab_size": config["vocab_size"], "defaults": _defaults(carried), "chat": strings,
    }  # fmt: skip
    return entry, notes


def _convert(where: Path, quant: str | None, path: Path, progress: Progress) -> list[str]:
    """Write a verified model as one of `QUANTS`; None: fp16, or int8 if that is over `LIMIT`. Returns notes."""
    kind = quant or "fp16"
    if kind != "int8":
        converted = converting.convert(
            where, "onnx", path, settings=Converting(quant=kind), force=True, progress=progress
        )
        if quant is not None or path.stat().st_size <= LIMIT:
            return [note for note in converted.notes if "--graph portable" not in note]
    from edgekit.conversion import receipt

    module, settings = base.converter("onnx"), Converting(quant="fp16")
    if not isinstance(module, base.StoresRows):
        raise SettingError("the onnx converter cannot store int8 rows")
    if kind == "int8":
        converting.convert(where, "onnx", path, settings=settings, force=True, verify=False, progress=progress)
    module.shrink(path, "int8_rows")
    checkpoint = open_model(where)
    measured, note, *_ = receipt.build(checkpoint, path, Path(f"{checkpoint.name}-int8_rows.onnx"), "onnx",
                              dataclasses.replace(settings, quant="int8_rows"))  # fmt: skip
    if measured:
        receipt.attach(path, measured, module)
    return [note] if note else []


def _tokenizer(carried: dict[str, bytes], vocab_size: int, where: Path) -> Tokenizer:
    from edgekit.tokenizers.tokenmonster.tokenizer import TokenMonsterTokenizer

    tokenizer = from_files(carried, vocab_size)
    if not isinstance(tokenizer, TokenMonsterTokenizer):
        raise VocabularyError(
            f"{where.name} does not have a TokenMonster tokenizer, the only kind that a page supports"
        )
    return tokenizer


def _chat(carried: dict[str, bytes], tokenizer: Tokenizer) -> tuple[dict[str, Any] | None, str]:
    """The entry `chat` of `site.json`: the strings of the model's template; or None and why there are none."""
    try:
        template = chat.from_files(carried)
        if template is None:
            return None, ""
        with contextlib.closing(template):
            return {**chat_strings.strings_of(template), "ends": sorted(template.turn_ends(tokenizer))}, ""
    except EdgekitError as error:
        return None, f"no chat on the page: {error}"


def _left_out(carried: dict[str, bytes]) -> str:
    """The model's own settings that a page does not have."""
    config = generation_config(carried)
    named = ", ".join(name for name in RULES if config.get(name))
    return f"settings of the model that the page does not apply: {named}" if named else ""


def _defaults(carried: dict[str, bytes]) -> dict[str, Any]:
    values = defaults(carried)
    return {name: getattr(values, name) for name in SETTINGS}


# -----------------------------------------------------------------------------
# the folder


def _write(folder: Path, models: list[dict[str, Any]], ort: npm.Assets) -> None:
    for page in sorted(PAGES.rglob("*")):
        if page.is_file() and page.name not in REPLACED:
            target = folder / page.relative_to(PAGES)
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(page.read_bytes())
    (folder / "engine.js").write_text(ENGINE, encoding="utf-8")
    for name, data in ort.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    _json(folder / "site.json", {"models": models, "runtimes": ort.runtimes})
    assets = [model["file"] for model in models] + [str(one["wasm"]) for one in ort.runtimes.values()]
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    shell = [path for path in paths if path not in assets and Path(path).name not in NOT_FETCHED]
    version = hashlib.sha256()
    for path in shell:
        version.update(f"{path}\0".encode() + hashlib.sha256((folder / path).read_bytes()).digest())
    # The start page is requested as "./"; index.html would be the same bytes again.
    shell[shell.index("index.html")] = "./"
    site = {"version": version.hexdigest()[:12], "shell": shell, "assets": assets}
    worker = (PAGES / "sw.js").read_text(encoding="utf-8")
    if worker.count(SITE) != 1:
        raise FileError("the playground's pages are damaged: install edgekit again")
    start = worker.index(SITE)
    end = worker.index("\n", start)
    (folder / "sw.js").write_text(worker[:start] + f"const SITE = {json.dumps(site)};" + worker[end:], encoding="utf-8")


def _json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def _summed(out: Path, folder: Path, models: list[dict[str, Any]], ort: npm.Assets, notes: list[str]) -> Exported:
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    later = {model["file"] for model in models[1:]} | {str(r["wasm"]) for n, r in ort.runtimes.items() if n != "wasm"}
    first = sum(size for name, size in sizes.items() if name not in later)
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
