"""The fast PyTorch forward pass: every shape of Llama against transformers, the loss of its dtypes, its products."""

import dataclasses

import numpy as np
import pytest
from helpers import write_model

from edgekit.formats.checkpoint import LlamaConfig, open_folder
from edgekit.inference.sampling import log_softmax
from edgekit.settings import Running
from edgekit.utils import registry

torch = pytest.importorskip("torch")
fast = pytest.importorskip("edgekit.runtimes._torch_fast")
products = pytest.importorskip("edgekit.runtimes._torch_products")

# vocab_size, hidden_size, intermediate_size, layers, heads, kv_heads, head_dim, context
SHAPES = {
    "plain": LlamaConfig(320, 64, 192, 2, 4, 4, 16, 128),
    "tied": LlamaConfig(320, 64, 192, 2, 4, 4, 16, 128, tie_word_embeddings=True),
    "one head": LlamaConfig(64, 32, 64, 2, 1, 1, 32, 64),
    "three heads": LlamaConfig(500, 48, 128, 2, 3, 3, 16, 64, tie_word_embeddings=True),
    "five heads of one group": LlamaConfig(500, 40, 128, 2, 5, 1, 8, 64),
    "nine heads of three groups": LlamaConfig(500, 144, 300, 2, 9, 3, 16, 64, rms_norm_eps=1e-6, rope_theta=500000.0),
    "heads wider than the model": LlamaConfig(500, 32, 96, 2, 4, 2, 24, 64),
    "nothing divides": LlamaConfig(1009, 50, 137, 3, 5, 5, 10, 64, tie_word_embeddings=True),
    "smaller than a register": LlamaConfig(7, 6, 5, 1, 3, 1, 2, 64),
    "stories260K": LlamaConfig(512, 64, 172, 5, 8, 4, 8, 512, tie_word_embeddings=True),
    "several blocks": LlamaConfig(2050, 512, 1100, 1, 8, 2, 64, 64),
    "many layers": LlamaConfig(300, 32, 64, 20, 2, 2, 16, 64),
}


@pytest.fixture(scope="module")
def runtime():
    return registry.load("runtimes", "torch")


def tokens_for(config, count=48, seed=1):
    return np.random.default_rng(seed).integers(0, config.vocab_size, count).tolist()


def steps(loaded, tokens):
    return np.stack([loaded.forward([token]) for token in tokens])


@pytest.mark.parametrize("name", SHAPES)
def test_forward_logits_equal_transformers(runtime, tmp_path, name):
    """At once, one by one, and in pieces. The bound is 2e-5 of the logits' standard deviation, or 2e-5 if that is less
    than 1; transformers' own model differs from itself by no less (8.8e-6 at 12.3M parameters, ours 6.1e-6)."""
    transformers = pytest.importorskip("transformers")
    config = SHAPES[name]
    folder = write_model(tmp_path / "m", config, std=1 / config.hidden_size**0.5)
    tokens = tokens_for(config)
    model = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        expected = model(torch.tensor([tokens])).logits[0].numpy()
    close = 2e-5 * max(1, expected.std())
    loaded = runtime.load(folder, Running(threads=1))
    at_once = loaded.forward(tokens, every=True)
    assert at_once.shape == expected.shape and at_once.dtype == np.float32
    assert np.abs(at_once - expected).max() < close
    loaded.rewind(0)
    assert np.abs(steps(loaded, tokens) - expected).max() < close
    loaded.rewind(10)
    pieces = [loaded.forward(tokens[i : i + n], every=True) for i, n in ((10, 3), (13, 20), (33, 1), (34, 14))]
    assert np.abs(np.concatenate(pieces) - expected[10:]).max() < close
    loaded.rewind(0)
    assert np.abs(loaded.forward(tokens) - expected[-1]).max() < close


def test_forward_prompt_longer_than_chunk_equals_steps(runtime, tmp_path):
    """More than `CHUNK` tokens go through the layers in two parts, with the angles of far positions."""
    transformers = pytest.importorskip("transformers")
    config = LlamaConfig(300, 64, 128, 2, 4, 2, 16, 1200)
    folder, tokens = write_model(tmp_path / "m", config, std=0.1), tokens_for(config, fast.CHUNK * 2 + 100)
    model = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        expected = model(torch.tensor([tokens])).logits[0].numpy()
    loaded = runtime.load(folder, Running(threads=1))
    assert np.abs(loaded.forward(tokens, every=True) - expected).max() < 2e-5
    loaded.rewind(700)
    assert np.abs(loaded.forward(tokens[700:]) - expected[-1]).max() < 2e-5
    loaded.rewind(len(tokens) - 5)
    assert np.abs(steps(loaded, tokens[-5:]) - expected[-5:]).max() < 2e-5


