"""The playground's API: the contract stands in `edgekit/web/__init__.py`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from edgekit.inference.generate import Generation, Step
from edgekit.tokenizers.load import pieces
from edgekit.web import responses
from edgekit.web.models import Entry, Opened
from edgekit.web.state import AppState
from edgekit.web.validation import SETTINGS, Fields, Refused, checked, is_ids, ranges, shown
from edgekit.web.worker import Job

MOST_TOP = 20


@dataclass(frozen=True)
class Asked:
    """The body of POST /api/generate."""

    entry: Entry
    runtime: str
    prompt: str | list[int]
    settings: dict[str, Any]
    top: int


def read(data: bytes, house: AppState) -> Asked:
    """Raises `Refused`, naming the field."""
    fields = Fields(data)
    entry = house.shelf.find(fields.text("model"))
    runtime = house.shelf.runtime(entry, fields.text("runtime"))
    text, tokens = fields.text("prompt"), fields.take("tokens")
    if (text is None) == (tokens is None):
        raise Refused("give prompt or tokens, one of them", "prompt")
    if tokens is not None and not is_ids(tokens):
        raise Refused(f"tokens must be a list of token ids, not {shown(tokens)}", "tokens")
    wanted = fields.take("settings") or {}
    if not isinstance(wanted, dict):
        raise Refused("settings must be an object", "settings")
    if unknown := [name for name in wanted if name not in SETTINGS]:
        raise Refused(f"unknown setting {shown(unknown[0])}: choose from {', '.join(SETTINGS)}", "settings")
    settings = {name: checked(name, value, name) for name, value in wanted.items() if value is not None}
    top = fields.whole("top", 0, MOST_TOP) or 0
    fields.done()
    return Asked(entry, runtime, text if text is not None else tokens, settings, top)


def generate(asked: Asked, house: AppState, job: Job) -> None:
    """The work of one request, on the desk's thread; emits the events of the contract."""
    opened = house.shelf.open(asked.entry, asked.runtime)
    prompt = house.prompt(opened, asked.prompt, "tokens")

    model = opened.model
    stream = model.stream(prompt, cancelled=job.cancelled, **asked.settings, logprobs=asked.top)
    with house.counting(stream, job):
        for step in stream.steps(distribution=True):
            result = stream.result
            if len(result.tokens) == 1:  # with the first token: until then an error is still an HTTP status
                read = pieces(model.tokenizer, result.prompt)
                job.emit({"type": "start", "tokens": result.prompt, "pieces": read, "seed": result.seed})
            job.emit(token_event(step, opened))
    job.emit(end_event(stream.result))


def token_event(step: Step, opened: Opened) -> dict[str, Any]:
    logprob, distribution = step.logprob, step.distribution
    if logprob is None or distribution is None:
        raise TypeError("token_event needs a step with a log-probability and a distribution")
    return {
        "type": "token",
        "id": step.token,
        "text": step.text,
        "piece": opened.pieces(step.token),
        "before": math.exp(logprob.logprob),
        "after": distribution.probability(step.token),
        "top": [
            {"id": id, "piece": opened.pieces(id), "before": math.exp(before), "after": distribution.probability(id)}
            for id, before in logprob.top
        ],
    }


def end_event(text: Generation) -> dict[str, Any]:
    return {
        "type": "end",
        "finish_reason": text.finish_reason,
        "tokens": text.tokens,
        "text": text.text,
        "tokens_per_second": text.timings.decode_rate,
        "first_token_seconds": text.timings.first_token,
    }


def routes(house: AppState) -> Sequence[Route]:
    async def models(request: Request) -> Response:
        return JSONResponse({"models": [entry.record() for entry in house.shelf.entries.values()]})

    async def defaults(request: Request) -> Response:
        entry = house.shelf.find(request.query_params.get("model"))
        found = {name: getattr(entry.defaults, name) for name in SETTINGS}
        return JSONResponse({"model": entry.id, "defaults": found, "settings": ranges()})

    async def text(request: Request) -> Response:
        asked = read(await house.body(request), house)
        return await responses.streamed(
            house.events(request, lambda job: generate(asked, house, job)),
            lambda event: [event],
            lambda refused: refused.body("/api/"),
            "",
            house.settings.time_limit,
        )

    return [
        Route("/api/models", models),
        Route("/api/defaults", defaults),
        Route("/api/generate", text, methods=["POST"]),
    ]
