"""Chat templates as strings for pages: transformers' `apply_chat_template` renders the same, and others are refused."""

import pytest
from test_chat_template import CHATML, GENERATION, LLAMA2, LLAMA3, SMOLLM2, files_with, reference

from edgekit.errors import VocabularyError
from edgekit.tokenizers import chat
from edgekit.tokenizers.tokenmonster.tokenizer import CHAT_TEMPLATE
from edgekit.web.chat_strings import join, strings_of

TRIMMED = (
    "{{ bos_token }}{% for m in messages %}{{ '[' + m.role + '] ' }}{{ m.content | trim }}"
    "{{ eos_token if m.role == 'assistant' }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
IGNORES_SYSTEM = "{% if messages[0].role == 'system' %}{% set messages = messages[1:] %}{% endif %}" + CHATML
TEMPLATES = {
    "stentor2": CHAT_TEMPLATE, "chatml": CHATML, "smollm2": SMOLLM2, "trimmed": TRIMMED, "no system": NO_SYSTEM,
    "ignores system": IGNORES_SYSTEM,
}  # fmt: skip
SYSTEM = {"role": "system", "content": "  Be brief & <kind>. \n"}
TURNS = [
    {"role": "user", "content": " What is <b>\u03c0</b>?\n\n'Quoted' <|im_end|>\x1c"},
    {"role": "assistant", "content": "\u00a0About 3.14 \U0001f600 "},
    {"role": "user", "content": "And e?"},
    {"role": "assistant", "content": ""},
    {"role": "user", "content": "\tThanks"},
]


@pytest.mark.parametrize("name", TEMPLATES)
def test_strings_joined_equal_transformers(tmp_path, name):
    files = files_with(TEMPLATES[name])
    theirs, template = reference(tmp_path, files), chat.from_files(files)
    assert template is not None
    strings = strings_of(template)
    assert (strings["system"] is None) == ("system" in name)
    for length in (1, 3, 5):
        for messages in (TURNS[:length], [SYSTEM, *TURNS[:length]]):
            if messages[0] is SYSTEM and strings["system"] is None:
                continue
            expected = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            assert join(strings, messages) == expected


@pytest.mark.parametrize("source, reason", [
    (LLAMA2, "more than fixed text"),
    (LLAMA3, "writes the current date"),
    (GENERATION, "more than fixed text"),
    ("{{ messages[0].content }}", "each message once, in order"),
    (CHATML.replace("message['content']", "message['content'].split('</think>')[-1]"), "more than fixed text"),
    (CHATML.replace("'<|im_start|>' +", "loop.index0 ~ "), "the first turn in another way"),
    ("{{ x.y.z }}", "cannot be used"),
    ("{{ raise_exception('no') }}", "refuses"),
])  # fmt: skip
def test_strings_of_another_kind_of_template_are_refused(source, reason):
    template = chat.from_files(files_with(source))
    assert template is not None
    with pytest.raises(Exception, match=reason) as refusal:
        strings_of(template)
    assert isinstance(refusal.value, VocabularyError) or "refuses" in reason
