"""Train, inspect and change TokenMonster vocabularies.

\b
edgekit vocab train --data ./stories --size 8000 -o stories.vocab
edgekit vocab inspect stories.vocab --text ./held-out
edgekit vocab plan --vocab 4096,8064,32768 --hidden 192,256

FILE is a .vocab file or the name of a published vocabulary, such as english-8000-strict-nocapcode-v1.
"""

import functools
import json
from pathlib import Path
from typing import Any

import click

from edgekit.cli import _flags as flags
from edgekit.cli._options import Numbers, given, options
from edgekit.errors import SettingError
from edgekit.tokenizers.tokenmonster.settings import NORMALIZATIONS, VocabTraining
from edgekit.utils import registry

_file = click.argument("file")


@click.group("vocab", help=__doc__)
def vocab() -> None:
    """The group; its help is the docstring of this file."""


def _open(name: str) -> Any:
    from edgekit.tokenizers.tokenmonster.tokenizer import resolve
    from edgekit.tokenizers.tokenmonster.vocabulary import Vocabulary

    return Vocabulary.load(resolve(name))


def _save(vocabulary: Any, output: Path, force: bool, as_json: bool, **facts: Any) -> None:
    from edgekit.utils import files

    files.write_bytes(output, vocabulary.to_bytes(), force=force)
    if as_json:
        click.echo(json.dumps({"path": str(output), "size": vocabulary.size, **facts}))
    else:
        click.echo(str(output))


@vocab.command()
@click.option(
    "--data",
    "paths",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="A .txt, .jsonl or .jsonl.gz file, or a folder of them; may be repeated.",
)
@click.option(
    "--weight",
    "weights",
    multiple=True,
    metavar="CORPUS=W",
    help='Count a corpus W times: the "corpus" of a line, else its file\'s name without number; may be repeated.',
)
@options(VocabTraining)
@click.option(
    "--normalize",
    multiple=True,
    type=click.Choice(["none", *NORMALIZATIONS]),
    help="How every text is normalized first; may be repeated.  [default: nfd]",
)
@flags.output
@flags.force
@flags.as_json
def train(
    paths: tuple[Path, ...],
    weights: tuple[str, ...],
    normalize: tuple[str, ...],
    output: Path | None,
    force: bool,
    as_json: bool,
    **values: Any,
) -> None:
    """Train a vocabulary on text; prints the path.

    Every single byte gets a token, so encoding loses nothing. The same text and seed give the same file.

    \b
    edgekit vocab train --data ./stories --size 4096 -o stories-4096.vocab
    edgekit vocab train --data ./corpus --weight tinystories=3 --weight fairytales=2 --size 8000
    """
    changes = given(VocabTraining, values)
    if normalize:
        changes["normalize"] = tuple(name for name in normalize if name != "none")
    settings = VocabTraining(**changes)
    factors = dict(map(_weight, weights))
    trainer = registry.load("training", "vocab_train")
    from edgekit.utils import files

    first = paths[0].name.split(".")[0] or "vocabulary"
    output = output or Path(f"{first}-{settings.size}.vocab")
    with files.replacing(output, force=force) as temporary:
        temporary.touch()  # fail now, not in ten minutes, if the folder cannot be written to
        result = trainer.train(paths, settings, weights=factors, name=output.stem, progress=flags.progress)
        temporary.write_bytes(result.vocabulary.to_bytes())
    facts = {
        "size": result.vocabulary.size, "text_bytes": result.text_bytes, "works": result.works,
        "candidates": result.candidates, "bytes_per_token": result.bytes_per_token,
    }  # fmt: skip
    if as_json:
        click.echo(json.dumps({"path": str(output), **facts}))
        return
    click.echo(
        f"{result.vocabulary.size:,} tokens out of {result.candidates:,} candidates · {result.works:,} works, "
        f"{result.text_bytes / 1e6:,.1f} MB · {result.bytes_per_token:.3f} bytes/token",
        err=True,
    )
    click.echo(str(output))


def _weight(text: str) -> tuple[str, float]:
    name, _, number = text.rpartition("=")
    try:
        return name, float(number)
    except ValueError:
        raise SettingError(f"--weight takes CORPUS=NUMBER, not {text!r}") from None


