"""Perplexity: against plain transformers on the same checkpoint, and on a runtime small enough to predict."""

import csv
import gzip
import json
import math

import click
import numpy as np
import pytest
from click.testing import CliRunner
from handmade import small

import edgekit
from edgekit.cli.eval import evaluate as eval_group
from edgekit.cli.main import Commands
from edgekit.errors import (
    ContextError,
    DataError,
    FileError,
    MissingExtraError,
    PromptError,
    RuntimeFailure,
    UsageError,
)
from edgekit.evaluation.perplexity import perplexity
from edgekit.inference import scoring
from edgekit.inference.runtime import check_forward, check_rewind
from edgekit.inference.scoring import (
    blockwise,
    declared,
    log_sum_exp,
    prefix_id,
    rolling,
    strided,
    target_logprobs,
    window_logprobs,
)
from edgekit.model import Model
from edgekit.tokenizers.tokenmonster.tokenizer import TokenMonsterTokenizer, files_for
from edgekit.utils import registry
from edgekit.utils import texts as texts_of_files
from edgekit.utils.texts import Document, read

VOCABULARY = 40


class Remembering:
    """Logits that depend on every token in the cache, so that a forgotten one changes them."""

    def __init__(self, context_length=16, files=None):
        self.vocab_size, self.context_length, self.files = VOCABULARY, context_length, files or {}
        self.cache, self.calls = [], []

    @property
    def length(self):
        return len(self.cache)

    def logits(self, tokens):
        return np.random.default_rng([len(tokens), *tokens]).normal(0, 3, VOCABULARY).astype(np.float32)

    def forward(self, tokens, *, every=False):
        check_forward(self, tokens)
        self.calls.append(list(tokens))
        rows = []
        for token in tokens:
            self.cache.append(int(token))
            rows.append(self.logits(self.cache))
        return np.stack(rows) if every else rows[-1]

    def rewind(self, length):
        check_rewind(self, length)
        del self.cache[length:]

    def logprob(self, tokens):
        """Of the last token after those before it, in float64."""
        logits = self.logits(tokens[:-1]).astype(np.float64)
        return logits[tokens[-1]] - np.log(np.exp(logits).sum())


class Letters:
    """a..z are 1..26, space 27; 0 ends a text."""

    vocab_size, stop = VOCABULARY, frozenset({0})

    def __init__(self, bos=None):
        self.bos = bos

    def encode(self, text, *, specials=False):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise PromptError("not UTF-8") from error
        return [27 if c == " " else 1 + (ord(c) - 97) % 26 for c in text]


@pytest.fixture
def model():
    return Model(Remembering(), Letters())


def by_hand(model, windows):
    """Negative log-probabilities of windows given as (ids, index of the first scored one), token by token."""
    return -sum(model.runtime.logprob(list(ids[: i + 1])) for ids, first in windows for i in range(first, len(ids)))


# ----------------------------------------------------------------------------- log-probabilities


@pytest.mark.parametrize("size", [1, 7, 8064, 300_000])
@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0])
def test_log_sum_exp_in_float32_is_within_1e_6_of_float64(size, scale):
    logits = (scale * np.random.default_rng(0).standard_normal((5, size)) + scale).astype(np.float32)
    original, wide = logits.copy(), logits.astype(np.float64)
    largest = wide.max(-1, keepdims=True)
    exact = largest[:, 0] + np.log(np.exp(wide - largest).sum(-1))
    assert np.abs(log_sum_exp(logits) - exact).max() < 1e-6 * max(1, scale)
    assert (logits == original).all(), "the caller's array is not changed"
    targets = np.arange(5) % size
    assert np.allclose(target_logprobs(logits, targets), wide[range(5), targets] - exact, atol=1e-6 * max(1, scale))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_log_sum_exp_non_finite_logits_raise(bad):
    with pytest.raises(RuntimeFailure, match="not finite"):
        log_sum_exp(np.array([[0, bad]], np.float32))


def test_window_logprobs_large_vocabulary_is_scored_in_parts(model, monkeypatch):
    window = list(range(1, 14))
    whole = window_logprobs(model.runtime, window)
    monkeypatch.setattr(scoring, "MOST_LOGITS", 3 * VOCABULARY)
    model.runtime.calls.clear()
    assert np.array_equal(window_logprobs(model.runtime, window), whole)
    assert [len(c) for c in model.runtime.calls] == [3, 3, 3, 3]
    assert np.array_equal(window_logprobs(model.runtime, window, 6), whole[5:])


