"""Prompts from arguments and piped input, which must be UTF-8."""

import sys

from edgekit.errors import PromptError


def piped() -> str:
    """The prompt on stdin, without its last newline. Raises `PromptError` if it is not UTF-8."""
    try:
        return sys.stdin.buffer.read().decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise PromptError(f"the prompt on stdin is not UTF-8 (at byte {error.start})") from error


def check_utf8(prompt: str) -> None:
    """Raises `PromptError` if an argument was not UTF-8: such bytes reach Python as lone surrogates."""
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError as error:
        raise PromptError(f"the prompt is not UTF-8 (at character {error.start + 1})") from error
