"""The one loop: prompt ids in, text out, the same on every runtime.

    prefill -> choose -> show -> (stop?) -> decode step -> choose -> ...

No forward call is made after the last token. Text leaves through the tokenizer's stream decoder, and a piece
that may be the beginning of a stop string waits until it is certain.
"""

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from edgekit.errors import ContextError, PromptError
from edgekit.inference.runtime import Logits, Runtime
from edgekit.inference.sampling import Sampler, keep_top_k
from edgekit.settings import Generating
from edgekit.tokenizers.base import Decoder, Tokenizer

if TYPE_CHECKING:
    from edgekit.inference.speculative.speculation import Begin, DraftStats


@dataclass(frozen=True)
class TokenLogprob:
    """A chosen token, its natural log-probability under the model (before the sampler), and the likeliest ones."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass
class Timings:
    """Seconds. `first_token` runs from the call to the first token chosen; `decode` covers the tokens after it."""

    load: float = 0.0
    prefill: float = 0.0
    first_token: float = 0.0
    decode: float = 0.0
    prompt_tokens: int = 0
    new_tokens: int = 0

    @property
    def prefill_rate(self) -> float:
        """Prompt tokens per second."""
        return self.prompt_tokens / self.prefill if self.prefill else 0.0

    @property
    def decode_rate(self) -> float:
        """New tokens per second, the first not counted."""
        return (self.new_tokens - 1) / self.decode if self.decode and self.new_tokens > 1 else 0.0


@dataclass
class Generation:
    """What a call of `generate` gives back."""

    prompt: list[int]
    """The ids that the model saw, BOS included."""
    tokens: list[int] = field(default_factory=list)
    """The ids it added; the last may be the one that ends a text."""
    text: str = ""
    """The text of `tokens`, continuing the prompt's, up to a stop string."""
    finish_reason: str | None = None
    """"stop" (end of text or a stop string), "length" (max_new_tokens or the context) or "cancelled"; None at first."""
    logprobs: list[TokenLogprob] | None = None
    seed: int = 0
    timings: Timings = field(default_factory=Timings)
    draft: "DraftStats | None" = None
    """What speculative decoding did, if there was a draft."""


class Stream(Iterator[str]):
    """The pieces of a text as they come; `result` holds what there is so far, and all of it at the end.

    Closing it, or `cancel()` from another thread, ends the text after the current token.

    Args:
        prompt: ids, held to the context as `fit` says.
        cancelled: asked after each token; True ends the text.
        begin_draft: speculative decoding, from `speculative.draft.begin`; the text is the same with and without.
    """

    def __init__(
        self,
        runtime: Runtime,
        tokenizer: Tokenizer,
        prompt: Sequence[int],
        settings: Generating,
        cancelled: Callable[[], bool] | None = None,
        begin_draft: "Begin | None" = None,
    ):
        self._runtime, self._tokenizer, self._settings = runtime, tokenizer, settings
        self._asked, self._begin_draft = cancelled, begin_draft
        self._stopped = False
        self.result = Generation(fit(prompt, runtime.context_length, settings, tokenizer.bos))
        self._pieces = self._run()

    def __next__(self) -> str:
        return next(self._pieces)

    def cancel(self) -> None:
        """End the text after the current token, with finish_reason "cancelled". Safe from any thread."""
        self._stopped = True

    def close(self) -> None:
        """End the text now; `result` keeps what was said."""
        self._pieces.close()

    def drain(self) -> Generation:
        """Run to the end and return the result."""
        for _ in self:
            pass
        return self.result

    def _run(self) -> Generator[str, None, None]:
        result, settings, runtime, clock = self.result, self._settings, self._runtime, time.perf_counter
        timings, tokens, ends = result.timings, result.tokens, self._tokenizer.stop
        decoder = self._tokenizer.decoder(result.prompt)
        sampler = Sampler(settings, runtime.vocab_size, result.prompt)
        text = StopText(settings.stop)
        result.seed = sampler.seed
        result.logprobs = None if settings.logprobs is None else []
        result.finish_reason = "cancelled"  # what it stays if nobody asks for the rest
        # The last token needs no place in the cache.
        most = min(settings.max_new_tokens, runtime.context_length + 1 - len(result.prompt))
        ahead = None if self._begin_draft is None else self._begin_draft(result.prompt, sampler.seed)
        if ahead is not None:
            result.draft = ahead.stats
        begin = clock()
        runtime.rewind(0)
        logits = runtime.forward(result.prompt)
        timings.prompt_tokens = len(result.prompt)
        timings.prefill = clock() - begin
        first = 0.0
        while True:
            allowed = None
            if settings.ban_replacement:  # no character is begun that cannot be finished in time
                allowed = self._tokenizer.utf8_mask(decoder, most - 1 - len(tokens))
            token = sampler.choose(logits, allowed) if ahead is None else ahead.choose(sampler, logits, allowed)
            now = clock()
            if not first:
                first = now
                timings.first_token = first - begin
            tokens.append(token)
            timings.decode = now - first
            timings.new_tokens = len(tokens)
            if result.logprobs is not None:
                result.logprobs.append(token_logprob(logits, token, settings.logprobs or 0))
            reason = None
            if token in ends:
                piece = text.add("")
                reason = None if settings.ignore_eos else "stop"
            else:
                piece = text.add(decoder.feed(token))
            if reason is None and len(tokens) >= most:
                reason = "length"
            if reason and not text.found:
                piece += text.add(self._rest(decoder)) + text.flush()
            if text.found:
                reason = "stop"
            result.text += piece
            if reason:
                result.finish_reason = reason
                if ahead is not None:
                    ahead.finish(timings.decode)
            if piece:
                yield piece
            if reason:
                return
            if self._stopped or (self._asked and self._asked()):
                if ahead is not None:
                    ahead.finish(timings.decode)
                rest = text.add(self._rest(decoder)) + text.flush()
                result.text += rest
                if rest:
                    yield rest
                return
            logits = runtime.forward([token]) if ahead is None else ahead.after(token, most - len(tokens))

    def _rest(self, decoder: Decoder) -> str:
        """What the decoder still holds; half a character is dropped if no U+FFFD may be printed."""
        rest = decoder.flush()
        return rest.replace("\ufffd", "") if self._settings.ban_replacement else rest


