"""The tokenizer of a TokenMonster checkpoint: ids above the vocabulary, names, the reference as a backend."""

import json
import subprocess
import sys
import time
import types

import pytest
from handmade import NO_SHARED, VOCABS, build, small
from helpers import tokenmonster_files
from test_tokenizers import streamed

from edgekit.errors import FileError, MissingExtraError, VocabularyError
from edgekit.tokenizers.load import from_files
from edgekit.tokenizers.tokenmonster import tokenizer
from edgekit.tokenizers.tokenmonster.specials import without_specials
from edgekit.tokenizers.tokenmonster.tokenizer import TokenMonsterTokenizer, files_for, resolve
from edgekit.tokenizers.tokenmonster.vocabulary import Vocabulary


def test_tokenizer_eos_and_bos_follow_vocabulary():
    vocabulary = small(1)
    base = vocabulary.table_size
    files = files_for(vocabulary.to_bytes())
    size = json.loads(files["tokenizer_config.json"])["vocab_size"]
    assert size % 128 == 0 and size - 128 < base + 2 <= size
    tok = from_files(files, size)
    assert (tok.eos, tok.bos_id, tok.pad) == (base, base + 1, base)
    assert tok.bos is None and tok.stop == {base} and tok.vocab_size == size
    text = "the cat </s> 12 <s>"
    assert tok.encode(text) == vocabulary.encode(text)
    assert tok.decode([base + 1, *tok.encode(text), base, size - 1, 10**6]) == text


def test_files_for_published_vocabulary_is_padded_as_model_card():
    path = next((path for path in VOCABS if path.stem == "english-8000-strict-nocapcode-v1"), None)
    if path is None:
        pytest.skip(NO_SHARED)
    files = files_for(path.read_bytes())
    config = json.loads(files["tokenizer_config.json"])
    assert config["vocab_size"] == 8064 and config["tokenizer_type"] == "tokenmonster"
    tok = from_files(files, 8064)
    assert (tok.eos, tok.bos_id, tok.pad, tok.stop) == (8000, 8001, 8000, {8000})
    assert tok.encode("Hello, World!") == [98, 1637, 593, 15, 3346, 4]
    # A prompt may end in a delete marker, which removes the next space.
    assert streamed(tok, [3346], [5]) == " World" and streamed(tok, [3346], [5, 98]) == "World"


def test_from_files_configured_ids_are_used_or_ignored():
    data = small(1).to_bytes()
    base = small(1).table_size

    def tokenizer_for(config=None, generation=None, **tokenizer_config):
        files = tokenmonster_files(data, 512, **tokenizer_config)
        files |= {"config.json": json.dumps(config or {}).encode()}
        files |= {"generation_config.json": json.dumps(generation or {}).encode()}
        return from_files(files, 512)

    tok = tokenizer_for({"eos_token_id": base + 3, "bos_token_id": base + 4})
    assert (tok.eos, tok.bos_id, tok.stop) == (base + 3, base + 4, {base + 3})
    tok = tokenizer_for({"eos_token_id": base + 3}, {"eos_token_id": [base + 5, base + 3]})
    assert tok.eos == base + 5 and tok.stop == {base + 3, base + 5}
    tok = tokenizer_for({"eos_token_id": 2, "bos_token_id": 1})
    assert (tok.eos, tok.bos_id) == (base, base + 1), "LlamaConfig's defaults are ordinary text here"
    tok = tokenizer_for({"eos_token_id": 512, "bos_token_id": 9999})
    assert (tok.eos, tok.bos_id) == (base, base + 1), "out of range"
    table = {str(base + 7): {"content": "<end>"}, str(base + 8): {"content": "<go>"}}
    tok = tokenizer_for(
        eos_token="<end>", bos_token={"content": "<go>"}, added_tokens_decoder=table, add_bos_token=True
    )
    assert (tok.eos, tok.bos, tok.bos_id) == (base + 7, base + 8, base + 8)
    assert tok.encode("<end>", specials=True) == [base + 7]
    tok = tokenizer_for({"eos_token_id": base + 1})
    assert (tok.eos, tok.bos_id) == (base + 1, base)
    tok = tokenizer_for({"bos_token_id": base})
    assert (tok.eos, tok.bos_id) == (base + 1, base)
    tok = tokenizer_for(eos_token="", bos_token="")
    assert tok.specials == {"</s>": base, "<s>": base + 1}
    tight = from_files({"tokenmonster.vocab": data}, base)
    assert tight.stop == frozenset() and tight.bos_id is None and tight.eos is None


