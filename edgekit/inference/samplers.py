"""The sampler of a text: the C engine's where that is installed, else numpy's. Both choose the same tokens."""

from collections.abc import Collection, Iterable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.inference.engine_sampler import EngineSampler
from edgekit.inference.sampling import Sampler
from edgekit.settings import Sampling
from edgekit.utils import engine


class TextSampler(Protocol):
    """What `edgekit.inference.sampling.Sampler` documents."""

    settings: Sampling
    seed: int

    @property
    def step(self) -> int: ...

    def distribution(
        self, logits: NDArray[np.float32], allowed: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.intp], NDArray[np.float64]]: ...

    def choose(self, logits: NDArray[np.float32], allowed: NDArray[np.bool_] | None = None) -> int: ...

    def guess(self, logits: NDArray[np.float32], allowed: NDArray[np.bool_] | None = None) -> tuple[int, float]: ...

    def accept(self, token: int) -> None: ...

    def mark(self) -> tuple[int, int, int]: ...

    def rewind(self, mark: tuple[int, int, int]) -> None: ...


def new_sampler(
    settings: Sampling, vocab_size: int, history: Iterable[int] = (), ends: Collection[int] = ()
) -> TextSampler:
    """The fastest sampler there is. Arguments and errors are those of `Sampler`."""
    library = engine.library()
    if library is None:
        return Sampler(settings, vocab_size, history, ends)
    return EngineSampler(settings, vocab_size, history, ends, engine=library)
