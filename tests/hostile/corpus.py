"""The healthy files that are mutated: a few hundred kilobytes each, made once, the same in every run."""

import dataclasses
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import spoilt
from handmade import small
from helpers import tokenmonster_files, write_model

from edgekit.conversion.convert import convert
from edgekit.formats.checkpoint import open_folder
from edgekit.settings import Converting
from edgekit.utils import registry
from edgekit.utils.progress import silent

SHAPE = dataclasses.replace(
    spoilt.SHAPE, hidden_size=64, intermediate_size=96, num_attention_heads=4, num_key_value_heads=2, head_dim=16
)
TEXTS = ["Once upon a time there was a cat.", "The dog ran home, and slept.", "A bird sat on the fence all day."]


def make(base: Path) -> None:
    """Every healthy file, into `base`."""
    base.mkdir(parents=True, exist_ok=True)
    folder = write_model(base / "folder", SHAPE, files=spoilt.FILES)
    words = small(1).to_bytes()
    (base / "words.vocab").write_bytes(words)
    rows = -(-(small(1).table_size + 2) // 32) * 32
    shape = dataclasses.replace(SHAPE, vocab_size=rows, eos_token_id=(rows - 2,), bos_token_id=rows - 1)
    write_model(base / "monster", shape, files=tokenmonster_files(words, rows, model_max_length=128))
    convert(folder, "gguf", base / "own.gguf", settings=Converting("q8_0"))
    for quant in ("fp32", "int8", "int4"):
        converted(folder, base / f"{quant}.onnx", "onnx", quant)
    converted(folder, base / "plain.gguf", "gguf", "f32")
    foreign(base / "plain.gguf", base / "foreign.gguf")
    converted(base / "monster", base / "monster.gguf", "gguf", "q8_0")
    foreign(base / "monster.gguf", base / "foreign-bpe.gguf")
    llama2c(base)
    (base / "recipe.toml").write_bytes((Path(recipes()) / "smoke.toml").read_bytes())
    (base / "texts.jsonl").write_text("\n".join(json.dumps({"text": text, "corpus": "a"}) for text in TEXTS) + "\n")
    pairs = [
        {"sentence_good": t, "sentence_bad": t[::-1], "UID": "u", "field": "f", "linguistics_term": "l"} for t in TEXTS
    ]
    (base / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)) + "\n")
    tokens(base / "tokens")
    run(base / "run")


def converted(source: Path, out: Path, to: str, quant: str) -> None:
    registry.load("converters", to).convert(open_folder(source), out, Converting(quant), silent)


def foreign(path: Path, out: Path) -> None:
    """As another program would have written it: without edgekit's keys."""
    import gguf_parts

    parts = gguf_parts.parse(path.read_bytes())
    parts.keys = [key for key in parts.keys if not key[0].startswith("edgekit.")]
    out.write_bytes(gguf_parts.build(parts))


def llama2c(base: Path) -> None:
    import struct

    header = struct.pack("<7i", 64, 96, 2, 4, 4, 320, 32)
    count = 320 * 64 + 2 * (64 + 4 * 64 * 64 + 64 + 3 * 64 * 96) + 64 + 32 * 16
    weights = np.random.default_rng(0).standard_normal(count).astype("<f4") * 0.05
    (base / "model.bin").write_bytes(header + weights.tobytes())
    pieces = ["<unk>", "\n<s>\n", "\n</s>\n", *(f"<0x{i:02X}>" for i in range(256)), *(chr(32 + i) for i in range(61))]
    data = struct.pack("<I", max(len(p) for p in pieces))
    for piece in pieces:
        data += struct.pack("<fI", 0.0, len(piece)) + piece.encode()
    (base / "tokenizer.bin").write_bytes(data)


def recipes() -> Path:
    from edgekit.training.recipe import RECIPES

    return RECIPES


def tokens(folder: Path) -> None:
    from edgekit.training.shards import DOCUMENT

    folder.mkdir()
    ids = np.arange(300, dtype=np.uint16) % 100
    (folder / "000.bin").write_bytes(ids.tobytes())
    np.save(folder / "documents.npy", np.array([(0, 0, 0, 0, i * 50, 50, 200) for i in range(6)], DOCUMENT))
    manifest = {"version": 1, "shards": 1, "tokens": 300, "corpora": ["a"], "sources": [], "seconds": 0.1}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def run(folder: Path) -> None:
    import torch

    from edgekit.training import checkpoints, recipe

    state = {
        "model": {"a.weight": torch.zeros(4, 4), "b": torch.ones(3)}, "optimizer": {"state": {0: {"step": 3}},
        "param_groups": [{"lr": 0.1}]},
        "position": {"step": 3, "epoch": 0}, "random": {"torch": torch.get_rng_state()},
    }  # fmt: skip
    checkpoints.save(folder, 3, state, recipe.load("smoke"), keep=2)
