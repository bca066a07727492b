"""Drafts that speak the target's own vocabulary: a smaller model, and what the text repeats.

Drafts of another vocabulary are in draft_text.py; `begin` says which draft a model is.
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgekit.inference.runtime import Logits, Runtime
from edgekit.inference.sampling import Sampler
from edgekit.inference.speculative import rejection
from edgekit.inference.speculative.pace import Pace
from edgekit.inference.speculative.speculation import Proposal
from edgekit.settings import Generating

if TYPE_CHECKING:
    pass

NGRAM = "ngram"
LONGEST_NGRAM = 4
GAP = 64
"""Tokens that a draft reads when it has rested; if more were said meanwhile, it goes on from these alone. A draft may
cost nearly as much for each token it reads as for each it guesses."""


class Follower:
    """A draft's runtime, kept at a text that is corrected at its end; and the logits of what was guessed last.

    A text longer than the draft's context is followed by its second half: whenever the context is full, the draft
    forgets the first half of what it holds.
    """

    def __init__(self, runtime: Runtime):
        self._runtime = runtime
        self._ids: list[int] = []
        """What the cache holds, and before it what was dropped."""
        self._start = 0
        self._rows: dict[int, Logits] = {}
        """By the number of ids that they follow."""

    def after(self, ids: Sequence[int], same: int) -> Logits | None:
        """float32 logits (vocab_size,) of what follows `ids`; None if the draft's context is full.

        The first `same` ids are those of the last call. The array is the caller's to read only.
        """
        own, runtime = self._ids, self._runtime
        if runtime.length != len(own) - self._start:  # somebody else used the model
            self._forget(own[: self._start])
        same = max(min(same, len(own)), 0)
        while same < min(len(own), len(ids)) and own[same] == ids[same]:
            same += 1
        if same < len(own):
            self._rows = {place: row for place, row in self._rows.items() if place <= same}
            del own[same:]
            if same < self._start:
                self._forget()
            else:
                runtime.rewind(same - self._start)
        if (found := self._rows.get(len(ids))) is not None and len(ids) == len(own):
            return found
        if runtime.length and len(ids) - len(own) > GAP:
            self._forget(list(ids[:-GAP]))
        if len(own) == len(ids):  # its logits are gone: the last id is fed again
            if runtime.length:
                del own[-1:]
                runtime.rewind(len(own) - self._start)
            else:  # all of it was dropped, the last id too
                self._forget()
        if len(ids) - self._start > runtime.context_length:
            return None
        found = runtime.forward(ids[len(own) :])
        own.extend(ids[len(own) :])
        self._rows[len(own)] = found
        return found

    def shorten(self, ids: Sequence[int], more: int) -> None:
        """Make room for `ids` and `more` behind them (or a quarter of the context), if there is none.

        Where a text was cut back to what had been dropped, or nearly, the draft begins anew as well.
        """
        context = self._runtime.context_length
        half = max(context // 2, 1)
        held = len(ids) - self._start
        if held + min(more, context // 4) > context or held < min(half, GAP // 2, len(ids)):
            self._forget(list(ids[: max(len(ids) - half, 0)]))

    def _forget(self, before: list[int] | None = None) -> None:
        """Begin anew behind these ids."""
        self._runtime.rewind(0)
        self._ids[:], self._rows = before or [], {}
        self._start = len(self._ids)


class ModelDraft:
    """A model with the target's vocabulary. It runs the target's sampler with the target's numbers.

    Args:
        runtime: the draft's.
        vocab_size: the target's; ids from there on are never guessed.
        settings: of the text, with the seed that it really has.
        ends: ids after which nothing is guessed.
        rejecting: draw by numbers of its own, and remember the distributions.
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
        """Of the history, what the draft has ids for: padding of a longer embedding is left out."""
        self._sampler = Sampler(dataclasses.replace(settings, logit_bias=bias, banned=banned), self._size, self._ids)
        self._taken = len(prompt)
        self._mark = self._sampler.mark()

    def propose(self, history: Sequence[int], count: int, pace: Pace) -> Proposal:
        """See `edgekit.speculative.Draft.propose`."""
        sampler, found = self._sampler, Proposal(drawn_from=[] if self._rejecting else None)
        sampler.rewind(self._mark)
        before = len(self._ids)
        for token in history[self._taken :]:
            if token < self._size:
                sampler.accept(token)
                self._ids.append(token)
            else:
                step, said = sampler.mark()
                sampler.rewind((step + 1, said))
        self._taken, self._mark = len(history), sampler.mark()
        ids, same = list(self._ids), before
        self._follower.shorten(ids, count - 1)
        while ids and len(found.tokens) < count:
            logits = self._follower.after(ids, same)
            if logits is None:
                break
            token = self._draw(logits, found)
            if token >= self._vocab_size:
                break
            found.tokens.append(token)
            if token in self._ends or not pace.goes_on(found.sure):
                break
            ids.append(token)
            same = len(ids) - 1
        del found.sure[len(found.tokens) :]
        if found.drawn_from is not None:
            del found.drawn_from[len(found.tokens) :]
        return found

    def _draw(self, logits: Logits, found: Proposal) -> int:
        sampler = self._sampler
        if found.drawn_from is None:
            token, sure = sampler.guess(logits)
        else:
            ids, chances = sampler.distribution(logits)
            token = rejection.draw(sampler.seed, rejection.DRAFT, sampler.step, ids, chances)
            sure = float(chances[ids.searchsorted(token)])
            sampler.accept(token)
            found.drawn_from.append((ids, chances))
        found.sure.append(sure)
        return token


class NgramDraft:
    """What followed the last time that the text had these last tokens: no model at all.

    "Prompt lookup decoding" (Saxena 2023), over prompt and text; the longest match counts, of 4 tokens at most.
    """

    kind = NGRAM

    def __init__(self) -> None:
        self._places: dict[tuple[int, ...], int] = {}
        """Of each run of tokens, where the last one like it ended, the text's end aside."""
        self._read = 0

    def propose(self, history: Sequence[int], count: int, pace: Pace) -> Proposal:
        """See `edgekit.speculative.Draft.propose`. As sure as the match is long."""
        for end in range(max(self._read, 1), len(history)):
            for size in range(1, min(LONGEST_NGRAM, end) + 1):
                self._places[tuple(history[end - size : end])] = end
        self._read = len(history)
        for size in range(min(LONGEST_NGRAM, len(history)), 0, -1):
            place = self._places.get(tuple(history[-size:]))
            if place is not None:
                return self._copy(history, place, count, (size - 0.5) / LONGEST_NGRAM, pace)
        return Proposal()

    def _copy(self, history: Sequence[int], place: int, count: int, sure: float, pace: Pace) -> Proposal:
        """From `place` on; where that runs into the text's end, the guesses themselves are gone on with."""
        tokens: list[int] = []
        while len(tokens) < count and (not tokens or pace.goes_on([sure] * len(tokens))):
            at = place + len(tokens)
            tokens.append(history[at] if at < len(history) else tokens[at - len(history)])
        return Proposal(tokens, [sure] * len(tokens))
