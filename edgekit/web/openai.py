"""What OpenAI's endpoints share: fields of a body, work in the model's thread, and how its events become choices."""

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response as HTTPResponse

from edgekit.inference.generate import Stream, TokenLogprob
from edgekit.model import Model
from edgekit.settings import LARGEST
from edgekit.tokenizers.base import Tokenizer
from edgekit.web import responses
from edgekit.web.models import Entry
from edgekit.web.state import AppState
from edgekit.web.validation import Fields, RequestError, shown
from edgekit.web.worker import Job

MAX_LOGPROBS = 20
MAX_N = 128
NO_LIMIT = 1 << 31
"""As a number of tokens: until the context is full."""
LEAST = -9999.0
"""In place of minus infinity, which JSON does not have."""


@dataclass(frozen=True)
class Params:
    """What the bodies of both endpoints say."""

    entry: Entry
    runtime: str
    settings: dict[str, Any]
    n: int
    """Choices for each prompt."""
    logprobs: int | None
    """How many of the likeliest tokens to list at each position; None: no log-probabilities at all."""
    stream: bool
    usage: bool
    """Whether a stream ends with a chunk that has the token counts."""


# -----------------------------------------------------------------------------
# fields


def model(fields: Fields, state: AppState) -> tuple[Entry, str]:
    """The fields `model` and `runtime`; where only one model is loaded, any name means it.

    Raises `RequestError` (400, 404).
    """
    name = fields.text("model")
    entry = state.pool.first if len(state.pool.entries) == 1 else state.pool.find(name)
    return entry, state.pool.runtime(entry, fields.text("runtime"))


def sampling(fields: Fields) -> dict[str, Any]:
    """Settings under the names that both endpoints have, in the spellings that clients use for "not set"."""
    fields.replace("seed", -1, None)  # llama.cpp's clients: a new one each time
    fields.replace("top_k", -1, 0)  # vLLM's: off
    stop = fields.left.get("stop")
    if stop == "" or isinstance(stop, list):
        fields.left["stop"] = [text for text in stop if text != ""]  # lm-eval's for a model without EOS
    settings: dict[str, Any] = {}
    for name in (
        "temperature", "top_p", "seed", "stop", "presence_penalty", "frequency_penalty",
        "repetition_penalty", "top_k", "min_p", "ignore_eos", "no_repeat_ngram_size", "suppress_tokens",
        "bad_words_ids", "exponential_decay_length_penalty",
    ):  # fmt: skip
        settings |= fields.setting(name)
    return settings | _bias(fields.take("logit_bias"))


def _bias(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise RequestError("logit_bias must be an object of token ids and numbers", "logit_bias")
    biases = {}
    for id, bias in value.items():
        if not (id.isascii() and id.isdecimal() and len(id) < 10):
            raise RequestError(f"logit_bias: {shown(id)} is not a token id", "logit_bias")
        if isinstance(bias, bool) or not isinstance(bias, int | float) or not -100 <= bias <= 100:
            raise RequestError(f"logit_bias of {id} must be a number from -100 to 100, not {shown(bias)}", "logit_bias")
        biases[int(id)] = float(bias)
    return {"logit_bias": biases}


def max_tokens(fields: Fields, name: str, low: int) -> int | None:
    """A limit of new tokens; -1 is none, as for llama.cpp's clients."""
    fields.replace(name, -1, NO_LIMIT)
    return fields.integer(name, low, NO_LIMIT)


def stream_options(fields: Fields, stream: bool) -> bool:
    """The fields of `stream_options`; returns `include_usage`."""
    value = fields.take("stream_options")
    if value is None:
        return False
    if not stream or not isinstance(value, dict):
        raise RequestError("stream_options must be an object, and needs stream: true", "stream_options")
    options = Fields.of(value)
    usage = options.flag("include_usage")
    options.flag("include_obfuscation")  # padding against eavesdroppers on a network; there is none here
    options.done()
    return usage


def seeded(settings: dict[str, Any], choice: int) -> dict[str, Any]:
    """The settings of one of `n` choices: with a seed, each has its own, counted up from it."""
    seed = settings.get("seed")
    return settings if seed is None else settings | {"seed": (seed + choice) % (LARGEST + 1)}


# -----------------------------------------------------------------------------
# in the worker's thread


@dataclass
class TopToken:
    """A token as the responses name it."""

    text: str
    logprob: float
    bytes: list[int] | None
    """None for a special token."""


@dataclass
class TokenEntry:
    """A token's log-probability; `offset` is in characters of the new text, or of the prompt if it is echoed."""

    token: TopToken
    top: list[TopToken]
    """The likeliest, in descending order."""
    offset: int
    first: bool = False
    """The first token of a prompt: it has no probability."""


@dataclass
class StartEvent:
    """The first event of a choice: the prompt has been read, and a token was chosen if there is to be one."""

    index: int
    prompt: str = ""
    """Its text, as it was sent or decoded from its ids."""
    tokens: list[TokenEntry] = field(default_factory=list)
    """Its log-probabilities, if it is echoed with them."""


@dataclass
class TokenEvent:
    """A token of a choice, and the text that became certain with it."""

    index: int
    text: str
    token: TokenEntry | None


@dataclass
class EndEvent:
    """The last event of a choice; `text` is all of its new text."""

    index: int
    text: str
    reason: str


@dataclass
class UsageEvent:
    """The last event of a request."""

    prompt_tokens: int
    new_tokens: int
    cached_tokens: int | None = None
    """Those of the prompt that were not read again; None where nothing is reused."""
    dropped_messages: int | None = None
    """Messages that were left out; None where none may be."""

    def record(self) -> dict[str, Any]:
        """The field `usage`."""
        details = {} if self.cached_tokens is None else {"prompt_tokens_details": {"cached_tokens": self.cached_tokens}}
        dropped = {} if self.dropped_messages is None else {"dropped_messages": self.dropped_messages}
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.new_tokens,
            "total_tokens": self.prompt_tokens + self.new_tokens,
            **details,
            **dropped,
        }


