"""A chat template as the fixed strings around its messages, for pages, which have no Jinja.

Most templates write the messages in order, each between two strings that depend on its role alone. The strings are
found by rendering marked messages, and kept only if they reproduce what the template renders for other conversations.
`pages/chat.js` joins them; `join` is the same in Python.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edgekit.errors import EdgekitError, VocabularyError
from edgekit.tokenizers.chat import ChatTemplate

ROLES = ("system", "user", "assistant")

Strings = Mapping[str, Any]
"""
start       text before the user's first message, without a message of the system
system      null if the template takes none, else the text before it, and between it and the user's first message
answer      text from a message of the user to an earlier answer
next        text from an answer to the next message of the user
end         text from the last message of the user to the new answer
strip       the roles whose messages lose white space (Python's `str.strip`) at both ends
"""

# Contents that templates treat in special ways: trimmed, escaped, parsed, or taken for other roles.
CONTENTS = (
    "What is the capital of France?", "", " ", "  two\n", "\n\n", "one\ntwo", "\u00a0a\u3000", "<b>&amp; 'it' \"is\"",
    "{{ bos_token }}{% if x %}", "<|user|>\nhi", "user", "system", "assistant: ok", "[INST] x [/INST]", "a</think>b",
    "caf\u00e9 \u4e2d\u6587 \U0001f999", "```python\nprint(1)\n```", "#", "/no_think", "\\n\t",
)  # fmt: skip


def strings_of(template: ChatTemplate) -> dict[str, Any]:
    """The strings of a template.

    Raises:
        VocabularyError: it is damaged, or not of this kind; the message says why.
    """
    if "strftime_now" in template.source:
        raise VocabularyError("its chat template writes the current date")
    strings = _found(template)
    for messages in _conversations(strings["system"] is not None):
        if template.render(messages) != join(strings, messages):
            raise VocabularyError("its chat template is more than fixed text around each message")
    return strings


def join(strings: Strings, messages: Sequence[Mapping[str, str]]) -> str:
    """The prompt of a conversation: optionally a message of the system, then the user's and answers in turn."""
    system = messages[0]["role"] == "system"
    after = {"system": system and strings["system"][1], "user": strings["answer"], "assistant": strings["next"]}
    text = strings["system"][0] if system else strings["start"]
    for i, message in enumerate(messages):
        content = message["content"]
        text += content.strip() if message["role"] in strings["strip"] else content
        text += after[message["role"]] if i + 1 < len(messages) else strings["end"]
    return text


def _found(template: ChatTemplate) -> dict[str, Any]:
    start, answer, next, answer_again, next_again, end = _gaps(template, "uauau")
    if (answer, next) != (answer_again, next_again):
        raise VocabularyError("its chat template writes the first turn in another way than the next")
    system = None
    try:
        before, after, *others = _gaps(template, "suauau")
    except EdgekitError:
        pass  # such as templates that refuse a system's message, or ignore it
    else:
        if others == [answer, next, answer, next, end]:
            system = [before, after]
    strings = {"start": start, "system": system, "answer": answer, "next": next, "end": end, "strip": []}
    roles = ROLES if system else ROLES[1:]
    probe = _conversation("suau" if system else "uau", [" a ", " b\n", "\tc ", " d "][-len(roles) - 1 :])
    text = template.render(probe)
    for strip in (list(some) for count in range(4) for some in itertools.combinations(roles, count)):
        if join(strings | {"strip": strip}, probe) == text:
            return strings | {"strip": strip}
    raise VocabularyError("its chat template is more than fixed text around each message")


def _gaps(template: ChatTemplate, roles: str) -> list[str]:
    """The texts before, between and after marked messages. Raises `EdgekitError`."""
    marks = [f"zq{index}mark{index}qz" for index in range(len(roles))]
    text, gaps = template.render(_conversation(roles, marks)), []
    for mark in marks:
        before, found, text = text.partition(mark)
        if not found or mark in text:
            raise VocabularyError("its chat template does not write each message once, in order")
        gaps.append(before)
    return [*gaps, text]


def _conversation(roles: str, contents: Sequence[str]) -> list[dict[str, str]]:
    named = {role[0]: role for role in ROLES}
    return [{"role": named[role], "content": text} for role, text in zip(roles, contents, strict=True)]


def _conversations(system: bool) -> Iterator[list[dict[str, str]]]:
    """Up to three turns, with each of `CONTENTS` in each place."""
    for roles in ("u", "uau", "uauau", "su", "suau", "suauau"):
        if system or roles[0] == "u":
            for first in range(len(CONTENTS)):
                yield _conversation(roles, [CONTENTS[(first + 3 * i) % len(CONTENTS)] for i in range(len(roles))])
