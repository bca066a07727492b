"""The sampling settings that a model's own files ask for."""

import json
from collections.abc import Mapping

from edgekit.errors import CheckpointError
from edgekit.settings import Generating

# Stentor2's model card: "Always use repetition_penalty >= 1.1", personal favourites 0.8 / 0.7 / 1.2. TokenMonster
# checkpoints whose generation config says nothing of sampling are taken for its kin.
TOKENMONSTER_DEFAULTS = {"temperature": 0.8, "top_p": 0.7, "repetition_penalty": 1.2}


def defaults(files: Mapping[str, bytes]) -> Generating:
    """The settings that a model's own files ask for, with the meaning that Hugging Face gives them.

    `generation_config.json` without `do_sample: true` means greedy, whatever temperature stands beside it; the
    repetition penalty and `max_new_tokens` hold either way. Raises `SettingError` for values out of range.
    """
    try:
        config = json.loads(files.get("generation_config.json", b"{}"))
        kind = json.loads(files.get("tokenizer_config.json", b"{}")).get("tokenizer_type")
    except (ValueError, AttributeError) as error:
        raise CheckpointError(f"generation_config.json or tokenizer_config.json is not JSON: {error}") from error
    wanted = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "max_new_tokens")
    found = {name: config[name] for name in wanted if config.get(name) is not None}
    if kind == "tokenmonster" and "do_sample" not in config and not set(found) - {"max_new_tokens"}:
        found |= TOKENMONSTER_DEFAULTS
    elif not config.get("do_sample"):
        found = {name: found[name] for name in ("repetition_penalty", "max_new_tokens") if name in found}
    else:
        # What transformers samples with where the file is silent.
        found = {"temperature": 1.0, "top_k": 50} | found
    return Generating(**found)
