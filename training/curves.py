"""Training curves as one SVG, drawn with nothing but text: loss against tokens, and bits per byte and rate below.

Where matplotlib happens to be installed, a PNG of the same panels can be had too.
"""

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from edgekit.utils import files

SVG, PNG = "training_curves.svg", "training_curves.png"
Points = list[tuple[float, float]]
WIDTH, PANEL, LEFT, RIGHT, TOP, GAP = 860, 260, 64, 24, 44, 62
TRAIN, EVAL, RATE = "#8aa2c8", "#c2410c", "#4d7c0f"


def panels(rows: Sequence[dict[str, Any]]) -> list[tuple[str, list[tuple[str, str, Points]]]]:
    """What is drawn: [(title, [(name, colour, points)])]. x is the optimizer step."""

    def series(key: str) -> Points:
        return [
            (row["step"], row[key]) for row in rows if isinstance(row.get(key), int | float) and math.isfinite(row[key])
        ]

    found = [
        ("Loss, nats per token", [("train", TRAIN, series("train_loss")), ("validation", EVAL, series("eval_loss"))]),
        ("Validation, bits per byte", [("bits per byte", EVAL, series("bits_per_byte"))]),
        ("Learning rate", [("learning rate", RATE, series("lr"))]),
    ]
    return [(title, lines) for title, lines in found if any(points for _, _, points in lines)]


def svg(rows: Sequence[dict[str, Any]], title: str) -> str:
    """The curves of a run's log rows as an SVG document."""
    drawn = panels(rows)
    height = TOP + len(drawn) * (PANEL + GAP)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="{LEFT}" y="24" font-size="16">{escape(title)}</text>',
    ]
    for i, (name, lines) in enumerate(drawn):
        out += _panel(name, lines, TOP + i * (PANEL + GAP) + 20)
    return "\n".join([*out, "</svg>", ""])


def _panel(title: str, lines: list[tuple[str, str, Points]], top: float) -> list[str]:
    points = [p for _, _, each in lines for p in each]
    xs = ticks(0.0, max(x for x, _ in points) or 1.0)
    # The first losses are far above the rest; the axis ends where nineteen points of twenty lie.
    ys_sorted = sorted(y for _, y in points)
    high = ys_sorted[min(len(ys_sorted) - 1, int(0.95 * len(ys_sorted)))] if len(ys_sorted) > 20 else ys_sorted[-1]
    ys = ticks(ys_sorted[0], max(high, ys_sorted[0] + 1e-12))
    width, bottom = WIDTH - LEFT - RIGHT, top + PANEL

    def at(x: float, y: float) -> tuple[float, float]:
        y = min(y, ys[-1])
        return LEFT + width * (x - xs[0]) / (xs[-1] - xs[0]), bottom - PANEL * (y - ys[0]) / (ys[-1] - ys[0])

    out = [f'<text x="{LEFT}" y="{top - 8:.0f}" font-weight="bold">{escape(title)}</text>']
    for y in ys:
        out.append(f'<path d="M{LEFT} {at(0, y)[1]:.1f}h{width}" stroke="#e5e7eb"/>')
        out.append(f'<text x="{LEFT - 8}" y="{at(0, y)[1] + 4:.1f}" text-anchor="end" fill="#555">{y:.4g}</text>')
    for x in xs:
        out.append(
            f'<text x="{at(x, ys[0])[0]:.1f}" y="{bottom + 18:.1f}" text-anchor="middle" fill="#555">{x:,.0f}</text>'
        )
    for i, (name, colour, each) in enumerate(lines):
        if not each:
            continue
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*p) for p in each))
        out.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6" stroke-linejoin="round"/>'
        )
        if len(each) <= 40:
            out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.4" fill="{colour}"/>' for x, y in (at(*p) for p in each)]
        x, y = WIDTH - RIGHT - 210, top + 16 + 18 * i
        out.append(f'<path d="M{x} {y - 4:.0f}h22" stroke="{colour}" stroke-width="2"/>')
        out.append(f'<text x="{x + 28}" y="{y:.0f}">{escape(name)}: {each[-1][1]:.4g} at the end</text>')
    return out


def ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Round numbers that enclose [low, high], about `count` of them."""
    rough = (high - low) / (count - 1) or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.999)
    first = math.floor(low / step + 1e-9)
    last = max(first + 1, math.ceil(high / step - 1e-9))
    return [round(step * i, 12) for i in range(first, last + 1)]


def png(rows: Sequence[dict[str, Any]], title: str) -> bytes | None:
    """The same as a PNG, or None where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return None
    import io

    drawn = panels(rows)
    figure = Figure(figsize=(9, 3 * len(drawn)), layout="constrained")
    figure.suptitle(title)
    for axes, (name, lines) in zip(figure.subplots(len(drawn), squeeze=False)[:, 0], drawn, strict=True):
        axes.set_title(name)
        for label, colour, points in lines:
            if points:
                axes.plot(*zip(*points, strict=True), color=colour, label=label)
        axes.legend()
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=120)
    return out.getvalue()


def write(folder: Path, rows: Sequence[dict[str, Any]], title: str) -> None:
    """Draw into a folder: the SVG, and the PNG where that can be had. Raises `FileError`."""
    files.write_bytes(folder / SVG, svg(rows, title).encode())
    if (picture := png(rows, title)) is not None:
        files.write_bytes(folder / PNG, picture)
