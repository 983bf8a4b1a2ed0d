"""Recordings by name in `.npz` files: what is none of them is refused before it is read."""

import io
import pickle
import zipfile

import numpy as np
import pytest

from posekit.data import npz_objects
from posekit.data.npz_objects import read_npz_objects

HEADER = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }\n"
START = b"\x93NUMPY\1\0" + len(HEADER).to_bytes(2, "little") + HEADER


def boxed(value):
    box = np.empty((), object)
    box[()] = value
    return box


def put(path, entry, name="a.npy"):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, entry)
    return path


def test_objects_come_back_and_other_entries_are_left_alone(tmp_path):
    value = {"S1": {"Walking": [np.arange(6.0).reshape(1, 3, 2)]}}
    path = tmp_path / "a.npz"
    np.savez_compressed(path, a=boxed(value), b=np.array([1, "x", None], object), c=np.zeros(3))
    read = read_npz_objects(path, ("a", "b", "nothing"), 1 << 20)
    assert sorted(read) == ["a", "b"] and read["b"].tolist() == [1, "x", None]
    np.testing.assert_array_equal(read["a"]["S1"]["Walking"][0], value["S1"]["Walking"][0])


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_that_numpy_has_written(tmp_path, protocol):
    path = put(tmp_path / "a.npz", START + pickle.dumps(boxed({"x": 1}), protocol))
    assert read_npz_objects(path, ("a",), 1 << 20) == {"a": {"x": 1}}


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (bytes(50_000), "magic"),
        (START + bytes(50_000), "no pickled array"),
        (START + b"\x80\x04N" * 10_000, "no pickled array"),
        (START + b"cos\nsystem\n(S'echo'\ntR.", "no pickled array"),
        (START + pickle.dumps(boxed({"x": print}), 4), "Nothing was executed"),
        (START + pickle.dumps(boxed({"x": 1}), 4)[:-1], "damaged or no pickle: at byte"),
        (START[:20], "'a' is no array"),
        (START.replace(b"|O", b"|b"), "plain numbers"),
        (START.replace(b"'|O'", b"[('x', 'O')]"), "no array|plain numbers"),
    ],
)
def test_what_holds_no_objects_is_refused_after_its_first_bytes(tmp_path, monkeypatch, entry, words):
    path, taken = put(tmp_path / "a.npz", entry), []
    read = zipfile.ZipExtFile.read
    monkeypatch.setattr(zipfile.ZipExtFile, "read", lambda *a: taken.append(len(out := read(*a))) or out)
    with pytest.raises(ValueError, match=words) as error:
        read_npz_objects(path, ("a",), 1 << 20)
    assert str(path) in str(error.value) and (sum(taken) < 2000)


def test_size_is_told_by_the_archives_directory(tmp_path):
    path = put(tmp_path / "a.npz", START + bytes(5000))
    with pytest.raises(ValueError, match="more than 1000 bytes"):
        read_npz_objects(path, ("a",), 1000)


def test_memory_that_does_not_suffice_is_said(tmp_path, monkeypatch):
    def none_left(*_):
        raise MemoryError

    monkeypatch.setattr(npz_objects, "loads_pickle", none_left)
    with pytest.raises(ValueError, match="not enough memory"):
        read_npz_objects(put(tmp_path / "a.npz", START + pickle.dumps(boxed(1), 4)), ("a",), 1000)


def test_a_whole_array_is_read_in_one_piece(tmp_path):
    content = io.BytesIO()
    np.save(content, boxed({"x": np.zeros(100_000)}))
    path = put(tmp_path / "a.npz", content.getvalue())
    assert read_npz_objects(path, ("a",), 1 << 20)["a"]["x"].shape == (100_000,)
