"""Figures compared with an independent computation, the reference with transformers, and faults that are found."""

import dataclasses
import importlib.util
import json
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner
from handmade import small
from helpers import tokenmonster_files, write_model
from spoilt import unpermuted

from edgekit.cli.main import Commands
from edgekit.cli.verify import COMMAND
from edgekit.conversion.convert import convert
from edgekit.conversion.verification.layers import guess
from edgekit.conversion.verification.tensors import ArtefactTensor, compare, explain
from edgekit.conversion.verification.tolerances import LIMITS, UNKNOWN, coarsest, limit_of, row_limit
from edgekit.conversion.verification.verify import verify
from edgekit.errors import CheckpointError, SettingError
from edgekit.formats.checkpoint import LlamaConfig, open_folder
from edgekit.inference.reference import Reference
from edgekit.settings import Converting
from edgekit.tokenizers.load import from_files
from edgekit.utils import registry
from edgekit.utils.texts import Document

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("gguf")
pytest.importorskip("llama_cpp")

VOCABULARY = small(1).to_bytes()
CONFIG = LlamaConfig(448, 64, 160, 3, 4, 2, 16, 128, tie_word_embeddings=True)
"""Three layers, two query heads to a key, rows that divide by 32, and square query and output matrices."""
ODD = LlamaConfig(300, 48, 100, 3, 6, 2, 10, 64, rms_norm_eps=1e-6, rope_theta=50000.0)
QUICK = {"tokens": 200, "greedy": 12, "prompts": 2, "threads": 1}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verify") / "tiny"
    return write_model(folder, CONFIG, std=0.2, files=tokenmonster_files(VOCABULARY, CONFIG.vocab_size))


@pytest.fixture(scope="session")
def gguf_of(tiny, tmp_path_factory):
    """quant -> the tiny model as a `.gguf` of that type, converted once."""
    root, done = tmp_path_factory.mktemp("made"), {}

    def get(quant: str):
        if quant not in done:
            settings = Converting(quant=quant)
            done[quant] = convert(tiny, "gguf", root / f"tiny-{quant}.gguf", settings=settings, verify=False).path
        return done[quant]

    return get


def changed(folder, out, **tensors):
    """A copy of a model folder with functions applied to some tensors; names by their middle, as "1.self_attn.q"."""
    source = open_folder(folder)
    module = registry.load("converters", "hf")
    for middle, function in tensors.items():
        name = next(n for n in source.tensors if middle.replace("__", ".") in n)
        source.tensors[name] = np.ascontiguousarray(function(source.float32(name)))
    module.convert(source, out, Converting(quant="f32"), lambda items, *_: iter(items))
    return out


def hugging_face(folder, tokens):
    model = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        return model(torch.tensor([tokens])).logits[0]


# ----------------------------------------------------------------------------- the reference


@pytest.mark.parametrize("config, dtype", [
    (CONFIG, np.float32), (ODD, np.float32), (dataclasses.replace(ODD, num_key_value_heads=6), np.float16),
    (dataclasses.replace(ODD, tie_word_embeddings=True), np.float32),
])  # fmt: skip
def test_reference_logits_equal_hugging_face(tmp_path, config, dtype):
    folder = write_model(tmp_path / "m", config, std=0.2, dtype=dtype)
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, 40).tolist()
    reference, theirs = Reference(open_folder(folder)), hugging_face(folder, tokens).numpy()
    at_once = reference.forward(tokens, every=True)
    assert at_once.dtype == np.float32 and np.abs(at_once - theirs).max() < 1e-4
    reference.rewind(0)
    steps = np.stack([reference.forward([token]) for token in tokens])
    assert np.abs(steps - theirs).max() < 1e-4 and reference.length == 40
    reference.rewind(7)
    assert np.abs(reference.forward(tokens[7:]) - theirs[-1]).max() < 1e-4


def test_reference_trained_model_and_long_input_equal_hugging_face(stories):
    reference = Reference(open_folder(stories))
    tokens = np.random.default_rng(0).integers(3, 512, 300).tolist()
    assert np.abs(reference.forward(tokens, every=True) - hugging_face(stories, tokens).numpy()).max() < 1e-4


