"""A conversation as a prompt that fits into the context: its oldest messages are left out if it does not."""

from collections.abc import Sequence
from typing import Any

from edgekit.settings import Generating
from edgekit.tokenizers.base import Tokenizer
from edgekit.tokenizers.chat import ChatTemplate

SYSTEM = ("system", "developer")


def fit_conversation(
    template: ChatTemplate,
    tokenizer: Tokenizer,
    messages: Sequence[dict[str, Any]],
    context_length: int,
    settings: Generating,
) -> tuple[list[int], int]:
    """The prompt's ids, and how many messages were left out.

    A prompt leaves space for an answer of `max_new_tokens`, or for half the context if that is less. The oldest turns
    go first: the first message that is not the system's, and what follows it up to the user's next. The last message
    of the user is never left out; if it is too long on its own, the ids are, and `generate.fit` decides.

    Raises:
        PromptError: the template refuses the conversation.
        VocabularyError: the template is damaged or takes too much.
    """
    most = max(context_length - settings.max_new_tokens, context_length // 2, 1)
    system = [message for message in messages[:1] if message["role"] in SYSTEM]
    turns = list(messages[len(system) :])
    dropped = 0
    while True:
        ids = template.encode([*system, *turns], tokenizer)
        later = next((i for i, message in enumerate(turns) if i and message["role"] == "user"), None)
        if len(ids) <= most or later is None:
            return ids, dropped
        del turns[:later]
        dropped += later
