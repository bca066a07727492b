"""Rules of a model's generation config that change logits: repeated n-grams, bad words, suppressed ids, length.

Order and meaning are those of transformers' `generation/logits_process.py`, as `generate` chains them between the
repetition penalty and the temperature.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

from edgekit.errors import SettingError
from edgekit.settings import Sampling
from edgekit.utils.lazy import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST = 1e30
"""The largest factor of the length penalty: beyond it nothing but the end can follow."""


NO_RULES: dict[str, Any] = {
    "no_repeat_ngram_size": 0,
    "suppress_tokens": (),
    "bad_words_ids": (),
    "exponential_decay_length_penalty": None,
}
"""Settings without the rules of `Processors`: a draft only guesses, and has other ids."""


class Processors:
    """The rules of one text, which follow its ids.

    Args:
        settings: `no_repeat_ngram_size`, `bad_words_ids`, `exponential_decay_length_penalty`, `suppress_tokens`.
        vocab_size: length of the logits.
        ends: ids that end the text. `bad_words_ids` cannot ban them, and the length penalty raises them.
        prompt: ids of the prompt.

    Raises:
        SettingError: an id of `bad_words_ids` is outside the vocabulary.
    """

    def __init__(self, settings: Sampling, vocab_size: int, ends: Collection[int], prompt: Iterable[int]) -> None:
        for token in (token for word in settings.bad_words_ids for token in word):
            if not 0 <= token < vocab_size:
                raise SettingError(f"bad_words_ids: token id {token} is outside the vocabulary of {vocab_size}")
        self._size = settings.no_repeat_ngram_size
        words = [tuple(word) for word in settings.bad_words_ids]
        self._never = np.array([w[0] for w in words if len(w) == 1 and w[0] not in ends], np.intp)
        self._words = [word for word in words if len(word) > 1]
        # As transformers compares them with the ids that there are: one outside the vocabulary bans nothing.
        self._suppressed = np.array([id for id in settings.suppress_tokens if 0 <= id < vocab_size], np.intp)
        self._decay = settings.exponential_decay_length_penalty
        self._ends = np.array(sorted(id for id in ends if 0 <= id < vocab_size), np.intp)
        self._ids: list[int] = []
        self._next: dict[tuple[int, ...], list[int]] = {}
        """The ids that came after each n - 1 ids."""
        for token in prompt:
            self.append(token)
        self._prompt = len(self._ids)

    @staticmethod
    def needed(settings: Sampling) -> bool:
        """Whether the settings have any of these rules."""
        decay = settings.exponential_decay_length_penalty is not None
        return bool(settings.no_repeat_ngram_size or settings.bad_words_ids or settings.suppress_tokens or decay)

    def append(self, token: int) -> None:
        """Add an id to the text."""
        self._ids.append(token)
        if self._size and len(self._ids) >= self._size:
            self._next.setdefault(self._before(len(self._ids) - 1), []).append(token)

    def truncate(self, length: int) -> None:
        """Keep the first `length` ids of the new text."""
        while len(self._ids) > self._prompt + length:
            if self._size and len(self._ids) >= self._size:
                self._next[self._before(len(self._ids) - 1)].pop()
            self._ids.pop()

    def apply(self, logits: NDArray[np.float32]) -> None:
        """Change the logits of the next id, (vocab_size,), in place."""
        ids = self._ids
        if self._size and len(ids) + 1 >= self._size:
            logits[self._next.get(self._before(len(ids)), [])] = -np.inf
        logits[self._never] = -np.inf
        for word in self._words:
            # transformers begins with a context as long as the whole word.
            if len(word) <= len(ids) and tuple(ids[1 - len(word) :]) == word[:-1]:
                logits[word[-1]] = -np.inf
        if self._decay is not None and (over := len(ids) - self._prompt - int(self._decay[0])) > 0:
            try:
                rise = min(float(self._decay[1]) ** over - 1, MOST)
            except OverflowError:
                rise = MOST
            ends = self._ends[np.isfinite(logits[self._ends])]  # transformers makes a banned one NaN
            logits[ends] += np.abs(logits[ends]) * np.float32(rise)
        logits[self._suppressed] = -np.inf

    def _before(self, at: int) -> tuple[int, ...]:
        """The n - 1 ids before a position."""
        return tuple(self._ids[at - self._size + 1 : at])