# ----------------------------------------------------------------------------- figures


def test_figures_equal_an_independent_computation(tiny, tmp_path):
    """Both models run by transformers, everything else computed by torch's functions."""
    other = changed(tiny, tmp_path / "other", **{"1.mlp.down": lambda w: 1.05 * w})
    found = verify(tiny, [other], **QUICK, window=64)
    figures = found.artefacts[0].figures

    tokenizer = found_tokenizer(tiny)
    ids = tokenizer.encode(calibration())[:200]
    p_parts, q_parts, targets = [], [], []
    for start in range(0, len(ids), 64):
        window = [tokenizer_eos(tiny), *ids[start : start + 64]]
        p_parts.append(hugging_face(tiny, window[:-1]))
        q_parts.append(hugging_face(other, window[:-1]))
        targets += window[1:]
    p, q = torch.cat(p_parts).double(), torch.cat(q_parts).double()
    lp, lq = torch.log_softmax(p, -1), torch.log_softmax(q, -1)
    kl = torch.nn.functional.kl_div(lq, lp, log_target=True, reduction="none").sum(-1)
    assert found.positions == figures.positions == len(targets) == 200
    assert figures.mean_kl == pytest.approx(kl.mean().item(), rel=1e-3)
    assert figures.p99_kl == pytest.approx(torch.quantile(kl, 0.99).item(), rel=1e-3)
    assert figures.top1 == pytest.approx((p.argmax(-1) == q.argmax(-1)).double().mean().item())
    shared = [
        len(set(a.tolist()) & set(b.tolist())) / 5 for a, b in zip(p.topk(5).indices, q.topk(5).indices, strict=True)
    ]
    assert figures.top5 == pytest.approx(np.mean(shared))
    assert figures.max_difference == pytest.approx((p - q).abs().max().item(), rel=1e-3)
    assert figures.mean_difference == pytest.approx((p - q).abs().mean().item(), rel=1e-3)
    centred = (q - p) - (q - p).mean(-1, keepdim=True)
    signal = p - p.mean(-1, keepdim=True)
    assert figures.logit_error == pytest.approx((centred.norm() / signal.norm()).item(), rel=1e-3)
    loss = torch.nn.functional.cross_entropy
    target = torch.tensor(targets)
    assert figures.source_perplexity == pytest.approx(loss(p, target).exp().item(), rel=1e-5)
    assert figures.perplexity == pytest.approx(loss(q, target).exp().item(), rel=1e-5)
    assert figures.perplexity_change == pytest.approx(figures.perplexity / figures.source_perplexity - 1)


def found_tokenizer(folder):

    source = open_folder(folder)
    return from_files(source.files, source.config.vocab_size)


def tokenizer_eos(folder):
    from edgekit.conversion.verification.measure import of_checkpoint

    prefix = of_checkpoint(open_folder(folder)).prefix
    assert prefix is not None
    return prefix


def calibration():
    from edgekit.conversion.calibration import CALIBRATION

    return CALIBRATION


def test_greedy_texts_equal_hugging_face_generate(tiny, tmp_path):
    other = changed(tiny, tmp_path / "other", **{"0.mlp.up": lambda w: 1.02 * w})
    proof = verify(tiny, [other], tokens=200, greedy=20, prompts=3, threads=1).artefacts[0]
    ids, prefix = found_tokenizer(tiny).encode(calibration())[:200], tokenizer_eos(tiny)
    models = [transformers.LlamaForCausalLM.from_pretrained(f, dtype=torch.float32).eval() for f in (tiny, other)]
    matched = []
    for k in range(3):
        at = k * (len(ids) - 16) // 3
        prompt = torch.tensor([[prefix, *ids[at : at + 16]]])
        mask = torch.ones_like(prompt)
        one, two = (
            m.generate(
                prompt, attention_mask=mask, do_sample=False, max_new_tokens=20, eos_token_id=None, pad_token_id=0
            )[0, 17:].tolist()
            for m in models
        )
        matched.append(next((i for i in range(20) if one[i] != two[i]), 20))
        if proof.greedy.divergence is not None and proof.greedy.divergence.prompt == k:
            d = proof.greedy.divergence
            assert (d.step, d.source, d.artefact) == (matched[k], one[matched[k]], two[matched[k]])
            seen = hugging_face(tiny, [*prompt[0].tolist(), *one[: d.step]])[-1]
            assert d.margin == pytest.approx((seen[d.source] - seen[d.artefact]).item(), abs=1e-3) and d.margin >= 0
    assert proof.greedy.matched == matched and proof.greedy.length == 20
    assert proof.greedy.divergence is None or proof.greedy.divergence.step == min(matched)


