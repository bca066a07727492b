"""Log-probabilities of a prompt's tokens, and the text of single tokens."""

from collections.abc import Sequence

from edgekit.inference.generate import TokenLogprob, token_logprob
from edgekit.inference.runtime import Runtime
from edgekit.tokenizers.base import Tokenizer

CHUNK = 64
"""Prompt tokens whose logits are in memory at once: 2 MB at a vocabulary of 8,000."""


def prompt_logprobs(runtime: Runtime, prompt: Sequence[int], top: int) -> list[TokenLogprob | None]:
    """For each token of a prompt, given those before it; None for the first. The runtime's cache is emptied first.

    `top`: how many of the likeliest ids each entry lists.
    """
    logprobs: list[TokenLogprob | None] = [None]
    runtime.rewind(0)
    for begin in range(0, len(prompt) - 1, CHUNK):
        rows = runtime.forward(prompt[begin : min(begin + CHUNK, len(prompt) - 1)], every=True)
        logprobs += [token_logprob(row, token, top) for row, token in zip(rows, prompt[begin + 1 :], strict=False)]
    return logprobs


class Pieces:
    """The text of single tokens, as they read in the middle of a text; specials by their spelling. Cached."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._context = tokenizer.encode("a")  # so that nothing is stripped or capitalised as at a beginning
        spelled = tokenizer.facts().get("specials") or {}
        self._known: dict[int, str] = {id: text for text, id in spelled.items() if isinstance(id, int)}

    def __call__(self, token: int) -> str:
        if token not in self._known:
            decoder = self._tokenizer.decoder(self._context)
            self._known[token] = decoder.feed(token) + decoder.flush()
        return self._known[token]
