"""Checks of the tokenizer: whether there is one, which programs read it, and special ids."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from edgekit.doctor.case import Case
from edgekit.doctor.checks import check
from edgekit.doctor.finding import Finding, counted, error, note, some, warning
from edgekit.errors import EdgekitError
from edgekit.formats.embedded import FILES
from edgekit.tokenizers import base, sentencepiece, transformers_rules
from edgekit.tokenizers.llamacpp import bpe
from edgekit.tokenizers.llamacpp.vocabulary import specials
from edgekit.tokenizers.tokenmonster.tokenizer import TokenMonsterTokenizer

TO_GGUF = "edgekit convert -m FOLDER --to gguf"
GENERATING = ("generation_config.json", "config.json")
"""The order in which transformers' generate looks for ids."""


# -----------------------------------------------------------------------------
# which tokenizer, and which programs read it


@check("folder", "onnx")
def no_tokenizer(case: Case) -> Iterator[Finding]:
    if case.kind == "onnx" and case.onnx is None:
        return
    if not any(name in case.files for name in FILES):
        others = "; llama.cpp's converter and transformers' AutoTokenizer stop" if case.kind == "folder" else ""
        yield error(
            "there is no tokenizer",
            f"`edgekit run` cannot read a prompt (the weights can be converted, and run with ids){others}",
            "put tokenizer.json, or tokenizer_config.json and tokenmonster.vocab, next to the weights",
        )


@check("folder", "gguf", "onnx")
def unreadable_tokenizer(case: Case) -> Iterator[Finding]:
    refusal = case.tokenizer_refusal
    if not refusal:
        return
    others = "other programs may do better"
    if "another model" in refusal:
        others = "transformers loads both and fails, or reads past the embedding, at an id that has no row"
    elif sentencepiece.alone(case.files):
        others = "transformers and llama.cpp's converter read tokenizer.model with the same package"
    cure = "use the tokenizer that the model was trained with"
    if "pip install" in refusal:
        cure = "install the package"
    yield error(refusal, f"`edgekit run` refuses the model; {others}", cure)


@check("folder")
def sentencepiece_model_alone(case: Case) -> Iterator[Finding]:
    if sentencepiece.alone(case.files) and case.tokenizer is not None:
        yield note(
            "the tokenizer is tokenizer.model alone, a SentencePiece model",
            "edgekit and transformers 4 convert it whenever they open the folder, which needs the package "
            "sentencepiece; artefacts that edgekit writes have the result inside and need no package",
            "edgekit convert -m FOLDER --to hf writes tokenizer.json",
        )


@check("folder")
def tokenizer_with_code(case: Case) -> Iterator[Finding]:
    auto = case.tokenizer_config.get("auto_map")
    if isinstance(auto, dict) and auto:
        yield note(
            "the tokenizer comes with Python code (auto_map)",
            "edgekit does not run code of a model; transformers runs it with trust_remote_code=True, and without uses "
            "its own class called tokenizer_class, or stops where it has none; llama.cpp's converter does not run it",
        )


@check("folder")
def tokenmonster(case: Case) -> Iterator[Finding]:
    if not _is_tokenmonster(case):
        return
    yield warning(
        "the tokenizer is a TokenMonster vocabulary",
        "llama.cpp's converter, ollama and the exporters of ONNX Runtime GenAI do not support it and stop; edgekit "
        "converts it, and runs the file with the exact tokenizer (`edgekit doctor -m` of the GGUF tells what others "
        "print)",
        TO_GGUF,
    )
    if not case.tokenizer_config.get("auto_map"):
        yield warning(
            "transformers finds no tokenizer that it supports",
            "AutoTokenizer.from_pretrained(FOLDER) stops; the weights load",
            "edgekit convert -m FOLDER --to hf adds one (which needs trust_remote_code=True)",
        )


