"""What `verify` measures: the source's logits on a text, and what an artefact does with the same tokens.

Everything is read block by block through `Runtime.forward(every=True)`. The source's logits are computed once; if
there are many, they are kept in a temporary file, so that memory stays bounded however long the text is.
"""

import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.conversion.calibration import AWKWARD, CALIBRATION
from edgekit.conversion.verification.contents import Artefact
from edgekit.conversion.verification.metrics import Agreement, Figures, logit_error
from edgekit.conversion.verification.settings import Verifying
from edgekit.errors import CheckpointError, DataError, MissingExtraError, VocabularyError
from edgekit.formats.checkpoint import Checkpoint
from edgekit.formats.open import open_model
from edgekit.inference.reference import Reference
from edgekit.inference.runtime import LoadsGGUF, Logits, Runtime, plugin
from edgekit.inference.scoring import blockwise, prefix_id
from edgekit.settings import Running
from edgekit.tokenizers.base import Tokenizer
from edgekit.tokenizers.load import tokenizer_of
from edgekit.utils import registry
from edgekit.utils.texts import Document

MOST_LOGITS = 1 << 22
"""Logits requested at once, 16 MiB."""
MOST_KEPT = 1 << 25
"""Logits of the source that are kept in memory, 128 MiB; more go to a file."""
FEW = 32
"""If the bundled text has fewer tokens than this, ids are drawn instead."""
PROMPT, STRETCH = 16, 24
"""Tokens of a greedy text's prompt, and of the stretch that is fed at once and step by step."""


@dataclass
class Source:
    """The model that artefacts are compared with.

    Attributes:
        runtime_name: what runs it, as words for a report.
        checkpoint: its tensors; None for an `.onnx`, of which only the logits are known.
        tokenizer: None if the model has none.
    """

    name: str
    runtime: Runtime
    runtime_name: str
    tokenizer: Tokenizer | None
    checkpoint: Checkpoint | None

    @property
    def prefix(self) -> int | None:
        """The id before each window, as in `edgekit eval ppl`."""
        return None if self.tokenizer is None else prefix_id(self.tokenizer, self.runtime, "model")


def of_checkpoint(checkpoint: Checkpoint) -> Source:
    """A checkpoint in memory, run by `edgekit.inference.reference`."""
    runtime = Reference(checkpoint)
    return Source(checkpoint.name, runtime, "float32 numpy", _tokenizer(runtime), checkpoint)


def open_source(path: Path, runtime: str | None, running: Running) -> Source:
    """A model folder or a `.gguf` (dequantized) in plain numpy, an `.onnx` on its runtime; or any on a named runtime.

    Raises:
        EdgekitError: as the runtime's `load` does.
    """
    if path.suffix != ".onnx":
        checkpoint = open_model(path)
        if runtime is None:
            return of_checkpoint(checkpoint)
    else:
        checkpoint, runtime = None, runtime or "onnx"
    module = plugin(runtime)
    if path.suffix != module.SUFFIX and (module.SUFFIX or path.suffix == ".onnx"):
        raise CheckpointError(f"{runtime} does not open {path.name} directly: name another --runtime, or none")
    # With PyTorch this is the model of transformers, without edgekit's own fast path.
    opened = module.load(path, dataclasses.replace(running, reference=True))
    return Source(path.name, opened, runtime, _tokenizer(opened), checkpoint)


def _tokenizer(runtime: Runtime) -> Tokenizer | None:
    """The source's tokenizer; None also if edgekit cannot read it, since weights can be compared without one."""
    try:
        return tokenizer_of(runtime.files, runtime.vocab_size, runtime)
    except VocabularyError:
        return None


def open_runtime(artefact: Artefact, running: Running, *, quick: bool = False) -> tuple[Runtime, str]:
    """An artefact on the runtime of its format, and that runtime's name.

    A folder runs on plain transformers, as other programs run it; in numpy if `quick`, or without PyTorch. A GGUF runs
    on llama.cpp, for the same reason; on the engine where llama.cpp is not installed.
    """
    path = artefact.path
    if (folder := artefact.folder) is not None:
        if not quick:
            try:
                plain = dataclasses.replace(running, reference=True)
                return plugin("torch").load(path, plain), "torch"
            except MissingExtraError:
                pass
        return Reference(folder), "numpy"
    first = registry.for_path("runtimes", path)
    others = [name for name in registry.names("runtimes") if registry.suffix("runtimes", name) == path.suffix]
    missing: MissingExtraError | None = None
    for name in dict.fromkeys([first, *others]):
        try:
            module = plugin(name)
        except MissingExtraError as error:
            missing = missing or error
            continue
        if artefact.gguf is not None and isinstance(module, LoadsGGUF):
            return module.load_gguf(artefact.gguf, running), name
        return module.load(path, running), name
    assert missing is not None
    raise missing


