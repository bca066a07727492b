"""Charts: SVG with readable text, the same bytes for the same input, and one line where matplotlib is missing."""

import subprocess
import sys
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from edgekit.cli import bench as bench_command
from edgekit.cli import verify as verify_command
from edgekit.errors import MissingExtraError
from edgekit.utils import plot

INSTALL = r"a plot needs matplotlib, which is not installed: pip install 'edgekit-lm\[plot\]'$"


def chart(title: str) -> str:
    def draw(figure):
        figure.suptitle(title)
        axes = figure.subplots()
        plot.bars(axes, [3.0, 1.0, 0.0], ["three", "one", "-"], ["#000000"] * 3, ranges=[(2, 4), (1, 1), (0, 0)])
        axes.set_yticks(range(3), ["a.gguf", "b $x_1$.gguf", "_c.onnx"])

    return plot.svg(300, 200, draw)


@pytest.fixture
def without_matplotlib(monkeypatch):
    monkeypatch.setattr(plot, "installed", lambda: False)


def test_svg_same_input_gives_same_bytes_and_readable_text():
    pytest.importorskip("matplotlib")
    drawn = chart("a<b & 训练")
    assert drawn == chart("a<b & 训练") and drawn.startswith("<svg")
    root = ElementTree.fromstring(drawn)
    texts = [element.text for element in root.iter() if element.tag.endswith("}text")]
    assert {"a<b & 训练", "a.gguf", "b $x_1$.gguf", "_c.onnx", "three", "one", "-"} <= set(texts)
    assert sum(element.get("id", "").startswith("bar_") for element in root.iter()) == 3
    assert "date" not in drawn.lower()


def test_svg_user_style_is_ignored_and_restored():
    matplotlib = pytest.importorskip("matplotlib")
    drawn = chart("title")
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red"}):
        assert chart("title") == drawn
        assert matplotlib.rcParams["font.size"] == 30


def test_svg_without_matplotlib_names_the_extra(without_matplotlib):
    with pytest.raises(MissingExtraError, match=INSTALL):
        chart("title")


@pytest.mark.parametrize("command, arguments", [
    (bench_command.COMMAND, ["--plot", "speed.svg"]),
    (verify_command.COMMAND, ["none.gguf", "--plot", "formats.svg"]),
])  # fmt: skip
def test_command_plot_without_matplotlib_fails_before_any_work(without_matplotlib, command, arguments):
    result = CliRunner().invoke(command, arguments)
    with pytest.raises(MissingExtraError, match=INSTALL):
        raise result.exception


def test_report_modules_do_not_import_matplotlib():
    code = (
        "import sys, edgekit.evaluation.bench_report, edgekit.conversion.verification.report\n"
        "assert 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
