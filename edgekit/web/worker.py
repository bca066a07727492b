"""One thread that runs jobs one after another, and the bounded queue in front of it.

A model has one sequence in its cache, so texts are generated one at a time; and nothing that takes time (opening a
model, a prefill, a step) runs on the event loop, which only waits. A job sends events to the loop. If its client has
left, it stops after its current token, or leaves the queue at once.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from edgekit.errors import EdgekitError
from edgekit.web.validation import RequestError, as_request_error

log = logging.getLogger(__name__)


class Done:
    """The last event of a job; `error` is None if it ran to its end."""

    def __init__(self, error: RequestError | None = None):
        self.error = error


class ClientLeft(Exception):
    """The client has left."""


class Job:
    """One piece of work for the worker's thread, and the events it sends to the loop.

    Args:
        work: called in the thread with the job itself. It sends events with `emit`, and should return soon once
            `cancelled()` is true.
    """

    def __init__(self, work: Callable[["Job"], None]):
        self._work = work
        self._loop = asyncio.get_running_loop()
        self._cancelled = False
        self.events: asyncio.Queue[Any] = asyncio.Queue()
        self.since = time.perf_counter()
        """When it was submitted, by `time.perf_counter`."""

    def emit(self, event: Any) -> None:
        """Put an event into `events`. Called in the worker's thread."""
        try:
            self._loop.call_soon_threadsafe(self.events.put_nowait, event)
        except RuntimeError:  # the loop is closed, and no one is left to read
            self._cancelled = True

    def cancelled(self) -> bool:
        return self._cancelled

    def run(self) -> Done:
        """Do the work, in the thread. Returns the last event, which is not sent yet."""
        try:
            if not self._cancelled:
                self._work(self)
        except EdgekitError as error:
            return Done(as_request_error(error))
        except BaseException as error:  # a panic of a library in Rust is no Exception, and must not end the thread
            log.exception("a request failed")
            return Done(as_request_error(error))
        return Done()


class ModelWorker:
    """The thread and its queue. All methods but `start` and `stop` are for the loop's thread.

    Args:
        size: jobs that may wait while one runs.
    """

    def __init__(self, size: int):
        self.size = size
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._open = False
        self._seconds = 1.0  # moving average of what recent jobs took

    def start(self) -> None:
        self._open = True
        self._thread = threading.Thread(target=self._serve, name="edgekit-worker", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def busy(self) -> bool:
        return self._running is not None

    def submit(self, work: Callable[[Job], None]) -> Job:
        """Queue a job. Raises `RequestError` (503) if the queue is full or the worker is closed."""
        with self._changed:
            if not self._open:
                raise _closed()
            ahead = len(self._waiting) + (self._running is not None)
            if ahead > self.size:
                wait = str(min(60, max(1, round(self._seconds * ahead))))
                raise RequestError(
                    f"the queue is full ({ahead} requests): try again in {wait} s",
                    status=503, code="queue_full", headers={"Retry-After": wait},
                )  # fmt: skip
            job = Job(work)
            self._waiting.append(job)
            self._changed.notify()
        return job

    def cancel(self, job: Job) -> None:
        """Take a job out of the queue, or stop it after its current token."""
        job._cancelled = True
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)

    def close(self) -> None:
        """Take no more jobs and refuse those that wait; the running one continues."""
        with self._changed:
            self._open = False
            waiting, self._waiting = list(self._waiting), deque()
            self._changed.notify()
        for job in waiting:
            job._cancelled = True
            job.events.put_nowait(Done(_closed()))

    def interrupt(self) -> None:
        """End the running job after its current token; its client gets an error."""
        if (job := self._running) is not None and not job.cancelled():
            job._cancelled = True
            job.events.put_nowait(Done(_closed()))

    def stop(self, timeout: float = 5.0) -> None:
        """Close, interrupt, and wait for the thread."""
        self.close()
        self.interrupt()
        if self._thread is not None:
            self._thread.join(timeout)

    def _serve(self) -> None:
        while True:
            with self._changed:
                while self._open and not self._waiting:
                    self._changed.wait()
                if not self._waiting:
                    return
                job = self._running = self._waiting.popleft()
            begin = time.perf_counter()
            done = job.run()
            self._seconds += 0.2 * (time.perf_counter() - begin - self._seconds)
            self._running = None  # before the client hears of it: its next request must find the worker free
            job.emit(done)
            del job, done  # free what they refer to now, not when the next job comes


def _closed() -> RequestError:
    return RequestError("the server is stopping", status=503, code="stopping", headers={"Retry-After": "5"})
