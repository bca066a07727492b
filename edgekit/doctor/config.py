"""Checks of the configuration: the architecture, its limits, and the generation settings."""

import math
from collections.abc import Iterator
from typing import Any

from edgekit.doctor.case import Case
from edgekit.doctor.checks import check
from edgekit.doctor.finding import Finding, error, note, warning
from edgekit.errors import CheckpointError, EdgekitError
from edgekit.formats.checkpoint import KINDS, MISTRAL, MUST_BE, unknown_keys, unsupported
from edgekit.formats.generation_config import defaults, ignored
from edgekit.formats.gguf_config import KNOWN, OFF
from edgekit.formats.rope import read_rope

REFUSES = "edgekit refuses the model"

# What an unsupported key means, and which programs support it.
UNSUPPORTED = {
    "hidden_act": (
        "another activation than SiLU",
        "transformers computes it; llama.cpp's `llama` architecture always uses SiLU, without a message",
    ),
    "sliding_window": (
        "attention over a sliding window",
        "transformers' Llama and llama.cpp's `llama` architecture ignore it and attend to everything",
    ),
    "quantization_config": (
        "weights that are quantized already",
        "transformers loads them with the package that quantized them; llama.cpp's converter dequantizes some kinds "
        "(gptq, fp8)",
    ),
    "partial_rotary_factor": (
        "rotary embeddings on part of each head",
        "transformers loads the model and fails at the first text; llama.cpp's converter rotates the whole head",
    ),
    "layer_types": (
        "layers that do not attend to everything",
        "transformers' Llama ignores the key and attends to everything",
    ),
    "pretraining_tp": ("matrices computed in parts", "it changes only the rounding: with 1 the model is the same"),
}
SCALED = "transformers and llama.cpp scale the positions; without that the text is nonsense past the original length"

# Defaults of transformers' LlamaConfig for numbers that are missing.
DEFAULTS = {"rms_norm_eps": "1e-6", "max_position_embeddings": "2048"}

GIB = 1 << 30


# -----------------------------------------------------------------------------
# the architecture


@check("folder", "onnx")
def other_architecture(case: Case) -> Iterator[Finding]:
    kind = case.config.get("model_type")
    if case.config and kind not in KINDS:
        yield error(
            f"config.json describes another architecture: model_type {kind!r}",
            f"{REFUSES}, because it runs Llamas only; transformers and llama.cpp may support it",
            "run the model with a program that supports it",
        )


@check("folder")
def class_not_said(case: Case) -> Iterator[Finding]:
    architectures = case.config.get("architectures")
    if case.config.get("model_type") == "llama" and architectures != ["LlamaForCausalLM"]:
        yield warning(
            f"config.json has architectures {architectures!r}, not ['LlamaForCausalLM']",
            "edgekit and transformers use model_type; llama.cpp's converter selects its code by this name and stops "
            "without a known one (`Failed to detect model architecture`)",
            '"architectures": ["LlamaForCausalLM"]',
        )


@check("folder", "onnx")
def unsupported_keys(case: Case) -> Iterator[Finding]:
    config = case.config
    if config.get("model_type") not in KINDS:
        return
    for key in (*MUST_BE, "layer_types", "sliding_window"):
        part = {k: config[k] for k in (key, "max_position_embeddings", "model_type") if k in config}
        if unsupported(part) == key and (key in config or key == unsupported(config)):
            what, others = UNSUPPORTED.get(key, ("not a feature of Llamas", "transformers' Llama ignores it"))
            if config.get("model_type") == "mistral" and key == "sliding_window":
                others = "transformers uses it (4096 if the key is missing); llama.cpp attends to everything"
            required = "null" if key == "sliding_window" else MUST_BE.get(key, ("full_attention",))[0]
            yield error(
                f"config.json has {key} {_short(config.get(key, MISTRAL.get(key)))}: {what}",
                f"{REFUSES}; {others}",
                f"remove the key if the model was not trained with it (edgekit requires {_short(required)})",
            )
    try:
        read_rope(dict(config), "config.json")
    except CheckpointError as reason:
        key = "rope_parameters" if "rope_parameters" in config else "rope_scaling"
        yield error(
            f"config.json has {key} {_short(config.get(key))}: rotary embeddings that edgekit does not have ({reason})",
            f"{REFUSES}; {SCALED}",
            "run the model with transformers or llama.cpp; if it was not trained that way, remove the key",
        )


