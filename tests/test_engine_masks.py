"""The UTF-8 masks of the C engine compared with those of edgekit/tokenizers/utf8_mask.py."""

import ctypes
import importlib.util
from ctypes import POINTER, c_int, c_size_t, c_uint8, c_uint32, c_void_p

import numpy as np
import pytest
from engine_build import ENGINE
from test_utf8_mask import ALL, tokenizer

from edgekit.tokenizers.utf8_mask import Masks

PIECE = ctypes.CFUNCTYPE(c_size_t, c_void_p, c_uint32, c_void_p, c_size_t)


def test_tables_are_those_of_python():
    spec = importlib.util.spec_from_file_location("make_utf8_tables", ENGINE / "tools" / "make_utf8_tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.OUT.read_text() == module.text(), "run python engine/tools/make_utf8_tables.py"


class EngineMasks:
    """`Masks` of the engine, by ctypes."""

    def __init__(self, engine, pieces, specials=(), capcode=0):
        self.engine, self.size = engine, len(pieces)
        for name, result, *arguments in (
            ("size", c_size_t, PIECE, c_void_p, c_uint32),
            ("init", c_int, POINTER(c_void_p), c_void_p, c_size_t, PIECE, c_void_p, c_uint32, c_void_p, c_uint32,
             c_uint32, c_void_p),
            ("advance", c_uint32, c_void_p, c_uint32, c_uint32),
            ("get", POINTER(c_uint8), c_void_p, c_uint32, c_uint32),
        ):  # fmt: skip
            function = getattr(engine, f"ek_masks_{name}")
            function.restype, function.argtypes = result, arguments

        def piece(context, id, out, capacity):
            ctypes.memmove(out, pieces[id], min(len(pieces[id]), capacity) if out else 0)
            return len(pieces[id])

        callback = PIECE(piece)
        size = engine.ek_masks_size(callback, None, self.size)
        self.memory = np.empty(size + 64, np.uint8)
        self.address, ids = c_void_p(), (c_uint32 * len(specials))(*specials)
        self.error = ctypes.create_string_buffer(256)
        self.status = engine.ek_masks_init(
            ctypes.byref(self.address), self.memory.ctypes.data + -self.memory.ctypes.data % 64, size, callback, None,
            self.size, ids, len(specials), capcode, self.error,
        )  # fmt: skip

    def mask(self, state, remaining=None):
        bits = self.engine.ek_masks_get(self.address, state, 100 if remaining is None else remaining)
        data = np.ctypeslib.as_array(bits, ((self.size + 7) // 8,))
        return np.unpackbits(data, count=self.size, bitorder="little").astype(bool)

    def advance(self, state, token):
        return self.engine.ek_masks_advance(self.address, state, token)


@pytest.mark.parametrize("name", ALL)
def test_masks_of_every_state_and_remainder_equal_python(engine_library, name):
    python = tokenizer(name)._masks
    engine = EngineMasks(engine_library, python._pieces, python._specials, python.machine.level)
    assert engine.status == 0
    states = range(1, len(python.machine.real), 1 if len(python._pieces) < 1000 else 5)
    for state in states:
        for remaining in (None, 0, 1, 2, 3, 4):
            assert np.array_equal(engine.mask(state, remaining), python.mask(state, remaining)), (state, remaining)
    rng, state = np.random.default_rng(3), python.start
    for token in rng.integers(0, len(python._pieces) + 5, 3000).tolist():
        assert engine.advance(state, token) == python.advance(state, token)
        state = python.advance(state, token)


def test_masks_of_few_pieces_equal_python(engine_library):
    """Characters that some pieces begin and no piece finishes, or only in two steps; no pieces at all."""
    rng = np.random.default_rng(0)
    parts = [b"a", b"\xc3", b"\xa9", b"\xe2", b"\xe2\x82", b"\xac", b"\x82", b"\xf0\x9f", b"\x99\x82", b"\xef\xbf",
             b"\xbd", b"", b"D", b"W", b"\x7f", b"\xff", b"\xbc"]  # fmt: skip
    for round in range(30):
        pieces = [parts[i] for i in rng.permutation(len(parts))[: rng.integers(1, 9)]]
        specials = [0] if round % 3 == 0 else []
        python, engine = Masks(pieces, specials, round % 3), EngineMasks(engine_library, pieces, specials, round % 3)
        for state in range(1, len(python.machine.real)):
            for remaining in (None, 0, 1, 2):
                assert np.array_equal(engine.mask(state, remaining), python.mask(state, remaining))


def test_masks_invalid_arguments_are_refused(engine_library):
    assert (
        EngineMasks(engine_library, [b"a"], [1]).error.value == b"specials: token id 1 is outside the vocabulary of 1"
    )
    assert EngineMasks(engine_library, [b"a"], [], 3).status == -4
    assert EngineMasks(engine_library, []).status == -4