# ----------------------------------------------------------------------------- windows


def guide(length, context, stride):
    """The loop of Hugging Face's guide: which targets each window scores, after its shift by one."""
    previous, result = 0, []
    for begin in range(0, length, stride):
        end = min(begin + context, length)
        first = end - (end - previous)
        result.append((begin, end, max(first, begin + 1)))
        previous = end
        if end == length:
            break
    return result


def harness(tokens, prefix, most):
    """lm_eval.utils.get_rolling_token_windows with context_len 1, and make_disjoint_window: (context, predicted)."""
    result, predicted = [], 0
    length = min(most, len(tokens))
    result.append(([prefix, *tokens[: length - 1]], tokens[:length]))
    predicted += length
    while predicted < len(tokens):
        size = min(len(tokens) - predicted, most)
        end = predicted + size
        result.append((tokens[end - most - 1 : end - 1], tokens[end - size : end]))
        predicted += size
    return [(a[: len(a) - (len(b) - 1)], b) for a, b in result]


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 16, 17, 31])
@pytest.mark.parametrize("stride", [1, 3, 4, 8])
def test_strided_windows_equal_the_guides(length, stride):
    ids = list(range(length))
    ours = [(w[0], w[-1] + 1, w[0] + first) for w, first in strided(ids, 8, None, stride)]
    assert ours == guide(length, 8, stride)
    if stride < 8:
        assert sorted(t for w, first in strided(ids, 8, None, stride) for t in w[first:]) == ids[1:]


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 16, 17, 31])
def test_rolling_windows_equal_lm_evals(length):
    ids = list(range(100, 100 + length))
    ours = [(list(w[:first]), list(w[first:])) for w, first in rolling(ids, 8, 7)]
    assert ours == harness(ids, 7, 8)
    assert [t for w, first in rolling(ids, 8, None) for t in w[first:]] == ids[1:]


def test_blockwise_windows_are_separate():
    ids = list(range(10))
    assert list(blockwise(ids, 4, None)) == [([0, 1, 2, 3], 1), ([4, 5, 6, 7], 1), ([8, 9], 1)]
    assert list(blockwise(ids, 4, 30)) == [([30, 0, 1, 2, 3], 1), ([30, 4, 5, 6, 7], 1), ([30, 8, 9], 1)]


# ----------------------------------------------------------------------------- perplexity


TEXTS = [Document("a", "the cat sat on the mat and slept"), Document("b", "é bé"), Document("a", "dogs")]


def test_score_sums_and_means_equal_hand_computed(model):
    result = perplexity(model, TEXTS)
    assert (result.prefix, result.context, result.stride) == (0, 16, None), "no BOS: EOS comes before"
    a, b = result.corpora["a"], result.corpora["b"]
    assert (a.documents, a.tokens, a.scored, a.bytes, a.words) == (2, 36, 36, 36, 9)
    assert (b.documents, b.tokens, b.scored, b.bytes, b.words) == (1, 4, 4, 6, 2)
    ids = [model.tokenizer.encode(d.text) for d in TEXTS]
    expected = by_hand(model, [w for i in (0, 2) for w in blockwise(ids[i], 16, 0)])
    assert a.nats == pytest.approx(expected, abs=1e-5)
    assert a.loss == pytest.approx(a.nats / 36) and a.perplexity == pytest.approx(math.exp(a.loss))
    assert a.bits_per_byte == pytest.approx(a.nats / math.log(2) / 36)
    assert a.bits_per_word == pytest.approx(a.nats / math.log(2) / 9)
    assert result.total.nats == pytest.approx(a.nats + b.nats) and result.total.documents == 3
    assert model.runtime.length == 0


