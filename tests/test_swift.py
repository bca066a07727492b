"""The Swift package: what it lists and imports, checked everywhere; built and run where Swift is installed."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from edgekit.conversion.convert import convert
from edgekit.formats.hub import BUNDLED
from edgekit.settings import Converting

ROOT = Path(__file__).resolve().parents[1]
ENGINE, IOS = ROOT / "engine", ROOT / "examples" / "ios"
GOLDEN = ROOT / "examples" / "golden" / "golden.json"


def run(command: list[object], **options) -> str:
    done = subprocess.run(
        list(map(str, command)), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture
def clang() -> str:
    if (path := shutil.which("clang")) is None:
        pytest.skip("needs clang: apt install clang")
    return path


def test_package_lists_every_source_of_the_engine():
    listed = re.findall(r'"(\w+\.c)"', (ROOT / "Package.swift").read_text())
    assert listed == sorted(path.name for path in ENGINE.glob("*.c")), "name the new file in Package.swift"


def test_package_has_no_flags_that_dependencies_cannot_have():
    manifest = (ROOT / "Package.swift").read_text()
    assert "unsafeFlags" not in manifest and "cLanguageStandard: .c99" in manifest


def test_names_of_the_engine_in_swift_are_in_its_header():
    header = (ENGINE / "edgekit.h").read_text()
    declared = set(re.findall(r"\b(?:ek|EK)_\w+", re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL)))
    used = {name for path in IOS.rglob("*.swift") for name in re.findall(r"\b(?:ek|EK)_\w+", path.read_text())}
    assert len(used) > 40 and used <= declared


def test_module_map_gives_the_header(clang):
    source = (
        "@import CEdgekit;\nint size = sizeof(ek_generating) + EK_INTERFACE; int (*f)(ek_model *, size_t) = ek_rewind;"
    )
    module = ENGINE / "swift" / "module.modulemap"
    run([clang, "-fsyntax-only", "-fmodules", f"-fmodule-map-file={module}", "-x", "objective-c", "-"], input=source)


def test_engine_compiles_for_ios(clang, tmp_path):
    """Without Apple's headers, so without the one file that includes them. Warnings of a newer clang are errors."""
    targets = run([clang, "--print-targets"])
    if "aarch64" not in targets:
        pytest.skip("needs a clang that compiles for ARM")
    sources = [path for path in ENGINE.glob("*.c") if path.name != "threads_posix.c"]
    flags = ["--target=arm64-apple-ios15", "-std=c99", "-ffreestanding", "-Wall", "-Wextra", "-Werror", "-fsyntax-only"]
    run([clang, *flags, *sources])


@pytest.mark.slow
def test_package_builds_and_gives_pythons_golden_results(shared, tmp_path):
    if shutil.which("swift") is None:
        pytest.skip("needs Swift: apt install swiftlang libstdc++-14-dev (Debian 13), or https://swift.org")
    pytest.importorskip("gguf")
    story = convert(BUNDLED, "gguf", tmp_path / "story.gguf", settings=Converting("q4_0"), verify=False).path
    models = [f"story-7m-q4_0={story}", f"stories260K={shared / 'models' / 'stories260K' / 'stories260K.f32.gguf'}"]
    package = ["--package-path", ROOT, "--scratch-path", tmp_path / "build", "-c", "release"]
    printed = run(["swift", "run", *package, "GoldenCheck", GOLDEN, *models], cwd=tmp_path)
    assert "warning:" not in printed and re.search(r"^\d{3} comparisons, all right$", printed, re.MULTILINE), printed


@pytest.mark.slow
def test_example_app_is_swift(tmp_path):
    """Only its syntax: SwiftUI is Apple's."""
    if (compiler := shutil.which("swiftc")) is None:
        pytest.skip("needs Swift: apt install swiftlang libstdc++-14-dev (Debian 13), or https://swift.org")
    run([compiler, "-frontend", "-parse", IOS / "App" / "StoryApp.swift"], cwd=tmp_path)
