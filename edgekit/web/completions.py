"""OpenAI's legacy completions: POST /v1/completions, GET /v1/models, GET /v1/models/ID.

    model               an id of /v1/models; with one model loaded, any name means it
    prompt              a string, token ids, or a list of these, which gives `n` choices for each, in order; empty or
                        absent: the text begins at BOS (at EOS for a model without one)
    max_tokens          default 16, as OpenAI's; 0 generates nothing, to score a prompt with `echo` and `logprobs`;
                        -1: until the context is full
    temperature, top_p, seed, stop      absent or null: the model's own defaults, not OpenAI's 1 and 1; seed -1: a new
                        one each time; an empty stop string is left out
    presence_penalty, frequency_penalty     -2 to 2, over the new text
    repetition_penalty, top_k, min_p, ignore_eos    as for `edgekit run`; top_k -1: off
    no_repeat_ngram_size, suppress_tokens, bad_words_ids, exponential_decay_length_penalty
                        transformers' rules; 0, [], [] and a factor of 1 switch those of the model's files off
    special             true: special tokens that a prompt spells, such as <|im_end|>, are read as tokens; without it
                        as text, and the server's log has a note on the first such prompt of a model
    runtime             where the model runs, one of the `runtimes` of /api/models
    n                   choices for each prompt, 1 to 128; with a seed, they have that seed, the next, and so on
    logprobs            how many of the likeliest tokens to list at each position, 0 to 20; natural logarithms under
                        the model, before the sampler
    echo, stream, stream_options.include_usage, logit_bias, user
    best_of             n; suffix none: other values are refused, as are fields that are not listed here

In `logprobs` there is an entry for each token that `usage` counts: for those of an echoed prompt, BOS included, and for
all new ones, EOS and what a stop string cut off included. `tokens` has the text of each token alone (specials by their
spelling), and `text_offset` counts characters from the beginning of the prompt, echoed or not. `top_logprobs` includes
the chosen token; of two tokens with the same text, the likelier one is listed. The prompt's first token has no
probability: null. A stream sends the choices one after the other.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from edgekit.inference.generate import TokenLogprob, token_logprob
from edgekit.inference.runtime import Runtime
from edgekit.model import Model
from edgekit.settings import is_whole
from edgekit.web import openai
from edgekit.web.models import Entry
from edgekit.web.openai import EndEvent, Event, StartEvent, TokenEntry, TokenEvent, TopToken, UsageEvent, token_entry
from edgekit.web.state import AppState
from edgekit.web.validation import Fields, RequestError, is_ids, shown
from edgekit.web.worker import Job

MAX_TOKENS = 16
MAX_CHOICES = 1024
CHUNK = 64
"""Prompt tokens whose logits are in memory at once: 2 MB at a vocabulary of 8,000."""
OBJECT = "text_completion"


@dataclass(frozen=True)
class CompletionParams(openai.Params):
    """The body of POST /v1/completions."""

    prompts: list[str | list[int]]
    max_tokens: int
    echo: bool
    special: bool


def parse(data: bytes, state: AppState) -> CompletionParams:
    """Raises `RequestError`, naming the field."""
    fields = Fields(data)
    entry, runtime = openai.model(fields, state)
    prompts = _prompts(fields.take("prompt"))
    settings = openai.sampling(fields)
    max_tokens = openai.max_tokens(fields, "max_tokens", 0)
    logprobs = fields.integer("logprobs", 0, openai.MAX_LOGPROBS)
    echo, stream, special = fields.flag("echo"), fields.flag("stream"), fields.flag("special")
    usage = openai.stream_options(fields, stream)
    n = fields.integer("n", 1, openai.MAX_N) or 1
    fields.only("best_of", n)
    fields.only("suffix")
    fields.text("user")
    fields.done()
    if len(prompts) * n > MAX_CHOICES:
        raise RequestError(f"{len(prompts)} prompts with n = {n} are more than {MAX_CHOICES} choices", "prompt")
    if max_tokens is None:
        max_tokens = MAX_TOKENS
    if max_tokens:
        settings["max_new_tokens"] = max_tokens
    return CompletionParams(
        entry, runtime, settings, n, logprobs, stream, usage, prompts, max_tokens, echo, special
    )  # fmt: skip


def _prompts(value: Any) -> list[str | list[int]]:
    if value is None:
        return [""]
    prompts = [value] if not isinstance(value, list) or (value and is_whole(value[0])) else value
    if not prompts or not all(isinstance(one, str) or is_ids(one) for one in prompts):
        raise RequestError(f"prompt must be a string, token ids, or a list of these, not {shown(value)}", "prompt")
    return prompts


# -----------------------------------------------------------------------------
# in the worker's thread


def complete(params: CompletionParams, state: AppState, job: Job) -> None:
    """The work of one request; emits the events of each choice, and a `UsageEvent`."""
    model = state.pool.open(params.entry, params.runtime)
    prompts = [state.prompt(model, prompt, "prompt", special=params.special) for prompt in params.prompts]

    # Created before anything is computed, since it raises if the prompt does not fit.
    streams = [
        model.stream(
            prompt, cancelled=job.cancelled, **openai.seeded(params.settings, choice), logprobs=params.logprobs
        )
        for prompt in prompts
        for choice in range(params.n)
    ]
    tokens: list[TokenEntry] = []
    new_tokens = 0
    for index, stream in enumerate(streams):
        sent, prompt = params.prompts[index // params.n], prompts[index // params.n]
        text = sent if isinstance(sent, str) else model.tokenizer.decode(prompt)
        if params.echo and params.logprobs is not None and index % params.n == 0:
            tokens = _prompt_entries(model, prompt, params.logprobs, len(text), job)
            if job.cancelled():
                return
        start = StartEvent(index, text, tokens)
        if params.max_tokens:
            new_tokens += openai.run(stream, start, model, state, job)
        else:
            job.emit(start)
            job.emit(EndEvent(index, "", "length"))
        if job.cancelled():
            return
    job.emit(UsageEvent(sum(map(len, prompts)), new_tokens))


def _prompt_entries(model: Model, prompt: Sequence[int], top: int, length: int, job: Job) -> list[TokenEntry]:
    """`length`: characters of the prompt's text. Fewer entries if the job is cancelled."""
    decoder, offset, entries = model.tokenizer.decoder(), 0, []
    model.cache.clear()
    logprobs = prompt_logprobs(model.runtime, prompt, top, job.cancelled)
    for id, logprob in zip(prompt, logprobs, strict=False):
        at = min(offset, length)  # a tokenizer that normalises may return text of another length
        entries.append(token_entry(logprob or TokenLogprob(id, 0.0), at, model.tokenizer))
        entries[-1].first = logprob is None
        offset += len(decoder.feed(id))
    return entries


