"""The ASGI application: both APIs, health and metrics, optionally pages, behind access control."""

import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from edgekit.errors import EdgekitError, FileError
from edgekit.web import chat, completions, metrics, playground, responses, security
from edgekit.web.limits import Limits
from edgekit.web.models import ModelPool
from edgekit.web.settings import Serving, is_loopback
from edgekit.web.state import AppState
from edgekit.web.validation import RequestError, as_request_error

PAGES = Path(__file__).parent / "pages"

# Fixed here: `mimetypes` asks the system, and some systems call JavaScript plain text, which browsers do not run.
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
    ".wasm": "application/wasm",
}

# Pages run the code of their own files only, and talk to this server only.
POLICY = (
    "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


Endpoint = Callable[[Request], Awaitable[Response]]


def pages() -> Path:
    """The playground's files. Raises `FileError` if they were not installed."""
    if not (PAGES / "index.html").is_file():
        raise FileError("the playground's pages are missing: install edgekit again")
    return PAGES


def application(pool: ModelPool, settings: Serving, pages: Path | None = None) -> Starlette:
    """The ASGI application; `app.state.edgekit` is its `AppState`. Its lifespan starts and stops the worker's thread.

    Args:
        pages: a folder with index.html, whose files are served at the root.
    """
    state = AppState(pool, settings)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        state.worker.start()
        try:
            yield
        finally:
            state.worker.stop()

    routes: list[BaseRoute] = [
        Route("/health", health(state)),
        Route("/metrics", metrics_page(state)),
        *playground.routes(state),
        *completions.routes(state),
        *chat.routes(state),
    ]
    known = frozenset(route.path for route in routes if isinstance(route, Route) and "{" not in route.path)
    if pages is not None:
        routes.append(Mount("/", Pages(directory=pages, html=True)))
    layers = [Middleware(metrics.Counting, metrics=state.metrics, known=known)]
    if settings.allow_origin:
        layers.append(
            Middleware(
                CORSMiddleware, allow_origins=settings.allow_origin, allow_methods=["GET", "POST"], allow_headers=["*"]
            )
        )
    layers.append(
        Middleware(
            security.Guard,
            loopback=is_loopback(settings.host),
            origins=settings.allow_origin,
            key=settings.api_key,
            pages=pages is not None,
        )
    )
    layers.append(Middleware(Limits, settings=settings))  # after the key: a slot is for those who have it
    app = Starlette(
        routes=routes,
        middleware=layers,
        exception_handlers={
            EdgekitError: request_failed,
            HTTPException: http_error,
            ClientDisconnect: client_left,
            Exception: request_failed,
        },  # fmt: skip
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.edgekit = state
    return app


def health(state: AppState) -> Endpoint:
    async def page(request: Request) -> Response:
        return JSONResponse({"status": "ok", "waiting": state.worker.waiting, "busy": state.worker.busy})

    return page


def metrics_page(state: AppState) -> Endpoint:
    async def page(request: Request) -> Response:
        return PlainTextResponse(state.metrics.text(), media_type=metrics.CONTENT_TYPE)

    return page


async def request_failed(request: Request, error: Exception) -> Response:
    return security.error_response(as_request_error(error), request.url.path)


async def http_error(request: Request, error: Exception) -> Response:
    """Starlette's own errors in the form of the path's API."""
    if not isinstance(error, HTTPException):
        raise error
    path = request.url.path
    messages = {404: f"{path} does not exist", 405: f"{path} does not accept {request.method}"}
    message = messages.get(error.status_code, error.detail)
    headers = dict(error.headers or {})
    return security.error_response(RequestError(message, status=error.status_code, headers=headers), path)


async def client_left(request: Request, error: Exception) -> Response:
    return responses.json_response(None)


class Pages(StaticFiles):
    """The files of a folder. Browsers cache them and revalidate each time (ETag)."""

    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        response = super().file_response(full_path, stat_result, scope, status_code)
        if response.status_code != 304:
            response.headers["content-type"] = TYPES.get(Path(full_path).suffix.lower(), "application/octet-stream")
        response.headers["cache-control"] = "no-cache"
        response.headers["content-security-policy"] = POLICY
        return response
