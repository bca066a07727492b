"""BLiMP, the Benchmark of Linguistic Minimal Pairs: does a model prefer the grammatical sentence of two?

67 paradigms of 1,000 pairs (Warstadt et al. 2020, github.com/alexwarstadt/blimp). A pair is right if the summed
log-probability of the good sentence is at least that of the bad one. A paradigm's accuracy is the share of right
pairs; the accuracy of a field, a term or the whole is the unweighted mean of its paradigms. Two protocols:

lm-eval     lm-evaluation-harness's: the tokenizer's BOS, or else its EOS, then " " + sentence, all of whose tokens are
            scored. If the sentence's ids start with that same token, it is not added again. A tie is right, since the
            good sentence is the first choice.
bare        the sentence alone: its first token cannot be scored, and a sentence of one token scores 0. Pairs that
            differ in their first word are judged by what follows it.
"""

import difflib
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edgekit.errors import ContextError, DataError, UsageError
from edgekit.evaluation.settings import Judging
from edgekit.inference.runtime import Runtime
from edgekit.inference.scoring import log_sum_exp, prefix_id
from edgekit.model import Model
from edgekit.utils.files import os_reason
from edgekit.utils.guard import reads
from edgekit.utils.progress import Progress, silent
from edgekit.utils.texts import decode, expanded, most, records, text_of

STRONG, WEAK = 85.0, 55.0
"""Percent: a paradigm is strong from STRONG up, weak from WEAK down, else moderate (Stentor2's model card)."""

INVARIANT = 1e-4
"""How much logits may change, when tokens come in several calls, for sentences to share work by default.

Measured on a 12.3M model: float32 ONNX 5e-6; llama.cpp f32 6e-4 with its f16 cache (1e-5 with f32), q8_0 0, q4_0
0.06 at some lengths and 0 at others; ONNX Runtime's dynamic int8 0.4.
"""
LENGTHS = 8
"""How many lengths of sentences are tried to find out."""


class Pair(NamedTuple):
    """A minimal pair."""

    paradigm: str
    good: str
    bad: str
    field: str = ""
    """syntax, morphology, semantics or syntax_semantics."""
    term: str = ""
    """The phenomenon: island_effects, anaphor_agreement, ..."""


@dataclass(frozen=True)
class Paradigm:
    """The result on one paradigm."""

    name: str
    field: str
    term: str
    pairs: int
    right: int

    @property
    def accuracy(self) -> float:
        """Percent."""
        return 100 * self.right / self.pairs

    @property
    def level(self) -> str:
        """strong, moderate or weak."""
        return "strong" if self.accuracy >= STRONG else "weak" if self.accuracy <= WEAK else "moderate"


@dataclass(frozen=True)
class Blimp:
    """The result of `blimp`, and its settings."""

    protocol: str
    prefix: int | None
    reuse: bool
    paradigms: tuple[Paradigm, ...]

    @property
    def accuracy(self) -> float:
        """Percent: the unweighted mean of paradigms."""
        return _mean(self.paradigms)

    def by(self, key: str) -> dict[str, tuple[int, float]]:
        """By "field", "term" or "level": name -> number of paradigms and their mean accuracy; sorted by name."""
        groups: dict[str, list[Paradigm]] = {}
        for paradigm in self.paradigms:
            groups.setdefault(getattr(paradigm, key), []).append(paradigm)
        return {name: (len(groups[name]), _mean(groups[name])) for name in sorted(groups)}

    def record(self) -> dict[str, Any]:
        """Plain values for JSON."""
        rules = {"protocol": self.protocol, "prefix": self.prefix, "reuse": self.reuse, "accuracy": self.accuracy}
        groups = {
            f"{key}s": {name: {"paradigms": n, "accuracy": mean} for name, (n, mean) in self.by(key).items()}
            for key in ("level", "field", "term")
        }
        names = ("name", "field", "term", "pairs", "right", "accuracy", "level")
        return rules | groups | {"paradigms": [{name: getattr(p, name) for name in names} for p in self.paradigms]}


