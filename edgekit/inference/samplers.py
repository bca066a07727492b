"""The sampler of a text: the C engine's where that is installed, else numpy's. Both choose the same tokens."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Protocol

from edgekit.inference.engine_sampler import EngineSampler
from edgekit.settings import Sampling
from edgekit.utils import engine
from edgekit.utils.lazy import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


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
        from edgekit.inference.sampling import Sampler  # numpy at once

        return Sampler(settings, vocab_size, history, ends)
    return EngineSampler(settings, vocab_size, history, ends, engine=library)
