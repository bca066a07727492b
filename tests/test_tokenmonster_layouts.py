"""Special tokens of TokenMonster models above, inside and below the vocabulary: ids, ends, artefacts, doctor."""

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from helpers import write_model
from safetensors.numpy import load_file, save_file

import edgekit
from edgekit.conversion import convert
from edgekit.doctor.examine import examine
from edgekit.formats.checkpoint import LlamaConfig, side_files
from edgekit.formats.gguf import GGUFFile
from edgekit.settings import Converting
from edgekit.tokenizers.hf_adapter import export
from edgekit.tokenizers.load import from_files
from edgekit.tokenizers.tokenmonster import layout
from edgekit.tokenizers.tokenmonster.vocabulary import Vocabulary

TEXT = "She walked along the river, and the dog's bone was there in 1987."
NAMES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}


@dataclasses.dataclass
class Layout:
    """A folder's numbers: what is added to the vocabulary's ids, the rows beyond it, and the special ids."""

    ids: dict[str, int]
    by: int = 0
    spare: int = 0
    extra: dict = dataclasses.field(default_factory=dict)
    """Further keys of tokenizer_config.json."""


def table(*texts):
    return {str(id): {"content": text, "special": True} for id, text in enumerate(texts)}


SIZE = 1024
LAYOUTS = {
    "above": Layout({"eos_token": SIZE, "bos_token": SIZE + 1}, spare=64),
    "inside": Layout({"bos_token": SIZE - 28, "eos_token": SIZE - 27, "unk_token": SIZE - 26, "pad_token": SIZE - 25}),
    # praxis: [PAD] [BOS] [EOS] [SEP], tokens for tools, then the vocabulary.
    "below, listed": Layout(
        {"pad_token": 0, "bos_token": 1, "eos_token": 2},
        by=5,
        spare=64,
        extra={"added_tokens_decoder": table("<pad>", "<s>", "</s>", "[SEP]", "[TOOL]")},
    ),
    "below, by rows": Layout({"pad_token": 0, "bos_token": 1, "eos_token": 2, "unk_token": 3}, by=4, spare=4),
    "below, more than are named": Layout({"pad_token": 0, "bos_token": 1, "eos_token": 2}, by=8, spare=8),
    "below, by key": Layout({"bos_token": 0, "eos_token": 1}, by=2, spare=64, extra={"offset": 2}),
}


@pytest.fixture(scope="module")
def vocabulary(shared) -> Vocabulary:
    found = Vocabulary.load(shared / "tokenmonster" / "vocabs" / "english-1024-balanced-v1.vocab")
    assert found.table_size == SIZE
    return found


@pytest.fixture(params=LAYOUTS)
def case(request, tmp_path, vocabulary):
    """(layout, folder): a seeded model that draws its EOS often."""
    chosen = LAYOUTS[request.param]
    rows = SIZE + chosen.spare
    config = LlamaConfig(
        vocab_size=rows, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=256,
    )  # fmt: skip
    ids = {f"{key}_id": id for key, id in chosen.ids.items()}
    names = {key: text for key, text in NAMES.items() if key in chosen.ids}
    tokenizer = {"tokenizer_type": "tokenmonster", "vocab_file": "tokenmonster.vocab", **names, **chosen.extra}
    files = {
        "tokenmonster.vocab": vocabulary.to_bytes(),
        "tokenizer_config.json": json.dumps(tokenizer).encode(),
        "generation_config.json": json.dumps(ids).encode(),
    }
    folder = write_model(tmp_path / "m", config, files=files, std=0.25)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {k: v for k, v in ids.items() if k != "unk_token_id"}))
    tensors = dict(load_file(folder / "model.safetensors"))
    head = tensors["lm_head.weight"].copy()
    head[chosen.ids["eos_token"]] = 6 * head[chosen.ids["eos_token"]]
    tensors["lm_head.weight"] = head
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return chosen, folder


def test_layout_ids_are_the_vocabularys_shifted(case, vocabulary):
    chosen, folder = case
    tok = from_files(side_files(folder), SIZE + chosen.spare)
    reserved = set(chosen.ids.values())
    expected = [id + chosen.by for id in vocabulary.encode(TEXT)]
    assert tok.encode(TEXT) == expected and not reserved & set(expected)
    assert tok.decode(expected) == vocabulary.decode(vocabulary.encode(TEXT))
    assert (tok.eos, tok.bos_id, tok.stop) == (
        chosen.ids["eos_token"],
        chosen.ids["bos_token"],
        {chosen.ids["eos_token"]},
    )
    assert {tok.specials[NAMES[key]] for key in chosen.ids} == reserved
    assert tok.decode(sorted(reserved)) == "" and not any(tok.token_bytes[id] for id in reserved)
    for text, id in tok.specials.items():
        assert tok.encode(f"the cat{text}", specials=True)[-1] == id and tok.encode(text)[-1:] != [id]


