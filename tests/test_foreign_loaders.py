"""Artefacts opened by other programs, without edgekit.

Each script below runs in a process where edgekit cannot be imported: llama.cpp through llama-cpp-python's own class,
its loader and detokenizer; ONNX Runtime with numpy; transformers. Their results are compared with Hugging Face's own
model, or with what edgekit documents about them.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from spoilt import SHAPE, Folder

from edgekit import model
from edgekit.conversion.convert import convert
from edgekit.formats.checkpoint import open_folder
from edgekit.formats.gguf import GGUFFile
from edgekit.settings import Converting
from edgekit.tokenizers.load import from_files
from edgekit.tokenizers.tokenmonster.tokenizer import TokenMonsterTokenizer

PROMPT = "Once upon a time"


def alone(script: str, job: dict, tmp_path: Path) -> dict:
    """Run a script that reads `job` and writes `result`, a dict of JSON and numpy values, without edgekit."""
    whole = (
        "import json, sys\nsys.modules['edgekit'] = None\nimport numpy as np\njob, result = json.load(sys.stdin), {}\n"
        + script
        + "\narrays = {k: v for k, v in result.items() if isinstance(v, np.ndarray)}\n"
        "np.savez(job['out'], **arrays)\n"
        "print('\\n' + json.dumps({k: v for k, v in result.items() if k not in arrays}))\n"
    )
    out = tmp_path / f"result-{len(list(tmp_path.glob('result-*')))}.npz"
    given = json.dumps({key: str(v) if isinstance(v, Path) else v for key, v in job.items()} | {"out": str(out)})
    done = subprocess.run([sys.executable, "-c", whole], input=given, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]) | dict(np.load(out))


def artefact(source: Path, to: str, out: Path, quant: str, *, verify: bool = False, **settings) -> Path:
    """The artefact that `edgekit convert` writes; with `verify`, with its receipt."""
    return convert(source, to, out, settings=Converting(quant, **settings), verify=verify).path


@pytest.fixture(scope="module")
def spoken(tmp_path_factory) -> Path:
    """A seeded model with an ordinary tokenizer: grouped heads, a tied table, BOS before a text."""
    return Folder(tmp_path_factory.mktemp("spoken") / "m").path


def hf_logits(folder: Path, ids: list[int]) -> np.ndarray:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    with torch.inference_mode():
        return theirs(torch.tensor([ids])).logits[0].numpy()


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


# ---- llama.cpp -----------------------------------------------------------------------------------------------------

# `type_k=0`: a cache in float32, as edgekit's own comparisons have it.
LLAMA = """
import ctypes, llama_cpp
from llama_cpp import Llama
def load(path, **more):
    size = job.get('context', 64)
    return Llama(path, n_ctx=size, logits_all=True, verbose=False, n_threads=1, type_k=0, type_v=0, **more)
def detokenize(llama, ids):
    vocab, capacity = llama._model.vocab, 16 * len(ids) + 64
    given, buffer = (ctypes.c_int * len(ids))(*ids), ctypes.create_string_buffer(capacity)
    size = llama_cpp.llama_detokenize(vocab, given, len(ids), buffer, capacity, False, False)
    assert size >= 0
    return list(buffer.raw[:size])
"""

EVERY = (
    LLAMA
    + """
for quant, path in job['paths'].items():
    llama = load(path)
    llama.eval(job['ids'])
    result[quant] = np.array(llama.scores[:len(job['ids'])], np.float32)
    result[quant + ' facts'] = {
        'rows': llama.n_vocab(), 'train': llama_cpp.llama_model_n_ctx_train(llama._model.model),
        'parameters': llama_cpp.llama_model_n_params(llama._model.model), 'metadata': llama.metadata,
        'eos': llama.token_eos(), 'bos': llama.token_bos(),
    }
    llama.close()
