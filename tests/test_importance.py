"""Rounding by importance: how it is measured, that llama.cpp's quantizer uses it, and what it gains."""

import hashlib
import json

import numpy as np
import pytest
from click.testing import CliRunner
from handmade import small
from helpers import tokenmonster_files, write_model
from safetensors.numpy import load_file, save_file

from edgekit.cli.main import main
from edgekit.conversion import importance
from edgekit.conversion.calibration import CALIBRATION
from edgekit.conversion.convert import convert
from edgekit.conversion.verification.tensors import compare
from edgekit.conversion.verification.tolerances import row_limit
from edgekit.conversion.verification.verify import verify
from edgekit.errors import CheckpointError, DataError, SettingError
from edgekit.formats.checkpoint import LlamaConfig, open_folder
from edgekit.formats.gguf_tensors import gguf_name
from edgekit.settings import Converting
from edgekit.tokenizers.load import from_files
from edgekit.utils import registry
from edgekit.utils.texts import Document

gguf = pytest.importorskip("gguf")
pytest.importorskip("llama_cpp")

CONFIG = LlamaConfig(448, 256, 256, 2, 4, 2, 64, 128, tie_word_embeddings=True)

HELD_OUT = """\
There was an old man who kept bees behind his house. In the summer he went to them every day and sat on a stone. The \
bees knew him well. They flew around his head and never hurt him. "Good morning," he said to them. "What did you find \
today?"

A boy came along the road with a dog. The dog ran after the bees and barked, and the bees were angry. "Hold your dog," \
called the old man, "and come here slowly. If you are quiet, they will do nothing." The boy did as he was told. He sat \
down in the grass and looked at the small yellow animals. They brought something on their legs. "That is food for \
their children," said the man.

Plants need light to grow. Their leaves take in air, and their roots take up water from the ground. With the light of \
the sun they make sugar from both. Animals that eat plants live on this sugar, and so do we.

When the boy went home in the evening, he had a glass of honey in his hand. His mother asked where he had been so \
long. "I was with friends," he said. "I do not know how many. They would not sit still, so I could not count them."
"""


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    files = tokenmonster_files(small(1).to_bytes(), CONFIG.vocab_size)
    return write_model(tmp_path_factory.mktemp("importance") / "model", CONFIG, std=0.1, files=files)


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "bees.txt"
    path.write_text(HELD_OUT)
    return path


@pytest.mark.parametrize("tied", [True, False])
def test_collect_equals_mean_squared_inputs_in_hugging_face(tmp_path, text, tied):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    files = tokenmonster_files(small(1).to_bytes(), CONFIG.vocab_size)
    config = LlamaConfig(448, 64, 160, 2, 4, 2, 16, 128, tie_word_embeddings=tied)
    folder = write_model(tmp_path / "m", config, std=0.1, files=files)
    checkpoint = open_folder(folder)
    found = importance.collect(checkpoint, str(text))

    theirs = transformers.LlamaForCausalLM.from_pretrained(folder, torch_dtype=torch.float32).eval()
    sums = {}

    def hook(name):
        def hear(_module, inputs):
            x = inputs[0].detach().double().numpy().reshape(-1, inputs[0].shape[-1])
            total, count = sums.get(name, (0.0, 0))
            sums[name] = total + (x**2).sum(0), count + len(x)

        return hear

    for name, module in theirs.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(hook(f"{name}.weight"))
    own = from_files(checkpoint.files, 448)
    ids, begin = own.encode(HELD_OUT), [] if own.bos is None else [own.bos]
    step = 128 - len(begin)  # the whole context
    with torch.no_grad():
        for start in range(0, len(ids), step):
            theirs(torch.tensor([begin + ids[start : start + step]]))
    assert found.tokens == len(ids) and found.text == "bees.txt"
    if tied:
        sums["model.embed_tokens.weight"] = sums.pop("lm_head.weight")
    assert set(found.values) == set(sums)
    for name, (total, count) in sums.items():
        np.testing.assert_allclose(found.values[name], total / count, rtol=2e-4, atol=1e-9, err_msg=name)


def matrices(path):
    """Dequantized, by llama.cpp's names, in the file's own order of rows."""
    return {
        t.name: gguf.dequantize(t.data, t.tensor_type)
        for t in gguf.GGUFReader(path).tensors
        if len(t.shape) == 2 and not t.name.startswith("token_embd")
    }


