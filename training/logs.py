"""The log of a run: the same rows as CSV for spreadsheets and as JSON lines for programs.

Rows are appended and flushed one by one. When a run is resumed, rows after the checkpoint's step are dropped: these
steps are trained again.
"""

import csv
import io
import json
from pathlib import Path
from typing import Any

from edgekit.errors import FileError
from edgekit.utils import files

COLUMNS = (
    "step", "epoch", "tokens", "train_loss", "eval_loss", "eval_ppl", "bits_per_byte", "lr", "grad_norm", "loss_scale",
    "tokens_per_s", "note",
)  # fmt: skip
CSV, JSONL = "training_curves.csv", "training_log.jsonl"


class Logs:
    """The two files in a run's folder.

    Args:
        step: keep the rows up to this step; 0 starts empty.
    """

    def __init__(self, folder: Path, step: int = 0):
        self.folder = folder
        self.rows = [row for row in read(folder) if row["step"] <= step] if step else []
        files.write_bytes(folder / JSONL, "".join(json.dumps(row) + "\n" for row in self.rows).encode())
        files.write_bytes(folder / CSV, (_line(COLUMNS) + "".join(map(_csv, self.rows))).encode())

    def add(self, **values: Any) -> dict[str, Any]:
        """Append a row. `values` outside `COLUMNS` go into the JSON lines only. Raises `FileError`."""
        row = {"step": 0, **{k: v for k, v in values.items() if v is not None and v != ""}}
        self.rows.append(row)
        for name, line in ((JSONL, json.dumps(row) + "\n"), (CSV, _csv(row))):
            try:
                with open(self.folder / name, "a", encoding="utf-8", newline="") as file:
                    file.write(line)
            except OSError as error:
                raise FileError(f"cannot write {self.folder / name}: {files.os_reason(error)}") from error
        return row


def read(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run so far, without a last line that a killed run left incomplete."""
    if not (folder / JSONL).is_file():
        return []
    rows = []
    for line in files.read_bytes(folder / JSONL).decode("utf-8", "replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


def _line(values: Any) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(values)
    return out.getvalue()


def _csv(row: dict[str, Any]) -> str:
    return _line([f"{v:.8g}" if isinstance(v := row.get(name, ""), float) else v for name in COLUMNS])


def line(row: dict[str, Any], steps: int, utilisation: float | None) -> str:
    """A row as one readable line. `utilisation`: the model FLOPs utilisation, 0 to 1, if known."""
    parts = [f"step {row['step']}/{steps}", f"epoch {row['epoch']:.2f}"]
    if "train_loss" in row:
        parts += [f"loss {row['train_loss']:.4f}", f"lr {row['lr']:.2e}", f"{row['tokens_per_s']:,.0f} tokens/s"]
        parts += [f"MFU {100 * utilisation:.1f} %"] if utilisation is not None else []
    if "eval_loss" in row:
        parts.append(
            f"validation {row['eval_loss']:.4f}, perplexity {row['eval_ppl']:.2f}, {row['bits_per_byte']:.4f} bits/byte"
        )
    return " · ".join([*parts, row["note"]] if row.get("note") else parts)
