"""Blocks of tokens, in an order that is a pure function of (seed, epoch, position).

An epoch repeats each document by its weight (a fraction is a probability, drawn for each epoch), shuffles the
documents, joins them into one stream, cuts the stream into blocks, and shuffles the blocks, so that a long book does
not fill a batch. There is no state between blocks: a resumed run asks for the next position.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import DataError, RecipeError
from edgekit.tokenizers.tokenmonster.tokenizer import resolve
from edgekit.tokenizers.tokenmonster.vocab_file import NONE, Record
from edgekit.tokenizers.tokenmonster.vocabulary import Vocabulary
from edgekit.training.sections import Recipe
from edgekit.training.shards import TRAIN, VALIDATION, Shards


class Packed:
    """Documents joined in a given order and cut into blocks; an incomplete last block is left out.

    Args:
        documents: rows of `Shards.documents`, in order, repeats allowed.
        size: tokens of a block.
    """

    def __init__(self, shards: Shards, documents: NDArray[Any], size: int):
        self.shards, self.size = shards.shards, size
        self.shard, self.start = documents["shard"], documents["start"]
        self.ends = np.cumsum(documents["tokens"], dtype=np.int64)
        self.begins = self.ends - documents["tokens"]

    def __len__(self) -> int:
        return int(self.ends[-1]) // self.size if len(self.ends) else 0

    def block(self, index: int) -> NDArray[np.uint16]:
        """Block `index`: uint16 (size,)."""
        out, begin, filled = np.empty(self.size, np.uint16), index * self.size, 0
        at = int(np.searchsorted(self.ends, begin, side="right"))
        while filled < self.size:
            inside = begin + filled - int(self.begins[at])
            take = min(self.size - filled, int(self.ends[at] - self.begins[at]) - inside)
            start = int(self.start[at]) + inside
            out[filled : filled + take] = self.shards[int(self.shard[at])][start : start + take]
            filled, at = filled + take, at + 1
        return out


class Blocks:
    """The training data.

    Args:
        weights: how often an epoch sees each training document, (n,).
    """

    def __init__(self, shards: Shards, weights: NDArray[np.float64], size: int, seed: int):
        self.data, self.documents, self.weights = shards, shards.split(TRAIN), weights
        self.size, self.seed = size, seed
        self._last: tuple[int, Packed, NDArray[np.int64]] | None = None
        if (tokens := int((self.documents["tokens"] * np.ceil(weights)).sum())) < size:
            raise DataError(f"the training text has {tokens} tokens, fewer than one block of {size}")

    def epoch(self, epoch: int) -> tuple[Packed, NDArray[np.int64]]:
        """The packed documents of an epoch and the order of their blocks. The last result is cached."""
        if self._last is None or self._last[0] != epoch:
            rng = np.random.default_rng([self.seed, epoch])
            whole = np.floor(self.weights)
            copies = (whole + (rng.random(len(whole)) < self.weights - whole)).astype(np.int64)
            rows = rng.permutation(np.repeat(np.arange(len(copies)), copies))
            packed = Packed(self.data, self.documents[rows], self.size)
            self._last = epoch, packed, rng.permutation(len(packed))
        return self._last[1:]

    def count(self, epoch: int) -> int:
        """Blocks in an epoch."""
        return len(self.epoch(epoch)[0])

    def batch(self, epoch: int, positions: Sequence[int]) -> NDArray[np.int64]:
        """The blocks at these positions of an epoch: (len(positions), size)."""
        packed, order = self.epoch(epoch)
        return np.stack([packed.block(int(order[p])) for p in positions]).astype(np.int64)

    @cached_property
    def tokens(self) -> float:
        """Tokens of an epoch, on average."""
        return float((self.documents["tokens"] * self.weights).sum())


def validation(shards: Shards, size: int, limit: int | None) -> dict[str, NDArray[np.uint16]]:
    """Blocks to evaluate on by corpus, uint16 (n, size); at most `limit` in all, spread evenly. Corpora that
    do not fill a block are joined as `(small)`. Raises `DataError` if there is no whole block."""
    rows, packed = shards.split(VALIDATION), {}
    small = []
    for index, name in enumerate(shards.corpora):
        own = rows[rows["corpus"] == index]
        if int(own["tokens"].sum()) >= size:
            packed[name] = Packed(shards, own, size)
        else:
            small.append(own)
    if small and int((rest := np.concatenate(small))["tokens"].sum()) >= size:
        packed["(small)"] = Packed(shards, rest, size)
    if not packed:
        raise DataError(f"the validation text has {int(rows['tokens'].sum())} tokens, fewer than one block of {size}")
    total = sum(map(len, packed.values()))
    blocks = {}
    for name, each in packed.items():
        count = len(each) if limit is None or total <= limit else max(1, len(each) * limit // total)
        blocks[name] = np.stack([each.block(i * len(each) // count) for i in range(count)])
    return blocks


def bytes_per_token(shards: Shards) -> dict[str, float]:
    """UTF-8 bytes of cleaned text per token of the validation data, by corpus; EOS counts as a token."""
    rows = shards.split(VALIDATION)
    rates = {}
    for index, name in enumerate(shards.corpora):
        own = rows[rows["corpus"] == index]
        if len(own):
            rates[name] = float(own["bytes"].sum() / own["tokens"].sum())
    if len(rows):
        rates["(small)"] = float(rows["bytes"].sum() / rows["tokens"].sum())
    return rates


def weights_of(recipe: Recipe, shards: Shards) -> NDArray[np.float64]:
    """Each training document's weight, (n,). Raises `RecipeError` for the weight of a corpus that does not exist."""
    documents = shards.split(TRAIN)
    weights = np.zeros(len(documents))
    for number, source in enumerate(recipe.data.sources):
        own = documents["source"] == number
        weights[own] = source.weight
        present = {shards.corpora[i]: i for i in np.unique(documents["corpus"][own])}
        for name, weight in source.weights.items():
            if name not in present:
                raise RecipeError(
                    f"data.sources[{number}].weights names {name!r}, which is not in it: it has {', '.join(present)}"
                )
            weights[own & (documents["corpus"] == present[name])] = weight
    return weights


def vocabulary(name: str) -> Vocabulary:
    """A recipe's vocabulary: `bytes`, a file, or a published name. Raises `FileError` or `VocabularyError`."""
    if name != "bytes":
        return Vocabulary.load(resolve(name))
    records = [Record(bytes([b]), 0, 0, NONE, NONE, b, 0.0) for b in range(256)]
    return Vocabulary(
        capcode=0, charset=1, normalization=0, mode=0, reserve=0, unk=NONE, table_size=256, delete_token=NONE,
        records=records, follow=bytes(256), name="bytes",
    )  # fmt: skip
