"""The C engine's model: logits compared with transformers, and the same bits however they are computed."""

import functools
import hashlib

import numpy as np
import pytest
from engine_models import (
    CACHES,
    GROUPED,
    TYPES,
    VARIANTS,
    EngineError,
    Model,
    Threads,
    inspect,
    instruction_sets,
    seeded_gguf,
)
from oracles import divergence

pytest.importorskip("gguf")

TOKENS = np.random.Generator(np.random.PCG64(1)).integers(0, 31, 70).tolist()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Seeded files by type, written on demand; and their bytes."""
    folder, known = tmp_path_factory.mktemp("engine"), {}

    def file(kind, config=GROUPED):
        if (kind, config) not in known:
            path = seeded_gguf(folder / f"{len(known)}.gguf", kind, config)
            known[kind, config] = path, path.read_bytes()
        return known[kind, config]

    return file


@functools.cache
def reference(path):
    """transformers' float32 logits of a file's dequantized weights after each of TOKENS."""
    torch_reference = pytest.importorskip("edgekit.runtimes._torch_reference")
    from edgekit.formats.open import open_model

    return torch_reference.ReferenceLlama(open_model(path)).append(TOKENS, 0, True).numpy()


# ---- logits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direct", [0, 1])
@pytest.mark.parametrize("name", VARIANTS)
def test_forward_f32_equals_transformers(engine_library, files, name, direct):
    path, data = files("F32", VARIANTS[name])
    ours = Model(engine_library, data, kv="f32", direct=direct).forward(TOKENS)
    np.testing.assert_allclose(ours, reference(path), rtol=0, atol=1e-4)


# Measured: 1e-4 nats from activations of 8 bits, up to 1.4e-3 with a cache of 8 bits, 1e-7 from a float16 cache.
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("kv", CACHES)
def test_forward_type_is_close_to_transformers_on_dequantized_weights(engine_library, files, kind, kv):
    path, data = files(kind)
    kl, same = divergence(reference(path), Model(engine_library, data, kv=kv).forward(TOKENS))
    quantized = kind not in ("F32", "F16", "BF16")
    assert kl < ({"f32": 3e-4, "f16": 3e-4, "i8": 3e-3} if quantized else {"f32": 1e-7, "f16": 1e-6, "i8": 3e-4})[kv]
    assert same > 0.9


def test_forward_bundled_model_equals_transformers(engine_library, bundled, tmp_path):
    from edgekit.conversion import convert
    from edgekit.settings import Converting

    path, *_ = convert.convert(bundled, "gguf", tmp_path / "m.gguf", settings=Converting("f32"))
    ours = Model(engine_library, path.read_bytes(), kv="f32").forward(TOKENS)
    np.testing.assert_allclose(ours, reference(path), rtol=0, atol=1e-4)


# ---- the same bits -------------------------------------------------------------------------------------------------


# sha256 of the logits after each of TOKENS, with a cache of f32, f16 and i8: they change only with docs/arithmetic.md.
GOLDEN = {
    "F32": "6d87121787dfe4cb 7845b7c77e04c207 937e7af5a068d438",
    "F16": "04ff4559bc324420 b72b771bc50d87ae 269d43123745e71a",
    "BF16": "5b7601c2d8993f3c 3a9a2f3719cf2b90 2dca8b9b862e3e3b",
    "Q8_0": "85cc1b05b87cdc04 24c31c4e74685b99 3e1e6268789c7ca7",
    "Q4_0": "470d08366d665516 3db6d90fc8f57db7 1af15c38cd4ce38b",
    "Q4_1": "8dc00d0edeac57b6 18d6722e7401650e 4cb1bca70a10ac32",
    "Q5_0": "ef1af7e35e2f7f89 cebb5d4fc425a86a 4865c0a0f234e1a5",
    "Q5_1": "b88a9844042ef1bf 58eec13c7ae134f6 3721ca3ca3779022",
    "IQ4_NL": "1a796f0fde3dc6c0 4bd087dbdf28b128 048013d9107d8777",
    "Q4_K": "b4d5f621a0ab00fb e4bbbc42f34b18d0 718887704d490f3a",
    "Q5_K": "5842a333d54bafb9 89cd2378529e78c4 f5362de0787ac6d4",
    "Q6_K": "0a1c4b1845251245 4586b9817227ae19 aa3b78fb280b33d4",
}


def digest(logits) -> str:
    return hashlib.sha256(np.ascontiguousarray(logits, "<f4").tobytes()).hexdigest()[:16]


@pytest.mark.parametrize("kind", TYPES)
def test_forward_bits_are_those_of_every_machine(engine_library, files, kind):
    _, data = files(kind)
    digests = [digest(Model(engine_library, data, kv=kv).forward(TOKENS)) for kv in CACHES]
    assert digests == GOLDEN[kind].split()


@pytest.mark.parametrize("kv", CACHES)
@pytest.mark.parametrize("kind", TYPES)
def test_forward_bits_do_not_depend_on_how(engine_library, files, kind, kv):
    _, data = files(kind)
    whole = Model(engine_library, data, kv=kv).forward(TOKENS)
    threads = Threads(engine_library, 3)
    steps = Model(engine_library, data, kv=kv, context=75, batch=5, threads=threads)
    assert np.array_equal(np.concatenate([steps.forward([token]) for token in TOKENS[:40]]), whole[:40])
    assert np.array_equal(steps.forward(TOKENS[40:]), whole[40:])
    steps.rewind(21)
    assert steps.length == 21
    steps.forward([5, 6, 7])
    steps.rewind(13)
    assert np.array_equal(steps.forward(TOKENS[13:], every=False), whole[-1])
    direct = Model(engine_library, data, kv=kv, batch=64, direct=1)
    assert np.array_equal(direct.forward(TOKENS), whole)
    threads.close()


@pytest.mark.parametrize("name", VARIANTS)
def test_forward_bits_do_not_depend_on_threads_and_batches(engine_library, files, name):
    _, data = files("F32", VARIANTS[name])
    whole = Model(engine_library, data, kv="i8").forward(TOKENS)
    for count in (2, 5, 9):
        threads = Threads(engine_library, count)
        model = Model(engine_library, data, kv="i8", batch=7, threads=threads)
        assert np.array_equal(model.forward(TOKENS[:11]), whole[:11])
        assert np.array_equal(model.forward(TOKENS[11:], every=False), whole[-1])
        threads.close()


@pytest.mark.parametrize("kv", CACHES)
@pytest.mark.parametrize("kind", TYPES)
def test_forward_bits_do_not_depend_on_the_instruction_set(engine_library, files, kind, kv):
    _, data = files(kind)
    sets = instruction_sets(engine_library)
    plain = Model(engine_library, data, kv=kv, instructions="c").forward(TOKENS)
    assert sets[-1] == "c"
    for name in sets[:-1]:
        assert np.array_equal(Model(engine_library, data, kv=kv, instructions=name).forward(TOKENS), plain), name


# ---- state ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["grouped", "small heads"])
@pytest.mark.parametrize("kv", CACHES)
def test_state_loaded_goes_on_with_the_same_bits(engine_library, files, kv, name):
    _, data = files("F32", VARIANTS[name])
    first, second = Model(engine_library, data, kv=kv), Model(engine_library, data, kv=kv, context=80)
    whole = first.forward(TOKENS)
    second.forward(TOKENS[::-1])
    for length in (45, 32, 1, 0):
        first.rewind(length)
        state = first.save()
        second.load(state)
        assert second.length == length and np.array_equal(second.save(), state)
        assert np.array_equal(second.forward(TOKENS[length:]), whole[length:])


def test_state_of_another_file_or_damaged_is_refused(engine_library, files):
    _, data = files("F32")
    model = Model(engine_library, data, kv="f16")
    model.forward(TOKENS)
    state = model.save()
    others = [
        (Model(engine_library, files("F16")[1], kv="f16"), state, -1),
        (Model(engine_library, data, kv="f32"), state, -1),
        (Model(engine_library, data, kv="f16"), state[:-1], -1),
        (Model(engine_library, data, kv="f16"), state[:20], -1),
        (Model(engine_library, data, kv="f16", context=69), state, -5),
    ]
    for other, bytes, status in others:
        other.forward([1])
        with pytest.raises(EngineError) as error:
            other.load(bytes)
        assert error.value.args[0] == status and other.length == 0


# ---- limits and errors ---------------------------------------------------------------------------------------------


def test_forward_past_the_context_appends_nothing(engine_library, files):
    model = Model(engine_library, files("F32")[1], context=10)
    model.forward(TOKENS[:8])
    for tokens, status in ((TOKENS[:3], -5), ([300], -4), ([], -4)):
        with pytest.raises(EngineError) as error:
            model.forward(tokens)
        assert error.value.args[0] == status and model.length == 8
    model.forward(TOKENS[:2])
    with pytest.raises(EngineError):
        model.rewind(11)


@pytest.mark.parametrize("options, message", [
    ({"instructions": "mmx"}, "instructions `mmx`"), ({"batch": 65}, "batch"),
    ({"context": 1 << 25}, "context of 33554432"),
])  # fmt: skip
def test_open_option_out_of_range_names_it(engine_library, files, options, message):
    with pytest.raises(EngineError, match=message):
        Model(engine_library, files("F32")[1], **options)


def test_inspect_names_the_models_numbers(engine_library, files):
    info = inspect(engine_library, files("Q4_0", VARIANTS["biases"])[1])
    config = VARIANTS["biases"]
    assert (info.vocabulary, info.hidden, info.intermediate, info.layers) == (300, 256, 512, 2)
    assert (info.heads, info.kv_heads, info.head_dim, info.context, info.tied, info.biases) == (4, 2, 64, 128, 1, 1)
    shapes = config.shapes()
    assert info.parameters == sum(np.prod(shape) for shape in shapes.values())
    assert info.step_bytes == sum(np.prod(shape) for shape in shapes.values() if len(shape) == 2) // 32 * 18
