"""Compares the JavaScript core with this package: one Node process answers, and every answer must equal Python's."""

import base64
import functools
import itertools
import json
import random
import shutil
import string
import subprocess
from pathlib import Path

import numpy as np
import pytest
from handmade import NO_SHARED, VOCABS, build, small
from helpers import tokenmonster_files
from hypothesis import given
from hypothesis import settings as how
from hypothesis import strategies as st
from test_chat_template import CHATML, SMOLLM2
from test_tokenmonster import HANDMADE, LIES, golden

from edgekit.errors import EdgekitError, SettingError
from edgekit.inference.generate import StopText, Stream, fit, token_logprob
from edgekit.inference.sampling import Sampler, uniform
from edgekit.model import Model
from edgekit.settings import Generating
from edgekit.tokenizers import chat
from edgekit.tokenizers.tokenmonster import capcode, unicode13
from edgekit.tokenizers.tokenmonster.tokenizer import CHAT_TEMPLATE, TokenMonsterTokenizer
from edgekit.tokenizers.tokenmonster.vocabulary import Vocabulary
from edgekit.web import chat_strings

ROOT = Path(__file__).resolve().parents[1]
STORY = ROOT / "training" / "recipes" / "story-8000.vocab"
OLDEST = 18  # the oldest Node version that examples/mobile_web/README.md supports


class Refused(Exception):
    """An error raised by the JavaScript: its class and message."""


