"""Chat templates: transformers' `apply_chat_template` is the reference, and a hostile template ends in one line."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from edgekit.errors import EdgekitError, PromptError, VocabularyError
from edgekit.formats.checkpoint import side_files
from edgekit.tokenizers import chat
from edgekit.tokenizers.chat import ChatTemplate
from edgekit.tokenizers.hf_adapter import export
from edgekit.tokenizers.load import from_files
from edgekit.tokenizers.tokenmonster.tokenizer import CHAT_TEMPLATE

CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>'"
    " + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# SmolLM2-Instruct's: it has a system text of its own.
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
    "{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\n' + system_message + '\n<</SYS>>\n\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA3 = (
    "{{- bos_token }}\n{%- set date_string = strftime_now('%d %b %Y') if strftime_now is defined else '26 Jul' %}\n"
    "{%- if not tools is defined %}\n    {%- set tools = none %}\n{%- endif %}\n"
    "{%- if messages[0]['role'] == 'system' %}\n    {%- set system_message = messages[0]['content']|trim %}\n"
    "    {%- set messages = messages[1:] %}\n{%- else %}\n    {%- set system_message = '' %}\n{%- endif %}\n"
    "{{- '<|start_header_id|>system<|end_header_id|>\n\n' }}\n"
    "{{- 'Cutting Knowledge Date: December 2023\nToday Date: ' + date_string + '\n\n' }}\n"
    "{%- if tools is not none %}{{ tools | tojson(indent=4) }}{%- endif %}\n"
    "{{- system_message }}\n{{- '<|eot_id|>' }}\n"
    "{%- for message in messages %}\n    {%- if message.role == 'ipython' %}{% continue %}{% endif %}\n"
    "    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim"
    " + '<|eot_id|>' }}\n{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}\n{%- endif %}\n"
)
GENERATION = (
    "{% for message in messages %}{% if message.role == 'assistant' %}{% generation %}{{ message.content }}"
    "{{ eos_token }}{% endgeneration %}{% else %}\n  {{ message | tojson }}\n{% endif %}{% endfor %}"
)
TEMPLATES = {
    "stentor2": CHAT_TEMPLATE, "chatml": CHATML, "smollm2": SMOLLM2, "llama2": LLAMA2, "llama3": LLAMA3,
    "generation": GENERATION,
}  # fmt: skip

SYSTEM = {"role": "system", "content": "  Be brief & <kind>. "}
USER = {"role": "user", "content": "What is <b>π</b>?\n\n'Quoted' <|im_end|> text"}
ASSISTANT = {"role": "assistant", "content": "About 3.14 \U0001f600"}
CONVERSATIONS = {
    "user": [USER],
    "system": [SYSTEM, USER],
    "turns": [SYSTEM, USER, ASSISTANT, {"role": "user", "content": "And e?"}],
    "answered": [USER, ASSISTANT],
    "empty": [{"role": "user", "content": ""}],
}
SPECIALS = [
    "<s>",
    "</s>",
    "<unk>",
    "<|im_start|>",
    "<|im_end|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
]


def files_with(template, **config) -> dict[str, bytes]:
    """A byte-level tokenizer with the special tokens of all templates."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {text: id for id, text in enumerate([*alphabet, "ab"])}
    library = Tokenizer(models.BPE(vocab=vocab, merges=[("a", "b")]))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens(SPECIALS)
    values = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"} | config
    if template is not None:
        values["chat_template"] = template
    return {"tokenizer.json": library.to_str().encode(), "tokenizer_config.json": json.dumps(values).encode()}


def reference(tmp_path, files):
    transformers = pytest.importorskip("transformers")
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    return transformers.AutoTokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", TEMPLATES)
def test_template_text_and_ids_equal_transformers(tmp_path, name):
    files = files_with(TEMPLATES[name])
    theirs, ours, tokenizer = reference(tmp_path, files), chat.from_files(files), from_files(files, 512)
    assert ours is not None
    compared = 0
    for messages in CONVERSATIONS.values():
        for prompt in (True, False):
            expected = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
            assert ours.render(messages, add_generation_prompt=prompt) == expected
            ids = theirs.apply_chat_template(messages, tokenize=True, add_generation_prompt=prompt)
            assert ours.encode(messages, tokenizer, add_generation_prompt=prompt) == ids
            compared += 1
    assert compared == 10


