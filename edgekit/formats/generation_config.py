"""The default sampling settings in a model's files."""

import json
from collections.abc import Mapping

from edgekit.errors import CheckpointError
from edgekit.settings import Generating

# Stentor2's model card: "Always use repetition_penalty >= 1.1", personal favourites 0.8 / 0.7 / 1.2. TokenMonster
# checkpoints without sampling settings in their generation config get the same.
TOKENMONSTER_DEFAULTS = {"temperature": 0.8, "top_p": 0.7, "repetition_penalty": 1.2}


def defaults(files: Mapping[str, bytes]) -> Generating:
    """The settings in a model's files, with the meaning that Hugging Face gives them.

    `generation_config.json` without `do_sample: true` means greedy, whatever the temperature in it; the repetition
    penalty and `max_new_tokens` apply either way.

    Raises:
        SettingError: a value out of range.
        CheckpointError: a file that is not JSON.
    """
    try:
        config = json.loads(files.get("generation_config.json", b"{}"))
        kind = json.loads(files.get("tokenizer_config.json", b"{}")).get("tokenizer_type")
    except (ValueError, AttributeError) as error:
        raise CheckpointError(f"generation_config.json or tokenizer_config.json is not JSON: {error}") from error
    names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "max_new_tokens")
    values = {name: config[name] for name in names if config.get(name) is not None}
    if kind == "tokenmonster" and "do_sample" not in config and not set(values) - {"max_new_tokens"}:
        values |= TOKENMONSTER_DEFAULTS
    elif not config.get("do_sample"):
        values = {name: values[name] for name in ("repetition_penalty", "max_new_tokens") if name in values}
    else:
        values = {"temperature": 1.0, "top_k": 50} | values  # transformers' defaults when it samples
    return Generating(**values)