def test_verify_copy_has_no_differences(tiny, gguf_of):
    found = verify(tiny, [tiny, gguf_of("f32")], **QUICK, layers=True)
    assert found.sound and found.reference == "float32 numpy"
    for proof in found.artefacts:
        assert proof.type == "f32" and proof.failures == [] and proof.figures.mean_kl < 1e-9
        assert proof.figures.top1 == proof.figures.top5 == 1 and proof.figures.perplexity_change == pytest.approx(
            0, abs=1e-5
        )
        assert proof.greedy.matched == [12, 12] and proof.greedy.divergence is None
        assert proof.step_difference < 1e-3 and proof.tokens.equal == proof.tokens.texts
        assert all(group.error == 0 for group in proof.tensors.values())
        assert len(proof.layers) == 2 + 2 * 3 and all(layer.error < 1e-5 for layer in proof.layers)
    assert [proof.runtime for proof in found.artefacts] == ["torch", "llamacpp"]


def test_verify_windows_and_prefix_equal_those_of_eval(tiny):
    from edgekit.evaluation.perplexity import perplexity
    from edgekit.model import load

    text = [Document("x", calibration()[:700])]
    found = verify(tiny, [tiny], texts=text, **QUICK | {"tokens": 4096}, window=32)
    measured = perplexity(load(tiny, runtime="torch", threads=1), text, context=32)
    assert found.artefacts[0].figures.perplexity == pytest.approx(measured.total.perplexity, rel=1e-5)
    assert found.positions == measured.total.scored


def test_verify_accepts_an_artefact_as_source(tiny, gguf_of):
    found = verify(gguf_of("q8_0"), [gguf_of("q8_0"), gguf_of("f32")], **QUICK)
    same, plain = found.artefacts
    assert same.sound and same.figures.mean_kl < 0.01
    assert all(group.error == 0 for group in same.tensors.values())
    # The reverse is not a conversion: float32 has values that q8_0 cannot have.
    assert not plain.sound


def test_verify_without_tokenizer_uses_random_ids(tmp_path):
    folder = write_model(tmp_path / "bare", CONFIG, std=0.2)
    found = verify(folder, [folder], **QUICK)
    assert found.sound and "random ids" in found.text and found.artefacts[0].tokens is None


def test_measure_source_many_logits_are_kept_in_a_file(tiny, monkeypatch):
    from edgekit.conversion.verification import measure

    plain = verify(tiny, [tiny], **QUICK).artefacts[0].figures
    monkeypatch.setattr(measure, "MOST_KEPT", 1000)
    monkeypatch.setattr(measure, "MOST_LOGITS", 7 * CONFIG.vocab_size)
    assert verify(tiny, [tiny], **QUICK).artefacts[0].figures.positions == plain.positions


# ----------------------------------------------------------------------------- limits


@pytest.mark.parametrize("quant", ["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"])
def test_verify_sound_conversion_passes(tiny, gguf_of, quant):
    proof = verify(tiny, [gguf_of(quant)], **QUICK).artefacts[0]
    assert proof.sound and proof.type == quant, proof.failures


@pytest.mark.parametrize("quant", ["q6_k", "q5_k_m", "q4_k_m", "q3_k", "q2_k"])
def test_verify_sound_k_quant_passes(tmp_path, quant):
    config = dataclasses.replace(CONFIG, hidden_size=256, intermediate_size=256, num_attention_heads=4, head_dim=64)
    folder = write_model(tmp_path / "wide", config, std=0.05)
    path = convert(folder, "gguf", tmp_path / "m.gguf", settings=Converting(quant=quant), verify=False).path
    proof = verify(folder, [path], **QUICK).artefacts[0]
    assert proof.sound and limit_of(proof.type) is not UNKNOWN, proof.failures