@pytest.mark.parametrize("settings, windows", [
    ({"prefix": "none"}, lambda ids: blockwise(ids, 16, None)),
    ({"prefix": "5", "context": 7}, lambda ids: blockwise(ids, 7, 5)),
    ({"protocol": "strided"}, lambda ids: strided(ids, 16, 0, 8)),
    ({"protocol": "strided", "stride": 3, "context": 9, "prefix": "none"}, lambda ids: strided(ids, 9, None, 3)),
    ({"protocol": "rolling", "context": 11}, lambda ids: rolling(ids, 11, 0)),
])  # fmt: skip
def test_perplexity_protocols_equal_hand_computed(model, settings, windows):
    result = perplexity(model, [TEXTS[0].text], **settings)
    cut = list(windows(model.tokenizer.encode(TEXTS[0].text)))
    assert result.total.nats == pytest.approx(by_hand(model, cut), abs=1e-5)
    assert result.total.scored == sum(len(w) - first for w, first in cut)


def test_perplexity_pack_joins_documents_with_eos(model):
    result = perplexity(model, TEXTS, pack=True)
    joined = [*model.tokenizer.encode(TEXTS[0].text), 0, *model.tokenizer.encode("dogs"), 0]
    assert result.prefix is None and result.corpora["a"].tokens == 38 and result.corpora["a"].scored == 38 - 3
    assert result.corpora["a"].nats == pytest.approx(by_hand(model, blockwise(joined, 16, None)), abs=1e-5)
    a = result.corpora["a"]
    assert a.bits_per_byte == pytest.approx(a.loss * 38 / 36 / math.log(2)), "the unscored cost what the others do"


def test_perplexity_limits_count_per_corpus(model):
    result = perplexity(model, TEXTS, limit=1)
    assert result.corpora["a"].documents == 1 and result.corpora["b"].documents == 1
    for pack in (False, True):
        result = perplexity(model, [Document("a", "abc")] * 5 + [Document("b", "abc")], max_tokens=7, pack=pack)
        assert result.corpora["a"].documents == (2 if pack else 3) and result.corpora["b"].documents == 1


def test_perplexity_invalid_settings_raise(model):
    for error, message, settings in (
        (ContextError, "windows of 17 tokens do not fit into the context of 16", {"context": 17}),
        (UsageError, "stride needs", {"stride": 4}),
        (UsageError, "stride of 9 would skip", {"protocol": "strided", "context": 8, "stride": 9}),
        (UsageError, "no BOS", {"prefix": "bos"}),
        (UsageError, "outside the vocabulary of 40", {"prefix": "40"}),
        (UsageError, "prefix must be", {"prefix": "nonsense"}),
    ):
        with pytest.raises(error, match=message):
            perplexity(model, ["abc"], **settings)
    for texts in ([], [""], ["a"]):
        with pytest.raises(DataError, match="nothing to score"):
            perplexity(model, texts, prefix="none")
    with pytest.raises(ContextError, match="too short"):
        perplexity(Model(Remembering(1), Letters()), ["abc"])
    with pytest.raises(PromptError):
        perplexity(model, ["\ud800"])


def test_prefix_id_model_and_lm_eval():
    """Stentor2 declares a BOS that its training never used: its texts follow EOS, but lm-eval adds BOS."""
    files = files_for(small(1).to_bytes())
    size = json.loads(files["tokenizer_config.json"])["vocab_size"]
    runtime = Remembering(files=files)
    runtime.vocab_size = size
    model = Model(runtime, TokenMonsterTokenizer.from_files(files, size))
    eos, bos = model.tokenizer.eos, model.tokenizer.bos_id
    assert None not in (eos, bos) and eos != bos
    assert (
        declared(model.tokenizer, model.runtime, "eos"),
        declared(model.tokenizer, model.runtime, "bos"),
        model.tokenizer.bos,
    ) == (eos, bos, None)
    assert [prefix_id(model.tokenizer, model.runtime, w) for w in ("model", "lm-eval", "eos", "bos", "none", "3")] == [
        eos,
        bos,
        eos,
        bos,
        None,
        3,
    ]
    with_bos = Model(Remembering(), Letters(bos=5))
    assert [prefix_id(with_bos.tokenizer, with_bos.runtime, w) for w in ("model", "lm-eval", "eos")] == [5, 5, 0]


# ----------------------------------------------------------------------------- texts