class Node:
    def __init__(self, program: str):
        script = str(ROOT / "tests" / "mobile_web.mjs")
        self._process = subprocess.Popen(
            [program, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )

    def __call__(self, operation: str, **values):
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps({"operation": operation, **values}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"node died of {operation}: its message is on stderr"
        answer = json.loads(line)
        if "error" in answer:
            raise Refused(answer["error"])
        return answer["result"]

    def close(self):
        self._process.communicate()


@pytest.fixture(scope="module")
def node():
    program = shutil.which("node")
    if program is None:
        pytest.skip("needs node (https://nodejs.org), which is not on the PATH")
    version = subprocess.run([program, "--version"], capture_output=True, text=True).stdout.strip()
    if int(version.removeprefix("v").split(".")[0]) < OLDEST:
        pytest.skip(f"needs node {OLDEST} or newer, not {version}")
    process = Node(program)
    yield process
    process.close()


@pytest.fixture(scope="module")
def paths(tmp_path_factory) -> dict[str, str]:
    """All vocabularies: ours, hand-made ones of all capcode levels, and the published ones."""
    folder = tmp_path_factory.mktemp("vocabularies")
    paths = {"story-8000": str(STORY)}
    vocabularies = HANDMADE | {
        "level 1, all flags": small(1, normalization=255),
        "many branches": build([bytes(random.Random(n).choices(range(33, 127), k=30)) for n in range(120)], 1),
        "level 2, folded": small(2, normalization=capcode.LOWERCASE | capcode.ACCENTS),
    }
    for name, vocabulary in vocabularies.items():
        paths[name] = str(folder / f"{name}.vocab")
        vocabulary.save(paths[name])
    return paths | {path.stem: str(path) for path in VOCABS}


@functools.cache
def opened(path: str) -> Vocabulary:
    return Vocabulary.load(path)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def sent(source: str | bytes):
    return source if isinstance(source, str) else {"bytes": b64(source)}


def pieces_of(decoder, ids) -> list[str]:
    return [*(decoder.feed(id) for id in ids), decoder.flush()]


# ---- texts and ids to try ------------------------------------------------------------------------------------------

PARTS = (
    " the| cat|Then|HELLO| WORLD|don't|it’s|x1| 1st|(a|-b|\n|\r\n|\t|  |    |. |, |“q”|‘w’|é|e\u0301|ﬁ|ß|ǅ|İ|ŉ|Straße|"
    "中文|日本|한국어|각|Привет| ПРИВЕТ|Ωμέγα|ΣΑΣ|अनुच्छेद|שָׁלוֹם|٣٤|Ⅷ|½|🙂|👩\u200d🚀|\U0001d400b|\u1f80\u1f88|\u0344|"
    "\u034f|\u0345|\x00|\x01|\x7f|\x14|C|D|W|CDW|<eos>|</s>|\u2c6f|\u019b|\u0378|\u1dfa|\u0898|\U0001e030|"
    "\U00011938|\ufeff|\ufffd"
).split("|")
PARTS += ["\u0301" * 31, "\u0323\u0301" * 20, "\u1161" * 33, "a" * 45, "\n" + " " * 41, "-" * 50]
BROKEN = [bytes.fromhex(part) for part in "c3 a9 f09f f0c3a9 eda080 edb4 c0af ff e280 f490".split()]


def texts(rng: random.Random, count: int) -> list[str | bytes]:
    """Texts and bytes: common ones, rare cases, random ones."""
    results: list[str | bytes] = [""]
    while len(results) < count:
        kind = rng.random()
        if kind < 0.5:
            results.append("".join(rng.choices(PARTS, k=rng.randrange(12))))
        elif kind < 0.6:
            results.append("".join(rng.choices(string.ascii_letters + " .,'\n-1", k=rng.randrange(60))))
        elif kind < 0.75:
            points = (rng.choice([0x250, 0x3100, 0x20000, 0x110000]) for _ in range(rng.randrange(15)))
            chars = (chr(rng.randrange(top)) for top in points)
            results.append("".join(char for char in chars if not "\ud800" <= char <= "\udfff"))
        else:
            parts = [part.encode() for part in rng.choices(PARTS, k=8)] + BROKEN
            results.append(b"".join(rng.choices(parts, k=rng.randrange(9))))
    return results


def sequences(rng: random.Random, size: int, count: int) -> list[list[int]]:
    """Random ids. Single bytes come first, so low ids produce broken characters and markers."""
    tops = rng.choices([260, size + 3], k=count)
    return [[rng.randrange(-1, top) for _ in range(rng.randrange(30))] for top in tops]


# ---- Unicode and normalisation -------------------------------------------------------------------------------------


def test_unicode13_every_code_point_equals_python(node):
    points = [chr(point) for point in range(0x20000)]  # no case mapping and no non-starter is above these two planes
    answer = node("unicode", below=len(points))
    starts, classes = unicode13.runs()
    lengths = [b - a for a, b in itertools.pairwise([*starts, 0x110000])]
    assert answer["classes"] == "".join(kind * n for kind, n in zip(classes, lengths, strict=True))
    for name, change in (("upper", unicode13.simple_upper), ("lower", unicode13.simple_lower)):
        assert answer[name] == [[c, change(c)] for c in points if change(c) != c], name
    counts = ((c, *unicode13.nonstarters(c)) for c in points)
    assert answer["nonstarters"] == [list(each) for each in counts if each[1:] != (0, 0)]


def test_nfd_many_marks_equals_python(node):
    rng = random.Random(1)
    marks = "a\u0301\u0323\u0344\u0345\u0334\uff9e\u1161\u11a8각é\u1f82\u1dfa\u0898\u0f71\u0f72\u09d7中\u034f"
    some = ["".join(rng.choices(marks, k=rng.randrange(80))) for _ in range(500)]
    assert node("nfd", texts=some) == [unicode13.nfd(text) for text in some]


@pytest.mark.parametrize("level", [0, 1, 2])
def test_normalize_any_flags_equals_python(node, level):
    rng = random.Random(level)
    cases = [(text, rng.choice([0, 1, rng.randrange(256), rng.randrange(256)])) for text in texts(rng, 1500)]
    answer = node("normalize", cases=[(sent(text), flags, level) for text, flags in cases])
    for (text, flags), stream in zip(cases, answer, strict=True):
        data = text.encode() if isinstance(text, str) else text
        assert base64.b64decode(stream) == capcode.normalize(data, flags, level), (text, flags)


def test_incomplete_tail_any_bytes_equals_python(node):
    rng = random.Random(2)
    some = [
        bytes(rng.choices([0x41, 0xC0, 0xC2, 0xE0, 0xF0, 0xF7, 0xF8, 0xA9], k=rng.randrange(6))) for _ in range(300)
    ]
    assert node("tails", all=[b64(data) for data in some]) == [capcode.incomplete_tail(data) for data in some]


# ---- vocabularies --------------------------------------------------------------------------------------------------


def test_vocabulary_golden_vectors_all_match(node, paths):
    if not VOCABS:
        pytest.skip(NO_SHARED)
    vectors = list(golden())
    assert len(vectors) == 3228
    for name, group in itertools.groupby(sorted(vectors, key=lambda v: v[0]), key=lambda v: v[0]):
        mine = list(group)
        with_text = [(source, ids) for _, source, ids, _ in mine if source is not None]
        answers = node("encode", path=paths[name], texts=[sent(source) for source, _ in with_text])
        for (source, ids), answer in zip(with_text, answers, strict=True):
            assert answer == ids, (name, source)
        answers = node("decode", path=paths[name], all=[ids for _, _, ids, _ in mine])
        for (_, _, ids, decoded), (raw, text, pieces) in zip(mine, answers, strict=True):
            assert base64.b64decode(raw) == decoded, (name, ids)
            assert text == "".join(pieces) == decoded.decode("utf-8", "replace"), (name, ids)


def test_vocabulary_file_fields_equal_python(node, paths):
    for path in paths.values():
        v = opened(path)
        answer = node("load", data=b64(Path(path).read_bytes()), name="a")
        assert [base64.b64decode(piece) for piece in answer.pop("pieces")] == [
            v.piece(id) for id in range(v.table_size)
        ]
        assert sorted(answer.pop("special_ids")) == sorted(v.special_ids)
        assert answer == {name: getattr(v, name) for name in answer}


def test_encode_random_text_equals_python(node, paths):
    for seed, (name, path) in enumerate(paths.items()):
        some = texts(random.Random(seed), 400)
        for text, ids in zip(some, node("encode", path=path, texts=[sent(text) for text in some]), strict=True):
            assert ids == opened(path).encode(text), (name, text)


@given(data=st.data())
@how(max_examples=150, deadline=None)
def test_encode_and_decode_hypothesis_text_equal_python(node, paths, data):
    path = paths[data.draw(st.sampled_from(sorted(paths)))]
    text = data.draw(st.one_of(st.text(), st.binary(), st.lists(st.sampled_from(PARTS)).map("".join)))
    ids = opened(path).encode(text)
    assert node("encode", path=path, texts=[sent(text)]) == [ids]
    ids += data.draw(st.lists(st.integers(0, 300), max_size=8))
    (answer,) = node("decode", path=path, all=[ids])
    assert answer[2] == pieces_of(opened(path).decoder(), ids)


def test_decode_random_ids_equals_python(node, paths):
    for seed, (name, path) in enumerate(paths.items()):
        v = opened(path)
        some = sequences(random.Random(seed), v.table_size, 500)
        for ids, (raw, text, pieces) in zip(some, node("decode", path=path, all=some), strict=True):
            assert base64.b64decode(raw) == v.decode_bytes(ids), (name, ids)
            assert text == v.decode(ids) and pieces == pieces_of(v.decoder(), ids), (name, ids)


def test_encode_and_decode_long_text_equal_python(node, paths):
    rng = random.Random(4)
    text = "".join(rng.choices([*PARTS, " and", " then", "\n"], k=20_000))
    ids = opened(str(STORY)).encode(text)
    assert node("encode", path=str(STORY), texts=[text]) == [ids]
    assert node("decode", path=str(STORY), all=[ids])[0][1] == opened(str(STORY)).decode(ids)


def test_encode_lone_surrogate_or_utf16_charset_raises(node, tmp_path):
    with pytest.raises(Refused, match=r"PromptError: the text is not UTF-8 \(at character 3\)"):
        node("encode", path=str(STORY), texts=["🙂a\udc80"])
    data = bytearray(HANDMADE["level 0"].to_bytes())
    data[1] = 2
    path = tmp_path / "utf16.vocab"
    path.write_bytes(data)
    with pytest.raises(Refused, match="VocabularyError: .*charset UTF-16 cannot be encoded"):
        node("encode", path=str(path), texts=["a"])


def outcome(data: bytes, text: str) -> dict:
    try:
        vocabulary = Vocabulary.from_bytes(data, "lie")
    except EdgekitError as error:
        return {"error": f"{type(error).__name__}: {error}"}
    ids = [] if vocabulary.charset == 2 else vocabulary.encode(text)
    return {"ids": ids, "pieces": pieces_of(vocabulary.decoder(), ids)}


def test_vocabulary_damaged_file_raises_pythons_message(node):
    rng = random.Random(7)
    originals = [vocabulary.to_bytes() for vocabulary in HANDMADE.values()]
    lies = list(LIES.values())
    for original in originals:
        for _ in range(120):
            data = bytearray(original)
            for _ in range(rng.choice([1, 1, 2, 5])):
                data[rng.randrange(len(data)) if rng.random() < 0.7 else rng.randrange(24)] = rng.randrange(256)
            if rng.random() < 0.2:
                del data[rng.randrange(len(data)) :]
            lies.append(bytes(data))
    text = "The cat's (MAT), there were 12 é\x00\x7f <eos>" * 3
    answers = node("damaged", all=[b64(data) for data in lies], text=text)
    refused = 0
    for data, answer in zip(lies, answers, strict=True):
        expected = outcome(data, text)
        if "has score" in expected.get("error", ""):  # the two languages format a float differently
            expected, answer = ({"error": each["error"].split(" score ")[0]} for each in (expected, answer))
        assert answer == expected
        refused += "error" in answer
    assert len(LIES) < refused < len(lies)


# ---- the tokenizer of a model --------------------------------------------------------------------------------------

TOKENIZERS = [
    ("story-8000", 8064, {}),
    ("story-8000", 8064, {"add_bos": True}),
    ("story-8000", 8000, {"add_bos": True}),  # no row for EOS or BOS
    ("story-8000", 8001, {"add_bos": True}),
    ("story-8000", 8064, {"eos": [8001], "add_bos": True}),
    ("story-8000", 8064, {"eos": [2, 8005, 8006], "bos": [1, 9000, 8000], "eos_token": "<|end|>"}),
    ("special", 400, {"add_bos": True}),
    ("special", 400, {"eos": "special"}),
    ("level 2", 400, {"bos_token": "(.*)", "eos_token": "(.*)+"}),
]


@pytest.mark.parametrize("name, size, options", TOKENIZERS)
def test_tokenizer_eos_bos_and_padding_equal_python(node, paths, name, size, options):
    vocabulary = opened(paths[name])
    options = {key: sorted(vocabulary.special_ids) if value == "special" else value for key, value in options.items()}
    python = TokenMonsterTokenizer(vocabulary, size, **options)
    camel = {"add_bos": "addBos", "eos_token": "eosToken", "bos_token": "bosToken"}
    javascript = {"path": paths[name], "vocab_size": size, "options": {camel.get(k, k): options[k] for k in options}}
    compare_tokenizers(node, python, javascript)


def compare_tokenizers(node, python, javascript):
    rng = random.Random(5)
    some = [text for text in texts(rng, 150) if isinstance(text, str)]
    some += ["".join(rng.choices([*python.specials, "<", "the", " cat", "<eos>"], k=6)) for _ in range(100)]
    high = [*range(python.vocab_size - 70, python.vocab_size), *python.specials.values()]
    all = [ids + rng.choices(high, k=3) + ids[:2] for ids in sequences(rng, python.vocab_size, 150)]
    contexts = [(ids[:cut], ids[cut:]) for ids in all for cut in [rng.randrange(len(ids))]]
    answer = node("tokenizer", tokenizer=javascript, texts=some, all=all, contexts=contexts)
    eos, bos_id, bos, pad, stop, specials = answer["facts"]
    assert (eos, bos_id, bos, pad) == (python.eos, python.bos_id, python.bos, python.pad)
    assert set(stop) == python.stop and dict(specials) == python.specials
    assert answer["ids"] == [[python.encode(text), python.encode(text, specials=True)] for text in some]
    assert answer["texts"] == [[python.decode(ids), pieces_of(python.decoder(), ids)] for ids in all]
    assert answer["continued"] == [pieces_of(python.decoder(before), ids) for before, ids in contexts]


@pytest.mark.parametrize("config, more", [
    ({}, {}),
    ({"add_bos_token": True, "bos_token": {"content": "<start>"}}, {}),
    ({"eos_token": "<|end|>", "added_tokens_decoder": {"8003": {"content": "<|end|>"}, "x": 1}}, {}),
    ({}, {"config.json": {"eos_token_id": 2, "bos_token_id": 1}}),
    ({"eos_token": None}, {"generation_config.json": {"eos_token_id": [8002, 8000]},
                           "config.json": {"bos_token_id": 8001}, "special_tokens_map.json": {"eos_token": "<e>"}}),
    # Stentor3's layout: specials on ordinary ids, with UNK and PAD beside BOS and EOS.
    ({"unk_token": "<unk>", "pad_token": "<pad>"},
     {"generation_config.json": {"bos_token_id": 7972, "eos_token_id": 7973, "pad_token_id": 7975},
      "config.json": {"bos_token_id": 1, "eos_token_id": 2, "unk_token_id": 7974}}),
    ({"unk_token": "<unk>", "pad_token": "<pad>"}, {"config.json": {"pad_token_id": 0, "eos_token_id": 2}}),
])  # fmt: skip
def test_tokenizer_from_files_equals_python(node, config, more):
    files = tokenmonster_files(STORY.read_bytes(), **config)
    files |= {name: json.dumps(value).encode() for name, value in more.items()}
    python = TokenMonsterTokenizer.from_files(files, 8064)
    sent_files = {name: b64(data) for name, data in files.items()}
    compare_tokenizers(node, python, {"files": sent_files, "vocab_size": 8064})


@pytest.mark.parametrize("change, size", [
    ({"tokenizer_config.json": b"{"}, 8064),
    ({"tokenizer_config.json": b"[]"}, 8064),
    ({"tokenizer_config.json": b'{"vocab_file": "../x"}'}, 8064),
    ({"tokenizer_config.json": b'{"vocab_file": "other.vocab"}'}, 8064),
    ({"tokenmonster.vocab": b"nothing"}, 8064),
    ({}, 7999),
])  # fmt: skip
def test_tokenizer_from_bad_files_raises_pythons_message(node, change, size):
    files = tokenmonster_files(STORY.read_bytes()) | change
    with pytest.raises(EdgekitError) as expected:
        TokenMonsterTokenizer.from_files(files, size)
    with pytest.raises(Refused) as refusal:
        node("generate", tokenizer={"files": {n: b64(d) for n, d in files.items()}, "vocab_size": size})
    # The JSON parsers' messages differ; everything before them is the same.
    ours, theirs = (str(each.value).split("not JSON")[0].replace("'", '"') for each in (expected, refusal))
    assert theirs == f"VocabularyError: {ours}" and "\n" not in theirs


def test_utf8_mask_random_walks_equal_python(node, paths):
    rng = random.Random(6)
    for name in ("story-8000", "level 0", "level 1", "level 2", "special"):
        python = TokenMonsterTokenizer(opened(paths[name]), 8064)
        walks = [(ids, rng.choice([None, 0, 1, 2, 3, 4, 9])) for ids in sequences(rng, 8064, 12)]
        walks = [([id for id in ids if id >= 0], remaining) for ids, remaining in walks]
        answer = node("masks", tokenizer={"path": paths[name], "vocab_size": 8064}, walks=walks)
        for (ids, remaining), masks in zip(walks, answer, strict=True):
            decoder = python.decoder()
            for id, mask in zip([*ids, None], masks, strict=True):
                expected = python.utf8_mask(decoder, remaining)
                assert base64.b64decode(mask) == expected.astype(np.uint8).tobytes(), (name, ids, id, remaining)
                if id is not None:
                    decoder.feed(id)


# ---- settings and sampler ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": -1}, {"temperature": "hot"}, {"temperature": True}, {"temperature": None}, {"top_k": -1},
        {"top_k": 1.5}, {"top_p": -0.1}, {"top_p": 1.01}, {"min_p": 2}, {"min_p": -0.1}, {"repetition_penalty": 0},
        {"seed": -3}, {"seed": "-1"}, {"seed": str(2**63 + 1)}, {"max_new_tokens": 0}, {"stop": [""]}, {"stop": [3]},
        {"truncate": "right"}, {"logprobs": -1},
    ],
)  # fmt: skip
def test_settings_out_of_range_raise_pythons_message(node, values):
    (name,) = values
    python = {key: int(value) if key == "seed" else value for key, value in values.items()}
    with pytest.raises(SettingError) as expected:
        Generating(**python)
    with pytest.raises(Refused) as refusal:
        node("settings", values=values)
    range_ = str(expected.value).split(", not ")[0]
    assert str(refusal.value).startswith(f"SettingError: {range_}") and "\n" not in str(refusal.value)