@pytest.mark.parametrize("std", [0.02, 1.0])
def test_verify_flat_and_amplifying_models_pass(tmp_path, std):
    """At 4 bits one loses almost nothing and the other almost everything; both conversions are sound."""
    folder = write_model(tmp_path / "m", CONFIG, std=std)
    path = convert(folder, "gguf", tmp_path / "m.gguf", settings=Converting(quant="q4_0"), verify=False).path
    proof = verify(folder, [path], **QUICK).artefacts[0]
    assert proof.sound, proof.failures
    assert proof.figures.mean_kl < 0.01 if std == 0.02 else proof.figures.mean_kl > 1


def test_verify_trained_model_has_expected_figures(stories, shared, tmp_path):
    paths = [shared / "models" / "stories260K" / "stories260K.f32.gguf"]
    for quant in ("q8_0", "q4_0"):
        settings = Converting(quant=quant)
        paths.append(convert(stories, "gguf", tmp_path / f"{quant}.gguf", settings=settings, verify=False).path)
    foreign, eight, four = verify(stories, paths, tokens=512, greedy=32, threads=1).artefacts
    assert foreign.sound and eight.sound and four.sound
    assert foreign.figures.mean_kl < 1e-9 and foreign.greedy.matched == [32] * 4
    assert 1e-4 < eight.figures.mean_kl < 3e-3 and eight.figures.top1 > 0.95
    assert 0.02 < four.figures.mean_kl < 0.2 and four.greedy.divergence.margin > 0
    assert four.greedy.divergence.source_text is not None


def test_limits_are_ordered_and_found_by_name():
    assert limit_of("int4_pure") is limit_of("int4/32") is LIMITS["int4"]
    assert limit_of("Q4_0") is LIMITS["q4_0"] and limit_of("fp32") is LIMITS["f32"] and limit_of("new") is UNKNOWN
    assert coarsest(["f32", "q8_0", "q4_0", "f16"]) == "q4_0" and coarsest([]) == "f32"
    assert row_limit("int8/32", 4096) < 0.03 < row_limit("int8", 256) < row_limit("int4/32", 256) < 0.5
    for limit in (*LIMITS.values(), UNKNOWN):
        assert 0 < limit.rows <= 1 and 0 < limit.noise <= limit.logits < 2**0.5


def test_limits_exist_for_every_quantization():
    for quant in registry.load("converters", "onnx").QUANTS:
        assert limit_of(quant) is not UNKNOWN, quant
    kinds = {kind.lower() for kind in registry.load("converters", "gguf").BLOCKS}
    for quant in registry.load("converters", "gguf").QUANTS:
        if quant in kinds:  # q4_k_m and the like are mixtures of these
            assert limit_of(quant) is not UNKNOWN, quant


# ----------------------------------------------------------------------------- tensors in words


def broken(config=CONFIG, **changes):
    """The sentence for a model with changed tensors; names as for `changed`."""
    rng = np.random.default_rng(1)
    source = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in config.shapes().items()}
    stored = dict(source)
    for middle, function in changes.items():
        name = next(n for n in source if middle.replace("__", ".") in n)
        stored[name] = function(source[name])
    found = {
        tensor.name: (difference, tensor)
        for difference, tensor in compare(source, (ArtefactTensor(n, v, "f32") for n, v in stored.items()))
        if not difference.sound
    }
    assert found
    tensors = {name: tensor for name, (_, tensor) in found.items()}
    return explain(source, tensors, config, {name: difference.limit for name, (difference, _) in found.items()})


def scaled_rows(w):
    w = w.copy()
    w[3:7] *= 1.5
    return w


