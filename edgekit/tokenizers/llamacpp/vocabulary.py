"""Types that the mappings of tokenizers share: the tokens of a GGUF file, and a model's special ids."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgekit.formats.checkpoint import LlamaConfig
from edgekit.tokenizers import base
from edgekit.tokenizers.load import from_files
from edgekit.tokenizers.tokenmonster.tokenizer import TokenMonsterTokenizer

# llama.h, enum llama_token_type
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)

DEFAULT_NAMES = {"bos_token": "<s>", "eos_token": "</s>"}


@dataclass
class Tokens:
    """A vocabulary as llama.cpp reads it; `texts` has one entry for each row of the embedding, all different."""

    model: str
    """llama.cpp's kind: rwkv, llama, gpt2, t5 or none."""
    texts: list[bytes] = field(default_factory=list)
    types: list[int] = field(default_factory=list)
    scores: list[float] | None = None
    merges: list[str] | None = None
    pre: str | None = None
    unk: int | None = None
    add_space_prefix: bool = False
    charsmap: bytes = b""
    """Kind t5: SentencePiece's compiled normalization."""
    joins_spaces: bool = False
    """Kind t5: spaces at the end of a text are dropped, and runs of them are one."""
    notes: list[str] = field(default_factory=list)
    """What stock programs will do differently than edgekit."""


@dataclass(frozen=True)
class Specials:
    """Ids of the model's specials, all below `rows`, and their spellings."""

    rows: int
    bos: int | None
    add_bos: bool
    stop: tuple[int, ...]
    pad: int | None
    names: dict[int, str]
    unk: int | None = None


def specials(files: Mapping[str, bytes], config: LlamaConfig) -> Specials:
    """The specials of edgekit's own tokenizer, so that both begin and stop in the same way."""
    rows = config.vocab_size
    stop, bos, add_bos = config.eos_token_id, config.bos_token_id, False
    pad, ours = config.pad_token_id, None
    if "tokenmonster.vocab" in files or "tokenizer.json" in files:
        ours = from_files(files, rows)
        add_bos = ours.bos is not None
        # A TokenMonster model's specials are where its layout has them, whatever Llama defaults config.json holds.
        if isinstance(ours, TokenMonsterTokenizer):
            bos, pad = ours.bos_id, ours.pad
        bos = ours.bos if add_bos else bos
        # The configuration's order first: for llama.cpp only one of them is EOS.
        stop = (*(i for i in stop if i in ours.stop), *sorted(ours.stop.difference(stop)))
    stop = tuple(i for i in stop if i < rows)
    bos = bos if bos is not None and bos < rows else None
    if pad is None or pad >= rows:
        pad = stop[0] if stop else None
    names, unk = {}, None
    if isinstance(ours, TokenMonsterTokenizer):
        names = {id: text for text, id in ours.specials.items() if id in ours.reserved}
        unk = next((id for id, text in names.items() if text == base.spelling(files, "unk_token")), None)
    for id, key in ((bos, "bos_token"), (stop[0] if stop else None, "eos_token")):
        if id is not None:
            names[id] = base.spelling(files, key) or DEFAULT_NAMES[key]
    return Specials(rows, bos, add_bos and bos is not None, stop, pad, names, unk)
