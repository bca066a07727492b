"""Serve models over HTTP, as OpenAI's completions API; Ctrl-C stops.

\b
edgekit serve -m model.gguf
curl http://127.0.0.1:8000/v1/completions -d '{"prompt": "Once upon a time", "max_tokens": 40}'
EDGEKIT_API_KEY=... edgekit serve -m model.onnx --host 0.0.0.0

Beside /v1/completions and /v1/models there are /health and /metrics (for Prometheus). One text is made at a time,
the other requests wait in a queue; a client that leaves ends its text.
"""

import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

import click

from edgekit.cli import _flags as flags
from edgekit.cli._options import given, options
from edgekit.errors import MissingExtraError
from edgekit.settings import Running
from edgekit.utils import registry
from edgekit.web.settings import KEY_VARIABLE, Serving

models = click.option(
    "-m", "--model", "models", multiple=True, metavar="MODEL",
    help="As of `run`; may be repeated: requests choose by name.",
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
    """What `serve` and `demo` do; does not return."""
    running, found = given(Running, values), given(Serving, values)
    settings = Serving(**found)
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
        pool = ModelPool(models or (None,), progress=flags.progress, **values, **running)
        sys.exit(server.serve(pool, settings, pages=folder, ready=lambda where: _ready(where, pool, browser)))
    except KeyboardInterrupt:  # while the model was opened
        sys.exit(130)


def _ready(where: str, pool: Any, browser: bool) -> None:
    click.echo(where)
    sys.stdout.flush()
    click.echo(f"{', '.join(pool.entries)} · Ctrl-C stops", err=True)
    if browser and can_open():
        import threading
        import webbrowser

        threading.Thread(target=webbrowser.open, args=(where,), daemon=True).start()


def can_open() -> bool:
    """Whether there is a screen: without one, `webbrowser` would start a browser inside the terminal."""
    if sys.platform in ("darwin", "win32"):
        return True
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


COMMAND = serve
