"""uvicorn's HTTP protocol with limits on what a connection may hold without a request, and a strict reading of heads.

- Time: a connection has `read_limit` seconds to send a head, from its start or the last response. A request, its
  response included, ends at the latest when both of its own limits have passed; the connection is dropped then.
- Number: over the limit of an address or of the server, a connection without a request is closed: answered ones first,
  then the oldest silent one, so that clients that send nothing cannot keep others out. There are `SPARE` more
  connections than requests (`limits.py`), so that one is left to ask for /health.
- Heads: h11 accepts some forms that proxies read in another way (request smuggling). They are answered with 400.
"""

import asyncio
import json
import re
from typing import Any, ClassVar

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from edgekit.web.limits import client_key, client_requests, server_requests
from edgekit.web.responses import FINAL_SECONDS
from edgekit.web.settings import Serving
from edgekit.web.validation import RequestError

SPARE = 64
"""Connections besides those with a request."""

SETTLE = 0.02
"""Seconds until a new connection counts: many may be accepted before what they have sent is read."""

MAX_HEAD = 1 << 14
"""Bytes of a request's head."""

HEAD_END = re.compile(rb"\n\r?\n")
HEAD = re.compile(rb"(?:[^\s][^\r\n]*\r\n)+\r\n")
"""Lines end in CR LF, and none is the continuation of the one before."""
FRAMING = re.compile(rb"\r\n(content-length|transfer-encoding)[ \t]*:([^\r\n]*)", re.IGNORECASE)


def check_head(head: bytes) -> None:
    """Raises `h11.RemoteProtocolError` for a head whose end or body other programs could see elsewhere (RFC 9112)."""
    if not HEAD.fullmatch(head):
        raise h11.RemoteProtocolError("lines of the head must end in CR LF and must not be folded")
    framing = FRAMING.findall(head)
    if len(framing) > 1:
        raise h11.RemoteProtocolError("more than one of Content-Length and Transfer-Encoding")
    for name, value in framing:
        if name.lower() == b"content-length" and not value.strip().isdigit():
            raise h11.RemoteProtocolError("Content-Length must be one number")
        if name.lower() != b"content-length" and head.partition(b"\r\n")[0].endswith(b"HTTP/1.0"):
            raise h11.RemoteProtocolError("HTTP/1.0 has no Transfer-Encoding")


class StrictConnection(h11.Connection):
    """h11's parser behind `check_head`; keeps what was wrong, which uvicorn does not pass on."""

    problem = ""

    def next_event(self) -> Any:
        try:
            if self.their_state is h11.IDLE:
                data = self.trailing_data[0]
                if end := HEAD_END.search(data):
                    check_head(data[: end.end()])
            return super().next_event()
        except h11.RemoteProtocolError as error:
            self.problem = str(error)[:200]
            raise


class Connection(H11Protocol):
    """One connection. It has a class for each server, made by `protocol`, since uvicorn takes a class."""

    settings: ClassVar[Serving]

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ):
        super().__init__(config, server_state, app_state, _loop)
        self.conn: StrictConnection = StrictConnection(h11.SERVER, MAX_HEAD)
        self.since = self.loop.time()
        """When it last began to wait for a request."""
        self.begun = False
        """Bytes of the next request have come."""
        self.key = ""
        self._timer: asyncio.TimerHandle | None = None

    @property
    def idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self.key = client_key(self.client and self.client[0])
        self._wait(self.settings.read_limit)
        self.loop.call_later(SETTLE, self._limit)

    def _limit(self) -> None:
        """Keep to the limits, of which this connection may be the one too many."""
        requests = client_requests(self.settings)
        self._make_room([one for one in self._open(requests + SPARE) if one.key == self.key], requests)
        requests = server_requests(self.settings)
        self._make_room(self._open(requests + SPARE), requests)

    def data_received(self, data: bytes) -> None:
        self.begun = True
        super().data_received(data)

    def handle_events(self) -> None:
        was_idle = self.idle
        super().handle_events()
        if (
            was_idle and not self.idle
        ):  # both parts of a request have a limit; this one is for a client that reads slowly
            self._wait(self.settings.read_limit + 2 * self.settings.time_limit + FINAL_SECONDS)

    def on_response_complete(self) -> None:
        self.begun, self.since = False, self.loop.time()
        self._wait(self.settings.read_limit)
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        self._refuse(RequestError(f"invalid HTTP: {self.conn.problem or msg}"))

    def drop(self) -> None:
        """Close it now, even if the client does not take what was sent."""
        if self.idle and not self.transport.is_closing() and not self.transport.get_write_buffer_size():
            self.transport.close()
        else:
            self.transport.abort()

    def _open(self, limit: int) -> "list[Connection]":
        """All connections if they are more than a limit, to look no further in the usual case."""
        if len(self.connections) <= limit:
            return []
        return [one for one in self.connections if isinstance(one, Connection) and not one.transport.is_closing()]

    def _make_room(self, group: "list[Connection]", requests: int) -> None:
        """Close as many of a group as are too many. This one is closed only if too many others have requests: some
        spare ones may, since those that will be refused have one for a moment."""
        excess = len(group) - requests - SPARE
        if excess <= 0:
            return
        idle = [one for one in group if one.idle and one is not self]
        for one in sorted(idle, key=lambda one: (one.cycle is None, one.since))[:excess]:
            one.drop()
        if excess - len(idle) > SPARE and not self.transport.is_closing():
            self.drop()

    def _wait(self, seconds: float) -> None:
        """Limit the time until the next call."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(seconds, self._late)

    def _late(self) -> None:
        if self.idle and self.begun and self.conn.our_state is h11.IDLE and not self.transport.is_closing():
            seconds = f"{self.settings.read_limit:g} s"
            self._refuse(RequestError(f"the request's head took longer than {seconds}", status=408))
        else:
            self.drop()

    def _refuse(self, error: RequestError) -> None:
        """Answer what is not a request, if that is still possible, and close."""
        if not self.idle:  # an error in the body: the application must not wait for the rest
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            headers = {"Content-Type": "application/json", "X-Content-Type-Options": "nosniff", "Connection": "close"}
            body = json.dumps(error.body("")).encode()
            for event in (
                h11.Response(status_code=error.status, headers=[*headers.items(), ("Content-Length", str(len(body)))]),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def protocol(settings: Serving) -> type[Connection]:
    """The protocol class of a server, for `uvicorn.Config(http=...)`."""
    return type("Connection", (Connection,), {"settings": settings})
