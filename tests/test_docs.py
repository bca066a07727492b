"""The documentation: what can be stale is compared with the code, and the site is built."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

import edgekit
from edgekit.cli import main as cli
from edgekit.utils import registry

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    path
    for folder in ("", "docs", "benchmarks", "examples", "edgekit/bundled")
    for path in (ROOT / folder).glob("*.md" if not folder else "**/*.md")
)
TEXT = {
    ".py",
    ".md",
    ".js",
    ".mjs",
    ".kt",
    ".swift",
    ".c",
    ".sh",
    ".ipynb",
    ".toml",
    ".txt",
    ".yml",
    ".html",
    ".service",
}
SKIPPED = {"build", "dist"}


def texts() -> list[tuple[Path, str]]:
    """Every text file of the repository, its path relative to the root."""
    found = []
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [f for f in folders if not f.startswith(".venv") and f not in SKIPPED and f != ".git"]
        folders[:] = [f for f in folders if not f.endswith("egg-info") and f != ".typings"]
        for name in names:
            path = Path(folder) / name
            if path.suffix in TEXT or name == "Makefile":
                found.append((path.relative_to(ROOT), path.read_text(encoding="utf-8")))
    return found


def test_cli_page_is_current():
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "generate_cli.py", "--check"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert all(f"## edgekit {name}\n" in page for name in cli.names())


def test_readme_length_is_at_most_200_lines():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_page_links_exist(page):
    """Relative links, as they read in the repository; anchors are checked by `mkdocs build --strict`."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    for target in targets:
        path = target.partition("#")[0]
        if path and ":" not in path:
            assert (page.parent / path).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_page_names_test_files_that_exist(page):
    for name in re.findall(r"\btests/\w+\.py\b", page.read_text(encoding="utf-8")):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_extras_table_matches_pyproject(page):
    with open(ROOT / "pyproject.toml", "rb") as file:
        extras = set(tomllib.load(file)["project"]["optional-dependencies"])
    text = (ROOT / page).read_text(encoding="utf-8")
    table = text[text.index("| extra |") :].partition("\n\n")[0]
    named = set(re.findall(rf"^\| `(?:{registry.DISTRIBUTION}\[)?(\w+)\]?`", table, re.MULTILINE))
    assert named <= extras and extras - named <= {"all"}


def test_pip_commands_name_the_distribution():
    """`edgekit` on PyPI belongs to others. A path that ends in edgekit is a checkout, not a name."""
    wrong = re.compile(r"""(?<![\w/-])edgekit\[|pip install (?:[^`#]*\s)?['"]?edgekit(?=['"`\s\\]|$)""")
    places = []
    for path, text in texts():
        if path == Path(__file__).relative_to(ROOT):
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if wrong.search(line):
                places.append(f"{path}:{number}: {line.strip()}")
    assert not places


def test_missing_package_command_names_the_distribution():
    assert registry.install_command("onnx") == "pip install 'edgekit-lm[onnx]'"
    with open(ROOT / "pyproject.toml", "rb") as file:
        assert tomllib.load(file)["project"]["name"] == registry.DISTRIBUTION


def test_changelog_has_the_current_version():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{edgekit.__version__}]" in changelog