@pytest.mark.parametrize("changes, message", [
    ({"2.self_attn.q": unpermuted}, "layer 2 attention differs: query rows are not permuted"),
    ({"0.self_attn.k": unpermuted}, "layer 0 attention differs: key rows are not permuted"),
    ({"1.self_attn.o": lambda w: w.T}, "layer 1 attention differs: the output matrix is transposed"),
    ({"1.mlp.down": lambda w: w.T.reshape(w.shape)}, "layer 1 ffn differs: the down matrix is transposed"),
    ({"1.mlp.down": lambda w: 1.25 * w}, "layer 1 ffn differs: the down matrix is 1.25 times the source's"),
    ({"1.mlp.up": scaled_rows}, "layer 1 ffn differs: the up matrix has the wrong scale in 4 of 160 rows"),
    ({"2.mlp.gate": np.zeros_like}, "layer 2 ffn differs: the gate matrix is all zeros"),
    ({"2.input_layernorm": lambda w: w + 1}, "layer 2 attention differs: the norm holds other values"),
    ({"embed_tokens": lambda w: w[:400]}, "the embedding differs: it has shape [400, 64], the source's [448, 64]"),
    ({"1.self_attn.v": lambda w: w * np.nan}, "layer 1 attention differs: the value matrix has 2048 values that"),
])  # fmt: skip
def test_explain_names_the_fault_of_a_tensor(changes, message):
    assert broken(**changes).startswith(message)


def test_explain_names_swapped_and_borrowed_tensors(tiny):
    source = dict(open_folder(tiny))
    gate, up = "model.layers.1.mlp.gate_proj.weight", "model.layers.1.mlp.up_proj.weight"
    other = "model.layers.2.mlp.gate_proj.weight"
    swap = {gate: ArtefactTensor(gate, source[up], "f32"), up: ArtefactTensor(up, source[gate], "f32")}
    assert explain(source, swap, CONFIG, dict.fromkeys(swap, 1e-6)) == (
        "layer 1 ffn differs: gate and up are swapped (1 more tensor differs)"
    )
    stale = {gate: ArtefactTensor(gate, source[other], "f32")}
    assert explain(source, stale, CONFIG, {gate: 1e-6}) == (
        "layer 1 ffn differs: the gate matrix holds the values of layer 2 ffn's gate"
    )


def test_guess_finds_the_fault_of_a_graph(tiny):
    source = open_folder(tiny)
    tokens = np.random.default_rng(2).integers(0, 400, 60).tolist()
    base = dataclasses.replace(source, config=dataclasses.replace(CONFIG, rope_theta=500000.0))
    assert guess(source, tokens, Reference(base).forward(tokens, every=True)) == (
        "its rotary base is 500000, the source's 10000"
    )
    nonsense = np.random.default_rng(3).standard_normal((60, CONFIG.vocab_size)).astype(np.float32)
    assert guess(source, tokens, nonsense) == ""


# ----------------------------------------------------------------------------- verdicts


def test_verify_changed_layer_is_found_at_every_type(tiny, tmp_path):
    other = changed(tiny, tmp_path / "other", **{"1.self_attn.q": unpermuted})
    for quant in ("f32", "q8_0", "q4_0"):
        path = convert(other, "gguf", tmp_path / f"{quant}.gguf", settings=Converting(quant=quant), verify=False).path
        proof = verify(tiny, [path], **QUICK, layers=True).artefacts[0]
        assert proof.failures[0] == "layer 1 attention differs: query rows are not permuted"
        departed = [layer.name for layer in proof.layers if layer.error > 0.5]
        assert departed[0] == "layer 1 attention" if quant == "f32" else True


def test_verify_wrong_logits_of_right_tensors_fail(tiny, gguf_of, monkeypatch):
    """Tensors and keys are right, the logits are wrong: a fault of a graph or a kernel."""
    module = registry.load("runtimes", "llamacpp")
    real = module.LlamaCppRuntime.forward

    def forward(self, tokens, *, every=False):
        logits = real(self, tokens, every=every)
        return np.roll(logits, 1, axis=-1)

    monkeypatch.setattr(module.LlamaCppRuntime, "forward", forward)
    for quant in ("f32", "q4_0"):
        proof = verify(tiny, [gguf_of(quant)], **QUICK).artefacts[0]
        assert proof.failures[0].startswith("its logits are not those of its own tensors (logit error 1.")