@pytest.mark.parametrize("case", ["inside", "below, listed"], indirect=True)
def test_layout_text_ends_at_eos_on_every_runtime_alike(case, tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("llama_cpp")
    chosen, folder = case
    eos = chosen.ids["eos_token"]
    gguf, onnx, hf = tmp_path / "m.gguf", tmp_path / "m.onnx", tmp_path / "hf"
    for out, kind in ((gguf, "gguf"), (onnx, "onnx"), (hf, "hf")):
        convert.convert(folder, kind, out, settings=Converting("f32" if kind != "onnx" else "fp32"))
    seen = []
    for path, runtime in ((folder, "torch"), (onnx, None), (gguf, None), (hf, "torch")):
        options = {"kv_type": "f32"} if path == gguf else {}
        model = edgekit.load(str(path), runtime=runtime, **options)
        result = model.generate("She walked along the river", max_new_tokens=200, seed=3, temperature=1.0, top_k=0,
                                top_p=1.0, repetition_penalty=1.0)  # fmt: skip
        assert model.tokenizer.stop == {eos} and result.finish_reason == "stop" and result.tokens[-1] == eos
        assert NAMES["eos_token"] not in result.text
        seen.append((result.prompt, result.tokens, result.text))
    assert all(each == seen[0] for each in seen)
    keys = GGUFFile(gguf).metadata
    texts = keys["tokenizer.ggml.tokens"]
    assert keys["tokenizer.ggml.eos_token_id"] == eos and texts[eos].endswith("</s>")
    if chosen.ids.get("unk_token"):
        assert keys["tokenizer.ggml.unknown_token_id"] == chosen.ids["unk_token"]
    # Text still has the model's ids in the exported vocabulary, without the rule that found the offset.
    assert layout.below(Vocabulary.load(hf / "tokenmonster.vocab")) == chosen.by


ADAPTER = """
import json, sys
from transformers import AutoTokenizer
t = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)
print(json.dumps([t(sys.argv[2])["input_ids"], t.eos_token_id, t.bos_token_id, t.pad_token_id, len(t),
                  t.decode(t(sys.argv[2])["input_ids"] + [t.eos_token_id], skip_special_tokens=True)]))
"""


@pytest.mark.parametrize("case", ["inside", "below, listed"], indirect=True)
def test_layout_adapter_of_transformers_gives_the_same_ids(case, tmp_path):
    pytest.importorskip("transformers")
    chosen, folder = case
    (tmp_path / "hf").mkdir()
    for name, data in export.files(side_files(folder)).items():
        (tmp_path / "hf" / name).write_bytes(data)
    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")}
    done = subprocess.run([sys.executable, "-c", ADAPTER, str(tmp_path / "hf"), TEXT], capture_output=True, text=True,
                          env=env)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    ids, eos, bos, pad, length, text = json.loads(done.stdout.splitlines()[-1])
    tok = from_files(side_files(folder), SIZE + chosen.spare)
    assert (ids, eos, bos) == (tok.encode(TEXT), chosen.ids["eos_token"], chosen.ids["bos_token"])
    assert pad == chosen.ids.get("pad_token", eos) and length == SIZE + chosen.spare
    assert text == tok.decode(ids)


def test_layout_doctor_explains_it(case):
    chosen, folder = case
    found = [finding.what for finding in examine(folder).findings if finding.name == "specials-inside-the-vocabulary"]
    if chosen.spare == 64 and not chosen.by:
        assert not found
    else:
        assert len(found) == 1 and f"</s> is id {chosen.ids['eos_token']}" in found[0]
        assert (f"higher by {chosen.by}" in found[0]) == bool(chosen.by)


@pytest.mark.parametrize("ids, names, spare", [
    ({"bos_token": 1, "eos_token": 2}, NAMES | {"pad_token": "</s>"}, 64),
    ({"bos_token": 1, "eos_token": 2, "pad_token": 0}, NAMES | {"pad_token": "</s>"}, 3),
    ({"bos_token": 1, "eos_token": 2, "pad_token": 0}, {"bos_token": "<s>", "eos_token": "</s>"}, 2),
    ({"bos_token": 1, "eos_token": 2, "pad_token": 0}, NAMES, 64),
])  # fmt: skip
def test_layout_unset_defaults_do_not_shift_the_vocabulary(vocabulary, ids, names, spare):
    """What transformers writes where nobody chose an id: the special tokens stay above the vocabulary."""
    config = {"tokenizer_type": "tokenmonster", "vocab_file": "tokenmonster.vocab", **names}
    files = {
        "tokenmonster.vocab": vocabulary.to_bytes(),
        "tokenizer_config.json": json.dumps(config).encode(),
        "config.json": json.dumps({f"{key}_id": id for key, id in ids.items()}).encode(),
    }
    tok = from_files(files, SIZE + spare)
    assert tok.encode(TEXT) == vocabulary.encode(TEXT)
    assert (tok.eos, tok.bos_id, tok.reserved) == (SIZE, SIZE + 1, frozenset())


def test_layout_shifted_vocabulary_is_a_whole_file(vocabulary):
    moved = Vocabulary.from_bytes(layout.shifted(vocabulary, 7).to_bytes())
    assert layout.below(moved) == 7 and moved.size == vocabulary.size
    assert np.array_equal(np.array(moved.encode(TEXT)) - 7, vocabulary.encode(TEXT))