def test_encode_vocabulary_specials_stay_out_of_band():
    vocabulary = small(2, special=[b"<|D endoftext|>"])
    special = next(iter(vocabulary.special_ids))
    assert special in vocabulary.encode("a<|endoftext|>"), "the reference matches it"
    tok = TokenMonsterTokenizer(vocabulary, 512, eos=[special])
    assert special not in tok.encode("a<|endoftext|>b") and tok.stop == {special}
    assert tok.decode(tok.encode("a<|endoftext|>b")) == "a<|endoftext|>b"
    assert tok.encode("<|endoftext|>", specials=True) == [special]
    assert tok.decode([special]) == "" == streamed(tok, [special])
    assert without_specials(small(1)).special_ids == frozenset()
    plain = build([b" cat"], 1)
    assert without_specials(plain) is plain


def test_encode_published_specials_stay_out_of_band():
    path = next((path for path in VOCABS if path.stem == "tinystories-2048-strict"), None)
    if path is None:
        pytest.skip(NO_SHARED)
    vocabulary = Vocabulary.load(path)
    tok = TokenMonsterTokenizer(vocabulary, 2176)
    assert 1833 in vocabulary.encode("<|endoftext|>")
    assert 1833 not in tok.encode("The end.<|endoftext|>")
    text = "Once upon a time there was a girl."
    assert tok.encode(text) == vocabulary.encode(text)


# ---- names, backends, imports ----


def test_resolve_name_finds_local_file(tmp_path, monkeypatch):
    monkeypatch.delenv("EDGEKIT_VOCABS", raising=False)
    path = tmp_path / "mine.vocab"
    path.write_bytes(b"x")
    assert resolve(path) == path == resolve(str(path))
    assert resolve("mine", folder=tmp_path) == path
    monkeypatch.setenv("EDGEKIT_VOCABS", str(tmp_path))
    assert resolve("mine") == path == resolve("mine.vocab")


