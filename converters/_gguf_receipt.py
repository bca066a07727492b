"""The receipt of a GGUF file: a key that is written blank and filled in once the conversion is verified.

Metadata precedes the tensors, so adding the key later would move all of them. Its length is a multiple of the
alignment, so that the tensors have the same distance from the other keys with a receipt and without one.
"""

import mmap
import struct
from pathlib import Path

from edgekit.errors import CheckpointError
from edgekit.formats import embedded
from edgekit.formats import gguf as g

KEY = struct.pack("<Q", len(embedded.RECEIPT)) + embedded.RECEIPT.encode() + struct.pack("<I", g.STRING)
"""The bytes before the value, which is a u64 length and the text."""


def blank(length: int) -> str:
    """The value of the key before the receipt is known: blanks for `length` characters."""
    return " " * (length + -(len(KEY) + 8 + length) % g.ALIGNMENT)


def key_bytes(length: int) -> int:
    """By how much a receipt of `length` characters makes a file longer."""
    return len(KEY) + 8 + len(blank(length))


def add_receipt(path: Path, text: str) -> None:
    """Fill in the key that `convert(..., receipt=len(text))` reserved; nothing else of the file changes.

    Raises:
        CheckpointError: there is no such key, it is filled in already, or it is too short.
    """
    data = text.encode()
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        at = view.find(KEY)
        if at < 0:
            raise CheckpointError(f"{path} was written without room for a receipt")
        begin = at + len(KEY) + 8
        (size,) = struct.unpack_from("<Q", view, begin - 8)
        if view[begin : begin + size].strip():
            raise CheckpointError(f"{path} has a receipt already")
        if len(data) > size:
            raise CheckpointError(f"{path} has room for a receipt of {size} bytes, not {len(data)}")
        view[begin : begin + len(data)] = data
