"""From a job to an HTTP response, which ends early if the client leaves, the time is up, or there is an error."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from edgekit.web.validation import RequestError
from edgekit.web.worker import ClientLeft, Done, Job, ModelWorker

CLIENT_LEFT = 499
"""nginx's "client closed request". It is never sent, only counted."""

FINAL_SECONDS = 5.0
"""Seconds to send the last chunk, after the time limit."""


async def events(
    request: Request, worker: ModelWorker, work: Callable[[Job], None], seconds: float
) -> AsyncGenerator[Any]:
    """Submit a job and yield its events. Closing the generator cancels the job.

    Args:
        request: its body has been read; its connection is watched from now on.
        seconds: limit for all of it, waiting in the queue included.

    Raises:
        RequestError: the queue is full (503), the time is up (504), or the job's own error.
        ClientLeft: the client has left.
    """
    deadline = asyncio.get_running_loop().time() + seconds
    job = worker.submit(work)
    watcher = asyncio.create_task(_watch(request.receive, job))
    try:
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    event = await job.events.get()
            except TimeoutError:
                raise RequestError(
                    f"the request took longer than {seconds:g} s", status=504, code="time_limit"
                ) from None
            if isinstance(event, ClientLeft):
                raise event
            if isinstance(event, Done):
                if event.error is not None:
                    raise event.error
                return
            yield event
    finally:
        worker.cancel(job)
        watcher.cancel()


async def _watch(receive: Receive, job: Job) -> None:
    """Put `ClientLeft` among the events once the client disconnects."""
    while (await receive())["type"] != "http.disconnect":
        pass
    job.events.put_nowait(ClientLeft())


async def collect(source: AsyncGenerator[Any]) -> list[Any] | None:
    """All events of a job; None if the client left before the last."""
    async with contextlib.aclosing(source):
        try:
            return [event async for event in source]
        except ClientLeft:
            return None


def json_response(value: Any) -> Response:
    """A JSON response; an empty one with `CLIENT_LEFT` for None."""
    return Response(status_code=CLIENT_LEFT) if value is None else JSONResponse(value)


Render = Callable[[Any], Iterable[Any]]
"""An event of the job to the JSON values that are sent for it."""


async def stream_response(
    source: AsyncGenerator[Any], render: Render, error: Callable[[RequestError], Any], end: str, seconds: float
) -> Response:
    """A stream of server-sent events. It starts with the job's first event: an error before that is an HTTP status.

    Args:
        source: `events`.
        error: the JSON value to send for an error once the stream has started.
        end: data of a last event, or "".
        seconds: limit for a client to take one event; after that it counts as gone.
    """
    try:
        first = await anext(source)
    except ClientLeft:
        return Response(status_code=CLIENT_LEFT)
    except StopAsyncIteration:
        raise RuntimeError("a job ended without an event") from None
    except BaseException:
        await source.aclose()
        raise
    return EventStream(first, source, render, error, end, seconds)


class EventStream(Response):
    """See `stream_response`."""

    def __init__(
        self,
        first: Any,
        source: AsyncGenerator[Any],
        render: Render,
        error: Callable[[RequestError], Any],
        end: str,
        seconds: float,
    ):
        self.status_code, self.background = 200, None
        self._first, self._source, self._render, self._error = first, source, render, error
        self._end, self._seconds = end, seconds
        self.init_headers(
            {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-store", "x-accel-buffering": "no"}
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with contextlib.aclosing(self._source):
            with contextlib.suppress(ClientLeft, TimeoutError):
                async with asyncio.timeout(self._seconds):
                    await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                async for line in self._lines():
                    async with asyncio.timeout(self._seconds):
                        await send({"type": "http.response.body", "body": line, "more_body": True})
                await self._finish(send({"type": "http.response.body", "body": b""}))

    @staticmethod
    async def _finish(sending: Awaitable[None]) -> None:
        async with asyncio.timeout(FINAL_SECONDS):
            await sending

    async def _lines(self) -> AsyncIterator[bytes]:
        try:
            for value in self._render(self._first):
                yield line(value)
            async for event in self._source:
                for value in self._render(event):
                    yield line(value)
        except RequestError as error:
            yield line(self._error(error))
        if self._end:
            yield f"data: {self._end}\n\n".encode()


def line(value: Any) -> bytes:
    """One server-sent event. Its JSON is ASCII, so it has no line breaks and may hold lone surrogates."""
    return f"data: {json.dumps(value, separators=(',', ':'))}\n\n".encode()
