"""The verb `convert`: any model that edgekit reads, into any format that a converter writes.

`base.py` has the contract of a converter. Everything that is the same for all of them is done here: the temporary name,
overwriting, and verification (`receipt.py`). An artefact that comes out broken is deleted.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from edgekit.conversion import receipt
from edgekit.conversion.advice import LARGEST, Advice, advise
from edgekit.conversion.base import CarriesReceipt, Written, converter
from edgekit.conversion.checks import check_format, check_importance, check_quant
from edgekit.conversion.verification import stock_tokenizer
from edgekit.conversion.verification.cost import LITTLE, cost_of
from edgekit.formats import embedded
from edgekit.formats.generation_config import caveats, check_strict
from edgekit.formats.hub_cache import origin
from edgekit.formats.open import open_model
from edgekit.settings import Converting
from edgekit.utils import files
from edgekit.utils.progress import Progress, silent


class Conversion(NamedTuple):
    """The result of `convert`."""

    path: Path
    tensors: list[Written]
    notes: list[str]
    """What other programs will do differently with the artefact, and what could not be verified."""
    receipt: dict[str, Any] | None = None
    """What was measured, as the artefact carries it; None if it was not verified."""
    advice: Advice | None = None
    """If the conversion costs much: which larger type does not. None if that was not asked, or not needed."""


def convert(
    source: Path,
    to: str,
    out: Path | None = None,
    *,
    settings: Converting | None = None,
    force: bool = False,
    verify: bool = True,
    strict: bool = False,
    advice: bool | None = False,
    progress: Progress = silent,
) -> Conversion:
    """Convert a model. The artefact is written completely and is sound, or there is none.

    Args:
        source: a Hugging Face folder or a `.gguf`.
        to: the converter's name.
        out: the artefact's path; by default `NAME-QUANT.SUFFIX` in the current folder.
        force: replace an existing file.
        verify: compare the artefact with the source on a short text, and put the receipt into it. Takes a fraction of
            a second for 12 million parameters. If the artefact's runtime is not installed, a note names it.
        strict: refuse a configuration with unknown keys, which otherwise are ignored with a note.
        advice: if the type costs more than 2 % perplexity, measure which larger one does not: seconds for 12 million
            parameters, tens of seconds for 135 million. None: only for models below 500 million.

    Raises:
        CheckpointError: the artefact came out broken; the message says what is wrong.
        EdgekitError: any other of its kinds; nothing is left behind.
    """
    to, settings = check_format(to), settings or Converting()
    module = converter(to)
    quant = check_quant(to, settings.quant)
    settings = replace(settings, quant=quant)
    check_importance(to, settings)
    checkpoint = open_model(source)
    if strict:
        check_strict(checkpoint.files)
    out = Path(out) if out else Path(f"{checkpoint.name}-{quant}{module.SUFFIX}")
    with files.replacing(out, force=force) as temporary:

        def write(reserved: int) -> list[Written]:
            if isinstance(module, CarriesReceipt):
                return module.convert(checkpoint, temporary, settings, progress, reserved)
            return module.convert(checkpoint, temporary, settings, progress)

        tensors = write(embedded.RECEIPT_ROOM if verify else 0)
        built = receipt.Built(None, "")
        if verify:
            built = receipt.build(checkpoint, temporary, out, to, settings, origin(source))
            _attach(temporary, built.receipt, module, write)
            tokenizer = built.expected.source.tokenizer if built.expected else None
            checkpoint.notes.extend(stock_tokenizer.compare(source, temporary, checkpoint, tokenizer))
    notes = [*caveats(checkpoint.files), *checkpoint.notes]
    notes += [built.note] if built.note else []
    result = Conversion(out, tensors, notes, built.receipt)
    expected, figures = built.expected, built.proof and built.proof.figures
    if advice is False or expected is None or not expected.is_text or not figures or cost_of(figures) <= LITTLE:
        return result
    if advice is None and sum(tensor.size for _, tensor in checkpoint) > LARGEST:
        notes.append("--advice measures which larger type costs less: that takes minutes for a model of this size")
        return result
    return result._replace(advice=advise(checkpoint, to, settings, expected, figures, progress))


def _attach(path: Path, measured: dict[str, Any] | None, module: object, write: Callable[[int], Any]) -> None:
    """Put the receipt into the artefact; rarely it is longer than reserved, or absent: then the file is rewritten."""
    length = 0 if measured is None else len(receipt.text_of(measured))
    if isinstance(module, CarriesReceipt) and length != embedded.RECEIPT_ROOM:
        path.unlink()
        write(length)
    if measured is not None:
        receipt.attach(path, measured, module)


def summary(conversion: Conversion) -> str:
    """A table as text: size by type, every tensor that has another type than requested, and the notes."""
    sizes: dict[str, list[int]] = {}
    reasons: dict[str, list[str]] = {}
    for tensor in conversion.tensors:
        sizes.setdefault(tensor.type, []).append(tensor.bytes)
        if tensor.note:
            reasons.setdefault(tensor.note, []).append(f"{tensor.name} is {tensor.type}")
    path = conversion.path
    total = sum(p.stat().st_size for p in ([path] if path.is_file() else path.iterdir()))
    lines = [f"{path.name}: {total / 1e6:.2f} MB, {len(conversion.tensors)} tensors"]
    lines += [f"  {kind:<8}{len(each):>4} tensors {sum(each) / 1e6:>9.2f} MB" for kind, each in sizes.items()]
    for reason, tensors in reasons.items():
        more = f" and {len(tensors) - 1} more" if len(tensors) > 1 else ""
        lines.append(f"  {tensors[0]}{more}: {reason}")
    lines += [f"  note: {note}" for note in conversion.notes]
    if conversion.receipt is not None:
        lines += [f"  {line}" for line in receipt.summary_lines(conversion.receipt)]
    if conversion.advice is not None:
        lines.append(f"  {conversion.advice.sentence()}")
    return "\n".join(lines)
