"""Checkpoints with a TokenMonster vocabulary in plain transformers, without edgekit."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from handmade import VOCABS, small
from helpers import tokenmonster_files

from edgekit.errors import VocabularyError
from edgekit.tokenizers.hf_adapter import export
from edgekit.tokenizers.load import from_files

CODE = {f"{name}.py" for name in (*export.MODULES, export.ENTRY)}
TEXTS = ["Hello, World! don't 12", "the cat </s> <s>", "été 中文 🙂", "", " ", "a\n\tb", "Once upon a time"]

# Runs where edgekit cannot be imported; prints its results as JSON. sys.argv: folders, then a folder for transformers.
SCRIPT = r"""
import json, os, pickle, sys
sys.modules["edgekit"] = None
folder, again, other = sys.argv[1:4]
if other: sys.path.insert(0, other)
import torch, transformers
from transformers import AutoTokenizer

def look(t, texts):
    ids = [t.encode(text) for text in texts]
    longest = max(map(len, ids))
    batch = t(texts, return_tensors="pt", padding=True)
    short = t(texts[0], return_tensors="pt", truncation=True, max_length=3)
    chat = [{"role": "user", "content": "Hi </s>"}]
    prompt = t.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    tokenized = t.apply_chat_template(chat, add_generation_prompt=True)
    vocab = t.get_vocab()
    assert sorted(vocab.values()) == list(range(len(t))) and t.vocab_size == len(t)
    assert all(t.convert_tokens_to_ids(t.convert_ids_to_tokens(i)) == i for i in ids)
    assert [t.convert_tokens_to_string(t.convert_ids_to_tokens(i)) for i in ids] == [t.decode(i) for i in ids]
    assert [t.decode(torch.tensor(i, dtype=torch.long)) for i in ids] == [t.decode(i) for i in ids]
    assert t.batch_decode(batch["input_ids"], skip_special_tokens=True) == [t.decode(i) for i in ids]
    assert list(batch) == ["input_ids", "attention_mask"] and batch["input_ids"].shape == (len(texts), longest)
    assert batch["attention_mask"].sum(-1).tolist() == [len(i) for i in ids] and t.padding_side == "left"
    assert short["input_ids"].tolist() == [ids[0][:3]]
    pickled = pickle.loads(pickle.dumps(t))
    assert [pickled.encode(text) for text in texts] == ids
    eos, bos, last = t.eos_token_id, t.bos_token_id, len(t) - 1
    mixed = [bos, *ids[0], eos, last]
    assert t.convert_ids_to_tokens([eos, bos]) == [t.eos_token, t.bos_token]
    assert t.decode(mixed) == t.bos_token + t.decode(ids[0]) + t.eos_token
    assert t.decode(mixed, skip_special_tokens=True) == t.decode(ids[0]) and t.decode(last) == ""
    assert t.get_special_tokens_mask(mixed, already_has_special_tokens=True)[:2] == [1, 0]
    t.split_special_tokens = False
    with_special = t.encode("a" + t.eos_token)
    t.split_special_tokens = True
    return {
        "ids": ids, "texts": [t.decode(i) for i in ids], "len": len(t), "special": [eos, bos, t.pad_token_id],
        "with_special": with_special, "prompt": prompt, "class": type(t).__name__, "max": t.model_max_length,
        "chat": tokenized if isinstance(tokenized, list) else list(tokenized["input_ids"]),
        "strings": sorted(vocab)[:50],
    }

