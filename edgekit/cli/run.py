"""Continue PROMPT, streaming the text.

Without PROMPT it reads a piped stdin, or asks for prompts one by one.

\b
edgekit run -m model.gguf "Once upon a time"
edgekit run -m model.onnx "The science of" --temperature 0.8 --top-p 0.7 --repetition-penalty 1.2 --seed 7
echo "Once upon a time" | edgekit run -m ./checkpoint --runtime torch --stats
edgekit run -m ./checkpoint "Once upon a time" --draft small.gguf --stats

For flags that are not given, the model's own generation config applies; the [default] applies if it has no value.
"""

import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli import _flags as flags
from edgekit.cli._options import given, options
from edgekit.cli._prompt import piped
from edgekit.errors import EdgekitError, UsageError
from edgekit.settings import Drafting, Generating, Running
from edgekit.utils import registry

if TYPE_CHECKING:
    from edgekit.inference.generate import Generation
    from edgekit.inference.speculative.speculation import DraftStats
    from edgekit.model import Model


@click.command("run", help=__doc__)
@click.argument("prompt", required=False)
@flags.model
@flags.runtime
@flags.quant
@flags.revision
@options(Generating, Running, Drafting)
@click.option("--echo/--no-echo", default=True, help="Print the prompt before its continuation.")
@click.option("--stats", is_flag=True, help="Print timings on stderr.")
@flags.as_json
def run(
    prompt: str | None,
    model: str | None,
    runtime: str | None,
    quant: str | None,
    revision: str | None,
    echo: bool,
    stats: bool,
    as_json: bool,
    **values: Any,
) -> None:
    if prompt is None and not sys.stdin.isatty():
        prompt = piped()
    running, settings, drafting = given(Running, values), given(Generating, values), given(Drafting, values)
    if drafting and "draft" not in drafting:
        raise UsageError(f"--{next(iter(drafting)).replace('_', '-')} needs --draft")
    from edgekit.model import load

    loaded = load(model, runtime=runtime, quant=quant, revision=revision, progress=flags.progress, **running)
    if drafting:
        drafting["draft"] = loaded.drafter(drafting["draft"], drafting.get("draft_runtime"))
        settings |= drafting
    if prompt is not None:
        _answer(loaded, prompt, settings, echo, stats, as_json)
    else:
        _converse(loaded, settings, stats, as_json)


def _answer(model: "Model", prompt: str, settings: dict[str, Any], echo: bool, stats: bool, as_json: bool) -> None:
    stream = model.stream(prompt, **settings)
    interrupted = False
    try:
        if echo and not as_json:
            _write(prompt)
        for piece in stream:
            if not as_json:
                _write(piece)
    except KeyboardInterrupt:
        interrupted = True
        stream.close()
    if as_json:
        click.echo(json.dumps(_record(stream.result, model)))
    else:
        click.echo()
    if stats:
        click.echo(_statistics(stream.result), err=True)
    if interrupted:
        sys.exit(130)


def _converse(model: "Model", settings: dict[str, Any], stats: bool, as_json: bool) -> None:
    """Asks for prompts. Ctrl-C ends a text, or the session between texts; Ctrl-D ends the session."""
    import contextlib

    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (gives `input` a history and arrow keys)
    click.echo("Type the beginning of a text. Ctrl-C stops a text, Ctrl-D quits.", err=True)
    while True:
        try:
            prompt = input("> ")
        except (EOFError, KeyboardInterrupt):
            click.echo(err=True)
            return
        if not prompt:
            continue
        try:
            _answer(model, prompt, settings, True, stats, as_json)
        except EdgekitError as error:
            click.echo(f"Error: {error}", err=True)
        except SystemExit:
            continue


def _write(piece: str) -> None:
    click.echo(piece, nl=False)
    sys.stdout.flush()


def _statistics(result: "Generation") -> str:
    t = result.timings
    drafted = "" if result.draft is None else "\n" + _draft_statistics(result.draft)
    return (
        f"load {1000 * t.load:.0f} ms · first token {1000 * t.first_token:.1f} ms · "
        f"prefill {t.prompt_tokens} tokens {t.prefill_rate:,.0f}/s · "
        f"decode {t.new_tokens} tokens {t.decode_rate:,.0f}/s · {result.finish_reason} · seed {result.seed}"
        f"{drafted}"
    )


def _draft_statistics(d: "DraftStats") -> str:
    line = f"draft ({d.kind}) · {d.accepted} of {d.drafted} drafted tokens accepted"
    line += f" ({100 * d.acceptance:.0f} %)" if d.drafted else ""
    line += f" · {d.tokens_per_call:.2f} tokens per call of the model"
    if d.speedup is not None:
        step = f"{1000 * d.plain_step:.2f} ms"
        line += f" · estimated speed-up {d.speedup:.2f} (against one-token calls of {step}, measured in this text)"
    if d.rests:
        line += f" · did not pay: stopped {d.rests} time{'s' if d.rests > 1 else ''}"
        line += ", at the end as well" if d.resting else ""
    return line


def _record(result: "Generation", model: "Model") -> dict[str, Any]:
    record = dataclasses.asdict(result)
    record["timings"] |= {"prefill_rate": result.timings.prefill_rate, "decode_rate": result.timings.decode_rate}
    if (d := result.draft) is not None:
        record["draft"] |= {
            "acceptance": d.acceptance, "tokens_per_call": d.tokens_per_call, "estimated_speedup": d.speedup,
        }  # fmt: skip
    else:
        del record["draft"]
    return record | {"runtime": registry.name_of(model.runtime)}


COMMAND = run
