"""edgekit beside its peers, in one run: tokens a second of each, and the ratios between them.

    python benchmarks/peers.py                                     # 12.3M parameters, seeded weights
    python benchmarks/peers.py -m ./checkpoint --only edgekit --only llama
    python benchmarks/peers.py --genai-python genai/bin/python --work build/peers --markdown

Every contestant is a process of its own that opens its model once; there is one with 1 thread and one with all physical
cores, and the faster of the two counts. Then come the rounds: one text of each in turn, over and over, so that whatever
slows the machine slows all of them. A text is `--prompt-tokens` ids in and `--new-tokens` out with repetition penalty
1.2, greedy, the sampler included; its speed is new tokens by the time of the whole call, prefill included. A ratio is
the median of the rounds' own ratios. Peers that are not installed are named and left out.
"""

import argparse
import contextlib
import json
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import _contestants
import _seeded

from edgekit.evaluation.bench import machine
from edgekit.inference import threads as tuning
from edgekit.inference.threads import physical_cores
from edgekit.settings import Running
from edgekit.utils.tables import table

HERE = Path(__file__).resolve().parent
GENAI = {f"genai {quant}": quant for quant in ("fp32", "int8", "int4")}
NAMES = [*_contestants.CONTESTANTS, *GENAI]
REFERENCE = "hf fp32"

# What must hold: a contestant (or the faster of several), at least so many times as fast as another.
REQUIRED = [
    (("edgekit onnx int4",), 8.0, "optimum int8"),
    (("edgekit onnx int4",), 1.4, "genai int4"),
    (("edgekit onnx int4",), 1.0, "llama.cpp bare decode q4_0"),
    (("edgekit onnx int8",), 5.5, "optimum int8"),
    # The same with an int8 KV cache, which the peers have not.
    (("edgekit onnx int4-kv8",), 8.0, "optimum int8"),
    (("edgekit onnx int4-kv8",), 1.4, "genai int4"),
    (("edgekit onnx int4-kv8",), 1.0, "llama.cpp bare decode q4_0"),
    (("edgekit onnx int8-kv8",), 5.5, "optimum int8"),
    (("edgekit llamacpp q4_0",), 0.92, "llama.cpp bare decode q4_0"),
    (("edgekit torch fp32",), 1.6, "hf fp32"),
    (("edgekit torch bf16", "edgekit torch int8"), 2.5, "hf fp32"),
]


@dataclass
class Contestant:
    """A process, and what it answered. The same program with another number of threads is another contestant."""

    name: str
    command: list[str]
    threads: int
    absent: str = ""
    """Why it does not take part."""
    packages: dict[str, str] = field(default_factory=dict)
    rates: list[float] = field(default_factory=list)
    """New tokens a second of the whole call, by round."""
    decode: list[float] = field(default_factory=list)
    """The same without the prefill and the first token, where the contestant tells when that came."""
    tokens: list[int] = field(default_factory=list)
    process: subprocess.Popen | None = None

    def prepare(self) -> None:
        """Make its files, in a process that is gone before anything is timed."""
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

    def ask(self, line: str) -> dict[str, Any]:
        assert self.process is not None and self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
            for said in self.process.stdout:
                with contextlib.suppress(ValueError):  # a library may have printed before the pipe was ours
                    if isinstance(answer := json.loads(said), dict):
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


def prepare(contestants: Sequence[Contestant], folder: Path, say: Any) -> None:
    """Make the files that are not there. Those of edgekit are always made anew: it may have been another edgekit."""
    for contestant in contestants:
        if contestant.name.startswith(("edgekit", "llama")):
            for suffix in (".gguf", ".onnx"):
                (folder / f"{contestant.name.split()[-1]}{suffix}").unlink(missing_ok=True)
    failed: dict[str, str] = {}
    for contestant in contestants:
        if not contestant.absent and contestant.name not in failed:
            say(f"prepare {contestant.name}")
            contestant.prepare()
            failed[contestant.name] = contestant.absent
        contestant.absent = contestant.absent or failed[contestant.name]


