"""How many requests are answered at once: of the server, and of one client. An ASGI middleware refuses further ones."""

import ipaddress
from collections import Counter

from starlette.types import ASGIApp, Receive, Scope, Send

from edgekit.web.security import OPEN, error_response
from edgekit.web.settings import Serving
from edgekit.web.validation import RequestError

MAX_REQUESTS, MAX_CLIENT_REQUESTS = 256, 128
"""Besides those in the queue: requests that are being received, refused or sent."""


def server_requests(settings: Serving) -> int:
    """Most requests at once."""
    return MAX_REQUESTS + settings.queue_size


def client_requests(settings: Serving) -> int:
    """Most requests of one client at once."""
    return settings.client_requests or MAX_CLIENT_REQUESTS + settings.queue_size


def client_key(host: str | None) -> str:
    """What counts as one client: an IPv4 address, or a network of IPv6 (/64), which is what one machine is given."""
    try:
        address = ipaddress.ip_address(host or "")
    except ValueError:
        return host or ""
    return str(address) if address.version == 4 else address.exploded[:19]


class Limits:
    """Counts requests. Those over a limit get 503 or 429, except /health, which is always answered."""

    def __init__(self, app: ASGIApp, *, settings: Serving):
        self._app = app
        self._all, self._each = server_requests(settings), client_requests(settings)
        self._now: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] == OPEN:
            return await self._app(scope, receive, send)
        client = client_key((scope.get("client") or ("",))[0])
        if (error := self._check(client)) is not None:
            return await error_response(error, scope["path"])(scope, receive, send)
        self._now[client] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._now[client] -= 1
            if not self._now[client]:
                del self._now[client]

    def _check(self, client: str) -> RequestError | None:
        # The connection stays open: closed while a body arrives, the client would see a reset and no answer.
        headers = {"Retry-After": "5"}
        if self._now.total() >= self._all:
            return RequestError(f"the server has {self._all} requests", status=503, code="busy", headers=headers)
        if self._now[client] >= self._each:
            text = f"{self._each} requests of this address are being answered: wait for one of them"
            return RequestError(text, status=429, code="too_many_requests", headers=headers)
        return None
