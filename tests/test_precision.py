"""The T4 precision recipe on any Llama: what is patched, the dtype of each part, removal. The model's arithmetic."""

# ruff: noqa: E402  (a missing package skips the file before its imports fail)

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgekit.errors import RecipeError
from edgekit.formats.checkpoint import LlamaConfig
from edgekit.training import optim, precision
from edgekit.training.attention import causal_attention
from edgekit.training.kernels import rms_norm
from edgekit.training.loss import linear_cross_entropy
from edgekit.training.model import Llama, initialize, parameters
from edgekit.training.sections import Optimizer

CPU = torch.device("cpu")
SMALL = LlamaConfig(
    vocab_size=384, hidden_size=32, intermediate_size=96, num_hidden_layers=12, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, max_position_embeddings=64, tie_word_embeddings=True,
)  # fmt: skip


def ours(config=SMALL):
    model = Llama(config)
    initialize(model, 0.08, 3)
    return model


def theirs(config=SMALL):
    transformers = pytest.importorskip("transformers")
    values = {k: v for k, v in config.to_dict().items() if k not in ("architectures", "model_type")}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**values, use_cache=False))


def tokens(rows=3, length=48):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 384, (rows, length)))


@pytest.mark.parametrize("untied", [False, True])
def test_llama_same_weights_equals_transformers(untied):
    """Logits, loss and every gradient in float32, compared with transformers' module with the same weights."""
    config = LlamaConfig(**{**vars(SMALL), "num_hidden_layers": 3, "tie_word_embeddings": not untied})
    model, reference = ours(config), theirs(config)
    reference.load_state_dict(model.state_dict())  # strict: the names and shapes are the same
    ids = tokens()
    with torch.no_grad():
        assert torch.allclose(model.logits(ids), reference(ids).logits, atol=1e-5)
    for each, loss in ((model, model(ids)), (reference, reference(ids, labels=ids).loss)):
        loss.backward()
        each.loss_value = loss.item()
    assert model.loss_value == pytest.approx(reference.loss_value, abs=1e-5)
    named = dict(reference.named_parameters())
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter.grad, named[name].grad, atol=1e-5), name
    assert sum(p.numel() for p in model.parameters()) == parameters(config)


@pytest.mark.parametrize("make", [ours, theirs])
def test_apply_counts_patched_modules(make, caplog):
    caplog.set_level("INFO", "edgekit.training")
    counts = precision.apply(make(), norms=True, layers=2)
    assert (counts.norms, counts.layers, counts.softmax) == (25, 2, 0)
    assert "25 norms, 2 layers, 0 softmax" in caplog.text


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("make", [ours, theirs])
def test_apply_under_autocast_dtype_at_each_module(make, dtype):
    """Norms compute in float32 and return their input's dtype; the first two layers compute in float32 throughout and
    return the stream's dtype; the products of the others are in half precision."""
    model, seen = make(), {}
    precision.apply(model, norms=True, layers=2)

    def watch(name, module):
        def note(_, args, kwargs, out):
            input_dtype = next(a.dtype for a in (*args, *kwargs.values()) if torch.is_tensor(a))
            seen.setdefault(name, []).append((input_dtype, (out[0] if isinstance(out, tuple) else out).dtype))

        module.register_forward_hook(note, with_kwargs=True)

    for name, module in model.named_modules():
        if name.count(".") >= 2 or name == "model.norm":
            watch(name, module)
    inside = []
    norm_class = type(model.model.norm)
    original = norm_class.forward
    norm_class.forward = lambda self, x, *a, **k: (inside.append(x.dtype), original(self, x, *a, **k))[1]
    try:
        precision.apply(model, norms=True, layers=2)
        with torch.autocast("cpu", dtype):
            model(tokens(1, 8))
    finally:
        norm_class.forward = original
    assert inside == [torch.float32] * 25
    for name, pairs in seen.items():
        for input_dtype, output_dtype in pairs:
            if "norm" in name or name.count(".") == 2:
                assert input_dtype == output_dtype, name  # a norm or a layer returns its input's dtype
            if name.startswith(("model.layers.0.", "model.layers.1.")):
                assert output_dtype == torch.float32, name
            elif name.endswith(("o_proj", "down_proj")):
                assert output_dtype == dtype, name
    if make is ours:
        assert seen["model.layers.5"] == [(dtype, dtype)]


def test_remove_restores_the_model():
    model = ours()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plain = model.logits(tokens())
    precision.apply(model)
    assert len(list(precision.patched(model))) == 27
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    precision.apply(model)  # applying twice is the same as once
    assert len(list(precision.patched(model))) == 27
    precision.remove(model)
    assert not list(precision.patched(model)) and "forward" not in model.model.norm.__dict__
    assert torch.equal(model.logits(tokens()), plain)


def test_apply_in_float32_changes_nothing():
    model = ours()
    plain = model(tokens())
    precision.apply(model)
    assert torch.equal(model(tokens()), plain)


class FakeGPU:
    """torch.cuda with the answers of a T4 or a newer GPU."""

    def __init__(self, monkeypatch, capability):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "Tesla T4")
        # On a T4 this returns True, since it counts emulation: it must not be called.
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: pytest.fail("called is_bf16_supported"))


def test_choose_t4_never_bf16(monkeypatch):
    FakeGPU(monkeypatch, (7, 5))
    cuda = torch.device("cuda")
    assert precision.choose("auto", cuda) == torch.float16
    assert precision.choose("fp16", cuda) == torch.float16
    with pytest.raises(RecipeError, match="bf16, which Tesla T4 only emulates: use fp16"):
        precision.choose("bf16", cuda)


