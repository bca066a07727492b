"""The verb `verify`: what a conversion cost, and whether it is one at all.

    found = verify("./checkpoint", ["a.gguf", "b.onnx"])
    found.sound                                  # False: something is broken, found.artefacts[i].failures say what
    found.artefacts[0].figures.mean_kl           # nats a token

The source is run by `reference.py` on its own tensors. Each artefact is fed the same token ids on the runtime that its
format names, and judged by `verification/limits.py`. Three things are held to the source: logits, the tensors that the
file holds (as far as its converter reads them back), and the tokenizer. llama.cpp runs with a float32 KV cache unless
`kv_type` says otherwise, so that the conversion is judged and not the cache.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from edgekit.conversion.verification.measure import SourceLogits, open_source
from edgekit.conversion.verification.proof import Proof, prove, running
from edgekit.conversion.verification.settings import Verifying
from edgekit.formats import hub
from edgekit.utils.progress import Progress, silent
from edgekit.utils.texts import Document

__all__ = ["Proof", "Verification", "verify"]


@dataclass
class Verification:
    """What `verify` found."""

    source: str
    reference: str
    """What ran the source."""
    text: str
    """What it was measured on."""
    positions: int
    window: int
    artefacts: list[Proof]

    @property
    def sound(self) -> bool:
        return all(proof.sound for proof in self.artefacts)

    def record(self) -> dict[str, Any]:
        """Plain values for JSON."""
        mine = {name: getattr(self, name) for name in ("source", "reference", "text", "positions", "window", "sound")}
        return mine | {"artefacts": [proof.record() for proof in self.artefacts]}


def verify(
    model: str | Path | None,
    artefacts: Iterable[str | Path],
    settings: Verifying | None = None,
    *,
    texts: Sequence[Document] | None = None,
    runtime: str | None = None,
    revision: str | None = None,
    progress: Progress = silent,
    **values: Any,
) -> Verification:
    """Hold artefacts to the model they were made from.

    Args:
        model: a Hugging Face folder, a `.gguf`, a `.onnx`, a Hub id, or None for the bundled model.
        artefacts: the same kinds.
        settings, values: the fields of `verify_settings.Verifying`, as an object or one by one.
        texts: what to compare on, as `edgekit.texts.read` gives it; by default the text that edgekit brings.
        runtime: that runs the source: `torch`, `onnx` or `llamacpp`; by default plain numpy on its own tensors.
        progress: told of each artefact.

    Raises:
        MissingExtraError: a runtime that an artefact needs is not installed.
        DataError: the text has too few tokens.
        EdgekitError: the source cannot be opened, or a setting is out of range. What is wrong with an artefact, even
            that it cannot be opened, is no error but one of its `failures`.
    """
    settings = settings or Verifying(**values)
    paths = [hub.resolve(path) for path in artefacts]
    where = hub.resolve(model, revision=revision)
    with threadpool_limits(settings.threads or 1, "blas"):
        truth = SourceLogits(open_source(where, runtime, running(settings)), texts, settings)
        proofs = [prove(truth, path) for path in progress(paths, "verify", len(paths))]
    mine = truth.source
    return Verification(mine.name, mine.said, truth.text, truth.positions, truth.window, proofs)
