"""The doctor on ONNX files: interface, files beside, and what quantization means on other machines."""

import functools
from collections.abc import Iterator
from pathlib import Path

from edgekit.doctor.case import Case
from edgekit.doctor.checks import check
from edgekit.doctor.finding import Finding, counted, error, note, some, warning

SAFE_INT8 = 64
"""The largest weight whose products with uint8 add up in an int16: what `--reduce-range` keeps to."""

# onnxruntime 1.20, the oldest that edgekit asks for, reads files up to this one (microsoft/onnxruntime#23602).
IR_VERSION = 10


@check("onnx")
def configuration_beside(case: Case) -> Iterator[Finding]:
    if case.onnx is None or any(key.startswith("edgekit.") for key in case.keys):
        return
    if "config.json" not in case.files:
        yield error(
            "there is no config.json inside or beside the file",
            "edgekit refuses it: the graph does not say how long the context is, nor which tokenizer belongs to it",
            "put config.json and the tokenizer's files beside it, or make it with `edgekit convert --to onnx`",
        )
    else:
        yield note(
            "another tool made the file; its configuration and tokenizer lie beside it",
            "edgekit and optimum read them from the folder: the file alone is not the model",
            "keep the folder together, or make one file of it: edgekit convert -m SOURCE --to onnx",
        )


@check("onnx")
def other_interface(case: Case) -> Iterator[Finding]:
    if case.onnx is None:
        return
    inputs, outputs = case.onnx.inputs, case.onnx.outputs
    # runtimes/onnx.py tells edgekit's fused graph from optimum's by this input.
    wanted = ("input_ids", "logit_positions" if "seqlens_k" in inputs else "attention_mask")
    missing = [name for name in wanted if name not in inputs]
    if not any(name.startswith("past_key_values.") for name in inputs):
        missing.append("past_key_values.*")
    if "logits" not in outputs:
        missing.append("logits (an output)")
    if missing:
        yield error(
            f"the graph lacks {', '.join(missing)}",
            "edgekit runs the interface of optimum's text-generation-with-past and refuses the file; ONNX Runtime runs "
            "the graph, and leaves the rest to you",
            "export again with --task text-generation-with-past, or with `edgekit convert --to onnx`",
        )


@check("onnx")
def weights_in_another_file(case: Case) -> Iterator[Finding]:
    if case.onnx is None or not case.onnx.external:
        return
    names = sorted(set(case.onnx.external.values()))
    away = [n for n in names if not n or Path(n).is_absolute() or ".." in Path(n).parts]
    missing = [n for n in names if n not in away and not (case.path.parent / n).is_file()]
    if away or missing:
        yield error(
            f"the weights are in {some(away + missing)}, "
            + ("which is not beside the file" if missing else "outside the file's folder"),
            "edgekit and ONNX Runtime refuse the file",
            "put it back where the file says, or make one file: edgekit convert -m SOURCE --to onnx",
        )
    else:
        yield note(
            f"{counted(len(case.onnx.external), 'tensor')} lie in a file beside it: {some(names)}",
            "ONNX Runtime finds it by its name, so neither may be renamed or moved alone; in a browser it must be "
            "handed over too (externalData)",
            "make one file of it: edgekit convert -m SOURCE --to onnx",
        )


@check("onnx")
def int8_that_overflows(case: Case) -> Iterator[Finding]:
    if case.onnx is None or not any("MatMulInteger" in node for node in case.onnx.nodes):
        return
    wide = [
        t.name
        for t in case.tensors.values()
        if t.type == "I8" and len(t.shape) == 2 and t.numbers and t.numbers.largest > SAFE_INT8
    ]
    if wide:
        here = vnni()
        saying = {True: "this one has VNNI", False: "this one has not", None: "this one is no x86, or does not say"}
        yield (warning if here is False else note)(
            f"int8 weights use the whole range (beyond {SAFE_INT8} in {counted(len(wide), 'tensor')})",
            "on x86 without VNNI (before 2019, and many laptops since) ONNX Runtime adds two products in 16 bits, "
            f"which overflow: other text than elsewhere. Of this machine: {saying[here]}",
            "for such machines: edgekit convert --to onnx --graph portable --quant int8 --reduce-range",
        )


@functools.cache
def vnni() -> bool | None:
    """Whether this machine multiplies int8 without overflow; None if it is no x86 or does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    flags = next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), None)
    return None if flags is None else any("vnni" in flag for flag in flags)


@check("onnx")
def one_scale_for_a_call(case: Case) -> Iterator[Finding]:
    if case.onnx is not None and case.onnx.nodes["DynamicQuantizeLinear"]:
        yield note(
            "activations are quantized as they come, with one scale for a call (dynamic int8)",
            "a prompt in one call and the same prompt token by token give slightly other logits, in every program; two "
            "texts may part at a close choice",
            "compare runs that are fed alike, or take fp32",
        )


@check("onnx")
def table_stored_twice(case: Case) -> Iterator[Finding]:
    embedding = case.tensors.get("model.embed_tokens.weight")
    if embedding is None or embedding.raw is None or case.config.get("tie_word_embeddings") is not True:
        return
    turned = [
        t
        for t in case.tensors.values()
        if t is not embedding and t.raw is not None and t.shape in (embedding.shape, embedding.shape[::-1])
    ]
    if len(embedding.shape) == 2 and turned and turned[0].raw is not None:
        yield note(
            f"a tied model's table is stored twice: {turned[0].name} beside the embedding "
            f"({turned[0].raw.size / 1e6:.2f} MB)",
            "it computes the same and takes the room twice, in the file and in memory",
            "edgekit convert -m SOURCE --to onnx stores it once",
        )


@check("onnx")
def operators_of_one_runtime(case: Case) -> Iterator[Finding]:
    own = sorted(n for n in (case.onnx.nodes if case.onnx else ()) if "." in n and not n.startswith("ai.onnx"))
    if own:
        yield note(
            f"the graph has operators beyond the standard: {some(own)}",
            "ONNX Runtime runs it; others that read ONNX do not",
            "for those: edgekit convert --to onnx --graph portable",
        )


@check("onnx")
def newer_format(case: Case) -> Iterator[Finding]:
    if case.onnx is not None and case.onnx.ir_version > IR_VERSION:
        yield warning(
            f"the file's format is IR version {case.onnx.ir_version}",
            f"ONNX Runtime 1.20 reads up to {IR_VERSION} and stops at it (`Unsupported model IR version`)",
            "update onnxruntime where it is to run, or export with an older onnx",
        )
