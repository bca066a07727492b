"""The rules of a generation config, compared with transformers' own logits processors."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.errors import EdgekitError, SettingError
from edgekit.formats.generation_config import caveats, check_strict, defaults, ignored
from edgekit.inference.processors import Processors
from edgekit.inference.sampling import Sampler
from edgekit.settings import Generating, Sampling

torch = pytest.importorskip("torch")
theirs = pytest.importorskip("transformers.generation.logits_process")

VOCAB, ENDS = 12, (2, 5)
RULES = {
    "repetition_penalty": 1.3,
    "no_repeat_ngram_size": 2,
    "bad_words_ids": ((3,), (2,), (1, 4), (4, 4, 1)),
    "exponential_decay_length_penalty": (2, 1.5),
    "suppress_tokens": (0, 7, 99),
}


def chain(rules, prompt_length):
    """transformers' processors in the order of `generate`."""
    made = []
    if rules.get("repetition_penalty", 1) != 1:
        made.append(theirs.RepetitionPenaltyLogitsProcessor(rules["repetition_penalty"]))
    if rules.get("no_repeat_ngram_size"):
        made.append(theirs.NoRepeatNGramLogitsProcessor(rules["no_repeat_ngram_size"]))
    if rules.get("bad_words_ids"):
        words = [list(word) for word in rules["bad_words_ids"]]
        made.append(theirs.NoBadWordsLogitsProcessor(words, list(ENDS)))
    if rules.get("exponential_decay_length_penalty"):
        pair = rules["exponential_decay_length_penalty"]
        made.append(theirs.ExponentialDecayLengthPenalty(pair, list(ENDS), prompt_length))
    if rules.get("suppress_tokens"):
        made.append(theirs.SuppressTokensLogitsProcessor(list(rules["suppress_tokens"])))
    return theirs.LogitsProcessorList(made)


@pytest.mark.parametrize("names", [[name] for name in RULES] + [list(RULES)], ids=[*RULES, "all"])
@given(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=8), st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_sampler_rules_equal_transformers_processors(names, prompt, seed):
    rules = {name: RULES[name] for name in names}
    sampler = Sampler(Sampling(**rules), VOCAB, prompt, ENDS)
    processors, ids, draw = chain(rules, len(prompt)), list(prompt), np.random.default_rng(seed)
    for _ in range(12):
        logits = draw.normal(0, 3, VOCAB).astype(np.float32)
        scores = processors(torch.tensor([ids]), torch.from_numpy(logits)[None].clone())[0].numpy()
        scores[np.isnan(scores)] = -np.inf  # a banned EOS under the length penalty, which transformers makes NaN
        np.testing.assert_array_equal(sampler._processed(logits.copy(), None)[0], scores)
        token = sampler.choose(logits)
        assert token == int(scores.argmax())
        ids.append(token)


@pytest.mark.parametrize("penalty", [0.0, 0.5])
def test_sampler_rewind_forgets_the_rules_of_later_tokens(penalty):
    draw = np.random.default_rng(0)
    rows = draw.normal(0, 3, (20, VOCAB)).astype(np.float32)
    sampler = Sampler(Sampling(**RULES, presence_penalty=penalty), VOCAB, [1, 4, 1], ENDS)
    first = [sampler.choose(row) for row in rows[:6]]
    mark = sampler.mark()
    second = [sampler.choose(row) for row in rows[6:]]
    sampler.rewind(mark)
    assert [sampler.choose(row) for row in rows[6:]] == second and len(first) == 6


def test_processors_needed_only_with_rules():
    assert not Processors.needed(Sampling(temperature=0.7, repetition_penalty=1.1))
    for name in set(RULES) - {"repetition_penalty"}:
        assert Processors.needed(Sampling(**{name: RULES[name]}))


@pytest.mark.parametrize("values, message", [
    ({"bad_words_ids": ((),)}, "bad_words_ids must be lists of token ids"),
    ({"bad_words_ids": (3,)}, "bad_words_ids must be lists of token ids"),
    ({"exponential_decay_length_penalty": (1.5, 2.0)}, "exponential_decay_length_penalty"),
    ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size"),
])  # fmt: skip
def test_rules_out_of_range_are_refused(values, message):
    with pytest.raises(SettingError, match=message):
        Sampling(**values)


def test_sampler_bad_word_outside_the_vocabulary_is_refused():
    with pytest.raises(SettingError, match="token id 99 is outside"):
        Sampler(Sampling(bad_words_ids=((99,),)), VOCAB)


def files(generation=None, **config):
    result = {"config.json": json.dumps(config).encode()}
    return result | ({"generation_config.json": json.dumps(generation).encode()} if generation is not None else {})


def test_defaults_take_the_rules_greedy_or_not():
    rules = json.loads(json.dumps({k: v for k, v in RULES.items() if k != "repetition_penalty"}))
    for more in ({}, {"do_sample": True}):
        read = dataclasses.asdict(defaults(files(rules | more)))
        assert {name: read[name] for name in rules} == {name: RULES[name] for name in rules}


def test_defaults_of_config_json_apply_without_generation_config():
    assert defaults(files(None, repetition_penalty=1.2)) == Generating(repetition_penalty=1.2)
    assert defaults(files({}, repetition_penalty=1.2)) == Generating()


def test_ignored_names_settings_that_change_the_text():
    read = ignored(files({"num_beams": 4, "min_new_tokens": 3, "max_length": 12, "num_return_sequences": 1}))
    assert read == {"num_beams": 4, "min_new_tokens": 3, "max_length": 12}
    assert ignored(files({"max_length": 12, "max_new_tokens": 5})) == {}
    assert ignored(files(None, max_length=20, num_beams=2)) == {"num_beams": 2}


def test_caveats_name_unknown_keys_and_ignored_settings():
    notes = caveats(files({"num_beams": 4}, model_type="llama", new_thing=1))
    assert "'new_thing'" in notes[0] and "num_beams 4" in notes[1] and len(notes) == 2
    assert caveats(files({}, model_type="llama", is_llama_config=True)) == []
    with pytest.raises(EdgekitError, match="unknown key 'new_thing'"):
        check_strict(files(None, new_thing=1))
