"""Llama's options on every runtime, compared with transformers: scaled rotary embeddings, biases, a free head_dim."""

import json

import numpy as np
import pytest

from edgekit.conversion.convert import convert
from edgekit.formats.checkpoint import LlamaConfig, open_folder
from edgekit.formats.rope import RopeScaling, divisors, llama3_of
from edgekit.inference.reference import Reference
from edgekit.settings import Converting, Running
from edgekit.utils import registry

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
OPTIONS = {
    "plain": {},
    "linear": {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    "llama3": {"rope_scaling": LLAMA3},
    "attention_bias": {"attention_bias": True},
    "mlp_bias": {"mlp_bias": True},
    "head_dim": {"head_dim": 24},
    "all": {"rope_scaling": LLAMA3, "attention_bias": True, "mlp_bias": True, "head_dim": 24},
}
IDS = [3, 17, 5, 99, 42, 7, 1, 64, 23, 11, 80, 31, 2, 55, 90, 12, 66, 8, 70, 29, 4, 33, 91, 18]
STEPS = 40
BOUND = 1e-4


def seeded(folder, options):
    """A tiny Llama with seeded weights, saved by transformers; its model."""
    torch.manual_seed(5)
    config = transformers.LlamaConfig(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.2,
        **json.loads(json.dumps(options)),
    )
    model = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if tensor.ndim == 1:
                tensor.normal_(0 if name.endswith("bias") else 1, 0.3)
    model.save_pretrained(folder)
    return model


@pytest.fixture(scope="module", params=OPTIONS)
def saved(request, tmp_path_factory):
    """(folder, ids, transformers' logits after each, its greedy continuation)."""
    folder = tmp_path_factory.mktemp(request.param) / "model"
    model = seeded(folder, OPTIONS[request.param])
    with torch.no_grad():
        output = model.generate(torch.tensor([IDS]), max_new_tokens=STEPS, do_sample=False, eos_token_id=None)
        ids = output[0].tolist()
        logits = model(torch.tensor([ids])).logits[0].numpy()
    return folder, ids, logits


def check(runtime, ids, logits):
    """All at once, and token by token behind a prompt: the logits, and the greedy ids that follow from them."""
    together = runtime.forward(ids, every=True)
    np.testing.assert_allclose(together, logits, atol=BOUND, rtol=0)
    runtime.rewind(0)
    row = runtime.forward(ids[: len(IDS)])
    for at in range(len(IDS), len(ids)):
        np.testing.assert_allclose(row, logits[at - 1], atol=BOUND, rtol=0)
        assert int(row.argmax()) == ids[at]
        row = runtime.forward([ids[at]])
    runtime.close()


def test_reference_options_equal_transformers(saved):
    folder, ids, logits = saved
    check(Reference(open_folder(folder)), ids, logits)


@pytest.mark.parametrize("reference", [False, True], ids=["fast", "reference"])
def test_torch_options_equal_transformers(saved, reference):
    folder, ids, logits = saved
    check(registry.load("runtimes", "torch").load(folder, Running(reference=reference)), ids, logits)


@pytest.mark.parametrize("graph", ["fused", "portable"])
def test_onnx_options_equal_transformers_and_are_verified(saved, graph, tmp_path):
    pytest.importorskip("onnxruntime")
    if graph == "portable":
        pytest.importorskip("optimum")
    folder, ids, logits = saved
    result = convert(folder, "onnx", tmp_path / "m.onnx", settings=Converting(quant="fp32", graph=graph))
    assert result.receipt is not None
    check(registry.load("runtimes", "onnx").load(result.path, Running()), ids, logits)
    module, source = registry.load("converters", "onnx"), open_folder(folder)
    stored = {tensor.name: tensor.values for tensor in module.weights(result.path)}
    for name, values in source:
        np.testing.assert_array_equal(stored[name], values)


def test_gguf_options_equal_transformers_and_back(saved, tmp_path):
    pytest.importorskip("llama_cpp")
    folder, ids, logits = saved
    result = convert(folder, "gguf", tmp_path / "m.gguf", settings=Converting(quant="f32"))
    assert result.receipt is not None
    check(registry.load("runtimes", "llamacpp").load(result.path, Running(kv_type="f32")), ids, logits)
    back = convert(result.path, "hf", tmp_path / "back").path
    model = transformers.AutoModelForCausalLM.from_pretrained(back).eval()
    with torch.no_grad():
        np.testing.assert_allclose(model(torch.tensor([ids])).logits[0].numpy(), logits, atol=1e-6)


def test_gguf_of_other_programs_gives_the_options(saved, tmp_path):
    """Without the config.json that edgekit embeds, from the file's own keys and tensors."""
    folder, ids, logits = saved
    source = open_folder(folder)
    path = convert(folder, "gguf", tmp_path / "m.gguf", settings=Converting(quant="f32"), verify=False).path
    gguf = pytest.importorskip("gguf")
    reader, foreign = gguf.GGUFReader(path), tmp_path / "foreign.gguf"
    writer = gguf.GGUFWriter(foreign, "llama")
    for key, field in reader.fields.items():
        if key.startswith(("llama.", "tokenizer.")):
            kind = field.types[0]
            inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(key, field.contents(), kind, sub_type=inner)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    checkpoint = registry.load("converters", "gguf").read(foreign)
    for name in ("attention_bias", "mlp_bias", "head_dim"):
        assert getattr(checkpoint.config, name) == getattr(source.config, name)
    check(Reference(checkpoint), ids, logits)
    folder = convert(foreign, "hf", tmp_path / "back").path
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        np.testing.assert_allclose(model(torch.tensor([ids])).logits[0].numpy(), logits, atol=BOUND)


@pytest.mark.parametrize("quant, to", [("q8_0", "gguf"), ("q4_k_m", "gguf"), ("int8", "onnx"), ("int4", "onnx")])
def test_quantized_options_are_verified(tmp_path, quant, to):
    pytest.importorskip("llama_cpp" if to == "gguf" else "onnxruntime")
    seeded(tmp_path / "m", OPTIONS["all"])
    out = tmp_path / ("q." + to)
    assert convert(tmp_path / "m", to, out, settings=Converting(quant=quant)).receipt is not None


@pytest.mark.parametrize("scaling", [
    RopeScaling("llama3", 8.0, 1.0, 4.0, 8192),
    RopeScaling("llama3", 32.0, 1.0, 4.0, 8192),
    RopeScaling("llama3", 8.0, 2.0, 8.0, 4096),
], ids=["llama-3.1", "llama-3.2", "other limits"])  # fmt: skip
def test_llama3_of_divisors_gives_the_same_frequencies(scaling):
    stored = divisors(128, 500000.0, scaling)
    found = llama3_of(stored, 128, 500000.0)
    assert found is not None
    np.testing.assert_allclose(divisors(128, 500000.0, found), stored, rtol=1e-5)


def test_llama3_of_other_divisors_is_none():
    assert llama3_of(np.array([1, 3, 2, 5], np.float32), 8, 10000.0) is None


@pytest.mark.parametrize("scaling", [OPTIONS["linear"]["rope_scaling"], LLAMA3], ids=["linear", "llama3"])
def test_rope_frequencies_equal_transformers(scaling):
    config = LlamaConfig(128, 64, 96, 2, 4, 2, 16, 128, rope_scaling=None)
    values = config.to_dict() | {"rope_scaling": scaling}
    rotary = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(transformers.LlamaConfig.from_dict(values))
    read = LlamaConfig.from_dict(values)
    assert read.rope_scaling is not None and LlamaConfig.from_dict(read.to_dict()) == read
    from edgekit.formats.rope import frequencies

    np.testing.assert_allclose(frequencies(16, 10000.0, read.rope_scaling), rotary.inv_freq.numpy(), rtol=3e-7)
