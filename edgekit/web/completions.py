"""OpenAI's legacy completions: POST /v1/completions, GET /v1/models, GET /v1/models/ID.

    prompt              a text, token ids, or a list of one of these
    max_tokens          as OpenAI's 16 by default; 0 adds nothing, for scoring a prompt with `echo` and `logprobs`
    temperature, top_p, seed, stop      absent or null: the model's own defaults, not OpenAI's 1 and 1
    repetition_penalty, top_k, min_p, ignore_eos    as `edgekit run` has them
    logprobs            0 to 5 likeliest tokens beside each, natural logarithms under the model, before the sampler
    echo, stream, stream_options.include_usage, logit_bias, user
    n, best_of          1; suffix none; presence_penalty, frequency_penalty 0: any other value is refused, as are
                        fields that are not named here

Of `logprobs`: `tokens` are what each token alone reads as (specials by their spelling), `text_offset` counts characters
from the beginning of the prompt, echoed or not; where text is cut at a stop string, tokens after the cut are left out.
In `top_logprobs` the chosen token is there too; of two tokens that read the same, the likelier has the place. The
prompt's first token has no probability: null.
"""

import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from edgekit.inference.generate import TokenLogprob
from edgekit.settings import is_whole
from edgekit.web import responses
from edgekit.web.models import Entry, Opened
from edgekit.web.state import AppState
from edgekit.web.tokens import prompt_logprobs
from edgekit.web.validation import Fields, Refused, is_ids, shown
from edgekit.web.worker import Job

MAX_TOKENS = 16
MOST_LOGPROBS = 5
LEAST = -9999.0
"""Stands for minus infinity, which JSON has no word for."""


@dataclass(frozen=True)
class Asked:
    """The body of POST /v1/completions."""

    entry: Entry
    prompt: str | list[int]
    settings: dict[str, Any]
    max_tokens: int
    logprobs: int | None
    echo: bool
    stream: bool
    usage: bool
    """Whether a stream ends in a chunk with the counts."""


def read(data: bytes, house: AppState) -> Asked:
    """Raises `Refused`, naming the field."""
    fields = Fields(data)
    entry = house.shelf.find(fields.text("model"))
    prompt = _prompt(fields.take("prompt"))
    settings: dict[str, Any] = {}
    for name in ("temperature", "top_p", "seed", "stop", "repetition_penalty", "top_k", "min_p", "ignore_eos"):
        settings |= fields.setting(name)
    settings |= _bias(fields.take("logit_bias"))
    most = fields.whole("max_tokens", 0, 1 << 31)
    logprobs = fields.whole("logprobs", 0, MOST_LOGPROBS)
    echo, stream = fields.flag("echo"), fields.flag("stream")
    usage = _stream_options(fields.take("stream_options"), stream)
    for name in ("n", "best_of"):
        fields.only(name, 1)
    fields.only("suffix")
    for name in ("presence_penalty", "frequency_penalty"):
        fields.only(name, 0)
    fields.text("user")
    fields.done()
    if most is None:
        most = MAX_TOKENS
    if most:
        settings["max_new_tokens"] = most
    return Asked(entry, prompt, settings, most, logprobs, echo, stream, usage)


def _prompt(value: Any) -> str | list[int]:
    if isinstance(value, list) and len(value) == 1 and not is_whole(value[0]):
        value = value[0]
    if isinstance(value, str) or is_ids(value):
        return value
    if value is None:
        raise Refused("prompt is missing", "prompt")
    if isinstance(value, list) and len(value) > 1 and all(isinstance(one, str) or is_ids(one) for one in value):
        raise Refused(f"prompt has {len(value)} prompts: send one a request", "prompt")
    raise Refused(f"prompt must be a text, token ids, or a list of one of these, not {shown(value)}", "prompt")


