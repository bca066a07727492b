"""llama2.c: a folder with `model.bin`, float32, and `tokenizer.bin`, for run.c and the programs that descend from it.

    ./run stories/model.bin -z stories/tokenizer.bin

Such files are read, too: `-m stories260K.bin`, with its tokenizer in the same folder.
"""

import hashlib
import json
from pathlib import Path

import numpy as np

from edgekit import __version__
from edgekit.conversion import cache
from edgekit.conversion.base import Written, converter
from edgekit.errors import CheckpointError, SettingError, VocabularyError
from edgekit.formats import llama2c
from edgekit.formats.checkpoint import WEIGHTS, Checkpoint
from edgekit.formats.open import model_file
from edgekit.settings import Converting
from edgekit.tokenizers import llama2c as tokens
from edgekit.tokenizers.carried import carried
from edgekit.tokenizers.load import from_files
from edgekit.utils.files import read_bytes, replacing
from edgekit.utils.progress import Progress, silent

SUFFIX = ""
ALSO_OPENS = (".bin",)
QUANTS = ("f32",)
DEFAULT = "f32"
TOKENIZER = "tokenizer.bin"


def convert(checkpoint: Checkpoint, out: Path, settings: Converting, progress: Progress) -> list[Written]:
    """Write a folder with a `model.bin` of version 0, and `tokenizer.bin`.

    Raises:
        SettingError: a type other than f32, or a setting that does not apply.
        CheckpointError: run.c computes something else than this model needs.
        VocabularyError: run.c cannot have this tokenizer.
    """
    if (settings.quant or DEFAULT).lower() not in QUANTS:
        raise SettingError(f"unknown type {settings.quant!r} for llama2c: it has f32 only")
    if settings.embedding_type is not None or settings.reduce_range or settings.kv_cache != "f32":
        raise SettingError("embedding_type is a setting of gguf, reduce_range and kv_cache of onnx: llama2c has none")
    config = checkpoint.config
    if reason := llama2c.refused(config):
        raise CheckpointError(f"llama2.c's run.c cannot run a model with {reason}: convert to gguf instead (--to gguf)")
    files = carried(checkpoint.files, config.vocab_size)
    vocabulary, notes = tokens.written(files, config, from_files(files, config.vocab_size))
    written = [Written(name, shape, "F32", 4 * int(np.prod(shape))) for name, shape in config.shapes().items()]
    out.mkdir(parents=True)
    llama2c.write(out / llama2c.MODEL, config, checkpoint.float32)
    (out / TOKENIZER).write_bytes(vocabulary)
    checkpoint.notes.extend(note for note in notes if note not in checkpoint.notes)
    return written


def read(path: Path) -> Checkpoint:
    """A `model.bin`, or a folder that `convert` wrote, with the tokenizer next to the weights.

    Raises:
        FileError: a file cannot be read.
        CheckpointError, VocabularyError: another format, a damaged file, or a tokenizer that is missing.
    """
    path = model_file(Path(path))
    config, tensors = llama2c.read(path)
    where = tokenizer_of(path, config.vocab_size)
    files = tokens.files(tokens.read(read_bytes(where), config.vocab_size, where), config, where)
    files["config.json"] = json.dumps(config.to_dict(), indent=2).encode()
    return Checkpoint(_name(path), config, dict(tensors), dict.fromkeys(tensors, "F32"), files)


def tokenizer_of(path: Path, rows: int) -> Path:
    """The tokenizer next to a model: `tokNUMBER.bin` with as many tokens as it has, as llama2.c's own scripts name it,
    or `tokenizer.bin`. Raises `VocabularyError` if there is neither."""
    names = f"tok{rows}.bin", TOKENIZER
    for name in names:
        if (path.parent / name).is_file():
            return path.parent / name
    raise VocabularyError(f"{path} has no tokenizer: put {' or '.join(names)} into the same folder")


def folder(path: Path) -> Path:
    """The model as a Hugging Face folder, in the cache of conversions: what opens model folders opens it so."""
    path = model_file(path)
    data = read_bytes(path)
    rows = llama2c.read_header(data[: llama2c.LONG_HEADER], path).config.vocab_size
    digest = hashlib.sha256(f"{__version__}\0".encode())
    for each in (data, read_bytes(tokenizer_of(path, rows))):
        digest.update(hashlib.sha256(each).digest())
    place = f"llama2c-{digest.hexdigest()[:24]}"
    for parent in (cache.folder() / place, cache.place(place)):
        out, record = parent / _name(path), parent / "record.json"
        if cache.is_whole(out / WEIGHTS, record):
            return out
    checkpoint = read(path)
    with replacing(out) as temporary:
        converter("hf").convert(checkpoint, temporary, Converting(quant="f32"), silent)
    cache.remember(out / WEIGHTS, record)
    return out


def _name(path: Path) -> str:
    return path.absolute().parent.name if path.name == llama2c.MODEL else path.stem
