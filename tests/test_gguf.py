"""The GGUF converter, compared with llama.cpp's own loader, tokenizer and quantizer, and Hugging Face's tokenizers."""

import base64
import ctypes
import dataclasses
import json
import random
import subprocess
import sys

import numpy as np
import pytest
import tokenizers
from helpers import tokenmonster_files, write_model
from tokenizers import decoders, models, pre_tokenizers, trainers

from edgekit.conversion import convert
from edgekit.errors import CheckpointError, EdgekitError, MissingExtraError, SettingError, VocabularyError
from edgekit.formats.checkpoint import Checkpoint, LlamaConfig, open_folder
from edgekit.formats.gguf import GGUFFile
from edgekit.formats.open import open_model
from edgekit.settings import Converting
from edgekit.tokenizers.llamacpp import bpe, tokenmonster
from edgekit.tokenizers.load import from_files
from edgekit.tokenizers.tokenmonster.vocab_file import NONE, SPECIAL, Record
from edgekit.tokenizers.tokenmonster.vocabulary import Vocabulary
from edgekit.utils.progress import silent

gguf = pytest.importorskip("gguf")

from edgekit.converters import _gguf_llama  # noqa: E402
from edgekit.converters import gguf as converter  # noqa: E402
from edgekit.formats.gguf_tensors import permute, unpermute  # noqa: E402

VOCABS = (
    "code-2048-unfiltered-nocapcode-v1",
    "english-1024-balanced-v1",
    "english-8000-strict-nocapcode-v1",
    "englishcode-16000-clean-v1",
    "fiction-4096-balanced-v1",
    "tinystories-2048-strict",
)

TINY = LlamaConfig(
    vocab_size=300,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=128,
    tie_word_embeddings=True,
)

# In a separate process with a time limit: with a bad vocabulary llama.cpp aborts or hangs.
STOCK = """
import base64, ctypes, json, sys
import llama_cpp.llama_cpp as llama
quiet = llama.llama_log_callback(lambda level, text, data: None)
llama.llama_log_set(quiet, ctypes.c_void_p(0))
llama.llama_backend_init()
path, texts = json.load(sys.stdin)
params = llama.llama_model_default_params()
model = llama.llama_model_load_from_file(path.encode(), params)
assert model, "does not load"
vocab = llama.llama_model_get_vocab(model)
count = llama.llama_vocab_n_tokens(vocab)
def tokenize(data, special):
    converter = len(data) + 8
    ids = (ctypes.c_int * converter)()
    n = llama.llama_tokenize(vocab, data, len(data), ids, converter, False, special)
    if n < 0:  # ill-formed UTF-8 grows: each byte becomes U+FFFD
        ids = (ctypes.c_int * -n)()
        n = llama.llama_tokenize(vocab, data, len(data), ids, -n, False, special)
    assert n >= 0
    return list(ids[:n])
def piece(id):
    buffer = ctypes.create_string_buffer(512)
    n = llama.llama_token_to_piece(vocab, id, buffer, 512, 0, False)
    assert n >= 0
    return base64.b64encode(buffer.raw[:n]).decode()
texts = [base64.b64decode(t) for t in texts]
json.dump({
    "ids": [tokenize(t, False) for t in texts], "special": [tokenize(t, True) for t in texts],
    "pieces": [piece(i) for i in range(count)],
    "eog": [i for i in range(count) if llama.llama_vocab_is_eog(vocab, i)],
    "bos": llama.llama_vocab_bos(vocab), "eos": llama.llama_vocab_eos(vocab), "pad": llama.llama_vocab_pad(vocab),
    "nl": llama.llama_vocab_nl(vocab), "add_bos": llama.llama_vocab_get_add_bos(vocab),
    "attributes": [llama.llama_vocab_get_attr(vocab, i) for i in range(count)],
}, sys.stdout)
"""


