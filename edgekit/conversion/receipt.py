"""The receipt: what a conversion measured of itself before its artefact got its name, kept inside.

JSON under the key `edgekit.receipt` (GGUF metadata, ONNX `metadata_props`), or `edgekit_receipt.json` in a folder. No
date and no path, and figures of three digits: the same conversion on the same machine gives the same bytes.

    edgekit, packages   versions of what wrote and ran it
    source              its name and `Checkpoint.sha256`
    to, quant, graph    as `convert` was asked
    importance          the text that the weights were weighed by: its name and sha256; absent if there was none
    text, positions     what it was compared on
    runtime             what ran the artefact; null if that is not installed, and then there are no figures
    figures, greedy, by_step     see `agreement.Figures`, `verification/measure.py`
    tensors             by kind: how many of each type, and the largest error among them
    limits              what a sound artefact of its type never passes: `verification/limits.py`
"""

import importlib.metadata
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from edgekit import __version__
from edgekit.conversion import importance
from edgekit.conversion.verification.measure import SourceLogits, of_checkpoint
from edgekit.conversion.verification.proof import Proof, prove
from edgekit.conversion.verification.settings import SHORT
from edgekit.errors import CheckpointError, DataError
from edgekit.formats import embedded
from edgekit.formats.checkpoint import Checkpoint
from edgekit.settings import Converting
from edgekit.utils import files, registry

FIGURES = ("mean_kl", "p99_kl", "max_difference", "mean_difference", "logit_error", "top1", "top5", "source_perplexity",
           "perplexity")  # fmt: skip
NOTHING = 1e-9
"""A KL or an error below this is rounding that differs from machine to machine: it is written as 0."""


def build(checkpoint: Checkpoint, path: Path, out: Path, to: str, settings: Converting) -> tuple[dict[str, Any], str]:
    """Verify what was just written.

    Args:
        path, out: where it is, and what it will be called.

    Returns:
        The receipt, and a note where something could not be verified; an empty receipt where nothing could.

    Raises:
        CheckpointError: the artefact is broken; says what is wrong with it.
    """
    try:
        # One thread: it adds in the same order on every machine. Besides, OpenBLAS takes every core by default and its
        # threads wait for each other by spinning, so that another busy program makes each product wait for the
        # system's next turn: 12 s instead of 1.5 s for this receipt (12.3M parameters, two cores, one of them busy).
        with threadpool_limits(1, "blas"):
            truth = SourceLogits(of_checkpoint(checkpoint), None, SHORT)
            proof = prove(truth, path, quick=True)
    except DataError as error:  # a vocabulary that cannot write the text, say one of digits
        return {}, f"not verified: {error}"
    if not proof.sound:
        said = proof.failures[0].replace(str(path), out.name)
        raise CheckpointError(f"{out.name} came out broken and is not kept: {said} (--no-verify keeps it)")
    note = ""
    if proof.runtime is None:
        what = "only its tensors were verified" if proof.tensors else "not verified"
        note = f"{what}: {proof.notes[-1]}"
        if not proof.tensors:
            return {}, note
    return contents(truth, proof, checkpoint, to, settings), note


def contents(
    truth: SourceLogits, proof: Proof, checkpoint: Checkpoint, to: str, settings: Converting
) -> dict[str, Any]:
    """The receipt of a sound artefact, plain values for JSON."""
    found: dict[str, Any] = {
        "edgekit": __version__,
        "packages": packages(to, proof.runtime),
        "source": {"name": checkpoint.name, "sha256": checkpoint.sha256},
        "to": to,
        "quant": settings.quant,
    }
    if (graph := getattr(settings, "graph", None)) is not None:
        found["graph"] = graph
    if settings.importance is not None:
        found["importance"] = importance.provenance(settings.importance)
    found |= {"type": proof.type, "runtime": proof.runtime}
    if (figures := proof.figures) is not None:
        found |= {"text": truth.text, "positions": figures.positions}
        found["figures"] = {name: round_figure(getattr(figures, name)) for name in FIGURES}
        found["by_step"] = None if proof.step_difference is None else round_figure(proof.step_difference)
        if proof.greedy is not None:
            found["greedy"] = {"length": proof.greedy.length, "matched": proof.greedy.matched}
        if proof.tokens is not None:
            found["tokenizer"] = {"texts": proof.tokens.texts, "lossless": proof.tokens.lossless}
    found["tensors"] = {
        name: {"types": dict(sorted(group.types.items())), "error": round_figure(group.error)}
        for name, group in proof.tensors.items()
    }
    return found | {"limits": {name: round_figure(value) for name, value in proof.limit._asdict().items()}}


