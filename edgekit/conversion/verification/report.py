"""What `verify` found, for a person: the table, what is wrong and where, and a plot."""

import json
import math
from collections.abc import Sequence
from html import escape

from edgekit.conversion.verification.proof import Proof
from edgekit.conversion.verification.verify import Verification
from edgekit.utils.tables import table

HEAD = (
    "artefact", "type", "MB", "KL", "p99 KL", "top-1", "top-5", "max |Δ|", "mean |Δ|", "perplexity", "change",
    "greedy", "by step", "verdict",
)  # fmt: skip
EXPLAINED = (
    "KL: mean KL(source ‖ artefact), nats a token · top-1, top-5: likeliest tokens that are the same\n"
    "|Δ|: difference of a logit · by step: the largest between tokens fed one by one and at once\n"
    "greedy: tokens before the first that differs, mean of all texts"
)


def report(found: Verification, *, markdown: bool = False, kv_type: str = "f32") -> str:
    """All of it as text."""
    name = (lambda text: f"`{text}`") if markdown else str
    rows = [_row(proof, name(proof.path.name)) for proof in found.artefacts]
    kv = f" · llama.cpp with {kv_type} KV cache" if any(p.runtime == "llamacpp" for p in found.artefacts) else ""
    parts = [
        f"{name(found.source)} ({found.reference}), {found.positions:,} positions of {found.text} in windows of "
        f"{found.window}{kv}",
        table(HEAD, rows, markdown=markdown, text_columns=2),
        EXPLAINED,
    ]
    parts += [text for proof in found.artefacts if (text := details(proof, markdown=markdown))]
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
    return [*cells, "sound" if proof.sound else "BROKEN"]


def change(share: float) -> str:
    """+1.2 %"""
    if abs(share) < 5e-5:
        return "0.00 %"
    return f"{100 * share:+.2f} %" if abs(share) < 10 else f"x {1 + share:,.0f}"


def details(proof: Proof, *, markdown: bool = False) -> str:
    """What is to be said of one artefact beside its figures; "" if that is nothing."""
    lines = [f"broken: {sentence}" for sentence in proof.failures] + [f"note: {note}" for note in proof.notes]
    if proof.greedy is not None and (d := proof.greedy.divergence) is not None:
        said, wanted = (
            str(id) if text is None else json.dumps(text, ensure_ascii=False)
            for id, text in ((d.artefact, d.artefact_text), (d.source, d.source_text))
        )
        lines.append(
            f"greedy text {d.prompt + 1} parts after {d.step} tokens: {said} for {wanted}, which the source prefers by "
            f"{d.margin:.2g}"
        )
    if (t := proof.tokens) is not None and (t.equal < t.texts or t.lossless < t.texts):
        lines.append(
            f"tokenizer: of {t.texts} texts {t.equal} become the same ids, {t.lossless} come back as they were"
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

WIDTH, LEFT, ROW, BAR, TOP, GAP = 900, 220, 26, 15, 54, 44
COLOURS = {True: "#8aa2c8", False: "#c2410c"}
LEAST = 1e-13
"""A KL below this is drawn as this: a float64's own rounding."""


def svg(found: Verification, *, names: Sequence[str] = (), speeds: Sequence[float | None] = ()) -> str:
    """Bars of size, mean KL (on a logarithmic axis) and top-1 agreement, an artefact a line; broken ones are red.

    Args:
        names: of the artefacts, in their order; by default those of the files.
        speeds: tokens a second, in their order, if they were measured: a panel more.
    """
    proofs, count = found.artefacts, 4 if speeds else 3
    each = (WIDTH - LEFT - 24 - (count - 1) * GAP) / count
    height = TOP + ROW * len(proofs) + 40
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="12" y="22" font-size="16">What {escape(found.source)} loses</text>',
    ]
    for i, name in enumerate(names or [_short(proof.path.name) for proof in proofs]):
        y = TOP + ROW * i + BAR - 3
        out.append(f'<text x="{LEFT - 10}" y="{y:.0f}" text-anchor="end">{escape(name)}</text>')
    kl = [None if p.figures is None else p.figures.mean_kl for p in proofs]
    top1 = [None if p.figures is None else 100 * p.figures.top1 for p in proofs]
    size = [p.bytes / 1e6 for p in proofs]
    panels: list[tuple[str, Sequence[float | None], Sequence[float], str]] = [
        ("Size, MB", size, [v / max(size) for v in size], "{:.2f}"),
        ("Mean KL, nats (log)", kl, logarithmic(kl), "{:.1e}"),
        ("Top-1 agreement, %", top1, [(v or 0) / 100 for v in top1], "{:.1f}"),
    ]
    if speeds:
        fastest = max((v for v in speeds if v is not None), default=1.0)
        panels.append(("Decoding, tokens/s", speeds, [(v or 0) / fastest for v in speeds], "{:,.0f}"))
    for i, (title, values, shares, form) in enumerate(panels):
        x = LEFT + i * (each + GAP)
        out.append(f'<text x="{x:.0f}" y="{TOP - 10}" font-weight="bold">{escape(title)}</text>')
        for j, (value, share) in enumerate(zip(values, shares, strict=True)):
            y, width = TOP + ROW * j, max(1.0, share * (each - 46))
            said = "-" if value is None else form.format(value)
            out.append(
                f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{COLOURS[proofs[j].sound]}"/>'
            )
            out.append(f'<text x="{x + width + 5:.1f}" y="{y + BAR - 3}" fill="#555">{said}</text>')
    note = f"{found.positions:,} positions of {found.text}"
    out.append(f'<text x="{LEFT}" y="{height - 12}" fill="#555">{escape(note)}</text>')
    return "\n".join([*out, "</svg>", ""])


def logarithmic(values: Sequence[float | None]) -> list[float]:
    """Lengths of bars from 0 to 1, on an axis from the power of ten below the least to the one above the largest."""
    logs = [math.log10(max(v, LEAST)) for v in values if v is not None]
    if not logs:
        return [0.0] * len(values)
    low, high = math.floor(min(logs)), max(math.ceil(max(logs)), math.floor(min(logs)) + 1)
    return [0.0 if v is None else (math.log10(max(v, LEAST)) - low) / (high - low) for v in values]


def _short(name: str, most: int = 30) -> str:
    return name if len(name) <= most else f"{name[: most // 2]}…{name[-most // 2 + 1 :]}"
