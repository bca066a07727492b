"""Who may ask. Each guard is a plain ASGI layer, and refuses before a body is read.

- A page in a browser can be made to call this machine by a name of its own that resolves to 127.0.0.1 (DNS rebinding);
  its requests carry that name. So on the loopback interface only loopback's own names are answered.
- A page can post to any address; the browser says whose page it is. Only the server's own, and those of
  `--allow-origin`, are answered.
- An API key is compared in constant time. Programs send it as a bearer token; a browser that is shown pages asks its
  user for a password, sends the key as that, and goes on sending it with all that the pages fetch.
"""

import asyncio
import base64
import hmac
import re
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from edgekit.web.settings import is_loopback
from edgekit.web.validation import Refused

OPEN = "/health"

HOST = re.compile(r"(?:\[([^\]]*)\]|([^:\[\]]*))(?::[0-9]*)?")


class Guard:
    """Host, origin and key, in this order.

    Args:
        loopback: whether only loopback's names are answered.
        origins: pages that may call besides the server's own; "*" is any.
        key: what to ask for, or None.
        pages: whether there are pages, and so browsers to be asked for a password.
    """

    def __init__(self, app: ASGIApp, *, loopback: bool, origins: Collection[str], key: str | None, pages: bool):
        self._app, self._loopback, self._origins, self._pages = app, loopback, frozenset(origins), pages
        self._key = None if key is None else key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        refused = self._refused(scope["path"], Headers(scope=scope))
        if refused is None:
            return await self._app(scope, receive, send)
        await answer(refused, scope["path"])(scope, receive, send)

    def _refused(self, path: str, headers: Headers) -> Refused | None:
        hosts = headers.getlist("host")
        if self._loopback and not (hosts and all(is_loopback(name_of(host)) for host in hosts)):
            return Refused(f"this server answers to localhost, not to {', '.join(hosts) or 'no name'}", status=403)
        origin = headers.get("origin")
        if origin is not None and not self._origins & {"*", origin}:
            scheme, _, netloc = origin.lower().partition("://")
            if scheme not in ("http", "https") or [netloc] != [host.lower() for host in hosts]:
                return Refused(f"pages of {origin} may not call this server: start it with --allow-origin", status=403)
        if self._key is not None and path != OPEN:
            given = password(headers.get("authorization", ""))
            if not hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self._key):
                scheme = 'Basic realm="edgekit: the API key is the password", charset="UTF-8"'
                return Refused(
                    "no API key, or a wrong one: send `Authorization: Bearer KEY`",
                    status=401, code="invalid_api_key",
                    headers={"WWW-Authenticate": scheme if self._pages else "Bearer"},
                )  # fmt: skip
        return None


def password(authorization: str) -> str:
    """The key in an Authorization header: a bearer token, or what follows the user's name in RFC 7617's Basic."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except ValueError:
            return ""
    return ""


def name_of(host: str) -> str:
    """The name in a Host header: without the port, and without the brackets of IPv6."""
    found = HOST.fullmatch(host)
    return (found[1] or found[2] or "").lower() if found else ""


def answer(refused: Refused, path: str) -> Response:
    return JSONResponse(refused.body(path), refused.status, refused.headers)


async def body(request: Request, most: int, seconds: float) -> bytes:
    """The body of a request.

    Raises:
        Refused: 413 as soon as it is certain to be larger than `most`, 408 if it is not there after `seconds`.
        ClientDisconnect: the client has left.
    """
    too_large = Refused(f"the body may have {most} bytes at most", status=413, headers={"Connection": "close"})
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > most:
        raise too_large
    parts, size = [], 0
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise too_large
                parts.append(part)
    except TimeoutError:
        raise Refused(f"the body took longer than {seconds:g} s", status=408) from None
    return b"".join(parts)
