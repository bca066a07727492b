"""The distribution: built, installed into a clean environment, and used there from another folder."""

import email
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import edgekit
from edgekit.utils import registry

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow

NO_NETWORK = ("No matching distribution found", "Could not find a version", "ConnectionError", "Temporary failure")
"""What pip prints if it cannot reach an index."""


def run(*command: str | Path, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600, env=environment | more)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy of the repository's files, as a checkout has them: a build leaves folders in its source."""
    copy = tmp_path_factory.mktemp("source") / "edgekit"
    files = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    if files.returncode:
        pytest.skip("needs a git checkout, to know which files belong to it")
    for name in filter(None, files.stdout.split("\0")):
        path = ROOT / name
        if path.is_symlink():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).symlink_to(os.readlink(path))
        elif path.is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes(path.read_bytes())
    return copy


@pytest.fixture(scope="module")
def built(source, tmp_path_factory) -> tuple[Path, str]:
    """The folder with sdist and wheel, and what the build printed. The wheel is built from the sdist."""
    pytest.importorskip("build", reason="needs build: pip install --group dev")
    out = tmp_path_factory.mktemp("dist")
    done = run(sys.executable, "-m", "build", "--outdir", out, source, cwd=out)
    log = done.stdout + done.stderr
    if done.returncode and any(text in log for text in NO_NETWORK):
        pytest.skip("no network: setuptools cannot be fetched for an isolated build")
    assert done.returncode == 0, log
    return out, log


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory) -> Path:
    """A clean environment with the wheel and the extra `onnx`; its folder of programs."""
    wheel = next(built[0].glob("*.whl"))
    folder = tmp_path_factory.mktemp("clean") / "venv"
    venv.create(folder, with_pip=True)
    programs = folder / "bin"
    done = run(
        programs / "python", "-m", "pip", "install", "--disable-pip-version-check", "--quiet",
        "-c", ROOT / "constraints.txt", f"{wheel}[onnx]", cwd=folder,
    )  # fmt: skip
    if done.returncode and any(text in done.stderr for text in NO_NETWORK):
        pytest.skip("no network: the packages of the extra onnx cannot be fetched")
    assert done.returncode == 0, done.stderr
    return programs


def test_build_prints_no_warning_about_packages(built):
    _, log = built
    assert "absent from" not in log and "SetuptoolsDeprecationWarning" not in log and "_Warning" not in log


def test_names_and_version_of_the_files(built):
    name = f"{registry.DISTRIBUTION.replace('-', '_')}-{edgekit.__version__}"
    source, wheel = sorted((path.name for path in built[0].iterdir()), key=lambda name: name.endswith(".whl"))
    assert source == f"{name}.tar.gz"
    assert wheel.startswith(f"{name}-py3-none-") and wheel.endswith(".whl")


@pytest.mark.parametrize("compiler", [None, "/no/compiler"], ids=["compiler", "no compiler"])
def test_wheel_is_tagged_after_whether_the_engine_was_built(source, compiler, tmp_path):
    if compiler is None and not any(map(shutil.which, ("cc", "gcc", "clang"))):
        pytest.skip("needs a C compiler")
    copy = tmp_path / "source"
    shutil.copytree(source, copy, symlinks=True)
    more = {} if compiler is None else {"CC": compiler}
    done = run(sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, copy, cwd=tmp_path, **more)
    if done.returncode and any(text in done.stdout + done.stderr for text in NO_NETWORK):
        pytest.skip("no network: setuptools cannot be fetched for an isolated build")
    assert done.returncode == 0, done.stdout + done.stderr
    wheel = next(tmp_path.glob("*.whl"))
    libraries = [name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("edgekit/_engine.")]
    if compiler is None:
        assert len(libraries) == 1 and not wheel.name.endswith("-any.whl")
    else:
        assert not libraries and wheel.name.endswith("-py3-none-any.whl")


def test_wheel_has_code_and_data_and_nothing_else(built):
    names = zipfile.ZipFile(next(built[0].glob("*.whl"))).namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"edgekit"}
    for name in (
        "py.typed", "runtimes/onnx.py", "converters/gguf.py", "training/loop.py", "training/recipes/smoke.toml",
        "bundled/story-7m/model.safetensors", "web/pages/index.html", "web/pages/app.js",
    ):  # fmt: skip
        assert f"edgekit/{name}" in names
    code = {path.relative_to(ROOT).as_posix() for path in (ROOT / "edgekit").rglob("*.py")}
    assert code <= set(names)


def test_wheel_metadata_has_what_an_index_shows(built):
    wheel = zipfile.ZipFile(next(built[0].glob("*.whl")))
    text = wheel.read(next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))).decode()
    metadata = email.message_from_string(text)
    assert metadata["Name"] == registry.DISTRIBUTION and metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Keywords"] and metadata.get_all("Project-URL") and metadata["Requires-Python"] == ">=3.11"
    classifiers = set(metadata.get_all("Classifier"))
    assert {
        "Typing :: Typed",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13)),
    } <= classifiers
    assert metadata["Author"] is None and metadata["Author-email"] is None
    assert "tiny Llama" in text.partition("\n\n")[2]  # the README


def test_sdist_has_what_its_tests_and_documentation_need(built):
    with tarfile.open(next(built[0].glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for folder in (
        "edgekit",
        "engine",
        "runtimes",
        "converters",
        "training",
        "tests",
        "docs",
        "examples",
        "benchmarks",
    ):
        tracked = run("git", "ls-files", "-z", folder, cwd=ROOT).stdout.split("\0")
        assert {name for name in tracked if name and (ROOT / name).exists()} <= names, folder
    assert {
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "LICENSE",
        "Makefile",
        "constraints.txt",
        "mkdocs.yml",
        "setup.py",
    } <= names
    assert not [name for name in names if name.endswith((".pyc", ".gguf", ".onnx")) or "__pycache__" in name]


def test_installed_wheel_runs_and_converts_from_another_folder(installed, tmp_path):
    def program(*arguments: str) -> str:
        done = run(installed / "edgekit", *arguments, cwd=tmp_path, EDGEKIT_CACHE=str(tmp_path / "cache"))
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert program("--version").split() == ["edgekit,", "version", edgekit.__version__]
    text = program("run", "Once upon a time", "--max-new-tokens", "5", "--seed", "7")
    assert text.startswith("Once upon a time, there was")
    assert program("convert", "--to", "onnx", "--quant", "int8").strip() == "story-7m-int8.onnx"
    assert (
        program("run", "-m", "story-7m-int8.onnx", "Once upon a time", "--max-new-tokens", "5", "--seed", "7") == text
    )


def test_installed_wheel_names_the_extra_that_is_missing(installed, tmp_path):
    done = run(installed / "edgekit", "run", "--runtime", "torch", "Once", cwd=tmp_path)
    assert done.returncode == 1 and done.stderr.strip().endswith(f"pip install '{registry.DISTRIBUTION}[torch]'")
    assert done.stderr.count("\n") == 1


def test_installed_wheel_imports_from_its_own_folder(installed, tmp_path):
    done = run(installed / "python", "-c", "import edgekit, edgekit.runtimes; print(edgekit.__file__)", cwd=tmp_path)
    assert Path(done.stdout.strip()).is_relative_to(installed.parent), done.stdout + done.stderr
