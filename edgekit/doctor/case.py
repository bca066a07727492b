"""A model opened for the doctor, tolerantly, so that one fault does not hide the next.

`edgekit.formats.checkpoint` stops at the first problem, as a loader must. Here each part is read separately, what
cannot be read is left out and reported in `trouble`, and weights are mapped, not loaded (except for `.onnx` files).
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from edgekit.doctor import onnx_file, tensors
from edgekit.doctor.finding import Finding, error
from edgekit.doctor.onnx_file import OnnxFile
from edgekit.doctor.tensors import Safetensors, Tensor
from edgekit.errors import CheckpointError, EdgekitError, FileError
from edgekit.formats import embedded
from edgekit.formats.checkpoint import DEFAULT_TEMPLATE, INDEX, KINDS, MOST_LAYERS, WEIGHTS, LlamaConfig, full_name
from edgekit.formats.embedded import FILES
from edgekit.formats.gguf import MOST_STRINGS, GGUFFile
from edgekit.formats.gguf_config import KNOWN, config_from_keys, llama_config
from edgekit.formats.gguf_tensors import file_shapes
from edgekit.formats.hub_cache import model_name
from edgekit.formats.onnx import files_of
from edgekit.formats.rope import read_rope
from edgekit.tokenizers.base import Tokenizer
from edgekit.tokenizers.load import from_files
from edgekit.utils import registry
from edgekit.utils.files import open_regular, os_reason, read_bytes

NEW_COPY = "download the file again, or convert the model again"


@dataclass
class Case:
    """Everything that is known about a model; any part of it may be missing."""

    path: Path
    kind: str
    """folder, gguf or onnx."""
    files: dict[str, bytes] = field(default_factory=dict)
    """By name, the files other than weights in a folder, or embedded in an artefact."""
    tensors: dict[str, Tensor] = field(default_factory=dict)
    """By name; those of a folder without the prefixes of training wrappers."""
    trouble: list[Finding] = field(default_factory=list)
    """Findings from opening it."""
    shards: dict[str, Safetensors] = field(default_factory=dict)
    """The weight files of a folder that edgekit would read."""
    twice: list[str] = field(default_factory=list)
    """Names that are in two of them."""
    gguf: GGUFFile | None = None
    onnx: OnnxFile | None = None

    @property
    def name(self) -> str:
        return model_name(self.path)

    @property
    def format(self) -> str:
        return {"folder": "Hugging Face folder", "gguf": "GGUF", "onnx": "ONNX"}[self.kind]

    def json(self, name: str) -> dict[str, Any]:
        """One of the JSON files; empty if it is missing or not a JSON object."""
        try:
            value = json.loads(self.files.get(name, b"{}"))
        except (ValueError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}

    @cached_property
    def config(self) -> dict[str, Any]:
        return self.json("config.json")

    @cached_property
    def generation(self) -> dict[str, Any]:
        return self.json("generation_config.json")

    @cached_property
    def tokenizer_config(self) -> dict[str, Any]:
        return self.json("tokenizer_config.json")

    @cached_property
    def keys(self) -> Mapping[str, Any]:
        """The metadata of a GGUF or ONNX file (there all values are text); empty for a folder."""
        if self.gguf is not None:
            return self.gguf.metadata
        return dict(self.onnx.metadata) if self.onnx is not None else {}

    @property
    def refusal(self) -> str:
        """Why edgekit refuses the configuration; "" if it accepts it, or there is none."""
        try:
            if self.gguf is not None:
                llama_config(self.gguf)
            elif self.config:
                LlamaConfig.from_dict(self.config)
        except CheckpointError as reason:
            return str(reason).removeprefix(f"{self.path}: ")
        return ""

    @cached_property
    def shape(self) -> LlamaConfig | None:
        """The numbers of the Llama if they can be understood, whatever else the configuration contains."""
        try:
            if self.gguf is not None:
                known = {k: v for k, v in self.keys.items() if not k.startswith("llama.") or k[6:] in KNOWN}
                if not self.refusal:
                    return llama_config(self.gguf)
                known["general.architecture"] = "llama"
                known |= {"llama.rope.scaling.type": "none"}
                known = {k: v for k, v in known.items() if not k.endswith("_token_id")}
                return config_from_keys(known, self.gguf.tensors, self.path)
            config = LlamaConfig.from_dict(_plain(self.config))
        except CheckpointError:
            return None
        # Nothing may be allocated for layers that only a damaged number claims.
        return dataclasses.replace(config, num_hidden_layers=min(config.num_hidden_layers, MOST_LAYERS))

    @cached_property
    def expected(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors that the configuration requires, by the file's own names; empty if unknown."""
        if self.shape is None or self.kind == "onnx":
            return {}
        if self.kind == "gguf":
            return file_shapes(self.shape)
        return self.shape.shapes()

    @cached_property
    def rows(self) -> int | None:
        """Rows of the embedding, the number of the model's ids. None if a damaged number claims too many."""
        table = self.tensors.get("model.embed_tokens.weight") if self.kind == "folder" else None
        rows = self.shape.vocab_size if self.shape else 0
        if table is not None and table.raw is not None and len(table.shape) == 2:
            rows = table.shape[0]
        return rows if 0 < rows <= MOST_STRINGS else None

    @cached_property
    def head(self) -> tuple[Tensor | None, Tensor | None]:
        """The embedding and the stored head."""
        names = ("token_embd.weight", "output.weight")
        if self.kind != "gguf":
            names = ("model.embed_tokens.weight", "lm_head.weight")
        return self.tensors.get(names[0]), self.tensors.get(names[1])

    @cached_property
    def _tokenizer(self) -> tuple[Tokenizer | None, str]:
        if self.rows is None or not any(name in self.files for name in FILES):
            return None, ""
        try:
            return from_files(self.files, self.rows), ""
        except EdgekitError as reason:
            return None, str(reason)

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The model's own tokenizer, if it has one that edgekit can read."""
        return self._tokenizer[0]

    @property
    def tokenizer_refusal(self) -> str:
        return self._tokenizer[1]

    def ids(self, key: str, *names: str) -> dict[str, list[int]]:
        """File -> ids under a key such as `eos_token_id`, for the files that have it."""
        declared = {}
        for name in names or ("config.json", "generation_config.json", "tokenizer_config.json"):
            value = self.json(name).get(key)
            listed = value if isinstance(value, list) else [value]
            ids = [id for id in listed if isinstance(id, int) and not isinstance(id, bool) and id >= 0]
            if ids:
                declared[name] = ids
        return declared


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without unsupported keys: only the numbers of a Llama."""
    plain = {k: v for k, v in values.items() if k in LlamaConfig.__dataclass_fields__ and not k.endswith("_token_id")}
    kind = values.get("model_type") if values.get("model_type") in KINDS else "llama"
    plain |= {"model_type": kind, "sliding_window": None, "share_embedding": values.get("share_embedding")}
    try:
        theta, scaling = read_rope(dict(values), "config.json")
    except CheckpointError:
        parameters = values.get("rope_parameters")
        inner = parameters.get("rope_theta") if isinstance(parameters, dict) else None
        theta, scaling = values.get("rope_theta") if inner is None else inner, None
    plain |= {"rope_theta": theta, "rope_scaling": None if scaling is None else scaling.to_dict()}
    return plain


def open_case(path: Path) -> Case:
    """Open a model folder, a `.gguf` or a `.onnx`.

    Raises:
        CheckpointError: `path` is none of these.
        FileError: the system cannot read it.
        MissingExtraError: a `.onnx` without the package `onnx`.
    """
    path = Path(path)
    return {"hf": _folder, "gguf": _gguf, "onnx": _onnx}[registry.for_path("converters", path)](path)


def _folder(path: Path) -> Case:
    case = Case(path, "folder")
    for name in embedded.CARRIED:
        if (path / name).is_file():
            case.files[name] = read_bytes(path / name)
    if (path / DEFAULT_TEMPLATE).is_file():  # as `side_files`
        case.files["chat_template.jinja"] = read_bytes(path / DEFAULT_TEMPLATE)
    usual, vocab = "tokenmonster.vocab", case.tokenizer_config.get("vocab_file")
    # As `formats.checkpoint.side_files`: a TokenMonster vocabulary may have any name.
    if isinstance(vocab, str) and vocab != usual and Path(vocab).name == vocab and (path / vocab).is_file():
        case.files[usual] = read_bytes(path / vocab)
        case.files["tokenizer_config.json"] = json.dumps(case.tokenizer_config | {"vocab_file": usual}).encode()
        del case.tokenizer_config
    for name in weight_files(path):
        try:
            shard = case.shards[name] = tensors.safetensors(path / name)
        except OSError as reason:
            case.trouble.append(
                error(f"{name} cannot be read: {os_reason(reason)}", "edgekit refuses the folder", "check the file")
            )
            continue
        for tensor in shard.tensors:
            tensor.stored, tensor.name = tensor.name, full_name(tensor.name)
            if tensor.name in case.tensors:
                case.twice.append(tensor.name)
            case.tensors.setdefault(tensor.name, tensor)
    head, table = "lm_head.weight", "model.embed_tokens.weight"
    if case.shape is not None and case.shape.tie_word_embeddings and head in case.tensors and table not in case.tensors:
        case.tensors[table] = case.tensors.pop(head)  # as `Checkpoint` reads it; `stored` has the name in the file
        case.tensors[table].name = table
    return case


def weight_files(path: Path) -> list[str]:
    """The existing safetensors files that edgekit would read, as `formats.checkpoint` chooses them."""
    if (path / INDEX).is_file():
        index = weight_map(path)
        return [name for name in sorted(set(index.values())) if Path(name).name == name and (path / name).is_file()]
    if (path / WEIGHTS).is_file():
        return [WEIGHTS]
    single = sorted(p.name for p in path.glob("*.safetensors"))
    return single if len(single) == 1 and not single[0].startswith("adapter") else []


def weight_map(path: Path) -> dict[str, str]:
    """Tensor -> file, from a folder's index; empty if there is none or it is damaged."""
    try:
        table = json.loads((path / INDEX).read_bytes())["weight_map"]
        return {str(k): v for k, v in table.items() if isinstance(v, str)}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}


