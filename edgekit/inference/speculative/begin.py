"""Which draft a model is, and the start of speculative decoding for one text."""

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
    """A model as speculative decoding needs it."""

    runtime: Runtime
    tokenizer: Tokenizer


def begin(target: Pair, draft: Pair | str, drafting: Drafting, settings: Generating) -> Begin:
    """Speculative decoding of one text.

    Args:
        target: whose text it is.
        draft: another model, or "ngram".
        settings: of the text.

    Raises:
        SettingError: the draft is the target itself, whose one cache cannot hold two texts.
    """
    if not isinstance(draft, str) and draft.runtime is target.runtime:
        raise SettingError("the draft must be a model of its own: load it a second time")

    def make(prompt: Sequence[int], seed: int) -> Speculation:
        count = None if drafting.draft_tokens == "auto" else int(drafting.draft_tokens)
        own = dataclasses.replace(settings, seed=seed)
        made: Draft
        if isinstance(draft, str):
            made = NgramDraft()
        elif same_vocabulary(target.tokenizer, draft.tokenizer):
            ends = frozenset() if settings.ignore_eos else target.tokenizer.stop
            rejecting = drafting.draft_sampling == "rejection" and settings.temperature > 0
            made = ModelDraft(draft.runtime, target.runtime.vocab_size, prompt, own, ends, rejecting)
        else:
            made = TextDraft(draft.runtime, draft.tokenizer, target.tokenizer, own)
        return Speculation(target.runtime, made, prompt, Pace(count))

    return make


def same_vocabulary(a: Tokenizer, b: Tokenizer) -> bool:
    """Whether every id prints the same in both, as far as both go; what is longer has only padding there.

    That is all that matters: an id that means something else to the draft costs a wrong guess, never a wrong text.
    """
    if isinstance(a, TokenMonsterTokenizer) and isinstance(b, TokenMonsterTokenizer):
        return a.vocabulary is b.vocabulary or a.vocabulary.to_bytes() == b.vocabulary.to_bytes()
    if isinstance(a, TokenMonsterTokenizer) or isinstance(b, TokenMonsterTokenizer):
        return False  # the bytes of one undergo capcode, those of the other do not
    ours, theirs = a.token_bytes, b.token_bytes
    shared = min(len(ours), len(theirs))
    return ours[:shared] == theirs[:shared] and not any(ours[shared:]) and not any(theirs[shared:])
