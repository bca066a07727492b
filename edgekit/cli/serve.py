"""Serve models over HTTP with OpenAI's completions and chat API; Ctrl-C stops.

\b
edgekit serve -m model.gguf
curl http://127.0.0.1:8000/v1/completions -d '{"prompt": "Once upon a time", "max_tokens": 40}'
EDGEKIT_API_KEY=... edgekit serve -m model.onnx --host 0.0.0.0

It also answers /v1/models, /health and /metrics (Prometheus). One text is generated at a time, other requests wait in
a queue. When a client disconnects, its text ends.
"""

import dataclasses
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli import _flags as flags
from edgekit.cli._options import given, options
from edgekit.errors import MissingExtraError
from edgekit.settings import Running
from edgekit.utils import registry
from edgekit.web.settings import KEY_VARIABLE, Serving

if TYPE_CHECKING:
    from edgekit.web.models import ModelPool

models = click.option(
    "-m", "--model", "models", multiple=True, metavar="MODEL",
    help="As for `run`; may be repeated: requests choose by name.",
)  # fmt: skip


@click.command("serve", help=__doc__)
@models
@flags.runtime
@flags.quant
@flags.revision
@options(Serving, Running)
def serve(models: tuple[str, ...], **values: Any) -> None:
    run(models, values)


def run(models: tuple[str, ...], values: dict[str, Any], *, pages: bool = False, browser: bool = False) -> None:
    """Runs the server of `serve` and `demo`; does not return."""
    running, settings = given(Running, values), Serving(**given(Serving, values))
    if settings.api_key is None and (key := os.environ.get(KEY_VARIABLE)):
        settings = dataclasses.replace(settings, api_key=key)
    settings.check_reach()
    try:
        from edgekit.web import app, server
        from edgekit.web.models import ModelPool
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        if missing in ("", "edgekit"):
            raise
        raise MissingExtraError(
            f"serve needs {missing}, which is not installed: {registry.install_command('serve')}"
        ) from error

    folder: Path | None = app.pages() if pages else None
    try:
        pool = ModelPool(models or (None,), progress=flags.progress, note=flags.note, **values, **running)
        sys.exit(server.serve(pool, settings, pages=folder, ready=lambda url: _ready(url, pool, browser)))
    except KeyboardInterrupt:  # while the model is being opened
        sys.exit(130)


def _ready(url: str, pool: "ModelPool", browser: bool) -> None:
    click.echo(url)
    sys.stdout.flush()
    click.echo(f"{', '.join(pool.entries)} · Ctrl-C stops", err=True)
    if browser and can_open():
        import threading
        import webbrowser

        threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()


def can_open() -> bool:
    """Whether there is a display; without one, `webbrowser` would start a browser inside the terminal."""
    if sys.platform in ("darwin", "win32"):
        return True
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


COMMAND = serve
