"""Writes golden.json next to this file: edgekit's results, to check bindings in other languages against.

    python examples/golden/make.py                               # the bundled model; needs edgekit-lm[gguf]
    python examples/golden/make.py --stories260K FILE.gguf       # and Karpathy's stories260K, as a float32 GGUF

`models` has for each model how its file is made, and lists of cases:

    encode     text -> ids, without BOS
    decode     ids -> pieces: one for each id, then the flush. U+FFFD for each ill-formed part, as WHATWG's decoder
    logits     ids, kv (type of the cache) -> fnv1a64 of the last position's float32 values in little endian
    texts      prompt, settings -> prompt_ids, ids, pieces, finish. Settings that are not named are the file's own

Seeds are strings, since JSON numbers are not exact above 2^53.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import edgekit
from edgekit.conversion.convert import convert
from edgekit.formats.hub import BUNDLED
from edgekit.model import Model
from edgekit.settings import Converting
from edgekit.utils.files import write_bytes

HERE = Path(__file__).resolve().parent
BUNDLED_NAME, STORIES_NAME = "story-7m-q4_0", "stories260K"
HOW = {
    BUNDLED_NAME: "edgekit convert --to gguf --quant q4_0",
    STORIES_NAME: "stories260K of karpathy/tinyllamas as a float32 GGUF",
}

TEXTS = [
    "", "Once upon a time", "Hello, World!", "don't", "it’s “so” — they said…", "  two  spaces", "\n\nA line.\r\n\tTab",
    "I was 12, and he was 1st of 3,000.", "snake_case camelCase HTTPServer", "café naïve Å é e\u0301", "ﬁ ß ǅ İ Σας",
    "Привет, мир! ПРИВЕТ", "Ωμέγα", "中文和日本語", "각 한국어", "अनुच्छेद", "שָׁלוֹם", "٣٤ Ⅷ ½", "🙂 👩\u200d🚀",
    "a\x7fb\x01c", "<s>not special</s>", "A" * 50, "ab" * 40, "x1 1x (a|-b) O'Neill's",
    "The quick brown fox jumps over the lazy dog. " * 3,
]  # fmt: skip
IDS = [
    [127, 300, 44], list(range(0, 140)), [127, 127, 32], [195, 169, 195], [240, 159, 153, 130], [226, 130], [255, 65],
]  # fmt: skip
SETTINGS: list[dict[str, Any]] = [
    {"temperature": 0.0, "repetition_penalty": 1.0},
    {"seed": "7"},
    {"temperature": 1.0, "top_p": 1.0, "repetition_penalty": 1.0, "seed": "9223372036854775808"},
    {"temperature": 1.5, "top_k": 40, "top_p": 0.9, "min_p": 0.02, "repetition_penalty": 1.1, "seed": "3"},
    {"temperature": 0.6, "presence_penalty": 0.5, "frequency_penalty": 0.25, "seed": "0", "stop": [" the", "\n"]},
]
PROMPTS = ("Once upon a time", "The sun was")
NEW_TOKENS = 40


def fnv1a64(data: bytes) -> str:
    """The hash as 16 hexadecimal digits."""
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


def logits(path: Path, ids: list[int], kv: str) -> dict[str, Any]:
    """A case of `logits`."""
    model = edgekit.load(path, runtime="native", kv_type=kv, threads=1)
    values = model.runtime.forward(ids)
    return {"ids": ids, "kv": kv, "fnv1a64": fnv1a64(values.astype("<f4").tobytes())}


def text_of(model: Model, prompt: str, settings: dict[str, Any]) -> dict[str, Any]:
    """A case of `texts`."""
    plain = settings | {"seed": int(settings["seed"])} if "seed" in settings else settings
    stream = model.stream(prompt, max_new_tokens=NEW_TOKENS, **plain)
    pieces, result = list(stream), stream.result
    return {
        "prompt": prompt, "settings": settings | {"max_new_tokens": NEW_TOKENS}, "prompt_ids": result.prompt,
        "ids": result.tokens, "pieces": pieces, "finish": result.finish_reason,
    }  # fmt: skip


def cases(path: Path) -> dict[str, Any]:
    """All cases of a GGUF file."""
    model = edgekit.load(path, runtime="native", threads=1)
    tokenizer, size = model.tokenizer, model.runtime.vocab_size
    encode = [{"text": text, "ids": tokenizer.encode(text)} for text in TEXTS]
    decode = []
    for ids in [[id for id in ids if id < size] for ids in IDS] + [case["ids"] for case in encode[1:]]:
        decoder = tokenizer.decoder()
        decode.append({"ids": ids, "pieces": [*(decoder.feed(id) for id in ids), decoder.flush()]})
    long = (encode[-1]["ids"] * 3)[:60]
    hashes = [logits(path, ids, kv) for kv in ("f16", "int8", "f32") for ids in (encode[1]["ids"], long)]
    texts = [text_of(model, prompt, settings) for prompt in PROMPTS for settings in SETTINGS]
    return {"encode": encode, "decode": decode, "logits": hashes, "texts": texts}


def make(stories: Path | None, earlier: dict[str, Any]) -> dict[str, Any]:
    """The content of golden.json. Without `stories` that model's part is the earlier one."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Converting(quant="q4_0")
        path = convert(BUNDLED, "gguf", Path(folder) / "m.gguf", settings=settings, verify=False).path
        models = {BUNDLED_NAME: {"file": HOW[BUNDLED_NAME], **cases(path)}}
    if stories is not None:
        models[STORIES_NAME] = {"file": HOW[STORIES_NAME], **cases(stories)}
    elif STORIES_NAME in earlier.get("models", {}):
        models[STORIES_NAME] = earlier["models"][STORIES_NAME]
    return {"models": models}


def text(content: dict[str, Any]) -> str:
    """JSON with one case on each line, for readable diffs."""
    models = []
    for name, model in content["models"].items():
        parts = [f'"file": {json.dumps(model["file"])}']
        for part in ("encode", "decode", "logits", "texts"):
            parts.append(f'"{part}": [\n' + ",\n".join("  " + json.dumps(case) for case in model[part]) + "\n]")
        models.append(f'"{name}": {{\n' + ",\n".join(parts) + "\n}")
    return '{"models": {\n' + ",\n".join(models) + "\n}}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stories260K", type=Path, metavar="FILE.gguf")
    out = HERE / "golden.json"
    earlier = json.loads(out.read_text()) if out.exists() else {}
    write_bytes(out, text(make(parser.parse_args().stories260K, earlier)).encode())


if __name__ == "__main__":
    main()
