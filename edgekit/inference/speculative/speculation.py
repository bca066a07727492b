"""Speculative decoding: a draft guesses ahead, and one call of the target checks all the guesses.

The loop of generate.py stays the same. It still chooses every token from the target's own logits with the one sampler;
only the source of those logits differs. After a token, the target is given the token and k guesses in one call, which
returns k + 1 rows of logits: what follows the token, and what follows each guess if it was right. As long as the loop
chooses what was guessed, the next row is already computed. At the first other choice the remaining guesses are dropped.

So a draft changes no token: greedy or sampled, the text is that of the target alone with the same seed, and stop
strings, masks, log-probabilities and the end of the context need no second implementation. (Only where a runtime's
logits depend on the number of tokens in a call, as with int8 activations, can a choice between two near equals differ.)

With sampling the usual rule is the rejection of Leviathan et al. 2023 ("Fast Inference from Transformers via
Speculative Decoding"), after which only the distribution is the target's, and the text of a seed depends on the draft.
Here the draft runs the sampler's race with the target's own uniform numbers, step by step. Where the two distributions
are similar the same token wins both races: a guess is right with probability (1 - d) / (1 + d) or more, at total
variation distance d, where rejection has 1 - d (Daliri, Musco and Suresh 2024, "Coupling without Communication and
Drafter-Invariant Speculative Decoding"). `draft_sampling="rejection"` is available too, in rejection.py.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.inference.runtime import Logits, Runtime
from edgekit.inference.samplers import TextSampler
from edgekit.inference.speculative import rejection
from edgekit.inference.speculative.pace import Pace
from edgekit.inference.speculative.rejection import Distribution


@dataclass
class Proposal:
    """What a draft guesses: ids of the target, and a confidence in (0, 1] for each; the scale is the draft's own."""

    tokens: list[int] = field(default_factory=list)
    confidence: list[float] = field(default_factory=list)
    distributions: list[Distribution] | None = None
    """For rejection sampling: what each token was drawn from. None for coupled drafts."""


class Draft(Protocol):
    """Guesses the continuation of a text. One draft serves one text."""

    kind: str
    """For `--stats` and `--json`: "same vocabulary", ..."""

    def propose(self, history: Sequence[int], count: int, pace: Pace) -> Proposal:
        """At most `count` tokens that may follow `history`, the target's ids from the start of the prompt.

        The history only grows from call to call. The draft stops early when `pace.should_continue` returns False.
        """
        ...


@dataclass
class DraftStats:
    """What drafting did for one text. The first token, which comes from the prompt's own call, is not counted."""

    kind: str
    tokens: int = 0
    """Tokens chosen."""
    calls: int = 0
    """Forward calls of the target for them."""
    drafted: int = 0
    """Guesses that the target checked."""
    accepted: int = 0
    """Guesses that were chosen."""
    rests: int = 0
    """How often drafting was paused because it did not pay."""
    resting: bool = False
    """Whether it was paused at the end."""
    plain_step: float = 0.0
    """Seconds of a one-token call of the target: the mean of those in this text without the first."""
    target_seconds: float = 0.0
    draft_seconds: float = 0.0
    seconds: float = 0.0
    """All of the text: `Timings.decode`."""

    @property
    def acceptance(self) -> float:
        """The fraction of the drafted tokens that were right."""
        return self.accepted / self.drafted if self.drafted else 0.0

    @property
    def tokens_per_call(self) -> float:
        return self.tokens / self.calls if self.calls else 0.0

    @property
    def speedup(self) -> float | None:
        """Estimated speed-up against the target alone, with its one-token calls of this text for all tokens and the
        same time for sampler and loop. None if there was no such call."""
        if not self.plain_step or not self.seconds:
            return None
        loop = self.seconds - self.target_seconds - self.draft_seconds
        return (self.tokens * self.plain_step + loop) / self.seconds


