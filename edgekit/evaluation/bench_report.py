"""Speeds as a person reads them: a table in text or Markdown, CSV, and a plot in SVG, drawn with nothing but text."""

import csv
import io
import math
from collections.abc import Sequence
from html import escape

from edgekit.evaluation.bench import Bench, Figure, Line
from edgekit.utils.tables import table

HEAD = ["model", "runtime", "threads", "prompt", "load ms", "first token ms", "prefill tok/s", "decode tok/s", "±",
        "overhead µs", "peak MB", "file MB"]  # fmt: skip


def report(found: Bench, *, markdown: bool = False) -> str:
    """The table, decode speeds by context below it, and what they were measured on."""
    rows = []
    for line in found.lines:
        rows.append([
            *_name(line), f"{line.prompt_tokens:,}", _number(1e3 * line.load.median),
            _number(1e3 * line.first_token.median), _number(line.prefill.median), _number(line.decode.median),
            f"{100 * line.decode.spread:.0f} %", _number(1e6 * line.overhead.median), _number(line.peak.median / 1e6),
            f"{line.bytes / 1e6:.2f}",
        ])  # fmt: skip
    parts = [table(HEAD, rows, markdown=markdown, text_columns=2)]
    firsts = _firsts(found.lines)
    if contexts := sorted({at for line in firsts for at in line.growth}):
        head = ["decode tok/s", "runtime", "threads", *(f"at {at:,}" for at in contexts)]
        rows = [
            [*_name(line), *(_number(line.growth[at].median) if at in line.growth else "" for at in contexts)]
            for line in firsts
        ]
        parts.append(table(head, rows, markdown=markdown, text_columns=2))
    parts.append(foot(found))
    return "\n\n".join(parts)


def foot(found: Bench) -> str:
    """How often, how and on what it was measured."""
    line, machine = found.lines[0], found.machine
    rounds = len(line.decode.rounds)
    versions = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    return "\n".join([
        f"{line.new_tokens} new tokens · median of {rounds} {'round' if rounds == 1 else 'rounds'}, ± half the range · "
        "overhead: a token's time outside the runtime's forward"
        + (" · * threads chosen by measurement" if any(each.auto for each in found.lines) else ""),
        f"{machine['cpu']}, {machine['cores']} {'core' if machine['cores'] == 1 else 'cores'}, {machine['system']} · "
        f"Python {machine['python']}, edgekit {machine['edgekit']}, {versions}",
    ])  # fmt: skip


def _name(line: Line) -> list[str]:
    return [line.model, line.runtime, f"{line.threads}{'*' if line.auto else ''}"]


def _number(value: float) -> str:
    """Three digits that count, or the whole number."""
    if not math.isfinite(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 99.95 else f"{value:.3g}"


def _firsts(lines: Sequence[Line]) -> list[Line]:
    """Of each model, runtime and number of threads its first line: what does not depend on the prompt."""
    return list({_key(line): line for line in reversed(lines)}.values())[::-1]


def _key(line: Line) -> tuple[str, str, int, bool]:
    return line.model, line.runtime, line.threads, line.auto


def to_csv(found: Bench) -> str:
    """A line a line of the table; medians, and the decode speed's least and greatest; units stand in the names."""
    contexts = sorted({at for line in found.lines for at in line.growth})
    rows = []
    for line in found.lines:
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

WIDTH, RIGHT, TOP = 900, 90, 52
BAR, PANEL, GAP, LETTER = 26, 260, 66, 6.6
COLOURS = ("#2563eb", "#c2410c", "#4d7c0f", "#7c3aed", "#0f766e", "#be185d", "#a16207", "#475569")


def svg(found: Bench) -> str:
    """Decode speed as bars, the range of the rounds on each; below them decode speed against context."""
    lines, firsts = found.lines, [line for line in _firsts(found.lines) if line.growth]
    bars = len(lines) * BAR
    height = TOP + 28 + bars + GAP
    if firsts:
        height += 28 + PANEL + GAP + 18 * len(firsts)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        '<text x="20" y="24" font-size="16">Decode speed, tokens a second</text>',
        f'<text x="20" y="42" fill="#555">{escape(foot(found).splitlines()[1])}</text>',
        *_bars(lines, TOP + 28),
    ]
    if firsts:
        out += _growth(firsts, TOP + 28 + bars + GAP + 28)
    return "\n".join([*out, "</svg>", ""])


