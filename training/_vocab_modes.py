"""The training modes of TokenMonster: which windows of a text may become tokens.

`strict` separates words, runs of words, digits and punctuation; `unfiltered` separates nothing; the others are in
between. The rules follow what is known of the reference trainer (github.com/alasdairforsythe/tokenmonster); every
token of its published vocabularies passes the filter of its own mode.

Patterns are over a window's kinds (`vocab_build.kinds_of`), with `'` and U+2019 as A: S space, B other blank,
L letter, N number, M capcode marker, U underscore, O anything else.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from edgekit.errors import SettingError
from edgekit.tokenizers.tokenmonster import vocab_file
from edgekit.training.vocab_build import MARKERS, kinds_of

__all__ = ["MODES", "Verdict", "check", "judge"]

MODES = vocab_file.MODES[:5]


class Verdict(NamedTuple):
    """What a mode allows a window to be."""

    accepted: bool
    """It may be a token."""
    before_letter: bool
    """It may also be one before a letter; else it would contain a word and a part of the next."""
    extendable: bool
    """A longer window that starts with it may be a token."""


_NEVER = Verdict(False, False, False)
_WORDS = re.compile("SL+(?:(?:AS?|S)L+)*A?")
_WORDS_SO_FAR = re.compile("S(?:L+(?:(?:AS?|S)L+)*A?S?)?")
_PART = re.compile("A?L+|S?N+")
_PART_SO_FAR = re.compile("A?L*|S?N*")
_ALNUM = re.compile("[LN]")
_SEVERAL_WORDS = re.compile("L[AM]*S+[AM]*L")
_SPACE_RUN = re.compile(r"[^\S\r\n]\s|\s[^\S\r\n]")  # adjacent blanks, other than newlines alone
_BLANK_RUN = re.compile("[SB]{2,}")
# Beyond strict: leading markers, digits and one joining mark inside a word, one mark after it.
_LOOSER_WORDS = re.compile("M*S?(?:A?L+|N+)(?:(?:[UO](?:M+S)?|A|S|(?<=L)(?=N)|(?<=N)(?=L))(?:L+|N+))*[AUO]?M*")
_JOINING = frozenset("-._")
_ENCLOSING = frozenset("()[]{}\"'`\u2018\u2019\u201c\u201d\u00ab\u00bb")
_PAIRS = ("()", "[]", "{}", '""', "''")


def check(mode: str, level: int) -> None:
    """Raises `SettingError` for an unknown mode, or one that the capcode level cannot have."""
    if mode not in MODES:
        raise SettingError(f"unknown mode {mode!r}: choose from {', '.join(MODES)}")
    if level == 0 and mode in ("strict", "consistent"):
        # They rely on a space before every word, which the delete marker provides.
        raise SettingError(f"mode {mode} needs capcode 1 or 2; with capcode 0 take balanced, clean or unfiltered")


def judge(token: bytes, mode: str, level: int, one_word: bool = False) -> Verdict:
    """What a mode allows a window of at least one byte to be. A single whole character may always be a token.

    With `one_word`, which TokenMonster does not have, no token continues into a second word.
    """
    text = token.decode("utf-8", "surrogateescape")
    if not token.isascii() and any("\udc80" <= char <= "\udcff" for char in text):
        # A window that ends inside a character is not a token, but more bytes may make it one.
        return Verdict(False, False, token[0] < 0x80 or token[0] >= 0xC2)
    if level and token.startswith(MARKERS[level] + b" "):
        # The vocabulary has such records anyway, as duplicates of the token after marker and space.
        return _NEVER
    kinds, _ = kinds_of(token, level)
    if "'" in text or "\u2019" in text:
        kinds = "".join("A" if char in "'\u2019" else kind for char, kind in zip(text, kinds, strict=True))
    if one_word and _SEVERAL_WORDS.search(kinds):
        return _NEVER
    verdict = _RULES[mode](text, kinds, level)
    return Verdict(True, True, verdict.extendable) if len(text) == 1 else verdict


def _symbols(text: str, kinds: str) -> bool:
    """Strict's rule for tokens without letters and digits."""
    if not kinds.strip("SB"):
        return True
    if kinds[-1] == "S":
        return False
    symbols = [char for char, kind in zip(text, kinds, strict=True) if kind in "AUO"]
    if text in _PAIRS or kinds.rstrip("M") in ("A", "U", "O"):
        return True
    if len(text) == 2 and not kinds.strip("AUO") and (text[0] == "." or "," in text):
        return True
    runs = _BLANK_RUN.findall(kinds)
    if runs:
        newlines = not _SPACE_RUN.search(text)
        if not (newlines and len(runs) == 1 and len(symbols) <= 1 and (kinds[-1] == "M" or text[-1] == "\n")):
            return False
    if any(char in _ENCLOSING for char in symbols):
        lead = kinds[0] in "SB" and text[0] != "\t"
        return len(symbols) == 1 and kinds[lead:].strip("M") in ("A", "O")
    return not ("<" in text and ">" in text and text.rindex("<") > text.index(">"))


def _strict(text: str, kinds: str, level: int) -> Verdict:
    if _WORDS.fullmatch(kinds):
        return Verdict(True, not _SEVERAL_WORDS.search(kinds), True)
    if _PART.fullmatch(kinds):
        return Verdict(True, True, True)
    if not _ALNUM.search(kinds):
        return Verdict(_symbols(text, kinds), True, True)
    return Verdict(False, False, bool(_WORDS_SO_FAR.fullmatch(kinds) or _PART_SO_FAR.fullmatch(kinds)))


def _consistent(text: str, kinds: str, level: int) -> Verdict:
    strict = _strict(text, kinds, level)
    if strict.accepted or not _ALNUM.search(kinds):
        return strict
    enclosed = len(text) > 2 and text[0] + text[-1] in _PAIRS
    text, kinds = (text[1:-1], kinds[1:-1]) if enclosed else (text, kinds)
    joined = all(char in _JOINING for char, kind in zip(text[:-1], kinds[:-1], strict=True) if kind in "UO")
    if joined and _LOOSER_WORDS.fullmatch(kinds):
        return Verdict(True, not _SEVERAL_WORDS.search(kinds), True)
    return Verdict(False, False, not _BLANK_RUN.search(kinds))


def _balanced(text: str, kinds: str, level: int) -> Verdict:
    if not _ALNUM.search(kinds):
        return Verdict(level == 0 or kinds[-1] != "S" or not kinds.strip("SB"), True, True)
    if _BLANK_RUN.search(kinds):
        return _NEVER
    capital = kinds[-1] == "M" and text[-1] in "CW" and text[-2] not in ".-"
    final = kinds[-1] == "B" or (kinds[-1] == "S" and level > 0)
    return Verdict(not final and not capital, not _SEVERAL_WORDS.search(kinds), True)


def _clean(text: str, kinds: str, level: int) -> Verdict:
    if not _ALNUM.search(kinds):
        return Verdict(True, True, True)
    if _SPACE_RUN.search(text):
        return _NEVER
    return Verdict(level == 0 or kinds[-1] != "S", True, True)


def _unfiltered(text: str, kinds: str, level: int) -> Verdict:
    return Verdict(True, True, True)


_RULES: dict[str, Callable[[str, str, int], Verdict]] = {
    "unfiltered": _unfiltered,
    "clean": _clean,
    "balanced": _balanced,
    "consistent": _consistent,
    "strict": _strict,
}
