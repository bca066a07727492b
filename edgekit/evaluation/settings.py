"""What a person may set when a model is evaluated; evaluate.py and blimp.py do it.

Apart from settings.py because it is of no use to anybody who only runs models.
"""

from dataclasses import dataclass
from typing import Any

from edgekit.settings import Checked, setting

PREFIXES = ("model", "lm-eval", "bos", "eos", "none")
PREFIX_HELP = (
    "The token put before a text: `model` (BOS if its texts begin with one, else EOS), `lm-eval` (BOS if its "
    "tokenizer has one at all, else EOS), `bos`, `eos`, `none`, or an id."
)


def _prefix(value: Any) -> bool:
    return value is None or value in PREFIXES or (isinstance(value, str) and value.isdecimal())


def _whole(low: int):  # type: ignore[no-untyped-def]
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= low


@dataclass(frozen=True)
class Measuring(Checked):
    """How the loss of a text is measured. What the protocols are: evaluate.py."""

    protocol: str = setting(
        "blockwise",
        "How a text longer than the context is cut: windows that each start anew, windows that overlap (Hugging "
        "Face's perplexity guide), or lm-evaluation-harness's rolling windows.",
        check=lambda v: v in ("blockwise", "strided", "rolling"),
        range="blockwise, strided or rolling",
        choices=("blockwise", "strided", "rolling"),
    )
    context: int | None = setting(
        None, "Tokens of a window; default: the model's context.", check=_whole(2), range="a whole number from 2 up"
    )
    stride: int | None = setting(
        None,
        "strided: tokens from one window to the next; default: half a window.",
        check=_whole(1),
        range="a whole number from 1 up",
    )
    pack: bool = setting(
        False, "Join the documents of a corpus, EOS after each, as training does; default: each document by itself."
    )
    prefix: str | None = setting(
        None,
        f"{PREFIX_HELP}  [default: model; with --pack: none]",
        metavar="WHICH",
        check=_prefix,
        range=f"{', '.join(PREFIXES)} or a token id",
    )
    limit: int | None = setting(
        None, "Only the first N documents of each corpus.", check=_whole(1), range="a whole number from 1 up"
    )
    max_tokens: int | None = setting(
        None,
        "Begin no further document of a corpus once it has N tokens.",
        check=_whole(1),
        range="a whole number from 1 up",
    )


@dataclass(frozen=True)
class Judging(Checked):
    """How BLiMP's sentences are scored. What the protocols are: blimp.py."""

    protocol: str = setting(
        "lm-eval",
        "`lm-eval`: a space before the sentence and a BOS/EOS prefix, as lm-evaluation-harness does; `bare`: neither.",
        check=lambda v: v in ("lm-eval", "bare"),
        range="lm-eval or bare",
        choices=("lm-eval", "bare"),
    )
    prefix: str | None = setting(
        None,
        f"{PREFIX_HELP}  [default: lm-eval; with --protocol bare: none]",
        metavar="WHICH",
        check=_prefix,
        range=f"{', '.join(PREFIXES)} or a token id",
    )
    limit: int | None = setting(
        None, "Only the first N pairs of each paradigm.", check=_whole(1), range="a whole number from 1 up"
    )
    paradigms: tuple[str, ...] = setting((), "Only these paradigms.", flag=False)
    reuse: bool | None = setting(
        None,
        "Whether sentences share the work on their common beginnings; None: where that changes nothing.",
        flag=False,
    )
