"""The contestants: the files that each needs, and how it generates. `python _contestants.py NAME FOLDER [prepare]`.

All get the same prompt ids, apply repetition penalty 1.2, take the likeliest token and ignore the end of text. None
tokenizes; only edgekit also turns its tokens into text. FOLDER/model is a Hugging Face folder; converted files are
written next to it.
"""

import ctypes
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from _serve import Open, Run, serve

from edgekit.tokenizers.load import from_files

PENALTY = 1.2
PACKAGES = ("numpy", "torch", "transformers", "onnxruntime", "llama_cpp")

Output = tuple[float | None, list[int]]


# -----------------------------------------------------------------------------
# Hugging Face


def open_hf(folder: Path, dtype: str, threads: int) -> Run:
    """transformers' `generate` with its defaults."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=getattr(torch, dtype)).eval()
    return _generate(model)


def _generate(model: Any) -> Run:
    import torch
    from transformers.generation.streamers import BaseStreamer

    model.generation_config.eos_token_id = None  # every text has the requested length
    model.generation_config.pad_token_id = 0

    class First(BaseStreamer):
        """Receives the prompt, then every token; records when the first token arrived."""

        def __init__(self) -> None:
            self.seen, self.at = 0, 0.0

        def put(self, value: Any) -> None:
            self.seen += 1
            if self.seen == 2:
                self.at = time.perf_counter()

        def end(self) -> None:
            pass

    def run(prompt: list[int], count: int) -> Output:
        first, begin = First(), time.perf_counter()
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            out = model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, repetition_penalty=PENALTY,
                max_new_tokens=count, streamer=first,
            )  # fmt: skip
        return first.at - begin, out[0, len(prompt) :].tolist()

    return run


# -----------------------------------------------------------------------------
# optimum


def prepare_optimum(folder: Path, quant: str) -> None:
    """optimum's own export; int8 is onnxruntime's dynamic quantization of the matrix products in it."""
    import shutil

    fp32 = folder / "optimum-fp32"
    if not (fp32 / "model.onnx").is_file():
        from optimum.onnxruntime import ORTModelForCausalLM

        ORTModelForCausalLM.from_pretrained(folder / "model", export=True).save_pretrained(fp32)
    if quant == "int8" and not (folder / "optimum-int8" / "model.onnx").is_file():
        from onnxruntime.quantization import QuantType, quantize_dynamic

        shutil.copytree(fp32, folder / "optimum-int8", ignore=shutil.ignore_patterns("*.onnx*"), dirs_exist_ok=True)
        quantize_dynamic(
            fp32 / "model.onnx", folder / "optimum-int8" / "model.onnx", weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul"],
        )  # fmt: skip


def open_optimum(folder: Path, quant: str, threads: int) -> Run:
    """`generate` of optimum's ORTModelForCausalLM."""
    import onnxruntime
    import torch
    from optimum.onnxruntime import ORTModelForCausalLM

    torch.set_num_threads(threads)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return _generate(ORTModelForCausalLM.from_pretrained(folder / f"optimum-{quant}", session_options=options))


# -----------------------------------------------------------------------------
# llama.cpp


def prepare_gguf(folder: Path, quant: str) -> None:
    _convert(folder, "gguf", quant)


def open_llama(folder: Path, quant: str, threads: int) -> Run:
    """`Llama.generate` of llama-cpp-python, on ids. Its penalty ignores the prompt."""
    from llama_cpp import Llama

    model = Llama(
        str(folder / f"{quant}.gguf"), n_ctx=1024, n_batch=512, n_threads=threads, n_threads_batch=threads,
        verbose=False,
    )  # fmt: skip

    def run(prompt: list[int], count: int) -> Output:
        model.reset()  # otherwise it finds the prompt in its cache and skips the prefill
        begin, first, tokens = time.perf_counter(), None, []
        for token in model.generate(prompt, temp=0.0, repeat_penalty=PENALTY):
            first = first or time.perf_counter() - begin
            tokens.append(token)
            if len(tokens) == count:
                break
        return first, tokens

    return run


def open_decode(folder: Path, quant: str, flash: bool, threads: int) -> Run:
    """`llama_decode` alone: the prompt, then fixed ids one by one. No logits are read and no token is chosen.

    Args:
        flash: leave flash attention as it is by default, which takes it; else without, which on some processors is
            faster from some 60 tokens on (`steps.py` measures both).
    """
    import llama_cpp.llama_cpp as llama

    llama.llama_backend_init()
    silent = llama.llama_log_callback(lambda *_: None)
    llama.llama_log_set(silent, ctypes.c_void_p(0))
    model = llama.llama_model_load_from_file(str(folder / f"{quant}.gguf").encode(), llama.llama_model_default_params())
    params = llama.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_threads, params.n_threads_batch = 1024, 512, threads, threads
    params.no_perf = True
    if not flash:
        params.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
    context = llama.llama_init_from_model(model, params)
    memory = llama.llama_get_memory(context)

    def decode(ids: Sequence[int]) -> None:
        array = (llama.llama_token * len(ids))(*ids)
        if llama.llama_decode(context, llama.llama_batch_get_one(array, len(ids))):
            raise RuntimeError("llama_decode failed")

    def run(prompt: list[int], count: int) -> Output:
        llama.llama_memory_clear(memory, True)
        begin = time.perf_counter()
        decode(prompt)
        first = time.perf_counter() - begin
        ids = [prompt[i % len(prompt)] for i in range(count - 1)]
        for token in ids:
            decode([token])
        return first, []

    run.keep = silent  # type: ignore[attr-defined]  # llama.cpp calls it for as long as it runs
    return run


