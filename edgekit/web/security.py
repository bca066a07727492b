"""Access control: an ASGI middleware checks Host, Origin and API key before a body is read; bodies have a size limit.

- DNS rebinding: a web page can reach this machine under a host name of its own that resolves to 127.0.0.1. Its requests
  carry that name in `Host`, so on the loopback interface only loopback's own names are answered.
- Cross-site requests: a page can post to any address, and the browser sends its origin along. Only the server's own
  origin and those of `--allow-origin` are answered. Requests without an origin (images, scripts) are refused where the
  browser says that another site made them (`Sec-Fetch-Site`); a link to a page may be followed.
- No sniffing: each response tells browsers to believe its content type.
- The API key is compared in constant time. Programs send it as a bearer token; where there are pages, the browser asks
  its user for a password and sends the key as that (HTTP Basic) with everything the pages fetch.
"""

import asyncio
import base64
import hmac
import json
import re
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgekit.web.settings import is_loopback
from edgekit.web.validation import RequestError

OPEN = "/health"
"""Answered without a key."""

HOST = re.compile(r"(?:\[([^\]]*)\]|([^:\[\]]*))(?::[0-9]*)?")


class Guard:
    """Checks host, origin and key, in this order.

    Args:
        loopback: answer only to loopback's names.
        origins: allowed besides the server's own; "*" is any.
        key: the API key, or None.
        pages: there are pages, so browsers are asked for a password.
    """

    def __init__(self, app: ASGIApp, *, loopback: bool, origins: Collection[str], key: str | None, pages: bool):
        self._app, self._loopback, self._origins, self._pages = app, loopback, frozenset(origins), pages
        self._key = None if key is None else key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        error = self._check(scope["path"], Headers(scope=scope))
        if error is None:
            return await self._app(scope, receive, no_sniffing(send))
        await error_response(error, scope["path"])(scope, receive, send)

    def _check(self, path: str, headers: Headers) -> RequestError | None:
        hosts = headers.getlist("host")
        if self._loopback and not (hosts and all(is_loopback(host_name(host)) for host in hosts)):
            return RequestError(
                f"this server answers to localhost only, not to {', '.join(hosts) or 'an empty host'}", status=403
            )
        origin = headers.get("origin")
        if origin is not None and not self._origins & {"*", origin}:
            scheme, _, netloc = origin.lower().partition("://")
            if scheme not in ("http", "https") or [netloc] != [host.lower() for host in hosts]:
                return RequestError(
                    f"origin {origin} is not allowed: start the server with --allow-origin {origin}", status=403
                )
        if origin is None and "*" not in self._origins and is_embedded(headers):
            return RequestError("pages of other sites are not allowed to load this", status=403)
        if self._key is not None and path != OPEN:
            given = password(headers.get("authorization", ""))
            if not hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self._key):
                scheme = 'Basic realm="edgekit: the API key is the password", charset="UTF-8"'
                return RequestError(
                    "missing or wrong API key: send `Authorization: Bearer KEY`",
                    status=401, code="invalid_api_key",
                    headers={"WWW-Authenticate": scheme if self._pages else "Bearer"},
                )  # fmt: skip
        return None


def is_embedded(headers: Headers) -> bool:
    """Whether a page of another site made the request, and not by a link that its reader followed."""
    followed = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    return headers.get("sec-fetch-site") == "cross-site" and not followed


def password(authorization: str) -> str:
    """The key in an Authorization header: a bearer token, or the password of HTTP Basic (RFC 7617)."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except ValueError:
            return ""
    return ""


def host_name(host: str) -> str:
    """The name in a Host header, without the port and the brackets of IPv6; "" if it is malformed."""
    match = HOST.fullmatch(host)
    return (match[1] or match[2] or "").lower() if match else ""


def no_sniffing(send: Send) -> Send:
    """`send` with a header that keeps browsers from taking a response for another type than it says."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message)["x-content-type-options"] = "nosniff"
        await send(message)

    return sending


def error_response(error: RequestError, path: str) -> Response:
    """Its JSON is ASCII, since the name of an unknown field may have lone surrogates."""
    headers = {"X-Content-Type-Options": "nosniff", **error.headers}
    return Response(json.dumps(error.body(path)).encode(), error.status, headers, "application/json")


async def read_body(request: Request, limit: int, seconds: float) -> bytes:
    """The body of a request.

    Raises:
        RequestError: 413 as soon as it is certain to be larger than `limit` bytes, 408 if it is not complete after
            `seconds`.
        ClientDisconnect: the client has left.
    """
    too_large = RequestError(f"the body may have {limit} bytes at most", status=413, headers={"Connection": "close"})
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit:
        raise too_large
    parts, size = [], 0
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                size += len(part)
                if size > limit:
                    raise too_large
                parts.append(part)
    except TimeoutError:
        raise RequestError(
            f"the body took longer than {seconds:g} s", status=408, headers={"Connection": "close"}
        ) from None
    return b"".join(parts)
