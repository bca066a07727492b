"""Both PyTorch implementations, compared with transformers. test_conformance.py tests what all runtimes must do,
test_torch_fast.py the parts of the fast one."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from helpers import write_model

from edgekit.errors import CheckpointError, ContextError, MissingExtraError, RuntimeFailure, SettingError
from edgekit.formats.checkpoint import LlamaConfig
from edgekit.settings import Running
from edgekit.utils import registry

torch = pytest.importorskip("torch")

# Grouped queries, an untied head, head_dim that is not hidden_size / heads, an unusual base for the rotation.
ODD = LlamaConfig(300, 48, 100, 3, 6, 2, 10, 64, rms_norm_eps=1e-6, rope_theta=50000.0)
TOKENS = np.random.default_rng(3).integers(0, 300, 40).tolist()

# One setting and the largest |Δlogit| from transformers'; these logits have a standard deviation of 1.7.
WAYS = {"reference": (Running(threads=1, reference=True), 1e-5), "fast": (Running(threads=1), 4e-5)}


@pytest.fixture(scope="module")
def runtime():
    return registry.load("runtimes", "torch")


@pytest.fixture(params=WAYS)
def way(request):
    pytest.importorskip("transformers")
    return WAYS[request.param]


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("torch") / "odd", ODD, std=0.3)


def hugging_face(folder, tokens):
    transformers = pytest.importorskip("transformers")
    model = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        return model(torch.tensor([tokens])).logits[0].numpy()


@pytest.mark.parametrize("tied", [False, True])
def test_reference_logits_equal_from_pretrained(runtime, tmp_path, way, tied):
    settings, close = way
    folder = write_model(tmp_path / "m", dataclasses.replace(ODD, tie_word_embeddings=tied), std=0.3)
    loaded = runtime.load(folder, settings)
    assert np.abs(loaded.forward(TOKENS, every=True) - hugging_face(folder, TOKENS)).max() < close
    assert (loaded.vocab_size, loaded.context_length, loaded.length) == (300, 64, 40)
    assert loaded.files == {"config.json": (folder / "config.json").read_bytes()}


def test_forward_last_position_steps_and_rewind_agree(runtime, odd, way):
    settings, close = way
    loaded, expected = runtime.load(odd, settings), hugging_face(odd, TOKENS)
    last = loaded.forward(TOKENS)
    assert last.shape == (300,) and last.dtype == np.float32 and last.flags.writeable
    assert np.abs(last - expected[-1]).max() < close
    for size in (1, 2, 3, 7):
        for length in (39, 20, 20, 1, 0):
            loaded.rewind(length)
            again = [loaded.forward(TOKENS[i : i + size], every=True) for i in range(length, 40, size)]
            assert np.abs(np.concatenate(again) - expected[length:]).max() < 1e-4
    with pytest.raises(ContextError):
        loaded.forward([1] * 25)
    assert loaded.length == 40


def test_load_every_float_type_equals_transformers(runtime, tmp_path, way):
    """A float16 file is widened, as transformers does with dtype float32."""
    settings, close = way
    folder = write_model(tmp_path / "m", ODD, dtype=np.float16, std=0.3)
    loaded = runtime.load(folder, settings)
    assert np.abs(loaded.forward(TOKENS, every=True) - hugging_face(folder, TOKENS)).max() < close


def test_load_keeps_random_generator(runtime, odd, way):
    torch.manual_seed(5)
    runtime.load(odd, way[0])
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.rand(1) == drawn


@pytest.mark.parametrize("size", [1, 9])
def test_forward_failure_inside_is_one_line_and_appends_nothing(runtime, odd, way, size, monkeypatch):
    """The last product of the last layer fails, when everything before it is in the cache."""
    settings, close = way
    loaded, expected = runtime.load(odd, settings), hugging_face(odd, TOKENS)
    loaded.forward(TOKENS[:20])

    def fail(*_, **__):
        raise RuntimeError("not enough memory: you tried to allocate 8 bytes\nand a stack of C++")

    with monkeypatch.context() as patch:
        if settings.reference:
            patch.setattr(loaded.llama.model.model.layers[-1].mlp.down_proj, "forward", fail)
        else:
            patch.setattr(type(loaded.llama._layers[-1].down), "many" if size > 3 else "__call__", fail)
        with pytest.raises(RuntimeFailure, match="^PyTorch: not enough memory: you tried to allocate 8 bytes$"):
            loaded.forward(TOKENS[20 : 20 + size])
    assert loaded.length == (0 if settings.reference else 20)
    again = loaded.forward(TOKENS[loaded.length :], every=True)
    assert np.abs(again - expected[-len(again) :]).max() < close


def test_load_threads_are_set(runtime, odd):
    before = torch.get_num_threads()
    try:
        runtime.load(odd, Running(threads=2))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_load_reference_other_dtype_raises(runtime, odd):
    with pytest.raises(SettingError, match="float32"):
        runtime.load(odd, Running(reference=True, dtype="int8"))
    with pytest.raises(SettingError, match="dtype must be float32, bfloat16 or int8, not 'int4'"):
        Running(dtype="int4")


def test_load_fast_imports_no_transformers(odd):
    """Importing it takes longer than importing PyTorch, and a model this small is done in a fraction of that."""
    script = (
        "import sys; from pathlib import Path; from edgekit.settings import Running\n"
        "from edgekit.utils import registry\n"
        f"loaded = registry.load('runtimes', 'torch').load(Path({str(odd)!r}), Running(threads=1))\n"
        "loaded.forward([1, 2, 3, 4, 5]); loaded.forward([1])\n"
        "print({m.split('.')[0] for m in sys.modules} & {'transformers', 'accelerate', 'huggingface_hub'})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.stdout == "set()\n", done.stderr


def test_load_reference_without_transformers_names_extra(runtime, odd, monkeypatch):
    for name in [m for m in sys.modules if m.split(".")[0] == "transformers"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "edgekit.runtimes._torch_reference", raising=False)

    class Hidden:
        def find_spec(self, expected, path=None, target=None):
            if expected.split(".")[0] == "transformers":
                raise ModuleNotFoundError(f"No module named {expected!r}", name=expected)

    monkeypatch.setattr(sys, "meta_path", [Hidden(), *sys.meta_path])
    with pytest.raises(MissingExtraError, match=r"needs transformers.*pip install 'edgekit-lm\[torch\]'$"):
        runtime.load(odd, Running(reference=True))


def test_load_not_a_checkpoint_raises(runtime, tmp_path, way):
    with pytest.raises(CheckpointError, match="does not exist"):
        runtime.load(tmp_path / "nothing", way[0])
    (tmp_path / "x.onnx").write_bytes(b"")
    with pytest.raises(CheckpointError, match="turned back"):
        runtime.load(tmp_path / "x.onnx", way[0])
