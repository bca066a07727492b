"""Speculative decoding: acceptance, tokens per call of the target, and speed-up for each draft, target and task.

    python benchmarks/speculative.py                                   # the bundled model, and one four times as deep
    python benchmarks/speculative.py --other ./stories260K --assisted  # another vocabulary; transformers too
    python benchmarks/speculative.py -m ./target -d ./draft --runtime onnx

In each round the target generates the texts alone and then with each draft, so whatever slows the machine slows all of
them. `measured` is the median over rounds of the ratio of decode times. `estimated` is what the cost model of `edgekit
run --stats` reports for the same texts. `same` counts texts that equal the target's own, token for token.

Acceptance and tokens per call depend on the two models and the task, not on the machine (with `--draft-tokens auto`
also on how many tokens were worth drafting there). Speed-up depends on the machine. The deep target is the bundled
model with added layers that change nothing (_stretched.py): its texts and acceptance are those of a 7.2M model, its
time is a larger model's. The bundled model is then a perfect draft, so that row is an upper bound, not a result.
Rejection sampling and coupled sampling are separate rows.
"""

import argparse
import json
import statistics
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import _stretched

import edgekit
from edgekit.evaluation.bench import machine
from edgekit.formats.hub import BUNDLED
from edgekit.model import Model
from edgekit.utils.tables import table

PROMPTS = [
    "Once upon a time", "Lily and Ben went to the park. They", "Tom had a red ball. One day,",
    "The old king lived in a castle.",
]  # fmt: skip
SAMPLED = {"temperature": 0.8, "top_p": 0.9, "repetition_penalty": 1.0, "seed": 7}
TASKS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0, "repetition_penalty": 1.0},
    "sampled": SAMPLED,
    "sampled, rejection": SAMPLED,
}


def generate(model: Model, chain: dict[str, Any], new_tokens: int, **draft: Any) -> tuple[float, list[Any]]:
    """Seconds spent decoding all prompts, and the results."""
    settings = {**chain, **draft, "max_new_tokens": new_tokens, "ignore_eos": True}
    results = [model.generate(prompt, **settings) for prompt in PROMPTS]
    return sum(result.timings.decode for result in results), results


