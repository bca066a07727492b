"""Training curves as an SVG: loss, bits per byte and learning rate by optimizer step."""

import math
from collections.abc import Sequence
from typing import Any

from edgekit.utils import plot

SVG = "training_curves.svg"
WIDTH, PANEL = 620, 195
"""Points."""
TRAIN, EVAL, RATE = "#8aa2c8", "#c2410c", "#4d7c0f"

Points = list[tuple[float, float]]


def panels(rows: Sequence[dict[str, Any]]) -> list[tuple[str, list[tuple[str, str, Points]]]]:
    """The panels that have data: [(title, [(name, colour, [(step, value), ...]), ...]), ...]."""

    def series(key: str) -> Points:
        return [
            (row["step"], row[key]) for row in rows if isinstance(row.get(key), int | float) and math.isfinite(row[key])
        ]

    every = [
        ("Loss, nats per token", [("train", TRAIN, series("train_loss")), ("validation", EVAL, series("eval_loss"))]),
        ("Validation, bits per byte", [("bits per byte", EVAL, series("bits_per_byte"))]),
        ("Learning rate", [("learning rate", RATE, series("lr"))]),
    ]
    return [(title, lines) for title, lines in every if any(points for _, _, points in lines)]


def svg(rows: Sequence[dict[str, Any]], title: str) -> str:
    """The curves of a run's log rows as an SVG document. Raises `MissingExtraError` without matplotlib."""
    shown = panels(rows)

    def draw(figure: "plot.Figure") -> None:
        figure.suptitle(title)
        if shown:
            for axes, (name, lines) in zip(figure.subplots(len(shown), squeeze=False)[:, 0], shown, strict=True):
                _draw_panel(axes, name, lines)
            axes.set_xlabel("optimizer step", color=plot.GREY)

    return plot.svg(WIDTH, 40 + PANEL * len(shown), draw)


def _draw_panel(axes: "plot.Axes", title: str, lines: Sequence[tuple[str, str, Points]]) -> None:
    axes.set_title(title)
    for name, colour, points in lines:
        if points:
            steps, values = zip(*points, strict=True)
            axes.plot(
                steps, values, color=colour, label=f"{name}: {values[-1]:.4g} at the end", gid=name.replace(" ", "_"),
                marker="o" if len(points) <= 40 else "", markersize=4,
            )  # fmt: skip
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    # The first losses are far above the rest: the axis ends where 19 of 20 points are below.
    every = sorted(value for _, _, points in lines for _, value in points)
    low, high = every[0], every[int(0.95 * len(every))]
    if len(every) > 20 and high > low:
        axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    axes.grid()
    axes.legend(loc="upper right")
