"""edgekit's tokenizer of a file, compared with the one that the file's own programs have (llama.cpp's).

A file that edgekit writes has its tokenizer inside, so edgekit reads it as the source; stock programs go by the keys,
which cannot say everything: then a note tells how much they do differently. In a file of another program the keys are
all there is, and edgekit rebuilds a tokenizer from them: where that is another one, the conversion stops.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from edgekit.errors import CheckpointError, MissingExtraError, RuntimeFailure, VocabularyError
from edgekit.formats.checkpoint import Checkpoint
from edgekit.formats.embedded import FILES
from edgekit.formats.gguf import GGUFFile
from edgekit.inference.runtime import LoadsVocabulary, Vocabulary, plugin
from edgekit.tokenizers.base import Tokenizer
from edgekit.tokenizers.load import from_files
from edgekit.tokenizers.sample_texts import COUNT, sample_texts
from edgekit.utils import registry

MOST = COUNT // 50
"""Texts that a rebuilt tokenizer may split otherwise: rare characters, which Unicode tables of other years know."""


def differing(ours: Tokenizer, theirs: Vocabulary, names: Iterable[str] = ()) -> list[str]:
    """Of the texts of `sample_texts`, those that become other ids, read as text or with special tokens as tokens."""
    names = list(names)

    def differs(text: str) -> bool:
        modes = (False, True) if any(name and name in text for name in names) else (False,)
        return any(ours.encode(text, specials=mode) != theirs.encode(text, specials=mode) for mode in modes)

    return [text for text in sample_texts(names) if differs(text)]


def compare(source: Path, artefact: Path, checkpoint: Checkpoint, tokenizer: Tokenizer | None = None) -> list[str]:
    """Notes on what stock programs make of the texts; none for formats without programs of their own.

    Args:
        source: what was converted; artefact: what it became.
        checkpoint: the source, opened.
        tokenizer: the checkpoint's, if it is open already.

    Raises:
        CheckpointError: the tokenizer rebuilt from the source is another one than its own programs have.
    """
    files, notes = checkpoint.files, list[str]()
    if not any(name in files for name in FILES):
        return []
    for path, is_source in ((source, True), (artefact, False)):
        if is_source and _carries_tokenizer(path):
            continue
        for program, vocabulary in _vocabularies(path, notes):
            tokenizer = tokenizer or from_files(files, checkpoint.config.vocab_size)
            different = differing(tokenizer, vocabulary, _names(files, tokenizer))
            if not different:
                continue
            count = f"{len(different)} of {COUNT} texts differently"
            example = f"e.g. {different[0]!r:.60}"
            if not is_source:
                notes.append(f"stock {program} splits {count}, {example}")
            elif len(different) <= MOST:
                notes.append(f"{program} splits {count} than the tokenizer rebuilt from {path.name}, {example}")
            else:
                raise CheckpointError(
                    f"{path}: the tokenizer rebuilt from its keys splits {count} than {program}, {example}: the "
                    "converted model would read other ids (--no-verify converts it all the same)"
                )
    return notes


def _carries_tokenizer(path: Path) -> bool:
    """Whether the tokenizer's files come with a model, so that nothing was rebuilt."""
    return path.suffix != ".gguf" or any(name in FILES for name in GGUFFile(path).files())


def _vocabularies(path: Path, notes: list[str]) -> Iterator[tuple[str, Vocabulary]]:
    """The tokenizers of the file's own programs and their names; nothing for those that are not installed."""
    for name in registry.names("runtimes"):
        if not path.suffix or registry.suffix("runtimes", name) != path.suffix:
            continue
        try:
            module = plugin(name)
            if not isinstance(module, LoadsVocabulary):
                continue
            vocabulary = module.load_vocabulary(path)
        except (MissingExtraError, VocabularyError):
            continue
        except RuntimeFailure as error:
            notes.append(f"its tokenizer cannot be compared: {error}")
            continue
        try:
            yield next((alias for alias, known in registry.ALIASES.items() if known == name), name), vocabulary
        finally:
            vocabulary.close()


def _names(files: Mapping[str, bytes], tokenizer: Tokenizer) -> list[str]:
    """The spellings of added and special tokens."""
    try:
        added = [token["content"] for token in json.loads(files["tokenizer.json"])["added_tokens"]]
    except (KeyError, TypeError, ValueError):
        added = []
    return [*added, *tokenizer.facts().get("specials", {})]
