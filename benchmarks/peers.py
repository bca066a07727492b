"""edgekit and its peers in one run: tokens a second of each, and the ratios between them.

    python benchmarks/peers.py                                     # 12.3M parameters, seeded weights
    python benchmarks/peers.py -m ./checkpoint --only edgekit --only llama
    python benchmarks/peers.py --genai-python genai/bin/python --work build/peers --markdown

Every contestant is a separate process that opens its model once. Each runs with 1 thread and with all physical cores;
the faster one counts. In a round every contestant generates one text, so whatever slows the machine slows all of them.
A text is `--prompt-tokens` ids in and `--new-tokens` out, greedy with repetition penalty 1.2. Its speed is new tokens
divided by the time of the whole call, prefill and sampler included. A ratio is the median over rounds of the ratio in
each round. Peers that are not installed are named and left out.
"""

import argparse
import contextlib
import hashlib
import json
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import _contestants
import _seeded

from edgekit.evaluation.bench import machine
from edgekit.utils.machine import physical_cores
from edgekit.utils.tables import table

HERE = Path(__file__).resolve().parent
GENAI = {f"genai {quant}": quant for quant in ("fp32", "int8", "int4")}
NAMES = [*_contestants.CONTESTANTS, *GENAI]
REFERENCE = "hf fp32"

Log = Callable[[str], object]

# A contestant (or the faster of several), the lowest median ratio of the README's runs, and what it is compared with,
# each with its faster number of threads, or both with the number after `@`. A run below that figure is slower than any
# run before it, on a machine like that one.
LOWEST_MEASURED = [
    (("edgekit native q4_0@1",), 3.65, "llama.cpp bare decode q4_0@1"),
    (("edgekit native q4_0@2",), 4.42, "llama.cpp bare decode q4_0@2"),
    (("edgekit native q8_0@1",), 3.46, "llama.cpp bare decode q8_0@1"),
    (("edgekit native q4_0@1",), 2.68, "llama.cpp bare decode-noflash q4_0@1"),
    (("edgekit native q4_0@2",), 2.74, "llama.cpp bare decode-noflash q4_0@2"),
    (("edgekit native q8_0@1",), 2.42, "llama.cpp bare decode-noflash q8_0@1"),
    (("edgekit native q4_0",), 10.47, "optimum int8"),
    (("edgekit native q4_0@1",), 2.66, "genai int4@1"),
    (("edgekit native-sampled q4_0",), 0.92, "edgekit native q4_0"),
    (("edgekit onnx int4",), 4.95, "optimum int8"),
    (("edgekit onnx int4",), 1.05, "genai int4"),
    (("edgekit onnx int4",), 0.92, "llama.cpp bare decode q4_0"),
    (("edgekit onnx int8",), 4.25, "optimum int8"),
    # The same with an int8 KV cache, which the peers do not have.
    (("edgekit onnx int4-kv8",), 6.34, "optimum int8"),
    (("edgekit onnx int4-kv8",), 1.11, "genai int4"),
    (("edgekit onnx int4-kv8",), 1.10, "llama.cpp bare decode q4_0"),
    (("edgekit onnx int8-kv8",), 5.44, "optimum int8"),
    (("edgekit llamacpp q4_0",), 0.73, "llama.cpp bare decode q4_0"),
    (("edgekit torch fp32",), 3.22, "hf fp32"),
    (("edgekit torch bf16", "edgekit torch int8"), 6.35, "hf fp32"),
]


@dataclass
class Contestant:
    """A process and its measurements. The same program with another number of threads is another contestant."""

    name: str
    command: list[str]
    threads: int
    absent: str = ""
    """Why it is left out; empty if it is not."""
    packages: dict[str, str] = field(default_factory=dict)
    rates: list[float] = field(default_factory=list)
    """New tokens a second over the whole call, by round."""
    decode: list[float] = field(default_factory=list)
    """The same without the prefill and the first token, if the contestant reports when that came."""
    tokens: list[int] = field(default_factory=list)
    process: subprocess.Popen | None = None

    def prepare(self) -> None:
        """Make its files, in a process that has ended before anything is timed."""
        if not Path(self.command[0]).exists():
            self.absent = f"{self.command[0]} is not there"
            return
        done = subprocess.run([*self.command, "prepare"], capture_output=True, text=True, errors="replace", check=False)
        if done.returncode:
            self.absent = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]

    def open(self, job: dict[str, Any]) -> None:
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        answer = self.ask(json.dumps(job | {"threads": self.threads}))
        self.absent = answer.get("absent", "")
        if not self.absent:
            self.packages = answer["packages"]

    def measure(self, new_tokens: int) -> None:
        answer = self.ask("again")
        if "absent" in answer:
            self.absent = answer["absent"]
            return
        self.rates.append(new_tokens / answer["seconds"])
        if answer["first"]:
            self.decode.append((new_tokens - 1) / (answer["seconds"] - answer["first"]))
        self.tokens = answer["tokens"]
        if self.tokens and len(self.tokens) != new_tokens:
            self.absent = f"it made {len(self.tokens)} tokens, not {new_tokens}"

    def ask(self, request: str) -> dict[str, Any]:
        if self.process is None or self.process.stdin is None or self.process.stdout is None:
            raise RuntimeError(f"{self.name} is not open")
        try:
            self.process.stdin.write(request + "\n")
            self.process.stdin.flush()
            for line in self.process.stdout:
                with contextlib.suppress(ValueError):  # a library may have printed before serve() took over the pipe
                    if isinstance(answer := json.loads(line), dict):
                        return answer
        except OSError:
            pass
        return {"absent": f"its process ended with status {self.process.wait()}"}

    def close(self) -> None:
        if self.process is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()  # type: ignore[union-attr]
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()

    def record(self) -> dict[str, Any]:
        return {
            "name": self.name, "absent": self.absent, "threads": self.threads,
            "tokens_per_second": self.rates, "decode_tokens_per_second": self.decode, "tokens": self.tokens,
        }  # fmt: skip


