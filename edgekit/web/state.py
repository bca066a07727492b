"""What the parts of one application share: its settings, models, desk and counters."""

import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

from starlette.requests import Request

from edgekit.inference.generate import Stream
from edgekit.web import responses, security
from edgekit.web.metrics import Metrics
from edgekit.web.models import ModelPool, Opened
from edgekit.web.settings import Serving
from edgekit.web.validation import Refused, token_ids
from edgekit.web.worker import Job, ModelWorker


class AppState:
    """See the module."""

    def __init__(self, shelf: ModelPool, settings: Serving):
        self.shelf, self.settings = shelf, settings
        self.desk = ModelWorker(settings.queue_size)
        self.metrics = Metrics(self.desk)

    async def body(self, request: Request) -> bytes:
        """See `edgekit.web.security.body`."""
        return await security.body(request, self.settings.max_body_bytes, self.settings.time_limit)

    def events(self, request: Request, work: Callable[[Job], None]) -> AsyncGenerator[Any]:
        """See `edgekit.web.responses.events`."""
        return responses.events(request, self.desk, work, self.settings.time_limit)

    def prompt(self, opened: Opened, prompt: str | list[int], param: str) -> list[int]:
        """The ids of a prompt, held to the limit. Raises `Refused` (400, 413) and `PromptError`."""
        model, most = opened.model, self.settings.max_prompt_tokens
        ids = model.encode(prompt)
        if not isinstance(prompt, str):
            token_ids(ids, model.runtime.vocab_size, param)
        if most is not None and len(ids) > most:
            raise Refused(f"the prompt has {len(ids)} tokens; {most} are allowed", param, status=413)
        return ids

    @contextlib.contextmanager
    def counting(self, stream: Stream, job: Job) -> Iterator[None]:
        """Add a text to the metrics once the block is over, also if it fails."""
        waited = time.perf_counter() - job.since
        try:
            yield
        finally:
            self.metrics.add(stream.result, waited)
