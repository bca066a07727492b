"""Tables of an evaluation: as text, as Markdown, and as CSV."""

from edgekit.evaluation.blimp import STRONG, WEAK, Blimp, Paradigm
from edgekit.evaluation.perplexity import Perplexity, Score
from edgekit.utils.tables import csv_text, table

PARADIGMS = 67
"""That BLiMP has."""

MARKS = {"strong": f"≥ {STRONG:.0f} %", "moderate": f"{WEAK + 1:.0f}–{STRONG - 1:.0f} %", "weak": f"≤ {WEAK:.0f} %"}
"""As Stentor2's model card heads its tables; what lies between two of its bounds is moderate."""

COLUMNS = {
    "documents": "documents", "tokens": "tokens", "loss": "loss/token", "perplexity": "perplexity",
    "bits_per_byte": "bits/byte", "bits_per_word": "bits/word",
}  # fmt: skip


def perplexity_report(found: Perplexity, *, markdown: bool = False) -> str:
    """The table that a person sees: a line a corpus, and all of them."""
    rows = [_score(name, score) for name, score in found.corpora.items()]
    if len(rows) != 1:
        rows.append(_score("all", found.total))
    windows = f"{found.protocol} windows of {found.context:,}"
    if found.stride is not None:
        windows += f", stride {found.stride:,}"
    joined = "packed with EOS" if found.pack else "each document by itself"
    notes = f"{windows} · {joined} · {_prefix(found.prefix)}"
    if alone := found.total.tokens - found.total.scored:
        notes += f" · not scored for want of a token before them: {alone:,}"
    body = table(["corpus", *COLUMNS.values()], rows, markdown=markdown)
    return f"{body}\n\n{notes}"


def _score(name: str, score: Score) -> list[str]:
    return [
        name, f"{score.documents:,}", f"{score.tokens:,}", f"{score.loss:.4f}", f"{score.perplexity:,.2f}",
        f"{score.bits_per_byte:.4f}", f"{score.bits_per_word:.3f}",
    ]  # fmt: skip


def _prefix(prefix: int | None) -> str:
    return "no prefix" if prefix is None else f"prefix {prefix}"


def perplexity_csv(found: Perplexity) -> str:
    """A line a corpus, then `all`; every figure in full."""
    rows = [{"corpus": name} | score.record() for name, score in [*found.corpora.items(), ("all", found.total)]]
    return csv_text(rows)


def blimp_report(found: Blimp, *, markdown: bool = False) -> str:
    """The tables of a model card: by level, paradigm, field and phenomenon."""
    levels = found.by("level")
    some = "" if len(found.paradigms) == PARADIGMS else f" of {PARADIGMS}"
    most = max(p.pairs for p in found.paradigms)
    overall = [["overall accuracy", f"{found.accuracy:.2f} %"], ["paradigms", f"{len(found.paradigms)}{some}"]]
    overall += [[f"{level} ({mark})", str(levels.get(level, (0, 0))[0])] for level, mark in MARKS.items()]
    parts = [table(["BLiMP", ""], overall, markdown=markdown)]
    for level, mark in MARKS.items():
        rows = sorted((p for p in found.paradigms if p.level == level), key=lambda p: (-p.accuracy, p.name))
        if rows:
            body = table(
                ["paradigm", "phenomenon", "accuracy"], [_line(p) for p in rows], markdown=markdown, text_columns=2
            )
            parts.append(_titled(f"{level.capitalize()} ({mark})", body, markdown))
    for key, title in (("field", "By field"), ("term", "By phenomenon")):
        groups = [[name or "(none)", str(n), f"{mean:.2f} %"] for name, (n, mean) in found.by(key).items()]
        parts.append(_titled(title, table([key, "paradigms", "accuracy"], groups, markdown=markdown), markdown))
    space = "a space before the sentence" if found.protocol == "lm-eval" else "the sentence as it is"
    parts.append(f"protocol {found.protocol}: {space} · {_prefix(found.prefix)} · at most {most:,} pairs of a paradigm")
    return "\n\n".join(parts)


def _line(paradigm: Paradigm) -> list[str]:
    return [paradigm.name, paradigm.term, f"{paradigm.accuracy:.2f} %"]


def _titled(title: str, body: str, markdown: bool) -> str:
    return f"#### {title}\n\n{body}" if markdown else f"{title}\n{body}"


def blimp_csv(found: Blimp) -> str:
    """A line a paradigm."""
    return csv_text(found.record()["paradigms"])