def test_rewind_only_changes_length(runtime, tmp_path):
    """Nothing is copied or cleared, so the same steps from the same place give the same bits."""
    config = SHAPES["stories260K"]
    loaded, tokens = runtime.load(write_model(tmp_path / "m", config), Running(threads=1)), tokens_for(config)
    cache = loaded.llama._cache.data_ptr()
    first = steps(loaded, tokens)
    for keep in (40, 7, 0):
        loaded.rewind(keep)
        assert loaded.length == keep
        assert (steps(loaded, tokens[keep:]) == first[keep:]).all()
    assert loaded.llama._cache.data_ptr() == cache
    loaded.rewind(20)
    loaded.forward(tokens_for(config, 28, seed=2))  # another text over the old one
    loaded.rewind(20)
    assert (steps(loaded, tokens[20:]) == first[20:]).all()


@pytest.mark.parametrize("dtype", fast.FEW)
def test_forward_threads_change_only_rounding(tmp_path, dtype):
    config = SHAPES["several blocks"]
    checkpoint, tokens = open_folder(write_model(tmp_path / "m", config, std=0.1)), tokens_for(config, 5)
    logits = {}
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            llama = fast.FastLlama(checkpoint, dtype, threads)
            with torch.inference_mode():
                logits[threads] = np.concatenate([llama.append([t], i, True).numpy() for i, t in enumerate(tokens)])
    finally:
        torch.set_num_threads(before)
    # A float32 sum that comes out differently by one bit may round to another bfloat16, 2^-8 away.
    close = 0.02 if dtype == "bfloat16" else 2e-5
    assert max(np.abs(logits[1] - logits[n]).max() for n in (2, 3)) < close * logits[1].std()


# ----------------------------------------------------------------------------- dtypes


# Most mean KL(float32 || dtype) in nats, largest |Δlogit| and how far prefill and single steps may be apart, both in
# standard deviations of the logits. Measured on stories260K, 1,024 tokens of stories: 2.3e-4, 0.06, 0.025 (bfloat16)
# and 2.0e-3, 0.22, 7e-6 (int8); on seeded weights of Stentor2-12M's shape: 1.0e-4, 0.15, 0.06 and 4.6e-4, 0.22, 2e-5.
DTYPES = {"bfloat16": (6e-4, 0.4, 0.2), "int8": (5e-3, 0.5, 1e-4)}


def kl(p, q):
    p, q = log_softmax(p), log_softmax(q)
    return float((np.exp(p) * (p - q)).sum(-1).mean())


