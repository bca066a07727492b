"""A GGUF file in parts, changed and put together again with a layout that readers accept."""

import random
import struct
from dataclasses import dataclass
from typing import Any

import values

LETTERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
# ggml's types that have a layout: elements of a block, its bytes.
TYPES = {0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 36),
    10: (256, 84),
         12: (256, 144), 14: (256, 210), 20: (32, 18), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8),
         30: (1, 2),
         34: (256, 54), 39: (32, 17)}  # fmt: skip
MODELS = ["llama", "gpt2", "bert", "t5", "rwkv", "none", "no_vocab", "plamo2", "x", "", "tokenmonster"]
TOKENS = ["", "a\0b", "a\0c", "[EMPTY_1]", "[EMPTY_3]", "<s>", "\n", "x" * 5000, "y" * 70000, "\ud800", "<0x41>",
    "<0xZZ>", "\\n",
          "b'x'", "\u2581"]  # fmt: skip


@dataclass
class Parts:
    keys: list[list[Any]]
    """[name, type, value]; a text is bytes, an array (type of the items, items)."""
    tensors: list[list[Any]]
    """[name, dimensions, type, data]."""
    alignment: int = 32
    lies: dict[str, int] | None = None


def parse(data: bytes) -> Parts:
    at = 8

    def take(letter: str) -> Any:
        nonlocal at
        (value,) = struct.unpack_from("<" + letter, data, at)
        at += struct.calcsize("<" + letter)
        return value

    def text() -> bytes:
        nonlocal at
        size = take("Q")
        at += size
        return data[at - size : at]

    def value(kind: int) -> Any:
        if kind == STRING:
            return text()
        if kind == ARRAY:
            inner, count = take("I"), take("Q")
            return inner, [value(inner) for _ in range(count)]
        return take(LETTERS[kind])

    tensors, count = take("Q"), take("Q")
    keys = []
    for _ in range(count):
        name, kind = text().decode(), take("I")
        keys.append([name, kind, value(kind)])
    infos = []
    for _ in range(tensors):
        name = text().decode()
        dimensions = [take("Q") for _ in range(take("I"))]
        infos.append([name, dimensions, take("I"), take("Q")])
    start = -(-at // 32) * 32
    for info in infos:
        offset = start + info[3]
        info[3] = data[offset : offset + size_of(info[1], info[2])]
    return Parts(keys, infos)


def size_of(dimensions: list[int], kind: int) -> int:
    count = 1
    for width in dimensions:
        count *= width
    elements, size = TYPES.get(kind, (1, 4))
    return count // elements * size


def build(parts: Parts) -> bytes:
    out = bytearray()

    def text(value: Any) -> None:
        data = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
        out.extend(struct.pack("<Q", len(data)) + data)

    def put(kind: int, value: Any) -> None:
        if kind == STRING:
            text(value)
        elif kind == ARRAY:
            inner, items = value if isinstance(value, tuple) else (4, [])
            out.extend(struct.pack("<IQ", inner, len(items)))
            for item in items:
                put(inner, item)
        elif kind in LETTERS:
            letter = LETTERS[kind]
            number = value if isinstance(value, int | float) else 0
            if letter in "fd":
                out.extend(struct.pack("<" + letter, max(-3e38, min(3e38, number)) if abs(number) < 1e300 else 3e38))
            else:
                size = struct.calcsize(letter)
                number = int(number) if number == number and abs(number) < 1e300 else 0
                out.extend((number % (1 << 8 * size)).to_bytes(size, "little"))

    lies = parts.lies or {}
    out.extend(
        b"GGUF"
        + struct.pack(
            "<IQQ", lies.get("version", 3), lies.get("tensors", len(parts.tensors)), lies.get("keys", len(parts.keys))
        )
    )
    for name, kind, value in parts.keys:
        text(name)
        out.extend(struct.pack("<I", kind))
        put(kind, value)
    offset = lies.get("offset", 0)
    for name, dimensions, kind, data in parts.tensors:
        text(name)
        out.extend(struct.pack("<I", len(dimensions)))
        for width in dimensions:
            out.extend(struct.pack("<Q", width % (1 << 64)))
        out.extend(struct.pack("<IQ", kind % (1 << 32), offset % (1 << 64)))
        offset += -(-len(data) // parts.alignment) * parts.alignment
    out.extend(bytes(-len(out) % parts.alignment))
    for *_, data in parts.tensors:
        out.extend(data)
        out.extend(bytes(-len(data) % parts.alignment))
    return bytes(out)


def change(rng: random.Random, parts: Parts) -> None:
    rng.choice([_value, _value, _value, _key, _tokens, _tokens, _tensor, _retype, _retype, _lie, _known])(rng, parts)


def _value(rng: random.Random, parts: Parts) -> None:
    """A number or a text of a key: of the same type, or of another."""
    key = rng.choice([k for k in parts.keys if not k[0].startswith("edgekit.file")])
    if rng.random() < 0.2:
        key[1] = rng.choice([*LETTERS, STRING, ARRAY, 13, 99])
        key[2] = (rng.choice([*LETTERS, STRING, ARRAY]), []) if key[1] == ARRAY else values.anything(rng)
    elif key[1] == STRING:
        text = key[2].decode("utf-8", "surrogateescape") if isinstance(key[2], bytes) else str(key[2])
        key[2] = values.near(rng, text)
    elif key[1] == ARRAY:
        inner, items = key[2]
        items = list(items)
        how = rng.randrange(4)
        if how == 0 or not items:
            items = items[: rng.randrange(len(items) + 1)]
        elif how == 1:
            items += items[:3]
        else:
            at = rng.randrange(len(items))
            items[at] = rng.choice(values.TEXTS) if inner == STRING else rng.choice(values.NUMBERS)
        key[2] = (inner, items)
    else:
        key[2] = values.near(rng, key[2])


def _key(rng: random.Random, parts: Parts) -> None:
    at = rng.randrange(len(parts.keys))
    how = rng.randrange(4)
    if how == 0:
        del parts.keys[at]
    elif how == 1:
        parts.keys.insert(
            rng.randrange(len(parts.keys)), [rng.choice(["llama.expert_count", "llama.x", "a" * 300, "\0", ""]), 4, 3]
        )
    elif how == 2:
        parts.keys[at][0] = rng.choice(parts.keys)[0]
    else:
        parts.keys[at][0] = str(values.near(rng, parts.keys[at][0]))
    if not parts.keys:
        parts.keys.append(["general.architecture", STRING, b"llama"])


def _known(rng: random.Random, parts: Parts) -> None:
    """What llama.cpp has died of."""
    name, kind, value = rng.choice([
        ("tokenizer.ggml.model", STRING, rng.choice(MODELS)),
        ("tokenizer.ggml.pre", STRING, rng.choice(["default", "llama-bpe", "gpt-2", "x", "", "bert-bge", "falcon"])),
        ("general.alignment", 4, rng.choice([0, 1, 2, 4, 8, 16, 64, 128, 1 << 16, 33, 1 << 31])),
        ("llama.context_length", 4, rng.choice([1, 2, 1 << 20, 1 << 24, 1 << 31, 10**8])),
        ("tokenizer.ggml.add_space_prefix", 7, 0), ("tokenizer.ggml.eos_token_id", 4, rng.choice([0, 10**6,
        (1 << 32) - 1])),
        ("tokenizer.ggml.precompiled_charsmap", ARRAY, (0, list(rng.randbytes(20)))),
        ("tokenizer.chat_template", STRING, "{% for x in range(10**9) %}a{% endfor %}"),
    ])  # fmt: skip
    parts.keys = [k for k in parts.keys if k[0] != name] + [[name, kind, value]]
    if name == "general.alignment" and isinstance(value, int) and 0 < value <= 1 << 16:
        parts.alignment = value


def _tokens(rng: random.Random, parts: Parts) -> None:
    key = next((k for k in parts.keys if k[0] == "tokenizer.ggml.tokens" and k[1] == ARRAY), None)
    if key is None or not key[2][1]:
        return
    inner, items = key[2]
    items = list(items)
    for _ in range(rng.choice([1, 2, 2, 5])):
        items[rng.randrange(min(len(items), rng.choice([6, 400])))] = rng.choice(TOKENS)
    key[2] = (inner, items)


def _tensor(rng: random.Random, parts: Parts) -> None:
    tensor = rng.choice(parts.tensors)
    how = rng.randrange(6)
    if how == 0 and len(parts.tensors) > 1:
        parts.tensors.remove(tensor)
    elif how == 1:
        parts.tensors.append(
            [rng.choice(["x.weight", tensor[0], "rope_freqs.weight", "blk.0.attn_q.bias"]), *tensor[1:]]
        )
    elif how == 2:
        tensor[0] = str(values.near(rng, tensor[0]))
    elif how == 3:
        tensor[1] = [
            rng.choice([0, 1, 2, 64, 1 << 20, 1 << 32, 1 << 63, *tensor[1]])
            for _ in range(rng.choice([0, 1, 2, 3, 4, 5]))
        ]
        if (size := size_of(tensor[1], tensor[2])) < 1 << 20 and rng.random() < 0.8:
            tensor[3] = bytes(size)
    elif how == 4:
        rng.shuffle(parts.tensors)
    else:
        tensor[2] = rng.choice([4, 5, 31, 99, 1 << 31])


def _retype(rng: random.Random, parts: Parts) -> None:
    """Another type whose bytes are all there."""
    tensor = rng.choice(parts.tensors)
    kinds = [kind for kind, (elements, _) in TYPES.items() if tensor[1] and tensor[1][0] % elements == 0]
    tensor[2] = rng.choice(kinds)
    size = size_of(tensor[1], tensor[2])
    if size < 1 << 22:
        tensor[3] = rng.choice([bytes(size), rng.randbytes(size), b"\xff" * size])


def _lie(rng: random.Random, parts: Parts) -> None:
    parts.lies = (parts.lies or {}) | {
        rng.choice(["version", "tensors", "keys", "offset"]): rng.choice([0, 1, 2, 4, 1 << 16, 1 << 31])
    }
