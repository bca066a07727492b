"""The PyTorch runtime against transformers itself. What all runtimes must do is in test_conformance.py."""

import dataclasses

import numpy as np
import pytest
from conftest import write_model

from edgekit import rooms
from edgekit.checkpoint import LlamaConfig
from edgekit.errors import CheckpointError, ContextError
from edgekit.settings import Running

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

# Grouped queries, an untied head, head_dim that is not hidden_size / heads, a base of its own for the rotation.
ODD = LlamaConfig(300, 48, 100, 3, 6, 2, 10, 64, rms_norm_eps=1e-6, rope_theta=50000.0)
TOKENS = np.random.default_rng(3).integers(0, 300, 40).tolist()
ONE = Running(threads=1)


@pytest.fixture(scope="module")
def runtime():
    return rooms.load("runtimes", "torch")


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("torch") / "odd", ODD, std=0.3)


def hugging_face(folder, tokens):
    model = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        return model(torch.tensor([tokens])).logits[0].numpy()


@pytest.mark.parametrize("tied", [False, True])
def test_logits_are_those_of_from_pretrained(runtime, tmp_path, tied):
    config = dataclasses.replace(ODD, tie_word_embeddings=tied)
    folder = write_model(tmp_path / "m", config, std=0.3)
    loaded = runtime.load(folder, ONE)
    assert np.abs(loaded.forward(TOKENS, every=True) - hugging_face(folder, TOKENS)).max() < 1e-5
    assert (loaded.vocab_size, loaded.context_length, loaded.length) == (300, 64, 40)
    assert loaded.files == {"config.json": (folder / "config.json").read_bytes()}


def test_last_position_steps_and_rewind(runtime, odd):
    loaded, wanted = runtime.load(odd, ONE), hugging_face(odd, TOKENS)
    last = loaded.forward(TOKENS)
    assert last.shape == (300,) and last.dtype == np.float32 and last.flags.writeable
    assert np.abs(last - wanted[-1]).max() < 1e-5
    for length in (39, 20, 20, 1, 0):
        loaded.rewind(length)
        again = [loaded.forward(TOKENS[i : i + 3], every=True) for i in range(length, 40, 3)]
        assert np.abs(np.concatenate(again) - wanted[length:]).max() < 1e-4
    with pytest.raises(ContextError):
        loaded.forward([1] * 25)
    assert loaded.length == 40


def test_every_float_type(runtime, tmp_path):
    """A float16 file is widened, as transformers does when it is asked for float32."""
    folder = write_model(tmp_path / "m", ODD, dtype=np.float16, std=0.3)
    assert np.abs(runtime.load(folder, ONE).forward(TOKENS, every=True) - hugging_face(folder, TOKENS)).max() < 1e-5


def test_loading_leaves_the_random_generator_alone(runtime, odd):
    torch.manual_seed(5)
    runtime.load(odd, ONE)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.rand(1) == drawn


def test_threads_are_set(runtime, odd):
    before = torch.get_num_threads()
    try:
        runtime.load(odd, Running(threads=2))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_refuses_what_is_no_checkpoint(runtime, tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        runtime.load(tmp_path / "nothing", ONE)
    (tmp_path / "x.onnx").write_bytes(b"")
    with pytest.raises(CheckpointError, match="turned back"):
        runtime.load(tmp_path / "x.onnx", ONE)
