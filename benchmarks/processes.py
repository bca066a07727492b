"""Whole processes: time to the first token on the terminal, conversions, and peak memory.

    python benchmarks/processes.py                        # 12.3M parameters, seeded weights
    python benchmarks/processes.py -m ./checkpoint --rounds 9 --json

Times include imports, with the files in the system's cache. The processes take turns, round after round; the table has
medians. Peers in the same run: llama-cpp-python's `Llama` on the same GGUF, and transformers on the folder. Memory is
the largest resident set of the process ("Maximum resident set size" of `/usr/bin/time -v`). On Linux a child's value
starts at its parent's, so this program imports nothing large before all is measured: numpy would show in every row.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

EDGEKIT = [sys.executable, "-m", "edgekit"]
LLAMA = """
import sys
from llama_cpp import Llama
m = Llama(sys.argv[1], n_ctx=1024, n_threads=1, verbose=False)
for token in m.generate(m.tokenize(b"Once upon a time"), temp=0.0):
    print(m.detokenize([token]), flush=True)
    break
"""
TRANSFORMERS = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
m = AutoModelForCausalLM.from_pretrained(sys.argv[1])
t = AutoTokenizer.from_pretrained(sys.argv[1])
ids = t("Once upon a time", return_tensors="pt").input_ids
print(t.decode(m.generate(ids, max_new_tokens=1, do_sample=False)[0]), flush=True)
"""


class Timed(NamedTuple):
    """Seconds to the first byte on stdout and to the end, and the peak of resident memory in MB."""

    first: float
    end: float
    memory: float


def timed(command: list[str]) -> Timed:
    """Run the command once. Raises `SystemExit` with its last line of output if it fails."""
    with tempfile.TemporaryFile() as errors:
        begin = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, stdin=subprocess.DEVNULL, bufsize=0)
        assert process.stdout is not None
        process.stdout.read(1)
        first = time.perf_counter() - begin
        while process.stdout.read(65536):
            pass
        _, status, usage = os.wait4(process.pid, 0)
        end = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            last = (errors.read().decode(errors="replace").strip().splitlines() or ["no output"])[-1]
            raise SystemExit(f"{' '.join(command[:6])} failed: {last}")
    return Timed(first, end, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", type=Path, help="a Hugging Face folder; default: 12.3M, seeded")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work, model = Path(scratch), args.model
        if model is None:
            model = work / "model"
            script = "import sys, pathlib; import _seeded; _seeded.write(pathlib.Path(sys.argv[1]))"
            subprocess.run([sys.executable, "-c", script, str(model)], cwd=Path(__file__).parent, check=True)
        gguf, onnx, out = work / "m-q4_0.gguf", work / "m-int8.onnx", work / "out"
        convert = [*EDGEKIT, "convert", "-m", str(model), "--force"]
        timed([*convert, "--to", "gguf", "--quant", "q4_0", "-o", str(gguf)])
        timed([*convert, "--to", "onnx", "--quant", "int8", "-o", str(onnx)])
        run = [*EDGEKIT, "run", "Once upon a time", "--max-new-tokens", "1", "--no-echo"]
        commands = {
            "edgekit --help": [*EDGEKIT, "--help"],
            "first token, gguf q4_0": [*run, "-m", str(gguf)],
            "first token, onnx int8": [*run, "-m", str(onnx)],
            "first token, torch": [*run, "-m", str(model), "--runtime", "torch"],
            "convert --to gguf --quant q4_0": [*convert, "--to", "gguf", "--quant", "q4_0", "-o", f"{out}.gguf"],
            "convert --to onnx --quant int4": [*convert, "--to", "onnx", "--quant", "int4", "-o", f"{out}.onnx"],
            "the same --no-verify, gguf": [
                *convert, "--to", "gguf", "--quant", "q4_0", "-o", f"{out}.gguf", "--no-verify",
            ],
            "the same --no-verify, onnx": [
                *convert, "--to", "onnx", "--quant", "int4", "-o", f"{out}.onnx", "--no-verify",
            ],
        }  # fmt: skip
        if not args.no_peers:
            commands["llama-cpp-python, gguf q4_0"] = [sys.executable, "-c", LLAMA, str(gguf)]
            commands["transformers generate"] = [sys.executable, "-c", TRANSFORMERS, str(model)]
        for command in commands.values():
            timed(command)  # files into the system's cache, bytecode compiled
        runs: dict[str, list[Timed]] = {name: [] for name in commands}
        for _ in range(args.rounds):
            for name, command in commands.items():
                runs[name].append(timed(command))
    medians = {name: Timed(*map(statistics.median, zip(*each, strict=True))) for name, each in runs.items()}
    if args.json:
        print(json.dumps({name: each._asdict() for name, each in medians.items()}, indent=1))
        return
    from edgekit.evaluation.bench import machine
    from edgekit.utils.tables import table

    facts = machine({})
    print(f"{facts['cores']} x {facts['cpu']}, {facts['system']}, Python {facts['python']}; {args.rounds} rounds\n")
    rows = [
        [
            name,
            f"{t.first:.2f}" if "convert" not in name and "same" not in name else "",
            f"{t.end:.2f}",
            f"{t.memory:.0f}",
        ]
        for name, t in medians.items()
    ]
    print(table(["process", "first output, s", "end, s", "peak memory, MB"], rows, markdown=True))


if __name__ == "__main__":
    main()
