"""The engine's tokenizer of a GGUF that another program wrote, against the tokenizer.json rebuilt from its keys."""

import json
import random

import pytest
from engine_tokenizers import config, gguf, train

from edgekit.errors import UnsupportedError, VocabularyError
from edgekit.formats.gguf import GGUFFile
from edgekit.tokenizers.base import Tokenizer
from edgekit.tokenizers.chat import HasChatTemplate, template_of
from edgekit.tokenizers.llamacpp import rebuild
from edgekit.tokenizers.load import from_files
from edgekit.tokenizers.native import NativeTokenizer

PARTS = ["Once", " upon", "the", " ", "\n", "12", "é", "中", "🙂", "<s>", "</s>", "<tool>", "'s", "\t", "."]
TEMPLATE = "{% for message in messages %}{{ bos_token }}{{ message.content }}{% endfor %}"


@pytest.fixture(scope="module", params=["stories260K", "gpt-2", "smollm", "llama-bpe"])
def file(request, tmp_path_factory) -> GGUFFile:
    if request.param == "stories260K":
        return GGUFFile(request.getfixturevalue("shared") / "models" / "stories260K" / "stories260K.f32.gguf")
    path = tmp_path_factory.mktemp("gguf") / "foreign.gguf"
    files = train(request.param)
    rows = 1 + len(json.loads(files["tokenizer.json"])["model"]["vocab"])  # no padding, which a foreign file names
    path.write_bytes(gguf(files, rows, foreign=True, add_bos_token=request.param == "gpt-2"))
    return GGUFFile(path)


def test_native_tokenizer_equals_rebuilt_one(engine_library, file):
    rows = len(file.metadata["tokenizer.ggml.tokens"])
    files, difference = rebuild.files(file, config({}, rows))
    rebuilt, tokenizer = from_files(files, rows), NativeTokenizer(engine_library, file, rows)
    assert isinstance(tokenizer, Tokenizer) and isinstance(tokenizer, HasChatTemplate) and not difference
    for name in ("vocab_size", "bos", "stop", "token_bytes"):
        assert getattr(tokenizer, name) == getattr(rebuilt, name), name
    assert tokenizer.facts()["specials"] == rebuilt.facts()["specials"]
    assert [tokenizer.piece(id) for id in range(-1, rows + 2)] == [rebuilt.piece(id) for id in range(-1, rows + 2)]
    rng = random.Random(1)
    for _ in range(100):
        text = "".join(rng.choices(PARTS, k=rng.randrange(9)))
        for specials in (False, True):
            assert tokenizer.encode(text, specials=specials) == rebuilt.encode(text, specials=specials)
        ids = [rng.randrange(rows) for _ in range(8)]
        assert tokenizer.decode(ids) == rebuilt.decode(ids)
        ours, theirs = tokenizer.decoder(ids[:2]), rebuilt.decoder(ids[:2])
        for id in ids[2:]:
            for remaining in (None, 0, 2):
                mask = tokenizer.utf8_mask(ours, remaining)
                assert (mask == rebuilt.utf8_mask(theirs, remaining)).all()
            assert ours.feed(id) == theirs.feed(id)
        assert ours.flush() == theirs.flush()


def test_native_tokenizer_has_the_files_chat_template(engine_library, tmp_path):
    path = tmp_path / "chat.gguf"
    path.write_bytes(gguf(train("gpt-2") | {"chat_template.jinja": TEMPLATE.encode()}, 512, foreign=True))
    tokenizer = NativeTokenizer(engine_library, GGUFFile(path), 512)
    assert tokenizer.special_tokens == {"bos_token": "<s>", "eos_token": "</s>"}
    assert template_of({}, tokenizer).render([{"role": "user", "content": "Hi"}]) == "<s>Hi"


def test_native_tokenizer_that_cannot_be_used_raises(engine_library, tmp_path):
    path = tmp_path / "foreign.gguf"
    path.write_bytes(gguf(train("gpt-2"), 512, foreign=True, model="t5"))
    with pytest.raises(UnsupportedError, match=r"foreign\.gguf: the file has a tokenizer of the kind t5"):
        NativeTokenizer(engine_library, GGUFFile(path), 512)
    path.write_bytes(gguf(train("gpt-2"), 512, foreign=True))
    with pytest.raises(VocabularyError, match="512 tokens, but the embedding has 600 rows"):
        NativeTokenizer(engine_library, GGUFFile(path), 600)
    tokenizer = NativeTokenizer(engine_library, GGUFFile(path), 512)
    with pytest.raises(TypeError, match="a decoder made by this tokenizer"):
        tokenizer.utf8_mask(object())
