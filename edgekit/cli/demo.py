"""Open a playground in the browser: write with a model and see the alternatives to each token.

\b
edgekit demo
edgekit demo -m model.gguf -m model.onnx --port 8080

The page talks to this machine only. The API of `edgekit serve` is available too.
"""

from typing import Any

import click

from edgekit.cli import _flags as flags
from edgekit.cli._options import options
from edgekit.cli.serve import models, run
from edgekit.settings import Running
from edgekit.web.settings import Serving


@click.command("demo", help=__doc__)
@models
@flags.runtime
@flags.quant
@flags.revision
@options(Serving, Running)
@click.option("--open/--no-open", "browser", default=True, help="Open the page in the browser, if there is a display.")
def demo(models: tuple[str, ...], browser: bool, **values: Any) -> None:
    run(models, values, pages=True, browser=browser)


COMMAND = demo