class Speculation:
    """The target's logits, one row at a time, some of them computed ahead.

    Args:
        runtime: the target's; its cache contains `prompt`.
        draft: guesses for this text.
        prompt: ids.
        pace: decides how many tokens are drafted.
    """

    def __init__(self, runtime: Runtime, draft: Draft, prompt: Sequence[int], pace: Pace):
        self._runtime, self._draft, self._pace = runtime, draft, pace
        self._history = list(prompt)
        self._proposal = Proposal()
        self._rows: Logits | None = None
        """Logits after each token of this round's call, (1 + guesses, vocab_size); None without guesses."""
        self._chosen = 0
        """How many guesses of this round the loop has chosen."""
        self._drafted_before = False
        """Whether the draft was asked in the previous round too."""
        self._plain_calls, self._plain_seconds = 0, 0.0
        self.stats = DraftStats(draft.kind)

    def choose(self, sampler: TextSampler, logits: Logits, allowed: NDArray[np.bool_] | None) -> int:
        """The next token from the last logits: by `sampler.choose`, or by rejection where the guess was drawn."""
        proposal = self._proposal
        if self._rows is None or proposal.distributions is None or self._chosen >= len(proposal.tokens):
            return sampler.choose(logits, allowed)
        guess, distribution = proposal.tokens[self._chosen], proposal.distributions[self._chosen]
        return rejection.choose(sampler, logits, allowed, guess, distribution)

    def after(self, token: int, left: int) -> Logits:
        """float32 logits (vocab_size,) of what follows `token`, which the loop has just chosen.

        `left` tokens may still be chosen, at least one. Raises as `Runtime.forward`.
        """
        stats, proposal = self.stats, self._proposal
        stats.tokens += 1
        self._history.append(token)
        if self._rows is not None:
            if self._chosen < len(proposal.tokens) and proposal.tokens[self._chosen] == token:
                self._chosen += 1
                stats.accepted += 1
                return self._rows[self._chosen]
            self._end_round()
        return self._start_round(token, left)

    def finish(self, seconds: float) -> None:
        """Leave the target's cache as without a draft: with everything but the last token chosen.

        `seconds`: of the whole text without its first token.
        """
        if self._rows is not None:
            self._end_round()
        self.stats.seconds = seconds

    def _start_round(self, token: int, left: int) -> Logits:
        """Draft, and call the target with `token` and the guesses."""
        stats, pace, clock = self.stats, self._pace, time.perf_counter
        count = pace.plan(left - 1)
        stats.resting, stats.rests = pace.paused, pace.pauses
        proposal = self._proposal = Proposal()
        if count:
            begin = clock()
            proposal = self._proposal = self._draft.propose(self._history, count, pace)
            seconds = clock() - begin
            stats.draft_seconds += seconds
            if proposal.tokens:
                if self._drafted_before:  # else it also read what came during a pause, at first the whole prompt
                    pace.draft.record(len(proposal.tokens), seconds)
                self._keep(pace.worth_checking(proposal.confidence))
        self._drafted_before = count > 0
        begin = clock()
        if proposal.tokens:
            self._rows = rows = self._runtime.forward([token, *proposal.tokens], every=True)
            logits = rows[0]
        else:
            logits = self._runtime.forward([token])
        seconds = clock() - begin
        pace.target.record(1 + len(proposal.tokens), seconds)
        stats.target_seconds += seconds
        stats.calls += 1
        stats.drafted += len(proposal.tokens)
        if not proposal.tokens:
            if stats.calls > 1:  # the first may allocate
                self._plain_calls, self._plain_seconds = self._plain_calls + 1, self._plain_seconds + seconds
            stats.plain_step = self._plain_seconds / self._plain_calls if self._plain_calls else seconds
        return logits

    def _keep(self, count: int) -> None:
        """Shorten the proposal to its first `count` tokens."""
        proposal = self._proposal
        del proposal.tokens[count:], proposal.confidence[count:]
        if proposal.distributions is not None:
            del proposal.distributions[count:]

    def _end_round(self) -> None:
        """Drop from the target's cache the guesses that were not chosen."""
        proposal = self._proposal
        self._pace.record_round(proposal.confidence, self._chosen)
        wrong = len(proposal.tokens) - self._chosen
        self._runtime.rewind(self._runtime.length - wrong)
        self._rows, self._chosen, self._proposal = None, 0, Proposal()


Begin = Callable[[Sequence[int], int], Speculation]
"""Starts speculative decoding from prompt ids and seed, once both are known."""
