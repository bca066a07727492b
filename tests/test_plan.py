"""Planned sizes, types chosen by measuring, and the sensitivity of tensors."""

import json
import tempfile

import numpy as np
import pytest
from click.testing import CliRunner
from handmade import small
from helpers import tokenmonster_files, write_model

from edgekit.cli.main import main
from edgekit.conversion import plan, search, sensitivity
from edgekit.conversion.convert import convert
from edgekit.conversion.verification.verify import verify
from edgekit.errors import MissingExtraError, RuntimeFailure, SettingError
from edgekit.formats.checkpoint import LlamaConfig, open_folder
from edgekit.formats.open import open_model
from edgekit.inference.reference import Reference
from edgekit.settings import Choosing, Converting, bytes_of
from edgekit.utils import registry
from edgekit.utils.progress import silent

gguf = pytest.importorskip("gguf")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("llama_cpp")

# Rows that suit K-quants, an untied head, and 8 layers, so that llama.cpp mixes types by layer; and rows that are not
# a multiple of 256, for which it uses other types.
WIDE = LlamaConfig(448, 256, 256, 8, 4, 1, 64, 128)
NARROW = LlamaConfig(448, 64, 160, 3, 4, 2, 16, 128, tie_word_embeddings=True)
GGUF = list(registry.load("converters", "gguf").QUANTS)
ONNX = list(registry.load("converters", "onnx").QUANTS)


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    folder, files = tmp_path_factory.mktemp("plan"), tokenmonster_files(small(1).to_bytes(), 448)
    return {
        name: write_model(folder / name, config, std=0.1, files=files)
        for name, config in (("wide", WIDE), ("narrow", NARROW))
    }


# ----------------------------------------------------------------------------- sizes


@pytest.mark.parametrize("model", ["wide", "narrow"])
@pytest.mark.parametrize("to, more", [
    ("gguf", {}), ("gguf", {"importance": "default"}), ("gguf", {"embedding_type": "q4_k"}), ("onnx", {}),
])  # fmt: skip
def test_plan_size_equals_size_of_the_file(models, tmp_path, model, to, more):
    """To the byte; the size of the receipt is checked below."""
    settings, checkpoint = Converting(**more), open_folder(models[model])
    module = registry.load("converters", to)
    quants = [quant for quant in module.QUANTS if quant not in getattr(module, "SAME", ())]
    if more:
        quants = ["q5_0", "iq4_nl"] if "importance" in more else ["q4_0", "q3_k_s"]
    elif model == "wide" and to == "gguf":  # the types that llama.cpp mixes most
        quants = ["f16", "q5_k_m", "iq4_nl", "q4_k_s", "q4_0", "q3_k_l", "q2_k"]
    rows = {row.quant: row for row in plan.plan(checkpoint, to, settings)}
    assert list(rows) == list(module.QUANTS)
    receipt = {"gguf": 2048 + 35, "onnx": 2048 + 22}[to]
    for quant in quants:
        path = tmp_path / f"{quant}{module.SUFFIX}"
        module.convert(checkpoint, path, Converting(quant=quant, **more), silent)
        assert abs(path.stat().st_size + receipt - rows[quant].bytes) < 32, quant
        if to == "gguf":
            tensors = gguf.GGUFReader(path).tensors
            bits = 8 * sum(int(t.n_bytes) for t in tensors) / sum(int(t.n_elements) for t in tensors)
            assert rows[quant].bits_per_weight == pytest.approx(bits)
            kinds = {t.tensor_type.name for t in tensors}
            assert set(rows[quant].types) == kinds, quant


@pytest.mark.parametrize("to, more", [
    ("gguf", {"quant": "q3_k_l", "importance": "default"}), ("onnx", {"quant": "int4"}),
])  # fmt: skip
def test_plan_size_with_receipt_equals_size_of_the_file(bundled, tmp_path, to, more):
    rows = {row.quant: row for row in plan.plan(open_folder(bundled), to, Converting(**more))}
    result = convert(bundled, to, tmp_path / f"m.{to}", settings=Converting(**more))
    assert result.receipt and result.path.stat().st_size == rows[more["quant"]].bytes


def test_plan_command_prints_table_and_writes_nothing(models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["convert", "-m", str(models["wide"]), "--plan", "--json"])
    assert done.exit_code == 0, done.output
    rows = json.loads(done.output)["types"]
    assert [row["quant"] for row in rows if row["to"] == "gguf"] == GGUF
    assert [row["quant"] for row in rows if row["to"] == "onnx"] == ONNX
    done = CliRunner().invoke(main, ["convert", "-m", str(models["wide"]), "--plan", "--to", "gguf"])
    assert done.exit_code == 0 and "q4_k_m" in done.output and "onnx" not in done.output
    row = next(row for row in rows if row["quant"] == "q2_k")
    assert f"{row['bytes']:,}" in done.output and f"{row['bits_per_weight']:.2f}" in done.output
    assert not list(tmp_path.iterdir())


