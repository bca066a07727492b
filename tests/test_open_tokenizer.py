"""A tokenizer opened by path alone: from a folder, an artefact's embedded files, or another program's GGUF."""

import dataclasses
import json
import subprocess
import sys

import pytest
import tokenizers
from click.testing import CliRunner
from handmade import small
from helpers import rewritten, tokenmonster_files, write_model
from spoilt import FILES as SENTENCEPIECE
from test_utf8_mask import byte_level_bpe

from edgekit.cli.main import main
from edgekit.conversion.convert import convert
from edgekit.errors import CheckpointError, MissingExtraError, VocabularyError
from edgekit.formats import onnx
from edgekit.formats.checkpoint import LlamaConfig
from edgekit.formats.gguf import GGUFFile
from edgekit.settings import Converting
from edgekit.tokenizers.load import from_files
from edgekit.tokenizers.open import open_tokenizer
from edgekit.utils.engine import library

TINY = LlamaConfig(512, 64, 96, 1, 4, 2, 16, 32, tie_word_embeddings=True)
KINDS = {
    "TokenMonster": tokenmonster_files(small(1).to_bytes(), TINY.vocab_size),
    "llama": SENTENCEPIECE,
    "gpt2": {"tokenizer.json": byte_level_bpe(), "tokenizer_config.json": b'{"eos_token": "<|end|>"}'},
}
TEXTS = ["a cat", "The cat's hat", " two  spaces ", "naïve 😀", "a\nb", "</s>", ""]


def artefact(kind: str, to: str, folder) -> tuple:
    """(path, the tokenizer of the model it was made from)."""
    source = write_model(folder / "m", TINY, files=KINDS[kind])
    settings = Converting(quant={"gguf": "f32", "onnx": "fp32"}[to])
    try:
        path = convert(source, to, folder / f"m.{to}", settings=settings, verify=False).path
    except MissingExtraError as error:
        pytest.skip(str(error))
    return path, from_files(KINDS[kind], TINY.vocab_size)


@pytest.mark.parametrize("to", ["gguf", "onnx"])
@pytest.mark.parametrize("kind", KINDS)
def test_open_tokenizer_artefact_equals_source(tmp_path, kind, to):
    path, expected = artefact(kind, to, tmp_path)
    tokenizer = open_tokenizer(str(path), None)
    assert (tokenizer.bos, tokenizer.stop, tokenizer.facts()) == (expected.bos, expected.stop, expected.facts())
    assert [tokenizer.encode(text) for text in TEXTS] == [expected.encode(text) for text in TEXTS]


@pytest.mark.parametrize("engine", [True, False])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_open_tokenizer_foreign_gguf_equals_llama_cpp(tmp_path, monkeypatch, kind, engine):
    import edgekit

    if not engine:
        monkeypatch.setattr("edgekit.tokenizers.open.library", lambda: None)
    elif library() is None:
        pytest.skip("needs the C engine: install edgekit where there is a C compiler")

    path = rewritten(artefact(kind, "gguf", tmp_path)[0], tmp_path / "foreign.gguf")
    tokenizer = open_tokenizer(str(path), None)
    expected = edgekit.load(path, runtime="llamacpp", threads=1).tokenizer
    assert type(tokenizer).__name__ == ("NativeTokenizer" if engine else "JsonTokenizer")
    assert type(expected).__name__ == "LlamaTokenizer"
    assert (tokenizer.bos, tokenizer.stop) == (expected.bos, expected.stop)
    assert [tokenizer.encode(text) for text in TEXTS] == [expected.encode(text) for text in TEXTS]


def test_open_tokenizer_foreign_rwkv_is_llama_cpps_own(tmp_path):
    path = rewritten(artefact("TokenMonster", "gguf", tmp_path)[0], tmp_path / "foreign.gguf")
    assert type(open_tokenizer(str(path), None)).__name__ == "LlamaTokenizer"


