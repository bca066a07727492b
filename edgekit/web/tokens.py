"""A text as it comes, token by token, with what the model thought of each before the sampler and after it.

The loop is `edgekit.generate`'s own, so the tokens are those of `generate`: it asks after each token whether to go on,
and that is where it is listened to. Logits are seen on their way out of the runtime.
"""

import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.inference.generate import Generation, TokenLogprob, token_logprob
from edgekit.inference.runtime import Logits, Runtime
from edgekit.inference.sampling import Sampler
from edgekit.model import Model
from edgekit.tokenizers.base import Tokenizer

CHUNK = 64
"""Prompt tokens whose logits are in memory at once: 2 MB at a vocabulary of 8,000."""


@dataclass(frozen=True)
class After:
    """What a token was drawn from: ascending ids (n,) and their probabilities (n,)."""

    ids: NDArray[np.intp]
    probabilities: NDArray[np.float64]

    def of(self, token: int) -> float:
        """0 for a token that the sampler filtered out."""
        place = int(self.ids.searchsorted(token))
        return float(self.probabilities[place]) if place < self.ids.size and self.ids[place] == token else 0.0


@dataclass(frozen=True)
class Step:
    """One new token."""

    place: int
    """0 for the first."""
    token: int
    text: str
    """What of the text became certain with it."""
    start: int
    """Characters of the new text before it; 0 without logprobs."""
    logprob: TokenLogprob | None
    """Under the model, with the likeliest beside it; None if nobody asked."""
    after: After | None = None
    """After the whole sampler chain; None if nobody asked."""


class Watched:
    """A runtime whose logits are kept until they are taken."""

    def __init__(self, runtime: Runtime):
        self._runtime = runtime
        self.rows: list[Logits] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime, name)

    def forward(self, tokens: Sequence[int], *, every: bool = False) -> Logits:
        logits = self._runtime.forward(tokens, every=every)
        self.rows = [logits] if not every else list(logits)
        return logits


class Steps:
    """One text.

    Args:
        model: as it was loaded.
        prompt: ids.
        settings: of `Generating`, where they differ from the model's defaults. Without a seed one is drawn.
        tell: called with each `Step`.
        cancelled: asked after each token.
        after: whether steps have probabilities after the sampler, which costs one more pass through it.

    Raises:
        EdgekitError: as `Model.stream`.
    """

    def __init__(
        self,
        model: Model,
        prompt: Sequence[int],
        settings: dict[str, Any],
        tell: Callable[[Step], None],
        cancelled: Callable[[], bool],
        *,
        after: bool = False,
    ):
        wanted = dataclasses.replace(model.defaults, **settings)
        if wanted.seed is None:
            wanted = dataclasses.replace(wanted, seed=int.from_bytes(os.urandom(4)))
        self.seed: int = wanted.seed or 0
        self._tell, self._cancelled, self._tokenizer = tell, cancelled, model.tokenizer
        self._runtime = Watched(model.runtime)
        self._stream = Model(self._runtime, model.tokenizer, wanted).stream(prompt, cancelled=self._more)
        self.result = self._stream.result
        self.prompt = self.result.prompt
        self._shadow = Sampler(wanted, model.runtime.vocab_size, self.prompt) if after else None
        self._decoder = model.tokenizer.decoder(self.prompt)
        self._told, self._length, self._start = 0, 0, 0

    def run(self) -> Generation:
        """To the end. What the text still held back when it ended belongs to no step, only to the result."""
        self._stream.drain()
        self._new()
        return self.result

    def _more(self) -> bool:
        self._new()
        return self._cancelled()

    def _new(self) -> None:
        """Tell what came since the last time: one token, in the plain loop."""
        result, first = self.result, self._told
        if first == len(result.tokens):
            return
        self._told = len(result.tokens)
        text, self._length = result.text[self._length :], len(result.text)
        for place in range(first, self._told):
            token, last = result.tokens[place], place == self._told - 1
            after = self._after(self._runtime.rows[place - first]) if self._shadow else None
            logprob = result.logprobs[place] if result.logprobs is not None else None
            start = self._start
            if logprob is not None and token not in self._tokenizer.stop:
                self._start += len(self._decoder.feed(token))
            self._tell(Step(place, token, text if last else "", start, logprob, after))

    def _after(self, logits: Logits) -> After:
        """What the token was drawn from; the shadow then draws it too, and so remembers it."""
        assert self._shadow is not None
        found = After(*self._shadow.distribution(logits))
        self._shadow.choose(logits)
        return found


def prompt_logprobs(runtime: Runtime, prompt: Sequence[int], top: int) -> list[TokenLogprob | None]:
    """Of each token of a prompt, given those before it; None for the first. The runtime forgets what it held."""
    found: list[TokenLogprob | None] = [None]
    runtime.rewind(0)
    for begin in range(0, len(prompt) - 1, CHUNK):
        rows = runtime.forward(prompt[begin : min(begin + CHUNK, len(prompt) - 1)], every=True)
        found += [token_logprob(row, token, top) for row, token in zip(rows, prompt[begin + 1 :], strict=False)]
    return found


class Pieces:
    """What single tokens read as: in the middle of a text, and specials by their spelling. Remembered."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._context = tokenizer.encode("a")  # so that nothing is stripped or capitalised as at a beginning
        spelled = tokenizer.facts().get("specials") or {}
        self._known: dict[int, str] = {id: text for text, id in spelled.items() if isinstance(id, int)}

    def __call__(self, token: int) -> str:
        if token not in self._known:
            decoder = self._tokenizer.decoder(self._context)
            self._known[token] = decoder.feed(token) + decoder.flush()
        return self._known[token]
