"""OpenAI's legacy completions: POST /v1/completions, GET /v1/models, GET /v1/models/ID.

    prompt              a string, token ids, or a list of one of these
    max_tokens          default 16, as OpenAI's; 0 generates nothing, to score a prompt with `echo` and `logprobs`
    temperature, top_p, seed, stop      absent or null: the model's own defaults, not OpenAI's 1 and 1
    repetition_penalty, top_k, min_p, ignore_eos    as for `edgekit run`
    logprobs            how many of the likeliest tokens to list at each position, 0 to 5; natural logarithms under the
                        model, before the sampler
    echo, stream, stream_options.include_usage, logit_bias, user
    n, best_of          1; suffix none; presence_penalty, frequency_penalty 0: other values are refused, as are fields
                        that are not listed here

In `logprobs`, `tokens` has the text of each token alone (specials by their spelling), and `text_offset` counts
characters from the beginning of the prompt, echoed or not. Where text is cut at a stop string, the tokens after the cut
are left out. `top_logprobs` includes the chosen token; of two tokens with the same text, the likelier one is listed.
The prompt's first token has no probability: null.
"""

import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from edgekit.inference.generate import TokenLogprob, token_logprob
from edgekit.inference.runtime import Runtime
from edgekit.model import Model
from edgekit.settings import is_whole
from edgekit.tokenizers.base import Tokenizer
from edgekit.web import responses
from edgekit.web.models import Entry
from edgekit.web.state import AppState
from edgekit.web.validation import Fields, RequestError, is_ids, shown
from edgekit.web.worker import Job

MAX_TOKENS = 16
MAX_LOGPROBS = 5
LEAST = -9999.0
"""In place of minus infinity, which JSON does not have."""
CHUNK = 64
"""Prompt tokens whose logits are in memory at once: 2 MB at a vocabulary of 8,000."""


@dataclass(frozen=True)
class CompletionParams:
    """The body of POST /v1/completions."""

    entry: Entry
    prompt: str | list[int]
    settings: dict[str, Any]
    max_tokens: int
    logprobs: int | None
    echo: bool
    stream: bool
    usage: bool
    """Whether a stream ends with a chunk that has the token counts."""


def parse(data: bytes, state: AppState) -> CompletionParams:
    """Raises `RequestError`, naming the field."""
    fields = Fields(data)
    entry = state.pool.find(fields.text("model"))
    prompt = _prompt(fields.take("prompt"))
    settings: dict[str, Any] = {}
    for name in ("temperature", "top_p", "seed", "stop", "repetition_penalty", "top_k", "min_p", "ignore_eos"):
        settings |= fields.setting(name)
    settings |= _bias(fields.take("logit_bias"))
    max_tokens = fields.integer("max_tokens", 0, 1 << 31)
    logprobs = fields.integer("logprobs", 0, MAX_LOGPROBS)
    echo, stream = fields.flag("echo"), fields.flag("stream")
    usage = _stream_options(fields.take("stream_options"), stream)
    for name in ("n", "best_of"):
        fields.only(name, 1)
    fields.only("suffix")
    for name in ("presence_penalty", "frequency_penalty"):
        fields.only(name, 0)
    fields.text("user")
    fields.done()
    if max_tokens is None:
        max_tokens = MAX_TOKENS
    if max_tokens:
        settings["max_new_tokens"] = max_tokens
    return CompletionParams(entry, prompt, settings, max_tokens, logprobs, echo, stream, usage)


def _prompt(value: Any) -> str | list[int]:
    if isinstance(value, list) and len(value) == 1 and not is_whole(value[0]):
        value = value[0]
    if isinstance(value, str) or is_ids(value):
        return value
    if value is None:
        raise RequestError("prompt is missing", "prompt")
    if isinstance(value, list) and len(value) > 1 and all(isinstance(one, str) or is_ids(one) for one in value):
        raise RequestError(f"prompt has {len(value)} prompts: send one per request", "prompt")
    raise RequestError(f"prompt must be a string, token ids, or a list of one of these, not {shown(value)}", "prompt")


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


