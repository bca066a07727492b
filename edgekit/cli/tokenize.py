"""Show the tokens of TEXT (or of piped stdin), or the text of token ids.

\b
edgekit tokenize --vocab english-8000-strict-nocapcode-v1 "Hello, World!"
edgekit tokenize -m ./checkpoint --decode "98 1637 593"
"""

import json
import sys

import click

from edgekit.cli import _flags as flags
from edgekit.cli._prompt import piped
from edgekit.errors import UsageError


@click.command("tokenize", help=__doc__)
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
    if model and vocab:
        raise UsageError("give --model or --vocab, not both")
    if text is None:
        if sys.stdin.isatty():
            raise UsageError("nothing to tokenize: give TEXT, or pipe it in")
        text = piped()
    from edgekit.tokenizers.load import parse_ids, pieces
    from edgekit.tokenizers.open import open_tokenizer

    tokenizer = open_tokenizer(flags.find(model, revision) if vocab is None else None, vocab)
    if decode:
        ids = parse_ids(text, tokenizer.vocab_size)
        shown = tokenizer.decode(ids)
        click.echo(json.dumps({"ids": ids, "text": shown}) if as_json else shown)
        return
    ids = tokenizer.encode(text)
    if as_json:
        click.echo(json.dumps({"ids": ids, "pieces": pieces(tokenizer, ids), "count": len(ids)}))
    elif count:
        click.echo(str(len(ids)))
    else:
        for token, piece in zip(ids, pieces(tokenizer, ids), strict=True):
            click.echo(f"{token:>7}  {json.dumps(piece, ensure_ascii=False)}")


COMMAND = tokenize
