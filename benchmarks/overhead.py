"""The cost of a token outside the model, in microseconds: the sampler, and turning ids into text.

    python benchmarks/overhead.py                        # the bundled model's own logits and vocabulary
    python benchmarks/overhead.py -m ./checkpoint --json

The logits come from the model along a text that it generated, so they are as peaked as real ones. If transformers is
installed, its logits processors take the same rows in the same run: blocks of rows in turn, medians, and the ratio. The
model's own time is not measured.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import edgekit
from edgekit.inference.generate import StopText
from edgekit.inference.sampling import Sampler
from edgekit.settings import Generating
from edgekit.utils.tables import table

ALL = {"temperature": 0.8, "top_k": 50, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.2}
CHAINS: dict[str, dict[str, Any]] = {
    "penalty, temperature, top-k, top-p, min-p": ALL,
    "the same without top-k": ALL | {"top_k": 0},
    "penalty, temperature, top-p": ALL | {"top_k": 0, "min_p": 0.0},
    "penalty, temperature": ALL | {"top_k": 0, "top_p": 1.0, "min_p": 0.0},
    "penalty, greedy": {"temperature": 0.0, "repetition_penalty": 1.2},
}
BLOCK = 32
STOPS = ("\n\n", "The end", "</s>")

Chooser = Callable[[np.ndarray], int]


def edgekit_chooser(settings: dict[str, Any], prompt: list[int], size: int) -> Chooser:
    return Sampler(Generating(seed=1, **settings), size, prompt).choose


def transformers_chooser(settings: dict[str, Any], prompt: list[int], size: int) -> Chooser:
    """The processors that `generate` would build, and its draw; the ids are in a buffer that is never copied."""
    import torch
    from transformers import LogitsProcessorList
    from transformers.generation import logits_process as lp

    chain = LogitsProcessorList([lp.RepetitionPenaltyLogitsProcessor(settings["repetition_penalty"])])
    if settings["temperature"]:
        chain.append(lp.TemperatureLogitsWarper(settings["temperature"]))
        if settings["top_k"]:
            chain.append(lp.TopKLogitsWarper(settings["top_k"]))
        if settings["top_p"] < 1:
            chain.append(lp.TopPLogitsWarper(settings["top_p"]))
        if settings["min_p"]:
            chain.append(lp.MinPLogitsWarper(settings["min_p"]))
    ids = torch.zeros((1, 4096), dtype=torch.long)
    ids[0, : len(prompt)] = torch.tensor(prompt)
    length = len(prompt)

    def choose(logits: np.ndarray) -> int:
        nonlocal length
        scores = chain(ids[:, :length], torch.from_numpy(logits)[None])  # type: ignore[arg-type]
        if settings["temperature"]:
            token = int(torch.multinomial(torch.softmax(scores, dim=-1), 1))
        else:
            token = int(scores.argmax())
        ids[0, length] = token
        length += 1
        return token

    return choose


def timed(choosers: list[Chooser], rows: np.ndarray) -> list[float]:
    """Median microseconds of each chooser; they take turns at blocks of rows."""
    spent: list[list[float]] = [[] for _ in choosers]
    for start in range(0, len(rows), BLOCK):
        for chooser, times in zip(choosers, spent, strict=True):
            for row in rows[start : start + BLOCK]:
                begin = time.perf_counter()
                chooser(row)
                times.append(1e6 * (time.perf_counter() - begin))
    return [statistics.median(times) for times in spent]


def streaming(model: edgekit.Model, tokens: list[int], stops: tuple[str, ...]) -> float:
    """Microseconds a token from id to certain text, while watching for these stop strings."""
    spent = []
    for _ in range(9):
        decoder, text = model.tokenizer.decoder(), StopText(stops)
        begin = time.perf_counter()
        for token in tokens:
            text.add(decoder.feed(token))
        text.add(decoder.flush())
        text.flush()
        spent.append(1e6 * (time.perf_counter() - begin) / len(tokens))
    return statistics.median(spent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", help="default: the bundled model")
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    model = edgekit.load(args.model)
    most = min(args.tokens, model.runtime.context_length - 16)
    text = model.generate("Once upon a time", max_new_tokens=most, ignore_eos=True, seed=1)
    model.runtime.rewind(0)
    rows = np.array(model.runtime.forward([*text.prompt, *text.tokens][:most], every=True))
    size = model.runtime.vocab_size
    results: dict[str, Any] = {"vocab_size": size, "rows": len(rows), "sampler": {}, "streaming": {}}
    for name, settings in CHAINS.items():
        choosers = [edgekit_chooser(settings, text.prompt, size)]
        try:
            choosers.append(transformers_chooser(settings, text.prompt, size))
        except ImportError:
            results["absent"] = "transformers is not installed: no peer"
        results["sampler"][name] = timed(choosers, rows)
    for count in (0, len(STOPS)):
        results["streaming"][f"{count} stop strings"] = streaming(model, text.tokens, STOPS[:count])
    if args.json:
        print(json.dumps(results, indent=1))
        return
    print(f"{len(rows)} rows of {size:,} logits, one thread of Python; microseconds a token, medians\n")
    lines = [
        [name, f"{us[0]:.0f}", *([f"{us[1]:.0f}", f"{us[1] / us[0]:.1f}"] if len(us) > 1 else ["", ""])]
        for name, us in results["sampler"].items()
    ]
    print(table(["sampler", "edgekit", "Hugging Face's processors", "ratio"], lines, markdown=True), end="\n\n")
    lines = [[name, f"{us:.1f}"] for name, us in results["streaming"].items()]
    print(table(["ids to text", "edgekit"], lines, markdown=True))


if __name__ == "__main__":
    main()
