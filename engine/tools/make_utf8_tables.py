"""Write engine/utf8_tables.inc: the automata of edgekit/tokenizers/utf8_mask.py, which documents them, as C tables.

python engine/tools/make_utf8_tables.py
"""

from pathlib import Path

from edgekit.tokenizers.utf8_mask import DEAD, machine

OUT = Path(__file__).resolve().parents[1] / "utf8_tables.inc"


def rows(name: str, table: list[list[int]]) -> str:
    body = ",\n".join("    {" + ", ".join(map(str, row)) + "}" for row in table)
    return f"static const uint8_t {name}[][{len(table[0])}] = {{\n{body}}};\n"


def text() -> str:
    """The file's contents."""
    parts = ["/* Written by tools/make_utf8_tables.py: see edgekit/tokenizers/utf8_mask.py. */\n"]
    for level in range(3):
        automaton = machine(level)
        assert automaton.start == DEAD + 1 == 1
        parts.append(rows(f"strict{level}", automaton.strict.tolist()))
        parts.append(rows(f"real{level}", automaton.real))
        parts.append(rows(f"classes{level}", automaton.classes.reshape(8, 32).tolist()))
        clean = ", ".join(str(int(value)) for value in automaton.clean)
        parts.append(f"static const uint8_t clean{level}[] = {{{clean}}};\n")
    return "".join(parts)


if __name__ == "__main__":
    OUT.write_text(text(), encoding="utf-8")
