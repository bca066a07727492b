"""The command line. Imports nothing heavy, not even numpy: what a command needs is imported when it runs.

Text and paths go to stdout, everything else (progress, statistics, errors) to stderr. Exit status 0 for success,
2 for a call that cannot be meant, 1 for every other failure, 130 after Ctrl-C.
"""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import click

from edgekit import __version__, flags
from edgekit.errors import EdgekitError, PromptError, UsageError
from edgekit.options import given, options
from edgekit.settings import Choosing, Converting, Drafting, Generating, Running
from edgekit.utils import registry

SHOWN = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


class OneLine(click.ClickException):
    """An error as a person sees it."""

    def __init__(self, error: EdgekitError):
        super().__init__(" ".join(str(error).split()))
        self.exit_code = error.exit_code  # type: ignore[misc]


# Commands that live in `commands/NAME.py` (a dash of the name is a `_` there), imported once they are called: the list
# of commands needs one line of each.
LATER = {
    "bench": "Measure models side by side: load, first token, prefill, decode, overhead, memory, size.",
    "demo": "Open a playground in the browser: write with a model, and see what it might have written.",
    "doctor": "Say what is unusual in a model, what other tools will do with it, and the cure.",
    "eval": "Measure a model: perplexity of texts, or grammar with BLiMP.",
    "export-web": "Write a web page with the model in it, that runs on a phone without a network; prints its folder.",
    "serve": "Serve models over HTTP, as OpenAI's completions API; Ctrl-C stops.",
    "train": "Train a base model; prints the folder of the finished model.",
    "verify": "Hold artefacts to the model they were made from: what each lost, and whether it is sound.",
    "vocab": "Train, inspect and change TokenMonster vocabularies.",
}


def later(name: str) -> click.Command:
    """One of LATER, imported."""
    command: click.Command = importlib.import_module(f"edgekit.commands.{name.replace('-', '_')}").COMMAND
    return command