def test_settings_unknown_name_raises_and_defaults_equal_python(node):
    with pytest.raises(
        Refused, match="SettingError: unknown setting 'temprature': choose from ban_replacement, banned"
    ):
        node("settings", values={"temprature": 1})
    defaults = Generating()
    answer = node("settings", values={})
    assert answer == {name: list(v) if isinstance(v := getattr(defaults, name), tuple) else v for name in answer}
    good = {
        "temperature": 1e9,
        "top_k": 2**53 - 1,
        "top_p": 1,
        "min_p": 1,
        "repetition_penalty": 0.01,
        "truncate": "left",
    }
    answer = node("settings", values={**good, "seed": str(2**63), "stop": "x", "logprobs": 0})
    assert answer["stop"] == ["x"] and answer["seed"] == str(2**63) and good.items() <= answer.items()


def test_uniform_random_arguments_equal_python(node):
    rng = random.Random(8)
    seeds = [0, 7, 2**63, *(rng.getrandbits(rng.choice([32, 63])) for _ in range(50))]
    cases = [(seed, rng.choice([0, 1, rng.randrange(9999)])) for seed in seeds]
    ids = [0, 1, 2, 8063, *(rng.randrange(1 << 24) for _ in range(60))]
    answer = node("uniform", cases=[(str(seed), step, ids) for seed, step in cases])
    assert answer == [uniform(seed, step, np.array(ids)).tolist() for seed, step in cases]


