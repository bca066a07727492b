"""Prompts as a person gives them: arguments and piped input, which must be UTF-8."""

import sys

from edgekit.errors import PromptError


def piped() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise PromptError(f"the prompt on stdin is not UTF-8 (at byte {error.start})") from error


def check_utf8(prompt: str) -> None:
    """Arguments that are not UTF-8 reach Python as lone surrogates."""
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError as error:
        raise PromptError(f"the prompt is not UTF-8 (at character {error.start + 1})") from error