@pytest.mark.parametrize("to, foreign", [("gguf", False), ("onnx", False), ("gguf", True)])
def test_tokenize_artefact_imports_no_backend(tmp_path, to, foreign):
    path, expected = artefact("llama", to, tmp_path)
    if foreign:
        path = rewritten(path, tmp_path / "foreign.gguf")
    script = (
        "import sys\nfrom edgekit.cli.main import main\n"
        "try: main(['tokenize', '-m', sys.argv[1], 'a cat', '--json'])\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "print({name.split('.')[0] for name in sys.modules} & {'llama_cpp', 'onnxruntime', 'onnx', 'gguf', 'torch'})"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    record, backends = done.stdout.splitlines()
    assert json.loads(record)["ids"] == expected.encode("a cat") and backends == "set()"


def test_open_tokenizer_model_without_one_raises(tmp_path):
    source = write_model(tmp_path / "m", TINY)
    with pytest.raises(VocabularyError, match="the model has no tokenizer"):
        open_tokenizer(str(source), None)
    try:
        path = convert(source, "onnx", tmp_path / "m.onnx", settings=Converting(quant="fp32"), verify=False).path
    except MissingExtraError as error:
        pytest.skip(str(error))
    with pytest.raises(VocabularyError, match="m.onnx has no tokenizer"):
        open_tokenizer(str(path), None)


def test_open_tokenizer_unknown_suffix_raises(tmp_path):
    (tmp_path / "m.vocab").write_bytes(small(1).to_bytes())
    with pytest.raises(CheckpointError, match="not a model edgekit can open"):
        open_tokenizer(str(tmp_path / "m.vocab"), None)


def test_onnx_metadata_damaged_file_is_one_line(tmp_path):
    path, _ = artefact("llama", "onnx", tmp_path)
    data = path.read_bytes()
    entries = onnx.metadata(path)
    assert "edgekit.file.tokenizer.json" in entries and entries["edgekit.quant"] == "fp32"
    bad = tmp_path / "bad.onnx"
    for cut in (0, 1, 50, len(data) // 2, len(data) - 1):
        bad.write_bytes(data[:cut])
        with pytest.raises(CheckpointError, match=r"bad.onnx is not (a whole ONNX file|an ONNX model)") as caught:
            onnx.metadata(bad)
        assert "\n" not in str(caught.value)
    bad.write_bytes(b"not an onnx file at all" * 10)
    with pytest.raises(CheckpointError, match="not a whole ONNX file"):
        onnx.metadata(bad)


@pytest.mark.parametrize("pre, specials", [
    ("llama-bpe", ["<|end|>", "<|eot_id|>", "<|im_end|>", "<|fim_pad|>"]),
    ("smollm", ["<|end|>", "<|call|>", "<|return|>", "<reponame>"]),
    ("qwen2", ["<|endoftext|>", "<|file_sep|>", "<|repo_name|>", "<|im_start|>"]),
])  # fmt: skip
def test_open_tokenizer_foreign_ends_and_begin_equal_llama_cpp(tmp_path, pre, specials):
    """BOS by the pre-tokenizer's name, ends by their spelling: no key says either."""
    import edgekit

    library = tokenizers.Tokenizer.from_str(byte_level_bpe().decode())
    library.add_special_tokens(["<s>", *specials])
    names = b'{"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "<s>"}'
    files = {"tokenizer.json": library.to_str().encode(), "tokenizer_config.json": names}
    shape = dataclasses.replace(TINY, bos_token_id=library.token_to_id("<s>"))
    source = write_model(tmp_path / "m", shape, files=files)
    made = convert(source, "gguf", tmp_path / "m.gguf", settings=Converting(quant="f32"), verify=False).path
    keys = dict.fromkeys(("tokenizer.ggml.add_bos_token", "tokenizer.ggml.eot_token_id")) | {"tokenizer.ggml.pre": pre}
    path = rewritten(made, tmp_path / "foreign.gguf", **keys)
    ours, theirs = open_tokenizer(str(path), None), edgekit.load(path, runtime="llamacpp", threads=1).tokenizer
    assert (ours.bos, ours.stop) == (theirs.bos, theirs.stop)
    assert [ours.encode(text) for text in TEXTS] == [theirs.encode(text) for text in TEXTS]


@pytest.mark.parametrize("flags, expected", [([], "note: <|end|> in the prompt was read as text"), (["--special"], "")])
def test_run_special_token_in_prompt_is_a_token_on_request(tmp_path, flags, expected):
    import edgekit

    path = str(write_model(tmp_path / "m", TINY, files=KINDS["gpt2"]))
    command = ["run", "-m", path, "--runtime", "torch", "--max-new-tokens", "2", "--json", "a cat<|end|>b", *flags]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0 and expected in done.stderr and ("note" in done.stderr) == bool(expected)
    model = edgekit.load(path, runtime="torch")
    end = model.tokenizer.encode("<|end|>", specials=True)
    assert len(end) == 1
    ids = model.encode("a cat<|end|>b", special=bool(flags))
    assert (end[0] in ids) == bool(flags)
    assert model.generate("a cat<|end|>b", max_new_tokens=1, special=bool(flags)).prompt == ids


def test_to_gguf_named_templates_writes_the_default(tmp_path):
    named = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    config = json.loads(KINDS["gpt2"]["tokenizer_config.json"]) | {"chat_template": named}
    files = KINDS["gpt2"] | {"tokenizer_config.json": json.dumps(config).encode()}
    source = write_model(tmp_path / "m", TINY, files=files)
    path = convert(source, "gguf", tmp_path / "m.gguf", settings=Converting(quant="f32"), verify=False).path
    assert GGUFFile(path).metadata["tokenizer.chat_template"] == "D"
