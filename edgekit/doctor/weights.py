"""Checks of tensors: names and shapes, types, and values."""

import re
from collections.abc import Iterator

import numpy as np

from edgekit.doctor.case import Case
from edgekit.doctor.checks import check
from edgekit.doctor.files import CLEAN
from edgekit.doctor.finding import Finding, counted, error, note, some, warning
from edgekit.doctor.tensors import NUMPY, SCALES, Tensor
from edgekit.formats.checkpoint import LlamaConfig, without_prefix

READABLE = ("F32", "F16", "BF16")
FLOAT16 = 65504.0
NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}


# -----------------------------------------------------------------------------
# names and shapes


@check("folder")
def wrapped_names(case: Case) -> Iterator[Finding]:
    wrapped = [t.stored for t in case.tensors.values() if without_prefix(t.stored) != t.stored]
    if wrapped:
        yield warning(
            f"{counted(len(wrapped), 'tensor')} with a training wrapper's prefix ({wrapped[0]})",
            "edgekit removes the prefix; transformers does not recognize the names and initializes random weights "
            "instead, with only a warning; llama.cpp's converter stops (`Can not map tensor`)",
            CLEAN,
        )


@check("folder")
def other_names(case: Case) -> Iterator[Finding]:
    bare = [t.stored for t in case.tensors.values() if "model." + without_prefix(t.stored) == t.name]
    if bare:
        yield note(
            f"{counted(len(bare), 'tensor')} without the prefix `model.` ({bare[0]}), as LlamaModel saves them",
            "edgekit and transformers add the prefix; llama.cpp's converter does not know all names without it",
            CLEAN,
        )
    embedding = case.head[0]
    if embedding is not None and embedding.stored == "lm_head.weight":
        yield warning(
            "the table of embedding and head is saved as lm_head.weight only, as safetensors' save_model does",
            "edgekit uses it for both, since the configuration ties them; transformers 4 does not find the embedding, "
            "nor does llama.cpp's converter",
            CLEAN,
        )


@check("folder", "gguf")
def missing_tensors(case: Case) -> Iterator[Finding]:
    missing = [name for name in case.expected if name not in case.tensors]
    if not missing or not case.tensors:
        return
    if case.keys.get("split.count") not in (None, 0, 1):
        return  # `one_of_several_files` explains it: llama.cpp finds the others
    if missing == ["lm_head.weight"]:
        yield error(
            "the head is missing: config.json does not tie it to the embedding, and lm_head.weight is not there",
            "edgekit refuses the folder; transformers initializes a random head, with only a warning; llama.cpp uses "
            "the embedding",
            'if the model was trained with a tied head: "tie_word_embeddings": true in config.json',
        )
        return
    named = [f"{name} (is it {twin}?)" if (twin := _twin(name, case)) else name for name in missing]
    others = "so does llama.cpp"
    if case.kind == "folder":
        others = (
            "transformers initializes random weights for them, with only a warning; llama.cpp's converter writes a "
            "file that llama.cpp does not load"
        )
    yield error(
        f"{counted(len(missing), 'tensor')} missing: {some(named)}",
        f"edgekit refuses the model; {others}",
        "rename tensors with another name, set num_hidden_layers to the actual number, or get the complete file",
    )


def _twin(name: str, case: Case) -> str:
    """An unexpected tensor that is probably this one: one name ends with the other, and the shapes agree."""
    for other in case.tensors:
        ends = other.endswith("." + name) or name.endswith("." + other)
        if other not in case.expected and ends and case.tensors[other].shape == case.expected[name]:
            return other
    return ""


@check("folder", "gguf")
def unexpected_tensors(case: Case) -> Iterator[Finding]:
    if not case.expected:
        return
    heads = {"lm_head.weight", "output.weight"}  # see `tied_head`
    extra = [n for n in case.tensors if n not in case.expected and n not in heads and not n.endswith(".inv_freq")]
    twins = {_twin(n, case) for n in case.expected if n not in case.tensors}
    extra = [name for name in extra if name not in twins]
    if not extra:
        return
    layers = case.shape.num_hidden_layers if case.shape else 0
    why, cure = "edgekit does not use them and refuses the model", "remove them, if they are not needed"
    if all(name.endswith(".bias") for name in extra):
        why = "edgekit and transformers use biases only if config.json enables them; edgekit refuses the model"
        cure = "attention_bias or mlp_bias true in config.json, if the model was trained with them"
    elif all((match := re.search(r"(?:layers|blk)\.(\d+)\.", n)) and int(match[1]) >= layers for n in extra):
        why = f"the configuration has {layers} layers: edgekit refuses the model, transformers ignores the others"
        cure = "set num_hidden_layers to the actual number"
    elif all("lora_" in name for name in extra):
        why = "a LoRA that was not merged: edgekit refuses the model, transformers ignores it"
        cure = "merge it first: merge_and_unload() of peft"
    elif "rope_freqs.weight" in extra:
        why = (
            "rope_freqs.weight scales the rotary embedding, otherwise than Llama 3.1, and edgekit does not support that"
        )
        cure = "run this file with llama.cpp"
    yield error(f"{counted(len(extra), 'tensor')} that a Llama does not have: {some(extra)}", why, cure)


