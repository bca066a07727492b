"""From text to the byte stream that TokenMonster's tokens are written in, and back.

Forward, `normalize`: a vocabulary's normalisation flags (nearly always NFD alone), then capcode. Capcode level 1
puts a delete marker and a space (7F 20) before a word that has no space before it, so that `(Hello` is made of the
same ` Hello` as running text. Level 2 does that with `D `, and also writes capitals as markers over lowercase
letters: `C` (one capital), `W` (a word of capitals). Back, `Undo`: markers out, capitals in; NFD stays.

The rules are those of the reference library (github.com/alasdairforsythe/tokenmonster) with Unicode 13.0.
Ill-formed UTF-8 passes through byte by byte: inside, text is `str` with `surrogateescape`.
"""

import codecs
import functools
import re
from collections.abc import Callable

from edgekit.tokenizers.tokenmonster.unicode13 import CLASS, nfd, simple_lower, simple_upper

__all__ = ["ACCENTS", "COLLAPSE", "LEADING_SPACE", "LOWERCASE", "NFD", "QUOTEMARKS", "TRIM", "UNIX_LINES", "Undo",
           "incomplete_tail", "normalize"]  # fmt: skip

# Bits of a vocabulary's normalisation byte.
NFD, LOWERCASE, ACCENTS, QUOTEMARKS, COLLAPSE, TRIM, LEADING_SPACE, UNIX_LINES = (1 << bit for bit in range(8))


def normalize(data: bytes, flags: int, level: int) -> bytes:
    """The stream that tokens are matched in: normalisation `flags` applied to UTF-8 `data`, then capcode `level`.

    Any bytes are accepted; ill-formed ones are kept. Everything but NFD and QUOTEMARKS follows the description
    of the reference rather than golden vectors.
    """
    data = _byte_flags(data, flags)
    wants_nfd = bool(flags & (NFD | ACCENTS))
    tail = incomplete_tail(data) if wants_nfd else 0
    if tail or flags & (ACCENTS | LOWERCASE):
        text = _fold(data[: len(data) - tail].decode("utf-8", "surrogateescape"), flags)
        data = text.encode("utf-8", "surrogateescape") + data[len(data) - tail :]
        wants_nfd = False
    text = data.decode("utf-8", "surrogateescape")
    text = _capcode(text, level, wants_nfd) if level else nfd(text) if wants_nfd else text
    return text.encode("utf-8", "surrogateescape")


def incomplete_tail(data: bytes) -> int:
    """How many last bytes (0 to 3) NFD leaves alone: a lead byte wants more bytes than there are, whatever they are."""
    for left, leads in ((3, range(0xF0, 0xF8)), (2, range(0xE0, 0xF8)), (1, range(0xC2, 0xF8))):
        if len(data) >= left and data[-left] in leads:
            return left
    return 0


def _byte_flags(data: bytes, flags: int) -> bytes:
    if flags & UNIX_LINES:
        data = data.replace(b"\r\n", b"\n")
    if flags & QUOTEMARKS:
        for curly, straight in ((b"\x98", b"'"), (b"\x99", b"'"), (b"\x9c", b'"'), (b"\x9d", b'"')):
            data = data.replace(b"\xe2\x80" + curly, straight)
    if flags & COLLAPSE:
        data = re.sub(b"  +", b" ", data)
    if flags & TRIM:
        data = data.strip(bytes(range(33)))
    if flags & LEADING_SPACE and data and not data.startswith(b" "):
        data = b" " + data
    return data


def _fold(text: str, flags: int) -> str:
    if flags & ACCENTS:
        text = "".join([char for char in nfd(text) if CLASS[char] != "m"])
    if flags & LOWERCASE:
        text = "".join([simple_lower(char) for char in text])
    return nfd(text) if flags & (NFD | ACCENTS) else text


