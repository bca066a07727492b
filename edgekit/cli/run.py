"""Continue PROMPT, streaming the text.

Without PROMPT it reads a piped stdin, or asks for prompts one by one.

\b
edgekit run -m model.gguf "Once upon a time"
edgekit run -m model.onnx "The science of" --temperature 0.8 --top-p 0.7 --repetition-penalty 1.2 --seed 7
echo "Once upon a time" | edgekit run -m ./checkpoint --runtime torch --stats
edgekit run -m ./checkpoint "Once upon a time" --draft small.gguf --stats
edgekit run -m ./checkpoint --chat "What is the capital of France?"

For flags that are not given, the model's own generation config applies; the [default] applies if it has no value.
"""

import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli import _flags as flags
from edgekit.cli._answer import notes, show, statistics, write
from edgekit.cli._options import given, options
from edgekit.cli._prompt import piped
from edgekit.errors import EdgekitError, UsageError
from edgekit.settings import Drafting, Generating, Running
from edgekit.utils import registry

if TYPE_CHECKING:
    from edgekit.inference.generate import Generation
    from edgekit.model import Model


@click.command("run", help=__doc__)
@click.argument("prompt", required=False)
@flags.model
@flags.runtime
@flags.quant
@flags.revision
@options(Generating, Running, Drafting)
@click.option("--chat", is_flag=True, help="Answer PROMPT as a message, through the model's chat template.")
@click.option("--special", is_flag=True, help="Read special tokens that PROMPT spells as tokens, not as text.")
@click.option("--echo/--no-echo", default=True, help="Print the prompt before its continuation.")
@click.option("--stats", is_flag=True, help="Print timings on stderr.")
@flags.strict
@flags.as_json
def run(
    prompt: str | None,
    model: str | None,
    runtime: str | None,
    quant: str | None,
    revision: str | None,
    chat: bool,
    special: bool,
    echo: bool,
    stats: bool,
    strict: bool,
    as_json: bool,
    **values: Any,
) -> None:
    if prompt is None and not sys.stdin.isatty():
        prompt = piped()
    if chat and prompt is None:
        raise UsageError("--chat answers one message: name it, or use `edgekit chat` for a conversation")
    running, settings, drafting = given(Running, values), given(Generating, values), given(Drafting, values)
    if drafting and "draft" not in drafting:
        raise UsageError(f"--{next(iter(drafting)).replace('_', '-')} needs --draft")
    from edgekit.formats.generation_config import caveats, check_strict
    from edgekit.model import load
    from edgekit.tokenizers.base import spelled_special

    where = flags.find(model, revision)
    loaded = load(where, runtime=runtime, quant=quant, progress=flags.progress, **running)
    if strict:
        check_strict(loaded.runtime.files)
    for caveat in caveats(loaded.runtime.files):
        flags.note(caveat)
    if drafting:
        drafting["draft"] = loaded.drafter(drafting["draft"], drafting.get("draft_runtime"))
        settings |= drafting
    if special and not chat:
        settings["special"] = True
    elif prompt is not None and not chat and (spelled := spelled_special(loaded.tokenizer, prompt)):
        flags.note(f"{spelled} in the prompt was read as text; --special reads it as a token")
    if prompt is not None:
        about = flags.of_hub(where)
        _answer(loaded, prompt, settings, echo=echo, stats=stats, as_json=as_json, chat=chat, about=about)
    else:
        _converse(loaded, settings, stats, as_json, flags.of_hub(where))


def _answer(
    model: "Model",
    prompt: str,
    settings: dict[str, Any],
    *,
    echo: bool = True,
    stats: bool = False,
    as_json: bool = False,
    chat: bool = False,
    about: dict[str, Any],
) -> None:
    """`about`: added to the record of `--json`."""
    stream = model.chat(prompt, **settings) if chat else model.stream(prompt, **settings)
    if echo and not as_json and not chat:
        write(prompt)
    finished = show(stream, quiet=as_json)
    click.echo(json.dumps(_record(stream.result, model, chat) | about) if as_json else "")
    for note in notes(stream.result, model.runtime.context_length) if chat else ():
        click.echo(note, err=True)
    if stats:
        click.echo(statistics(stream.result), err=True)
    if not finished:
        sys.exit(130)


def _converse(model: "Model", settings: dict[str, Any], stats: bool, as_json: bool, about: dict[str, Any]) -> None:
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
            _answer(model, prompt, settings, stats=stats, as_json=as_json, about=about)
        except EdgekitError as error:
            click.echo(f"Error: {error}", err=True)
        except SystemExit:
            continue


def _record(result: "Generation", model: "Model", chat: bool) -> dict[str, Any]:
    record = dataclasses.asdict(result)
    if not chat:  # always 0
        del record["dropped_messages"], record["timings"]["reused_tokens"]
    record["timings"] |= {"prefill_rate": result.timings.prefill_rate, "decode_rate": result.timings.decode_rate}
    if (d := result.draft) is not None:
        record["draft"] |= {
            "acceptance": d.acceptance, "tokens_per_call": d.tokens_per_call, "estimated_speedup": d.speedup,
        }  # fmt: skip
    else:
        del record["draft"]
    return record | {"runtime": registry.name_of(model.runtime)}


COMMAND = run
