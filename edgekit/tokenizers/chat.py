"""Chat templates: from the messages of a conversation to the prompt, as transformers' `apply_chat_template` does.

A template is a Jinja program inside a model's files. It is rendered by render.py in a process with limits on time,
memory and output, which is started at the first rendering and ends with the `ChatTemplate`.
"""

import contextlib
import json
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from edgekit.errors import PromptError, VocabularyError
from edgekit.tokenizers.base import Tokenizer, read_json, spelling

Message = Mapping[str, Any]
"""`role` ("system", "user", "assistant", ...) and `content`; templates may know more keys."""

NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

# What transformers' tokenizer classes call these tokens where the files do not.
CLASS_DEFAULTS = {
    "LlamaTokenizer": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    "GPT2Tokenizer": dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>"),
}

# Special tokens that end a turn in published templates; all are among llama.cpp's end-of-generation texts.
TURN_ENDS = (
    "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<|end|>", "<|end_of_turn|>", "<|endoftext|>",
    "<|eot|>", "<end_of_utterance>", "</s>",
)  # fmt: skip

TOO_LONG = 124 if sys.platform == "win32" else -signal.SIGPROF
"""The status with which the limit on time ends render.py's process."""
START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from edgekit.tokenizers.render import main; main()"


@runtime_checkable
class HasChatTemplate(Protocol):
    """Optional for a tokenizer that is not read from files: the template that came with it."""

    chat_template: str | None
    special_tokens: Mapping[str, str]
    """Spellings by transformers' names: `bos_token`, `eos_token`, ..."""


class ChatTemplate:
    """One model's chat template.

    Args:
        source: Jinja.
        tokens: its variables `bos_token`, `eos_token`, ...: a spelling each.
    """

    def __init__(self, source: str, tokens: Mapping[str, Any] | None = None):
        self.source, self.tokens = source, dict(tokens or {})
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._end: weakref.finalize[..., ChatTemplate] | None = None

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = True, **variables: Any) -> str:
        """The prompt as text: transformers' `apply_chat_template(..., tokenize=False)`. Safe from any thread.

        Args:
            messages: the conversation, oldest first; values that JSON has.
            add_generation_prompt: whether to end with the beginning of the assistant's turn.
            variables: more variables of the template; `tools` and `documents` are None without them.

        Raises:
            PromptError: the template refuses the conversation (`raise_exception`), or it is not JSON.
            VocabularyError: the template is damaged, or takes too much time, memory or text.
        """
        values = {"tools": None, "documents": None, **self.tokens, **variables}
        values |= {"messages": list(messages), "add_generation_prompt": add_generation_prompt}
        try:
            request = json.dumps({"template": self.source, "variables": values})
        except (TypeError, ValueError, RecursionError) as error:
            raise PromptError(f"the conversation is not JSON: {error}") from error
        with self._lock:
            reply = self._ask(request.encode() + b"\n")
        if "refused" in reply:
            raise PromptError(f"the model's chat template refuses the conversation: {reply['refused']}")
        if "error" in reply:
            raise VocabularyError(f"the model's chat template cannot be used: {reply['error']}")
        return reply["text"]

    def encode(self, messages: Sequence[Message], tokenizer: Tokenizer, **variables: Any) -> list[int]:
        """The prompt's ids: `apply_chat_template(..., tokenize=True)`. Takes and raises what `render` does.

        Special tokens are recognised, in the messages' own text too, and no BOS is added: a template writes its own.
        """
        return tokenizer.encode(self.render(messages, **variables), specials=True)

    def turn_ends(self, tokenizer: Tokenizer) -> frozenset[int]:
        """Ids of the special tokens that end a turn in this template; EOS is in `tokenizer.stop`."""
        ends = set()
        for text in TURN_ENDS:
            if text in self.source:
                ids = tokenizer.encode(text, specials=True)
                if len(ids) == 1 and ids != tokenizer.encode(text):
                    ends.add(ids[0])
        return frozenset(ends)

    def close(self) -> None:
        """End the process; the next `render` starts one."""
        if self._end is not None:
            self._end()
        self._process = self._end = None

    def _ask(self, request: bytes) -> dict[str, str]:
        if self._process is None:
            try:
                self._process = _start()
            except OSError as error:
                return {"error": f"the process that renders it cannot be started: {error}"}
            self._end = weakref.finalize(self, _stop, self._process)
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(request)
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = b""
        except BaseException:  # Ctrl-C: its reply would be taken for that to the next request
            self.close()
            raise
        if line.endswith(b"\n"):
            reply: dict[str, str] = json.loads(line)
            return reply
        status = process.wait()
        self.close()
        if status == TOO_LONG:
            return {"error": "it does not end within 2 seconds"}
        return {"error": f"the process that renders it ended with status {status}"}


