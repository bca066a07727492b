"""Values that readers get wrong, and mutations of bytes and of plain values, seeded."""

import json
import random
from typing import Any

HUGE = "@@huge@@"
"""Stands for an integer of 5,000 digits, which `int` refuses."""

NUMBERS = [0, 1, -1, 2, 3, 5, 7, 16, 127, 128, 255, 256, 257, 1 << 15, 65535, 1 << 16, 10**6, 1 << 24, 10**8,
    (1 << 31) - 1,
           1 << 31, -(1 << 31), 1 << 32, 1 << 40, 1 << 53, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 1 << 64, 10**400,
           -(10**400)]  # fmt: skip
FLOATS = [0.0, -0.0, 0.5, -1.5, 1e-300, 1e-45, 1e30, 3.4e38, 1e308, float("inf"), float("-inf"), float("nan")]
TEXTS = ["", " ", "a", "\0", "a\0b", "\n", "\r", "\ud800", "é", "\U0001f600", "a" * 300, "x" * 70000, "../../x",
    "/etc/passwd",
         "[EMPTY_1]", "<s>", "{{ 1/0 }}", "%s", "-1", "1e9", "null", HUGE, "\u202e", "\x7f", "\x1b[31m"]  # fmt: skip


def deep(rng: random.Random, depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value] if rng.random() < 0.5 else {"a": value}
    return value


def anything(rng: random.Random) -> Any:
    kind = rng.randrange(8)
    if kind == 0:
        return rng.choice([None, True, False])
    if kind in (1, 2, 3):
        return rng.choice(NUMBERS)
    if kind == 4:
        return rng.choice(FLOATS)
    if kind == 5:
        return rng.choice(TEXTS)
    if kind == 6:
        return [rng.choice([*NUMBERS, *FLOATS, *TEXTS, None, [], {}]) for _ in range(rng.randrange(4))]
    return rng.choice([{}, [[]], {"a": 1}, {"": None}, [None] * 1000, deep(rng, rng.choice([5, 90, 600]))])


def near(rng: random.Random, value: Any) -> Any:
    """A value close to another, or anything."""
    if isinstance(value, bool) or rng.random() < 0.4:
        return anything(rng)
    if isinstance(value, int):
        return rng.choice(
            [
                value + 1,
                value - 1,
                -value,
                value * 2,
                value // 2,
                value ^ 1 << rng.randrange(33),
                value * 1.0 if abs(value) < 10**300 else str(value),
                str(value),
            ]
        )
    if isinstance(value, float):
        return rng.choice([-value, value * 1e10, value + 1, int(value) if abs(value) < 1e300 else 0, str(value)])
    if isinstance(value, str):
        at = rng.randrange(len(value) + 1)
        return rng.choice(
            [value[:at], value + value, value[:at] + rng.choice(TEXTS) + value[at:], value.upper(), [value]]
        )
    if isinstance(value, list):
        return rng.choice([value[: len(value) // 2], value + value, value[::-1], value[:1], [value]])
    if isinstance(value, dict):
        return rng.choice(
            [dict(list(value.items())[: len(value) // 2]), list(value), list(value.values()), {**value, "x": 1}]
        )
    return anything(rng)


def plain(rng: random.Random, value: Any) -> Any:
    """A copy of a JSON value with one to three changes, at places reached by a random walk."""
    value = json.loads(json.dumps(value))
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        if not isinstance(value, dict | list) or not value:
            return anything(rng)
        place = value
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = rng.choice(keys)
            inner = place[key]
            if isinstance(inner, dict | list) and inner and rng.random() < 0.75:
                place = inner
                continue
            change(rng, place, key)
            break
    return value


def change(rng: random.Random, place: Any, key: Any) -> None:
    how = rng.random()
    if how < 0.6:
        place[key] = near(rng, place[key])
    elif how < 0.75:
        del place[key]
    elif isinstance(place, dict):
        place[rng.choice([str(key) + "_", rng.choice(TEXTS), rng.choice(list(place))])] = near(rng, place[key])
    else:
        place.insert(rng.randrange(len(place) + 1), near(rng, place[key]))


def dumps(value: Any) -> bytes:
    return json.dumps(value).replace(json.dumps(HUGE), "1" + "0" * 5000).encode("utf-8", "surrogatepass")


def json_bytes(rng: random.Random, data: bytes) -> bytes:
    try:
        value = json.loads(data)
    except ValueError:  # changed once already
        return raw(rng, data)
    return raw(rng, data) if rng.random() < 0.12 else dumps(plain(rng, value))


def raw(rng: random.Random, data: bytes, reach: int | None = None) -> bytes:
    """Bytes with flips, cuts, insertions and copies; mostly within the first `reach`."""
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        end = min(len(out), reach) if reach and rng.random() < 0.8 else len(out)
        at = rng.randrange(end + 1)
        how = rng.randrange(7)
        if how <= 2 and at < len(out):
            out[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, out[at] ^ 1 << rng.randrange(8), rng.randrange(256)])
        elif how == 3:
            del out[at : at + rng.choice([1, 2, 4, 8, 100])]
        elif how == 4:
            out[at:at] = rng.randbytes(rng.choice([1, 4, 8, 64]))
        elif how == 5:
            size = rng.choice([1, 2, 4, 8])
            number = rng.choice([n for n in NUMBERS if 0 <= n < 1 << 8 * size])
            out[at : at + size] = number.to_bytes(size, rng.choice(["little", "little", "big"]))
        elif rng.random() < 0.3:
            del out[at:]
        else:
            start = rng.randrange(len(out) + 1)
            out[at:at] = out[start : start + rng.choice([4, 8, 64])]
    return bytes(out)
