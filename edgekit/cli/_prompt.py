"""Prompts from a pipe, which must be UTF-8."""

import sys

from edgekit.errors import PromptError


def piped() -> str:
    """The prompt on stdin, without its last newline. Raises `PromptError` if it is not UTF-8."""
    try:
        return sys.stdin.buffer.read().decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise PromptError(f"the prompt on stdin is not UTF-8 (at byte {error.start})") from error