def prompt_logprobs(
    runtime: Runtime, prompt: Sequence[int], top: int, cancelled: Callable[[], bool]
) -> list[TokenLogprob | None]:
    """For each token of a prompt, given those before it; None for the first. The runtime's cache is emptied first.

    `top`: how many of the likeliest ids each entry lists. Ends early once `cancelled()` is true.
    """
    logprobs: list[TokenLogprob | None] = [None]
    runtime.rewind(0)
    for begin in range(0, len(prompt) - 1, CHUNK):
        if cancelled():
            break
        rows = runtime.forward(prompt[begin : min(begin + CHUNK, len(prompt) - 1)], every=True)
        logprobs += [token_logprob(row, token, top) for row, token in zip(rows, prompt[begin + 1 :], strict=False)]
    return logprobs


# -----------------------------------------------------------------------------
# on the event loop


class Completion(openai.Response):
    """One response: turns the events of its job into chunks of text and logprobs."""

    def __init__(self, params: CompletionParams):
        super().__init__(params, "cmpl")
        self._echo, self._logprobs = params.echo, params.logprobs is not None
        self._before: dict[int, int] = {}

    def chunks(self, event: Event) -> Iterator[dict[str, Any]]:
        """The chunks that a stream sends for an event."""
        if isinstance(event, UsageEvent):
            yield from self.usage(event, OBJECT)
        elif choice := self._choice(event):
            yield self.record(OBJECT, [choice])

    def whole(self, events: Sequence[Any]) -> dict[str, Any]:
        """The response without `stream`: the chunks, joined."""
        joined: dict[int, dict[str, Any]] = {}
        for choice in filter(None, map(self._choice, events[:-1])):
            known = joined.setdefault(choice["index"], choice)
            if known is not choice:
                known["text"] += choice["text"]
                known["finish_reason"] = choice["finish_reason"]
                for name, values in (choice["logprobs"] or {}).items():
                    known["logprobs"][name] += values
        return self.record(OBJECT, list(joined.values())) | {"usage": events[-1].record()}

    def _choice(self, event: Event) -> dict[str, Any] | None:
        """What an event adds to its choice."""
        reason, before = None, 0
        if isinstance(event, StartEvent):
            self._before[event.index] = len(event.prompt)
            if not self._echo:
                return None
            text, tokens = event.prompt, event.tokens
        elif isinstance(event, TokenEvent):
            text, tokens = self.text(event.index).add(event)
            if not text and not tokens:
                return None
            before = self._before[event.index]
        elif isinstance(event, EndEvent):
            text, tokens = self.text(event.index).end(event)
            reason, before = event.reason, self._before[event.index]
        else:
            return None
        logprobs = _logprobs(tokens, before) if self._logprobs else None
        return {"text": text, "index": event.index, "logprobs": logprobs, "finish_reason": reason}


def _logprobs(entries: Sequence[TokenEntry], before: int) -> dict[str, list[Any]]:
    return {
        "tokens": [entry.token.text for entry in entries],
        "token_logprobs": [None if entry.first else entry.token.logprob for entry in entries],
        "top_logprobs": [None if entry.first else _by_text([*entry.top, entry.token]) for entry in entries],
        "text_offset": [before + entry.offset for entry in entries],
    }


def _by_text(tokens: Sequence[TopToken]) -> dict[str, float]:
    top: dict[str, float] = {}
    for token in tokens:
        top[token.text] = max(token.logprob, top.get(token.text, openai.LEAST))
    return top


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
        return await openai.respond(
            request, params, lambda job: complete(params, state, job), Completion(params), state
        )

    return [
        Route("/v1/models", models),
        Route("/v1/models/{id:path}", one),
        Route("/v1/completions", completions, methods=["POST"]),
    ]
