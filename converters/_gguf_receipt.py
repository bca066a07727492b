"""What lets a GGUF file be proved after it was written: its tensors read back one by one, and the receipt put in."""

import os
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from edgekit.conversion.base import ArtefactTensor
from edgekit.errors import CheckpointError
from edgekit.formats import embedded, gguf_config
from edgekit.formats import gguf as g
from edgekit.formats.gguf_tensors import gguf_name, unpermute


def weights(path: Path) -> Iterator[ArtefactTensor]:
    """Every tensor of a `llama` file, dequantized, in Hugging Face's order of names and of rows.

    Raises:
        FileError, CheckpointError: damaged, another architecture, a tensor that is missing, or of a type that
            cannot be dequantized.
    """
    file = g.GGUFFile(path)
    config = gguf_config.llama_config(file)
    names = {name: gguf_name(name) for name in config.shapes()}
    if config.tie_word_embeddings or "output.weight" not in file.tensors:
        names.pop("lm_head.weight", None)
    for name, theirs in names.items():
        if theirs not in file.tensors:
            raise CheckpointError(f"{path}: tensor {theirs} is missing")
        info = file.tensors[theirs]
        values = _values(file, info).reshape(info.shape)
        if values.shape == config.shapes()[name]:
            values = unpermute(name, values, config)
        yield ArtefactTensor(name, values, info.type)


def _values(file: g.GGUFFile, info: g.TensorInfo) -> NDArray[np.float32]:
    raw = file.data(info.name)
    if info.type in ("F32", "F16"):
        return raw.view(np.float32 if info.type == "F32" else np.float16).astype(np.float32, copy=False)
    try:
        return gguf.dequantize(raw.reshape(info.shape[0], -1), gguf.GGMLQuantizationType[info.type])
    except (NotImplementedError, KeyError) as error:
        raise CheckpointError(f"{file.path}: tensor {info.name} is {info.type}, which edgekit cannot read") from error


def add_receipt(path: Path, text: str) -> None:
    """Put `edgekit.receipt` behind the other keys. The file is written anew, since keys stand before the tensors.

    The text is filled up with blanks until the key's length is a multiple of the alignment, so that every tensor
    lies as far behind the keys as before.
    """
    path = Path(path)
    file = g.GGUFFile(path)
    if embedded.RECEIPT in file.metadata:
        raise CheckpointError(f"{path} has a receipt already")
    begin = min(info.offset for info in file.tensors.values())
    # The table of tensors is the last thing before the data; which bytes it has is known, so it is found exactly.
    table = b"".join(_entry(info, begin) for info in file.tensors.values())
    with path.open("rb") as old:
        header = old.read(begin)
        place = header.rindex(table)
        count = struct.unpack_from("<Q", header, 16)[0]
        added = path.with_name(f"{path.stem}.receipt{path.suffix}")
        try:
            with added.open("wb") as new:
                new.write(header[:16] + struct.pack("<Q", count + 1) + header[24:place])
                new.write(_key(text, int(file.metadata.get("general.alignment", g.ALIGNMENT))))
                new.write(header[place:])
                shutil.copyfileobj(old, new, 1 << 20)
            os.replace(added, path)
        finally:
            added.unlink(missing_ok=True)


def _entry(info: g.TensorInfo, begin: int) -> bytes:
    """A tensor's line in the table; `begin` is where the data begins."""
    name = _string(info.name.encode("utf-8", "surrogateescape"))
    shape = struct.pack(f"<I{len(info.shape)}Q", len(info.shape), *info.shape[::-1])
    return name + shape + struct.pack("<IQ", g.NUMBER[info.type], info.offset - begin)


def key_bytes(length: int, alignment: int = g.ALIGNMENT) -> int:
    """By how much a receipt of `length` characters makes a file longer."""
    return len(_key(" " * length, alignment))


def _key(text: str, alignment: int) -> bytes:
    key, data = _string(embedded.RECEIPT.encode()) + struct.pack("<I", g.STRING), text.encode()
    blanks = -(len(key) + 8 + len(data)) % alignment
    return key + _string(data + b" " * blanks)


def _string(data: bytes) -> bytes:
    return struct.pack("<Q", len(data)) + data
