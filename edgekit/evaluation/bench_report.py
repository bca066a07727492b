"""Output of `bench`: a table in text or Markdown, CSV, and a plot in SVG."""

import csv
import io
import math
from collections.abc import Sequence

from edgekit.evaluation.bench import Bench, Figure, Line
from edgekit.utils import plot
from edgekit.utils.tables import table

HEAD = ["model", "runtime", "threads", "prompt", "load ms", "first token ms", "prefill tok/s", "decode tok/s", "±",
        "overhead µs", "peak MB", "file MB"]  # fmt: skip


def report(bench: Bench, *, markdown: bool = False) -> str:
    """The table, decode speeds by context, and the machine."""
    rows = []
    for line in bench.lines:
        rows.append([
            *_name(line), f"{line.prompt_tokens:,}", _number(1e3 * line.load.median),
            _number(1e3 * line.first_token.median), _number(line.prefill.median), _number(line.decode.median),
            f"{100 * line.decode.spread:.0f} %", _number(1e6 * line.overhead.median), _number(line.peak.median / 1e6),
            f"{line.bytes / 1e6:.2f}",
        ])  # fmt: skip
    parts = [table(HEAD, rows, markdown=markdown, text_columns=2)]
    firsts = _firsts(bench.lines)
    if contexts := sorted({at for line in firsts for at in line.growth}):
        head = ["decode tok/s", "runtime", "threads", *(f"at {at:,}" for at in contexts)]
        rows = [
            [*_name(line), *(_number(line.growth[at].median) if at in line.growth else "" for at in contexts)]
            for line in firsts
        ]
        parts.append(table(head, rows, markdown=markdown, text_columns=2))
    parts.append(foot(bench))
    return "\n\n".join(parts)


def foot(bench: Bench) -> str:
    """How often, how and on which machine it was measured."""
    line, machine = bench.lines[0], bench.machine
    rounds = len(line.decode.rounds)
    versions = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    return "\n".join([
        f"{line.new_tokens} new tokens · median of {rounds} {'round' if rounds == 1 else 'rounds'}, ± half the range · "
        "overhead: a token's time outside the runtime's forward"
        + (" · * threads chosen by measurement" if any(each.auto for each in bench.lines) else ""),
        f"{machine['cpu']}, {machine['cores']} {'core' if machine['cores'] == 1 else 'cores'}, {machine['system']} · "
        f"Python {machine['python']}, edgekit {machine['edgekit']}, {versions}",
    ])  # fmt: skip


def _name(line: Line) -> list[str]:
    return [line.model, line.runtime, f"{line.threads}{'*' if line.auto else ''}"]


def _number(value: float) -> str:
    """Three significant digits, or the whole number."""
    if not math.isfinite(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 99.95 else f"{value:.3g}"


def _firsts(lines: Sequence[Line]) -> list[Line]:
    """The first line of each model, runtime and number of threads, for what does not depend on the prompt."""
    return list({_key(line): line for line in reversed(lines)}.values())[::-1]


def _key(line: Line) -> tuple[str, str, int, bool]:
    return line.model, line.runtime, line.threads, line.auto


def to_csv(bench: Bench) -> str:
    """A row per line of the table: medians, and the range of the decode speed. Column names have the units."""
    contexts = sorted({at for line in bench.lines for at in line.growth})
    rows = []
    for line in bench.lines:
        rows.append({
            "model": line.model, "runtime": line.runtime, "threads": line.threads,
            "threads_measured": int(line.auto), "prompt_tokens": line.prompt_tokens, "new_tokens": line.new_tokens,
            "load_ms": 1e3 * line.load.median, "first_token_ms": 1e3 * line.first_token.median,
            "prefill_tokens_per_second": line.prefill.median, "decode_tokens_per_second": line.decode.median,
            "decode_min": min(line.decode.rounds), "decode_max": max(line.decode.rounds),
            "overhead_us": 1e6 * line.overhead.median, "peak_mb": line.peak.median / 1e6,
            "file_mb": line.bytes / 1e6,
            **{f"decode_at_{at}": line.growth[at].median if at in line.growth else "" for at in contexts},
        })  # fmt: skip
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


# -----------------------------------------------------------------------------
# the plot

WIDTH, BAR, GROWTH, LEGEND_ROW = 650, 19, 210, 14
"""Points."""


def svg(bench: Bench) -> str:
    """Decode speed as bars with the range of the rounds; below them decode speed by tokens of context.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    growing = [line for line in _firsts(bench.lines) if line.growth]
    heights = [60 + BAR * len(bench.lines), GROWTH + LEGEND_ROW * len(growing)][: 2 if growing else 1]

    def draw(figure: "plot.Figure") -> None:
        figure.suptitle("Decode speed, tokens per second")
        figure.supxlabel(foot(bench).splitlines()[1], fontsize=8, color=plot.GREY)
        panels = figure.subplots(len(heights), height_ratios=heights, squeeze=False)[:, 0]
        _draw_bars(panels[0], bench.lines)
        if growing:
            _draw_growth(panels[1], growing)

    return plot.svg(WIDTH, 55 + sum(heights), draw)


def _draw_bars(axes: "plot.Axes", lines: Sequence[Line]) -> None:
    several = len({line.prompt_tokens for line in lines}) > 1
    names = [_title(line) + (f", prompt {line.prompt_tokens:,}" if several else "") for line in lines]
    keys = [_key(line) for line in _firsts(lines)]
    medians = [line.decode.median for line in lines]
    plot.bars(
        axes, medians, [_number(median) for median in medians],
        [plot.COLOURS[keys.index(_key(line)) % len(plot.COLOURS)] for line in lines],
        ranges=[(min(line.decode.rounds), max(line.decode.rounds)) for line in lines],
    )  # fmt: skip
    axes.set_yticks(range(len(names)), names, color="black")
    axes.grid(axis="x")
    axes.xaxis.set_major_formatter("{x:,.0f}")


def _draw_growth(axes: "plot.Axes", lines: Sequence[Line]) -> None:
    axes.set_title("By tokens of context")
    drawn = []
    for i, line in enumerate(lines):
        lengths = sorted(line.growth)
        speeds = [line.growth[length].median for length in lengths]
        colour = plot.COLOURS[i % len(plot.COLOURS)]
        drawn += axes.plot(lengths, speeds, color=colour, gid=f"line_{i}", marker="o", markersize=4)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.grid()
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:,.0f}")
    labels = [_title(line) + _loss(line.growth) for line in lines]
    axes.legend(drawn, labels, loc="upper left", bbox_to_anchor=(0, -0.1), borderaxespad=0)


def _title(line: Line) -> str:
    return f"{line.model} on {line.runtime}, {line.threads} {'thread' if line.threads == 1 else 'threads'}"


def _loss(growth: dict[int, Figure]) -> str:
    """How much of the speed at the shortest context is left at the longest."""
    short, long = min(growth), max(growth)
    if short == long:
        return ""
    return f": {100 * growth[long].median / growth[short].median:.0f} % of the speed left at {long:,} tokens"
