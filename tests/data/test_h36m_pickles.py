import pickle
import resource

import numpy as np
import pytest

from posekit.data.h36m_pickles import PickledPoses, read_pickles
from posekit.data.pickles import as_numbers, load_pickle
from posekit.testing import FIXTURES


@pytest.fixture(scope="module")
def items():
    return load_pickle(FIXTURES / "lcn_h36m_test.pkl")[:4]


def skips(folder, items, **changes):
    """What is wrong with the second item when it is changed."""
    path = folder / "h36m_test.pkl"
    path.write_bytes(pickle.dumps([items[0], items[1] | changes, *items[2:]]))
    ((columns, skipped),) = PickledPoses(path).blocks()
    assert len(columns["action"]) + len(skipped) == len(items)
    return skipped


def in_camera(items, **changes):
    return {"camera_param": items[1]["camera_param"] | changes}


CAMERAS = {
    "huge integer": {"fx": 10**400},
    "no number": {"cy": "1000"},
    "no focal length": {"fy": 0.0},
    "infinite pictures": {"image_size": [float("inf"), 2.0]},
    "huge pictures": {"image_size": [10**400, 2]},
    "tiny pictures": {"image_size": (1e-300, 2.0)},
    "many pictures": {"image_size": np.zeros((1000, 1000))},
    "far away": {"T": np.full(3, 1e300)},
    "a name of half a letter": {"name": "\ud800", "image_size": (5, 5)},
    "a name of many parts": {"name": [["a"]], "image_size": (5, 5)},
    "texts": {"R": ["a" * 100] * 9},
}


@pytest.mark.parametrize("kind", CAMERAS)
def test_cameras_that_make_no_sense(tmp_path, items, kind):
    skipped = skips(tmp_path, items, **in_camera(items, **CAMERAS[kind]))
    assert skipped == [("a02_01_0", "a camera whose name or parameters make no sense")]


def test_names_that_go_to_the_screen(tmp_path, items):
    for path, name in (("a/\ud800\x1b[31mb\n.jpg", "??[31mb?"), ("", "item 1"), (5, "item 1"), ("/", "item 1")):
        assert skips(tmp_path, items, image_path=path, root_depth=-1.0)[0][0] == name


def test_confidences_in_another_order(tmp_path, items):
    (tmp_path / "h36m_test.pkl").write_bytes(pickle.dumps(items))
    for shape, fits in (((4, 17), True), ((4, 17, 1), True), ((17, 4), False), ((68,), False), ((4, 1, 17), False)):
        part = {"joint3d_image": np.ones((4, 17, 3)), "confidence": np.ones(shape)}
        (tmp_path / "found.pkl").write_bytes(pickle.dumps({"test": part}))
        if fits:
            read_pickles(tmp_path / "h36m_test.pkl", tmp_path / "found.pkl", "test")
        else:
            with pytest.raises(ValueError, match="'confidence' of 'test' must be"):
                read_pickles(tmp_path / "h36m_test.pkl", tmp_path / "found.pkl", "test")


def test_numbers_of_pickles():
    for value, expected in (
        (3, 3),
        (2.5, 2.5),
        (np.float32(2.5), 2.5),
        ([[1, 2.5], (3, np.int32(4))], [[1, 2.5], [3, 4]]),
        ([np.arange(2), np.arange(2)], [[0, 1], [0, 1]]),
        (np.ones((2, 2), np.uint8), [[1, 1], [1, 1]]),
    ):
        np.testing.assert_array_equal(as_numbers(value, 4), expected)
    for value in ("1", ["1"], [[1], [2, 3]], True, None, [None], 10**400, [10**400, 1.5], {"a": 1}, [1, [2]], 1j,
                  b"a", np.array(["a"]), np.zeros(5), [0] * 5, [np.zeros(3)] * 2, [np.array([{}])]):  # fmt: skip
        with pytest.raises(ValueError):
            as_numbers(value, 4)


def test_lists_that_ask_for_much_memory(tmp_path, items):
    box = ["x" * 200_000] + [""] * 20_000  # 16 GB as an array of texts
    room = [np.zeros(1_000_000)] * 3000  # 24 GB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for value in (box, room):
        assert skips(tmp_path, items, box=value)[0][1] == "'box' is not [4] numbers"
        assert "a camera" in skips(tmp_path, items, **in_camera(items, R=value))[0][1]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20
