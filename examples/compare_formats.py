"""Prints a table of what each format costs: size, KL divergence, top-1 agreement, perplexity and speed.

    python examples/compare_formats.py                                   # the bundled model, Markdown
    python examples/compare_formats.py -m FOLDER --text stories.jsonl.gz --plot formats.svg --speed
    python examples/compare_formats.py --formats gguf:q4_0 gguf:q4_0:importance onnx:int4 onnx:int8:portable

The files go into a temporary folder. The figures are those of `edgekit verify` and `edgekit bench`: KL is the mean over
positions of KL(source || artefact) in nats a token, llama.cpp has a float32 KV cache, and the source runs on numpy. The
default text is the one that `importance` uses, which flatters those rows: pass another with --text. Documents are taken
from the whole text, as many as --tokens needs.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from edgekit.conversion.convert import convert
from edgekit.conversion.verification import report
from edgekit.conversion.verification.settings import Verifying
from edgekit.conversion.verification.verify import Verification, verify
from edgekit.errors import EdgekitError
from edgekit.evaluation import bench
from edgekit.evaluation.bench_settings import Benching
from edgekit.formats import hub
from edgekit.settings import Converting
from edgekit.utils import files, texts
from edgekit.utils.tables import table

FORMATS = [
    "gguf:f32", "gguf:f16", "gguf:q8_0", "gguf:q6_k", "gguf:q5_0",
    "gguf:q4_k_m", "gguf:q4_k_m:importance", "gguf:q4_1", "gguf:q4_1:importance",
    "gguf:q4_0", "gguf:q4_0:importance", "gguf:iq4_nl", "gguf:iq4_nl:importance", "gguf:q3_k", "gguf:q2_k",
    "onnx:fp32", "onnx:fp16", "onnx:int8", "onnx:int8:kv8", "onnx:int4", "onnx:int4:kv8", "onnx:int4_pure",
    "onnx:fp32:portable", "onnx:int8:portable",
]  # fmt: skip
DOCUMENTS = 64
"""The most documents to take from a text, at equal distances, since a file often has one corpus after another."""


def make(model: Path, name: str, folder: Path, importance: str) -> Path:
    """Convert to FORMAT:TYPE, optionally followed by importance, portable or kv8 (an int8 KV cache)."""
    to, quant, *more = name.split(":")
    settings = Converting(
        quant=quant,
        importance=importance if "importance" in more else None,
        graph="portable" if "portable" in more else "fused",
        kv_cache="int8" if "kv8" in more else "f32",
    )
    return convert(model, to, folder / f"{name.replace(':', '-')}.{to}", settings=settings, verify=False).path


def speeds(paths: list[Path], rounds: int) -> list[float | None]:
    """Median decoding speed in tokens a second, measured as in `edgekit bench`: all files take turns in each round."""
    result = bench.bench([str(path) for path in paths], Benching(repeat=rounds, context=()))
    return [line.decode.median for line in result.lines]


def markdown(result: Verification, names: list[str], rates: list[float | None]) -> str:
    head = ["format", "MB", "KL", "top-1", "perplexity", *(["tokens/s"] if rates else [])]
    rows = []
    for i, (name, proof) in enumerate(zip(names, result.artefacts, strict=True)):
        row = [name, f"{proof.bytes / 1e6:.2f}"]
        if (f := proof.figures) is None:
            row += ["-", "-", "-"]
        else:
            row += [f"{f.mean_kl:.1e}", f"{100 * f.top1:.1f} %", report.change(f.perplexity_change)]
        if rates:
            row.append("-" if rates[i] is None else f"{rates[i]:,.0f}")
        rows.append(row)
    return table(head, rows, markdown=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", help="a Hugging Face folder, a .gguf or a Hub id; default: the bundled model")
    parser.add_argument("--text", type=Path, action="append", help=".txt or .jsonl to measure on; may be repeated")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--formats", nargs="+", default=FORMATS, metavar="FORMAT:TYPE[:importance|:portable|:kv8]")
    parser.add_argument("--importance", default="default", metavar="TEXT", help="text that `importance` measures on")
    parser.add_argument("--plot", type=Path, help="also draw the table to this SVG")
    parser.add_argument("--speed", action="store_true", help="measure tokens a second; run nothing else meanwhile")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of --speed")
    args = parser.parse_args()

    model = hub.resolve(args.model)
    documents = texts.read(args.text) if args.text else None
    if documents is not None and len(documents) > DOCUMENTS:
        documents = documents[:: len(documents) // DOCUMENTS]
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for i, name in enumerate(args.formats, 1):
            print(f"\r{i} of {len(args.formats)}: {name:<24}", end="", file=sys.stderr, flush=True)
            paths.append(make(model, name, Path(folder), args.importance))
        print("\rmeasuring" + " " * 32, file=sys.stderr)
        result = verify(model, paths, Verifying(tokens=args.tokens, greedy=0), texts=documents)
        rates = speeds(paths, args.rounds) if args.speed else []
    names = [name.replace(":", " ", 1).replace(":", ", ") for name in args.formats]
    perplexity = next(p.figures.source_perplexity for p in result.artefacts if p.figures is not None)
    print(f"{result.source}, {result.positions:,} positions; perplexity of the source: {perplexity:.3f}\n")
    print(markdown(result, names, rates))
    if args.plot:
        files.write_bytes(args.plot, report.svg(result, names=names, speeds=rates).encode())
    for name, proof in zip(names, result.artefacts, strict=True):
        for failure in proof.failures:
            print(f"{name} is broken: {failure}", file=sys.stderr)
    sys.exit(0 if result.sound else 1)


if __name__ == "__main__":
    try:
        main()
    except EdgekitError as error:
        sys.exit(f"Error: {error}")
