"""Models for the tests of drafts that need no file: logits that are a hash of the context, exactly the same in one call
or many, and a tokenizer with a given list of pieces."""

import codecs
import hashlib

import numpy as np

from edgekit.inference.runtime import check_forward, check_rewind
from edgekit.tokenizers.utf8_mask import Masks


class Hashed:
    """A runtime: a hash of the last `order` tokens seeds the logits.

    Args:
        wrong: fraction of a draft's logits that is noise of its own; 0 is the target itself.
    """

    def __init__(self, vocab_size, context_length=64, *, order=3, spread=3.0, wrong=0.0, only=None):
        self.vocab_size, self.context_length, self.files = vocab_size, context_length, {}
        self.order, self.spread, self.wrong, self.only = order, spread, wrong, only
        self.cache, self.calls = [], []

    @property
    def length(self):
        return len(self.cache)

    def logits(self, context):
        key = repr(tuple(int(token) for token in context[-self.order :]))
        logits = self.spread * _normal("target" + key, self.vocab_size)
        if self.wrong:
            logits = (1 - self.wrong) * logits + self.wrong * self.spread * _normal("draft" + key, self.vocab_size)
        if self.only is not None:
            logits[~self.only] = -40
        return logits.astype(np.float32)

    def forward(self, tokens, *, every=False):
        check_forward(self, tokens)
        self.calls.append(len(tokens))
        rows = []
        for token in tokens:
            self.cache.append(int(token))
            rows.append(self.logits(self.cache))
        return np.stack(rows) if every else rows[-1]

    def rewind(self, length):
        check_rewind(self, length)
        del self.cache[length:]


def _normal(key, size):
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")
    return np.random.default_rng(seed).standard_normal(size)


class Spelled:
    """A tokenizer: the longest piece that fits, from left to right. Empty pieces are special tokens."""

    def __init__(self, pieces, *, stop=(), bos=None):
        self.token_bytes, self.stop, self.bos = list(pieces), frozenset(stop), bos
        self.vocab_size = len(self.token_bytes)
        self._ids = {piece: id for id, piece in enumerate(self.token_bytes) if piece}
        self._masks = Masks(self.token_bytes, [id for id, piece in enumerate(self.token_bytes) if not piece])

    def encode(self, text, *, specials=False):
        data, ids, at = text.encode(), [], 0
        while at < len(data):
            end = next((e for e in range(min(len(data), at + 12), at, -1) if data[at:e] in self._ids), at + 1)
            ids += [self._ids[data[at:end]]] if data[at:end] in self._ids else []  # it cannot write U+FFFD
            at = end
        return ids

    def decode(self, tokens):
        return b"".join(self.token_bytes[token] for token in tokens).decode(errors="replace")

    def decoder(self, context=()):
        return _Stream(self.token_bytes, context)

    def utf8_mask(self, decoder, remaining=None):
        return self._masks.mask(self._masks.after_bytes(decoder.utf8.getstate()[0]), remaining)


class _Stream:
    def __init__(self, pieces, context):
        self.token_bytes, self.utf8 = pieces, codecs.getincrementaldecoder("utf-8")("replace")
        for token in context:
            self.feed(token)

    def feed(self, token):
        return self.utf8.decode(self.token_bytes[token])

    def flush(self):
        return self.utf8.decode(b"", True)


HEARTS = [bytes([byte]) for byte in "♥é".encode()]
"""The five bytes of two characters; any of them may come without the others."""
SMALL = [b"", b"a", b"b", b"c", b" ", b".", b"ab", b" a", b"bc", *HEARTS, b""]
"""Id 0 ends a text, the last one is padding."""
OTHER = [b"", b" ", b".", b"a", b"b", b"c", b" ab", b"abc", b"ca", b" b", "♥".encode(), *HEARTS, b"", b" c"]
"""Another vocabulary for the same texts: other ids, other pieces, whole characters; the empty ones are special."""
