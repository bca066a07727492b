"""A Hugging Face Llama folder, read with numpy and safetensors alone, and checked.

A checkpoint that loads silently and generates nonsense is the worst outcome. Every key of the configuration is
therefore either understood or refused by name (`llama_config.py`), and every tensor must exist, have the right shape
and be finite.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from numpy.typing import NDArray

from edgekit.errors import CheckpointError, FileError
from edgekit.formats import embedded
from edgekit.formats.hub_cache import model_name
from edgekit.formats.llama_config import (
    KINDS,
    MISTRAL,
    MOST_LAYERS,
    MOST_ROWS,
    MUST_BE,
    LlamaConfig,
    unknown_keys,
    unsupported,
)
from edgekit.utils.files import read_bytes

__all__ = [
    "DEFAULT_TEMPLATE", "INDEX", "KINDS", "MISTRAL", "MOST_LAYERS", "MUST_BE", "WEIGHTS", "Checkpoint", "LlamaConfig",
    "full_name", "open_folder", "read_safetensors", "shards_of", "side_files", "unknown_keys", "unsupported",
    "widen_bfloat16", "without_prefix",
]  # fmt: skip

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
DEFAULT_TEMPLATE = "additional_chat_templates/default.jinja"

# Rows of a vocabulary that are always accepted: they cost nothing, and shapes are compared one by one afterwards.
FEW_ROWS = 1 << 16

# What training wrappers put before a tensor's name (DistributedDataParallel, torch.compile).
PREFIXES = ("module.", "_orig_mod.")


@dataclass
class Checkpoint:
    """A whole model in memory: configuration, tensors and the other files.

    `tensors` maps each name of `config.shapes()` to an array of float32 or float16 (BF16 is widened to float32,
    losslessly); `dtypes` has the type in the file: "F32", "F16" or "BF16". `notes` are messages for the user.
    """

    name: str
    config: LlamaConfig
    tensors: dict[str, NDArray]
    dtypes: dict[str, str]
    files: dict[str, bytes]
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        _check(self)

    def float32(self, name: str) -> NDArray[np.float32]:
        """One tensor widened to float32, C order."""
        return np.ascontiguousarray(self.tensors[name], dtype=np.float32)

    def __iter__(self) -> Iterator[tuple[str, NDArray]]:
        return iter(self.tensors.items())

    @cached_property
    def sha256(self) -> str:
        """Over everything that a conversion can depend on: tensors in order, and the other files."""
        digest = hashlib.sha256()
        for name in self.config.shapes():
            digest.update(f"{name} {self.dtypes[name]}\0".encode())
            digest.update(np.ascontiguousarray(self.tensors[name]).data)
        for name in sorted(self.files):
            digest.update(f"\0{name}\0".encode())
            digest.update(self.files[name])
        return digest.hexdigest()


def open_folder(path: Path) -> Checkpoint:
    """Read a Hugging Face folder: `config.json` and safetensors, one file or sharded.

    Raises:
        FileError: a file cannot be read.
        CheckpointError: not a Llama that edgekit supports, counts that exceed the tensors, or a missing, unexpected,
            misshapen, non-finite or unreadable tensor; the message names it.
    """
    path = Path(path)
    if not path.is_dir():
        raise CheckpointError(f"{path} is not a folder" if path.exists() else f"{path} does not exist")
    if not (path / "config.json").is_file():
        raise CheckpointError(f"{path} has no config.json: a model folder holds config.json and {WEIGHTS}")
    files = side_files(path)
    config = LlamaConfig.from_dict(_json(files["config.json"], path / "config.json"), path / "config.json")
    tensors, dtypes = {}, {}
    for shard in _shards(path):
        for name, tensor, dtype in read_safetensors(shard):
            name = full_name(name)
            if name in tensors:
                raise CheckpointError(f"{shard}: tensor {name} occurs twice")
            tensors[name], dtypes[name] = tensor, dtype
    return Checkpoint(model_name(path), config, tensors, dtypes, files)


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
    shapes: list[tuple[int, ...]] = []
    try:
        for shard in _shards(path):
            with safetensors.safe_open(shard, framework="numpy") as file:
                names = file.keys()
                shapes += [tuple(file.get_slice(name).get_shape()) for name in names]
    except (FileError, safetensors.SafetensorError, OSError):
        return []
    return shapes


def read_safetensors(path: Path) -> Iterator[tuple[str, NDArray, str]]:
    """(name, array, dtype) of each tensor in one file; BF16 comes widened to float32.

    Raises `CheckpointError` for a damaged file, or a type that is not a float of 16 or 32 bits.
    """
    try:
        entries = safetensors.deserialize(read_bytes(path))
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path} is not a whole safetensors file: {error}") from error
    for name, entry in entries:
        kind, data = entry["dtype"], entry["data"]
        if kind == "F32":
            array: NDArray = np.frombuffer(data, np.float32)
        elif kind == "F16":
            array = np.frombuffer(data, np.float16)
        elif kind == "BF16":
            array = widen_bfloat16(np.frombuffer(data, np.uint16))
        else:
            raise CheckpointError(f"{path}: tensor {name} is {kind}; edgekit reads F32, F16 and BF16")
        yield name, array.reshape(entry["shape"]), kind


def widen_bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """bfloat16 as float32, of which it is the upper half. numpy has no such type, and neither has safetensors.numpy."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def shards_of(index: Path) -> list[str]:
    """The files that an index of weights names, sorted. Raises `FileError`, `CheckpointError`."""
    names = _json(read_bytes(index), index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(v, str) for v in names.values()):
        raise CheckpointError(f"{index}: weight_map is missing or not a table of file names")
    return sorted(set(names.values()))


def _shards(path: Path) -> list[Path]:
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


def _check(checkpoint: Checkpoint) -> None:
    """Check the tensors against the configuration; drops known redundant ones. Raises `CheckpointError`."""
    where, tensors = checkpoint.name, checkpoint.tensors
    for name in [n for n in tensors if n.endswith("rotary_emb.inv_freq")]:
        del tensors[name]  # written by old transformers, computed from rope_theta ever since
    if checkpoint.config.tie_word_embeddings and "lm_head.weight" in tensors:
        if "model.embed_tokens.weight" not in tensors:  # safetensors' save_model keeps one name of a shared tensor
            tensors["model.embed_tokens.weight"] = tensors["lm_head.weight"]
            checkpoint.dtypes["model.embed_tokens.weight"] = checkpoint.dtypes["lm_head.weight"]
        head, embedding = tensors.pop("lm_head.weight"), tensors.get("model.embed_tokens.weight")
        if embedding is not None and not np.array_equal(head, embedding):
            raise CheckpointError(
                f"{where}: lm_head.weight differs from model.embed_tokens.weight, but the configuration ties them "
                "(set tie_word_embeddings to false)"
            )
    if (layers := checkpoint.config.num_hidden_layers) > len(tensors):  # before their names are built
        raise CheckpointError(f"{where}: num_hidden_layers is {layers}, but there are {len(tensors)} tensors")
    shapes = checkpoint.config.shapes()
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
        if not np.isfinite(tensors[name]).all():
            count = int((~np.isfinite(tensors[name])).sum())
            raise CheckpointError(f"{where}: tensor {name} has {count} values that are NaN or infinite")


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