@check("folder")
def old_rotary_tensors(case: Case) -> Iterator[Finding]:
    if any(name.endswith("rotary_emb.inv_freq") for name in case.tensors):
        yield note(
            "the rotary frequencies are stored (rotary_emb.inv_freq), as old transformers did",
            "edgekit, transformers and llama.cpp's converter ignore them and compute them from rope_theta",
        )


@check("folder", "gguf")
def misshaped_tensors(case: Case) -> Iterator[Finding]:
    wrong = [
        f"{n} is {list(t.shape)} and not {list(case.expected[n])}"
        for n, t in case.tensors.items()
        if t.shape != case.expected.get(n, t.shape)
    ]
    if wrong:
        yield error(
            f"{counted(len(wrong), 'tensor')} with another shape than in the configuration: {some(wrong)}",
            "edgekit and transformers refuse the model; so does llama.cpp when it loads a file converted from it",
            "use the configuration of these weights, or set the numbers that fit these shapes",
        )


# -----------------------------------------------------------------------------
# the head


@check("folder", "gguf")
def tied_head(case: Case) -> Iterator[Finding]:
    embedding, head = case.head
    if case.shape is None or embedding is None:
        return
    shares = case.config.get("model_type") == "mobilellm" and case.config.get("share_embedding") is True
    tied = case.config.get("tie_word_embeddings") is True or shares if case.config else case.shape.tie_word_embeddings
    if tied and head is None:
        yield note(
            f"the head is tied to the embedding: one matrix of {int(np.prod(embedding.shape)):,} values is both",
            "it affects every logit, so quantizing it costs more than elsewhere: edgekit keeps 8 bits, llama-quantize "
            "Q6_K, if fewer are requested; other exporters to ONNX store it twice",
        )
    elif head is not None and head.raw is not None and embedding.raw is not None:
        same = head.same(embedding)
        if tied and not same:
            yield error(
                f"{head.name} differs from the embedding, but the configuration ties them",
                "edgekit refuses the model; transformers drops the stored head and uses the embedding, llama.cpp and "
                "its converter use the stored head: programs would give different results",
                'find out which was trained: "tie_word_embeddings": false keeps the head, without it it is dropped',
            )
        elif tied or same:
            yield note(
                f"the head is stored ({head.raw.size / 1e6:.2f} MB), though it equals the embedding",
                "edgekit and transformers keep one of them; llama.cpp and its converter keep both",
                CLEAN if tied and case.kind == "folder" else '"tie_word_embeddings": true would save the space',
            )


# -----------------------------------------------------------------------------
# types


@check("folder")
def unreadable_types(case: Case) -> Iterator[Finding]:
    odd = sorted({t.type for t in case.tensors.values()} - set(READABLE))
    names = [n for n, t in case.tensors.items() if t.type in odd]
    if odd:
        yield error(
            f"{counted(len(names), 'tensor')} of type {some(odd)} ({some(names)})",
            "edgekit reads F32, F16 and BF16 and refuses the folder"
            + ("; llama.cpp's converter rounds float64 to float32" if odd == ["F64"] else ""),
            "load the model with transformers in float32 and save it again",
        )


@check("folder")
def type_not_the_one_said(case: Case) -> Iterator[Finding]:
    declared = case.config.get("dtype") or case.config.get("torch_dtype")
    stored = {t.type for n, t in case.tensors.items() if len(t.shape) > 1 and t.type in NAMES}
    if isinstance(declared, str) and len(stored) == 1 and declared != (name := NAMES[next(iter(stored))]):
        yield warning(
            f"the weights are {name}, config.json says {declared}",
            "edgekit and llama.cpp's converter use the type of the weights; transformers loads them in the type of "
            "config.json "
            'with dtype="auto" (the default in version 5), and rounds',
            f'"dtype": "{name}" in config.json',
        )


@check("folder")
def mixed_types(case: Case) -> Iterator[Finding]:
    kinds: dict[str, int] = {}
    for tensor in case.tensors.values():
        kinds[tensor.type] = kinds.get(tensor.type, 0) + 1
    if len(kinds) > 1 and set(kinds) <= set(READABLE):
        yield note(
            f"tensors of more than one type: {', '.join(f'{n} of {NAMES[k]}' for k, n in sorted(kinds.items()))}",
            "edgekit keeps each as it is; transformers converts all to one type when it loads",
        )


# -----------------------------------------------------------------------------
# numbers


@check()
def not_finite(case: Case) -> Iterator[Finding]:
    bad = [(t, n.nonfinite) for t in case.tensors.values() if (n := t.numbers) and n.nonfinite]
    if bad:
        what = "scales" if all(t.type in SCALES for t, _ in bad) else "values"
        yield error(
            f"{sum(n for _, n in bad):,} {what} are NaN or infinite, in {some(t.name for t, _ in bad)}",
            "the logits that depend on them become NaN. edgekit refuses to convert the model; transformers, ONNX "
            "Runtime and llama.cpp load it without a message and print nonsense, llama-quantize stops",
            "use an earlier checkpoint: the training run overflowed",
        )


