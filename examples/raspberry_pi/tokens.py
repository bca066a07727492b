"""Converts and runs the bundled model here and writes its token ids as JSON lines, to compare machines.

python tokens.py > here.jsonl
python tokens.py here.jsonl there.jsonl         # compare two machines' files; exit status 1 if they differ
"""

import json
import sys
import tempfile
from pathlib import Path

import edgekit
from edgekit.conversion.convert import convert
from edgekit.formats.hub import BUNDLED
from edgekit.settings import Converting

FORMATS = [("onnx", "fp32"), ("onnx", "int8")]
PROMPTS = ["Once upon a time", "The sun is", "“No!” said the fox."]
SETTINGS = {
    "greedy": {"temperature": 0.0, "repetition_penalty": 1.0},
    "seed 7": {"temperature": 0.8, "top_p": 0.9, "repetition_penalty": 1.2, "seed": 7},
}
LENGTH = 32


def lines(folder: Path, formats=FORMATS, length: int = LENGTH):
    """Yield a dictionary for each format, setting and prompt: format, settings, prompt, tokens."""
    for to, quant in formats:
        path = convert(BUNDLED, to, folder / f"{quant}.{to}", settings=Converting(quant=quant), force=True).path
        model = edgekit.load(path, threads=1)
        for name, settings in SETTINGS.items():
            for prompt in PROMPTS:
                tokens = model.generate(prompt, max_new_tokens=length, **settings).tokens
                yield {"format": f"{to} {quant}", "settings": name, "prompt": prompt, "tokens": tokens}


def compare(ours, theirs) -> tuple[bool, list[str]]:
    """Whether two machines' lines are the same at float32, and a line of text about each.

    8-bit results differ slightly on a Cortex-A72 (Raspberry Pi 4), perhaps because it has no 8-bit dot products: that
    is reported but does not count as a difference.
    """
    same, report = len(ours) == len(theirs), []
    for a, b in zip(ours, theirs, strict=False):
        pairs = zip(a["tokens"], b["tokens"], strict=False)
        agreed = next(
            (i for i, (one, other) in enumerate(pairs) if one != other), min(map(len, (a["tokens"], b["tokens"])))
        )
        equal = a == b
        same &= equal or a["format"].endswith("int8")
        what = f"{agreed} tokens, the same" if equal else f"they differ after {agreed} tokens"
        report.append(f"{a['format']:10} {a['settings']:7} {a['prompt']!r}: {what}")
    return same, report


def main() -> int:
    if len(sys.argv) == 3:
        files = [Path(name).read_text(encoding="utf-8").splitlines() for name in sys.argv[1:]]
        same, report = compare(*([json.loads(line) for line in file] for file in files))
        print("\n".join([*report, "same tokens" if same else "different tokens"]))
        return 0 if same else 1
    with tempfile.TemporaryDirectory() as scratch:
        for line in lines(Path(scratch)):
            print(json.dumps(line, ensure_ascii=False), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
