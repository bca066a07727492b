"""The bundled model: small, complete, a plain Llama for other programs, and able to write English."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest

import edgekit
from edgekit.errors import MissingExtraError
from edgekit.formats.checkpoint import open_folder
from edgekit.formats.hub import BUNDLED
from edgekit.utils import registry

# Written for this test, so it is in no training text.
STORY = (
    "There was a small grey goat who lived behind the mill. Every morning she climbed the hill to look for her "
    "brother. One day it rained so hard that the path was gone. The goat was sad. She asked the old miller to help "
    "her, and he took his lamp and went with her. They found the brother under a tree. He was wet, but he was happy "
    "to see them, and they all went home together."
)


@pytest.fixture(scope="module", params=registry.names("runtimes"))
def model(request, tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("EDGEKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
    try:
        yield edgekit.load(runtime=request.param, kv_type="f32", threads=1)
    except MissingExtraError as error:
        pytest.skip(str(error))
    finally:
        patch.undo()


def bits_per_byte(model: edgekit.Model, text: str) -> float:
    """By the definition: the sum of -log2 p(token | those before), over the bytes of the text."""
    tokens = model.encode(text)
    model.runtime.rewind(0)
    logits = model.runtime.forward(tokens, every=True).astype(np.float64)
    chances = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return -sum(chances[i, token] for i, token in enumerate(tokens[1:])) / math.log(2) / len(text.encode())


def test_bundled_model_is_small_and_has_readme():
    sizes = {path.name: path.stat().st_size for path in BUNDLED.iterdir()}
    assert sum(sizes.values()) < 16e6
    assert set(open_folder(BUNDLED).dtypes.values()) == {"F16"}
    card = (BUNDLED / "README.md").read_text()
    for part in ("CDLA-Sharing-1.0", "CC BY 4.0", "bits per byte", "BLiMP", "Samples", "training_curves.svg"):
        assert part in card, part


def test_run_without_model_uses_bundled(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "edgekit", "run", "Once upon a time", "--max-new-tokens", "30", "--seed", "1"],
        capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"EDGEKIT_CACHE": str(tmp_path)}, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Once upon a time") and len(done.stdout) > 60


def test_bundled_model_perplexity_on_every_runtime(model):
    good = bits_per_byte(model, STORY)
    words = STORY.split()
    shuffled = " ".join(np.random.default_rng(0).permutation(words))
    assert good < 1.45
    assert bits_per_byte(model, shuffled) > good + 0.8


def test_bundled_prompt_begins_with_bos(model):
    assert model.encode("Once")[0] == model.tokenizer.bos == open_folder(BUNDLED).config.bos_token_id