def _stream_options(value: Any, stream: bool) -> bool:
    if value is None:
        return False
    if not stream or not isinstance(value, dict):
        raise RequestError("stream_options must be an object, and needs stream: true", "stream_options")
    options = Fields.of(value)
    usage = options.flag("include_usage")
    options.done()
    return usage


# -----------------------------------------------------------------------------
# in the worker's thread


@dataclass
class TokenEntry:
    """One entry of `logprobs`; `offset` is in characters of the new text, or of the prompt if it is echoed."""

    text: str
    logprob: float | None
    top: dict[str, float] | None
    offset: int


@dataclass
class StartEvent:
    """The first event: the prompt has been read."""

    prompt: str
    """Its text, as it was sent or decoded from its ids."""
    tokens: list[TokenEntry]
    """Its entries of `logprobs`, if those are requested and it is echoed."""


@dataclass
class TokenEvent:
    """A token, and the text that became certain with it."""

    text: str
    token: TokenEntry | None


@dataclass
class EndEvent:
    """The last event."""

    text: str
    """All of the new text."""
    reason: str
    prompt_tokens: int
    new_tokens: int


def complete(params: CompletionParams, state: AppState, job: Job) -> None:
    """The work of one request; emits a `StartEvent`, `TokenEvent`s and an `EndEvent`."""
    model = state.pool.open(params.entry, params.entry.runtime)
    prompt = state.prompt(model, params.prompt, "prompt")

    # Created before anything is computed, since it raises if the prompt does not fit.
    stream = model.stream(prompt, cancelled=job.cancelled, **params.settings, logprobs=params.logprobs)
    text = params.prompt if isinstance(params.prompt, str) else model.tokenizer.decode(prompt)
    tokens: list[TokenEntry] = []
    if params.echo and params.logprobs is not None:
        tokens = _prompt_entries(model, prompt, params.logprobs, len(text))
    if not params.max_tokens:
        job.emit(StartEvent(text, tokens))
        job.emit(EndEvent("", "length", len(prompt), 0))
        return
    result, decoder, offset = stream.result, model.tokenizer.decoder(stream.result.prompt), 0
    with state.counting(stream, job):
        for step in stream.steps():
            if len(result.tokens) == 1:  # with the first token: until then an error is still an HTTP status
                job.emit(StartEvent(text, tokens))
            entry = None
            if step.logprob is not None:
                entry = _entry(step.logprob, offset, model.tokenizer)
                offset += len(decoder.feed(step.token)) if step.token not in model.tokenizer.stop else 0
            job.emit(TokenEvent(step.text, entry))
    job.emit(EndEvent(result.text, result.finish_reason or "stop", len(prompt), len(result.tokens)))


def _entry(chosen: TokenLogprob, offset: int, tokenizer: Tokenizer) -> TokenEntry:
    top: dict[str, float] = {}
    for id, logprob in (*chosen.top, (chosen.token, chosen.logprob)):
        text = tokenizer.piece(id)
        top[text] = max(logprob, top.get(text, LEAST))
    return TokenEntry(tokenizer.piece(chosen.token), max(chosen.logprob, LEAST), top, offset)


def _prompt_entries(model: Model, prompt: Sequence[int], top: int, length: int) -> list[TokenEntry]:
    """`length`: characters of the prompt's text."""
    decoder, offset, entries = model.tokenizer.decoder(), 0, []
    model.cache.clear()
    for id, logprob in zip(prompt, prompt_logprobs(model.runtime, prompt, top), strict=True):
        at = min(offset, length)  # a tokenizer that normalises may return text of another length
        entries.append(
            TokenEntry(model.tokenizer.piece(id), None, None, at)
            if logprob is None
            else _entry(logprob, at, model.tokenizer)
        )
        offset += len(decoder.feed(id))
    return entries


def prompt_logprobs(runtime: Runtime, prompt: Sequence[int], top: int) -> list[TokenLogprob | None]:
    """For each token of a prompt, given those before it; None for the first. The runtime's cache is emptied first.

    `top`: how many of the likeliest ids each entry lists.
    """
    logprobs: list[TokenLogprob | None] = [None]
    runtime.rewind(0)
    for begin in range(0, len(prompt) - 1, CHUNK):
        rows = runtime.forward(prompt[begin : min(begin + CHUNK, len(prompt) - 1)], every=True)
        logprobs += [token_logprob(row, token, top) for row, token in zip(rows, prompt[begin + 1 :], strict=False)]
    return logprobs