def test_choose_newer_gpu_or_cpu_takes_bf16(monkeypatch):
    FakeGPU(monkeypatch, (8, 0))
    assert precision.choose("auto", torch.device("cuda")) == torch.bfloat16
    assert precision.choose("fp16", torch.device("cuda")) == torch.float16
    assert precision.choose("auto", CPU) == torch.bfloat16
    assert precision.choose("no", CPU) == torch.float32


def test_groups_only_linear_weights_decay():
    model = ours(LlamaConfig(**{**vars(SMALL), "num_hidden_layers": 2}))
    decayed, others = optim.groups(model, 0.01)
    names = {id(p): name for name, p in model.named_parameters()}
    assert decayed["weight_decay"] == 0.01 and others["weight_decay"] == 0.0
    assert {names[id(p)].split(".")[-2] for p in decayed["params"]} == set(
        "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj".split()
    )
    assert {names[id(p)].rsplit(".", 1)[0].split(".")[-1] for p in others["params"]} == set(
        "embed_tokens input_layernorm post_attention_layernorm norm".split()
    )
    untied = ours(LlamaConfig(**{**vars(SMALL), "num_hidden_layers": 2, "tie_word_embeddings": False}))
    assert any(p is untied.lm_head.weight for p in optim.groups(untied, 0.1)[0]["params"])
    assert optim.make(model, Optimizer()).defaults["fused"]
    pair = optim.make(model, Optimizer(algorithm="muon", weight_decay=0.01))
    muon, adamw = pair.parts
    assert isinstance(muon, torch.optim.Muon) and muon.param_groups[0]["adjust_lr_fn"] == "match_rms_adamw"
    assert [{id(p) for p in part.param_groups[0]["params"]} for part in pair.parts] == [
        {id(p) for p in group["params"]} for group in (decayed, others)
    ]
    assert [group["weight_decay"] for group in pair.param_groups] == [0.01, 0.0]


def test_make_muon_without_torch_support_raises(monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(RecipeError, match="muon needs torch 2.9"):
        optim.make(ours(SMALL), Optimizer(algorithm="muon"))


def test_initialize_same_seed_same_weights():
    model = Llama(SMALL)
    initialize(model, 0.02, 42)
    again = Llama(SMALL)
    initialize(again, 0.02, 42)
    for (name, one), two in zip(model.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(one, two)
        if "norm" in name:
            assert torch.equal(one, torch.ones_like(one))
        else:
            assert one.std().item() == pytest.approx(0.02, rel=0.15) and abs(one.mean().item()) < 3e-3
    initialize(again, 0.02, 43)
    assert not torch.equal(model.model.embed_tokens.weight, again.model.embed_tokens.weight)


# ---- the explicit gradients ------------------------------------------------------------------------------------------


def grads(function, *tensors):
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    out = function(*leaves)
    out.backward(torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape))
    return [out.detach(), *(leaf.grad for leaf in leaves)]


def close(ours, theirs, tolerance):
    for one, two in zip(ours, theirs, strict=True):
        assert one.dtype == two.dtype and one.shape == two.shape
        assert (one.float() - two.float()).norm() <= tolerance * two.float().norm()


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12), (torch.bfloat16, 0.02)]
)
def test_rms_norm_gradients_equal_autograd(dtype, tolerance):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 5, 32, generator=generator).to(dtype)
    weight = 1 + 0.1 * torch.randn(32, generator=generator)

    def plain(x, weight):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * weight.to(x.dtype)

    close(grads(lambda x, w: rms_norm(x, w, 1e-5), x, weight), grads(plain, x, weight), tolerance)


@pytest.mark.parametrize("length", [1, 7, 128, 300])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
def test_causal_attention_gradients_equal_sdpa(length, dtype, tolerance):
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 4, length, 8, generator=generator).to(dtype)
    k, v = (torch.randn(2, 2, length, 8, generator=generator).to(dtype) for _ in range(2))

    def sdpa(q, k, v):
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

    ours, theirs = grads(causal_attention, q, k, v), grads(sdpa, q, k, v)
    if length == 1:  # one key: the softmax is constant, so these two are 0; SDPA may leave a rounding error instead
        assert not ours[1].any() and not ours[2].any()
        ours, theirs = [ours[0], ours[3]], [theirs[0], theirs[3]]
    close(ours, theirs, tolerance)


@pytest.mark.parametrize("rows", [1, 50])
def test_linear_cross_entropy_gradients_equal_autograd(rows, monkeypatch):
    monkeypatch.setattr("edgekit.training.loss.CHUNK", 384 * 7)  # several chunks and groups, the last ones short
    monkeypatch.setattr("edgekit.training.loss.GROUP", 384 * 16)
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(rows, 32, generator=generator), torch.randn(384, 32, generator=generator)
    targets = torch.randint(0, 384, (rows,), generator=generator)
    close(
        grads(lambda x, w: linear_cross_entropy(x, w, targets), x, weight),
        grads(lambda x, w: torch.nn.functional.cross_entropy(x @ w.T, targets), x, weight),
        1e-5,
    )


def test_linear_cross_entropy_fp16_large_batch_does_not_underflow():
    """Divided by 32,768 rows before the loss scale is applied, softmax - onehot would be zero in fp16."""
    x = torch.full((1 << 15, 4), 0.1).requires_grad_()
    weight = torch.randn(64, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with torch.autocast("cpu", torch.float16):
        loss = linear_cross_entropy(x, weight, torch.arange(1 << 15) % 64)
    (loss * 65536.0).backward()
    exact = torch.nn.functional.cross_entropy(x @ weight.T, torch.arange(1 << 15) % 64)
    expected = torch.autograd.grad(exact, [x, weight])
    close([x.grad / 65536, weight.grad / 65536], list(expected), 5e-3)
