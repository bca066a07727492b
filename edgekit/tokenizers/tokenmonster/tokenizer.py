"""The tokenizer of a TokenMonster checkpoint: a `.vocab`, EOS and BOS above it, padding up to the embedding's rows.

As Stentor2's model card describes it: 8,000 base tokens, EOS 8000, BOS 8001, pad = EOS, padded to a multiple of 128:
8,064. Text never produces EOS, BOS or a special token of the vocabulary itself, unless requested.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edgekit.errors import FileError, VocabularyError
from edgekit.tokenizers.base import configured_ids, read_json, spelling, utf8
from edgekit.tokenizers.tokenmonster import capcode
from edgekit.tokenizers.tokenmonster.compiled import CompiledVocabulary, open_vocabulary
from edgekit.tokenizers.tokenmonster.layout import TOKENS, UNSET, VOCAB_FILE, added_ids, below, named, offset, shifted
from edgekit.tokenizers.tokenmonster.specials import without_specials
from edgekit.tokenizers.tokenmonster.vocab_file import MODES
from edgekit.tokenizers.tokenmonster.vocabulary import Vocabulary

if TYPE_CHECKING:
    from edgekit.tokenizers.base import Decoder
    from edgekit.tokenizers.utf8_mask import Mask, Masks

REPOSITORY = "alasdairforsythe/tokenmonster"
MULTIPLE = 128

# Bits of a vocabulary's normalisation byte, as `inspect` names them.
NORMALIZATIONS = {
    capcode.NFD: "NFD", capcode.LOWERCASE: "lowercase", capcode.ACCENTS: "strip accents",
    capcode.QUOTEMARKS: "quotemarks", capcode.COLLAPSE: "collapse spaces", capcode.TRIM: "trim",
    capcode.LEADING_SPACE: "leading space", capcode.UNIX_LINES: "unix lines",
}  # fmt: skip
EOS, BOS = "</s>", "<s>"

# The model card's. A Markdown formatter removed its line breaks; they are as in the `<|role|>` templates it follows.
CHAT_TEMPLATE = """{% for message in messages %}
<|{{ message['role'] }}|>
{{ message['content'] }}
{% endfor %}
{% if add_generation_prompt %}<|assistant|>
{% endif %}"""


class Backend(Protocol):
    """What encodes and decodes: a `Vocabulary`, or the reference library's (training/reference_tokenizer.py)."""

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Iterable[int]) -> str: ...