# -----------------------------------------------------------------------------
# on the event loop


@dataclass
class Completion:
    """One response: turns the events of its job into chunks of text and logprobs."""

    params: CompletionParams
    id: str = field(default_factory=lambda: f"cmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))
    _before: int = 0
    _length: int = 0
    _waiting: list[TokenEntry] = field(default_factory=list)

    def chunks(self, event: StartEvent | TokenEvent | EndEvent) -> Iterator[dict[str, Any]]:
        """The chunks that a stream sends for an event."""
        if isinstance(event, StartEvent):
            self._before = len(event.prompt)
            if self.params.echo:
                yield self._chunk(event.prompt, event.tokens, 0)
        elif isinstance(event, TokenEvent):
            self._length += len(event.text)
            self._waiting += [event.token] if event.token else []
            ready = [token for token in self._waiting if token.offset < self._length]
            self._waiting = self._waiting[len(ready) :]
            if event.text or ready:
                yield self._chunk(event.text, ready, self._before)
        else:
            text = event.text[self._length :]  # what was kept back until the end
            self._length = len(event.text)
            # What is left starts in text that a stop string cut off; otherwise it is half a character, or a marker.
            left = [t for t in self._waiting if event.reason != "stop" or t.offset < self._length]
            yield self._chunk(text, left, self._before, event.reason)
            if self.params.usage:
                yield self._record([]) | {"usage": usage(event)}

    def _chunk(self, text: str, tokens: Sequence[TokenEntry], before: int, reason: str | None = None) -> dict[str, Any]:
        logprobs = None if self.params.logprobs is None else _logprobs(tokens, before)
        return self._record([{"text": text, "index": 0, "logprobs": logprobs, "finish_reason": reason}])

    def _record(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id, "object": "text_completion", "created": self.created, "model": self.params.entry.id,
            "choices": choices,
        }  # fmt: skip

    def whole(self, events: Sequence[Any]) -> dict[str, Any]:
        """The response without `stream`: the chunks, joined."""
        choices = [chunk["choices"][0] for event in events for chunk in self.chunks(event)]
        logprobs: dict[str, list[Any]] | None = None
        if self.params.logprobs is not None:
            logprobs = {key: sum((c["logprobs"][key] for c in choices), []) for key in choices[0]["logprobs"]}
        choice = {
            "text": "".join(c["text"] for c in choices), "index": 0, "logprobs": logprobs,
            "finish_reason": choices[-1]["finish_reason"],
        }  # fmt: skip
        return self._record([choice]) | {"usage": usage(events[-1])}


def _logprobs(tokens: Sequence[TokenEntry], before: int) -> dict[str, list[Any]]:
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [token.top for token in tokens],
        "text_offset": [before + token.offset for token in tokens],
    }


def usage(event: EndEvent) -> dict[str, int]:
    return {
        "prompt_tokens": event.prompt_tokens,
        "completion_tokens": event.new_tokens,
        "total_tokens": event.prompt_tokens + event.new_tokens,
    }


def routes(state: AppState) -> Sequence[Route]:
    started = int(time.time())

    def model(entry: Entry) -> dict[str, Any]:
        return {"id": entry.id, "object": "model", "created": started, "owned_by": "edgekit"}

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [model(entry) for entry in state.pool.entries.values()]})

    async def one(request: Request) -> Response:
        return JSONResponse(model(state.pool.find(request.path_params["id"])))

    async def completions(request: Request) -> Response:
        params = parse(await state.body(request), state)
        events = state.events(request, lambda job: complete(params, state, job))
        completion = Completion(params)
        if not params.stream:
            collected = await responses.collect(events)
            return responses.json_response(None if collected is None else completion.whole(collected))
        return await responses.stream_response(
            events, completion.chunks, lambda error: error.body("/v1/"), "[DONE]", state.settings.time_limit
        )

    return [
        Route("/v1/models", models),
        Route("/v1/models/{id:path}", one),
        Route("/v1/completions", completions, methods=["POST"]),
    ]
