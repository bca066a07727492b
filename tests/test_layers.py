"""The order of the layers: no import runs upwards, and no files import each other in a circle.

Every import statement counts, wherever it stands: at the top, inside a function, under `TYPE_CHECKING`. Runtimes,
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
    ("tokenmonster",),  # the old name of a part of it
    ("inference",),
    ("runtimes",),
    ("conversion",),
    ("model",),
    ("doctor", "converters"),
    ("evaluation", "web"),
    ("cli",),
    ("training",),
)
"""From the ground up. A file imports its own folder and what stands in a lower layer."""

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
def test_import_from_lower_layer_only(module):
    own = folder_of(module)
    if own in ("", "__main__"):
        return
    for other in imported(FILES[module]):
        folder = folder_of(other)
        if folder not in ("", own):
            assert LEVEL[folder] < LEVEL[own], f"{module} imports {other}: {folder} is not below {own}"


def test_every_folder_has_a_layer_and_says_what_it_is():
    folders = {folder_of(module) for module in FILES} - {"", "__main__"}
    assert folders == set(LEVEL)
    for path in FILES.values():
        if path.name == "__init__.py":
            assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path


def test_no_files_import_each_other_in_a_circle():
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


def test_a_bad_import_is_seen_wherever_it_stands(tmp_path):
    """The reader itself: top level, in a function, under TYPE_CHECKING, relative."""
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

    found = set(imported(Pretended(path)))
    assert found == {"edgekit.model", "edgekit.web.app", "edgekit.cli.main", "edgekit.formats.gguf"}
