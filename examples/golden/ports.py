"""Writes ports.json next to this file: edgekit's results, to check implementations in other languages against.

    python examples/golden/ports.py              # needs edgekit-lm[onnx]

All cases use the bundled model and its vocabulary (edgekit/bundled/story-7m). The parts, each a list of cases:

    encode     text -> ids
    decode     ids -> pieces: one for each id, then the flush
    uniform    seed, step, ids -> values
    sample     settings, seen (ids of a prompt), rows -> tokens, one for each row of logits
    loop       settings, prompt, context_length, eos_at -> prompt_ids, pieces, tokens, finish_reason
    model      the same from the model itself at float32, for a device that can run it

`sample` and `loop` need no model: their logits follow a rule. `logits(last, length)` is 10 uniform(last, length, id)
for each id, rounded to float32. In `loop`, `last` is the last token fed and `length` the number of tokens fed; in
`sample`, `last` is the row and `length` is 0. In `loop`, the end of the text has logit 30 once `length` reaches
`eos_at`. Seeds are strings, since JSON numbers are not exact above 2^53.
"""

import hashlib
import json
from pathlib import Path

import numpy as np

import edgekit
from edgekit.formats.hub import BUNDLED
from edgekit.inference.runtime import check_forward, check_rewind
from edgekit.inference.sampling import Sampler, uniform
from edgekit.model import Model
from edgekit.settings import Generating, Sampling
from edgekit.tokenizers.load import from_files
from edgekit.utils.files import write_bytes

HERE = Path(__file__).resolve().parent
SIZE = 8064

TEXTS = [
    "", "Once upon a time", "Hello, World!", "don't", "it’s “so” — they said…", "  two  spaces", "\n\nA line.\r\n\tTab",
    "I was 12, and he was 1st of 3,000.", "snake_case camelCase HTTPServer", "café naïve Å é e\u0301", "ﬁ ß ǅ İ Σας",
    "Привет, мир! ПРИВЕТ", "Ωμέγα", "中文和日本語", "각 한국어", "अनुच्छेद", "שָׁלוֹם", "٣٤ Ⅷ ½", "🙂 👩\u200d🚀",
    "a\x7fb\x00c", "<s>not special</s>", "A" * 50, "ab" * 40, "x1 1x (a|-b) O'Neill's",
    "The quick brown fox jumps over the lazy dog. " * 3,
]  # fmt: skip
IDS = [
    [127, 7934, 44], [8001, 7934, 8000], list(range(0, 140)), [127, 127, 32], [195, 169, 195], [240, 159, 153, 130],
    [226, 130], [255, 65], [237, 160, 128, 65], [8050, 100, 9000], list(range(7000, 7030)),
]  # fmt: skip
SETTINGS = [
    {"temperature": 0.0},
    {"temperature": 0.0, "repetition_penalty": 1.2},
    {"temperature": 1.0, "seed": "1"},
    {"temperature": 0.8, "top_p": 0.7, "repetition_penalty": 1.2, "seed": "7"},
    {"temperature": 0.3, "top_k": 40, "seed": "9223372036854775808"},
    {"temperature": 1.5, "min_p": 0.05, "seed": "12345678901"},
    {"temperature": 0.6, "top_k": 100, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 0.9, "seed": "0"},
]
LOOPS = [
    ("Once upon a time", {"temperature": 0.0}, 512, None),
    ("Once upon a time", {"temperature": 0.8, "top_p": 0.9, "repetition_penalty": 1.2, "seed": "7"}, 512, None),
    ("The sun", {"temperature": 0.5, "seed": "3"}, 512, 14),
    ("The sun", {"temperature": 0.5, "seed": "3"}, 12, None),
    ("é", {"temperature": 1.0, "seed": "4", "stop": ["STOP"]}, 512, None),
    ("é", {"temperature": 1.0, "seed": "4", "stop": ["nowhere", "STOP"]}, 512, None),
]
NEW_TOKENS = 20


def plain(settings: dict) -> dict:
    """Settings for Python, where a seed is a number."""
    return settings | {"seed": int(settings["seed"])} if "seed" in settings else settings


