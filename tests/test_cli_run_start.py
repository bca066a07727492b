"""What `edgekit run` costs before its first token: the packages that it imports, and its memory."""

import subprocess
import sys

import pytest
from test_layout import HEAVY

import edgekit
from edgekit.conversion.convert import convert
from edgekit.formats.hub import BUNDLED
from edgekit.settings import Converting
from edgekit.utils import engine

SLOW_TO_IMPORT = HEAVY | {"subprocess", "random", "lzma", "email", "http", "ssl", "asyncio", "logging", "unittest"}
SCRIPT = """
import sys
from edgekit.cli.main import main
main(["run", "Once upon a time", "--max-new-tokens", "3", "--seed", "1", *sys.argv[1:]], standalone_mode=False)
print()
print(*{name.split(".")[0] for name in sys.modules})
try:
    status = open("/proc/self/status").read()
except OSError:
    status = "VmHWM: 0 kB"
print(status.partition("VmHWM:")[2].split()[0])
"""


@pytest.fixture(scope="module", autouse=True)
def installed():
    if engine.library() is None:
        pytest.skip("needs the C engine: install edgekit where there is a C compiler")


@pytest.fixture(scope="module")
def gguf(tmp_path_factory):
    pytest.importorskip("gguf")
    path = tmp_path_factory.mktemp("run") / "q4_0.gguf"
    return convert(BUNDLED, "gguf", path, settings=Converting(quant="q4_0"), verify=False).path


def run(*arguments) -> tuple[str, set[str], int]:
    """The text, the modules' top-level names, and the peak memory in KiB (0: unknown)."""
    done = subprocess.run([sys.executable, "-c", SCRIPT, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *text, modules, peak = done.stdout.splitlines()
    return "\n".join(text).strip(), set(modules.split()), int(peak)


def test_run_of_the_bundled_model_imports_no_package_but_click():
    text, modules, _ = run()
    assert text == "Once upon a time" + edgekit.load().generate("Once upon a time", max_new_tokens=3, seed=1).text
    assert not modules & (SLOW_TO_IMPORT | {"hashlib"})


def test_run_of_a_gguf_imports_no_package_but_click(gguf):
    text, modules, _ = run("-m", gguf)
    assert text == "Once upon a time" + edgekit.load(gguf).generate("Once upon a time", max_new_tokens=3, seed=1).text
    assert not modules & SLOW_TO_IMPORT


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_run_of_the_bundled_model_needs_at_most_60_mb():
    assert 10_000 < run()[2] < 60_000  # 49,000 measured