@check("folder", "onnx")
def keys_not_known(case: Case) -> Iterator[Finding]:
    keys = unknown_keys(case.config) if case.config.get("model_type") in KINDS else []
    if keys:
        yield warning(
            f"config.json has {', '.join(f'the unknown key {k!r} ({_short(case.config[k])})' for k in keys)}",
            "edgekit cannot tell what that changes and ignores it, since names and shapes of the weights are a "
            "Llama's (`--strict` refuses); transformers' Llama and llama.cpp ignore it, too",
            "remove it if it is only a note",
        )


@check("gguf")
def unsupported_gguf_keys(case: Case) -> Iterator[Finding]:
    keys = case.keys
    if case.gguf is not None and (kind := keys.get("general.architecture")) != "llama":
        yield error(
            f"general.architecture is {_short(kind)}",
            f"{REFUSES}, because it runs Llamas only; llama.cpp runs it if it supports the architecture",
            "run the file with llama.cpp",
        )
        return
    for key, value in keys.items():
        off = key[6:] in KNOWN if key != "llama.rope.scaling.type" else value in ("none", "linear")
        if key.startswith("llama.") and not off and not _off(key[6:], value):
            yield error(
                f"{key} is {_short(value)}",
                f"{REFUSES}, because it does not support that; llama.cpp follows the key",
                "run the file with llama.cpp",
            )


def _off(key: str, value: Any) -> bool:
    return not hasattr(value, "__len__") and value in OFF.get(key, ())


@check("folder", "onnx")
def numbers_not_said(case: Case) -> Iterator[Finding]:
    missing = [key for key in DEFAULTS if case.config.get("model_type") == "llama" and case.config.get(key) is None]
    if missing:
        yield note(
            f"config.json does not have {' and '.join(missing)}",
            f"every program uses transformers' default ({', '.join(DEFAULTS[key] for key in missing)}), whatever the "
            "model was trained with (Llama 2 and its derivatives: an epsilon of 1e-5)",
            "add the values of the training run",
        )


# -----------------------------------------------------------------------------
# the context


@check()
def context_that_costs_memory(case: Case) -> Iterator[Finding]:
    if (c := case.shape) is None:
        return
    cache = 4 * c.num_hidden_layers * c.num_key_value_heads * c.head_dim * c.max_position_embeddings
    weights = sum(2 * math.prod(shape) for shape in c.shapes().values())
    # Llama 3.1 8B with its 131,072 positions has 1.07: the most that a sensible model has.
    if cache > GIB and cache > 2 * weights:
        yield warning(
            f"a context of {c.max_position_embeddings:,} tokens, for which a float16 cache takes {cache / GIB:.1f} "
            f"GiB: {cache / weights:.0f} times the size of the float16 weights",
            "edgekit's llamacpp and llama.cpp allocate all of it when they start, unless told otherwise",
            "set max_position_embeddings to the length that the model was trained with (llama.cpp: -c)",
        )


@check()
def context_longer_than_rotation(case: Case) -> Iterator[Finding]:
    if (c := case.shape) is None:
        return
    # The slowest pair of a head rotates by theta^(-(d-2)/d) a position.
    turn = 2 * math.pi * c.rope_theta ** ((c.head_dim - 2) / c.head_dim)
    if c.max_position_embeddings > turn:
        yield warning(
            f"a context of {c.max_position_embeddings:,} tokens, but with rope_theta {c.rope_theta:g} the slowest "
            f"rotation is complete after {turn:,.0f}",
            "every program runs it; positions further apart than that cannot be told from closer ones",
            "set max_position_embeddings to the length that the model was trained with",
        )


