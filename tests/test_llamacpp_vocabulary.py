"""What llama.cpp makes of a GGUF's vocabulary, imitated and compared with llama.cpp itself."""

import functools
import json
import random

import numpy as np
import pytest
from engine_tokenizers import gguf, train
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.formats.checkpoint import LlamaConfig
from edgekit.formats.gguf import GGUFFile
from edgekit.formats.gguf_write import head
from edgekit.tokenizers.llamacpp import rebuild, spm
from edgekit.tokenizers.llamacpp.ends import ALWAYS, BY_USE, ends
from edgekit.tokenizers.load import from_files
from edgekit.tokenizers.sample_texts import sample_texts

llama_cpp = pytest.importorskip("llama_cpp")

BYTES = [f"<0x{b:02X}>" for b in range(256)]
SPECIALS = ["<unk>", "<s>", "</s>"]


def keys_of(texts, kind="llama", **changes):
    keys = {
        "general.architecture": "llama",
        "llama.block_count": 1,
        "llama.context_length": 64,
        "llama.embedding_length": 8,
        "llama.feed_forward_length": 8,
        "llama.attention.head_count": 1,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.vocab_size": len(texts),
        "tokenizer.ggml.model": kind,
        "tokenizer.ggml.tokens": [text.encode() for text in texts],
        "tokenizer.ggml.token_type": np.ones(len(texts), np.int32),
        "tokenizer.ggml.scores": np.zeros(len(texts), np.float32),
    }
    if kind == "gpt2":
        keys |= {"tokenizer.ggml.merges": [b"a b"], "tokenizer.ggml.pre": "gpt-2"}
    return keys | {f"tokenizer.ggml.{name}": value for name, value in changes.items()}


def config_of(rows):
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    return LlamaConfig(vocab_size=rows, num_key_value_heads=1, head_dim=8, max_position_embeddings=64, **shape)


def opened(path, keys):
    """llama.cpp's own reading of a file with these keys and no tensors."""
    path.write_bytes(head(keys, []))
    return llama_cpp.Llama(str(path), vocab_only=True, verbose=False)


def stock_ends(path, keys):
    model = opened(path, keys)
    vocab = llama_cpp.llama_model_get_vocab(model.model)
    return {id for id in range(model.n_vocab()) if llama_cpp.llama_vocab_is_eog(vocab, id)}


# ---- joining by score ----------------------------------------------------------------------------------------------

MERGED = ["ab", "bc", "ba", "aa", "abc", "aab", "bca", "cab", "abab", "▁a", "▁ab", "▁▁", "cc", "é", "éa", "▁c"]
texts_of_letters = st.text("aaabbcc é✓x", max_size=24)


@pytest.fixture(scope="module")
def tied(tmp_path_factory):
    """seed -> texts, scores and llama.cpp's own tokenizer of a vocabulary in which many scores are equal."""
    folder = tmp_path_factory.mktemp("tied")

    @functools.cache
    def build(seed):
        choose = random.Random(seed)
        texts = [*SPECIALS, *BYTES, "a", "b", "c", "▁", *choose.sample(MERGED, 12)]
        scores = [0.0] * 259 + [-float(choose.randint(0, (0, 1, 3, 100)[seed % 4])) for _ in texts[259:]]
        types = np.array([2, 3, 3, *[6] * 256, *[1] * (len(texts) - 259)], np.int32)
        keys = keys_of(texts, scores=np.array(scores, np.float32), token_type=types, unknown_token_id=0)
        return texts, scores, types, keys, opened(folder / f"{seed}.gguf", keys)

    return build


@given(text=texts_of_letters, seed=st.integers(0, 23))
@settings(max_examples=300, deadline=None)
def test_spm_encode_tied_scores_equal_llama_cpp(tied, text, seed):
    texts, scores, _, _, theirs = tied(seed)
    vocabulary = {text: id for id, text in enumerate(texts)}, dict(zip(texts, scores, strict=True))
    expected = theirs.tokenize(text.encode(), add_bos=False, special=False)
    assert expected == (spm.encode("▁" + text.replace(" ", "▁"), *vocabulary, 0) if text else [])


