"""onnxruntime-genai, in a separate environment: `PYTHON _genai.py QUANT FOLDER [prepare]`.

Uses the standard library and onnxruntime-genai only. Its model builder (`prepare`) also needs torch, transformers and
onnx-ir.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

from _serve import Run, serve

PENALTY = 1.2


def prepare(folder: Path, quant: str) -> None:
    """Convert with genai's own model builder, for CPUs."""
    out = folder / f"genai-{quant}"
    if not (out / "genai_config.json").is_file():
        done = subprocess.run(
            [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(folder / "model"), "-o", str(out),
             "-p", quant, "-e", "cpu", "-c", str(folder / "genai-cache")],
            check=False, stdout=2,
        )  # fmt: skip
        if done.returncode:  # it has printed why
            sys.exit(done.returncode)


def open_genai(folder: Path, quant: str, threads: int) -> Run:
    """genai's generator loop on ids, greedy, with the penalty."""
    import onnxruntime_genai as og

    where = folder / f"genai-{quant}"
    config = json.loads((where / "genai_config.json").read_text())
    config["model"]["decoder"]["session_options"]["intra_op_num_threads"] = threads
    (where / "genai_config.json").write_text(json.dumps(config, indent=4))
    model = og.Model(str(where))

    def run(prompt: list[int], count: int) -> tuple[float | None, list[int]]:
        begin = time.perf_counter()
        params = og.GeneratorParams(model)
        length = len(prompt) + count
        params.set_search_options(do_sample=False, repetition_penalty=PENALTY, max_length=length, min_length=length)
        generator = og.Generator(model, params)
        generator.append_tokens(prompt)
        first = None
        for _ in range(count):
            generator.generate_next_token()
            first = first or time.perf_counter() - begin
        return first, list(generator.get_sequence(0))[len(prompt) :]

    return run


if __name__ == "__main__":
    quant, folder = sys.argv[1], Path(sys.argv[2])
    if sys.argv[3:] == ["prepare"]:
        prepare(folder, quant)
    else:
        serve(lambda threads: open_genai(folder, quant, threads), ["onnxruntime_genai", "onnxruntime"])
