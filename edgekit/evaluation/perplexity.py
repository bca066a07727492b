"""How well a model predicts texts: loss, perplexity, bits per byte and per word, by corpus and in total.

A text longer than the context is cut into windows. How it is cut changes the figures:

blockwise   separate windows. The first token of each has no context and is not scored, unless there is a prefix, which
            is put before every window. With `pack` this is the validation loss of training.
strided     windows overlap, so that each token but the first few has at least context - stride tokens before it; a
            window scores only what the one before did not. Hugging Face's guide "Perplexity of fixed-length models".
rolling     lm-evaluation-harness's `get_rolling_token_windows`: disjoint, each with the last token of the one before
            as its context; the last window reaches back to full length.

In the latter two a prefix is put before the text once. Documents are scored separately unless `pack` is given, so no
figure depends on their order, every token can be scored, and models with different vocabularies can be compared. `pack`
joins a corpus as training does, EOS after each document.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgekit.errors import ContextError, DataError, UsageError
from edgekit.evaluation.settings import Measuring
from edgekit.inference.runtime import Runtime
from edgekit.inference.scoring import (
    Window,
    blockwise,
    declared,
    prefix_id,
    rolling,
    strided,
    window_logprobs,
)
from edgekit.model import Model
from edgekit.utils.progress import Progress, silent
from edgekit.utils.texts import Document


@dataclass
class Score:
    """Sums over some documents, and the figures computed from them."""

    documents: int = 0
    tokens: int = 0
    """All tokens of the texts; with `pack` each document's EOS too."""
    scored: int = 0
    """Those whose probability is counted: not the first of a window without a prefix."""
    bytes: int = 0
    """UTF-8 bytes of the original texts."""
    words: int = 0
    """Runs of characters other than white space."""
    nats: float = 0.0
    """Negative natural log-probability, summed."""

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.nats / self.scored if self.scored else math.nan

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return math.exp(self.loss) if self.loss < 700 else math.inf if self.loss >= 700 else math.nan

    @property
    def bits_per_byte(self) -> float:
        """Bits per byte of the original text; tokens that are not scored are assumed to cost the mean."""
        return self.loss * self.tokens / math.log(2) / self.bytes if self.bytes else math.nan

    @property
    def bits_per_word(self) -> float:
        """Bits per word, likewise."""
        return self.loss * self.tokens / math.log(2) / self.words if self.words else math.nan

    def __iadd__(self, other: "Score") -> "Score":
        for name in ("documents", "tokens", "scored", "bytes", "words", "nats"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        return self

    def record(self) -> dict[str, Any]:
        """Plain values for JSON; what is not a number is None."""
        sums = {name: getattr(self, name) for name in ("documents", "tokens", "scored", "bytes", "words", "nats")}
        means = {name: getattr(self, name) for name in ("loss", "perplexity", "bits_per_byte", "bits_per_word")}
        return sums | {name: value if math.isfinite(value) else None for name, value in means.items()}


@dataclass
class Perplexity:
    """The result of `perplexity`, and its settings."""

    protocol: str
    context: int
    stride: int | None
    pack: bool
    prefix: int | None
    """The token before a text (strided, rolling) or before each window (blockwise)."""
    total: Score = field(default_factory=Score)
    corpora: dict[str, Score] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """Plain values for JSON."""
        rules = {name: getattr(self, name) for name in ("protocol", "context", "stride", "pack", "prefix")}
        return rules | {
            "total": self.total.record(),
            "corpora": {name: score.record() for name, score in self.corpora.items()},
        }


def perplexity(
    model: Model,
    texts: Iterable[Document | str],
    settings: Measuring | None = None,
    *,
    progress: Progress = silent,
    **values: Any,
) -> Perplexity:
    """Measure how well a model predicts some texts.

    Args:
        model: from `edgekit.load`; its cache is used, and empty afterwards.
        texts: documents with the names of their corpora (see `utils.texts.read`), or plain strings.
        settings, values: the fields of `evaluation.settings.Measuring`, as an object or one by one.
        progress: called for each document, or with `pack` for each window.

    Raises:
        SettingError, UsageError: invalid or contradictory settings, or a prefix that the model does not have.
        ContextError: a window longer than the model's context.
        DataError: there is nothing to score.
        PromptError: a text has lone surrogates, which JSON can contain.
        RuntimeFailure: the model's logits are not finite.
    """
    settings = settings or Measuring(**values)
    result, cut = _rules(model, settings)
    documents = list(_limited([_document(text) for text in texts], settings.limit))
    if settings.pack:
        _packed(model, documents, settings, result, cut, progress)
    else:
        _each(model, documents, settings, result, cut, progress)
    model.runtime.rewind(0)
    for score in result.corpora.values():
        result.total += score
    if not result.total.scored:
        raise DataError(f"nothing to score: {result.total.tokens} tokens in {result.total.documents} documents")
    return result


Cut = Callable[[Sequence[int]], Iterator[Window]]
"""Cuts ids into windows."""


def _rules(model: Model, settings: Measuring) -> tuple[Perplexity, Cut]:
    """An empty result with the settings' defaults filled in, and the function that cuts a text into windows."""
    context = settings.context or model.runtime.context_length
    if context > model.runtime.context_length:
        raise ContextError(f"windows of {context} tokens do not fit into the context of {model.runtime.context_length}")
    if context < 2:
        raise ContextError(f"a context of {context} token is too short: nothing can be scored in it")
    if settings.stride is not None and settings.protocol != "strided":
        raise UsageError("--stride needs --protocol strided")
    stride = (settings.stride or context // 2) if settings.protocol == "strided" else None
    if stride is not None and stride > context:
        raise UsageError(f"a stride of {stride} would skip tokens: windows have {context}")
    prefix = prefix_id(model.tokenizer, model.runtime, settings.prefix or ("none" if settings.pack else "model"))
    result = Perplexity(settings.protocol, context, stride, settings.pack, prefix)
    cuts: dict[str, Cut] = {
        "blockwise": lambda ids: blockwise(ids, context, prefix),
        "strided": lambda ids: strided(ids, context, prefix, stride or context),
        "rolling": lambda ids: rolling(ids, context, prefix),
    }
    return result, cuts[settings.protocol]


def _each(
    model: Model, documents: list[Document], settings: Measuring, result: Perplexity, cut: Cut, progress: Progress
) -> None:
    """Score each document separately."""
    for document in progress(documents, "perplexity", len(documents)):
        score = result.corpora.setdefault(document.corpus, Score())
        if settings.max_tokens is None or score.tokens < settings.max_tokens:
            ids = _count(model, document, score)
            for window, first in cut(ids):
                _add(model.runtime, window, first, score)


def _packed(
    model: Model, documents: list[Document], settings: Measuring, result: Perplexity, cut: Cut, progress: Progress
) -> None:
    """Score the documents of each corpus joined, EOS after each."""
    eos = declared(model.tokenizer, model.runtime, "eos")
    if eos is None:
        raise UsageError("the model has no EOS to pack documents with: leave out --pack")
    joined: dict[str, list[int]] = {}
    for document in documents:
        score = result.corpora.setdefault(document.corpus, Score())
        if settings.max_tokens is None or score.tokens < settings.max_tokens:
            joined.setdefault(document.corpus, []).extend([*_count(model, document, score), eos])
            score.tokens += 1
    windows = [(corpus, *window) for corpus, ids in joined.items() for window in cut(ids)]
    for corpus, window, first in progress(windows, "perplexity", len(windows)):
        _add(model.runtime, window, first, result.corpora[corpus])


def _document(text: Document | str) -> Document:
    return Document("text", text) if isinstance(text, str) else text


def _limited(documents: Iterable[Document], limit: int | None) -> Iterator[Document]:
    seen: dict[str, int] = {}
    for document in documents:
        seen[document.corpus] = seen.get(document.corpus, 0) + 1
        if limit is None or seen[document.corpus] <= limit:
            yield document


def _count(model: Model, document: Document, score: Score) -> list[int]:
    """The ids of a document; adds its counts to the score."""
    ids = model.tokenizer.encode(document.text)
    score.documents += 1
    score.tokens += len(ids)
    score.bytes += len(document.text.encode("utf-8"))
    score.words += len(document.text.split())
    return ids


def _add(runtime: Runtime, window: Sequence[int], first: int, score: Score) -> None:
    if len(window) > first:
        logprobs = window_logprobs(runtime, window, first)
        score.nats -= float(logprobs.sum())
        score.scored += len(logprobs)
