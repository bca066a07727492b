"""How much faster a decode step is for memory in pages of 2 MB, on Linux: each artefact with and without, in turns.

    python benchmarks/huge_pages.py                                # 12.3M parameters, seeded weights
    python benchmarks/huge_pages.py -m model.onnx -m model.gguf --context 500 --rounds 25

Two processes for each artefact, one thread; for one of them the kernel's PR_SET_THP_DISABLE takes huge pages away,
whoever asks (`runtimes/_huge_pages.py` does, and numpy for large arrays). A round warms a process up and times steps
behind `--context` tokens. The ratio is the median of the rounds' own, with the quartiles beside it.
"""

import argparse
import ctypes
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import _seeded

from edgekit import load
from edgekit.conversion.convert import convert
from edgekit.errors import EdgekitError
from edgekit.evaluation.bench import machine
from edgekit.utils.tables import table

PR_SET_THP_DISABLE = 41  # linux/prctl.h
KINDS = ("int4", "int4-kv8", "int8", "int8-kv8", "fp32")
WARM, STEPS = 0.3, 48  # seconds, and what is timed behind them


def answer(path: str, context: int) -> None:
    """The child: a line with its huge pages in MB, then for each line that comes in one with us a step."""
    runtime = load(path, threads=1).runtime
    ids = [3 + i % (runtime.vocab_size - 3) for i in range(context)]
    runtime.forward(ids)
    rollup = Path("/proc/self/smaps_rollup").read_text().splitlines()
    print(sum(int(line.split()[1]) for line in rollup if line.startswith("AnonHugePages")) / 1024, flush=True)
    for _ in sys.stdin:
        end, seconds = time.perf_counter() + WARM, []
        while len(seconds) < STEPS:
            runtime.rewind(context - 1)
            begin = time.perf_counter()
            runtime.forward(ids[-1:])
            if begin > end:
                seconds.append(time.perf_counter() - begin)
        print(1e6 * statistics.mean(seconds), flush=True)


def without() -> None:
    """Between fork and exec: this process and what it becomes get no huge pages."""
    if ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0):
        raise OSError("prctl(PR_SET_THP_DISABLE) failed")


def compare(paths: list[str], context: int, rounds: int) -> list[dict]:
    """{"model", "mb": [with, without], "us": [medians], "ratios": [one a round]} for each."""
    pairs = [
        [
            subprocess.Popen(
                [sys.executable, __file__, "--child", path, "--context", str(context)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=before,
            )
            for before in (None, without)
        ]
        for path in paths
    ]  # fmt: skip

    def said(process: subprocess.Popen) -> float:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            sys.exit(f"huge_pages: a process ended with status {process.wait()}")
        return float(line)

    sizes = [[said(process) for process in pair] for pair in pairs]
    times: list[list[list[float]]] = [[] for _ in pairs]
    for _ in range(rounds):
        for pair, found in zip(pairs, times, strict=True):
            row = []
            for process in pair:
                assert process.stdin is not None
                process.stdin.write("\n")
                process.stdin.flush()
                row.append(said(process))
            found.append(row)
    for process in (each for pair in pairs for each in pair):
        process.communicate()
    return [
        {"model": Path(path).name, "mb": size, "us": [statistics.median(column) for column in zip(*found, strict=True)]}
        | {"ratios": [small / huge for huge, small in found]}
        for path, size, found in zip(paths, sizes, times, strict=True)
    ]


def seeded(folder: Path) -> list[str]:
    """Artefacts of 12.3M parameters, made in `folder`."""
    _seeded.write(folder / "model")
    paths = [folder / f"{kind}.onnx" for kind in KINDS]
    for path in paths:
        convert(folder / "model", "onnx", path, settings=_seeded.converting(path.stem), verify=False)
    return [str(path) for path in paths]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", action="append", help="an artefact; default: 12.3M, seeded, as ONNX")
    parser.add_argument("--context", type=int, default=160, help="tokens in the cache")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.context < 1 or asked.rounds < 2:
        parser.error("--context is at least 1, --rounds at least 2")
    for path in asked.model or []:
        if not Path(path).exists():
            parser.error(f"{path} does not exist")
    if sys.platform != "linux":
        sys.exit("huge_pages: only Linux has them for the asking")
    try:
        if asked.child:
            return answer(asked.child, asked.context)
        with tempfile.TemporaryDirectory() as name:
            paths = asked.model or seeded(Path(name))
            found = compare(paths, asked.context, asked.rounds)
    except EdgekitError as error:
        sys.exit(f"huge_pages: {error}")
    if asked.json:
        print(json.dumps(found, indent=1))
        return
    about = machine({})
    print(f"{about['cpu']}, {about['system']}, one thread, {asked.context} tokens in the cache, {asked.rounds} rounds")
    rows = []
    for each in found:
        low, middle, high = statistics.quantiles(each["ratios"], n=4, method="inclusive")
        rows.append([
            each["model"], f"{each['mb'][0]:.0f}", f"{each['us'][0]:,.0f}", f"{each['us'][1]:,.0f}",
            f"{middle:.2f}", f"{low:.2f} to {high:.2f}",
        ])  # fmt: skip
    head = ["model", "in huge pages, MB", "us a step", "without them", "times as fast", "half the rounds"]
    print("\n" + table(head, rows, markdown=asked.markdown))


if __name__ == "__main__":
    main()
