"""What a person may set when a vocabulary is trained; training/vocab_train.py does it.

Apart from settings.py because it is of no use to anybody who only runs models.
"""

from dataclasses import dataclass

from edgekit.settings import Checked, setting

NORMALIZATIONS = ("nfd", "lowercase", "accents", "quotemarks", "collapse", "trim", "leading-space", "unix-lines")
"""Names of the bits of a vocabulary's normalisation byte, the lowest first; what they do: capcode.py."""


def _whole(low: int, high: int):  # type: ignore[no-untyped-def]
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


@dataclass(frozen=True)
class VocabTraining(Checked):
    """How a TokenMonster vocabulary is trained."""

    size: int = setting(
        8000, "Tokens in the vocabulary, single bytes included.", check=_whole(1, 1 << 20), range="from 1 to 1048576"
    )
    mode: str = setting(
        "strict",
        "Which substrings may be tokens; strict keeps words and punctuation apart.",
        check=lambda v: v in ("unfiltered", "clean", "balanced", "consistent", "strict"),
        range="unfiltered, clean, balanced, consistent or strict",
        choices=("unfiltered", "clean", "balanced", "consistent", "strict"),
    )
    capcode: int = setting(
        1,
        "0 leaves text as it is, 1 marks words without a space before them, 2 marks capitals too.",
        check=_whole(0, 2),
        range="0, 1 or 2",
    )
    one_word: bool = setting(
        False, "No token spans several words: more tokens for a text, each of them seen more often by a small model."
    )
    normalize: tuple[str, ...] = setting(
        ("nfd",),
        "What is done to every text first; may be repeated.",
        check=lambda v: all(name in NORMALIZATIONS for name in v),
        range=f"of {', '.join(NORMALIZATIONS)}",
        choices=NORMALIZATIONS,
        flag=False,
    )
    cleaning: str = setting(
        "none",
        "As the recipe that will train on the same text has it: none, lines or collapse.",
        check=lambda v: v in ("none", "lines", "collapse"),
        range="none, lines or collapse",
        choices=("none", "lines", "collapse"),
    )
    seed: int = setting(
        0, "Chooses the parts of a large corpus that are counted.", check=_whole(0, 1 << 63), range="from 0 up"
    )