def test_plan_without_llama_cpp_notes_the_extra_and_plans_the_rest(models, monkeypatch):
    def missing(what):
        raise MissingExtraError(f"{what} needs llama-cpp-python")

    monkeypatch.setattr(registry.load("converters", "_gguf_llama"), "library", missing)
    rows = {row.quant: row for row in plan.plan(open_folder(models["wide"]), "gguf")}
    assert rows["q4_k_m"].bytes is None and "needs llama-cpp-python" in rows["q4_k_m"].note
    assert rows["q4_0"].bytes and "-" in plan.report(open_folder(models["wide"]), list(rows.values()))


def test_plan_quantizer_that_refuses_raises_and_leaves_nothing(models, tmp_path, monkeypatch):
    llama = registry.load("converters", "_gguf_llama").library("a test")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(llama, "llama_model_quantize", lambda *_: 1)
    with pytest.raises(RuntimeFailure, match="llama.cpp cannot quantize to q6_k: it gives no reason"):
        plan.plan(open_folder(models["wide"]), "gguf")
    assert not list(tmp_path.iterdir())


def test_plan_does_not_read_llama_cpps_log(models, monkeypatch):
    """Messages change from version to version: the types are those of a small file that llama.cpp writes."""
    llama = registry.load("converters", "_gguf_llama").library("a test")
    expected = plan.plan(open_folder(models["narrow"]), "gguf")
    monkeypatch.setattr(llama, "llama_log_set", lambda *_: None)
    assert plan.plan(open_folder(models["narrow"]), "gguf") == expected


@pytest.mark.parametrize("size, count", [
    ("7MB", 7_000_000), ("6.5MiB", 6_815_744), ("7000000", 7_000_000), ("1.5 kB", 1500), ("2gb", 2_000_000_000),
    ("MB", None), ("-1MB", None), ("7 apples", None), ("1e3", None), ("", None),
])  # fmt: skip
def test_bytes_of_reads_units(size, count):
    assert bytes_of(size) == count
    if count is None:
        with pytest.raises(SettingError, match="target_size must be a size"):
            Choosing(target_size=size)


# ----------------------------------------------------------------------------- choosing


@pytest.fixture(scope="session")
def measured(models, tmp_path_factory):
    """Size and KL of every ONNX type of a model, measured independently: (quant, bytes, KL)."""
    folder = tmp_path_factory.mktemp("measured")
    paths = [
        convert(models["narrow"], "onnx", folder / f"{quant}.onnx", settings=Converting(quant=quant)).path
        for quant in ONNX
    ]
    found = verify(models["narrow"], paths, tokens=2048, greedy=0, threads=1).artefacts
    return [(p.path.stem, p.bytes, p.figures.mean_kl) for p in found]


@pytest.mark.parametrize("place", range(5))
def test_choose_finds_best_that_fits_and_smallest_below_kl(models, measured, place):
    checkpoint, (_, size, kl) = open_folder(models["narrow"]), measured[place]
    fits = [row for row in measured if row[1] <= size]
    best = min(fits, key=lambda row: row[2])
    choice = search.choose(checkpoint, "onnx", Converting(), Choosing(target_size=str(size)))
    chosen = next(row for row in measured if row[0] == choice.quant)
    assert chosen in fits and chosen[2] == pytest.approx(best[2], abs=1e-6)
    shown = {row.quant: row for row in choice.tried}
    assert {row.quant for row in choice.tried if row.verdict == "too large"} == {r[0] for r in measured if r[1] > size}
    assert shown[choice.quant].verdict == "chosen" and shown[choice.quant].bytes == chosen[1]
    assert shown[choice.quant].figures.mean_kl == pytest.approx(chosen[2], rel=0.01, abs=1e-6)

    expected = min((row for row in measured if row[2] <= kl * 1.01 + 1e-6), key=lambda row: row[1])
    choice = search.choose(checkpoint, "onnx", Converting(), Choosing(max_kl=kl * 1.01 + 1e-6))
    assert choice.quant == expected[0] and "smallest file" in choice.reason