class TokenMonsterTokenizer:
    """See `edgekit.tokenizers.base.Tokenizer`.

    Args:
        vocabulary: the base vocabulary; its ids come first.
        vocab_size: rows of the model's embedding.
        eos: ids that end a text; by default the first above the vocabulary, if there is a row for it. Ids that are
            ordinary text, or outside `vocab_size`, are ignored, here and in `bos`.
        bos: ids that begin a text, of which the first is used; by default the second above the vocabulary.
        add_bos: whether a prompt begins with `bos`. The published adapter's `encode` adds none.
        eos_token, bos_token, pad_token: their spellings, for `encode(specials=True)`.
        reserved: ids of ordinary tokens that this model uses as specials (Stentor3's layout), or below the
            vocabulary's own ids (layout.py), by spelling. They may be `eos` and `bos`, print nothing, and text does
            not produce them.
        backend: "edgekit", or "tokenmonster" for the reference library's `encode` and `decode` (extra `train`).
            Streams are always edgekit's: the reference's server fails on split characters.

    Attributes:
        vocabulary: the base vocabulary.
        eos, bos_id, pad: ids or None; pad is EOS unless it is one of `reserved`. `bos` is None unless `add_bos`.
        specials: spelling -> id, the vocabulary's own included.
        below: how many ids come before the vocabulary's own.

    Raises:
        VocabularyError: more ids than `vocab_size`.
        MissingExtraError: the reference backend is not installed.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        vocab_size: int,
        *,
        eos: Sequence[int] = (),
        bos: Sequence[int] = (),
        add_bos: bool = False,
        eos_token: str = EOS,
        bos_token: str = BOS,
        pad_token: str = "",
        reserved: Mapping[str, int] | None = None,
        backend: str = "edgekit",
    ):
        base = vocabulary.table_size
        if base > vocab_size:
            raise VocabularyError(
                f"{vocabulary.name} has {base} ids, but the model's embedding has {vocab_size} rows: "
                "this vocabulary belongs to another model"
            )
        self.vocabulary, self.vocab_size = vocabulary, vocab_size
        self.reserved = frozenset((reserved or {}).values())
        self.below = below(vocabulary)
        accepted = [[id for id in ids if self._may_be_special(id)] for ids in (eos, bos)]
        above = [] if self.below else [id for id in (base, base + 1) if id < vocab_size]
        ends = accepted[0] or [id for id in above if id not in accepted[1]][:1]
        begins = accepted[1] or [id for id in reversed(above) if id not in ends]
        self.eos = ends[0] if ends else None
        self.pad = (reserved or {}).get(pad_token, self.eos)
        self.stop = frozenset(ends)
        self.bos_id = begins[0] if begins else None
        self.bos = self.bos_id if add_bos else None
        self.specials = {vocabulary.decode([id]): id for id in sorted(vocabulary.special_ids)}
        for token, id in (*(reserved or {}).items(), (bos_token, self.bos_id), (eos_token, self.eos)):
            if token and id is not None:
                self.specials[token] = id
        self._silent = vocabulary.special_ids | self.reserved | self.stop | {self.bos_id}
        self._backend: Backend = vocabulary
        if backend == "tokenmonster":
            self._backend = _reference(vocabulary)
        elif backend != "edgekit":
            raise VocabularyError(f"unknown TokenMonster backend {backend!r}: choose from edgekit, tokenmonster")
        else:
            self._backend = CompiledVocabulary(without_specials(vocabulary, self.reserved))

    @classmethod
    def from_files(
        cls, files: Mapping[str, bytes], vocab_size: int, backend: str = "edgekit"
    ) -> "TokenMonsterTokenizer":
        """The tokenizer of a checkpoint: its `vocab_file`, and EOS and BOS of its configuration.

        Ids in the configuration are used if they are above the vocabulary or special tokens of it. An ordinary token's
        id counts if tokenizer_config.json names the special token and spells it otherwise than that id's text: newer
        Stentor models have their specials there. Not so BOS 1 and EOS 2: transformers writes its Llama defaults into
        every config.json, and those are ordinary text here. Where special tokens come first, the vocabulary is shifted
        (layout.py).

        Raises:
            VocabularyError: no such file, a damaged one, or more ids than `vocab_size`.
        """
        config = read_json(files, "tokenizer_config.json")
        name = config.get("vocab_file") or VOCAB_FILE
        if not isinstance(name, str) or name in (".", "..") or re.search(r"[/\\:\0]", name):
            raise VocabularyError(f"tokenizer_config.json: vocab_file must be a file name, not {name!r}")
        if name not in files:
            raise VocabularyError(f"tokenizer_config.json names the vocabulary {name}, which is not next to the model")
        ids = {
            key: configured_ids(files, f"{key}_id") + added_ids(config, spelling(files, key))
            for key in ("eos_token", "bos_token")
        }
        vocabulary = open_vocabulary(bytes(files[name]), name)
        if by := offset(files, vocabulary, vocab_size):
            vocabulary = shifted(vocabulary, by)
        return cls(
            vocabulary,
            vocab_size,
            eos=ids["eos_token"],
            bos=ids["bos_token"],
            add_bos=config.get("add_bos_token") is True,
            eos_token=spelling(files, "eos_token") or EOS,
            bos_token=spelling(files, "bos_token") or BOS,
            pad_token=spelling(files, "pad_token"),
            reserved=_reserved(files, config, vocabulary),
            backend=backend,
        )

    def _may_be_special(self, id: int) -> bool:
        inside = id in self.vocabulary.special_ids or id in self.reserved or id < self.below
        return inside or self.vocabulary.table_size <= id < self.vocab_size

    def encode(self, text: str, *, specials: bool = False) -> list[int]:
        utf8(text)
        if not specials or not self.specials:
            return self._backend.encode(text)
        spelled = sorted(self.specials, key=len, reverse=True)
        parts = re.split(f"({'|'.join(map(re.escape, spelled))})", text)
        return [
            id
            for i, part in enumerate(parts)
            for id in ([self.specials[part]] if i % 2 else self._backend.encode(part) if part else [])
        ]

    def decode(self, tokens: Sequence[int]) -> str:
        return self._backend.decode([id for id in tokens if id not in self._silent and id < self.vocabulary.table_size])

    def decoder(self, context: Sequence[int] = ()) -> "TokenMonsterDecoder":
        decoder = TokenMonsterDecoder(self)
        for token in context:
            decoder.feed(token)
        return decoder

    @cached_property
    def token_bytes(self) -> Sequence[bytes]:
        return [b"" if id in self._silent else self.vocabulary.base_bytes(id) for id in range(self.vocab_size)]

    @cached_property
    def _spelled(self) -> dict[int, str]:
        return {id: text for text, id in self.specials.items()}

    @cached_property
    def _context(self) -> list[int]:
        return self.encode("a")  # the middle of a sentence, where capcode capitalises nothing

    def piece(self, id: int) -> str:
        if id in self._spelled:
            return self._spelled[id]
        decoder = self.decoder(self._context)
        return decoder.feed(id) + decoder.flush()

    def utf8_mask(self, decoder: "Decoder", remaining: int | None = None) -> "Mask":
        if not isinstance(decoder, TokenMonsterDecoder):
            raise TypeError("utf8_mask needs a decoder made by this tokenizer")
        return self._masks.mask(decoder.mask_state(self._masks), remaining)

    def facts(self) -> dict[str, Any]:
        import hashlib  # OpenSSL's library, which takes longer to load than the engine

        vocabulary, flags = self.vocabulary, self.vocabulary.normalization
        return {
            "kind": "TokenMonster",
            "tokens": vocabulary.size,
            "padding": self.vocab_size
            - vocabulary.table_size
            - len({id for id in (self.eos, self.bos_id) if id is not None and id >= vocabulary.table_size}),
            "capcode": vocabulary.capcode,
            "normalization": [name for bit, name in NORMALIZATIONS.items() if flags & bit],
            "mode": MODES[vocabulary.mode] if vocabulary.mode < len(MODES) else vocabulary.mode,
            "longest_token": vocabulary.maxlen,
            "bytes_without_token": 256 - len({r.token for r in vocabulary.records if len(r.token) == 1}),
            "specials": self.specials,
            "sha256": hashlib.sha256(vocabulary.to_bytes()).hexdigest(),
        }

    @cached_property
    def _masks(self) -> "Masks":
        from edgekit.tokenizers.utf8_mask import Masks  # numpy, only needed for masks

        pieces = [b"" if id in self._silent else self.vocabulary.piece(id) for id in range(self.vocab_size)]
        return Masks(pieces, [id for id in self._silent if id is not None], self.vocabulary.capcode)


class TokenMonsterDecoder:
    """See `edgekit.tokenizers.base.Decoder`. State between ids: an unfinished character, a delete marker, capitals."""

    __slots__ = ("_fed", "_inner", "_mask_state", "_silent")

    def __init__(self, tokenizer: TokenMonsterTokenizer):
        self._inner = tokenizer.vocabulary.decoder()
        self._silent = tokenizer._silent
        self._fed: list[int] = []
        self._mask_state: int | None = None

    def feed(self, token: int) -> str:
        if token in self._silent:
            return ""
        self._fed.append(token)
        return self._inner.feed(token)

    def flush(self) -> str:
        self._fed, self._mask_state = [], None
        return self._inner.flush()

    def mask_state(self, masks: "Masks") -> int:
        """The state of the mask's automaton, which reads what was fed since the last call: only masks pay for it."""
        state = masks.start if self._mask_state is None else self._mask_state
        for token in self._fed:
            state = masks.advance(state, token)
        self._fed, self._mask_state = [], state
        return state