@pytest.mark.parametrize("quant", ["q4_0", "q4_1", "q5_0", "iq4_nl", "q4_k_m", "q3_k_s"])
def test_convert_with_importance_loses_less_in_important_columns(model, tmp_path, quant):
    """Made extreme: some columns count ten thousand times as much. Their error falls everywhere, the others' grows."""
    checkpoint, module = open_folder(model), registry.load("converters", "gguf")
    rng = np.random.default_rng(0)
    shapes = {n: s for n, s in CONFIG.shapes().items() if len(s) == 2}
    heavy = {n: np.where(rng.random(s[1]) < 0.1, 1.0, 1e-4).astype(np.float32) for n, s in shapes.items()}
    means = importance.Importance(heavy, "made up", 100)
    plain, without, with_it = (tmp_path / f"{name}.gguf" for name in ("plain", "without", "with"))
    module.convert(checkpoint, plain, Converting(quant="f32"), lambda items, *_: items)
    llama = registry.load("converters", "_gguf_llama")
    library = llama.library("a test")
    one = llama.quantize(library, checkpoint, plain, without, quant, None)
    two = llama.quantize(library, checkpoint, plain, with_it, quant, None, means)
    assert {t.name: t.type for t in one} == {t.name: t.type for t in two}
    assert without.stat().st_size == with_it.stat().st_size
    exact, before, after = matrices(plain), matrices(without), matrices(with_it)
    kinds = {t.name: t.type for t in two}
    named = {gguf_name(n): v for n, v in heavy.items()}
    for name, values in exact.items():
        columns = named[name] == 1
        error = [np.square(x[name] - values) for x in (before, after)]
        assert error[1][:, columns].sum() < 0.9 * error[0][:, columns].sum(), name
        assert error[1][:, ~columns].sum() > error[0][:, ~columns].sum(), name
        # And no row passes what a sound one so rounded may lose, though most of it hardly counts.
        rows = np.sqrt(error[1].sum(1) / np.square(values).sum(1))
        assert rows.max() <= row_limit(kinds[name], values.shape[1], weighted=True), (name, rows.max())


def test_collect_unused_column_counts_little_but_not_zero(model, tmp_path, text):
    folder = tmp_path / "dead"
    folder.mkdir()
    for path in model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    for name in tensors:
        if name.endswith("norm.weight"):
            tensors[name][:64] = 0
    tensors["model.layers.0.mlp.gate_proj.weight"][:] = 0  # and nothing at all comes to this layer's `down`
    save_file(tensors, folder / "model.safetensors")
    found = importance.collect(open_folder(folder), str(text))
    assert all((values > 0).all() and np.isfinite(values).all() for values in found.values.values())
    for quant in ("q4_0", "q4_k_m"):
        path = tmp_path / f"{quant}.gguf"
        convert(folder, "gguf", path, settings=Converting(quant=quant, importance=str(text)))
        assert all(np.isfinite(values).all() for values in matrices(path).values())


