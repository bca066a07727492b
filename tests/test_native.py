"""The engine as a runtime: what it opens, what it refuses, and that llama.cpp takes over. tests/test_conformance.py
compares its logits and tokens with transformers."""

import numpy as np
import pytest
from helpers import STENTOR, write_model

import edgekit
from edgekit.conversion.convert import convert
from edgekit.errors import (
    CheckpointError,
    ContextError,
    MissingExtraError,
    RuntimeFailure,
    SettingError,
    UnsupportedError,
    VocabularyError,
)
from edgekit.inference.runtime import Runtime
from edgekit.inference.samplers import new_sampler
from edgekit.inference.sampling import softmax
from edgekit.settings import Converting, Running, Sampling
from edgekit.utils import registry

TOKENS = [5, 300, 17, 1200, 44, 9, 2100, 78, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]


@pytest.fixture(scope="module")
def native():
    try:
        return registry.load("runtimes", "native")
    except MissingExtraError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def files(bundled, tmp_path_factory):
    """quant -> a GGUF of the bundled model."""
    pytest.importorskip("gguf")
    folder = tmp_path_factory.mktemp("gguf")
    made = {}

    def get(quant: str):
        if quant not in made:
            made[quant] = folder / f"{quant}.gguf"
            try:
                convert(bundled, "gguf", made[quant], settings=Converting(quant=quant), verify=False)
            except MissingExtraError as error:
                pytest.skip(str(error))
        return made[quant]

    return get


def logits(runtime: Runtime) -> np.ndarray:
    return runtime.forward(TOKENS, every=True)


def kl(source: np.ndarray, other: np.ndarray) -> float:
    p, q = softmax(source), softmax(other)
    return float((p * np.log(p / q)).sum(-1).mean())


def test_load_without_a_runtime_takes_native_for_folder_and_gguf(native, bundled, files):
    for model in (bundled, files("q8_0")):
        assert type(edgekit.load(model).runtime) is native.NativeRuntime


