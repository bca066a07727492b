"""Every runtime and every kind of tokenizer satisfies its whole contract: each member exists and returns what it says.

The contracts are the protocols in `edgekit.inference.runtime` and `edgekit.tokenizers.base`. `isinstance` finds a
missing member; calling each of them finds one that returns something else. A member added to a protocol needs a check
here, or a test fails.
"""

import json
import types
from collections.abc import Mapping

import numpy as np
import pytest
from handmade import small
from helpers import rewritten, tokenmonster_files, write_model
from spoilt import FILES as SENTENCEPIECE
from test_tokenizers import ALL, as_json, tokenizer
from test_utf8_mask import byte_level_bpe

import edgekit
from edgekit.conversion.convert import convert
from edgekit.errors import CheckpointError, MissingExtraError, UnknownPluginError
from edgekit.evaluation.bench_worker import Wordless
from edgekit.formats.checkpoint import LlamaConfig, open_folder
from edgekit.formats.embedded import FILES
from edgekit.formats.gguf import GGUFFile
from edgekit.inference import runtime as contract
from edgekit.inference.reference import Reference
from edgekit.inference.runtime import LoadsGGUF, Runtime, SetsThreads
from edgekit.settings import Converting, Running
from edgekit.tokenizers.base import Decoder, OwnsTokenizer, Tokenizer
from edgekit.utils import registry

TINY = LlamaConfig(512, 64, 96, 2, 4, 2, 16, 32, tie_word_embeddings=True)
TOKENS = [1, 5, 9, 300]


def members(protocol: type) -> set[str]:
    """The names that a protocol declares."""
    return {name for name in (*vars(protocol), *protocol.__annotations__) if not name.startswith("_")}


# ---- runtimes ------------------------------------------------------------------------------------------------------