def _reserved(files: Mapping[str, bytes], config: Mapping[str, Any], vocabulary: Vocabulary) -> dict[str, int]:
    """Ids of ordinary tokens that the configuration makes special, by spelling; see `from_files`."""
    found: dict[str, int] = {}
    if first := below(vocabulary):
        return {text: id for id, text in named(files, config).items() if id < first}
    for key in sorted(TOKENS, key=lambda key: key != "eos_token"):
        token = spelling(files, key)
        for id in configured_ids(files, f"{key}_id") + added_ids(config, token):
            ordinary = id < vocabulary.table_size and id not in vocabulary.special_ids
            if token and ordinary and id != UNSET.get(key) and vocabulary.decode([id]) != token:
                found.setdefault(token, id)
        if key == "eos_token" and not found:
            return {}  # padding alone is often 0, which nobody chose
    return found


def _reference(vocabulary: Vocabulary) -> Backend:
    from edgekit.utils import registry

    if vocabulary.special_ids:
        # Its dictionary matches them in text, and here they must stay out of band.
        raise VocabularyError(
            f"{vocabulary.name} has special tokens, which the tokenmonster backend cannot keep out of band: "
            "use the edgekit backend"
        )
    return registry.load("training", "reference_tokenizer").load(vocabulary.to_bytes())


