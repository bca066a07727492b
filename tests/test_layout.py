"""Rules of the package: what start-up may import, what plugins must offer, one version, one tree of errors."""

import ast
import importlib
import re
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
    "prometheus_client", "jinja2",
}  # fmt: skip


DATA_PACKAGES = {
    "edgekit.bundled", "edgekit.training.recipes", "edgekit.web.javascript", "edgekit.web.pages",
}  # fmt: skip
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
        ["chat", "--help"],
        ["export-web", "--help"],
        ["--version"],
    ],
)
def test_help_of_each_command_imports_nothing_heavy(arguments):
    found = loaded_by(
        "import contextlib, io\nfrom edgekit.cli.main import main\n"
        f"with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit): main({arguments!r})"
    )
    assert not found & HEAVY


@pytest.mark.parametrize("name", cli.names())
def test_command_summary_read_from_source_equals_its_help(name):
    command = cli.load(name)
    assert command.name == name and command.get_short_help_str(200) == cli.summary(name)


def test_import_edgekit_imports_nothing_heavy():
    assert not loaded_by("import edgekit") & HEAVY


def test_public_names_are_exactly_these():
    assert sorted(edgekit.__all__) == ["EdgekitError", "Generation", "Model", "Vocabulary", "__version__", "load"]
    for name in edgekit.__all__:
        assert getattr(edgekit, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        edgekit.nonsense  # noqa: B018


@pytest.mark.parametrize("old, name, new", [
    ("tokenmonster", "Vocabulary", "edgekit.tokenizers.tokenmonster.vocabulary"),
    ("tokenizer", "from_files", "edgekit.tokenizers.load"),
    ("checkpoint", "side_files", "edgekit.formats.checkpoint"),
    ("gguf_file", "TYPES", "edgekit.formats.gguf"),
])  # fmt: skip
def test_import_module_by_its_name_of_version_01_warns_and_works(monkeypatch, old, name, new):
    monkeypatch.delitem(sys.modules, f"edgekit.{old}", raising=False)
    with pytest.warns(DeprecationWarning, match=rf"edgekit\.{old} is now edgekit\..*version 0\.3"):
        module = importlib.import_module(f"edgekit.{old}")
    assert getattr(module, name) is getattr(importlib.import_module(new), name)
    assert set(module.__all__) <= set(dir(module))


def test_version_is_defined_only_in_init():
    """The distribution's version is `edgekit.__version__`, and no other line of code or configuration names one."""
    with open(ROOT / "pyproject.toml", "rb") as file:
        config = tomllib.load(file)
    assert config["project"]["dynamic"] == ["version"] and "version" not in config["project"]
    assert config["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "edgekit.__version__"}
    assert config["project"]["name"] == registry.DISTRIBUTION
    assert re.fullmatch(r"\d+\.\d+\.\d+", edgekit.__version__)
    code = {path for top in ("edgekit", *registry.PLUGIN_FOLDERS) for path in (ROOT / top).rglob("*.py")}
    code |= {ROOT / "pyproject.toml", ROOT / "Makefile", *(ROOT / "edgekit/web/pages").rglob("*.js")}
    assigned = re.compile(r"""^\s*(?:export )?(?:const )?(?:__)?version(?:__)?["']?\s*[:=]\s*["']v?\d""", re.I | re.M)
    assert [path for path in sorted(code) if assigned.search(path.read_text("utf-8"))] == [ROOT / "edgekit/__init__.py"]
    quoted = re.compile(rf"""["']v?{re.escape(edgekit.__version__)}["']""")
    assert [path for path in sorted(code) if quoted.search(path.read_text("utf-8"))] == [ROOT / "edgekit/__init__.py"]


@pytest.mark.parametrize("folder", registry.PLUGIN_FOLDERS)
def test_plugin_of_each_folder_has_an_extra(folder):
    with open(ROOT / "pyproject.toml", "rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    for name in registry.names(folder):
        if (folder, name) not in (
            ("converters", "hf"),
            ("converters", "llama2c"),
            ("runtimes", "native"),
        ):  # need only edgekit's own packages
            assert registry.extra(folder, name) in extras


def test_plugins_have_the_members_of_their_contract():
    members = {"runtimes": ["SUFFIX", "load"], "converters": ["SUFFIX", "QUANTS", "DEFAULT", "convert"]}
    for folder, expected in members.items():
        assert registry.names(folder)
        for name in registry.names(folder):
            try:
                module = registry.load(folder, name)
            except MissingExtraError:
                continue
            assert all(hasattr(module, attribute) for attribute in expected), name
            assert registry.suffix(folder, name) == module.SUFFIX
            if folder == "converters":
                assert module.DEFAULT in module.QUANTS


def test_load_unknown_plugin_lists_those_there_are():
    with pytest.raises(UnknownPluginError, match="choose from llamacpp, native, onnx, torch"):
        registry.load("runtimes", "nonsense")


@pytest.mark.parametrize("folder, name, package, extra", [
    ("runtimes", "onnx", "onnxruntime", "onnx"),
    ("runtimes", "llama.cpp", "llama_cpp", "llamacpp"),
    ("converters", "gguf", "gguf", "gguf"),
    ("converters", "onnx", "onnx", "onnx"),
    ("converters", "_optimum", "optimum", "export"),
    ("training", "vocab_train", "numba", "train"),
])  # fmt: skip
def test_load_missing_package_ends_in_the_command_that_installs_it(monkeypatch, folder, name, package, extra):
    module = f"edgekit.{folder}.{registry.ALIASES.get(name, name)}"
    ours = f"edgekit.{folder}._"  # private files of the folder import the package too
    for loaded in [m for m in sys.modules if m == package or m.startswith((package + ".", ours))]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.delitem(sys.modules, module, raising=False)

    class Hidden:
        def find_spec(self, fullname, path=None, target=None):
            if fullname.split(".")[0] == package:
                raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)

    monkeypatch.setattr(sys, "meta_path", [Hidden(), *sys.meta_path])
    with pytest.raises(MissingExtraError, match=rf"needs {package}.*pip install 'edgekit-lm\[{extra}\]'$"):
        registry.load(folder, name)


def test_error_classes_are_all_in_the_documented_tree():
    tree = errors.__doc__ or ""
    for name in errors.__all__:
        error = getattr(errors, name)
        assert issubclass(error, errors.EdgekitError) and error.__name__ in tree


def test_every_package_is_installed():
    with open(ROOT / "pyproject.toml", "rb") as file:
        packages = tomllib.load(file)["tool"]["setuptools"]["packages"]
    code = {path.parent.relative_to(ROOT) for path in (ROOT / "edgekit").rglob("__init__.py")}
    expected = {".".join(path.parts) for path in code} | {f"edgekit.{folder}" for folder in registry.PLUGIN_FOLDERS}
    assert set(packages) == expected | DATA_PACKAGES


PROBED = {
    ("edgekit/doctor/config.py", "__len__"),  # any JSON value
    ("edgekit/evaluation/bench_worker.py", "__version__"),  # packages of others
    ("edgekit/tokenizers/huggingface.py", "unk_token"),  # models of the package tokenizers
}
"""Objects from outside edgekit whose members no type checker knows: (file, name)."""


def test_contracts_are_protocols_and_not_probed_by_name():
    """No `hasattr(x, "name")` on a runtime, tokenizer or converter, nor getattr: mypy checks their members."""
    found = set()
    for path in sorted(path for top in ("edgekit", "runtimes", "converters") for path in (ROOT / top).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and len(node.args) > 1:
                name = node.args[1]
                if node.func.id in ("getattr", "hasattr", "setattr", "delattr") and isinstance(name, ast.Constant):
                    found.add((path.relative_to(ROOT).as_posix(), name.value))
    assert found == PROBED


def test_private_plugin_files_are_loaded_only_inside_their_folder():
    for path in sorted((ROOT / "edgekit").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("registry.load", "import_module")):
                names = [each.value for each in node.args if isinstance(each, ast.Constant)]
                assert not [name for name in names if str(name).rpartition(".")[2].startswith("_")], path
