"""The doctor on GGUF and ONNX files: for each finding a file that has it, and edgekit's own error for that file."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from handmade import small
from helpers import tokenmonster_files, write_model
from spoilt import EMBEDDING, FILES, SHAPE, Folder, converted, findings_of, levels_and_names, rewritten
from test_doctor import FOLDERS

from edgekit.doctor import examine
from edgekit.doctor import onnx as doctor_onnx
from edgekit.doctor.checks import CHECKS
from edgekit.doctor.onnx_file import read as read_onnx
from edgekit.doctor.tensors import SCALES, measure
from edgekit.errors import EdgekitError, MissingExtraError
from edgekit.formats import embedded
from edgekit.formats.gguf import BLOCKS
from edgekit.settings import Running
from edgekit.utils import registry


@pytest.fixture
def folder(tmp_path) -> Folder:
    return Folder(tmp_path / "m")


# ---- healthy files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quant", ["f32", "q8_0"])
def test_examine_healthy_gguf_has_only_notes(folder, tmp_path, quant):
    path = to_gguf(folder.path, tmp_path, quant)
    assert levels_and_names(path) == {("note", "tied-head"), ("note", "chat-template")}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("quant", ["fp32", "int8"])
@pytest.mark.parametrize("graph", ["fused", "portable"])
def test_examine_healthy_onnx_has_only_notes(folder, tmp_path, graph, quant, monkeypatch):
    pytest.importorskip("optimum.exporters.onnx")
    monkeypatch.setattr(doctor_onnx, "vnni", lambda: True)
    found = levels_and_names(converted(folder.path, tmp_path / "m.onnx", "onnx", quant, graph=graph))
    assert {level for level, _ in found} <= {"note"}
    if graph == "portable":
        notes = {"int8-that-overflows", "one-scale-for-a-call"} if quant == "int8" else set()
        assert {name for _, name in found} == notes


# ---- GGUF ----------------------------------------------------------------------------------------------------------


def to_gguf(source: Path, tmp_path: Path, quant: str = "f32", **settings) -> Path:
    pytest.importorskip("gguf")
    return converted(source, tmp_path / f"m-{quant}.gguf", "gguf", quant, **settings)


def keys(**changes):
    """Change metadata; `...` removes a key; two underscores stand for a dot."""
    changes = {key.replace("__", "."): value for key, value in changes.items()}

    def change(metadata, tensors):
        metadata.update(changes)
        for key in [key for key, value in changes.items() if value is ...]:
            del metadata[key]

    return change


def foreign(*others):
    """As if another program had written it: without edgekit's keys."""

    def change(metadata, tensors):
        for key in [key for key in metadata if key.startswith("edgekit.")]:
            del metadata[key]
        for other in others:
            other(metadata, tensors)

    return change


def token(place: int, text: str):
    return lambda metadata, tensors: metadata["tokenizer.ggml.tokens"].__setitem__(place, text)


def rwkv(texts, **more):
    texts = [*texts, *(f"[{i}]" for i in range(SHAPE.vocab_size - len(texts)))]
    return keys(tokenizer__ggml__model="rwkv", tokenizer__ggml__tokens=texts, tokenizer__ggml__token_type=...,
                tokenizer__ggml__scores=..., **more)  # fmt: skip


def tensor(name, array):
    values = np.ascontiguousarray(array, np.float32)
    return lambda metadata, tensors: tensors.update({name: (values.shape, "F32", values.reshape(-1).view(np.uint8))})


def nan_scale(keys, tensors):
    shape, kind, data = tensors["blk.0.ffn_up.weight"]
    data = data.copy()
    data[:2] = np.frombuffer(np.float16(np.inf).tobytes(), np.uint8)
    tensors["blk.0.ffn_up.weight"] = shape, kind, data


SINGLES = ["[", "]", *"0123456789", "\\n"]
NO_UNKNOWN, UNKNOWN = {"tokenizer__ggml__unknown_token_id": ...}, {"tokenizer__ggml__unknown_token_id": 0}

