"""Which tensors lose most: the KL when one group alone is rounded, `edgekit convert --plan --sensitivity`.

For each type an artefact is written to a temporary folder and its tensors are read back, dequantized. Then one group at
a time replaces the source's own tensors, the rest stays exact, and `reference.py` runs the bundled text: mean
KL(source || mixture). So a type stands for what its files really contain: in q4_0 the output matrix at 8 bits, in
K-quants llama.cpp's own mixture. The runtime's own rounding is not included.
"""

from dataclasses import dataclass, replace
from typing import Any

from threadpoolctl import threadpool_limits

from edgekit.conversion.base import ArtefactTensor, ComparesTensors, HasProbes, WeighsRounding, converter
from edgekit.conversion.checks import check_quant
from edgekit.conversion.verification.measure import SourceLogits, agreement, measure_source, of_checkpoint
from edgekit.conversion.verification.settings import Verifying
from edgekit.errors import MissingExtraError, SettingError
from edgekit.formats.checkpoint import Checkpoint
from edgekit.inference.reference import Reference
from edgekit.settings import Converting
from edgekit.utils import temporaries
from edgekit.utils.progress import Progress, silent
from edgekit.utils.tables import table

MEASURED = Verifying(tokens=256, greedy=0, threads=1)

GROUPS = {
    "embedding, head": ("embed_tokens", "lm_head"),
    "attention q": ("q_proj",),
    "attention k": ("k_proj",),
    "attention v": ("v_proj",),
    "attention o": ("o_proj",),
    "gate, up": ("gate_proj", "up_proj"),
    "down": ("down_proj",),
}
"""Name of a group in the report -> parts of Hugging Face's names."""
ALL = "all of it"


@dataclass(frozen=True)
class Group:
    """A group of tensors under one quantization."""

    quant: str
    name: str
    parameters: int
    types: list[str]
    """Its types in the artefact."""
    mean_kl: float
    """Nats a token, when this group alone is rounded."""

    def record(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {name: getattr(self, name) for name in ("quant", "name", "parameters", "types", "mean_kl")}


def sensitivity(
    checkpoint: Checkpoint, to: str, settings: Converting, progress: Progress = silent
) -> tuple[list[Group], SourceLogits]:
    """The groups of each quantization, and what they were measured on.

    Args:
        settings: with `quant` only that one; without, the converter's `PROBES` that this machine can write.

    Raises:
        SettingError: a format whose tensors cannot be read back, or no such quantization.
        MissingExtraError: a package that the conversion needs is not installed.
    """
    module = converter(to)
    if not isinstance(module, ComparesTensors):
        raise SettingError(f"the tensors of {to} are not rounded: --sensitivity shows nothing there")
    named = settings.quant is not None
    probes = module.PROBES if isinstance(module, HasProbes) else (module.DEFAULT,)
    quants = [check_quant(to, settings.quant)] if named else list(probes)
    weighted = module.WEIGHTED if isinstance(module, WeighsRounding) else ()
    groups: list[Group] = []
    with threadpool_limits(1, "blas"), temporaries.scratch() as folder:
        expected = measure_source(of_checkpoint(checkpoint), None, MEASURED)
        for quant in progress(quants, "sensitivity", len(quants)):
            path = folder / f"{quant}{module.SUFFIX}"
            importance = settings.importance if quant in weighted or named else None
            converting = replace(settings, quant=quant, importance=importance)
            try:
                module.convert(replace(checkpoint, notes=[]), path, converting, silent)
            except MissingExtraError:
                if named:
                    raise
                continue
            tensors = {tensor.name: tensor for tensor in module.weights(path)}
            path.unlink()
            groups += [_group(expected, checkpoint, quant, name, tensors) for name in (*GROUPS, ALL)]
    return groups, expected


def _group(
    expected: SourceLogits, checkpoint: Checkpoint, quant: str, name: str, tensors: dict[str, ArtefactTensor]
) -> Group:
    parts = GROUPS.get(name)
    names = [n for n in checkpoint.config.shapes() if n in tensors and (parts is None or any(p in n for p in parts))]
    mixed = replace(checkpoint, tensors=checkpoint.tensors | {n: tensors[n].values for n in names})
    figures, _ = agreement(expected, Reference(mixed))
    count = sum(checkpoint.tensors[n].size for n in names)
    return Group(quant, name, count, sorted({tensors[n].type for n in names}), figures.mean_kl)


def report(groups: list[Group], expected: SourceLogits, to: str) -> str:
    """The groups as a table, a column for each quantization: the KL and the types that the group has there."""
    quants = list(dict.fromkeys(group.quant for group in groups))
    by = {(group.quant, group.name): group for group in groups}
    cells = []
    for name in (*GROUPS, ALL):
        share = by[quants[0], name].parameters / by[quants[0], ALL].parameters
        row = [name, f"{100 * share:.1f} %"]
        for quant in quants:
            group = by[quant, name]
            row.append(f"{group.mean_kl:.1e}" + (f" {'+'.join(group.types)}" if name != ALL else ""))
        cells.append(row)
    head = ("group", "parameters", *(f"{to} {quant}" for quant in quants))
    return (
        f"Mean KL when this group alone is rounded: {expected.positions} positions of {expected.text}, the artefact's "
        "tensors read back, float32 numpy\n\n" + table(head, cells, markdown=False)
    )
