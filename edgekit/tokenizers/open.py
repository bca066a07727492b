"""From a path, a Hub id or a vocabulary's name to a tokenizer, without opening the model."""

import contextlib
import json
from pathlib import Path

from edgekit.errors import UnsupportedError, VocabularyError
from edgekit.formats import hub, onnx
from edgekit.formats.checkpoint import side_files
from edgekit.formats.gguf import GGUFFile
from edgekit.formats.gguf_config import llama_config
from edgekit.settings import Running
from edgekit.tokenizers.base import Tokenizer
from edgekit.tokenizers.load import from_files, tokenizer_of
from edgekit.tokenizers.native import NativeTokenizer
from edgekit.tokenizers.tokenmonster.tokenizer import files_for, resolve
from edgekit.tokenizers.tokenmonster.vocabulary import Vocabulary
from edgekit.utils import registry
from edgekit.utils.engine import library
from edgekit.utils.guard import reading


def open_tokenizer(model: str | Path | None, vocab: str | None, revision: str | None = None) -> Tokenizer:
    """The tokenizer of a model, or of a TokenMonster vocabulary by file or by name.

    Raises:
        VocabularyError: there is none, or it is damaged.
        FileError: it cannot be read or downloaded.
    """
    with reading(vocab or model):
        return _opened(model, vocab, revision)


def _opened(model: str | Path | None, vocab: str | None, revision: str | None) -> Tokenizer:
    if vocab is not None:
        vocabulary = Vocabulary.load(resolve(vocab))
        files = files_for(vocabulary.to_bytes())
        return from_files(files, json.loads(files["tokenizer_config.json"])["vocab_size"])
    where = hub.resolve(model, revision=revision)
    if where.is_dir():
        files = side_files(where)
        size = json.loads(files.get("config.json", b"{}")).get("vocab_size")
        if not isinstance(size, int):
            raise VocabularyError(f"{where} has no config.json with a vocab_size")
        return from_files(files, size)
    if where.suffix == ".gguf":
        return _of_gguf(where)
    if where.suffix == ".onnx":
        files = onnx.files_of(onnx.metadata(where), where)
        return _found(tokenizer_of(files, onnx.config_of(files, where).vocab_size), where)
    return _of_runtime(where)


def _of_gguf(path: Path) -> Tokenizer:
    """From the files that edgekit embedded; otherwise the engine's, as `edgekit run` has it, where the engine has that
    kind; otherwise rebuilt from llama.cpp's keys, or llama.cpp's own."""
    file = GGUFFile(path)
    config = llama_config(file)
    tokenizer = tokenizer_of(file.files(), config.vocab_size)
    if tokenizer is not None:
        return tokenizer
    if (engine := library()) is not None:
        with contextlib.suppress(UnsupportedError):
            return NativeTokenizer(engine, file, config.vocab_size)
    from edgekit.tokenizers.llamacpp import rebuild

    files, difference = rebuild.files(file, config)
    if difference:
        return _of_runtime(path)
    return from_files(files | {"config.json": json.dumps(config.to_dict()).encode()}, config.vocab_size)


def _of_runtime(path: Path) -> Tokenizer:
    """By opening the model."""
    runtime = registry.load("runtimes", registry.for_path("runtimes", path)).load(path, Running())
    return _found(tokenizer_of(runtime.files, runtime.vocab_size, runtime), path)


def _found(tokenizer: Tokenizer | None, path: Path) -> Tokenizer:
    if tokenizer is None:
        raise VocabularyError(f"{path} has no tokenizer inside or next to it")
    return tokenizer
