"""Charts as SVG. They are drawn by matplotlib (extra `plot`), which is imported only when something is drawn."""

import importlib.util
import io
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from edgekit.errors import MissingExtraError
from edgekit.utils import registry

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#2563eb", "#c2410c", "#4d7c0f", "#7c3aed", "#0f766e", "#be185d", "#a16207", "#475569")
"""For lines and bars, in this order."""
GREY, GRID = "#555555", "#e5e7eb"
POINTS_PER_INCH = 72

# The same input gives the same bytes: ids come from a fixed salt, and no date or version is written. Text stays text,
# so that it can be searched, and a `$` in a file name starts no formula.
STYLE: Any = {
    "svg.hashsalt": "edgekit",
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GRID,
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "grid.color": GRID,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": GREY,
    "ytick.labelcolor": GREY,
    "xtick.bottom": False,
    "ytick.left": False,
    "legend.frameon": False,
}


def installed() -> bool:
    """Whether matplotlib is installed; it is not imported."""
    return importlib.util.find_spec("matplotlib") is not None


def require() -> None:
    """Raises `MissingExtraError` unless matplotlib is installed. Call it before the work whose result is drawn."""
    if not installed():
        raise MissingExtraError(f"a plot needs matplotlib, which is not installed: {registry.install_command('plot')}")


def svg(width: float, height: float, draw: "Callable[[Figure], None]") -> str:
    """An SVG document, starting with its `<svg` tag.

    Args:
        width, height: in points.
        draw: adds axes and text to the figure.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    require()
    import matplotlib
    from matplotlib.figure import Figure

    out = io.StringIO()
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()  # not the user's matplotlibrc
        matplotlib.rcParams.update(STYLE)
        # The viewer's font writes the text; matplotlib needs its own only to measure it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(width / POINTS_PER_INCH, height / POINTS_PER_INCH), layout="constrained")
        draw(figure)
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def bars(
    axes: "Axes",
    lengths: Sequence[float],
    texts: Sequence[str],
    colours: Sequence[str],
    *,
    ranges: Sequence[tuple[float, float]] | None = None,
    margin: float = 0.15,
) -> None:
    """Horizontal bars from top to bottom, each with a text at its end.

    Args:
        margin: space for the longest bar's text, as a share of that bar.
        ranges: (lowest, highest) for each bar, drawn as an error bar.
    """
    errors = None
    if ranges is not None:
        errors = [
            [length - low for length, (low, _) in zip(lengths, ranges, strict=True)],
            [high - length for length, (_, high) in zip(lengths, ranges, strict=True)],
        ]
    drawn = axes.barh(range(len(lengths)), lengths, height=0.62, color=colours, xerr=errors, capsize=3)
    for i, bar in enumerate(drawn):
        bar.set_gid(f"bar_{axes.figure.axes.index(axes)}_{i}")  # the element's id in the SVG
    axes.bar_label(drawn, labels=texts, padding=5, color=GREY)
    axes.set_xlim(0, (1 + margin) * max(high for _, high in ranges or [(0.0, length) for length in lengths]) or 1.0)
    axes.set_ylim(len(lengths) - 0.5, -0.5)
    axes.spines[["left", "bottom"]].set_visible(False)