def test_verify_wrong_kv_cache_fails(tiny, gguf_of, monkeypatch):
    module = registry.load("runtimes", "llamacpp")
    real = module.LlamaCppRuntime.forward

    def forward(self, tokens, *, every=False):
        if len(tokens) == 1 and self.length > 4:
            tokens = [(tokens[0] + 1) % self.vocab_size]
        return real(self, tokens, every=every)

    monkeypatch.setattr(module.LlamaCppRuntime, "forward", forward)
    proof = verify(tiny, [gguf_of("f32")], **QUICK).artefacts[0]
    assert len(proof.failures) == 1 and proof.failures[0].startswith("token by token it gives other logits")


def test_verify_logits_that_are_not_finite_fail(tiny, gguf_of, monkeypatch):
    module = registry.load("runtimes", "llamacpp")
    real = module.LlamaCppRuntime.forward
    monkeypatch.setattr(module.LlamaCppRuntime, "forward", lambda *a, **k: real(*a, **k) * np.nan)
    assert verify(tiny, [gguf_of("f32")], **QUICK).artefacts[0].failures == ["its logits are not finite"]


def test_verify_another_tokenizer_fails(tiny, tmp_path):
    files = tokenmonster_files(small(1, unk=True, special=[b"<x>"]).to_bytes(), CONFIG.vocab_size)
    other = changed(tiny, tmp_path / "other")
    for name, data in files.items():
        (other / name).write_bytes(data)
    failures = verify(tiny, [other], **QUICK).artefacts[0].failures
    assert (
        len(failures) == 1
        and failures[0].startswith("its tokenizer encodes ")
        and failures[0].endswith(" as other ids")
    )


def test_verify_unreadable_artefact_fails_and_others_are_measured(tiny, gguf_of, tmp_path):
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(gguf_of("f32").read_bytes()[:5000])
    found = verify(tiny, [damaged, gguf_of("f32")], **QUICK)
    assert [proof.sound for proof in found.artefacts] == [False, True] and not found.sound
    assert "cut off" in found.artefacts[0].failures[0] and found.artefacts[0].figures is None


def test_verify_max_kl_fails_above_it(tiny, gguf_of):
    assert verify(tiny, [gguf_of("q8_0")], **QUICK, max_kl=10).sound
    failures = verify(tiny, [gguf_of("q8_0")], **QUICK, max_kl=1e-9).artefacts[0].failures
    assert len(failures) == 1 and failures[0].endswith("is above --max-kl 1e-09")


def test_verify_invalid_settings_raise(tiny):
    for values in ({"tokens": 1}, {"window": 0}, {"kv_type": "q8"}, {"max_kl": -1}, {"greedy": -1}):
        with pytest.raises(SettingError):
            verify(tiny, [tiny], **values)
    with pytest.raises(CheckpointError, match="does not exist"):
        verify(tiny, ["nowhere.gguf"])


# ----------------------------------------------------------------------------- the command


@click.group(cls=Commands)
def group():
    """The command alone."""


group.add_command(COMMAND, "verify")


def call(*arguments):
    return CliRunner().invoke(group, ["verify", *map(str, arguments)])


QUICKLY = ["--tokens", 120, "--greedy", 8, "--prompts", 1, "--threads", 1]


def test_verify_command_prints_table_and_writes_plot(tiny, gguf_of, tmp_path):
    plot = tmp_path / "p.svg"
    done = call("-m", tiny, gguf_of("f32"), gguf_of("q4_0"), *QUICKLY, "--plot", plot)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert "llama.cpp with f32 KV cache" in lines[0] and lines[2].split()[:4] == ["artefact", "type", "MB", "KL"]
    assert lines[3].split()[:2] == ["tiny-f32.gguf", "f32"] and lines[3].split()[-1] == "sound"
    assert lines[4].endswith("  large loss") and "tiny-q4_0.gguf\n  costs " in done.stdout
    drawn = ElementTree.parse(plot).getroot()
    texts = [e.text for e in drawn.iter() if e.tag.endswith("text")]
    assert {"tiny-f32.gguf", "tiny-q4_0.gguf", "Size, MB", "Mean KL, nats (log)", "Top-1 agreement, %"} <= set(texts)
    assert len([e for e in drawn.iter() if e.get("id", "").startswith("bar_")]) == 2 * 3


