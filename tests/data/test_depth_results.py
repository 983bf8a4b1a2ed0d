"""Result files of the depth datasets: as the originals write them, read in all their forms, wrong ones named."""

import numpy as np
import pytest

from posekit.data import depth_results
from posekit.data.depth_results import read_results, write_results
from posekit.testing import shared_data

NAMES = [f"image_D{number:08d}.png" for number in range(1, 6)]


@pytest.fixture
def joints():
    return np.random.default_rng(0).normal(200, 90, (5, 21, 3)).round(3)


def test_written_as_the_original_writes(tmp_path, joints):
    path = write_results(tmp_path / "run" / "result.txt", joints)
    np.savetxt(tmp_path / "original.txt", joints.reshape(5, 63), fmt="%0.3f")
    assert path.read_bytes() == (tmp_path / "original.txt").read_bytes()
    assert [entry.name for entry in path.parent.iterdir()] == ["result.txt"]
    write_results(path, joints, decimals=4)
    np.savetxt(tmp_path / "original.txt", joints.reshape(5, 63), fmt="%0.4f")
    assert path.read_bytes() == (tmp_path / "original.txt").read_bytes()


@pytest.mark.parametrize("names", [None, NAMES])
def test_round_trip(tmp_path, joints, names):
    path = write_results(tmp_path / "result.txt", joints, names)
    for arguments in ({}, {"num_joints": 21, "count": 5}):
        read, read_names = read_results(path, **arguments)
        np.testing.assert_array_equal(read, joints)
        assert read.dtype == np.float64 and read.flags.writeable
        assert read_names == (None if names is None else tuple(NAMES))


def test_lines_in_all_their_forms(tmp_path):
    path = tmp_path / "result.txt"
    path.write_bytes(b"\xef\xbb\xbf# u v d\r\n\r\n  1 2\t3   4 5.5 6e0 \r\n\t\n-7 8 9 10 11 12\r\n\n\n1.0 2 3 4 5 6")
    read, names = read_results(path, num_joints=2, count=3)
    wanted = [[1, 2, 3, 4, 5.5, 6], [-7, 8, 9, 10, 11, 12], [1, 2, 3, 4, 5, 6]]
    np.testing.assert_array_equal(read.reshape(3, 6), wanted)
    assert names is None
    path.write_text("image_D00000001.png\t1.5\t2\t3\t\nimage_D00000002.png\t4\t5\t6\t\n")
    read, names = read_results(path)
    np.testing.assert_array_equal(read, [[[1.5, 2, 3]], [[4, 5, 6]]])
    assert names == ("image_D00000001.png", "image_D00000002.png")


