"""The generation loop: prompt ids in, tokens and text out, the same on every runtime.

    prefill -> choose -> yield -> (stop?) -> decode step -> choose -> ...

No forward call is made after the last token. Text goes through the tokenizer's streaming decoder, and a piece
that may be the beginning of a stop string waits until it is certain.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgekit.errors import ContextError, PromptError
from edgekit.inference.engine_sampler import ChoosesTokens, EngineSampler
from edgekit.inference.runtime import Runtime
from edgekit.inference.samplers import TextSampler, new_sampler
from edgekit.settings import Generating
from edgekit.tokenizers.base import Decoder, Tokenizer
from edgekit.utils.lazy import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.inference.runtime import Logits
    from edgekit.inference.speculative.speculation import Begin, DraftStats

PART = 256
"""Prompt tokens per forward call of a stream that can be cancelled: 50 ms of a model of 7 million parameters."""


@dataclass(frozen=True)
class TokenLogprob:
    """A chosen token and its natural log-probability under the model, before the sampler."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest ids and their log-probabilities, in descending order."""


@dataclass
class Timings:
    """Seconds. `first_token` runs from the call to the first token chosen; `decode` covers the tokens after it."""

    load: float = 0.0
    prefill: float = 0.0
    first_token: float = 0.0
    decode: float = 0.0
    prompt_tokens: int = 0
    new_tokens: int = 0
    reused_tokens: int = 0
    """Those of the prompt that were in the cache already: `prefill` is the time of the others."""

    @property
    def prefill_rate(self) -> float:
        """Prompt tokens per second, of those that were read."""
        return (self.prompt_tokens - self.reused_tokens) / self.prefill if self.prefill else 0.0

    @property
    def decode_rate(self) -> float:
        """New tokens per second, the first not counted."""
        return (self.new_tokens - 1) / self.decode if self.decode and self.new_tokens > 1 else 0.0


@dataclass
class Generation:
    """The result of `generate`."""

    prompt: list[int]
    """The ids that were fed to the model, BOS included."""
    tokens: list[int] = field(default_factory=list)
    """The new ids; the last may be one that ends a text."""
    text: str = ""
    """The text of `tokens`, without the prompt's, up to a stop string."""
    finish_reason: str | None = None
    """"stop" (end of text or a stop string), "length" (max_new_tokens or the context) or "cancelled"; None at first."""
    logprobs: list[TokenLogprob] | None = None
    seed: int = 0
    timings: Timings = field(default_factory=Timings)
    draft: DraftStats | None = None
    """Statistics of speculative decoding, if there was a draft."""
    dropped_messages: int = 0
    """How many of a conversation's oldest messages were left out, because the context does not hold all."""


@dataclass(frozen=True)
class Distribution:
    """What a token was drawn from, after the whole sampler chain: penalty, bias, bans, temperature and filters."""

    ids: NDArray[np.intp]
    """(n,), ascending. At temperature 0 the likeliest id alone."""
    probabilities: NDArray[np.float64]
    """(n,), above 0; they sum to 1."""

    def probability(self, token: int) -> float:
        """0 for a token that the sampler filtered out."""
        index = int(self.ids.searchsorted(token))
        return float(self.probabilities[index]) if index < self.ids.size and self.ids[index] == token else 0.0


@dataclass(slots=True)
class Step:
    """One new token, as `Stream.steps` yields it."""

    token: int
    text: str
    """The text that became certain with it: `""` while a character, or what may be a stop string, is unfinished."""
    logprob: TokenLogprob | None
    """Under the model, before the sampler; None unless the setting `logprobs` asks for it."""
    distribution: Distribution | None
    """None unless `steps` was asked for it."""
    forward_seconds: float
    """Time of the forward call that gave its logits, drafting included; of the whole prompt for the first token.
    The sampler's time is in it where the C engine reads and chooses."""


