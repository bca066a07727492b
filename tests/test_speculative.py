"""Speculative decoding: whatever the draft guesses, the text is that of the target alone."""

import dataclasses

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from speculative_toys import OTHER, SMALL, Hashed, Spelled

from edgekit.errors import SettingError
from edgekit.inference.speculative.draft import GAP, Follower
from edgekit.model import Model

TARGETS, OTHERS = Spelled(SMALL, stop=[0]), Spelled(OTHER, stop=[0], bos=len(OTHER) - 2)
DRAFTS = ["itself", "alike", "nonsense", "forgetful", "smaller", "other", "other with BOS", "ngram"]


def target(**more):
    return Model(Hashed(len(SMALL), **more), TARGETS)


def drafter(name):
    """A draft that is right always, mostly or never; one with a context of 9, with fewer ids, with other ids."""
    if name == "ngram":
        return name
    if name.startswith("other"):
        tokenizer = OTHERS if name.endswith("BOS") else Spelled(OTHER, stop=[0])
        return Model(Hashed(len(OTHER)), tokenizer)
    if name == "smaller":
        return Model(Hashed(len(SMALL) - 1, wrong=0.2), Spelled(SMALL[:-1], stop=[0]))
    wrong = {"itself": 0.0, "alike": 0.15, "nonsense": 1.0, "forgetful": 0.0}[name]
    return Model(Hashed(len(SMALL), 9 if name == "forgetful" else 64, wrong=wrong), TARGETS)


TEXTS = st.text("abc .♥é", min_size=1, max_size=12)
PROMPTS = st.one_of(TEXTS, st.lists(st.integers(0, len(SMALL) - 1), min_size=1, max_size=70))
SETTINGS = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.0, 0.7, 1.0, 1.5]),
        "max_new_tokens": st.sampled_from([1, 2, 3, 17, 100]),
        "ignore_eos": st.booleans(),
        "truncate": st.just("left"),
    },
    optional={
        "top_k": st.sampled_from([1, 4]),
        "top_p": st.sampled_from([0.5, 0.9]),
        "min_p": st.sampled_from([0.05]),
        "repetition_penalty": st.sampled_from([0.8, 1.2]),
        "stop": st.lists(st.text("abc .", min_size=1, max_size=3), min_size=1, max_size=3),
        "logprobs": st.sampled_from([0, 2]),
        "ban_replacement": st.just(True),
        "banned": st.just((1, 6)),
        "logit_bias": st.just({2: 2.0, len(SMALL) - 1: -3.0}),
    },
)


def outcome(model, prompt, cancel_after=None, **more):
    """All of a text's result and the cache that it leaves, and the statistics of the draft."""
    asked = []
    cancelled = None if cancel_after is None else lambda: (asked.append(1), len(asked) > cancel_after)[1]
    stream = model.stream(prompt, cancelled=cancelled, **more)
    pieces, result = list(stream), stream.result
    values = {f.name: getattr(result, f.name) for f in dataclasses.fields(result) if f.name not in ("timings", "draft")}
    return values | {"pieces": pieces, "asked": len(asked), "cache": model.runtime.cache}, result.draft


@given(
    PROMPTS, SETTINGS, st.integers(0, 2**40), st.sampled_from(DRAFTS), st.sampled_from(["auto", 1, 3, 8]),
    st.one_of(st.none(), st.integers(0, 9)),
)  # fmt: skip
@settings(max_examples=250, deadline=None)
def test_stream_any_draft_changes_nothing_but_the_calls(prompt, chain, seed, name, count, cancel_after):
    alone, _ = outcome(target(), prompt, cancel_after, **chain, seed=seed)
    model, draft = target(), drafter(name)
    drafted, stats = outcome(model, prompt, cancel_after, **chain, seed=seed, draft=draft, draft_tokens=count)
    assert drafted == alone
    assert stats.tokens == len(alone["tokens"]) - 1 and stats.accepted <= stats.drafted
    assert stats.calls + stats.accepted >= stats.tokens >= stats.calls
    assert sum(model.runtime.calls[1:]) == stats.calls + stats.drafted, "every token fed is counted"


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_stream_draft_equal_to_target_is_always_right(temperature, penalty):
    chain = {"temperature": temperature, "repetition_penalty": penalty, "top_p": 0.9, "seed": 1, "ignore_eos": True}
    for name in ("itself", "forgetful"):  # the toy's logits depend on three tokens of context
        _, stats = outcome(target(), "ab", max_new_tokens=51, draft=drafter(name), draft_tokens=5, **chain)
        # Two calls of one token each to measure their cost, then rounds of five guesses and one more token.
        assert stats.drafted == stats.accepted == 40 and stats.calls == 2 + 8, name


