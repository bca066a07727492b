"""OpenAI's chat completions: POST /v1/chat/completions, for models with a chat template.

    model               as for /v1/completions
    messages            the conversation, oldest first: {"role", "content"}. Roles are system (or developer), user and
                        assistant; the content is a string, or a list of {"type": "text", "text"}. A conversation that
                        the context does not hold is refused (`context_length_exceeded`), unless `truncate` is set
    truncate            "left": the oldest messages are left out, the system's kept, until the conversation leaves space
                        for an answer of `max_tokens`, or for half the context if that is less
    max_completion_tokens, max_tokens       the same, the first counts; absent, null or -1: until the context is full
    logprobs, top_logprobs      true, and how many of the likeliest tokens to list at each position, 0 to 20
    temperature, top_p, seed, stop, presence_penalty, frequency_penalty, logit_bias, n, stream, stream_options, user,
    repetition_penalty, top_k, min_p, ignore_eos, runtime, no_repeat_ngram_size, suppress_tokens, bad_words_ids,
    exponential_decay_length_penalty        as for /v1/completions
    special             true: nothing else is supported, since templates write special tokens
    response_format {"type": "text"}, tools [], tool_choice none or auto, modalities ["text"], store false
                        accepted; other values are refused
    parallel_tool_calls, metadata, service_tier, prompt_cache_key, safety_identifier
                        without effect; OpenAI's other fields only as null

The prompt is what transformers' `apply_chat_template` makes of the messages, with the beginning of the assistant's
turn. The spelling of a special token in a message is that token, as there. An answer ends at EOS or at the template's
end of a turn. What the cache holds of the conversation is not read again; `usage.prompt_tokens_details.cached_tokens`
counts it. With `truncate`, `usage.dropped_messages` counts the messages that were left out.
`logprobs.content` has an entry for each token that `usage` counts, EOS included; `bytes` is null for a special token.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edgekit.errors import PromptError
from edgekit.inference.generate import Stream
from edgekit.model import Model
from edgekit.web import openai
from edgekit.web.openai import NO_LIMIT, EndEvent, Event, StartEvent, TokenEntry, TokenEvent, TopToken, UsageEvent
from edgekit.web.state import AppState
from edgekit.web.validation import Fields, RequestError, shown
from edgekit.web.worker import Job

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
"""OpenAI's roles, and what templates call them."""
CHUNK, WHOLE = "chat.completion.chunk", "chat.completion"


@dataclass(frozen=True)
class ChatParams(openai.Params):
    """The body of POST /v1/chat/completions."""

    messages: list[dict[str, str]]
    max_tokens: int


def parse(data: bytes, state: AppState) -> ChatParams:
    """Raises `RequestError`, naming the field."""
    fields = Fields(data)
    entry, runtime = openai.model(fields, state)
    messages = _messages(fields.take("messages"))
    settings = openai.sampling(fields)
    settings |= fields.setting("truncate")
    limits = [openai.max_tokens(fields, name, 1) for name in ("max_completion_tokens", "max_tokens")]
    logprobs, top = fields.flag("logprobs"), fields.integer("top_logprobs", 0, openai.MAX_LOGPROBS)
    if top and not logprobs:
        raise RequestError("top_logprobs needs logprobs: true", "top_logprobs")
    stream = fields.flag("stream")
    usage = openai.stream_options(fields, stream)
    n = fields.integer("n", 1, openai.MAX_N) or 1
    fields.only("response_format", {"type": "text"})
    fields.only("tools", [])
    fields.only("tool_choice", "none", "auto")
    fields.only("modalities", ["text"])
    fields.only("store", False)
    fields.only("special", True)
    for name in ("audio", "functions", "function_call", "prediction", "reasoning_effort", "verbosity",
                 "web_search_options"):  # fmt: skip
        fields.only(name)
    for name in ("user", "parallel_tool_calls", "metadata", "service_tier", "prompt_cache_key", "safety_identifier"):
        fields.take(name)
    fields.done()
    return ChatParams(
        entry, runtime, settings, n, (top or 0) if logprobs else None, stream, usage, messages,
        next((limit for limit in limits if limit), NO_LIMIT),
    )  # fmt: skip


def _messages(value: Any) -> list[dict[str, str]]:
    if not isinstance(value, list) or not value:
        raise RequestError("messages must be a non-empty list of objects with role and content", "messages")
    return [_message(one, f"messages[{index}]") for index, one in enumerate(value)]


def _message(value: Any, name: str) -> dict[str, str]:
    if not isinstance(value, dict):
        raise RequestError(f"{name} must be an object with role and content, not {shown(value)}", "messages")
    role, content = value.get("role"), value.get("content")
    if not isinstance(role, str) or role not in ROLES:
        raise RequestError(f"{name}.role must be {', '.join(ROLES)}, not {shown(role)}", "messages")
    if unknown := [key for key in value if key not in ("role", "content", "name") and value[key] not in (None, [])]:
        raise RequestError(f"{name}: {shown(unknown[0])} is not supported", "messages")
    if content is None and role == "assistant":  # OpenAI's clients send their earlier answers back
        content = ""
    if isinstance(content, list):
        content = "".join(_part(part, f"{name}.content[{index}]") for index, part in enumerate(content))
    if not isinstance(content, str):
        raise RequestError(f"{name}.content must be a string or a list of texts, not {shown(content)}", "messages")
    return {"role": ROLES[role], "content": content}


