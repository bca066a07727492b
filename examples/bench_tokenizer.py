"""Measures how fast a TokenMonster vocabulary encodes and decodes: plain Python, numba, the engine, the reference.

    python examples/bench_tokenizer.py english-8000-strict-nocapcode-v1.vocab            # text: Python's manual
    python examples/bench_tokenizer.py my.vocab book.txt --runs 9

Uses one core. Each figure is text in MB (10^6 bytes) a second of processor time (which other programs disturb less than
time on the clock), the best and the median of the runs after a warm-up run; the reference's is time on the clock.
The ids of all ways are compared; if they differ, the exit status is 1.
"""

import argparse
import json
import pydoc_data.topics
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from edgekit.tokenizers.engine import EngineTokenizer
from edgekit.tokenizers.tokenmonster.vocabulary import Vocabulary
from edgekit.utils import engine

REFERENCE = """
import json, sys, time
from pathlib import Path
from edgekit.training.reference_tokenizer import load
reference = load(Path(sys.argv[1]).read_bytes(), patience=15)
text, times = Path(sys.argv[2]).read_bytes().decode(), []
for _ in range(int(sys.argv[3]) + 1):
    start = time.perf_counter()
    ids = reference.encode(text)
    times.append(time.perf_counter() - start)
print(json.dumps([ids, times[1:]]))
"""


def builtin_text() -> bytes:
    """About 0.7 MB of English that comes with every Python: the language reference behind `help()`."""
    return "\n\n".join(pydoc_data.topics.topics.values()).encode()


def timed(call: Callable[[], object], runs: int) -> list[float]:
    call()
    times = []
    for _ in range(runs):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return times


def show(what: str, size: int, times: Sequence[float]) -> None:
    best, median = size / min(times) / 1e6, size / statistics.median(times) / 1e6
    print(f"{what:<18} best {best:8.2f} MB/s   median {median:8.2f} MB/s")


def reference(vocabulary: Path, text: Path, runs: int) -> tuple[list[int], list[float]] | str:
    """Ids and times of the published package in a separate process, or a line that says why there are none."""
    command = [sys.executable, "-c", REFERENCE, str(vocabulary), str(text), str(runs)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        return "no answer in 120 seconds"
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    ids, times = json.loads(done.stdout)
    return ids, times


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("vocabulary", type=Path, help="a .vocab file")
    parser.add_argument("text", type=Path, nargs="?", help="UTF-8 text (default: Python's language reference)")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    vocabulary = Vocabulary.load(options.vocabulary)
    data = options.text.read_bytes() if options.text else builtin_text()

    start = time.perf_counter()
    Vocabulary.load(options.vocabulary).encode("Once upon a time")
    print(f"load and first encode in plain Python: {(time.perf_counter() - start) * 1e3:.0f} ms")
    ids = vocabulary.encode(data)
    print(f"{len(data) / 1e6:.2f} MB of text, {len(ids):,} tokens, {len(data) / max(1, len(ids)):.2f} bytes each")
    show("plain encode", len(data), timed(lambda: vocabulary.encode(data), options.runs))
    show("decode", len(vocabulary.decode_bytes(ids)), timed(lambda: vocabulary.decode_bytes(ids), options.runs))

    same = True
    try:
        from edgekit.training.fast_tokenizer import FastEncoder
    except ModuleNotFoundError as error:
        print(f"numba: needs {error.name}: pip install 'edgekit-lm[train]'")
    else:
        start = time.perf_counter()
        fast = FastEncoder(vocabulary)
        same = fast.encode(data).tolist() == ids
        print(f"numba: {time.perf_counter() - start:.1f} s to build, compile and run once, ids equal: {same}")
        show("numba encode", len(data), timed(lambda: fast.encode(data), options.runs))

    if (library := engine.library()) is None:
        print("engine: not installed (it is compiled with the package where there is a C compiler)")
    else:
        start = time.perf_counter()
        tokenizer = EngineTokenizer(library, options.vocabulary.read_bytes(), bare=True)
        print(
            f"engine: {(time.perf_counter() - start) * 1e3:.0f} ms to open, ids equal: {tokenizer.encode(data) == ids}"
        )
        same = same and tokenizer.encode(data) == ids
        show("engine encode", len(data), timed(lambda: tokenizer.encode_array(data), options.runs))

    if options.text is None:
        print("reference: give a text file to compare with the tokenmonster package")
        return 0 if same else 1
    answer = reference(options.vocabulary, options.text, options.runs)
    if isinstance(answer, str):
        print(f"reference: {answer}")
    else:
        show("reference encode", len(data), answer[1])
        print(f"reference: ids equal: {answer[0] == ids}")
        same = same and answer[0] == ids
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