def test_ngram_draft_finds_a_loop_in_the_text():
    model = target(order=1)
    _, stats = outcome(model, "ab", max_new_tokens=60, ignore_eos=True, draft="ngram", draft_tokens=4)
    assert stats.kind == "ngram" and stats.accepted > 30  # a hash of one token soon repeats itself


def test_stream_invalid_draft_is_refused():
    model = target()
    with pytest.raises(SettingError, match="the draft must be a second model"):
        model.generate("ab", draft=model)
    with pytest.raises(SettingError, match="draft_tokens must be a whole number from 1 to 64, or `auto`, not 0"):
        model.generate("ab", draft="ngram", draft_tokens=0)
    with pytest.raises(SettingError, match="draft_tokens is for a draft, and none is given"):
        model.generate("ab", draft_tokens=3)
    assert model.generate("ab", max_new_tokens=2).draft is None


def test_stream_draft_used_elsewhere_meanwhile_stays_right():
    model, draft = target(), drafter("itself")
    alone = target().generate("abc", max_new_tokens=40, ignore_eos=True).tokens
    stream = model.stream("abc", max_new_tokens=40, ignore_eos=True, draft=draft, draft_tokens=4)
    for _ in stream:
        draft.generate("cab", max_new_tokens=2, ignore_eos=True)
    assert stream.result.tokens == alone and stream.result.draft.acceptance == 1


def test_stream_closed_early_keeps_its_text_and_cache():
    alone, model = target().stream("abc", max_new_tokens=40), target()
    stream = model.stream("abc", max_new_tokens=40, draft=drafter("itself"), draft_tokens=4)
    for one, other in zip([next(alone) for _ in range(3)], stream, strict=False):
        assert one == other
    stream.close()
    assert stream.result.finish_reason == "cancelled"
    assert model.generate("abc", max_new_tokens=9).tokens == target().generate("abc", max_new_tokens=9).tokens


class Recorder(Hashed):
    """Counts the tokens fed; its logits depend on the whole cache."""

    def __init__(self, context_length):
        super().__init__(50, context_length, order=10**6)
        self.fed = 0

    def forward(self, tokens, *, every=False):
        self.fed += len(tokens)
        return super().forward(tokens, every=every)


@given(st.lists(st.tuples(st.integers(0, 200), st.lists(st.integers(0, 3), max_size=70)), min_size=1, max_size=8))
@example([(1, [0] * 37), (19, [])])  # cut back to just after what was dropped
@example([(0, [0] * 37), (18, [])])  # to all of it, after another use
@settings(max_examples=150, deadline=None)
def test_follower_changing_text_returns_logits_of_its_end(turns):
    """The text is cut and continued differently, again and again; at times the runtime is used for something else."""
    runtime, ids = Recorder(40), [0]
    follower, last = Follower(runtime), []
    for cut, more in turns:
        ids = ids[: max(cut, 1)] + more
        follower.make_room(ids, 3)
        same = next((i for i, (a, b) in enumerate(zip(ids, last, strict=False)) if a != b), min(len(ids), len(last)))
        logits = follower.after(ids, same)
        if logits is not None:
            cache = runtime.cache
            assert cache == ids[len(ids) - len(cache) :] and np.array_equal(logits, runtime.logits(cache))
            assert len(ids) > 30 or len(cache) == len(ids) or len(cache) >= 19, "at least half the context"
            before = runtime.fed
            assert np.array_equal(follower.after(ids, len(ids)), logits) and runtime.fed == before, "not computed again"
        last = list(ids)
        if cut % 7 == 0:
            runtime.rewind(0)


def test_follower_after_a_pause_reads_at_most_the_gap():
    runtime = Recorder(4000)
    follower = Follower(runtime)
    follower.after([1] * 500, 0)
    assert runtime.fed == 500, "the whole prompt is read"
    follower.after([1] * 1500, 500)
    assert runtime.fed == 500 + GAP
