"""The sampler of the C engine, with the interface and the tokens of `sampling.Sampler`, at a fraction of the time.

`engine/sampler*.c` does what the specification in sampling.py says; logits are float32 and penalties, bias and
temperature are applied with the same roundings. Its exp and logarithm are its own, so that every processor gives the
same bits; their errors are below 1 ulp, as numpy's are, but the last bits of a weight may differ (numpy's differ from
processor to processor too). A token can depend on that only where two times of the race, or a sum and the edge of
top-p, or a weight and min_p agree to 15 digits. tests/test_engine_sampler.py compares 100,000 draws.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Collection, Iterable, Sequence
from ctypes import POINTER, Structure, byref, c_double, c_float, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from mmap import mmap
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from edgekit.errors import SettingError
from edgekit.inference.processors import Processors
from edgekit.settings import Sampling
from edgekit.utils.engine import address, block
from edgekit.utils.lazy import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

NO_TOKEN, NOT_FINITE, TOO_SMALL, FULL = -6, -7, -4, -5
"""The statuses of `ek_sampler_choose`."""
OUTSIDE = 2**32 - 1
"""An id that no vocabulary has."""
SPARE = 4096
"""Tokens after the history for which memory is reserved at first."""


class Settings(Structure):
    """`ek_sampling` of edgekit.h."""

    _fields_ = [
        *((name, c_double) for name in ("temperature", "top_p", "min_p", "repetition_penalty")),
        *((name, c_double) for name in ("presence_penalty", "frequency_penalty", "decay_factor")),
        ("seed", c_uint64),
        *((name, c_uint32) for name in ("top_k", "decay_start", "no_repeat_ngram_size")),
        *((name, c_uint32) for name in ("bias_count", "banned_count", "suppressed_count", "end_count")),
        ("bad_word_count", c_uint32),
        ("bias_ids", POINTER(c_uint32)),
        ("biases", POINTER(c_float)),
        *((name, POINTER(c_uint32)) for name in ("banned", "suppressed", "ends", "bad_words")),
        ("bad_word_lengths", POINTER(c_uint32)),
    ]


class Mark(Structure):
    """`ek_mark` of edgekit.h."""

    _fields_ = [("step", c_uint64), ("seen", c_uint32), ("text", c_uint32)]


def declare(engine: ctypes.CDLL) -> None:
    """Declare the prototypes of the sampler's functions."""
    for name, result, *arguments in (
        ("defaults", None, POINTER(Settings)),
        ("size", c_size_t, POINTER(Settings), c_uint32, c_uint32),
        ("init", c_int, POINTER(c_void_p), c_void_p, c_size_t, POINTER(Settings), c_uint32, c_uint32, c_void_p,
         c_uint32, c_void_p),
        ("choose", c_int, c_void_p, c_void_p, c_void_p),
        ("guess", c_int, c_void_p, c_void_p, c_void_p, POINTER(c_double)),
        ("distribution", c_int, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p),
        ("accept", c_int, c_void_p, c_uint32),
        ("mark", Mark, c_void_p),
        ("rewind", c_int, c_void_p, Mark),
        ("move", c_int, POINTER(c_void_p), c_void_p, c_size_t, c_void_p, c_uint32, c_void_p),
    ):  # fmt: skip
        prefix = "ek_sampling_" if name == "defaults" else "ek_sampler_"
        function = getattr(engine, prefix + name)
        function.restype, function.argtypes = result, arguments
    engine.ek_step.restype, engine.ek_step.argtypes = c_int, [c_void_p, c_uint32, c_void_p, c_void_p, c_void_p]


