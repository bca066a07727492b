"""What the server has done, in Prometheus's text format 0.0.4."""

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgekit.inference.generate import Generation
from edgekit.web.responses import LEFT
from edgekit.web.worker import ModelWorker

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class Histogram:
    """Counts of values up to each bound, and their sum."""

    def __init__(self) -> None:
        self._counts, self._sum = [0] * (len(SECONDS) + 1), 0.0

    def add(self, value: float) -> None:
        self._counts[bisect_left(SECONDS, value)] += 1
        self._sum += value

    def lines(self, name: str) -> Iterator[str]:
        total = 0
        for bound, count in zip((*map(str, SECONDS), "+Inf"), self._counts, strict=True):
            total += count
            yield f'{name}_bucket{{le="{bound}"}} {total}'
        yield f"{name}_sum {self._sum}"
        yield f"{name}_count {total}"


class Metrics:
    """Counters of one application; `add` may be called from the desk's thread."""

    def __init__(self, desk: ModelWorker):
        self._desk, self._lock = desk, threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._prompt_tokens = self._new_tokens = 0
        self._first_token, self._decode = Histogram(), Histogram()

    def count(self, path: str, status: int) -> None:
        with self._lock:
            self._requests[path, status] += 1

    def add(self, text: Generation, waited: float) -> None:
        """A text that is over, however it ended; `waited` are the seconds between the request and its beginning."""
        timings = text.timings
        with self._lock:
            self._prompt_tokens += timings.prompt_tokens
            self._new_tokens += timings.new_tokens
            if timings.new_tokens:
                self._first_token.add(waited + timings.first_token)
                self._decode.add(timings.decode)

    def text(self) -> str:
        """The whole page."""
        with self._lock:
            lines = [
                *_head("edgekit_requests_total", "counter", f"Answers by path and status; {LEFT}: the client left."),
                *(
                    f'edgekit_requests_total{{path="{path}",status="{status}"}} {count}'
                    for (path, status), count in sorted(self._requests.items())
                ),
                *_head("edgekit_prompt_tokens_total", "counter", "Prompt tokens that models have read."),
                f"edgekit_prompt_tokens_total {self._prompt_tokens}",
                *_head("edgekit_new_tokens_total", "counter", "Tokens that models have added."),
                f"edgekit_new_tokens_total {self._new_tokens}",
                *_head("edgekit_queue_length", "gauge", "Requests that wait."),
                f"edgekit_queue_length {self._desk.waiting}",
                *_head("edgekit_busy", "gauge", "1 while a model runs."),
                f"edgekit_busy {int(self._desk.busy)}",
                *_head("edgekit_first_token_seconds", "histogram", "From the request to its first token."),
                *self._first_token.lines("edgekit_first_token_seconds"),
                *_head("edgekit_decode_seconds", "histogram", "Of a text, from its first token to its last."),
                *self._decode.lines("edgekit_decode_seconds"),
            ]
        return "\n".join(lines) + "\n"


def _head(name: str, kind: str, help: str) -> tuple[str, str]:
    return f"# HELP {name} {help}", f"# TYPE {name} {kind}"


class Counting:
    """The outermost ASGI layer: counts every answer, also a guard's.

    Args:
        known: paths with a line of their own; the rest is `other`, or anybody could fill the memory with names.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics, known: frozenset[str]):
        self._app, self._metrics, self._known = app, metrics, known

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        status = 500

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, counted)
        finally:
            self._metrics.count(scope["path"] if scope["path"] in self._known else "other", status)
