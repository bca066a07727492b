"""Checks of the chat template: which one counts, and whether its markers are tokens."""

import re
from collections.abc import Iterator

from edgekit.doctor.case import Case
from edgekit.doctor.checks import check
from edgekit.doctor.finding import Finding, note, some, warning
from edgekit.doctor.tokens import added_tokens, facts_of


@check()
def chat_template(case: Case) -> Iterator[Finding]:
    texts = {}
    inside = case.tokenizer_config.get("chat_template")
    if isinstance(inside, list):
        named = {each.get("name"): each.get("template") for each in inside if isinstance(each, dict)}
        if "default" not in named and "chat_template.jinja" not in case.files:
            yield warning(
                f"no chat template is called default (there are {some(named)})",
                "edgekit and transformers refuse a chat that names none of them, and a GGUF gets none",
                'rename one to "default" in tokenizer_config.json',
            )
        inside = named.get("default", next(iter(named.values()), None))
    if isinstance(inside, str):
        texts["tokenizer_config.json"] = inside
    if "chat_template.jinja" in case.files:
        texts["chat_template.jinja"] = case.files["chat_template.jinja"].decode("utf-8", "replace")
    if not texts and isinstance(key := case.keys.get("tokenizer.chat_template"), str):
        texts["tokenizer.chat_template"] = key
    if not texts:
        if case.gguf is not None or (case.kind == "folder" and case.tokenizer is not None):
            yield note(
                "there is no chat template: this is a base model, which continues a text",
                "llama.cpp's server formats a chat as ChatML all the same, llama-cpp-python as Llama 2; a model that "
                "was trained on neither answers poorly",
                "use it to complete texts (llama.cpp: -no-cnv, or /completion)",
            )
        return
    further = sorted(case.path.glob("additional_chat_templates/*.jinja")) if case.kind == "folder" else []
    if others := [path.stem for path in further if path.stem != "default"]:
        yield note(
            f"additional_chat_templates has {some(others)}",
            "transformers uses one of them where its name is given (chat_template=...), and `tool_use` for a chat with "
            "tools; edgekit uses `default` only",
        )
    if len(texts) == 2 and len({text.strip() for text in texts.values()}) == 2:
        yield warning(
            "chat_template.jinja and the chat_template in tokenizer_config.json differ",
            "transformers uses the .jinja file, gguf's tools the one in tokenizer_config.json: one chat, two prompts",
            "keep one of them",
        )
    yield from _marks(case, next(iter(texts.values())))


def _marks(case: Case, template: str) -> Iterator[Finding]:
    """Markers such as <|assistant|> in a template that are not tokens of the vocabulary."""
    marks = sorted(set(re.findall(r"<\|[^|<>{}]+\|>|\[/?INST\]", template)))
    known = set(facts_of(case).get("specials", ())) | set(case.keys.get("tokenizer.ggml.tokens", ()))
    model = case.json("tokenizer.json").get("model")
    known |= set(model.get("vocab", ())) if isinstance(model, dict) and isinstance(model.get("vocab"), dict) else set()
    known |= {token.get("content") for token in added_tokens(case)}
    absent = [mark for mark in marks if mark not in known]
    if absent and known:
        yield note(
            f"the chat template contains {some(absent)}, which is not a token",
            "every program encodes it as several ordinary tokens, as it does when a user types it: the model cannot "
            "tell the two apart",
            "train with tokens for these markers (edgekit vocab add-special), if chats matter",
        )