def compare(target: Model, drafts: dict[str, Any], args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each draft and task."""
    rows = []
    for task, chain in TASKS.items():
        kind = "rejection" if task.endswith("rejection") else "coupled"
        candidates = {n: d for n, d in drafts.items() if kind == "coupled" or (d != "ngram" and not n.endswith("*"))}
        ratios: dict[str, list[float]] = {name: [] for name in candidates}
        last: dict[str, list[Any]] = {}
        alone_results: list[Any] = []
        for _ in range(args.rounds):
            for name, draft in candidates.items():
                alone, alone_results = generate(target, chain, args.new_tokens)
                more = {"draft": draft, "draft_tokens": args.draft_tokens, "draft_sampling": kind}
                seconds, last[name] = generate(target, chain, args.new_tokens, **more)
                ratios[name].append(alone / seconds)
        for name in candidates:
            stats = [result.draft for result in last[name]]
            drafted, calls = sum(s.drafted for s in stats), sum(s.calls for s in stats)
            rows.append(
                {
                    "draft": name, "task": task,
                    "acceptance": sum(s.accepted for s in stats) / drafted if drafted else None,
                    "tokens_per_call": sum(s.tokens for s in stats) / calls,
                    "measured": statistics.median(ratios[name]), "rounds": ratios[name],
                    "estimated": statistics.mean(s.speedup for s in stats if s.speedup),
                    "rests": sum(s.rests for s in stats),
                    "same": sum(a.tokens == b.tokens for a, b in zip(alone_results, last[name], strict=True)),
                }
            )  # fmt: skip
    return rows


def report(rows_by_target: dict[str, list[dict[str, Any]]], markdown: bool) -> str:
    head = ["target", "draft", "task", "accepted", "tokens/call", "measured", "estimated", "rests", "same"]
    rows = [
        [target, row["draft"], row["task"], "-" if row["acceptance"] is None else f"{100 * row['acceptance']:.0f} %",
         f"{row['tokens_per_call']:.2f}", f"{row['measured']:.2f}", f"{row['estimated']:.2f}", str(row["rests"]),
         f"{row['same']}/{len(PROMPTS)}"]
        for target, each in rows_by_target.items() for row in each
    ]  # fmt: skip
    return table(head, rows, markdown=markdown, text_columns=3)


def assisted(target: Path, draft: Path, args: argparse.Namespace) -> dict[str, Any]:
    """transformers' universal assisted generation and edgekit on the same pair of models and prompts, greedy."""
    import _assisted

    count = 5 if args.draft_tokens == "auto" else args.draft_tokens
    theirs = _assisted.measure(target, draft, PROMPTS, count, args.new_tokens)
    model, drafter = (edgekit.load(path, runtime="torch", threads=1) for path in (target, draft))
    results = [
        model.generate(p, **TASKS["greedy"], max_new_tokens=args.new_tokens, draft=drafter, draft_tokens=count)
        for p in PROMPTS
    ]
    stats = [result.draft for result in results]
    ours = {name: sum(getattr(s, name) for s in stats) for name in ("drafted", "accepted", "calls", "tokens")}
    same = sum(r.tokens == text for r, text in zip(results, theirs.pop("texts"), strict=True))
    return {"transformers": theirs, "edgekit": ours, "same": same}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", type=Path, help="the target; default: the bundled model, plain and deep")
    parser.add_argument("-d", "--draft", help="the only draft besides ngram")
    parser.add_argument("--other", type=Path, help="a Hugging Face folder of another vocabulary, as one more draft")
    parser.add_argument("--runtime", default="onnx", help="runtime of the target")
    parser.add_argument("--deeper", type=int, default=4, help="layers of the deep target, as a multiple")
    parser.add_argument("--draft-tokens", default="auto", type=lambda v: v if v == "auto" else int(v))
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--assisted", action="store_true", help="measure transformers too (needs --other)")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as work:
        targets: dict[str, Path] = {}
        if args.model:
            targets[args.model.name] = args.model
        else:
            targets["story-7m"] = BUNDLED
            _stretched.write(BUNDLED, Path(work) / "deep", args.deeper)
            targets[f"story-7m, {args.deeper} times as deep"] = Path(work) / "deep"

        def load(path: Any, runtime: str | None, **more: Any) -> Model:
            return edgekit.load(path, runtime=runtime, threads=args.threads, **more)

        drafts: dict[str, Any] = {"ngram": "ngram"}
        if args.draft:
            drafts[Path(args.draft).name] = load(args.draft, None)
        else:
            drafts["story-7m q4_0"] = load(None, "llamacpp", quant="q4_0")
            drafts["story-7m f32"] = load(None, "onnx")
        if args.other:
            drafts[f"{args.other.name}*"] = load(args.other, None)
        rows_by_target = {name: compare(load(path, args.runtime), drafts, args) for name, path in targets.items()}
        assisted_runs: dict[str, Any] = {}
        if args.assisted and args.other:
            from edgekit.conversion import convert

            folder = Path(work) / "hf"
            convert.convert(BUNDLED, "hf", folder, verify=False)
            assisted_runs = {
                "story-7m drafts": assisted(args.other, folder, args),
                "story-7m is the target": assisted(folder, args.other, args),
            }
    packages = {name: metadata.version(name) for name in ("numpy", "onnxruntime", "llama-cpp-python")}
    record = {
        "machine": machine(packages),
        "targets": rows_by_target,
        "assisted": assisted_runs,
        "seconds": time.perf_counter() - begin,
    }
    if args.json:
        print(json.dumps(record))
        return
    print(report(rows_by_target, args.markdown))
    print("* another vocabulary")
    for name, each in assisted_runs.items():
        for who in ("transformers", "edgekit"):
            s = each[who]
            accepted, rate = f"accepted {s['accepted']} of {s['drafted']}", s["tokens"] / s["calls"]
            print(f"{name}: {who} {accepted}, {rate:.2f} tokens per call")


if __name__ == "__main__":
    main()