def _bars(lines: Sequence[Line], top: float) -> list[str]:
    several = len({line.prompt_tokens for line in lines}) > 1
    names = [_title(line) + (f", prompt {line.prompt_tokens:,}" if several else "") for line in lines]
    keys = [_key(line) for line in _firsts(lines)]
    left = 30 + LETTER * max(len(name) for name in names)
    xs = ticks(0, max(max(line.decode.rounds) for line in lines))
    width, bottom = max(200, WIDTH - left - RIGHT), top + len(lines) * BAR

    def at(x: float) -> float:
        return left + width * x / xs[-1]

    out = []
    for x in xs:
        out.append(f'<path d="M{at(x):.1f} {top}V{bottom}" stroke="#e5e7eb"/>')
        out.append(f'<text x="{at(x):.1f}" y="{bottom + 18}" text-anchor="middle" fill="#555">{x:,.0f}</text>')
    for i, (line, name) in enumerate(zip(lines, names, strict=True)):
        y, colour = top + i * BAR, COLOURS[keys.index(_key(line)) % len(COLOURS)]
        low, high = at(min(line.decode.rounds)), at(max(line.decode.rounds))
        length = at(line.decode.median) - left
        out += [
            f'<text x="{left - 10}" y="{y + 17}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{left}" y="{y + 4}" width="{length:.1f}" height="{BAR - 9}" fill="{colour}"/>',
            f'<path d="M{low:.1f} {y + 12.5}H{high:.1f}M{low:.1f} {y + 8.5}v8M{high:.1f} {y + 8.5}v8" stroke="#111"/>',
            f'<text x="{high + 8:.1f}" y="{y + 17}">{_number(line.decode.median)}</text>',
        ]
    return out


def _growth(lines: Sequence[Line], top: float) -> list[str]:
    left, right = 64, 24
    xs = ticks(0, max(max(line.growth) for line in lines))
    ys = ticks(0, max(figure.median for line in lines for figure in line.growth.values()))
    width, bottom = WIDTH - left - right, top + PANEL

    def at(x: float, y: float) -> tuple[float, float]:
        return left + width * x / xs[-1], bottom - PANEL * y / ys[-1]

    out = [f'<text x="20" y="{top - 14}" font-size="16">By tokens of context</text>']
    for y in ys:
        out.append(f'<path d="M{left} {at(0, y)[1]:.1f}h{width}" stroke="#e5e7eb"/>')
        out.append(f'<text x="{left - 8}" y="{at(0, y)[1] + 4:.1f}" text-anchor="end" fill="#555">{y:,.0f}</text>')
    for x in xs:
        out.append(f'<text x="{at(x, 0)[0]:.1f}" y="{bottom + 18}" text-anchor="middle" fill="#555">{x:,.0f}</text>')
    for i, line in enumerate(lines):
        colour = COLOURS[i % len(COLOURS)]
        points = [at(length, rate.median) for length, rate in sorted(line.growth.items())]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" fill="{colour}"/>' for x, y in points]
        y = bottom + 44 + 18 * i
        out.append(f'<path d="M{left} {y - 4}h22" stroke="{colour}" stroke-width="2.5"/>')
        out.append(f'<text x="{left + 30}" y="{y}">{escape(_title(line))}{_loss(line.growth)}</text>')
    return out


def _title(line: Line) -> str:
    return f"{line.model} on {line.runtime}, {line.threads} {'thread' if line.threads == 1 else 'threads'}"


def _loss(growth: dict[int, Figure]) -> str:
    """What the longest context keeps of the shortest one's speed."""
    short, long = min(growth), max(growth)
    if short == long:
        return ""
    return f": {100 * growth[long].median / growth[short].median:.0f} % of the speed left at {long:,} tokens"


def ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Round numbers that enclose [low, high], about `count` of them."""
    rough = (high - low) / (count - 1) or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.999)
    first = math.floor(low / step + 1e-9)
    last = max(first + 1, math.ceil(high / step - 1e-9))
    return [round(step * i, 12) for i in range(first, last + 1)]
