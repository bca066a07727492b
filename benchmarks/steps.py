"""One decode step and a prefill: the engine and bare `llama_decode` in turn, and what reading the weights would take.

    python benchmarks/steps.py                         # 12.3M parameters, seeded weights, q4_0, one thread
    python benchmarks/steps.py --threads 2 --kv-type int8 --quant q8_0
    python benchmarks/steps.py -m model.gguf           # any GGUF that both open
    python benchmarks/steps.py --busy 1                # the engine alone, two threads and one, next to a busy process

A round measures each program once at each context, one after the other; the figures are medians over the rounds, a
ratio is the median of the rounds' ratios. llama.cpp runs with flash attention and without; the faster one counts. The
bound is the time in which one core reads as many bytes as the weights of a step have, by a sum of numpy over an array
of that size. With `--busy` a ratio below 1 means that the second thread does harm.
"""

import argparse
import contextlib
import ctypes
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import _seeded
import numpy as np

from edgekit.evaluation.bench import machine
from edgekit.runtimes import _native_library as native_library
from edgekit.settings import Running
from edgekit.utils import registry
from edgekit.utils.tables import table

STEPS = 24
"""Steps of one measurement, of which the median counts."""
PREFILL = 512

Forward = Callable[[list[int]], None]


class Native:
    """The engine through its runtime."""

    def __init__(self, path: Path, threads: int, kv_type: str):
        self.runtime = registry.load("runtimes", "native").load(path, Running(threads=threads, kv_type=kv_type))

    def forward(self, ids: list[int]) -> None:
        self.runtime.forward(ids)

    def rewind(self, length: int) -> None:
        self.runtime.rewind(length)


class LlamaDecode:
    """`llama_decode` alone, with a float16 cache; no logits are read."""

    def __init__(self, path: Path, threads: int, flash: bool):
        import llama_cpp.llama_cpp as llama

        self.llama = llama
        llama.llama_backend_init()
        self.silent = llama.llama_log_callback(lambda *_: None)
        llama.llama_log_set(self.silent, ctypes.c_void_p(0))
        model = llama.llama_model_load_from_file(str(path).encode(), llama.llama_model_default_params())
        params = llama.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = 1024, PREFILL, PREFILL
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = int(flash)  # llama.h, enum llama_flash_attn_type
        params.no_perf = True
        self.context = llama.llama_init_from_model(model, params)
        self.memory = llama.llama_get_memory(self.context)

    def forward(self, ids: list[int]) -> None:
        array = (self.llama.llama_token * len(ids))(*ids)
        if self.llama.llama_decode(self.context, self.llama.llama_batch_get_one(array, len(ids))):
            raise RuntimeError("llama_decode failed")

    def rewind(self, length: int) -> None:
        self.llama.llama_memory_seq_rm(self.memory, 0, length, -1)


def step_seconds(program: Native | LlamaDecode, context: int) -> float:
    """Median of steps that begin at `context` tokens."""
    times = []
    for i in range(STEPS):
        begin = time.perf_counter()
        program.forward([5 + i])
        times.append(time.perf_counter() - begin)
    program.rewind(context)
    return statistics.median(times)


def prefill_seconds(program: Native | LlamaDecode, ids: list[int]) -> float:
    program.rewind(0)
    begin = time.perf_counter()
    program.forward(ids)
    return time.perf_counter() - begin


def read_seconds(size: int) -> float:
    """Median time of one core to read `size` bytes that it has just read before."""
    words = np.ones(size // 8, np.uint64)
    times = []
    for _ in range(9):
        begin = time.perf_counter()
        np.bitwise_or.reduce(words)
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def weight_bytes(path: Path) -> int:
    """Bytes of the file that one step reads."""
    engine, info, error = native_library.engine(), native_library.Info(), native_library.Error()
    data = np.fromfile(path, np.uint8)
    native_library.check(
        engine.ek_inspect(data.ctypes.data, data.size, native_library.byref(info), native_library.byref(error)),
        error,
        path,
    )
    return info.step_bytes


@contextlib.contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Other programs that never wait, each on one core."""
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def contestants(path: Path, args: argparse.Namespace) -> dict[str, Native | LlamaDecode]:
    if args.busy:
        return {"two threads": Native(path, 2, args.kv_type), "one": Native(path, 1, args.kv_type)}
    return {
        "engine": Native(path, args.threads, args.kv_type),
        "llama.cpp, flash": LlamaDecode(path, args.threads, True),
        "without": LlamaDecode(path, args.threads, False),
    }


def measure(path: Path, args: argparse.Namespace) -> str:
    programs = contestants(path, args)
    ids = [3 + i % 200 for i in range(1024)]
    weights = weight_bytes(path)
    rows, rounds = [], range(args.rounds)
    for context in args.context:
        for program in programs.values():
            program.rewind(0)
            program.forward(ids[: min(context, PREFILL)])
            if context > PREFILL:
                program.forward(ids[PREFILL:context])
        found = [{name: step_seconds(program, context) for name, program in programs.items()} for _ in rounds]
        rows.append(row(f"step at {context}", found, 1e6, read_seconds(weights)))
    prefills = [{name: prefill_seconds(p, ids[:PREFILL]) for name, p in programs.items()} for _ in rounds]
    rows.append(row(f"prefill of {PREFILL}", prefills, 1e6, None))
    head = ["", *(f"{name}, µs" for name in programs), "ratio", "reading the weights, µs"]
    return table(head, rows, markdown=args.markdown)


def row(name: str, found: list[dict[str, float]], unit: float, bound: float | None) -> list[str]:
    first, *others = found[0]
    ratios = [statistics.median(each[other] / each[first] for each in found) for other in others]
    times = [f"{unit * statistics.median(each[program] for each in found):,.0f}" for program in found[0]]
    return [name, *times, f"{min(ratios):.2f}", "" if bound is None else f"{unit * bound:,.0f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", type=Path, help="a GGUF; default: 12.3M parameters, seeded")
    parser.add_argument("--quant", default="q4_0", help="of the seeded model")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--busy", type=int, default=0, metavar="N", help="compare two threads with one next to N spinning processes"
    )
    parser.add_argument("--kv-type", default="f16", choices=("f32", "f16", "int8"), help="the engine's cache")
    parser.add_argument("--context", type=int, nargs="+", default=[32, 160, 512, 990])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--markdown", action="store_true")
    args = parser.parse_args()
    if (
        args.rounds < 1
        or args.threads < 1
        or args.busy < 0
        or min(args.context) < 1
        or max(args.context) > 1024 - STEPS
    ):
        parser.error(f"--rounds and --threads must be at least 1, --busy 0, --context from 1 to {1024 - STEPS}")
    with tempfile.TemporaryDirectory() as work:
        path = args.model
        if path is None:
            from edgekit.conversion.convert import convert

            path = Path(work) / f"{args.quant}.gguf"
            _seeded.write(Path(work) / "model")
            convert(Path(work) / "model", "gguf", path, settings=_seeded.converting(args.quant), verify=False)
        facts = machine({})
        with busy_processes(args.busy):
            text = measure(path, args)
    what = args.model.name if args.model else f"12.3M parameters, seeded weights, {args.quant}"
    how = f"{args.threads} thread(s)" if not args.busy else f"next to {args.busy} busy process(es)"
    sys.stdout.write(
        f"{what}, {how}, cache {args.kv_type} (llama.cpp: f16), medians of {args.rounds} rounds. "
        f"{facts['cpu']}, {facts['cores']} cores.\n\n{text}\n"
    )


if __name__ == "__main__":
    main()
