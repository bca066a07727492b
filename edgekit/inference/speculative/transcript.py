"""A text and its ids in one vocabulary, side by side: what carries a text over into another vocabulary."""

import unicodedata
from bisect import bisect_left
from collections.abc import Sequence
from typing import Literal

from edgekit.tokenizers.base import Decoder, Tokenizer
from edgekit.tokenizers.tokenmonster import capcode
from edgekit.tokenizers.tokenmonster.tokenizer import TokenMonsterTokenizer

Form = Literal["NFC", "NFD"] | None
"""A Unicode normalisation form, or None for text as it is."""

CONTEXT = 16
"""Ids that a decoder is given before it goes on: more than any marker or unfinished character waits for."""
WINDOW = 48
"""Characters of a text that are tokenized again before what is new, so that the new is seen in its context."""


class Transcript:
    """Ids of one tokenizer, the text they print, and where in it each one ends.

    Text that is not certain yet (half a character, TokenMonster's delete marker) is not counted: the id that brings
    the rest of it prints it.
    """

    def __init__(self, tokenizer: Tokenizer, ids: Sequence[int] = ()):
        self.tokenizer = tokenizer
        self.ids: list[int] = []
        self.ends: list[int] = []
        self.text = ""
        self.unchanged = 0
        """How many of the first ids are the same as when this was last set."""
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

    def count_to(self, place: int) -> int:
        """The number of ids that print the text up to `place` at most; not those behind that print nothing there."""
        index = bisect_left(self.ends, place)
        return index + 1 if index < len(self.ends) and self.ends[index] == place else index

    def respell(self, text: str, same: int, keep: int = 0) -> tuple[int, list[int]] | None:
        """How the tokenizer writes `text`, of which the first `same` characters are printed by the ids there are.

        Args:
            keep: so many ids, a BOS for instance, belong to no text.

        Returns:
            How many of the ids may stay, and the ids behind them; None if the tokenizer cannot write the text.
        """
        for window in (WINDOW, 4 * WINDOW):
            start = self._word_after(same - window, same) if same > window else 0
            if not start:
                break
            ids = self.tokenizer.encode(text[start:])
            ends = [start + end for end in ends_of(self.tokenizer, ids)]
            # The first id or two were seen without what is before them; from the first end that both have, all is well,
            # unless what waits to be printed there (capitals to the end of a word) is not the same.
            for place, end in enumerate(ends):
                index = bisect_left(self.ends, end)
                if start < end <= same and index < len(self.ends) and self.ends[index] == end:
                    if self._prints(ids[place + 1 :], text[end:], index + 1):
                        return index + 1, ids[place + 1 :]
                    break
        ids = self.tokenizer.encode(text)
        return (keep, ids) if self.tokenizer.decode(ids) == text else None

    def _word_after(self, place: int, limit: int) -> int:
        """Where, from `place` on and before `limit`, a word begins and an id as well; 0 if nowhere."""
        ends = self.ends[bisect_left(self.ends, max(place, 1)) : bisect_left(self.ends, limit)]
        return next((end for end in ends if self.text[end : end + 1] == " "), 0)

    def spell(self, more: str) -> list[int] | None:
        """Ids that go on from the last one and print `more`, as the tokenizer would write it in this place.

        None if there are none: the tokenizer cannot write it, or only by other ids than these before it.
        """
        length = len(self.text)
        start = 0 if length <= WINDOW else self._word_after(length - WINDOW, length)
        # In its place; by itself; as the beginning of a line, for tokenizers that put a space before a text; and behind
        # a delete marker, with the space that it takes away.
        for before, text in ((self.text[start:], more), ("", more), ("\n", more), ("", " " + more)):
            ids = self.tokenizer.encode(before + text)
            ends = [0, *ends_of(self.tokenizer, ids)]
            for place, end in enumerate(ends):
                # Several where ids print nothing, as a lone delete marker: that which goes with the ids before it.
                if end == len(before) and self._prints(ids[place:], more):
                    return ids[place:]
        return None

    def _prints(self, ids: Sequence[int], more: str, behind: int | None = None) -> bool:
        """Whether these ids print `more`, behind all ids or the first `behind`."""
        decoder = self.tokenizer.decoder(self.ids[:behind][-CONTEXT:])
        return "".join(map(decoder.feed, ids)) == more


def ends_of(tokenizer: Tokenizer, ids: Sequence[int]) -> list[int]:
    """How many characters are printed after each of the ids, which begin a text."""
    decoder, end, found = tokenizer.decoder(), 0, []
    for id in ids:
        end += len(decoder.feed(id))
        found.append(end)
    return found


class Openings:
    """Which ids may come next if a certain text must be printed.

    Args:
        pieces: the bytes that each id stands for, `b""` for none.
    """

    def __init__(self, pieces: Sequence[bytes]):
        self._order = sorted((id for id, piece in enumerate(pieces) if piece), key=pieces.__getitem__)
        self._pieces = [pieces[id] for id in self._order]

    def of(self, text: bytes) -> list[int]:
        """Ids whose bytes begin with the text."""
        last = bisect_left(self._pieces, text + b"\xff" * 8)
        return self._order[bisect_left(self._pieces, text) : last]


def forms(draft: Tokenizer, target: Tokenizer) -> tuple[Form, Form]:
    """The Unicode forms that text must have for the draft and for the target; None where it stays as it is.

    TokenMonster vocabularies may decompose characters (NFD) and do not put them together again; others print what
    they were trained on, as a rule composed ones.
    """
    apart = [_decomposes(each) for each in (draft, target)]
    if apart[0] == apart[1]:
        return None, None
    return ("NFD", "NFC") if apart[0] else ("NFC", "NFD")


def formed(text: str, form: Form) -> str:
    return text if form is None or text.isascii() else unicodedata.normalize(form, text)


def _decomposes(tokenizer: Tokenizer) -> bool:
    return isinstance(tokenizer, TokenMonsterTokenizer) and bool(tokenizer.vocabulary.normalization & capcode.NFD)