"""
)


# One of each kind of block -> the most that its mean KL may be, about three times what this model measures.
MOST_KL = {"f32": 1e-9, "f16": 2e-6, "bf16": 1e-4, "q8_0": 1e-3, "q6_k": 6e-3, "q5_k_m": 2e-2, "q5_1": 2e-2,
           "q5_0": 2e-2, "q4_k_m": 5e-2, "iq4_nl": 7e-2, "q4_1": 7e-2, "q4_0": 9e-2, "q3_k_m": 0.12,
           "q2_k": 0.5}  # fmt: skip


@pytest.fixture(scope="module")
def every(spoken, tmp_path_factory) -> tuple[dict[str, Path], dict, list[int]]:
    """The model in every type, what llama-cpp-python makes of each, and the ids that it was given."""
    pytest.importorskip("llama_cpp")
    pytest.importorskip("gguf")
    root = tmp_path_factory.mktemp("every")
    ids = np.random.default_rng(0).integers(3, SHAPE.vocab_size, 24).tolist()
    paths = {q: artefact(spoken, "gguf", root / f"{q}.gguf", q) for q in MOST_KL}
    result = alone(EVERY, {"paths": {q: str(path) for q, path in paths.items()}, "ids": ids}, root)
    return paths, result, ids


def test_llama_cpp_python_logits_equal_transformers(every, spoken):
    paths, result, ids = every
    expected = hf_logits(spoken, ids)
    assert np.abs(result["f32"] - expected).max() < 1e-4
    p = log_softmax(expected)
    for quant, most in MOST_KL.items():
        assert np.isfinite(result[quant]).all()
        q = log_softmax(result[quant])
        assert float((np.exp(p) * (p - q)).sum(axis=-1).mean()) < most, quant


def test_llama_cpp_python_metadata_equals_edgekits(every):
    """The same file in edgekit's runtime for llama.cpp: the same logits, whatever the type."""
    paths, result, ids = every
    for quant, path in paths.items():
        ours = model.load(path, runtime="llamacpp", threads=1, kv_type="f32").runtime.forward(ids, every=True)
        assert np.abs(ours - result[quant]).max() < 1e-4, quant


def test_llama_cpp_python_facts_are_the_models(every, spoken):
    paths, result, _ = every
    count = sum(tensor.size for _, tensor in open_folder(spoken))
    for quant, path in paths.items():
        facts = result[quant + " facts"]
        assert (facts["rows"], facts["train"], facts["parameters"]) == (SHAPE.vocab_size, 128, count)
        assert (facts["bos"], facts["eos"]) == (1, 2)
        assert facts["metadata"]["general.architecture"] == "llama" and facts["metadata"]["edgekit.quant"] == quant
        assert int(facts["metadata"]["general.file_type"]) == GGUFFile(path).metadata["general.file_type"]


WRITE = (
    LLAMA
    + """
llama = load(job['path'])
ids = job['ids'] or llama.tokenize(job['text'].encode(), add_bos=job['bos'], special=False)
result['prompt'] = list(ids)
tokens = []
llama.eval(ids)
for _ in range(job['count']):
    tokens.append(int(llama.scores[llama.n_tokens - 1].argmax()))
    llama.eval(tokens[-1:])
result['tokens'] = tokens
result['bytes'] = list(llama.detokenize(tokens))
result['whole'] = detokenize(llama, tokens)
result['special'] = [llama._model.token_get_text(i) for i in job.get('show', [])]
result['metadata'] = llama.metadata
if job['ids'] is None:
    llama.reset()
    completion = llama.create_completion(job['text'], max_tokens=job['count'], temperature=0, repeat_penalty=1.0)
    result['completion'] = completion['choices'][0]['text']
"""
)


def test_llama_cpp_python_text_equals_edgekits(stories, tmp_path):
    """Tokens, greedy choice, text and completion of a real model, in plain llama-cpp-python and in transformers."""
    pytest.importorskip("llama_cpp")
    transformers = pytest.importorskip("transformers")
    import torch

    path = artefact(stories, "gguf", tmp_path / "m.gguf", "f32", verify=True)
    job = {"path": path, "text": PROMPT, "ids": None, "bos": True, "count": 40}
    result = alone(WRITE, job, tmp_path)
    reference = transformers.AutoTokenizer.from_pretrained(stories)
    ids = reference(PROMPT).input_ids
    assert result["prompt"] == ids
    theirs = transformers.AutoModelForCausalLM.from_pretrained(stories)
    text = theirs.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=40)[0, len(ids) :].tolist()
    assert result["tokens"] == text
    expected = reference.decode([*ids, *text], skip_special_tokens=True).removeprefix(PROMPT)
    assert bytes(result["bytes"]).decode() == expected and result["completion"] == expected
    assert bytes(result["whole"]).decode().strip() == expected.strip()


