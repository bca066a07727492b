"""Reading and writing fields of protobuf messages without a schema: enough for metadata next to large weights."""

from collections.abc import Iterator

VARINT, EIGHT_BYTES, LENGTH, FOUR_BYTES = 0, 1, 2, 5  # wire types


def fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(number, value) of a message's fields in order: an int for a varint, a view of the bytes for all others.

    Nothing is copied, so large fields that are skipped are never read from a mapped file.

    Raises:
        ValueError: the bytes are not a whole protobuf message.
    """
    at, end = 0, len(data)

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while at < end and shift < 70:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
        raise ValueError("a number is cut off or too long")

    while at < end:
        tag = varint()
        number, wire = tag >> 3, tag & 7
        if wire == VARINT:
            yield number, varint()
            continue
        if wire not in (EIGHT_BYTES, LENGTH, FOUR_BYTES) or not number:
            raise ValueError(f"wire type {wire} of field {number}")
        size = varint() if wire == LENGTH else 8 if wire == EIGHT_BYTES else 4
        if at + size > end:
            raise ValueError("a field is cut off")
        yield number, data[at : at + size]
        at += size


def text(value: int | memoryview) -> str:
    """A string field. Raises `ValueError` if it is a number or not UTF-8."""
    if isinstance(value, int):
        raise ValueError("a number where text is expected")
    return bytes(value).decode("utf-8")


def message(value: int | memoryview) -> memoryview:
    """A nested message. Raises `ValueError` if it is a number."""
    if isinstance(value, int):
        raise ValueError("a number where a message is expected")
    return value


def number(value: int | memoryview) -> int:
    """A varint field. Raises `ValueError` if it is of another kind."""
    if not isinstance(value, int):
        raise ValueError("a message where a number is expected")
    return value


def varint(value: int) -> bytes:
    """A whole number from 0 up, in base 128."""
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*data, value])


def head(number: int, length: int) -> bytes:
    """All of a field with a length (a string, bytes or a message) that is before its `length` bytes."""
    return varint(number << 3 | LENGTH) + varint(length)
