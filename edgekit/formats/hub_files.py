"""Which files of a repository on the Hub make a model: never a pickle or code, and the weights once."""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from edgekit.errors import CheckpointError
from edgekit.formats.folder import INDEX, WEIGHTS

SIDE = ("*.json", "*.jinja", "*.vocab", "merges.txt", "tokenizer.model")
"""Configuration and tokenizer, next to the weights."""
OTHERS = ("*.index.json", "trainer_state.json", "all_results.json", "train_results.json", "eval_results.json")
"""JSON that describes other weights, or the training."""
TEMPLATES = "additional_chat_templates/*.jinja"

DEFAULT_TYPES = ("q4_k_m", "q8_0")
"""What llama.cpp's `-hf` takes of a repository where no type is named; then the first file."""
ACCESSORIES = ("mmproj", "imatrix", "mtp-", "eagle3-", "dflash-", "dspark-")
"""A GGUF with one of these in its name is not a model of its own, as llama.cpp has it."""
SPLIT = re.compile(r"-\d{5}-of-(\d{5})\.gguf$", re.IGNORECASE)


class Selection(NamedTuple):
    """What to download."""

    files: list[str]
    """The weights last, so that an interrupted download never looks complete."""
    model: str
    """The file that is the model; "" if the folder is."""
    note: str = ""
    """How the file was chosen where several fit."""
    indexed: bool = False
    """Whether the weights are those that `INDEX` names, which has to be read first."""


def select(repository: str, files: Sequence[str], *, type: str | None = None, file: str | None = None) -> Selection:
    """Choose from a repository's files: a named file, a GGUF by its type, or what the repository is for.

    Without a type or file that is the folder if it has safetensors; otherwise the GGUF that llama.cpp would take;
    otherwise `onnx/model.onnx`, or the only .onnx; otherwise the configuration alone.

    Args:
        type: such as "q4_0", in upper or lower case.
        file: path of a `.gguf` or `.onnx` in the repository.

    Raises:
        CheckpointError: nothing fits; the message lists what is there.
    """
    if file is not None:
        if file not in files:
            raise CheckpointError(f"{repository} has no {file}{_there(files)}")
        return _whole_gguf(repository, [file]) if file.endswith(".gguf") else _onnx(files, file)
    models = sorted(name for name in files if _is_model(name))
    if type is not None:
        if not (matching := [name for name in models if _has_type(name, type)]):
            raise CheckpointError(f"{repository} has no GGUF of type {type}{_there(files)}")
        return _whole_gguf(repository, matching)
    if weights := [name for name in files if "/" not in name and name.endswith(".safetensors")]:
        side = side_files(files)
        if INDEX in files:
            return Selection([*side, INDEX], "", indexed=True)
        return Selection([*side, *([WEIGHTS] if WEIGHTS in weights else weights)], "")
    if models:
        for usual in DEFAULT_TYPES:
            if matching := [name for name in models if _has_type(name, usual)]:
                return _whole_gguf(repository, matching, f"{repository} has {len(models)} GGUF files; name a type to "
                                   "choose another" if len(models) > 1 else "")  # fmt: skip
        return _whole_gguf(repository, models)
    if graphs := sorted(name for name in files if name.endswith(".onnx")):
        usual = "onnx/model.onnx" if "onnx/model.onnx" in graphs else graphs[0]
        if len(graphs) > 1 and usual != "onnx/model.onnx":
            named = f"{repository}/{graphs[0]}"
            raise CheckpointError(f"{repository} has several .onnx, so name one, as in {named}{_there(files)}")
        return _onnx(files, usual)
    if not (side := side_files(files)):
        raise CheckpointError(f"{repository} has no model that edgekit reads: no .safetensors, .gguf or .onnx")
    pickles = [name for name in files if fnmatchcase(name, "*.bin") or fnmatchcase(name, "*.pt*")]
    why = f": of its weights there are only pickles ({_some(pickles)}), which can run any code" if pickles else ""
    return Selection(side, "", f"{repository} has no .safetensors{why}")


def side_files(files: Sequence[str], folder: str = "") -> list[str]:
    """The configuration and the tokenizer in a folder of the repository ("" or "name/"), `config.json` first."""
    names = [name.removeprefix(folder) for name in files if name.startswith(folder)]
    found = [
        name
        for name in names
        if fnmatchcase(name, TEMPLATES)
        or ("/" not in name and any(fnmatchcase(name, pattern) for pattern in SIDE)
            and not any(fnmatchcase(name, pattern) for pattern in OTHERS))
    ]  # fmt: skip
    return [folder + name for name in sorted(found, key=lambda name: (name != "config.json", name))]


def _is_model(name: str) -> bool:
    base = name.rpartition("/")[2]
    return name.lower().endswith(".gguf") and not any(part in base for part in ACCESSORIES)


def _has_type(name: str, type: str) -> bool:
    """`q4_0` in `NAME-Q4_0.gguf`. llama.cpp's rule, but `f16` is not found in `bf16`."""
    return re.search(rf"(?<![a-z0-9]){re.escape(type)}[.-]", name, re.IGNORECASE) is not None


def _whole_gguf(repository: str, matching: Sequence[str], note: str = "") -> Selection:
    """The first of the files that is not a part of one."""
    whole = [name for name in matching if not SPLIT.search(name)]
    if not whole:
        parts = SPLIT.search(matching[0])
        count = int(parts[1]) if parts else 0
        raise CheckpointError(
            f"{repository}: {matching[0]} is one of {count} parts, and edgekit reads whole files only: download them "
            "and join them with `llama-gguf-split --merge`"
        )
    if len(whole) > 1 and not note:
        note = f"{len(whole)} files of {repository} fit: {_some(whole)}; the first is taken"
    elif note:
        note = f"{note}; taken is {whole[0]}"
    return Selection([whole[0]], whole[0], note)


def _onnx(files: Sequence[str], model: str) -> Selection:
    """A graph, its external weights (`model.onnx_data`, `model.onnx_data_1`, `model.onnx.data`) and what is next to it.

    transformers.js keeps the graphs in a folder `onnx` and the rest above it; see `formats.onnx.files_of`.
    """
    folder, slash, _ = model.rpartition("/")
    side = side_files(files, folder + slash)
    above = folder.removesuffix("onnx")
    if folder.rpartition("/")[2] == "onnx" and f"{folder}/config.json" not in files:
        side += side_files(files, above)
    data = [name for name in files if re.fullmatch(re.escape(model) + r"[._]data(_\d+)?", name)]
    return Selection([*side, *data, model], model)


def _there(files: Sequence[str]) -> str:
    """The models in a repository, for a message."""
    models = sorted(name for name in files if name.lower().endswith((".gguf", ".onnx", ".safetensors")))
    return f": it has {_some(models)}" if models else ": it has no .gguf, .onnx or .safetensors"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
