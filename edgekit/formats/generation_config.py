"""The default sampling settings in a model's files."""

import json
from collections.abc import Mapping
from typing import Any

from edgekit.errors import CheckpointError
from edgekit.formats.llama_config import unknown_keys
from edgekit.settings import Generating

# Stentor2's model card: "Always use repetition_penalty >= 1.1", personal favourites 0.8 / 0.7 / 1.2. TokenMonster
# checkpoints without sampling settings in their generation config get the same.
TOKENMONSTER_DEFAULTS = {"temperature": 0.8, "top_p": 0.7, "repetition_penalty": 1.2}


# Settings that edgekit has, by transformers' names.
NAMES = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "max_new_tokens")
# Those that apply to greedy texts, too.
RULES = ("no_repeat_ngram_size", "suppress_tokens", "bad_words_ids", "exponential_decay_length_penalty")
GREEDY = ("repetition_penalty", "max_new_tokens", *RULES)
# Settings of transformers that change the text and that edgekit does not have, with the values that switch them off.
IGNORED: dict[str, tuple[Any, ...]] = {
    "num_beams": (1,),
    "num_beam_groups": (1,),
    "diversity_penalty": (0,),
    "penalty_alpha": (0,),
    "dola_layers": (),
    "max_length": (20,),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "max_time": (),
    "stop_strings": ([],),
    "typical_p": (1,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "top_h": (1,),
    "encoder_repetition_penalty": (1,),
    "encoder_no_repeat_ngram_size": (0,),
    "force_words_ids": ([],),
    "constraints": ([],),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "forced_decoder_ids": ([],),
    "begin_suppress_tokens": ([],),
    "sequence_bias": ([], {}),
    "guidance_scale": (1,),
    "watermarking_config": (),
    "num_return_sequences": (1,),
    "token_healing": (False,),
}


def generation_config(files: Mapping[str, bytes]) -> dict[str, Any]:
    """`generation_config.json`; without it the generation settings of `config.json`, as transformers 4 reads them.

    Raises:
        CheckpointError: a file that is not JSON.
    """
    name = "generation_config.json" if "generation_config.json" in files else "config.json"
    try:
        config = json.loads(files.get(name, b"{}"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{name} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{name} is not a JSON object")
    if name == "config.json":
        config = {k: config[k] for k in (*NAMES, *RULES, *IGNORED, "do_sample") if config.get(k) is not None}
    return config


def ignored(files: Mapping[str, bytes]) -> dict[str, Any]:
    """The settings in a model's files that change the text in transformers and that edgekit does not have."""
    config = generation_config(files)
    found = {k: config[k] for k, off in IGNORED.items() if config.get(k) is not None and config[k] not in off}
    if config.get("max_new_tokens") is not None:
        found.pop("max_length", None)  # transformers prefers the other
    return found


def caveats(files: Mapping[str, bytes]) -> list[str]:
    """What edgekit leaves out of a model's configuration, a sentence each: unknown keys and settings."""
    try:
        config, settings = json.loads(files.get("config.json", b"{}")), ignored(files)
    except (ValueError, RecursionError, CheckpointError):
        return []  # whatever reads the file reports it
    notes = []
    if isinstance(config, dict) and (keys := unknown_keys(config)):
        named = ", ".join(f"{key!r}" for key in keys[:8]) + (", ..." if len(keys) > 8 else "")
        notes.append(f"config.json has unknown keys, which are ignored: {named} (--strict refuses them)")
    if settings:
        named = ", ".join(f"{key} {_short(value)}" for key, value in settings.items())
        notes.append(f"generation settings that transformers has and edgekit does not: {named}")
    return notes


def check_strict(files: Mapping[str, bytes]) -> None:
    """Raises `CheckpointError` if config.json has a key of which edgekit cannot tell what it changes."""
    if keys := unknown_keys(json.loads(files.get("config.json", b"{}"))):
        raise CheckpointError(f"config.json: unknown key {keys[0]!r}: edgekit cannot tell what it changes (--strict)")


def _short(value: Any) -> str:
    text = " ".join(json.dumps(value).split())
    return text if len(text) <= 40 else text[:37] + "..."


# llama.cpp's key: our setting, and llama.cpp's default where the key is missing (common.h, common_params_sampling).
GGUF_SAMPLING = {
    "temp": ("temperature", 0.8),
    "top_k": ("top_k", 40),
    "top_p": ("top_p", 0.95),
    "min_p": ("min_p", 0.05),
    "penalty_repeat": ("repetition_penalty", 1.0),
}


def from_gguf(keys: Mapping[str, Any]) -> dict[str, Any]:
    """The generation config that a GGUF file's `general.sampling.*` mean; empty if it has none."""
    found = {name: keys.get(f"general.sampling.{name}") for name in GGUF_SAMPLING}
    numbers = {name: value for name, value in found.items() if isinstance(value, (int, float))}
    # Files store float32. The number that was meant is the one of few digits: 0.8, not 0.800000012. engine/defaults.c
    # rounds in the same way.
    numbers = {k: v if isinstance(v, int) or not 0 < v < 1e6 else int(v * 1e6 + 0.5) / 1e6 for k, v in numbers.items()}
    if not numbers:
        return {}
    values = {ours: numbers.get(name, default) for name, (ours, default) in GGUF_SAMPLING.items()}
    return {"do_sample": values["temperature"] > 0, **values}


def defaults(files: Mapping[str, bytes]) -> Generating:
    """The settings in a model's files, with the meaning that Hugging Face gives them.

    `generation_config.json` without `do_sample: true` means greedy, whatever the temperature in it; the repetition
    penalty, `max_new_tokens` and `RULES` apply either way. See `generation_config` for the file.

    Raises:
        SettingError: a value out of range.
        CheckpointError: a file that is not JSON.
    """
    try:
        config = generation_config(files)
        kind = json.loads(files.get("tokenizer_config.json", b"{}")).get("tokenizer_type")
    except (ValueError, AttributeError) as error:
        raise CheckpointError(f"generation_config.json or tokenizer_config.json is not JSON: {error}") from error
    values = {name: config[name] for name in (*NAMES, *RULES) if config.get(name) is not None}
    for name in RULES:
        if isinstance(values.get(name), list):
            values[name] = tuple(tuple(v) if isinstance(v, list) else v for v in values[name])
    if kind == "tokenmonster" and "do_sample" not in config and not set(values) - {"max_new_tokens", *RULES}:
        values |= TOKENMONSTER_DEFAULTS
    elif not config.get("do_sample"):
        values = {name: values[name] for name in GREEDY if name in values}
    else:
        values = {"temperature": 1.0, "top_k": 50} | values  # transformers' defaults when it samples
    return Generating(**values)
