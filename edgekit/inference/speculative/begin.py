"""Which kind of draft a model is, and the start of speculative decoding for one text."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from edgekit.errors import SettingError
from edgekit.inference.runtime import Runtime
from edgekit.inference.speculative.draft import ModelDraft, NgramDraft
from edgekit.inference.speculative.draft_text import TextDraft
from edgekit.inference.speculative.pace import Pace
from edgekit.inference.speculative.speculation import Begin, Draft, Speculation
from edgekit.settings import Drafting, Generating
from edgekit.tokenizers.base import Tokenizer
from edgekit.tokenizers.tokenmonster.tokenizer import TokenMonsterTokenizer


class Pair(NamedTuple):
    """The parts of a model that speculative decoding needs."""

    runtime: Runtime
    tokenizer: Tokenizer


def begin(target: Pair, draft: Pair | str, drafting: Drafting, settings: Generating) -> Begin:
    """Prepare speculative decoding of one text.

    Args:
        target: the model that writes the text.
        draft: another model, or "ngram".
        drafting: how many tokens to draft, and how they are sampled.
        settings: of the text.

    Raises:
        SettingError: the draft is the target itself, which has a cache for one text only.
    """
    if not isinstance(draft, str) and draft.runtime is target.runtime:
        raise SettingError("the draft must be a second model: load it once more")

    def start(prompt: Sequence[int], seed: int) -> Speculation:
        count = None if drafting.draft_tokens == "auto" else int(drafting.draft_tokens)
        seeded = dataclasses.replace(settings, seed=seed)
        guesses: Draft
        if isinstance(draft, str):
            guesses = NgramDraft()
        elif same_vocabulary(target.tokenizer, draft.tokenizer):
            ends = frozenset() if settings.ignore_eos else target.tokenizer.stop
            rejecting = drafting.draft_sampling == "rejection" and settings.temperature > 0
            guesses = ModelDraft(draft.runtime, target.runtime.vocab_size, prompt, seeded, ends, rejecting)
        else:
            guesses = TextDraft(draft.runtime, draft.tokenizer, target.tokenizer, seeded)
        return Speculation(target.runtime, guesses, prompt, Pace(count))

    return start


def same_vocabulary(a: Tokenizer, b: Tokenizer) -> bool:
    """Whether every id prints the same in both; where one is longer, the rest of it is only padding.

    Nothing else matters: an id with another meaning for the draft costs a wrong guess, never a wrong text.
    """
    if isinstance(a, TokenMonsterTokenizer) and isinstance(b, TokenMonsterTokenizer):
        return a.vocabulary is b.vocabulary or a.vocabulary.to_bytes() == b.vocabulary.to_bytes()
    if isinstance(a, TokenMonsterTokenizer) or isinstance(b, TokenMonsterTokenizer):
        return False  # capcode applies to the bytes of only one of them
    one, other = a.token_bytes, b.token_bytes
    shared = min(len(one), len(other))
    return one[:shared] == other[:shared] and not any(one[shared:]) and not any(other[shared:])
