"""transformers' rules for the next token, from a generation config, from flags, in Python and over HTTP: the greedy ids
are those of transformers' own `generate`."""

import json

import pytest
from click.testing import CliRunner
from helpers import write_model
from test_chat import TINY
from test_chat_template import CHATML, files_with

from edgekit.cli.main import main
from edgekit.errors import SettingError
from edgekit.model import load

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

PROMPT, LENGTH = "cats and dogs and", 40
PLAIN = {"max_new_tokens": LENGTH, "eos_token_id": 258}
RULES = {
    "no_repeat_ngram_size": ({"no_repeat_ngram_size": 2}, ["--no-repeat-ngram-size", "2"]),
    "repetition_penalty": ({"repetition_penalty": 1.3}, ["--repetition-penalty", "1.3"]),
    "suppress_tokens": ({"suppress_tokens": []}, ["--suppress-tokens", ""]),
    "bad_words_ids": ({"bad_words_ids": []}, ["--bad-words-ids", ""]),
    "length": ({"exponential_decay_length_penalty": [5, 1.2]}, ["--exponential-decay-length-penalty", "5,1.2"]),
}
OFF = {
    "no_repeat_ngram_size": (0, ["--no-repeat-ngram-size", "0"]),
    "repetition_penalty": (1.0, ["--repetition-penalty", "1"]),
    "suppress_tokens": ([], ["--suppress-tokens", "none"]),
    "bad_words_ids": ([], ["--bad-words-ids", "none"]),
    "exponential_decay_length_penalty": ([0, 1.0], ["--exponential-decay-length-penalty", "0,1"]),
}


def model_folder(path, generation):
    files = files_with(None) | {"generation_config.json": json.dumps(generation).encode()}
    return write_model(path, TINY, files=files, std=0.3)