@check()
def zeros(case: Case) -> Iterator[Finding]:
    whole, parts = [], []
    for tensor in case.tensors.values():
        numbers = tensor.numbers if _is_weight(tensor) else None
        if numbers is None or not numbers.zeros.size or tensor in case.head:
            continue
        if numbers.zeros.size == numbers.rows:
            whole.append(tensor.name)
        else:
            parts.append(f"{tensor.name} ({numbers.zeros.size} of {numbers.rows})")
    if whole:
        yield warning(
            f"{counted(len(whole), 'tensor')} with nothing but zeros: {some(whole)}",
            "every program runs the model as it is, and that part of it has no effect: the tensor was never trained, "
            "never saved, or lost in a transfer",
            "compare it with the original checkpoint",
        )
    if parts:
        yield note(
            f"rows of zeros in {some(parts)}",
            "they have no effect and cost as much as the others: pruned, or never reached in training",
        )


@check("folder", "gguf")
def zero_embeddings(case: Case) -> Iterator[Finding]:
    embedding = case.head[0]
    numbers = embedding.numbers if embedding else None
    if embedding is None or numbers is None or not numbers.zeros.size:
        return
    if numbers.zeros.size == numbers.rows:
        yield warning(
            f"{embedding.name} has nothing but zeros", "every text looks the same to the model", "get the complete file"
        )
        return
    facts = case.tokenizer.facts() if case.tokenizer else {}
    first = embedding.shape[0] - int(facts.get("padding") or 0)
    text = [int(id) for id in numbers.zeros if id < first]
    if text:
        yield warning(
            f"the embedding rows of {counted(len(text), 'token')} are all zeros (ids {some(text)})",
            "such a token tells the model nothing; if the head is tied, its logit is always 0, which is above that of "
            "every token that the model considers unlikely",
            "train the model on text with these tokens, or ban them when sampling",
        )


def _is_weight(tensor: Tensor) -> bool:
    """False for a graph's constants, a quantizer's zero points and biases, which may be 0."""
    return tensor.name.endswith(".weight") and (tensor.type in NUMPY or tensor.type in ("BF16", *SCALES))


@check("folder", "gguf")
def beyond_float16(case: Case) -> Iterator[Finding]:
    wide = ("F32", "BF16", "F64")
    large = {n: t.numbers.largest for n, t in case.tensors.items() if t.type in wide and t.numbers and len(t.shape) > 1}
    large = {name: value for name, value in large.items() if value > FLOAT16}
    if large:
        worst = max(large, key=lambda name: large[name])
        yield warning(
            f"{counted(len(large), 'tensor')} with values that float16 cannot hold ({worst}: {large[worst]:.4g})",
            "`--quant f16` refuses them; llama.cpp's converter writes float16 by default, and they become infinite, "
            "as they do on a GPU in float16",
            "use --quant f32, bf16 or q8_0 (or the same with llama.cpp's --outtype)",
        )


@check("folder")
def widths_that_do_not_divide(case: Case) -> Iterator[Finding]:
    if case.shape is None:
        return
    rows = _widths(case.shape)
    odd = {w: which for w, which in rows.items() if w % 32}
    if odd:
        yield warning(
            f"rows of {', '.join(f'{w} ({which})' for w, which in odd.items())} do not divide into blocks of 32",
            "GGUF's q8_0, q4_0 and similar types cannot store these tensors: edgekit and llama.cpp write them as "
            f"float16 ({_share(case.shape, odd):.0%} of the weights), so the file is larger than its type suggests",
            "for the next model use widths that divide by 32, better by 256; for this one q8_0 or f16",
        )
    half = {w: which for w, which in rows.items() if w % 256 and w not in odd}
    if half:
        yield note(
            f"rows of {', '.join(f'{w} ({which})' for w, which in half.items())} do not divide into blocks of 256",
            f"K-quants cannot store these tensors ({_share(case.shape, half):.0%} of the weights): llama.cpp's "
            "quantizer uses q5_0 for q4_k, q8_0 for q6_k, q4_0 for q3_k and q2_k, which edgekit's table shows",
            "q8_0, q5_0, q4_0 and iq4_nl are not affected",
        )


def _widths(config: LlamaConfig) -> dict[int, str]:
    """Width of a row -> what has that width."""
    names = {
        config.hidden_size: "hidden_size",
        config.intermediate_size: "intermediate_size",
        config.num_attention_heads * config.head_dim: "the heads together",
    }
    return {**names, config.hidden_size: "hidden_size"}


def _share(config: LlamaConfig, widths: dict[int, str]) -> float:
    """The share of the matrices' values in rows of these widths."""
    sizes = [(int(np.prod(s)), s[-1] in widths) for s in config.shapes().values() if len(s) == 2]
    return sum(n for n, yes in sizes if yes) / sum(n for n, _ in sizes)