@check("folder")
def byte_level_vocabulary(case: Case) -> Iterator[Finding]:
    model = case.json("tokenizer.json").get("model")
    if _is_tokenmonster(case) or not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        return
    if not model.get("byte_fallback") and "tokenizer.model" not in case.files:
        yield note(
            "the tokenizer is a byte-level BPE",
            "llama.cpp's converter recognizes published ones by a hash of the ids of one text, and stops at any other "
            "(`BPE pre-tokenizer was not recognized`), such as one that you trained. ollama's importer uses a default "
            "rule instead, and splits words differently",
            TO_GGUF,
        )


@check("folder")
def stock_programs_differ(case: Case) -> Iterator[Finding]:
    """The notes that a conversion to GGUF would make about the vocabulary."""
    if case.shape is None or case.rows is None or case.tokenizer is None or _is_tokenmonster(case):
        return
    try:
        # The actual rows: a damaged number may claim any.
        shape = dataclasses.replace(case.shape, vocab_size=case.rows)
        files = sentencepiece.with_json(case.files)
        vocabulary = bpe.tokens(files, specials(files, shape))
    except EdgekitError:
        return  # another check reports it
    for remark in vocabulary.notes:
        yield warning(
            remark,
            "a GGUF from edgekit runs exactly in edgekit, which uses the tokenizer inside"
            + ("; a stock llama.cpp program aborts when it needs text" if vocabulary.model == "none" else ""),
            "run it with edgekit, or pass ids to the other program",
        )


def _is_tokenmonster(case: Case) -> bool:
    kind = case.tokenizer_config.get("tokenizer_type")
    return kind == "tokenmonster" or ("tokenizer.json" not in case.files and "tokenmonster.vocab" in case.files)


# -----------------------------------------------------------------------------
# special ids


@check()
def ids_out_of_range(case: Case) -> Iterator[Finding]:
    if case.rows is None:
        return
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        for name, ids in case.ids(key).items():
            wrong = [id for id in ids if id >= case.rows]
            if not wrong:
                continue
            what = f"{name}: {key} {some(wrong)} is outside the {case.rows:,} rows of the embedding"
            cure = "set the id that the tokenizer has for it, or remove the key"
            if name == "config.json":
                others = "transformers does not load the model" if key == "pad_token_id" else "others load it"
                yield error(what, f"edgekit refuses the model; {others}, but never meet that token", cure)
            else:
                yield warning(what, "edgekit and llama.cpp ignore it; transformers' generate may fail at it", cure)


@check("folder", "onnx")
def no_end(case: Case) -> Iterator[Finding]:
    if case.tokenizer is not None and not case.tokenizer.stop:
        theirs = "llama.cpp uses its default for the kind of vocabulary, id 2, 11 or 1, and stops at that"
        if _is_tokenmonster(case):
            theirs = "llama.cpp has no default for such a vocabulary, and goes on, too"
        yield warning(
            "no token ends a text: EOS is not declared",
            f"texts continue to max_new_tokens, in edgekit and in transformers; {theirs}",
            '"eos_token_id" in generation_config.json or config.json, "eos_token" in tokenizer_config.json',
        )


@check("folder", "onnx")
def end_is_ordinary_text(case: Case) -> Iterator[Finding]:
    tokenizer = case.tokenizer
    if tokenizer is None:
        return
    ids = case.ids("eos_token_id", *GENERATING)
    name = next((n for n in GENERATING if n in ids), None)
    for id in ids.get(name or "", []):
        if id >= tokenizer.vocab_size or not tokenizer.decode([id]):
            continue
        shown = repr(tokenizer.decode([id]))
        if id in tokenizer.stop:
            yield warning(
                f"{name}: eos_token_id {id} is the ordinary token {shown}",
                "every program ends the text wherever the model generates that token",
                "set the id of the token that ends the texts of the training data",
            )
        else:
            yield warning(
                f"{name}: eos_token_id {id} is the ordinary token {shown} here (1 and 2 are transformers' defaults)",
                f"edgekit uses {some(sorted(tokenizer.stop)) or 'nothing'} as EOS instead; transformers' generate "
                "ends the text wherever the model generates that token, and continues past the real end",
                '"eos_token_id" with the right id in config.json and generation_config.json',
            )