def test_sum_any_length_is_rounded_like_numpy(node):
    rng = np.random.default_rng(9)
    all = [rng.random(n) for n in [0, 1, 7, 8, 9, 127, 128, 129, 136, 137, 1000, 8000, 8064, 20001]]
    assert node("sum", all=[values.tolist() for values in all]) == [float(values.sum()) for values in all]


DRAWS = 6000


def test_sampler_thousands_of_draws_equal_python(node, tmp_path):
    """Random logits and settings, 8064 ids. The last bits of exp and log differ by platform: a draw that depends on
    them would show here."""
    rng = np.random.default_rng(10)
    size = 8064
    spread = rng.choice([0.3, 2.0, 5.0], (64, 1))
    rows = (spread * rng.standard_normal((64, size))).astype(np.float32)
    rows[::8] = np.round(rows[::8])  # many ties
    rows.tofile(tmp_path / "rows.bin")
    runs = []
    for _ in range(DRAWS // 20):
        settings = {
            "temperature": float(rng.choice([0, 0.1, 0.8, 1, 1.7])), "top_k": int(rng.choice([0, 0, 1, 40, 5000])),
            "top_p": float(rng.choice([1, 0, 0.05, 0.7, 0.95, 0.9999999])), "min_p": float(rng.choice([0, 0, 0.05, 1])),
            "repetition_penalty": float(rng.choice([1, 1.2, 0.7])), "seed": str(rng.integers(2**63)),
            "banned": rng.integers(0, size, rng.integers(3)).tolist(),
            "logit_bias": [(int(id), float(rng.normal())) for id in rng.integers(0, size, rng.integers(3))],
        }  # fmt: skip
        seen, expected = rng.integers(0, size, 30).tolist(), rng.integers(0, 64, 20).tolist()
        runs.append({"settings": settings, "seen": seen, "rows": expected})
    answer = node("sample", table=str(tmp_path / "rows.bin"), vocab_size=size, runs=runs)
    differ = 0
    for run, tokens in zip(runs, answer, strict=True):
        sampler = Sampler(Generating(**python_settings(run["settings"])), size, run["seen"])
        differ += [sampler.choose(rows[row]) for row in run["rows"]] != tokens
    assert differ == 0


def python_settings(values: dict) -> dict:
    """Settings for Python from those sent to Node."""
    change = {"seed": int, "logit_bias": dict, "banned": tuple, "stop": tuple}
    return {name: change.get(name, lambda v: v)(value) for name, value in values.items()}


@given(
    logits=st.lists(
        st.one_of(st.floats(-30, 30, width=32), st.sampled_from([0.0, -0.0, 1.0, 2.0, -np.inf])),
        min_size=2,
        max_size=300,
    ).filter(lambda values: max(values[1::3], default=-np.inf) > -np.inf),  # a token that no mask removes
    temperature=st.sampled_from([0.0, 0.5, 1.0, 3.0]),
    top_k=st.integers(0, 9),
    top_p=st.one_of(st.just(1.0), st.floats(0.01, 1), st.sampled_from([0.25, 0.5, 0.75])),
    min_p=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    mask=st.integers(0, 7),
)
@how(max_examples=250, deadline=None)
def test_sampler_distribution_equals_python(node, logits, temperature, top_k, top_p, min_p, mask):
    settings = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p, "repetition_penalty": 1.3}
    allowed = None if mask == 0 else [i % 3 > 0 or mask > 4 for i in range(len(logits))]
    sampler = Sampler(Generating(**settings), len(logits), [0, 0, 1])
    ids, probabilities = sampler.distribution(
        np.array(logits, np.float32), None if allowed is None else np.array(allowed, bool)
    )
    sendable = [value if value > -np.inf else "-Infinity" for value in logits]
    answer = node("distribution", logits=sendable, settings=settings, seen=[0, 0, 1], allowed=allowed)
    assert answer[0] == ids.tolist()
    assert answer[1] == pytest.approx(probabilities.tolist(), rel=1e-13)


