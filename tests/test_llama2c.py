"""llama2.c's files: read as run.c reads them, and written so. The oracles are files that its own scripts wrote, and the
format itself, written here from its description."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from handmade import small
from helpers import tokenmonster_files, write_model

import edgekit
from edgekit.cli.main import main
from edgekit.conversion.convert import convert
from edgekit.errors import CheckpointError, EdgekitError, UnsupportedError, VocabularyError
from edgekit.formats import hub
from edgekit.formats.checkpoint import LlamaConfig, open_folder
from edgekit.formats.open import open_model
from edgekit.tokenizers.load import from_files
from edgekit.tokenizers.sample_texts import sample_texts

UNTIED = LlamaConfig(300, 64, 96, 2, 4, 2, 16, 32)
GREEDY = {"temperature": 0, "max_new_tokens": 60, "ignore_eos": True}


@pytest.fixture
def files(shared: Path) -> Path:
    """A folder with stories260K.bin and tok512.bin, as Karpathy published them, and the same model as hf/ and GGUF."""
    return shared / "models" / "stories260K"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))


def meta_order(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """Query or key rows of Hugging Face's order in Meta's: row 2i of a head is i, row 2i + 1 is i + head_dim/2."""
    order = [
        h + i + j * (head_dim // 2) for h in range(0, len(rows), head_dim) for i in range(head_dim // 2) for j in (0, 1)
    ]
    return rows[order]


def status(arguments: list[str]) -> object:
    """The exit status of a command."""
    with pytest.raises(SystemExit) as done:
        main(arguments)
    return done.value.code


def written(path: Path, folder: Path, version: int) -> Path:
    """A file of llama2.c from a model folder, and a tokenizer of `vocab_size` tokens: an oracle for the reader."""
    checkpoint = open_folder(folder)
    c, tensor = checkpoint.config, checkpoint.float32
    numbers = [c.hidden_size, c.intermediate_size, c.num_hidden_layers, c.num_attention_heads, c.num_key_value_heads]
    sign = -1 if version == 0 and not c.tie_word_embeddings else 1
    data = struct.pack("<7i", *numbers, sign * c.vocab_size, c.max_position_embeddings)
    if version:
        data = struct.pack("<Ii", 0x616B3432, version) + data + bytes([c.tie_word_embeddings])
        data += bytes(256 - len(data))

    def layers(name: str) -> list[np.ndarray]:
        values = [tensor(f"model.layers.{i}.{name}.weight") for i in range(c.num_hidden_layers)]
        return [meta_order(v, c.head_dim) for v in values] if name[-6:] in ("q_proj", "k_proj") else values

    attention = [v for p in "qkvo" for v in layers(f"self_attn.{p}_proj")]
    ffn = [v for p in ("gate", "down", "up") for v in layers(f"mlp.{p}_proj")]
    embedding, norm = tensor("model.embed_tokens.weight"), tensor("model.norm.weight")
    before, after = layers("input_layernorm"), layers("post_attention_layernorm")
    tables = np.zeros((2, c.max_position_embeddings, c.head_dim // 2), np.float32)
    if version:
        parts = [*before, *after, norm, embedding, *attention, *ffn]
    else:
        parts = [embedding, *before, *attention, *after, *ffn, norm, tables]
    parts += [] if c.tie_word_embeddings else [tensor("lm_head.weight")]
    path.write_bytes(data + b"".join(p.astype("<f4").tobytes() for p in parts))
    texts = [b"<unk>", b"\n<s>\n", b"\n</s>\n", *(b"<0x%02X>" % byte for byte in range(256))]
    texts += [b"%c" % (97 + i % 26) * (1 + i // 26) for i in range(c.vocab_size - len(texts))]
    tokens = b"".join(struct.pack("<fi", -i, len(text)) + text for i, text in enumerate(texts))
    (path.parent / "tokenizer.bin").write_bytes(struct.pack("<i", max(map(len, texts))) + tokens)
    return path


# ---- reading -------------------------------------------------------------------------------------------------------


def test_published_file_has_the_weights_of_the_hugging_face_folder(files):
    ours, theirs = open_model(files / "stories260K.bin"), open_folder(files / "hf")
    assert ours.tensors.keys() == theirs.tensors.keys() and ours.name == "stories260K"
    assert all(np.array_equal(ours.tensors[name], theirs.tensors[name]) for name in theirs.tensors)
    same = [f for f in LlamaConfig.__dataclass_fields__ if f != "eos_token_id"]
    assert [getattr(ours.config, f) for f in same] == [getattr(theirs.config, f) for f in same]


def test_published_tokenizer_gives_the_ids_of_the_hugging_face_folder(files):
    ours, theirs = (from_files(open_model(p).files, 512) for p in (files / "stories260K.bin", files / "hf"))
    texts = [*sample_texts(), "Once upon a time, Lily", "  two  spaces", "\t\n"]
    assert [ours.encode(text) for text in texts] == [theirs.encode(text) for text in texts]
    assert ours.bos == 1 and 1 in ours.stop  # run.c ends a text there


def test_published_file_generates_the_tokens_of_the_gguf(files):
    ours, theirs = (edgekit.load(files / name) for name in ("stories260K.bin", "stories260K.f32.gguf"))
    for settings in (GREEDY, {**GREEDY, "temperature": 0.9, "top_p": 0.9, "seed": 7}):
        assert (
            ours.generate("Once upon a time", **settings).tokens
            == theirs.generate("Once upon a time", **settings).tokens
        )


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("tied", [True, False])
def test_each_version_tied_or_not_has_the_tensors_that_were_written(tmp_path, version, tied):
    config = LlamaConfig(300, 64, 96, 2, 4, 2, 16, 32, tie_word_embeddings=tied)
    folder = write_model(tmp_path / "hf", config)
    back = open_model(written(tmp_path / "m.bin", folder, version))
    source = open_folder(folder)
    assert back.config.tie_word_embeddings == tied and back.tensors.keys() == source.tensors.keys()
    assert all(np.array_equal(back.tensors[name], source.tensors[name]) for name in source.tensors)


def test_tokenizer_named_after_its_size_comes_before_tokenizer_bin(tmp_path):
    path = written(tmp_path / "m.bin", write_model(tmp_path / "hf", UNTIED), 0)
    (tmp_path / "tokenizer.bin").rename(tmp_path / "tok300.bin")
    (tmp_path / "tokenizer.bin").write_bytes(b"another model's")
    assert open_model(path).config.vocab_size == 300


# ---- what is not such a file ---------------------------------------------------------------------------------------


def header(*numbers: int) -> bytes:
    return struct.pack("<7i", *numbers)


GOOD = header(64, 96, 2, 4, 2, 300, 32)


@pytest.mark.parametrize("data, message", [
    (b"", "has only 0 bytes"),
    (GOOD[:20], "has only 20 bytes"),
    (GOOD, "header asks for .* bytes and the file has 28"),
    (GOOD + bytes(100), "cut short"),
    (header(2**31 - 1, 96, 2, 4, 2, 300, 32), "dim is 2147483647"),
    (header(64, 96, 10**9, 4, 2, 300, 32), "n_layers is 1000000000"),
    (header(64, 96, 4096, 4, 2, 300, 2**24), "cut short"),
    (header(2**24, 2**24, 4096, 4, 2, 2**22, 2**24), "cut short"),
    (header(64, -1, 2, 4, 2, 300, 32), "hidden_dim is -1"),
    (header(64, 96, 2, 0, 2, 300, 32), "n_heads is 0"),
    (header(64, 96, 2, 5, 2, 300, 32), "does not make 5 heads"),
    (header(64, 96, 2, 4, 3, 300, 32), "4 heads of pairs, 3 for keys"),
    (header(4, 96, 2, 4, 2, 300, 32), "does not make 4 heads of pairs"),
    (header(64, 96, 2, 4, 2, -(2**31), 32), "vocab_size is 2147483648"),
    (header(64, 96, 2, 4, 2, 2, 32), "without BOS and EOS"),
    (struct.pack("<Ii", 0x616B3432, 2) + bytes(300), r"int8 weights \(version 2\)"),
    (struct.pack("<Ii", 0x616B3432, 9) + bytes(300), "is of version 9"),
    (struct.pack("<Ii", 0x616B3432, 1) + GOOD, "has only 36 bytes"),
    (b"PK\x03\x04" + bytes(300), "pickled weights, which edgekit never loads"),
    (b"GGUF" + bytes(300), "not a model.bin of llama2.c"),
])  # fmt: skip
def test_other_or_damaged_file_is_one_line(tmp_path, capsys, data, message):
    path = tmp_path / "m.bin"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=message) as error:
        open_model(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert status(["run", "-m", str(path), "Hello"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_missing_file_of_int8_or_tokenizer_names_what_to_do(tmp_path):
    path = written(tmp_path / "m.bin", write_model(tmp_path / "hf", UNTIED), 0)
    (tmp_path / "tokenizer.bin").unlink()
    with pytest.raises(VocabularyError, match=r"no tokenizer: put tok300.bin or tokenizer.bin into the same folder"):
        edgekit.load(path)
    path.write_bytes(struct.pack("<Ii", 0x616B3432, 2) + bytes(300))
    with pytest.raises(UnsupportedError, match="versions 0 and 1"):
        open_model(path)


@pytest.mark.parametrize("change, message", [
    (lambda data: data[:-1], "has no end"),
    (lambda data: data[:-5], "ends inside a token"),
    (lambda data: data[:4], "has 0 tokens, and the model 300"),
    (lambda data: data + struct.pack("<fi", 0, 2**31 - 1), "token 300 has no end"),
    (lambda data: data + struct.pack("<fi", 0, -1), "token 300 has no end"),
    (lambda data: data + struct.pack("<fi", 0, 1) + b"!", "has 301 tokens, and the model 300"),
    (lambda data: data.replace(b"<0x41>", b"<0x42>"), "where run.c has the byte <0x41>"),
    (lambda data: data[:-2] + b"\xff\xff", "is not UTF-8"),
    (lambda data: data[:-2] + b"nn", "occurs twice"),
])  # fmt: skip
def test_damaged_tokenizer_is_one_line(tmp_path, change, message):
    path = written(tmp_path / "m.bin", write_model(tmp_path / "hf", UNTIED), 0)
    tokenizer = tmp_path / "tokenizer.bin"
    tokenizer.write_bytes(change(tokenizer.read_bytes()))
    with pytest.raises(VocabularyError, match=message):
        open_model(path)


def test_every_cut_of_a_file_is_an_error_of_ours(tmp_path):
    path = written(tmp_path / "m.bin", write_model(tmp_path / "hf", UNTIED), 1)
    data = path.read_bytes()
    for length in [*range(0, 300), *range(300, len(data), 9973)]:
        path.write_bytes(data[:length])
        with pytest.raises(EdgekitError):
            open_model(path)


# ---- writing -------------------------------------------------------------------------------------------------------


def test_written_folder_has_the_bytes_of_the_published_files(files, tmp_path):
    made = convert(files / "hf", "llama2c", tmp_path / "out")
    ours, theirs = (made.path / "model.bin").read_bytes(), (files / "stories260K.bin").read_bytes()
    tables = 4 * 2 * 512 * 4
    assert len(ours) == len(theirs) and ours[:-tables] == theirs[:-tables]
    a, b = (np.frombuffer(data[-tables:], "<f4") for data in (ours, theirs))
    assert np.abs(a - b).max() < 1e-4  # cosines and sines, which torch computed in float32
    assert made.receipt is not None and made.receipt["tensors"]["ffn"]["error"] == 0


def test_written_tokenizer_splits_texts_by_run_cs_rule_as_ours_does(files, tmp_path):
    made = convert(files / "hf", "llama2c", tmp_path / "out", verify=False)
    ours, theirs = (read(path) for path in (made.path / "tokenizer.bin", files / "tok512.bin"))
    assert [text for text, _ in ours] == [text for text, _ in theirs]
    tokenizer = from_files(open_folder(files / "hf").files, 512)
    for text in ["Once upon a time", "Lily's  café\n", "日本 🙂", *sample_texts()[:100]]:
        ids = by_run_c(text, ours)
        assert ids == by_run_c(text, theirs) == [1, *tokenizer.encode(text)]


def read(path: Path) -> list[tuple[bytes, float]]:
    data, at, tokens = path.read_bytes(), 4, []
    while at < len(data):
        score, length = struct.unpack_from("<fi", data, at)
        tokens.append((data[at + 8 : at + 8 + length], score))
        at += 8 + length
    return tokens


def by_run_c(text: str, tokens: list[tuple[bytes, float]]) -> list[int]:
    """Ids as run.c's `encode` finds them: BOS, a space, characters or bytes, then the best pair again and again."""
    ids = {piece: id for id, (piece, _) in reversed(list(enumerate(tokens)))}
    found = [ids[b" "]] if text else []
    for character in text:
        data = character.encode()
        found += [ids[data]] if data in ids else [byte + 3 for byte in data]
    while True:
        pairs = [(tokens[a][0] + tokens[b][0], i) for i, (a, b) in enumerate(zip(found, found[1:], strict=False))]
        known = [(tokens[ids[pair]][1], -i) for pair, i in pairs if pair in ids]
        if not known:
            return [1, *found]
        at = -max(known)[1]
        found[at : at + 2] = [ids[pairs[at][0]]]


