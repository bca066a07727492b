"""The facts of a vocabulary, and what its size costs a model. Plain Python, without other packages."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from edgekit.tokenizers.tokenmonster.settings import NORMALIZATIONS
from edgekit.tokenizers.tokenmonster.vocab_file import CHARSETS, MODES, NONE
from edgekit.tokenizers.tokenmonster.vocabulary import Vocabulary
from edgekit.utils.files import read_bytes

__all__ = ["Plan", "describe", "plan", "report", "table"]

_CAPCODE = ("0, none", "1, delete marker", "2, delete marker and capitals")
_RESERVED = ("all 256", "first 128", "UTF-8", "ASCII", "extended", "all others excluded")


def describe(path: Path) -> dict[str, Any]:
    """The facts of a `.vocab` file, as values for JSON. Raises `FileError`, or `VocabularyError` if it is damaged."""
    data = read_bytes(path)
    vocabulary = Vocabulary.from_bytes(data, name=str(path))
    records = [record for record in vocabulary.records if record.score != -1.0]
    tokens = [record.token for record in records]
    longest = sorted(tokens, key=lambda token: (-len(token), token))[:5]
    singles = {token[0] for token in tokens if len(token) == 1}
    many = max(1, len(tokens))
    return {
        "path": str(path),
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "size": vocabulary.size,
        "table_size": vocabulary.table_size,
        "records": len(vocabulary.records),
        "duplicates": len(vocabulary.records) - len(records),
        "capcode": vocabulary.capcode,
        "charset": CHARSETS[vocabulary.charset],
        "normalization": _names(vocabulary.normalization, NORMALIZATIONS),
        "mode": MODES[vocabulary.mode] if vocabulary.mode < len(MODES) else f"unknown ({vocabulary.mode})",
        "reserve": _names(vocabulary.reserve, _RESERVED),
        "unk": None if vocabulary.unk == NONE else vocabulary.unk,
        "delete_token": None if vocabulary.delete_token == NONE else vocabulary.delete_token,
        "single_bytes": len(singles),
        "missing_bytes": [byte for byte in range(256) if byte not in singles],
        "mean_length": sum(map(len, tokens)) / many,
        "longest": [token.decode("utf-8", "replace") for token in longest],
        "space_led": sum(token[:1] == b" " for token in tokens) / many,
        "several_words": sum(record.words > 1 for record in records) / many,
        "special": {record.id: record.token.decode("utf-8", "replace") for record in records if record.flags & 64},
        "deleted": len(vocabulary.deleted),
    }


def _names(bits: int, names: Sequence[str]) -> list[str]:
    return [name for place, name in enumerate(names) if bits >> place & 1]


def report(facts: dict[str, Any]) -> str:
    """The facts as text, one per line."""
    unk, delete = facts["unk"], facts["delete_token"]
    missing = facts["missing_bytes"]
    lines = {
        "file": f"{facts['path']}  ({facts['bytes']:,} bytes)",
        "sha256": facts["sha256"],
        "size": f"{facts['size']:,} tokens, ids below {facts['table_size']:,}",
        "records": f"{facts['records']:,}, {facts['duplicates']:,} of them duplicates",
        "capcode": _CAPCODE[facts["capcode"]],
        "charset": facts["charset"],
        "normalization": ", ".join(facts["normalization"]) or "none",
        "mode": facts["mode"],
        "reserved": ", ".join(facts["reserve"]) or "none",
        "unknown": "no token: bytes without one vanish" if unk is None else f"id {unk}",
        "delete token": "none" if delete is None else f"id {delete}",
        "single bytes": f"{facts['single_bytes']} of 256" + (f"; none for {_ranges(missing)}" if missing else ""),
        "mean length": f"{facts['mean_length']:.2f} bytes",
        "space-led": f"{facts['space_led']:.1%}",
        "several words": f"{facts['several_words']:.1%}",
        "longest": "  ".join(map(repr, facts["longest"])),
        "special": "  ".join(f"{id} {text!r}" for id, text in facts["special"].items()) or "none",
        "deleted": f"{facts['deleted']:,}",
    }
    if "text" in facts:
        lines["bytes/token"] = "  ".join(f"{name} {value:.3f}" for name, value in facts["text"].items())
    return "\n".join(f"{name:<14} {value}" for name, value in lines.items())


def _ranges(numbers: Sequence[int]) -> str:
    """Ascending byte values as `00-08 0B 0E-1F`."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][1] == number - 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return " ".join(f"{low:02X}" if low == high else f"{low:02X}-{high:02X}" for low, high in parts)


# ---- the cost of a vocabulary --------------------------------------------------------------------------------------


class Plan(NamedTuple):
    """One shape of a Llama with tied embeddings and as many key-value heads as heads."""

    vocab_size: int
    hidden_size: int
    layers: int
    ffn: int
    embedding: int
    """Parameters of the embedding table, which is the output projection too."""
    parameters: int

    @property
    def embedding_share(self) -> float:
        return self.embedding / self.parameters


def plan(vocab_size: int, hidden_size: int, *, layers: int = 12, ffn: int | None = None, budget: int = 0) -> Plan:
    """Count the parameters of a shape.

    Args:
        ffn: width of the feed-forward part; by default three times the hidden size, as in Stentor2.
        budget: take as many layers (perhaps none) as fit into this many parameters, instead of `layers`.
    """
    ffn = 3 * hidden_size if ffn is None else ffn
    embedding = vocab_size * hidden_size
    # Attention 4 h h; gate, up and down 3 h f; two norms. After the last layer one more norm.
    layer = 4 * hidden_size**2 + 3 * hidden_size * ffn + 2 * hidden_size
    if budget:
        layers = max(0, (budget - embedding - hidden_size) // layer)
    return Plan(vocab_size, hidden_size, layers, ffn, embedding, embedding + layers * layer + hidden_size)


def table(plans: Sequence[Plan]) -> str:
    """The plans as an aligned table."""
    lines = [
        f"{'vocab':>8} {'hidden':>7} {'layers':>7} {'ffn':>6} {'embedding':>12} {'other':>12} {'total':>12}  share"
    ]
    for p in plans:
        lines.append(
            f"{p.vocab_size:>8,} {p.hidden_size:>7,} {p.layers:>7,} {p.ffn:>6,} {p.embedding:>12,} "
            f"{p.parameters - p.embedding:>12,} {p.parameters:>12,} {p.embedding_share:>6.1%}"
        )
    return "\n".join(lines)
