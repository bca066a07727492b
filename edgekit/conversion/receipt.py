"""The receipt: what a conversion measured before its artefact got its name, stored inside the artefact.

JSON under the key `edgekit.receipt` (GGUF metadata, ONNX `metadata_props`), or `edgekit_receipt.json` in a folder. No
date and no path, and figures of three digits: the same conversion on the same machine gives the same bytes.

    edgekit, packages   versions of what wrote and ran it
    source              its name and `Checkpoint.sha256`; from the Hub: its repository, commit and file
    to, quant, graph    as requested from `convert`
    chosen              types that the converter chose by measuring, and the figures; absent if it chose none
    importance          the text that the weights were weighed by: its name and sha256; absent if there was none
    text, positions     what it was compared on
    runtime             what ran the artefact; null if that is not installed, and then there are no figures
    verdict             what it costs in words: `verification/cost.py`; absent if there was no text to measure it on
    figures, greedy, by_step     see `Figures` in `verification/metrics.py`, and `verification/measure.py`
    tensors             by kind: how many of each type, and the largest error among them
    limits              what a sound artefact of its type never exceeds: `verification/tolerances.py`
"""

import importlib.metadata
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from edgekit import __version__
from edgekit.conversion import importance
from edgekit.conversion.base import CarriesReceipt, ChoosesTypes, converter
from edgekit.conversion.verification.cost import sentence
from edgekit.conversion.verification.measure import SourceLogits, measure_source, of_checkpoint
from edgekit.conversion.verification.proof import Proof, prove
from edgekit.conversion.verification.settings import SHORT
from edgekit.errors import CheckpointError, DataError
from edgekit.formats import embedded
from edgekit.formats.checkpoint import Checkpoint
from edgekit.formats.hub_cache import Origin
from edgekit.settings import Converting
from edgekit.utils import files, registry

FIGURES = ("mean_kl", "p99_kl", "max_difference", "mean_difference", "logit_error", "top1", "top5", "source_perplexity",
           "perplexity", "perplexity_change")  # fmt: skip
NOTHING = 1e-9
"""A KL or an error below this is rounding that differs from machine to machine: it is stored as 0."""


class Built(NamedTuple):
    """What verifying an artefact gave."""

    receipt: dict[str, Any] | None
    """None if nothing could be verified."""
    note: str
    """What could not be verified, and why; "" if everything was."""
    expected: SourceLogits | None = None
    """What the artefact was compared with."""
    proof: Proof | None = None


def build(
    checkpoint: Checkpoint, path: Path, out: Path, to: str, settings: Converting, origin: Origin | None = None
) -> Built:
    """Verify what was just written.

    Args:
        path, out: where it is, and its final name.
        origin: where the source is on the Hub, if it is from there.

    Raises:
        CheckpointError: the artefact is broken; says what is wrong with it.
    """
    try:
        with threadpool_limits(1, "blas"):
            expected = measure_source(of_checkpoint(checkpoint), None, SHORT)
            proof = prove(expected, path, quick=True)
    except DataError as error:  # a vocabulary that cannot write the text, say one of digits
        return Built(None, f"not verified: {error}")
    if not proof.sound:
        reason = proof.failures[0].replace(str(path), out.name)
        raise CheckpointError(f"{out.name} came out broken and is not kept: {reason} (--no-verify keeps it)")
    note = ""
    if proof.runtime is None:
        note = f"{'only its tensors were verified' if proof.tensors else 'not verified'}: {proof.notes[-1]}"
        if not proof.tensors:
            return Built(None, note)
    return Built(contents(expected, proof, checkpoint, to, settings, origin), note, expected, proof)


def contents(
    expected: SourceLogits,
    proof: Proof,
    checkpoint: Checkpoint,
    to: str,
    settings: Converting,
    origin: Origin | None = None,
) -> dict[str, Any]:
    """The receipt of a sound artefact, plain values for JSON."""
    receipt: dict[str, Any] = {
        "edgekit": __version__,
        "packages": packages(to, proof.runtime),
        "source": {"name": checkpoint.name, "sha256": checkpoint.sha256},
        "to": to,
        "quant": settings.quant,
        "graph": settings.graph,
    }
    if origin is not None:
        receipt["source"] |= {"hub": origin.record()}
    if settings.importance is not None:
        receipt["importance"] = importance.provenance(settings.importance)
    module = converter(to)
    if isinstance(module, ChoosesTypes) and (chosen := module.chosen(checkpoint, settings)) is not None:
        receipt["chosen"] = chosen
    receipt |= {"type": proof.type, "runtime": proof.runtime}
    if (figures := proof.figures) is not None:
        receipt |= {"text": expected.text, "positions": figures.positions}
        receipt["figures"] = {name: round_figure(getattr(figures, name)) for name in FIGURES}
        if proof.cost is not None:
            receipt["verdict"] = sentence(figures)
        receipt["by_step"] = None if proof.step_difference is None else round_figure(proof.step_difference)
        if proof.greedy is not None:
            receipt["greedy"] = {"length": proof.greedy.length, "matched": proof.greedy.matched}
        if proof.tokens is not None:
            receipt["tokenizer"] = {"texts": proof.tokens.texts, "lossless": proof.tokens.lossless}
    receipt["tensors"] = {
        name: {"types": dict(sorted(group.types.items())), "error": round_figure(group.error)}
        for name, group in proof.tensors.items()
    }
    return receipt | {"limits": {name: round_figure(value) for name, value in proof.limit._asdict().items()}}