def test_written_folder_is_a_model_for_every_command(files, tmp_path, capsys):
    out = tmp_path / "stories"
    assert status(["convert", "-m", str(files / "stories260K.bin"), "--to", "llama2c", "-o", str(out)]) == 0
    for model in (out, out / "model.bin"):
        assert status(["run", "-m", str(model), "Once upon a time", "--temperature", "0", "--max-new-tokens", "8"]) == 0
        assert status(["inspect", "-m", str(model), "--json"]) == 0
    printed = capsys.readouterr().out
    assert json.loads(printed[printed.rindex("\n{") :])["name"] == "stories"
    assert len(list((tmp_path / "cache" / "converted").iterdir())) == 2  # of the published file, and of ours


def test_damaged_folder_in_the_cache_is_made_again(files, tmp_path):
    folder = hub.resolve(files / "stories260K.bin")
    weights = folder / "model.safetensors"
    before, changed = weights.read_bytes(), weights.stat().st_mtime_ns
    assert hub.resolve(files / "stories260K.bin") == folder and weights.stat().st_mtime_ns == changed
    weights.write_bytes(before[:-4] + b"\0\0\0\0")
    assert hub.resolve(files / "stories260K.bin") == folder and weights.read_bytes() == before


def test_cache_that_cannot_be_written_is_not_needed(files, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "file" / "cache"))
    text = edgekit.load(files / "stories260K.bin").generate("Once upon a time", temperature=0, max_new_tokens=4).text
    assert text == ", there was a"