def stock(path, texts: list[bytes]) -> dict:
    """How stock llama.cpp reads a file and tokenizes some texts."""
    pytest.importorskip("llama_cpp")
    given = json.dumps([str(path), [base64.b64encode(t).decode() for t in texts]])
    done = subprocess.run([sys.executable, "-c", STOCK], input=given, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    return found | {"pieces": [base64.b64decode(p) for p in found["pieces"]]}


def converted(source, tmp_path, quant="f32", **settings):
    return convert.convert(source, "gguf", tmp_path / f"m-{quant}.gguf", settings=Converting(quant, **settings))[:2]


def undone(data: bytes) -> bytes:
    """Level 1's delete markers applied to a whole sequence."""
    out, at = bytearray(), 0
    while at < len(data):
        if data[at] == 0x7F:
            at += 2
        else:
            out.append(data[at])
            at += 1
    return bytes(out)


# ---- tensors -------------------------------------------------------------------------------------------------------


def test_convert_f32_equals_file_of_another_program(stories, shared, tmp_path):
    ours, _ = converted(stories, tmp_path)
    ours, theirs = GGUFFile(ours), GGUFFile(shared / "models" / "stories260K" / "stories260K.f32.gguf")
    assert set(ours.tensors) == set(theirs.tensors) - {"output.weight"}  # tied: theirs is stored twice
    for name, info in ours.tensors.items():
        assert (info.shape, info.type) == (theirs.tensors[name].shape, theirs.tensors[name].type)
        assert (ours.data(name) == theirs.data(name)).all(), name
    for key, value in theirs.metadata.items():
        if key != "general.name":
            assert np.array_equal(ours.metadata[key], value), key


@pytest.mark.parametrize("quant", ["f32", "f16", "bf16", "q8_0", "q4_0"])
def test_convert_file_is_read_by_the_gguf_package(stories, tmp_path, quant):
    path, written = converted(stories, tmp_path, quant)
    reader = gguf.GGUFReader(path)
    assert [(t.name, t.tensor_type.name, t.n_bytes) for t in reader.tensors] == [
        (w.name, w.type, w.bytes) for w in written
    ]
    assert sum(w.bytes for w in written) < path.stat().st_size
    assert reader.fields["edgekit.quant"].contents() == quant


@pytest.fixture(scope="module")
def stentor_f32(stentor, tmp_path_factory):
    path, _ = converted(stentor, tmp_path_factory.mktemp("gguf"))
    return path


@pytest.mark.parametrize("quant", ["f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1"])
def test_convert_bytes_equal_llama_cpps_quantizer(stentor, stentor_f32, tmp_path, quant):
    llama = pytest.importorskip("llama_cpp.llama_cpp")
    ours, _ = converted(stentor, tmp_path, quant)
    params = llama.llama_model_quantize_default_params()
    params.ftype, params.nthread = int(gguf.LlamaFileType["MOSTLY_" + quant.upper()]), 1
    params.token_embedding_type = params.output_tensor_type = int(
        gguf.GGMLQuantizationType[GGUFFile(ours).tensors["token_embd.weight"].type]
    )
    theirs = tmp_path / "theirs.gguf"
    with _gguf_llama.silenced(llama):
        llama.llama_backend_init()
        assert llama.llama_model_quantize(str(stentor_f32).encode(), str(theirs).encode(), ctypes.byref(params)) == 0
    ours, theirs = GGUFFile(ours), GGUFFile(theirs)
    assert len(ours.tensors) == 110 and set(ours.tensors) == set(theirs.tensors)
    for name, info in ours.tensors.items():
        assert info.type == theirs.tensors[name].type, name
        assert (ours.data(name) == theirs.data(name)).all(), name
    assert ours.metadata["general.file_type"] == theirs.metadata["general.file_type"]


@pytest.mark.parametrize("quant, rest, embedding", [
    ("q2_k", {"Q2_K", "Q3_K"}, "Q6_K"), ("q3_k_s", {"Q3_K"}, "Q6_K"), ("q3_k", {"Q3_K", "Q4_K", "Q5_K"}, "Q6_K"),
    ("q4_k_s", {"Q4_K", "Q5_K"}, "Q6_K"), ("q4_k", {"Q4_K", "Q6_K"}, "Q6_K"), ("q5_k_m", {"Q5_K", "Q6_K"}, "Q6_K"),
    ("q6_k", {"Q6_K"}, "Q6_K"), ("iq4_nl", {"IQ4_NL", "Q5_K"}, "Q6_K"),
])  # fmt: skip
def test_convert_k_quant_has_llama_cpps_types(stentor, tmp_path, quant, rest, embedding, capfd):
    pytest.importorskip("llama_cpp")
    path, written = converted(stentor, tmp_path, quant)
    file = GGUFFile(path)
    assert {w.type for w in written if len(w.shape) == 2 and w.name != "token_embd.weight"} == rest
    assert file.tensors["token_embd.weight"].type == embedding and len(written) == 110
    assert file.metadata["edgekit.quant"] == quant and "tokenmonster.vocab" in file.files()
    assert list(tmp_path.iterdir()) == [path]
    assert capfd.readouterr() == ("", "")


def test_convert_k_quant_without_llama_cpp_names_the_extra(stories, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    monkeypatch.setitem(sys.modules, "llama_cpp.llama_cpp", None)
    message = r"q4_k_m needs llama-cpp-python.*pip install 'edgekit-lm\[llamacpp\]'$"
    with pytest.raises(MissingExtraError, match=message):
        converted(stories, tmp_path, "q4_k_m")
    assert list(tmp_path.iterdir()) == []


def test_convert_rows_that_do_not_divide_get_f16_and_a_note(stories, tmp_path):
    _, written = converted(stories, tmp_path, "q4_0")
    table = {w.name: (w.type, w.note) for w in written}
    assert table["blk.0.ffn_down.weight"] == ("F16", "rows of 172 do not divide into Q4_0 blocks of 32")
    assert table["blk.0.ffn_up.weight"] == ("Q4_0", "") and table["blk.0.attn_norm.weight"] == ("F32", "a vector")
    assert table["token_embd.weight"] == ("Q8_0", converter.TIED_NOTE)


def test_convert_k_quant_rows_that_do_not_divide_get_wider_types_and_notes(stories, tmp_path):
    pytest.importorskip("llama_cpp")
    _, written = converted(stories, tmp_path, "q4_k_s", embedding_type="q4_k")
    table = {w.name: (w.type, w.note) for w in written}
    assert table["blk.0.ffn_down.weight"] == ("F16", "rows of 172 do not divide into Q4_K blocks of 256")
    assert table["token_embd.weight"] == ("Q5_0", "rows of 64 do not divide into Q4_K blocks of 256")


@pytest.mark.parametrize("quant, embedding, kind", [
    ("q4_0", None, "Q8_0"), ("q4_0", "q4_0", "Q4_0"), ("q4_0", "F16", "F16"), ("q8_0", None, "Q8_0"),
    ("f16", None, "F16"), ("f32", "q8_0", "Q8_0"),
])  # fmt: skip
def test_convert_embedding_type_is_used(stories, tmp_path, quant, embedding, kind):
    path, written = converted(stories, tmp_path, quant, embedding_type=embedding)
    assert written[0].name == "token_embd.weight" and written[0].type == kind
    assert "output.weight" not in GGUFFile(path).tensors


@pytest.mark.parametrize("quant, embedding, kind", [
    ("q4_0", "q6_k", "Q6_K"), ("f16", "q4_k", "Q4_K"), ("f32", "q6_k", "Q6_K"), ("q4_k_m", "q8_0", "Q8_0"),
])  # fmt: skip
def test_convert_embedding_of_llama_cpps_types_is_used(stentor, tmp_path, quant, embedding, kind):
    pytest.importorskip("llama_cpp")
    path, written = converted(stentor, tmp_path, quant, embedding_type=embedding)
    table = {w.name: w.type for w in written}
    assert table["token_embd.weight"] == kind
    assert table["blk.3.ffn_up.weight"] == {"q4_k_m": "Q4_K"}.get(quant, quant.upper())


def test_convert_untied_head_keeps_8_bits(tmp_path):
    config = dataclasses.replace(TINY, tie_word_embeddings=False)
    _, written = converted(write_model(tmp_path / "m", config), tmp_path, "q4_0")
    table = {w.name: w.type for w in written}
    assert table["output.weight"] == "Q8_0" and table["token_embd.weight"] == "Q4_0"


def test_convert_unknown_type_lists_known_ones(stories, tmp_path):
    with pytest.raises(SettingError, match="unknown quantization 'q9_9' for gguf: choose from f32, f16"):
        converted(stories, tmp_path, "q9_9")
    with pytest.raises(SettingError, match="unknown embedding type 'q9_9' for gguf: choose from f32"):
        converted(stories, tmp_path, "q8_0", embedding_type="q9_9")


@pytest.mark.parametrize("quant, value", [("f16", 65600.0), ("q4_0", -6e5), ("q4_1", 7e4), ("bf16", 3.4e38)])
def test_convert_value_out_of_range_names_the_tensor(tmp_path, quant, value):
    checkpoint = open_folder(write_model(tmp_path / "m", TINY))
    name = "model.layers.1.mlp.up_proj.weight"
    checkpoint.tensors[name] = checkpoint.tensors[name].copy()
    checkpoint.tensors[name][3, 7] = value
    with pytest.raises(CheckpointError, match=f"tensor {name} has a value of .*more than {quant.upper()} can hold"):
        converter.convert(checkpoint, tmp_path / "x.gguf", Converting(quant), silent)


def test_unpermute_inverts_permute_with_grouped_heads():
    rng = np.random.default_rng(0)
    for name, rows in (("model.layers.0.self_attn.q_proj.weight", 64), ("model.layers.0.self_attn.k_proj.weight", 32)):
        values = rng.standard_normal((rows, 64)).astype(np.float32)
        turned = permute(name, values, TINY)
        assert (turned[0] == values[0]).all() and (turned[1] == values[8]).all()  # row i next to row i + head_dim/2
        assert (turned[16:18] == values[[16, 24]]).all()  # each head separately
        assert (unpermute(name, turned, TINY) == values).all()


# ---- metadata ------------------------------------------------------------------------------------------------------


def test_convert_writes_hyperparameters_and_sampling_defaults(tmp_path):
    config = dataclasses.replace(TINY, head_dim=32, rope_theta=500000.0, rms_norm_eps=1e-6)
    generation = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.2}
    files = {"generation_config.json": json.dumps(generation).encode()}
    path, _ = converted(write_model(tmp_path / "m", config, files=files), tmp_path, "q8_0")
    keys = GGUFFile(path).metadata
    assert keys["llama.attention.head_count_kv"] == 2 and keys["llama.rope.freq_base"] == 500000
    assert keys["llama.attention.key_length"] == keys["llama.rope.dimension_count"] == 32
    assert keys["general.file_type"] == 7 and keys["general.quantization_version"] == 2
    assert keys["general.name"] == "m" and keys["general.size_label"] and keys["llama.vocab_size"] == 300
    sampling = {k[17:]: v for k, v in keys.items() if k.startswith("general.sampling.")}
    assert sampling == {
        "temp": pytest.approx(0.7), "top_k": 50, "top_p": pytest.approx(0.9), "min_p": 0.0,
        "penalty_repeat": pytest.approx(1.2), "penalty_last_n": 128,
    }  # fmt: skip


def test_convert_embeds_files_byte_for_byte(stories, tmp_path):
    path, _ = converted(stories, tmp_path, "q8_0")
    files = GGUFFile(path).files()
    assert "tokenizer.model" in files
    assert all((stories / name).read_bytes() == data for name, data in files.items())


def test_convert_without_tokenizer_adds_a_note(tmp_path):
    checkpoint = open_folder(write_model(tmp_path / "m", TINY))
    converter.convert(checkpoint, tmp_path / "x.gguf", Converting("f32"), silent)
    keys = GGUFFile(tmp_path / "x.gguf").metadata
    assert keys["tokenizer.ggml.model"] == "none" and "tokenizer.ggml.tokens" not in keys
    assert "has no tokenizer" in checkpoint.notes[0] and keys["edgekit.tokenizer.note"] == checkpoint.notes[0]


# ---- TokenMonster --------------------------------------------------------------------------------------------------


def random_texts(seed: int) -> list[bytes]:
    rng = random.Random(seed)
    every = bytes(range(256))
    plain = ["Hello, World! 3.14 <s></s>[PAD8002]<unk> don't\n\n\tx", "naïve 😀 日本語 </s> <|im_end|>\\n\\x7f\\"]
    junk = [bytes(rng.choices(range(256), k=400)) for _ in range(20)]
    letters = [bytes(rng.choices(b" etaoinTHE.\n<[_\\", k=400)) for _ in range(20)]
    return [b"", b"\n", every, every[::-1], every * 2, *(p.encode() for p in plain), *junk, *letters]


@pytest.mark.parametrize("name", VOCABS)
def test_tokenmonster_vocabulary_works_in_stock_llama_cpp(shared, tmp_path, name):
    data = (shared / "tokenmonster" / "vocabs" / f"{name}.vocab").read_bytes()
    vocabulary = Vocabulary.from_bytes(data)
    rows = -(-(vocabulary.table_size + 2) // 128) * 128
    config = dataclasses.replace(TINY, vocab_size=rows)
    path, _ = converted(write_model(tmp_path / "m", config, files=tokenmonster_files(data, rows)), tmp_path, "q8_0")
    texts = random_texts(1)
    found = stock(path, texts)
    base = vocabulary.table_size
    assert [found["eos"], found["bos"], found["pad"], found["add_bos"]] == [base, base + 1, base, False]
    assert found["eog"] == [base]
    quiet = {*range(base, rows), *vocabulary.special_ids}
    for id in range(rows):
        assert found["pieces"][id] == (b"" if id in quiet else vocabulary.base_bytes(id)), id
    for text, ids, special in zip(texts, found["ids"], found["special"], strict=True):
        assert all(0 <= id < rows for id in ids + special)
        # Stock llama.cpp prints what it reads: all bytes that have a piece, except for spelled-out specials.
        if not any(id in quiet for id in ids):
            assert b"".join(found["pieces"][id] for id in ids) == text
    if vocabulary.capcode == 1:
        rng = random.Random(2)
        for _ in range(200):
            ids = vocabulary.encode(rng.choice(["One of 3.14's, (x)y-z!", "a\nb  C"]) * 2)
            assert undone(b"".join(found["pieces"][id] for id in ids)) == vocabulary.decode_bytes(ids)


def vocabulary(*tokens: bytes, capcode=0, special=()) -> Vocabulary:
    """A vocabulary of only these tokens, ids in the order (length, bytes)."""
    ordered = sorted(tokens, key=lambda token: (len(token), token))
    flags = [SPECIAL if token in special else 0 for token in ordered]
    records = [
        Record(token, flag, 0, NONE, NONE, id, 0.5) for id, (token, flag) in enumerate(zip(ordered, flags, strict=True))
    ]
    marker = (b"", b"\x7f", b"D")[capcode]
    return Vocabulary(
        capcode=capcode, charset=1, normalization=0, mode=0, reserve=0, unk=NONE, table_size=len(ordered),
        delete_token=ordered.index(marker) if marker and marker in ordered else NONE, records=records,
        follow=bytes(256),
    )  # fmt: skip


def stock_of(vocab: Vocabulary, rows: int, tmp_path, texts: list[bytes], **config) -> dict:
    files = tokenmonster_files(vocab.to_bytes(), rows)
    folder = write_model(tmp_path / "m", dataclasses.replace(TINY, vocab_size=rows, **config), files=files)
    return stock(converted(folder, tmp_path)[0], texts)


BYTES = bytes(range(256))
HOSTILE = [BYTES, b"bx bc\n\n <s></s>[PAD5]", b"\n", b"bbbb<", b"[[[", b"<<s>"]


@pytest.mark.parametrize("tokens, capcode, rows", [
    ((b"bc", b"\nx", b"<a", b" "), 0, 16),  # first bytes that are not pieces; padding rows to use
    ((b"bc", b"\nx", b"<a", b" ", b"\x7f"), 1, 7),  # EOS and BOS only: no spare row, the marker helps
    ((b"bc", b"\nx", b" ", b"D"), 2, 4),  # no row above the vocabulary
    ((b"bc", b"\xff\xfe", b"\x7f bc", b"\x7f"), 1, 4),  # the piece with the marker exists already
    ((b"<s>", b"</s>", b"</", b"<", b"[PAD8]"), 0, 12),  # pieces spelled like specials
    ((b"</s>", b"<|im_end|>", b"<eos>", b"_<EOT>", b"[EOS]", b"[e~[", b"<", b"[", b"_"), 0, 16),
    ((b"a", b"b"), 0, 2),  # no newline, no space, no row
    ((b"\\", b"\\n", b"\\x7f", b"'", b'"', b"\r\n", b"\r"), 0, 10),
])  # fmt: skip
def test_tokenmonster_difficult_vocabulary_neither_hangs_nor_aborts_llama_cpp(tmp_path, tokens, capcode, rows):
    vocab = vocabulary(*tokens, capcode=capcode)
    found = stock_of(vocab, rows, tmp_path, HOSTILE)
    for ids in found["ids"] + found["special"]:
        assert all(0 <= id < rows for id in ids)
    ends = {vocab.table_size} if rows > vocab.table_size else set()
    assert set(found["eog"]) == ends
    lead = (b"", b"\x7f ", b"D ")[capcode]
    for id in range(vocab.table_size):
        assert found["pieces"][id].replace(lead, b"") == vocab.base_bytes(id).replace(lead, b"")


def test_tokenmonster_impossible_vocabulary_is_written_without_texts(tmp_path):
    files = tokenmonster_files(vocabulary(b"bc", b"a").to_bytes(), 2)
    checkpoint = open_folder(write_model(tmp_path / "m", dataclasses.replace(TINY, vocab_size=2), files=files))
    converter.convert(checkpoint, tmp_path / "x.gguf", Converting("f32"), silent)
    assert GGUFFile(tmp_path / "x.gguf").metadata["tokenizer.ggml.model"] == "none"
    assert checkpoint.notes == [tokenmonster.HANGS]


def test_tokenmonster_special_tokens_are_control_tokens(shared, tmp_path):
    data = (shared / "tokenmonster" / "vocabs" / "tinystories-2048-strict.vocab").read_bytes()
    config = dataclasses.replace(TINY, vocab_size=2048, eos_token_id=(1833,))
    path, _ = converted(write_model(tmp_path / "m", config, files=tokenmonster_files(data, 2048)), tmp_path)
    found = stock(path, [b"x"])
    assert found["eos"] == 1833 and found["eog"] == [1833] and found["pieces"][1833] == b""


def test_tokenmonster_vocabulary_larger_than_embedding_raises(shared, tmp_path):
    data = (shared / "tokenmonster" / "vocabs" / "english-1024-balanced-v1.vocab").read_bytes()
    folder = write_model(tmp_path / "m", TINY, files=tokenmonster_files(data, 300))
    with pytest.raises(VocabularyError, match="1024 ids.*300 rows"):
        converted(folder, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_convert_name_phi3_is_changed_for_llama_cpp(tmp_path):
    """llama.cpp looks for Phi-3's tokens if the name says so, and refuses the file without them."""
    files = tokenmonster_files(vocabulary(b"a", b" ", b"\n").to_bytes(), 16)
    folder = write_model(tmp_path / "Phi3-mini", dataclasses.replace(TINY, vocab_size=16), files=files)
    assert stock(converted(folder, tmp_path)[0], [b"a"])["ids"] == [[1 + 1]]


# ---- ordinary tokenizers -------------------------------------------------------------------------------------------

ENGLISH = [
    "Once upon a time, there was a little girl named Lily.",
    "She said: \"Don't!\"  Two  spaces,\nnew lines\n\n\tand tabs.",
    " leading space", "trailing space ", "123 4567 1,000.50", "naïve café — 😀 日本語", "", "a",
]  # fmt: skip


def test_sentencepiece_ids_equal_the_tokenizers_library(stories, tmp_path):
    path, _ = converted(stories, tmp_path)
    reference = tokenizers.Tokenizer.from_file(str(stories / "tokenizer.json"))
    found = stock(path, [t.encode() for t in ENGLISH])
    assert found["ids"] == [reference.encode(t, add_special_tokens=False).ids if t else [] for t in ENGLISH]
    assert (found["bos"], found["eos"], found["add_bos"], found["eog"]) == (1, 2, True, [2])


@pytest.mark.parametrize("with_model", [True, False])
def test_sentencepiece_scores_from_merges_give_the_same_ids(stories, tmp_path, with_model):
    """Scores from merge ranks give the same ids as SentencePiece's own; rows above the tokenizer become pads."""
    config = dataclasses.replace(TINY, vocab_size=520, bos_token_id=1, eos_token_id=(2,))
    names = ["tokenizer.json", "tokenizer_config.json"] + ["tokenizer.model"] * with_model
    files = {name: (stories / name).read_bytes() for name in names}
    path, _ = converted(write_model(tmp_path / "m", config, files=files), tmp_path)
    reference = tokenizers.Tokenizer.from_file(str(stories / "tokenizer.json"))
    found = stock(path, [t.encode() for t in ENGLISH])
    assert found["ids"] == [reference.encode(t, add_special_tokens=False).ids if t else [] for t in ENGLISH]
    texts = GGUFFile(path).metadata["tokenizer.ggml.tokens"]
    assert texts[512:] == [f"[PAD{i}]" for i in range(512, 520)] and not any(found["pieces"][512:])


def test_sentencepiece_model_alone_is_enough(stories, tmp_path):
    config = dataclasses.replace(TINY, vocab_size=512, bos_token_id=1, eos_token_id=(2,))
    files = {"tokenizer.model": (stories / "tokenizer.model").read_bytes()}
    path, _ = converted(write_model(tmp_path / "m", config, files=files), tmp_path)
    reference = tokenizers.Tokenizer.from_file(str(stories / "tokenizer.json"))
    assert stock(path, [ENGLISH[0].encode()])["ids"] == [reference.encode(ENGLISH[0], add_special_tokens=False).ids]


def byte_level(pre) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre, decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=["<|endoftext|>", "<s>"],
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator([*ENGLISH, "the cat and the dog 2024 1999 don't we'll"] * 20, trainer)
    return tokenizer


def split(name: str):
    regex = next(regex for regex, known in bpe.SPLITS.items() if known == name)
    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(tokenizers.Regex(regex), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip


GPT2_LIKE = {
    "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm": pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
    **{name: split(name) for name in ("llama-bpe", "qwen2", "gpt-4o", "tekken")},
}


@pytest.mark.parametrize("pre", GPT2_LIKE)
def test_byte_level_bpe_ids_equal_the_tokenizers_library(tmp_path, pre):
    tokenizer = byte_level(GPT2_LIKE[pre])
    config = dataclasses.replace(TINY, vocab_size=416, eos_token_id=(0,), bos_token_id=1)
    folder = write_model(tmp_path / "m", config, files={"tokenizer.json": tokenizer.to_str().encode()})
    path, _ = converted(folder, tmp_path)
    keys = GGUFFile(path).metadata
    assert keys["tokenizer.ggml.model"] == "gpt2" and keys["tokenizer.ggml.pre"] == pre
    assert "edgekit.tokenizer.note" not in keys
    texts = [t for t in ENGLISH if "😀" not in t or pre != "tekken"]
    found = stock(path, [t.encode() for t in texts])
    assert found["ids"] == [tokenizer.encode(t).ids for t in texts]
    assert found["eog"] == [0]
    for text, ids in zip(texts, found["ids"], strict=True):
        assert b"".join(found["pieces"][id] for id in ids) == text.encode()


def test_byte_level_bpe_unknown_pre_tokenizer_adds_a_note(tmp_path):
    tokenizer = byte_level(pre_tokenizers.Sequence([pre_tokenizers.Punctuation(), pre_tokenizers.ByteLevel()]))
    folder = write_model(
        tmp_path / "m", dataclasses.replace(TINY, vocab_size=400), files={"tokenizer.json": tokenizer.to_str().encode()}
    )
    checkpoint = open_folder(folder)
    converter.convert(checkpoint, tmp_path / "x.gguf", Converting("f32"), silent)
    assert GGUFFile(tmp_path / "x.gguf").metadata["tokenizer.ggml.pre"] == "default"
    assert any("Punctuation + ByteLevel" in note for note in checkpoint.notes)
    assert stock(tmp_path / "x.gguf", [BYTES, b"hello"])["ids"][1]


def test_convert_unsupported_tokenizer_adds_a_note(tmp_path):
    tokenizer = tokenizers.Tokenizer(models.WordLevel({"a": 0, "b": 1, "[UNK]": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = write_model(tmp_path / "m", TINY, files={"tokenizer.json": tokenizer.to_str().encode()})
    checkpoint = open_folder(folder)
    converter.convert(checkpoint, tmp_path / "x.gguf", Converting("f32"), silent)
    assert GGUFFile(tmp_path / "x.gguf").metadata["tokenizer.ggml.model"] == "none"
    assert "nothing like a WordLevel tokenizer" in checkpoint.notes[0]


# ---- back to a checkpoint ------------------------------------------------------------------------------------------


def bfloat16(values: np.ndarray) -> np.ndarray:
    return (values.view(np.uint32) & 0xFFFF0000).view(np.float32)


@pytest.mark.parametrize("quant, dtype", [
    ("f32", "F32"), ("f32", "F16"), ("f32", "BF16"), ("f16", "F16"), ("bf16", "BF16"),
])  # fmt: skip
@pytest.mark.parametrize("tied", [True, False])
def test_read_converted_file_is_bit_exact(tmp_path, quant, dtype, tied):
    config = dataclasses.replace(TINY, tie_word_embeddings=tied, head_dim=32)
    source = open_folder(write_model(tmp_path / "m", config))
    tensors = {"F32": lambda v: v, "F16": lambda v: v.astype(np.float16), "BF16": bfloat16}[dtype]
    stored, dtypes = {n: tensors(t) for n, t in source}, dict.fromkeys(source.tensors, dtype)
    source = Checkpoint("m", config, stored, dtypes, source.files)
    converter.convert(source, tmp_path / "x.gguf", Converting(quant), silent)
    back = open_model(tmp_path / "x.gguf")
    assert back.config == source.config and back.name == "m" and back.files == source.files
    for name in source.tensors:
        assert (back.float32(name) == source.float32(name)).all(), name


@pytest.mark.parametrize("quant", ["q8_0", "q4_0", "q5_1", "q4_k_m"])
def test_read_quantized_file_is_close(stentor, tmp_path, quant):
    pytest.importorskip("llama_cpp")
    path, _ = converted(stentor, tmp_path, quant)
    source, back = open_folder(stentor), converter.read(path)
    assert back.config == source.config and back.files == source.files
    assert "dequantized from" in back.notes[0]
    for name in ("model.layers.3.self_attn.k_proj.weight", "model.embed_tokens.weight", "model.norm.weight"):
        error = np.abs(back.float32(name) - source.float32(name)).max()
        assert error < (0.002 if quant == "q8_0" else 0.05)


def test_read_foreign_file_has_weights_and_tokenizer(shared, stories):
    back = converter.read(shared / "models" / "stories260K" / "stories260K.f32.gguf")
    source = open_folder(stories)
    assert back.config == source.config and back.notes == []
    for name, tensor in source:
        assert (back.float32(name) == tensor).all(), name
    tokenizer = from_files(back.files, back.config.vocab_size)
    reference = from_files(source.files, source.config.vocab_size)
    assert (tokenizer.bos, tokenizer.stop) == (reference.bos, reference.stop)
    for text in ENGLISH:
        assert tokenizer.encode(text) == reference.encode(text)
        assert tokenizer.decode(tokenizer.encode(text)) == reference.decode(reference.encode(text))


@pytest.mark.parametrize("pre", GPT2_LIKE)
def test_read_foreign_byte_level_file_has_the_same_tokenizer(tmp_path, pre):
    tokenizer = byte_level(GPT2_LIKE[pre])
    config = dataclasses.replace(TINY, vocab_size=400, eos_token_id=(0,), bos_token_id=1)
    path, _ = converted(
        write_model(tmp_path / "m", config, files={"tokenizer.json": tokenizer.to_str().encode()}), tmp_path
    )
    back = converter.read(stripped(path, tmp_path / "foreign.gguf"))
    ours = from_files(back.files, 400)
    assert [ours.encode(t) for t in ENGLISH] == [tokenizer.encode(t).ids for t in ENGLISH]
    assert ours.stop == {0}


def stripped(path, out, drop=("edgekit.",), add=(), tensors=()):
    """A copy without some keys and with others, as another program might have written it."""
    reader = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(out, "llama")
    for key, field in reader.fields.items():
        if key.startswith(("GGUF.", "general.architecture", *drop)):
            continue
        kind, sub = field.types[0], field.types[-1] if len(field.types) > 1 else None
        writer.add_key_value(key, field.contents(), kind, sub_type=sub)
    for key, value, kind in add:
        writer.kv_data[0].pop(key, None)
        writer.add_key_value(key, value, kind)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    for name, values in tensors:
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


STRING, U32, F32 = gguf.GGUFValueType.STRING, gguf.GGUFValueType.UINT32, gguf.GGUFValueType.FLOAT32


@pytest.mark.parametrize("add, tensors, message", [
    ([("general.architecture", "qwen2", STRING)], [], "general.architecture is 'qwen2'"),
    ([("llama.rope.scaling.type", "yarn", STRING)], [], "llama.rope.scaling.type is 'yarn'"),
    ([("llama.rope.scaling.factor", 4.0, F32)], [], "rope_scaling of the config.json inside is not that of the file"),
    ([("llama.expert_count", 8, U32)], [], "llama.expert_count is 8"),
    ([("llama.attention.sliding_window", 64, U32)], [], "llama.attention.sliding_window is 64"),
    ([("llama.rope.dimension_count", 4, U32)], [], "llama.rope.dimension_count is 4, head_dim 8"),
    ([("llama.context_length", "long", STRING)], [], "llama.context_length must be a number"),
    ([("llama.attention.head_count", 0, U32)], [], "num_attention_heads"),
    ([("llama.embedding_length", 128, U32)], [], "hidden_size is 64 in the config.json inside, 128"),
    ([], [("blk.0.attn_q.bias", np.zeros(64, np.float32))],
     "attention_bias is False in the config.json inside, True in the file's keys"),
    ([], [("rope_freqs.weight", np.float32([1, 2, 1, 3]))], "rope_freqs.weight"),
    ([], [("output.weight", np.ones((512, 64), np.float32))], "lm_head.weight differs from"),
])  # fmt: skip
def test_read_unsupported_key_or_tensor_names_it(stories, tmp_path, add, tensors, message):
    path, _ = converted(stories, tmp_path)
    other = stripped(path, tmp_path / "other.gguf", drop=(), add=add, tensors=tensors)
    with pytest.raises(CheckpointError) as caught:
        converter.read(other)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_read_changed_embedded_file_raises(stories, tmp_path):
    path, _ = converted(stories, tmp_path)
    data = bytearray(path.read_bytes())
    place = data.index(b'"rms_norm_eps"')
    data[place + 1 : place + 4] = b"RMS"
    path.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match="config.json inside does not match its sha256"):
        converter.read(path)


def test_read_damaged_file_raises_one_line(stories, shared, tmp_path):
    """Random bytes in the metadata of two real files: the result is a checkpoint or an EdgekitError."""
    ours = converted(stories, tmp_path, "q8_0")[0].read_bytes()
    theirs = (shared / "models" / "stories260K" / "stories260K.f32.gguf").read_bytes()
    rng, path, refused = random.Random(0), tmp_path / "damaged.gguf", 0
    for i in range(150):
        data = bytearray((ours, theirs)[i % 2])
        for _ in range(rng.randrange(1, 4)):
            place = rng.randrange(4, rng.choice([1200, 14000]))
            new = rng.choice([bytes([rng.randrange(256)]), b"\xff" * 4, bytes(4), rng.randbytes(8)])
            data[place : place + len(new)] = new
        path.write_bytes(bytes(data))
        try:
            converter.read(path)
        except EdgekitError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 50
