"""Settings of `vocab train`; training/vocab_train.py reads them."""

from dataclasses import dataclass

from edgekit.settings import LARGEST, Checked, setting

NORMALIZATIONS = ("nfd", "lowercase", "accents", "quotemarks", "collapse", "trim", "leading-space", "unix-lines")
"""Names of the bits of a vocabulary's normalization byte, lowest first; capcode.py explains them."""


@dataclass(frozen=True)
class VocabTraining(Checked):
    """How a TokenMonster vocabulary is trained."""

    size: int = setting(8000, "Tokens in the vocabulary, single bytes included.", ge=1, le=1 << 20)
    mode: str = setting(
        "strict",
        "Which substrings may be tokens; strict keeps words and punctuation apart.",
        choices=("unfiltered", "clean", "balanced", "consistent", "strict"),
    )
    capcode: int = setting(
        1, "0 leaves text as it is, 1 marks words without a space before them, 2 marks capitals too.", ge=0, le=2
    )
    one_word: bool = setting(
        False,
        "No token spans several words: more tokens for a text, but a small model sees each of them more often.",
    )
    normalize: tuple[str, ...] = setting(
        ("nfd",), "How every text is normalized first; may be repeated.", choices=NORMALIZATIONS, flag=False
    )
    cleaning: str = setting(
        "none",
        "Clean the text as the recipe that will train on it does: none, lines or collapse.",
        choices=("none", "lines", "collapse"),
    )
    seed: int = setting(0, "Chooses the parts of a large corpus that are counted.", ge=0, le=LARGEST)