def logits(last: int, length: int) -> np.ndarray:
    """Logits from the rule above: float32 (SIZE,)."""
    return (10 * uniform(last, length, np.arange(SIZE))).astype(np.float32)


class RuleRuntime:
    """A runtime with logits from the rule; see `edgekit.inference.runtime.Runtime`."""

    vocab_size, files = SIZE, {}

    def __init__(self, context_length: int, eos: int, eos_at: int | None):
        self.context_length, self.length, self._eos, self._at = context_length, 0, eos, eos_at

    def forward(self, tokens, *, every=False):
        check_forward(self, tokens)
        self.length += len(tokens)
        row = logits(tokens[-1], self.length)
        if self._at is not None and self.length >= self._at:
            row[self._eos] = 30
        return row

    def rewind(self, length):
        check_rewind(self, length)
        self.length = length


def generated(model: Model, prompt: str, settings: dict) -> dict:
    """A case of `loop` or `model` with its result."""
    stream = model.stream(prompt, max_new_tokens=NEW_TOKENS, **plain(settings))
    pieces, result = list(stream), stream.result
    return {
        "prompt": prompt, "settings": settings | {"max_new_tokens": NEW_TOKENS}, "prompt_ids": result.prompt,
        "pieces": pieces, "tokens": result.tokens, "finish_reason": result.finish_reason,
    }  # fmt: skip


def make() -> dict:
    """The content of ports.json."""
    files = {path.name: path.read_bytes() for path in BUNDLED.iterdir() if path.suffix in (".json", ".vocab")}
    tokenizer = from_files(files, SIZE)
    parts: dict = {
        "vocabulary": {"sha256": hashlib.sha256(files["tokenmonster.vocab"]).hexdigest(), "vocab_size": SIZE},
        "encode": [{"text": text, "ids": tokenizer.encode(text)} for text in TEXTS],
        "decode": [],
        "uniform": [],
        "sample": [],
        "loop": [],
        "model": [],
    }
    for ids in IDS + [case["ids"] for case in parts["encode"][1:]]:
        decoder = tokenizer.decoder()
        parts["decode"].append({"ids": ids, "pieces": [*(decoder.feed(id) for id in ids), decoder.flush()]})
    for seed, step in ((0, 0), (7, 1), (2**63, 9999), (12345678901, 3)):
        ids = [0, 1, 2, 8063, 2**24]
        values = uniform(seed, step, np.array(ids)).tolist()
        parts["uniform"].append({"seed": str(seed), "step": step, "ids": ids, "values": values})
    for settings in SETTINGS:
        seen, rows = list(range(0, SIZE, 40)), [*range(10), 0, 0]
        sampler = Sampler(Sampling(**plain(settings)), SIZE, seen)
        tokens = [sampler.choose(logits(row, 0)) for row in rows]
        parts["sample"].append({"settings": settings, "seen": seen, "rows": rows, "tokens": tokens})
    for prompt, settings, context_length, eos_at in LOOPS:
        model = Model(RuleRuntime(context_length, tokenizer.eos, eos_at), tokenizer)
        if "stop" in settings:  # a few characters from the middle of the text
            whole = model.generate(prompt, max_new_tokens=NEW_TOKENS, **plain(settings)).text
            settings = settings | {"stop": [stop.replace("STOP", whole[21:25]) for stop in settings["stop"]]}
        case = generated(model, prompt, settings)
        parts["loop"].append(case | {"context_length": context_length, "eos_at": eos_at})
    model = edgekit.load(BUNDLED, runtime="onnx", threads=1)
    model.defaults = Generating()  # settings that a case does not name are off
    for settings in (SETTINGS[0], SETTINGS[1], SETTINGS[3]):
        parts["model"].append(generated(model, "Once upon a time", settings))
    return parts


def text(content: dict) -> str:
    """JSON with one case on each line, for readable diffs."""
    lines = []
    for name, value in content.items():
        cases = json.dumps(value, ensure_ascii=True)
        if isinstance(value, list):
            cases = "[\n" + ",\n".join("    " + json.dumps(case, ensure_ascii=True) for case in value) + "\n  ]"
        lines.append(f'  "{name}": {cases}')
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    write_bytes(HERE / "ports.json", text(make()).encode())
