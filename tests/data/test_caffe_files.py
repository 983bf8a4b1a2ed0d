"""Caffe's files, written here byte by byte after the protocol-buffer encoding, old and new kinds of layers."""

import tracemalloc

import numpy as np
import pytest

from posekit.data import caffe_files
from posekit.data.caffe_files import read_caffemodel


def varint(value):
    found = b""
    while value > 127:
        found, value = found + bytes([value & 127 | 128]), value >> 7
    return found + bytes([value])


def entry(field, content):
    """One entry: bytes with their length, or a number."""
    if isinstance(content, int):
        return varint(field << 3) + varint(content)
    return varint(field << 3 | 2) + varint(len(content)) + content


def new_blob(array):
    return entry(7, entry(1, b"".join(map(varint, array.shape)))) + entry(5, array.astype("<f4").tobytes())


def old_blob(array):
    shape = (1,) * (4 - array.ndim) + array.shape
    numbers = b"".join(varint(5 << 3 | 5) + value.tobytes() for value in array.astype("<f4").ravel())
    return b"".join(entry(place, size) for place, size in enumerate(shape, 1)) + numbers


def new_layer(name, *arrays):
    blobs = b"".join(entry(7, new_blob(array)) for array in arrays)
    return entry(100, entry(1, name.encode()) + entry(2, b"Convolution") + entry(3, b"data") + blobs)


def old_layer(name, *arrays):
    return entry(2, entry(4, name.encode()) + entry(5, 4) + b"".join(entry(6, old_blob(array)) for array in arrays))


KERNEL, BIAS = np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2), np.array([0.5, -1], np.float32)


@pytest.mark.parametrize("layer", [new_layer, old_layer])
def test_layers_with_blobs_are_read(tmp_path, layer):
    path = tmp_path / "x.caffemodel"
    unknown = varint(7 << 3 | 1) + b"8" * 8
    path.write_bytes(entry(1, b"net") + new_layer("relu") + layer("conv1_1", KERNEL, BIAS) + unknown)
    found = read_caffemodel(path)
    assert list(found) == ["conv1_1"]
    np.testing.assert_array_equal(found["conv1_1"][0], KERNEL)
    np.testing.assert_array_equal(found["conv1_1"][1].ravel(), BIAS)


def test_values_in_double_precision(tmp_path):
    blob = entry(7, entry(1, 2)) + entry(8, BIAS.astype("<f8").tobytes())
    (tmp_path / "x").write_bytes(entry(100, entry(1, b"a") + entry(7, blob)))
    np.testing.assert_array_equal(read_caffemodel(tmp_path / "x")["a"][0], BIAS)


def test_values_with_an_entry_each_take_no_memory_of_their_own(tmp_path, monkeypatch):
    values = np.arange(50_000, dtype=np.float32)
    (tmp_path / "x").write_bytes(old_layer("a", values))
    tracemalloc.start()
    try:
        (found,) = read_caffemodel(tmp_path / "x")["a"]
        assert tracemalloc.get_traced_memory()[1] < 5 * values.nbytes
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(found.ravel(), values)
    monkeypatch.setattr(caffe_files, "_MAX_ENTRIES", 50_003)
    with pytest.raises(ValueError, match="more than 50003 entries"):
        read_caffemodel(tmp_path / "x")


WHOLE = new_layer("conv1_1", KERNEL, BIAS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes"),
        (WHOLE[:-1], "are left"),
        (WHOLE[:1], "within a number"),
        (b"\x00\x00", "without a number"),
        (b"\x0b", "unknown kind"),
        (b"\x08" + b"\xff" * 11, "too long"),
        (entry(1, b"net"), "no layers"),
        (entry(100, entry(7, entry(7, entry(1, varint(1 << 40))) + entry(5, b"1234"))), "with 1 values"),
        (entry(100, entry(7, entry(5, b"123"))), "3 bytes"),
        (entry(100, entry(7, entry(5, b"1234") + entry(8, b"12345678"))), "single and in double"),
        (entry(100, entry(7, entry(7, entry(1, b"\x01" * 99)))), "axes"),
        (entry(100, b"".join(entry(7, entry(5, b"1234") + entry(1, 1)) for _ in range(2))), "shape"),
        (entry(1, b"") * 10_002, "more than 10000"),
        (b"\x89HDF\r\n\x1a\n" + b"0" * 99, "no .caffemodel"),
    ],
)
def test_damaged_files_are_refused(tmp_path, content, message):
    (tmp_path / "x.caffemodel").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_caffemodel(tmp_path / "x.caffemodel")


def test_every_cut_and_every_changed_byte_is_answered(tmp_path):
    rng = np.random.default_rng(0)
    for cut in range(1, len(WHOLE)):
        content = bytearray(WHOLE[:cut] if cut % 2 else WHOLE)
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
        (tmp_path / "x").write_bytes(content)
        try:
            read_caffemodel(tmp_path / "x")
        except ValueError as error:
            assert "x" in str(error)
