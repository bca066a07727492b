"""mkdocs hooks: Markdown and pictures from outside docs/ become pages, and links to other files are checked.

A page links to a file of the repository by its relative path, as it reads on any forge: `../benchmarks/README.md`.
Files in `MIRRORED` are part of the site, under `repository/`. A link to any other file becomes a link into the
repository if mkdocs.yml has a `repo_url`, and plain text otherwise. A file that does not exist fails the build.

A line `<!-- docstring: edgekit/web/__init__.py -->` becomes the docstring of that file, preformatted: some hold a
reference in columns, which Markdown would run together.
"""

import ast
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PREFIX = "repository/"
MIRRORED = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "benchmarks/README.md",
    "edgekit/bundled/*/README.md",
    "edgekit/bundled/*/*.svg",
    "examples/*/README.md",
    "examples/pictures/*",
)
LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]\n]*)\]\((?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)")
DOCSTRING = re.compile(r"^<!-- docstring: (?P<path>\S+) -->$", re.MULTILINE)


def mirrored() -> list[str]:
    """The repository's files that are part of the site, as paths from its root."""
    return sorted(path.relative_to(ROOT).as_posix() for pattern in MIRRORED for path in ROOT.glob(pattern))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for path in mirrored():
        files.append(File.generated(config, PREFIX + path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    uri = page.file.src_uri
    path = ROOT / uri.removeprefix(PREFIX) if uri.startswith(PREFIX) else ROOT / "docs" / uri
    pages = {name: PREFIX + name for name in mirrored()}
    pages |= {f"docs/{file.src_uri}": file.src_uri for file in files if not file.src_uri.startswith(PREFIX)}

    def replaced(link: re.Match[str]) -> str:
        target = (path.parent / link["target"]).resolve()
        if ":" in link["target"] or not target.is_relative_to(ROOT) or not target.exists():
            return link[0]  # another site; or a broken link, which the strict build reports
        name = target.relative_to(ROOT).as_posix()
        if name in pages:
            where = posixpath.relpath(pages[name], posixpath.dirname(uri) or ".")
            return f"{link['image']}[{link['text']}]({where}{link['anchor'] or ''})"
        if config.repo_url:
            return f"[{link['text']}]({config.repo_url.rstrip('/')}/blob/main/{name})"
        return link["text"]

    return DOCSTRING.sub(docstring, LINK.sub(replaced, markdown))


def docstring(line: re.Match[str]) -> str:
    """The docstring of the file that a line names, as a block of text."""
    text = ast.get_docstring(ast.parse((ROOT / line["path"]).read_text(encoding="utf-8")))
    return f"```text\n{text}\n```"
