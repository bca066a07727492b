"""Where transformers 5 reads a folder's tokenizer otherwise than 4.57, which edgekit follows: every difference.

`make test-transformers5` installs version 5 in an environment of its own and runs this file. For each folder of the
matrix in test_tokenizer_matrix.py the ids of version 5 are either edgekit's, or those that RULES predict, or the class
is listed there with a pipeline of its own. One more difference is allowed, where a text spells an added token: its
flags, if the files name it twice.
"""

import collections
import dataclasses
import json
import os

import pytest
from test_tokenizer_matrix import ROWS, TEXTS, edgekit_ids, file_cases, flag_cases, folder, transformers_ids

from edgekit.formats.checkpoint import side_files
from edgekit.tokenizers.base import framed
from edgekit.tokenizers.load import from_files
from edgekit.tokenizers.transformers_rules import set_sentencepiece_space

TRANSFORMERS5 = os.environ.get("EDGEKIT_TRANSFORMERS5", "")

pytestmark = pytest.mark.skipif(not TRANSFORMERS5, reason="needs transformers 5: make test-transformers5")


@dataclasses.dataclass(frozen=True)
class Rule:
    """What transformers 5 does for a class; edgekit follows 4.57 in all of it."""

    template: str = "4.57"
    """Beside a tokenizer.json version 5 drops add_bos_token and add_eos_token. "file": the file's own template counts,
    where the classes of 4.57 write one by these keys. "none": neither BOS nor EOS is added."""
    own_space: bool = False
    """`add_prefix_space` of the configuration is ignored: tokenizer.json's own counts. In 4.57 it replaces that."""
    metaspace: bool = False
    """A SentencePiece kind is read with `legacy` false: a space before the first word only, and none after specials."""
    pipeline: frozenset[str] = frozenset()
    """Kinds of tokenizer.json whose normalizer and pre-tokenizer are replaced by the class's own, made for another
    kind of vocabulary. 4.57 keeps the file's."""


BOTH = frozenset({"bytes", "sentencepiece"})
RULES = {
    None: Rule(template="file", own_space=True),
    "PreTrainedTokenizer": Rule(own_space=True),
    "LlamaTokenizer": Rule(template="file", own_space=True, metaspace=True),
    "GPT2Tokenizer": Rule(pipeline=frozenset({"sentencepiece"})),
    "GPTNeoXTokenizer": Rule(template="none", pipeline=frozenset({"sentencepiece"})),
    "CodeLlamaTokenizer": Rule(pipeline=BOTH),
    "CohereTokenizer": Rule(pipeline=BOTH),
    "GemmaTokenizer": Rule(pipeline=BOTH),
    "Qwen2Tokenizer": Rule(pipeline=BOTH),
}


def name_of(config):
    name = config.get("tokenizer_class")
    return name.removesuffix("Fast") if name else None


def predicted(case, path):
    """The ids that transformers 5 gives by the rules, from edgekit's tokenizer of a changed folder."""
    kind, template, config, _ = case
    rule, files = RULES[name_of(config)], side_files(path)
    changed = dict(config)
    if rule.own_space and kind != "sentencepiece":
        changed["add_prefix_space"] = kind == "bytes+space"
    files["tokenizer_config.json"] = json.dumps(changed).encode()
    if rule.metaspace and kind == "sentencepiece":
        values = json.loads(files["tokenizer.json"])
        set_sentencepiece_space(values, True, False)
        files["tokenizer.json"] = json.dumps(values).encode()
    tokenizer = from_files(files, ROWS)
    if rule.template != "4.57":
        template = template if rule.template == "file" else None
        tokenizer.prefix = (1,) if template in ("bos", "both") else ()
        tokenizer.suffix = (2,) if template in ("eos", "both") else ()
    return [[framed(tokenizer, tokenizer.encode(t, specials=s)) for s in (True, False)] for t in TEXTS]


@pytest.mark.parametrize("make", [flag_cases, file_cases])
def test_folder_tokenizer_transformers5_is_equal_or_differs_by_a_listed_rule(tmp_path, make, capsys):
    cases = list(make())
    paths = [folder(tmp_path / str(i), kind, template, config, **others)
             for i, (kind, template, config, others) in enumerate(cases)]  # fmt: skip
    counts = collections.Counter()
    for case, path, theirs in zip(cases, paths, transformers_ids(paths, TRANSFORMERS5), strict=True):
        assert isinstance(theirs, list), (case, theirs)
        name, ours = name_of(case[2]), edgekit_ids(path)
        expected = ours if ours == theirs else predicted(case, path)
        if ours == theirs:
            counts["equal"] += 1
        elif case[0].partition("+")[0] in RULES[name].pipeline:
            counts["the class's own pipeline"] += 1
        elif expected == theirs:
            counts["template or space by tokenizer.json"] += 1
        else:
            counts["flags of added tokens"] += 1
            plain = [i for i, text in enumerate(TEXTS) if "<" not in text]
            assert [theirs[i] for i in plain] == [expected[i] for i in plain], (case, theirs, expected)
        if name == "PreTrainedTokenizer" and case[0] == "sentencepiece":
            assert ours == theirs, case  # the class that `save_pretrained` of both versions names
    with capsys.disabled():
        print(f"\n{make.__name__}: {len(cases)} folders on transformers 5: {dict(counts)}")
    assert counts["equal"] >= 0.2 * len(cases)
    assert counts["flags of added tokens"] <= (0 if make is flag_cases else 0.05 * len(cases))


@pytest.mark.parametrize("kind", ["bpe", "bpe with symbols"])
def test_model_alone_transformers5_is_legacy_false_and_adds_bos_on_request(tmp_path, kind):
    """tokenizer.model without tokenizer.json, LlamaTokenizer: in 4.57 and edgekit `legacy` is true, BOS is added."""
    pytest.importorskip("sentencepiece")
    from test_sentencepiece_model import folder as model_folder

    usual = {"tokenizer_class": "LlamaTokenizer"}
    flags = [
        {},
        {"add_bos_token": True},
        {"add_bos_token": False},
        {"add_eos_token": True},
        {"add_prefix_space": False},
    ]
    paths = [model_folder(tmp_path / str(i), kind, usual | each) for i, each in enumerate(flags)]
    for each, path, theirs in zip(flags, paths, transformers_ids(paths, TRANSFORMERS5), strict=True):
        files = side_files(path)
        files["tokenizer_config.json"] = json.dumps(usual | {"add_bos_token": False, "legacy": False} | each).encode()
        tokenizer = from_files(files, ROWS)
        ours = [[framed(tokenizer, tokenizer.encode(t, specials=s)) for s in (True, False)] for t in TEXTS]
        assert ours == theirs, (each, ours[:2], theirs[:2])
