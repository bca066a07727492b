"""Joins the engine into one C file, for programs that embed it.

`python tools/amalgamate.py FOLDER` writes edgekit.c and edgekit.h there. Compile the one, include the other;
-DEK_NO_THREADS leaves out threads, the only calls of the system.

Every file keeps its own names: where two files define the same static name, a macro gives each its file's prefix while
that file lasts. Macros of a file end with it.
"""

import re
import sys
from collections import Counter
from pathlib import Path

ENGINE = Path(__file__).resolve().parents[1]
LOCAL = re.compile(r'^#include "([^"]+)"\n', re.MULTILINE)
MACRO = re.compile(r"^#define (\w+)", re.MULTILINE)
DEFINED = [
    re.compile(r"^(?:static|INLINE)\b[^=;{(]*?(\w+)\s*\(", re.MULTILINE),
    re.compile(r"^static\b[^=;(]*?(\w+)(?:\[[^\]]*\])*\s*(?:=|;)", re.MULTILINE),
    re.compile(r"^static\b[^=;]*?\(\*(?:const )?(\w+)(?:\[[^\]]*\])*\)", re.MULTILINE),
    re.compile(r"^[A-Z][A-Z_]+\((\w+),", re.MULTILINE),  # a macro that defines a function
    re.compile(r"^\}\s*(\w+);", re.MULTILINE),
    re.compile(r"^typedef\b[^{;(]*?(\w+)\s*[;(]", re.MULTILINE),
    re.compile(r"^(?:typedef )?(?:struct|union|enum) (\w+)\b", re.MULTILINE),
]
ENUM = re.compile(r"^(?:typedef )?enum(?: \w+)? \{(.*?)\}", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)


def header_order(name: str, done: list[str]) -> None:
    """Append a header after those that it includes."""
    if name in done:
        return
    for other in LOCAL.findall((ENGINE / name).read_text()):
        header_order(other, done)
    done.append(name)


def source(path: Path) -> str:
    """A file with its .inc files in their places, without its headers."""
    inlined = lambda match: source(ENGINE / match[1]) if match[1].endswith(".inc") else ""  # noqa: E731
    return LOCAL.sub(inlined, path.read_text())


def own_names(text: str) -> set[str]:
    """Names that a file defines for itself at its top level."""
    code = COMMENT.sub("", text)
    names = {name for pattern in DEFINED for name in pattern.findall(code)}
    for body in ENUM.findall(code):
        names.update(re.findall(r"(\w+)\s*(?:=[^,]*)?(?:,|$)", body.strip()))
    return {name for name in names if not name.startswith(("ek_", "EK_", "_"))}


def joined() -> str:
    files = sorted(ENGINE.glob("*.c"))
    texts = {path.stem: source(path) for path in files}
    headers: list[str] = []
    for path in files:
        for name in LOCAL.findall(path.read_text()):
            if name.endswith(".h"):
                header_order(name, headers)
    headers.remove("edgekit.h")
    names = {stem: own_names(text) for stem, text in texts.items()}
    twice = {name for name, count in Counter(name for own in names.values() for name in own).items() if count > 1}
    parts = [
        "/* edgekit's engine in one file, made by tools/amalgamate.py; edgekit.h is its interface. */\n",
        "#ifndef _GNU_SOURCE\n#define _GNU_SOURCE\n#endif\n",
        '#include "edgekit.h"\n',
        *(f"\n/* ==== {name} ==== */\n" + LOCAL.sub("", (ENGINE / name).read_text()) for name in headers),
    ]
    for stem, text in texts.items():
        renamed = sorted(names[stem] & twice)
        macros = sorted({*renamed, *(name for name in MACRO.findall(text) if name != "_GNU_SOURCE")})
        parts.append(f"\n/* ==== {stem}.c ==== */\n")
        parts += [f"#define {name} {stem}_{name}\n" for name in renamed]
        parts.append(text)
        parts += [f"#undef {name}\n" for name in macros]
    return "".join(parts)


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: python tools/amalgamate.py FOLDER")
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "edgekit.c").write_text(joined())
    (folder / "edgekit.h").write_text((ENGINE / "edgekit.h").read_text())


if __name__ == "__main__":
    main()