class EngineSampler:
    """As `edgekit.inference.sampling.Sampler`, which documents arguments and methods.

    Args:
        engine: the library, from `edgekit.utils.engine.library`.
    """

    def __init__(
        self,
        settings: Sampling,
        vocab_size: int,
        history: Iterable[int] = (),
        ends: Collection[int] = (),
        *,
        engine: ctypes.CDLL,
    ):
        self.settings = settings
        self.seed = int.from_bytes(os.urandom(4)) if settings.seed is None else settings.seed
        self._engine, self._vocab_size = engine, vocab_size
        if engine.ek_sampler_choose.argtypes is None:
            declare(engine)
        for name, ids in (("logit_bias", settings.logit_bias), ("banned", settings.banned)):
            for token in ids:
                if not 0 <= token < vocab_size:
                    raise SettingError(f"{name}: token id {token} is outside the vocabulary of {vocab_size}")
        prompt = [int(token) for token in history]
        if prompt and not 0 <= min(prompt) <= max(prompt) < vocab_size:
            raise IndexError(f"the history has ids outside the vocabulary of {vocab_size}")
        self._size_of = engine_settings(engine, settings, self.seed, vocab_size, ends)
        self._orders = Processors.needed(settings) or bool(settings.presence_penalty or settings.frequency_penalty)
        self._capacity, self._address = len(prompt) + SPARE if self._orders else 0, 0
        self._memory, before = self._allocate(), (c_uint32 * len(prompt))(*prompt)
        sampler, size, error = c_void_p(), len(self._memory), ctypes.create_string_buffer(256)
        if engine.ek_sampler_init(
            byref(sampler), address(self._memory), size, byref(self._size_of), vocab_size, self._capacity,
            before, len(prompt), error,
        ):  # fmt: skip
            raise SettingError(error.value.decode())
        self._address = sampler.value or 0
        self._choose, self._step = engine.ek_sampler_choose, engine.ek_step
        self._mask: NDArray[np.bool_] | None = None  # the last read-only one, and its bits
        self._bits: NDArray[np.uint8] | None = None

    def distribution(
        self, logits: NDArray[np.float32], allowed: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """See `Sampler.distribution`."""
        count = self._engine.ek_sampler_distribution(
            self._address,
            self._logits(logits),
            self._allowed(allowed),
            self._ids.ctypes.data,
            self._weights.ctypes.data,
        )
        if count < 0:
            self._raise(count)
        weights = self._weights[:count]
        return self._ids[:count].astype(np.intp), weights / weights.sum()

    @functools.cached_property
    def _ids(self) -> NDArray[np.int32]:
        return np.empty(self._vocab_size, np.int32)

    @functools.cached_property
    def _weights(self) -> NDArray[np.float64]:
        return np.empty(self._vocab_size, np.float64)

    def choose(self, logits: NDArray[np.float32], allowed: NDArray[np.bool_] | None = None) -> int:
        """See `Sampler.choose`."""
        return self.choose_at(self._logits(logits), allowed)

    def choose_at(self, logits: int, allowed: NDArray[np.bool_] | None) -> int:
        """`choose`, with the address of float32 logits (vocab_size,)."""
        token = self._choose(self._address, logits, None if allowed is None else self._allowed(allowed))
        if token < 0:
            if token != FULL:
                self._raise(token)
            self._grow()
            return self.choose_at(logits, allowed)
        return token

    def guess(self, logits: NDArray[np.float32], allowed: NDArray[np.bool_] | None = None) -> tuple[int, float]:
        """See `Sampler.guess`."""
        probability = c_double()
        token = self._engine.ek_sampler_guess(
            self._address, self._logits(logits), self._allowed(allowed), byref(probability)
        )
        if token < 0:
            if token != FULL:
                self._raise(token)
            self._grow()
            return self.guess(logits, allowed)
        return token, probability.value

    @property
    def chooses_in_steps(self) -> bool:
        """Whether `step_of` can be used: not if the memory for the text's ids might have to grow."""
        return not self._orders

    def step_of(self, model: int, token: int, logits: int, allowed: NDArray[np.bool_] | None) -> int:
        """`ek_step`: the engine's model reads `token`, then the next is chosen from its logits, in one call.

        Args:
            model: address of an `ek_model`, whose context holds one token more.
            logits: address of memory for float32 (vocab_size,).
        """
        token = self._step(model, token, logits, self._address, None if allowed is None else self._allowed(allowed))
        if token < 0:
            self._raise(token)
        return token

    def accept(self, token: int) -> None:
        """See `Sampler.accept`."""
        if not 0 <= token < self._vocab_size:
            raise IndexError(f"token id {token} is outside the vocabulary of {self._vocab_size}")
        if self._engine.ek_sampler_accept(self._address, token) == FULL:
            self._grow()
            self.accept(token)

    @property
    def step(self) -> int:
        """See `Sampler.step`."""
        return self.mark()[0]

    def mark(self) -> tuple[int, int, int]:
        """See `Sampler.mark`."""
        mark = self._engine.ek_sampler_mark(self._address)
        return mark.step, mark.seen, mark.text

    def rewind(self, mark: tuple[int, int, int]) -> None:
        """See `Sampler.rewind`."""
        self._engine.ek_sampler_rewind(self._address, Mark(*mark))

    def _logits(self, logits: NDArray[np.float32]) -> int:
        """Their address. The array must live until the call ends: the callers' arguments do."""
        if logits.dtype.char != "f" or not logits.flags.c_contiguous:
            logits = self._converted = np.ascontiguousarray(logits, np.float32)
        if logits.size != self._vocab_size:
            raise ValueError(f"{logits.size} logits for a vocabulary of {self._vocab_size}")
        try:
            return ctypes.addressof(ctypes.c_char.from_buffer(logits))  # type: ignore[arg-type]
        except TypeError:  # read-only
            return logits.ctypes.data  # three times as slow

    def _allowed(self, allowed: NDArray[np.bool_] | None) -> int | None:
        """The address of a mask's bits. Masks of a tokenizer are read-only and often the same object as before."""
        if allowed is None:
            return None
        if self._bits is None or allowed is not self._mask:
            if allowed.size != self._vocab_size:
                raise ValueError(f"a mask of {allowed.size} ids for a vocabulary of {self._vocab_size}")
            self._bits = np.packbits(allowed, bitorder="little")
            self._mask = None if allowed.flags.writeable else allowed
        return self._bits.ctypes.data

    def _allocate(self) -> mmap:
        """Memory for `_capacity` ids."""
        return block(self._engine.ek_sampler_size(byref(self._size_of), self._vocab_size, self._capacity))

    def _grow(self) -> None:
        """Twice the memory for the text's ids."""
        self._capacity *= 2
        memory, sampler = self._allocate(), c_void_p()
        self._engine.ek_sampler_move(byref(sampler), address(memory), len(memory), self._address, self._capacity, None)
        self._memory, self._address = memory, sampler.value or 0

    def _raise(self, status: int) -> None:
        if status == NO_TOKEN:
            raise SettingError("every token is banned: nothing can follow")
        if status == NOT_FINITE:
            raise SettingError("the logits are not finite: a logit_bias is too large, or the model is damaged")
        assert status == TOO_SMALL, status
        temperature = self.settings.temperature
        raise SettingError(f"temperature {temperature} is too small to divide by: 0 takes the most likely token")


@runtime_checkable
class ChoosesTokens(Protocol):
    """Optional for a runtime: calls that end in the next token, so that the logits need not reach Python."""

    def prefill(self, tokens: Sequence[int], sampler: EngineSampler, allowed: NDArray[np.bool_] | None) -> int:
        """Append `tokens`, as `Runtime.forward`, and return what `sampler.choose` returns for the last logits.

        Raises as the two; the tokens are appended if the sampler raises.
        """
        ...

    def step(self, token: int, sampler: EngineSampler, allowed: NDArray[np.bool_] | None) -> int:
        """`prefill` of one token, in one call of the engine. Only for a sampler that `chooses_in_steps`."""
        ...


def engine_settings(
    engine: ctypes.CDLL, settings: Sampling, seed: int, vocab_size: int, ends: Collection[int]
) -> Settings:
    """The settings as the engine reads them; it copies the arrays."""
    result = Settings()
    engine.ek_sampling_defaults(byref(result))
    for name in ("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"):
        setattr(result, name, getattr(settings, name))
    result.seed, result.top_k = seed % 2**64, min(settings.top_k, vocab_size)
    result.no_repeat_ngram_size = settings.no_repeat_ngram_size
    if settings.exponential_decay_length_penalty is not None:
        start, factor = settings.exponential_decay_length_penalty
        result.decay_start, result.decay_factor = min(int(start), 2**32 - 1), factor
    words = [list(word) for word in settings.bad_words_ids]
    for token in (token for word in words for token in word):
        if not 0 <= token < vocab_size:
            raise SettingError(f"bad_words_ids: token id {token} is outside the vocabulary of {vocab_size}")
    biases = settings.logit_bias.values()
    result.biases = (c_float * len(biases))(*biases)  # rounded to float32, infinite beyond it
    lists: dict[str, Sequence[int]] = {
        "bias_ids": list(settings.logit_bias),
        "banned": settings.banned,
        "suppressed": [id if 0 <= id < vocab_size else OUTSIDE for id in settings.suppress_tokens],
        "ends": sorted(id for id in ends if 0 <= id < vocab_size),
        "bad_words": [token for word in words for token in word],
    }
    for name, ids in lists.items():
        setattr(result, name, (c_uint32 * len(ids))(*ids))
    lengths = [len(word) for word in words]
    result.bad_word_lengths = (c_uint32 * len(lengths))(*lengths)
    result.bias_count, result.banned_count = len(lists["bias_ids"]), len(lists["banned"])
    result.suppressed_count, result.end_count = len(lists["suppressed"]), len(lists["ends"])
    result.bad_word_count = len(words)
    return result
