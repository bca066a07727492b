"""The doctor on the tokenizer: whether there is one, who can read it, which ids are special, and chat templates."""

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

from edgekit.doctor.case import Case
from edgekit.doctor.checks import check
from edgekit.doctor.finding import Finding, counted, error, note, some, warning
from edgekit.errors import EdgekitError
from edgekit.formats.embedded import FILES
from edgekit.tokenizers import base
from edgekit.tokenizers.llamacpp import bpe
from edgekit.tokenizers.llamacpp.vocabulary import specials

TO_GGUF = "edgekit convert -m FOLDER --to gguf"
GENERATING = ("generation_config.json", "config.json")
"""The order in which transformers' generate asks for ids."""


# -----------------------------------------------------------------------------
# which tokenizer, and who reads it


@check("folder", "onnx")
def no_tokenizer(case: Case) -> Iterator[Finding]:
    if case.kind == "onnx" and case.onnx is None:
        return
    if not any(name in case.files for name in FILES):
        others = "; llama.cpp's converter and transformers' AutoTokenizer stop" if case.kind == "folder" else ""
        yield error(
            "there is no tokenizer",
            f"`edgekit run` has nothing that reads a prompt (the weights can be converted, and run with ids){others}",
            "put tokenizer.json, or tokenizer_config.json and tokenmonster.vocab, beside the weights",
        )


@check("folder", "gguf", "onnx")
def unreadable_tokenizer(case: Case) -> Iterator[Finding]:
    said = case.tokenizer_refusal
    if not said:
        return
    others = "other programs may do better"
    if "another model" in said:
        others = "transformers loads both and fails, or reads beyond the embedding, at an id that it does not have"
    elif "tokenizer.model" in case.files:
        others = "transformers and llama.cpp's converter read tokenizer.model"
    cure = "take the tokenizer that the model was trained with"
    if "no tokenizer" in said or "tokenizer.model" in said:
        cure = "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) writes tokenizer.json"
    yield error(said, f"`edgekit run` refuses the model; {others}", cure)


@check("folder")
def tokenizer_with_code(case: Case) -> Iterator[Finding]:
    auto = case.tokenizer_config.get("auto_map")
    if isinstance(auto, dict) and auto:
        yield note(
            "the tokenizer comes with Python code of its own (auto_map)",
            "edgekit runs no code of a model; transformers runs it, if it is told trust_remote_code=True, and refuses "
            "without; llama.cpp's converter does not",
        )


@check("folder")
def tokenmonster(case: Case) -> Iterator[Finding]:
    if not _is_tokenmonster(case):
        return
    yield warning(
        "the tokenizer is a TokenMonster vocabulary",
        "llama.cpp's converter, ollama and the exporters of ONNX Runtime GenAI know no such thing and stop at it; "
        "edgekit converts it, and runs the file with the exact tokenizer (what others print: `edgekit doctor -m` of "
        "the GGUF)",
        TO_GGUF,
    )
    if not case.tokenizer_config.get("auto_map"):
        yield warning(
            "transformers finds no tokenizer here that it knows",
            "AutoTokenizer.from_pretrained(FOLDER) stops; the weights load",
            "edgekit convert -m FOLDER --to hf writes one beside the weights (then with trust_remote_code=True)",
        )


@check("folder")
def byte_level_vocabulary(case: Case) -> Iterator[Finding]:
    model = case.json("tokenizer.json").get("model")
    if _is_tokenmonster(case) or not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        return
    if not model.get("byte_fallback") and "tokenizer.model" not in case.files:
        yield note(
            "the tokenizer is a byte-level BPE",
            "llama.cpp's converter knows published ones by a hash of the ids that they give to one text, and stops at "
            "every other (`BPE pre-tokenizer was not recognized`): so at one of your own training. ollama's importer "
            "takes a default rule there, and cuts words otherwise",
            TO_GGUF,
        )