class Stream(Iterator[str]):
    """A text being generated. Iterate for its pieces, or over `steps()` for its tokens; `result` has all of it so far.

    There is one loop: `steps()` yields tokens, `__iter__` the pieces of text in them, `drain()` runs to the end.
    `cancel()` from any thread ends the text after the current token; `close()` ends it now.

    Args:
        prompt: ids, cut to the context as `fit` does.
        cancelled: called after each token, and after each part of a long prompt; True ends the text.
        begin_draft: speculative decoding, from `speculative.begin.begin`; the text is the same with and without.
        ends: more ids that end the text; those of `tokenizer.stop` always do.
        cache: what the runtime's cache holds, shared by all streams of this runtime.
        reuse: keep the beginning of the prompt that is in `cache`, and read only the rest.
    """

    def __init__(
        self,
        runtime: Runtime,
        tokenizer: Tokenizer,
        prompt: Sequence[int],
        settings: Generating,
        cancelled: Callable[[], bool] | None = None,
        begin_draft: Begin | None = None,
        *,
        ends: Collection[int] = (),
        cache: PromptCache | None = None,
        reuse: bool = False,
    ):
        self._runtime, self._tokenizer, self._settings = runtime, tokenizer, settings
        self._cancelled, self._begin_draft = cancelled, begin_draft
        self._ends = tokenizer.stop.union(ends)
        self._cache, self._reuse = cache or PromptCache(runtime), reuse
        self._stopped = False
        self._distributions = False
        self._rest = ""  # text that belongs to no step, after `cancel`
        self.result = Generation(fit(prompt, runtime.context_length, settings, tokenizer.bos))
        self._steps = self._loop()

    @property
    def runtime(self) -> Runtime:
        """Where the text is generated."""
        return self._runtime

    def steps(self, *, distribution: bool = False) -> Iterator[Step]:
        """The tokens, one by one, each as soon as it is chosen. No forward call is made before the next is asked for.

        The texts of the steps, joined, are `result.text`, unless the stream is cancelled: what was kept back then is
        in `result.text` alone. Once the last step is there, `result` is complete.

        Args:
            distribution: with the distribution after the sampler, for one more pass through the sampler per token.

        Raises:
            SettingError: every token is banned, or the logits are not finite.
            RuntimeFailure: the backend failed.
        """
        self._distributions = distribution
        return self._steps

    def __next__(self) -> str:
        for step in self._steps:
            if step.text:
                return step.text
        rest, self._rest = self._rest, ""
        if not rest:
            raise StopIteration
        return rest

    def cancel(self) -> None:
        """End the text after the current token, with finish_reason "cancelled". Safe from any thread."""
        self._stopped = True

    def close(self) -> None:
        """End the text now; `result` keeps what was generated so far."""
        self._steps.close()

    def drain(self) -> Generation:
        """Run to the end and return the result."""
        for _ in self._steps:
            pass
        return self.result

    def _loop(self) -> Generator[Step, None, None]:
        result, settings, runtime, clock = self.result, self._settings, self._runtime, time.perf_counter
        timings, tokens, ends = result.timings, result.tokens, self._ends
        decoder = self._tokenizer.decoder(result.prompt)
        sampler = new_sampler(settings, runtime.vocab_size, result.prompt, self._ends)
        text = StopText(settings.stop)
        result.seed = sampler.seed
        result.logprobs = None if settings.logprobs is None else []
        result.finish_reason = "cancelled"  # unless it is replaced below
        # The last token needs no place in the cache.
        limit = min(settings.max_new_tokens, runtime.context_length + 1 - len(result.prompt))
        speculation = None if self._begin_draft is None else self._begin_draft(result.prompt, sampler.seed)
        if speculation is not None:
            result.draft = speculation.stats
        begin = clock()
        # The last token is always read: its logits are needed.
        timings.reused_tokens = self._cache.shared(result.prompt[:-1]) if self._reuse else 0
        runtime.rewind(timings.reused_tokens)
        self._cache.set(result, drafts=speculation is not None)
        rest = self._read_first(result.prompt[timings.reused_tokens :])
        if not rest:
            return
        choose = self._chooser(sampler) if speculation is None else None
        chosen: int | None = None
        if choose is not None:
            chosen = choose(rest, self._allowed(decoder, limit))
        else:
            logits = runtime.forward(rest)
        timings.prompt_tokens = len(result.prompt)
        timings.prefill = forward_seconds = clock() - begin
        first = 0.0
        while True:
            distribution = None
            if chosen is not None:
                token = chosen
            else:
                allowed = self._allowed(decoder, limit)
                if self._distributions:
                    distribution = Distribution(*sampler.distribution(logits, allowed))
                if speculation is None:
                    token = sampler.choose(logits, allowed)
                else:
                    token = speculation.choose(sampler, logits, allowed)
            now = clock()
            if not first:
                first = now
                timings.first_token = first - begin
            tokens.append(token)
            timings.decode = now - first
            timings.new_tokens = len(tokens)
            if speculation is not None:
                speculation.stats.seconds = timings.decode
            logprob = None
            if result.logprobs is not None:
                logprob = token_logprob(logits, token, settings.logprobs or 0)
                result.logprobs.append(logprob)
            reason = None
            if token in ends:
                piece = text.add("")
                reason = None if settings.ignore_eos else "stop"
            else:
                piece = text.add(decoder.feed(token))
            if reason is None and len(tokens) >= limit:
                reason = "length"
            if reason and not text.found:
                piece += text.add(self._flush(decoder)) + text.flush()
            if text.found:
                reason = "stop"
            result.text += piece
            if reason:
                result.finish_reason = reason
                if speculation is not None:
                    speculation.finish(timings.decode)
            yield Step(token, piece, logprob, distribution, forward_seconds)
            if reason:
                return
            if self._stopped or (self._cancelled and self._cancelled()):
                if speculation is not None:
                    speculation.finish(timings.decode)
                self._rest = text.add(self._flush(decoder)) + text.flush()
                result.text += self._rest
                return
            begin_forward = clock()
            if choose is not None:
                chosen = choose([token], self._allowed(decoder, limit))
            elif speculation is None:
                logits = runtime.forward([token])
            else:
                logits = speculation.after(token, limit - len(tokens))
            forward_seconds = clock() - begin_forward

    def _read_first(self, prompt: list[int]) -> list[int]:
        """Read a long prompt of a stream that can be cancelled but for its last part. Returns that; [] if cancelled."""
        if self._cancelled is None:
            return prompt
        while len(prompt) > PART:
            if self._stopped or self._cancelled():
                return []
            self._runtime.forward(prompt[:PART])
            prompt = prompt[PART:]
        return prompt

    def _allowed(self, decoder: Decoder, limit: int) -> NDArray[np.bool_] | None:
        """The ids that may come next, or None for all: with `ban_replacement` none that begins a character which cannot
        be finished in time."""
        if not self._settings.ban_replacement:
            return None
        return self._tokenizer.utf8_mask(decoder, limit - 1 - len(self.result.tokens))

    def _chooser(self, sampler: TextSampler) -> Callable[[Sequence[int], NDArray[np.bool_] | None], int] | None:
        """Reads tokens and chooses the next in C; None if Python needs the logits, or the runtime cannot."""
        runtime = self._runtime
        if self._distributions or self.result.logprobs is not None or not isinstance(runtime, ChoosesTokens):
            return None
        if not isinstance(sampler, EngineSampler) or not sampler.chooses_in_steps:
            return None

        def choose(tokens: Sequence[int], allowed: NDArray[np.bool_] | None) -> int:
            if len(tokens) == 1:
                return runtime.step(tokens[0], sampler, allowed)
            return runtime.prefill(tokens, sampler, allowed)

        return choose

    def _flush(self, decoder: Decoder) -> str:
        """The text still inside the decoder; half a character is dropped if no U+FFFD may be printed."""
        rest = decoder.flush()
        return rest.replace("\ufffd", "") if self._settings.ban_replacement else rest