def test_compare_formats_example_prints_verifys_figures(tiny, tmp_path, monkeypatch, capsys):
    """examples/compare_formats.py, which prints the figures of verify; the speed is not measured here."""
    path = Path(__file__).resolve().parents[1] / "examples" / "compare_formats.py"
    spec = importlib.util.spec_from_file_location("compare_formats", path)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    for name in example.FORMATS:  # all of its types exist
        to, quant, *more = name.split(":")
        assert quant in registry.load("converters", to).QUANTS and set(more) <= {"importance", "portable", "kv8"}
    monkeypatch.setattr(example, "speeds", lambda paths, rounds: [123.0, None])
    plot, formats = tmp_path / "p.svg", ["gguf:q4_0:importance", "onnx:int8"]
    arguments = ["-m", tiny, "--formats", *formats, "--tokens", 120, "--plot", plot, "--speed"]
    monkeypatch.setattr(sys, "argv", ["compare_formats.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as done:
        example.main()
    lines = capsys.readouterr().out.splitlines()
    assert done.value.code == 0 and lines[2] == "| format | MB | KL | top-1 | perplexity | tokens/s |"
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[4:]]
    assert [(row[0], row[-1]) for row in rows] == [("gguf q4_0, importance", "123"), ("onnx int8", "-")]
    one = convert(
        tiny, "gguf", tmp_path / "m.gguf", settings=Converting(quant="q4_0", importance="default"), verify=False
    )
    (expected,) = verify(tiny, [one.path], tokens=120, greedy=0).artefacts
    assert rows[0][1:3] == [f"{expected.bytes / 1e6:.2f}", f"{expected.figures.mean_kl:.1e}"]
    drawn = ElementTree.parse(plot).getroot()
    texts = [e.text for e in drawn.iter() if e.tag.endswith("text")]
    assert "gguf q4_0, importance" in texts and "Decoding, tokens/s" in texts
    assert len([e for e in drawn.iter() if e.get("id", "").startswith("bar_")]) == 2 * 4


def test_verify_command_prints_json_and_markdown(tiny, gguf_of):
    done = call("-m", tiny, gguf_of("q8_0"), *QUICKLY, "--json", "--layers")
    record = json.loads(done.stdout)
    assert record["sound"] and record["positions"] == 120
    one = record["artefacts"][0]
    assert set(one["figures"]) > {
        "mean_kl",
        "p99_kl",
        "top1",
        "top5",
        "perplexity",
        "perplexity_change",
        "max_difference",
    }
    assert one["tensors"]["ffn"]["types"] == {"Q8_0": 9} and len(one["layers"]) == 8 and one["greedy"]["length"] == 8
    table = call("-m", tiny, gguf_of("q8_0"), *QUICKLY, "--markdown").stdout
    assert "| artefact | type | MB |" in table and "| `tiny-q8_0.gguf` | q8_0 |" in table
    assert call("-m", tiny, tiny, "--json", "--markdown").exit_code == 2


def test_verify_command_broken_artefact_exits_with_1_and_a_sentence(tiny, tmp_path):
    other = changed(tiny, tmp_path / "other", **{"1.mlp.gate": np.negative})
    done = call("-m", tiny, other, *QUICKLY)
    assert done.exit_code == 1 and "BROKEN" in done.stdout
    assert done.stderr.strip() == (
        "Error: other: layer 1 ffn differs: the gate matrix is -1 times the source's: its scale is stale"
    )


def test_verify_command_file_that_does_not_open_is_named_once(tiny, tmp_path):
    path = tmp_path / "damaged.gguf"
    path.write_bytes(b"no model")
    done = call("-m", tiny, path, *QUICKLY)
    assert done.exit_code == 1 and done.stderr.startswith(f"Error: {path}: not a GGUF file")


def test_verify_command_reads_a_text_file(tiny, tmp_path):
    text = tmp_path / "t.txt"
    text.write_text("the cat sat on a mat and then there were not any cats at all")
    done = call("-m", tiny, tiny, "--text", text, "--json", *QUICKLY)
    assert 2 < json.loads(done.stdout)["positions"] < 60
    text.write_text("")
    assert call("-m", tiny, tiny, "--text", text).exit_code == 1