# ---- forward -------------------------------------------------------------------------------------------------------
# Plain stretches (spaces and letters; at level 2 lowercase letters) pass unchanged, so the text is split into them and
# the units between: a run of anything else with the letter that follows. What becomes of a unit depends on nothing but
# itself and what comes before it: a space (S), a letter, or the start of the text (^). English has few different
# units (", ", "'s", "\nTh"), so each is worked out once.

_UNITS = {1: re.compile("([^ A-Za-z]+[A-Za-z]?)"), 2: re.compile("([^ a-z]+[a-z]?)")}
_MARKERS = {1: "\x7f ", 2: "D "}


def _capcode(text: str, level: int, wants_nfd: bool) -> str:
    parts = _UNITS[level].split(text)  # plain, unit, plain, unit, ..., plain
    start, space, letter = _rewriters(level, wants_nfd)
    if len(parts) > 1:
        first = parts[1]
        rest = zip(parts[2::2], parts[3::2], strict=False)
        after = [(space if plain[-1:] == " " else letter)[unit] for plain, unit in rest]
        if parts[0]:
            parts[1::2] = [(space if parts[0][-1] == " " else letter)[first], *after]
        else:
            parts[1::2] = [start[first], *after]
    if parts[0] and parts[0][0] != " ":
        parts[0] = _MARKERS[level] + parts[0]
    text = "".join(parts)
    if level == 2:
        # A capital after a space: the marker goes before that space. Capital D, C and W occur as markers only.
        text = text.replace(" DW ", "W ").replace(" DC ", "C ")
    return text


class _Rewriter(dict[str, str]):
    """unit -> what it becomes, worked out once for short units; bounded, since a hostile text has no end of units."""

    def __init__(self, rewrite: Callable[[str, str], str], before: str, wants_nfd: bool) -> None:
        super().__init__()
        self.rewrite, self.before, self.wants_nfd = rewrite, before, wants_nfd

    def __missing__(self, unit: str) -> str:
        result = self.rewrite(nfd(unit) if self.wants_nfd else unit, self.before)
        if len(unit) <= 24:
            if len(self) >= 1 << 15:
                self.clear()
            self[unit] = result
        return result


@functools.cache
def _rewriters(level: int, wants_nfd: bool) -> tuple[_Rewriter, ...]:
    rewrite = _mark_words if level == 1 else _mark_capitals
    return tuple(_Rewriter(rewrite, before, wants_nfd) for before in ("^", "S", "l"))


class _Kinds(dict[str, str]):
    """Character -> class as capcode sees it: S space, A apostrophe, u l t letters, n number, m mark, o other."""

    def __missing__(self, char: str) -> str:
        kind = CLASS[char]
        if len(self) >= 1 << 16:
            return "m" if kind == "s" else "o" if kind == "-" else kind
        self[char] = kind = "m" if kind == "s" else "o" if kind == "-" else kind
        return kind


_KIND = _Kinds({" ": "S", "'": "A", "\u2019": "A"})
_LETTERS = frozenset("ult")
_GLUED = frozenset("ultAm")


def _mark_words(unit: str, before: str) -> str:
    """Level 1 over a few characters. `before` is the class of the one before them, ^ at the start of the text."""
    out = []
    earlier, previous = "^", before
    for char in unit:
        kind = _KIND[char]
        if kind in _LETTERS:
            if previous not in "Sultm" and not (previous == "A" and earlier in _LETTERS):
                out.append("\x7f ")
        elif kind == "n" and previous not in "Sn":
            out.append("\x7f ")
        out.append("\x14" if char == "\x7f" else char)
        earlier, previous = previous, kind
    return "".join(out)


