"""`convert` compares its tokenizer with llama.cpp's own: notes on stock programs, and files that cannot be rebuilt."""

import dataclasses
import json

import pytest
from engine_tokenizers import train
from helpers import rewritten, write_model

from edgekit.conversion.convert import convert
from edgekit.conversion.verification.stock_tokenizer import differing
from edgekit.errors import CheckpointError
from edgekit.formats.checkpoint import LlamaConfig
from edgekit.model import load
from edgekit.settings import Converting
from edgekit.tokenizers.load import from_files
from edgekit.tokenizers.sample_texts import COUNT, PARTS, sample_texts

llama_cpp = pytest.importorskip("llama_cpp")
pytest.importorskip("gguf")

CONFIG = LlamaConfig(
    vocab_size=512, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
    num_key_value_heads=2, head_dim=32, max_position_embeddings=64, tie_word_embeddings=True, eos_token_id=(2, 3),
)  # fmt: skip


def model(folder, kind="gpt-2", change=None, config=CONFIG):
    """A model folder whose tokenizer.json `change` has edited."""
    files = {name: data for name, data in train(kind).items() if name != "config.json"}
    values = json.loads(files["tokenizer.json"])
    if change is not None:
        change(values)
    files["tokenizer.json"] = json.dumps(values).encode()
    return write_model(folder, config, files=files)


def converted(source, out, to="gguf", **options):
    quant = {"gguf": "f32", "onnx": "fp32"}.get(to)
    return convert(source, to, out, settings=Converting(quant=quant), **options)


def stock(path, text, special=False):
    return llama_cpp.Llama(str(path), vocab_only=True, verbose=False).tokenize(text.encode(), False, special)


def test_sample_texts_are_500_and_the_same_every_time():
    texts = sample_texts(["<s>", "</s>"])
    assert len(texts) == COUNT == 500 and texts == sample_texts(["<s>", "</s>"])
    assert set(PARTS) <= set(texts) and {"<s>", "a</s>b"} <= set(texts)
    assert len(sample_texts(f"<|extra_{i}|>" for i in range(1000))) == COUNT


@pytest.mark.parametrize("kind", ["gpt-2", "llama-bpe", "smollm"])
def test_convert_tokenizer_of_llama_cpp_has_no_note(tmp_path, kind):
    assert converted(model(tmp_path / "m", kind), tmp_path / "m.gguf").notes == []


def set_normalizer(*types):
    def change(values):
        values["normalizer"] = {"type": "Sequence", "normalizers": [{"type": name} for name in types]}

    return change


def set_added(**options):
    def change(values):
        next(token for token in values["added_tokens"] if token["content"] == "<tool>").update(options)

    return change


@pytest.mark.parametrize("change, said, text", [
    (set_normalizer("NFKC"), "normalises", "ﬁ Ａｂ"),
    (set_normalizer("Lowercase"), "normalises", "The THE"),
    (set_added(lstrip=True), "before it (lstrip)", "a  <tool> b"),
    (set_added(rstrip=True), "after it (rstrip)", "a <tool>  b"),
    (set_added(single_word=True), "whole word (single_word)", "a<tool>b"),
])  # fmt: skip
def test_convert_what_llama_cpp_cannot_do_is_noted_and_counted(tmp_path, change, said, text):
    folder = model(tmp_path / "m", change=change)
    result = converted(folder, tmp_path / "m.gguf")
    ours = from_files({path.name: path.read_bytes() for path in folder.glob("*.json")}, 512)
    assert stock(result.path, text) != ours.encode(text)
    assert len(result.notes) == 2 and said in result.notes[0]
    assert (
        result.notes[1].startswith("stock llama.cpp splits ") and " of 500 texts differently, e.g. " in result.notes[1]
    )


def test_convert_ends_beyond_llama_cpps_keys_are_noted(tmp_path):
    config = dataclasses.replace(CONFIG, eos_token_id=(2, 300, 301))
    assert converted(model(tmp_path / "a", config=config), tmp_path / "a.gguf").notes == [
        "stock llama.cpp programs also end a text at '<|im_end|>', by the spelling"
    ]
    config = dataclasses.replace(CONFIG, eos_token_id=(2, 300, 301, 302, 3))
    result = converted(model(tmp_path / "b", config=config), tmp_path / "b.gguf")
    theirs = llama_cpp.Llama(str(result.path), vocab_only=True, verbose=False)
    vocab = llama_cpp.llama_model_get_vocab(theirs.model)
    assert [id for id in range(512) if llama_cpp.llama_vocab_is_eog(vocab, id)] == [2, 3, 300, 301]
    assert len(result.notes) == 1 and "stock programs do not end at" in result.notes[0]


@pytest.mark.parametrize("to", ["hf", "onnx", "gguf"])
def test_convert_foreign_file_that_is_rebuilt_otherwise_stops(tmp_path, to):
    if to == "onnx":
        pytest.importorskip("onnxruntime")
    made = converted(model(tmp_path / "m"), tmp_path / "m.gguf", verify=False).path
    foreign = rewritten(made, tmp_path / "foreign.gguf", tokenizer__ggml__pre="viking")
    out = tmp_path / "out" if to == "hf" else tmp_path / f"out.{to}"
    with pytest.raises(
        CheckpointError, match=r"splits \d+ of 500 texts differently than llama.cpp, e.g. .*--no-verify"
    ):
        converted(foreign, out, to)
    assert not out.exists()
    assert any("viking" in note for note in converted(foreign, out, to, verify=False).notes)


@pytest.mark.parametrize("kind", ["gpt-2", "llama-bpe", "smollm", "qwen2", "gpt-4o"])
def test_convert_foreign_file_is_rebuilt_as_llama_cpp_reads_it(tmp_path, kind):
    made = converted(model(tmp_path / "m", kind), tmp_path / "m.gguf", verify=False).path
    foreign = rewritten(made, tmp_path / "foreign.gguf")
    result = converted(foreign, tmp_path / "hf", "hf")
    assert not [note for note in result.notes if "splits" in note]
    ours = from_files({path.name: path.read_bytes() for path in result.path.iterdir() if path.suffix == ".json"}, 512)
    texts = sample_texts(["<tool>"])[::5]
    assert [ours.encode(text) for text in texts] == [stock(foreign, text) for text in texts]


def test_differing_reports_each_text_once():
    class Other:
        def encode(self, text, *, specials=False):
            return [len(text) + specials]

        def close(self):
            pass

    ours = Other()
    ours.encode = lambda text, *, specials=False: [len(text)]
    different = differing(ours, Other(), ["<s>"])
    assert different == [text for text in sample_texts(["<s>"]) if "<s>" in text]


def test_convert_foreign_file_keeps_its_sampling_settings(tmp_path):
    """Of `general.sampling.*`; those that are missing have llama.cpp's defaults."""
    folder = model(tmp_path / "m")
    settings = {"do_sample": True, "temperature": 0.5, "top_k": 7, "repetition_penalty": 1.5}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    made = converted(folder, tmp_path / "m.gguf", verify=False).path
    foreign = rewritten(made, tmp_path / "foreign.gguf", general__sampling__min_p=None)
    out = converted(foreign, tmp_path / "hf", "hf", verify=False).path
    expected = {"temperature": 0.5, "top_k": 7, "repetition_penalty": 1.5, "min_p": 0.05, "top_p": 1.0}
    for path, runtime in ((foreign, "llamacpp"), (out, "torch")):
        if runtime == "torch":
            pytest.importorskip("torch")
        sampling = dataclasses.asdict(load(path, runtime=runtime).defaults)
        assert {name: sampling[name] for name in expected} == pytest.approx(expected)
