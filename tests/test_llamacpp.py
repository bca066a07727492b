"""The llama.cpp runtime, compared with Hugging Face's logits, and files that would abort llama.cpp."""

import dataclasses
import gc
import json
import subprocess
import sys

import numpy as np
import pytest
from helpers import rewritten, tokenmonster_files, write_model

from edgekit.conversion import convert
from edgekit.errors import CheckpointError, ContextError, FileError, RuntimeFailure, VocabularyError
from edgekit.formats.checkpoint import LlamaConfig
from edgekit.settings import Converting, Running
from edgekit.tokenizers.load import from_files
from edgekit.utils import lazy, registry

pytest.importorskip("llama_cpp")
gguf = pytest.importorskip("gguf")

EXACT = Running(threads=1, kv_type="f32")

SMALL = LlamaConfig(
    vocab_size=320,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=4,
    head_dim=16,
    max_position_embeddings=100,
    tie_word_embeddings=True,
)

SHAPES = {
    "multi-head": {},
    "grouped": {"num_key_value_heads": 2},
    "one key head": {"num_key_value_heads": 1},
    "untied": {"tie_word_embeddings": False, "num_key_value_heads": 2},
    "wide heads": {"head_dim": 32, "num_key_value_heads": 2},
    "narrow heads": {"head_dim": 8},
    "theta and epsilon": {"rope_theta": 500000.0, "rms_norm_eps": 1e-3},
}


def artefact(source, tmp_path, quant="f32"):
    """Not verified: these tests compare the runtime with Hugging Face itself, also for files that must be wrong."""
    return convert.convert(source, "gguf", tmp_path / f"{quant}.gguf", settings=Converting(quant), verify=False)[0]


def opened(path, settings=EXACT):
    return registry.load("runtimes", "llama.cpp").load(path, settings)


