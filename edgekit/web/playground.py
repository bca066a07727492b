"""The playground's API; `edgekit/web/__init__.py` documents it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from edgekit.inference.generate import Generation, Step
from edgekit.tokenizers.base import Tokenizer
from edgekit.tokenizers.load import pieces
from edgekit.web import responses
from edgekit.web.models import Entry
from edgekit.web.state import AppState
from edgekit.web.validation import SETTINGS, Fields, RequestError, checked, is_ids, ranges, shown
from edgekit.web.worker import Job

MAX_TOP = 20


@dataclass(frozen=True)
class GenerateParams:
    """The body of POST /api/generate."""

    entry: Entry
    runtime: str
    prompt: str | list[int]
    settings: dict[str, Any]
    top: int
    special: bool


def parse(data: bytes, state: AppState) -> GenerateParams:
    """Raises `RequestError`, naming the field."""
    fields = Fields(data)
    entry = state.pool.find(fields.text("model"))
    runtime = state.pool.runtime(entry, fields.text("runtime"))
    text, tokens = fields.text("prompt"), fields.take("tokens")
    if (text is None) == (tokens is None):
        raise RequestError("give either prompt or tokens", "prompt")
    if tokens is not None and not is_ids(tokens):
        raise RequestError(f"tokens must be a non-empty list of token ids, not {shown(tokens)}", "tokens")
    values = fields.take("settings") or {}
    if not isinstance(values, dict):
        raise RequestError("settings must be an object", "settings")
    if unknown := [name for name in values if name not in SETTINGS]:
        raise RequestError(f"unknown setting {shown(unknown[0])}: choose from {', '.join(SETTINGS)}", "settings")
    settings = {name: checked(name, value, name) for name, value in values.items() if value is not None}
    top, special = fields.integer("top", 0, MAX_TOP) or 0, fields.flag("special")
    fields.done()
    return GenerateParams(entry, runtime, text if text is not None else tokens, settings, top, special)


def generate(params: GenerateParams, state: AppState, job: Job) -> None:
    """The work of one request, in the worker's thread; emits the events that the API documents."""
    model = state.pool.open(params.entry, params.runtime)
    prompt = state.prompt(model, params.prompt, "tokens", special=params.special)

    stream = model.stream(prompt, cancelled=job.cancelled, **params.settings, logprobs=params.top)
    with state.counting(stream, job):
        for step in stream.steps(distribution=True):
            result = stream.result
            if len(result.tokens) == 1:  # with the first token: until then an error is still an HTTP status
                texts = pieces(model.tokenizer, result.prompt)
                job.emit({"type": "start", "tokens": result.prompt, "pieces": texts, "seed": result.seed})
            job.emit(token_event(step, model.tokenizer))
    job.emit(end_event(stream.result))


def token_event(step: Step, tokenizer: Tokenizer) -> dict[str, Any]:
    logprob, distribution = step.logprob, step.distribution
    if logprob is None or distribution is None:
        raise TypeError("token_event needs a step with a log-probability and a distribution")
    return {
        "type": "token",
        "id": step.token,
        "text": step.text,
        "piece": tokenizer.piece(step.token),
        "before": math.exp(logprob.logprob),
        "after": distribution.probability(step.token),
        "top": [
            {"id": id, "piece": tokenizer.piece(id), "before": math.exp(before), "after": distribution.probability(id)}
            for id, before in logprob.top
        ],
    }


def end_event(result: Generation) -> dict[str, Any]:
    return {
        "type": "end",
        "finish_reason": result.finish_reason,
        "tokens": result.tokens,
        "text": result.text,
        "tokens_per_second": result.timings.decode_rate,
        "first_token_seconds": result.timings.first_token,
    }


def routes(state: AppState) -> Sequence[Route]:
    async def models(request: Request) -> Response:
        return JSONResponse({"models": [entry.record() for entry in state.pool.entries.values()]})

    async def defaults(request: Request) -> Response:
        entry = state.pool.find(request.query_params.get("model"))
        values = {name: getattr(entry.defaults, name) for name in SETTINGS}
        return JSONResponse({"model": entry.id, "defaults": values, "settings": ranges()})

    async def text(request: Request) -> Response:
        params = parse(await state.body(request), state)
        return await responses.stream_response(
            state.events(request, lambda job: generate(params, state, job)),
            lambda event: [event],
            lambda error: error.body("/api/"),
            "",
            state.settings.time_limit,
        )

    return [
        Route("/api/models", models),
        Route("/api/defaults", defaults),
        Route("/api/generate", text, methods=["POST"]),
    ]
