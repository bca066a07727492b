"""What `verify` measures with: the source and what it says of a text, and an artefact's words beside it.

Everything goes block by block through `Runtime.forward(every=True)`. The source's logits are computed once; where
they are many they wait in a temporary file, so that memory stays bounded however long the text is.
"""

import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.conversion.calibration import AWKWARD, CALIBRATION
from edgekit.conversion.verification.metrics import Agreement, Figures, logit_error
from edgekit.conversion.verification.settings import Verifying
from edgekit.errors import CheckpointError, DataError, MissingExtraError, VocabularyError
from edgekit.formats.checkpoint import Checkpoint
from edgekit.formats.open import open_model
from edgekit.inference.reference import Reference
from edgekit.inference.runtime import Logits, Runtime, plugin
from edgekit.inference.scoring import blockwise, prefix_id
from edgekit.settings import Running
from edgekit.tokenizers.base import Tokenizer
from edgekit.tokenizers.load import tokenizer_of
from edgekit.utils import registry
from edgekit.utils.texts import Document

MOST_LOGITS = 1 << 22
"""Logits asked for at once, 16 MiB."""
MOST_KEPT = 1 << 25
"""Logits of the source that are kept in memory, 128 MiB; more go to a file."""
FEW = 32
"""With fewer tokens of the bundled text than these, ids are drawn instead."""
PROMPT, STRETCH = 16, 24
"""Tokens of a greedy text's beginning, and of the stretch that is fed at once and step by step."""


@dataclass
class Source:
    """The model that artefacts are held to.

    Attributes:
        checkpoint: its tensors; None if it is an `.onnx`, of which only the logits are known.
        tokenizer: None if the model has none.
    """

    name: str
    runtime: Runtime
    said: str
    """What runs it, for a person."""
    tokenizer: Tokenizer | None
    checkpoint: Checkpoint | None

    @property
    def prefix(self) -> int | None:
        """The id before each window, as `edgekit eval ppl` puts it."""
        return None if self.tokenizer is None else prefix_id(self.tokenizer, self.runtime, "model")


def of_checkpoint(checkpoint: Checkpoint) -> Source:
    """A checkpoint in memory, run by `edgekit.inference.reference`: the truth."""
    runtime = Reference(checkpoint)
    return Source(checkpoint.name, runtime, "float32 numpy", _tokenizer(runtime), checkpoint)


def open_source(path: Path, runtime: str | None, running: Running) -> Source:
    """A Hugging Face folder or a `.gguf` (dequantized) on plain numpy, an `.onnx` on its runtime; or on the one named.

    Raises:
        EdgekitError: as the runtime's `load` does.
    """
    if runtime is None and path.suffix == ".onnx":
        runtime = "onnx"
    checkpoint = None if path.suffix == ".onnx" else open_model(path)
    if runtime is None and checkpoint is not None:
        return of_checkpoint(checkpoint)
    assert runtime is not None
    suffix = registry.suffix("runtimes", runtime)
    opener = plugin(runtime)
    if path.suffix != suffix and (suffix or path.suffix == ".onnx"):
        raise CheckpointError(f"{runtime} does not open {path.name} as it is: name another --runtime, or none")
    # Of PyTorch the model of transformers, and not what edgekit does to make it fast.
    opened = opener.load(path, dataclasses.replace(running, reference=True))
    return Source(path.name, opened, runtime, _tokenizer(opened), checkpoint)


def _tokenizer(runtime: Runtime) -> Tokenizer | None:
    """The source's tokenizer; one that edgekit cannot read is as none, since weights can be compared without."""
    try:
        return tokenizer_of(runtime.files, runtime.vocab_size, runtime)
    except VocabularyError:
        return None


def open_artefact(path: Path, running: Running, *, quick: bool = False) -> tuple[Runtime, str]:
    """An artefact on the runtime that its format names, and that runtime's name.

    A folder runs on plain transformers, as other programs will run it; on numpy if `quick`, or without PyTorch.
    """
    if path.is_dir():
        if not quick:
            try:
                plain = dataclasses.replace(running, reference=True)
                return plugin("torch").load(path, plain), "torch"
            except MissingExtraError:
                pass
        return Reference(open_model(path)), "numpy"
    name = registry.for_path("runtimes", path)
    return plugin(name).load(path, running), name