GGUFS = [
    ("one-of-several-files", "error", "one of 3 parts", keys(split__count=3)),
    ("no-vocabulary", "warning", "'none'", keys(tokenizer__ggml__model="none", tokenizer__ggml__tokens=...)),
    ("no-vocabulary", "error", "'none'", foreign(keys(tokenizer__ggml__model="none", tokenizer__ggml__tokens=...))),
    ("vocabulary-of-another-size", "error", "287 tokens", lambda k, t: k["tokenizer.ggml.tokens"].pop()),
    ("same-text-twice", "error", "'a'", token(280, "a")),
    ("texts-that-hang-or-abort", "error", "0x7a", foreign(rwkv([*SINGLES, "zoo"], **UNKNOWN))),
    ("texts-that-hang-or-abort", "warning", "0x7a", rwkv([*SINGLES, "zoo"], **UNKNOWN)),
    ("texts-that-hang-or-abort", "warning", "no unknown token", foreign(rwkv(SINGLES, **NO_UNKNOWN))),
    ("texts-that-hang-or-abort", "error", "1 byte without a token (<0xFF>", foreign(token(258, "gone"))),
    ("merges-or-cuts-missing", "error", "without merges", keys(tokenizer__ggml__model="gpt2")),
    ("merges-or-cuts-missing", "warning", "not named",
     keys(tokenizer__ggml__model="gpt2", tokenizer__ggml__merges=["a b"])),
    ("special-ids-not-named", "warning", "EOS", keys(tokenizer__ggml__eos_token_id=...)),
    ("words-that-end-a-text", "warning", "<|im_end|>", token(280, "<|im_end|>")),
    ("phi-by-name", "error", "'my-phi3'", keys(general__name="my-phi3")),
    ("keys-and-configuration-differ", "error", "rope_theta 10000.0 and 5000.0", keys(llama__rope__freq_base=5000.0)),
    ("made-by-another-edgekit", "note", "edgekit 0.0.1", keys(edgekit__version="0.0.1")),
    ("unsupported-gguf-keys", "error", "llama.rope.scaling.type is 'yarn'", keys(llama__rope__scaling__type="yarn")),
    ("unsupported-gguf-keys", "error", "general.architecture is 'qwen2'", keys(general__architecture="qwen2")),
    ("refused", "error", "llama.attention.head_count", keys(llama__attention__head_count=...)),
    ("unexpected-tensors", "error", "rope_freqs.weight", tensor("rope_freqs.weight", np.arange(32) % 3 + 2.0)),
    ("keys-and-configuration-differ", "error", "attention_bias", tensor("blk.1.attn_q.bias", np.ones(256))),
    ("missing-tensors", "error", "output_norm.weight", lambda k, t: t.pop("output_norm.weight")),
    ("misshaped-tensors", "error", "output_norm.weight is [64]", tensor("output_norm.weight", np.ones(64))),
    ("tied-head", "error", "output.weight differs", tensor("output.weight", np.ones((288, 256)))),
    ("tied-head", "note", "though it equals", lambda k, t: t.update({"output.weight": t["token_embd.weight"]})),
    ("not-finite", "error", "output_norm.weight", tensor("output_norm.weight", [np.nan] * 256)),
    ("zeros", "warning", "blk.1.ffn_up.weight", tensor("blk.1.ffn_up.weight", np.zeros((512, 256)))),
    ("chat-template", "note", "<|user|>", keys(tokenizer__chat_template="<|user|>{{ messages }}")),
]  # fmt: skip


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory) -> list[Path]:
    """A file for each row of the table."""
    root = tmp_path_factory.mktemp("ggufs")
    whole = to_gguf(Folder(root / "m").path, root)
    return [rewritten(whole, row[3]).rename(root / f"{i}.gguf") for i, row in enumerate(GGUFS)]


