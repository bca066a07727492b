"""One artefact beside its source: what is measured, and what is made of it. `limits.py` says by which limits."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.conversion.verification.contents import Content, Group, config_of, content, kind_of, own_model
from edgekit.conversion.verification.layers import Layer, departs, guess, layers
from edgekit.conversion.verification.measure import (
    Greedy,
    Source,
    SourceLogits,
    Tokens,
    agreement,
    by_step,
    greedy,
    open_artefact,
    tokens,
)
from edgekit.conversion.verification.metrics import Figures, logit_error
from edgekit.conversion.verification.settings import Verifying
from edgekit.conversion.verification.tolerances import LIMITS, Limit, limit_of
from edgekit.errors import EdgekitError, MissingExtraError, VocabularyError
from edgekit.formats.checkpoint import Checkpoint, LlamaConfig
from edgekit.formats.embedded import FILES
from edgekit.inference.reference import Reference
from edgekit.inference.runtime import Logits, Runtime
from edgekit.settings import Running
from edgekit.tokenizers.load import tokenizer_of

SHARE, LEAST = 0.25, 0.05
"""Of a type's `Limit.noise`: for each time that a model amplifies errors, and at least. The whole limit is for models
that amplify four times; stories260K does 1.1 times, a seeded model of Stentor2-12M's shape 6 times. Measured noise is a
sixth of the limit and less on trained models, a third on the one that amplifies most."""


@dataclass
class Proof:
    """What was found of one artefact. What could not be measured is None, or empty."""

    path: Path
    bytes: int
    type: str = "unknown"
    """The coarsest type among its matrices, which decides the limits."""
    runtime: str | None = None
    figures: Figures | None = None
    own_error: float | None = None
    """Logit error of the runtime beside what numpy computes from the artefact's own tensors, on the first window: what
    the runtime adds to the loss of the weights."""
    noise: float | None = None
    """The most of it that rounding inside the runtime explains."""
    greedy: Greedy | None = None
    step_difference: float | None = None
    """Largest difference of a logit between tokens fed at once and one by one."""
    step_error: float | None = None
    """The same as a logit error."""
    tokens: Tokens | None = None
    tensors: dict[str, Group] = field(default_factory=dict)
    """By kind; empty where the format is not read back."""
    layers: list[Layer] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    """Plain sentences, the most telling first; none if the artefact is sound."""
    notes: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        return not self.failures

    @property
    def limit(self) -> Limit:
        return limit_of(self.type)

    def record(self) -> dict[str, Any]:
        """Plain values for JSON."""
        plain = "bytes type runtime sound failures notes own_error noise step_difference step_error".split()
        found: dict[str, Any] = {"path": str(self.path)} | {name: getattr(self, name) for name in plain}
        for name in ("figures", "greedy", "tokens"):
            value = getattr(self, name)
            found[name] = None if value is None else value.record()
        found["tensors"] = {name: group.record() for name, group in self.tensors.items()}
        found["layers"] = [layer.record() for layer in self.layers]
        return found | {"limits": self.limit._asdict()}


def running(settings: Verifying) -> Running:
    return Running(threads=settings.threads, kv_type=settings.kv_type)


def prove(truth: SourceLogits, path: Path, *, quick: bool = False) -> Proof:
    """Measure and judge one artefact.

    Args:
        quick: a model folder runs on numpy, without waiting for PyTorch; and where the artefact's runtime is not
            installed, the last note says so instead of an error, and `runtime` stays None.

    Raises:
        MissingExtraError: the artefact's runtime is not installed.
    """
    path = Path(path)
    files = [path] if path.is_file() else list(path.iterdir())
    proof = Proof(path, sum(p.stat().st_size for p in files if p.is_file()))
    runtime: Runtime | None = None
    try:
        proof.type = kind_of(path)
        found = Content() if truth.source.checkpoint is None else content(truth.source.checkpoint, path)
        proof.tensors = found.groups
        proof.failures += [found.failure] if found.failure else []
        runtime, proof.runtime = open_artefact(path, running(truth.settings), quick=quick)
        _check_keys(truth.source, path, runtime, proof)
        _check_words(truth, runtime, proof, own_model(path, runtime.files, found))
        _check_tokens(truth, runtime, proof)
    except MissingExtraError as error:
        if not quick:
            raise
        proof.notes.append(str(error))
    except EdgekitError as error:
        proof.failures.append(str(error))
    finally:
        if runtime is not None:
            runtime.close()
        truth.source.runtime.rewind(0)
    return proof


def _check_keys(source: Source, path: Path, runtime: Runtime, proof: Proof) -> None:
    """Hold what the artefact says of itself to the source's configuration."""
    theirs = config_of(path, runtime.files)
    if source.checkpoint is None or theirs is None:
        return
    for name in (f.name for f in dataclasses.fields(LlamaConfig)):
        one, other = getattr(source.checkpoint.config, name), getattr(theirs, name)
        if name.endswith("token_id") or name == "tie_word_embeddings" or abs(one - other) <= 1e-6 * abs(one):
            continue
        if name == "max_position_embeddings":
            proof.notes.append(f"its context is {other:,} tokens, the source's {one:,}")
        else:
            proof.failures.append(f"{name} is {other:g} in it, {one:g} in the source")