@pytest.mark.parametrize("settings, logits", [
    ({"temperature": 1e-46}, [1, 2, 3]),
    ({"temperature": 1e-38, "top_k": 1}, [3, 30, 300]),
    ({"banned": [0, 1, 2]}, [1, 2, 3]),
    ({"banned": [3]}, [1, 2, 3]),
    ({"logit_bias": [(-1, 1.0)]}, [1, 2, 3]),
    ({"logit_bias": [(1, 1e39)]}, [1, 2, 3]),
    ({}, [1, "NaN", 3]),
    ({}, [1, "Infinity", 3]),
    ({}, ["-Infinity", "-Infinity"]),
])  # fmt: skip
def test_sampler_impossible_logits_raise_pythons_message(node, settings, logits):
    with pytest.raises(SettingError) as expected, np.errstate(all="ignore"):
        size = len(logits)
        Sampler(Generating(**python_settings(settings)), size).choose(np.array([float(v) for v in logits], np.float32))
    with pytest.raises(Refused) as refusal:
        node("distribution", logits=logits, settings=settings, seen=[])
    assert str(refusal.value) == f"SettingError: {expected.value}"


# ---- the loop ------------------------------------------------------------------------------------------------------


class Table:
    """Logits from a table, chosen by the tokens so far: the same as `Table` in mobile_web.mjs."""

    def __init__(self, rows: np.ndarray, context_length: int):
        self.rows, self.vocab_size, self.context_length = rows, rows.shape[1], context_length
        self.length, self.calls, self.files = 0, [], {}

    def forward(self, tokens, *, every=False):
        self.calls.append(list(tokens))
        self.length += len(tokens)
        return self.rows[(31 * tokens[-1] + self.length) % len(self.rows)].copy()

    def rewind(self, length):
        self.length = length


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> tuple[str, np.ndarray]:
    """97 rows for 8064 ids. Single bytes, spaces and EOS are likely, so characters break and texts end."""
    rng = np.random.default_rng(11)
    rows = rng.standard_normal((97, 8064)).astype(np.float32)
    rows[:, :220] += 1.5
    rows[rng.integers(0, 97, 12), 8000] += 6
    path = tmp_path_factory.mktemp("table") / "rows.bin"
    rows.tofile(path)
    return str(path), rows