@pytest.mark.parametrize("values, reason", [
    ({"rms_norm_eps": 1e-6}, r"a rms_norm_eps of 1e-06 \(it has 1e-05\)"),
    ({"rope_theta": 5e5}, "a rope_theta of 500000"),
    ({"attention_bias": True}, "biases"),
    ({"head_dim": 32}, "a head_dim of 32"),
])  # fmt: skip
def test_model_that_run_c_computes_otherwise_is_refused(files, tmp_path, values, reason):
    names = ("tokenizer.json", "tokenizer_config.json")
    config = LlamaConfig(**{**vars(LlamaConfig(512, 64, 96, 2, 4, 2, 16, 128)), **values})
    side = {name: (files / "hf" / name).read_bytes() for name in names}
    with pytest.raises(CheckpointError, match=f"cannot run a model with {reason}.*--to gguf"):
        convert(write_model(tmp_path / "hf", config, files=side), "llama2c", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_tokenizer_that_run_c_cannot_have_is_refused(files, tmp_path):
    config = LlamaConfig(448, 64, 96, 2, 4, 2, 16, 128)
    monster = write_model(tmp_path / "a", config, files=tokenmonster_files(small(1).to_bytes(), 448))
    with pytest.raises(VocabularyError, match=r"run.c cannot have a TokenMonster vocabulary: convert to gguf"):
        convert(monster, "llama2c", tmp_path / "out")
    with pytest.raises(VocabularyError, match="the model has no tokenizer"):
        convert(write_model(tmp_path / "b", config), "llama2c", tmp_path / "out")
    tokenizer = json.loads((files / "hf" / "tokenizer.json").read_text())
    swapped = {"<0x00>": "<0x01>", "<0x01>": "<0x00>"}
    vocab = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {swapped.get(text, text): id for text, id in vocab.items()}
    side = {"tokenizer.json": json.dumps(tokenizer).encode()}
    with pytest.raises(VocabularyError, match="whose id 3 is .*where it has the byte <0x00>"):
        convert(
            write_model(tmp_path / "c", LlamaConfig(512, 64, 96, 2, 4, 2, 16, 128), files=side),
            "llama2c",
            tmp_path / "out",
        )
