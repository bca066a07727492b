"""A draft of another vocabulary: what passes between it and the target is text.

In each round:

1. The text so far, as the target's ids print it, is put into the draft's ids. Ids that the draft already has, whether
   read or guessed by itself, stay as long as they print that text.
2. The last word may not be over, and its beginning alone would be spelt by ids that the draft hardly ever saw before
   the rest of it (" walk" and "ing" for a model that knows " walking"; a TokenMonster vocabulary knows " She said" as
   well). So the draft goes back to the first of its ids that a longer one could stand for, and says from there again
   what is known, either by the tokenizer's ids or by a longer one, whichever it finds likelier ("token healing",
   after Lundberg's guidance). That takes no more calls than reading it.
3. It guesses on. The last guess stays back: of the target's ids for that text the last might be another if the draft
   had gone on (a " walk" that becomes " walking"), and what is held back need not be guessed again in the next round.
4. The text guessed is put into the target's ids, in its context, where they go on from the ids that are there.

`transformers` does 1 and 4 too (universal assisted generation, `assistant_tokenizer`).

Guesses are the draft's likeliest ids, also where the target samples: its race has no numbers for another vocabulary,
and of all independent guesses the likeliest is most often right.
"""

import dataclasses
import os
from collections.abc import Callable, Sequence

import numpy as np

from edgekit.inference.runtime import Logits, Runtime
from edgekit.inference.sampling import Sampler
from edgekit.inference.speculative.draft import Follower
from edgekit.inference.speculative.pace import Pace
from edgekit.inference.speculative.speculation import Proposal
from edgekit.inference.speculative.transcript import CONTEXT, Openings, Transcript, formed, forms
from edgekit.settings import Generating
from edgekit.tokenizers.base import Tokenizer
from edgekit.tokenizers.tokenmonster.tokenizer import TokenMonsterTokenizer

LONGEST = 40
"""Characters that an id may stand for; so far back it is asked whether a longer one could."""