@functools.cache
def story_tokenizer(add_bos: bool) -> TokenMonsterTokenizer:
    return TokenMonsterTokenizer(opened(str(STORY)), 8064, add_bos=add_bos)


def both(
    node,
    table,
    prompt="Once upon a time",
    *,
    context=200,
    cancel_after=None,
    manner="",
    add_bos=True,
    ends=(),
    **settings,
):
    """Generate in both languages and compare result, pieces and calls to the runtime; returns result and pieces."""
    tokenizer = story_tokenizer(add_bos)
    runtime, pieces = Table(table[1], context), []
    enough = lambda: cancel_after is not None and len(pieces) >= cancel_after  # noqa: E731
    generating = Generating(**python_settings(settings))
    ids = Model(runtime, tokenizer).encode(prompt)  # type: ignore[arg-type]
    stream = Stream(runtime, tokenizer, ids, generating, enough if manner == "callback" else None, ends=ends)
    for piece in stream:
        pieces.append(piece)
        if enough() and manner in ("method", "signal"):
            stream.cancel()
        if enough() and manner == "break":
            stream.close()
            break
    answer = node(
        "generate", tokenizer={"path": str(STORY), "vocab_size": 8064, "options": {"addBos": add_bos}}, table=table[0],
        context=context, prompt=prompt, settings=settings, cancel_after=cancel_after, how=manner, ends=list(ends),
    )  # fmt: skip
    result = stream.result
    assert answer["tokens"] == result.tokens
    assert answer["pieces"] == pieces and answer["text"] == result.text
    assert answer["finish_reason"] == result.finish_reason
    assert answer["prompt"] == result.prompt and answer["calls"] == runtime.calls
    if settings.get("seed") is not None:
        assert answer["seed"] == str(result.seed)
    assert {name: answer["timings"][name] for name in ("prompt_tokens", "new_tokens")} == {
        "prompt_tokens": result.timings.prompt_tokens, "new_tokens": result.timings.new_tokens,
    }  # fmt: skip
    assert all(answer["timings"][name] >= 0 for name in ("prefill", "first_token", "decode"))
    if result.logprobs is None:
        assert answer["logprobs"] is None
    else:
        for mine, theirs in zip(result.logprobs, answer["logprobs"], strict=True):
            assert theirs["token"] == mine.token and theirs["logprob"] == pytest.approx(mine.logprob, rel=1e-12)
            assert [id for id, _ in theirs["top"]] == [id for id, _ in mine.top]
            assert [p for _, p in theirs["top"]] == pytest.approx([p for _, p in mine.top], rel=1e-12)
    return result, pieces


