"""The engine's functions for models, as ctypes calls them. `engine/edgekit.h` documents each."""

import ctypes
from ctypes import POINTER, byref, c_char_p, c_float, c_int, c_size_t, c_uint32, c_uint64, c_void_p

from edgekit.errors import (
    CheckpointError,
    ContextError,
    EdgekitError,
    MissingExtraError,
    RuntimeFailure,
    UnsupportedError,
)
from edgekit.utils import registry
from edgekit.utils.engine import ALIGNMENT, Error, library

KV_TYPES = {"f32": 1, "f16": 2, "int8": 3}

NO_LIBRARY = (
    "native needs the C engine, which is compiled when edgekit is installed, and no C compiler was there then: install "
    f"gcc or clang (or set CC='python -m ziglang cc' after pip install ziglang), then pip install --force-reinstall "
    f"--no-deps --no-binary :all: {registry.DISTRIBUTION}"
)


class Info(ctypes.Structure):
    """`ek_info`."""

    _fields_ = [
        *((name, c_uint32) for name in "vocabulary hidden intermediate layers heads kv_heads head_dim context".split()),
        *((name, c_float) for name in "epsilon rope_theta rope_factor".split()),
        *((name, c_uint32) for name in "tied biases".split()),
        *((name, c_uint64) for name in "parameters step_bytes".split()),
    ]  # fmt: skip


class Options(ctypes.Structure):
    """`ek_options`."""

    _fields_ = [
        *((name, c_uint32) for name in "context kv batch direct".split()),
        ("instructions", c_char_p),
        ("threads", c_void_p),
    ]


ERRORS: dict[int, type[EdgekitError]] = {-1: CheckpointError, -2: UnsupportedError, -5: ContextError}


def engine() -> ctypes.CDLL:
    """The library, with prototypes. Raises `MissingExtraError` if it was not built."""
    found = library()
    if found is None:
        raise MissingExtraError(NO_LIBRARY)
    prototypes = {
        "ek_instructions": (c_char_p, [c_uint32]),
        "ek_all_finite": (c_int, [c_uint32, c_void_p, c_size_t]),
        "ek_inspect": (c_int, [c_void_p, c_size_t, POINTER(Info), POINTER(Error)]),
        "ek_model_size": (c_int, [c_void_p, c_size_t, POINTER(Options), POINTER(c_size_t), POINTER(Error)]),
        "ek_model_open": (
            c_int,
            [c_void_p, c_size_t, POINTER(Options), c_void_p, c_size_t, POINTER(c_void_p), POINTER(Error)],
        ),
        "ek_model_instructions": (c_char_p, [c_void_p]),
        "ek_forward": (c_int, [c_void_p, c_void_p, c_size_t, c_void_p, c_int]),
        "ek_rewind": (c_int, [c_void_p, c_size_t]),
        "ek_threads_size": (c_size_t, [c_uint32]),
        "ek_threads_open": (c_int, [c_uint32, c_void_p, c_size_t, POINTER(c_void_p), POINTER(Error)]),
        "ek_threads_close": (None, [c_void_p]),
    }
    for name, (result, arguments) in prototypes.items():
        function = getattr(found, name)
        function.restype, function.argtypes = result, arguments
    return found


def check(status: int, error: Error, where: object) -> None:
    """Raise what a status other than EK_OK means: `CheckpointError`, `UnsupportedError` or `RuntimeFailure`."""
    if status:
        text = error.text.decode("utf-8", "replace") or f"status {status}"
        raise ERRORS.get(status, RuntimeFailure)(f"{where}: {text}")


__all__ = ["ALIGNMENT", "KV_TYPES", "Error", "Info", "Options", "byref", "c_size_t", "c_void_p", "check", "engine"]
