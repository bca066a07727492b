"""A text and its ids in one vocabulary, aligned, so that the text can be continued in another vocabulary."""

import unicodedata
from bisect import bisect_left
from collections.abc import Sequence
from typing import Literal

from edgekit.tokenizers.base import Decoder, Tokenizer
from edgekit.tokenizers.tokenmonster import capcode
from edgekit.tokenizers.tokenmonster.tokenizer import TokenMonsterTokenizer

Form = Literal["NFC", "NFD"] | None
"""A Unicode normalization form, or None for text as it is."""

CONTEXT = 16
"""Ids that a new decoder reads first: more than a marker or an unfinished character takes."""
WINDOW = 48
"""Characters before new text that are tokenized with it, so that it gets the ids it has in its context."""


class Transcript:
    """Ids of one tokenizer, the text they print, and where in it each id ends.

    Text that is not certain yet (half a character, TokenMonster's delete marker) counts for the id that completes it.
    """

    def __init__(self, tokenizer: Tokenizer, ids: Sequence[int] = ()):
        self.tokenizer = tokenizer
        self.ids: list[int] = []
        self.ends: list[int] = []
        self.text = ""
        self.unchanged = 0
        """How many ids at the beginning have not changed since this was last set."""
        self._decoder: Decoder = tokenizer.decoder()
        self.extend(ids)

    def extend(self, ids: Sequence[int]) -> None:
        pieces, end = [], len(self.text)
        for id in ids:
            pieces.append(piece := self._decoder.feed(id))
            end += len(piece)
            self.ids.append(id)
            self.ends.append(end)
        self.text += "".join(pieces)

    def cut(self, count: int) -> None:
        """Keep the first `count` ids."""
        if count >= len(self.ids):
            return
        del self.ids[count:], self.ends[count:]
        self.text = self.text[: self.ends[-1] if self.ends else 0]
        self.unchanged = min(self.unchanged, count)
        self._decoder = self.tokenizer.decoder(self.ids[-CONTEXT:])

    def count_until(self, position: int) -> int:
        """The number of ids that end at `position` or before; of several that end there, only the first counts."""
        index = bisect_left(self.ends, position)
        return index + 1 if index < len(self.ends) and self.ends[index] == position else index

    def reencode(self, text: str, same: int, keep: int = 0) -> tuple[int, list[int]] | None:
        """Encode `text`, whose first `same` characters are those of this text.

        Args:
            keep: how many ids at the beginning, such as a BOS, belong to no text.

        Returns:
            How many of the ids stay, and the new ids after them; None if the tokenizer cannot write the text.
        """
        for window in (WINDOW, 4 * WINDOW):
            start = self._word_after(same - window, same) if same > window else 0
            if not start:
                break
            ids = self.tokenizer.encode(text[start:])
            ends = [start + end for end in ends_of(self.tokenizer, ids)]
            # The first id or two may differ, because the text before them is missing. From the first common end on they
            # are right, unless a pending marker (capitals to the end of a word) differs there.
            for count, end in enumerate(ends, 1):
                index = bisect_left(self.ends, end)
                if start < end <= same and index < len(self.ends) and self.ends[index] == end:
                    if self._prints(ids[count:], text[end:], index + 1):
                        return index + 1, ids[count:]
                    break
        ids = self.tokenizer.encode(text)
        return (keep, ids) if self.tokenizer.decode(ids) == text else None

    def _word_after(self, position: int, limit: int) -> int:
        """The first position from `position` on, below `limit`, where both a word and an id begin; 0 if none."""
        ends = self.ends[bisect_left(self.ends, max(position, 1)) : bisect_left(self.ends, limit)]
        return next((end for end in ends if self.text[end : end + 1] == " "), 0)

    def encode_next(self, more: str) -> list[int] | None:
        """Ids that print `more` after the last id, as the tokenizer would write it there.

        None if there are none: the tokenizer cannot write it, or only with other ids before it.
        """
        length = len(self.text)
        start = 0 if length <= WINDOW else self._word_after(length - WINDOW, length)
        # Four attempts: in its context; alone; at the beginning of a line, for tokenizers that put a space before a
        # text; and after a delete marker, with the space that the marker deletes.
        for before, text in ((self.text[start:], more), ("", more), ("\n", more), ("", " " + more)):
            ids = self.tokenizer.encode(before + text)
            ends = [0, *ends_of(self.tokenizer, ids)]
            for count, end in enumerate(ends):
                # Several have this end if ids print nothing, such as a lone delete marker: take the first that fits.
                if end == len(before) and self._prints(ids[count:], more):
                    return ids[count:]
        return None

    def _prints(self, ids: Sequence[int], more: str, count: int | None = None) -> bool:
        """Whether these ids print `more` after all ids, or after the first `count`."""
        decoder = self.tokenizer.decoder(self.ids[:count][-CONTEXT:])
        return "".join(map(decoder.feed, ids)) == more


def ends_of(tokenizer: Tokenizer, ids: Sequence[int]) -> list[int]:
    """Where in the text that the ids print each of them ends."""
    decoder, end, ends = tokenizer.decoder(), 0, []
    for id in ids:
        end += len(decoder.feed(id))
        ends.append(end)
    return ends


class PrefixIndex:
    """Finds the ids whose bytes begin with a given text.

    Args:
        token_bytes: what each id stands for, `b""` for none.
    """

    def __init__(self, token_bytes: Sequence[bytes]):
        self._ids = sorted((id for id, each in enumerate(token_bytes) if each), key=token_bytes.__getitem__)
        self._bytes = [token_bytes[id] for id in self._ids]

    def starting_with(self, text: bytes) -> list[int]:
        """Ids in the order of their bytes."""
        end = bisect_left(self._bytes, text + b"\xff" * 8)
        return self._ids[bisect_left(self._bytes, text) : end]


def normal_forms(draft: Tokenizer, target: Tokenizer) -> tuple[Form, Form]:
    """The Unicode forms that text must have for the draft and for the target; None where it stays as it is.

    TokenMonster vocabularies may decompose characters (NFD) and do not compose them again; others print what they were
    trained on, usually composed characters.
    """
    if _decomposes(draft) == _decomposes(target):
        return None, None
    return ("NFD", "NFC") if _decomposes(draft) else ("NFC", "NFD")


def normalized(text: str, form: Form) -> str:
    return text if form is None or text.isascii() else unicodedata.normalize(form, text)


def _decomposes(tokenizer: Tokenizer) -> bool:
    return isinstance(tokenizer, TokenMonsterTokenizer) and bool(tokenizer.vocabulary.normalization & capcode.NFD)
