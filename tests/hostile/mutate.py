"""A mutator for each format: `write(format, seed, base, out)` writes a damaged model or text into the folder `out`.

`base` has the healthy files (corpus.py). The same format and seed give the same bytes. Each mutator knows its format
well enough that most files pass the first checks: headers stay consistent, tensors keep their layout.
"""

import gzip
import io
import json
import random
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import gguf_parts
import values

FORMATS: dict[str, Callable[[random.Random, Path, Path], Path]] = {}


def mutator(function: Callable[[random.Random, Path, Path], Path]) -> Callable[[random.Random, Path, Path], Path]:
    FORMATS[function.__name__] = function
    return function


def write(format: str, seed: int, base: Path, out: Path) -> Path:
    """The path of the damaged file or folder."""
    return FORMATS[format](random.Random(f"{format}:{seed}"), base, out)


def some_file(rng: random.Random, folder: Path, weights: dict[str, int]) -> Path:
    names = [name for name in weights if (folder / name).is_file()]
    return folder / rng.choices(names, [weights[name] for name in names])[0]


@mutator
def folder(rng: random.Random, base: Path, out: Path) -> Path:
    path = out / "model"
    shutil.copytree(base / rng.choice(["folder", "folder", "monster"]), path)
    for _ in range(rng.choice([1, 1, 2])):
        file = some_file(rng, path, {"config.json": 5, "generation_config.json": 2, "tokenizer_config.json": 2,
        "tokenizer.json": 4,
                                     "model.safetensors": 4, "tokenmonster.vocab": 1})  # fmt: skip
        data = file.read_bytes()
        if file.suffix == ".json":
            data = values.json_bytes(rng, data)
        elif file.suffix == ".safetensors":
            data = safetensors(rng, data)
        else:
            data = values.raw(rng, data, 200)
        file.write_bytes(data)
    if rng.random() < 0.05:
        index = {"weight_map": {"model.norm.weight": rng.choice(["model.safetensors", "a" * 300, "../x", "\0", ""])}}
        (path / "model.safetensors.index.json").write_bytes(values.dumps(values.plain(rng, index)))
    return path


