"""What doctor says of transformers and llama.cpp about tokenizers, against what they do."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from safetensors.numpy import load_file, save_file

from edgekit.doctor.examine import examine
from edgekit.formats.gguf import GGUFFile

TRANSFORMERS5 = os.environ.get("EDGEKIT_TRANSFORMERS5", "")
CODE = """
import json, sys
from transformers import AutoTokenizer
answers = []
for path in json.load(sys.stdin):
    try:
        t = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        ids = t("Lily , a girl .")["input_ids"]
        out = {"begins": ids[:1] == [1], "text": t.decode(ids, skip_special_tokens=True), "chat": None}
        try:
            out["chat"] = t.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)
        except Exception:
            pass
    except Exception as error:
        out = {"error": type(error).__name__}
    answers.append(out)
print(json.dumps(answers))
"""
DEFAULT, RAG = {"name": "default", "template": "d"}, {"name": "rag", "template": "r"}
BEGINNINGS = {
    "Llama": {"tokenizer_class": "LlamaTokenizer"},
    "Llama without BOS": {"tokenizer_class": "LlamaTokenizer", "add_bos_token": False},
    "plain": {"tokenizer_class": "PreTrainedTokenizerFast"},
    "GPT-NeoX": {"tokenizer_class": "GPTNeoXTokenizer", "add_bos_token": True},
}
FOLDERS = {
    "named templates": {"chat_template": [RAG, DEFAULT]},
    "no default template": {"chat_template": [RAG]},
    "two templates": {"chat_template": "in the configuration"},
    "cleaned up": {"clean_up_tokenization_spaces": True},
    "code of a known class": {"tokenizer_class": "LlamaTokenizerFast", "auto_map": {"AutoTokenizer": ["x.X", None]}},
    "code of its own class": {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": ["x.X", None]}},
    "no tokenizer": {},
    **{f"{name}, {there} template": values for name, values in BEGINNINGS.items() for there in ("with", "without")},
}


def copied(shared, path):
    """stories260K's folder, writable; the template in its tokenizer.json puts BOS (1) before a text."""
    shutil.copytree(shared / "models" / "stories260K" / "hf", path)
    for each in (path, *path.iterdir()):
        each.chmod(0o755)
    return path


def change(folder, name="tokenizer_config.json", **values):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture(scope="module")
def folders(shared, tmp_path_factory):
    """Name -> folder."""
    made = {}
    for name, values in FOLDERS.items():
        path = made[name] = copied(shared, tmp_path_factory.mktemp("truth") / "m")
        change(path, **values)
        if name == "two templates":
            (path / "chat_template.jinja").write_text("in the file")
        elif name == "no tokenizer":
            for each in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"):
                (path / each).unlink()
        elif name.endswith("without template"):
            change(path, "tokenizer.json", post_processor=None)
    return made


@pytest.fixture(scope="module", params=["4", pytest.param("5", marks=pytest.mark.skipif(
    not TRANSFORMERS5, reason="needs transformers 5: make test-transformers5"))])  # fmt: skip
