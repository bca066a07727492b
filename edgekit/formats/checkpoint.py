"""A Hugging Face Llama folder, read with numpy and safetensors alone, and checked.

A checkpoint that loads silently and generates nonsense is the worst outcome. Every key of the configuration is
therefore either understood or refused by name, and every tensor must exist, have the right shape and be finite.
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
from edgekit.formats.rope import RopeScaling, read_rope
from edgekit.utils.files import read_bytes

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
DEFAULT_TEMPLATE = "additional_chat_templates/default.jinja"

# Keys that change nothing in what the model computes at inference: bookkeeping, training and generation settings, and
# the configuration of other programs. A key not listed here, in MUST_BE or read in `LlamaConfig.from_dict` is unknown:
# `unknown_keys` lists them.
HARMLESS = frozenset(
    """architectures _name_or_path transformers_version torch_dtype dtype use_cache initializer_range
    attention_dropout tokenizer_class auto_map return_dict output_hidden_states output_attentions torchscript
    use_bfloat16 tf_legacy_loss pruned_heads chunk_size_feed_forward id2label label2id task_specific_params
    problem_type prefix finetuning_task sep_token_id decoder_start_token_id max_length min_length do_sample
    early_stopping num_beams temperature top_k top_p typical_p repetition_penalty length_penalty
    no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids num_return_sequences output_scores
    return_dict_in_generate forced_bos_token_id forced_eos_token_id remove_invalid_values
    exponential_decay_length_penalty suppress_tokens begin_suppress_tokens num_beam_groups diversity_penalty
    unsloth_fixed unsloth_version _attn_implementation_autoset _from_model_config is_llama_config
    transformers.js_config neftune_noise_alpha _attn_implementation attn_implementation _attn_implementation_internal
    _flash_attn_2_enabled _commit_hash _experts_implementation use_flash_attention use_flash_attn use_flash_attention_2
    hidden_dropout resid_pdrop embd_pdrop attn_pdrop residual_dropout embedding_dropout ffn_dropout
    gradient_checkpointing ignore_index pad_token base_model_tp_plan base_model_pp_plan max_window_layers
    rope_original_max_position_embeddings""".split()
)

# Keys that may be present only with the value that switches the feature off.
MUST_BE: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "hidden_activation": ("silu", "swish", None),
    "pretraining_tp": (1, None),
    "is_encoder_decoder": (False,),
    "is_decoder": (False, True),
    "add_cross_attention": (False,),
    "cross_attention_hidden_size": (None,),
    "tie_encoder_decoder": (False,),
    "quantization_config": (None,),
    "partial_rotary_factor": (1, 1.0, None),
    "rotary_pct": (1, 1.0, None),
    "rope_pct": (1, 1.0, None),
    "rope_interleaved": (False, None),
    "use_sliding_window": (False, None),
    "attention_window": (None,),
    "qkv_bias": (False, None),
    "use_qk_norm": (False, None),
    "qk_norm": (False, None),
    "qk_layernorm": (False, None),
    "clip_qkv": (None,),
    "attn_logit_softcapping": (None,),
    "final_logit_softcapping": (None,),
    "embedding_multiplier": (1, 1.0, None),
    "attention_multiplier": (None,),
    "residual_multiplier": (1, 1.0, None),
    "logits_scaling": (1, 1.0, None),
    "logit_scale": (1, 1.0, None),
    "scale_emb": (1, 1.0, None),
    "scale_depth": (None,),
    "dim_model_base": (None,),
    "num_experts": (0, 1, None),
    "num_local_experts": (0, 1, None),
    "alibi": (False, None),
    "use_parallel_residual": (False, None),
    "parallel_attn": (False, None),
    "no_rope_layers": ([], None),
    "layer_sharing": (False, None),
    "cla_share_factor": (1, None),
}

# Architectures that are a Llama under another name, with the defaults of their configuration classes.
# MobileLLM (facebook/MobileLLM-125M): a Llama whose `share_embedding` ties the head.
KINDS = ("llama", "mistral", "mobilellm")
MISTRAL = {"num_key_value_heads": 8, "max_position_embeddings": 4096 * 32, "sliding_window": 4096}

# The most rows of a vocabulary, and layers, that are accepted without weights to check them against; the largest
# published models have a quarter of the one and a thirtieth of the other.
MOST_ROWS, MOST_LAYERS = 1 << 22, 4096
# This many are always accepted: they cost nothing, and shapes are compared one by one afterwards.
FEW_ROWS = 1 << 16

# What training wrappers put before a tensor's name (DistributedDataParallel, torch.compile).
PREFIXES = ("module.", "_orig_mod.")


@dataclass(frozen=True)
class LlamaConfig:
    """The numbers of a Llama, by Hugging Face's names. They determine the shapes: see `shapes`."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    tie_word_embeddings: bool = False
    bos_token_id: int | None = None
    eos_token_id: tuple[int, ...] = ()
    pad_token_id: int | None = None
    rope_scaling: RopeScaling | None = None
    attention_bias: bool = False
    mlp_bias: bool = False

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: object = "config.json") -> "LlamaConfig":
        """Read a `config.json`. Defaults for absent keys are those of transformers' configuration class.

        Unknown keys are ignored; `unknown_keys` lists them.

        Raises:
            CheckpointError: not a Llama, a key that is missing, out of range or not supported.
        """
        left = dict(values)
        kind = left.pop("model_type", None)
        if kind not in KINDS:
            raise CheckpointError(f"{where}: model_type is {kind!r}; edgekit reads `llama` only")
        usual: Mapping[str, Any] = MISTRAL if kind == "mistral" else {}

        def whole(key: str, default: int | None = None, most: int = 2**31 - 1) -> int:
            value = left.pop(key, None)
            value = default if value is None else value
            if value is None:
                raise CheckpointError(f"{where}: {key} is missing")
            if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**31:
                raise CheckpointError(f"{where}: {key} must be a whole number above 0, not {value!r}")
            if value > most:  # lists of this length are built before an artefact's tensors are known
                raise CheckpointError(f"{where}: {key} is {value}, and edgekit accepts {most} at most")
            return value

        def real(key: str, default: float, given: Any = None) -> float:
            value = left.pop(key, None) if given is None else given
            value = default if value is None else value
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e30:
                raise CheckpointError(f"{where}: {key} must be a number above 0, not {value!r}")
            return float(value)

        def flag(key: str) -> bool:
            value = left.pop(key, None)
            if value not in (None, True, False):
                raise CheckpointError(f"{where}: {key} must be true or false, not {value!r}")
            return bool(value)

        theta, scaling = read_rope(left, where)
        heads = whole("num_attention_heads")
        hidden = whole("hidden_size")
        config = cls(
            vocab_size=whole("vocab_size", most=MOST_ROWS),
            hidden_size=hidden,
            intermediate_size=whole("intermediate_size"),
            num_hidden_layers=whole("num_hidden_layers", most=MOST_LAYERS),
            num_attention_heads=heads,
            num_key_value_heads=whole("num_key_value_heads", usual.get("num_key_value_heads", heads)),
            head_dim=whole("head_dim", hidden // heads or 1),
            max_position_embeddings=whole("max_position_embeddings", usual.get("max_position_embeddings", 2048)),
            rms_norm_eps=real("rms_norm_eps", 1e-6),
            rope_theta=real("rope_theta", 10000.0, theta),
            tie_word_embeddings=flag("tie_word_embeddings") | (flag("share_embedding") and kind == "mobilellm"),
            bos_token_id=_token_id(left, "bos_token_id", where),
            eos_token_id=_token_ids(left, "eos_token_id", where),
            pad_token_id=_token_id(left, "pad_token_id", where),
            rope_scaling=scaling,
            attention_bias=flag("attention_bias"),
            mlp_bias=flag("mlp_bias"),
        )
        if "head_dim" not in values and hidden % heads:
            raise CheckpointError(f"{where}: hidden_size {hidden} does not divide by num_attention_heads {heads}")
        if config.head_dim % 2:
            raise CheckpointError(f"{where}: head_dim {config.head_dim} is odd; rotary embeddings need pairs")
        if heads % config.num_key_value_heads:
            raise CheckpointError(
                f"{where}: num_attention_heads {heads} does not divide by num_key_value_heads "
                f"{config.num_key_value_heads}"
            )
        ids = {"bos_token_id": config.bos_token_id, "pad_token_id": config.pad_token_id}
        for key, token in [*ids.items(), *(("eos_token_id", token) for token in config.eos_token_id)]:
            if token is not None and token >= config.vocab_size:
                raise CheckpointError(f"{where}: {key} {token} is outside the vocabulary of {config.vocab_size}")
        if (refused := unsupported(values)) is not None:
            raise CheckpointError(
                f"{where}: {refused} is {values.get(refused, MISTRAL.get(refused))!r}, which edgekit does not support"
            )
        return config

    def to_dict(self) -> dict[str, Any]:
        """A `config.json` that transformers 4 and 5 read."""
        eos: Any = list(self.eos_token_id)
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "attention_bias": self.attention_bias,
            "mlp_bias": self.mlp_bias,
            "hidden_act": "silu",
            "rope_scaling": None if self.rope_scaling is None else self.rope_scaling.to_dict(),
            **{name: getattr(self, name) for name in self.__dataclass_fields__ if name != "rope_scaling"},
            "eos_token_id": None if not eos else eos[0] if len(eos) == 1 else eos,
        }

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor of the model by Hugging Face's name, in file order; `lm_head.weight` only if it is untied."""
        d, ff = self.hidden_size, self.intermediate_size
        q, kv = self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocab_size, d)}
        for i in range(self.num_hidden_layers):
            layer = f"model.layers.{i}."
            weights = {
                layer + "input_layernorm.weight": (d,),
                layer + "self_attn.q_proj.weight": (q, d),
                layer + "self_attn.k_proj.weight": (kv, d),
                layer + "self_attn.v_proj.weight": (kv, d),
                layer + "self_attn.o_proj.weight": (d, q),
                layer + "post_attention_layernorm.weight": (d,),
                layer + "mlp.gate_proj.weight": (ff, d),
                layer + "mlp.up_proj.weight": (ff, d),
                layer + "mlp.down_proj.weight": (d, ff),
            }
            for name, shape in weights.items():
                shapes[name] = shape
                if (self.attention_bias and "self_attn" in name) or (self.mlp_bias and "mlp" in name):
                    shapes[name.removesuffix("weight") + "bias"] = shape[:1]
        shapes["model.norm.weight"] = (d,)
        if not self.tie_word_embeddings:
            shapes["lm_head.weight"] = (self.vocab_size, d)
        return shapes