def safetensors(rng: random.Random, data: bytes) -> bytes:
    if rng.random() < 0.2:
        return values.raw(rng, data, 600)
    (size,) = struct.unpack("<Q", data[:8])
    try:
        text = values.dumps(values.plain(rng, json.loads(data[8 : 8 + size])))
    except ValueError:  # changed once already
        return values.raw(rng, data, 600)
    if rng.random() < 0.5:  # a value in the data: NaN, infinite, huge
        rest = bytearray(data[8 + size :])
        at = rng.randrange(len(rest) // 4) * 4
        rest[at : at + 4] = struct.pack("<f", rng.choice([float("nan"), float("inf"), 3e38, 1e-40]))
        text, data = data[8 : 8 + size], data[: 8 + size] + bytes(rest)
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data[8 + size :]


@mutator
def gguf(rng: random.Random, base: Path, out: Path) -> Path:
    path = out / "model.gguf"
    data = (base / rng.choice(["own.gguf", "foreign.gguf", "foreign.gguf", "foreign-bpe.gguf"])).read_bytes()
    if rng.random() < 0.1:
        path.write_bytes(values.raw(rng, data, 3000))
        return path
    parts = gguf_parts.parse(data)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        gguf_parts.change(rng, parts)
    path.write_bytes(gguf_parts.build(parts))
    return path


@mutator
def receipt(rng: random.Random, base: Path, out: Path) -> Path:
    """The receipt, and the files inside an artefact whose hashes fit."""
    import hashlib

    path = out / "model.gguf"
    parts = gguf_parts.parse((base / "own.gguf").read_bytes())
    if rng.random() < 0.6:
        key = next(k for k in parts.keys if k[0] == "edgekit.receipt")
        key[2] = values.json_bytes(rng, key[2])
    else:
        inside = [k for k in parts.keys if k[0].startswith("edgekit.file.") and k[0].endswith(".json")]
        key = rng.choice(inside)
        data = values.json_bytes(rng, bytes(key[2][1]))
        key[2] = (0, list(data))
        if rng.random() < 0.95:
            hashed = next(k for k in parts.keys if k[0] == key[0] + ".sha256")
            hashed[2] = hashlib.sha256(data).hexdigest().encode()
    path.write_bytes(gguf_parts.build(parts))
    return path


@mutator
def onnx(rng: random.Random, base: Path, out: Path) -> Path:
    import onnx_parts

    path = out / "model.onnx"
    data = (base / rng.choice(["int8.onnx", "fp32.onnx", "int4.onnx"])).read_bytes()
    path.write_bytes(values.raw(rng, data) if rng.random() < 0.1 else onnx_parts.change(rng, data))
    return path


@mutator
def vocab(rng: random.Random, base: Path, out: Path) -> Path:
    path = out / "words.vocab"
    path.write_bytes(values.raw(rng, (base / "words.vocab").read_bytes(), rng.choice([40, 400, 100_000])))
    return path


@mutator
def llama2c(rng: random.Random, base: Path, out: Path) -> Path:
    path = out / "stories"
    path.mkdir()
    model, words = (base / "model.bin").read_bytes(), (base / "tokenizer.bin").read_bytes()
    if rng.random() < 0.6:
        header = list(struct.unpack("<7i", model[:28]))
        for _ in range(rng.choice([1, 1, 2])):
            header[rng.randrange(7)] = rng.choice([n for n in values.NUMBERS if -(1 << 31) <= n < 1 << 31])
        model = struct.pack("<7i", *header) + model[28:]
    else:
        words = values.raw(rng, words, 300)
    (path / "model.bin").write_bytes(model if rng.random() < 0.8 else values.raw(rng, model, 60))
    (path / "tokenizer.bin").write_bytes(words)
    return path


@mutator
def recipe(rng: random.Random, base: Path, out: Path) -> Path:
    path = out / "recipe.toml"
    text = (base / "recipe.toml").read_bytes()
    if rng.random() < 0.4:
        path.write_bytes(values.raw(rng, text))
        return path
    lines = text.decode().split("\n")
    places = [i for i, line in enumerate(lines) if "=" in line]
    for _ in range(rng.choice([1, 1, 2, 3])):
        at = rng.choice(places)
        key = lines[at].partition("=")[0]
        value = rng.choice(["0", "-1", "1" + "0" * 400, "1" + "0" * 5000, "nan", "inf", "-inf", "true", '""', '"x"',
        "[]", "[[]]", "{}", "1e308",
                            "1e-320", "0x7fffffffffffffff", "1979-05-27", '"\\u0000"', '"' + "a" * 300 + '"',
                            "[" * 600 + "]" * 600])  # fmt: skip
        lines[at] = f"{key}= {value}"
    path.write_bytes("\n".join(lines).encode())
    return path


@mutator
def shards(rng: random.Random, base: Path, out: Path) -> Path:
    path = out / "tokens"
    shutil.copytree(base / "tokens", path)
    file = path / rng.choice(["manifest.json", "manifest.json", "documents.npy", "000.bin"])
    data = file.read_bytes()
    file.write_bytes(values.json_bytes(rng, data) if file.suffix == ".json" else values.raw(rng, data, 150))
    if rng.random() < 0.1:
        file.unlink()
    return path


@mutator
def checkpoint(rng: random.Random, base: Path, out: Path) -> Path:
    path = out / "run"
    shutil.copytree(base / "run", path)
    folder = next((path / "checkpoints").iterdir())
    if rng.random() < 0.4:
        file = folder / "recipe.json"
        file.write_bytes(values.json_bytes(rng, file.read_bytes()))
    else:
        file = folder / "state.pt"
        file.write_bytes(values.raw(rng, file.read_bytes(), rng.choice([100, 2000, 100_000])))
    return path


def lines(rng: random.Random, data: bytes) -> bytes:
    rows = data.split(b"\n")
    for _ in range(rng.choice([1, 1, 2])):
        at = rng.randrange(len(rows))
        rows[at] = values.json_bytes(rng, rows[at]) if rows[at].strip() else values.raw(rng, b"{}")
    return b"\n".join(rows) if rng.random() < 0.8 else values.raw(rng, data)


@mutator
def blimp(rng: random.Random, base: Path, out: Path) -> Path:
    data = lines(rng, (base / "pairs.jsonl").read_bytes())
    if rng.random() < 0.5:
        path = out / "pairs.jsonl"
        path.write_bytes(data)
        return path
    path, buffer = out / "pairs.zip", io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(rng.choice(["pairs.jsonl", "data/pairs.jsonl", "a" * 300 + ".jsonl"]), data)
    path.write_bytes(buffer.getvalue() if rng.random() < 0.3 else values.raw(rng, buffer.getvalue()))
    return path


@mutator
def texts(rng: random.Random, base: Path, out: Path) -> Path:
    data = lines(rng, (base / "texts.jsonl").read_bytes())
    kind = rng.choice([".jsonl", ".jsonl.gz", ".txt", ".txt.gz"])
    path = out / ("texts" + kind)
    if kind.endswith(".gz"):
        data = gzip.compress(data, mtime=0)
        data = data if rng.random() < 0.3 else values.raw(rng, data)
    path.write_bytes(data)
    return path


PIECES = ["{{ messages }}", "{% for m in messages %}", "{% endfor %}", "{% if true %}", "{% endif %}",
    "{{ m.role }}", "{{ bos_token }}",
          "{{ raise_exception('no') }}", "{{ 1/0 }}", "{{ 'a' * 100000000 }}",
          "{% for i in range(1000000000) %}x{% endfor %}",
          "{{ ''.__class__.__mro__ }}", "{{ messages[99].content }}", "{% set x = 10 ** 10000000 %}", "{{ x }}",
          "{%", "}}", "{# ",
          "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "{{ messages | tojson }}", "{{ strftime_now('%Y') }}",
          "{% include 'x' %}",
          "{{ cycler }}", "{{ '%s' % messages }}", "{{ '{:>999999999}'.format(1) }}", "\0", "\ud800",
          "{{ messages | length | string * 3 }}",
          "{{ (messages|string|list)*100000000 }}", "{{ 'x'.center(2000000000) }}", "{{ 2 ** 2 ** 30 }}"]  # fmt: skip


@mutator
def template(rng: random.Random, base: Path, out: Path) -> Path:
    path = out / "model"
    shutil.copytree(base / "folder", path)
    source = "".join(rng.choice(PIECES) for _ in range(rng.choice([1, 2, 4, 8])))
    file = path / "tokenizer_config.json"
    config = json.loads(file.read_bytes()) | {"chat_template": source}
    file.write_bytes(json.dumps(config).encode())
    return path
