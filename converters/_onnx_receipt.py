"""What lets an ONNX file be proved after it was written: the receipt put in. Needs no package."""

from pathlib import Path

from edgekit.formats import embedded

# onnx.proto: ModelProto.metadata_props is field 14, StringStringEntryProto has key 1 and value 2; all length-delimited.
METADATA_PROPS, KEY, VALUE = 14, 1, 2


def add_receipt(path: Path, text: str) -> None:
    """Put `edgekit.receipt` into `metadata_props`, behind what is there.

    Two protobuf messages one after the other are the two merged, repeated fields joined (protobuf.dev, "Last One
    Wins"). So a message with this one entry is appended, and nothing of the file is read or written anew.
    """
    with Path(path).open("ab") as file:
        file.write(_entry(text))


def entry_bytes(length: int) -> int:
    """By how much a receipt of `length` characters makes a file longer."""
    return len(_entry(" " * length))


def _entry(text: str) -> bytes:
    return _field(METADATA_PROPS, _field(KEY, embedded.RECEIPT.encode()) + _field(VALUE, text.encode()))


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
