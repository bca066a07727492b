"""The house's rules, held by tests: who may import whom, what start-up may cost, what every room must offer."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import edgekit
from edgekit import errors
from edgekit.cli import main as cli
from edgekit.errors import MissingExtraError, UnknownPluginError
from edgekit.utils import registry

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {
    "numpy", "torch", "transformers", "onnx", "onnxruntime", "optimum", "gguf", "llama_cpp", "numba", "tokenizers",
    "safetensors", "huggingface_hub", "platformdirs", "tokenmonster", "starlette", "uvicorn", "matplotlib",
    "prometheus_client",
}  # fmt: skip


DATA_PACKAGES = {"edgekit.bundled", "edgekit.training.recipes", "edgekit.web.pages", "edgekit.web.pages.core"}
"""Folders without code. They are listed because setuptools warns about a folder of data that is not a package."""


def loaded_by(code: str) -> set[str]:
    """Top-level modules in a fresh interpreter after running some code."""
    script = f"{code}\nimport sys\nprint('\\n'.join({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["run", "--help"],
        ["convert", "--help"],
        ["train", "--help"],
        ["eval", "ppl", "--help"],
        ["vocab", "--help"],
        ["serve", "--help"],
        ["export-web", "--help"],
        ["--version"],
    ],
)
def test_help_imports_nothing_heavy(arguments):
    found = loaded_by(
        "import contextlib, io\nfrom edgekit.cli.main import main\n"
        f"with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit): main({arguments!r})"
    )
    assert not found & HEAVY


@pytest.mark.parametrize("name", cli.names())
def test_command_in_help_list_has_its_own_summary(name):
    command = cli.load(name)
    assert command.name == name and command.get_short_help_str(200) == cli.summary(name)


def test_import_edgekit_imports_nothing_heavy():
    assert not loaded_by("import edgekit") & HEAVY


def test_public_names():
    assert sorted(edgekit.__all__) == ["EdgekitError", "Generation", "Model", "Vocabulary", "__version__", "load"]
    for name in edgekit.__all__:
        assert getattr(edgekit, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        edgekit.nonsense  # noqa: B018


def test_old_tokenmonster_import_warns_and_works(monkeypatch):
    monkeypatch.delitem(sys.modules, "edgekit.tokenmonster", raising=False)
    with pytest.warns(DeprecationWarning, match=r"edgekit\.Vocabulary"):
        from edgekit.tokenmonster import Vocabulary
    assert Vocabulary is edgekit.Vocabulary


def test_version_is_said_once():
    with open(ROOT / "pyproject.toml", "rb") as file:
        project = tomllib.load(file)["project"]
    assert "version" in project["dynamic"], "pyproject.toml takes it from edgekit.__version__"


@pytest.mark.parametrize("room", registry.PLUGIN_FOLDERS)
def test_every_file_of_a_room_has_its_extra(room):
    with open(ROOT / "pyproject.toml", "rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    for name in registry.names(room):
        if (room, name) != ("converters", "hf"):  # writes with what edgekit needs anyway
            assert registry.extra(room, name) in extras


def test_runtimes_and_converters_keep_their_contracts():
    for room, wanted in (("runtimes", ["SUFFIX", "load"]), ("converters", ["SUFFIX", "QUANTS", "DEFAULT", "convert"])):
        assert registry.names(room)
        for name in registry.names(room):
            try:
                module = registry.load(room, name)
            except MissingExtraError:
                continue
            assert all(hasattr(module, attribute) for attribute in wanted), name
            assert registry.suffix(room, name) == module.SUFFIX
            if room == "converters":
                assert module.DEFAULT in module.QUANTS


def test_unknown_rooms_are_listed():
    with pytest.raises(UnknownPluginError, match="choose from llamacpp, onnx, torch"):
        registry.load("runtimes", "nonsense")


@pytest.mark.parametrize("room, name, package, extra", [
    ("runtimes", "onnx", "onnxruntime", "onnx"),
    ("runtimes", "llama.cpp", "llama_cpp", "llamacpp"),
    ("converters", "gguf", "gguf", "gguf"),
    ("converters", "onnx", "onnx", "onnx"),
    ("converters", "_onnx_rows", "onnx", "onnx"),
])  # fmt: skip
def test_a_missing_package_ends_in_the_command_that_cures_it(monkeypatch, room, name, package, extra):
    module = f"edgekit.{room}.{registry.ALIASES.get(name, name)}"
    ours = f"edgekit.{room}._"  # a room's private helpers import the package too
    for loaded in [m for m in sys.modules if m == package or m.startswith((package + ".", ours))]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.delitem(sys.modules, module, raising=False)

    class Hidden:
        def find_spec(self, wanted, path=None, target=None):
            if wanted.split(".")[0] == package:
                raise ModuleNotFoundError(f"No module named {wanted!r}", name=wanted)

    monkeypatch.setattr(sys, "meta_path", [Hidden(), *sys.meta_path])
    with pytest.raises(MissingExtraError, match=rf"needs {package}.*pip install 'edgekit-lm\[{extra}\]'$"):
        registry.load(room, name)


def test_every_error_is_in_the_tree():
    drawn = errors.__doc__ or ""
    for name in errors.__all__:
        error = getattr(errors, name)
        assert issubclass(error, errors.EdgekitError) and error.__name__ in drawn


def test_every_package_is_installed():
    with open(ROOT / "pyproject.toml", "rb") as file:
        packages = tomllib.load(file)["tool"]["setuptools"]["packages"]
    code = {path.parent.relative_to(ROOT) for path in (ROOT / "edgekit").rglob("__init__.py")}
    expected = {".".join(path.parts) for path in code} | {f"edgekit.{folder}" for folder in registry.PLUGIN_FOLDERS}
    assert set(packages) == expected | DATA_PACKAGES