@dataclass
class SourceLogits:
    """The source's logits on a text. `measure_source` makes one.

    Attributes:
        text: what it was measured on, as words for a report.
        ids: the tokens of the text, without the prefix of each window.
        windows: what is fed to a model from an empty cache, one after the other; the last id of each is a target only.
        logits: float32 (positions, vocab_size), window after window.
    """

    source: Source
    settings: Verifying
    text: str
    ids: list[int]
    window: int
    windows: list[list[int]]
    logits: np.ndarray
    is_text: bool = True
    """False if the ids were drawn at random, for want of a tokenizer: then perplexities say nothing."""

    @property
    def positions(self) -> int:
        return len(self.logits)

    @property
    def first(self) -> Logits:
        """The logits of the first window."""
        return self.logits[: len(self.windows[0]) - 1]


def measure_source(source: Source, documents: Sequence[Document] | None, settings: Verifying) -> SourceLogits:
    """Run the source over a text.

    Args:
        documents: the text; None takes the bundled one. A source without a tokenizer that can encode it gets ids
            drawn from its vocabulary with a fixed seed instead.

    Raises:
        DataError: the text has too few tokens.
        CheckpointError: the source's logits are not finite.
    """
    text, ids, is_text = _ids(source, documents, settings.tokens)
    window = min(settings.window, source.runtime.context_length)
    windows = [list(w) for w, _ in blockwise(ids, window, source.prefix) if len(w) > 1]
    if not windows:
        raise DataError(f"the text has {len(ids)} tokens: too few to compare anything")
    kept = _array(sum(len(w) - 1 for w in windows), source.runtime.vocab_size)
    at = 0
    for logits, _ in iter_logits(source.runtime, windows):
        kept[at : at + len(logits)] = logits
        at += len(logits)
    if not np.isfinite(kept[:at]).all():
        raise CheckpointError(f"{source.name}: the source's own logits are not finite: it is damaged")
    return SourceLogits(source, settings, text, ids, window, windows, kept, is_text)


def _ids(source: Source, documents: Sequence[Document] | None, most: int) -> tuple[str, list[int], bool]:
    """What the text is called, at most `most` ids, and whether they are a text's."""
    tokenizer, ids = source.tokenizer, list[int]()
    for document in documents or [Document("", CALIBRATION)]:
        if tokenizer is not None and len(ids) < most:
            ids += tokenizer.encode(document.text)
    if tokenizer is not None and (documents is not None or len(ids) >= FEW):
        return "bundled text" if documents is None else "text", ids[:most], True
    reason = "no tokenizer" if tokenizer is None else "the vocabulary cannot write the bundled text"
    drawn = np.random.default_rng(0).integers(0, source.runtime.vocab_size, most).tolist()
    return f"seeded random ids ({reason})", drawn, False


def _array(positions: int, vocab_size: int) -> np.ndarray:
    """An array for the source's logits; a large one is backed by a file that is already deleted."""
    if positions * vocab_size <= MOST_KEPT:
        return np.empty((positions, vocab_size), np.float32)
    with tempfile.TemporaryFile() as file:  # the mapping outlives the handle, the file nothing
        return np.memmap(file, np.float32, "w+", shape=(positions, vocab_size))


