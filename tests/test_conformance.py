"""One suite for every runtime. A runtime is right if its logits and tokens equal those of transformers' model.

Exactness is tested at f32 with an f32 KV cache, on the bundled model, on another trained one (grouped-query attention,
SentencePiece) and on one of Stentor2-12M's shape with seeded weights and the real TokenMonster vocabulary.
"""

from pathlib import Path

import numpy as np
import pytest

import edgekit
from edgekit.errors import ContextError, MissingExtraError, RuntimeFailure
from edgekit.inference.sampling import log_softmax
from edgekit.utils import registry

RUNTIMES = registry.names("runtimes")
WAYS = {name: {"runtime": name} for name in RUNTIMES} | {"torch-reference": {"runtime": "torch", "reference": True}}
"""The runtimes, and the plain transformers model under the same contract."""
MODELS = ["bundled", "stories", "stentor"]

OPENINGS = [
    "Once upon a time", "The little dog", "One day, Tim", "Lily and her mom", "In the forest", "A big red ball",
    "The sun was", 'He said, "No!', "There was a boy", "She wanted to", "The cat sat", "Mom smiled and",
    "It was raining", "Ben found a", "They played all", "The bird could",
]  # fmt: skip
PROMPTS = [f"{opening}{more}" for more in ("", " very", " and then", ", who lived far away,") for opening in OPENINGS]
SAMPLED = {"temperature": 0.8, "top_p": 0.9, "top_k": 200, "repetition_penalty": 1.2}


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("EDGEKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


@pytest.fixture(scope="session")
def opened(cache, request):
    """(model name, one of WAYS) -> Model at f32, each loaded once."""
    loaded: dict[tuple[str, str], edgekit.Model] = {}

    def get(model: str, way: str) -> edgekit.Model:
        if (model, way) not in loaded:
            try:
                loaded[model, way] = edgekit.load(request.getfixturevalue(model), kv_type="f32", threads=1, **WAYS[way])
            except MissingExtraError as error:
                pytest.skip(str(error))
        return loaded[model, way]

    return get


@pytest.fixture(params=MODELS)
def model_name(request):
    return request.param


@pytest.fixture(params=WAYS)
def runtime_name(request):
    return request.param


@pytest.fixture
def model(opened, model_name, runtime_name):
    return opened(model_name, runtime_name)


@pytest.fixture(scope="session")
def reference(request):
    """model name -> Hugging Face's model, loaded by transformers alone."""
    transformers = pytest.importorskip("transformers")
    loaded = {}

    def get(name: str):
        if name not in loaded:
            folder: Path = request.getfixturevalue(name)
            loaded[name] = transformers.AutoModelForCausalLM.from_pretrained(folder, torch_dtype="float32").eval()
        return loaded[name]

    return get


def tokens_of(model: edgekit.Model, n: int, seed: int = 0) -> list[int]:
    """Ids of real text, repeated to length n; a tokenizer's ids rather than uniformly random ones."""
    ids = model.encode(" ".join(PROMPTS[seed:] + PROMPTS[:seed]))
    return (ids * (n // len(ids) + 1))[:n]


def hf_logits(reference, tokens: list[int]) -> np.ndarray:
    import torch

    with torch.inference_mode():
        return reference(torch.tensor([tokens])).logits[0].numpy()


# ----------------------------------------------------------------------------- logits


def test_forward_logits_equal_transformers(model, model_name, reference):
    tokens = tokens_of(model, 100)
    model.runtime.rewind(0)
    ours = model.runtime.forward(tokens, every=True)
    assert ours.shape == (100, model.runtime.vocab_size) and ours.dtype == np.float32
    assert np.abs(ours - hf_logits(reference(model_name), tokens)).max() < 1e-4


def test_forward_last_row_equals_every(model):
    tokens = tokens_of(model, 40)
    model.runtime.rewind(0)
    every = model.runtime.forward(tokens, every=True)
    model.runtime.rewind(0)
    last = model.runtime.forward(tokens)
    assert last.shape == (model.runtime.vocab_size,) and last.dtype == np.float32
    assert np.abs(last - every[-1]).max() < 1e-4


def test_forward_prefill_equals_steps_and_chunks(model):
    tokens = tokens_of(model, 33)
    model.runtime.rewind(0)
    at_once = model.runtime.forward(tokens, every=True)
    model.runtime.rewind(0)
    steps = np.stack([model.runtime.forward([token]) for token in tokens])
    assert np.abs(at_once - steps).max() < 1e-4
    assert model.runtime.length == 33
    model.runtime.rewind(0)
    chunks = [model.runtime.forward(tokens[i : i + 7], every=True) for i in range(0, 33, 7)]
    assert np.abs(at_once - np.concatenate(chunks)).max() < 1e-4


def test_rewind_then_forward_equals_fresh_run(model):
    runtime, tokens, other = model.runtime, tokens_of(model, 30), tokens_of(model, 30, seed=9)
    runtime.rewind(0)
    fresh = runtime.forward(tokens, every=True)
    runtime.rewind(0)
    runtime.forward(tokens[:12] + other[12:])
    for keep in (12, 5, 0):
        runtime.rewind(keep)
        assert runtime.length == keep
        again = runtime.forward(tokens[keep:], every=True)
        assert np.abs(again - fresh[keep:]).max() < 1e-4
    runtime.rewind(30)
    assert runtime.length == 30


def test_forward_result_is_owned_by_caller(model):
    tokens = tokens_of(model, 8)
    model.runtime.rewind(0)
    first = model.runtime.forward(tokens)
    snapshot = first.copy()
    model.runtime.forward([tokens[0]])
    assert (first == snapshot).all()
    first[:] = 0  # the caller may write to it
    model.runtime.rewind(0)
    assert np.abs(model.runtime.forward(tokens) - snapshot).max() < 1e-5


def test_forward_full_context_works_one_more_raises(model, model_name, reference):
    runtime = model.runtime
    full = runtime.context_length
    assert full == reference(model_name).config.max_position_embeddings
    runtime.rewind(0)
    tokens = tokens_of(model, full)
    runtime.forward(tokens[:-1])
    last = runtime.forward(tokens[-1:])
    assert runtime.length == full
    assert np.abs(last - hf_logits(reference(model_name), tokens)[-1]).max() < 1e-4
    with pytest.raises(ContextError, match=f"{full + 1} tokens .* {full}"):
        runtime.forward([tokens[0]])
    assert runtime.length == full, "nothing was appended"
    runtime.rewind(0)
    with pytest.raises(ContextError):
        runtime.forward([*tokens, tokens[0]])
    assert runtime.length == 0


def test_forward_invalid_call_raises_and_keeps_cache(model):
    runtime = model.runtime
    runtime.rewind(0)
    runtime.forward(tokens_of(model, 3))
    for tokens, message in (([], "at least one"), ([runtime.vocab_size], "outside the vocabulary"), ([-1], "outside")):
        with pytest.raises(RuntimeFailure, match=message):
            runtime.forward(tokens)
    for length in (4, -1):
        with pytest.raises(RuntimeFailure, match="cannot keep"):
            runtime.rewind(length)
    assert runtime.length == 3


@pytest.mark.parametrize("runtime_name", RUNTIMES)
def test_stream_two_models_interleaved_are_independent(opened, runtime_name):
    a, b = opened("stories", runtime_name), opened("stentor", runtime_name)
    alone = [m.generate("Once upon a time", max_new_tokens=12, temperature=0).tokens for m in (a, b)]
    streams = [m.stream("Once upon a time", max_new_tokens=12, temperature=0) for m in (a, b)]
    for _ in zip(*streams, strict=False):  # turn by turn
        pass
    assert [s.drain().tokens for s in streams] == alone


# ----------------------------------------------------------------------------- tokens


def generated(model, n_prompts: int, n_tokens: int, **settings) -> list[list[int]]:
    return [
        model.generate(prompt, max_new_tokens=n_tokens, seed=seed, **settings).tokens
        for seed, prompt in enumerate(PROMPTS[:n_prompts])
    ]


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("size", [(8, 24), pytest.param((64, 64), marks=pytest.mark.slow)], ids=["8x24", "64x64"])
def test_generate_every_runtime_gives_same_tokens(opened, model_name, settings, size):
    settings = {"repetition_penalty": 1.0, "top_p": 1.0} | settings
    tokens = {name: generated(opened(model_name, name), *size, **settings) for name in RUNTIMES}
    first = tokens[RUNTIMES[0]]
    assert len({tuple(t) for t in first}) > len(first) // 2, "the prompts lead to different texts"
    for name in RUNTIMES[1:]:
        assert tokens[name] == first, f"{name} and {RUNTIMES[0]} differ"


@pytest.mark.parametrize("penalty", [1.0, 1.2, 2.0])
def test_generate_greedy_equals_transformers_generate(model, model_name, reference, penalty):
    import torch

    for prompt in PROMPTS[:4]:
        ids = torch.tensor([model.encode(prompt)])
        theirs = (
            reference(model_name)
            .generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                repetition_penalty=penalty,
                max_new_tokens=24,
                pad_token_id=0,
            )[0, ids.shape[1] :]
            .tolist()
        )
        ours = model.generate(prompt, max_new_tokens=24, temperature=0, repetition_penalty=penalty, top_p=1.0)
        assert ours.tokens == theirs


def test_stream_stories260k_equals_published_text(opened, runtime_name):
    """karpathy/tinyllamas publishes a text by stories260K; every runtime streams the same, piece by piece."""
    model = opened("stories", runtime_name)
    stream = model.stream("Once upon a time", max_new_tokens=80)
    text = "Once upon a time" + "".join(stream)
    assert text.startswith(
        "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she "
        "saw a big, red ball. She wanted to play with it, but it was too high."
    )
    assert stream.result.text == text.removeprefix("Once upon a time")


@pytest.mark.parametrize("runtime_name", RUNTIMES)
def test_generate_ban_replacement_prints_no_u_fffd(opened, runtime_name):
    """Seeded weights choose bytes at random, so without the ban U+FFFD is everywhere."""
    model = opened("stentor", runtime_name)
    settings = {"temperature": 1.5, "top_p": 1.0, "max_new_tokens": 60, "repetition_penalty": 1.0}
    free = "".join(model.generate("The", seed=s, **settings).text for s in range(3))
    banned = "".join(model.generate("The", seed=s, ban_replacement=True, **settings).text for s in range(3))
    assert "\ufffd" in free and "\ufffd" not in banned and banned


# ----------------------------------------------------------------------------- quantized


# (converter, quant, most mean KL(source || artefact) in nats, least top-1 agreement of the trained model)
QUANTIZED = [
    ("gguf", "q8_0", 0.003, 0.95),
    ("gguf", "q4_0", 0.2, 0.75),
    ("onnx", "fp16", 0.001, 0.97),
    ("onnx", "int8", 0.005, 0.93),
    ("onnx", "int4", 0.15, 0.75),
    ("onnx", "int4_pure", 0.25, 0.65),
]


@pytest.mark.parametrize("to, quant, most_kl, least_top1", QUANTIZED, ids=[q[1] for q in QUANTIZED])
@pytest.mark.parametrize("name", MODELS)
def test_artefact_quantized_stays_close_to_source(
    request, opened, reference, tmp_path, name, to, quant, most_kl, least_top1
):
    from edgekit.conversion.convert import convert
    from edgekit.settings import Converting

    try:
        path = convert(request.getfixturevalue(name), to, tmp_path / f"m.{to}", settings=Converting(quant=quant)).path
        model = edgekit.load(path, threads=1)
    except MissingExtraError as error:
        pytest.skip(str(error))
    tokens = tokens_of(model, 256)
    got = model.runtime.forward(tokens, every=True)
    assert np.isfinite(got).all()
    source = hf_logits(reference(name), tokens)
    p, q = log_softmax(source), log_softmax(got)
    kl = float((np.exp(p) * (p - q)).sum(-1).mean())
    top1 = float((source.argmax(-1) == got.argmax(-1)).mean())
    # Seeded weights are all but indifferent between tokens, so their top-1 means nothing.
    assert -1e-6 < kl < most_kl and (top1 > least_top1 or name == "stentor"), (kl, top1)
    assert model.generate("Once", max_new_tokens=20).tokens


def test_empty_prompt_continues_as_transformers_generate_without_ids(model, model_name, reference):
    ours = model.generate("", max_new_tokens=12, temperature=0, repetition_penalty=1.0, top_p=1.0)
    theirs = reference(model_name).generate(max_new_tokens=12, do_sample=False, repetition_penalty=1.0)
    assert ours.prompt + ours.tokens == theirs[0].tolist()
