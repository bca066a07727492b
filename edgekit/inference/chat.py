"""A conversation as a prompt that fits into the context: its oldest messages are left out if it does not."""

from collections.abc import Sequence
from typing import Any

from edgekit.settings import Generating
from edgekit.tokenizers.base import Tokenizer
from edgekit.tokenizers.chat import ChatTemplate

SYSTEM = ("system", "developer")


LOW = 0.75
"""A conversation that is too long is shortened to this part of the space: its beginning then stays the same for some
turns, so that the runtime's cache can keep it."""


def fit_conversation(
    template: ChatTemplate,
    tokenizer: Tokenizer,
    messages: Sequence[dict[str, Any]],
    context_length: int,
    settings: Generating,
) -> tuple[list[int], int]:
    """The prompt's ids, and how many messages were left out.

    A prompt leaves space for an answer of `max_new_tokens`, or for half the context if that is less. The oldest turns
    go first: a turn is a message of the user and what follows it. The system's message and the last turn are never
    left out; if they are too long on their own, the ids are, and `generate.fit` decides.

    Raises:
        PromptError: the template refuses the conversation.
        VocabularyError: the template is damaged or takes too much.
    """
    most = max(context_length - settings.max_new_tokens, context_length // 2, 1)
    system = [message for message in messages[:1] if message["role"] in SYSTEM]
    ids = template.encode(messages, tokenizer)
    if len(ids) <= most:
        return ids, 0
    turns = split_turns(messages[len(system) :])
    counts = [[len(tokenizer.encode(str(m.get("content") or ""))) for m in turn] for turn in (system, *turns)]
    around = (len(ids) - sum(map(sum, counts))) / len(messages)  # what the template adds to a message, on average
    sizes = [sum(turn) + around * len(turn) for turn in counts]
    first = first_turn(sizes[1:], most - sizes[0])
    while True:
        rest = [message for turn in turns[first:] for message in turn]
        ids = template.encode([*system, *rest], tokenizer)
        if len(ids) <= most or first == len(turns) - 1:
            return ids, len(messages) - len(system) - len(rest)
        first += 1


def split_turns(messages: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """At each message of the user."""
    turns: list[list[dict[str, Any]]] = []
    for message in messages:
        if message["role"] == "user" or not turns:
            turns.append([])
        turns[-1].append(message)
    return turns


def first_turn(sizes: Sequence[float], most: float) -> int:
    """The first turn to keep, by the tokens of each. It depends on the turns before the last only where these were
    too long already, so it moves rarely as a conversation grows."""
    first, size = 0, 0.0
    for last, count in enumerate(sizes):
        size += count
        if size > most:
            while size > LOW * most and first < last:
                size -= sizes[first]
                first += 1
    return first
