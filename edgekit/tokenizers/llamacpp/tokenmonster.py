r"""TokenMonster's pieces as llama.cpp's `rwkv` vocabulary: its only kind that can store any bytes and needs no merges.

Four traps in llama.cpp's llama-vocab.cpp are avoided here:

* A text of the vocabulary is a Python-like escape (`\n`, `\x7f`, hexadecimal in lower case only); two equal ones abort
  the process.
* Its tokenizer walks a trie. At a byte that begins some piece but is not a piece itself, a failing walk starts over at
  the beginning of the text, forever. So each first byte must be a piece: if one is not, a padding row is used for it.
* A byte that begins nothing becomes the unknown id, which is -1 unless it is set.
* A piece with the text `</s>`, `<|im_end|>` and the like becomes a token that ends the text, whatever its type.

llama.cpp splits greedily and does not know the delete marker, so stock programs print the marker (7F at level 1, `D`
at level 2) with the character after it, and split about one token in five differently. edgekit does neither: it uses
the embedded `.vocab` file.
"""

from edgekit.errors import VocabularyError
from edgekit.tokenizers.llamacpp.vocabulary import CONTROL, NORMAL, UNKNOWN, Specials, Tokens
from edgekit.tokenizers.tokenmonster.vocab_file import NONE
from edgekit.tokenizers.tokenmonster.vocabulary import Vocabulary

NOTE = (
    "llama.cpp has no TokenMonster: stock programs split a prompt greedily and print the delete marker; "
    "edgekit uses the vocabulary inside the file"
)
HANGS = (
    "stock llama.cpp programs cannot show this model's text: the vocabulary has pieces that begin with a byte it has "
    "no piece for, at which llama.cpp would hang, and the embedding has no padding row to lend"
)

MARKERS = (b"", b"\x7f", b"D")


def escape(piece: bytes) -> bytes:
    """A piece as the vocabulary's text, such that llama.cpp unescapes it to the same bytes."""
    return b"".join(_ESCAPED[byte] for byte in piece)


def _escaped(byte: int) -> bytes:
    named = {0x09: b"\\t", 0x0A: b"\\n", 0x0D: b"\\r", 0x5C: b"\\\\"}
    return named.get(byte) or (bytes([byte]) if 0x20 <= byte < 0x7F else b"\\x%02x" % byte)


_ESCAPED = [_escaped(byte) for byte in range(256)]


def tokens(vocabulary: Vocabulary, special: Specials) -> Tokens:
    """The vocabulary as llama.cpp reads it, one text for each of the embedding's rows.

    Raises `VocabularyError` if the vocabulary has more ids than the embedding has rows.
    """
    if vocabulary.table_size > special.rows:
        raise VocabularyError(
            f"the vocabulary has {vocabulary.table_size} ids, the model's embedding {special.rows} rows"
        )
    # A special token that took an ordinary token's id has its name, not that token's text.
    renamed = {*special.names, *special.stop} - vocabulary.special_ids
    pieces = {i: p for i in range(vocabulary.table_size) if i not in renamed and (p := vocabulary.base_bytes(i))}
    reserved = {*special.names, *special.stop, vocabulary.unk, special.pad}
    free = [i for i in range(special.rows) if i not in pieces and i not in reserved]

    lent = _lend(pieces, free)
    singles = {p[0] for p in (*pieces.values(), *lent.values()) if len(p) == 1}
    printed = _reachable(pieces, singles, MARKERS[vocabulary.capcode])
    if printed is None:
        return Tokens("none", notes=[HANGS])

    unk = vocabulary.unk if vocabulary.unk != NONE else special.unk
    if unk is None:
        unk = free[0] if free else _substitute(pieces, special)
    taken = set(printed.values()) | set(lent.values())
    texts, types = [], []
    for id in range(special.rows):
        if id in printed:
            is_special = id in vocabulary.special_ids
            texts.append(escape(printed[id]) if is_special else _plain(printed[id]))
            types.append(CONTROL if is_special or id in special.stop else NORMAL)
            continue
        if id in lent:
            text = lent[id]
        else:
            preferred = special.names.get(id) or ("<unk>" if id == unk else f"[PAD{id}]")
            text = _name(preferred.encode("utf-8", "replace"), taken, singles, id)
        taken.add(text)
        texts.append(escape(text))
        # CONTROL prints as nothing, as edgekit's decoder prints these rows. (UNUSED would print its text.)
        types.append(UNKNOWN if id == unk else CONTROL)
    return Tokens("rwkv", texts, types, unk=unk, notes=[NOTE])


def _lend(pieces: dict[int, bytes], free: list[int]) -> dict[int, bytes]:
    """Padding rows that become the single bytes that llama.cpp requires, and newline; taken from the end of `free`.

    The model was not trained on these rows, nor on those bytes: TokenMonster drops bytes that no piece covers.
    """
    singles = {p[0] for p in pieces.values() if len(p) == 1}
    absent = sorted({p[0] for p in pieces.values()} - singles) + [0x0A] * (0x0A not in singles)
    return {free.pop(): bytes([byte]) for byte in dict.fromkeys(absent) if free}


def _reachable(pieces: dict[int, bytes], singles: set[int], marker: bytes) -> dict[int, bytes] | None:
    """The bytes that each piece is stored as: its own, if llama.cpp can walk past its first byte.

    Otherwise the marker and a space are put before them, as TokenMonster writes a piece that deletes the space before
    it: decoded, it is the same text. None if not even the marker is a piece.
    """
    stuck = [i for i, p in pieces.items() if p[0] not in singles]
    if stuck and (not marker or marker[0] not in singles):
        return None
    taken, shown = set(pieces.values()), dict(pieces)
    for id in stuck:
        while shown[id] in taken or shown[id][0] not in singles:
            shown[id] = marker + b" " + shown[id]
        taken.add(shown[id])
    return shown


def _plain(piece: bytes) -> bytes:
    """An ordinary piece's text, escaped if llama.cpp would treat it as special: it matches those by spelling."""
    text = escape(piece)
    if len(piece) > 2 and piece.startswith((b"<", b"[", b"_<")):
        return b"\\x%02x" % piece[0] + text[1:]
    return text


def _name(preferred: bytes, taken: set[bytes], singles: set[int], id: int) -> bytes:
    """A spelling for a special or padding row that is unique and that llama.cpp's search can reach."""
    leads = [b"", *(bytes([b]) for b in sorted(singles) if 0x20 < b < 0x7F), *(bytes([b]) for b in sorted(singles))]
    for name in (preferred, b"[%d]" % id, b"[%d]" % id * 2):
        for lead in leads:
            if lead + name not in taken and (lead + name)[0] in singles:
                return lead + name
    raise VocabularyError(f"no spelling is left for token {id}: the vocabulary has no single byte")


def _substitute(pieces: dict[int, bytes], special: Specials) -> int:
    """The unknown id of a model without a spare row: a space reads best in place of a byte."""
    spaces = [i for i, p in pieces.items() if p == b" "]
    return (*spaces, *special.names, *pieces)[0]
