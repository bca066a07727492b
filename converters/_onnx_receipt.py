"""The receipt of an ONNX file: an entry of its metadata, appended to the file. Needs no package."""

from pathlib import Path

from edgekit.formats import embedded
from edgekit.formats.onnx import KEY, METADATA_PROPS, VALUE
from edgekit.formats.protobuf import head


def add_receipt(path: Path, text: str) -> None:
    """Put `edgekit.receipt` into `metadata_props`, after the other entries.

    Two protobuf messages in a row are the two merged, repeated fields joined (protobuf.dev, "Last One Wins"). So a
    message with this one entry is appended, and nothing of the file is read or rewritten.
    """
    with Path(path).open("ab") as file:
        file.write(_entry(text))


def entry_bytes(length: int) -> int:
    """By how much a receipt of `length` characters makes a file longer."""
    return len(_entry(" " * length))


def _entry(text: str) -> bytes:
    return _field(METADATA_PROPS, _field(KEY, embedded.RECEIPT.encode()) + _field(VALUE, text.encode()))


def _field(number: int, data: bytes) -> bytes:
    return head(number, len(data)) + data
