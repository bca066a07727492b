"""The doctor: for each finding a model that has it, and healthy models without errors and warnings."""

import dataclasses
import json
import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from click.testing import CliRunner
from helpers import write_model
from safetensors.numpy import load_file, save_file
from spoilt import EMBEDDING, LAYER, SHAPE, Folder, findings_of, levels_and_names
from tokenizers import decoders, models, pre_tokenizers

from edgekit.cli.doctor import COMMAND
from edgekit.doctor import examine
from edgekit.doctor.checks import CHECKS
from edgekit.doctor.finding import LEVELS
from edgekit.doctor.tensors import CHUNK, measure
from edgekit.errors import CheckpointError, EdgekitError
from edgekit.formats import hub
from edgekit.formats.checkpoint import INDEX, open_folder
from edgekit.formats.generation_config import defaults
from edgekit.tokenizers.load import from_files


@pytest.fixture
def folder(tmp_path) -> Folder:
    return Folder(tmp_path / "m")


# ---- healthy models ------------------------------------------------------------------------------------------------


def test_examine_healthy_folder_has_only_notes(folder):
    assert levels_and_names(folder.path) == {("note", "tied-head"), ("note", "chat-template")}
    assert examine.examine(folder.path).usable


def test_examine_bundled_model_has_one_warning():
    found = examine.examine(hub.resolve(None))
    assert found.usable and {f.name for f in found.findings if f.level == "warning"} == {"tokenmonster"}


def test_examine_trained_model_has_one_warning(stories):
    assert {name for level, name in levels_and_names(stories) if level != "note"} == {"widths-that-do-not-divide"}


# ---- folders: name of the check, level, part of its text, what causes it
# -------------------------------------------------