class TextDraft:
    """See above, and `edgekit.speculative.Draft`.

    Args:
        runtime, tokenizer: the draft's.
        target: the target's tokenizer.
        settings: of the text; the repetition penalty counts for the draft's ids too.
    """

    kind = "other vocabulary"

    def __init__(self, runtime: Runtime, tokenizer: Tokenizer, target: Tokenizer, settings: Generating):
        self._follower, self._size = Follower(runtime), runtime.vocab_size
        self._settings = dataclasses.replace(settings, temperature=0.0, logit_bias={}, banned=())
        self._sampler = Sampler(self._settings, self._size)
        self._target, self._stop = Transcript(target), sorted(target.stop)
        begin = [] if tokenizer.bos is None else [tokenizer.bos]
        self._own, self._begin = Transcript(tokenizer, begin), len(begin)
        self._sure = [1.0] * len(begin)
        """Of each id of the draft's own: how sure it was, if it was guessed."""
        self._agreed = self._left_out = 0
        """Characters that the draft's text is known to share with the target's, and those that it begins behind."""
        self._ends = tokenizer.stop
        self._openings = Openings(tokenizer.token_bytes)
        self._bytes: Callable[[str], bytes] = str.encode
        if isinstance(tokenizer, TokenMonsterTokenizer) and tokenizer.vocabulary.capcode == 2:
            self._bytes = tokenizer.vocabulary.normalize
        self._form, self._back = forms(tokenizer, target)

    def propose(self, history: Sequence[int], count: int, pace: Pace) -> Proposal:
        """See `edgekit.speculative.Draft.propose`."""
        self._target.extend(history[len(self._target.ids) :])
        text = formed(self._target.text, self._form)[self._left_out :]
        if self._settings.repetition_penalty != 1:
            self._sampler = Sampler(self._settings, self._size, self._own.ids)
        if not text or not self._catch_up(text):
            self._cut(self._begin)  # something that it has no ids for: begin anew behind it
            self._agreed, self._left_out = 0, self._left_out + len(text)
            return Proposal()
        ended = self._guess(len(text), count * max(len(text) / len(history), 1.0), count, pace)
        return self._translate(len(text), count, ended)

    # ---- the text, in the draft's ids ------------------------------------------------------------------------------

    def _catch_up(self, text: str) -> bool:
        """Make the draft's own text begin with `text`; False if it has no way to say it."""
        own = self._own
        same = self._agreed + len(os.path.commonprefix([own.text[self._agreed :], text[self._agreed :]]))
        self._agreed = same if self._form is None else 0  # composing may change what was there
        if same == len(text):
            return True  # what more it has, it guessed before
        found = own.respell(text, same, self._begin)
        if found is None:
            return False
        self._cut(found[0])
        start, ids = len(own.text), found[1]
        ends = [start, *self._ends_after(ids)]
        if ends[-1] != len(text):
            return False
        # The first id that a longer one could stand for, all that is known of it included.
        near = (i for i, end in enumerate(ends[:-1]) if len(text) - end <= LONGEST)
        again = next((i for i in near if self._open(text[ends[i] :])), None)
        self._read(ids[:again])
        if again is not None and not self._say(text, ids[again:]):
            self._read(ids[again:])
        return own.text.startswith(text)

    def _ends_after(self, ids: Sequence[int]) -> list[int]:
        decoder, end, found = self._own.tokenizer.decoder(self._own.ids[-CONTEXT:]), len(self._own.text), []
        for id in ids:
            end += len(decoder.feed(id))
            found.append(end)
        return found

    def _open(self, text: str) -> list[int]:
        """Ids that stand for `text` and more, or for it alone."""
        return self._openings.of(self._bytes(text))

    def _read(self, ids: Sequence[int]) -> None:
        self._own.extend(ids)
        self._sure += [1.0] * len(ids)

    def _say(self, text: str, ids: Sequence[int]) -> bool:
        """Go on at least to the end of `text`, by these ids or one that ends it; False, and nothing, if it fails."""
        own, start = self._own, len(self._own.ids)
        for id in ids:
            allowed = np.zeros(self._size, bool)
            allowed[[each for each in (id, *self._open(text[len(own.text) :])) if each < self._size]] = True
            logits = self._logits() if allowed.any() else None
            if logits is None:
                break
            token, sure = self._sampler.guess(logits, allowed)
            self._feed(token, sure)
            if token != id:
                break
        if own.text.startswith(text):
            return True
        self._cut(start)
        return False

    # ---- guesses ---------------------------------------------------------------------------------------------------

    def _guess(self, start: int, wanted: float, count: int, pace: Pace) -> bool:
        """Guess about `wanted` characters behind `start`, and one id more; True if the text ends there."""
        own = self._own
        self._follower.shorten(own.ids, count)
        for _ in range(2 * count + 2):
            first = own.count_to(start)
            guesses = len(own.ids) - first
            if guesses > 0 and own.ends[-2] - start >= wanted:
                break
            if guesses > 0 and not pace.goes_on(self._sure[first:]):
                break
            logits = self._logits()
            if logits is None:
                break
            token, sure = self._sampler.guess(logits)
            if token in self._ends:
                return True
            self._feed(token, sure)
        return False

    def _translate(self, start: int, count: int, ended: bool) -> Proposal:
        """The guesses behind `start`, in the target's ids."""
        own, target = self._own, self._target
        more = formed(own.text[start:], self._back)
        # Up to where the last guess begins; of a single one, all but the target's last id.
        certain = len(formed(own.text[start : own.ends[-2]], self._back)) if len(own.ends) > 1 else 0
        ids = (target.spell(more) if more else []) or []
        found, decoder, end = Proposal(), None, 0
        for place, id in enumerate(ids[:count]):
            decoder = decoder or target.tokenizer.decoder(target.ids[-CONTEXT:])
            end += len(decoder.feed(id))
            if not ended and (end > certain if certain > 0 else place == len(ids) - 1):
                break
            found.tokens.append(id)
            found.sure.append(self._sure[min(own.count_to(start + end), len(self._sure)) - 1])
        if ended and self._stop and len(found.tokens) == len(ids) < count:
            found.tokens.append(self._stop[0])
            found.sure.append(1.0)
        return found

    # ---- the model -------------------------------------------------------------------------------------------------

    def _logits(self) -> Logits | None:
        own = self._own
        if not own.ids:
            return None
        found = self._follower.after(own.ids, own.unchanged)
        own.unchanged = len(own.ids)
        return found

    def _feed(self, token: int, sure: float) -> None:
        self._own.extend([token])
        self._sure.append(sure)

    def _cut(self, count: int) -> None:
        self._own.cut(count)
        del self._sure[count:]