@vocab.command()
@click.argument("files", nargs=-1, required=True)
@click.option(
    "--text",
    "texts",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Also measure bytes per token on this text file or folder; may be repeated.",
)
@options(VocabTraining, only={"cleaning"})
@flags.as_json
def inspect(files: tuple[str, ...], texts: tuple[Path, ...], cleaning: str | None, as_json: bool) -> None:
    """Describe FILES: size, capcode, mode, bytes without a token, special tokens, and bytes per token of a text.

    \b
    edgekit vocab inspect stories.vocab
    edgekit vocab inspect stories.vocab english-8000-strict-nocapcode-v1 --text held-out.jsonl.gz
    """
    from edgekit.tokenizers.tokenmonster import facts as vocab_facts
    from edgekit.tokenizers.tokenmonster.tokenizer import resolve

    described = []
    for name in files:
        facts = vocab_facts.describe(resolve(name))
        if texts:
            trainer, vocabulary = registry.load("training", "vocab_train"), _open(name)
            facts["text"] = {
                str(path): trainer.bytes_per_token(
                    vocabulary, [path], cleaning=cleaning or "none", progress=flags.progress
                )
                for path in texts
            }
        described.append(facts)
    if as_json:
        click.echo(json.dumps(described if len(described) > 1 else described[0]))
        return
    click.echo("\n\n".join(map(vocab_facts.report, described)))
    if len(described) > 1 and texts:
        click.echo("\nbytes/token" + "".join(f"{Path(facts['path']).stem:>36.34}" for facts in described))
        for path in map(str, texts):
            click.echo(f"{Path(path).name:<11.11}" + "".join(f"{facts['text'][path]:>36.3f}" for facts in described))


@vocab.command("add-special")
@_file
@click.argument("texts", nargs=-1, required=True)
@flags.output
@flags.force
@flags.as_json
def add_special(file: str, texts: tuple[str, ...], output: Path | None, force: bool, as_json: bool) -> None:
    """Add special tokens TEXTS to FILE; all other ids stay the same.

    \b
    edgekit vocab add-special english-8000-strict-nocapcode-v1 "<eos>" -o english-8001.vocab

    Their spelling in any text is encoded to them, unless a regular token overlaps its beginning, so untrusted text can
    contain them. Models that edgekit trains do not need them: they keep EOS and BOS out of the vocabulary.
    """
    vocabulary = _open(file)
    changed = registry.load("training", "vocab_modify").add_special(vocabulary, texts)
    new = sorted(changed.special_ids - vocabulary.special_ids)
    for id in new:
        click.echo(f"{id}  {changed.base_bytes(id)!r}", err=True)
    _save(changed, output or Path(f"{_stem(file)}-special.vocab"), force, as_json, special=new)


@vocab.command()
@_file
@click.argument("size", type=click.IntRange(1))
@flags.output
@flags.force
@flags.as_json
def resize(file: str, size: int, output: Path | None, force: bool, as_json: bool) -> None:
    """Reduce FILE to its SIZE best tokens, or restore removed ones; ids stay the same, with gaps.

    \b
    edgekit vocab resize english-8000-strict-nocapcode-v1 4000
    """
    changed = registry.load("training", "vocab_modify").resize(_open(file), size)
    _save(changed, output or Path(f"{_stem(file)}-{size}.vocab"), force, as_json, table_size=changed.table_size)


def _stem(name: str) -> str:
    return Path(name).name.removesuffix(".vocab")


def _above_zero(_: click.Context, __: click.Parameter, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
    if value is not None and min(value) < 1:
        raise click.BadParameter("give whole numbers above 0, such as 4096,8064")
    return value


_numbers = functools.partial(click.option, type=Numbers(), callback=_above_zero, show_default=True, metavar="N,N,...")


@vocab.command()
@_numbers("--vocab", "sizes", default="4096,8064,16000,32768", help="Vocabulary sizes (embedding rows).")
@_numbers("--hidden", default="192,256", help="Hidden sizes.")
@_numbers("--layers", default="12", help="Layers.")
@_numbers("--ffn", help="Feed-forward widths; default: three times the hidden size.")
@click.option("--budget", type=click.IntRange(1), help="Take as many layers as fit into this many parameters.")
@flags.as_json
def plan(
    sizes: tuple[int, ...],
    hidden: tuple[int, ...],
    layers: tuple[int, ...],
    ffn: tuple[int, ...] | None,
    budget: int | None,
    as_json: bool,
) -> None:
    """Show what a vocabulary costs: parameters and the embedding's share, by vocabulary and hidden size.

    In a small model the embedding leaves few parameters for the layers: 32,768 tokens at hidden size 192 take half of
    12 million, 8,064 tokens at 256 take a sixth. Counted for a Llama with tied embeddings and no grouped heads.

    \b
    edgekit vocab plan --vocab 4096,8064,32768 --hidden 192,256
    edgekit vocab plan --vocab 4096,8064,32768 --hidden 256 --budget 12300000
    """
    from edgekit.tokenizers.tokenmonster import facts as vocab_facts

    plans = [
        vocab_facts.plan(size, width, layers=depth, ffn=inner, budget=budget or 0)
        for width in hidden
        for inner in ffn or (None,)
        for depth in (layers if not budget else (0,))
        for size in sizes
    ]
    if as_json:
        click.echo(json.dumps([p._asdict() | {"embedding_share": p.embedding_share} for p in plans]))
    else:
        click.echo(vocab_facts.table(plans))


COMMAND = vocab
