"""The application: two APIs, the state of the server, and perhaps pages, behind the guards."""

import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

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
from edgekit.web import completions, metrics, playground, responses, security
from edgekit.web.models import ModelPool
from edgekit.web.settings import Serving, is_loopback
from edgekit.web.state import AppState
from edgekit.web.validation import Refused, refusal

PAGES = Path(__file__).parent / "pages"

# Said here: `mimetypes` asks the system, and some systems call JavaScript plain text, which no browser runs.
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

# Pages run their own files' code only, and talk to this server only.
POLICY = (
    "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def pages() -> Path:
    """The playground's files. Raises `FileError` if they were not installed."""
    if not (PAGES / "index.html").is_file():
        raise FileError("the playground's pages are missing: install edgekit again")
    return PAGES


def application(shelf: ModelPool, settings: Serving, pages: Path | None = None) -> Starlette:
    """The ASGI application; `state.house` has its parts. Its lifespan starts and stops the desk's thread.

    Args:
        pages: a folder with index.html, whose files are served at the root.
    """
    house = AppState(shelf, settings)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        house.desk.start()
        try:
            yield
        finally:
            house.desk.stop()

    routes: list[BaseRoute] = [
        Route("/health", health(house)),
        Route("/metrics", counters(house)),
        *playground.routes(house),
        *completions.routes(house),
    ]
    known = frozenset(route.path for route in routes if isinstance(route, Route) and "{" not in route.path)
    if pages is not None:
        routes.append(Mount("/", Pages(directory=pages, html=True)))
    layers = [Middleware(metrics.Counting, metrics=house.metrics, known=known)]
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
    app = Starlette(
        routes=routes,
        middleware=layers,
        exception_handlers={
            EdgekitError: refused,
            HTTPException: unknown,
            ClientDisconnect: gone,
            Exception: refused,
        },  # fmt: skip
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.house = house
    return app


def health(house: AppState) -> Any:
    async def state(request: Request) -> Response:
        return JSONResponse({"status": "ok", "waiting": house.desk.waiting, "busy": house.desk.busy})

    return state


def counters(house: AppState) -> Any:
    async def page(request: Request) -> Response:
        return PlainTextResponse(house.metrics.text(), media_type=metrics.CONTENT_TYPE)

    return page


async def refused(request: Request, error: Exception) -> Response:
    return security.answer(refusal(error), request.url.path)


async def unknown(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    what = {404: f"nothing at {request.url.path}", 405: f"{request.method} is not for {request.url.path}"}
    said = what.get(error.status_code, error.detail)
    return security.answer(Refused(said, status=error.status_code, headers=dict(error.headers or {})), request.url.path)


async def gone(request: Request, error: Exception) -> Response:
    return responses.plain(None)


class Pages(StaticFiles):
    """A folder's files. Browsers keep them and ask each time whether they are still good (ETag)."""

    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        response = super().file_response(full_path, stat_result, scope, status_code)
        if response.status_code != 304:
            response.headers["content-type"] = TYPES.get(Path(full_path).suffix.lower(), "application/octet-stream")
        response.headers["cache-control"] = "no-cache"
        response.headers["x-content-type-options"] = "nosniff"
        response.headers["content-security-policy"] = POLICY
        return response