WAYS = {
    "onnx fused": ("onnx", {"quant": "fp32"}, {}),
    "onnx portable": ("onnx", {"quant": "fp32", "graph": "portable"}, {}),
    "llamacpp": ("llamacpp", {"quant": "f32"}, {}),
    "torch": ("torch", None, {}),
    "torch reference": ("torch", None, {"reference": True}),
    "numpy": (None, None, {}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    files = tokenmonster_files(small(1).to_bytes(), TINY.vocab_size)
    return write_model(tmp_path_factory.mktemp("contracts") / "tiny", TINY, files=files)


@pytest.fixture(scope="module", params=WAYS)
def opener(request, folder, tmp_path_factory):
    """A function that opens the model on one of the runtimes."""
    name, converting, running = WAYS[request.param]
    if name is None:
        return lambda: Reference(open_folder(folder))
    try:
        plugin, path = contract.plugin(name), folder
        if converting is not None:
            to = registry.for_suffix("converters", plugin.SUFFIX)
            path = tmp_path_factory.mktemp("artefact") / f"m{plugin.SUFFIX}"
            convert(folder, to, path, settings=Converting(**converting), verify=False)
    except MissingExtraError as error:
        pytest.skip(str(error))
    return lambda: plugin.load(path, Running(threads=1, **running))


@pytest.fixture
def runtime(opener):
    return opener()


RUNTIME_CHECKS = {
    "vocab_size": lambda r: r.vocab_size == TINY.vocab_size,
    "context_length": lambda r: r.context_length == TINY.max_position_embeddings,
    "length": lambda r: r.length == 0,
    "files": lambda r: isinstance(r.files, Mapping) and all(type(v) is bytes for v in r.files.values()),
    "forward": lambda r: (
        is_logits(r.forward(TOKENS), (TINY.vocab_size,))
        and is_logits(r.forward(TOKENS, every=True), (len(TOKENS), TINY.vocab_size))
        and r.length == 2 * len(TOKENS)
    ),
    "rewind": lambda r: r.rewind(3) is None and r.length == 3,
    "close": lambda r: r.close() is None and r.close() is None,
}


def is_logits(array, shape) -> bool:
    return (
        isinstance(array, np.ndarray) and array.dtype == np.float32 and array.shape == shape and array.flags.writeable
    )


def test_runtime_checks_cover_contract():
    assert set(RUNTIME_CHECKS) == members(Runtime)
    for protocol, names in (
        (SetsThreads, {"set_threads"}),
        (OwnsTokenizer, {"own_tokenizer"}),
        (LoadsGGUF, {"load_gguf"}),
    ):
        assert members(protocol) == names


def test_runtime_every_member_behaves(runtime):
    assert isinstance(runtime, Runtime)
    for name, holds in RUNTIME_CHECKS.items():
        assert holds(runtime), name


def test_runtime_optional_members_behave(runtime):
    if isinstance(runtime, SetsThreads):
        runtime.set_threads(1)
    if isinstance(runtime, OwnsTokenizer):
        assert isinstance(runtime.own_tokenizer(), Tokenizer)


def test_runtime_optional_members_are_those_documented(runtime):
    """Which runtime offers what; a rename on one side only would silently switch a feature off."""
    optional = {p.__name__ for p in (SetsThreads, OwnsTokenizer) if isinstance(runtime, p)}
    expected = {"LlamaCppRuntime": {"SetsThreads", "OwnsTokenizer"}}
    assert optional == expected.get(type(runtime).__name__, set())


def test_runtime_plugin_incomplete_raises(monkeypatch):
    monkeypatch.setattr(registry, "load", lambda folder, name: types.SimpleNamespace(SUFFIX=".x"))
    with pytest.raises(UnknownPluginError, match="runtimes/x.py is not a runtime: it needs SUFFIX and load"):
        contract.plugin("x")


@pytest.mark.parametrize("name", registry.names("runtimes"))
def test_runtime_plugin_has_suffix_and_load(name):
    try:
        plugin = contract.plugin(name)
    except MissingExtraError as error:
        pytest.skip(str(error))
    assert registry.suffix("runtimes", name) == plugin.SUFFIX and callable(plugin.load)


def test_runtime_plugin_for_gguf_takes_an_open_file(folder, tmp_path):
    path = tmp_path / "m.gguf"
    try:
        convert(folder, "gguf", path, settings=Converting(quant="f32"), verify=False)
        plugins = {name: contract.plugin(name) for name in registry.names("runtimes")}
    except MissingExtraError as error:
        pytest.skip(str(error))
    takers = {name: plugin for name, plugin in plugins.items() if isinstance(plugin, LoadsGGUF)}
    assert list(takers) == ["llamacpp", "native"]
    for plugin in takers.values():
        by_path, by_file = plugin.load(path, Running(threads=1)), plugin.load_gguf(GGUFFile(path), Running(threads=1))
        assert np.array_equal(by_path.forward(TOKENS), by_file.forward(TOKENS))


def test_runtimes_for_gguf_and_folders_are_as_their_suffixes_say(tmp_path):
    (tmp_path / "m.gguf").touch()
    names = registry.names("runtimes")
    assert [n for n in names if registry.opens("runtimes", n, tmp_path)] == ["native", "torch"]
    assert [n for n in names if registry.opens("runtimes", n, tmp_path / "m.gguf")] == ["llamacpp", "native", "torch"]
    assert not [n for n in names if registry.opens("runtimes", n, tmp_path / "m.txt")]


# ---- tokenizers ----------------------------------------------------------------------------------------------------


def sentencepiece() -> dict[str, bytes]:
    return dict(SENTENCEPIECE)


def byte_level() -> dict[str, bytes]:
    return {"tokenizer.json": as_json_bytes(byte_level_bpe()), "tokenizer_config.json": b'{"eos_token": "<|end|>"}'}


def as_json_bytes(data) -> bytes:
    return data if isinstance(data, bytes) else as_json(data)


FOREIGN = {
    "llama.cpp llama": sentencepiece,
    "llama.cpp gpt2": byte_level,
    "llama.cpp rwkv": lambda: tokenmonster_files(small(1).to_bytes(), TINY.vocab_size),
}
"""Kinds of vocabulary in a GGUF file that another program wrote; llama.cpp's own tokenizer opens them."""


@pytest.fixture(scope="module", params=[*ALL, *FOREIGN, "none"])
def any_tokenizer(request, tmp_path_factory):
    if request.param == "none":
        return Wordless(16)
    if request.param not in FOREIGN:
        return tokenizer(request.param)
    tmp_path = tmp_path_factory.mktemp("foreign")
    folder = write_model(tmp_path / "m", TINY, files=FOREIGN[request.param]())
    try:
        ours = convert(folder, "gguf", tmp_path / "ours.gguf", settings=Converting(quant="f32"), verify=False).path
        model = edgekit.load(rewritten(ours, tmp_path / "foreign.gguf"), runtime="llamacpp", threads=1)
    except MissingExtraError as error:
        pytest.skip(str(error))
    assert type(model.tokenizer).__name__ == "LlamaTokenizer" and not set(model.runtime.files) & set(FILES)
    return model.tokenizer


def is_ids(t, ids) -> bool:
    return isinstance(ids, list) and all(type(id) is int and 0 <= id < t.vocab_size for id in ids)


def is_optional_id(t, id) -> bool:
    return id is None or (type(id) is int and 0 <= id < t.vocab_size)


def is_decoder(decoder) -> bool:
    texts = [decoder.feed(token) for token in (0, 3, 5)] + [decoder.flush()]
    return members(Decoder) == {"feed", "flush"} and all(type(text) is str for text in texts)


def is_mask(t, mask) -> bool:
    return isinstance(mask, np.ndarray) and mask.dtype == bool and mask.shape == (t.vocab_size,)


def are_facts(t, facts) -> bool:
    specials = facts.get("specials", {})
    named = all(type(text) is str and is_optional_id(t, id) and t.piece(id) == text for text, id in specials.items())
    return next(iter(facts)) == "kind" and bool(json.dumps(facts)) and named


TOKENIZER_CHECKS = {
    "vocab_size": lambda t: type(t.vocab_size) is int and t.vocab_size > 0,
    "bos": lambda t: is_optional_id(t, t.bos),
    "stop": lambda t: isinstance(t.stop, frozenset) and is_ids(t, list(t.stop)),
    "token_bytes": lambda t: len(t.token_bytes) == t.vocab_size and all(type(b) is bytes for b in t.token_bytes),
    "encode": lambda t: is_ids(t, t.encode("a cat")) and is_ids(t, t.encode("a</s>", specials=True)),
    "decode": lambda t: type(t.decode(t.encode("a cat"))) is str and t.decode([]) == "",
    "decoder": lambda t: is_decoder(t.decoder()) and is_decoder(t.decoder(t.encode("a"))),
    "piece": lambda t: all(type(t.piece(id)) is str for id in range(t.vocab_size)),
    "utf8_mask": lambda t: is_mask(t, t.utf8_mask(t.decoder())) and is_mask(t, t.utf8_mask(t.decoder(), 0)),
    "facts": lambda t: are_facts(t, t.facts()),
}


def test_tokenizer_checks_cover_contract():
    assert set(TOKENIZER_CHECKS) == members(Tokenizer)


def test_tokenizer_every_member_behaves(any_tokenizer):
    assert isinstance(any_tokenizer, Tokenizer)
    for name, holds in TOKENIZER_CHECKS.items():
        assert holds(any_tokenizer), name


def test_tokenizer_mask_foreign_decoder_raises(any_tokenizer):
    if isinstance(any_tokenizer, Wordless):
        pytest.skip("it has one decoder: itself")
    with pytest.raises(TypeError, match="a decoder made by this tokenizer"):
        any_tokenizer.utf8_mask(Wordless(16))


def test_tokenizer_piece_reads_as_in_a_sentence(any_tokenizer):
    """Ordinary ids one by one, in the middle of a text, give the text of them all where each is whole characters."""
    ids = [id for id in any_tokenizer.encode("a cat at") if any_tokenizer.token_bytes[id].isascii()]
    context = any_tokenizer.encode("a")
    decoder = any_tokenizer.decoder(context)
    text = "".join(map(decoder.feed, ids)) + decoder.flush()
    assert "".join(map(any_tokenizer.piece, ids)) == text


# ---- from a path to a plugin ---------------------------------------------------------------------------------------


def test_for_path_folder_and_suffixes(tmp_path):
    files = [tmp_path / "m.gguf", tmp_path / "m.onnx", tmp_path]
    assert [registry.for_path("runtimes", path) for path in files] == ["llamacpp", "onnx", "torch"]
    assert [registry.for_path("converters", path) for path in files] == ["gguf", "onnx", "hf"]


@pytest.mark.parametrize("name", ["m.txt", "m", "absent.bin"])
def test_for_path_unknown_is_one_sentence(tmp_path, name):
    (tmp_path / "m.txt").write_text("text")
    with pytest.raises(CheckpointError, match=f"{name} is not a model edgekit can open: give a model folder"):
        registry.for_path("runtimes", tmp_path / name)
