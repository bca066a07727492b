"""The types that a model could be converted to, each measured on request: what `search.py` and `advice.py` try.

A candidate is converted into a temporary folder, run on its own runtime with the tokens that the source was run with,
and deleted.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekit.conversion.base import HasSynonyms, Planned, WeighsRounding, converter
from edgekit.conversion.plan import sizes
from edgekit.conversion.verification.contents import Artefact
from edgekit.conversion.verification.measure import SourceLogits, agreement, open_runtime
from edgekit.conversion.verification.metrics import Figures
from edgekit.conversion.verification.proof import running
from edgekit.errors import EdgekitError, MissingExtraError, SettingError
from edgekit.formats.checkpoint import Checkpoint
from edgekit.settings import Converting
from edgekit.utils.progress import silent


@dataclass(frozen=True)
class Tried:
    """A candidate."""

    quant: str
    bytes: int
    """Size of the file, receipt included."""
    figures: Figures | None
    """None if it was not measured."""
    verdict: str

    def record(self) -> dict[str, Any]:
        """Plain values for JSON."""
        f = self.figures
        kl, top1, change = (None,) * 3 if f is None else (f.mean_kl, f.top1, f.perplexity_change)
        return {"quant": self.quant, "bytes": self.bytes, "mean_kl": kl, "top1": top1, "perplexity_change": change,
                "verdict": self.verdict}  # fmt: skip


class Candidates:
    """The quantizations of a converter that this machine can write.

    Attributes:
        rows: from large to small, without second names of the same type.
    """

    def __init__(self, checkpoint: Checkpoint, to: str, settings: Converting) -> None:
        """Raises as `plan.sizes`; and `SettingError` if nothing can be written."""
        self.checkpoint, self.settings, self.converter = checkpoint, settings, converter(to)
        synonyms = self.converter.SAME if isinstance(self.converter, HasSynonyms) else {}
        self.weighted = self.converter.WEIGHTED if isinstance(self.converter, WeighsRounding) else ()
        planned = [row for row in sizes(checkpoint, to, settings) if row.quant not in synonyms]
        self.rows = sorted((row for row in planned if row.bytes is not None), key=lambda row: -size(row))
        if not self.rows:
            raise SettingError(f"{checkpoint.name} cannot be written as {to}: {planned[0].note}")

    def importance(self, quant: str) -> str | None:
        """The text that a type is weighed by; None if it is not weighed."""
        return self.settings.importance if quant in self.weighted else None

    def settings_of(self, quant: str) -> Converting:
        return replace(self.settings, quant=quant, importance=self.importance(quant))

    def measure(self, row: Planned, expected: SourceLogits, folder: Path) -> Tried:
        """Convert one candidate, run it, and delete it.

        Args:
            expected: the source's logits.
            folder: where the file is for that time.

        Raises:
            MissingExtraError: its runtime is not installed. Any other failure is its verdict.
        """
        path = folder / f"{row.quant}{self.converter.SUFFIX}"
        runtime = None
        try:
            self.converter.convert(replace(self.checkpoint, notes=[]), path, self.settings_of(row.quant), silent)
            runtime, _ = open_runtime(Artefact(path), running(expected.settings))
            figures, _ = agreement(expected, runtime)
        except MissingExtraError:
            raise
        except EdgekitError as error:
            return Tried(row.quant, size(row), None, f"cannot be written: {error}")
        finally:
            if runtime is not None:
                runtime.close()
            path.unlink(missing_ok=True)
        return Tried(row.quant, size(row), figures, "measured")


def size(row: Planned) -> int:
    """Bytes of a row of `Candidates.rows`, which all have a size."""
    return row.bytes or 0
