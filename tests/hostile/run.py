"""Attacks edgekit with mutated files: `python tests/hostile/run.py --minutes 10`, or `make fuzz MINUTES=10`.

Children are forked from this process, which has imported everything, so a new one after an abort costs nothing. A case
hangs if it takes `SECONDS` of processor time (or `WALL` of the clock, on a busy machine). Prints a table by format, and
the lines of all tracebacks with a seed of each: `--only gguf:123` repeats one.
"""

import argparse
import contextlib
import itertools
import json
import os
import select
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent)]

import child  # noqa: E402
import corpus  # noqa: E402
import mutate  # noqa: E402

SECONDS, WALL, MEGABYTES = 5.0, 60.0, 500


@dataclass
class Tally:
    cases: int = 0
    clean: int = 0
    accepted: int = 0
    traceback: int = 0
    abort: int = 0
    hang: int = 0
    memory: int = 0
    mb: int = 0


@dataclass
class Report:
    formats: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    where: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """What failed -> the cases, as `format:seed`."""
    guarded: Counter[str] = field(default_factory=Counter)

    def add(self, result: dict[str, Any]) -> None:
        tally, case = self.formats[result["format"]], f"{result['format']}:{result['seed']}"
        tally.cases += 1
        setattr(tally, result["outcome"], getattr(tally, result["outcome"]) + 1)
        tally.mb = max(tally.mb, result.get("mb", 0))
        if result.get("mb", 0) > MEGABYTES:
            tally.memory += 1
            self.where[f"more than {MEGABYTES} MB"].append(case)
        for where in result.get("where", []):
            self.where[where].append(case)
        self.guarded.update(result.get("guarded", []))
        if result["outcome"] in ("abort", "hang"):
            self.where[f"{result['outcome']} of {result['format']}"].append(case)

    @property
    def failed(self) -> bool:
        return bool(self.where)

    def text(self) -> str:
        names = ("cases", "clean", "accepted", "traceback", "abort", "hang", f">{MEGABYTES} MB", "most MB")
        rows = [f"{'format':<12}" + "".join(f"{name:>10}" for name in names)]
        total = Tally()
        for name, t in sorted(self.formats.items()):
            for key in vars(total):
                setattr(total, key, max(total.mb, t.mb) if key == "mb" else getattr(total, key) + getattr(t, key))
            rows.append(row(name, t))
        rows.append(row("all", total))
        for where, cases in sorted(self.where.items(), key=lambda item: -len(item[1])):
            rows.append(f"{len(cases):>6}  {where}  {' '.join(cases[:3])}")
        if self.guarded:
            rows.append(f"{sum(self.guarded.values())} were caught by the guard alone:")
            rows += [f"{count:>6}  {where}" for where, count in self.guarded.most_common(40)]
        return "\n".join(rows)


def row(name: str, tally: Tally) -> str:
    return f"{name:<12}" + "".join(f"{value:>10}" for value in vars(tally).values())


class Worker:
    """A forked child, and the case that it has."""

    def __init__(self, base: Path, log: Path):
        jobs_out, jobs_in = os.pipe()
        results_out, results_in = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(jobs_in), os.close(results_out)
                with open(log, "ab") as file:
                    os.dup2(file.fileno(), 2)
                    os.dup2(file.fileno(), 1)
                child.serve(os.fdopen(jobs_out), os.fdopen(results_in, "w"), base)
            finally:
                os._exit(0)
        os.close(jobs_out), os.close(results_in)
        self.jobs, self.results = os.fdopen(jobs_in, "w"), os.fdopen(results_out)
        self.case: tuple[str, int] | None = None
        self.begin = self.clock = 0.0

    def give(self, format: str, seed: int) -> None:
        self.case, self.begin, self.clock = (format, seed), time.monotonic(), self.processor()
        with contextlib.suppress(BrokenPipeError):
            self.jobs.write(f"{format} {seed}\n")
            self.jobs.flush()

    def processor(self) -> float:
        """Seconds of processor time so far."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        except (OSError, IndexError):
            return 0.0

    def late(self) -> bool:
        return self.processor() - self.clock > SECONDS or time.monotonic() - self.begin > WALL

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.jobs_close()

    def jobs_close(self) -> None:
        for file in (self.jobs, self.results):
            with contextlib.suppress(OSError):
                file.close()


def attack(cases: Any, base: Path, workers: int, seconds: float, log: Path) -> Report:
    """Run cases, (format, seed) each, until they or the time end."""
    report, deadline = Report(), time.monotonic() + seconds
    pool = [Worker(base, log) for _ in range(workers)]
    for worker in pool:
        _next(worker, cases, deadline)
    while any(worker.case for worker in pool):
        busy = [worker for worker in pool if worker.case]
        ready = select.select([worker.results for worker in busy], [], [], 0.25)[0]
        for worker in busy:
            if worker.results in ready:
                line = worker.results.readline()
                format, seed = worker.case or ("", 0)
                if line:
                    report.add(json.loads(line))
                    _next(worker, cases, deadline)
                    continue
                outcome = "abort"
            elif worker.late():
                format, seed = worker.case or ("", 0)
                outcome = "hang"
            else:
                continue
            report.add({"format": format, "seed": seed, "outcome": outcome})
            worker.end()
            place = pool.index(worker)
            pool[place] = Worker(base, log)
            _next(pool[place], cases, deadline)
    for worker in pool:
        worker.end()
    return report


def _next(worker: Worker, cases: Any, deadline: float) -> None:
    worker.case = None
    if time.monotonic() < deadline and (case := next(cases, None)):
        worker.give(*case)


def endless(formats: list[str], first: int) -> Any:
    """Cases of all formats in turn; those that cost much come less often."""
    seed = first
    while True:
        for name in formats:
            if name != "template" or seed % 8 == 0:
                yield name, seed
        seed += 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--first", type=int, default=None, help="the first seed; by default the time")
    parser.add_argument("--count", type=int, default=None, help="seeds of each format, instead of minutes")
    parser.add_argument("--formats", default=",".join(mutate.FORMATS))
    parser.add_argument("--only", help="format:seed, in this process")
    parser.add_argument("--base", type=Path, help="a folder for the healthy files, kept")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        base = args.base or Path(temporary) / "base"
        os.environ["EDGEKIT_CACHE"] = str(Path(temporary) / "cache")
        os.environ["GGML_NO_BACKTRACE"] = "1"  # a debugger would be started for each abort
        tempfile.tempdir = temporary
        child.preload()
        if not base.is_dir():
            pid = os.fork()  # threads that conversions start would not survive the forks below
            if pid == 0:
                corpus.make(base)
                os._exit(0)
            if os.waitpid(pid, 0)[1]:
                return 1
        if args.only:
            name, _, seed = args.only.partition(":")
            os.environ.pop("EDGEKIT_TRACEBACKS", None)
            print(child.case(name, int(seed), base))
            return 0
        first = int(time.time()) if args.first is None else args.first
        formats = args.formats.split(",")
        cases = endless(formats, first)
        if args.count is not None:
            end = first + args.count
            cases = itertools.takewhile(lambda case: case[1] < end, cases)
        report = attack(cases, base, args.workers, args.minutes * 60, Path(temporary) / "log")
        print(f"seeds from {first} on")
        print(report.text())
    return int(report.failed)


if __name__ == "__main__":
    sys.exit(main())
