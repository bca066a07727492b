"""A folder's tokenizer against transformers' AutoTokenizer: classes x flags x templates x files, ids equal.

The folders that transformers refuses are left out; how many it refuses is checked, too, so that the matrix stays full.
"""

import functools
import itertools
import json
import os
import random
import subprocess
import sys

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from edgekit.errors import VocabularyError
from edgekit.formats.checkpoint import side_files
from edgekit.tokenizers.base import framed
from edgekit.tokenizers.load import from_files

ROWS = 700
CORPUS = ["Once upon a time there was a little girl named Lily, and 19 dogs. She liked to play with her red ball."] * 3
TEXTS = ["Once upon a time", " two  spaces, and\nlines ", "a<s>b</s>c <x> d<y>e [PAD]", "19 Dogs über 😀"]
CLASSES = (None, "LlamaTokenizer", "LlamaTokenizerFast", "PreTrainedTokenizerFast", "GPT2Tokenizer", "GPTNeoXTokenizer",
           "Qwen2Tokenizer", "GemmaTokenizer", "CohereTokenizer", "CodeLlamaTokenizer")  # fmt: skip
UNSET = object()


@functools.cache
def library_json(kind: str) -> str:
    """A trained tokenizer.json: `bytes` (GPT-2's kind), `bytes+space`, or `sentencepiece` with byte fallback."""
    if kind == "sentencepiece":
        library = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
        library.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        byte_tokens = [f"<0x{value:02X}>" for value in range(256)]
        specials = ["<unk>", "<s>", "</s>"]
        trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=[*specials, *byte_tokens], show_progress=False)
        library.train_from_iterator(CORPUS, trainer)
        values = json.loads(library.to_str())
        values["added_tokens"] = [token for token in values["added_tokens"] if token["content"] in specials]
        library = Tokenizer.from_str(json.dumps(values))
        library.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        return library.to_str()
    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=kind == "bytes+space")
    library.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<unk>", "<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    library.train_from_iterator(CORPUS, trainer)
    return library.to_str()


def folder(path, kind, template, config, *, special_map=None, added=None):
    """A folder with a tokenizer and a config.json of model_type llama."""
    path.mkdir(parents=True)
    library = Tokenizer.from_str(library_json(kind))
    if template:
        text = {"bos": "<s> $A", "eos": "$A </s>", "both": "<s> $A </s>"}[template]
        library.post_processor = processors.TemplateProcessing(single=text, special_tokens=[("<s>", 1), ("</s>", 2)])
    library.save(str(path / "tokenizer.json"))
    files = {"tokenizer_config.json": config, "config.json": {"model_type": "llama", "vocab_size": ROWS}}
    files |= {} if special_map is None else {"special_tokens_map.json": special_map}
    files |= {} if added is None else {"added_tokens.json": added}
    for name, values in files.items():
        (path / name).write_text(json.dumps(values))
    return path


def given(**values):
    return {key: value for key, value in values.items() if value is not UNSET}


def flag_cases():
    """Class x add_bos_token x add_eos_token x template, on a byte-level and a SentencePiece tokenizer: 1,200."""
    flags = (UNSET, True, False)
    product = itertools.product(("bytes", "sentencepiece"), CLASSES, flags, flags, (None, "bos", "eos", "both"))
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    for kind, name, bos, eos, template in product:
        yield (
            kind,
            template,
            names | given(tokenizer_class=UNSET if name is None else name, add_bos_token=bos, add_eos_token=eos),
            {},
        )