class StopText:
    """Text on its way out, held back while its end may be the beginning of a stop string."""

    def __init__(self, stops: Sequence[str]):
        self._stops = tuple(stops)
        self._held = ""
        self.found = False

    def add(self, piece: str) -> str:
        """The text that is certain now. After a stop string was found, nothing more comes."""
        if not self._stops:
            return piece
        if self.found:
            return ""
        text, found, keep = self._held + piece, -1, 0
        for stop in self._stops:
            at = text.find(stop)
            if at >= 0:
                found = at if found < 0 else min(found, at)
            elif found < 0:
                keep = max(keep, _overlap(text, stop))
        if found >= 0:
            self.found, self._held = True, ""
            return text[:found]
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`, and not all of it."""
    at = max(0, len(text) - len(stop) + 1)
    while (at := text.find(stop[0], at)) >= 0:
        if stop.startswith(text[at:]):
            return len(text) - at
        at += 1
    return 0


def token_logprob(logits: Logits, token: int, top: int) -> TokenLogprob:
    """Natural logarithms, from logits (vocab_size,); the `top` likeliest in descending order, lower ids first."""
    highest = logits.max().item()
    weights = logits.astype(np.float64)
    weights -= highest
    below = math.log(np.exp(weights, out=weights).sum())

    def logprob(id: int) -> float:
        return logits[id].item() - highest - below

    if not top:
        return TokenLogprob(token, logprob(token))
    ids = keep_top_k(logits, top)
    likeliest = ids[np.argsort(-logits[ids], kind="stable")][:top].tolist()
    return TokenLogprob(token, logprob(token), tuple((id, logprob(id)) for id in likeliest))


def fit(prompt: Sequence[int], context_length: int, settings: Generating, bos: int | None) -> list[int]:
    """The prompt, held to the context.

    With `truncate="left"` a prompt that is too long loses its beginning (not its BOS), so far that
    `max_new_tokens` fit behind it, or half the context if they are more than that.

    Raises:
        PromptError: no ids at all.
        ContextError: more ids than the context holds, and no leave to truncate.
    """
    prompt = [int(token) for token in prompt]
    if not prompt:
        raise PromptError("the prompt is empty: give the model at least one character to go on from")
    if len(prompt) <= context_length:
        return prompt
    if settings.truncate != "left":
        raise ContextError(
            f"the prompt has {len(prompt)} tokens, but the model's context holds {context_length}: "
            "shorten it, or use --truncate left to drop its beginning"
        )
    keep = max(context_length - settings.max_new_tokens, context_length // 2, 1)
    head = prompt[:1] if prompt[0] == bos and keep > 1 else []
    return head + prompt[len(prompt) - (keep - len(head)) :]
