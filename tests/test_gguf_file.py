"""The GGUF reader: equal to the `gguf` package on whole files, one clear line for all others."""

import struct
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit.errors import CheckpointError, FileError
from edgekit.formats import gguf as gguf_file
from edgekit.formats.gguf import GGUFFile

gguf = pytest.importorskip("gguf")


def string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def header(keys: int, tensors: int, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys)


def key(name: bytes, kind: int, value: bytes) -> bytes:
    return string(name) + struct.pack("<I", kind) + value


def array(kind: int, count: int) -> bytes:
    return struct.pack("<IQ", kind, count)


def tensor(name: bytes, shape=(4,), kind=0, offset=0) -> bytes:
    return string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 32)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> bytes:
    """A file with every kind of value, written by the `gguf` package."""
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint8("k.u8", 200)
    writer.add_int8("k.i8", -3)
    writer.add_uint16("k.u16", 60000)
    writer.add_int16("k.i16", -300)
    writer.add_uint32("k.u32", 1 << 31)
    writer.add_int32("k.i32", -7)
    writer.add_uint64("k.u64", 1 << 40)
    writer.add_int64("k.i64", -(1 << 40))
    writer.add_float32("k.f32", 0.5)
    writer.add_float64("k.f64", 0.1)
    writer.add_bool("k.yes", True)
    writer.add_string("k.text", "héllo")
    writer.add_array("k.texts", ["a", "", "▁b"])
    writer.add_array("k.numbers", [1, -2, 3])
    writer.add_array("k.floats", [0.5, 1.5])
    writer.add_array("k.truths", [True, False])
    writer.add_array("k.bytes", b"\x00\xff\x7f")
    writer.add_tensor("one", np.arange(6, dtype=np.float32).reshape(2, 3))
    writer.add_tensor("two", np.arange(5, dtype=np.float16))
    blocks = gguf.quantize(np.ones((2, 64), np.float32), gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("three", blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def opened(tmp_path, data: bytes) -> GGUFFile:
    path = tmp_path / "x.gguf"
    path.write_bytes(data)
    return GGUFFile(path)


def test_metadata_every_kind_of_value(tmp_path, small):
    file = opened(tmp_path, small)
    values = {k: v for k, v in file.metadata.items() if k.startswith("k.")}
    arrays = {k: v.tolist() for k, v in values.items() if isinstance(v, np.ndarray)}
    assert file.version == 3 and file.size == len(small)
    assert {k: v for k, v in values.items() if k not in arrays} == {
        "k.u8": 200, "k.i8": -3, "k.u16": 60000, "k.i16": -300, "k.u32": 1 << 31, "k.i32": -7, "k.u64": 1 << 40,
        "k.i64": -(1 << 40), "k.f32": 0.5, "k.f64": 0.1, "k.yes": True, "k.text": "héllo", "k.texts": ["a", "", "▁b"],
    }  # fmt: skip
    assert arrays == {
        "k.numbers": [1, -2, 3], "k.floats": [0.5, 1.5], "k.truths": [True, False], "k.bytes": [0, 255, 127],
    }  # fmt: skip
    assert values["k.truths"].dtype == np.bool_ and values["k.bytes"].dtype == np.uint8
    shapes = {name: (info.shape, info.type, info.bytes) for name, info in file.tensors.items()}
    assert shapes == {"one": ((2, 3), "F32", 24), "two": ((5,), "F16", 10), "three": ((2, 64), "Q8_0", 136)}
    assert (file.data("one").view(np.float32) == np.arange(6)).all()
    assert (file.data("two").view(np.float16) == np.arange(5)).all()


def test_foreign_file_equals_gguf_package(shared):
    path = shared / "models" / "stories260K" / "stories260K.f32.gguf"
    file, reader = GGUFFile(path), gguf.GGUFReader(path)
    theirs = {k: f.contents() for k, f in reader.fields.items() if not k.startswith("GGUF.")}
    ours = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in file.metadata.items()}
    assert ours == theirs
    assert list(file.tensors) == [t.name for t in reader.tensors]
    for t in reader.tensors:
        info = file.tensors[t.name]
        assert info.shape == tuple(int(n) for n in t.shape)[::-1] and info.type == t.tensor_type.name
        assert info.offset == t.data_offset and (file.data(t.name) == np.asarray(t.data).view(np.uint8).ravel()).all()


def test_types_equal_gguf_package():
    for kind, sizes in gguf.GGML_QUANT_SIZES.items():
        if kind.name != "Q8_1":  # 36 bytes in ggml (two float16 and 32 int8); 40 in the package
            assert gguf_file.BLOCKS[kind.name] == sizes and gguf_file.NUMBER[kind.name] == kind.value


def test_metadata_bytes_not_utf8_round_trip(tmp_path):
    data = header(1, 0) + key(b"t", gguf_file.ARRAY, array(gguf_file.STRING, 2) + string(b"\xff\xe2") + string(b"ok"))
    assert [t.encode("utf-8", "surrogateescape") for t in opened(tmp_path, data).metadata["t"]] == [b"\xff\xe2", b"ok"]


def test_version_2_and_other_alignments_are_read(tmp_path):
    data = header(1, 1, 2) + key(b"general.alignment", gguf_file.UINT32, struct.pack("<I", 256)) + tensor(b"w")
    data += bytes(-len(data) % 256) + np.arange(4, dtype=np.float32).tobytes()
    assert opened(tmp_path, data).data("w").view(np.float32).tolist() == [0, 1, 2, 3]


BAD = {
    "empty": (b"", "not a GGUF file"),
    "foreign": (b"PK\3\4" + bytes(100), "not a GGUF file"),
    "header only": (b"GGUF", "ends inside the header"),
    "version 1": (header(0, 0, 1), "GGUF version 1"),
    "big endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    "absurd keys": (header(1 << 60, 0) + bytes(64), "claims 1152921504606846976 keys"),
    "absurd tensors": (header(0, 1 << 60) + bytes(64), "claims 1152921504606846976 tensors"),
    "long name": (header(1, 0) + struct.pack("<Q", 1 << 50) + bytes(64), "key 1 of 1 has a name"),
    "long text": (header(1, 0) + key(b"t", 8, struct.pack("<Q", 1 << 62)) + bytes(64), "ends inside key 't'"),
    "long array": (header(1, 0) + key(b"t", 9, array(0, 1 << 62)) + bytes(64), "key 't' claims"),
    "long array of texts": (header(1, 0) + key(b"t", 9, array(8, 1 << 40)) + bytes(64), "key 't' claims"),
    "array bomb": (header(1, 0) + key(b"t", 9, array(9, 2) + array(9, 2)) + bytes(64), "array of arrays"),
    "unknown type": (header(1, 0) + key(b"t", 77, bytes(64)), "key 't' has the unknown type 77"),
    "unknown array": (header(1, 0) + key(b"t", 9, array(50, 1) + bytes(64)), "items of the unknown type 50"),
    "twice": (header(2, 0) + key(b"t", 0, b"\1") * 2 + bytes(32), "key 't' occurs twice"),
    "bad truth": (header(1, 0) + key(b"t", 7, b"\5"), "boolean of value 5"),
    "bad alignment": (header(1, 0) + key(b"general.alignment", 4, struct.pack("<I", 3)), "power of two, not 3"),
    "zero alignment": (header(1, 0) + key(b"general.alignment", 4, bytes(4)), "power of two, not 0"),
    "five dimensions": (padded(header(0, 1) + tensor(b"w", (1,) * 5)) + bytes(64), "has 5 dimensions"),
    "no dimension": (padded(header(0, 1) + tensor(b"w", ())) + bytes(64), "has 0 dimensions"),
    "empty tensor": (padded(header(0, 1) + tensor(b"w", (0,))) + bytes(64), "impossible shape"),
    "absurd shape": (padded(header(0, 1) + tensor(b"w", (1 << 40, 1 << 40))) + bytes(64), "impossible shape"),
    "removed type": (padded(header(0, 1) + tensor(b"w", (32,), 4)) + bytes(64), "unknown type 4"),
    "half a block": (padded(header(0, 1) + tensor(b"w", (33,), 8)) + bytes(64), "do not divide"),
    "tensor twice": (padded(header(0, 2) + tensor(b"w") * 2) + bytes(64), "tensor 'w' occurs twice"),
    "cut off": (padded(header(0, 1) + tensor(b"w")) + bytes(15), "reaches past the end"),
    "offset": (padded(header(0, 1) + tensor(b"w", offset=64)) + bytes(256), "begins at 64"),
    "overlap": (padded(header(0, 2) + tensor(b"v") + tensor(b"w")) + bytes(256), "begins at 0 of the data, not at 32"),
}


@pytest.mark.parametrize("data, message", BAD.values(), ids=BAD)
def test_bad_file_names_what_is_wrong(tmp_path, data, message):
    with pytest.raises(CheckpointError, match="x.gguf: ") as caught:
        opened(tmp_path, data)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_unreadable_file_raises(tmp_path):
    for path in (tmp_path, tmp_path / "none.gguf"):
        with pytest.raises(FileError, match="cannot read"):
            GGUFFile(path)


def test_many_empty_strings_are_fast(tmp_path):
    count = 1 << 20
    data = header(1, 0) + key(b"t", 9, array(8, count)) + bytes(8 * count)
    began = time.perf_counter()
    assert len(opened(tmp_path, data).metadata["t"]) == count
    assert time.perf_counter() - began < 5


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_file_opens_or_raises(tmp_path, small, data):
    """Random bytes over a real file, and cuts of it: a `GGUFFile` or a `CheckpointError`, in little memory."""
    mutated = bytearray(small)
    for _ in range(data.draw(st.integers(0, 4))):
        place = data.draw(st.integers(0, len(mutated) - 1))
        wide = data.draw(st.sampled_from([b"\xff" * 8, b"\0" * 8, struct.pack("<Q", 1 << 33), None]))
        new = wide or data.draw(st.binary(min_size=1, max_size=9))
        mutated[place : place + len(new)] = new
    cut = data.draw(st.integers(0, len(mutated)) | st.just(len(mutated)))
    path = tmp_path / "mutated.gguf"
    path.write_bytes(bytes(mutated[:cut]))
    tracemalloc.start()
    try:
        file = GGUFFile(path)
        for name, info in file.tensors.items():
            assert file.data(name).size == info.bytes
    except CheckpointError as error:
        assert "\n" not in str(error)
    finally:
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
        tracemalloc.stop()


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(junk=st.binary(max_size=300))
def test_junk_after_magic_raises(tmp_path, junk):
    path = tmp_path / "junk.gguf"
    path.write_bytes(b"GGUF\3\0\0\0" + junk)
    try:
        GGUFFile(path)
    except CheckpointError as error:
        assert "\n" not in str(error)