class PromptCache:
    """What a runtime's cache holds: the text that was generated with it last."""

    def __init__(self, runtime: Runtime):
        self._runtime = runtime
        self._last: Generation | None = None
        self._drafts = False

    def set(self, last: Generation, *, drafts: bool) -> None:
        """From now on the cache holds this text, as far as it is generated. `drafts`: with guesses after it."""
        self._last, self._drafts = last, drafts

    def clear(self) -> None:
        """For code that uses the runtime without a `Stream`."""
        self._last = None

    def shared(self, prompt: Sequence[int]) -> int:
        """How many tokens at the beginning of `prompt` the cache holds."""
        if self._last is None:
            return 0
        held = [*self._last.prompt, *self._last.tokens[:-1]]  # the last token was not read
        length = self._runtime.length
        if length < len(held) or (length > len(held) and not self._drafts):
            return 0  # something else has used the runtime
        pairs = zip(held, prompt, strict=False)
        return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(held), len(prompt)))


class StopText:
    """Text on its way out, kept back while its end may be the beginning of a stop string.

    Attributes:
        found: a stop string came; the text ends before it.
    """

    def __init__(self, stops: Sequence[str]):
        self._stops = tuple(stops)
        self._pending = ""
        self.found = False

    def add(self, piece: str) -> str:
        """The text that is certain now; nothing once a stop string was found."""
        if not self._stops:
            return piece
        if self.found:
            return ""
        text, end, keep = self._pending + piece, -1, 0
        for stop in self._stops:
            at = text.find(stop)
            if at >= 0:
                end = at if end < 0 else min(end, at)
            elif end < 0:
                keep = max(keep, _overlap(text, stop))
        if end >= 0:
            self.found, self._pending = True, ""
            return text[:end]
        self._pending = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """What was kept back, at the end of the text."""
        pending, self._pending = self._pending, ""
        return pending