def unsupported(values: Mapping[str, Any]) -> str | None:
    """The first key of a `config.json` that switches on what edgekit does not support; None if there is none."""
    for key, allowed in MUST_BE.items():
        if key in values and values[key] not in allowed:
            return key
    layers = values.get("layer_types")
    if layers is not None and (not isinstance(layers, list) or set(map(str, layers)) - {"full_attention"}):
        return "layer_types"
    positions = values.get("max_position_embeddings")
    window = values.get("sliding_window")
    if values.get("model_type") == "mistral":
        window = values.get("sliding_window", MISTRAL["sliding_window"])
        positions = positions or MISTRAL["max_position_embeddings"]
    # A window that no text fills is none.
    if window is not None and not (isinstance(window, int) and isinstance(positions, int) and window >= positions):
        return "sliding_window"
    return None


READ = ("rope_parameters", "model_type", "layer_types", "sliding_window", "share_embedding")
"""Keys of a `config.json` that are read, other than the fields of `LlamaConfig`."""


def unknown_keys(values: Mapping[str, Any]) -> list[str]:
    """Keys of a `config.json` of which edgekit cannot tell what they change, in the file's order."""
    return [k for k in values if k not in {*LlamaConfig.__dataclass_fields__, *HARMLESS, *MUST_BE, *READ}]


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


def _token_id(left: dict[str, Any], key: str, where: object) -> int | None:
    ids = _token_ids(left, key, where)
    return ids[0] if ids else None


def _token_ids(left: dict[str, Any], key: str, where: object) -> tuple[int, ...]:
    value = left.pop(key, None)
    ids = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(i, int) and not isinstance(i, bool) for i in ids):
        raise CheckpointError(f"{where}: {key} must be a token id or a list of them, not {value!r}")
    return tuple(i for i in ids if i >= 0)  # some files write -1 for none
