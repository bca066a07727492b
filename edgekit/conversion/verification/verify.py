"""The verb `verify`: what a conversion lost, and whether it is sound.

    result = verify("./checkpoint", ["a.gguf", "b.onnx"])
    result.sound                                  # False: something is broken, see result.artefacts[i].failures
    result.artefacts[0].figures.mean_kl           # nats a token

The source is run by `reference.py` on its own tensors. Each artefact gets the same token ids on the runtime of its
format, and is judged by `tolerances.py`. Three things are compared with the source: logits, the tensors in the file (as
far as its converter reads them back), and the tokenizer. llama.cpp runs with a float32 KV cache unless `kv_type` names
another, so that the conversion is judged and not the cache.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from edgekit.conversion.verification.measure import measure_source, open_source
from edgekit.conversion.verification.proof import Proof, prove, running
from edgekit.conversion.verification.settings import Verifying
from edgekit.formats import hub
from edgekit.utils.progress import Progress, silent
from edgekit.utils.texts import Document

__all__ = ["Proof", "Verification", "verify"]


@dataclass
class Verification:
    """The result of `verify`."""

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
        names = ("source", "reference", "text", "positions", "window", "sound")
        record: dict[str, Any] = {name: getattr(self, name) for name in names}
        return record | {"artefacts": [proof.record() for proof in self.artefacts]}


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
    """Compare artefacts with the model that they were converted from.

    Args:
        model: a Hugging Face folder, a `.gguf`, a `.onnx`, a Hub id, or None for the bundled model.
        artefacts: the same kinds.
        settings, values: the fields of `Verifying`, as an object or one by one.
        texts: what to compare on, as `edgekit.utils.texts.read` returns it; by default the text that comes with
            edgekit.
        runtime: runs the source: `torch`, `onnx` or `llamacpp`; by default plain numpy on its own tensors.
        progress: called with the artefacts.

    Raises:
        MissingExtraError: a runtime that an artefact needs is not installed.
        DataError: the text has too few tokens.
        EdgekitError: the source cannot be opened, or a setting is out of range. Whatever is wrong with an artefact,
            even that it cannot be opened, is not an error but one of its `failures`.
    """
    settings = settings or Verifying(**values)
    paths = [hub.resolve(path) for path in artefacts]
    where = hub.resolve(model, revision=revision)
    with threadpool_limits(settings.threads or 1, "blas"):
        expected = measure_source(open_source(where, runtime, running(settings)), texts, settings)
        proofs = [prove(expected, path) for path in progress(paths, "verify", len(paths))]
    source = expected.source
    return Verification(source.name, source.runtime_name, expected.text, expected.positions, expected.window, proofs)
