"""A Hugging Face Llama folder before its tensors are read: configuration, other files, and the checked places of the
weights. It needs neither numpy nor safetensors, whose imports would be half of the start of `edgekit run`.

A checkpoint that loads silently and generates nonsense is the worst outcome. Every key of the configuration is
therefore either understood or refused by name (`llama_config.py`), and every tensor must exist and have the right
shape. That its values are finite is checked by those who read them.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from edgekit.errors import CheckpointError, FileError
from edgekit.formats import embedded
from edgekit.formats.hub_cache import model_name
from edgekit.formats.llama_config import MOST_ROWS, LlamaConfig
from edgekit.formats.safetensors import WIDTH, Entry, entries
from edgekit.utils.files import read_bytes

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
DEFAULT_TEMPLATE = "additional_chat_templates/default.jinja"

# Rows of a vocabulary that are always accepted: they cost nothing, and shapes are compared one by one afterwards.
FEW_ROWS = 1 << 16

# What training wrappers put before a tensor's name (DistributedDataParallel, torch.compile).
PREFIXES = ("module.", "_orig_mod.")

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@dataclass
class Folder:
    """A model folder. `entries` has the place of each tensor of `config.shapes()`; all are F32, F16 or BF16."""

    name: str
    config: LlamaConfig
    entries: dict[str, Entry]
    files: dict[str, bytes]


def read_folder(path: Path, same: Callable[[Entry, Entry], bool]) -> Folder:
    """Read `config.json`, the headers of the safetensors, one file or sharded, and the other files.

    Args:
        same: whether two tensors have the same values: asked where a tied head is stored, too.

    Raises:
        FileError: a file cannot be read.
        CheckpointError: not a Llama that edgekit supports, counts that exceed the tensors, or a missing, unexpected,
            misshapen or unreadable tensor; the message names it.
    """
    path = Path(path)
    if not path.is_dir():
        raise CheckpointError(f"{path} is not a folder" if path.exists() else f"{path} does not exist")
    if not (path / "config.json").is_file():
        raise CheckpointError(f"{path} has no config.json: a model folder holds config.json and {WEIGHTS}")
    files = side_files(path)
    config = LlamaConfig.from_dict(_json(files["config.json"], path / "config.json"), path / "config.json")
    tensors: dict[str, Entry] = {}
    for shard in shards(path):
        for entry in entries(shard):
            if entry.dtype not in WIDTH:
                raise CheckpointError(f"{shard}: tensor {entry.name} is {entry.dtype}; edgekit reads F32, F16 and BF16")
            name = full_name(entry.name)
            if name in tensors:
                raise CheckpointError(f"{shard}: tensor {name} occurs twice")
            tensors[name] = entry
    where = model_name(path)
    settle(where, config, tensors, same)
    return Folder(where, config, tensors, files)


def side_files(path: Path) -> dict[str, bytes]:
    """A model's files other than weights: `embedded.CARRIED`, and the vocabulary.

    A TokenMonster vocabulary may have any name, which is `vocab_file` in tokenizer_config.json; here, and in every
    artefact, it is `tokenmonster.vocab`. A chat template called `default` in additional_chat_templates is
    `chat_template.jinja`.

    Raises:
        FileError: a file cannot be read.
        CheckpointError: a file that is not JSON, or a config.json with more layers or vocabulary rows than the tensors
            in the folder can have: callers would allocate them all.
    """
    files = {name: read_bytes(path / name) for name in embedded.CARRIED if (path / name).is_file()}
    if (path / DEFAULT_TEMPLATE).is_file():  # counts before chat_template.jinja in transformers, too
        files["chat_template.jinja"] = read_bytes(path / DEFAULT_TEMPLATE)
    if "config.json" in files:
        _check_counts(path, _json(files["config.json"], path / "config.json"))
    config = _json(files.get("tokenizer_config.json", b"{}"), path / "tokenizer_config.json")
    name, usual = str(config.get("vocab_file") or "tokenmonster.vocab"), "tokenmonster.vocab"
    is_renamed = config.get("tokenizer_type") == "tokenmonster" and name != usual and Path(name).name == name
    if is_renamed and (path / name).is_file():
        files[usual] = read_bytes(path / name)
        files["tokenizer_config.json"] = json.dumps(config | {"vocab_file": usual}, indent=2).encode()
    return files


def _check_counts(path: Path, config: Mapping[str, Any]) -> None:
    """Check the counts of a `config.json` against the headers of the weights, which are read in no time.

    Counts that are a little too large pass: `_check` compares shape by shape, with a better message.
    """
    shapes = _shapes(path)
    rows = max((shape[0] for shape in shapes if len(shape) == 2), default=0)
    limits = {"vocab_size": (MOST_ROWS, f"without weights at most {MOST_ROWS} are accepted")}
    if shapes:
        limits = {
            "num_hidden_layers": (len(shapes), f"the folder holds {len(shapes)} tensors"),
            "vocab_size": (min(max(rows, FEW_ROWS), MOST_ROWS), f"the folder's tensors hold {rows} rows at most"),
        }
    for key, (most, why) in limits.items():
        count = config.get(key)
        if isinstance(count, int) and count > most:
            raise CheckpointError(f"{path / 'config.json'}: {key} is {count}, but {why}")


def _shapes(path: Path) -> list[tuple[int, ...]]:
    """Shapes of all tensors in a folder, by the files' headers.

    None if a file is missing or damaged: that is reported when the tensors are read.
    """
    try:
        return [entry.shape for shard in shards(path) for entry in entries(shard)]
    except (FileError, CheckpointError):
        return []


def shards_of(index: Path) -> list[str]:
    """The files that an index of weights names, sorted. Raises `FileError`, `CheckpointError`."""
    names = _json(read_bytes(index), index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(v, str) for v in names.values()):
        raise CheckpointError(f"{index}: weight_map is missing or not a table of file names")
    return sorted(set(names.values()))


def shards(path: Path) -> list[Path]:
    """The files with a folder's weights. Raises `FileError`, `CheckpointError`."""
    if (path / INDEX).is_file():
        shards = [path / name for name in shards_of(path / INDEX)]
        for shard in shards:
            # A name with a folder in it could refer to any file on the disk.
            if shard.parent != path or not shard.is_file():
                raise CheckpointError(f"{path / INDEX} names {shard.name!r}, which is not in the folder")
        return shards
    if (path / WEIGHTS).is_file():
        return [path / WEIGHTS]
    single = sorted(path.glob("*.safetensors"))
    if len(single) == 1:
        return single
    if any(path.glob("*.bin")) or any(path.glob("*.pt*")):
        raise CheckpointError(
            f"{path} has pickled weights only, which edgekit never loads: save it again with safe_serialization=True"
        )
    raise CheckpointError(f"{path} has no {WEIGHTS}")