def compare(contestants: Sequence[Contestant], rounds: int, job: dict[str, Any], say: Any) -> None:
    """Open all, and let them take turns."""
    try:
        for contestant in contestants:
            if not contestant.absent:
                say(f"open {contestant.name}, threads: {contestant.threads}")
                contestant.open(job)
        for i in range(rounds):
            for contestant in contestants:
                if not contestant.absent:
                    say(f"round {i + 1} of {rounds}: {contestant.name}, threads: {contestant.threads}")
                    contestant.measure(job["new_tokens"])
    finally:
        for contestant in contestants:
            contestant.close()


def fastest(contestants: Sequence[Contestant]) -> dict[str, Contestant]:
    """Of each name the one with the number of threads that suits it best, by the median of its rounds."""
    found: dict[str, Contestant] = {}
    for one in contestants:
        if one.rates and not one.absent:
            other = found.get(one.name)
            if other is None or statistics.median(one.rates) > statistics.median(other.rates):
                found[one.name] = one
    return found


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """What a quarter, half and three quarters of the values lie below."""
    if len(values) == 1:
        return (values[0],) * 3
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def verdicts(contestants: Sequence[Contestant]) -> list[dict[str, Any]]:
    """Each required ratio as it was measured, the quartiles of the rounds' own; None where one of the two was not."""
    there = fastest(contestants)
    found = []
    for ours, wanted, theirs in REQUIRED:
        ratios = {
            name: quartiles([x / y for x, y in zip(there[name].rates, there[theirs].rates, strict=True)])
            for name in ours
            if name in there and theirs in there
        }
        best = max(ratios, key=lambda name: ratios[name][1], default=None)
        low, measured, high = ratios[best] if best else (None,) * 3
        found.append({
            "ratio": f"{best or ' or '.join(ours)} / {theirs}", "required": wanted, "measured": measured,
            "quartiles": [low, high], "holds": None if measured is None else measured >= wanted,
        })  # fmt: skip
    return found


def agreement(tokens: Sequence[int], reference: Sequence[int]) -> str:
    """How many of the first tokens are the reference's."""
    if not tokens or not reference:
        return ""
    same = next((i for i, (a, b) in enumerate(zip(tokens, reference, strict=False)) if a != b), len(reference))
    return f"{same} of {len(reference)}"


def report(contestants: Sequence[Contestant], about: str, *, markdown: bool) -> str:
    there = list(fastest(contestants).values())
    reference = next((c.tokens for c in there if c.name == REFERENCE), [])
    rows = [
        [
            c.name, str(c.threads), f"{middle:,.0f}", f"{100 * (high - low) / 2 / middle:.0f} %",
            f"{statistics.median(c.decode):,.0f}" if c.decode else "", agreement(c.tokens, reference),
        ]
        for c in there
        for low, middle, high in [quartiles(c.rates)]
    ]  # fmt: skip
    head = ["contestant", "threads", "tokens/s", "±", "decode only", f"first tokens as {REFERENCE}"]
    parts = [about, table(head, rows, markdown=markdown)] if rows else [about]
    rows = [
        [
            v["ratio"], f"{v['required']:.2f}",
            "not measured" if v["measured"] is None else f"{v['measured']:.2f}",
            "" if v["measured"] is None else "{:.2f} to {:.2f}".format(*v["quartiles"]),
            {None: "", True: "yes", False: "no"}[v["holds"]],
        ]
        for v in verdicts(contestants)
    ]  # fmt: skip
    parts.append(table(["ratio", "at least", "measured", "half the rounds", "holds"], rows, markdown=markdown))
    if absent := dict.fromkeys(f"- {c.name}: {c.absent}" for c in contestants if c.absent):
        parts.append("Not measured:\n" + ("\n" if markdown else "") + "\n".join(absent))
    return "\n\n".join(parts)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", type=Path, help="a Hugging Face folder; default: 12.3M, seeded")
    parser.add_argument("--only", action="append", default=[], metavar="TEXT", help="contestants whose name has it")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--new-tokens", type=int, default=256)
    parser.add_argument("--threads", help="each contestant with so many, as 1,2; default: 1 and the cores")
    parser.add_argument("--genai-python", type=Path, help="the python of an environment with onnxruntime-genai")
    parser.add_argument("--work", type=Path, help="keep the converted models there for the next time")
    parser.add_argument(
        "--prepare", choices=("only", "no"), help="make the files in --work and stop; or take them as they are"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    found = parser.parse_args()
    if found.rounds < 1 or found.prompt_tokens < 1 or found.new_tokens < 2:
        parser.error("--rounds and --prompt-tokens are at least 1, --new-tokens at least 2")
    if found.prepare and not found.work:
        parser.error("--prepare goes with --work")
    if found.model is not None and not (found.model / "config.json").is_file():
        parser.error(f"{found.model} is no Hugging Face folder")
    return found


def _folder(work: Path, model: Path | None) -> Path:
    """A folder inside `work` for this model, with the model in it as `model`."""
    if model is None:
        folder = work / "seeded"
        _seeded.write(folder / "model")
    else:
        # Another one after a change of the weights.
        folder = work / f"{model.name}-{tuning.key(model, '', Running())}"
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "model").exists():
            (folder / "model").symlink_to(model.resolve(), target_is_directory=True)
    return folder


