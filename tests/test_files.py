"""Files from elsewhere: whatever a malformed one holds, the message names the file and the entry."""

import os
import zipfile

import numpy as np
import pytest

from posekit.files import (
    check_place,
    npz_entries,
    npz_entry,
    read_npz,
    reading_npz,
    regular_file,
    replacing,
    write_file,
)

GOOD = {"descr": "<f8", "fortran_order": False, "shape": (2, 3)}


def header(text):
    return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text


def array(**changes):
    return header(repr({**GOOD, **changes}).encode() + b"\n") + np.arange(6.0).tobytes()


def put(path, data, compression=zipfile.ZIP_STORED, name="x.npy"):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("good.npy", array())
        archive.writestr(name, data)
    return path


def test_good_entries_are_read(tmp_path):
    path = put(tmp_path / "a.npz", array(), zipfile.ZIP_LZMA)
    np.testing.assert_array_equal(read_npz(path, ["x", "other"])["x"], np.arange(6.0).reshape(2, 3))
    assert npz_entries(path) == ["good", "x"]
    with reading_npz(path) as archive, npz_entry(archive, "x") as (file, shape, dtype):
        assert shape == (2, 3) and dtype == np.float64 and file.read() == np.arange(6.0).tobytes()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no array",
        array()[:20],
        array()[:-8],
        array(shape=(10**30, 3)),
        array(shape=(2**62, 2**62)),
        array(shape=(-2, -3)),
        array(shape=(2, "3")),
        array(descr="|V0", shape=(10**9, 10**9)),
        array(descr="|S0", shape=(10**12,)),
        array(descr="nothing"),
        array(descr=[("a", "|O")]),
        array(descr="|O"),
        array(other=1),
        header(b"{'descr': '<f8', 'shape': (3,"),
        header(b"{'descr': '<f8', 'fortran_order': False, 'shape': " + b"-" * 9000 + b"1, }"),
        header(b"(" * 9000),
        header(b"\xff" * 100),
        b"\x93NUMPY\2\0" + (2**32 - 1).to_bytes(4, "little") + bytes(100),
        b"\x93NUMPY\3\0" + array()[8:],
    ],
    ids=range(20),
)
def test_entries_that_make_no_sense_are_named(tmp_path, data):
    path = put(tmp_path / "a.npz", data)
    with pytest.raises(ValueError, match=r"a\.npz cannot be read as \.npz: (entry 'x' .|there is not enough memory)"):
        read_npz(path, ["good", "x"])
    assert list(read_npz(path, ["good"])) == ["good"]


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damaged_compression_is_named(tmp_path, compression):
    path = put(tmp_path / "a.npz", array(shape=(1000,)) + bytes(8000), compression)
    data = path.read_bytes()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        damaged = bytearray(data)
        for place in rng.integers(len(data), size=3):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            read_npz(path, ["good", "x"])
        except ValueError as error:
            assert "a.npz cannot be read as .npz" in str(error)
        npz_entries(path)


def test_entries_that_are_no_arrays_are_not_listed(tmp_path):
    assert npz_entries(put(tmp_path / "a.npz", b"text", name="x")) == ["good"]
    assert npz_entries(tmp_path / "none.npz") == [] and npz_entries(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes among its files")
def test_pipes_and_devices_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    for path in (tmp_path / "pipe.npz", tmp_path, "/dev/null"):
        with pytest.raises(ValueError, match="is not a regular file"):
            regular_file(path)
        with pytest.raises(ValueError, match="is not a regular file"):
            read_npz(path, ["x"])
        assert npz_entries(path) == []
    for path in (tmp_path / "none", "a\0b"):
        with pytest.raises(FileNotFoundError, match="does not exist"):
            regular_file(path)
    (tmp_path / "link.npz").symlink_to(put(tmp_path / "a.npz", array()))
    assert regular_file(tmp_path / "link.npz").name == "link.npz"


def test_memory_that_is_not_there_is_said(tmp_path):
    path = put(tmp_path / "a.npz", array())
    with pytest.raises(ValueError, match=r"a\.npz .*not enough memory"), reading_npz(path):
        raise MemoryError
    with pytest.raises(ValueError, match="limit of 95"):
        read_npz(path, ["good", "x"], max_bytes=95)
    path.write_bytes(b"PK junk")
    with pytest.raises(ValueError, match=r"a\.npz cannot be read"):
        read_npz(path, ["x"])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a\0b.gif", "null byte"),
        ("a" * 300 + ".gif", "too long"),
        ("file/a.gif", "Not a directory"),
        ("folder.gif", "it is a folder"),
        ("", "it is a folder"),
        ("pipe", "it is a pipe"),
    ],
)
def test_places_that_take_no_file_are_said_beforehand(tmp_path, name, words):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder.gif").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for write in (check_place, lambda path: write_file(path, b"x")):
        with pytest.raises(OSError, match="Cannot write"):
            write(tmp_path / name)
    with pytest.raises(OSError, match=f"{words}.*Give"):
        check_place(tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.gif", "pipe"]
    assert not os.path.isfile(tmp_path / "pipe")


def test_devices_are_not_replaced():
    with pytest.raises(OSError, match="a device.*null"), replacing("/dev/null"):
        raise AssertionError("nothing was to be written")


def test_checking_a_place_leaves_nothing(tmp_path):
    check_place(tmp_path / "new" / "deep" / "a.gif")
    (tmp_path / "old.gif").write_bytes(b"old")
    check_place(tmp_path / "old.gif")
    assert [path.name for path in tmp_path.iterdir()] == ["old.gif"] and (tmp_path / "old.gif").read_bytes() == b"old"