@pytest.fixture(scope="module")
def refusals(spoilt) -> list[str]:
    """edgekit's error for each when it reads it back and runs it, in another process, because llama.cpp may abort."""
    pytest.importorskip("llama_cpp")
    script = (
        "import sys; from pathlib import Path; from edgekit import load\n"
        "from edgekit.errors import EdgekitError; from edgekit.formats.open import open_model\n"
        "for path in map(Path, sys.argv[1:]):\n"
        "    try: open_model(path); load(path, runtime='llamacpp').generate('1', max_new_tokens=1); print(flush=True)\n"
        "    except EdgekitError as error: print(error, flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, *spoilt], capture_output=True, text=True, timeout=120)
    errors = done.stdout.split("\n")[:-1]
    assert done.returncode == 0, f"after {GGUFS[len(errors) - 1][:3]}: {done.stderr[-1000:]}"
    return errors


ROWS = pytest.mark.parametrize("place", range(len(GGUFS)), ids=[f"{row[0]}-{i}" for i, row in enumerate(GGUFS)])


@ROWS
def test_examine_gguf_with_fault_reports_it(spoilt, place):
    name, level, text, _ = GGUFS[place]
    findings = [finding for finding in findings_of(spoilt[place], name) if finding.level == level]
    assert any(text in finding.what for finding in findings), levels_and_names(spoilt[place])


@ROWS
def test_examine_gguf_has_errors_if_edgekit_refuses_it(spoilt, refusals, place):
    assert examine.examine(spoilt[place]).usable == (not refusals[place]), (
        refusals[place],
        levels_and_names(spoilt[place]),
    )


def test_examine_rewritten_gguf_has_the_same_findings(folder, tmp_path):
    path = to_gguf(folder.path, tmp_path)
    assert levels_and_names(rewritten(path)) == levels_and_names(path)
    assert not {level for level, _ in levels_and_names(rewritten(path, foreign()))} & {"error", "warning"}


@pytest.mark.parametrize("level, printed", [(1, "7F and a space"), (2, "`D `")])
def test_examine_tokenmonster_gguf_warns_of_markers(folder, tmp_path, level, printed):
    vocabulary = small(level)
    rows = -(-(vocabulary.table_size + 2) // 32) * 32
    shape = dataclasses.replace(SHAPE, vocab_size=rows, bos_token_id=None, eos_token_id=())
    source = write_model(tmp_path / "t", shape, files=tokenmonster_files(vocabulary.to_bytes(), rows))
    path = to_gguf(source, tmp_path)
    (finding,) = findings_of(path, "text-with-stray-marks")
    assert finding.level == "warning" and printed in finding.consequence and examine.examine(path).usable
    plain = small(0)
    source = write_model(tmp_path / "p", shape, files=tokenmonster_files(plain.to_bytes(), rows))
    assert not findings_of(to_gguf(source, tmp_path), "text-with-stray-marks"), "level 0 has no marks"


def test_examine_foreign_tokenmonster_gguf_warns_of_markers(folder, tmp_path):
    texts = [*SINGLES, "\\x7f", "\\x7f ", " ", "\\x7f a", "a"]
    path = rewritten(to_gguf(folder.path, tmp_path), foreign(rwkv(texts, **UNKNOWN)))
    (finding,) = findings_of(path, "text-with-stray-marks")
    assert "in 3 tokens" in finding.what and "edgekit uses the vocabulary" not in finding.consequence


def test_examine_4_bit_output_matrix_warns(folder, tmp_path):
    path = to_gguf(folder.path, tmp_path, "q4_0", embedding_type="q4_0")
    (finding,) = findings_of(path, "coarse-head")
    assert "Q4_0, 4.5 bits" in finding.what and finding.level == "warning"
    assert not findings_of(to_gguf(folder.path, tmp_path, "q4_0"), "coarse-head")


def test_examine_infinite_scale_is_an_error(folder, tmp_path):
    path = rewritten(to_gguf(folder.path, tmp_path, "q4_0"), nan_scale)
    (finding,) = findings_of(path, "not-finite")
    assert "1 scales" in finding.what and "blk.0.ffn_up.weight" in finding.what


def test_scales_have_the_offsets_of_ggufs_dequantizer():
    """A block with infinite scales has infinite values; one whose scales are 0 has only zeros."""
    gguf = pytest.importorskip("gguf")
    rng = np.random.default_rng(0)
    for kind, places in SCALES.items():
        elements, size = BLOCKS[kind]
        raw = rng.integers(0, 256, size, np.uint8)
        for number in (0.0, np.inf):
            for at in places:
                raw[at : at + 2] = np.frombuffer(np.float16(number).tobytes(), np.uint8)
            with np.errstate(invalid="ignore"):
                values = gguf.dequantize(raw.reshape(1, -1), gguf.GGMLQuantizationType[kind])
            numbers = measure(kind, (1, elements), raw)
            assert numbers.zeros.size == (number == 0) == (not values.any()), kind
            assert bool(numbers.nonfinite) == (not np.isfinite(values).all()), kind


def test_examine_damaged_gguf_is_one_finding(folder, tmp_path):
    path = to_gguf(folder.path, tmp_path)
    whole = path.read_bytes()
    place = whole.index(b'"rms_norm_eps"')
    for data, text in (
        (whole[: len(whole) // 2], "cut off"),
        (b"", "not a GGUF"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (whole[:place] + b"RMS" + whole[place + 3 :], "does not match its sha256"),
    ):
        path.write_bytes(data)
        result = examine.examine(path)
        assert not result.usable and result.findings[0].name == "unreadable" and text in result.findings[0].what


# ---- ONNX ----------------------------------------------------------------------------------------------------------


def onnx_file(
    path: Path, *, weights=None, nodes=("MatMul",), props=None, ir=8, inputs=None, domain="", element="FLOAT"
) -> Path:
    """A graph with the right interface, whatever it computes; `element`: the type of cache and logits."""
    onnx = pytest.importorskip("onnx")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    if weights is None:
        weights = {EMBEDDING: ONES}
    inputs = inputs or INPUTS
    kind = onnx.TensorProto.DataType.Value(element)
    value = lambda name: helper.make_tensor_value_info(name, kind, None)  # noqa: E731
    graph = helper.make_graph(
        [helper.make_node(op, [inputs[0]], [f"out{i}"], domain=domain) for i, op in enumerate(nodes)],
        "g",
        [value(name) for name in inputs],
        [value("logits")],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    made = helper.make_model(graph, ir_version=ir, opset_imports=[helper.make_opsetid("", 18)])
    if props is None:
        texts, blobs = embedded.pack(FILES | {"config.json": json.dumps(SHAPE.to_dict()).encode()}, source_sha256="",
                                     quant="fp32")  # fmt: skip
        props = {"edgekit.graph": "portable"} | texts | {k: embedded.to_text(v) for k, v in blobs.items()}
    helper.set_model_props(made, props)
    path.write_bytes(made.SerializeToString())
    return path


def plain_export(tmp_path, *, below="", **more):
    """A folder as optimum writes it, or with the graph in a folder `below`."""
    for name, data in (FILES | {"config.json": json.dumps(SHAPE.to_dict()).encode()}).items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / below).mkdir(exist_ok=True)
    return onnx_file(tmp_path / below / "model.onnx", props={}, **more)


def external(path: Path, location: str) -> Path:
    onnx = pytest.importorskip("onnx")
    made = onnx.load(path)
    tensor = made.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("length", "128")):
        tensor.external_data.add(key=key, value=value)
    path.write_bytes(made.SerializeToString())
    return path


def with_data(tmp_path, location):
    (tmp_path / "weights.bin").write_bytes(bytes(128))
    return external(onnx_file(tmp_path / "m.onnx"), location)


INPUTS = ["input_ids", "attention_mask", "past_key_values.0.key", "past_key_values.0.value"]
ONES = np.ones((4, 8), np.float32)
WIDE = {"w_quantized": np.full((8, 8), -100, np.int8)}
ONNX_FILES = [
    ("configuration-beside", "note", "are next to it", plain_export),
    ("configuration-beside", "note", "are in the folder above", lambda p: plain_export(p, below="onnx")),
    ("configuration-beside", "error", "no config.json", lambda p: onnx_file(p / "m.onnx", props={})),
    ("no-tokenizer", "error", "no tokenizer", lambda p: onnx_file(p / "m.onnx", props={})),
    ("other-interface", "error", "lacks attention_mask, past_key_values",
     lambda p: plain_export(p, inputs=["input_ids"])),
    ("other-interface", "error", "other inputs: num_logits_to_keep",
     lambda p: plain_export(p, inputs=[*INPUTS, "position_ids", "num_logits_to_keep"])),
    ("other-element-types", "note", "cache and logits in float16", lambda p: plain_export(p, element="FLOAT16")),
    ("other-element-types", "error", "past_key_values.0.key has elements of type BF16",
     lambda p: plain_export(p, element="BFLOAT16")),
    ("merged-decoder", "note", "use_cache_branch", lambda p: plain_export(p, inputs=[*INPUTS, "use_cache_branch"])),
    ("weights-in-another-file", "note", "weights.bin", lambda p: with_data(p, "weights.bin")),
    ("weights-in-another-file", "error", "lost.bin", lambda p: with_data(p, "lost.bin")),
    ("weights-in-another-file", "error", "outside", lambda p: with_data(p, "../weights.bin")),
    ("one-scale-for-a-call", "note", "dynamic int8",
     lambda p: onnx_file(p / "m.onnx", nodes=["DynamicQuantizeLinear"])),
    ("table-stored-twice", "note", "head_T and the embedding",
     lambda p: onnx_file(p / "m.onnx", weights={EMBEDDING: ONES, "head_T": ONES.T.copy()})),
    ("operators-of-one-runtime", "note", "com.microsoft.GroupQueryAttention",
     lambda p: onnx_file(p / "m.onnx", nodes=["GroupQueryAttention"], domain="com.microsoft")),
    ("newer-format", "warning", "IR version 11", lambda p: onnx_file(p / "m.onnx", ir=11)),
    ("not-finite", "error", EMBEDDING, lambda p: onnx_file(p / "m.onnx", weights={EMBEDDING: ONES * np.nan})),
    ("other-architecture", "error", "'gpt2'",
     lambda p: (plain_export(p), (p / "config.json").write_text('{"model_type": "gpt2"}'))[0]),
    ("no-end", "warning", "no token ends a text",
     lambda p: (plain_export(p), (p / "generation_config.json").unlink(), (p / "tokenizer_config.json").unlink(),
                (p / "config.json").write_text(json.dumps(SHAPE.to_dict() | {"eos_token_id": None})))[0]),
]  # fmt: skip


@pytest.mark.parametrize("name, level, text, make", ONNX_FILES, ids=[f"{r[0]}-{i}" for i, r in enumerate(ONNX_FILES)])
def test_examine_onnx_with_fault_reports_it(tmp_path, name, level, text, make):
    path = make(tmp_path)
    findings = [finding for finding in findings_of(path, name) if finding.level == level]
    assert any(text in finding.what for finding in findings), levels_and_names(path)
    assert examine.examine(path).usable == (level != "error")


@pytest.mark.parametrize("has, level", [(True, "note"), (None, "note"), (False, "warning")])
def test_examine_int8_without_vnni_warns(tmp_path, monkeypatch, has, level):
    monkeypatch.setattr(doctor_onnx, "vnni", lambda: has)
    (finding,) = findings_of(
        onnx_file(tmp_path / "m.onnx", nodes=["MatMulInteger"], weights=WIDE), "int8-that-overflows"
    )
    assert finding.level == level and "--reduce-range" in finding.cure
    narrow = {"w_quantized": np.full((8, 8), -64, np.int8)}
    assert not findings_of(
        onnx_file(tmp_path / "m.onnx", nodes=["MatMulInteger"], weights=narrow), "int8-that-overflows"
    )
    assert doctor_onnx.vnni.__name__ == "<lambda>"


def test_examine_handmade_onnx_has_no_findings(tmp_path):
    assert levels_and_names(onnx_file(tmp_path / "m.onnx")) == set()


def test_examine_damaged_onnx_is_one_finding(tmp_path):
    path = onnx_file(tmp_path / "m.onnx")
    whole = path.read_bytes()
    place = whole.index(b"e30") if b"e30" in whole else len(whole) // 2
    for data, text in (
        (whole[:-20], "cut off or damaged"),
        (b"", "no graph"),
        (b"not a model at all, but a text", "ONNX"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    ):
        path.write_bytes(data)
        result = examine.examine(path)
        assert not result.usable and result.findings[0].name == "unreadable" and text in result.findings[0].what, place
    path.write_bytes(whole.replace(b"edgekit.file.config.json.sha256\x12@", b"edgekit.file.config.json.sha256\x12@", 1))
    digest = re.search(rb"config\.json\.sha256\x12@([0-9a-f]{64})", whole)[1]
    path.write_bytes(whole.replace(digest, b"0" * 64))
    assert any("does not match its sha256" in f.what for f in examine.examine(path).findings)


def test_examine_randomly_damaged_onnx_never_raises(tmp_path):
    path = onnx_file(tmp_path / "m.onnx")
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(rng.integers(1, 5)):
            data[rng.integers(len(data))] = rng.integers(256)
        path.write_bytes(data)
        examine.report(examine.examine(path))


@pytest.mark.filterwarnings("ignore")
def test_onnx_file_has_what_the_package_reads(folder, tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("optimum.exporters.onnx")
    path = converted(folder.path, tmp_path / "m.onnx", "onnx", "int8", graph="portable")
    ours, theirs = read_onnx(path), onnx.load(path)
    assert ours.ir_version == theirs.ir_version and ours.producer == theirs.producer_name
    assert ours.metadata == {prop.key: prop.value for prop in theirs.metadata_props}
    assert ours.inputs == [node.name for node in theirs.graph.input] and "logits" in ours.outputs
    assert sum(ours.nodes.values()) == len(theirs.graph.node)
    assert ours.opsets == {opset.domain: opset.version for opset in theirs.opset_import}
    for tensor in theirs.graph.initializer:
        mine = ours.tensors[tensor.name]
        assert mine.shape == tuple(tensor.dims)
        if mine.raw is not None:
            assert mine.raw.tobytes() == onnx.numpy_helper.to_array(tensor).tobytes()
    assert sum(t.raw is not None for t in ours.tensors.values()) > 20


# ---- both ----------------------------------------------------------------------------------------------------------


def test_every_check_is_tested():
    elsewhere = {"text-with-stray-marks", "coarse-head", "int8-that-overflows"}
    elsewhere |= {"versions-of-transformers-differ", "sentencepiece-model-alone"}  # test_doctor_truth.py
    tested = {row[0] for row in (*FOLDERS, *GGUFS, *ONNX_FILES)} | elsewhere
    assert {check.name for check in CHECKS} <= tested
    assert len({check.name for check in CHECKS}) == len(CHECKS)


def test_examine_imports_only_the_package_onnx_and_only_for_onnx_files(folder, tmp_path):
    gguf, path = to_gguf(folder.path, tmp_path), onnx_file(tmp_path / "m.onnx")
    script = (
        "import sys; from pathlib import Path; from edgekit.doctor.examine import examine\n"
        "heavy = {'torch', 'transformers', 'onnx', 'onnxruntime', 'optimum', 'gguf', 'llama_cpp', 'google', 'numba'}\n"
        "loaded = lambda: {m.split('.')[0] for m in sys.modules} & heavy\n"
        f"for path in {[str(folder.path), str(gguf)]!r}: examine(Path(path))\n"
        "assert not loaded(), loaded()\n"
        f"examine(Path({str(path)!r}))\n"
        "assert loaded() <= {'onnx', 'google'}, loaded()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_examine_onnx_file_without_the_package_names_the_extra(tmp_path, monkeypatch):
    path = onnx_file(tmp_path / "m.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtraError, match=r"m.onnx needs onnx, .*not installed: pip install '.*\[onnx\]'$"):
        examine.examine(path)


def test_onnx_runtime_refuses_files_with_errors(tmp_path):
    """Errors of the doctor and the runtime's own refusal agree."""
    pytest.importorskip("onnxruntime")
    try:
        plugin = registry.load("runtimes", "onnx")
    except MissingExtraError as error:
        pytest.skip(str(error))
    for make in (lambda p: onnx_file(p / "m.onnx", props={}), lambda p: with_data(p, "lost.bin")):
        with pytest.raises(EdgekitError):
            plugin.load(make(tmp_path), Running(threads=1))
