"""Where a decode step of the fused ONNX graph spends its time: ONNX Runtime's own profile, by operator and shape.

    python benchmarks/kernels.py                          # 12.3M parameters, seeded weights, int4 and int8
    python benchmarks/kernels.py --quant int8 --quant int4-kv8 --context 500 --json

"-kv8" after a type means an int8 KV cache. Each type is opened with one thread and repeatedly decodes one token after a
prompt of `--context` tokens; ONNX Runtime reports the time of every node. Profiling adds some microseconds to each node
and twice as many outside the nodes, so use the shares only, and take the time of a step from `edgekit bench`. GB/s
counts the bytes of a matrix once a step: where it is near the bandwidth of the cache, only fewer bytes would be faster.
"""

import argparse
import collections
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import _seeded
import onnx
import onnxruntime as ort
from onnx import helper

from edgekit.conversion.convert import convert
from edgekit.errors import EdgekitError
from edgekit.evaluation.bench import machine
from edgekit.settings import Running
from edgekit.utils import registry
from edgekit.utils.tables import table

STEPS, WARM = 200, 20


def kinds(path: Path) -> dict[str, tuple[str, int]]:
    """Node name -> the name of its row, and the bytes of the matrix that it reads."""
    rows = {}
    for node in onnx.load(path).graph.node:
        values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        name, size = node.op_type, 0
        if node.op_type == "MatMulNBits":
            n, k, bits, block = (values[key] for key in ("N", "K", "bits", "block_size"))
            name = f"MatMulNBits {k} -> {n}, {bits} bits in blocks of {block}"
            size = n * k * bits // 8 + 4 * n * -(-k // block)
        rows[node.name] = name, size
    return rows


def profile(path: Path, context: int, folder: Path) -> dict[str, Any]:
    """Microseconds a step, median over the steps: {"step", "call", "rows": [{"kind", "nodes", "us", "bytes"}]}."""
    session_options = registry.load("runtimes", "_onnx_session").options
    plugin = registry.load("runtimes", "onnx")

    def profiled(threads: int) -> ort.SessionOptions:
        options = session_options(threads)
        options.enable_profiling, options.profile_file_prefix = True, str(folder / "profile")
        return options

    plugin._onnx_session.options = profiled
    try:
        runtime = plugin.load(path, Running(threads=1))
    finally:
        plugin._onnx_session.options = session_options
    ids = [3 + i % (runtime.vocab_size - 3) for i in range(max(context, WARM + STEPS))]
    runtime.forward(ids[:context])
    seconds = []
    for i in range(WARM + STEPS):
        runtime.rewind(context)
        begin = time.perf_counter()
        runtime.forward([ids[i]])
        seconds.append(time.perf_counter() - begin)
    events = json.loads(Path(runtime._session.end_profiling()).read_text())
    calls = [event["dur"] for event in events if event.get("name") == "model_run"][-STEPS:]
    names, times = kinds(path), collections.defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            times[event["name"].removesuffix("_kernel_time")].append(event["dur"])
    rows: dict[str, dict[str, Any]] = {}
    for node, durations in times.items():
        kind, size = names.get(node, (node, 0))
        row = rows.setdefault(kind, {"kind": kind, "nodes": 0, "us": 0.0, "bytes": 0})
        row["nodes"] += 1
        row["us"] += statistics.mean(sorted(durations[-STEPS:])[: STEPS * 9 // 10])  # whole microseconds: no median
        row["bytes"] += size
    return {
        "step": 1e6 * statistics.median(seconds[WARM:]), "call": statistics.median(calls),
        "rows": sorted(rows.values(), key=lambda row: -row["us"]),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", type=Path, help="a Hugging Face folder; default: 12.3M, seeded")
    parser.add_argument("--quant", action="append", help="a type, as int4 or int4-kv8; default: int4, int8")
    parser.add_argument("--context", type=int, default=160, help="tokens in the cache")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--markdown", action="store_true")
    args = parser.parse_args()
    if args.context < 1:
        parser.error("--context must be at least 1")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.model is None:
            _seeded.write(folder / "model")
        profiles = {}
        for quant in args.quant or ["int4", "int8"]:
            path = folder / f"{quant}.onnx"
            try:
                settings = _seeded.converting(quant)
                convert(args.model or folder / "model", "onnx", path, settings=settings, verify=False)
                profiles[quant] = profile(path, args.context, folder)
            except EdgekitError as error:
                sys.exit(f"kernels: {error}")
    if args.json:
        print(json.dumps(profiles, indent=1))
        return
    facts = machine({"onnxruntime": ort.__version__})
    print(f"{facts['cpu']}, {facts['system']}, onnxruntime {ort.__version__}, one thread")
    for quant, each in profiles.items():
        total = sum(row["us"] for row in each["rows"])
        cells = [
            [
                row["kind"], str(row["nodes"]), f"{row['us']:,.0f}", f"{100 * row['us'] / total:.0f} %",
                f"{row['bytes'] / row['us'] / 1e3:.1f}" if row["bytes"] else "",
            ]
            for row in each["rows"]
            if row["us"] >= 0.01 * total
        ]  # fmt: skip
        step = f"{each['step']:,.0f} us a step, {total:,.0f} in its kernels"
        print(f"\n{quant}, {args.context} tokens in the cache: {step}\n")
        print(table(["kernel", "nodes", "us", "share", "GB/s"], cells, markdown=args.markdown))


if __name__ == "__main__":
    main()