def _gguf(path: Path) -> Case:
    case = Case(path, "gguf")
    try:
        case.gguf = file = GGUFFile(path)
    except CheckpointError as reason:
        what = str(reason).removeprefix(f"{path}: ")
        if read_head(path).startswith(tensors.LFS):
            what = "it is a Git LFS pointer, not the model"
        case.trouble.append(error(what, "neither edgekit nor llama.cpp loads the file", NEW_COPY))
        return case
    for info in file.tensors.values():
        case.tensors[info.name] = Tensor(info.name, info.shape, info.type, file.data(info.name))
    _carried(case, file.files)
    return case


def _onnx(path: Path) -> Case:
    case = Case(path, "onnx")
    try:
        case.onnx = contents = onnx_file.read(path)
    except CheckpointError as reason:
        what = str(reason).removeprefix(f"{path} ")
        case.trouble.append(error(what, "neither edgekit nor ONNX Runtime loads the file", NEW_COPY))
        return case
    case.tensors = contents.tensors
    _carried(case, lambda: files_of(contents.metadata, path))
    return case


def _carried(case: Case, unpack: Callable[[], dict[str, bytes]]) -> None:
    try:
        case.files = unpack()
    except CheckpointError as reason:
        case.trouble.append(
            error(
                str(reason).removeprefix(f"{case.path}: "),
                "edgekit refuses the artefact, because its tokenizer or configuration has changed; other programs do "
                "not check and use what is there",
                NEW_COPY,
            )
        )


def read_head(path: Path) -> bytes:
    """The first bytes of a file. Raises `FileError`."""
    try:
        with open_regular(path) as file:
            return file.read(64)
    except OSError as reason:
        raise FileError(f"cannot read {path}: {os_reason(reason)}") from reason
