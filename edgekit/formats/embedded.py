"""The files embedded in an artefact, which make one file the whole model.

A checkpoint's files other than weights (config, generation defaults, tokenizer) are stored byte for byte under the key
`edgekit.file.NAME`, each with its sha256, together with the artefact's origin. GGUF stores them as uint8 arrays, ONNX
as base64 text in `metadata_props`; this module knows only names and bytes.
"""

import base64
import binascii
from collections.abc import Mapping

from edgekit import __version__
from edgekit.errors import CheckpointError

FILE = "edgekit.file."
SHA256 = ".sha256"

# The conversion's measurements, as JSON; in a Hugging Face folder it is a file. See `edgekit/conversion/receipt.py`.
RECEIPT = "edgekit.receipt"
RECEIPT_FILE = "edgekit_receipt.json"
# Inside an artefact it is padded with blanks to a multiple of this, so the file's size is known before it is written.
RECEIPT_ROOM = 2048

# The files of a tokenizer; artefacts embed them whole, by these names.
FILES = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenmonster.vocab",
)

# Embedded too; with `config.json` the way back to a Hugging Face folder is exact.
CONFIGURATION = ("config.json", "generation_config.json", "chat_template.jinja", "added_tokens.json")
CARRIED = (*CONFIGURATION, *FILES)


def pack(files: Mapping[str, bytes], *, source_sha256: str, quant: str) -> tuple[dict[str, str], dict[str, bytes]]:
    """edgekit's keys in an artefact: short texts, and whole files by key."""
    import hashlib  # loads OpenSSL's library

    texts = {"edgekit.version": __version__, "edgekit.source.sha256": source_sha256, "edgekit.quant": quant}
    blobs = {}
    for name in CARRIED:
        if name in files:
            blobs[FILE + name] = bytes(files[name])
            texts[FILE + name + SHA256] = hashlib.sha256(files[name]).hexdigest()
    return texts, blobs


def unpack(texts: Mapping[str, str], blobs: Mapping[str, bytes], where: object) -> dict[str, bytes]:
    """The files that `pack` put in. Raises `CheckpointError` if one does not match its sha256."""
    import hashlib  # loads OpenSSL's library

    files = {}
    for key, data in blobs.items():
        if not key.startswith(FILE):
            continue
        name = key.removeprefix(FILE)
        if texts.get(key + SHA256) != hashlib.sha256(data).hexdigest():
            raise CheckpointError(f"{where}: the {name} inside does not match its sha256: the file is damaged")
        files[name] = bytes(data)
    return files


def to_text(data: bytes) -> str:
    """Bytes for a format whose metadata is text only."""
    return base64.b64encode(data).decode("ascii")


def from_text(text: str, where: object) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise CheckpointError(f"{where}: a file inside is not base64: the artefact is damaged") from error


def files_in_texts(texts: Mapping[str, str], where: object) -> dict[str, bytes]:
    """`unpack` for a format whose metadata is text only, with values from `to_text`."""
    blobs = {
        key: from_text(value, where)
        for key, value in texts.items()
        if key.startswith(FILE) and not key.endswith(SHA256)
    }
    return unpack(texts, blobs, where)