def oracle(folder, **settings):
    """The ids that transformers generates, whose defaults are those of the folder."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompt = torch.tensor([tokenizer(PROMPT)["input_ids"]])
    ids = model.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, **settings)[0].tolist()
    return ids[prompt.shape[1] :]


def command(folder, *flags):
    arguments = ["run", "-m", str(folder), PROMPT, "--runtime", "torch", "--json", *flags]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)["tokens"]


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """By name: a folder without rules, the rule for its text, and its flags."""
    plain = model_folder(tmp_path_factory.mktemp("rules") / "plain", PLAIN)
    text = oracle(plain)
    assert len(text) == LENGTH and len(set(text)) > 5
    frequent, pair = max(text, key=text.count), text[6:8]
    result = {name: (plain, dict(rule), list(flags)) for name, (rule, flags) in RULES.items()}
    result["suppress_tokens"] = plain, {"suppress_tokens": [frequent, text[3]]}, [
        "--suppress-tokens", f"{frequent},{text[3]}"]  # fmt: skip
    result["bad_words_ids"] = plain, {"bad_words_ids": [pair, [text[10]]]}, [
        "--bad-words-ids", ",".join(map(str, pair)), "--bad-words-ids", str(text[10])]  # fmt: skip
    result["all"] = (
        plain,
        {key: value for _, rule, _ in result.values() for key, value in rule.items()},
        [flag for _, _, flags in result.values() for flag in flags],
    )
    return result


@pytest.mark.parametrize("name", [*RULES, "all"])
def test_rule_by_flag_keyword_or_file_equals_transformers_generate(cases, tmp_path, name):
    plain, rule, flags = cases[name]
    expected = oracle(plain, **rule)
    assert expected != oracle(plain), "the rule changes the text"
    assert command(plain, *flags) == expected
    assert load(plain, runtime="torch").generate(PROMPT, **rule).tokens == expected
    stated = model_folder(tmp_path / "stated", PLAIN | rule)
    assert oracle(stated) == expected
    assert command(stated) == expected
    assert load(stated, runtime="torch").generate(PROMPT).tokens == expected


@pytest.mark.parametrize("name", [*RULES, "all"])
def test_rule_of_the_file_is_replaced_by_flag_or_keyword(cases, tmp_path, name):
    plain, rule, _ = cases[name]
    stated = model_folder(tmp_path / "stated", PLAIN | rule)
    expected = oracle(plain)
    off = {key: OFF[key] for key in rule}
    assert command(stated, *(flag for _, flags in off.values() for flag in flags)) == expected
    keywords = {key: value for key, (value, _) in off.items()}
    assert load(stated, runtime="torch").generate(PROMPT, **keywords).tokens == expected


def test_rule_by_flag_replaces_another_value_as_in_transformers(cases, tmp_path):
    stated = model_folder(tmp_path / "stated", PLAIN | {"no_repeat_ngram_size": 2})
    expected = oracle(stated, no_repeat_ngram_size=4)
    assert command(stated, "--no-repeat-ngram-size", "4") == expected != oracle(stated)


@pytest.mark.parametrize("flags, message", [
    (["--no-repeat-ngram-size", "-1"], "no_repeat_ngram_size must be a whole number"),
    (["--suppress-tokens", "x"], "not a comma-separated list of whole numbers"),
    (["--bad-words-ids", "1,-2"], "bad_words_ids must be lists of token ids"),
    (["--bad-words-ids", "5000"], "token id 5000 is outside the vocabulary of 320"),
    (["--exponential-decay-length-penalty", "5"], "a number of tokens and a factor above 0"),
    (["--exponential-decay-length-penalty", "5,x"], "not a comma-separated list of numbers"),
])  # fmt: skip
def test_rule_by_flag_out_of_range_is_refused(cases, flags, message):
    done = CliRunner().invoke(main, ["run", "-m", str(cases["all"][0]), PROMPT, "--runtime", "torch", *flags])
    assert done.exit_code == 2 and message in done.stderr


def test_rule_by_keyword_out_of_range_is_refused(cases):
    with pytest.raises(SettingError, match="bad_words_ids"):
        load(cases["all"][0], runtime="torch").generate(PROMPT, bad_words_ids=[[]])


def test_settings_that_edgekit_does_not_have_are_named_by_every_command(tmp_path):
    pytest.importorskip("gguf")
    left_out = {"num_beams": 4, "max_length": 30, "min_new_tokens": 3}
    folder = model_folder(tmp_path / "model", {"eos_token_id": 258} | left_out)
    out = tmp_path / "model.gguf"
    chat = write_model(tmp_path / "chat", TINY, files=files_with(CHATML) | {
        "generation_config.json": json.dumps(left_out).encode()}, std=0.3)  # fmt: skip
    short = ["--max-new-tokens", "2", "--runtime", "torch"]
    for arguments, text in (
        (["run", "-m", folder, "x", *short], None),
        (["convert", "-m", folder, "--to", "gguf", "-o", out], None),
        (["doctor", "-m", folder], None),
        (["doctor", "-m", out], None),
        (["chat", "-m", chat, *short], "hello"),
    ):
        shown = " ".join(CliRunner().invoke(main, [str(word) for word in arguments], input=text).output.split())
        for name, value in left_out.items():
            assert f"{name} {value}" in shown, (arguments[0], shown)


def test_rules_over_http_equal_transformers_generate(cases):
    serving = pytest.importorskip("serving")
    from edgekit.web.models import ModelPool

    plain = cases["all"][0]
    model = load(plain, runtime="torch")
    with serving.served(ModelPool([plain], runtime="torch")) as client:
        body = {"prompt": PROMPT, "max_tokens": LENGTH, "temperature": 0}
        for _, rule, _ in cases.values():
            answer = serving.complete(client, **body, **rule)["choices"][0]["text"]
            assert answer == model.tokenizer.decode(oracle(plain, **rule)).removesuffix("</s>")
        for field, value in (("bad_words_ids", [[5000]]), ("bad_words_ids", [[]]), ("no_repeat_ngram_size", -1),
                             ("exponential_decay_length_penalty", [1]), ("suppress_tokens", "x")):  # fmt: skip
            refused = client.post("/v1/completions", json=body | {field: value})
            assert refused.status_code == 400 and field in refused.json()["error"]["message"]