def test_read_texts_json_lines_and_folders(tmp_path):
    (tmp_path / "book-01.txt").write_text("One.\n<|endoftext|>\nTwo.\n \n")
    (tmp_path / "b.jsonl").write_text('{"text": "x", "corpus": "c"}\n\n{"text": "y\\u2028z"}\n')
    (tmp_path / "web-00.jsonl.gz").write_bytes(gzip.compress('{"text": "é"}'.encode()))
    (tmp_path / "notes.md").write_text("not read")
    assert read([tmp_path]) == [
        ("c", "x"),
        ("b", "y\u2028z"),
        ("book", "One.\n"),
        ("book", "\nTwo.\n \n"),
        ("web", "é"),
    ]
    assert read([tmp_path / "b.jsonl"]) == [("c", "x"), ("b", "y\u2028z")]


@pytest.mark.parametrize("name, data, message", [
    ("a.txt", b"", "is empty"),
    ("a.txt", b" \n", "is empty"),
    ("a.txt", b"a\0b", "binary"),
    ("a.txt", b"\xff\xfe", "not UTF-8"),
    ("a.jsonl", b'{"text": "x"}\n{"body": "y"}', 'line 2 has no "text"'),
    ("a.jsonl", b"[1]", "line 1 is not a JSON object"),
    ("a.jsonl", b"{", "line 1 is not JSON"),
    ("a.jsonl.gz", b"plain", "not a whole gzip"),
    ("a.jsonl.gz", gzip.compress(b'{"text": "x"}' * 9, mtime=0)[:-9], "not a whole gzip"),
    ("a.pdf", b"x", "is none of .txt"),
])  # fmt: skip
def test_read_damaged_file_is_named(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=message):
        read([tmp_path / name])


def test_a_gzip_file_that_expands_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(texts_of_files, "FEW", 1_000_000)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "x"}\n' * 300_000))
    with pytest.raises(DataError, match="expands to more than"):
        read([tmp_path])


def test_read_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="holds no .txt"):
        read([tmp_path])
    with pytest.raises(FileError, match="No such file"):
        read([tmp_path / "absent.txt"])


# ----------------------------------------------------------------------------- the command


def run(*arguments):
    @click.group(cls=Commands)
    def main():
        pass

    main.add_command(eval_group)
    return CliRunner().invoke(main, ["eval", *map(str, arguments)])


@pytest.fixture
def loaded(monkeypatch, model):
    monkeypatch.setattr("edgekit.model.load", lambda path, **options: model)
    return model


def test_ppl_command_prints_table_json_and_csv(tmp_path, loaded):
    texts = tmp_path / "t.jsonl"
    texts.write_text("".join(json.dumps({"text": d.text, "corpus": d.corpus}) + "\n" for d in TEXTS))
    expected = perplexity(loaded, TEXTS)
    done = run("ppl", texts, "--csv", tmp_path / "out.csv")
    assert done.exit_code == 0, done.output
    assert f"{expected.total.loss:.4f}" in done.stdout and "each document separately" in done.stdout
    rows = list(csv.DictReader((tmp_path / "out.csv").open()))
    assert [r["corpus"] for r in rows] == ["a", "b", "all"] and float(rows[2]["loss"]) == expected.total.loss
    record = json.loads(run("ppl", texts, "--json").stdout)
    assert record["corpora"]["a"]["loss"] == expected.corpora["a"].loss and record["protocol"] == "blockwise"
    assert "| corpus |" in run("ppl", texts, "--markdown", "--pack").stdout


def test_ppl_command_error_is_one_line(tmp_path, loaded):
    (tmp_path / "e.txt").write_text("")
    (tmp_path / "t.txt").write_text("abc")
    for status, message, arguments in (
        (1, "is empty", [tmp_path / "e.txt"]),
        (1, "No such file", [tmp_path / "absent.txt"]),
        (1, "do not fit into the context", [tmp_path / "t.txt", "--context", 99]),
        (2, "context must be a whole number of at least 2", [tmp_path / "t.txt", "--context", 1]),
        (2, "not both", [tmp_path / "t.txt", "--json", "--markdown"]),
        (2, "Missing argument", []),
    ):
        done = run("ppl", *arguments)
        assert done.exit_code == status and message in done.stderr, (arguments, done.stderr)
        assert len(done.stderr.strip().splitlines()) == (4 if not arguments else 1)


