"""Small TokenMonster vocabularies built on demand, and a naive version of its rules to compare the real code with.

The naive half is slow and literal on purpose: no caches, no tables, no lookahead.
"""

from pathlib import Path

from edgekit.tokenizers.tokenmonster.unicode13 import CLASS, nfd, simple_lower
from edgekit.tokenizers.tokenmonster.vocab_file import NONE, Record
from edgekit.tokenizers.tokenmonster.vocabulary import Vocabulary

SHARED = Path(__file__).resolve().parents[2] / "shared"
VOCABS = sorted((SHARED / "tokenmonster" / "vocabs").glob("*.vocab"))
NO_SHARED = "needs the project's shared folder next to the checkout (golden vectors, published vocabularies)"

WORDS = "the cat sat on a mat and then there were not any cats at all it 's ing ed er he".split()


def kind(char: str, level: int) -> str:
    """L letter or mark, N number, S space, M capcode marker, o other."""
    if char in ("", "\x7f", "CDW")[level] and char:
        return "M"
    if char == " ":
        return "S"
    return {"u": "L", "l": "L", "t": "L", "m": "L", "s": "L", "n": "N"}.get(CLASS[char], "o") if char else "o"


def _record(token: bytes, level: int, id: int, score: float, special: bool) -> Record:
    if special:
        return Record(token, 64, 0, NONE, NONE, id, score)
    text = token.decode("utf-8", "surrogateescape")
    kinds = [kind(char, level) for char in text] + ["o"]
    first, second, last = kinds[0], kinds[1], kinds[len(text) - 1]
    words = sum(a == "S" and b in "LN" for a, b in zip(kinds, kinds[1:], strict=False))
    ends = text[-1] if not "\udc80" <= text[-1] <= "\udcff" else ""
    shape = ""
    if first in "SL" and second == "L":
        shape = "L"
    elif first in "SN" and second == "N":
        shape = "N"
    elif first not in "LN" and second not in "LN":
        shape = "P"
    for each in kinds[2 : len(text)]:
        if each == "L" and shape in "NP" or each == "N" and shape in "LP" or each not in "LNS" and shape in "LN":
            shape = ""
    flags = (last == "L" and bool(ends)) | (first == "L") << 1
    flags |= (first == "S" or (level == 2 and text[0] in "CW")) << 2
    flags |= (last == "M") << 3 | (first == "M") << 4
    flags |= (first == "S" and second in "LN" and shape == "L" and words == 1 and last == "L") << 5
    flags |= (len(token) == 1 or bool(shape)) << 7
    return Record(token, flags, words, NONE, NONE, id, score)


def _rank(token: bytes, cut: int, level: int) -> int:
    head, rest = token[:cut].decode("utf-8", "surrogateescape"), token[cut:].decode("utf-8", "surrogateescape")
    p, q, after = kind(head[-1], level), kind(rest[0], level), kind(rest[1:2], level)
    wordy_p, wordy_q = p == "L" or head[-1] == "_", q == "L" or rest[0] == "_"
    if q == "S" and after in "LN":
        return 10
    if level == 0 and ((not wordy_p and wordy_q) or (p != "N" and q == "N")):
        return 9
    if (wordy_p and not wordy_q) or (p == "N" and q != "N"):
        return 9
    if head[-1].isspace() and not rest[0].isspace():
        return 7
    if rest[0].isspace() and not head[-1].isspace():
        return 8
    return 9 if q == "M" else 1