def reference(folder, ids):
    """Hugging Face's logits after each id."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.set_num_threads(1)
    model = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy()


def ids_of(count, size, seed=0):
    return np.random.default_rng(seed).integers(0, size, count).tolist()


@pytest.fixture(scope="module")
def story(stories, tmp_path_factory):
    return artefact(stories, tmp_path_factory.mktemp("gguf"))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    return artefact(write_model(folder / "m", SMALL), folder)


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)
def test_forward_logits_equal_transformers(tmp_path, changes):
    config = dataclasses.replace(SMALL, **changes)
    folder = write_model(tmp_path / "m", config, std=0.2)
    ids = ids_of(60, config.vocab_size)
    logits, expected = opened(artefact(folder, tmp_path)).forward(ids, every=True), reference(folder, ids)
    assert logits.shape == expected.shape and logits.dtype == np.float32
    assert np.abs(logits - expected).max() < 1e-5 * max(1, np.abs(expected).max())


def test_forward_without_permutation_gives_other_logits(tmp_path, monkeypatch):
    """A converter that does not permute Q and K writes a file that loads and generates nonsense: these tests notice."""
    from edgekit.converters import gguf as module

    monkeypatch.setattr(module, "permute", lambda name, values, config: values)
    config = dataclasses.replace(SMALL, num_key_value_heads=2)
    folder = write_model(tmp_path / "m", config, std=0.2)
    ids = ids_of(60, config.vocab_size)
    logits = opened(artefact(folder, tmp_path)).forward(ids, every=True)
    assert np.abs(logits - reference(folder, ids)).max() > 0.1


@pytest.mark.parametrize("kv_type, tolerance", [("f32", 1e-4), ("f16", 0.05)])
def test_forward_trained_model_equals_transformers(stories, story, kv_type, tolerance):
    ids = [1, *from_files(opened(story).files, 512).encode("Once upon a time, there was a little girl")]
    logits = opened(story, Running(threads=1, kv_type=kv_type)).forward(ids, every=True)
    assert np.abs(logits - reference(stories, ids)).max() < tolerance


@pytest.mark.parametrize("quant", ["f16", "q8_0", "q4_0"])
def test_forward_default_settings_equal_llama_cpp_python_bit_for_bit(stories, tmp_path, quant):
    """A prompt, then steps: with its own plain defaults and other threads and another context."""
    import llama_cpp

    path, ids = artefact(stories, tmp_path, quant), ids_of(60, 512)
    theirs = llama_cpp.Llama(str(path), n_ctx=128, n_threads=2, logits_all=True, verbose=False)
    theirs.eval(ids[:50])
    for id in ids[50:]:
        theirs.eval([id])
    ours = opened(path, Running(threads=1))
    logits = [*ours.forward(ids[:50], every=True), *(ours.forward([id]) for id in ids[50:])]
    assert (np.array(logits) == theirs.scores[: len(ids)]).all()


def test_forward_chunks_steps_and_rewinds_agree(small):
    ids = ids_of(100, 320)
    runtime = opened(small)
    runtime._size = 17  # llama.cpp takes at most this many at once; the result must be the same
    whole = runtime.forward(ids, every=True)
    runtime.rewind(0)
    assert np.abs(runtime.forward(ids) - whole[-1]).max() < 1e-5
    runtime.rewind(40)
    steps = [runtime.forward([token]) for token in ids[40:60]]
    assert np.abs(np.array(steps) - whole[40:60]).max() < 1e-5
    assert runtime.length == 60
    runtime.rewind(59)
    assert np.abs(runtime.forward(np.array(ids[59:61]), every=True) - whole[59:61]).max() < 1e-5


def test_forward_result_is_owned_by_caller(small):
    runtime = opened(small)
    one = runtime.forward([5])
    snapshot = one.copy()
    two = runtime.forward([6, 7], every=True)
    assert (one == snapshot).all() and one.flags.writeable and two.flags.owndata
    one[:] = 0
    runtime.rewind(0)
    assert (runtime.forward([5]) == snapshot).all()


def test_context_length_is_the_models(small):
    """llama.cpp rounds a context of 100 up to 256."""
    runtime = opened(small)
    assert runtime.context_length == 100
    runtime.forward(ids_of(99, 320))
    with pytest.raises(ContextError, match="101 tokens do not fit into the context of 100"):
        runtime.forward([1, 2])
    assert runtime.length == 99
    runtime.forward([1])


def test_forward_invalid_call_raises(small):
    runtime = opened(small)
    for tokens in ([], [-1], [320]):
        with pytest.raises(RuntimeFailure):
            runtime.forward(tokens)
    with pytest.raises(RuntimeFailure, match="cannot keep 1 of 0"):
        runtime.rewind(1)


def test_forward_failing_decode_appends_nothing(small, monkeypatch):
    runtime = opened(small)
    runtime._size = 10
    first = runtime.forward(ids_of(20, 320))
    runtime.rewind(0)
    module = sys.modules["edgekit.runtimes.llamacpp"]
    calls, real = [], module.llama.llama_decode

    def decode(context, batch):
        calls.append(0)
        return 1 if len(calls) == 2 else real(context, batch)

    monkeypatch.setattr(module.llama, "llama_decode", decode)
    with pytest.raises(RuntimeFailure, match="llama.cpp failed on 10 tokens at 10"):
        runtime.forward(ids_of(20, 320))
    assert runtime.length == 0
    assert (runtime.forward(ids_of(20, 320)) == first).all()


def test_forward_two_models_are_independent(small, story):
    one, two = opened(small), opened(story)
    ids = ids_of(30, 320)
    alone = opened(small).forward(ids, every=True)
    mixed = []
    for token in ids:
        mixed.append(one.forward([token]))
        two.forward([token])
    assert np.abs(np.array(mixed) - alone).max() < 1e-5
    two.close()
    two.close()
    one.forward([1])
    del two
    gc.collect()
    one.forward([1])


@pytest.mark.parametrize("quant", ["f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q4_k_m", "q2_k", "iq4_nl"])
def test_load_every_type_runs(stories, story, tmp_path, quant):
    ids = [1, *ids_of(40, 512)]
    expected = opened(story).forward(ids, every=True)
    logits = opened(artefact(stories, tmp_path, quant)).forward(ids, every=True)
    assert np.isfinite(logits).all()
    assert np.abs(logits - expected).mean() < {"f16": 0.05, "bf16": 0.05, "q8_0": 0.1}.get(quant, 1.5)


def test_files_are_those_of_the_source(stories, story):
    runtime = opened(story)
    assert runtime.files["tokenizer.json"] == (stories / "tokenizer.json").read_bytes()
    assert runtime.vocab_size == 512


# ---- llama.cpp's own tokenizer -------------------------------------------------------------------------------------

TEXTS = ["Once upon a time", " two  spaces ", "naïve 😀 日本語", "a\nb\t", "</s><s>", "", "x"]


def test_own_tokenizer_foreign_file_equals_source_tokenizer(shared, stories):
    runtime = opened(shared / "models" / "stories260K" / "stories260K.f32.gguf")
    assert runtime.files == {}
    tokenizer = runtime.own_tokenizer()
    ours = from_files({p.name: p.read_bytes() for p in stories.iterdir() if p.suffix == ".json"}, 512)
    assert (
        (tokenizer.vocab_size, tokenizer.bos, tokenizer.stop) == (512, 1, {2}) == (ours.vocab_size, ours.bos, ours.stop)
    )
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert ids == ours.encode(text) and tokenizer.decode(ids) == text
        decoder = tokenizer.decoder()
        assert "".join(decoder.feed(id) for id in ids) + decoder.flush() == text
    assert tokenizer.encode("</s>", specials=True) == [2]
    decoder = tokenizer.decoder(tokenizer.encode("one"))
    assert "".join(map(decoder.feed, tokenizer.encode("two"))) == " two"
    half = tokenizer.encode("😀")[:-2]
    assert tokenizer.decode(half).endswith("\ufffd")
    mask = tokenizer.utf8_mask(tokenizer.decoder(half))
    assert not mask[tokenizer.encode("x")[-1]] and mask[tokenizer.encode("😀")[-2]] and not mask[2]


def test_own_tokenizer_outlives_runtime(shared):
    tokenizer = opened(shared / "models" / "stories260K" / "stories260K.f32.gguf").own_tokenizer()
    gc.collect()
    assert tokenizer.decode(tokenizer.encode("Once")) == "Once"


def test_own_tokenizer_missing_raises(small):
    with pytest.raises(VocabularyError, match="has no tokenizer"):
        opened(small).own_tokenizer()


# ---- files that must not reach llama.cpp ---------------------------------------------------------------------------


def test_load_damaged_file_raises(tmp_path, story):
    data = story.read_bytes()
    bad = tmp_path / "bad.gguf"
    for cut in (0, 3, 100, len(data) // 2, len(data) - 500):
        bad.write_bytes(data[:cut])
        with pytest.raises(CheckpointError, match="bad.gguf"):
            opened(bad)
    bad.write_bytes(b"not a gguf file at all" * 10)
    with pytest.raises(CheckpointError, match="not a GGUF file"):
        opened(bad)
    with pytest.raises(FileError, match="cannot read"):
        opened(tmp_path / "none.gguf")


@pytest.mark.parametrize("change, message", [
    ({"general__architecture": "qwen2"}, "general.architecture is 'qwen2'"),
    ({"llama__context_length": None}, "llama.context_length is missing"),
    ({"tokenizer__ggml__tokens": ["a"] * 512}, "token 'a' occurs twice (ids 0 and 1)"),
    ({"tokenizer__ggml__tokens": [*(f"a{i}" for i in range(510)), "[EMPTY_511]", ""]}, "'[EMPTY_511]' occurs twice"),
    ({"tokenizer__ggml__tokens": [*(f"a{i}" for i in range(510)), "x\0y", "x\0z"]}, "token 'x' occurs twice"),
    ({"tokenizer__ggml__tokens": ["a", "b"]}, "2 tokens, but the embedding has 512 rows"),
    ({"tokenizer__ggml__tokens": None}, "tokenizer.ggml.tokens is missing"),
    ({"tokenizer__ggml__model": "rwkv", "tokenizer__ggml__tokens": ["\\nx", *(f"a{i}" for i in range(511))]},
     "begin with a newline"),
])  # fmt: skip
def test_load_file_that_would_abort_llama_cpp_raises(tmp_path, story, change, message):
    path = rewritten(story, tmp_path / "changed.gguf", **change)
    with pytest.raises(CheckpointError, match="changed.gguf") as caught:
        opened(path)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("change, message", [
    ({"tokenizer__ggml__model": "rwkv", "tokenizer__ggml__tokens": [f"a{i}" for i in range(512)]}, "would hang"),
    ({"tokenizer__ggml__tokens": [f"token{i}" for i in range(512)]}, "would abort"),
])  # fmt: skip
def test_own_tokenizer_vocabulary_that_would_abort_raises(tmp_path, story, change, message):
    runtime = opened(rewritten(story, tmp_path / "changed.gguf", **change))
    runtime.forward([1])
    with pytest.raises(VocabularyError, match=message):
        runtime.own_tokenizer()


def test_load_refused_gives_llama_cpps_reason(tmp_path, story, capfd):
    path = rewritten(story, tmp_path / "changed.gguf", tokenizer__ggml__model="gpt2")
    with pytest.raises(RuntimeFailure, match=r"cannot load .*changed.gguf: .*cannot find tokenizer merges"):
        opened(path)
    assert capfd.readouterr() == ("", "")


def test_load_context_larger_than_memory_raises(tmp_path, story):
    path = rewritten(story, tmp_path / "changed.gguf", llama__context_length=(1 << 31) - 1)
    with pytest.raises(RuntimeFailure, match="a context of 2147483647 tokens needs .* GB of cache, this machine has"):
        opened(path)


def test_load_and_forward_print_nothing(story, capfd):
    opened(story).forward([1, 2, 3])
    assert capfd.readouterr() == ("", "")


def test_load_imports_neither_torch_nor_transformers(shared, tmp_path):
    """Nor `gguf`: a Raspberry Pi has llama-cpp-python and numpy alone. Of the former only the bindings are imported."""
    vocab = (shared / "tokenmonster" / "vocabs" / "english-1024-balanced-v1.vocab").read_bytes()
    config = dataclasses.replace(SMALL, vocab_size=1152)
    path = artefact(write_model(tmp_path / "m", config, files=tokenmonster_files(vocab, 1152)), tmp_path)
    code = (
        "import sys, json\nfrom edgekit.utils import registry\nfrom edgekit.settings import Running\n"
        "runtime = registry.load('runtimes', 'llamacpp').load(sys.argv[1], Running(threads=1))\n"
        "runtime.forward([1, 2])\n"
        "heavy = ('torch', 'transformers', 'gguf', 'onnxruntime', 'jinja2', 'sqlite3', 'multiprocessing')\n"
        "json.dump([m for m in heavy if m in sys.modules], sys.stdout)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "") and json.loads(done.stdout) == []


def test_lazy_load_leaves_whole_package_importable():
    """edgekit imports the bindings alone, which must not affect another library in the same process."""
    code = (
        "import sys\nfrom edgekit.utils import lazy\n"
        "bindings = lazy.load('llama_cpp', 'llama_cpp')\n"
        "assert lazy.load('llama_cpp', 'llama_cpp') is bindings\n"
        "import llama_cpp\n"
        "assert llama_cpp.llama_decode is bindings.llama_decode and llama_cpp.llama_cpp is bindings\n"
        "from llama_cpp import Llama\n"
        "print(Llama.__name__, llama_cpp.__version__ > '', hasattr(llama_cpp, 'nonsense'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Llama True False\n", "")
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        lazy.load("no_such_package", "part")