def test_workflows_and_issue_templates_parse():
    yaml = pytest.importorskip("yaml", reason="needs pyyaml")
    workflows = {path.name: yaml.safe_load(path.read_text()) for path in (ROOT / ".github/workflows").glob("*.yml")}
    assert set(workflows) == {"audit.yml", "ci.yml", "publish.yml"}
    for workflow in workflows.values():
        assert all("runs-on" in job and job["steps"] for job in workflow["jobs"].values())
    assert workflows["ci.yml"]["jobs"]["test"]["strategy"]["matrix"]["python-version"] == ["3.11", "3.13"]
    assert workflows["publish.yml"]["jobs"]["publish"]["permissions"] == {"id-token": "write"}
    templates = [yaml.safe_load(path.read_text()) for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")]
    assert len(templates) == 2 and all(template["name"] and template["body"] for template in templates)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_page_commands_and_flags_exist(page):
    """Every `edgekit ...` in a block of code or in backticks, but for text that only looks like one."""
    text = page.read_text(encoding="utf-8")
    lines = [line for block in re.findall(r"```\w*\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    lines += re.findall(r"`(edgekit [^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    for line in lines:
        call = re.match(r"\s*(?:\$ |\S+=\S+ )?(?:\S*/)?edgekit (.*)", line)
        if call is None or page.name == "cli.md":
            continue
        command: click.Command = cli.main
        for word in re.split(r"  +#|[<|>]", call[1])[0].split():
            if isinstance(command, click.Group) and word.replace("-", "").isalpha() and not word.startswith("-"):
                child = command.get_command(click.Context(command), word)
                assert child is not None, line
                command = child
            elif word.startswith("--"):
                flags = {flag for option in command.params for flag in (*option.opts, *option.secondary_opts)}
                assert word.partition("=")[0].rstrip(",;:)") in flags | {"--help", "--version"}, line


@pytest.mark.slow
def test_readme_commands_and_code_do_what_it_shows(tmp_path):
    """Each `console` block is run. `...` stands for omitted lines; measured figures may differ."""
    for package in ("onnxruntime", "onnx", "llama_cpp", "gguf"):
        pytest.importorskip(package, reason=f"the README's commands need {package}")
    blocks = re.findall(r"```console\n\$ (.*?)\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 6
    for command, shown in blocks:
        program, *arguments = shlex.split(command)
        assert program == "edgekit"
        done = subprocess.run(
            [sys.executable, "-m", "edgekit", *arguments],
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300,
            env=os.environ | {"EDGEKIT_CACHE": str(tmp_path / "cache")},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        printed = [figureless(line) for line in done.stdout.splitlines()]
        position = 0
        for line in shown.splitlines():
            if line != "...":
                assert figureless(line) in printed[position:], f"{command} does not print {line!r}:\n{done.stdout}"
                position = printed.index(figureless(line), position) + 1
    for name in ("README.md", "docs/python.md"):
        code = "\n".join(re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL))
        code = code.replace("checkpoint-q4_0.gguf", "story-7m-q8_0.gguf")  # written above
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0 and done.stdout, f"{name}: {done.stderr}"


def figureless(line: str) -> str:
    """A line with its measured figures replaced and its columns closed up."""
    return re.sub(r"\s+", " ", re.sub(r"[+-]?\b\d[\d.,]*(e-\d+)?", "#", line)).strip()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="needs mkdocs: pip install --group docs")
def test_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocstrings", reason="needs mkdocstrings: pip install --group docs")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"],
        cwd=ROOT, capture_output=True, text=True, timeout=300, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    contracts = (tmp_path / "site" / "plugins" / "index.html").read_text(encoding="utf-8")
    for name in ("inference.runtime.Runtime.forward", "tokenizers.base.Tokenizer.decoder", "conversion.base.Written"):
        assert f'id="edgekit.{name}"' in contracts


@pytest.mark.slow
def test_site_with_broken_links_is_refused(tmp_path):
    pytest.importorskip("mkdocs", reason="needs mkdocs: pip install --group docs")
    pytest.importorskip("mkdocstrings", reason="needs mkdocstrings: pip install --group docs")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text(
        "[a page](missing.md) [a file](../missing.py) [an anchor](#missing) [right](../tests/test_docs.py)\n"
    )
    (tmp_path / "mkdocs.yml").write_text(
        f"INHERIT: {ROOT / 'mkdocs.yml'}\nnav: [index.md]\nhooks: [{ROOT / 'docs' / 'hooks.py'}]\nsite_dir: site\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict"],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == 1
    for target in ("'missing.md'", "'../missing.py'", "'#missing'"):
        assert target in done.stderr
    assert "test_docs.py" not in done.stderr