def build(tokens, level=1, *, normalization=1, special=(), unk=False, singles=None) -> Vocabulary:
    """A vocabulary of these tokens (bytes, in capcoded form) and single bytes, fields filled as the reference does."""
    if singles is None:
        singles = [bytes([byte]) for byte in range(256) if level < 2 or not 65 <= byte <= 90 or byte in b"CDW"]
    base = sorted({*tokens, *special, *singles}, key=lambda token: (len(token), token))
    marker = (b"", b"\x7f", b"D")[level]
    records = []
    for id, token in enumerate(base):
        records.append(_record(token, level, id, 2.0**-10, token in special))
        if level and kind(token.decode("utf-8", "surrogateescape")[0], level) in "LN" and len(token) <= 38:
            records.append(_record(marker + b" " + token, level, id, -1.0, token in special))
    records.sort(key=lambda record: (len(record.token), record.token))
    index = {record.token: place for place, record in enumerate(records)}
    for place, record in enumerate(records):
        token, first = record.token, record.token.decode("utf-8", "surrogateescape")
        shortest = 2 if first[0] == " " and kind(first[1:2], level) in "LN" and record.words >= 2 else 1
        prefixes = [cut for cut in range(shortest, len(token)) if token[:cut] in index]
        prefixes.sort(key=lambda cut: (_rank(token, cut, level), cut), reverse=True)
        if not record.flags & 64:
            alts = [index[token[:cut]] for cut in prefixes[:2]] + [NONE, NONE]
            records[place] = record._replace(alt1=alts[0], alt2=alts[1])
    follow = bytearray(256)
    for byte in range(256):
        firsts = [kind(r.token.decode("utf-8", "surrogateescape")[0], level) for r in records if r.token[0] == byte]
        counts = [sum(each in group for each in firsts) for group in ("S", "L", "N", "oM")]
        for value, count in zip((12, 1, 0, 10), counts, strict=True):
            if count > 2 and count == max(counts) and counts.count(count) == 1:
                follow[byte] = value
    ids = {token: id for id, token in enumerate(base)}
    return Vocabulary(
        capcode=level, charset=1, normalization=normalization, mode=5, reserve=1, unk=len(base) if unk else NONE,
        table_size=len(base) + unk, delete_token=ids.get(marker, NONE), records=records, follow=bytes(follow),
    )  # fmt: skip


def small(level: int, **options) -> Vocabulary:
    """About 150 tokens of English and punctuation, some multi-word, some marked, at a capcode level."""
    marker = ("", "\x7f", "D")[level]
    texts = [form for word in WORDS for form in (word, " " + word, word[:2], " " + word[:3])]
    texts += [" the cat", " on a", ", ", ".\n", "  ", "\n\n", "12", "--", "é", "e\u0301", "\u2019s", " \u4e2d"]
    texts += [f"({marker}", f"-{marker}", f'"{marker}', f".{marker} "] if marker else []
    texts += ["W the", "C a", "DC ", "D ", " cC", "W ", "C "] if level == 2 else []
    return build([text.encode() for text in texts if len(text.encode()) > 1], level, **options)


# ---- the rules, naively ----


def naive_level1(text: str) -> str:
    out = ""
    for place, char in enumerate(text):
        before = "".join(_shape(each) for each in text[max(0, place - 2) : place])
        shape = _shape(char)
        if shape == "L" and before[-1:] not in ("S", "L", "M") and not (before[-1:] == "A" and before[:-1] == "L"):
            out += "\x7f "
        if shape == "N" and before[-1:] not in ("S", "N"):
            out += "\x7f "
        out += "\x14" if char == "\x7f" else char
    return out


def _shape(char: str) -> str:
    fixed = {" ": "S", "'": "A", "\u2019": "A"}
    return fixed.get(char) or {"u": "L", "l": "L", "t": "L", "n": "N", "m": "M", "s": "M"}.get(CLASS[char], "O")


