"""The sampling settings that the engine reads from a GGUF file compared with those that Python reads."""

import ctypes
import json
import struct

import numpy as np
import pytest
from test_engine_generate import How

from edgekit.conversion import convert
from edgekit.formats import generation_config
from edgekit.formats.gguf import GGUFFile
from edgekit.inference.engine_sampler import Settings
from edgekit.settings import Converting, Generating

NAMES = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
FLOAT, INTEGER, FLAG = 6, 5, 7


def file_of(keys: dict[str, tuple[int, float]]) -> bytes:
    """A GGUF file without tensors, of keys with their types and values."""
    data = b"GGUF" + struct.pack("<IQQ", 3, 0, len(keys))
    for name, (kind, value) in keys.items():
        form = {FLOAT: "<f", INTEGER: "<i", FLAG: "<B"}[kind]
        data += struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", kind) + struct.pack(form, value)
    return data


def read(library, data: bytes) -> How:
    how, error = How(), ctypes.create_string_buffer(256)
    if library.ek_generating_defaults(data, ctypes.c_size_t(len(data)), ctypes.byref(how), error):
        raise ValueError(error.value.decode())
    return how


def python(keys) -> Generating:
    """What edgekit uses for the same file, as its own reader sees the values."""
    values = {k: float(np.float32(v)) if kind == FLOAT else v for k, (kind, v) in keys.items()}
    config = generation_config.from_gguf(values)
    return generation_config.defaults({"generation_config.json": json.dumps(config).encode()} if config else {})


def same(sampling: Settings, settings: Generating) -> None:
    assert {name: getattr(sampling, name) for name in NAMES} == {name: getattr(settings, name) for name in NAMES}


@pytest.mark.parametrize("seed", range(60))
def test_engine_reads_the_defaults_of_a_file_as_python_does(engine_library, seed):
    rng = np.random.default_rng(seed)
    keys = {
        "general.sampling.temp": (FLOAT, float(rng.choice([0.0, 0.7, 0.8, 1.0, rng.random() * 2]))),
        "general.sampling.top_k": (INTEGER, int(rng.integers(0, 200))),
        "general.sampling.top_p": (FLOAT, round(float(rng.random()), int(rng.integers(1, 4)))),
        "general.sampling.min_p": (FLOAT, round(float(rng.random()), 2)),
        "general.sampling.penalty_repeat": (FLOAT, round(float(rng.random()) + 0.5, 2)),
        "general.sampling.penalty_last_n": (INTEGER, 64),
    }
    keys = {name: value for name, value in keys.items() if rng.random() < 0.7}
    same(read(engine_library, file_of(keys)).sampling, python(keys))


def test_a_file_without_settings_is_greedy(engine_library):
    how = read(engine_library, file_of({"general.sampling.mirostat": (INTEGER, 1)}))
    same(how.sampling, Generating())
    assert how.max_new_tokens == Generating().max_new_tokens and not how.ban_replacement


def test_a_value_that_is_a_flag_counts_as_absent(engine_library):
    assert read(engine_library, file_of({"general.sampling.temp": (FLAG, 1)})).sampling.temperature == 0


@pytest.mark.parametrize("name, value", [
    ("temp", -1.0), ("temp", float("nan")), ("temp", float("inf")), ("top_p", 1.5), ("min_p", -0.1),
    ("penalty_repeat", 0.0),
])  # fmt: skip
def test_settings_out_of_range_are_named(engine_library, name, value):
    with pytest.raises(ValueError, match=f"general.sampling.{name} is out of range"):
        read(engine_library, file_of({f"general.sampling.{name}": (FLOAT, value)}))


def test_a_file_that_is_cut_short_is_damaged_and_leaves_plain_settings(engine_library):
    data = file_of({"general.sampling.temp": (FLOAT, 0.8)})
    how, error = How(), ctypes.create_string_buffer(256)
    for length in range(len(data)):
        assert engine_library.ek_generating_defaults(data, ctypes.c_size_t(length), ctypes.byref(how), error) < 0
        assert error.value and how.sampling.top_p == 1 and how.sampling.temperature == 0


def test_the_bundled_models_file_has_the_settings_of_its_folder(engine_library, bundled, tmp_path):
    path, *_ = convert.convert(bundled, "gguf", tmp_path / "m.gguf", settings=Converting("q4_0"), verify=False)
    settings = generation_config.defaults(GGUFFile(path).files())
    assert settings.temperature > 0 and settings.repetition_penalty != 1
    same(read(engine_library, path.read_bytes()).sampling, settings)