def test_convert_command_with_target_size_keeps_only_the_chosen_file(models, measured, tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.chdir(tmp_path)
    int8 = next(row for row in measured if row[0] == "int8")
    done = CliRunner().invoke(
        main, ["convert", "-m", str(models["narrow"]), "--to", "onnx", "--target-size", str(int8[1]), "--json"]
    )
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["choice"]["quant"] == "int8" == found["receipt"]["quant"]
    assert (tmp_path / found["path"]).stat().st_size == int8[1]
    assert {p.name for p in tmp_path.iterdir()} == {"scratch", "narrow-int8.onnx"} and not list(scratch.iterdir())


def test_choose_impossible_request_raises_one_line(models, measured, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = ["convert", "-m", str(models["narrow"]), "--to", "onnx"]
    smallest = min(measured, key=lambda row: row[1])
    for arguments, message in [
        (["--target-size", "10kB"], f"fits into 10kB: the smallest, {smallest[0]}, takes {smallest[1] / 1e6:.2f} MB"),
        (["--max-kl", "1e-9", "--target-size", str(smallest[1])], f"the best, {smallest[0]}, has "),
        (["--max-kl", "0.1", "--quant", "int8"], "omit --quant"),
        (["--max-kl", "-1"], "max_kl must be a number of at least 0"),
        (["--sensitivity"], "--sensitivity needs --plan"),
        (["--plan", "--target-size", "1MB"], "--plan neither writes nor chooses"),
        (["--plan", "--graph", "portable"], "the size of a portable one"),
        (["--plan", "--importance", "default"], "importance is a setting of gguf"),
    ]:
        done = CliRunner().invoke(main, base + arguments)
        assert done.exit_code == 2 and message in done.output, (arguments, done.output)
    for arguments, message in [
        (["convert"], "Missing option '--to'"),
        (["convert", "--plan", "--to", "hf"], "no types to plan with"),
    ]:
        done = CliRunner().invoke(main, [*arguments, "-m", str(models["narrow"])])
        assert done.exit_code == 2 and message in done.output
    assert not list(tmp_path.iterdir())


def test_choose_importance_is_used_only_by_types_that_can(models, monkeypatch):
    module = registry.load("converters", "gguf")
    monkeypatch.setattr(module, "QUANTS", ("f32", "q8_0", "q4_0"))
    choice = search.choose(
        open_folder(models["narrow"]), "gguf", Converting(importance="default"), Choosing(max_kl=1e9)
    )
    assert choice.quant in module.WEIGHTED and choice.importance == "default"
    assert "weighed by this same text" in search.report(choice)
    lossless = search.choose(
        open_folder(models["narrow"]), "gguf", Converting(importance="default"), Choosing(target_size="1GB")
    )
    assert lossless.quant not in module.WEIGHTED and lossless.importance is None


# ----------------------------------------------------------------------------- sensitivity


@pytest.mark.parametrize("to, quant", [("gguf", "q4_0"), ("gguf", "q3_k_s"), ("onnx", "int4"), ("gguf", "f32")])
def test_sensitivity_group_equals_replacing_its_tensors(models, tmp_path, to, quant):
    """Compared with a mixture built here from the file, which for GGUF is read back as a model."""
    checkpoint = open_folder(models["wide"])
    groups, truth = sensitivity.sensitivity(checkpoint, to, Converting(quant=quant))
    found = {group.name: group for group in groups}
    assert list(found) == [*sensitivity.GROUPS, sensitivity.ALL]
    matrices = sum(int(np.prod(s)) for s in WIDE.shapes().values() if len(s) == 2)
    assert sum(group.parameters for name, group in found.items() if name != sensitivity.ALL) == matrices
    if quant == "f32":
        assert all(group.mean_kl < 1e-9 for group in groups)
        return
    assert all(group.mean_kl > 1e-6 for group in groups)
    if to == "gguf":
        path = convert(models["wide"], to, tmp_path / "m.gguf", settings=Converting(quant=quant)).path
        back = open_model(path)
        for name, part in ((sensitivity.ALL, "weight"), ("down", "down_proj")):
            mixed = {n: (back if part in n else checkpoint).float32(n) for n in checkpoint.config.shapes()}
            kl = by_hand(truth, Reference(checkpoint), Reference(type(back)("x", back.config, mixed, {}, {})))
            assert found[name].mean_kl == pytest.approx(kl, rel=1e-3)


def by_hand(truth, source, other):
    found = []
    for window in truth.windows:
        source.rewind(0)
        other.rewind(0)
        p, q = (model.forward(window[:-1], every=True).astype(np.float64) for model in (source, other))
        p, q = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in (p, q))
        found += list((np.exp(p) * (p - q)).sum(-1))
    return np.mean(found)


def test_sensitivity_command_prints_a_column_for_each_type(models):
    done = CliRunner().invoke(main, ["convert", "-m", str(models["narrow"]), "--plan", "--to", "onnx", "--sensitivity"])
    assert done.exit_code == 0, done.output
    assert "onnx int8" in done.output and "onnx int4_pure" in done.output and "attention q" in done.output
    done = CliRunner().invoke(
        main, ["convert", "-m", str(models["narrow"]), "--plan", "--to", "onnx", "--sensitivity", "--json"]
    )
    groups = json.loads(done.output)["sensitivity"]["onnx"]
    assert {group["quant"] for group in groups} == {"int8", "int4_pure"}