def test_convert_with_importance_names_the_text_in_receipt_file_and_inspect(model, tmp_path, text, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(
        main, ["convert", "-m", str(model), "--to", "gguf", "--quant", "q4_0", "--importance", str(text), "--json"]
    )
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    expected = {"text": "bees.txt", "sha256": hashlib.sha256(HELD_OUT.encode()).hexdigest()}
    assert found["receipt"]["importance"] == expected
    fields = gguf.GGUFReader(found["path"]).fields
    assert fields["quantize.imatrix.dataset"].contents() == "bees.txt"
    assert fields["quantize.imatrix.entries_count"].contents() == 15
    assert json.loads(fields["edgekit.receipt"].contents())["importance"] == expected
    assert {t.tensor_type.name for t in gguf.GGUFReader(found["path"]).tensors} == {"F32", "Q4_0", "Q8_0"}
    shown = CliRunner().invoke(main, ["inspect", "-m", found["path"], "--no-tensors"]).output
    assert f"weighed by bees.txt (sha256 {expected['sha256'][:16]}…)" in shown
    # Without it nothing of this is there, and the bytes are those of always.
    plain = convert(model, "gguf", tmp_path / "plain.gguf", settings=Converting(quant="q4_0"))
    assert "importance" not in plain.receipt and "quantize.imatrix.dataset" not in gguf.GGUFReader(plain.path).fields


def test_convert_with_importance_loses_less_on_another_text(bundled, tmp_path):
    """q4_0, by the text that edgekit has; measured by `verify` on another."""
    assert HELD_OUT not in CALIBRATION
    paths = [
        convert(bundled, "gguf", tmp_path / f"{name}.gguf", settings=Converting(quant="q4_0", importance=which)).path
        for name, which in (("without", None), ("with", "default"))
    ]
    texts = [Document("", HELD_OUT)]
    without, with_it = verify(bundled, paths, texts=texts, tokens=2048, greedy=0, threads=1).artefacts
    assert without.sound and with_it.sound and without.bytes == pytest.approx(with_it.bytes, rel=1e-4)
    assert with_it.figures.mean_kl < 0.85 * without.figures.mean_kl


def test_importance_invalid_use_raises_one_line(model, tmp_path, text):
    few = tmp_path / "few.txt"
    few.write_text("a")
    for to, quant, which, error, message in [
        ("gguf", "q8_0", "default", SettingError, "importance changes nothing at q8_0"),
        ("gguf", "f16", "default", SettingError, "importance changes nothing at f16"),
        ("onnx", "int4", "default", SettingError, "importance is a setting of gguf"),
        ("hf", "f32", "default", SettingError, "importance is a setting of gguf"),
        ("gguf", "q4_0", str(tmp_path / "absent.txt"), SettingError, "absent.txt does not exist"),
        ("gguf", "q4_0", str(few), DataError, "too few to tell"),
        ("gguf", "q4_0", "", SettingError, "importance must be a file or folder of text"),
    ]:
        with pytest.raises(error, match=message):
            convert(model, to, tmp_path / "out", settings=Converting(quant=quant, importance=which))
    bare = write_model(tmp_path / "bare", CONFIG)
    with pytest.raises(CheckpointError, match="bare has no tokenizer"):
        convert(bare, "gguf", tmp_path / "out", settings=Converting(quant="q4_0", importance="default"))
    assert {p.name for p in tmp_path.iterdir()} == {"few.txt", "bare"}


def test_collect_many_documents_reads_some_at_equal_distances(model, tmp_path):
    """A corpus that changes its language half-way counts by both, and the tokens stay bounded."""
    checkpoint = open_folder(model)
    texts = [HELD_OUT] * 100 + ["9 8 7 6 5 4 3 2 1 0 " * 50] * 100
    lines = [json.dumps({"text": t}) for t in texts]
    for name, part in (("first", lines[:100]), ("second", lines[100:]), ("both", lines)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(part))
    first, second, both = (
        importance.collect(checkpoint, str(tmp_path / f"{name}.jsonl")) for name in ("first", "second", "both")
    )
    assert both.tokens <= importance.MOST
    name = "model.layers.1.mlp.down_proj.weight"
    assert np.abs(first.values[name] / second.values[name] - 1).mean() > 0.2
    low, high = (f(first.values[name], second.values[name]) for f in (np.minimum, np.maximum))
    assert ((both.values[name] > low * 0.999) & (both.values[name] < high * 1.001)).all()


@pytest.mark.parametrize("quant", ["q6_k", "q5_1"])
def test_verify_accepts_loss_in_unimportant_columns(model, tmp_path, monkeypatch, quant):
    """What llama.cpp rounds by an extreme importance is sound, and the same file is broken if its rows are shuffled."""
    shapes = {n: s for n, s in CONFIG.shapes().items() if len(s) == 2}
    rng = np.random.default_rng(0)
    heavy = {n: np.where(rng.random(s[1]) < 0.1, 1.0, 1e-6).astype(np.float32) for n, s in shapes.items()}
    monkeypatch.setattr(importance, "collect", lambda *_: importance.Importance(heavy, "made up", 100))
    settings = Converting(quant=quant, importance="default")
    result, module = convert(model, "gguf", tmp_path / "m.gguf", settings=settings), registry.load("converters", "gguf")
    plainly = [difference for difference, _ in compare(open_folder(model).tensors, module.weights(result.path))]
    assert result.receipt and not all(difference.sound for difference in plainly)  # by the limit of plain rounding
    monkeypatch.setattr(module, "permute", lambda name, values, _: values)
    with pytest.raises(CheckpointError, match="query and key rows|rows are"):
        convert(model, "gguf", tmp_path / "n.gguf", settings=settings)
