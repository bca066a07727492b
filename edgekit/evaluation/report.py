"""Output of `eval`: tables in text, Markdown and CSV."""

from edgekit.evaluation.blimp import STRONG, WEAK, Blimp, Paradigm
from edgekit.evaluation.perplexity import Perplexity, Score
from edgekit.utils.tables import csv_text, table

PARADIGMS = 67
"""In all of BLiMP."""

MARKS = {"strong": f"≥ {STRONG:.0f} %", "moderate": f"{WEAK + 1:.0f}–{STRONG - 1:.0f} %", "weak": f"≤ {WEAK:.0f} %"}
"""The headings of Stentor2's model card, which leaves gaps between its bounds; those count as moderate."""

COLUMNS = {
    "documents": "documents", "tokens": "tokens", "loss": "loss/token", "perplexity": "perplexity",
    "bits_per_byte": "bits/byte", "bits_per_word": "bits/word",
}  # fmt: skip


def perplexity_report(result: Perplexity, *, markdown: bool = False) -> str:
    """A table with a line per corpus, and their total."""
    rows = [_score(name, score) for name, score in result.corpora.items()]
    if len(rows) != 1:
        rows.append(_score("all", result.total))
    windows = f"{result.protocol} windows of {result.context:,}"
    if result.stride is not None:
        windows += f", stride {result.stride:,}"
    joined = "packed with EOS" if result.pack else "each document separately"
    notes = f"{windows} · {joined} · {_prefix(result.prefix)}"
    if unscored := result.total.tokens - result.total.scored:
        notes += f" · not scored, as no token comes before them: {unscored:,}"
    body = table(["corpus", *COLUMNS.values()], rows, markdown=markdown)
    return f"{body}\n\n{notes}"


def _score(name: str, score: Score) -> list[str]:
    return [
        name, f"{score.documents:,}", f"{score.tokens:,}", f"{score.loss:.4f}", f"{score.perplexity:,.2f}",
        f"{score.bits_per_byte:.4f}", f"{score.bits_per_word:.3f}",
    ]  # fmt: skip


def _prefix(prefix: int | None) -> str:
    return "no prefix" if prefix is None else f"prefix {prefix}"


def perplexity_csv(result: Perplexity) -> str:
    """A row per corpus, then `all`, with unrounded figures."""
    rows = [{"corpus": name} | score.record() for name, score in [*result.corpora.items(), ("all", result.total)]]
    return csv_text(rows)


def blimp_report(result: Blimp, *, markdown: bool = False) -> str:
    """The tables of a model card: by level, paradigm, field and phenomenon."""
    levels = result.by("level")
    of_all = "" if len(result.paradigms) == PARADIGMS else f" of {PARADIGMS}"
    most = max(p.pairs for p in result.paradigms)
    overall = [["overall accuracy", f"{result.accuracy:.2f} %"], ["paradigms", f"{len(result.paradigms)}{of_all}"]]
    overall += [[f"{level} ({mark})", str(levels.get(level, (0, 0))[0])] for level, mark in MARKS.items()]
    parts = [table(["BLiMP", ""], overall, markdown=markdown)]
    for level, mark in MARKS.items():
        rows = sorted((p for p in result.paradigms if p.level == level), key=lambda p: (-p.accuracy, p.name))
        if rows:
            body = table(
                ["paradigm", "phenomenon", "accuracy"], [_line(p) for p in rows], markdown=markdown, text_columns=2
            )
            parts.append(_titled(f"{level.capitalize()} ({mark})", body, markdown))
    for key, title in (("field", "By field"), ("term", "By phenomenon")):
        groups = [[name or "(none)", str(n), f"{mean:.2f} %"] for name, (n, mean) in result.by(key).items()]
        parts.append(_titled(title, table([key, "paradigms", "accuracy"], groups, markdown=markdown), markdown))
    space = "a space before the sentence" if result.protocol == "lm-eval" else "the sentence alone"
    parts.append(
        f"protocol {result.protocol}: {space} · {_prefix(result.prefix)} · at most {most:,} pairs per paradigm"
    )
    return "\n\n".join(parts)


def _line(paradigm: Paradigm) -> list[str]:
    return [paradigm.name, paradigm.term, f"{paradigm.accuracy:.2f} %"]


def _titled(title: str, body: str, markdown: bool) -> str:
    return f"#### {title}\n\n{body}" if markdown else f"{title}\n{body}"


def blimp_csv(result: Blimp) -> str:
    """A row per paradigm."""
    return csv_text(result.record()["paradigms"])
