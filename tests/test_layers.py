"""The order of the layers: no import runs upwards, and no files import each other in a circle.

Every import statement counts: at the top, inside a function, under `TYPE_CHECKING`. Runtimes,
converters and training are reached by name, through `edgekit.utils.registry`, which imports by string.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
AT_ROOT = ("runtimes", "converters", "training")
"""Folders of the repository that install as `edgekit.NAME`."""

LAYERS = (
    ("errors",),
    ("settings", "utils"),
    ("formats",),
    ("tokenizers",),
    ("checkpoint", "gguf_file", "tokenizer", "tokenmonster"),  # names of version 0.1
    ("inference",),
    ("runtimes",),
    ("conversion",),
    ("model",),
    ("doctor", "converters"),
    ("evaluation", "web"),
    ("cli",),
    ("training",),
)
"""From the bottom up. A file may import from its own folder and from lower layers."""

LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "edgekit" else ("edgekit", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_of(path): path for top in ("edgekit", *AT_ROOT) for path in sorted((ROOT / top).rglob("*.py"))}


def imported(path: Path) -> Iterator[str]:
    """The modules of edgekit that a file imports, by full name."""
    package = module_of(path) if path.name == "__init__.py" else module_of(path).rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in FILES)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
            base = ".".join(part for part in (base, node.module) if part)
            for alias in node.names:
                name = f"{base}.{alias.name}"
                if name in FILES or base in FILES:
                    yield name if name in FILES else base


def folder_of(module: str) -> str:
    """`formats` of edgekit.formats.gguf; the package's own `__init__` and `__main__` have none."""
    return module.split(".")[1] if module.count(".") else ""


@pytest.mark.parametrize("module", sorted(FILES))
def test_imports_come_from_lower_layers_only(module):
    folder = folder_of(module)
    if folder in ("", "__main__"):
        return
    for other in imported(FILES[module]):
        source = folder_of(other)
        if source not in ("", folder):
            assert LEVEL[source] < LEVEL[folder], f"{module} imports {other}: {source} is not below {folder}"


def test_folders_all_have_a_layer_and_a_docstring():
    folders = {folder_of(module) for module in FILES} - {"", "__main__"}
    assert folders == set(LEVEL)
    for path in FILES.values():
        if path.name == "__init__.py":
            assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path


def test_imports_have_no_circle():
    edges = {module: set(imported(path)) - {module} for module, path in FILES.items()}
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " -> ".join([*above[above.index(module) :], module])
        if module not in done:
            for other in sorted(edges[module]):
                visit(other, (*above, module))
            done.add(module)

    for module in edges:
        visit(module, ())


def test_imported_finds_imports_everywhere_in_a_file(tmp_path):
    """At top level, in a function, under TYPE_CHECKING, relative."""
    path = ROOT / "edgekit" / "utils" / "files.py"
    lines = [
        "from edgekit import model",
        "if TYPE_CHECKING:\n    import edgekit.web.app",
        "def f():\n    from edgekit.cli.main import main",
        "from ..formats.gguf import GGUFFile",
    ]

    class Pretended(type(path)):
        def read_text(self, *arguments, **more):
            return "\n".join(lines)

    assert set(imported(Pretended(path))) == {
        "edgekit.model",
        "edgekit.web.app",
        "edgekit.cli.main",
        "edgekit.formats.gguf",
    }
