"""Models for tests of the C engine: seeded GGUF files of every type, and the library's model behind a small class."""

import ctypes
from pathlib import Path

import numpy as np

from edgekit.formats.checkpoint import LlamaConfig
from edgekit.formats.gguf import BLOCKS
from edgekit.formats.gguf_config import llama_keys
from edgekit.formats.gguf_tensors import ROPE, file_shapes
from edgekit.formats.gguf_write import write
from edgekit.formats.rope import RopeScaling, divisors

TYPES = "F32 F16 BF16 Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 IQ4_NL Q4_K Q5_K Q6_K".split()
CACHES = {"f32": 1, "f16": 2, "i8": 3}

GROUPED = LlamaConfig(
    vocab_size=300,
    hidden_size=256,
    intermediate_size=512,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=64,
    max_position_embeddings=128,
    tie_word_embeddings=True,
)

# Where a block has float16 numbers, and their sizes: scales, then minima, that make weights of about 0.05.
SCALES = {
    "Q8_0": {0: 5e-4},
    "Q4_0": {0: 1e-2},
    "Q4_1": {0: 1e-2, 2: -7.5e-2},
    "Q5_0": {0: 5e-3},
    "Q5_1": {0: 5e-3, 2: -7.5e-2},
    "IQ4_NL": {0: 7e-4},
    "Q4_K": {0: 3e-4, 2: 2.2e-3},
    "Q5_K": {0: 1.5e-4, 2: 2.2e-3},
    "Q6_K": {208: 3e-5},
}


def seeded_gguf(path: Path, kind: str, config: LlamaConfig = GROUPED, *, seed: int = 0) -> Path:
    """A file whose matrices are random blocks of the type `kind`: the same bytes on every machine."""
    rng = np.random.Generator(np.random.PCG64(seed))
    shapes, data, infos = file_shapes(config), [], []
    for name, shape in shapes.items():
        stored = kind if len(shape) == 2 else "F32"
        infos.append((name, shape, stored))
        if name == ROPE:
            data.append(divisors(config.head_dim, config.rope_theta, config.rope_scaling))
        elif name.endswith("norm.weight"):
            data.append((rng.integers(900, 1100, shape) / 1000).astype(np.float32))
        else:
            data.append(random_blocks(rng, stored, shape))
    write(path, {"general.architecture": "llama", **llama_keys(config)}, infos, data)
    return path


def random_blocks(rng: np.random.Generator, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    """A tensor's bytes, shape (blocks, bytes of a block)."""
    elements, size = BLOCKS[kind]
    count = int(np.prod(shape)) // elements
    if kind in ("F32", "F16", "BF16"):
        values = ((rng.integers(-1000, 1001, count) + rng.integers(-1000, 1001, count)) / 14000).astype(np.float32)
        if kind == "BF16":
            return (values.view(np.uint32) >> 16).astype(np.uint16)
        return values.astype(np.float16) if kind == "F16" else values
    blocks = rng.integers(0, 256, (count, size), dtype=np.uint8)
    for at, scale in SCALES[kind].items():
        values = (scale * rng.integers(700, 1300, count) / 1000).astype(np.float16)
        blocks[:, at : at + 2] = values.view(np.uint8).reshape(count, 2)
    return blocks


VARIANTS = {
    "grouped": GROUPED,
    "biases": LlamaConfig(**{**vars(GROUPED), "attention_bias": True, "mlp_bias": True}),
    "untied": LlamaConfig(**{**vars(GROUPED), "tie_word_embeddings": False, "vocab_size": 33}),
    "linear": LlamaConfig(**{**vars(GROUPED), "rope_scaling": RopeScaling("linear", 3.0)}),
    "llama3": LlamaConfig(**{**vars(GROUPED), "rope_scaling": RopeScaling("llama3", 8.0, 1.0, 4.0, 64)}),
    "one key head": LlamaConfig(**{**vars(GROUPED), "num_key_value_heads": 1, "head_dim": 80}),
    "small heads": LlamaConfig(
        **{**vars(GROUPED), "num_attention_heads": 6, "num_key_value_heads": 6, "head_dim": 24, "rope_theta": 500.0}
    ),
    "odd widths": LlamaConfig(
        **{**vars(GROUPED), "hidden_size": 65, "intermediate_size": 43, "head_dim": 6, "vocab_size": 31}
    ),
}
"""Shapes for F32: one head of keys for all, heads and widths that do not fill tiles, every option."""


class Info(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_uint32) for name in "vocabulary hidden intermediate layers heads kv_heads head_dim".split()),
        *(("context", ctypes.c_uint32), ("epsilon", ctypes.c_float), ("rope_theta", ctypes.c_float)),
        *(("rope_factor", ctypes.c_float), ("tied", ctypes.c_uint32), ("biases", ctypes.c_uint32)),
        *(("parameters", ctypes.c_uint64), ("step_bytes", ctypes.c_uint64)),
    ]