texts = json.loads(sys.stdin.read())
first = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
seen = look(first, texts)
first.save_pretrained(again)
second = AutoTokenizer.from_pretrained(again, trust_remote_code=True)
assert type(second) is not type(first) and look(second, texts) == seen
print(json.dumps({**seen, "version": transformers.__version__}))
"""


def written(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, data in export.files(files).items():
        (folder / name).write_bytes(data)
    return folder


def run(folder: Path, again: Path, other: str = "", script: str = SCRIPT) -> dict:
    home = folder.parent / "modules"
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder), str(again), other],
        input=json.dumps(TEXTS), capture_output=True, text=True, timeout=300,
        env={**os.environ, "HF_MODULES_CACHE": str(home), "HF_HUB_OFFLINE": "1", "PYTHONSAFEPATH": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def real_or_small() -> dict[str, bytes]:
    path = next((path for path in VOCABS if path.stem == "english-8000-strict-nocapcode-v1"), None)
    files = tokenmonster_files(path.read_bytes()) if path else tokenmonster_files(small(1).to_bytes(), 512)
    rows = json.loads(files["tokenizer_config.json"])["vocab_size"]
    return {**files, "config.json": json.dumps({"model_type": "llama", "vocab_size": rows}).encode()}


def check(seen: dict, files: dict[str, bytes], again: Path) -> None:
    """transformers and edgekit agree, before and after `save_pretrained`."""
    rows = json.loads(files["config.json"])["vocab_size"]
    saved = {path.name: path.read_bytes() for path in again.iterdir()}
    assert saved.keys() >= CODE | {"tokenmonster.vocab", "tokenizer_config.json"}
    for tok in (from_files(files, rows), from_files(saved, rows)):
        assert seen["ids"] == [tok.encode(text) for text in TEXTS]
        assert seen["texts"] == [tok.decode(tok.encode(text)) for text in TEXTS]
        assert seen["special"] == [tok.eos, tok.bos_id, tok.pad] and tok.eos not in seen["ids"][1]
        assert seen["with_special"] == tok.encode("a</s>", specials=True) and seen["with_special"][-1] == tok.eos
        assert seen["chat"] == tok.encode(seen["prompt"])
    assert seen["prompt"] == "<|user|>\nHi </s>\n<|assistant|>\n"
    assert (seen["len"], seen["max"], seen["class"]) == (rows, 1024, "TokenMonsterTokenizer")
    assert len(set(seen["strings"])) == len(seen["strings"])


@pytest.fixture(params=["installed", "5"])
def other(request) -> str:
    """The folder of transformers, "" for the installed one. EDGEKIT_TRANSFORMERS5 names one with version 5,
    made with `pip install --target FOLDER 'transformers>=5'`."""
    if request.param == "installed":
        pytest.importorskip("transformers")
        return ""
    if not os.environ.get("EDGEKIT_TRANSFORMERS5"):
        pytest.skip("needs EDGEKIT_TRANSFORMERS5, a folder made with pip install --target FOLDER 'transformers>=5'")
    return os.environ["EDGEKIT_TRANSFORMERS5"]


def test_adapter_plain_transformers_round_trips(tmp_path, other):
    pytest.importorskip("torch")
    files = real_or_small()
    folder = written(tmp_path / "a" / "model.v1", files)
    # An older run left code of the same folder's name in transformers' cache.
    stale = tmp_path / "a" / "modules" / "transformers_modules" / "model_dot_v1"
    stale.mkdir(parents=True)
    for name in ("tokenmonster.py", "capcode.py", "tokenization_tokenmonster.py"):
        (stale / name).write_text("raise SystemExit('stale')\n")
    seen = run(folder, tmp_path / "again", other)
    check(seen, files, tmp_path / "again")
    if other:
        assert int(seen["version"].split(".")[0]) >= 5
        assert run(tmp_path / "again", tmp_path / "third")["ids"] == seen["ids"], "4 reads what 5 saved"


def test_adapter_vocabulary_specials_and_bos_match(tmp_path, other):
    vocabulary = small(2, special=[b"<|D end|>"], unk=True)
    special, base = next(iter(vocabulary.special_ids)), vocabulary.table_size
    files = {
        **tokenmonster_files(vocabulary.to_bytes(), 512, add_bos_token=True, eos_token="<fin>", vocab_file="my.vocab"),
        "config.json": json.dumps({"vocab_size": 512, "eos_token_id": base + 4, "bos_token_id": 1}).encode(),
    }
    files["my.vocab"] = files.pop("tokenmonster.vocab")
    folder = written(tmp_path / "a" / "model", files)
    assert not (folder / "my.vocab").exists()
    seen = run(
        folder,
        tmp_path / "again",
        other,
        script=r"""
