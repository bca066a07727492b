"""Checks of ONNX files: interface, files next to them, and what quantization means on other machines."""

import functools
from collections.abc import Iterator
from pathlib import Path

from edgekit.doctor.case import Case
from edgekit.doctor.checks import check
from edgekit.doctor.finding import Finding, counted, error, note, some, warning

SAFE_INT8 = 64
"""The largest weight whose products with uint8 can be summed in an int16: the limit of `--reduce-range`."""

# onnxruntime 1.20, the oldest that edgekit supports, reads files up to this version (microsoft/onnxruntime#23602).
IR_VERSION = 10

BRANCH = "use_cache_branch"
EXPORTED = ("input_ids", "attention_mask", "position_ids", BRANCH)
FUSED = ("input_ids", "logit_positions", "seqlens_k", "total_sequence_length")
"""What edgekit feeds besides the cache, to graphs of optimum and to its own."""


@check("onnx")
def configuration_beside(case: Case) -> Iterator[Finding]:
    if case.onnx is None or any(key.startswith("edgekit.") for key in case.keys):
        return
    if "config.json" not in case.files:
        yield error(
            "there is no config.json inside or next to the file",
            "edgekit refuses it: the graph does not tell the length of the context, nor its tokenizer",
            "put config.json and the tokenizer's files next to it, or write it with `edgekit convert --to onnx`",
        )
    else:
        above = not (case.path.absolute().parent / "config.json").is_file()
        readers = "transformers.js read them from there" if above else "optimum read them from the folder"
        yield note(
            "another tool wrote the file; its configuration and tokenizer are "
            + ("in the folder above" if above else "next to it"),
            f"edgekit and {readers}: the file alone is not a complete model",
            "keep the folder together, or write a single file: edgekit convert -m SOURCE --to onnx",
        )


@check("onnx")
def other_interface(case: Case) -> Iterator[Finding]:
    if case.onnx is None:
        return
    inputs, outputs = [name for name in case.onnx.inputs if name not in case.tensors], case.onnx.outputs
    # runtimes/onnx.py tells edgekit's fused graph from optimum's by this input.
    required = ("input_ids", "logit_positions" if "seqlens_k" in inputs else "attention_mask")
    missing = [name for name in required if name not in inputs]
    if not any(name.startswith("past_key_values.") for name in inputs):
        missing.append("past_key_values.*")
    if "logits" not in outputs:
        missing.append("logits (an output)")
    if missing:
        yield error(
            f"the graph lacks {', '.join(missing)}",
            "edgekit needs the interface of optimum's text-generation-with-past and refuses the file; ONNX Runtime "
            "runs the graph, but nothing more",
            "export again with --task text-generation-with-past, or with `edgekit convert --to onnx`",
        )
    known = FUSED if "seqlens_k" in inputs else EXPORTED
    if unknown := [name for name in inputs if name not in known and not name.startswith("past_key_values.")]:
        yield error(
            f"the graph has other inputs: {some(unknown)}",
            "edgekit has nothing to feed them and refuses the file; ONNX Runtime runs the graph only with all inputs",
            "export again with --task text-generation-with-past, or with `edgekit convert --to onnx`",
        )


@check("onnx")
def other_element_types(case: Case) -> Iterator[Finding]:
    if case.onnx is None or "seqlens_k" in case.onnx.inputs:
        return
    cache = {name: kind for name, kind in case.onnx.elements.items() if name.startswith(("past_key_values.", "logits"))}
    if refused := {name: kind for name, kind in cache.items() if kind not in ("F32", "F16", "")}:
        name, kind = next(iter(refused.items()))
        yield error(
            f"{name} has elements of type {kind}",
            "edgekit runs graphs whose cache and logits are float32 or float16, and refuses this one",
            "export again in float32, or with `edgekit convert --to onnx`",
        )
    elif half := [name for name, kind in cache.items() if kind == "F16"]:
        what = "cache and logits" if "logits" in half and len(half) > 1 else some(half)
        yield note(
            f"{what} in float16",
            "edgekit runs it and widens the logits to float32; they are rounded to 11 bits, so where two tokens are "
            "nearly equally likely the text may differ from that of the float32 file. A program that feeds a float32 "
            "cache gets `Unexpected input data type` from ONNX Runtime",
            "for the exact text take the float32 file of the same export",
        )