def undone(data: bytes) -> bytes:
    """A capcode-1 text with its delete markers (7F) taken out, each with the character after it."""
    out, at = bytearray(), 0
    while at < len(data):
        at += 2 if data[at] == 0x7F else 0
        out += data[at : at + 1]
        at += 1
    return bytes(out)


def test_llama_cpp_python_tokenmonster_text_matches(bundled, tmp_path):
    """As documented: the text of stock programs is edgekit's with delete markers in it."""
    pytest.importorskip("llama_cpp")
    path = artefact(bundled, "gguf", tmp_path / "m.gguf", "f32", verify=True)
    ours = model.load(path, threads=1, kv_type="f32")
    assert isinstance(ours.tokenizer, TokenMonsterTokenizer) and ours.tokenizer.vocabulary.capcode == 1
    prompt = ours.encode(PROMPT)
    expected = ours.generate(PROMPT, max_new_tokens=60, temperature=0, repetition_penalty=1.0, ignore_eos=True)
    specials = [ours.tokenizer.eos, ours.tokenizer.bos_id]
    job = {"path": path, "text": PROMPT, "ids": prompt, "bos": False, "count": 60, "show": specials, "context": 128}
    result = alone(WRITE, job, tmp_path)
    assert result["tokens"] == expected.tokens
    data = bytes(result["bytes"])
    assert undone(data).decode("utf-8", "replace") == ours.tokenizer.decode(result["tokens"])
    assert data == b"".join(_pieces(ours.tokenizer, result["tokens"])) == bytes(result["whole"])
    assert result["special"] == ["</s>", "<s>"]
    # The delete marker is what the vocabulary joins words with: a text with a capital or a comma has one.
    marked = ours.tokenizer.encode("(a)b, one-two")
    stock = alone(WRITE, job | {"ids": marked, "count": 1}, tmp_path)["prompt"]
    assert b"\x7f" in b"".join(_pieces(ours.tokenizer, stock)) and "\x7f" not in ours.tokenizer.decode(stock)
    sampling = {key: value for key, value in result["metadata"].items() if key.startswith("general.sampling.")}
    assert float(sampling["general.sampling.penalty_repeat"]) == pytest.approx(1.2)
    assert int(sampling["general.sampling.penalty_last_n"]) == ours.runtime.context_length


def _pieces(own: TokenMonsterTokenizer, ids: list[int]) -> list[bytes]:
    """The bytes that each id prints alone."""
    silent = {own.eos, own.bos_id}
    return [b"" if i in silent or i >= own.vocabulary.table_size else own.vocabulary.base_bytes(i) for i in ids]


GGUF_BY_TRANSFORMERS = """
import torch
from transformers import AutoModelForCausalLM
for name, (folder, file) in job['files'].items():
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32).eval()
    with torch.inference_mode():
        result[name] = model(torch.tensor([job['ids']])).logits[0].float().numpy()
"""


def test_transformers_gguf_reader_equals_source(every, spoken, tmp_path):
    """Hugging Face's dequantizer and its way back from llama.cpp's order of rows are others' code."""
    pytest.importorskip("transformers")
    paths, _, ids = every
    files = {quant: [str(paths[quant].parent), paths[quant].name] for quant in ("f32", "q8_0", "q4_0", "q4_k_m")}
    result = alone(GGUF_BY_TRANSFORMERS, {"files": files, "ids": ids}, tmp_path)
    assert np.abs(result["f32"] - hf_logits(spoken, ids)).max() < 1e-4
    for quant in ("q8_0", "q4_0", "q4_k_m"):
        back = artefact(paths[quant], "hf", tmp_path / quant, "f32")
        assert np.abs(result[quant] - hf_logits(back, ids)).max() < 1e-4, quant


# ---- ONNX Runtime --------------------------------------------------------------------------------------------------