@check("folder")
def stock_programs_differ(case: Case) -> Iterator[Finding]:
    """What the GGUF converter would say of the vocabulary: it knows llama.cpp's kinds."""
    if case.shape is None or case.rows is None or case.tokenizer is None or _is_tokenmonster(case):
        return
    try:
        # The rows that there are: a damaged number may claim any.
        shape = dataclasses.replace(case.shape, vocab_size=case.rows)
        vocabulary = bpe.tokens(case.files, specials(case.files, shape))
    except EdgekitError:
        return  # said elsewhere
    for said in vocabulary.notes:
        yield warning(
            said,
            "a GGUF made here runs exactly in edgekit, which takes the tokenizer inside"
            + ("; a stock llama.cpp program aborts when it is asked for text" if vocabulary.model == "none" else ""),
            "run it with edgekit, or give ids to the other program",
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
            cure = "write the id that the tokenizer gives to it, or take the key out"
            if name == "config.json":
                others = "transformers does not even load the model" if key == "pad_token_id" else "others load it"
                yield error(what, f"edgekit refuses the model; {others}, and never see that token", cure)
            else:
                yield warning(what, "edgekit and llama.cpp pass it over; transformers' generate may fail at it", cure)


@check("folder", "onnx")
def no_end(case: Case) -> Iterator[Finding]:
    if case.tokenizer is not None and not case.tokenizer.stop:
        yield warning(
            "no token ends a text: nothing says what EOS is",
            "texts go on until max_new_tokens, here and in transformers; llama.cpp takes its default for the kind of "
            "vocabulary, id 2 or 11, and stops where that comes",
            '"eos_token_id" in generation_config.json or config.json, "eos_token" in tokenizer_config.json',
        )


@check("folder", "onnx")
def end_is_ordinary_text(case: Case) -> Iterator[Finding]:
    own = case.tokenizer
    if own is None:
        return
    ids = case.ids("eos_token_id", *GENERATING)
    name = next((n for n in GENERATING if n in ids), None)
    for id in ids.get(name or "", []):
        if id >= own.vocab_size or not own.decode([id]):
            continue
        shown = repr(own.decode([id]))
        if id in own.stop:
            yield warning(
                f"{name}: eos_token_id {id} is the ordinary token {shown}",
                "every program ends the text wherever the model writes that",
                "write the id of the token that the training data ended its texts with",
            )
        else:
            yield warning(
                f"{name}: eos_token_id {id} is the ordinary token {shown} here (1 and 2 are transformers' defaults)",
                f"edgekit takes {some(sorted(own.stop)) or 'nothing'} for EOS instead; transformers' generate ends the "
                "text wherever the model writes that token, and goes on past the real end",
                '"eos_token_id" with the right id in config.json and generation_config.json',
            )


@check("folder", "onnx")
def special_not_marked(case: Case) -> Iterator[Finding]:
    own = case.tokenizer
    ends = set() if own is None else own.stop | {own.bos}
    spelled = {base.spelling(case.files, "eos_token"), base.spelling(case.files, "bos_token")}
    added = [(str(t.get("content")), t.get("id"), t.get("special")) for t in _added(case)]
    forgotten = [text for text, id, special in added if id in ends and not special and text not in spelled]
    if forgotten:
        yield warning(
            f"nothing marks {some(forgotten)} as special, neither tokenizer.json nor tokenizer_config.json",
            "edgekit takes what begins or ends a text for special; transformers prints it as text, though "
            "skip_special_tokens asks it not to",
            '"special": true in its entry of added_tokens, or "eos_token" in tokenizer_config.json',
        )


def _added(case: Case) -> list[dict[str, Any]]:
    added = case.json("tokenizer.json").get("added_tokens")
    return [token for token in added if isinstance(token, dict)] if isinstance(added, list) else []


@check("folder", "onnx")
def ends_disagree(case: Case) -> Iterator[Finding]:
    said = case.ids("eos_token_id", *GENERATING)
    if len(said) == 2 and not set(said["config.json"]) & set(said["generation_config.json"]):
        yield warning(
            f"eos_token_id is {some(said['config.json'])} in config.json, {some(said['generation_config.json'])} in "
            "generation_config.json",
            "transformers' generate goes by the second, llama.cpp's converter by the first; edgekit ends at either",
            "the same id in both",
        )


@check("folder", "onnx")
def begin_not_added(case: Case) -> Iterator[Finding]:
    own = case.tokenizer
    if own is None or own.bos is not None:
        return
    spelled = base.spelling(case.files, "bos_token")
    if case.ids("bos_token_id") or spelled:
        yield note(
            f"a BOS token is declared{f' ({spelled})' if spelled else ''}, but the tokenizer does not put it before a "
            "text",
            "edgekit and transformers begin with the text; a GGUF made here says so (add_bos_token), but one that does "
            "not say so gets a BOS from llama.cpp if its vocabulary is SentencePiece's kind",
            'if the model was trained with it: "add_bos_token": true in tokenizer_config.json',
        )


@check("folder", "onnx")
def padding_ends(case: Case) -> Iterator[Finding]:
    own = case.tokenizer
    pads = {id for ids in case.ids("pad_token_id").values() for id in ids}
    spelled = base.spelling(case.files, "pad_token")
    if own is not None and (pads & own.stop or (spelled and spelled == base.spelling(case.files, "eos_token"))):
        yield note(
            "padding is the same token as EOS",
            "generating is not touched; training code that masks the padding out of the loss masks the ends too, and "
            "a model fine-tuned so never learns to stop (transformers warns that it cannot infer the attention mask)",
            "when you fine-tune, mask by length, or give padding a row of its own",
        )


@check("folder", "onnx")
def rows_without_a_token(case: Case) -> Iterator[Finding]:
    facts = _facts(case)
    padding = int(facts.get("padding") or 0)
    if padding > 0:
        yield note(
            f"the embedding has {counted(padding, 'row')} that no token stands for (of {case.rows:,})",
            "they decode to nothing here; in a GGUF they are tokens called [PAD...], and any sampler can draw one, "
            "though a trained model makes that unlikely",
        )
    silent = facts.get("bytes_without_token")
    if isinstance(silent, int) and silent > 0 and facts.get("kind") == "TokenMonster":
        yield note(
            f"{counted(silent, 'byte')} of 256 cannot be written with this vocabulary",
            "edgekit leaves them out of a prompt, as TokenMonster does; llama.cpp puts the unknown token there",
        )


def _facts(case: Case) -> dict[str, Any]:
    return case.tokenizer.facts() if case.tokenizer is not None else {}


# -----------------------------------------------------------------------------
# chat


@check()
def chat_template(case: Case) -> Iterator[Finding]:
    texts = {}
    if isinstance(inside := case.tokenizer_config.get("chat_template"), str):
        texts["tokenizer_config.json"] = inside
    if "chat_template.jinja" in case.files:
        texts["chat_template.jinja"] = case.files["chat_template.jinja"].decode("utf-8", "replace")
    if not texts and isinstance(own := case.keys.get("tokenizer.chat_template"), str):
        texts["tokenizer.chat_template"] = own
    if not texts:
        if case.gguf is not None or (case.kind == "folder" and case.tokenizer is not None):
            yield note(
                "there is no chat template: a base model, which goes on from a text",
                "llama.cpp's server wraps a chat in ChatML all the same, llama-cpp-python in Llama 2's marks; a model "
                "that was trained on neither answers as it can",
                "complete texts with it (llama.cpp: -no-cnv, or /completion)",
            )
        return
    if len(texts) == 2 and len({text.strip() for text in texts.values()}) == 2:
        yield warning(
            "chat_template.jinja and the chat_template in tokenizer_config.json differ",
            "transformers takes the .jinja file, gguf's tools the one in tokenizer_config.json: one chat, two prompts",
            "keep one of them",
        )
    yield from _marks(case, next(iter(texts.values())))


def _marks(case: Case, template: str) -> Iterator[Finding]:
    """Marks such as <|assistant|> in a template that are no tokens of the vocabulary."""
    marks = sorted(set(re.findall(r"<\|[^|<>{}]+\|>|\[/?INST\]", template)))
    known = set(_facts(case).get("specials", ())) | set(case.keys.get("tokenizer.ggml.tokens", ()))
    model = case.json("tokenizer.json").get("model")
    known |= set(model.get("vocab", ())) if isinstance(model, dict) and isinstance(model.get("vocab"), dict) else set()
    known |= {token.get("content") for token in _added(case)}
    lacking = [mark for mark in marks if mark not in known]
    if lacking and known:
        yield note(
            f"the chat template writes {some(lacking)}, which is no token of its own",
            "every program spells it in several ordinary tokens, and a user's text can spell it too: the model can "
            "tell neither from the other",
            "train with tokens for the marks (edgekit vocab add-special), if chats matter",
        )