@check("folder", "onnx")
def specials_inside_the_vocabulary(case: Case) -> Iterator[Finding]:
    if not isinstance(case.tokenizer, TokenMonsterTokenizer) or not case.tokenizer.reserved:
        return
    tokenizer, reserved = case.tokenizer, case.tokenizer.reserved
    names = {id: text for text, id in tokenizer.specials.items() if id in reserved}
    listed = some(f"{names.get(id, id)} is id {id}" for id in sorted(reserved))
    if tokenizer.below:
        yield note(
            f"the special tokens come first ({listed}); ids of the .vocab file are higher by {tokenizer.below}",
            "edgekit adds that number, as the model's own adapter does; artefacts have a .vocab file with the model's "
            "ids; TokenMonster's library alone gives ids without it",
        )
        return
    yield note(
        f"{listed}: an ordinary token's id by the .vocab file",
        "edgekit believes the configuration, as the model's own adapter does: a text ends there, and the ids print "
        "nothing; TokenMonster's library alone prints the ordinary tokens",
    )


@check("folder", "onnx")
def special_not_marked(case: Case) -> Iterator[Finding]:
    tokenizer = case.tokenizer
    ends = set() if tokenizer is None else tokenizer.stop | {tokenizer.bos}
    spelled = {base.spelling(case.files, "eos_token"), base.spelling(case.files, "bos_token")}
    added = [(str(t.get("content")), t.get("id"), t.get("special")) for t in added_tokens(case)]
    unmarked = [text for text, id, special in added if id in ends and not special and text not in spelled]
    if unmarked:
        yield warning(
            f"{some(unmarked)} is marked as special neither in tokenizer.json nor in tokenizer_config.json",
            "edgekit treats every token that begins or ends a text as special; transformers prints it as text, in "
            "spite of skip_special_tokens",
            '"special": true in its entry of added_tokens, or "eos_token" in tokenizer_config.json',
        )


def added_tokens(case: Case) -> list[dict[str, Any]]:
    added = case.json("tokenizer.json").get("added_tokens")
    return [token for token in added if isinstance(token, dict)] if isinstance(added, list) else []


@check("folder", "onnx")
def ends_disagree(case: Case) -> Iterator[Finding]:
    ids = case.ids("eos_token_id", *GENERATING)
    if len(ids) == 2 and not set(ids["config.json"]) & set(ids["generation_config.json"]):
        yield warning(
            f"eos_token_id is {some(ids['config.json'])} in config.json, {some(ids['generation_config.json'])} in "
            "generation_config.json",
            "transformers' generate uses the second; llama.cpp's converter uses the id of tokenizer_config.json's "
            "eos_token, or without one the first; edgekit ends at either",
            "set the same id in both",
        )


@check("folder", "onnx")
def begin_not_added(case: Case) -> Iterator[Finding]:
    tokenizer = case.tokenizer
    if tokenizer is None or tokenizer.bos is not None:
        return
    spelled = base.spelling(case.files, "bos_token")
    version4 = "transformers 4" if _differs_in_version5(case) else "transformers"
    if case.ids("bos_token_id") or spelled:
        yield note(
            f"a BOS token is declared{f' ({spelled})' if spelled else ''}, but the tokenizer does not put it before a "
            "text",
            f"edgekit and {version4} begin with the text; a GGUF from edgekit declares that (add_bos_token), but to "
            "one that does not llama.cpp adds a BOS if its vocabulary is of SentencePiece's kind, or its "
            "pre-tokenizer Llama 3's",
            'if the model was trained with it: "add_bos_token": true in tokenizer_config.json',
        )


@check("folder", "onnx")
def end_after_a_prompt(case: Case) -> Iterator[Finding]:
    if isinstance(case.tokenizer, base.Framed) and case.tokenizer.suffix:
        version4 = "transformers 4" if _differs_in_version5(case) else "transformers"
        yield warning(
            "the tokenizer puts EOS after a prompt (add_eos_token, or the template of tokenizer.json)",
            f"{version4} and edgekit do so, and the model continues after the end of a text",
            '"add_eos_token": false in tokenizer_config.json, if the model is to continue prompts',
        )


