"""Speculative decoding: a draft guesses ahead, and one call of the target checks all the guesses.

The loop of generate.py stays as it is. It still chooses every token itself, from the target's own logits and with the
one sampler; only where those logits come from is different. After a token the target is given the token and k guesses
in one call, which answers k + 1 times: what follows the token, and what follows each guess if it was right. As long as
the loop chooses what was guessed, the next answer is there already. At the first other choice the rest is taken back.

So a draft changes no token: greedy or sampled, the text is what the target alone would have said with that seed, and
stop strings, masks, log-probabilities and the context's end need no second set of rules. (Only where a runtime's logits
depend on how many tokens a call has, as with int8 activations, can a choice between two near equals fall otherwise.)

With sampling the usual rule is the rejection of Leviathan et al. 2023 ("Fast Inference from Transformers via
Speculative Decoding"), after which only the distribution is the target's, and the text of a seed depends on the draft.
Here the draft runs the sampler's race with the target's own uniform numbers, step by step. Where the two distributions
are alike the same token wins both: a guess is right with chance (1 - d) / (1 + d) or more, at total variation distance
d, against rejection's 1 - d (Daliri, Musco and Suresh 2024, "Coupling without Communication and Drafter-Invariant
Speculative Decoding"). `draft_sampling="rejection"` is there too, in rejection.py.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.inference.runtime import Logits, Runtime
from edgekit.inference.sampling import Sampler
from edgekit.inference.speculative import rejection
from edgekit.inference.speculative.pace import Pace
from edgekit.inference.speculative.rejection import Distribution


@dataclass
class Proposal:
    """What a draft guesses: the target's ids, and for each how sure it is, in (0, 1]; the scale is the draft's own."""

    tokens: list[int] = field(default_factory=list)
    sure: list[float] = field(default_factory=list)
    drawn_from: list[Distribution] | None = None
    """For rejection sampling: what each token was drawn from. None: the loop chooses by itself."""


class Draft(Protocol):
    """Guesses how a text goes on. One draft serves one text."""

    kind: str
    """For people: "same vocabulary", ..."""

    def propose(self, history: Sequence[int], count: int, pace: Pace) -> Proposal:
        """At most `count` tokens that may follow `history`, the target's ids from the prompt's first on.

        The history only ever grows from call to call. The draft stops early where `pace.goes_on` says so.
        """
        ...


@dataclass
class DraftStats:
    """What drafting did for one text. The first token, which the prompt's own call gives, is not counted."""

    kind: str
    tokens: int = 0
    """Chosen with a draft at hand."""
    calls: int = 0
    """Forward calls of the target for them."""
    drafted: int = 0
    """Tokens that the target checked."""
    accepted: int = 0
    rests: int = 0
    """How often drafting did not pay, and stopped for a while."""
    resting: bool = False
    """Whether it was so at the end."""
    plain_step: float = 0.0
    """Seconds of a one-token call of the target: the mean of those in this text, the first aside."""
    target_seconds: float = 0.0
    draft_seconds: float = 0.0
    seconds: float = 0.0
    """All of it: `Timings.decode`."""

    @property
    def acceptance(self) -> float:
        """The part of the drafted tokens that were right."""
        return self.accepted / self.drafted if self.drafted else 0.0

    @property
    def tokens_per_call(self) -> float:
        return self.tokens / self.calls if self.calls else 0.0

    @property
    def speedup(self) -> float | None:
        """Estimated, against the target alone: its one-token calls of this text for all tokens, and the same sampler
        and loop. None if it made no such call."""
        if not self.plain_step or not self.seconds:
            return None
        rest = self.seconds - self.target_seconds - self.draft_seconds
        return (self.tokens * self.plain_step + rest) / self.seconds