def prepare(contestants: Sequence[Contestant], folder: Path, log: Log) -> None:
    """Make the missing files. edgekit's own are always written again, since another version may have made them."""
    for contestant in contestants:
        if contestant.name.startswith(("edgekit", "llama")):
            for suffix in (".gguf", ".onnx"):
                (folder / f"{contestant.name.split()[-1]}{suffix}").unlink(missing_ok=True)
    failed: dict[str, str] = {}
    for contestant in contestants:
        if not contestant.absent and contestant.name not in failed:
            log(f"prepare {contestant.name}")
            contestant.prepare()
            failed[contestant.name] = contestant.absent
        contestant.absent = contestant.absent or failed[contestant.name]


def compare(contestants: Sequence[Contestant], rounds: int, job: dict[str, Any], log: Log) -> None:
    """Open all contestants and measure them in turn, round after round."""
    try:
        for contestant in contestants:
            if not contestant.absent:
                log(f"open {contestant.name}, threads: {contestant.threads}")
                contestant.open(job)
        for i in range(rounds):
            for contestant in contestants:
                if not contestant.absent:
                    log(f"round {i + 1} of {rounds}: {contestant.name}, threads: {contestant.threads}")
                    contestant.measure(job["new_tokens"])
    finally:
        for contestant in contestants:
            contestant.close()


def fastest(contestants: Sequence[Contestant]) -> dict[str, Contestant]:
    """For each name, the contestant with the number of threads that has the highest median."""
    best: dict[str, Contestant] = {}
    for one in measured(contestants):
        other = best.get(one.name)
        if other is None or statistics.median(one.rates) > statistics.median(other.rates):
            best[one.name] = one
    return best


def measured(contestants: Sequence[Contestant]) -> list[Contestant]:
    return [one for one in contestants if one.rates and not one.absent]


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The lower quartile, the median and the upper quartile."""
    if len(values) == 1:
        return (values[0],) * 3
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def ratios_measured(contestants: Sequence[Contestant]) -> list[dict[str, Any]]:
    """Median and quartiles over the rounds of each ratio in `LOWEST_MEASURED`; None if one side was not measured."""
    measured_by_name = fastest(contestants) | {f"{one.name}@{one.threads}": one for one in measured(contestants)}
    results = []
    for ours, lowest, theirs in LOWEST_MEASURED:
        ratios = {
            name: quartiles(
                [x / y for x, y in zip(measured_by_name[name].rates, measured_by_name[theirs].rates, strict=True)]
            )
            for name in ours
            if name in measured_by_name and theirs in measured_by_name
        }
        best = max(ratios, key=lambda name: ratios[name][1], default=None)
        low, median, high = ratios[best] if best else (None,) * 3
        results.append({
            "ratio": f"{best or ' or '.join(ours)} / {theirs}", "lowest": lowest, "measured": median,
            "quartiles": [low, high], "reached": None if median is None else median >= lowest,
        })  # fmt: skip
    return results


def agreement(tokens: Sequence[int], reference: Sequence[int]) -> str:
    """How many of the first tokens equal the reference's."""
    if not tokens or not reference:
        return ""
    same = next((i for i, (a, b) in enumerate(zip(tokens, reference, strict=False)) if a != b), len(reference))
    return f"{same} of {len(reference)}"