ONNX = """
import base64, hashlib, onnxruntime as ort
session = ort.InferenceSession(job['path'], providers=['CPUExecutionProvider'])
texts = session.get_modelmeta().custom_metadata_map
files = {k[len('edgekit.file.'):]: base64.b64decode(v) for k, v in texts.items()
         if k.startswith('edgekit.file.') and not k.endswith('.sha256')}
for name, data in files.items():
    assert texts[f'edgekit.file.{name}.sha256'] == hashlib.sha256(data).hexdigest()
result['files'] = sorted(files)
config = json.loads(files['config.json'])
ids = job['ids']
if ids is None:
    from tokenizers import Tokenizer
    words = Tokenizer.from_buffer(files['tokenizer.json'])
    ids = words.encode(job['text']).ids
    result['text'] = words.decode(ids)
result['prompt'] = ids
inputs = [node.name for node in session.get_inputs()]
names = [name for name in inputs if name.startswith('past_key_values')]
fused = 'seqlens_k' in inputs  # its cache has room for the whole context, of which a prefix is in use
capacity = config['max_position_embeddings'] if fused else 0
shape = (1, config['num_key_value_heads'], capacity, config['head_dim'])
cache = {name: np.zeros(shape, np.float32) for name in names}
given, seen, tokens, rows = list(ids), 0, [], []
for _ in range(job['count']):
    end, many = seen + len(given), len(given)
    if fused:
        feeds = {'logit_positions': np.arange(many), 'seqlens_k': np.array([end - 1], np.int32),
                 'total_sequence_length': np.array(end, np.int32)}
    else:
        feeds = {'attention_mask': np.ones((1, end), np.int64), 'position_ids': np.arange(seen, end)[None]}
    logits, *present = session.run(None, {'input_ids': np.array([given], np.int64), **feeds, **cache})
    rows += list(logits[0])
    seen += len(given)
    cache = dict(zip(names, present))
    tokens.append(int(logits[0, -1].argmax()))
    given = tokens[-1:]
result['tokens'], result['logits'] = tokens, np.array(rows)
result['quant'] = texts['edgekit.quant'], fused
"""


# (graph, quant) -> the most that its mean KL may be on this model.
GRAPHS = {
    ("portable", "fp32"): 1e-9, ("portable", "int8"): 1e-2,
    ("fused", "fp32"): 1e-9, ("fused", "int8"): 1e-2, ("fused", "int4"): 0.1,
}  # fmt: skip