def iter_logits(runtime: Runtime, windows: Sequence[Sequence[int]]) -> Iterator[tuple[Logits, np.ndarray]]:
    """Logits (n, vocab_size) of some positions and the ids that follow there, window by window, from empty caches."""
    size = max(1, MOST_LOGITS // runtime.vocab_size)
    for window in windows:
        runtime.rewind(0)
        fed, targets = window[:-1], np.asarray(window[1:])
        for start in range(0, len(fed), size):
            yield runtime.forward(fed[start : start + size], every=True), targets[start : start + size]


def agreement(expected: SourceLogits, runtime: Runtime) -> tuple[Figures, Logits]:
    """The figures of an artefact, and its logits of the first window.

    Raises:
        RuntimeFailure: its logits are not finite, or the backend failed.
    """
    figures, at, first = Agreement(), 0, []
    for logits, targets in iter_logits(runtime, expected.windows):
        if at < len(expected.first):
            first.append(logits)
        figures.add(np.asarray(expected.logits[at : at + len(logits)]), logits, targets)
        at += len(logits)
    return figures.figures(), np.concatenate(first)


# ----------------------------------------------------------------------------- greedy texts, steps, tokens


@dataclass(frozen=True)
class Divergence:
    """Where a greedy text of the artefact departs from the source's."""

    prompt: int
    step: int
    """Tokens before it, which are the same."""
    source: int
    artefact: int
    """The ids that each chose."""
    margin: float
    """By how much the source's logit of its own choice is above that of the artefact's, in nats."""
    source_text: str | None
    artefact_text: str | None


@dataclass(frozen=True)
class Greedy:
    """Greedy texts, compared with the source's."""

    length: int
    matched: list[int]
    """Tokens before the first that differs, by prompt."""
    divergence: Divergence | None
    """The earliest, by step."""

    def record(self) -> dict[str, Any]:
        return asdict(self)


def greedy(expected: SourceLogits, runtime: Runtime) -> Greedy | None:
    """Greedy texts of the artefact, and where the source would have chosen another token; None if none fits.

    The source reads the artefact's text at once: up to the first difference both have the same tokens before them,
    so its likeliest token at each place is what it would have generated itself.
    """
    settings, source = expected.settings, expected.source
    prefix = [] if source.prefix is None else [source.prefix]
    context = min(runtime.context_length, source.runtime.context_length)
    count = min(PROMPT, len(expected.ids), context // 2)
    length = min(settings.greedy, context - count - len(prefix))
    if length < 1 or count < 1:
        return None
    matched, first = [], None
    for k in range(settings.prompts):
        at = k * (len(expected.ids) - count) // settings.prompts
        prompt = [*prefix, *expected.ids[at : at + count]]
        generated = _generate(runtime, prompt, length)
        source.runtime.rewind(0)
        logits = source.runtime.forward([*prompt, *generated[:-1]], every=True)[len(prompt) - 1 :]
        differs = np.flatnonzero(logits.argmax(-1) != generated)
        matched.append(int(differs[0]) if len(differs) else length)
        if len(differs) and (first is None or matched[-1] < first.step):
            first = _divergence(source.tokenizer, k, matched[-1], logits[differs[0]], generated[differs[0]])
    return Greedy(length, matched, first)


def _generate(runtime: Runtime, prompt: list[int], length: int) -> list[int]:
    runtime.rewind(0)
    ids = [int(runtime.forward(prompt).argmax())]
    while len(ids) < length:
        ids.append(int(runtime.forward(ids[-1:]).argmax()))
    return ids


def _divergence(tokenizer: Tokenizer | None, prompt: int, step: int, logits: Logits, artefact: int) -> Divergence:
    source = int(logits.argmax())
    texts = (None, None) if tokenizer is None else (tokenizer.decode([source]), tokenizer.decode([artefact]))
    return Divergence(prompt, step, source, artefact, float(logits[source] - logits[artefact]), *texts)


def by_step(expected: SourceLogits, runtime: Runtime) -> tuple[float, float]:
    """A stretch of the text at once and token by token: largest |difference| of a logit, and the logit error.

    Every runtime uses other kernels for one token than for many; a cache that stores something else than was computed
    shows here and nowhere else.
    """
    stretch = expected.windows[0][:STRETCH]
    runtime.rewind(0)
    at_once = runtime.forward(stretch, every=True)
    runtime.rewind(0)
    steps = np.stack([runtime.forward([token]) for token in stretch])
    return float(np.abs(at_once - steps).max()), logit_error(at_once, steps)


@dataclass(frozen=True)
class Tokens:
    """An artefact's tokenizer, compared with the source's."""

    texts: int
    equal: int
    """Of the texts, those that become the same ids."""
    lossless: int
    """Those that the artefact's tokenizer decodes to the same text again."""
    source_lossless: int
    """The same of the source's: fewer than all for vocabularies that normalise text."""
    differs: str | None
    """The first text whose ids differ."""
    specials: bool
    """Whether BOS and the ids that end a text are the same."""

    def record(self) -> dict[str, Any]:
        return asdict(self)


def tokens(expected: SourceLogits, tokenizer: Tokenizer | None) -> Tokens | None:
    """Round trip and ids of an artefact's tokenizer; None if it or the source has none."""
    source = expected.source.tokenizer
    if source is None or tokenizer is None:
        return None
    texts = [*AWKWARD, *CALIBRATION.strip().split("\n\n")]
    ids = [source.encode(text) for text in texts]
    other = ids if tokenizer is source else [tokenizer.encode(text) for text in texts]
    same = [a == b for a, b in zip(ids, other, strict=True)]
    return Tokens(
        texts=len(texts),
        equal=sum(same),
        lossless=sum(tokenizer.decode(i) == text for i, text in zip(other, texts, strict=True)),
        source_lossless=sum(source.decode(i) == text for i, text in zip(ids, texts, strict=True)),
        differs=None if all(same) else texts[same.index(False)],
        specials=(source.bos, source.stop) == (tokenizer.bos, tokenizer.stop),
    )