def test_eval_help_imports_nothing_heavy():
    from test_layout import HEAVY, loaded_by

    assert not loaded_by("import edgekit.cli.eval") & HEAVY


# ----------------------------------------------------------------------------- real models


@pytest.fixture(scope="module")
def tinystories(shared):
    validation = read([shared / "data" / "validation" / "val_story-00.jsonl.gz"])
    return [d for d in validation if d.corpus.startswith("tinystories")]


@pytest.fixture(scope="module")
def opened(stories, tmp_path_factory):
    """runtime name -> stories260K on it, float32 throughout."""
    patch, result = pytest.MonkeyPatch(), {}
    patch.setenv("EDGEKIT_CACHE", str(tmp_path_factory.mktemp("cache")))

    def get(runtime):
        if runtime not in result:
            try:
                result[runtime] = edgekit.load(stories, runtime=runtime, kv_type="f32", threads=1)
            except MissingExtraError as error:
                pytest.skip(str(error))
        return result[runtime]

    yield get
    patch.undo()


@pytest.fixture(scope="module")
def plain(stories):
    """transformers' own model and tokenizer, without edgekit."""
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(stories, torch_dtype="float32").eval()
    return model, transformers.AutoTokenizer.from_pretrained(stories)


def test_perplexity_after_bos_equals_transformers_loss(opened, plain, tinystories):
    import torch

    model, tokenizer = plain
    few, nats, count = tinystories[:40], 0.0, 0
    with torch.inference_mode():
        for document in few:
            ids = tokenizer(document.text, add_special_tokens=False).input_ids
            for start in range(0, len(ids), 512):
                window = torch.tensor([[tokenizer.bos_token_id, *ids[start : start + 512]]])
                targets = window[:, 1:].clone()
                logits = model(window[:, :-1]).logits
                nats += float(torch.nn.functional.cross_entropy(logits[0], targets[0], reduction="sum"))
                count += targets.shape[1]
    result = perplexity(opened("torch"), few)
    assert result.prefix == 1 and result.total.scored == result.total.tokens == count
    assert result.total.loss == pytest.approx(nats / count, abs=1e-5)
    assert result.total.bytes == sum(len(d.text.encode()) for d in few)


def test_perplexity_of_stories_equals_measured_elsewhere(opened, tinystories):
    """BOS + document, stories that fit into the context: near 1.37 nats per token (1.3717 over all 679)."""
    model = opened("torch")
    fitting = [d for d in tinystories if len(model.tokenizer.encode(d.text)) < model.runtime.context_length]
    assert perplexity(model, fitting[::5]).total.loss == pytest.approx(1.37, abs=0.03)


def test_perplexity_strided_equals_hugging_faces_guide(opened, plain, tinystories):
    """The guide's own loop, labels and -100 and all; BOS as its tokenizer adds it."""
    import torch

    model, tokenizer = plain
    text = "\n\n".join(d.text for d in tinystories[:6])
    ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False).input_ids]])
    length, stride, context, previous, nats, count = ids.size(1), 200, 512, 0, 0.0, 0
    assert length > 2 * context
    for begin in range(0, length, stride):
        end = min(begin + context, length)
        window, targets = ids[:, begin:end], ids[:, begin:end].clone()
        targets[:, : -(end - previous)] = -100
        with torch.inference_mode():
            loss = model(window, labels=targets).loss
        valid = int((targets != -100).sum()) - int(targets[0, 0] != -100)
        nats, count, previous = nats + float(loss) * valid, count + valid, end
        if end == length:
            break
    result = perplexity(opened("torch"), [text], protocol="strided", stride=stride)
    assert result.total.scored == count and result.total.loss == pytest.approx(nats / count, abs=1e-5)


@pytest.mark.parametrize("runtime", [r for r in registry.names("runtimes") if r != "torch"])
def test_perplexity_runtimes_agree(opened, tinystories, runtime):
    for settings in ({}, {"protocol": "strided", "context": 100, "stride": 60}, {"pack": True}):
        few = tinystories[:8]
        reference = perplexity(opened("torch"), few, **settings).total
        result = perplexity(opened(runtime), few, **settings).total
        assert result.scored == reference.scored and result.loss == pytest.approx(reference.loss, abs=1e-4)