def _start() -> "subprocess.Popen[bytes]":
    # A process group of its own: Ctrl-C on the terminal ends an answer, not the renderer.
    return subprocess.Popen(
        [sys.executable or "python3", "-c", START, json.dumps(sys.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        process_group=0,
    )


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):  # a request that was not sent
                pipe.close()


def from_files(files: Mapping[str, bytes]) -> ChatTemplate | None:
    """The template of a model's files: `chat_template.jinja`, else `chat_template` of tokenizer_config.json.

    Raises:
        VocabularyError: it is neither text nor a list of named ones with one called `default`.
    """
    config = read_json(files, "tokenizer_config.json")
    source = config.get("chat_template")
    if "chat_template.jinja" in files:
        source = files["chat_template.jinja"].decode("utf-8", "replace")
    if isinstance(source, list):
        named = {each.get("name"): each.get("template") for each in source if isinstance(each, dict)}
        if "default" not in named:
            names = ", ".join(map(str, named)) or "none"
            raise VocabularyError(f"tokenizer_config.json has no chat template called default (it has: {names})")
        source = named["default"]
    if source is None:
        return None
    if not isinstance(source, str):
        raise VocabularyError("tokenizer_config.json: chat_template must be a text or a list of named texts")
    return ChatTemplate(source, special_tokens(files))


def special_tokens(files: Mapping[str, bytes]) -> dict[str, Any]:
    """transformers' `special_tokens_map` for a model's files: the spellings that its template may use."""
    config = read_json(files, "tokenizer_config.json")
    kind = str(config.get("tokenizer_class", "")).removesuffix("Fast")
    if config.get("tokenizer_type") == "tokenmonster":
        kind = "LlamaTokenizer"
    tokens: dict[str, Any] = {}
    for name in NAMES:
        text = spelling(files, name)
        if not text and name not in config:
            text = CLASS_DEFAULTS.get(kind, {}).get(name, "")
        if text:
            tokens[name] = text
    additional = config.get("additional_special_tokens")
    if isinstance(additional, list) and additional:
        texts = [each.get("content") if isinstance(each, dict) else each for each in additional]
        tokens["additional_special_tokens"] = [text for text in texts if isinstance(text, str)]
    return tokens


def template_of(files: Mapping[str, bytes], tokenizer: Tokenizer) -> ChatTemplate | None:
    """A model's template, from its files or from the tokenizer of the runtime; None without one. As `from_files`."""
    template = from_files(files)
    if template is None and isinstance(tokenizer, HasChatTemplate) and tokenizer.chat_template is not None:
        template = ChatTemplate(tokenizer.chat_template, tokenizer.special_tokens)
    return template


def conversation(messages: str | Sequence[Message]) -> list[dict[str, Any]]:
    """The messages as a new list; a text is one message of the user.

    Raises:
        PromptError: no messages, or one that is not an object with a `role`.
    """
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    if not isinstance(messages, Sequence) or not messages:
        raise PromptError("a conversation needs at least one message")
    result = []
    for message in messages:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise PromptError(f"a message is an object with a role and its content, not {message!r:.60}")
        result.append(dict(message))
    return result
