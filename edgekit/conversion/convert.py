"""The verb `convert`: any model that edgekit reads, into any format that a converter writes.

A file `converters/NAME.py` is a converter if it has

    SUFFIX: str                 of what it writes: ".gguf", ".onnx", or "" for a folder
    QUANTS: tuple[str, ...]     what `--quant` takes, cheapest loss first
    DEFAULT: str                the one taken when none is named
    def convert(checkpoint, out, settings, progress) -> list[Written]

`convert` writes to `out`, a temporary name; renaming, naming and overwriting are done here, once. It may have

    def read(path) -> Checkpoint            makes its format a source for every converter
    def weights(path) -> Iterator[Held]     the tensors of a file, dequantized; those it cannot tell are left out
    def add_receipt(path, text) -> None     puts `edgekit.receipt` into a file that is finished
    def sizes(checkpoint, settings) -> Iterator[Planned]    what each of QUANTS would make, before anything is written
    SAME: dict[str, str]        quantizations that have another name; the other name
    PROBES: tuple[str, ...]     those by which the sensitivity of the tensors is shown
    WEIGHTED: tuple[str, ...]   those that `--importance` makes better

With `weights` a conversion is held to its source tensor by tensor, and a fault is named; with `add_receipt` the
artefact carries what was measured. Before an artefact gets its name it is verified (`edgekit/receipt.py`): broken, it
is not kept.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from edgekit.conversion.base import Written
from edgekit.errors import SettingError, UnknownPluginError
from edgekit.formats.checkpoint import Checkpoint
from edgekit.formats.open import open_model
from edgekit.settings import Converting
from edgekit.utils import files, registry
from edgekit.utils.progress import Progress, silent


class Conversion(NamedTuple):
    """What a call of `convert` made."""

    path: Path
    tensors: list[Written]
    notes: list[str]
    """What other programs will do with the artefact otherwise than edgekit, and what could not be verified."""
    receipt: dict[str, Any] | None = None
    """What was measured, as the artefact carries it; None if it was not verified."""


def check_quant(to: str, quant: str | None) -> str:
    """The quantization to use; raises `SettingError` that lists the converter's own."""
    room = registry.load("converters", to)
    quant = (quant or room.DEFAULT).lower()
    if quant not in room.QUANTS:
        raise SettingError(f"unknown quantization {quant!r} for {to}: choose from {', '.join(room.QUANTS)}")
    return quant


def convert(
    source: Path,
    to: str,
    out: Path | None = None,
    *,
    settings: Converting | None = None,
    force: bool = False,
    verify: bool = True,
    progress: Progress = silent,
) -> Conversion:
    """Convert a model, whole or not at all, and sound or not at all.

    Args:
        source: a Hugging Face folder or a `.gguf`.
        to: the converter's name.
        out: where to; by default `NAME-QUANT.SUFFIX` in the current folder.
        force: replace a file that is there.
        verify: compare the artefact with the source on a short text, and put the receipt into it. Takes a fraction of
            a second for 12 million parameters. Where the artefact's runtime is not installed, a note says so.

    Raises:
        CheckpointError: the artefact came out broken; the message says what is wrong.
        EdgekitError: any of its kinds; nothing is left behind.
    """
    to = registry.ALIASES.get(to, to)
    if to not in registry.names("converters"):
        raise UnknownPluginError(f"unknown format {to!r}: choose from {', '.join(registry.names('converters'))}")
    settings = settings or Converting()
    room = registry.load("converters", to)
    quant = check_quant(to, settings.quant)
    settings = replace(settings, quant=quant)
    if settings.importance is not None and not hasattr(room, "WEIGHTED"):
        raise SettingError(f"importance is a setting of gguf: {to} does not weigh its rounding")
    checkpoint = open_model(source)
    out = Path(out) if out else Path(f"{checkpoint.name}-{quant}{room.SUFFIX}")
    with files.replacing(out, force=force) as temporary:
        written = room.convert(checkpoint, temporary, settings, progress)
        proved, notes = _proved(checkpoint, temporary, out, to, settings) if verify else (None, [])
    return Conversion(out, written, [*checkpoint.notes, *notes], proved)


def _proved(
    checkpoint: Checkpoint, path: Path, out: Path, to: str, settings: Converting
) -> tuple[dict[str, Any] | None, list[str]]:
    """The receipt, which is in the artefact now, and what could not be verified."""
    from edgekit.conversion import receipt  # which needs what is above

    made, note = receipt.build(checkpoint, path, out, to, settings)
    if made:
        receipt.attach(path, made, registry.load("converters", to))
    return made or None, [note] if note else []


def summary(made: Conversion) -> str:
    """The table that a person sees: size by type, every tensor that is not as asked for, and the notes."""
    sizes: dict[str, list[int]] = {}
    reasons: dict[str, list[str]] = {}
    for tensor in made.tensors:
        sizes.setdefault(tensor.type, []).append(tensor.bytes)
        if tensor.note:
            reasons.setdefault(tensor.note, []).append(f"{tensor.name} is {tensor.type}")
    path = made.path
    total = sum(p.stat().st_size for p in ([path] if path.is_file() else path.iterdir()))
    lines = [f"{path.name}: {total / 1e6:.2f} MB, {len(made.tensors)} tensors"]
    lines += [f"  {kind:<8}{len(each):>4} tensors {sum(each) / 1e6:>9.2f} MB" for kind, each in sizes.items()]
    for reason, which in reasons.items():
        more = f" and {len(which) - 1} more" if len(which) > 1 else ""
        lines.append(f"  {which[0]}{more}: {reason}")
    lines += [f"  note: {note}" for note in made.notes]
    if made.receipt is not None:
        from edgekit.conversion import receipt

        lines += [f"  {line}" for line in receipt.summary_lines(made.receipt)]
    return "\n".join(lines)