def round_figure(value: float) -> float:
    """Three significant digits; 0 for what is only rounding."""
    return 0.0 if abs(value) < NOTHING else float(f"{value:.3g}")


def packages(to: str, runtime: str | None) -> dict[str, str]:
    """Name -> version of the installed packages that the extras of a converter and of a runtime require."""
    extras = {registry.extra("converters", to)}
    if runtime in registry.names("runtimes"):
        extras.add(registry.extra("runtimes", str(runtime)))
    try:
        requirements = importlib.metadata.requires(registry.DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        requirements = []
    names = {"numpy", "safetensors"}
    for line in requirements:
        required, extra = re.match(r"[\w.-]+", line), re.search(r"extra == ['\"]([\w-]+)['\"]", line)
        if required and extra and extra[1] in extras:
            names.add(required[0])
    versions = {}
    for name in sorted(names):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def text_of(receipt: Mapping[str, Any]) -> str:
    """A receipt as it is stored in a file: JSON, padded with blanks to a multiple of `embedded.RECEIPT_ROOM`."""
    text = json.dumps(receipt, separators=(",", ":"))
    return text + " " * (-len(text) % embedded.RECEIPT_ROOM)


def attach(path: Path, receipt: Mapping[str, Any], converter: object) -> None:
    """Put a receipt into an artefact; a file whose converter is no `CarriesReceipt` stays without."""
    if path.is_dir():
        files.write_bytes(path / embedded.RECEIPT_FILE, (json.dumps(receipt, indent=2) + "\n").encode())
    elif isinstance(converter, CarriesReceipt):
        converter.add_receipt(path, text_of(receipt))


def parse(text: object) -> dict[str, Any] | None:
    """A receipt from its JSON; None if there is none, or it is not one."""
    if not isinstance(text, str | bytes):
        return None
    try:
        receipt = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return receipt if isinstance(receipt, dict) else None


def summary_lines(receipt: Mapping[str, Any]) -> list[str]:
    """A receipt in words. A file may come from anywhere, so nothing about its receipt is taken for granted."""
    try:
        return _lines(receipt)
    except (AttributeError, ArithmeticError, KeyError, TypeError, ValueError, IndexError):
        return ["(it cannot be read)"]


def _lines(receipt: Mapping[str, Any]) -> list[str]:
    lines = []
    if figures := receipt.get("figures"):
        lines.append(f"verified on {receipt['runtime']}, {receipt['positions']} positions of {receipt['text']}")
        greedy = receipt.get("greedy")
        texts = f" · greedy {np.mean(greedy['matched']):.0f} of {greedy['length']} tokens" if greedy else ""
        lines.append(
            f"KL {figures['mean_kl']:.2g} · top-1 {100 * figures['top1']:.1f} % · "
            f"top-5 {100 * figures['top5']:.1f} % · max |Δ| {figures['max_difference']:.2g} · "
            f"perplexity {figures['source_perplexity']:.4g} -> {figures['perplexity']:.4g}{texts}"
        )
        if verdict := receipt.get("verdict"):
            lines.append(str(verdict))
    if tensors := receipt.get("tensors"):
        kinds = [f"{name} {'+'.join(group['types'])} {group['error']:.2g}" for name, group in tensors.items()]
        lines.append(f"error of the tensors: {' · '.join(kinds)}")
    if weighed := receipt.get("importance"):
        lines.append(f"weighed by {weighed['text']} (sha256 {weighed['sha256'][:16]}…)")
    source, versions = receipt["source"], [f"{name} {version}" for name, version in receipt["packages"].items()]
    lines.append(f"from {source['name']} (sha256 {source['sha256'][:16]}…) by edgekit {receipt['edgekit']}")
    if hub := source.get("hub"):
        lines.append(f"which is {'/'.join(filter(None, (hub['repository'], hub.get('file'))))} at {hub['revision']}")
    return [*lines, f"with {', '.join(versions)}"]