def _part(value: Any, name: str) -> str:
    if not isinstance(value, dict) or value.get("type") != "text" or not isinstance(value.get("text"), str):
        raise RequestError(f'{name} must be {{"type": "text", "text": ...}}, not {shown(value)}', "messages")
    text: str = value["text"]
    return text


# -----------------------------------------------------------------------------
# in the worker's thread


def answer(params: ChatParams, state: AppState, job: Job) -> None:
    """The work of one request; emits the events of each choice, and a `UsageEvent`."""
    model = state.pool.open(params.entry, params.runtime)
    try:
        streams = _streams(params, model, state, job)
    except PromptError as error:
        raise RequestError(str(error), "messages") from error
    new_tokens = 0
    for index, stream in enumerate(streams):
        new_tokens += openai.run(stream, StartEvent(index), model, state, job)
        if job.cancelled():
            return
    first = streams[0].result
    dropped = first.dropped_messages if "truncate" in params.settings else None
    job.emit(UsageEvent(len(first.prompt), new_tokens, first.timings.reused_tokens, dropped))


def _streams(params: ChatParams, model: Model, state: AppState, job: Job) -> list[Stream]:
    """One for each choice. Raises `PromptError` or `RequestError`."""
    if model.chat_template is None:
        raise RequestError(
            f"{params.entry.id} has no chat template, so it cannot chat: use /v1/completions", "model"
        )  # fmt: skip
    limit = params.max_tokens
    if "truncate" not in params.settings:
        ids = state.prompt(model, model.chat_template.encode(params.messages, model.tokenizer), "messages")
        space = model.runtime.context_length - len(ids)
        if space < 1:
            raise RequestError(
                f"the conversation has {len(ids)} tokens, but the model's context holds "
                f"{model.runtime.context_length}, with at least one of the answer: shorten it",
                "messages",
                code="context_length_exceeded",
            )
        limit = min(limit, space)  # `Model.chat` would leave messages out for a longer answer
    streams = [
        model.chat(
            params.messages,
            cancelled=job.cancelled,
            **openai.seeded(params.settings, choice),
            max_new_tokens=limit,
            logprobs=params.logprobs,
        )
        for choice in range(params.n)
    ]
    state.prompt(model, streams[0].result.prompt, "messages")  # what is left of it is within the server's limit
    return streams


# -----------------------------------------------------------------------------
# on the event loop


class ChatCompletion(openai.Response):
    """One response: turns the events of its job into chunks."""

    def __init__(self, params: ChatParams):
        super().__init__(params, "chatcmpl")
        self._logprobs = params.logprobs is not None

    def chunks(self, event: Event) -> Iterator[dict[str, Any]]:
        """The chunks that a stream sends for an event."""
        if isinstance(event, UsageEvent):
            yield from self.usage(event, CHUNK)
        elif isinstance(event, StartEvent):
            yield self._chunk(event.index, {"role": "assistant", "content": ""}, [], None)
        elif isinstance(event, TokenEvent):
            text, tokens = self.text(event.index).add(event)
            if text or tokens:
                yield self._chunk(event.index, {"content": text}, tokens, None)
        else:
            text, tokens = self.text(event.index).end(event)
            yield self._chunk(event.index, {"content": text} if text else {}, tokens, event.reason)

    def _chunk(
        self, index: int, delta: dict[str, str], tokens: Sequence[TokenEntry], reason: str | None
    ) -> dict[str, Any]:
        logprobs = _content(tokens) if self._logprobs and (tokens or reason) else None
        return self.record(CHUNK, [{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}])

    def whole(self, events: Sequence[Any]) -> dict[str, Any]:
        """The response without `stream`."""
        choices = []
        for end in events:
            if isinstance(end, EndEvent):
                tokens = [e.token for e in events if isinstance(e, TokenEvent) and e.index == end.index and e.token]
                choices.append({
                    "index": end.index,
                    "message": {"role": "assistant", "content": end.text, "refusal": None},
                    "logprobs": _content(tokens) if self._logprobs else None,
                    "finish_reason": end.reason,
                })  # fmt: skip
        return self.record(WHOLE, choices) | {"usage": events[-1].record()}


def _content(tokens: Sequence[TokenEntry]) -> dict[str, Any]:
    def record(token: TopToken) -> dict[str, Any]:
        return {"token": token.text, "logprob": token.logprob, "bytes": token.bytes}

    content = [record(entry.token) | {"top_logprobs": [record(top) for top in entry.top]} for entry in tokens]
    return {"content": content, "refusal": None}


def routes(state: AppState) -> Sequence[Route]:
    async def completions(request: Request) -> Response:
        params = parse(await state.body(request), state)
        return await openai.respond(
            request, params, lambda job: answer(params, state, job), ChatCompletion(params), state
        )

    return [Route("/v1/chat/completions", completions, methods=["POST"])]