def report(contestants: Sequence[Contestant], about: str, *, markdown: bool) -> str:
    shown = list(fastest(contestants).values())
    reference = next((c.tokens for c in shown if c.name == REFERENCE), [])
    rows = [
        [
            c.name, str(c.threads), f"{middle:,.0f}", f"{100 * (high - low) / 2 / middle:.0f} %",
            f"{statistics.median(c.decode):,.0f}" if c.decode else "", agreement(c.tokens, reference),
        ]
        for c in shown
        for low, middle, high in [quartiles(c.rates)]
    ]  # fmt: skip
    head = ["contestant", "threads", "tokens/s", "±", "decode only", f"first tokens as {REFERENCE}"]
    parts = [about, table(head, rows, markdown=markdown)] if rows else [about]
    rows = [
        [
            v["ratio"], f"{v['lowest']:.2f}",
            "not measured" if v["measured"] is None else f"{v['measured']:.2f}",
            "" if v["measured"] is None else "{:.2f} to {:.2f}".format(*v["quartiles"]),
            {None: "", True: "yes", False: "no"}[v["reached"]],
        ]
        for v in ratios_measured(contestants)
    ]  # fmt: skip
    parts.append(table(["ratio", "lowest so far", "measured", "half the rounds", "reached"], rows, markdown=markdown))
    if absent := dict.fromkeys(f"- {c.name}: {c.absent}" for c in contestants if c.absent):
        parts.append("Not measured:\n" + ("\n" if markdown else "") + "\n".join(absent))
    return "\n\n".join(parts)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", type=Path, help="a Hugging Face folder; default: 12.3M, seeded")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="TEXT",
        help="only contestants whose name contains TEXT; repeatable",
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--new-tokens", type=int, default=256)
    parser.add_argument("--threads", help="thread counts to try, such as 1,2; default: 1 and all physical cores")
    parser.add_argument("--genai-python", type=Path, help="the Python of an environment that has onnxruntime-genai")
    parser.add_argument("--work", type=Path, help="keep the converted models in this folder for the next run")
    parser.add_argument(
        "--prepare", choices=("only", "no"), help="only: make the files in --work and stop; no: use them as they are"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    args = parser.parse_args()
    if args.rounds < 1 or args.prompt_tokens < 1 or args.new_tokens < 2:
        parser.error("--rounds and --prompt-tokens must be at least 1, --new-tokens at least 2")
    if args.prepare and not args.work:
        parser.error("--prepare needs --work")
    if args.model is not None and not (args.model / "config.json").is_file():
        parser.error(f"{args.model} is not a Hugging Face folder: it has no config.json")
    return args


def _folder(work: Path, model: Path | None) -> Path:
    """A folder inside `work` for this model, with the model in it as `model`."""
    if model is None:
        folder = work / "seeded"
        _seeded.write(folder / "model")
    else:
        # Changed weights get another folder.
        folder = work / f"{model.name}-{_version(model)}"
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "model").exists():
            (folder / "model").symlink_to(model.resolve(), target_is_directory=True)
    return folder


def _version(model: Path) -> str:
    """A short hash that changes with the model's files."""
    parts = sorted([*model.glob("*.safetensors"), *model.glob("config.json")])
    facts = [(part.name, part.stat().st_size, part.stat().st_mtime_ns) for part in parts]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:12]


def main() -> None:
    args = arguments()
    with contextlib.ExitStack() as stack:
        work = _folder(args.work or Path(stack.enter_context(tempfile.TemporaryDirectory())), args.model)
        vocab_size = json.loads((work / "model" / "config.json").read_text())["vocab_size"]
        draw = random.Random(12)
        threads = [int(n) for n in args.threads.split(",")] if args.threads else sorted({1, physical_cores()})
        prompt = [draw.randrange(3, vocab_size) for _ in range(args.prompt_tokens)]
        job = {"new_tokens": args.new_tokens, "prompt": prompt}
        contestants = []
        for name in NAMES:
            if args.only and not any(text in name for text in args.only):
                continue
            if name in GENAI:
                command = [str(args.genai_python or ""), str(HERE / "_genai.py"), GENAI[name], str(work)]
            else:
                command = [sys.executable, str(HERE / "_contestants.py"), name, str(work)]
            absent = ""
            if name in GENAI and args.genai_python is None:
                absent = "no environment with onnxruntime-genai: name its Python with --genai-python"
            contestants += [Contestant(name, command, count, absent) for count in threads]
        log: Log = (lambda _: None) if args.quiet else (lambda text: sys.stderr.write(text + "\n"))
        if args.prepare != "no":
            prepare(contestants, work, log)
        if args.prepare == "only":
            sys.stdout.write("".join(f"{c.name}: {c.absent}\n" for c in contestants if c.absent))
            return
        compare(contestants, args.rounds, job, log)
    packages = {name: version for c in contestants for name, version in c.packages.items()}
    facts = machine(packages)
    if args.json:
        record = {
            "machine": facts, "model": str(args.model or "12.3M, seeded"), "prompt_tokens": args.prompt_tokens,
            "new_tokens": args.new_tokens, "contestants": [c.record() for c in contestants],
            "ratios": ratios_measured(contestants),
        }  # fmt: skip
        sys.stdout.write(json.dumps(record) + "\n")
        return
    versions = ", ".join(f"{name} {version}" for name, version in facts["packages"].items())
    about = (
        f"{args.model.name if args.model else '12.3M parameters, seeded weights'}, {args.prompt_tokens} tokens in, "
        f"{args.new_tokens} out, median of {args.rounds} rounds, ± half the distance between their quartiles. "
        f"{facts['cpu']}, {facts['cores']} cores, {facts['system']}, "
        f"Python {facts['python']}, edgekit {facts['edgekit']}, {versions}."
    )
    sys.stdout.write(report(contestants, about, markdown=args.markdown) + "\n")


if __name__ == "__main__":
    main()