def test_tokenmonster_text_and_ids_equal_the_exported_adapters(tmp_path, bundled):
    """Stentor2's template on a folder that transformers loads with `trust_remote_code`."""
    pytest.importorskip("transformers")
    files = {path.name: path.read_bytes() for path in bundled.iterdir() if path.is_file()}
    config = json.loads(files["tokenizer_config.json"])
    files["tokenizer_config.json"] = json.dumps(config | {"chat_template": CHAT_TEMPLATE}).encode()
    for name, data in export.files(files).items():
        (tmp_path / name).write_bytes(data)
    script = (
        "import json, sys\nfrom transformers import AutoTokenizer\n"
        "t = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
        "out = [[t.apply_chat_template(m, tokenize=k, add_generation_prompt=True) for k in (False, True)]"
        " for m in json.loads(sys.argv[2])]\nprint(json.dumps(out))"
    )
    conversations = [[SYSTEM, USER], [USER, ASSISTANT, {"role": "user", "content": "Go on, Lily!"}]]
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path, json.dumps(conversations)],
        capture_output=True, text=True, timeout=300, env=os.environ | {"HF_HOME": str(tmp_path / "home")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    template, size = chat.from_files(files), json.loads(files["config.json"])["vocab_size"]
    tokenizer = from_files(files, size)
    expected = [[template.render(m), template.encode(m, tokenizer)] for m in conversations]
    assert json.loads(done.stdout) == expected


def test_tools_and_further_variables_equal_transformers(tmp_path):
    files = files_with(LLAMA3)
    theirs, ours = reference(tmp_path, files), chat.from_files(files)
    tools = [{"type": "function", "function": {"name": "wetter", "description": "für <Ort>", "parameters": {}}}]
    expected = theirs.apply_chat_template([USER], tools=tools, tokenize=False)
    assert ours.render([USER], tools=tools, add_generation_prompt=False) == expected and "wetter" in expected
    source = "{{ tools is none }} {{ documents is none }} {{ mood }} {{ sep_token is defined }}"
    files = files_with(source)
    theirs, ours = reference(tmp_path, files), chat.from_files(files)
    expected = theirs.apply_chat_template([USER], mood="good", tokenize=False)
    assert ours.render([USER], mood="good") == expected == "True True good False"


@pytest.mark.parametrize("config", [
    {},
    {"tokenizer_class": "LlamaTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"},
    {"bos_token": {"__type": "AddedToken", "content": "<s>", "special": True}, "pad_token": "</s>"},
    {"additional_special_tokens": ["<|im_start|>", "<|im_end|>"], "unk_token": "<unk>"},
])  # fmt: skip
def test_special_token_variables_equal_transformers(tmp_path, config):
    names = (*chat.NAMES, "additional_special_tokens")
    source = " ".join(f"{name}={{{{ {name} }}}}" for name in names)
    files = files_with(source, **config)
    expected = reference(tmp_path, files).apply_chat_template([USER], tokenize=False)
    assert chat.from_files(files).render([USER]) == expected


def test_from_files_jinja_file_comes_before_the_configuration(tmp_path):
    files = files_with("in the configuration") | {"chat_template.jinja": b"in the file {{ bos_token }}"}
    assert chat.from_files(files).render([USER]) == "in the file <s>"
    assert reference(tmp_path, files).apply_chat_template([USER], tokenize=False) == "in the file <s>"


@pytest.mark.parametrize("extra, expected", [
    ({"default": "d{{ eos_token }}", "rag": "r"}, "d</s>"),  # several: transformers uses the one called default
    ({"default": "d{{ eos_token }}"}, "d</s>"),
    ({"rag": "r"}, "in the file"),
])  # fmt: skip
def test_folder_of_additional_templates_gives_the_default_one(tmp_path, extra, expected):
    (tmp_path / "additional_chat_templates").mkdir()
    for name, text in extra.items():
        (tmp_path / "additional_chat_templates" / f"{name}.jinja").write_text(text)
    files = files_with("in the configuration") | {"chat_template.jinja": b"in the file"}
    theirs = reference(tmp_path, files)
    assert chat.from_files(side_files(tmp_path)).render([USER]) == expected
    assert theirs.apply_chat_template([USER], tokenize=False) == expected


def test_from_files_list_takes_the_template_called_default(tmp_path):
    named = [{"name": "rag", "template": "r"}, {"name": "default", "template": "d{{ eos_token }}"}]
    files = files_with(named)
    assert chat.from_files(files).render([USER]) == "d</s>"
    assert reference(tmp_path, files).apply_chat_template([USER], tokenize=False) == "d</s>"
    with pytest.raises(VocabularyError, match="no chat template called default .it has: rag"):
        chat.from_files(files_with(named[:1]))


def test_from_files_without_a_template_is_none_and_a_number_is_refused():
    assert chat.from_files(files_with(None)) is None and chat.from_files({}) is None
    with pytest.raises(VocabularyError, match="must be a text or a list"):
        chat.from_files(files_with(7))


def test_raise_exception_is_a_prompt_error_with_the_templates_words():
    files = files_with(LLAMA2)
    with pytest.raises(PromptError, match="refuses the conversation: Conversation roles must alternate"):
        chat.from_files(files).render([USER, USER])


def test_turn_ends_are_the_special_tokens_of_the_template():
    tokenizer = from_files(files_with(CHATML), 512)
    id = tokenizer.encode("<|im_end|>", specials=True)[0]
    assert ChatTemplate(CHATML).turn_ends(tokenizer) == {id}
    assert ChatTemplate(LLAMA3).turn_ends(tokenizer) == {tokenizer.encode("<|eot_id|>", specials=True)[0]}
    assert ChatTemplate("<end_of_turn>").turn_ends(tokenizer) == set(), "no such special token here"


HOSTILE = {
    "loop without output": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "loop inside a filter": "{{ range(99999)|map('string')|list|length }}{% for i in range(99999) %}"
    "{{ (range(99999)|sum)|string|length|string|trim('0123456789') }}{% endfor %}",
    "one endless C call": "{% set n = 10 ** 9 %}{{ (10 ** n) % 7 }}",
    "billion laughs": "{% set ns = namespace(x=['a']) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}"
    "{% endfor %}{{ ns.x }}",
    "endless json": "{% set ns = namespace(x=['a']) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}"
    "{% endfor %}{{ ns.x|tojson }}",
    "huge text": "{{ 'a' * 10 ** 10 }}",
    "huge padding": "{{ 'a'|center(10 ** 11) }}",
    "huge format": "{{ '%99999999999d' % 1 }}",
    "doubling": "{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "much output": "{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}",
    "recursion": "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
    "nesting": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "class": "{{ ''.__class__ }}",
    "subclasses": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "item": "{{ messages['__class__'] }}",
    "attr filter": "{{ ''|attr('__class__') }}",
    "format": "{{ '{0.__class__.__mro__}'.format('') }}",
    "mutation": "{{ messages.append(1) }}",
    "include": "{% include '/etc/passwd' %}",
    "import": "{% import 'os' as os %}",
    "syntax": "{% if %}",
    "undefined": "{{ nothing.at.all }}",
    "exit": "{{ range(1)|map(attribute='__class__')|list }}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_template_ends_in_one_line_soon(name):
    template, begin = ChatTemplate(HOSTILE[name]), time.perf_counter()
    with pytest.raises(EdgekitError, match="the model's chat template cannot be used: ") as error:
        template.render([USER])
    assert "\n" not in str(error.value) and len(str(error.value)) < 500
    assert time.perf_counter() - begin < 60  # of which 2 are on the processor
    template.close()


def test_renderer_recovers_after_it_was_ended():
    template = ChatTemplate("{% if messages|length > 1 %}{{ 'a' * 10 ** 10 }}{% endif %}"
                            "{% for i in range(99999 if messages[0].role == 'system' else 1) %}"
                            "{% for j in range(99999) %}{% endfor %}{% endfor %}fine")  # fmt: skip
    assert template.render([USER]) == "fine"
    for messages in ([SYSTEM], [USER, USER]):
        with pytest.raises(VocabularyError):
            template.render(messages)
        assert template.render([USER]) == "fine"
    template.close()
    assert template.render([USER]) == "fine"


def test_render_works_from_several_threads_at_once():
    template, texts = ChatTemplate("{{ messages[0].content }}"), {}

    def work(i):
        texts[i] = [template.render([{"role": "user", "content": f"{i} {j}"}]) for j in range(50)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert texts == {i: [f"{i} {j}" for j in range(50)] for i in range(4)}


def test_renderer_ends_with_its_template():
    template = ChatTemplate("{{ 1 }}")
    template.render([USER])
    process = template._process
    del template
    assert process.poll() is not None


def test_messages_that_are_not_json_are_a_prompt_error():
    with pytest.raises(PromptError, match="not JSON"):
        ChatTemplate("").render([{"role": "user", "content": b"bytes"}])
    assert ChatTemplate("{{ messages[0].content }}").render([{"role": "user", "content": "\ud800"}]) == "\ud800"


@pytest.mark.parametrize("messages", [[], {}, None, [1], [{"content": "a"}], [{"role": 1}], "".join])
def test_conversation_refuses_what_are_no_messages(messages):
    with pytest.raises(PromptError):
        chat.conversation(messages)


def test_conversation_a_text_is_a_message_of_the_user():
    assert chat.conversation("hi") == [{"role": "user", "content": "hi"}]


def test_jinja2_is_not_imported_by_the_process_that_asks():
    code = (
        "import sys\nfrom edgekit.tokenizers.chat import ChatTemplate\n"
        "assert ChatTemplate('{{ 1 }}').render([]) == '1'\nassert 'jinja2' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
