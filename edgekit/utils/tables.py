"""Tables as aligned text, Markdown and CSV."""

import csv
import io
from collections.abc import Sequence
from typing import Any


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, markdown: bool, text_columns: int = 1) -> str:
    """A table whose first `text_columns` are aligned left and whose others (numbers) are aligned right."""
    if markdown:
        rule = ["---" if i < text_columns else "---:" for i in range(len(head))]
        return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows))
    widths = [max(len(cell) for cell in column) for column in zip(head, *rows, strict=True)]
    lines = []
    for cells in (head, *rows):
        padded = [
            c.ljust(w) if i < text_columns else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def csv_text(rows: Sequence[dict[str, Any]]) -> str:
    """Rows with the same keys as CSV, with a header line."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
