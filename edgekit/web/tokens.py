"""Log-probabilities of a prompt's tokens."""

from collections.abc import Sequence

from edgekit.inference.generate import TokenLogprob, token_logprob
from edgekit.inference.runtime import Runtime

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