def test_resolve_unknown_name_names_both_fixes(tmp_path, monkeypatch):
    pytest.importorskip("huggingface_hub")
    monkeypatch.setenv("EDGEKIT_VOCABS", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    begin = time.perf_counter()
    with pytest.raises(FileError, match=r"no english-0\.vocab.*network.*set EDGEKIT_VOCABS") as caught:
        resolve("english-0")
    assert time.perf_counter() - begin < 5 and "\n" not in str(caught.value)
    for name in ("../english", "a/b", "", ".."):
        with pytest.raises(FileError):
            resolve(name)


def test_resolve_hub_unreachable_is_asked_once(monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.delenv("EDGEKIT_VOCABS", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "hf_hub_url", lambda *a, **k: "http://127.0.0.1:9/x")
    monkeypatch.setattr(hub, "hf_hub_download", lambda *a, **k: pytest.fail("downloads"))
    begin = time.perf_counter()
    with pytest.raises(FileError, match="URLError"):
        resolve("english-0")
    assert time.perf_counter() - begin < 6


def test_resolve_name_downloads_from_hub(tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.delenv("EDGEKIT_VOCABS", raising=False)
    downloads = []
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda *a, **k: None)
    monkeypatch.setattr(tokenizer, "_probe", lambda url: None)
    monkeypatch.setattr(hub, "hf_hub_download", lambda *a, **k: downloads.append(a) or str(tmp_path / "x.vocab"))
    assert resolve("english-8000-strict-nocapcode-v1") == tmp_path / "x.vocab"
    assert downloads == [("alasdairforsythe/tokenmonster", "vocabs/english-8000-strict-nocapcode-v1.vocab")]


class FakePackage(types.ModuleType):
    """A substitute for the published package, whose server needs a network."""

    def __init__(self, load):
        super().__init__("tokenmonster")
        self.load = load


@pytest.fixture
def package(monkeypatch):
    def install(load):
        monkeypatch.setitem(sys.modules, "tokenmonster", FakePackage(load))
        monkeypatch.delitem(sys.modules, "edgekit.training.reference_tokenizer", raising=False)

    yield install
    sys.modules.pop("edgekit.training.reference_tokenizer", None)


def test_backend_reference_package_equals_edgekit(package):
    def load(path):
        vocabulary = Vocabulary.load(path)
        return types.SimpleNamespace(
            tokenize=lambda text: vocabulary.encode(text) or None, decode=lambda ids: vocabulary.decode(ids) or None
        )

    package(load)
    files = files_for(small(1).to_bytes())
    tok, ours = (TokenMonsterTokenizer.from_files(files, 512, backend=b) for b in ("tokenmonster", "edgekit"))
    for text in ("", "the cat 12", "</s>"):
        assert tok.encode(text) == ours.encode(text)
        assert tok.decode([*tok.encode(text), tok.eos]) == ours.decode(ours.encode(text))
        assert streamed(tok, tok.encode(text)) == ours.decode(ours.encode(text))
    with pytest.raises(VocabularyError, match="unknown TokenMonster backend 'go'"):
        TokenMonsterTokenizer.from_files(files, 512, backend="go")
    with pytest.raises(VocabularyError, match="out of band"):
        TokenMonsterTokenizer(small(1, special=[b"<|>"]), 512, backend="tokenmonster")


def test_backend_reference_unavailable_raises_in_time(package):
    def refuse(path):
        raise SystemExit("no network\nat all")

    package(refuse)
    with pytest.raises(MissingExtraError, match=r"no network at all.*edgekit-lm\[train\]"):
        TokenMonsterTokenizer(small(1), 512, backend="tokenmonster")
    package(lambda path: time.sleep(3))
    from edgekit.utils import registry

    with pytest.raises(MissingExtraError, match="no answer in 0.05 seconds"):
        registry.load("training", "reference_tokenizer").load(small(1).to_bytes(), patience=0.05)


def test_from_files_tokenmonster_imports_no_numpy_and_no_hub(tmp_path):
    for name, data in files_for(small(1).to_bytes()).items():
        (tmp_path / name).write_bytes(data)
    script = (
        "import sys\nfrom pathlib import Path\nfrom edgekit.tokenizers.load import from_files\n"
        "tok = from_files({p.name: p.read_bytes() for p in Path(sys.argv[1]).iterdir()}, 512)\n"
        "assert tok.decode(tok.encode('the cat')) == 'the cat'\nprint(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not set(done.stdout.split()) & {"numpy", "tokenizers", "huggingface_hub", "transformers"}


def test_from_files_specials_on_ordinary_ids_end_texts_silently():
    """Stentor3's layout: the vocabulary has as many ids as the embedding has rows, and four of them are specials."""
    vocabulary = small(1)
    size = vocabulary.table_size
    bos, eos, unk, pad = range(size - 4, size)
    files = tokenmonster_files(vocabulary.to_bytes(), size, unk_token="<unk>", pad_token="<pad>")
    ids = {"bos_token_id": bos, "eos_token_id": eos, "unk_token_id": unk, "pad_token_id": pad}
    tok = from_files(files | {"generation_config.json": json.dumps(ids).encode()}, size)
    assert (tok.stop, tok.bos_id, tok.bos) == ({eos}, bos, None)
    assert tok.specials == {"<s>": bos, "</s>": eos, "<unk>": unk, "<pad>": pad}
    assert tok.decode(list(ids.values())) == "" and tok.token_bytes[eos] == b""
    spelled = vocabulary.decode([eos])
    assert spelled and not set(ids.values()) & set(tok.encode(spelled + " the cat"))
    assert tok.encode("the cat</s>", specials=True)[-1] == eos
    unset = json.dumps({"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}).encode()
    plain = from_files(files | {"config.json": unset}, size)
    assert (plain.stop, plain.reserved) == (frozenset(), frozenset())