def main() -> None:
    asked = arguments()
    with contextlib.ExitStack() as stack:
        work = _folder(asked.work or Path(stack.enter_context(tempfile.TemporaryDirectory())), asked.model)
        vocab_size = json.loads((work / "model" / "config.json").read_text())["vocab_size"]
        draw = random.Random(12)
        threads = [int(n) for n in asked.threads.split(",")] if asked.threads else sorted({1, physical_cores()})
        prompt = [draw.randrange(3, vocab_size) for _ in range(asked.prompt_tokens)]
        job = {"new_tokens": asked.new_tokens, "prompt": prompt}
        contestants = []
        for name in NAMES:
            if asked.only and not any(text in name for text in asked.only):
                continue
            if name in GENAI:
                command = [str(asked.genai_python or ""), str(HERE / "_genai.py"), GENAI[name], str(work)]
            else:
                command = [sys.executable, str(HERE / "_contestants.py"), name, str(work)]
            absent = ""
            if name in GENAI and asked.genai_python is None:
                absent = "no environment with onnxruntime-genai: name its python with --genai-python"
            contestants += [Contestant(name, command, count, absent) for count in threads]
        say = (lambda _: None) if asked.quiet else (lambda text: sys.stderr.write(text + "\n"))
        if asked.prepare != "no":
            prepare(contestants, work, say)
        if asked.prepare == "only":
            sys.stdout.write("".join(f"{c.name}: {c.absent}\n" for c in contestants if c.absent))
            return
        compare(contestants, asked.rounds, job, say)
    packages = {name: version for c in contestants for name, version in c.packages.items()}
    facts = machine(packages)
    if asked.json:
        record = {
            "machine": facts, "model": str(asked.model or "12.3M, seeded"), "prompt_tokens": asked.prompt_tokens,
            "new_tokens": asked.new_tokens, "contestants": [c.record() for c in contestants],
            "ratios": verdicts(contestants),
        }  # fmt: skip
        sys.stdout.write(json.dumps(record) + "\n")
        return
    versions = ", ".join(f"{name} {version}" for name, version in facts["packages"].items())
    about = (
        f"{asked.model.name if asked.model else '12.3M parameters, seeded weights'}, {asked.prompt_tokens} tokens in, "
        f"{asked.new_tokens} out, median of {asked.rounds} rounds, ± half the distance between their quartiles. "
        f"{facts['cpu']}, {facts['cores']} cores, {facts['system']}, "
        f"Python {facts['python']}, edgekit {facts['edgekit']}, {versions}."
    )
    sys.stdout.write(report(contestants, about, markdown=asked.markdown) + "\n")


if __name__ == "__main__":
    main()
