"""The plugin registry: a plugin folder is a package, its files are the plugins, and only `load` imports one.

`names("runtimes")` lists without importing, so a help text may call it. `load("runtimes", "onnx")` imports
`edgekit.runtimes.onnx`; a package that the file needs and that is not installed becomes one line that says how to
install it. `for_path` leads from a file or model folder to the plugin that opens or writes such a file.
"""

import functools
import importlib
import importlib.util
import pkgutil
import re
from pathlib import Path
from types import ModuleType

from edgekit.errors import CheckpointError, MissingExtraError, UnknownPluginError

DISTRIBUTION = "edgekit-lm"
"""What pip installs. The import and the command are `edgekit`, which on PyPI is another project's name."""

# What users type for a name that cannot be a file name.
ALIASES = {"llama.cpp": "llamacpp", "llama-cpp": "llamacpp", "pytorch": "torch", "onnxruntime": "onnx", "ort": "onnx"}

# A runtime's extra has the runtime's name; a converter's is named after the package it needs.
EXTRAS = {
    ("converters", "optimum"): "export",
    ("runtimes", "torch_reference"): "torch",
}

PLUGIN_FOLDERS = ("runtimes", "converters", "training")


def names(folder: str) -> list[str]:
    """The plugins of a folder, sorted: its files without `.py`. Files that start with `_` are their helpers."""
    spec = importlib.util.find_spec(f"edgekit.{folder}")
    places = list(spec.submodule_search_locations or []) if spec else []
    return sorted(m.name for m in pkgutil.iter_modules(places) if not m.name.startswith("_"))


def extra(folder: str, name: str) -> str:
    """The name of the pip extra that installs what `folder/name.py` imports."""
    if folder == "training":
        return "train"
    return EXTRAS.get((folder, name), name)


def install_command(extra: str) -> str:
    """The pip command that installs an extra of edgekit."""
    return f"pip install '{DISTRIBUTION}[{extra}]'"


def load(folder: str, name: str) -> ModuleType:
    """Import one plugin.

    Raises:
        UnknownPluginError: no such plugin; the message lists those there are.
        MissingExtraError: the plugin imports a package that is not installed.
    """
    name = ALIASES.get(name, name)
    if not name.startswith("_") and name not in names(folder):
        raise UnknownPluginError(f"unknown {folder.rstrip('s')} {name!r}: choose from {', '.join(names(folder))}")
    try:
        return importlib.import_module(f"edgekit.{folder}.{name}")
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        if missing in ("", "edgekit"):
            raise  # a file of edgekit is missing or misspelt: a bug, not a missing extra
        plugin = name.lstrip("_")
        command = install_command(extra(folder, plugin))
        what = folder if folder == "training" else plugin
        raise MissingExtraError(f"{what} needs {missing}, which is not installed: {command}") from error


def name_of(thing: object) -> str:
    """The name of the plugin that an object's class comes from: "onnx", also for a class in its `_onnx_fused.py`."""
    return type(thing).__module__.rpartition(".")[2].lstrip("_").partition("_")[0]


def suffix(folder: str, name: str) -> str:
    """The file suffix that a converter writes or a runtime opens; "" for a model folder.

    It is the plugin's own `SUFFIX = "..."` line, read as text: matching a path must not import a backend.
    """
    line = re.search(r'^SUFFIX(?:: str)? = "([^"]*)"', _source(folder, name), re.MULTILINE)
    return line.group(1) if line else ""


def opens(folder: str, name: str, path: Path) -> bool:
    """Whether a runtime opens this file or folder as it is, or a converter reads it back: by its `SUFFIX`, or those of
    `ALSO_OPENS = (...)`."""
    line = re.search(r"^ALSO_OPENS = \((.*)\)$", _source(folder, name), re.MULTILINE)
    more = re.findall(r'"([^"]*)"', line.group(1)) if line else []
    kind = "" if path.is_dir() else path.suffix
    return kind in (suffix(folder, name), *more) and (kind != "" or path.is_dir())


@functools.cache
def _source(folder: str, name: str) -> str:
    spec = importlib.util.find_spec(f"edgekit.{folder}.{ALIASES.get(name, name)}")
    return Path(spec.origin).read_text(encoding="utf-8") if spec and spec.origin else ""


def for_suffix(folder: str, suffix_: str) -> str | None:
    """The plugin for files with this suffix ("" for model folders); None if there is none."""
    return next((name for name in names(folder) if suffix(folder, name) == suffix_), None)


def for_path(folder: str, path: Path) -> str:
    """The plugin that opens this file or model folder as it is, or (of a converter) writes that kind.

    Raises:
        CheckpointError: no plugin of this folder does.
    """
    kind = "" if path.is_dir() else path.suffix
    name = for_suffix(folder, kind) if kind or path.is_dir() else None
    if name is None:
        raise CheckpointError(f"{path} is not a model edgekit can open: give a model folder, a .gguf or a .onnx")
    return name