class Options(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_uint32) for name in ("context", "kv", "batch", "direct")),
        *(("instructions", ctypes.c_char_p), ("threads", ctypes.c_void_p)),
    ]


class EngineError(Exception):
    """A status below 0, and the engine's sentence."""


def aligned(size: int) -> np.ndarray:
    """Bytes at a multiple of 64, not zero."""
    block = np.full(size + 64, 0xA5, np.uint8)
    return block[-block.ctypes.data % 64 :][:size]


def pointer(array: np.ndarray) -> ctypes.c_void_p:
    return array.ctypes.data_as(ctypes.c_void_p)


def inspect(library: ctypes.CDLL, data: bytes) -> Info:
    info, text = Info(), ctypes.create_string_buffer(256)
    status = library.ek_inspect(data, ctypes.c_size_t(len(data)), ctypes.byref(info), text)
    if status:
        raise EngineError(status, text.value.decode())
    return info


class Threads:
    """A pool of the engine's threads."""

    def __init__(self, library: ctypes.CDLL, count: int):
        self.library = library
        library.ek_threads_size.restype = ctypes.c_size_t
        size = library.ek_threads_size(count)
        self.block, self.handle, text = aligned(size), ctypes.c_void_p(), ctypes.create_string_buffer(256)
        status = library.ek_threads_open(
            count, pointer(self.block), ctypes.c_size_t(size), ctypes.byref(self.handle), text
        )
        if status:
            raise EngineError(status, text.value.decode())

    def close(self) -> None:
        self.library.ek_threads_close(self.handle)


class Model:
    """An open model. `options` are those of `ek_options`; kv by name."""

    def __init__(self, library: ctypes.CDLL, data: bytes, *, kv="f32", threads=None, instructions=None, **options):
        self.library, self.data = library, data
        self.threads = threads  # must live as long as the model
        length, text, size = ctypes.c_size_t(len(data)), ctypes.create_string_buffer(256), ctypes.c_size_t()
        given = Options(
            kv=CACHES[kv],
            threads=threads and threads.handle.value,
            instructions=instructions and instructions.encode(),
            **options,
        )
        self.check(library.ek_model_size(data, length, ctypes.byref(given), ctypes.byref(size), text), text)
        self.block, self.handle = aligned(size.value), ctypes.c_void_p()
        status = library.ek_model_open(
            data, length, ctypes.byref(given), pointer(self.block), size, ctypes.byref(self.handle), text
        )
        self.check(status, text)
        library.ek_model_info.restype = ctypes.POINTER(Info)
        library.ek_length.restype = library.ek_state_size.restype = ctypes.c_size_t
        self.info = library.ek_model_info(self.handle).contents

    def check(self, status: int, text=None) -> None:
        if status:
            raise EngineError(status, text.value.decode() if text else "")

    @property
    def length(self) -> int:
        return self.library.ek_length(self.handle)

    def forward(self, tokens, *, every=True) -> np.ndarray:
        """float32 (tokens, vocabulary), or (vocabulary,) for the last."""
        tokens = np.asarray(tokens, np.uint32)
        logits = np.full((len(tokens), self.info.vocabulary) if every else self.info.vocabulary, np.nan, np.float32)
        self.check(
            self.library.ek_forward(
                self.handle, pointer(tokens), ctypes.c_size_t(len(tokens)), pointer(logits), int(every)
            )
        )
        return logits

    def rewind(self, length: int) -> None:
        self.check(self.library.ek_rewind(self.handle, ctypes.c_size_t(length)))

    def save(self) -> np.ndarray:
        state = np.empty(self.library.ek_state_size(self.handle), np.uint8)
        self.check(self.library.ek_state_save(self.handle, pointer(state), ctypes.c_size_t(len(state))))
        return state

    def load(self, state: np.ndarray) -> None:
        self.check(self.library.ek_state_load(self.handle, pointer(state), ctypes.c_size_t(len(state))))


def instruction_sets(library: ctypes.CDLL) -> list[str]:
    """Names of the sets that this processor can run."""
    library.ek_instructions.restype = ctypes.c_char_p
    names, at = [], 0
    while (name := library.ek_instructions(at)) is not None:
        names.append(name.decode())
        at += 1
    return names
