"""A draft of another vocabulary, which exchanges text with the target.

In each round:

1. The text so far, as the target's ids print it, is encoded into the draft's ids. Ids that the draft already has, read
   or guessed, stay as long as they print that text.
2. The last word may be incomplete. Its beginning alone would be written with ids that the draft hardly ever saw before
   the rest of it (" walk" and "ing" for a model that knows " walking"; a TokenMonster vocabulary knows " She said" as
   well). So the draft goes back to the first of its ids that could be the beginning of a longer one, and writes the
   known text again from there, with the tokenizer's ids or a longer one, whichever it finds more likely ("token
   healing", after Lundberg's guidance). That takes no more calls than reading it.
3. It guesses further tokens. The last guess is withheld: with a longer text, the last of the target's ids might be
   another one (a " walk" that becomes " walking"), and a withheld guess need not be made again in the next round.
4. The text of the guesses is encoded into the target's ids, as a continuation of the ids that are there.

`transformers` does steps 1 and 4 too (universal assisted generation, `assistant_tokenizer`).

Guesses are the draft's most likely ids, also where the target samples: the sampler's race has no common numbers for two
vocabularies, and of all independent guesses the most likely one is right most often.
"""

import dataclasses
import os
from collections.abc import Callable, Sequence

import numpy as np

from edgekit.inference.processors import NO_RULES
from edgekit.inference.runtime import Logits, Runtime
from edgekit.inference.samplers import new_sampler
from edgekit.inference.speculative.draft import Follower
from edgekit.inference.speculative.pace import Pace
from edgekit.inference.speculative.speculation import Proposal
from edgekit.inference.speculative.transcript import CONTEXT, PrefixIndex, Transcript, normal_forms, normalized
from edgekit.settings import Generating
from edgekit.tokenizers.base import Tokenizer
from edgekit.tokenizers.tokenmonster.tokenizer import TokenMonsterTokenizer

LONGEST = 40
"""Characters of the text's end in which step 2 looks for the beginning of a longer id."""


