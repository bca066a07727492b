"""Which tokens end a text in llama.cpp: those that keys name, and many by their spelling (llama-vocab.cpp, 0.3.36)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# They end a text whatever the keys say.
ALWAYS = frozenset(
    "<|eot_id|> <|im_end|> <|end|> <|return|> <|call|> <|flush|> <|calls|> <end_of_turn> <|endoftext|> </s> <|eom_id|> "
    "<EOT> _<EOT> [EOT] [EOS] <|end_of_text|> <end_of_utterance> <eos> <turn|> <|tool_response> <｜end▁of▁sentence｜> "
    "[e~[".split()
)
# Where no key names the token of that use, one of these has it, and ends a text.
BY_USE = {
    "fim_pad": frozenset("<|fim_pad|> <fim-pad> <fim_pad> <PAD> [PAD]".split()),
    "fim_rep": frozenset("<|fim_repo|> <|repo_name|> <fim-repo> <REPO> <reponame>".split()),
    "fim_sep": frozenset({"<|file_sep|>"}),
}
EOS = {"llama": 2, "gpt2": 11}
"""The id that ends a text where no key names one, by `tokenizer.ggml.model`."""


def ends(keys: Mapping[str, Any], texts: Sequence[str]) -> list[int]:
    """The ids that end a text in llama.cpp, the declared ones first.

    Args:
        keys: a file's metadata.
        texts: `tokenizer.ggml.tokens`.

    If several tokens could be one of `BY_USE`, llama.cpp takes whichever its hash table has first; here all count.
    """

    def declared(name: str) -> int | None:
        id = keys.get(f"tokenizer.ggml.{name}_token_id")
        if isinstance(id, int | np.integer) and 0 <= id < len(texts):
            return int(id)
        usual = EOS.get(str(keys.get("tokenizer.ggml.model"))) if name == "eos" else None
        return usual if usual is not None and usual < len(texts) else None

    named = [id for name in ("eos", "eot", "eom", *BY_USE) if (id := declared(name)) is not None]
    spelled = set(ALWAYS).union(*(names for use, names in BY_USE.items() if declared(use) is None))
    ids = list(dict.fromkeys([*named, *(id for id, text in enumerate(texts) if text in spelled)]))
    inner = _parts_of_an_answer({texts[id] for id in ids})
    return [id for id in ids if texts[id] not in inner]


def _parts_of_an_answer(found: set[str]) -> set[str]:
    """Of the texts that would end a text, those that end only a part of an answer in this kind of model."""
    calls = bool(found & {"<|call|>", "<|calls|>"})
    inner = set()
    if calls and found & {"<|return|>", "<|flush|>"}:
        inner.add("<|end|>")
    if found & {"<|tool_response>", "<|plamo:eos|>"}:
        inner.add("</s>")
    return inner