@check("onnx")
def merged_decoder(case: Case) -> Iterator[Finding]:
    if case.onnx is not None and BRANCH in case.onnx.inputs:
        yield note(
            f"a merged decoder: the input {BRANCH} tells whether there is a cache",
            "edgekit sets it, false at the beginning of a text and true after that; a program that leaves it out gets "
            "an error from ONNX Runtime, which needs every input",
        )


@check("onnx")
def weights_in_another_file(case: Case) -> Iterator[Finding]:
    if case.onnx is None or not case.onnx.external:
        return
    names = sorted(set(case.onnx.external.values()))
    outside = [n for n in names if not n or Path(n).is_absolute() or ".." in Path(n).parts]
    missing = [n for n in names if n not in outside and not (case.path.parent / n).is_file()]
    if outside or missing:
        yield error(
            f"the weights are in {some(outside + missing)}, "
            + ("which is not next to the file" if missing else "outside the file's folder"),
            "edgekit and ONNX Runtime refuse the file",
            "put it back to where the file expects it, or write a single file: edgekit convert -m SOURCE --to onnx",
        )
    else:
        yield note(
            f"{counted(len(case.onnx.external), 'tensor')} stored in another file: {some(names)}",
            "ONNX Runtime finds it by its name, so neither may be renamed or moved alone; in a browser it must be "
            "passed, too (externalData)",
            "write a single file: edgekit convert -m SOURCE --to onnx",
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
        machine = {True: "has VNNI", False: "has no VNNI", None: "is not an x86, or does not tell"}
        yield (warning if here is False else note)(
            f"int8 weights use the full range (beyond {SAFE_INT8} in {counted(len(wide), 'tensor')})",
            "on x86 without VNNI (before 2019, and many laptops since) ONNX Runtime adds two products in 16 bits, "
            f"which overflow: the text differs from other machines. This machine {machine[here]}",
            "for such machines: edgekit convert --to onnx --graph portable --quant int8 --reduce-range",
        )


@functools.cache
def vnni() -> bool | None:
    """Whether this machine multiplies int8 without overflow; None if it is not an x86, or does not tell."""
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
            "activations are quantized at run time, with one scale for each call (dynamic int8)",
            "a prompt in one call and the same prompt token by token give slightly different logits, in every "
            "program; two texts may diverge where two tokens are nearly equally likely",
            "compare runs that are fed in the same way, or use fp32",
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
            f"a tied model's table is stored twice: {turned[0].name} and the embedding "
            f"({turned[0].raw.size / 1e6:.2f} MB)",
            "the result is the same, but it takes the space twice, in the file and in memory",
            "edgekit convert -m SOURCE --to onnx stores it once",
        )


@check("onnx")
def operators_of_one_runtime(case: Case) -> Iterator[Finding]:
    own = sorted(n for n in (case.onnx.nodes if case.onnx else ()) if "." in n and not n.startswith("ai.onnx"))
    if own:
        yield note(
            f"the graph has operators outside the standard: {some(own)}",
            "ONNX Runtime runs it; other programs that read ONNX do not",
            "for other programs: edgekit convert --to onnx --graph portable",
        )


@check("onnx")
def newer_format(case: Case) -> Iterator[Finding]:
    if case.onnx is not None and case.onnx.ir_version > IR_VERSION:
        yield warning(
            f"the file has IR version {case.onnx.ir_version}",
            f"ONNX Runtime 1.20 reads versions up to {IR_VERSION} and refuses this one (`Unsupported model IR "
            "version`)",
            "update onnxruntime on the machines that run it, or export with an older onnx",
        )