@pytest.fixture(scope="module")
def exported(spoken, tmp_path_factory):
    pytest.importorskip("optimum.exporters.onnx")
    root = tmp_path_factory.mktemp("onnx")
    return {
        (graph, quant): artefact(spoken, "onnx", root / f"{graph}-{quant}.onnx", quant, verify=True, graph=graph)
        for graph, quant in GRAPHS
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("graph, quant", GRAPHS)
def test_onnx_runtime_alone_runs_file(exported, spoken, tmp_path, graph, quant):
    """Weights, tokenizer and configuration out of one file, with onnxruntime, numpy and the standard library."""
    job = {"path": exported[graph, quant], "ids": None, "text": "a cat sat", "count": 12}
    result = alone(ONNX, job, tmp_path)
    source = open_folder(spoken)
    assert result["files"] == sorted(source.files) and result["quant"] == [quant, graph == "fused"]
    own = from_files(source.files, SHAPE.vocab_size)
    assert result["prompt"] == [own.bos, *own.encode("a cat sat")]
    expected = hf_logits(spoken, [*result["prompt"], *result["tokens"][:-1]])
    p, q = log_softmax(expected), log_softmax(result["logits"])
    assert float((np.exp(p) * (p - q)).sum(axis=-1).mean()) < GRAPHS[graph, quant]
    if quant == "fp32":
        assert np.abs(result["logits"] - expected).max() < 1e-4
        first = len(result["prompt"]) - 1
        assert result["tokens"] == expected[first:].argmax(axis=-1).tolist()
    assert result["text"] == "a cat sat"


OPTIMUM = """
import torch
from optimum.onnxruntime import ORTModelForCausalLM
from transformers import AutoTokenizer
model = ORTModelForCausalLM.from_pretrained(job['folder'], file_name='model.onnx', use_io_binding=False)
ids = AutoTokenizer.from_pretrained(job['folder'])(job['text']).input_ids
result['tokens'] = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=12)[0, len(ids):].tolist()
"""


@pytest.mark.filterwarnings("ignore")
def test_optimum_runs_file_next_to_configuration(exported, spoken, tmp_path):
    pytest.importorskip("optimum.onnxruntime")
    folder = tmp_path / "m"
    folder.mkdir()
    for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((spoken / name).read_bytes())
    (folder / "model.onnx").write_bytes(exported["portable", "fp32"].read_bytes())
    result = alone(OPTIMUM, {"folder": folder, "text": "a cat sat"}, tmp_path)
    files = open_folder(spoken).files
    own = from_files(files, SHAPE.vocab_size)
    ids = [own.bos, *own.encode("a cat sat")]
    expected = hf_logits(spoken, [*ids, *result["tokens"][:-1]])
    assert result["tokens"] == expected[len(ids) - 1 :].argmax(axis=-1).tolist()


# ---- transformers --------------------------------------------------------------------------------------------------

TRANSFORMERS = """
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline
model = AutoModelForCausalLM.from_pretrained(job['folder'], dtype=torch.float32).eval()
words = AutoTokenizer.from_pretrained(job['folder'], trust_remote_code=job['code'])
ids = words(job['text']).input_ids
result['prompt'] = ids
mask = torch.ones(1, len(ids), dtype=torch.long)
settings = dict(do_sample=False, max_new_tokens=job['count'], repetition_penalty=1.0)
tokens = model.generate(torch.tensor([ids]), attention_mask=mask, **settings)[0, len(ids):].tolist()
result['tokens'] = tokens
result['text'] = words.decode([*ids, *tokens], skip_special_tokens=True)
continued = pipeline('text-generation', model=model, tokenizer=words)(job['text'], **settings)
result['pipeline'] = continued[0]['generated_text']
with torch.inference_mode():
    result['logits'] = model(torch.tensor([ids])).logits[0].numpy()
model.save_pretrained(job['again'])
words.save_pretrained(job['again'])
"""


@pytest.mark.parametrize("kind, through", [("bundled", "gguf"), ("spoken", "hf")])
def test_plain_transformers_continues_with_same_text(request, tmp_path, kind, through):
    """A folder that edgekit wrote, straight or by way of a GGUF: the same tokens and text as edgekit's, and back."""
    pytest.importorskip("transformers")
    pytest.importorskip("torch")
    source, text = request.getfixturevalue(kind), PROMPT if kind == "bundled" else "a cat sat"
    if through == "gguf":
        pytest.importorskip("gguf")
        source = artefact(source, "gguf", tmp_path / "m.gguf", "f32")
    folder = artefact(source, "hf", tmp_path / "m", "f32", verify=True)
    job = {"folder": folder, "again": tmp_path / "again", "text": text, "count": 30, "code": kind == "bundled"}
    result = alone(TRANSFORMERS, job, tmp_path)
    ours = model.load(request.getfixturevalue(kind), runtime="torch")
    assert result["prompt"] == ours.encode(text)
    expected = ours.generate(text, max_new_tokens=30, temperature=0, repetition_penalty=1.0)
    assert result["tokens"] == expected.tokens
    if "\ufffd" not in expected.text:  # over ill-formed bytes transformers prints one U+FFFD for each, good ones too
        assert result["text"] == result["pipeline"] == text + expected.text
    assert result["text"].startswith(text)
    back = open_folder(tmp_path / "again")
    for name, tensor in open_folder(request.getfixturevalue(kind)):
        assert (back.float32(name) == np.asarray(tensor, np.float32)).all(), name


@pytest.mark.parametrize("quant, kind", [("f32", "F32"), ("f16", "F16"), ("bf16", "BF16")])
def test_safetensors_reads_written_folder(spoken, tmp_path, quant, kind):
    folder = artefact(spoken, "hf", tmp_path / "m", quant)
    shapes = SHAPE.shapes()
    with safe_open(folder / "model.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt"} and set(file.keys()) == set(shapes)
        for name in file.keys():  # noqa: SIM118  (not a dict)
            part = file.get_slice(name)
            assert tuple(part.get_shape()) == shapes[name] and part.get_dtype() == kind
