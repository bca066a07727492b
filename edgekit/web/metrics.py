"""What the server has done, for Prometheus, in the text format 0.0.4."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgekit.inference.generate import Generation
from edgekit.web.responses import CLIENT_LEFT
from edgekit.web.worker import ModelWorker

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Upper bounds of the histograms' buckets."""

disable_created_metrics()  # a time stamp beside every counter, which no one here asks for


class Metrics:
    """The metrics of one application. Safe from any thread."""

    def __init__(self, worker: ModelWorker):
        self.registry = registry = CollectorRegistry()
        self._requests = Counter(
            "edgekit_requests", f"Responses by path and status; {CLIENT_LEFT}: the client left.", ["path", "status"],
            registry=registry,
        )  # fmt: skip
        self._texts = Counter("edgekit_texts", "Texts that are over, by runtime.", ["runtime"], registry=registry)
        self._prompt_tokens = Counter(
            "edgekit_prompt_tokens", "Prompt tokens that models have read.", registry=registry
        )
        self._new_tokens = Counter("edgekit_new_tokens", "Tokens that models have generated.", registry=registry)
        queue = Gauge("edgekit_queue_length", "Requests that wait.", registry=registry)
        queue.set_function(lambda: worker.waiting)
        busy = Gauge("edgekit_busy", "1 while a model runs.", registry=registry)
        busy.set_function(lambda: worker.busy)
        self._first_token = Histogram(
            "edgekit_first_token_seconds", "From the request to its first token.", buckets=SECONDS, registry=registry
        )
        self._decode = Histogram(
            "edgekit_decode_seconds", "From a text's first token to its last.", buckets=SECONDS, registry=registry
        )

    def count(self, path: str, status: int) -> None:
        """Count a response."""
        self._requests.labels(path, status).inc()

    def add(self, result: Generation, waited: float, runtime: str) -> None:
        """Add a text that is over, however it ended; `waited`: seconds between the request and its start."""
        timings = result.timings
        self._texts.labels(runtime).inc()
        self._prompt_tokens.inc(timings.prompt_tokens)
        self._new_tokens.inc(timings.new_tokens)
        if timings.new_tokens:
            self._first_token.observe(waited + timings.first_token)
            self._decode.observe(timings.decode)

    def text(self) -> str:
        """The page of /metrics."""
        return generate_latest(self.registry).decode()


class Counting:
    """The outermost ASGI middleware: counts every response, those of `security.Guard` included.

    Args:
        known: paths that are counted by name. All others count as `other`: clients must not be able to create labels
            without end.
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
