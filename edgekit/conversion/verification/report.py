"""The report of `verify` as text: the table, what is wrong and where, and a plot."""

import json
import math
from collections.abc import Sequence

from edgekit.conversion.verification.cost import KEPT, LITTLE, grade, percent, sentence
from edgekit.conversion.verification.proof import Proof
from edgekit.conversion.verification.verify import Verification
from edgekit.utils import plot
from edgekit.utils.tables import table

HEAD = (
    "artefact", "type", "MB", "KL", "p99 KL", "top-1", "top-5", "max |Δ|", "mean |Δ|", "perplexity", "change",
    "greedy", "by step", "verdict",
)  # fmt: skip
EXPLAINED = (
    "KL: mean KL(source ‖ artefact), nats a token · top-1, top-5: likeliest tokens that are the same\n"
    "|Δ|: difference of a logit · by step: the largest between tokens fed one by one and at once\n"
    "greedy: tokens before the first that differs, mean of all texts\n"
    f"verdict: sound is within {percent(LITTLE)} of the source's perplexity"
)


def report(result: Verification, *, markdown: bool = False, kv_type: str = "f32") -> str:
    """All of it as text."""
    name = (lambda text: f"`{text}`") if markdown else str
    rows = [_row(proof, name(proof.path.name)) for proof in result.artefacts]
    kv = f" · llama.cpp with {kv_type} KV cache" if any(p.runtime == "llamacpp" for p in result.artefacts) else ""
    parts = [
        f"{name(result.source)} ({result.reference}), {result.positions:,} positions of {result.text} in windows of "
        f"{result.window}{kv}",
        table(HEAD, rows, markdown=markdown, text_columns=2),
        EXPLAINED,
    ]
    parts += [text for proof in result.artefacts if (text := details(proof, markdown=markdown))]
    return "\n\n".join(parts)


def _row(proof: Proof, name: str) -> list[str]:
    cells = [name, proof.type, f"{proof.bytes / 1e6:.2f}"]
    if (f := proof.figures) is None:
        cells += ["-"] * 8
    else:
        cells += [
            f"{f.mean_kl:.2g}", f"{f.p99_kl:.2g}", f"{100 * f.top1:.1f} %", f"{100 * f.top5:.1f} %",
            f"{f.max_difference:.2g}", f"{f.mean_difference:.2g}", f"{f.perplexity:,.3f}", change(f.perplexity_change),
        ]  # fmt: skip
    g = proof.greedy
    cells.append("-" if g is None else f"{sum(g.matched) / len(g.matched):.0f}/{g.length}")
    cells.append("-" if proof.step_difference is None else f"{proof.step_difference:.2g}")
    return [*cells, proof.verdict]


def change(share: float) -> str:
    """+1.2 %"""
    if abs(share) < 5e-5:
        return "0.00 %"
    return f"{100 * share:+.2f} %" if abs(share) < 10 else f"x {1 + share:,.0f}"


def details(proof: Proof, *, markdown: bool = False) -> str:
    """Remarks on one artefact that are not in the table; "" if there are none."""
    lines = [f"broken: {failure}" for failure in proof.failures]
    if proof.sound and proof.figures is not None and grade(proof.cost) != KEPT:
        lines.append(sentence(proof.figures))
    lines += [f"note: {note}" for note in proof.notes]
    if proof.greedy is not None and (d := proof.greedy.divergence) is not None:
        artefact, source = (
            str(id) if text is None else json.dumps(text, ensure_ascii=False)
            for id, text in ((d.artefact, d.artefact_text), (d.source, d.source_text))
        )
        lines.append(
            f"greedy text {d.prompt + 1} diverges after {d.step} tokens: {artefact} instead of {source}, which the "
            f"source prefers by {d.margin:.2g}"
        )
    if (t := proof.tokens) is not None and (t.equal < t.texts or t.lossless < t.texts):
        lines.append(
            f"tokenizer: of {t.texts} texts {t.equal} become the same ids, {t.lossless} decode to the same text"
        )
    if not lines and not proof.layers:
        return ""
    text = "\n".join([f"{proof.path.name}", *(f"  {line}" if not markdown else f"- {line}" for line in lines)])
    if proof.layers:
        rows = [[layer.name, f"{layer.error:.2g}"] for layer in proof.layers]
        shown = table(["part", "error"], rows, markdown=markdown)
        text += "\n\n" + shown if markdown else "\n" + "\n".join(f"  {line}" for line in shown.splitlines())
    return text


# ----------------------------------------------------------------------------- the plot

WIDTH, ROW = 720, 19
"""Points."""
COLOURS = {True: "#8aa2c8", False: "#c2410c"}
LEAST = 1e-13
"""The smallest KL that is drawn: a float64's own rounding."""


def svg(result: Verification, *, names: Sequence[str] = (), speeds: Sequence[float | None] = ()) -> str:
    """Bars of size, mean KL (on a logarithmic axis) and top-1 agreement, one row per artefact; broken ones are red.

    Args:
        names: of the artefacts, in order; by default their file names.
        speeds: tokens per second, in order, if they were measured: one more panel.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    proofs = result.artefacts
    panels: list[tuple[str, Sequence[float | None], str]] = [
        ("Size, MB", [proof.bytes / 1e6 for proof in proofs], "{:.2f}"),
        ("Mean KL, nats (log)", [None if p.figures is None else p.figures.mean_kl for p in proofs], "{:.1e}"),
        ("Top-1 agreement, %", [None if p.figures is None else 100 * p.figures.top1 for p in proofs], "{:.1f}"),
    ]
    if speeds:
        panels.append(("Decoding, tokens/s", speeds, "{:,.0f}"))

    def draw(figure: "plot.Figure") -> None:
        figure.suptitle(f"What {result.source} loses")
        figure.supxlabel(f"{result.positions:,} positions of {result.text}", fontsize=9, color=plot.GREY)
        rows = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, (title, values, form) in zip(rows, panels, strict=True):
            axes.set_title(title, fontsize=9)
            texts = ["-" if value is None else form.format(value) for value in values]
            lengths = logarithmic(values) if "(log)" in title else [value or 0.0 for value in values]
            plot.bars(axes, lengths, texts, [COLOURS[proof.sound] for proof in proofs], margin=0.45)
            axes.set_xticks([])
        rows[0].set_yticks(range(len(proofs)), names or [_short(proof.path.name) for proof in proofs], color="black")

    return plot.svg(WIDTH, 85 + ROW * len(proofs), draw)


def logarithmic(values: Sequence[float | None]) -> list[float]:
    """Bar lengths from 0 to 1 on a logarithmic axis between the powers of ten that enclose the values; None is 0."""
    logs = [math.log10(max(v, LEAST)) for v in values if v is not None]
    if not logs:
        return [0.0] * len(values)
    low, high = math.floor(min(logs)), max(math.ceil(max(logs)), math.floor(min(logs)) + 1)
    return [0.0 if v is None else (math.log10(max(v, LEAST)) - low) / (high - low) for v in values]


def _short(name: str, most: int = 30) -> str:
    return name if len(name) <= most else f"{name[: most // 2]}…{name[-most // 2 + 1 :]}"
