"""Files that let plain transformers load a TokenMonster checkpoint, without edgekit.

`AutoTokenizer.from_pretrained(FOLDER, trust_remote_code=True)` runs the code next to the weights: the adapter in
tokenization_tokenmonster.py, and copies of the modules of edgekit that encode and decode.
"""

import json
import re
from collections.abc import Mapping
from importlib import resources
from typing import Any

from edgekit.tokenizers.base import read_json
from edgekit.tokenizers.tokenmonster.layout import OFFSETS
from edgekit.tokenizers.tokenmonster.tokenizer import CHAT_TEMPLATE, VOCAB_FILE, TokenMonsterTokenizer

ENTRY = "tokenization_tokenmonster"
CLASS = "TokenMonsterTokenizer"

# The entry imports each of these (transformers 4 copies no others); a test follows the imports.
MODULES = {
    "capcode": "edgekit.tokenizers.tokenmonster.capcode",
    "errors": "edgekit.errors",
    "exchange": "edgekit.utils.exchange",
    "files": "edgekit.utils.files",
    "matcher": "edgekit.tokenizers.tokenmonster.matcher",
    "out_of_band": "edgekit.tokenizers.tokenmonster.specials",
    "temporaries": "edgekit.utils.temporaries",
    "tokenmonster": "edgekit.tokenizers.tokenmonster.vocabulary",
    "vocab_file": "edgekit.tokenizers.tokenmonster.vocab_file",
    "unicode13": "edgekit.tokenizers.tokenmonster.unicode13",
}
"""Each file's name next to a checkpoint, and the module that it is a copy of."""


def files(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files to write next to the weights of a checkpoint for transformers to find its tokenizer.

    Args:
        files: those of the checkpoint, by name; `config.json` has the rows of the embedding.

    For a TokenMonster checkpoint: the same files, tokenizer_config.json extended, and the adapter's sources. The
    vocabulary is called tokenmonster.vocab whatever its name was. Any other checkpoint: the same files.

    Raises:
        VocabularyError: a damaged vocabulary or configuration, or more ids than rows.
    """
    out = dict(files)
    config = read_json(files, "tokenizer_config.json")
    if config.get("tokenizer_type") != "tokenmonster":
        return out
    rows = read_json(files, "config.json").get("vocab_size", config.get("vocab_size"))
    tokenizer = TokenMonsterTokenizer.from_files(files, rows if isinstance(rows, int) else 2**31)
    out.pop(str(config.get("vocab_file")), None)
    config = {key: value for key, value in config.items() if key not in OFFSETS}  # the vocabulary written has the ids
    out[VOCAB_FILE] = tokenizer.vocabulary.to_bytes()
    out["tokenizer_config.json"] = json.dumps(
        {**config, **described(tokenizer, config, files), **({"vocab_size": rows} if isinstance(rows, int) else {})},
        indent=2, ensure_ascii=False,
    ).encode() + b"\n"  # fmt: skip
    out |= {f"{name}.py": source(name).encode() for name in (*MODULES, ENTRY)}
    return out


def described(
    tokenizer: TokenMonsterTokenizer, config: Mapping[str, Any], files: Mapping[str, bytes]
) -> dict[str, Any]:
    """The keys of tokenizer_config.json that transformers reads."""
    spelled = {id: token for token, id in tokenizer.specials.items()}
    keys: dict[str, Any] = {
        "tokenizer_class": CLASS,
        "auto_map": {"AutoTokenizer": [f"{ENTRY}.{CLASS}", None]},
        "vocab_file": VOCAB_FILE,
        "clean_up_tokenization_spaces": False,
        "added_tokens_decoder": {
            str(id): {"content": token, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
                      "special": True}
            for id, token in sorted(spelled.items())
        },
    }  # fmt: skip
    for key, id in (("eos_token", tokenizer.eos), ("bos_token", tokenizer.bos_id), ("pad_token", tokenizer.pad)):
        if id in spelled:
            keys[key] = spelled[id]
    if own := sorted(tokenizer.vocabulary.special_ids - {tokenizer.eos, tokenizer.bos_id}):
        keys["additional_special_tokens"] = [spelled[id] for id in own]
    if not config.get("chat_template") and "chat_template.jinja" not in files:
        keys["chat_template"] = CHAT_TEMPLATE
    return keys


def source(name: str) -> str:
    """A module as it is written next to a checkpoint: its source, with imports of edgekit made relative and flat."""
    package, _, stem = MODULES.get(name, f"edgekit.tokenizers.hf_adapter.{name}").rpartition(".")
    text = resources.files(package).joinpath(f"{stem}.py").read_text(encoding="utf-8")
    for flat, module in MODULES.items():
        text = re.sub(rf"^(\s*)from {re.escape(module)} import", rf"\1from .{flat} import", text, flags=re.MULTILINE)
    return text