def files_for(vocabulary: bytes, vocab_size: int | None = None) -> dict[str, bytes]:
    """The files of a new TokenMonster checkpoint other than weights, as in Stentor2's model card.

    Args:
        vocabulary: the content of a `.vocab` file.
        vocab_size: rows of the embedding; by default the vocabulary, EOS and BOS, rounded up to a multiple of 128.

    Raises:
        VocabularyError: not a vocabulary, or one that does not fit with EOS and BOS into `vocab_size`.
    """
    base = Vocabulary.from_bytes(vocabulary).table_size
    if vocab_size is None:
        vocab_size = -(-(base + 2) // MULTIPLE) * MULTIPLE
    if base + 2 > vocab_size:
        raise VocabularyError(
            f"the vocabulary has {base} ids, which with EOS and BOS do not fit into {vocab_size} embedding rows"
        )
    config = {
        "tokenizer_type": "tokenmonster",
        "vocab_file": VOCAB_FILE,
        "model_max_length": 1024,
        "eos_token": EOS,
        "bos_token": BOS,
        "pad_token": EOS,
        "vocab_size": vocab_size,
        "chat_template": CHAT_TEMPLATE,
    }
    return {
        "tokenizer_config.json": json.dumps(config, indent=2).encode() + b"\n",
        VOCAB_FILE: bytes(vocabulary),
    }


def resolve(name: str | Path, *, folder: Path | None = None, revision: str | None = None) -> Path:
    """The `.vocab` file for a path, or for the name of a published vocabulary: `english-8000-strict-nocapcode-v1`.

    Searched in this order: a file with that path; NAME.vocab in `folder` or, without one, in the folder of the
    environment variable EDGEKIT_VOCABS; the Hugging Face cache; the repository alasdairforsythe/tokenmonster. With
    HF_HUB_OFFLINE=1 the network is not used; otherwise it has 5 seconds to answer.

    Raises:
        FileError: not found; the message says where to put the file, or that a network would help.
    """
    if Path(name).is_file():
        return Path(name)
    plain = str(name).removesuffix(".vocab")
    if re.search(r"[/\\\0]", plain) or plain in ("", ".", ".."):
        raise FileError(f"cannot read {name}: no such file")
    where = folder or (Path(value) if (value := os.environ.get("EDGEKIT_VOCABS")) else None)
    if where is not None and (local := Path(where) / f"{plain}.vocab").is_file():
        return local
    # Imported here: a model folder has its own vocabulary, and does not need the Hub's client.
    import huggingface_hub
    from huggingface_hub import constants

    filename = f"vocabs/{plain}.vocab"
    cached = huggingface_hub.try_to_load_from_cache(REPOSITORY, filename, revision=revision)
    if isinstance(cached, str):
        return Path(cached)
    try:
        if not constants.HF_HUB_OFFLINE:
            _probe(huggingface_hub.hf_hub_url(REPOSITORY, filename, revision=revision))
        return Path(huggingface_hub.hf_hub_download(REPOSITORY, filename, revision=revision, etag_timeout=5))
    except Exception as error:  # of any HTTP library: requests, httpx or huggingface_hub's own
        local_miss = f"{where} has no {plain}.vocab, and " if where is not None else ""
        reason = str(error).strip().splitlines()
        raise FileError(
            f"vocabulary {plain!r} not found: {local_miss}{REPOSITORY} did not give it "
            f"({type(error).__name__}{': ' + reason[0][:120] if reason else ''}); check the name and the network, or "
            f"put {plain}.vocab into a folder and set EDGEKIT_VOCABS to it"
        ) from error


def _probe(url: str) -> None:
    """Raise `URLError` if no server answers at `url`. The Hub's client would retry for half a minute, with messages."""
    import ssl
    import urllib.error
    import urllib.request

    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=5).close()
    except urllib.error.HTTPError:
        pass  # a server did answer: the Hub's client reports what the status means
    except urllib.error.URLError as error:
        if not isinstance(error.reason, ssl.SSLError):  # the client has its own certificates
            raise
