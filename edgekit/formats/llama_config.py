"""A Llama's configuration: which keys of a `config.json` are read, pass, or are refused, and the shapes that follow.

A checkpoint that loads silently and generates nonsense is the worst outcome. Every key is therefore either understood
or refused by name, if it changes what the model computes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgekit.errors import CheckpointError
from edgekit.formats.rope import RopeScaling, read_rope

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


def _token_id(left: dict[str, Any], key: str, where: object) -> int | None:
    ids = _token_ids(left, key, where)
    return ids[0] if ids else None


def _token_ids(left: dict[str, Any], key: str, where: object) -> tuple[int, ...]:
    value = left.pop(key, None)
    ids = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(i, int) and not isinstance(i, bool) for i in ids):
        raise CheckpointError(f"{where}: {key} must be a token id or a list of them, not {value!r}")
    return tuple(i for i in ids if i >= 0)  # some files write -1 for none
