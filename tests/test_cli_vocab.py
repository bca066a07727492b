"""`edgekit vocab`: files, figures and one-line errors."""

import json

import pytest
from click.testing import CliRunner

from edgekit.cli.main import main
from edgekit.tokenizers.tokenmonster.vocabulary import Vocabulary
from edgekit.utils import registry

pytest.importorskip("numba")

TEXT = "\n".join(
    f'Once upon a time there were {n} bears. "Who ate my porridge?" said bear {n * 7}.' for n in range(400)
)


@pytest.fixture(scope="module", autouse=True)
def quick():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry.load("training", "vocab_train"), "GROUPS", 3)
        yield


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bears.txt").write_text(TEXT)
    return tmp_path


def call(*arguments, code=0):
    result = CliRunner().invoke(main, ["vocab", *map(str, arguments)])
    assert result.exit_code == code, result.output + result.stderr
    assert "Traceback" not in result.stderr and (code == 0 or len(result.stderr.strip().splitlines()) <= 5)
    return result


@pytest.fixture(scope="module")
def bears(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bears")
    (folder / "bears.txt").write_text(TEXT)
    result = CliRunner().invoke(
        main,
        ["vocab", "train", "--data", str(folder / "bears.txt"), "--size", "300", "-o", str(folder / "b.vocab")],
    )
    assert result.exit_code == 0, result.output
    return folder / "b.vocab"


# ---- train ---------------------------------------------------------------------------------------------------------


def test_train_writes_a_vocabulary_and_prints_its_path(here):
    result = call("train", "--data", "bears.txt", "--size", 280)
    assert result.stdout == "bears-280.vocab\n"
    assert "280 tokens out of" in result.stderr and "bytes/token" in result.stderr
    assert Vocabulary.load("bears-280.vocab").size == 280


def test_train_json_has_path_and_figures(here):
    facts = json.loads(
        call(
            "train", "--data", here, "--size", 270, "--capcode", 2, "--mode", "balanced", "--json", "-o", "x.vocab"
        ).stdout
    )
    assert facts["path"] == "x.vocab" and facts["size"] == 270 and facts["bytes_per_token"] > 1
    assert Vocabulary.load("x.vocab").capcode == 2


def test_train_normalize_sets_the_vocabulary_s_bits(here):
    call("train", "--data", "bears.txt", "--size", 270, "--normalize", "none", "-o", "none.vocab")
    call(
        "train",
        "--data",
        "bears.txt",
        "--size",
        270,
        "--normalize",
        "nfd",
        "--normalize",
        "lowercase",
        "-o",
        "low.vocab",
    )
    assert Vocabulary.load("none.vocab").normalization == 0
    assert Vocabulary.load("low.vocab").normalization == 3


@pytest.mark.parametrize("arguments, words, code", [
    (["--data", "bears.txt", "--size", "256"], "size must be above 256", 2),
    (["--data", "bears.txt", "--size", "0"], "size must be a whole number from 1", 2),
    (["--data", "bears.txt", "--mode", "loose"], "loose", 2),
    (["--data", "bears.txt", "--capcode", "3"], "capcode must be a whole number from 0 to 2", 2),
    (["--data", "bears.txt", "--capcode", "0"], "needs capcode 1 or 2", 2),
    (["--data", "bears.txt", "--weight", "bears"], "--weight takes CORPUS=NUMBER", 2),
    (["--data", "bears.txt", "--weight", "wolves=2"], "no corpus is named 'wolves'", 2),
    (["--data", "bears.txt", "--weight", "bears=-1"], "above 0", 2),
    (["--data", "nowhere.txt"], "nowhere.txt does not exist", 1),
    (["--data", "empty.txt"], "empty.txt is empty", 1),
    (["--data", "binary.txt"], "binary.txt is not UTF-8", 1),
    (["--data", "bears.txt", "--size", "9000"], "lower the size", 1),
    (["--data", "bears.txt", "--size", "270", "-o", "bears.txt"], "exists already", 1),
    (["--data", "bears.txt", "--size", "270", "-o", "bears.txt/x.vocab"], "cannot write", 1),
    ([], "--data", 2),
])  # fmt: skip
def test_train_invalid_input_prints_one_line_and_leaves_nothing(here, arguments, words, code):
    (here / "empty.txt").write_text("")
    (here / "binary.txt").write_bytes(bytes(range(256)))
    before = sorted(here.iterdir())
    assert words in call("train", *arguments, code=code).stderr
    assert sorted(here.iterdir()) == before, "nothing is left behind"


# ---- inspect -------------------------------------------------------------------------------------------------------


def test_inspect_prints_the_facts(bears):
    shown = call("inspect", bears).stdout
    for words in ("300 tokens", "256 of 256", "1, delete marker", "strict", "nfd", "sha256"):
        assert words in shown
    facts = json.loads(call("inspect", bears, "--json").stdout)
    assert facts["size"] == 300 and facts["missing_bytes"] == [] and facts["special"] == {}
    assert len(facts["sha256"]) == 64 and facts["longest"] and 0 < facts["space_led"] < 1


def test_inspect_published_vocabulary_has_known_figures(shared):
    path = shared / "tokenmonster" / "vocabs" / "english-8000-strict-nocapcode-v1.vocab"
    facts = json.loads(call("inspect", path, "--json").stdout)
    assert (facts["size"], facts["duplicates"], facts["delete_token"]) == (8000, 1244, 98)
    assert len(facts["missing_bytes"]) == 42
    assert "none for 00-08 0B-0C 0E-1F C0-C1 F5-FF" in call("inspect", path).stdout
    assert round(facts["space_led"] * 8000) == 6448


def test_inspect_several_files_compares_them_on_a_text(here, bears):
    call("train", "--data", "bears.txt", "--size", 260, "-o", "small.vocab")
    shown = call("inspect", bears, "small.vocab", "--text", "bears.txt").stdout
    row = shown.splitlines()[-1].split()
    assert row[0] == "bears.txt" and float(row[1]) > float(row[2]) > 1


def test_inspect_other_file_is_refused_by_name(here):
    assert "bears.txt" in call("inspect", "bears.txt", code=1).stderr


# ---- change --------------------------------------------------------------------------------------------------------


def test_add_special_keeps_ids_and_refuses_duplicates(here, bears):
    result = call("add-special", bears, "<eos>", "<pad>", "-o", "special.vocab")
    assert result.stdout == "special.vocab\n" and "300" in result.stderr
    changed = Vocabulary.load("special.vocab")
    assert changed.special_ids == {300, 301} and changed.size == 302
    assert call("add-special", "special.vocab", "<eos>", "-o", "again.vocab", code=2).stderr.count("already") == 1
    assert "exists already" in call("add-special", bears, "<x>", "-o", "special.vocab", code=1).stderr
    call("add-special", bears, "<x>", "-o", "special.vocab", "--force")
    assert Vocabulary.load("special.vocab").size == 301


def test_resize_shrinks_and_restores_within_limits(here, bears):
    assert call("resize", bears, 280).stdout == "b-280.vocab\n"
    assert Vocabulary.load("b-280.vocab").size == 280
    facts = json.loads(call("resize", "b-280.vocab", 300, "-o", "grown.vocab", "--json").stdout)
    assert facts["size"] == 300 and Vocabulary.load("grown.vocab").records == Vocabulary.load(bears).records
    assert "can shrink to 256" in call("resize", bears, 100, code=2).stderr
    assert "can grow to 300" in call("resize", bears, 301, code=2).stderr


# ---- plan ----------------------------------------------------------------------------------------------------------


def test_plan_json_equals_the_model_card():
    plans = json.loads(call("plan", "--vocab", "8064,32768", "--hidden", "192,256", "--json").stdout)
    shapes = {(p["vocab_size"], p["hidden_size"]): p for p in plans}
    assert shapes[8064, 256]["parameters"] == 12_294_400 and shapes[8064, 256]["embedding"] == 2_064_384
    assert round(shapes[8064, 256]["embedding_share"], 3) == 0.168
    assert shapes[32768, 192]["embedding"] == 6_291_456 and shapes[32768, 192]["parameters"] == 12_047_040
    assert round(shapes[32768, 192]["embedding_share"], 3) == 0.522


def test_plan_table_and_budget_limit_parameters():
    assert "12,294,400  16.8%" in call("plan").stdout
    plans = json.loads(call("plan", "--hidden", "256", "--budget", 12_300_000, "--json").stdout)
    layers = [p["layers"] for p in plans]
    assert layers == sorted(layers, reverse=True) and layers[1] == 12
    assert all(p["parameters"] <= 12_300_000 for p in plans)


@pytest.mark.parametrize("numbers", ["many", "0", "1,,2", "-4"])
def test_plan_invalid_numbers_exit_with_2(numbers):
    call("plan", "--vocab", numbers, code=2)
