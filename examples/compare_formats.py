"""What does each format cost? Size, KL divergence, top-1 agreement and perplexity against the source, as a table.

    python examples/compare_formats.py MODEL [TEXT] [--quant gguf:q4_0 --quant onnx:int8 ...]

MODEL is a Hugging Face folder, TEXT a file to measure on (a part of Python's own licence if there is none; a model
of stories is better measured on a story). KL is the mean over positions of KL(source || artefact) in nats.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

import edgekit
from edgekit.convert import convert
from edgekit.sampling import log_softmax
from edgekit.settings import Converting

USUAL = ["gguf:f32", "gguf:f16", "gguf:q8_0", "gguf:q6_k", "gguf:q5_0", "gguf:q4_k_m", "gguf:q4_1", "gguf:q4_0",
         "gguf:iq4_nl", "gguf:q3_k", "gguf:q2_k", "onnx:fp32", "onnx:int8"]  # fmt: skip


def logprobs(model: edgekit.Model, ids: list[int], window: int) -> np.ndarray:
    """float64 (len(ids), vocab_size), in windows that each begin anew."""
    parts = []
    for start in range(0, len(ids), window):
        model.runtime.rewind(0)
        parts.append(model.runtime.forward(ids[start : start + window], every=True))
    return log_softmax(np.concatenate(parts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path, nargs="?")
    parser.add_argument("--quant", action="append", metavar="FORMAT:TYPE", help="may be repeated")
    parser.add_argument("--tokens", type=int, default=2048)
    arguments = parser.parse_args()

    text = arguments.text.read_text(encoding="utf-8") if arguments.text else str(__import__("builtins").license)
    source = edgekit.load(arguments.model, runtime="torch")
    window = min(256, source.runtime.context_length)
    ids = source.encode(text)[: arguments.tokens]
    p = logprobs(source, ids, window)

    def perplexity(of: np.ndarray) -> float:
        told = np.arange(1, len(ids))
        told = told[told % window != 0]  # the first token of a window has nothing before it
        return float(np.exp(-of[told - 1, np.array(ids)[told]].mean()))

    print(f"{arguments.model.name}, {len(ids)} tokens; the source's perplexity is {perplexity(p):.3f}\n")
    print("| format | MB | mean KL (nats) | top-1 agreement | max \\|Δlogprob\\| | perplexity |")
    print("|---|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.quant or USUAL:
            to, quant = name.split(":")
            path = convert(arguments.model, to, Path(folder) / f"m-{quant}.{to}", settings=Converting(quant=quant)).path
            q = logprobs(edgekit.load(path), ids, window)
            kl = float((np.exp(p) * (p - q)).sum(-1).mean())
            top1 = float((p.argmax(-1) == q.argmax(-1)).mean())
            print(f"| {to} {quant} | {path.stat().st_size / 1e6:.2f} | {kl:.2e} | {100 * top1:.1f} % | "
                  f"{np.abs(p - q).max():.2g} | {perplexity(q):.3f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
