"""A folder with tokenizer.model and no tokenizer.json: ids by transformers and llama.cpp, errors, artefacts."""

import contextlib
import functools
import io
import itertools
import json
import random
import sys

import pytest
from helpers import write_model
from test_gguf import stock
from test_tokenizer_matrix import TEXTS, edgekit_ids, transformers_ids

from edgekit.conversion import convert
from edgekit.errors import MissingExtraError, VocabularyError
from edgekit.formats.checkpoint import LlamaConfig, side_files
from edgekit.formats.gguf import GGUFFile
from edgekit.settings import Converting
from edgekit.tokenizers import sentencepiece
from edgekit.tokenizers.load import from_files

package = pytest.importorskip("sentencepiece", reason="needs sentencepiece: pip install 'edgekit-lm[sentencepiece]'")

CORPUS = ["Once upon a time there was a little girl named Lily, and 19 dogs.", "She liked to play with her red ball.",
          "They looked under the tree, behind the house and near the river in 1987.", "über naïve café"]  # fmt: skip
KINDS = {
    "bpe": {"model_type": "bpe"},
    "bpe without bytes": {"model_type": "bpe", "byte_fallback": False, "vocab_size": 150},
    "bpe with symbols": {"model_type": "bpe", "user_defined_symbols": ["<x>"], "control_symbols": ["<ctl>"]},
    "bpe in another order": {"model_type": "bpe", "pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3},
    "bpe normalizing": {"model_type": "bpe", "normalization_rule_name": "nmt_nfkc", "remove_extra_whitespaces": True},
    "unigram": {"model_type": "unigram"},
    "unigram without bytes": {"model_type": "unigram", "byte_fallback": False, "vocab_size": 150},
    "unigram with symbols": {"model_type": "unigram", "user_defined_symbols": ["<x>"], "control_symbols": ["<ctl>"]},
}
CLASSES = (None, "LlamaTokenizer", "LlamaTokenizerFast", "CodeLlamaTokenizer", "GemmaTokenizer")
TINY = LlamaConfig(vocab_size=512, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
                   num_key_value_heads=1, head_dim=16, max_position_embeddings=64, bos_token_id=1, eos_token_id=(2,),
                   tie_word_embeddings=True)  # fmt: skip
NAMES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "[PAD]",
         "additional_special_tokens": ["<y>"]}  # fmt: skip


@functools.cache
def trained(kind: str) -> bytes:
    """A tokenizer.model that SentencePiece's own trainer made."""
    usual = {"byte_fallback": True, "vocab_size": 400, "normalization_rule_name": "identity"}
    usual |= {"remove_extra_whitespaces": False, "hard_vocab_limit": False, "minloglevel": 2}
    out = io.BytesIO()
    package.SentencePieceTrainer.train(sentence_iterator=iter(CORPUS * 5), model_writer=out, **(usual | KINDS[kind]))
    return out.getvalue()


def folder(path, kind, config):
    path.mkdir(parents=True)
    (path / "tokenizer.model").write_bytes(trained(kind))
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    (path / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 700}))
    return path


def test_model_alone_every_combination_equals_transformers(tmp_path):
    """Kinds x classes x legacy x add_prefix_space: 120 of 360 folders, half with names and add_bos_token."""
    pytest.importorskip("transformers")
    flags = ({}, {"legacy": True}, {"legacy": False})
    spaces = ({}, {"add_prefix_space": True}, {"add_prefix_space": False})
    folders = []
    product = random.Random(0).sample(list(itertools.product(KINDS, CLASSES, flags, spaces)), 120)
    for i, (kind, name, legacy, space) in enumerate(product):
        config = ({} if name is None else {"tokenizer_class": name}) | legacy | space
        config |= NAMES | {"add_bos_token": i % 4 == 1} if i % 2 else {}
        folders.append((kind, config, folder(tmp_path / str(i), kind, config)))
    answers = transformers_ids([path for *_, path in folders])
    opened = 0
    for (kind, config, path), expected in zip(folders, answers, strict=True):
        if isinstance(expected, str):
            continue  # Gemma's class asks for another order of specials
        opened += 1
        ours = edgekit_ids(path)
        if kind.startswith("unigram"):
            # The model itself has <s> among its words. Text must not become it, unless requested.
            ours[2][1] = expected[2][1] = []
        assert ours == expected, (kind, config)
    assert opened >= 110


