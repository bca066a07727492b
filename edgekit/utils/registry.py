"""The registry: a room is a folder, what it offers are its files, and only `load` imports one.

`names("runtimes")` lists without importing, so a help text may call it. `load("runtimes", "onnx")` imports
`edgekit.runtimes.onnx`; what that file needs and does not find becomes one line with the cure.
"""

import importlib
import importlib.util
import pkgutil
import re
from pathlib import Path
from types import ModuleType

from edgekit.errors import MissingExtraError, UnknownPluginError

# What people type for a name that cannot be a file name.
ALIASES = {"llama.cpp": "llamacpp", "llama-cpp": "llamacpp", "pytorch": "torch", "onnxruntime": "onnx", "ort": "onnx"}

# A runtime's extra has the runtime's name; a converter's is named for what it brings along.
EXTRAS = {
    ("converters", "onnx_rows"): "onnx",
    ("converters", "optimum"): "export",
    ("runtimes", "torch_reference"): "torch",
}

DISTRIBUTION = "edgekit-lm"
"""What pip installs; the import and the command are `edgekit`, a name that is taken on PyPI."""

PLUGIN_FOLDERS = ("runtimes", "converters", "training")


def names(room: str) -> list[str]:
    """The files of a room without their `.py`, sorted; those that start with `_` are its private helpers."""
    spec = importlib.util.find_spec(f"edgekit.{room}")
    folders = list(spec.submodule_search_locations or []) if spec else []
    return sorted(m.name for m in pkgutil.iter_modules(folders) if not m.name.startswith("_"))


def extra(room: str, name: str) -> str:
    """The name of the pip extra that installs what `room/name.py` imports."""
    if room == "training":
        return "train"
    return EXTRAS.get((room, name), name)


def install_command(extra: str) -> str:
    """The command that installs an extra, for messages."""
    return f"pip install '{DISTRIBUTION}[{extra}]'"


def load(room: str, name: str) -> ModuleType:
    """Import one file of a room.

    Raises:
        UnknownPluginError: no such file; the message lists the files there are.
        MissingExtraError: the file imports a package that is not installed.
    """
    name = ALIASES.get(name, name)
    if not name.startswith("_") and name not in names(room):
        raise UnknownPluginError(f"unknown {room.rstrip('s')} {name!r}: choose from {', '.join(names(room))}")
    try:
        return importlib.import_module(f"edgekit.{room}.{name}")
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        if missing in ("", "edgekit"):
            raise  # a file of ours is missing or misspelt: a bug, not a missing extra
        wanted = extra(room, name.lstrip("_"))
        raise MissingExtraError(
            f"{name.lstrip('_')} needs {missing}, which is not installed: {install_command(wanted)}"
        ) from error


def name_of(thing: object) -> str:
    """The name of the room's file that an object's class comes from: "onnx", also for one in its `_onnx_fused.py`."""
    return type(thing).__module__.rpartition(".")[2].lstrip("_").partition("_")[0]


def suffix(room: str, name: str) -> str:
    """The file suffix that a converter writes or a runtime opens; "" for a model folder.

    It is the file's own `SUFFIX = "..."` line, read as text: to match a path must not import a backend.
    """
    spec = importlib.util.find_spec(f"edgekit.{room}.{ALIASES.get(name, name)}")
    source = Path(spec.origin).read_text(encoding="utf-8") if spec and spec.origin else ""
    found = re.search(r'^SUFFIX(?:: str)? = "([^"]*)"', source, re.MULTILINE)
    return found.group(1) if found else ""