class TextDraft:
    """A model of another vocabulary; see the module's docstring.

    Args:
        runtime, tokenizer: the draft's.
        target: the target's tokenizer.
        settings: of the text; the repetition penalty counts the draft's ids too.
    """

    kind = "other vocabulary"

    def __init__(self, runtime: Runtime, tokenizer: Tokenizer, target: Tokenizer, settings: Generating):
        self._follower, self._size = Follower(runtime), runtime.vocab_size
        self._settings = dataclasses.replace(
            settings, temperature=0.0, logit_bias={}, banned=(), presence_penalty=0.0, frequency_penalty=0.0, **NO_RULES
        )
        self._sampler = new_sampler(self._settings, self._size)
        self._target, self._stop = Transcript(target), sorted(target.stop)
        bos = [] if tokenizer.bos is None else [tokenizer.bos]
        self._draft, self._bos_count = Transcript(tokenizer, bos), len(bos)
        self._confidence = [1.0] * len(bos)
        """Of each id in `_draft`; 1 for those that were read."""
        self._common = 0
        """Characters at the beginning of both texts that are known to be equal."""
        self._skipped = 0
        """Characters of the target's text before the beginning of the draft's."""
        self._ends = tokenizer.stop
        self._index = PrefixIndex(tokenizer.token_bytes)
        self._bytes: Callable[[str], bytes] = str.encode
        if isinstance(tokenizer, TokenMonsterTokenizer) and tokenizer.vocabulary.capcode == 2:
            self._bytes = tokenizer.vocabulary.normalize
        self._form, self._target_form = normal_forms(tokenizer, target)

    def propose(self, history: Sequence[int], count: int, pace: Pace) -> Proposal:
        """See `edgekit.inference.speculative.speculation.Draft.propose`."""
        self._target.extend(history[len(self._target.ids) :])
        text = normalized(self._target.text, self._form)[self._skipped :]
        if self._settings.repetition_penalty != 1:
            self._sampler = new_sampler(self._settings, self._size, self._draft.ids)
        if not text or not self._catch_up(text):
            self._cut(self._bos_count)  # the draft has no ids for some of the text: start over after it
            self._common, self._skipped = 0, self._skipped + len(text)
            return Proposal()
        ended = self._guess(len(text), count * max(len(text) / len(history), 1.0), count, pace)
        return self._translate(len(text), count, ended)

    # ---- the text, in the draft's ids ------------------------------------------------------------------------------

    def _catch_up(self, text: str) -> bool:
        """Make the draft's text begin with `text`; False if its tokenizer cannot write it."""
        draft = self._draft
        same = self._common + len(os.path.commonprefix([draft.text[self._common :], text[self._common :]]))
        self._common = same if self._form is None else 0  # composition may change earlier characters
        if same == len(text):
            return True  # anything after it was guessed before
        encoded = draft.reencode(text, same, self._bos_count)
        if encoded is None:
            return False
        kept, ids = encoded
        self._cut(kept)
        ends = [len(draft.text), *self._ends_after(ids)]
        if ends[-1] != len(text):
            return False
        # The first id whose text, with all that follows it, could be the beginning of a longer id.
        near = (i for i, end in enumerate(ends[:-1]) if len(text) - end <= LONGEST)
        again = next((i for i in near if self._starting_with(text[ends[i] :])), None)
        self._read(ids[:again])
        if again is not None and not self._heal(text, ids[again:]):
            self._read(ids[again:])
        return draft.text.startswith(text)

    def _ends_after(self, ids: Sequence[int]) -> list[int]:
        """Where in the draft's text each of the ids would end."""
        decoder, end, ends = self._draft.tokenizer.decoder(self._draft.ids[-CONTEXT:]), len(self._draft.text), []
        for id in ids:
            end += len(decoder.feed(id))
            ends.append(end)
        return ends

    def _starting_with(self, text: str) -> list[int]:
        """Ids that stand for `text`, or for `text` and more."""
        return self._index.starting_with(self._bytes(text))

    def _read(self, ids: Sequence[int]) -> None:
        self._draft.extend(ids)
        self._confidence += [1.0] * len(ids)

    def _heal(self, text: str, ids: Sequence[int]) -> bool:
        """Write at least to the end of `text`, with these ids or one that reaches beyond; False, and no change, if
        that fails."""
        draft, start = self._draft, len(self._draft.ids)
        for id in ids:
            allowed = np.zeros(self._size, bool)
            candidates = (id, *self._starting_with(text[len(draft.text) :]))
            allowed[[each for each in candidates if each < self._size]] = True
            logits = self._logits() if allowed.any() else None
            if logits is None:
                break
            token, confidence = self._sampler.guess(logits, allowed)
            self._append(token, confidence)
            if token != id:
                break
        if draft.text.startswith(text):
            return True
        self._cut(start)
        return False

    # ---- guesses ---------------------------------------------------------------------------------------------------

    def _guess(self, start: int, length: float, count: int, pace: Pace) -> bool:
        """Guess about `length` characters after `start`, and one id more; True if the text ends there."""
        draft = self._draft
        self._follower.make_room(draft.ids, count)
        for _ in range(2 * count + 2):
            first = draft.count_until(start)
            guesses = len(draft.ids) - first
            if guesses > 0 and draft.ends[-2] - start >= length:
                break
            if guesses > 0 and not pace.should_continue(self._confidence[first:]):
                break
            logits = self._logits()
            if logits is None:
                break
            token, confidence = self._sampler.guess(logits)
            if token in self._ends:
                return True
            self._append(token, confidence)
        return False

    def _translate(self, start: int, count: int, ended: bool) -> Proposal:
        """The guesses after `start`, in the target's ids."""
        draft, target = self._draft, self._target
        more = normalized(draft.text[start:], self._target_form)
        # Up to where the last guess begins; if there is only one, all but the target's last id.
        certain = len(normalized(draft.text[start : draft.ends[-2]], self._target_form)) if len(draft.ends) > 1 else 0
        ids = (target.encode_next(more) if more else []) or []
        proposal, decoder, end = Proposal(), None, 0
        for index, id in enumerate(ids[:count]):
            decoder = decoder or target.tokenizer.decoder(target.ids[-CONTEXT:])
            end += len(decoder.feed(id))
            if not ended and (end > certain if certain > 0 else index == len(ids) - 1):
                break
            proposal.tokens.append(id)
            guess = min(draft.count_until(start + end), len(self._confidence)) - 1
            proposal.confidence.append(self._confidence[guess])
        if ended and self._stop and len(proposal.tokens) == len(ids) < count:
            proposal.tokens.append(self._stop[0])
            proposal.confidence.append(1.0)
        return proposal

    # ---- the model -------------------------------------------------------------------------------------------------

    def _logits(self) -> Logits | None:
        """What follows the draft's text; None if its context is full, or it has no ids yet."""
        draft = self._draft
        if not draft.ids:
            return None
        logits = self._follower.after(draft.ids, draft.unchanged)
        draft.unchanged = len(draft.ids)
        return logits

    def _append(self, token: int, confidence: float) -> None:
        self._draft.extend([token])
        self._confidence.append(confidence)

    def _cut(self, count: int) -> None:
        self._draft.cut(count)
        del self._confidence[count:]