class SourceLogits:
    """What the source says of a text.

    Args:
        documents: the text; none takes the bundled one. A source without a tokenizer that could write it is given
            ids drawn from its vocabulary with a fixed seed instead.

    Raises:
        DataError: the text has too few tokens.
    """

    def __init__(self, source: Source, documents: Sequence[Document] | None, settings: Verifying) -> None:
        self.source, self.settings = source, settings
        self.text = "bundled text" if documents is None else "text"
        self.ids = self._ids(documents)
        self.window = min(settings.window, source.runtime.context_length)
        self.windows = [w for w, _ in blockwise(self.ids, self.window, source.prefix) if len(w) > 1]
        if not self.windows:
            raise DataError(f"the text has {len(self.ids)} tokens: too few to compare anything")
        self.positions = sum(len(w) - 1 for w in self.windows)
        self.logits = self._room()
        at = 0
        for logits, _ in spoken(source.runtime, self.windows):
            self.logits[at : at + len(logits)] = logits
            at += len(logits)
        if not np.isfinite(self.logits[:at]).all():
            raise CheckpointError(f"{source.name}: the source's own logits are not finite: it is damaged")

    @property
    def first(self) -> Logits:
        """The logits of the first window."""
        return self.logits[: len(self.windows[0]) - 1]

    def _ids(self, documents: Sequence[Document] | None) -> list[int]:
        most, tokenizer = self.settings.tokens, self.source.tokenizer
        ids: list[int] = []
        for document in documents or [Document("", CALIBRATION)]:
            if tokenizer is not None and len(ids) < most:
                ids += tokenizer.encode(document.text)
        if tokenizer is not None and (documents is not None or len(ids) >= FEW):
            return ids[:most]
        why = "no tokenizer" if tokenizer is None else "the vocabulary cannot write the bundled text"
        self.text = f"seeded random ids ({why})"
        return np.random.default_rng(0).integers(0, self.source.runtime.vocab_size, most).tolist()

    def _room(self) -> np.ndarray:
        shape = (self.positions, self.source.runtime.vocab_size)
        if shape[0] * shape[1] <= MOST_KEPT:
            return np.empty(shape, np.float32)
        with tempfile.TemporaryFile() as file:  # the mapping outlives the handle, the file nothing
            return np.memmap(file, np.float32, "w+", shape=shape)