def file_cases(count=400):
    """What the other files change, drawn with a fixed seed."""
    rng = random.Random(0)
    token = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True}
    tokens = [token, token | {"special": False}, token | {"lstrip": True}, token | {"rstrip": True},
              token | {"normalized": True, "special": False}, token | {"single_word": True}]  # fmt: skip

    for _ in range(count):
        kind = rng.choice(("bytes", "bytes+space", "sentencepiece"))
        name = rng.choice(CLASSES)
        config = given(tokenizer_class=UNSET if name is None else name)
        if name is None:
            config |= {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
        others = {"added": {"<x>": 400, "<y>": 401}} if rng.random() < 0.3 else {}
        # One token has the same flags in all files, and in tokenizer.json the same `normalized`: the library would keep
        # both entries, which no file can express.
        plain = ("<x>", "<y>") if others else ()
        flags = {text: rng.choice([t for t in tokens if not (t["normalized"] and text in ("<unk>", "<s>", "</s>"))])
                 for text in ("<unk>", "<s>", "</s>", "<x>", "<y>", "[PAD]", "[BOS]", "girl")}  # fmt: skip

        def entry(text, flags=flags, plain=plain):
            marked = text not in plain and rng.random() < 0.4
            return {"__type": "AddedToken", "content": text, **flags[text]} if marked else text

        for key, texts in (("bos_token", ["<s>", "<x>", "[BOS]"]), ("eos_token", ["</s>", "<y>"]),
                           ("unk_token", ["<unk>"]), ("pad_token", ["[PAD]", "</s>"])):  # fmt: skip
            if rng.random() < 0.6:
                config[key] = entry(rng.choice(texts))
        if rng.random() < 0.5:
            config["additional_special_tokens"] = [entry(t) for t in rng.sample(["<x>", "<y>", "girl"], 2)]
        if rng.random() < 0.4 and kind != "sentencepiece":
            config["add_prefix_space"] = rng.choice((True, False))
        if rng.random() < 0.4:
            config["add_bos_token"] = rng.choice((True, False))
        if rng.random() < 0.4:
            texts = ["<unk>", "<s>", "</s>"]
            table = {str(id): {"content": text} | flags[text] for id, text in enumerate(texts)}
            config["added_tokens_decoder"] = table | {"400": {"content": "<x>"} | flags["<x>"]}
        if rng.random() < 0.4:
            key, text = rng.choice([("bos_token", "<x>"), ("eos_token", "<y>"), ("pad_token", "[PAD]")])
            marked = text not in plain and rng.random() < 0.5
            others["special_map"] = {key: {"content": text, **flags[text]} if marked else text}
        yield kind, rng.choice((None, "bos", "both")), config, others


CODE = """
import json, sys
from transformers import AutoTokenizer
texts, paths, out = *json.load(sys.stdin), []
for path in paths:
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
        out.append([[tokenizer(t, split_special_tokens=s)["input_ids"] for s in (False, True)] for t in texts])
    except Exception as error:
        out.append(f"{type(error).__name__}: {error}")
json.dump(out, sys.stdout)
"""


def transformers_ids(paths, target=""):
    """The ids by AutoTokenizer, of the installed transformers or of one in the folder `target`."""
    extra = {"PYTHONPATH": target} if target else {}
    environment = os.environ | extra | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    done = subprocess.run([sys.executable, "-c", CODE], input=json.dumps([TEXTS, [str(path) for path in paths]]),
                          capture_output=True, text=True, env=environment)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def edgekit_ids(path):
    tokenizer = from_files(side_files(path), ROWS)
    return [[framed(tokenizer, tokenizer.encode(t, specials=s)) for s in (True, False)] for t in TEXTS]


def differences(tmp_path, cases, target=""):
    """(cases whose ids differ, how many transformers opened)."""
    paths = [folder(tmp_path / str(i), kind, template, config, **others)
             for i, (kind, template, config, others) in enumerate(cases)]  # fmt: skip
    answers = transformers_ids(paths, target)
    opened = [(case, path, ids) for case, path, ids in zip(cases, paths, answers, strict=True) if isinstance(ids, list)]
    return [(case, ids, ours) for case, path, ids in opened if (ours := edgekit_ids(path)) != ids], len(opened)


@pytest.mark.parametrize("make", [flag_cases, file_cases])
def test_folder_tokenizer_every_combination_equals_transformers(tmp_path, make):
    pytest.importorskip("transformers")
    cases = list(make())
    different, opened = differences(tmp_path, cases)
    assert not different, f"{len(different)} of {opened}, the first: {different[0]}"
    assert opened >= 0.9 * len(cases)


def test_folder_tokenizer_added_token_without_row_is_read_as_text(tmp_path):
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]"}
    path = folder(tmp_path / "m", "bytes", None, names)
    size = len(json.loads(library_json("bytes"))["model"]["vocab"])
    tokenizer = from_files(side_files(path), size)
    assert max(tokenizer.encode("cat [PAD]", specials=True)) < size
    assert tokenizer.decode(tokenizer.encode("cat [PAD]", specials=True)) == "cat [PAD]"
    with pytest.raises(VocabularyError, match="another model"):
        from_files(side_files(path), size - 1)
