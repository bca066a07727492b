"""uvicorn around the application: the address, signals, and a shutdown that answers every request.

Ctrl-C or SIGTERM: no new connections; waiting requests get 503; the running text has `Serving.grace` seconds to finish,
then it is ended after its current token. A second signal ends it at once.
"""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import uvicorn

from edgekit.errors import EdgekitError
from edgekit.utils.files import os_reason
from edgekit.web.app import application
from edgekit.web.connections import SPARE, protocol
from edgekit.web.limits import MAX_REQUESTS
from edgekit.web.models import ModelPool
from edgekit.web.settings import Serving
from edgekit.web.worker import ModelWorker


class Server(uvicorn.Server):
    """uvicorn's server with the shutdown described above; `status` is the exit status of the process."""

    def __init__(self, config: uvicorn.Config, worker: ModelWorker, grace: float, ready: Callable[[], None]):
        super().__init__(config)
        self._worker, self._grace, self._ready, self.status = worker, grace, ready, 0
        self.failure: OSError | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {one: signal.signal(one, self.handle_exit) for one in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            self._grace = 0.0
        else:
            self.should_exit = True
            self.status = 130 if sig == signal.SIGINT else 0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        try:
            self._ready()
        except (
            OSError
        ) as error:  # the address cannot be printed; raised by `serve`, since uvicorn would log it at length
            self.failure, self.should_exit = error, True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._worker.close()
        watcher = asyncio.create_task(self._interrupt_after_grace())
        await super().shutdown(sockets)
        watcher.cancel()

    async def _interrupt_after_grace(self) -> None:
        begin = asyncio.get_running_loop().time()
        while asyncio.get_running_loop().time() < begin + self._grace:
            await asyncio.sleep(0.05)
        self._worker.interrupt()


def listen(settings: Serving) -> socket.socket:
    """A socket on the address. Raises `EdgekitError` if it is taken or does not exist.

    Its protocol is named. asyncio sets TCP_NODELAY only on connections of such sockets, and without it each response on
    a connection that is kept open waits for the client's delayed acknowledgement, 40 ms on Linux.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listening = socket.create_server((settings.host, settings.port), family=family, backlog=MAX_REQUESTS + SPARE)
        return socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=listening.detach())
    except (OSError, OverflowError, UnicodeError) as error:
        reason = os_reason(error) if isinstance(error, OSError) else "no such host"
        raise EdgekitError(
            f"cannot listen on {settings.host}, port {settings.port}: {reason}; choose another with --port"
        ) from error


def address(settings: Serving, listening: socket.socket) -> str:
    """The URL for a browser."""
    host, port = settings.host, listening.getsockname()[1]
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def serve(pool: ModelPool, settings: Serving, *, pages: Path | None, ready: Callable[[str], None]) -> int:
    """Open the first model, then serve until a signal; returns the exit status.

    Args:
        ready: called with the URL once the server accepts requests.

    Raises:
        EdgekitError: the address is not available, it is reachable from other machines without a key, or the model
            cannot be opened.
    """
    settings.check_reach()
    with listen(settings) as listening:
        pool.open(pool.first, pool.first.runtime)
        app = application(pool, settings, pages)
        config = uvicorn.Config(
            app,
            loop="asyncio",
            http=protocol(settings),
            ws="none",
            lifespan="on",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=int(settings.grace) + 10,
        )
        url = address(settings, listening)
        server = Server(config, app.state.edgekit.worker, settings.grace, lambda: ready(url))
        server.run(sockets=[listening])
    pool.close()
    if server.failure is not None:
        raise server.failure
    return server.status