def theirs(request, folders):
    """(4 or 5, name -> what that version makes of the folder)."""
    pytest.importorskip("transformers")
    env = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    env |= {"PYTHONPATH": TRANSFORMERS5} if request.param == "5" else {}
    given = json.dumps([str(path) for path in folders.values()])
    done = subprocess.run([sys.executable, "-c", CODE], input=given, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    return int(request.param), dict(zip(folders, json.loads(done.stdout.splitlines()[-1]), strict=True))


def told(path, name=""):
    """The text of the findings, of one check or of all."""
    found = [each for each in examine(path).findings if name in ("", each.name)]
    return " ".join(f"{each.what} {each.consequence}" for each in found)


@pytest.mark.parametrize("there", ["with", "without"])
@pytest.mark.parametrize("name", BEGINNINGS)
def test_beginning_of_a_text_is_told_for_both_versions(folders, theirs, name, there):
    version, answers = theirs
    folder, begins = folders[f"{name}, {there} template"], answers[f"{name}, {there} template"]["begins"]
    without, differs = told(folder, "begin-not-added"), told(folder, "versions-of-transformers-differ")
    if version == 4:
        assert begins == (not without)
    else:
        assert begins == ("it puts 1 before a text" in differs if differs else not without)
        assert ("edgekit and transformers 4 begin" in without) == bool(without and differs)


def test_named_templates_are_told(folders, theirs):
    _, answers = theirs
    assert answers["named templates"]["chat"] == "d" and "no chat template" not in told(folders["named templates"])
    assert answers["no default template"]["chat"] is None
    assert "no chat template is called default" in told(folders["no default template"], "chat-template")
    assert answers["two templates"]["chat"] == "in the file"
    assert "transformers uses the .jinja file" in told(folders["two templates"], "chat-template")


def test_cleaned_up_spaces_are_told(folders, theirs):
    version, answers = theirs
    assert (answers["cleaned up"]["text"] == "Lily, a girl.") == (version == 4)
    assert "transformers 4 removes" in told(folders["cleaned up"], "spaces-cleaned-up")


def test_code_of_a_tokenizer_is_told(folders, theirs):
    _, answers = theirs
    for name, stops in (("code of a known class", False), ("code of its own class", True)):
        assert ("error" in answers[name]) == stops
        assert "or stops where it has none" in told(folders[name], "tokenizer-with-code")


def test_no_tokenizer_is_told(folders, theirs):
    assert "error" in theirs[1]["no tokenizer"]
    assert "transformers' AutoTokenizer stop" in told(folders["no tokenizer"], "no-tokenizer")


def test_sentencepiece_model_alone_is_a_note(shared, tmp_path):
    pytest.importorskip("sentencepiece")
    folder = copied(shared, tmp_path / "m")
    assert not told(folder, "sentencepiece-model-alone")
    (folder / "tokenizer.json").unlink()
    assert "needs the package sentencepiece" in told(folder, "sentencepiece-model-alone")


def test_names_without_prefix_are_not_said_to_be_drawn_at_random(shared, tmp_path):
    transformers = pytest.importorskip("transformers")
    folder = copied(shared, tmp_path / "m")
    tensors = {name.removeprefix("model."): value for name, value in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    _, info = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert "random" not in told(folder) and "edgekit and transformers add the prefix" in told(folder)


def test_part_of_a_split_gguf_is_not_said_to_be_refused_by_llama_cpp(shared, tmp_path):
    gguf = pytest.importorskip("gguf")
    source = GGUFFile(shared / "models" / "stories260K" / "stories260K.f32.gguf")
    path = tmp_path / "m-00001-of-00002.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for key in ("block_count", "context_length", "embedding_length", "feed_forward_length", "vocab_size"):
        writer.add_uint32(f"llama.{key}", int(source.metadata[f"llama.{key}"]))
    writer.add_uint16("split.count", 2)
    writer.add_uint16("split.no", 0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    text = told(path)
    assert "llama.cpp finds the other parts" in text and "llama.cpp refuses" not in text


@pytest.mark.parametrize("named, expected", [(True, 2), (False, 5)])
def test_end_of_llama_cpps_converter_is_the_named_token_or_the_configurations(shared, tmp_path, named, expected):
    vocab = pytest.importorskip("gguf.vocab")
    folder = copied(shared, tmp_path / "m")
    change(folder, "config.json", eos_token_id=5)
    change(folder, "generation_config.json", eos_token_id=7)
    if not named:
        change(folder, eos_token=None)
    assert vocab.SpecialVocab(folder, load_merges=False).special_token_ids["eos"] == expected
    assert "the id of tokenizer_config.json's eos_token, or without one the first" in told(folder, "ends-disagree")


def test_two_templates_gguf_takes_the_configurations(folders):
    vocab = pytest.importorskip("gguf.vocab")
    folder = folders["two templates"]
    assert vocab.SpecialVocab(folder, load_merges=False).chat_template == "in the configuration"
    assert "gguf's tools the one in tokenizer_config.json" in told(folder, "chat-template")