def test_stream_random_settings_equals_python(node, table):
    rng = random.Random(12)
    reasons = set()
    for _ in range(60):
        settings = {
            "temperature": rng.choice([0, 0.8, 1.3]), "top_k": rng.choice([0, 50]), "top_p": rng.choice([1, 0.7]),
            "repetition_penalty": rng.choice([1, 1.2]), "seed": str(rng.getrandbits(40)),
            "max_new_tokens": rng.randrange(1, 60), "ban_replacement": rng.random() < 0.3,
            "ignore_eos": rng.random() < 0.3, "logprobs": rng.choice([None, None, 0, 3]),
            "stop": rng.choice([[], ["\n"], ["the"], ["e", "zz"], [" a", "é", "\ufffd"]]),
        }  # fmt: skip
        result, _ = both(node, table, rng.choice(["Once upon a time", "x", "“Ça” 12"]), add_bos=rng.random() < 0.5,
                         context=rng.choice([24, 200]), **settings)  # fmt: skip
        reasons.add(result.finish_reason)
    assert reasons == {"stop", "length"}


def test_stream_ends_of_a_turn_equal_python(node, table):
    free, _ = both(node, table, temperature=0.9, seed="3", max_new_tokens=20, ignore_eos=True)
    for end in free.tokens[2:5]:
        result, _ = both(node, table, temperature=0.9, seed="3", max_new_tokens=20, ends=[end])
        assert result.finish_reason == "stop" and result.tokens == free.tokens[: free.tokens.index(end) + 1]


def test_stream_stop_string_across_pieces_equals_python(node, table):
    whole, pieces = both(node, table, temperature=0.9, seed="3", max_new_tokens=40, ban_replacement=True)
    middle = len(whole.text) // 2
    for width in (1, 2, 5, 9):
        stop = whole.text[middle : middle + width]
        settings = {"temperature": 0.9, "seed": "3", "max_new_tokens": 40, "ban_replacement": True}
        result, _ = both(node, table, stop=[stop, "never"], **settings)
        assert result.finish_reason == "stop" and stop not in result.text and whole.text.startswith(result.text)


@given(
    stops=st.lists(st.text("ab🙂", min_size=1, max_size=4), max_size=3), pieces=st.lists(st.text("ab🙂", max_size=3))
)
@how(max_examples=200, deadline=None)
def test_stop_text_pieces_equal_python(node, stops, pieces):
    text = StopText(stops)
    assert node("stops", stops=stops, pieces=pieces) == [[text.add(p) for p in pieces], text.found, text.flush()]


@pytest.mark.parametrize("manner", ["method", "signal", "callback", "break"])
def test_stream_cancelled_keeps_the_text_so_far(node, table, manner):
    result, _ = both(node, table, cancel_after=3, manner=manner, temperature=1, seed="5", ignore_eos=True)
    assert result.finish_reason == "cancelled" and 3 <= len(result.tokens) < 40


def test_stream_without_seed_draws_and_reports_one(node, table):
    asked = {"tokenizer": {"path": str(STORY), "vocab_size": 8064}, "table": table[0], "context": 50, "prompt": "a"}
    seeds = {node("generate", settings={"temperature": 1, "max_new_tokens": 1}, **asked)["seed"] for _ in range(3)}
    assert len(seeds) == 3 and all(0 <= int(seed) < 2**32 for seed in seeds)