Event = StartEvent | TokenEvent | EndEvent | UsageEvent


def run(stream: Stream, start: StartEvent, model: Model, state: AppState, job: Job) -> int:
    """Generate one choice and emit its events, `start` with its first token. Returns the number of new tokens."""
    result, offset = stream.result, 0
    decoder = model.tokenizer.decoder(result.prompt)
    with state.counting(stream, job):
        for step in stream.steps():
            if len(result.tokens) == 1:  # until then an error of the first choice is still an HTTP status
                job.emit(start)
            entry = None
            if step.logprob is not None:
                entry = token_entry(step.logprob, offset, model.tokenizer)
                offset += len(decoder.feed(step.token)) if step.token not in model.tokenizer.stop else 0
            job.emit(TokenEvent(start.index, step.text, entry))
    job.emit(EndEvent(start.index, result.text, result.finish_reason or "stop"))
    return len(result.tokens)


def token_entry(chosen: TokenLogprob, offset: int, tokenizer: Tokenizer) -> TokenEntry:
    def named(id: int, logprob: float) -> TopToken:
        text, raw = tokenizer.piece(id), tokenizer.token_bytes[id]
        # A token that is part of a character has no text of its own, but bytes.
        whole = None if not raw else list(raw if "\ufffd" in text else text.encode())
        return TopToken(text, max(logprob, LEAST), whole)

    return TokenEntry(named(chosen.token, chosen.logprob), [named(*each) for each in chosen.top], offset)


# -----------------------------------------------------------------------------
# on the event loop


class Text:
    """The text and log-probabilities of one choice, as they are sent: a token with the text in which its own begins."""

    def __init__(self) -> None:
        self._length = 0
        self._waiting: list[TokenEntry] = []

    def add(self, event: TokenEvent) -> tuple[str, list[TokenEntry]]:
        """What can be sent now."""
        self._length += len(event.text)
        self._waiting += [event.token] if event.token else []
        ready = [token for token in self._waiting if token.offset < self._length]
        self._waiting = self._waiting[len(ready) :]
        return event.text, ready

    def end(self, event: EndEvent) -> tuple[str, list[TokenEntry]]:
        """What was kept back until the end: half a character, EOS, and tokens that a stop string cut off."""
        text, left = event.text[self._length :], self._waiting
        for token in left:
            token.offset = min(token.offset, len(event.text))
        return text, left


class Response(ABC):
    """One response; `kind` is the beginning of its id."""

    def __init__(self, params: Params, kind: str):
        self._params = params
        self._id, self._created = f"{kind}-{uuid.uuid4().hex}", int(time.time())
        self._texts: dict[int, Text] = {}

    def text(self, index: int) -> Text:
        """That of a choice."""
        return self._texts.setdefault(index, Text())

    def record(self, object: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._id, "object": object, "created": self._created, "model": self._params.entry.id,
            "choices": choices,
        }  # fmt: skip

    @abstractmethod
    def chunks(self, event: Event) -> Iterable[dict[str, Any]]:
        """The chunks that a stream sends for an event."""

    @abstractmethod
    def whole(self, events: Sequence[Any]) -> dict[str, Any]:
        """The response without `stream`."""

    def usage(self, event: UsageEvent, object: str) -> Iterator[dict[str, Any]]:
        """The last chunk of a stream, if it was asked for."""
        if self._params.usage:
            yield self.record(object, []) | {"usage": event.record()}


async def respond(
    request: Request, params: Params, work: Callable[[Job], None], response: Response, state: AppState
) -> HTTPResponse:
    """Run a job and send its response, as a stream or whole."""
    events = state.events(request, work)
    if not params.stream:
        collected = await responses.collect(events)
        return responses.json_response(None if collected is None else response.whole(collected))
    return await responses.stream_response(
        events, response.chunks, lambda error: error.body("/v1/"), "[DONE]", state.settings.time_limit
    )