import json, sys
sys.modules["edgekit"] = None
folder, again, other = sys.argv[1:]
if other: sys.path.insert(0, other)
from transformers import AutoTokenizer
t = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
t.save_pretrained(again)
t = AutoTokenizer.from_pretrained(again, trust_remote_code=True)
end = t.convert_tokens_to_ids("<|end|>")
out = {"special": sorted(t.all_special_ids), "ids": t.encode("the CAT<|end|>"), "end": end,
       "plain": t.encode("the CAT<|end|>", add_special_tokens=False), "pair": t("a", "b")["input_ids"],
       "text": t.decode([end, *t.encode("a"), t.eos_token_id]), "eos": [t.eos_token, t.eos_token_id, t.pad_token_id]}
t.split_special_tokens = False
print(json.dumps({**out, "with_special": t.encode("the<|end|>", add_special_tokens=False)}))
""",
    )
    tok = from_files(files, 512)
    assert tok.bos == base + 1 and tok.eos == base + 4
    assert seen["special"] == sorted({special, base + 1, base + 4}) and seen["end"] == special
    assert seen["plain"] == tok.encode("the CAT<|end|>") and special not in seen["plain"]
    assert seen["ids"] == [tok.bos, *seen["plain"]]
    assert seen["pair"] == [tok.bos, *tok.encode("a"), tok.bos, *tok.encode("b")]
    assert seen["text"] == "<|end|><s>a<fin>" and seen["eos"] == ["<fin>", base + 4, base + 4]
    assert seen["with_special"] == [*tok.encode("the"), special]
    saved = {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()}
    reread = from_files(saved, 512)
    assert (reread.bos, reread.eos, reread.bos_id) == (tok.bos, tok.eos, tok.bos_id)


def test_files_other_checkpoint_is_unchanged():
    files = {"config.json": b"{}", "tokenizer.json": b"{}", "tokenizer_config.json": b'{"model_max_length": 512}'}
    assert export.files(files) == files and export.files({}) == {}


def test_files_tokenmonster_adds_adapter_and_configuration():
    files = {
        **tokenmonster_files(small(1).to_bytes(), 512, add_bos_token=False, note="same"),
        "config.json": b"{}",
    }
    out = export.files(files)
    assert out.keys() == files.keys() | CODE and files.keys() <= out.keys()
    config = json.loads(out["tokenizer_config.json"])
    assert config["auto_map"]["AutoTokenizer"] == ["tokenization_tokenmonster.TokenMonsterTokenizer", None]
    assert config["vocab_size"] == 512 and config["note"] == "same" and config["tokenizer_type"] == "tokenmonster"
    assert "<|assistant|>" in config["chat_template"]
    assert export.files(out) == out, "a second export is the same"
    own = export.files({**files, "chat_template.jinja": b"mine"})
    assert "chat_template" not in json.loads(own["tokenizer_config.json"]) and own["chat_template.jinja"] == b"mine"
    with pytest.raises(VocabularyError, match="100 rows"):
        export.files({**files, "config.json": b'{"vocab_size": 100}'})


def test_files_exported_code_imports_only_itself():
    """transformers 4 copies only what the entry itself imports, so it must import every module that the others need."""
    named = {}
    for name in (*export.MODULES, export.ENTRY):
        text = export.source(name)
        nodes = list(ast.walk(ast.parse(text)))
        absolute = [node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
        absolute += [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        allowed = {"transformers"} if name == export.ENTRY else set()
        foreign = {module.split(".")[0] for module in absolute} - set(sys.stdlib_module_names) - allowed
        assert not foreign, f"{name} imports {foreign}"
        # As transformers finds them: by this pattern, in comments and docstrings too.
        named[name] = set(re.findall(r"^\s*from\s+\.(\S+)\s+import", text, re.MULTILINE))
        relative = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.level}
        assert relative == named[name], name
    assert named[export.ENTRY] == set(export.MODULES)
    assert set().union(*named.values()) <= set(export.MODULES)