@pytest.mark.parametrize("quant", ["q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "f16", "bf16", "iq4_nl"])
def test_forward_of_a_type_is_close_to_its_dequantized_weights(native, files, quant):
    """Only the activations are rounded beyond what the file has: to 8 bits, or for f16 to 13."""
    pytest.importorskip("torch")
    exact = logits(registry.load("runtimes", "torch").load(files(quant), Running(threads=1)))
    for kv_type, limit in (("f32", 2e-3), ("f16", 2e-3), ("int8", 3e-3)):
        ours = logits(native.load(files(quant), Running(kv_type=kv_type)))
        assert kl(exact, ours) < limit, kv_type


@pytest.mark.parametrize("kv_type", ["f32", "f16", "int8"])
@pytest.mark.parametrize("quant", ["f32", "f16", "q8_0", "q4_0"])
def test_forward_steps_rewound_and_batch_have_the_same_bits(native, files, quant, kv_type):
    runtime = native.load(files(quant), Running(kv_type=kv_type))
    batch = logits(runtime)
    runtime.rewind(7)
    assert np.array_equal(runtime.forward(TOKENS[7:], every=True), batch[7:])
    runtime.rewind(0)
    assert np.array_equal(np.array([runtime.forward([token]) for token in TOKENS]), batch)


@pytest.mark.parametrize("kv_type", ["f16", "int8"])
def test_forward_with_threads_has_the_same_bits(native, files, kv_type):
    one, two = (native.load(files("q4_0"), Running(kv_type=kv_type, threads=n)) for n in (1, 2))
    assert np.array_equal(logits(one), logits(two))
    assert np.array_equal(one.forward([3]), two.forward([3]))
    two.close()


def test_folder_of_float32_weights_is_exact_by_default(native, tmp_path):
    folder = write_model(tmp_path / "m", STENTOR)
    default, exact = (native.load(folder, Running(kv_type=kv)) for kv in ("f16", "f32"))
    assert np.array_equal(default.forward([5, 9, 2]), exact.forward([5, 9, 2]))


def test_folder_and_f32_file_have_the_same_bits(native, bundled, files):
    folder = logits(native.load(bundled, Running(kv_type="f32")))
    assert np.array_equal(folder, logits(native.load(files("f32"), Running(kv_type="f32"))))


def test_load_type_that_the_engine_lacks_is_named_and_llamacpp_takes_over(native, files):
    pytest.importorskip("llama_cpp")
    with pytest.raises(UnsupportedError, match="Q2_K"):
        native.load(files("q2_k"), Running())
    with pytest.raises(UnsupportedError, match="Q2_K"):
        edgekit.load(files("q2_k"), runtime="native")
    assert registry.name_of(edgekit.load(files("q2_k")).runtime) == "llamacpp"


def test_load_damaged_file_is_one_sentence(native, files, tmp_path):
    whole = files("q8_0").read_bytes()
    for size in (0, 3, 100, len(whole) // 2, len(whole) - 1):
        path = tmp_path / "cut.gguf"
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match="cut.gguf: ") as caught:
            native.load(path, Running())
        assert "\n" not in str(caught.value)


def test_llamacpp_int8_cache_is_refused(files):
    pytest.importorskip("llama_cpp")
    with pytest.raises(SettingError, match="kv_type int8 is for native"):
        registry.load("runtimes", "llamacpp").load(files("q8_0"), Running(kv_type="int8"))


def test_folder_without_a_tokenizer_is_one_sentence(native, tmp_path):
    folder = write_model(tmp_path / "m", STENTOR)
    with pytest.raises(VocabularyError, match="has no tokenizer"):
        edgekit.load(folder, runtime="native")


def test_closed_runtime_is_an_error(native, files):
    runtime = native.load(files("q8_0"), Running())
    runtime.close()
    runtime.close()
    for use in (lambda: runtime.forward([1]), lambda: runtime.rewind(0), lambda: runtime.instructions):
        with pytest.raises(edgekit.errors.RuntimeFailure, match="closed"):
            use()


def test_plugin_without_the_library_names_a_compiler(tmp_path):
    import os
    import subprocess
    import sys

    code = "import edgekit; print(type(edgekit.load(runtime='native')))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"EDGEKIT_ENGINE": "off"}, capture_output=True, text=True
    )
    assert done.returncode and "MissingExtraError: native needs the C engine" in done.stderr


@pytest.mark.parametrize(
    "chain",
    [
        {"repetition_penalty": 1.2},
        {"temperature": 0.9, "top_k": 40, "top_p": 0.95, "min_p": 0.02, "repetition_penalty": 1.2},
        {"temperature": 1.3, "ban_replacement": True},
        {"temperature": 1.0, "frequency_penalty": 0.5},
        {"logprobs": 2},
    ],
)
def test_stream_choosing_within_the_step_gives_the_same_text(native, bundled, monkeypatch, chain):
    """Step and choice in one call of the engine, wherever neither logits nor drafts are needed in Python."""
    model, step, calls = edgekit.load(bundled, runtime="native"), native.NativeRuntime.step, []

    def counted(*arguments):
        calls.append(arguments[1])
        return step(*arguments)

    monkeypatch.setattr(native.NativeRuntime, "step", counted)
    one = model.generate("Once upon a time", max_new_tokens=40, seed=4, **chain)
    python = "frequency_penalty" in chain or "logprobs" in chain
    assert calls == ([] if python else one.tokens[:-1])
    assert model.runtime.length == len(one.prompt) + len(one.tokens) - 1
    with_distributions = model.stream("Once upon a time", max_new_tokens=40, seed=4, **chain)
    steps = list(with_distributions.steps(distribution=True))
    assert len(calls) == (0 if python else len(one.tokens) - 1), "logits are needed in Python"
    assert [each.token for each in steps] == one.tokens and with_distributions.result.text == one.text
    if not python:
        sampler = new_sampler(Sampling(), model.runtime.vocab_size)
        with pytest.raises(RuntimeFailure, match="token id 9999 is outside"):
            model.runtime.step(9999, sampler, None)
        model.runtime.length = model.runtime.context_length
        with pytest.raises(ContextError):
            model.runtime.step(1, sampler, None)


def test_conversion_is_verified_on_the_engine_without_llama_cpp(native, bundled, tmp_path, monkeypatch):
    pytest.importorskip("gguf")
    there = registry.load

    def load(folder, name):
        if (folder, name) == ("runtimes", "llamacpp"):
            raise MissingExtraError("llamacpp needs llama_cpp, which is not installed")
        return there(folder, name)

    monkeypatch.setattr(registry, "load", load)
    made = convert(bundled, "gguf", tmp_path / "m.gguf", settings=Converting(quant="q8_0"))
    assert made.receipt is not None and made.receipt["runtime"] == "native"
    assert made.receipt["verdict"].startswith("within 2 %")