class Shaped(Protocol):
    """An array, or the place of one."""

    @property
    def shape(self) -> tuple[int, ...]: ...


T = TypeVar("T", bound=Shaped)


def settle(where: str, config: LlamaConfig, tensors: dict[str, T], same: Callable[[T, T], bool]) -> None:
    """Check the tensors against the configuration; drops known redundant ones. Raises `CheckpointError`."""
    for name in [n for n in tensors if n.endswith("rotary_emb.inv_freq")]:
        del tensors[name]  # written by old transformers, computed from rope_theta ever since
    if config.tie_word_embeddings and HEAD in tensors:
        head = tensors.pop(HEAD)
        # safetensors' save_model keeps one name of a shared tensor
        if not same(head, tensors.setdefault(EMBEDDING, head)):
            raise CheckpointError(
                f"{where}: lm_head.weight differs from model.embed_tokens.weight, but the configuration ties them "
                "(set tie_word_embeddings to false)"
            )
    if (layers := config.num_hidden_layers) > len(tensors):  # before their names are built
        raise CheckpointError(f"{where}: num_hidden_layers is {layers}, but there are {len(tensors)} tensors")
    shapes = config.shapes()
    for name in shapes:
        if name not in tensors:
            raise CheckpointError(f"{where}: tensor {name} is missing")
    for name in tensors:
        if name not in shapes:
            raise CheckpointError(f"{where}: unexpected tensor {name}")
    for name, shape in shapes.items():
        if tensors[name].shape != shape:
            raise CheckpointError(
                f"{where}: tensor {name} has shape {list(tensors[name].shape)}, the configuration wants {list(shape)}"
            )


def without_prefix(name: str) -> str:
    """A tensor's name without what training wrappers put before it."""
    while name.startswith(PREFIXES):
        name = next(name.removeprefix(p) for p in PREFIXES if name.startswith(p))
    return name


def full_name(name: str) -> str:
    """A tensor's name as `LlamaForCausalLM` saves it: without training wrappers, with the `model.` that `LlamaModel`
    leaves out. transformers adds it, too."""
    name = without_prefix(name)
    return "model." + name if name.startswith(("embed_tokens.", "layers.", "norm.")) else name


def _json(data: bytes, where: Path) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{where} is not a JSON object")
    return value
