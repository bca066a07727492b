"""BLiMP: against lm-evaluation-harness's rules on plain transformers, and on a runtime small enough to predict."""

import csv
import json
import zipfile

import numpy as np
import pytest
from test_evaluate import Letters, Remembering, opened, plain, run  # noqa: F401  (fixtures)

from edgekit.errors import ContextError, DataError, FileError, UsageError
from edgekit.evaluation import blimp as verb
from edgekit.evaluation.blimp import Blimp, Pair, Paradigm, Scorer, blimp, read, sequence
from edgekit.evaluation.report import blimp_report
from edgekit.model import Model
from edgekit.utils import registry, texts

PAIRS = [
    Pair("agreement", "the cat sleeps", "the cat sleep", "morphology", "subject_verb_agreement"),
    Pair("agreement", "the cats sleep", "the cats sleeps", "morphology", "subject_verb_agreement"),
    Pair("agreement", "dogs bark", "dogs barks", "morphology", "subject_verb_agreement"),
    Pair("island", "who is there", "is there who", "syntax", "island_effects"),
    Pair("island", "same", "same", "syntax", "island_effects"),
    Pair("island", "a", "b", "syntax", "island_effects"),
]


class Fickle(Remembering):
    """Like dynamic int8: the number of tokens in a call changes the logits."""

    def forward(self, tokens, *, every=False):
        return super().forward(tokens, every=every) + np.float32(0.01 * len(tokens)) * np.arange(self.vocab_size)


@pytest.fixture
def model():
    return Model(Remembering(64), Letters())


def score(model, text, prefix):
    """Token by token, in float64."""
    ids = [*prefix, *model.tokenizer.encode(text)]
    return sum(model.runtime.logprob(ids[: i + 1]) for i in range(1, len(ids)))


# ----------------------------------------------------------------------------- rules


@pytest.mark.parametrize("reuse", [False, True, None])
@pytest.mark.parametrize("protocol, space, prefix", [("lm-eval", " ", [0]), ("bare", "", [])])
def test_blimp_protocols_equal_hand_computed(model, protocol, space, prefix, reuse):
    result = blimp(model, PAIRS, protocol=protocol, reuse=reuse)
    for paradigm in result.paradigms:
        mine = [p for p in PAIRS if p.paradigm == paradigm.name]
        right = sum(score(model, space + p.good, prefix) >= score(model, space + p.bad, prefix) for p in mine)
        assert (paradigm.pairs, paradigm.right) == (len(mine), right)
    assert [p.name for p in result.paradigms] == ["agreement", "island"]
    assert result.prefix == (prefix[0] if prefix else None) and result.reuse is (reuse is not False)
    assert model.runtime.length == 0


def test_scorer_reuse_keeps_scores_and_saves_calls(model):
    sentences = [sequence(model, " " + text, 0) for p in PAIRS for text in (p.good, p.bad)]
    alone = Scorer(model.runtime, False).scores(sentences)
    fed = sum(map(len, model.runtime.calls))
    model.runtime.calls.clear()
    assert Scorer(model.runtime, True).scores(sentences) == alone, "to the last bit, where the runtime is exact"
    assert sum(map(len, model.runtime.calls)) < 0.8 * fed
    assert alone == pytest.approx([score(model, " " + t, [0]) for p in PAIRS for t in (p.good, p.bad)], abs=1e-5)


def test_scorer_reuse_any_order_keeps_scores(model):
    rng = np.random.default_rng(3)
    sentences = [[0, *rng.integers(1, 3, rng.integers(0, 6)).tolist()] for _ in range(200)]
    scorer, alone = Scorer(model.runtime, True), Scorer(Remembering(64), False)
    assert [scorer.score(ids) for ids in sentences] == [alone.score(ids) for ids in sentences]


def test_blimp_reuse_is_off_where_logits_change():
    fickle = Model(Fickle(64), Letters())
    result = blimp(fickle, PAIRS)
    assert result.reuse is False and result.paradigms == blimp(fickle, PAIRS, reuse=False).paradigms


def test_sequence_prefix_is_not_repeated(model):
    assert sequence(model, "abc", 1) == [1, 2, 3], "as lm-eval: the first id becomes the context"
    assert sequence(model, "abc", 0) == [0, 1, 2, 3]
    assert sequence(model, "abc", None) == [1, 2, 3]


def test_blimp_tie_counts_as_right(model):
    same = [Pair("tie", "abc", "abc"), Pair("tie", "x", "y")]
    assert blimp(model, same, protocol="bare").paradigms[0].right == 2, "a single token scores 0 without a prefix"
    assert blimp(model, same[:1]).paradigms[0].right == 1