@check("folder")
def versions_of_transformers_differ(case: Case) -> Iterator[Finding]:
    if not _differs_in_version5(case):
        return
    prefix, suffix = transformers_rules.version5_frame(case.files) or ((), ())
    parts = [f"{some(list(ids))} {where} a text" for ids, where in ((prefix, "before"), (suffix, "after")) if ids]
    yield warning(
        "add_bos_token, add_eos_token and the class ask for another template than tokenizer.json has",
        "edgekit and transformers 4 go by the former, transformers 5 by tokenizer.json: it puts "
        + (" and ".join(parts) or "neither BOS nor EOS there"),
        "save the template that the model was trained with in tokenizer.json (post_processor)",
    )


def _differs_in_version5(case: Case) -> bool:
    tokenizer = case.tokenizer
    if case.kind != "folder" or not isinstance(tokenizer, base.Framed):
        return False
    frame = transformers_rules.version5_frame(case.files)
    return frame is not None and frame != (tokenizer.prefix, tokenizer.suffix)


@check("folder")
def spaces_cleaned_up(case: Case) -> Iterator[Finding]:
    if case.tokenizer_config.get("clean_up_tokenization_spaces") is True:
        yield note(
            "clean_up_tokenization_spaces is on",
            "transformers 4 removes the space before punctuation from what it prints; edgekit, transformers 5 and "
            "llama.cpp's programs print the tokens' own text",
        )


@check("folder", "onnx")
def tokens_without_a_row(case: Case) -> Iterator[Finding]:
    if case.rows is None or "tokenizer.json" not in case.files or _is_tokenmonster(case):
        return
    try:
        texts = transformers_rules.load(case.files, case.rows).without_rows
    except EdgekitError:
        return  # another check reports it
    if texts:
        yield note(
            f"the embedding has no row for {some(list(texts))}",
            "edgekit reads such a token as text; transformers reads past the embedding and fails at it, and runs "
            "otherwise",
            "model.resize_token_embeddings(len(tokenizer)) in transformers, if prompts contain it",
        )


@check("folder", "onnx")
def padding_ends(case: Case) -> Iterator[Finding]:
    tokenizer = case.tokenizer
    pads = {id for ids in case.ids("pad_token_id").values() for id in ids}
    spelled = base.spelling(case.files, "pad_token")
    spelled_alike = spelled != "" and spelled == base.spelling(case.files, "eos_token")
    if tokenizer is not None and (pads & tokenizer.stop or spelled_alike):
        yield note(
            "padding is the same token as EOS",
            "generation is not affected; training code that masks padding in the loss masks the ends, too, and a "
            "model that is fine-tuned that way never learns to stop (transformers warns that it cannot infer the "
            "attention mask)",
            "when you fine-tune, mask by length, or give padding its own row",
        )


@check("folder", "onnx")
def rows_without_a_token(case: Case) -> Iterator[Finding]:
    facts = facts_of(case)
    padding = int(facts.get("padding") or 0)
    if padding > 0:
        yield note(
            f"the embedding has {counted(padding, 'row')} without a token (of {case.rows:,})",
            "they decode to nothing in edgekit; in a GGUF they are tokens named [PAD...], which a sampler can draw, "
            "though a trained model makes that unlikely",
        )
    silent = facts.get("bytes_without_token")
    if isinstance(silent, int) and silent > 0 and facts.get("kind") == "TokenMonster":
        yield note(
            f"{counted(silent, 'byte')} of 256 cannot be encoded with this vocabulary",
            "edgekit drops them from a prompt, as TokenMonster does; llama.cpp uses the unknown token",
        )


def facts_of(case: Case) -> dict[str, Any]:
    return case.tokenizer.facts() if case.tokenizer is not None else {}