class Speculation:
    """The target's logits, one row at a time, some of them computed before they were asked for.

    Args:
        runtime: the target's; its cache holds `prompt`.
        draft: see `Draft`.
        prompt: ids.
        pace: decides how many tokens are drafted.
    """

    def __init__(self, runtime: Runtime, draft: Draft, prompt: Sequence[int], pace: Pace):
        self._runtime, self._draft, self._pace = runtime, draft, pace
        self._history = list(prompt)
        self._guess = Proposal()
        self._rows: Logits | None = None
        self._plain_calls, self._plain_seconds = 0, 0.0
        self._steady = False
        """Whether there was a draft in the last round too."""
        self._right = 0
        """How many guesses of this round the loop has chosen."""
        self.stats = DraftStats(draft.kind)

    def choose(self, sampler: Sampler, logits: Logits, allowed: NDArray[np.bool_] | None) -> int:
        """The next token from the last logits given: `sampler.choose`, or by rejection where a guess was drawn."""
        guess = self._guess
        if self._rows is None or guess.drawn_from is None or self._right >= len(guess.tokens):
            return sampler.choose(logits, allowed)
        return rejection.choose(sampler, logits, allowed, guess.tokens[self._right], guess.drawn_from[self._right])

    def after(self, token: int, left: int) -> Logits:
        """float32 logits (vocab_size,) of what follows `token`, which the loop has just chosen.

        `left` tokens may still be chosen, one at least. Raises as `Runtime.forward`.
        """
        stats, guess = self.stats, self._guess
        stats.tokens += 1
        self._history.append(token)
        if self._rows is not None:
            if self._right < len(guess.tokens) and guess.tokens[self._right] == token:
                self._right += 1
                stats.accepted += 1
                return self._rows[self._right]
            self._settle()
        return self._call(token, left)

    def finish(self, seconds: float) -> None:
        """Leave in the target's cache what the plain loop leaves: everything but the last token chosen.

        `seconds`: of the whole text, its first token not counted.
        """
        if self._rows is not None:
            self._settle()
        self.stats.seconds = seconds

    def _call(self, token: int, left: int) -> Logits:
        stats, pace, clock = self.stats, self._pace, time.perf_counter
        count = pace.plan(left - 1)
        stats.resting, stats.rests = pace.resting, pace.rests
        guess = self._guess = Proposal()
        if count:
            begin = clock()
            guess = self._guess = self._draft.propose(self._history, count, pace)
            seconds = clock() - begin
            stats.draft_seconds += seconds
            if guess.tokens:
                if self._steady:  # else it read all that was said meanwhile, at first the whole prompt
                    pace.draft.saw(len(guess.tokens), seconds)
                self._cut(pace.keep(guess.sure))
        self._steady = count > 0
        begin = clock()
        if guess.tokens:
            self._rows = rows = self._runtime.forward([token, *guess.tokens], every=True)
            logits = rows[0]
        else:
            logits = self._runtime.forward([token])
        seconds = clock() - begin
        pace.target.saw(1 + len(guess.tokens), seconds)
        stats.target_seconds += seconds
        stats.calls += 1
        stats.drafted += len(guess.tokens)
        if not guess.tokens:
            if stats.calls > 1:  # the first may allocate
                self._plain_calls, self._plain_seconds = self._plain_calls + 1, self._plain_seconds + seconds
            stats.plain_step = self._plain_seconds / self._plain_calls if self._plain_calls else seconds
        return logits

    def _cut(self, count: int) -> None:
        guess = self._guess
        del guess.tokens[count:], guess.sure[count:]
        if guess.drawn_from is not None:
            del guess.drawn_from[count:]

    def _settle(self) -> None:
        """The round is over: take back from the target's cache what was not chosen."""
        guess = self._guess
        self._pace.saw_round(guess.sure, self._right)
        wrong = len(guess.tokens) - self._right
        self._runtime.rewind(self._runtime.length - wrong)
        self._rows, self._right, self._guess = None, 0, Proposal()


Begin = Callable[[Sequence[int], int], Speculation]
"""Prompt ids and the seed, once both are known, to what `Stream` takes its logits from."""