def _mark_capitals(unit: str, before: str) -> str:
    """Level 2 over a few characters, except that a capital after a space is still ` DW ` or ` DC `."""
    chars: list[str] = []
    prefixes: list[str] = []
    earlier, previous = "^", before
    run, more = -1, False  # where the current run of capitals began, and whether it has a second one
    for char in unit:
        kind = _KIND[char]
        prefix = ""
        if kind == "u":
            if run < 0:
                run, more, prefix = len(chars), False, "DW "
            else:
                more, prefix = True, "" if previous in _GLUED else "D "
            char = simple_lower(char)
        elif kind == "l":
            if run >= 0:
                # The run was not a word of capitals after all: each of its letters is a capital by itself.
                prefixes[run] = "DC "
                if more:
                    for place in range(run + 1, len(chars)):
                        if CLASS[chars[place]] == "l":
                            prefixes[place] = "DC "
                run, prefix = -1, "" if previous in _GLUED else "D "
            elif previous not in "Slm" and not (previous == "A" and earlier in _LETTERS):
                prefix = "D "
        elif kind == "n":
            prefix = "" if previous in "Sn" else "D "
        elif kind not in "Am":
            run = -1
        prefixes.append(prefix)
        chars.append(char)
        earlier, previous = previous, kind
    return "".join([part for pair in zip(prefixes, chars, strict=True) for part in pair])


# ---- back ----------------------------------------------------------------------------------------------------------

_PAIR = re.compile(b"\x7f.", re.DOTALL)
_CAPITAL_MARKERS = re.compile("[CDW]")


class Undo:
    """Takes capcode out of a byte stream that comes in pieces; pieces and `flush` joined equal the whole undone.

    Level 1: 7F drops the next byte, whatever that is. Level 2 works on characters, so an unfinished one is held
    back. Level 0 changes nothing.
    """

    __slots__ = ("_char", "_delete", "_fresh", "_held", "_word", "level")

    def __init__(self, level: int) -> None:
        self.level = level
        self._clear()

    def _clear(self) -> None:
        self._held = b""
        self._word = self._char = self._delete = self._fresh = False

    @property
    def state(self) -> tuple[bytes, bool, bool, bool, bool]:
        """All that is pending; two undoers of one level with equal states behave alike."""
        return self._held, self._delete, self._char, self._word, self._fresh

    def copy(self) -> "Undo":
        other = Undo(self.level)
        other._held, other._delete, other._char, other._word, other._fresh = self.state
        return other

    def feed(self, data: bytes) -> bytes:
        if self.level == 1:
            return self._delete_marked(data)
        if self.level == 2:
            data = self._held + data
            text, used = codecs.utf_8_decode(data, "surrogateescape", False)
            self._held = data[used:]
            return self._capitalise(text).encode("utf-8", "surrogateescape")
        return data

    def flush(self) -> bytes:
        """What was held back; pending markers are forgotten, and the next `feed` starts a new stream."""
        left = self._capitalise(self._held.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
        self._clear()
        return left

    def _delete_marked(self, data: bytes) -> bytes:
        if not data:
            return data
        if self._delete:
            data = data[1:]
        data = _PAIR.sub(b"", data)
        self._delete = data.endswith(b"\x7f")  # every other 7F has taken its byte along
        return data[:-1] if self._delete else data

    def _capitalise(self, text: str) -> str:
        out, place = [], 0
        while place < len(text):
            if not (self._word or self._char or self._delete):
                found = _CAPITAL_MARKERS.search(text, place)
                stop = found.start() if found else len(text)
                if stop > place:
                    out.append(text[place:stop])
                    self._fresh, place = False, stop
                    continue
            out.append(self._step(text[place]))
            place += 1
        return "".join(out)

    def _step(self, char: str) -> str:
        if char == "C":
            self._char, self._word = True, False
            return ""
        if char == "W":
            self._word, self._char, self._fresh = True, False, True
            return ""
        if char == "D":
            self._delete = True
            return ""
        if self._delete:
            self._delete, char = False, ""
        elif char == " ":
            self._word = self._word and self._fresh
        elif self._char:
            self._char, char = False, simple_upper(char)
        elif self._word:
            kind = _KIND[char]
            if kind in "ul":
                char = simple_upper(char)
            elif kind not in "nAm":
                self._word = False
        self._fresh = False
        return char
