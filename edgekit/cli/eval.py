"""Evaluate a model: perplexity of texts, or grammar with BLiMP.

\b
edgekit eval ppl -m model.gguf validation.jsonl.gz
edgekit eval blimp -m model.onnx blimp.zip --limit 100
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli import _flags as flags
from edgekit.cli._options import given, options
from edgekit.errors import UsageError
from edgekit.evaluation.settings import Judging, Measuring
from edgekit.settings import Running
from edgekit.utils import registry

if TYPE_CHECKING:
    from edgekit.model import Model

OPTIONS = (
    flags.model,
    flags.runtime,
    flags.quant,
    flags.revision,
    options(Running),
    flags.as_json,
    click.option(
        "--csv", "csv_file", type=click.Path(path_type=Path), metavar="FILE", help="Also write the table to this file."
    ),
    click.option("--markdown", is_flag=True, help="Print the tables in Markdown, for a model card."),
)


def _model_and_output(function: Callable[..., None]) -> Callable[..., None]:
    """Adds the flags that both commands share."""
    for option in reversed(OPTIONS):
        function = option(function)
    return function


@click.group("eval", help=__doc__)
def evaluate() -> None:
    """`edgekit eval`; its help is this file's docstring."""


@evaluate.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="TEXT...")
@_model_and_output
@options(Measuring)
def ppl(paths: tuple[Path, ...], **values: Any) -> None:
    """Loss per token, perplexity, bits per byte and per word, by corpus and in total.

    TEXT is a .txt, a .jsonl with a "text" (and perhaps a "corpus") in each line, gzipped or not, or a folder of them.

    \b
    edgekit eval ppl -m ./checkpoint validation/
    edgekit eval ppl -m model.gguf book.txt --protocol strided --stride 512
    edgekit eval ppl -m ./checkpoint validation/ --pack --context 1024 --csv losses.csv
    """
    output = _output(values)
    settings = Measuring(**given(Measuring, values))
    from edgekit.evaluation import perplexity as command
    from edgekit.evaluation import report
    from edgekit.utils import texts

    documents = texts.read(paths)
    model, facts = _load(values)
    begin = time.perf_counter()
    result = command.perplexity(model, documents, settings, progress=flags.progress)
    facts["seconds"] = time.perf_counter() - begin
    _show(
        result.record(),
        facts,
        output,
        report.perplexity_csv(result),
        report.perplexity_report(result, markdown=output[2]),
    )


@evaluate.command()
@click.argument("pairs", type=click.Path(path_type=Path), metavar="PAIRS")
@_model_and_output
@options(Judging)
@click.option("--paradigm", "paradigms", multiple=True, metavar="NAME", help="Only this paradigm; may be repeated.")
@click.option(
    "--reuse/--no-reuse",
    default=None,
    help="Compute common beginnings of sentences once; default: if that does not change the scores.",
)
def blimp(pairs: Path, **values: Any) -> None:
    """Accuracy on minimal pairs: by paradigm, field and phenomenon, and their unweighted mean.

    PAIRS is a .jsonl file, a folder or a zip of them; each line has "sentence_good" and "sentence_bad".

    \b
    edgekit eval blimp -m model.gguf blimp.zip
    edgekit eval blimp -m ./checkpoint blimp.zip --limit 100 --csv blimp.csv
    edgekit eval blimp -m model.onnx blimp.zip --protocol bare --paradigm wh_island --paradigm adjunct_island
    """
    output = _output(values)
    settings = Judging(**given(Judging, values))
    from edgekit.evaluation import blimp as command
    from edgekit.evaluation import report

    sentences = command.read(pairs)
    model, facts = _load(values)
    begin = time.perf_counter()
    result = command.blimp(model, sentences, settings, progress=flags.progress)
    facts["seconds"] = time.perf_counter() - begin
    _show(result.record(), facts, output, report.blimp_csv(result), report.blimp_report(result, markdown=output[2]))


Output = tuple[bool, Path | None, bool]
"""Whether to print JSON, a file for CSV, whether to print Markdown."""


def _output(values: dict[str, Any]) -> Output:
    output = values.pop("as_json"), values.pop("csv_file"), values.pop("markdown")
    if output[0] and output[2]:
        raise UsageError("give --json or --markdown, not both")
    if output[1] is not None and output[1].is_dir():
        raise UsageError(f"--csv needs a file, but {output[1]} is a folder")
    return output


def _load(values: dict[str, Any]) -> tuple["Model", dict[str, Any]]:
    """The model, and facts to report with its figures."""
    from edgekit.model import load

    running, path = given(Running, values), values.pop("model")
    where = flags.find(path, values.pop("revision"))
    loaded = load(where, progress=flags.progress, **values, **running)
    return loaded, {"model": path, "runtime": registry.name_of(loaded.runtime)} | flags.of_hub(where)


def _show(record: dict[str, Any], facts: dict[str, Any], output: Output, csv: str, report: str) -> None:
    as_json, csv_file, _ = output
    if csv_file is not None:
        from edgekit.utils import files

        files.write_bytes(csv_file, csv.encode())
    if as_json:
        click.echo(json.dumps(facts | record))
        return
    click.echo(report)
    click.echo(f"runtime {facts['runtime']} · {facts['seconds']:.1f} s", err=True)


COMMAND = evaluate