def test_blimp_means_are_over_paradigms():
    rows = [
        ("a", "f", 1000, 850),
        ("b", "f", 10, 5),
        ("c", "g", 1000, 849),
        ("d", "g", 1000, 551),
        ("e", "g", 1000, 550),
    ]
    result = Blimp("bare", None, True, tuple(Paradigm(n, f, "t", pairs, right) for n, f, pairs, right in rows))
    assert [p.level for p in result.paradigms] == ["strong", "weak", "moderate", "moderate", "weak"]
    assert result.accuracy == pytest.approx((85 + 50 + 84.9 + 55.1 + 55) / 5)
    assert result.by("field")["f"] == (2, pytest.approx(67.5))
    assert {name: n for name, (n, _) in result.by("level").items()} == {"strong": 1, "moderate": 2, "weak": 2}
    for markdown in (False, True):
        text = blimp_report(result, markdown=markdown)
        assert "Strong (≥ 85 %)" in text and "Weak (≤ 55 %)" in text and "5 of 67" in text and "66.00 %" in text


def test_blimp_limit_and_paradigms_select_pairs(model):
    result = blimp(model, PAIRS, limit=2, paradigms=("island",))
    assert [(p.name, p.pairs) for p in result.paradigms] == [("island", 2)]
    with pytest.raises(UsageError, match="no paradigm 'iland': did you mean island"):
        blimp(model, PAIRS, paradigms=("iland",))
    with pytest.raises(UsageError, match="no paradigm 'zzz': there are 2"):
        blimp(model, PAIRS, paradigms=("zzz",))


def test_blimp_invalid_input_raises(model):
    with pytest.raises(DataError, match="no sentence pairs"):
        blimp(model, [])
    with pytest.raises(ContextError, match="66 tokens does not fit into the context of 64"):
        blimp(model, [Pair("long", "a" * 65, "b")], protocol="bare", prefix="eos")
    blimp(model, [Pair("long", "a" * 64, "b")], protocol="bare", prefix="eos")  # the last token is never fed
    with pytest.raises(UsageError, match="neither BOS nor EOS"):
        letters = Letters()
        letters.stop = frozenset()
        blimp(Model(Remembering(), letters), PAIRS)


# ----------------------------------------------------------------------------- files


def line(good="g", bad="b", **more):
    return json.dumps({"sentence_good": good, "sentence_bad": bad, **more}) + "\n"


def test_a_zip_that_expands_without_end_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(texts, "FEW", 1_000_000)
    line = b'{"sentence_good": "a", "sentence_bad": "b", "UID": "x"}\n'
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(4):
            archive.writestr(f"{i}.jsonl", line * 10_000)
    with pytest.raises(DataError, match=r"b.zip: 1.jsonl expands to more than"):
        read(tmp_path / "b.zip")


def test_read_zip_folder_and_file(tmp_path):
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("data/x.jsonl", line(UID="x", field="syntax/semantics", linguistics_term="t"))
        archive.writestr("data/w.jsonl", line("é", field="syntax_semantics"))
        archive.writestr("__MACOSX/data/._x.jsonl", b"\0\xff")
        archive.writestr("README.md", "not read")
    expected = [Pair("w", "é", "b", "syntax_semantics"), Pair("x", "g", "b", "syntax_semantics", "t")]
    assert read(tmp_path / "b.zip") == expected
    zipfile.ZipFile(tmp_path / "b.zip").extractall(tmp_path / "folder", ["data/x.jsonl", "data/w.jsonl"])
    assert read(tmp_path / "folder") == expected
    assert read(tmp_path / "folder" / "data" / "x.jsonl") == expected[1:]


def test_read_damaged_file_is_named(tmp_path):
    zipfile.ZipFile(tmp_path / "empty.zip", "w").close()
    (tmp_path / "broken.zip").write_bytes(b"PK\3\4 and no more")
    (tmp_path / "bad.jsonl").write_text(line() + json.dumps({"sentence_good": "g"}))
    for name, message in (
        ("empty.zip", "no .jsonl files with sentence pairs"),
        ("broken.zip", "not a complete zip"),
        ("bad.jsonl", 'line 2 has no "sentence_bad"'),
    ):
        with pytest.raises(DataError, match=message):
            read(tmp_path / name)
    for name in ("absent.zip", "absent"):
        with pytest.raises(FileError, match="No such file"):
            read(tmp_path / name)