# -----------------------------------------------------------------------------
# edgekit


def prepare_onnx(folder: Path, name: str) -> None:
    _convert(folder, "onnx", name)


def _convert(folder: Path, to: str, name: str) -> None:
    import _seeded

    from edgekit.conversion.convert import convert

    out = folder / f"{name}.{to}"
    if not out.is_file():
        convert(folder / "model", to, out, settings=_seeded.converting(name))


GREEDY = {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
SAMPLED = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.02, "seed": 12}
"""Every filter of the sampler is used."""


def open_edgekit(
    artefact: Path, runtime: str, running: dict[str, Any], threads: int, sampling: dict[str, Any] = GREEDY
) -> Run:
    """`Model.stream`, text included; `running` has more fields of `edgekit.settings.Running`."""
    from edgekit.model import Model
    from edgekit.settings import Running
    from edgekit.utils import registry

    loaded = registry.load("runtimes", runtime).load(artefact, Running(threads=threads, **running))
    model = Model(loaded, from_files(loaded.files, loaded.vocab_size))

    def run(prompt: list[int], count: int) -> Output:
        stream = model.stream(prompt, **sampling, repetition_penalty=PENALTY, max_new_tokens=count, ignore_eos=True)
        for _ in stream:
            pass
        return stream.result.timings.first_token, stream.result.tokens

    return run


# -----------------------------------------------------------------------------
# the list

Contestant = tuple[Callable[[Path], None] | None, Callable[[Path], Open]]
"""(prepare(FOLDER) or None, FOLDER -> function that opens the files with a number of threads)."""


def _plain(function: Callable[..., Run], *arguments: Any) -> Callable[[Path], Open]:
    return lambda folder: partial(function, folder, *arguments)


def _edgekit(name: str, runtime: str, **running: Any) -> Callable[[Path], Open]:
    return lambda folder: partial(open_edgekit, folder / name, runtime, running)


def _sampled(name: str, runtime: str) -> Callable[[Path], Open]:
    return lambda folder: partial(open_edgekit, folder / name, runtime, {}, sampling=SAMPLED)


def _prepare(function: Callable[[Path, str], None], quant: str) -> Callable[[Path], None]:
    return lambda folder: function(folder, quant)


CONTESTANTS: dict[str, Contestant] = {
    **{
        f"edgekit native {q}": (_prepare(prepare_gguf, q), _edgekit(f"{q}.gguf", "native"))
        for q in ("f16", "q8_0", "q4_0")
    },
    "edgekit native-int8kv q4_0": (_prepare(prepare_gguf, "q4_0"), _edgekit("q4_0.gguf", "native", kv_type="int8")),
    "edgekit native-sampled q4_0": (_prepare(prepare_gguf, "q4_0"), _sampled("q4_0.gguf", "native")),
    "hf fp32": (None, _plain(open_hf, "float32")),
    "hf bf16": (None, _plain(open_hf, "bfloat16")),
    **{f"optimum {q}": (_prepare(prepare_optimum, q), _plain(open_optimum, q)) for q in ("fp32", "int8")},
    **{f"llama.cpp generate {q}": (_prepare(prepare_gguf, q), _plain(open_llama, q)) for q in ("f16", "q8_0", "q4_0")},
    **{
        f"llama.cpp bare decode{name} {q}": (_prepare(prepare_gguf, q), _plain(open_decode, q, flash))
        for name, flash in (("", True), ("-noflash", False))
        for q in ("q8_0", "q4_0")
    },
    **{
        f"edgekit onnx {q}": (_prepare(prepare_onnx, q), _edgekit(f"{q}.onnx", "onnx"))
        for q in ("fp32", "int8", "int4", "int4_pure", "int8-kv8", "int4-kv8")
    },
    **{
        f"edgekit llamacpp {q}": (_prepare(prepare_gguf, q), _edgekit(f"{q}.gguf", "llamacpp"))
        for q in ("f32", "q8_0", "q4_0")
    },
    "edgekit torch fp32": (None, _edgekit("model", "torch")),
    "edgekit torch bf16": (None, _edgekit("model", "torch", dtype="bfloat16")),
    "edgekit torch int8": (None, _edgekit("model", "torch", dtype="int8")),
}  # fmt: skip


def main() -> None:
    name, folder = sys.argv[1], Path(sys.argv[2])
    make, open_in = CONTESTANTS[name]
    if sys.argv[3:] == ["prepare"]:
        if make is not None:
            make(folder)
    else:
        serve(open_in(folder), PACKAGES)


if __name__ == "__main__":
    main()