@check("folder", "onnx")
def context_longer_than_said(case: Case) -> Iterator[Finding]:
    longest = case.tokenizer_config.get("model_max_length")
    if case.shape is None or not isinstance(longest, int) or isinstance(longest, bool) or longest <= 0:
        return
    positions = case.shape.max_position_embeddings
    if longest < positions:
        yield warning(
            f"max_position_embeddings is {positions:,}, but the tokenizer's model_max_length is {longest:,}",
            "edgekit and llama.cpp use the longer one, transformers warns beyond the shorter: usually that is the "
            "length the model was trained with, past which text degenerates",
            "set both to the length that the model was trained with",
        )


# -----------------------------------------------------------------------------
# how to generate


@check()
def sampling_switched_off(case: Case) -> Iterator[Finding]:
    usual: dict[str, tuple[Any, ...]] = {"temperature": (1.0,), "top_p": (1.0,), "top_k": (50,), "min_p": ()}
    odd = [f"{k} {case.generation[k]}" for k, v in usual.items() if case.generation.get(k) not in (None, *v)]
    if odd and not case.generation.get("do_sample"):
        yield warning(
            f"generation_config.json has {' and '.join(odd)}, but do_sample is not true",
            "transformers and edgekit decode greedily and ignore them; transformers refuses to save the model again "
            "(`GenerationConfig is invalid`); llama.cpp's converter stores them as the file's defaults",
            '"do_sample": true, or remove them',
        )


@check("folder")
def penalty_that_is_lost(case: Case) -> Iterator[Finding]:
    value = case.generation.get("repetition_penalty")
    if isinstance(value, int | float) and value != 1:
        yield note(
            f"generation_config.json has a repetition penalty of {value}",
            "edgekit and transformers penalize every token of prompt and text, and so do llama.cpp's programs with a "
            "GGUF from edgekit; llama.cpp's converter ignores it (it looks for `penalty_repeat`), and llama.cpp's own "
            "window is 64 tokens",
            "elsewhere pass it yourself: --repeat-penalty, and --repeat-last-n with the length of the context",
        )


@check()
def settings_left_out(case: Case) -> Iterator[Finding]:
    try:
        left = ignored(case.files)
    except CheckpointError:
        return
    if left:
        yield note(
            f"generation settings that edgekit does not have: {', '.join(f'{k} {_short(v)}' for k, v in left.items())}",
            "edgekit generates without them; transformers' generate() follows them, llama.cpp does not know them",
            "compare the programs with the settings removed",
        )


@check()
def generation_out_of_range(case: Case) -> Iterator[Finding]:
    if not case.generation:
        return
    try:
        defaults(case.files)
    except EdgekitError as reason:
        yield error(
            f"generation_config.json: {reason}",
            "`edgekit run` refuses the model; transformers refuses to generate",
            "remove the value",
        )
        return
    if case.generation.get("do_sample") and case.generation.get("temperature") == 0:
        yield warning(
            "generation_config.json samples with a temperature of 0",
            "edgekit and llama.cpp decode greedily, transformers refuses to generate (`has to be a strictly positive "
            "float`)",
            '"do_sample": false and no temperature',
        )


@check()
def longer_than_the_context(case: Case) -> Iterator[Finding]:
    if case.shape is None:
        return
    for key in ("max_new_tokens", "max_length"):
        value = case.generation.get(key)
        if isinstance(value, int) and value > case.shape.max_position_embeddings:
            yield warning(
                f"generation_config.json has {key} {value:,}, but the context is "
                f"{case.shape.max_position_embeddings:,} tokens",
                "edgekit and llama.cpp stop at the end of the context; transformers continues past it, and the text "
                "degenerates",
                f"a {key} below the context",
            )


def _short(value: Any) -> str:
    return " ".join(repr(value).split())[:60]
