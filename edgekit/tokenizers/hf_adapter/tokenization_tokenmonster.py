"""TokenMonster for transformers (4.48 to 5): `AutoTokenizer.from_pretrained(FOLDER, trust_remote_code=True)`.

Written by edgekit next to a checkpoint, with copies of the modules it needs; edgekit itself is not needed.

- The vocabulary's size is the same number everywhere, `len(tokenizer)` included: the rows of the model's embedding. Ids
  that only pad it are called `<pad_8002>` and so on, and decode to nothing.
- Special tokens are out of band: a text that contains `</s>` gets ordinary tokens for it. Set
  `tokenizer.split_special_tokens = False` to match their spelling as other tokenizers do, for text of your own.
- A token's string, as in `get_vocab`, is its bytes in GPT-2's printable alphabet (a space is `Ġ`). Strings cannot be
  joined to text: decoding is stateful, so use `decode`, or `convert_tokens_to_string`, on whole sequences.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizer

from edgekit.errors import VocabularyError

# transformers 4 copies only what this file itself imports, so it names every module that the others need.
from edgekit.tokenizers.tokenmonster.capcode import normalize  # noqa: F401
from edgekit.tokenizers.tokenmonster.matcher import Matcher  # noqa: F401
from edgekit.tokenizers.tokenmonster.specials import without_specials
from edgekit.tokenizers.tokenmonster.unicode13 import nfd  # noqa: F401
from edgekit.tokenizers.tokenmonster.vocab_file import NONE  # noqa: F401
from edgekit.tokenizers.tokenmonster.vocabulary import Vocabulary
from edgekit.utils.exchange import exchange  # noqa: F401
from edgekit.utils.files import read_bytes, write_bytes
from edgekit.utils.temporaries import sweep  # noqa: F401

VOCAB_FILE = "tokenmonster.vocab"


class TokenMonsterTokenizer(PreTrainedTokenizer):
    """A TokenMonster vocabulary with EOS and BOS above it, padded to the model's embedding; see the module."""

    # Not `vocab_file`: the configuration has that key, a bare name, which would override the path.
    vocab_files_names = {"vocab_path": VOCAB_FILE}
    model_input_names = ["input_ids", "attention_mask"]
    padding_side = "left"  # what generation from a batch needs
    slow_tokenizer_class = None

    def __init__(
        self,
        vocab_path: str | None = None,
        vocab_file: str = VOCAB_FILE,
        vocab_size: int | None = None,
        eos_token: Any = "</s>",
        bos_token: Any = "<s>",
        pad_token: Any = None,
        add_bos_token: bool = False,
        **kwargs: Any,
    ):
        added = kwargs.get("added_tokens_decoder") or {}
        self._load(read_bytes(Path(vocab_path or vocab_file)), sorted(map(int, added)))
        base = self.vocabulary.table_size
        self._rows = -(-(base + 2) // 128) * 128 if vocab_size is None else int(vocab_size)
        if self._rows < base:
            raise VocabularyError(f"the vocabulary has {base} ids, tokenizer_config.json allows {self._rows}")
        self._add_bos = bool(add_bos_token)
        kwargs.setdefault("split_special_tokens", True)
        kwargs.setdefault("clean_up_tokenization_spaces", False)
        eos_token, bos_token = eos_token or "</s>", bos_token or "<s>"
        names = {int(id): str(token) for id, token in added.items() if int(id) < self._rows}
        for id, token in ((base, eos_token), (base + 1, bos_token)):
            if id < self._rows and str(token) not in names.values():
                names[id] = str(token)
        self._name(names)
        super().__init__(
            vocab_file=VOCAB_FILE,
            vocab_size=self._rows,
            eos_token=eos_token,
            bos_token=bos_token,
            pad_token=pad_token or eos_token,
            add_bos_token=self._add_bos,
            **kwargs,
        )

    def _load(self, data: bytes, reserved: list[int]) -> None:
        self.vocabulary, self._reserved = Vocabulary.from_bytes(data, VOCAB_FILE), reserved
        self._plain = without_specials(self.vocabulary, reserved)

    def _name(self, names: dict[int, str]) -> None:
        """Give every id a unique string. Specials keep theirs; a token with the same spelling gets another."""
        self._ids: dict[str, int] = {name: id for id, name in names.items()}
        self._strings: dict[int, str] = dict(names)
        for id in range(self._rows):
            if id in names:
                continue
            data = self.vocabulary.base_bytes(id)
            string = "".join(map(_CHARS.__getitem__, data)) if data else f"<pad_{id}>"
            while string in self._ids:
                string = f"<{string}_{id}>"
            self._ids[string], self._strings[id] = id, string

    # ---- the interface that transformers needs ---------------------------------------------------------------------

    @property
    def vocab_size(self) -> int:
        return self._rows

    def get_vocab(self) -> dict[str, int]:
        return {**self._ids, **self._added_tokens_encoder}

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        return [self._strings[id] for id in self._plain.encode(text)]

    def _convert_token_to_id(self, token: str) -> int | None:
        return self._ids.get(token)  # None, as for every tokenizer without an unknown token

    def _convert_id_to_token(self, index: int) -> str:
        return self._strings.get(index, "")

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        bos = [self.bos_token_id] if self._add_bos else []
        return bos + list(token_ids_0) + (bos + list(token_ids_1) if token_ids_1 else [])

    def get_special_tokens_mask(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None, already_has_special_tokens: bool = False
    ) -> list[int]:
        ids = list(token_ids_0) + list(token_ids_1 or [])
        if not already_has_special_tokens:
            bos = [1] if self._add_bos else []
            return bos + [0] * len(token_ids_0) + (bos + [0] * len(token_ids_1) if token_ids_1 else [])
        special = set(self.all_special_ids)
        return [int(id in special) for id in ids]

    def _decode(  # type: ignore[override]  # transformers 4 has one more argument than 5, in kwargs
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **kwargs: Any,
    ) -> str:
        """The text of a whole sequence. A special token, unless skipped, ends the text before it and is spelled out."""
        given = token_ids if isinstance(token_ids, Iterable) else [token_ids]
        ids = [int(id) for id in given if id is not None]
        special = set(self.all_special_ids) | self.vocabulary.special_ids
        base, parts, run = self.vocabulary.table_size, [], []
        for id in ids:
            if id not in self._added_tokens_decoder and id not in special:
                if id < base:
                    run.append(id)
            elif not (skip_special_tokens and id in special):
                added = self._added_tokens_decoder.get(id)
                parts += [self.vocabulary.decode(run), self._strings.get(id, "") if added is None else added.content]
                run = []
        text = "".join([*parts, self.vocabulary.decode(run)])
        return self.clean_up_tokenization(text) if clean_up_tokenization_spaces else text

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return self._decode([self.convert_tokens_to_ids(token) for token in tokens])

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Write the vocabulary, and add to the saved configuration the keys that transformers omits."""
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        path = os.path.join(save_directory, prefix + VOCAB_FILE)
        write_bytes(Path(path), self.vocabulary.to_bytes())
        config = os.path.join(save_directory, prefix + "tokenizer_config.json")
        if os.path.isfile(config):
            with open(config, encoding="utf-8") as file:
                values = json.load(file)
            values |= {"tokenizer_type": "tokenmonster", "vocab_file": VOCAB_FILE, "vocab_size": self._rows}
            if self._add_bos:
                values["add_bos_token"] = True
            with open(config, "w", encoding="utf-8") as file:
                json.dump(values, file, indent=2, ensure_ascii=False)
        return (path,)

    # The tables of a vocabulary contain functions, which cannot be pickled: other processes get its file.

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        del state["_plain"]
        state["vocabulary"] = self.vocabulary.to_bytes()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._load(state["vocabulary"], state["_reserved"])


def _printable() -> list[str]:
    """GPT-2's alphabet: printable bytes are written as themselves, the others as characters from U+0100."""
    keep = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(value) if value in keep else chr(next(others)) for value in range(256)]


_CHARS = _printable()
