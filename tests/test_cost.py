"""What a conversion costs, in words, and which larger type costs less: compared with `verify` on every type."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from handmade import small
from helpers import tokenmonster_files, write_model
from safetensors.numpy import load_file, save_file

from edgekit.cli.main import main
from edgekit.conversion import advice, plan
from edgekit.conversion.convert import convert, summary
from edgekit.conversion.verification import cost
from edgekit.conversion.verification.measure import measure_source, of_checkpoint
from edgekit.conversion.verification.metrics import Figures
from edgekit.conversion.verification.settings import SHORT
from edgekit.conversion.verification.verify import verify
from edgekit.formats.checkpoint import LlamaConfig, open_folder
from edgekit.settings import Converting
from edgekit.utils import registry

pytest.importorskip("gguf")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("llama_cpp")

CONFIG = LlamaConfig(448, 64, 160, 3, 4, 2, 16, 128, tie_word_embeddings=True)
KEPT = "within 2 % of the source's perplexity"


def model(folder, std, outlier=1.0):
    """Seeded weights; in each matrix of a layer every 16th column is `outlier` times as large, so that 4 bits, which
    share a scale, have few levels left for the columns between."""
    files = tokenmonster_files(small(1).to_bytes(), CONFIG.vocab_size)
    path = write_model(folder, CONFIG, std=std, files=files) / "model.safetensors"
    tensors = load_file(path)
    for name, tensor in tensors.items():
        if "layers" in name and tensor.ndim == 2:
            tensor[:, ::16] *= outlier
    save_file(tensors, path, {"format": "pt"})
    return folder


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("cost")
    return {"costly": model(root / "costly", 0.08, outlier=12.0), "cheap": model(root / "cheap", 0.02)}


def figures(change, kl):
    return Figures(256, 1.0, 0.1, 0.1, kl, 2 * kl, 0.9, 0.9, 10.0, 10.0 * (1 + change))


@pytest.mark.parametrize("change, kl, verdict, words", [
    (0.0, 0.0, "sound", KEPT),
    (0.0199, 0.0, "sound", KEPT),
    (-0.3, 0.01, "sound", KEPT),
    (0.0201, 0.0, "noticeable loss", "costs 2.01 % perplexity: noticeable"),
    (0.1149, 0.3, "noticeable loss", "costs 11.5 % perplexity: noticeable"),
    (0.25, 0.2, "large loss", "costs 25 % perplexity: a large loss"),
    (3.0, 1.4, "large loss", "costs 300 % perplexity: a large loss"),
    (0.003, 0.05, "noticeable loss",
     "costs about 5.1 % perplexity by its KL, of which this text shows +0.3 %: noticeable"),
    (-0.01, 0.5, "large loss", "costs about 64.9 % perplexity by its KL, of which this text shows -1 %: a large loss"),
])  # fmt: skip
def test_cost_is_graded_by_perplexity_and_by_kl(change, kl, verdict, words):
    measured = figures(change, kl)
    assert cost.grade(cost.cost_of(measured)) == verdict and cost.sentence(measured) == words


def test_cost_without_a_text_is_sound():
    assert cost.grade(None) == "sound"


@pytest.mark.parametrize("to, quant", [("gguf", "q4_0"), ("onnx", "int4_pure")])
def test_convert_costly_type_names_the_smallest_that_keeps_within_2_percent(models, tmp_path, to, quant):
    """The larger types are converted and verified one by one, here from small to large and all of them."""
    result = convert(models["costly"], to, tmp_path / f"m.{to}", settings=Converting(quant=quant), advice=True)
    assert result.receipt["verdict"].startswith("costs ") and result.advice is not None
    rows = {row.quant: row.bytes for row in plan.plan(open_folder(models["costly"]), to)}
    larger = [name for name, size in rows.items() if size > rows[quant]]
    names = [name for name in larger if name not in getattr(registry.load("converters", to), "SAME", ())]
    paths = [
        convert(models["costly"], to, tmp_path / f"{name}.{to}", settings=Converting(quant=name)).path for name in names
    ]
    proofs = {proof.path.stem: proof for proof in verify(models["costly"], paths, SHORT).artefacts}
    chosen = result.advice.chosen
    assert chosen.bytes == min(proof.bytes for proof in proofs.values() if proof.verdict == "sound")
    assert chosen.figures.mean_kl == pytest.approx(proofs[chosen.quant].figures.mean_kl, rel=0.01, abs=1e-9)
    tried = {row.quant: row for row in result.advice.tried}
    assert {name for name in names if rows[name] < chosen.bytes} <= set(tried) and list(tried)[-1] == chosen.quant
    for name, row in tried.items():
        assert (row.figures is None) == row.verdict.startswith("left out: estimated KL ")
        assert (proofs[name].verdict == "sound") == (row is chosen)
    lines = summary(result).splitlines()
    assert f"  {result.receipt['verdict']}" in lines
    assert lines[-1].startswith(f"  the smallest {to} type within 2 %: {chosen.quant}, {chosen.bytes / 1e6:.2f} MB (")


def test_convert_cheap_type_says_that_it_keeps_and_looks_for_nothing(models, tmp_path, monkeypatch):
    monkeypatch.setattr(advice, "Candidates", None)
    result = convert(models["cheap"], "gguf", tmp_path / "m.gguf", settings=Converting(quant="q4_0"), advice=True)
    assert result.receipt["verdict"] == KEPT and result.advice is None and KEPT in summary(result)


def test_convert_command_prints_the_advice_unless_told_otherwise(models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = ["convert", "-m", str(models["costly"]), "--to", "onnx", "--quant", "int4_pure", "--force"]
    done = CliRunner().invoke(main, [*base, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["advice"]["within"] == 0.02 and found["advice"]["chosen"]["quant"] in ("int8", "fp16", "fp32")
    assert found["receipt"]["figures"]["perplexity_change"] is not None
    done = CliRunner().invoke(main, base)
    assert "the smallest onnx type within 2 %: " in done.stderr and done.stdout.strip() == "costly-int4_pure.onnx"
    for more in ("--no-advice", "--no-verify"):
        done = CliRunner().invoke(main, [*base, more])
        assert done.exit_code == 0 and "smallest" not in done.stderr


def test_convert_large_model_is_told_how_to_ask(models, tmp_path, monkeypatch):
    monkeypatch.setattr("edgekit.conversion.convert.LARGEST", 1000)
    settings = Converting(quant="int4_pure")
    result = convert(models["costly"], "onnx", tmp_path / "m.onnx", settings=settings, advice=None)
    assert result.advice is None and "--advice measures which larger type costs less" in result.notes[-1]


def test_convert_without_tokenizer_is_not_graded(tmp_path):
    bare = write_model(tmp_path / "bare", CONFIG, std=0.3)
    result = convert(bare, "gguf", tmp_path / "m.gguf", settings=Converting(quant="q2_k"), advice=True)
    assert result.receipt["figures"]["mean_kl"] > 0.02
    assert "verdict" not in result.receipt and result.advice is None
    assert verify(bare, [result.path], tokens=64, greedy=0).artefacts[0].verdict == "sound"


def test_advise_measures_no_more_than_its_limit(models, monkeypatch):
    """None of the types that may be tried is good enough: the best of them is named."""
    checkpoint = open_folder(models["costly"])
    expected = measure_source(of_checkpoint(checkpoint), None, SHORT)
    monkeypatch.setattr(advice, "MOST", 1)
    monkeypatch.setattr(advice, "SURELY", np.inf)
    found = advice.advise(checkpoint, "gguf", Converting(quant="q2_k"), expected, figures(1.0, 1.0))
    assert found.chosen is None and sum(row.figures is not None for row in found.tried) == 1
    best = next(row for row in found.tried if row.figures is not None)
    assert f"none of the 1 larger gguf types that were tried keeps within 2 %: the best is {best.quant}, " in (
        found.sentence()
    )


def test_advise_format_without_larger_types_says_nothing(models):
    checkpoint = open_folder(models["costly"])
    expected = measure_source(of_checkpoint(checkpoint), None, SHORT)
    for to, settings in (
        ("hf", Converting(quant="bf16")),
        ("onnx", Converting(quant="int8", graph="portable")),
        ("onnx", Converting(quant="fp32")),
    ):
        assert advice.advise(checkpoint, to, settings, expected, figures(1.0, 1.0)) is None
