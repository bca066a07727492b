"""The type of an artefact, found by measuring: `edgekit convert --target-size 7MB`, `--max-kl 0.02`.

Candidates are converted into a temporary folder and run on their own runtime: mean KL(source || artefact) over the
bundled text. Sizes are known beforehand (`plan.py`), so only what fits is converted. A text of some hundred tokens
tells types apart that differ by a tenth; it does not measure quality in general.
"""

from dataclasses import dataclass, replace
from typing import Any

from threadpoolctl import threadpool_limits

from edgekit.conversion.base import Planned
from edgekit.conversion.candidates import Candidates, Tried, size
from edgekit.conversion.importance import DEFAULT
from edgekit.conversion.verification.measure import measure_source, of_checkpoint
from edgekit.conversion.verification.settings import Verifying
from edgekit.errors import SettingError
from edgekit.formats.checkpoint import Checkpoint
from edgekit.settings import Choosing, Converting, bytes_of
from edgekit.utils import temporaries
from edgekit.utils.progress import Progress, silent
from edgekit.utils.tables import table

MEASURED = Verifying(tokens=2048, greedy=0, threads=1)

PATIENCE = 4
"""Smaller files are hardly ever better than larger ones: the search ends after so many in a row that were not."""


@dataclass(frozen=True)
class Choice:
    """What was chosen, and why."""

    quant: str
    reason: str
    tried: list[Tried]
    """All candidates, measured or not, from large to small."""
    text: str
    positions: int
    importance: str | None = None
    """The text that the chosen type was weighed by; None if it is not weighed."""

    def record(self) -> dict[str, Any]:
        """Plain values for JSON."""
        names = ("quant", "reason", "text", "positions")
        return {name: getattr(self, name) for name in names} | {"tried": [row.record() for row in self.tried]}


def choose(
    checkpoint: Checkpoint, to: str, settings: Converting, choosing: Choosing, progress: Progress = silent
) -> Choice:
    """Find the type. With only a size the best that fits; with a KL the smallest file that stays below it (and fits).

    Args:
        settings: all but `quant` is used; `importance` only by the types that can be weighed.

    Raises:
        SettingError: nothing fits, or nothing stays below the KL; says what comes nearest.
        MissingExtraError: the artefact's runtime is not installed.
    """
    if choosing.target_size is None and choosing.max_kl is None:
        raise SettingError("give a target_size, a max_kl, or both")
    search = _Search(checkpoint, to, settings, choosing)
    with threadpool_limits(1, "blas"):
        return search.run(progress)


class _Search:
    def __init__(self, checkpoint: Checkpoint, to: str, settings: Converting, choosing: Choosing) -> None:
        self.checkpoint, self.to, self.settings, self.choosing = checkpoint, to, settings, choosing
        self.candidates = Candidates(checkpoint, to, settings)

    def run(self, progress: Progress) -> Choice:
        rows = self.candidates.rows
        most = bytes_of(self.choosing.target_size) if self.choosing.target_size is not None else None
        fitting = [row for row in rows if most is None or size(row) <= most]
        if not fitting:
            raise SettingError(
                f"no {self.to} type of {self.checkpoint.name} fits into {self.choosing.target_size}: the smallest, "
                f"{rows[-1].quant}, takes {size(rows[-1]) / 1e6:.2f} MB"
            )
        self.expected = measure_source(of_checkpoint(self.checkpoint), None, MEASURED)
        with temporaries.scratch() as folder:
            self.folder = folder
            search = self._best if self.choosing.max_kl is None else self._smallest
            chosen, reason, tried = search(fitting, progress)
        measured = {row.quant: row for row in tried}
        listed = [
            measured.get(row.quant, Tried(row.quant, size(row), None, "not tried" if row in fitting else "too large"))
            for row in rows
        ]
        listed = [replace(row, verdict="chosen") if row.quant == chosen else row for row in listed]
        expected = self.expected
        return Choice(chosen, reason, listed, expected.text, expected.positions, self.candidates.importance(chosen))

    def _best(self, rows: list[Planned], progress: Progress) -> tuple[str, str, list[Tried]]:
        best: Tried | None = None
        tried: list[Tried] = []
        worse = 0
        for row in progress(rows, "measuring", len(rows)):
            if worse >= PATIENCE:
                continue
            tried.append(one := self._measure(row))
            if one.figures is None:
                continue
            if best is None or best.figures is None or one.figures.mean_kl < best.figures.mean_kl:
                best, worse = one, 0
            else:
                worse += 1
        if best is None or best.figures is None:
            raise SettingError(
                f"none of the {self.to} types that fit can be written: {tried[0].quant} {tried[0].verdict}"
            )
        kl = best.figures.mean_kl
        return best.quant, f"the lowest mean KL ({kl:.2g}) of the files of at most {self.choosing.target_size}", tried

    def _smallest(self, rows: list[Planned], progress: Progress) -> tuple[str, str, list[Tried]]:
        most, tried, chosen = self.choosing.max_kl or 0.0, list[Tried](), None
        for row in progress(rows[::-1], "measuring", len(rows)):
            if chosen is not None:
                continue
            tried.append(one := self._measure(row))
            if one.figures is not None and one.figures.mean_kl <= most:
                chosen = one
        if chosen is not None:
            return chosen.quant, f"the smallest file whose mean KL is at most {most:g}", tried
        measured = [row for row in tried if row.figures is not None]
        if not measured:
            raise SettingError(f"none of the {self.to} types can be written: {tried[0].quant} {tried[0].verdict}")
        best = min(measured, key=lambda row: row.figures.mean_kl if row.figures else 0.0)
        fits = f" fits into {self.choosing.target_size} and" if self.choosing.target_size is not None else ""
        kl = best.figures.mean_kl if best.figures else 0.0
        raise SettingError(
            f"no {self.to} type of {self.checkpoint.name}{fits} has a mean KL of at most {most:g}: the best, "
            f"{best.quant}, has {kl:.2g} at {best.bytes / 1e6:.2f} MB"
        )

    def _measure(self, row: Planned) -> Tried:
        tried = self.candidates.measure(row, self.expected, self.folder)
        over = self.choosing.max_kl is not None and tried.figures and tried.figures.mean_kl > self.choosing.max_kl
        return replace(tried, verdict="loses too much") if over else tried


def report(choice: Choice) -> str:
    """What was tried, as plain text."""
    cells = []
    for row in choice.tried:
        f = row.figures
        kl, top1 = ("-", "-") if f is None else (f"{f.mean_kl:.2g}", f"{100 * f.top1:.1f} %")
        cells.append([row.quant, f"{row.bytes / 1e6:.2f}", kl, top1, row.verdict])
    shown = table(("type", "MB", "KL", "top-1", ""), cells, markdown=False)
    same = "\nTypes below 8 bits were weighed by this same text: on another they lose a little more."
    note = same if choice.importance == DEFAULT else ""
    return f"{shown}\n\n{choice.quant}: {choice.reason}, on {choice.positions} positions of {choice.text}{note}"