@pytest.mark.parametrize("kind", ["bpe", "bpe with symbols", "unigram", "unigram without bytes"])
def test_model_alone_plain_text_equals_the_slow_tokenizer(tmp_path, kind):
    """transformers' LlamaTokenizer encodes with SentencePiece itself."""
    transformers = pytest.importorskip("transformers")
    path = folder(tmp_path / "m", kind, {"tokenizer_class": "LlamaTokenizer"})
    slow, fast = transformers.LlamaTokenizer.from_pretrained(path), transformers.AutoTokenizer.from_pretrained(path)
    ours = from_files(side_files(path), 700)
    for text in (*CORPUS, *TEXTS[:2], "Zebra 😀 日本", "a\tb\n"):
        ids = ours.encode(text)
        assert [ours.bos, *ids] == slow(text)["input_ids"]
        if kind != "unigram without bytes":
            assert ours.decode(ids) == fast.decode(ids)


@pytest.mark.parametrize("kind, model", [("bpe", "llama"), ("bpe with symbols", "llama"), ("unigram", "t5"),
                                         ("unigram without bytes", "t5")])  # fmt: skip
def test_convert_model_alone_ids_equal_llama_cpp(tmp_path, kind, model):
    config = {"tokenizer_class": "LlamaTokenizer"}
    files = {"tokenizer.model": trained(kind), "tokenizer_config.json": json.dumps(config).encode()}
    source = write_model(tmp_path / "m", TINY, files=files)
    path, _ = convert.convert(source, "gguf", tmp_path / "m.gguf", settings=Converting("f32"))[:2]
    assert GGUFFile(path).metadata["tokenizer.ggml.model"] == model
    ours = from_files(side_files(source), 512)
    # llama.cpp's t5 has no bytes for Z, which has no token.
    texts = [*CORPUS, " two  spaces ", "naïve", *(["Zebra, dogs"] if kind != "unigram" else [])]
    found = stock(path, [text.encode() for text in texts])
    assert found["ids"] == [ours.encode(text) for text in texts]
    assert (found["bos"], found["eos"], found["add_bos"]) == (1, 2, True)
    assert from_files(GGUFFile(path).files(), 512).encode(CORPUS[0]) == ours.encode(CORPUS[0])


@pytest.mark.parametrize("kind", ["gguf", "onnx", "hf"])
def test_artefact_of_model_alone_needs_no_package(tmp_path, monkeypatch, kind):
    files = {"tokenizer.model": trained("bpe")}
    source = write_model(tmp_path / "m", TINY, files=files)
    out = tmp_path / {"hf": "out"}.get(kind, f"out.{kind}")
    convert.convert(source, kind, out, settings=Converting("f32" if kind == "hf" else None))
    expected = from_files(side_files(source), 512).encode(CORPUS[0])
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    from edgekit.tokenizers.open import open_tokenizer

    assert open_tokenizer(str(out), None).encode(CORPUS[0]) == expected


def test_model_alone_of_another_class_begins_with_bos():
    """transformers 4 does not load such a folder; the BOS is LlamaTokenizer's and llama.cpp's default."""
    files = {"tokenizer.model": trained("bpe"), "tokenizer_config.json": b'{"tokenizer_class": "T5Tokenizer"}'}
    assert from_files(files, 512).bos == 1
    files["tokenizer_config.json"] = b'{"tokenizer_class": "T5Tokenizer", "add_bos_token": false}'
    assert from_files(files, 512).bos is None


def test_model_alone_without_the_package_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(
        MissingExtraError, match=r"^tokenizer\.model needs sentencepiece.*pip install '.*\[sentencepiece\]'$"
    ):
        from_files({"tokenizer.model": b"x"}, 512)


def test_model_beside_json_is_not_needed(shared, monkeypatch):
    files = side_files(shared / "models" / "stories260K" / "hf")
    assert "tokenizer.model" in files
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    assert from_files(files, 512).encode("Once upon a time")


@pytest.mark.parametrize("data", [b"", b"\xff" * 20, b"\x0a\xff\x01abc", b"\x0b" * 9])
def test_model_damaged_raises(data):
    with pytest.raises(VocabularyError, match="tokenizer.model"):
        sentencepiece.read(data)


def test_model_randomly_damaged_raises_only_vocabulary_error():
    whole, rng = trained("bpe"), random.Random(0)
    for _ in range(300):
        data = bytearray(whole[: rng.randrange(1, len(whole))])
        for _ in range(rng.randrange(4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        with contextlib.suppress(VocabularyError):
            from_files({"tokenizer.model": bytes(data)}, 1 << 20)


@pytest.mark.parametrize("kind", ["word", "char"])
def test_model_of_another_kind_raises(kind):
    out = io.BytesIO()
    package.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=out, model_type=kind, vocab_size=60, hard_vocab_limit=False,
        minloglevel=2,
    )  # fmt: skip
    with pytest.raises(VocabularyError, match=f"kind '{kind}'.*bpe and unigram"):
        from_files({"tokenizer.model": out.getvalue()}, 512)
