"""Speculative decoding on every runtime and on pairs of them, with trained models: the tokens are the target's own.

All in float32 with a float32 cache, where a call with many tokens gives the logits of many calls with one, to 1e-5.
"""

import json
import subprocess
import sys

import pytest

import edgekit
from edgekit.errors import MissingExtraError
from edgekit.utils import registry

RUNTIMES = registry.names("runtimes")
PROMPTS = [
    "Once upon a time",
    "Tom said: \"It's 3 o'clock — naïve café ♥ 中",  # bytes, leading spaces, delete markers
]
CHAINS = [
    {"temperature": 0, "repetition_penalty": 1.0},
    {"temperature": 0.8, "top_p": 0.9, "top_k": 60, "repetition_penalty": 1.2, "seed": 11, "ban_replacement": True},
]


@pytest.fixture(scope="module")
def opened(tmp_path_factory, request):
    """(model name, runtime name, which) -> Model, each loaded once."""
    patch = pytest.MonkeyPatch()
    patch.setenv("EDGEKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
    loaded: dict[tuple[str, str, int], edgekit.Model] = {}

    def get(model, runtime, which=0):
        if (model, runtime, which) not in loaded:
            try:
                loaded[model, runtime, which] = edgekit.load(
                    request.getfixturevalue(model), runtime=runtime, kv_type="f32", threads=1
                )
            except MissingExtraError as error:
                pytest.skip(str(error))
        return loaded[model, runtime, which]

    yield get
    patch.undo()


# Each runtime is once a target and once a draft of each vocabulary.
@pytest.mark.parametrize(
    "target, on, draft, by",
    [
        ("stories", "torch", "bundled", "onnx"),
        ("stories", "onnx", "bundled", "llamacpp"),
        ("stories", "llamacpp", "bundled", "torch"),
        ("bundled", "torch", "stories", "llamacpp"),
        ("bundled", "onnx", "stories", "torch"),
        ("bundled", "llamacpp", "stories", "onnx"),
    ],
)
def test_generate_draft_of_another_vocabulary_keeps_the_tokens(opened, target, on, draft, by):
    model, drafter = opened(target, on), opened(draft, by)
    right = []
    for prompt, chain in zip(PROMPTS, CHAINS, strict=True):
        alone = model.generate(prompt, **chain, max_new_tokens=36)
        result = model.generate(prompt, **chain, max_new_tokens=36, draft=drafter, draft_tokens=4)
        assert (result.tokens, result.text, result.finish_reason) == (alone.tokens, alone.text, alone.finish_reason)
        assert result.draft.kind == "other vocabulary"
        right.append(result.draft.accepted)
    assert right[0] >= 6, "many guesses were right"


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_generate_same_weights_on_another_runtime_guess_nearly_all(opened, runtime):
    """With the target's own random numbers nearly every guess is right, also when sampling."""
    model, drafter = opened("stories", runtime), opened("stories", RUNTIMES[RUNTIMES.index(runtime) - 1], 1)
    for prompt, chain in zip(PROMPTS, CHAINS, strict=True):
        alone = model.generate(prompt, **chain, max_new_tokens=60)
        result = model.generate(prompt, **chain, max_new_tokens=60, draft=drafter, draft_tokens=5)
        assert result.tokens == alone.tokens and result.draft.kind == "same vocabulary"
        assert result.draft.acceptance > (0.6 if chain.get("ban_replacement") else 0.97)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_generate_ngram_draft_up_to_the_end_of_the_context(opened, runtime):
    model = opened("stories", runtime)
    prompt = model.encode("The cat sat on the mat. " * 80)[: model.runtime.context_length - 30]
    alone = model.generate(prompt, temperature=0, repetition_penalty=1.0, max_new_tokens=99)
    result = model.generate(
        prompt, temperature=0, repetition_penalty=1.0, max_new_tokens=99, draft="ngram", draft_tokens=6
    )
    assert result.tokens == alone.tokens and len(alone.tokens) == 31 and result.finish_reason == "length"
    assert result.draft.kind == "ngram" and result.draft.drafted > 20


def test_run_draft_reports_statistics(bundled, stories, tmp_path):
    pytest.importorskip("onnxruntime")

    def run(*more):
        done = subprocess.run(
            [sys.executable, "-m", "edgekit", "run", "-m", str(stories), "Once upon a time", "--max-new-tokens", "24",
             "--runtime", "onnx", "--temperature", "0", *more],
            capture_output=True, text=True, timeout=120, env={"EDGEKIT_CACHE": str(tmp_path), "PATH": ""},
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    alone = run()[1]
    code, out, err = run("--draft", "bundled", "--draft-runtime", "onnx", "--draft-tokens", "3", "--stats")
    assert (code, out) == (0, alone), err
    assert "draft (other vocabulary)" in err and "drafted tokens accepted" in err and "tokens per call" in err
    record = json.loads(run("--draft", "ngram", "--json")[1])
    assert record["draft"]["kind"] == "ngram" and record["text"] == alone[len("Once upon a time") : -1]
    code, out, err = run("--draft-tokens", "3")
    assert code == 2 and err.strip().splitlines()[-1] == "Error: --draft-tokens needs --draft"
    code, out, err = run("--draft", "nowhere")
    assert code == 1 and "nowhere does not exist" in err and out == ""