def spoken(runtime: Runtime, windows: Sequence[Sequence[int]]) -> Iterator[tuple[Logits, np.ndarray]]:
    """Logits (n, vocab_size) of some positions and the ids that follow there, window by window, from empty caches."""
    size = max(1, MOST_LOGITS // runtime.vocab_size)
    for window in windows:
        runtime.rewind(0)
        fed, targets = window[:-1], np.asarray(window[1:])
        for start in range(0, len(fed), size):
            yield runtime.forward(fed[start : start + size], every=True), targets[start : start + size]


def agreement(truth: SourceLogits, runtime: Runtime) -> tuple[Figures, Logits]:
    """The figures of an artefact, and its logits of the first window.

    Raises:
        RuntimeFailure: its logits are not finite, or the backend failed.
    """
    found, at, kept = Agreement(), 0, []
    for logits, targets in spoken(runtime, truth.windows):
        if at < len(truth.first):
            kept.append(logits)
        found.add(np.asarray(truth.logits[at : at + len(logits)]), logits, targets)
        at += len(logits)
    return found.figures(), np.concatenate(kept)


# ----------------------------------------------------------------------------- greedy texts, steps, tokens


@dataclass(frozen=True)
class Divergence:
    """Where a greedy text of the artefact's leaves the source's."""

    prompt: int
    step: int
    """Tokens that were the same before."""
    source: int
    artefact: int
    """The ids that each chose."""
    margin: float
    """By how much the source's logit of its own choice is above that of the artefact's, in nats."""
    source_text: str | None
    artefact_text: str | None


@dataclass(frozen=True)
class Greedy:
    """Greedy texts beside the source's."""

    length: int
    matched: list[int]
    """Tokens that are the same before the first that is not, by prompt."""
    divergence: Divergence | None
    """The earliest, by step."""

    def record(self) -> dict[str, Any]:
        return asdict(self)


def greedy(truth: SourceLogits, runtime: Runtime) -> Greedy | None:
    """Greedy texts of the artefact, and where the source would have gone on otherwise; None where none fits.

    The source reads the artefact's text at once: up to the first difference both have the same tokens before them,
    so its likeliest token at each place is what it would have written itself.
    """
    settings, source = truth.settings, truth.source
    prefix = [] if source.prefix is None else [source.prefix]
    room = min(runtime.context_length, source.runtime.context_length)
    count = min(PROMPT, len(truth.ids), room // 2)
    length = min(settings.greedy, room - count - len(prefix))
    if length < 1 or count < 1:
        return None
    matched, first = [], None
    for k in range(settings.prompts):
        at = k * (len(truth.ids) - count) // settings.prompts
        prompt = [*prefix, *truth.ids[at : at + count]]
        said = _written(runtime, prompt, length)
        source.runtime.rewind(0)
        wanted = source.runtime.forward([*prompt, *said[:-1]], every=True)[len(prompt) - 1 :]
        differs = np.flatnonzero(wanted.argmax(-1) != said)
        matched.append(int(differs[0]) if len(differs) else length)
        if len(differs) and (first is None or matched[-1] < first.step):
            first = _divergence(source.tokenizer, k, matched[-1], wanted[differs[0]], said[differs[0]])
    return Greedy(length, matched, first)


def _written(runtime: Runtime, prompt: list[int], length: int) -> list[int]:
    runtime.rewind(0)
    said = [int(runtime.forward(prompt).argmax())]
    while len(said) < length:
        said.append(int(runtime.forward(said[-1:]).argmax()))
    return said


def _divergence(tokenizer: Tokenizer | None, prompt: int, step: int, wanted: Logits, artefact: int) -> Divergence:
    source = int(wanted.argmax())
    texts = (None, None) if tokenizer is None else (tokenizer.decode([source]), tokenizer.decode([artefact]))
    return Divergence(prompt, step, source, artefact, float(wanted[source] - wanted[artefact]), *texts)


def by_step(truth: SourceLogits, runtime: Runtime) -> tuple[float, float]:
    """A stretch of the text at once against token by token: largest |difference| of a logit, and the logit error.

    Every runtime takes other kernels for one token than for many; a cache that keeps something else than it computed
    shows here and nowhere else.
    """
    stretch = truth.windows[0][:STRETCH]
    runtime.rewind(0)
    at_once = runtime.forward(stretch, every=True)
    runtime.rewind(0)
    steps = np.stack([runtime.forward([token]) for token in stretch])
    return float(np.abs(at_once - steps).max()), logit_error(at_once, steps)


@dataclass(frozen=True)
class Tokens:
    """An artefact's tokenizer beside the source's."""

    texts: int
    equal: int
    """Of the texts, those that become the same ids."""
    lossless: int
    """Those that come back from the artefact's ids as they were."""
    source_lossless: int
    """Those that come back from the source's: vocabularies that normalise text have fewer than all."""
    differs: str | None
    """The first text whose ids differ."""
    specials: bool
    """Whether BOS and the ids that end a text are the same."""

    def record(self) -> dict[str, Any]:
        return asdict(self)


def tokens(truth: SourceLogits, theirs: Tokenizer | None) -> Tokens | None:
    """Round trip and ids of an artefact's tokenizer; None where one of the two has none."""
    mine = truth.source.tokenizer
    if mine is None or theirs is None:
        return None
    texts = [*AWKWARD, *CALIBRATION.strip().split("\n\n")]
    ids = [mine.encode(text) for text in texts]
    other = ids if theirs is mine else [theirs.encode(text) for text in texts]
    same = [a == b for a, b in zip(ids, other, strict=True)]
    return Tokens(
        texts=len(texts),
        equal=sum(same),
        lossless=sum(theirs.decode(i) == text for i, text in zip(other, texts, strict=True)),
        source_lossless=sum(mine.decode(i) == text for i, text in zip(ids, texts, strict=True)),
        differs=None if all(same) else texts[same.index(False)],
        specials=(mine.bos, mine.stop) == (theirs.bos, theirs.stop),
    )
