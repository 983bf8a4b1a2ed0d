import os
import struct
import zlib

import numpy as np
import pytest
import scipy.io

from posekit.data.mat_files import MatFileError, read_mat_array


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.mat"


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("kind", ["f8", "f4", "u1", "i2", "i8"])
def test_arrays_as_scipy_writes_them(path, compressed, kind):
    rng = np.random.default_rng(0)
    arrays = {"first": rng.integers(0, 100, (2, 5, 36, 3)).astype(kind), "s": np.array([[7]], kind)}
    scipy.io.savemat(path, {"text": "words", **arrays, "cells": np.array([1, "a"], object)}, do_compression=compressed)
    for name, array in arrays.items():
        found = read_mat_array(path, name)
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)


def test_numbers_stored_shorter_than_their_class(path):
    """As MATLAB itself stores doubles that are whole; and with the other byte order."""
    for order, mark in (("<", b"IM"), (">", b"MI")):
        body = struct.pack(order + "IIII", 6, 8, 6, 0) + struct.pack(order + "IIii", 5, 8, 2, 2)
        body += struct.pack(order + "I4s", 1 << 16 | 1, b"a")  # short parts: their length stands above their type
        body += struct.pack(order + "I", 4 << 16 | 2) + bytes([1, 2, 3, 4])
        head = b"MATLAB 5.0".ljust(124) + struct.pack(order + "H", 0x100) + mark
        path.write_bytes(head + struct.pack(order + "II", 14, len(body)) + body)
        found = read_mat_array(path, "a")
        assert found.dtype == np.float64 and found.tolist() == [[1, 3], [2, 4]]


def test_an_empty_array(path):
    scipy.io.savemat(path, {"a": np.zeros((0, 3))})
    with pytest.raises(MatFileError, match="'a' is empty"):
        read_mat_array(path, "a")


def test_the_shape_is_checked_before_the_numbers_are_read(path):
    scipy.io.savemat(path, {"a": np.zeros((3, 4))})

    def check(shape):
        raise KeyError(shape)

    with pytest.raises(KeyError, match="3, 4"):
        read_mat_array(path, "a", check)
    with pytest.raises(MatFileError, match="takes more than 90 bytes"):
        read_mat_array(path, "a", max_bytes=90)


@pytest.mark.parametrize(
    "value, message",
    [
        ("text", "no array of numbers"),
        (np.array([1, "a"], object), "no array of numbers"),
        ({"field": 1.0}, "no array of numbers"),
        (np.zeros((2, 2), complex), "complex"),
    ],
)
def test_things_that_are_no_numbers(path, value, message):
    scipy.io.savemat(path, {"a": value})
    with pytest.raises(MatFileError, match=message):
        read_mat_array(path, "a")


def test_files_that_are_none(tmp_path, path):
    with pytest.raises(FileNotFoundError):
        read_mat_array(path, "a")
    for content in (b"", b"no MATLAB", bytes(1000)):
        path.write_bytes(content)
        with pytest.raises(MatFileError, match="no MATLAB file of version 5 to 7; save it with -v7"):
            read_mat_array(path, "a")
    path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(126) + b"IM" + bytes(1000))
    with pytest.raises(MatFileError, match="HDF5 .version 7.3.; save it with -v7"):
        read_mat_array(path, "a")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(MatFileError, match="not a regular file"):
        read_mat_array(pipe, "a")
    scipy.io.savemat(path, {"b": np.zeros(3), "c": np.zeros(3)})
    with pytest.raises(MatFileError, match="no array 'a' but .'b', 'c'."):
        read_mat_array(path, "a")


def damaged(path, old, new):
    data = path.read_bytes()
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, new))


def test_claims_that_are_not_true(path):
    array = np.arange(540.0).reshape(1, 5, 36, 3)
    shape = struct.pack("<4i", 1, 5, 36, 3)

    def written(**options):
        scipy.io.savemat(path, {"a": array}, **options)

    written()
    damaged(path, shape, struct.pack("<4i", 1, 50_000_000, 36, 3))
    with pytest.raises(MatFileError, match="takes more than"):
        read_mat_array(path, "a")
    written()
    damaged(path, shape, struct.pack("<4i", 1, 500, 36, 3))
    with pytest.raises(MatFileError, match="holds 540 numbers, its shape .1, 500, 36, 3. says 54000"):
        read_mat_array(path, "a")
    written()
    damaged(path, shape, struct.pack("<4i", 1, -5, 36, 3))
    with pytest.raises(MatFileError, match="has the shape"):
        read_mat_array(path, "a")
    written()
    damaged(path, struct.pack("<II", 9, 4320), struct.pack("<II", 77, 4320))  # on which SciPy crashes
    with pytest.raises(MatFileError, match="numbers of an unknown type .77."):
        read_mat_array(path, "a")
    written()
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(MatFileError, match="an array claims 43.. bytes, 1864 are left"):
        read_mat_array(path, "a")
    written(do_compression=True)
    data = path.read_bytes()
    packed = zlib.compress(zlib.decompress(data[136:])[:1000])
    path.write_bytes(data[:128] + struct.pack("<II", 15, len(packed)) + packed)
    with pytest.raises(MatFileError, match="an array is cut short"):
        read_mat_array(path, "a")
    packed = bytes([packed[0], packed[1], *[255] * 50])
    path.write_bytes(data[:128] + struct.pack("<II", 15, len(packed)) + packed)
    with pytest.raises(MatFileError, match="an array is damaged"):
        read_mat_array(path, "a")


def test_damage_anywhere_is_refused_or_harmless(path):
    rng = np.random.default_rng(0)
    for compressed in (False, True):
        scipy.io.savemat(path, {"a": rng.random((2, 3, 36, 3)), "b": np.zeros(3)}, do_compression=compressed)
        whole = path.read_bytes()
        for _ in range(400):
            data = bytearray(whole)
            for place in rng.integers(100, 400 if rng.random() < 0.7 else len(data), 3):
                data[place] = rng.integers(256)
            path.write_bytes(data)
            try:
                read_mat_array(path, "a", max_bytes=1 << 24)
            except MatFileError:
                pass