def compare(runtime, folder, tokens, dtype):
    most, far, apart = DTYPES[dtype]
    expected = runtime.load(folder, Running(threads=1)).forward(tokens, every=True)
    loaded = runtime.load(folder, Running(threads=1, dtype=dtype))
    at_once = loaded.forward(tokens, every=True)
    loaded.rewind(0)
    single = steps(loaded, tokens)
    for logits in (at_once, single):
        assert logits.dtype == np.float32 and np.isfinite(logits).all()
        assert 0 < kl(expected, logits) < most
        assert np.abs(logits - expected).max() < far * expected.std()
    assert np.abs(at_once - single).max() < apart * expected.std()
    return expected, single


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SHAPES)
def test_forward_narrow_dtype_stays_close(runtime, tmp_path, name, dtype):
    config = SHAPES[name]
    folder = write_model(tmp_path / "m", config, std=0.5 / config.hidden_size**0.5)
    compare(runtime, folder, tokens_for(config), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_forward_narrow_dtype_trained_model_stays_close(runtime, stories, dtype):
    expected, logits = compare(runtime, stories, story(runtime.load(stories, Running(threads=1))), dtype)
    assert (expected.argmax(-1) == logits.argmax(-1)).mean() > {"bfloat16": 0.97, "int8": 0.93}[dtype]


def story(loaded, count=200):
    """Text that the model itself generates, as it was trained on."""
    ids = [1]
    while len(ids) < count:
        logits = loaded.forward(ids[-1:])
        logits[:3] = -np.inf  # a story that does not end
        ids.append(int(logits.argmax()))
    return ids


def test_load_narrow_dtype_takes_less_memory(tmp_path):
    config = dataclasses.replace(SHAPES["several blocks"], num_hidden_layers=4)
    checkpoint = open_folder(write_model(tmp_path / "m", config))
    table_bytes = {}
    for dtype in fast.FEW:
        llama = fast.FastLlama(checkpoint, dtype, 1)
        every = [product for layer in llama._layers for product in layer[:4]] + [llama._head]
        table_bytes[dtype] = sum(p._table.nbytes for p in every)
    weights = 4 * sum(t.size for name, t in checkpoint if "norm" not in name and "embed" not in name)
    assert weights <= table_bytes["float32"] < 1.02 * weights
    assert table_bytes["bfloat16"] == table_bytes["float32"] / 2
    assert table_bytes["int8"] < 0.28 * table_bytes["float32"]


# ----------------------------------------------------------------------------- products


@pytest.mark.parametrize("dtype", fast.FEW)
@pytest.mark.parametrize("outputs, inputs", [(1, 1), (5, 3), (16, 16), (127, 40), (384, 7), (385, 64), (1000, 257)])
@pytest.mark.parametrize("threads", [1, 4])
def test_product_equals_matrix_times_vector(outputs, inputs, threads, dtype):
    generator = torch.Generator().manual_seed(outputs + inputs)
    blocks = products.cut(outputs, dtype, threads)
    assert blocks.padded >= outputs and blocks.width % products.LANES == 0 and blocks.width <= products.WIDEST
    assert blocks.padded - outputs < blocks.width
    weight = torch.zeros(blocks.padded, inputs)
    weight[:outputs] = torch.randn(outputs, inputs, generator=generator)
    product = products.Product(weight, blocks, dtype, products.Arena(products.Arena.size([(blocks, inputs)], dtype)))
    x = torch.randn(9, inputs, generator=generator)
    if dtype == "bfloat16":
        x, weight = x.bfloat16().float(), weight.bfloat16().float()
    elif dtype == "int8":
        rounded = products.unpack_bytes(product._table)
        weight = rounded.view(blocks.count, inputs, blocks.width).transpose(1, 2).reshape(weight.shape)
    expected = x.double() @ weight.double().T
    called = []
    for row in x:
        product.input.copy_(row)
        called.append(product().reshape(-1))
        assert called[-1].dtype == torch.float32
    # Sums are float32; those of bfloat16 are rounded to 8 bits at the end.
    close = 1e-6 * (x.abs() @ weight.abs().T).max() + (2.0**-8 * expected.abs().max() if dtype == "bfloat16" else 0)
    assert (torch.stack(called) - expected).abs().max() < close
    assert (product.many(x) - expected).abs().max() < close


def test_pack_bytes_error_is_within_half_a_step():
    rows = torch.randn(50, 48) * torch.logspace(-6, 3, 50)[:, None]
    rows[0], rows[1], rows[2, :] = 0.0, 3.25, torch.tensor([-1.0, 1.0]).repeat(24)
    packed = products.pack_bytes(rows, torch.empty(50, 48 + products.PER_ROW, dtype=torch.uint8))
    back = products.unpack_bytes(packed)
    step = (rows.amax(1) - rows.amin(1)) / 255
    assert ((back - rows).abs().amax(1) <= 0.501 * step + 1e-9).all()
    assert (back[:2] == rows[:2]).all() and torch.allclose(back[2], rows[2], atol=1e-6)


def test_pack_bytes_equals_fbgemm():
    """PyTorch's own packer writes the same rows, except for the last bit of a scale."""
    packer = getattr(torch.ops.quantized, "embedding_bag_byte_prepack", None)
    if packer is None:
        pytest.skip("this PyTorch has no packer")
    rows = torch.randn(40, 64)
    ours = products.pack_bytes(rows, torch.empty(40, 64 + products.PER_ROW, dtype=torch.uint8))
    theirs = packer(rows)
    assert theirs.shape == ours.shape
    assert (theirs[:, :-8].int() - ours[:, :-8].int()).abs().max() <= 1
    assert torch.allclose(products.unpack_bytes(theirs), products.unpack_bytes(ours), atol=0.02)


def test_product_int8_without_private_op_gives_same_result(runtime, tmp_path, monkeypatch):
    config = SHAPES["stories260K"]
    folder, tokens = write_model(tmp_path / "m", config, std=0.2), tokens_for(config)
    with_op = steps(runtime.load(folder, Running(threads=1, dtype="int8")), tokens)
    assert products.byte_bags() is not None
    monkeypatch.setattr(products, "byte_bags", lambda: None)
    loaded = runtime.load(folder, Running(threads=1, dtype="int8"))
    assert loaded.llama._head._table.dtype == torch.float32
    assert np.abs(steps(loaded, tokens) - with_op).max() < 1e-4