def _check_tokens(truth: SourceLogits, runtime: Runtime, proof: Proof) -> None:
    mine = truth.source
    same = all(runtime.files.get(name) == mine.runtime.files.get(name) for name in (*FILES, "config.json"))
    try:
        # Equal bytes make equal tokenizers: a second one is not built.
        theirs = mine.tokenizer if same else tokenizer_of(runtime.files, runtime.vocab_size, runtime)
    except VocabularyError as error:
        proof.notes.append(f"its tokenizer cannot be compared: {error}")
        return
    proof.tokens = found = tokens(truth, theirs)
    if found is None:
        return
    if found.differs is not None:
        proof.failures.append(f"its tokenizer makes other ids of {found.differs!r}")
    elif found.lossless < found.source_lossless:
        proof.failures.append("its tokenizer does not give texts back that the source's does")
    elif not found.specials:
        proof.notes.append("BOS, or the ids that end a text, are not the source's")


# ----------------------------------------------------------------------------- logits


def _check_words(truth: SourceLogits, runtime: Runtime, proof: Proof, own: Checkpoint | None) -> None:
    """Measure what the runtime says; judge it by the artefact's own tensors, or by the source where there are none."""
    settings, source = truth.settings, truth.source
    if runtime.vocab_size != source.runtime.vocab_size:
        proof.failures.insert(0, f"it has {runtime.vocab_size:,} tokens, the source {source.runtime.vocab_size:,}")
        return
    proof.figures, said = agreement(truth, runtime)
    if settings.greedy:
        proof.greedy = greedy(truth, runtime)
    if proof.runtime != "numpy":  # the reference's own steps say nothing of an artefact
        proof.step_difference, proof.step_error = by_step(truth, runtime)
    cap = proof.noise = _cap(proof, settings)
    if own is not None:
        _hold_to_its_own(truth, proof, said, own, cap)
    elif proof.sound:
        _hold_to_the_source(truth, proof, said)
    if proof.step_error is not None and proof.step_error > min(2 * proof.noise, cap):
        proof.failures.append(
            f"token by token it gives other logits than at once (logit error {proof.step_error:.2g}): "
            "its KV cache is wrong"
        )
    if settings.max_kl is not None and proof.figures.mean_kl > settings.max_kl:
        proof.failures.append(f"mean KL {proof.figures.mean_kl:.2g} is above --max-kl {settings.max_kl:g}")
    if settings.layers:
        _layer_by_layer(source, proof, own, truth.windows[0][:-1])


def _cap(proof: Proof, settings: Verifying) -> float:
    """The most that rounding inside the runtime explains; a float16 KV cache rounds at least as float16 does."""
    rounded = proof.runtime == "llamacpp" and settings.kv_type == "f16"
    return max(proof.limit.noise, LIMITS["f16"].noise if rounded else 0.0)


def _hold_to_its_own(truth: SourceLogits, proof: Proof, said: Logits, own: Checkpoint, cap: float) -> None:
    """Hold the runtime's logits to those of the artefact's own tensors on numpy, but for what rounding may add.

    How much a model amplifies errors on their way to the logits is measured on the weights' own: a trained one hardly
    does, so there the limit is a small share of the type's.
    """
    logits = Reference(own).forward(truth.windows[0][:-1], every=True)
    proof.own_error, weights = logit_error(logits, said), max(group.error for group in proof.tensors.values())
    if weights > LIMITS["f32"].rows:
        amplified = logit_error(truth.first, logits) / weights
        proof.noise = cap * min(1.0, max(LEAST, SHARE * amplified))
    if proof.own_error > (proof.noise or cap):
        measured = f"logit error {proof.own_error:.2g}, rounding explains {proof.noise:.2g}"
        _broken(truth, own, proof, said, f"its logits are not those of its own tensors ({measured})")


def _hold_to_the_source(truth: SourceLogits, proof: Proof, said: Logits) -> None:
    """The logits alone, where the tensors cannot be read back."""
    assert proof.figures is not None
    for what, found, most in (
        ("logit error", proof.figures.logit_error, max(proof.limit.logits, _cap(proof, truth.settings))),
        ("mean KL", proof.figures.mean_kl, proof.limit.kl),
    ):
        if found > most:
            measured = f"{what} {found:.2g}, a sound {proof.type} stays below {most:g}"
            _broken(truth, truth.source.checkpoint, proof, said, f"its logits are not the source's ({measured})")
            return


def _broken(truth: SourceLogits, model: Checkpoint | None, proof: Proof, said: Logits, sentence: str) -> None:
    """A failure with its reason, if one of the usual faults in `model` gives what was said."""
    reason = ""
    if proof.sound and model is not None:
        reason = guess(model, truth.windows[0][:-1], said)
        if not reason and proof.tensors:
            reason = "its tensors are the source's, the graph or the keys around them are not"
    proof.failures.append(sentence + (f": {reason}" if reason else ""))


def _layer_by_layer(source: Source, proof: Proof, own: Checkpoint | None, first: Sequence[int]) -> None:
    if own is None or source.checkpoint is None:
        proof.notes.append("it cannot be compared layer by layer: its tensors are not read back")
        return
    mine = source.runtime if isinstance(source.runtime, Reference) else Reference(source.checkpoint)
    proof.layers = list(layers(mine, Reference(own), first))
    if part := next((layer for layer in proof.layers if layer.error > departs(proof.type)), None):
        sentence = f"the first part that departs is {part.name} (error {part.error:.2g})"
        (proof.notes if proof.sound else proof.failures).append(sentence)
