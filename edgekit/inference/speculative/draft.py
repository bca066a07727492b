"""Drafts with the target's own vocabulary: a smaller model, and the repetitions of the text.

Drafts of another vocabulary are in draft_text.py; begin.py decides which kind a model is.
"""

import dataclasses
from collections.abc import Sequence

from edgekit.inference.processors import NO_RULES
from edgekit.inference.runtime import Logits, Runtime
from edgekit.inference.samplers import new_sampler
from edgekit.inference.speculative import rejection
from edgekit.inference.speculative.pace import Pace
from edgekit.inference.speculative.speculation import Proposal
from edgekit.settings import Generating

NGRAM = "ngram"
LONGEST_NGRAM = 4
GAP = 64
"""Most tokens that a draft reads after a pause; if the text grew by more, it continues from these alone. A draft may
cost nearly as much for each token it reads as for each it guesses."""


class Follower:
    """A draft's runtime that follows a text whose end changes, with the logits of recent positions.

    A text longer than the draft's context is followed by its second half: whenever the context is full, the draft
    drops the first half of its cache.
    """

    def __init__(self, runtime: Runtime):
        self._runtime = runtime
        self._ids: list[int] = []
        """The text last followed; the cache contains its ids from `_start` on."""
        self._start = 0
        self._rows: dict[int, Logits] = {}
        """Logits by the number of ids that they follow."""

    def after(self, ids: Sequence[int], same: int) -> Logits | None:
        """float32 logits (vocab_size,) of what follows `ids`; None if the draft's context is full.

        The first `same` ids are known to equal those of the last call. The array is read-only for the caller.
        """
        old, runtime = self._ids, self._runtime
        if runtime.length != len(old) - self._start:  # the model was used for something else
            self._restart(old[: self._start])
        same = max(min(same, len(old)), 0)
        while same < min(len(old), len(ids)) and old[same] == ids[same]:
            same += 1
        if same < len(old):
            self._rows = {position: row for position, row in self._rows.items() if position <= same}
            del old[same:]
            if same < self._start:
                self._restart()
            else:
                runtime.rewind(same - self._start)
        if (logits := self._rows.get(len(ids))) is not None and len(ids) == len(old):
            return logits
        if runtime.length and len(ids) - len(old) > GAP:
            self._restart(list(ids[:-GAP]))
        if len(old) == len(ids):  # its logits are not stored: feed the last id again
            if runtime.length:
                del old[-1:]
                runtime.rewind(len(old) - self._start)
            else:  # all of it was dropped, the last id too
                self._restart()
        if len(ids) - self._start > runtime.context_length:
            return None
        logits = runtime.forward(ids[len(old) :])
        old.extend(ids[len(old) :])
        self._rows[len(old)] = logits
        return logits

    def make_room(self, ids: Sequence[int], more: int) -> None:
        """Drop the start of the text if `ids` and `more` after them (or a quarter of the context) would not fit.

        Also start over where the text was cut back to what had been dropped, or nearly so.
        """
        context = self._runtime.context_length
        half = max(context // 2, 1)
        cached = len(ids) - self._start
        if cached + min(more, context // 4) > context or cached < min(half, GAP // 2, len(ids)):
            self._restart(list(ids[: max(len(ids) - half, 0)]))

    def _restart(self, dropped: list[int] | None = None) -> None:
        """Empty the cache; the text continues after the dropped ids."""
        self._runtime.rewind(0)
        self._ids[:], self._rows = dropped or [], {}
        self._start = len(self._ids)


class ModelDraft:
    """A model with the target's vocabulary. It runs the target's sampler with the same uniform numbers.

    Args:
        runtime: the draft's.
        vocab_size: the target's; ids from there on are never guessed.
        settings: of the text, with the seed that it really has.
        ends: ids after which nothing is guessed.
        rejecting: whether to draw with other numbers and record the distributions, for rejection sampling.
    """

    kind = "same vocabulary"

    def __init__(
        self,
        runtime: Runtime,
        vocab_size: int,
        prompt: Sequence[int],
        settings: Generating,
        ends: frozenset[int],
        rejecting: bool,
    ):
        self._follower, self._vocab_size, self._size = Follower(runtime), vocab_size, runtime.vocab_size
        self._ends, self._rejecting = ends, rejecting
        bias = {id: value for id, value in settings.logit_bias.items() if id < self._size}
        banned = tuple(id for id in settings.banned if id < self._size)
        self._ids = [id for id in prompt if id < self._size]
        """The history without ids that the draft does not have: padding of a longer embedding."""
        self._sampler = new_sampler(
            dataclasses.replace(settings, logit_bias=bias, banned=banned, **NO_RULES), self._size, self._ids
        )
        self._read = len(prompt)
        """How many ids of the history are in `_ids`."""
        self._mark = self._sampler.mark()

    def propose(self, history: Sequence[int], count: int, pace: Pace) -> Proposal:
        """See `Draft.propose`."""
        sampler, proposal = self._sampler, Proposal(distributions=[] if self._rejecting else None)
        sampler.rewind(self._mark)
        before = len(self._ids)
        for token in history[self._read :]:
            if token < self._size:
                sampler.accept(token)
                self._ids.append(token)
            else:
                step, seen, written = sampler.mark()
                sampler.rewind((step + 1, seen, written))
        self._read, self._mark = len(history), sampler.mark()
        ids, same = list(self._ids), before
        self._follower.make_room(ids, count - 1)
        while ids and len(proposal.tokens) < count:
            logits = self._follower.after(ids, same)
            if logits is None:
                break
            token = self._draw(logits, proposal)
            if token >= self._vocab_size:
                break
            proposal.tokens.append(token)
            if token in self._ends or not pace.should_continue(proposal.confidence):
                break
            ids.append(token)
            same = len(ids) - 1
        del proposal.confidence[len(proposal.tokens) :]
        if proposal.distributions is not None:
            del proposal.distributions[len(proposal.tokens) :]
        return proposal

    def _draw(self, logits: Logits, proposal: Proposal) -> int:
        sampler = self._sampler
        if proposal.distributions is None:
            token, confidence = sampler.guess(logits)
        else:
            ids, probabilities = sampler.distribution(logits)
            token = rejection.draw(sampler.seed, rejection.DRAFT, sampler.step, ids, probabilities)
            confidence = float(probabilities[ids.searchsorted(token)])
            sampler.accept(token)
            proposal.distributions.append((ids, probabilities))
        proposal.confidence.append(confidence)
        return token


class NgramDraft:
    """What followed the last occurrence of the text's last tokens; it needs no model.

    "Prompt lookup decoding" (Saxena 2023), over prompt and text; the longest match counts, at most 4 tokens.
    """

    kind = NGRAM

    def __init__(self) -> None:
        self._ends: dict[tuple[int, ...], int] = {}
        """For each sequence of tokens, where its last occurrence ended, except at the end of the text."""
        self._read = 0

    def propose(self, history: Sequence[int], count: int, pace: Pace) -> Proposal:
        """See `Draft.propose`. The confidence grows with the length of the match."""
        for end in range(max(self._read, 1), len(history)):
            for size in range(1, min(LONGEST_NGRAM, end) + 1):
                self._ends[tuple(history[end - size : end])] = end
        self._read = len(history)
        for size in range(min(LONGEST_NGRAM, len(history)), 0, -1):
            if (start := self._ends.get(tuple(history[-size:]))) is not None:
                return self._copy(history, start, count, (size - 0.5) / LONGEST_NGRAM, pace)
        return Proposal()

    def _copy(self, history: Sequence[int], start: int, count: int, confidence: float, pace: Pace) -> Proposal:
        """The tokens from `start` on; at the end of the text it continues with the guesses themselves."""
        tokens: list[int] = []
        while len(tokens) < count and (not tokens or pace.should_continue([confidence] * len(tokens))):
            position = start + len(tokens)
            tokens.append(history[position] if position < len(history) else tokens[position - len(history)])
        return Proposal(tokens, [confidence] * len(tokens))