def test_read_published_files(shared):
    pairs = read(shared / "data" / "blimp.zip")
    assert len(pairs) == 67_000 and len({p.paradigm for p in pairs}) == 67
    assert {p.field for p in pairs} == {"syntax", "morphology", "semantics", "syntax_semantics"}
    assert len({p.term for p in pairs}) == 13


# ----------------------------------------------------------------------------- the command


def test_blimp_command_prints_tables_json_and_csv(tmp_path, monkeypatch, model):
    monkeypatch.setattr("edgekit.model.load", lambda path, **options: model)
    file = tmp_path / "p.jsonl"
    file.write_text("".join(line(p.good, p.bad, UID=p.paradigm, field=p.field, linguistics_term=p.term) for p in PAIRS))
    expected = blimp(model, PAIRS)
    done = run("blimp", file, "--csv", tmp_path / "out.csv")
    assert done.exit_code == 0, done.output
    assert f"{expected.accuracy:.2f} %" in done.stdout and "protocol lm-eval" in done.stdout
    assert [r["right"] for r in csv.DictReader((tmp_path / "out.csv").open())] == [
        str(p.right) for p in expected.paradigms
    ]
    record = json.loads(run("blimp", file, "--json", "--no-reuse", "--paradigm", "island").stdout)
    assert record["reuse"] is False and [p["name"] for p in record["paradigms"]] == ["island"]
    assert "#### By field" in run("blimp", file, "--markdown").stdout
    for status, text, arguments in (
        (2, "no paradigm 'nonsense'", [file, "--paradigm", "nonsense"]),
        (2, "prefix must be", [file, "--prefix", "nonsense"]),
        (1, "No such file", [tmp_path / "absent.zip"]),
    ):
        done = run("blimp", *arguments)
        assert done.exit_code == status and text in done.stderr and len(done.stderr.strip().splitlines()) == 1


# ----------------------------------------------------------------------------- real models


def some(shared, count):
    """The first pairs of six paradigms of different kinds."""
    names = "adjunct_island anaphor_number_agreement causative passive_1 tough_vs_raising_1 wh_island".split()
    pairs = read(shared / "data" / "blimp.zip")
    return [p for name in names for p in [q for q in pairs if q.paradigm == name][:count]]


def lm_eval_score(model, tokenizer, sentence, space, prefix):
    """lm_eval.models.huggingface: the continuation after an empty context, for which the prefix token stands in."""
    import torch

    continuation = tokenizer(space + sentence, add_special_tokens=False).input_ids
    context = [prefix] if prefix is not None else [continuation.pop(0)]
    with torch.inference_mode():
        logits = model(torch.tensor([(context + continuation)[:-1]])).logits
    logprobs = torch.log_softmax(logits[0].double(), -1)[-len(continuation) :]
    return float(logprobs[range(len(continuation)), continuation].sum())


@pytest.mark.parametrize("protocol", ["lm-eval", "bare"])
def test_blimp_scores_equal_lm_eval_on_transformers(opened, plain, shared, protocol):  # noqa: F811
    ours, pairs = opened("torch"), some(shared, 6)
    space, prefix = (" ", plain[1].bos_token_id) if protocol == "lm-eval" else ("", None)
    sentences = [text for p in pairs for text in (p.good, p.bad)]
    theirs = [lm_eval_score(*plain, text, space, prefix) for text in sentences]
    for reuse in (False, True):
        scores = Scorer(ours.runtime, reuse).scores([sequence(ours, space + text, prefix) for text in sentences])
        assert np.abs(np.subtract(scores, theirs)).max() < 1e-4
    right = {p.name: p.right for p in blimp(ours, pairs, protocol=protocol).paradigms}
    for name in right:
        mine = [i for i, p in enumerate(pairs) if p.paradigm == name]
        assert right[name] == sum(theirs[2 * i] >= theirs[2 * i + 1] for i in mine)


@pytest.mark.parametrize("runtime", [r for r in registry.names("runtimes") if r != "torch"])
def test_blimp_runtimes_agree_and_reuse_is_on_at_f32(opened, shared, runtime):  # noqa: F811
    pairs = some(shared, 5)
    sentences = [sequence(opened("torch"), " " + text, 1) for p in pairs for text in (p.good, p.bad)]
    expected = Scorer(opened("torch").runtime, False).scores(sentences)
    for reuse in (False, True):
        assert np.abs(np.subtract(Scorer(opened(runtime).runtime, reuse).scores(sentences), expected)).max() < 1e-4
    ours, theirs = blimp(opened(runtime), pairs), blimp(opened("torch"), pairs)
    assert ours.reuse and theirs.reuse and ours == theirs
    assert verb.invariant(opened(runtime).runtime, sentences[0])