def lfs(folder, name):
    folder.put(name, b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")


def cut(folder, name="model.safetensors", keep=0.7):
    data = (folder.path / name).read_bytes()
    folder.put(name, data[: int(len(data) * keep)])


def renamed(change):
    def rename(tensors):
        for name in list(tensors):
            tensors[change(name)] = tensors.pop(name)

    return rename


def zero(name, rows=slice(None)):
    return lambda tensors: tensors[name].__setitem__(rows, 0)


def shards_without_a_tensor(folder):
    index = folder.shards()
    folder.put(INDEX, json.dumps({"weight_map": {n: f for n, f in index.items() if n != "model.norm.weight"}}).encode())


def shards_without_a_file(folder):
    folder.drop(folder.shards()["model.norm.weight"])


def twice(folder):
    file = folder.shards()[EMBEDDING]
    tensors = load_file(folder.path / file)
    save_file(tensors | {"model.norm.weight": np.ones(256, np.float32)}, folder.path / file, metadata={"format": "pt"})


def two_sets(folder):
    data = (folder.path / "model.safetensors").read_bytes()
    folder.shards()
    folder.put("model.safetensors", data)


def other_name(folder):
    (folder.path / "model.safetensors").rename(folder.path / "weights.safetensors")


def two_files(folder):
    other_name(folder)
    folder.put("more.safetensors", (folder.path / "weights.safetensors").read_bytes())


def pickled(folder):
    folder.drop("model.safetensors")
    folder.put("pytorch_model.bin", pickle.dumps({"a": 1}))


def stored_head(change=0.0, **config):
    def store(folder):
        folder.tensors(lambda t: t.__setitem__("lm_head.weight", t[EMBEDDING] + np.float32(change)))
        folder.config(**config)

    return store


def narrow(hidden, ff, heads=4):
    def write(folder):
        shape = dataclasses.replace(
            SHAPE, hidden_size=hidden, intermediate_size=ff, head_dim=hidden // heads, num_attention_heads=heads,
            num_key_value_heads=heads,
        )  # fmt: skip
        write_model(folder.path, shape)

    return write


def padded(rows):
    def write(folder):
        write_model(folder.path, dataclasses.replace(SHAPE, vocab_size=rows))

    return write


def long_context(length, **config):
    def write(folder):
        folder.config(max_position_embeddings=length, **config)
        folder.words(model_max_length=length)

    return write


def byte_level(cut=None, **json_changes):
    def write(folder):
        made = tokenizers.Tokenizer(
            models.BPE({c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, [])
        )
        made.pre_tokenizer = cut or pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        made.add_tokens([tokenizers.AddedToken("</s>", special=not json_changes.get("forgotten"))])
        folder.put("tokenizer.json", made.to_str().encode())
        folder.config(eos_token_id=256, bos_token_id=...)
        folder.generation(eos_token_id=256, bos_token_id=...)
        folder.words(bos_token=..., eos_token=... if json_changes.get("forgotten") else "</s>")

    return write


def word_level(folder):
    words = {word: i for i, word in enumerate(["<unk>", "<s>", "</s>", "a", "b"])}
    made = tokenizers.Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens(["<s>", "</s>"])
    folder.put("tokenizer.json", made.to_str().encode())


def double(tensors):
    tensors[EMBEDDING] = tensors[EMBEDDING].astype(np.float64)


def half(tensors):
    for name in tensors:
        tensors[name] = tensors[name].astype(np.float16)


def half_norms(tensors):
    tensors["model.norm.weight"] = tensors["model.norm.weight"].astype(np.float16)


LLAMA3 = {"rope_type": "llama3", "factor": 8.0}

FOLDERS = [
    # files
    ("no-config", "error", "no config.json", lambda f: f.drop("config.json")),
    ("no-config", "error", "use that file", lambda f: (f.drop("config.json"), f.put("model.gguf"))),
    ("lora-adapter", "error", "LoRA adapter", lambda f: (f.drop("config.json", "model.safetensors"),
                                                        f.put("adapter_config.json", b"{}"))),
    ("damaged-json", "error", "config.json cannot be read", lambda f: f.put("config.json", b"{")),
    ("damaged-json", "error", "tokenizer_config.json cannot be read: it is not a JSON object",
     lambda f: f.put("tokenizer_config.json", b"[]")),
    ("damaged-json", "error", "generation_config.json cannot", lambda f: f.put("generation_config.json", b"\xff")),
    ("git-lfs", "error", "model.safetensors: Git LFS pointers", lambda f: lfs(f, "model.safetensors")),
    ("git-lfs", "error", "tokenizer.json: Git LFS", lambda f: lfs(f, "tokenizer.json")),
    ("no-safetensors", "error", "there are no weights", lambda f: f.drop("model.safetensors")),
    ("no-safetensors", "error", "the only weights are pickles (pytorch_model.bin)", pickled),
    ("no-safetensors", "error", "several weight files", two_files),
    ("pickles-beside", "note", "pytorch_model.bin", lambda f: f.put("pytorch_model.bin", b"0" * 1000)),
    ("odd-weights-name", "warning", "weights.safetensors, not in model.safetensors", other_name),
    ("two-sets-of-weights", "warning", "index of other files", two_sets),
    ("cut-off", "error", "is cut off: the bytes of", cut),
    ("cut-off", "error", "no complete header", lambda f: f.put("model.safetensors", b"")),
    ("cut-off", "error", "no complete header", lambda f: f.put("model.safetensors", b"\xff" * 50)),
    ("cut-off", "error", "its header is damaged", lambda f: f.put("model.safetensors", b"\2" + b"\0" * 7 + b"{]")),
    ("cut-off", "error", "its header says", lambda f: f.put("model.safetensors",
                                                            (f.path / "model.safetensors").read_bytes() + b"more")),
    ("index-and-files-differ", "error", "has no weight_map", lambda f: f.put(INDEX, b"{}")),
    ("index-and-files-differ", "error", "which is not in the folder", shards_without_a_file),
    ("index-and-files-differ", "warning", "does not list model.norm.weight", shards_without_a_tensor),
    ("tensor-twice", "error", "model.norm.weight", twice),
    ("safetensors-of-another-framework", "warning", "'np'", lambda f: f.tensors(lambda t: None, ("format", "np"))),
    # tensors
    ("wrapped-names", "warning", "module.", lambda f: f.tensors(renamed(lambda n: "module." + n))),
    ("wrapped-names", "warning", "_orig_mod.", lambda f: f.tensors(renamed(lambda n: "_orig_mod." + n))),
    ("missing-tensors", "error", "1 tensor missing: model.layers.1.mlp.up_proj.weight",
     lambda f: f.tensors(lambda t: t.pop(LAYER + "mlp.up_proj.weight"))),
    ("other-names", "note", "without the prefix `model.` (embed_tokens.weight)",
     lambda f: f.tensors(renamed(lambda n: n.removeprefix("model.")))),
    ("other-names", "warning", "saved as lm_head.weight only",
     lambda f: f.tensors(renamed(lambda n: n.replace("model.embed_tokens", "lm_head")))),
    ("missing-tensors", "error", "the head is missing", lambda f: f.config(tie_word_embeddings=...)),
    ("unexpected-tensors", "error", "layers.2.mlp",
     lambda f: f.tensors(lambda t: t.update({"model.layers.2.mlp.up_proj.weight": np.ones((2, 2), np.float32)}))),
    ("unexpected-tensors", "error", "self_attn.q_proj.bias",
     lambda f: f.tensors(lambda t: t.update({LAYER + "self_attn.q_proj.bias": np.ones(256, np.float32)}))),
    ("unexpected-tensors", "error", "lora_A",
     lambda f: f.tensors(lambda t: t.update({LAYER + "mlp.up_proj.lora_A.weight": np.ones((4, 256), np.float32)}))),
    ("old-rotary-tensors", "note", "inv_freq",
     lambda f: f.tensors(lambda t: t.update({LAYER + "self_attn.rotary_emb.inv_freq": np.ones(32, np.float32)}))),
    ("misshaped-tensors", "error", "model.norm.weight is [255] and not [256]",
     lambda f: f.tensors(lambda t: t.update({"model.norm.weight": np.ones(255, np.float32)}))),
    ("misshaped-tensors", "error", "[288, 256] and not [500, 256]", lambda f: f.config(vocab_size=500)),
    ("tied-head", "note", "73,728 values is both", lambda f: None),
    ("tied-head", "note", "though it equals the embedding", stored_head()),
    ("tied-head", "note", "though it equals the embedding", stored_head(tie_word_embeddings=False)),
    ("tied-head", "error", "differs from the embedding", stored_head(0.5)),
    ("unreadable-types", "error", "1 tensor of type F64", lambda f: f.tensors(double)),
    ("type-not-the-one-said", "warning", "the weights are float16, config.json says float32",
     lambda f: (f.tensors(half), f.config(dtype="float32"))),
    ("mixed-types", "note", "1 of float16, 19 of float32", lambda f: f.tensors(half_norms)),
    ("not-finite", "error", "1 values are NaN or infinite, in model.norm.weight",
     lambda f: f.value("model.norm.weight", np.nan)),
    ("not-finite", "error", EMBEDDING, lambda f: f.value(EMBEDDING, -np.inf)),
    ("zeros", "warning", "1 tensor with nothing but zeros: model.layers.1.mlp.up_proj.weight",
     lambda f: f.tensors(zero(LAYER + "mlp.up_proj.weight"))),
    ("zeros", "note", "mlp.up_proj.weight (3 of 512)",
     lambda f: f.tensors(zero(LAYER + "mlp.up_proj.weight", [0, 5, 9]))),
    ("zero-embeddings", "warning", "2 tokens are all zeros (ids 262, 270)",
     lambda f: f.tensors(zero(EMBEDDING, [262, 270]))),
    ("zero-embeddings", "warning", "nothing but zeros", lambda f: f.tensors(zero(EMBEDDING))),
    ("beyond-float16", "warning", "7e+04", lambda f: f.value(EMBEDDING, 7e4)),
    ("widths-that-do-not-divide", "warning", "rows of 172 (intermediate_size)", narrow(256, 172)),
    ("widths-that-do-not-divide", "warning", "rows of 48 (hidden_size)", narrow(48, 64)),
    ("widths-that-do-not-divide", "note", "rows of 320 (hidden_size)", narrow(320, 512)),
    # configuration
    ("other-architecture", "error", "model_type 'qwen3'", lambda f: f.config(model_type="qwen3")),
    ("class-not-said", "warning", "None", lambda f: f.config(architectures=...)),
    ("missing-tensors", "error", "self_attn.q_proj.bias", lambda f: f.config(attention_bias=True)),
    ("unsupported-keys", "error", "layer_types", lambda f: f.config(layer_types=["sliding_attention"] * 2)),
    ("unsupported-keys", "error", "sliding_window 4096",
     lambda f: f.config(model_type="mistral", max_position_embeddings=8192)),
    ("unsupported-keys", "error", "hidden_act 'gelu'", lambda f: f.config(hidden_act="gelu")),
    ("unsupported-keys", "error", "sliding_window 64", lambda f: f.config(sliding_window=64)),
    ("unsupported-keys", "error", "rope_scaling", lambda f: f.config(rope_scaling=LLAMA3)),
    ("unsupported-keys", "error", "rope_parameters", lambda f: f.config(rope_parameters=LLAMA3)),
    ("unsupported-keys", "error", "quantized already", lambda f: f.config(quantization_config={"bits": 4})),
    ("unsupported-keys", "error", "num_experts 8", lambda f: f.config(num_experts=8)),
    ("keys-not-known", "warning", "unknown key 'new_thing' (8)", lambda f: f.config(new_thing=8)),
    ("refused", "error", "hidden_size is missing", lambda f: f.config(hidden_size=...)),
    ("refused", "error", "num_attention_heads 3", lambda f: f.config(num_attention_heads=3, head_dim=...)),
    ("numbers-not-said", "note", "rms_norm_eps", lambda f: f.config(rms_norm_eps=...)),
    ("context-that-costs-memory", "warning", "4,000,000 tokens", long_context(4_000_000, rope_theta=1e9)),
    ("context-longer-than-rotation", "warning", "200,000 tokens", long_context(200_000)),
    ("context-longer-than-said", "warning", "model_max_length is 64", lambda f: f.words(model_max_length=64)),
    ("settings-left-out", "note", "num_beams 4", lambda f: f.generation(num_beams=4)),
    ("sampling-switched-off", "warning", "temperature 0.7", lambda f: f.generation(do_sample=False, temperature=0.7)),
    ("sampling-switched-off", "warning", "top_p 0.9 and min_p 0.1", lambda f: f.generation(top_p=0.9, min_p=0.1)),
    ("penalty-that-is-lost", "note", "1.2", lambda f: f.generation(repetition_penalty=1.2)),
    ("generation-out-of-range", "error", "repetition_penalty", lambda f: f.generation(repetition_penalty=-1.0)),
    ("generation-out-of-range", "warning", "temperature of 0", lambda f: f.generation(do_sample=True, temperature=0.0)),
    ("longer-than-the-context", "warning", "max_new_tokens 500", lambda f: f.generation(max_new_tokens=500)),
    # tokenizer
    ("no-tokenizer", "error", "no tokenizer", lambda f: f.drop("tokenizer.json", "tokenizer_config.json")),
    ("unreadable-tokenizer", "error", "the model has no tokenizer", lambda f: f.drop("tokenizer.json")),
    ("unreadable-tokenizer", "error", "tokenizer.json cannot be read", lambda f: f.put("tokenizer.json", b"{}")),
    ("unreadable-tokenizer", "error", "tokenizer.model is not a whole",
     lambda f: (f.drop("tokenizer.json"), f.put("tokenizer.model", b"x"))),
    ("unreadable-tokenizer", "error", "belongs to another model", padded(100)),
    ("tokenizer-with-code", "note", "auto_map", lambda f: f.words(auto_map={"AutoTokenizer": ["a.B", None]})),
    ("tokenmonster", "warning", "TokenMonster vocabulary", lambda f: f.tokenmonster()),
    ("byte-level-vocabulary", "note", "byte-level BPE", byte_level()),
    ("stock-programs-differ", "warning", "knows no pre-tokenizer",
     byte_level(pre_tokenizers.Sequence([pre_tokenizers.Punctuation(), pre_tokenizers.ByteLevel()]))),
    ("stock-programs-differ", "warning", "nothing like a WordLevel tokenizer", word_level),
    ("ids-out-of-range", "error", "config.json: eos_token_id 999", lambda f: f.config(eos_token_id=999)),
    ("ids-out-of-range", "warning", "generation_config.json: pad_token_id 999",
     lambda f: f.generation(pad_token_id=999)),
    ("no-end", "warning", "no token ends a text",
     lambda f: (f.config(eos_token_id=None), f.generation(eos_token_id=...), f.words(eos_token=...))),
    ("end-is-ordinary-text", "warning", "eos_token_id 261 is the ordinary token",
     lambda f: (f.generation(eos_token_id=261), f.config(eos_token_id=261), f.words(eos_token=...))),
    ("end-is-ordinary-text", "warning", "transformers' defaults",
     lambda f: (f.tokenmonster(), f.config(eos_token_id=2))),
    ("specials-inside-the-vocabulary", "note", "</s> is id 100",
     lambda f: (f.tokenmonster(), f.config(eos_token_id=100))),
    ("end-after-a-prompt", "warning", "EOS after a prompt",
     lambda f: f.words(tokenizer_class="LlamaTokenizer", add_eos_token=True)),
    ("settings-left-out", "note", "num_beams 4", lambda f: f.generation(num_beams=4)),
    ("spaces-cleaned-up", "note", "clean_up_tokenization_spaces", lambda f: f.words(clean_up_tokenization_spaces=True)),
    ("tokens-without-a-row", "note", "no row for [PAD]",
     lambda f: f.words(tokenizer_class="LlamaTokenizer", pad_token="[PAD]")),
    ("special-not-marked", "warning", "</s> is marked as special neither in", byte_level(forgotten=True)),
    ("ends-disagree", "warning", "eos_token_id is 2 in config.json, 0 in", lambda f: f.generation(eos_token_id=0)),
    ("begin-not-added", "note", "declared (<s>)", lambda f: f.words(add_bos_token=False)),
    ("padding-ends", "note", "same token as EOS", lambda f: f.config(pad_token_id=2)),
    ("padding-ends", "note", "same token as EOS", lambda f: f.words(pad_token="</s>")),
    ("rows-without-a-token", "note", "32 rows without a token (of 320)", padded(320)),
    ("chat-template", "note", "no chat template", lambda f: None),
    ("chat-template", "note", "additional_chat_templates has rag",
     lambda f: (f.path.joinpath("additional_chat_templates").mkdir(), f.words(chat_template="{{ messages }}"),
                f.put("additional_chat_templates/rag.jinja", b"x"))),
    ("chat-template", "note", "contains <|assistant|>", lambda f: f.words(chat_template="<|assistant|>{{ messages }}")),
    ("chat-template", "warning", "differ",
     lambda f: (f.words(chat_template="{{ a }}"), f.put("chat_template.jinja", b"b"))),
]  # fmt: skip


@pytest.mark.parametrize("name, level, text, damage", FOLDERS, ids=[f"{row[0]}-{i}" for i, row in enumerate(FOLDERS)])
def test_examine_folder_with_fault_reports_it(folder, name, level, text, damage):
    damage(folder)
    found = [finding for finding in findings_of(folder.path, name) if finding.level == level]
    assert any(text in finding.what + " " + finding.cure for finding in found), levels_and_names(folder.path)
    for finding in examine.examine(folder.path).findings:
        assert finding.level in LEVELS and finding.what and finding.consequence
        assert finding.level == "note" or finding.cure, "a warning without a fix"
        assert "\n" not in finding.what + finding.consequence + finding.cure


def refusal(path: Path) -> str:
    """edgekit's own error when it converts and runs a folder; "" if there is none."""
    try:
        checkpoint = open_folder(path)
        from_files(checkpoint.files, checkpoint.config.vocab_size)
        defaults(checkpoint.files)
    except EdgekitError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name, level, text, damage", FOLDERS, ids=[f"{row[0]}-{i}" for i, row in enumerate(FOLDERS)])
def test_examine_folder_has_errors_if_edgekit_refuses_it(folder, name, level, text, damage):
    damage(folder)
    found = examine.examine(folder.path)
    assert found.usable == (not refusal(folder.path)), (refusal(folder.path), levels_and_names(folder.path))


def test_examine_several_faults_reports_all(folder):
    """edgekit itself stops at the first of these."""
    folder.config(hidden_act="gelu", rope_scaling=LLAMA3, alibi=True, eos_token_id=999)
    folder.tensors(lambda t: t.pop("model.norm.weight"))
    folder.value(EMBEDDING, np.nan)
    folder.generation(temperature=0.5)
    errors = [f for f in examine.examine(folder.path).findings if f.level == "error"]
    assert [f.name for f in errors] == [
        "missing-tensors", "not-finite", "unsupported-keys", "unsupported-keys", "unsupported-keys", "ids-out-of-range",
    ]  # fmt: skip
    assert ("warning", "sampling-switched-off") in levels_and_names(folder.path)


@pytest.fixture
def little_memory():
    """A number that claims a billion rows must end in an error, not in a machine without memory."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 1 << 21
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (2 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


ODD = [None, True, -1, 0, 3.5, (1 << 31) - 1, 1 << 80, float("nan"), "x", [], [1, "a"], {}, {"a": 1}]


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json"])
def test_examine_odd_json_values_never_raises(folder, name, little_memory):
    whole = (folder.path / name).read_bytes()
    keys = {
        "config.json": "model_type vocab_size num_hidden_layers hidden_size num_attention_heads head_dim rope_theta "
        "rope_parameters rope_scaling eos_token_id architectures tie_word_embeddings dtype",
        "generation_config.json": "eos_token_id temperature do_sample max_new_tokens repetition_penalty",
        "tokenizer_config.json": "eos_token model_max_length chat_template auto_map vocab_file tokenizer_type "
        "add_bos_token",
    }[name]
    for key in keys.split():
        for value in ODD:
            folder.put(name, whole)
            folder.json(name, **{key: value})
            examine.report(examine.examine(folder.path))


def test_examine_damaged_headers_never_raises(folder, little_memory):
    file = folder.path / "model.safetensors"
    whole = file.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    rng = np.random.default_rng(0)
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            data[rng.integers(8 + length)] = rng.integers(256)
        file.write_bytes(data)
        found = examine.examine(folder.path)
        try:
            open_folder(folder.path)
        except EdgekitError:
            assert not found.usable


def test_examine_large_tensor_needs_little_memory(folder):
    """The doctor loads a million values at once, of 64 million on disk."""
    size = 1 << 28
    header = json.dumps({"big.weight": {"dtype": "BF16", "shape": [1 << 14, 1 << 13], "data_offsets": [0, size]}})
    with open(folder.path / "model.safetensors", "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header.encode())
        file.truncate(8 + len(header) + size)
    tracemalloc.start()
    found = examine.examine(folder.path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert any("nothing but zeros: big.weight" in f.what for f in found.findings)
    assert peak < 64 << 20


def test_measure_equals_numpy(folder):
    rng = np.random.default_rng(1)
    values = rng.standard_normal((3 * CHUNK // 64, 100)).astype(np.float32)
    values[7] = values[-1] = 0
    values[3, 3], values[9, 0], values[11, 11] = np.nan, np.inf, -123.0
    found = measure("F32", values.shape, values.reshape(-1).view(np.uint8))
    assert (found.nonfinite, found.largest, found.rows) == (2, 123.0, len(values))
    assert found.zeros.tolist() == [7, len(values) - 1]


@pytest.mark.parametrize("rows", [1, 2])
def test_transformers_behaves_as_findings_claim(folder, rows, tmp_path):
    """The claims of several findings, checked with transformers itself."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")

    def load():
        return transformers.AutoModelForCausalLM.from_pretrained(folder.path)

    if rows == 1:
        stored_head(0.5)(folder)
        made = load()
        assert torch.equal(made.lm_head.weight, made.model.embed_tokens.weight), "tied-head: it drops the stored one"
        folder.tensors(renamed(lambda n: "module." + n))
        stored = torch.tensor(load_file(folder.path / "model.safetensors")["module." + EMBEDDING])
        assert not torch.equal(load().model.embed_tokens.weight, stored), "wrapped-names: it draws random weights"
        folder.tensors(lambda t: None, ("format", "np"))
        with pytest.raises((ValueError, OSError), match="metadata"):
            load()
        return
    folder.generation(temperature=0.7, do_sample=False)
    with pytest.raises(ValueError, match="GenerationConfig is invalid"):
        load().save_pretrained(tmp_path / "again")
    folder.generation(temperature=0.0, do_sample=True)
    with pytest.raises(ValueError, match="strictly positive float"):
        load().generate(torch.tensor([[5]]), max_new_tokens=2)
    folder.tensors(lambda t: (t.pop("model.norm.weight"), t.update(odd=np.ones(3, np.float32))))
    folder.value(EMBEDDING, np.nan)
    assert load().model.norm.weight.shape == (256,), "missing-tensors, unexpected-tensors, not-finite: it only warns"
    folder.config(pad_token_id=999)
    with pytest.raises(AssertionError):
        load()
    other_name(folder)
    with pytest.raises(OSError, match="no file named"):
        load()
    with pytest.raises((ValueError, OSError)):
        folder.tokenmonster()
        transformers.AutoTokenizer.from_pretrained(folder.path)


# ---- the verb ------------------------------------------------------------------------------------------------------


def test_checks_come_from_all_topics():
    modules = {check.function.__module__ for check in CHECKS}
    assert modules == {topic.__name__ for topic in examine.TOPICS}


def run(*arguments: str):
    return CliRunner().invoke(COMMAND, [str(argument) for argument in arguments])


def test_doctor_command_prints_findings_and_sets_exit_status(folder):
    done = run("-m", folder.path)
    assert done.exit_code == 0 and done.output.startswith("m · Hugging Face folder\n") and "2 notes" in done.output
    folder.config(hidden_act="gelu")
    folder.generation(temperature=0.3)
    done = run("-m", folder.path)
    assert done.exit_code == 1 and done.output.endswith("1 error, 1 warning, 2 notes\n")
    lines = done.output.splitlines()
    assert lines[2].startswith("error    config.json has hidden_act 'gelu'") and max(map(len, lines)) <= 110
    assert any(line.startswith("         fix: ") for line in lines)


def test_doctor_json_has_documented_keys(folder):
    folder.config(hidden_act="gelu")
    done = run("-m", folder.path, "--json")
    found = json.loads(done.output)
    assert done.exit_code == 1 and not found["usable"]
    assert (found["errors"], found["warnings"], found["notes"]) == (1, 0, 2) and found["name"] == "m"
    assert {"level", "what", "consequence", "cure", "name"} == set(found["findings"][0])
    assert found["findings"][0]["name"] == "unsupported-keys"


def test_doctor_without_model_examines_bundled_one():
    done = run("--json")
    assert done.exit_code == 0 and Path(json.loads(done.output)["model"]) == hub.BUNDLED


def test_doctor_path_without_model_raises(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    for name, message in (("a.txt", "not a model edgekit can open"), ("none.gguf", "does not exist")):
        done = run("-m", tmp_path / name)
        assert isinstance(done.exception, CheckpointError) and message in str(done.exception)
    (tmp_path / "empty").mkdir()
    found = examine.examine(tmp_path / "empty")
    assert {"no-config", "no-safetensors", "no-tokenizer"} <= {f.name for f in found.findings}