@pytest.mark.parametrize("seed", range(12))
def test_rebuild_tied_scores_equal_llama_cpp_or_it_is_noted(tied, tmp_path, seed):
    texts, _, types, keys, theirs = tied(seed)
    (tmp_path / "v.gguf").write_bytes(head(keys, []))
    config = config_of(len(texts))
    files, note = rebuild.files(GGUFFile(tmp_path / "v.gguf"), config)
    files["config.json"] = json.dumps(config.to_dict()).encode()
    ours = from_files(files, len(texts))
    different = [
        t for t in sample_texts() if ours.encode(t) != theirs.tokenize(t.encode(), add_bos=False, special=False)
    ]
    assert bool(different) == bool(note)
    if note:
        assert f" {len(different)} of 500 texts" in note and "equal score" in note


# ---- byte-level vocabularies ---------------------------------------------------------------------------------------


@functools.cache
def trained():
    return train("gpt-2")


@pytest.mark.parametrize("pre", rebuild.STOCK_CUTS)
def test_rebuild_every_known_pre_tokenizer_equals_llama_cpp(tmp_path, pre):
    (tmp_path / "v.gguf").write_bytes(gguf(trained(), 512, pre=pre, add_bos_token=None))
    theirs = llama_cpp.Llama(str(tmp_path / "v.gguf"), vocab_only=True, verbose=False)
    files, note = rebuild.files(GGUFFile(tmp_path / "v.gguf"), config_of(512))
    ours, texts = from_files(files, 512), sample_texts(["<tool>", "<s>"])
    assert not note
    assert [t for t in texts if ours.encode(t) != theirs.tokenize(t.encode(), add_bos=False, special=False)] == []
    marked = [text for text in texts if "<tool>" in text or "<s>" in text]
    assert [t for t in marked if ours.encode(t, specials=True) != theirs.tokenize(t.encode(), False, True)] == []
    assert (ours.bos is not None) == bool(
        llama_cpp.llama_vocab_get_add_bos(llama_cpp.llama_model_get_vocab(theirs.model))
    )


# ---- ends of a text ------------------------------------------------------------------------------------------------

INNER = ["<|return|>", "<|call|>", "<|calls|>", "<|flush|>", "<|tool_response>"]
ONE_OF_EACH = [sorted(names)[0] for names in BY_USE.values()]
VOCABULARIES = {
    "every spelling": [*ALWAYS.difference(INNER), *ONE_OF_EACH],
    "gpt-oss": ["<|return|>", "<|call|>", "<|end|>", "<|endoftext|>"],
    "solar": ["<|flush|>", "<|calls|>", "<|end|>"],
    "call alone": ["<|call|>", "<|end|>"],
    "return and flush": ["<|return|>", "<|flush|>", "<|end|>"],
    "gemma 4": ["<eos>", "<turn|>", "<|tool_response>"],
    "padding": ["[PAD]", "<|im_start|>", "<|im_end|>"],
    "none": ["<end>", "<|im_end|", "eos"],
}


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("declared", [{}, {"eos": 5}, {"eos": 1, "eot": 259, "eom": 6}, {"eos": 10**6, "fim_pad": 7},
                                      {"fim_rep": 8, "fim_sep": 9}], ids=str)  # fmt: skip
@pytest.mark.parametrize("name", VOCABULARIES)
def test_ends_every_id_equals_llama_cpp(tmp_path, name, kind, declared):
    texts = [*SPECIALS, *BYTES, *(text for text in VOCABULARIES[name] if text not in SPECIALS)]
    keys = keys_of(texts, kind, **{f"{use}_token_id": id for use, id in declared.items()})
    assert set(ends(keys, texts)) == stock_ends(tmp_path / "v.gguf", keys)


@pytest.mark.parametrize("name", [name for names in BY_USE.values() for name in sorted(names)] + sorted(ALWAYS))
def test_ends_each_spelling_equals_llama_cpp(tmp_path, name):
    texts = ["<unk>", "<s>", "x", *BYTES, name]
    keys = keys_of(texts)
    assert set(ends(keys, texts)) == stock_ends(tmp_path / "v.gguf", keys) == {2, 259}