def round_figure(value: float) -> float:
    """Three significant digits, and nothing of what is but rounding."""
    return 0.0 if abs(value) < NOTHING else float(f"{value:.3g}")


def packages(to: str, runtime: str | None) -> dict[str, str]:
    """Versions of the packages that the extras of a converter and of a runtime bring, by name; those installed."""
    extras = {registry.extra("converters", to)}
    if runtime in registry.names("runtimes"):
        extras.add(registry.extra("runtimes", str(runtime)))
    try:
        wanted = importlib.metadata.requires(registry.DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        wanted = []
    names = {"numpy", "safetensors"}
    for line in wanted:
        if (extra := re.search(r"extra == ['\"]([\w-]+)['\"]", line)) and extra[1] in extras:
            names.add(re.match(r"[\w.-]+", line)[0])  # type: ignore[index]
    found = {}
    for name in sorted(names):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def attach(path: Path, receipt: dict[str, Any], room: Any) -> None:
    """Put a receipt into an artefact; a format whose converter has no `add_receipt` goes without."""
    text = json.dumps(receipt, separators=(",", ":"))
    if path.is_dir():
        files.write_bytes(path / embedded.RECEIPT_FILE, (json.dumps(receipt, indent=2) + "\n").encode())
    elif hasattr(room, "add_receipt"):
        room.add_receipt(path, text + " " * (-len(text) % embedded.RECEIPT_ROOM))


def parse(text: object) -> dict[str, Any] | None:
    """A receipt from its JSON; None if there is none, or it is not one."""
    try:
        found = json.loads(text)  # type: ignore[arg-type]
    except (ValueError, TypeError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def summary_lines(receipt: Mapping[str, Any]) -> list[str]:
    """A receipt in words. Files may come from anywhere, so nothing of it is taken for granted."""
    try:
        return _lines(receipt)
    except (AttributeError, KeyError, TypeError, ValueError, IndexError):
        return ["(it cannot be read)"]


def _lines(receipt: Mapping[str, Any]) -> list[str]:
    found = []
    if figures := receipt.get("figures"):
        found.append(f"verified on {receipt['runtime']}, {receipt['positions']} positions of {receipt['text']}")
        greedy = receipt.get("greedy")
        texts = f" · greedy {np.mean(greedy['matched']):.0f} of {greedy['length']} tokens" if greedy else ""
        found.append(
            f"KL {figures['mean_kl']:.2g} · top-1 {100 * figures['top1']:.1f} % · "
            f"top-5 {100 * figures['top5']:.1f} % · max |Δ| {figures['max_difference']:.2g} · "
            f"perplexity {figures['source_perplexity']:.4g} -> {figures['perplexity']:.4g}{texts}"
        )
    if tensors := receipt.get("tensors"):
        kinds = [f"{name} {'+'.join(group['types'])} {group['error']:.2g}" for name, group in tensors.items()]
        found.append(f"error of the tensors: {' · '.join(kinds)}")
    if weighed := receipt.get("importance"):
        found.append(f"weighed by {weighed['text']} (sha256 {weighed['sha256'][:16]}…)")
    source, versions = receipt["source"], [f"{name} {version}" for name, version in receipt["packages"].items()]
    found.append(f"from {source['name']} (sha256 {source['sha256'][:16]}…) by edgekit {receipt['edgekit']}")
    return [*found, f"with {', '.join(versions)}"]