def test_fit_prompt_longer_than_context_truncates_or_raises(node, table, paths):
    rng = random.Random(13)
    for _ in range(60):
        prompt, context = list(range(rng.randrange(1, 40))), rng.randrange(1, 30)
        settings = {"truncate": "left", "max_new_tokens": rng.randrange(1, 40)}
        bos = rng.choice([0, None])
        answer = node("fit", prompt=prompt, context=context, settings=settings, bos=bos)
        assert answer == fit(prompt, context, Generating(**settings), bos)
    long = " and then" * 300
    result, _ = both(node, table, long, truncate="left", context=64, max_new_tokens=8, temperature=1, seed="1")
    assert len(result.prompt) == 56 and result.prompt[0] == 8001
    for prompt, reason in (
        (long, r"ContextError: the prompt has \d+ tokens, but the model's context holds 64"),
        ("", "PromptError: the prompt is empty"),
        ("a\ud83d", r"PromptError: the prompt is not UTF-8 \(at character 2\)"),
        ([], "PromptError: the prompt is empty"),
    ):
        with pytest.raises(Refused, match=reason):
            node("generate", tokenizer={"path": str(STORY), "vocab_size": 8064}, table=table[0], context=64,
                 prompt=prompt, settings={})  # fmt: skip
    with pytest.raises(Refused, match="PromptError: the prompt has no character that the vocabulary can write"):
        node("generate", tokenizer={"path": paths["no marker"], "vocab_size": 8064}, table=table[0], context=64,
             prompt="\x01", settings={})  # fmt: skip


def test_token_logprob_with_ties_equals_python(node):
    logits = np.random.default_rng(14).standard_normal(50).astype(np.float32)
    logits[7] = logits[3]
    answer = node("logprob", logits=logits.tolist(), token=7, top=50)
    expected = token_logprob(logits, 7, 50)
    assert answer["logprob"] == pytest.approx(expected.logprob, rel=1e-12)
    assert [id for id, _ in answer["top"]] == [id for id, _ in expected.top]


# ---- conversations -----------------------------------------------------------------------------------


def test_conversation_rendered_equals_python(node):
    strings = {"start": "<u>", "system": ["<s>", "</s><u>"], "answer": "<a>", "next": "<n>", "end": "<end>"}
    spaces = [chr(point) for point in range(0x110000) if chr(point).isspace() or point in (0x200B, 0xFEFF)]
    contents = [f"{space}a{space}" for space in spaces] + ["", " ", "a\n b", "\u00a0 x \u3000"]
    some = [[{"role": "user", "content": text}] for text in contents]
    roles = ["system", *["user", "assistant"] * 2, "user"]
    some += [
        [{"role": role, "content": contents[start + i]} for i, role in enumerate(roles[1 - system :])]
        for start in range(0, len(contents) - 6, 3)
        for system in (0, 1)
    ]
    for strip in ([], ["user"], ["system", "assistant"]):
        given = strings | {"strip": strip}
        assert node("render", strings=given, all=some) == [chat_strings.join(given, messages) for messages in some]


@pytest.mark.parametrize("source", [CHAT_TEMPLATE, CHATML, "{{ bos_token }}" + SMOLLM2])
def test_conversation_ids_equal_the_chat_template(node, source):
    """`<|im_end|>` is one id here, an ordinary one of the vocabulary, as in Stentor3's layout."""
    files = tokenmonster_files(STORY.read_bytes(), eos_token="<|im_end|>", chat_template=source)
    files["config.json"] = json.dumps({"eos_token_id": 7973, "bos_token_id": 8001}).encode()
    python, template = TokenMonsterTokenizer.from_files(files, 8064), chat.from_files(files)
    strings = chat_strings.strings_of(template)
    contents = [
        "Be brief.",
        "Hello! <|im_end|> \u00bfQu\u00e9?",
        "  The Capital is\nParis.",
        "",
        "Thanks <s>\n",
        "x",
        "Why?",
    ]
    turns = [{"role": ["user", "assistant"][i % 2], "content": text} for i, text in enumerate(contents[1:6])]
    all = [(turns[:length], 500, 100) for length in (1, 3, 5)]
    all += [([{"role": "system", "content": contents[0]}, *turns], context, 20) for context in range(10, 260, 16)]
    answers = node(
        "conversations", tokenizer={"files": {n: b64(d) for n, d in files.items()}, "vocab_size": 8064},
        strings=strings, all=all,
    )  # fmt: skip
    dropped = []
    for (messages, context, limit), answer in zip(all, answers, strict=True):
        system, rest = (messages[:1], messages[1:]) if messages[0]["role"] == "system" else ([], messages)
        sizes = {d: template.encode([*system, *rest[d:]], python) for d in range(0, len(rest), 2)}
        most = max(context - limit, context // 2)
        expected = next((d for d, ids in sizes.items() if len(ids) <= most), len(rest) - 1)
        assert answer == {"ids": sizes[expected], "dropped": expected}
        dropped.append(expected)
    assert {0, 2, 4} <= set(dropped) and 7973 in answers[0]["ids"]


# ---- rules for the pages -----------------------------------------------------------------------------


def test_pages_import_only_their_own_modules_and_readme_lists_each():
    readme = (ROOT / "examples" / "mobile_web" / "README.md").read_text(encoding="utf-8")
    modules = sorted((ROOT / "edgekit" / "web" / "pages").rglob("*.js"))
    assert len(modules) > 20
    for path in modules:
        imported = [line.split(' from "')[1] for line in path.read_text().splitlines() if ' from "' in line]
        assert all(name.startswith("./") for name in imported), f"{path.name} imports {imported}"
        assert f"`{path.name}`" in readme, f"README.md does not describe {path.name}"