def _mean(paradigms: Sequence[Paradigm]) -> float:
    return sum(p.accuracy for p in paradigms) / len(paradigms)


@reads(DataError)
def read(path: str | Path) -> list[Pair]:
    """The pairs of a zip of .jsonl files, a folder of .jsonl or .jsonl.gz files, or one such file.

    Raises:
        FileError: the file cannot be read.
        DataError: it is damaged, or has no pairs.
    """
    path = Path(path)
    if path.is_dir():
        names = sorted(p for p in path.rglob("*") if p.name.endswith((".jsonl", ".jsonl.gz")))
        texts = [(str(p), text_of(p)) for p in names]
    elif path.suffix == ".zip":
        texts = _zipped(path)
    else:
        texts = [(str(path), text_of(path))]
    pairs = [_pair(record, place) for where, text in texts for place, record in records(text, where)]
    if not pairs:
        raise DataError(f"{path} has no .jsonl files with sentence pairs")
    return pairs


def _zipped(path: Path) -> list[tuple[str, str]]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(n for n in archive.namelist() if n.endswith(".jsonl") and not n.startswith("__MACOSX"))
            limit, read = most(path.stat().st_size), []
            for name in names:
                with archive.open(name) as file:
                    data = expanded(file, limit, f"{path}: {name}")
                limit -= len(data)
                read.append((f"{path}: {name}", decode(data, f"{path}: {name}")))
            return read
    except OSError as error:
        raise DataError(f"cannot read {path}: {os_reason(error)}") from error
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        # RuntimeError: encrypted
        raise DataError(f"{path} is not a complete zip file: {error}") from error


def _pair(record: dict[str, Any], where: str) -> Pair:
    for key in ("sentence_good", "sentence_bad"):
        if not isinstance(record.get(key), str) or not record[key]:
            raise DataError(f'{where} has no "{key}"')
    name = record.get("UID") or Path(where.rpartition(" line ")[0]).name.split(".")[0]
    field = str(record.get("field") or "").replace("/", "_")  # the published files spell one field both ways
    return Pair(
        str(name), record["sentence_good"], record["sentence_bad"], field, str(record.get("linguistics_term") or "")
    )


def blimp(
    model: Model,
    pairs: Iterable[Pair],
    settings: Judging | None = None,
    *,
    progress: Progress = silent,
    **values: Any,
) -> Blimp:
    """Judge sentence pairs.

    Args:
        model: from `edgekit.load`; its cache is used, and empty afterwards.
        pairs: from `read`, or your own.
        settings, values: the fields of `evaluation.settings.Judging`, as an object or one by one. `reuse` lets
            sentences share the computation of a common beginning. By default it is on unless logits change by more than
            `INVARIANT` when tokens come in several calls (as with dynamic int8), which is measured first.
        progress: called for each paradigm.

    Raises:
        SettingError, UsageError: invalid settings, or a prefix or paradigm that does not exist.
        DataError: no pairs.
        ContextError: a sentence that does not fit into the context.
        RuntimeFailure: the model's logits are not finite.
    """
    settings = settings or Judging(**values)
    groups = _grouped(pairs, settings)
    bare = settings.protocol == "bare"
    prefix = prefix_id(model.tokenizer, model.runtime, settings.prefix or ("none" if bare else "lm-eval"))
    space = "" if bare else " "
    reuse = settings.reuse
    scorer: Scorer | None = None
    results = []
    for name, group in progress(groups.items(), "blimp", len(groups)):
        sentences = [sequence(model, space + text, prefix) for pair in group for text in (pair.good, pair.bad)]
        if scorer is None:
            if reuse is None:
                lengths = {len(ids): ids for ids in sentences}
                reuse = all(invariant(model.runtime, lengths[n]) for n in sorted(lengths)[-LENGTHS:])
            scorer = Scorer(model.runtime, reuse)
        scores = scorer.scores(sentences)
        right = sum(good >= bad for good, bad in zip(scores[::2], scores[1::2], strict=True))
        results.append(Paradigm(name, group[0].field, group[0].term, len(group), right))
    model.runtime.rewind(0)
    return Blimp(settings.protocol, prefix, bool(reuse), tuple(results))