def naive_level2(text: str) -> str:
    """The specification's state machine over the whole text, one list of emitted strings, rewritten in place."""
    out: list[str] = []
    inside = extra = False
    run_marker = run_after = 0
    for place, char in enumerate(text):
        previous = _shape(text[place - 1]) if place else ""
        earlier = _shape(text[place - 2]) if place > 1 else ""
        glued, kind = previous in ("L", "A", "M"), CLASS[char]
        if kind == "u" and not inside:
            if previous == "S":
                out[-1] = "W"
                run_marker = len(out) - 1
                out.append(" ")
            else:
                out += ["D", "W", " "]
                run_marker = len(out) - 2
            out.append(simple_lower(char))
            inside, extra, run_after = True, False, len(out)
        elif kind == "u":
            out += ([] if glued else ["D", " "]) + [simple_lower(char)]
            extra = True
        elif kind == "l" and inside:
            inside = False
            out[run_marker] = "C"
            if extra:
                tail, out = out[run_after:], out[:run_after]
                for each in tail:
                    if CLASS[each] == "l":
                        if out[-2:] == ["D", " "]:
                            del out[-2:]
                        out += ["D", "C", " "]
                    out.append(each)
            out += ([] if glued else ["D", " "]) + [char]
        elif kind == "l":
            lower = bool(place) and CLASS[text[place - 1]] == "l"
            fine = previous in ("S", "M") or lower or (previous == "A" and earlier == "L")
            out += ([] if fine else ["D", " "]) + [char]
        elif kind == "n":
            fine = previous == "N" or (previous == "S" and not inside)
            out += ([] if fine else ["D", " "]) + [char]
        else:
            inside = inside and _shape(char) in "AM"
            out.append(char)
    return "".join(out)


def naive_encode(vocabulary: Vocabulary, data: bytes) -> list[int]:
    """The reference's algorithm on a normalised stream, step by step."""
    v, n, ids = vocabulary, len(data), []
    find = {record.token: record for record in v.records}

    def longest(text: bytes):
        return next((find[text[:k]] for k in range(min(v.maxlen, len(text)), 0, -1) if text[:k] in find), None)

    def after(place: int) -> int:
        return v.follow[data[place] if place < n else 0]

    def score(first, taken, words, second, length, end, virtual) -> int:
        c, uniform = after(end), lambda record: record.flags >> 7 & 1
        total = taken + length + uniform(first) + uniform(second) + max(0, words - 1) + max(0, second.words - 1)
        total += (not virtual and bool(second.flags & 4)) + (c == 12) - virtual
        total += 100 * (words + second.words + (c in (10, 12)))
        total -= 103 * bool(first.flags & 1 and (virtual or second.flags & 2))
        total -= 100 * bool(first.flags & 8 and second.flags & 16)
        return total - 3 * bool(second.flags & 1 and c == 1)

    i = 0
    while i < n:
        token = longest(data[i:])
        if token is None:
            ids += [v.unk] if v.unk != NONE else []
            i += 1
            continue
        carry = 0
        while True:
            end = i + len(token.token) - carry
            if end == n or (token.flags & 32 and after(end) == 12):
                ids.append(token.id)
                i = end
                break
            scored = []
            alts = [v.records[alt] for alt in (token.alt1, token.alt2) if alt != NONE]
            for k, first in enumerate([token, *alts]):
                taken = len(first.token) - carry
                at = i + taken
                second = longest(data[at:])
                if second is None:
                    continue
                options = [(second, len(second.token), False)]
                stop = at + len(second.token)
                if v.delete_token != NONE and second.flags & 2 and after(stop) == 1 and second.words == 0:
                    spaced = longest(b" " + data[at : at + v.maxlen - 1])
                    if spaced is not None and len(spaced.token) > len(second.token) + 1:
                        options.append((spaced, len(spaced.token) - 1, True))
                for following, length, virtual in options:
                    reached = at + length
                    total = score(first, taken, first.words - carry, following, length, reached, virtual)
                    if k:
                        total -= 100 * (reached < end) + 10000 * (reached == end)
                    scored.append((total, not virtual, -k, first, at, following))
            if not scored:
                ids.append(token.id)
                i = end
                break
            _, plain, _, first, at, following = max(scored, key=lambda each: each[:3])
            ids += [first.id] if plain else [first.id, v.delete_token]
            i, token, carry = at, following, 0 if plain else 1
    return ids


def naive_normalize(vocabulary: Vocabulary, text: str) -> bytes:
    if vocabulary.normalization & 1:
        text = nfd(text)
    text = (lambda text: text, naive_level1, naive_level2)[vocabulary.capcode](text)
    return text.encode()
