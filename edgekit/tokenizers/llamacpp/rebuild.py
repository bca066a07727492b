"""The tokenizer of a GGUF file that edgekit did not write: `tokenizer.json` rebuilt from llama.cpp's keys."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Regex as TokenizersRegex

from edgekit.errors import CheckpointError
from edgekit.formats.checkpoint import LlamaConfig
from edgekit.formats.generation_config import from_gguf
from edgekit.formats.gguf import GGUFFile
from edgekit.tokenizers.llamacpp import spm
from edgekit.tokenizers.llamacpp.bpe import GPT2, IGNORES_MERGES, LOWER, SPLITS, UPPER
from edgekit.tokenizers.llamacpp.ends import ends
from edgekit.tokenizers.llamacpp.vocabulary import CONTROL, NORMAL, UNKNOWN, USER_DEFINED
from edgekit.tokenizers.sample_texts import COUNT, sample_texts
from edgekit.tokenizers.transformers_rules import LONGEST_TOKEN

CUTS = {name: regex for regex, name in SPLITS.items()}
CUTS["smollm"] = ""
# Other names of the same split (llama-vocab.cpp, llama_vocab::impl::load).
ALIASES = {
    "gpt-2": "phi-2 mpt olmo jais trillion gigachat a.x-4.0 mellum modern-bert exaone4 jina-es jina-de jina-v2-es",
    "llama-bpe": "llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano dbrx smaug-bpe",
    "smollm": "starcoder refact command-r codeshell exaone minerva-7b",
    "qwen2": "stablelm2 deepseek-r1-qwen megrez hunyuan",
    "gpt-4o": "llama4",
}
CUTS |= {alias: CUTS[name] for name, aliases in ALIASES.items() for alias in aliases.split()}

# llama.cpp cuts by other regexes than the models' own: only ASCII has capitals, and marks are no letters.
_CAPITALS, _SMALL = r"[\p{L}&&[^a-z]]", r"[\p{L}&&[^A-Z]]"
# By one regex after another, the matches and what lies between them.
STOCK_CUTS = {name: [regex.replace(UPPER, _CAPITALS).replace(LOWER, _SMALL)] for name, regex in CUTS.items()}
STOCK_CUTS |= {
    "default": [r"[\p{P}$+<=>^~|]+", GPT2, r"\p{N}+", "[0-9]{3}"],
    "falcon": [r"[\p{P}$+<=>^~|`]+", GPT2, "[0-9]{3}"],
}


def files(file: GGUFFile, config: LlamaConfig) -> tuple[dict[str, bytes], str]:
    """`tokenizer.json` and `tokenizer_config.json` for llama.cpp's `llama` and `gpt2` vocabularies, and a note.

    The note is empty if the rebuilt tokenizer gives llama.cpp's ids. For other kinds there are no files and a note.
    Raises `CheckpointError` if the keys are damaged.
    """
    keys = file.metadata
    kind = keys.get("tokenizer.ggml.model")
    if kind not in ("llama", "gpt2"):
        return {}, f"the file's tokenizer is of llama.cpp's kind {kind!r}, which cannot be rebuilt: none is written"
    texts, types = keys.get("tokenizer.ggml.tokens"), keys.get("tokenizer.ggml.token_type")
    if not isinstance(texts, list) or len(texts) != config.vocab_size or len(set(texts)) != len(texts):
        raise CheckpointError(f"{file.path}: tokenizer.ggml.tokens does not hold {config.vocab_size} different texts")
    if types is None:
        types = np.full(len(texts), NORMAL)
    if not isinstance(types, np.ndarray) or types.shape != (len(texts),):
        raise CheckpointError(f"{file.path}: tokenizer.ggml.token_type does not hold one type for each token")
    try:
        "".join(texts).encode()
        library, note = (_llama(keys, texts, types), "") if kind == "llama" else _gpt2(keys, texts)
    except Exception as error:  # the tokenizers library raises plain Exception, over several lines
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{file.path}: the tokenizer's keys are damaged: {reason}") from error
    for id in np.flatnonzero((types == CONTROL) | (types == USER_DEFINED) | (types == UNKNOWN)):
        special = types[id] != USER_DEFINED
        if len(texts[id]) > LONGEST_TOKEN:  # the library would take minutes
            raise CheckpointError(f"{file.path}: token {id} has more than {LONGEST_TOKEN} characters: it is damaged")
        token = AddedToken(texts[id], special=bool(special), normalized=False)
        library.add_special_tokens([token]) if special else library.add_tokens([token])
    if kind == "llama":
        note = _note_on_ties(library, keys, texts, types)
    names = {f"{name}_token": texts[id] for name, id in _ids(keys, types).items()}
    begins = kind == "llama" or keys.get("tokenizer.ggml.pre") in IGNORES_MERGES
    add_bos = bool(keys.get("tokenizer.ggml.add_bos_token", begins)) and "bos_token" in names
    if add_bos:
        bos = names["bos_token"]
        library.post_processor = processors.TemplateProcessing(
            single=[bos, "$A"], pair=[bos, "$A", bos, "$B"], special_tokens=[(bos, texts.index(bos))]
        )
    values = {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": add_bos, **names}
    values |= {"model_max_length": config.max_position_embeddings, "clean_up_tokenization_spaces": False}
    result = {
        "tokenizer.json": library.to_str().encode(),
        "tokenizer_config.json": json.dumps(values, indent=2).encode(),
    }
    generation = {"eos_token_id": ends(keys, texts), **from_gguf(keys)}
    result["generation_config.json"] = json.dumps(generation, indent=2).encode()
    if isinstance(template := keys.get("tokenizer.chat_template"), str):
        result["chat_template.jinja"] = template.encode("utf-8", "surrogateescape")
    return result, note


def _ids(keys: Mapping[str, Any], types: np.ndarray) -> dict[str, int]:
    ids = {name: keys.get(f"tokenizer.ggml.{key}_token_id") for name, key in
           (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))}  # fmt: skip
    kind = str(keys.get("tokenizer.ggml.model"))
    usual = {"llama": {"bos": 1, "eos": 2, "unk": 0}, "gpt2": {"bos": 11, "eos": 11}}.get(kind, {})
    # llama.cpp's defaults, which in a vocabulary of another order are the ids of ordinary words.
    special = (CONTROL, UNKNOWN)
    ids |= {n: id for n, id in usual.items() if ids[n] is None and id < len(types) and types[id] in special}
    return {name: id for name, id in ids.items() if isinstance(id, int) and 0 <= id < len(types)}


def _llama(keys: Mapping[str, Any], texts: list[str], types: np.ndarray) -> Tokenizer:
    scores = keys.get("tokenizer.ggml.scores")
    if not isinstance(scores, np.ndarray) or scores.shape != (len(texts),):
        raise ValueError("tokenizer.ggml.scores does not hold one score for each token")
    vocab = {text: id for id, text in enumerate(texts)}
    # SentencePiece merges the pair whose result has the best score: every way to split a token in two is a merge, best
    # first (transformers' generate_merges does the same).
    normal = {text for text, kind in zip(texts, types, strict=True) if kind == NORMAL}
    merges = [
        (-float(scores[vocab[text]]), vocab[text[:i]], vocab[text[i:]], text[:i], text[i:])
        for text in texts
        if text in normal
        for i in range(1, len(text))
        if text[:i] in normal and text[i:] in normal
    ]
    unknown = next((t for t, kind in zip(texts, types, strict=True) if kind == UNKNOWN), None)
    library = Tokenizer(
        models.BPE(
            vocab=vocab,
            merges=[(left, right) for *_, left, right in sorted(merges)],
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    prefix = bool(keys.get("tokenizer.ggml.add_space_prefix", True))
    library.normalizer = normalizers.Sequence([normalizers.Prepend("▁")] * prefix + [normalizers.Replace(" ", "▁")])
    library.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()] + [decoders.Strip(" ", 1, 0)] * prefix
    )
    return library


def _note_on_ties(library: Tokenizer, keys: Mapping[str, Any], texts: list[str], types: np.ndarray) -> str:
    """What tokenizer.json splits differently because its merges have an order and equal scores have none."""
    scores = dict(zip(texts, keys["tokenizer.ggml.scores"].tolist(), strict=True))
    if not spm.tied({text: scores[text] for text, kind in zip(texts, types, strict=True) if kind == NORMAL}):
        return ""
    ids, user = {text: id for id, text in enumerate(texts)}, [texts[id] for id in np.flatnonzero(types == USER_DEFINED)]
    unknown, prefix = keys.get("tokenizer.ggml.unknown_token_id", 0), keys.get("tokenizer.ggml.add_space_prefix", True)
    library.encode_special_tokens = True  # text stays text

    def differs(text: str) -> bool:
        plain = (" " * bool(prefix) + text).replace(" ", "▁")
        expected = spm.encode(plain, ids, scores, int(unknown))
        return bool(library.encode(text, add_special_tokens=False).ids != expected)

    different = [t for t in sample_texts() if not any(each in t for each in user) and differs(t)]
    library.encode_special_tokens = False
    if not different:
        return ""
    example = f"e.g. {different[0]!r:.60}"
    return f"tokens of equal score: tokenizer.json splits {len(different)} of {COUNT} texts unlike llama.cpp, {example}"


def _gpt2(keys: Mapping[str, Any], texts: list[str]) -> tuple[Tokenizer, str]:
    merges = keys.get("tokenizer.ggml.merges")
    if not isinstance(merges, list) or not all(" " in merge[1:] for merge in merges):
        raise ValueError("tokenizer.ggml.merges is missing or not a list of pairs")
    pairs = [(merge[:at], merge[at + 1 :]) for merge in merges if (at := merge.index(" ", 1))]
    pre, note = keys.get("tokenizer.ggml.pre", "default"), ""
    library = Tokenizer(models.BPE(vocab={text: id for id, text in enumerate(texts)}, merges=pairs))
    library.model.ignore_merges = pre in IGNORES_MERGES
    if pre not in STOCK_CUTS:
        note = f"the pre-tokenizer {pre!r} is not known here: tokenizer.json cuts words as GPT-2 does"
    cuts = STOCK_CUTS.get(pre, [GPT2])
    if cuts == [GPT2]:
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    elif cuts == [""]:
        library.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    else:
        splits = [pre_tokenizers.Split(TokenizersRegex(regex), "isolated") for regex in cuts]
        library.pre_tokenizer = pre_tokenizers.Sequence(
            [*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
    library.decoder = decoders.ByteLevel()
    return library, note
