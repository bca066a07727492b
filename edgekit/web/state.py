"""What the parts of one application share: its settings, models, worker and metrics."""

import contextlib
import logging
import time
import weakref
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

from starlette.requests import Request

from edgekit.inference.generate import Stream
from edgekit.model import Model
from edgekit.tokenizers.base import spelled_special
from edgekit.utils import registry
from edgekit.web import responses, security
from edgekit.web.metrics import Metrics
from edgekit.web.models import ModelPool
from edgekit.web.settings import Serving
from edgekit.web.validation import RequestError, check_ids
from edgekit.web.worker import Job, ModelWorker

log = logging.getLogger(__name__)


class AppState:
    """One per application, as `app.state.edgekit`."""

    def __init__(self, pool: ModelPool, settings: Serving):
        self.pool, self.settings = pool, settings
        self.worker = ModelWorker(settings.queue_size)
        self.metrics = Metrics(self.worker)
        self._noted: weakref.WeakSet[Model] = weakref.WeakSet()

    async def body(self, request: Request) -> bytes:
        """See `edgekit.web.security.read_body`."""
        seconds = min(self.settings.read_limit, self.settings.time_limit)
        return await security.read_body(request, self.settings.max_body_bytes, seconds)

    def events(self, request: Request, work: Callable[[Job], None]) -> AsyncGenerator[Any]:
        """See `edgekit.web.responses.events`."""
        return responses.events(request, self.worker, work, self.settings.time_limit)

    def prompt(self, model: Model, prompt: str | list[int], param: str, *, special: bool = False) -> list[int]:
        """The ids of a prompt, checked against the limit. Raises `RequestError` (400, 413) and `PromptError`.

        Args:
            param: the name of the field, for errors.
            special: whether special tokens that the prompt spells are read as tokens.
        """
        limit = self.settings.max_prompt_tokens
        if not isinstance(prompt, str):
            check_ids(prompt, model.runtime.vocab_size, param)  # before `encode`, which does not know the field
        ids = model.encode(prompt, special=special)
        if isinstance(prompt, str) and not special:
            self._note_specials(model, prompt)
        if limit is not None and len(ids) > limit:
            raise RequestError(f"the prompt has {len(ids)} tokens; {limit} are allowed", param, status=413)
        return ids

    def _note_specials(self, model: Model, prompt: str) -> None:
        """Log the first prompt of a model that spells a special token, which was read as text."""
        if model not in self._noted and (mark := spelled_special(model.tokenizer, prompt)):
            log.warning("note: %s in a prompt was read as text; the field special: true reads it as a token", mark)
            self._noted.add(model)

    @contextlib.contextmanager
    def counting(self, stream: Stream, job: Job) -> Iterator[None]:
        """Add a text to the metrics once the block is over, also if it fails."""
        waited = time.perf_counter() - job.since
        try:
            yield
        finally:
            self.metrics.add(stream.result, waited, registry.name_of(stream.runtime))
