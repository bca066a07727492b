"""Compares the edgekit that is installed here with golden.json: ids, logits' hashes and texts of the bundled model.

python check.py            # on any machine, with edgekit-lm[gguf]; exit status 1 if something differs
"""

import json
import platform
import sys
import tempfile
from pathlib import Path

from make import BUNDLED_NAME, fnv1a64

import edgekit
from edgekit.conversion.convert import convert
from edgekit.formats.hub import BUNDLED
from edgekit.settings import Converting


def differences(cases: dict, path: Path):
    """Yield a sentence for each result that differs."""
    model = edgekit.load(path, runtime="native", threads=2)
    for case in cases["encode"]:
        if model.tokenizer.encode(case["text"]) != case["ids"]:
            yield f"ids of {case['text']!r}"
    for case in cases["texts"]:
        settings = case["settings"]
        if "seed" in settings:
            settings = settings | {"seed": int(settings["seed"])}
        stream = model.stream(case["prompt"], **settings)
        if list(stream) != case["pieces"] or stream.result.tokens != case["ids"]:
            yield f"text after {case['prompt']!r} with {case['settings']}"
    for case in cases["logits"]:
        runtime = edgekit.load(path, runtime="native", kv_type=case["kv"], threads=2).runtime
        if fnv1a64(runtime.forward(case["ids"]).astype("<f4").tobytes()) != case["fnv1a64"]:
            yield f"logits with a cache of {case['kv']}"


def main() -> int:
    cases = json.loads(Path(__file__).with_name("golden.json").read_text(encoding="utf-8"))["models"][BUNDLED_NAME]
    with tempfile.TemporaryDirectory() as scratch:
        try:
            path = convert(BUNDLED, "gguf", Path(scratch) / "story.gguf", settings=Converting(quant="q4_0")).path
            wrong = list(differences(cases, path))
        except edgekit.EdgekitError as error:
            sys.exit(f"check: {error}")
    for text in wrong:
        print(f"differs: {text}")
    count = sum(len(cases[name]) for name in ("encode", "texts", "logits"))
    print(f"edgekit {edgekit.__version__} on {platform.machine()}: {count - len(wrong)} of {count} results are golden")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