def _bias(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Refused("logit_bias must be an object of token ids and numbers", "logit_bias")
    found = {}
    for id, bias in value.items():
        if not (id.isascii() and id.isdecimal() and len(id) < 10):
            raise Refused(f"logit_bias: {shown(id)} is no token id", "logit_bias")
        if isinstance(bias, bool) or not isinstance(bias, int | float) or not -100 <= bias <= 100:
            raise Refused(f"logit_bias of {id} must be a number from -100 to 100, not {shown(bias)}", "logit_bias")
        found[int(id)] = float(bias)
    return {"logit_bias": found}


def _stream_options(value: Any, stream: bool) -> bool:
    if value is None:
        return False
    if not stream or not isinstance(value, dict):
        raise Refused("stream_options must be an object, and goes with stream: true", "stream_options")
    options = Fields.of(value)
    usage = options.flag("include_usage")
    options.done()
    return usage


# -----------------------------------------------------------------------------
# in the desk's thread


@dataclass
class Token:
    """One entry of `logprobs`; `offset` counts from the beginning of the new text, of the prompt in an echo."""

    text: str
    logprob: float | None
    top: dict[str, float] | None
    offset: int


@dataclass
class Began:
    """The first event: the prompt was read."""

    prompt: str
    """Its text: as it was sent, or of its ids."""
    tokens: list[Token]
    """Its entries of `logprobs`, if they are asked for and it is echoed."""


@dataclass
class Said:
    """A token, and the text that became certain with it."""

    text: str
    token: Token | None


@dataclass
class Ended:
    """The last event."""

    text: str
    """All of the new text."""
    reason: str
    prompt_tokens: int
    new_tokens: int


def complete(asked: Asked, house: AppState, job: Job) -> None:
    """The work of one request; emits `Began`, `Said`s and `Ended`."""
    opened = house.shelf.open(asked.entry, asked.entry.runtime)
    model, prompt = opened.model, house.prompt(opened, asked.prompt, "prompt")

    # Created before anything is computed, since it raises if the prompt does not fit.
    stream = model.stream(prompt, cancelled=job.cancelled, **asked.settings, logprobs=asked.logprobs)
    text = asked.prompt if isinstance(asked.prompt, str) else model.tokenizer.decode(prompt)
    tokens: list[Token] = []
    if asked.echo and asked.logprobs is not None:
        tokens = _prompt_tokens(opened, prompt, asked.logprobs, len(text))
    if not asked.max_tokens:
        job.emit(Began(text, tokens))
        job.emit(Ended("", "length", len(prompt), 0))
        return
    result, decoder, offset = stream.result, model.tokenizer.decoder(stream.result.prompt), 0
    with house.counting(stream, job):
        for step in stream.steps():
            if len(result.tokens) == 1:  # with the first token: until then an error is still an HTTP status
                job.emit(Began(text, tokens))
            token = None
            if step.logprob is not None:
                token = _token(step.logprob, offset, opened)
                offset += len(decoder.feed(step.token)) if step.token not in model.tokenizer.stop else 0
            job.emit(Said(step.text, token))
    job.emit(Ended(result.text, result.finish_reason or "stop", len(prompt), len(result.tokens)))


def _token(found: TokenLogprob, offset: int, opened: Opened) -> Token:
    top: dict[str, float] = {}
    for id, logprob in (*found.top, (found.token, found.logprob)):
        text = opened.pieces(id)
        top[text] = max(logprob, top.get(text, LEAST))
    return Token(opened.pieces(found.token), max(found.logprob, LEAST), top, offset)


def _prompt_tokens(opened: Opened, prompt: Sequence[int], top: int, length: int) -> list[Token]:
    decoder, offset, tokens = opened.model.tokenizer.decoder(), 0, []
    for id, found in zip(prompt, prompt_logprobs(opened.model.runtime, prompt, top), strict=True):
        at = min(offset, length)  # a tokenizer that normalises may give back another length
        tokens.append(Token(opened.pieces(id), None, None, at) if found is None else _token(found, at, opened))
        offset += len(decoder.feed(id))
    return tokens


# -----------------------------------------------------------------------------
# on the loop


@dataclass
class Completion:
    """The choice of one answer: the events of the job in, chunks of text and logprobs out."""

    asked: Asked
    id: str = field(default_factory=lambda: f"cmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))
    _before: int = 0
    _length: int = 0
    _waiting: list[Token] = field(default_factory=list)

    def chunks(self, event: Began | Said | Ended) -> Iterator[dict[str, Any]]:
        """What a stream sends for an event."""
        if isinstance(event, Began):
            self._before = len(event.prompt)
            if self.asked.echo:
                yield self._chunk(event.prompt, event.tokens, 0)
        elif isinstance(event, Said):
            self._length += len(event.text)
            self._waiting += [event.token] if event.token else []
            ready = [token for token in self._waiting if token.offset < self._length]
            self._waiting = self._waiting[len(ready) :]
            if event.text or ready:
                yield self._chunk(event.text, ready, self._before)
        else:
            text = event.text[self._length :]  # what was held back until the end
            self._length = len(event.text)
            # After a stop string, what is left begins in what was cut off; else it is half a character, or a marker.
            left = [t for t in self._waiting if event.reason != "stop" or t.offset < self._length]
            yield self._chunk(text, left, self._before, event.reason)
            if self.asked.usage:
                yield self._record([]) | {"usage": usage(event)}

    def _chunk(self, text: str, tokens: Sequence[Token], before: int, reason: str | None = None) -> dict[str, Any]:
        logprobs = None if self.asked.logprobs is None else _logprobs(tokens, before)
        return self._record([{"text": text, "index": 0, "logprobs": logprobs, "finish_reason": reason}])

    def _record(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id, "object": "text_completion", "created": self.created, "model": self.asked.entry.id,
            "choices": choices,
        }  # fmt: skip

    def whole(self, events: Sequence[Any]) -> dict[str, Any]:
        """The one answer without `stream`: the chunks, put together."""
        choices = [chunk["choices"][0] for event in events for chunk in self.chunks(event)]
        logprobs: dict[str, list[Any]] | None = None
        if self.asked.logprobs is not None:
            logprobs = {key: sum((c["logprobs"][key] for c in choices), []) for key in choices[0]["logprobs"]}
        choice = {
            "text": "".join(c["text"] for c in choices), "index": 0, "logprobs": logprobs,
            "finish_reason": choices[-1]["finish_reason"],
        }  # fmt: skip
        return self._record([choice]) | {"usage": usage(events[-1])}


def _logprobs(tokens: Sequence[Token], before: int) -> dict[str, list[Any]]:
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [token.top for token in tokens],
        "text_offset": [before + token.offset for token in tokens],
    }


def usage(event: Ended) -> dict[str, int]:
    return {
        "prompt_tokens": event.prompt_tokens,
        "completion_tokens": event.new_tokens,
        "total_tokens": event.prompt_tokens + event.new_tokens,
    }


def routes(house: AppState) -> Sequence[Route]:
    started = int(time.time())

    def model(entry: Entry) -> dict[str, Any]:
        return {"id": entry.id, "object": "model", "created": started, "owned_by": "edgekit"}

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [model(entry) for entry in house.shelf.entries.values()]})

    async def one(request: Request) -> Response:
        return JSONResponse(model(house.shelf.find(request.path_params["id"])))

    async def completions(request: Request) -> Response:
        asked = read(await house.body(request), house)
        events = house.events(request, lambda job: complete(asked, house, job))
        completion = Completion(asked)
        if not asked.stream:
            found = await responses.whole(events)
            return responses.plain(None if found is None else completion.whole(found))
        return await responses.streamed(
            events, completion.chunks, lambda refused: refused.body("/v1/"), "[DONE]", house.settings.time_limit
        )

    return [
        Route("/v1/models", models),
        Route("/v1/models/{id:path}", one),
        Route("/v1/completions", completions, methods=["POST"]),
    ]
