"""From a job on the desk to an HTTP answer. Three things may end it early: the client leaves, time is up, an error."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from edgekit.web.validation import Refused
from edgekit.web.worker import Done, Gone, Job, ModelWorker

LEFT = 499
"""The status of an answer that nobody waits for, in nginx's words; it is only counted."""

LAST_WORD = 5.0
"""Seconds for telling a client that its time is up."""


async def events(
    request: Request, desk: ModelWorker, work: Callable[[Job], None], seconds: float
) -> AsyncGenerator[Any]:
    """What a job says, until it is done. Closing this drops the job.

    Args:
        request: its body was read; from now on its connection is watched.
        seconds: from now on, for all of it.

    Raises:
        Refused: no place in the queue (503), too slow (504), or what the job failed of.
        Gone: the client has left.
    """
    deadline = asyncio.get_running_loop().time() + seconds
    job = desk.hand_in(work)
    watcher = asyncio.create_task(_leave_with(request.receive, job))
    try:
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    event = await job.events.get()
            except TimeoutError:
                raise Refused(f"the request took longer than {seconds:g} s", status=504, code="time_limit") from None
            if isinstance(event, Gone):
                raise event
            if isinstance(event, Done):
                if event.error is not None:
                    raise event.error
                return
            yield event
    finally:
        desk.drop(job)
        watcher.cancel()


async def _leave_with(receive: Receive, job: Job) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    job.events.put_nowait(Gone())


async def whole(source: AsyncGenerator[Any]) -> list[Any] | None:
    """All the events of a job; None if the client left before the last."""
    async with contextlib.aclosing(source) as found:
        try:
            return [event async for event in found]
        except Gone:
            return None


def plain(value: Any) -> Response:
    """A JSON answer; none at all for a client that has left."""
    return Response(status_code=LEFT) if value is None else JSONResponse(value)


Render = Callable[[Any], Iterable[Any]]
"""An event of the job -> what is sent of it, each a value for JSON."""


async def streamed(
    source: AsyncGenerator[Any], render: Render, error: Callable[[Refused], Any], end: str, seconds: float
) -> Response:
    """A stream of server-sent events, begun when the job says its first word: what goes wrong before is a status.

    Args:
        source: `events`.
        render: see `Render`.
        error: what is sent if something goes wrong once the stream has begun.
        end: a last line, or "".
        seconds: for one line to be taken by the client; then it counts as gone.
    """
    try:
        first = await anext(source)
    except Gone:
        return Response(status_code=LEFT)
    except StopAsyncIteration:
        raise RuntimeError("a job said nothing") from None
    except BaseException:
        await source.aclose()
        raise
    return EventStream(first, source, render, error, end, seconds)


class EventStream(Response):
    """See `streamed`."""

    def __init__(
        self,
        first: Any,
        source: AsyncGenerator[Any],
        render: Render,
        error: Callable[[Refused], Any],
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
            with contextlib.suppress(Gone, TimeoutError):
                async with asyncio.timeout(self._seconds):
                    await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                async for line in self._lines():
                    async with asyncio.timeout(self._seconds):
                        await send({"type": "http.response.body", "body": line, "more_body": True})
                await self._finish(send({"type": "http.response.body", "body": b""}))

    @staticmethod
    async def _finish(sending: Awaitable[None]) -> None:
        async with asyncio.timeout(LAST_WORD):
            await sending

    async def _lines(self) -> AsyncIterator[bytes]:
        try:
            for value in self._render(self._first):
                yield line(value)
            async for event in self._source:
                for value in self._render(event):
                    yield line(value)
        except Refused as refused:
            yield line(self._error(refused))
        if self._end:
            yield f"data: {self._end}\n\n".encode()


def line(value: Any) -> bytes:
    """One server-sent event. JSON in ASCII: no line break, and lone surrogates do no harm."""
    return f"data: {json.dumps(value, separators=(',', ':'))}\n\n".encode()