def _grouped(pairs: Iterable[Pair], settings: Judging) -> dict[str, list[Pair]]:
    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(pair.paradigm, []).append(pair)
    if not groups:
        raise DataError("no sentence pairs to judge")
    if absent := [name for name in settings.paradigms if name not in groups]:
        near = difflib.get_close_matches(absent[0], groups, n=1)
        hint = f": did you mean {near[0]}?" if near else f": there are {len(groups)}, such as {next(iter(groups))}"
        raise UsageError(f"no paradigm {absent[0]!r}{hint}")
    return {name: groups[name][: settings.limit] for name in settings.paradigms or sorted(groups)}


def sequence(model: Model, text: str, prefix: int | None) -> list[int]:
    """The prefix (unless the text's ids start with it) and the text's ids; all but the first are scored."""
    ids = model.tokenizer.encode(text)
    sequence = ids if prefix is None or ids[:1] == [prefix] else [prefix, *ids]
    if len(sequence) > (limit := model.runtime.context_length) + 1:  # the last token is never fed
        raise ContextError(f"a sentence of {len(sequence)} tokens does not fit into the context of {limit}: {text!r}")
    return sequence


def invariant(runtime: Runtime, ids: Sequence[int]) -> bool:
    """Whether logits stay within `INVARIANT` if ids[:-1] come in two calls instead of one, wherever they are cut."""
    if len(ids) < 3:
        return True
    ids = ids[:-1]  # as scoring feeds them
    runtime.rewind(0)
    whole = runtime.forward(ids, every=True)
    for cut in range(1, len(ids)):
        runtime.rewind(0)
        runtime.forward(ids[:cut])
        if np.abs(runtime.forward(ids[cut:], every=True) - whole[cut:]).max() > INVARIANT:
            return False
    return True


class Scorer:
    """Sums of log-probabilities, with or without computing common beginnings once.

    With `reuse` the sentences are taken in order of their ids. What two successive ones have in common stays in the
    runtime's cache, and its logits stay here; only the rest is fed. Sentences that differ only in their last token cost
    one forward call together.
    """

    def __init__(self, runtime: Runtime, reuse: bool):
        self.runtime, self.reuse = runtime, reuse
        self._ids: Sequence[int] = ()
        self._rows: list[np.ndarray] = []  # logits after each id fed, and log(sum(exp())) of them
        self._norms: list[float] = []
        runtime.rewind(0)

    def scores(self, sequences: Sequence[list[int]]) -> list[float]:
        """One score each, in nats: of all ids but the first."""
        order = sorted(range(len(sequences)), key=lambda i: sequences[i]) if self.reuse else range(len(sequences))
        scores = [0.0] * len(sequences)
        for i in order:
            scores[i] = self.score(sequences[i])
        return scores

    def score(self, ids: Sequence[int]) -> float:
        """The summed natural log-probability of ids[1:], each after all before it; 0.0 if there are none."""
        fed = len(ids) - 1  # what follows the last id is not needed
        if fed < 1:
            return 0.0
        known = min(_common(self._ids, ids), len(self._rows), fed) if self.reuse else 0
        del self._rows[known:], self._norms[known:]
        self.runtime.rewind(known)
        if known < fed:
            logits = self.runtime.forward(ids[known:fed], every=True)
            self._rows += list(logits)
            self._norms += log_sum_exp(logits).tolist()
        self._ids = ids
        return sum(float(self._rows[i][ids[i + 1]]) - self._norms[i] for i in range(fed))


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common prefix."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