def _overlap(text: str, stop: str) -> int:
    """Length of the longest suffix of `text` that is a proper prefix of `stop`."""
    at = max(0, len(text) - len(stop) + 1)
    while (at := text.find(stop[0], at)) >= 0:
        if stop.startswith(text[at:]):
            return len(text) - at
        at += 1
    return 0


def token_logprob(logits: Logits, token: int, top: int) -> TokenLogprob:
    """Natural log-probabilities from float32 logits (vocab_size,).

    `top`: how many of the likeliest ids to list, in descending order; of equals the lower id first.
    """
    highest = logits.max().item()
    weights = logits.astype(np.float64)
    weights -= highest
    below = math.log(np.exp(weights, out=weights).sum())

    def logprob(id: int) -> float:
        return logits[id].item() - highest - below

    if not top:
        return TokenLogprob(token, logprob(token))
    from edgekit.inference.sampling import keep_top_k  # numpy at once

    ids = keep_top_k(logits, top)
    likeliest = ids[np.argsort(-logits[ids], kind="stable")][:top].tolist()
    return TokenLogprob(token, logprob(token), tuple((id, logprob(id)) for id in likeliest))


def fit(prompt: Sequence[int], context_length: int, settings: Generating, bos: int | None) -> list[int]:
    """The prompt's ids, cut to the context.

    With `truncate="left"` a prompt that is too long loses its beginning, but not its BOS, until `max_new_tokens`
    fit after it, or half the context if they are more than that.

    Raises:
        PromptError: no ids at all.
        ContextError: more ids than the context holds, and `truncate` is not set.
    """
    prompt = [int(token) for token in prompt]
    if not prompt:
        raise PromptError("the prompt is empty: give the model at least one character to continue from")
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
