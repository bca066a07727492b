"""Settings of `eval`: perplexity.py and blimp.py read them."""

from dataclasses import dataclass

from edgekit.settings import Checked, setting

PREFIXES = ("model", "lm-eval", "bos", "eos", "none")
PREFIX_HELP = (
    "The token put before a text: `model` (BOS if its texts begin with one, else EOS), `lm-eval` (BOS if its "
    "tokenizer has one at all, else EOS), `bos`, `eos`, `none`, or an id."
)


def _prefix(default: str) -> str | None:
    return setting(
        None,
        f"{PREFIX_HELP}  [default: {default}]",
        metavar="WHICH",
        check=lambda value: value in PREFIXES or value.isdecimal(),
        range=f"{', '.join(PREFIXES)} or a token id",
    )


@dataclass(frozen=True)
class Measuring(Checked):
    """How the loss of a text is measured; perplexity.py explains the protocols."""

    protocol: str = setting(
        "blockwise",
        "How a text longer than the context is cut: separate windows, overlapping windows (Hugging Face's perplexity "
        "guide), or the rolling windows of lm-evaluation-harness.",
        choices=("blockwise", "strided", "rolling"),
    )
    context: int | None = setting(None, "Tokens of a window; default: the model's context.", ge=2)
    stride: int | None = setting(
        None, "strided: tokens from the start of a window to that of the next; default: half a window.", ge=1
    )
    pack: bool = setting(
        False, "Join the documents of a corpus, EOS after each, as training does; default: each document separately."
    )
    prefix: str | None = _prefix("model; with --pack: none")
    limit: int | None = setting(None, "Only the first N documents of each corpus.", ge=1)
    max_tokens: int | None = setting(None, "Start no further document of a corpus after N tokens.", ge=1)


@dataclass(frozen=True)
class Judging(Checked):
    """How the sentences of BLiMP are scored; blimp.py explains the protocols."""

    protocol: str = setting(
        "lm-eval",
        "`lm-eval`: a space before the sentence and a BOS/EOS prefix, as lm-evaluation-harness does; `bare`: neither.",
        choices=("lm-eval", "bare"),
    )
    prefix: str | None = _prefix("lm-eval; with --protocol bare: none")
    limit: int | None = setting(None, "Only the first N pairs of each paradigm.", ge=1)
    paradigms: tuple[str, ...] = setting((), "Only these paradigms.", flag=False)
    reuse: bool | None = setting(
        None,
        "Whether sentences share the computation of a common beginning; None: where that does not change the scores.",
        flag=False,
    )