class Commands(click.Group):
    """Every deliberate error becomes one line and an exit status, here and nowhere else."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] in LATER:
            self.add_command(later(args[0]), args[0])
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except EdgekitError as error:
            raise OneLine(error) from error


@click.group(cls=Commands, context_settings=SHOWN)
@click.version_option(__version__, prog_name="edgekit")
def main() -> None:
    """A tiny Llama the whole way: convert it, prove it, run it anywhere with the same tokens.

    \b
    edgekit run "Once upon a time"
    edgekit convert -m MODEL --to gguf --quant q4_0
    edgekit inspect -m MODEL

    MODEL is a Hugging Face folder, a .gguf, a .onnx, or a Hub id such as StentorLabs/Stentor2-12M; without -m it
    is the small story teller that comes with edgekit.
    """


# -----------------------------------------------------------------------------
# run


@main.command()
@click.argument("prompt", required=False)
@flags.model
@flags.runtime
@flags.quant
@flags.revision
@options(Generating, Running, Drafting)
@click.option("--echo/--no-echo", default=True, help="Print the prompt before the text that goes on from it.")
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
    """Go on from PROMPT, streaming the text.

    Without PROMPT it reads a piped stdin, or asks for prompts one by one.

    \b
    edgekit run -m model.gguf "Once upon a time"
    edgekit run -m model.onnx "The science of" --temperature 0.8 --top-p 0.7 --repetition-penalty 1.2 --seed 7
    echo "Once upon a time" | edgekit run -m ./checkpoint --runtime torch --stats
    edgekit run -m ./checkpoint "Once upon a time" --draft small.gguf --stats

    What no flag says, the model's own generation config does; a [default] holds where that is silent too.
    """
    if prompt is None and not sys.stdin.isatty():
        prompt = _piped()
    elif prompt is not None:
        _check_utf8(prompt)
    running, settings, drafting = given(Running, values), given(Generating, values), given(Drafting, values)
    if drafting and "draft" not in drafting:
        raise UsageError(f"--{next(iter(drafting)).replace('_', '-')} is for --draft, which is not given")
    from edgekit.model import load

    loaded = load(model, runtime=runtime, quant=quant, revision=revision, progress=flags.progress, **running)
    if drafting:
        drafting["draft"] = loaded.drafter(drafting["draft"], drafting.get("draft_runtime"))
        settings |= drafting
    if prompt is not None:
        _answer(loaded, prompt, settings, echo, stats, as_json)
    else:
        _converse(loaded, settings, stats, as_json)


def _piped() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise PromptError(f"the prompt on stdin is not UTF-8 (at byte {error.start})") from error


def _check_utf8(prompt: str) -> None:
    """Arguments that are not UTF-8 reach Python as lone surrogates."""
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError as error:
        raise PromptError(f"the prompt is not UTF-8 (at character {error.start + 1})") from error


def _answer(loaded: Any, prompt: str, settings: dict[str, Any], echo: bool, stats: bool, as_json: bool) -> None:
    stream = loaded.stream(prompt, **settings)
    interrupted = False
    try:
        if echo and not as_json:
            _say(prompt)
        for piece in stream:
            if not as_json:
                _say(piece)
    except KeyboardInterrupt:
        interrupted = True
        stream.close()
    if as_json:
        click.echo(json.dumps(_record(stream.result, loaded)))
    else:
        click.echo()
    if stats:
        click.echo(_statistics(stream.result), err=True)
    if interrupted:
        sys.exit(130)


def _converse(loaded: Any, settings: dict[str, Any], stats: bool, as_json: bool) -> None:
    """A prompt line. Ctrl-C ends a text, or the session when there is none; so does Ctrl-D."""
    import contextlib

    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (gives `input` a history and arrow keys)
    click.echo("Type the beginning of a text; Ctrl-C stops a text, Ctrl-D ends.", err=True)
    while True:
        try:
            prompt = input("> ")
        except (EOFError, KeyboardInterrupt):
            click.echo(err=True)
            return
        if not prompt:
            continue
        try:
            _answer(loaded, prompt, settings, True, stats, as_json)
        except EdgekitError as error:
            click.echo(f"Error: {error}", err=True)
        except SystemExit:
            continue


def _say(piece: str) -> None:
    click.echo(piece, nl=False)
    sys.stdout.flush()


def _statistics(result: Any) -> str:
    t = result.timings
    drafted = "" if result.draft is None else "\n" + _draft_statistics(result.draft)
    return (
        f"load {1000 * t.load:.0f} ms · first token {1000 * t.first_token:.1f} ms · "
        f"prefill {t.prompt_tokens} tokens {t.prefill_rate:,.0f}/s · "
        f"decode {t.new_tokens} tokens {t.decode_rate:,.0f}/s · {result.finish_reason} · seed {result.seed}"
        f"{drafted}"
    )


def _draft_statistics(d: Any) -> str:
    shown = f"draft ({d.kind}) · {d.accepted} of {d.drafted} drafted tokens accepted"
    shown += f" ({100 * d.acceptance:.0f} %)" if d.drafted else ""
    shown += f" · {d.tokens_per_call:.2f} tokens per call of the model"
    if d.speedup is not None:
        step = f"{1000 * d.plain_step:.2f} ms"
        shown += f" · estimated speed-up {d.speedup:.2f} (against one-token calls of {step}, measured in this text)"
    if d.rests:
        shown += f" · did not pay: stopped {d.rests} time{'s' if d.rests > 1 else ''}"
        shown += ", at the end as well" if d.resting else ""
    return shown


def _record(result: Any, loaded: Any) -> dict[str, Any]:
    import dataclasses

    record = dataclasses.asdict(result)
    record["timings"] |= {"prefill_rate": result.timings.prefill_rate, "decode_rate": result.timings.decode_rate}
    if (d := result.draft) is not None:
        record["draft"] |= {
            "acceptance": d.acceptance, "tokens_per_call": d.tokens_per_call, "estimated_speedup": d.speedup,
        }  # fmt: skip
    else:
        del record["draft"]
    return record | {"runtime": registry.name_of(loaded.runtime)}


# -----------------------------------------------------------------------------
# convert


@main.command()
@flags.model
@click.option("--to", metavar="FORMAT", help=f"One of {', '.join(registry.names('converters'))}.")
@flags.output
@flags.force
@flags.revision
@options(Converting, Choosing)
@click.option("--plan", is_flag=True, help="Write nothing: print the size of each type that FORMAT has.")
@click.option("--sensitivity", is_flag=True, help="With --plan: which tensors lose most by a type; measures.")
@click.option("--verify/--no-verify", default=True, help="Compare the artefact with its source before it is kept.")
@flags.as_json
def convert(
    model: str | None,
    to: str | None,
    output: Path | None,
    force: bool,
    revision: str | None,
    plan: bool,
    sensitivity: bool,
    verify: bool,
    as_json: bool,
    **values: Any,
) -> None:
    """Write a model in another format; prints the path.

    \b
    edgekit convert -m ./checkpoint --to gguf --quant q4_0
    edgekit convert -m ./checkpoint --to onnx --quant int8 -o out.onnx
    edgekit convert -m ./checkpoint --plan
    edgekit convert -m ./checkpoint --to gguf --target-size 7MB
    edgekit convert -m ./checkpoint --to gguf --quant q4_0 --importance default
    edgekit convert -m model.gguf --to hf -o ./checkpoint-again
    """
    from edgekit.conversion import convert as verb
    from edgekit.formats import hub

    settings, choosing = Converting(**given(Converting, values)), Choosing(**given(Choosing, values))
    chooses = choosing.target_size is not None or choosing.max_kl is not None
    if to is None and not plan:
        raise UsageError(f"Missing option '--to': one of {', '.join(registry.names('converters'))}")
    if sensitivity and not plan:
        raise UsageError("--sensitivity goes with --plan")
    if plan and (chooses or output is not None):
        raise UsageError("--plan writes and chooses nothing: leave out --output, --target-size and --max-kl")
    if chooses and settings.quant is not None:
        raise UsageError("--target-size and --max-kl choose the type: leave out --quant")
    where = hub.resolve(model, revision=revision)
    if plan or chooses:
        from edgekit.commands import plan as planner
    if plan:
        planner.show(where, to, settings, sensitivity, as_json)
        return
    assert to is not None
    tried: dict[str, Any] = {}
    if chooses:
        settings, tried = planner.chosen(where, to, output, settings, choosing, force, as_json)
    made = verb.convert(where, to, output, settings=settings, force=force, verify=verify, progress=flags.progress)
    if as_json:
        import dataclasses

        tensors = [dataclasses.asdict(t) for t in made.tensors]
        record = {"path": str(made.path), "tensors": tensors, "notes": made.notes, "receipt": made.receipt} | tried
        click.echo(json.dumps(record))
        return
    click.echo(verb.summary(made), err=True)
    click.echo(str(made.path))


# -----------------------------------------------------------------------------
# inspect


@main.command()
@flags.model
@click.option("--tensors/--no-tensors", default=True, help="List every tensor.")
@flags.revision
@flags.as_json
def inspect(model: str | None, tensors: bool, revision: str | None, as_json: bool) -> None:
    """Say what a model or artefact is: parameters, vocabulary, tensors, size by type.

    \b
    edgekit inspect -m ./checkpoint
    edgekit inspect -m model.gguf --json
    """
    from edgekit.doctor import inspect as verb
    from edgekit.formats import hub

    found = verb.describe(hub.resolve(model, revision=revision))
    click.echo(json.dumps(found) if as_json else verb.report(found, tensors=tensors))


# -----------------------------------------------------------------------------
# tokenize


@main.command()
@click.argument("text", required=False)
@flags.model
@click.option("--vocab", metavar="VOCAB", help="A .vocab file or a TokenMonster name, instead of a model.")
@click.option("--decode", is_flag=True, help="TEXT is ids (spaces or commas between); print their text.")
@click.option("--count", is_flag=True, help="Print only how many tokens.")
@flags.revision
@flags.as_json
def tokenize(
    text: str | None,
    model: str | None,
    vocab: str | None,
    decode: bool,
    count: bool,
    revision: str | None,
    as_json: bool,
) -> None:
    """Show the tokens of TEXT (or of a piped stdin), or the text of token ids.

    \b
    edgekit tokenize --vocab english-8000-strict-nocapcode-v1 "Hello, World!"
    edgekit tokenize -m ./checkpoint --decode "98 1637 593"
    """
    if model and vocab:
        raise UsageError("give --model or --vocab, not both")
    if text is None:
        if sys.stdin.isatty():
            raise UsageError("nothing to tokenize: give TEXT, or pipe it in")
        text = _piped()
    _check_utf8(text)
    from edgekit.tokenizers import load as verb

    tokenizer = verb.open_tokenizer(model, vocab, revision)
    if decode:
        ids = verb.parse_ids(text, tokenizer.vocab_size)
        shown = tokenizer.decode(ids)
        click.echo(json.dumps({"ids": ids, "text": shown}) if as_json else shown)
        return
    ids = tokenizer.encode(text)
    if as_json:
        click.echo(json.dumps({"ids": ids, "pieces": verb.pieces(tokenizer, ids), "count": len(ids)}))
    elif count:
        click.echo(str(len(ids)))
    else:
        for token, piece in zip(ids, verb.pieces(tokenizer, ids), strict=True):
            click.echo(f"{token:>7}  {json.dumps(piece, ensure_ascii=False)}")


# -----------------------------------------------------------------------------
# the larger verbs, each with a file of its own

for name, line in LATER.items():
    main.add_command(click.Command(name, help=line))
