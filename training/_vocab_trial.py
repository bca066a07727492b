"""A corpus tokenized with a vocabulary, and statistics of its tokens.

Uses, pairs and costs are *robust*: the work (book, article, story) in which a token has most is left out. This
estimates the value in unseen text: a name that occurs in a single novel counts nothing. On the story corpus,
compared with plain counts, it saved 0.6 % of the tokens of held-out stories and 1 % of those of textbooks.
"""

import functools
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from edgekit.tokenizers.tokenmonster import vocabulary as tm
from edgekit.tokenizers.tokenmonster.vocab_file import NONE
from edgekit.training import _vocab_counts as counts
from edgekit.training._vocab_text import Corpus
from edgekit.training.fast_tokenizer import FastEncoder
from edgekit.utils.progress import Progress, silent

__all__ = ["Trial", "absence"]

FEW_WORKS = 20
"""With fewer works than this, each is too large a part of the corpus to be left out."""


class Trial:
    """A corpus tokenized with a vocabulary."""

    def __init__(self, vocabulary: tm.Vocabulary, corpus: Corpus, progress: Progress = silent) -> None:
        self.vocabulary, self.corpus = vocabulary, corpus
        encode = FastEncoder(vocabulary).encode_stream
        parts = [encode(stream) for stream in progress(corpus.streams, "tokenizing", len(corpus.streams))]
        self.tokens = [vocabulary.base_bytes(id) for id in range(vocabulary.table_size)]
        self.ids = np.concatenate(parts).astype(np.int32)
        self.ends = np.cumsum([part.size for part in parts])

    def uses(self) -> NDArray[np.float64]:
        """Robust uses of each token, (tokens,)."""
        corpus = self.corpus
        return self._robust(*counts.uses(self.ids, self.ends, corpus.weights, corpus.works, len(self.tokens)))

    def pairs(self) -> list[bytes]:
        """The bytes of adjacent pairs of tokens with a robust count above 0, the most frequent first."""
        corpus, size = self.corpus, len(self.tokens)
        keys, total, most = counts.pairs(self.ids, self.ends, corpus.weights, corpus.works, size)
        count = self._robust(total, most)
        order = np.argsort(-count, kind="stable")
        order = order[count[order] > 0]
        return [self.tokens[key // size] + self.tokens[key % size] for key in keys[order].tolist()]

    def weight(self) -> float:
        """The number of tokens, each times the weight of its text."""
        return float(np.dot(np.diff(self.ends, prepend=0), self.corpus.weights))

    @functools.cached_property
    def spans(self) -> NDArray[np.uint8]:
        """The number of stream bytes that each of `ids` stands for, (n,)."""
        lengths = np.array([len(token) for token in self.tokens], np.int64)
        firsts = np.array([token[0] if token else -1 for token in self.tokens], np.int64)
        delete = -1 if self.vocabulary.delete_token == NONE else self.vocabulary.delete_token
        marker = firsts[delete] if delete >= 0 else -1
        out = np.empty(self.ids.size, np.uint8)
        for stream, start, end in zip(self.corpus.streams, [0, *self.ends[:-1]], self.ends, strict=True):
            counts.spans(stream, self.ids[start:end], lengths, firsts, delete, marker, out[start:end])
        return out

    def shares(self) -> NDArray[np.float32]:
        """The share of the stream that each token stands for, the score in a `.vocab` file: (tokens,). A delete token
        before a virtual space counts as one byte, as in the reference library."""
        weights = np.repeat(self.corpus.weights, np.diff(self.ends, prepend=0))
        out = np.bincount(self.ids, np.maximum(self.spans, 1) * weights, len(self.tokens))
        return (out / self.corpus.weighted_bytes).astype(np.float32)

    def _robust(self, total: NDArray[np.float64], most: NDArray[np.float64]) -> NDArray[np.float64]:
        return total - most if self.corpus.number_of_works >= FEW_WORKS else total


def absence(
    tokens: list[bytes],
    corpus: Corpus,
    build: Callable[[Iterable[bytes]], tm.Vocabulary],
    groups: int,
    rng: np.random.Generator,
) -> dict[bytes, float]:
    """The additional tokens that the corpus takes without each token: measured, robust; negative if a token is harmful.

    The tokens are divided into groups. Each group is left out once, and where the two tokenizations differ, the
    difference is charged to the absent tokens. `build` makes a vocabulary of tokens and the reserved bytes.
    """
    whole = Trial(build(tokens), corpus)
    size = len(whole.tokens)
    total, most, here, seen_in = np.zeros(size), np.zeros(size), np.zeros(size), np.full(size, -1)
    order = rng.permutation(len(tokens)).tolist()
    for group in range(groups):
        out = {tokens[place] for place in order[group::groups]}
        if out:
            rest = Trial(build(token for token in tokens if token not in out), corpus)
            absent = np.array([token in out for token in whole.tokens])
            counts.compare(
                whole.ids, whole.ends, whole.spans, rest.ends, rest.spans, absent, corpus.weights, corpus.works,
                total, most, here, seen_in,
            )  # fmt: skip
    costs = dict(zip(whole.tokens, whole._robust(total, most).tolist(), strict=True))
    return {token: costs[token] for token in tokens}