def test_frames_are_found_by_their_names(tmp_path, joints):
    path = write_results(tmp_path / "r.txt", joints, NAMES)
    wanted = [NAMES[3], NAMES[0]]
    read, names = read_results(path, names=wanted, count=2)
    np.testing.assert_array_equal(read, joints[[3, 0]])
    assert names == tuple(wanted)
    np.testing.assert_array_equal(read_results(path, names=[f"frame\\images/{n}" for n in wanted])[0], joints[[3, 0]])
    with pytest.raises(ValueError, match="r.txt lacks 1 of 2 frames, the first of them 'other.png'"):
        read_results(path, names=["other.png", NAMES[1]])
    twice = write_results(tmp_path / "twice.txt", joints, [*NAMES[:4], NAMES[0]])
    with pytest.raises(ValueError, match="5 frames of only 4 names"):
        read_results(twice, names=NAMES)

    alike = ["test_seq_1/image_0000.png", "test_seq_2/image_0000.png"]
    read, _ = read_results(write_results(tmp_path / "parts.txt", joints[:2], alike), names=alike[::-1])
    np.testing.assert_array_equal(read, joints[[1, 0]])

    # Records call frames by their pictures' names without suffix.
    bare_names = ["test_seq_2/image_0000", "test_seq_1/image_0000"]
    read, names = read_results(tmp_path / "parts.txt", names=bare_names)
    np.testing.assert_array_equal(read, joints[[1, 0]])
    assert names == tuple(alike[::-1])
    with pytest.raises(ValueError, match="parts.txt lacks 1 of 2 frames, the first of them 'test_seq_3/image_0000'"):
        read_results(tmp_path / "parts.txt", names=["test_seq_3/image_0000", bare_names[0]])
    one = write_results(tmp_path / "one.txt", joints[:1], ["image_0000.png"])
    with pytest.raises(ValueError, match="one.txt lacks 2 of 2 frames"):
        read_results(one, names=bare_names)
    bare_names = [name.removesuffix(".png") for name in NAMES[::-1]]
    np.testing.assert_array_equal(read_results(path, names=bare_names, count=5)[0], joints[::-1])
    other = write_results(tmp_path / "o.txt", joints, [f"frame/images/{name}.bin" for name in bare_names])
    np.testing.assert_array_equal(read_results(other, names=NAMES)[0], joints[::-1])

    bare = write_results(tmp_path / "bare.txt", joints)
    np.testing.assert_array_equal(read_results(bare, names=NAMES)[0], joints)
    with pytest.raises(ValueError, match="5 frames without names, 2 are needed"):
        read_results(bare, names=wanted)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"1 2 3 4 5 6\n1 2 3 4 5\n", "line 2 holds 5 numbers; 2 joints need 6"),
        (b"\n\n1 2 3\n", "line 3 holds 3 numbers; 2 joints need 6.*another dataset"),
        (b"a.png 1 2 3 4 5 6\nb.png 1 2 3 4 5\n", "line 2 holds 5 numbers after the name; 2 joints need 6"),
        (b"1 2 3 4 5 6\n1 2 x 4 5 6\n", "line 2: 'x' is no number"),
        (b"1,2,3,4,5,6\n", "line 1 holds 0 numbers after the name"),
        (b"1 2 3 4 5 6\na.png 1 2 3 4 5 6\n", "line 2 begins with 'a.png', the first line with a number"),
        (b"a.png 1 2 3 4 5 6\n1 2 3 4 5 6\n", "line 2 begins with '1', the first line with a name"),
        (b"1 2 3 4 5 6\n\n1 2 nan 4 5 6\n", "1 of 2 frames hold NaN.*line 3"),
        (b"1 2 3 4 5 6\n1 2 1e999 4 5 6\n", "1 of 2 frames hold NaN or infinity.*line 2"),
        (b"1 2 3 4 5 6\n", "holds 1 frames, 2 are needed"),
        (b"", "holds 0 frames, 2 are needed"),
        (b"\x89PNG\r\n\x1a\n\0\0", "line 1 is no text"),
        ("1 2 3".encode("utf-16"), "line 1 is no text"),
        (b"1 " * 20000, "line 1 is longer than"),
    ],
)
def test_wrong_files_are_named(tmp_path, content, message):
    path = tmp_path / "result.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_results(path, num_joints=2, count=2)
    assert "result.txt" in str(caught.value)


def test_counts_without_a_skeleton(tmp_path):
    path = tmp_path / "result.txt"
    path.write_text("1 2 3 4\n")
    with pytest.raises(ValueError, match="line 1 holds 4 numbers, which are not three for every joint"):
        read_results(path)
    path.write_text("1 2 3\n1 2 3 4 5 6\n")
    with pytest.raises(ValueError, match="line 2 holds 6 numbers, the first line 3"):
        read_results(path)


def test_missing_and_huge_files(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="No result file at .*validate"):
        read_results(tmp_path / "none.txt")
    path = write_results(tmp_path / "result.txt", np.zeros((2, 2, 3)))
    monkeypatch.setattr(depth_results, "MAX_RESULT_BYTES", 10)
    with pytest.raises(ValueError, match="more than the limit of 10"):
        read_results(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((2, 63)),), r"shape \(2, 63\)"),
        ((np.zeros((2, 0, 3)),), r"shape \(2, 0, 3\)"),
        ((np.full((2, 1, 3), np.nan),), "NaN or infinity in 2 frames, first in number 0"),
        ((np.zeros((2, 1, 3)), ["a.png"]), "1 names for 2 frames"),
        ((np.zeros((1, 1, 3)), ["a b.png"]), "'a b.png' cannot begin a line"),
        ((np.zeros((1, 1, 3)), ["17"]), "'17' cannot begin a line"),
    ],
)
def test_what_cannot_be_written(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        write_results(tmp_path / "result.txt", *arguments)
    assert not list(tmp_path.iterdir())


def test_published_files():
    folder = shared_data() / "icvl"
    for path in sorted(folder.glob("*.txt")):
        joints, names = read_results(path, num_joints=16, count=1596)
        assert names is None
        np.testing.assert_array_equal(joints.reshape(1596, 48), np.loadtxt(path))
