import os
import struct
import zlib

import cv2
import h5py
import numpy as np
import pytest
import scipy.io

from posekit.data.depth_files import (
    DepthArchive,
    DepthCrop,
    DepthFileError,
    full_picture,
    read_bounding_boxes,
    read_centers,
    read_depth_bin,
    read_depth_picture,
    read_depth_png,
    read_groups,
    read_itop_labels,
    read_label_names,
    read_labels,
    read_msra_bin,
    read_msra_joints,
    read_nyu_joints,
    write_depth_bin,
)
from posekit.geometry.depth import depth_to_points
from posekit.testing import load_fixture, shared_data


def msra_bin(path, depth, box, picture=(320, 240)):
    path.write_bytes(struct.pack("<6i", *picture, *box) + np.asarray(depth, "<f4").tobytes())
    return path


def png(path, pixels):
    path.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    return path


def text(path, *lines):
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def row(joints, z=-400.0):
    return " ".join(f"{joint}.5 {-joint}.25 {z}" for joint in range(joints))


# --------------------------------------------------------------------------------------------------------- MSRA


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """The fixture's files, in a folder."""
    fixture, folder = load_fixture("v2v_msra"), tmp_path_factory.mktemp("tree")
    for name, start, length in fixture["tree_index_json"]:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(fixture["tree_blob"][start : start + length].tobytes())
    return folder, fixture


def test_msra_picture_equals_the_original(tree):
    folder, fixture = tree
    crop = read_msra_bin(folder / "msra" / "P3" / "1" / "000000_depth.bin")
    assert crop.depth.dtype == np.float32 and crop.picture == (320, 240)
    depth = full_picture(crop, background=700.0)
    np.testing.assert_array_equal(depth, fixture["frame0_depth"])
    points = depth_to_points(depth, "msra", first_pixel=1).reshape(-1, 3)
    np.testing.assert_allclose(points, fixture["frame0_points"], rtol=1e-6)


def test_msra_joints_and_centers_equal_the_original(tree):
    folder, fixture = tree
    joints = read_msra_joints(folder / "msra" / "P3" / "1" / "joint.txt")
    np.testing.assert_array_equal(joints, fixture["test3_joints"][: len(joints)])
    np.testing.assert_array_equal(joints[0], fixture["frame0_joints"])
    centers = read_centers(folder / "center" / "center_test_3_refined.txt", 21)
    assert np.isnan(centers).all(1).sum() == 1
    np.testing.assert_array_equal(centers[~np.isnan(centers[:, 0])], fixture["test3_ref"][:20])


def test_msra_bin(tmp_path):
    depth = np.arange(12.0).reshape(3, 4) * 100
    crop = read_msra_bin(msra_bin(tmp_path / "a.bin", depth, (316, 237, 320, 240)))
    np.testing.assert_array_equal(crop.depth, depth)
    assert crop.box == (316, 237, 320, 240) and crop.depth.flags.writeable
    whole = full_picture(crop, 700)
    assert whole.shape == (240, 320) and whole[237, 316] == 700 and whole[239, 319] == 1100


@pytest.mark.parametrize(
    "box, picture, message",
    [
        ((0, 0, 50, 40), (320, 240), "header promises more than the file holds .*50 x 40 pixels take 8024"),
        ((0, 0, 2, 2), (320, 240), "more in it than the header says"),
        ((-4, 0, 0, 3), (320, 240), "box that is no part of its picture .*-4, 0, 0, 3"),
        ((4, 0, 0, 3), (320, 240), "box that is no part"),
        ((0, 0, 0, 0), (320, 240), "box that is no part"),
        ((318, 0, 322, 3), (320, 240), "box that is no part"),
        ((0, 0, 2**31 - 1, 2**31 - 1), (2**31 - 1, 2**31 - 1), "absurd size"),
        ((0, 0, 4, 3), (-320, 240), "absurd size"),
        ((0, 0, 4, 3), (0, 0), "absurd size"),
    ],
)
def test_bad_msra_headers(tmp_path, box, picture, message):
    path = msra_bin(tmp_path / "bad.bin", np.ones((3, 4)), box, picture)
    with pytest.raises(DepthFileError, match=f"bad.bin: .*{message}"):
        read_msra_bin(path)


def test_bad_msra_files(tmp_path):
    short = tmp_path / "short.bin"
    short.write_bytes(bytes(20))
    with pytest.raises(DepthFileError, match="shorter than its header"):
        read_msra_bin(short)
    for values in ([[np.nan] * 4] * 3, [[-1.0] * 4] * 3, [[np.inf] * 4] * 3):
        with pytest.raises(DepthFileError, match="values that are no depths .12 are negative or not finite"):
            read_msra_bin(msra_bin(tmp_path / "values.bin", values, (0, 0, 4, 3)))
    with pytest.raises(DepthFileError, match="missing file"):
        read_msra_bin(tmp_path / "none.bin")


def test_nothing_waits_for_a_pipe(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    readers = [
        read_msra_bin, read_depth_png, read_msra_joints, read_centers, read_label_names, read_nyu_joints,
        read_itop_labels, DepthArchive, lambda path: read_depth_bin(path, (4, 3)), lambda path: read_labels(path, 21),
        lambda path: read_bounding_boxes(path, (640, 480)), lambda path: read_groups(path, ("seen",)),
    ]  # fmt: skip
    for reader in readers:
        for path in (pipe, tmp_path):
            with pytest.raises(DepthFileError, match="not a regular file"):
                reader(path)
        with pytest.raises(DepthFileError, match="missing"):
            reader(tmp_path / "none")


# ------------------------------------------------------------------------------------------------------ pictures


def test_depth_bin_round_trip(tmp_path):
    depth = np.random.default_rng(0).uniform(0, 1000, (5, 7)).astype(np.float32)
    write_depth_bin(tmp_path / "new" / "a.bin", depth)
    np.testing.assert_array_equal(read_depth_bin(tmp_path / "new" / "a.bin", (7, 5)), depth)
    with pytest.raises(DepthFileError, match="wrong length for a picture of float32 .140 bytes; 8 x 5 pixels take 160"):
        read_depth_bin(tmp_path / "new" / "a.bin", (8, 5))
    with pytest.raises(ValueError, match="not .height, width."):
        write_depth_bin(tmp_path / "b.bin", depth[None])


def test_depth_png(tmp_path):
    depth = np.array([[0, 1, 255], [256, 4000, 65535]], np.uint16)
    np.testing.assert_array_equal(read_depth_png(png(tmp_path / "a.png", depth), size=(3, 2)), depth)
    packed = np.stack([depth & 255, depth >> 8, np.full_like(depth, 77)], -1).astype(np.uint8)  # blue, green, red
    found = read_depth_png(png(tmp_path / "b.png", packed), "nyu", (3, 2))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, depth)
    alpha = np.concatenate([packed, np.full_like(packed[..., :1], 255)], -1)
    np.testing.assert_array_equal(read_depth_png(png(tmp_path / "c.png", alpha), "nyu"), depth)


def test_pictures_of_other_kinds(tmp_path):
    grey8, grey16 = (png(tmp_path / f"{kind}.png", np.ones((4, 5), kind)) for kind in ("uint8", "uint16"))
    rgb8, rgb16 = (png(tmp_path / f"rgb_{kind}.png", np.ones((4, 5, 3), kind)) for kind in ("uint8", "uint16"))
    kinds = ((grey8, "one channel of 8 bits"), (rgb8, "three channels of 8"), (rgb16, "three channels of 16"))
    for path, kind in kinds:
        with pytest.raises(DepthFileError, match=f"not a PNG of one channel of 16 bits .it has {kind}"):
            read_depth_png(path)
    for path in (grey8, grey16, rgb16):
        with pytest.raises(DepthFileError, match="not a PNG of three channels of 8 bits"):
            read_depth_png(path, "nyu")
    with pytest.raises(DepthFileError, match="picture of another size .5 x 4 instead of 640 x 480"):
        read_depth_png(grey16, size=(640, 480))
    with pytest.raises(ValueError, match="layout is 'rgb'; choose from mm16, nyu"):
        read_depth_png(grey16, "rgb")
    jpeg = tmp_path / "j.png"
    jpeg.write_bytes(cv2.imencode(".jpg", np.zeros((4, 5, 3), np.uint8))[1].tobytes())
    with pytest.raises(DepthFileError, match="a JPEG instead of a PNG"):
        read_depth_png(jpeg)
    with pytest.raises(DepthFileError, match="not a JPEG or PNG"):
        read_depth_png(text(tmp_path / "t.png", "no picture"))


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_damaged_pngs(tmp_path):
    whole = png(tmp_path / "a.png", np.arange(30000, dtype=np.uint16).reshape(100, 300)).read_bytes()
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DepthFileError, match="truncated image"):
        read_depth_png(cut)
    header = struct.pack(">IIBBBBB", 60000, 60000, 16, 0, 0, 0, 0)
    huge = tmp_path / "huge.png"
    huge.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"x") + chunk(b"IEND", b""))
    with pytest.raises(DepthFileError, match="megapixels"):
        read_depth_png(huge)
    header = struct.pack(">IIBBBBB", 300, 100, 16, 0, 0, 0, 0)
    for number, data in enumerate((b"", b"no zlib", zlib.compress(bytes(601 * 50)))):
        odd = tmp_path / f"odd{number}.png"
        odd.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b""))
        with pytest.raises(DepthFileError, match="damaged image"):
            read_depth_png(odd)


def test_bin_comes_before_png(tmp_path):
    png(tmp_path / "a.png", np.full((3, 4), 7, np.uint16))
    assert read_depth_picture(tmp_path / "a", (4, 3))[0, 0] == 7
    write_depth_bin(tmp_path / "a.bin", np.full((3, 4), 8.5))
    assert read_depth_picture([tmp_path / "none", tmp_path / "a"], (4, 3))[0, 0] == 8.5
    with pytest.raises(DepthFileError, match="b.bin: missing depth picture .there is no .png"):
        read_depth_picture([tmp_path / "b"], (4, 3))


def test_the_real_frame_of_nyu():
    folder = shared_data() / "nyu"
    depth = read_depth_png(folder / "depth_1_0000001.png", "nyu", (640, 480))
    joints = np.loadtxt(folder / "depth_1_0000001_uvd.txt").reshape(-1, 3)
    measured = depth[np.rint(joints[:, 1]).astype(int), np.rint(joints[:, 0]).astype(int)]
    # Joints lie within the hand, a little behind what the camera sees of them.
    assert ((joints[:, 2] - measured > 0) & (joints[:, 2] - measured < 40)).all()


# --------------------------------------------------------------------------------------------------------- texts


def test_msra_joints(tmp_path):
    path = text(tmp_path / "joint.txt", "2", row(21), row(21, z="nan"), "")
    joints = read_msra_joints(path)
    assert joints.shape == (2, 21, 3) and joints[0, 3].tolist() == [3.5, -3.25, 400.0]
    assert np.isnan(joints[1, :, 2]).all()


@pytest.mark.parametrize(
    "lines, message",
    [
        (["3", row(21)], "line 1 says 3 frames, 1 lines of joints follow"),
        (["1", row(21), row(21)], "line 1 says 1 frames, 2 lines"),
        (["1", row(16)], "line 2 holds 48 numbers instead of 63 .x, y, z of 21 joints are expected"),
        (["1", row(21).replace("3.5", "three", 1)], "line 2 holds something else than numbers .*'three'"),
        ([row(21)], "no number of frames in line 1"),
        (["99999999999999999999", row(21)], "wrong number of lines"),
        (["-1"], "no number of frames"),
        ([], "no number of frames"),
    ],
)
def test_bad_msra_joints(tmp_path, lines, message):
    with pytest.raises(DepthFileError, match=f"joint.txt: .*{message}"):
        read_msra_joints(text(tmp_path / "joint.txt", *lines))


def test_labels(tmp_path):
    path = text(tmp_path / "labels.txt", f"seq/image_0000.png {row(16)} ", "", f"seq/image_0001.png\t{row(16, 3)}")
    names, joints = read_labels(path, 16)
    assert names == ["seq/image_0000.png", "seq/image_0001.png"] == read_label_names(path)
    assert joints.shape == (2, 16, 3) and joints[1, 2].tolist() == [2.5, -2.25, 3.0]
    with pytest.raises(DepthFileError, match="line 1 holds 48 numbers instead of 63"):
        read_labels(path, 21)
    with pytest.raises(DepthFileError, match="empty label file"):
        read_labels(text(tmp_path / "empty.txt"), 16)


def test_texts_that_are_none(tmp_path):
    for content in (bytes(1000), b"\xff\xfe1\0", os.urandom(4000), b"a\x80b 1 2 3\n"):
        path = tmp_path / "labels.txt"
        path.write_bytes(content)
        with pytest.raises(DepthFileError, match="not a text"):
            read_labels(path, 16)
    path.write_bytes(b"1 " * 20000)
    with pytest.raises(DepthFileError, match="line 1 has no end"):
        read_labels(path, 16)
    with open(path, "wb") as file:
        file.truncate(3 << 30)  # takes no room
    with pytest.raises(DepthFileError, match="too large for a text"):
        read_centers(path)


def test_bounding_boxes(tmp_path):
    path = text(tmp_path / "a.txt", "a.png 10.2 20.7 30.5 40.1", "b.png 600 -5 700 20")
    names, boxes = read_bounding_boxes(path, (640, 480))
    assert names == ["a.png", "b.png"] and boxes.tolist() == [[10, 20, 31, 41], [600, 0, 640, 20]]
    # Widths and heights, as one is less than its left edge.
    _, boxes = read_bounding_boxes(text(tmp_path / "b.txt", "a.png 100 20 30 40", "b.png 10 20 30 40"), (640, 480))
    assert boxes.tolist() == [[100, 20, 130, 60], [10, 20, 40, 60]]
    # One line that makes no sense does not change what the others mean.
    lines = ["a.png 300 200 360 280", "b.png 10 20 30 40", "c.png 0 0 0 0", "d.png 5 nan 6 7", "e.png 9 9 3 3"]
    _, boxes = read_bounding_boxes(text(tmp_path / "e.txt", *lines), (640, 480))
    assert boxes.tolist() == [[300, 200, 360, 280], [10, 20, 30, 40], [0] * 4, [0] * 4, [0] * 4]
    lines = ["a.png nan 1 2 3", "b.png 700 10 20 20", "c.png 1 1 -5 -5", "d.png -9e300 -9e300 8e300 8e300"]
    _, boxes = read_bounding_boxes(text(tmp_path / "c.txt", *lines), (640, 480))
    assert boxes.tolist()[:3] == [[0, 0, 0, 0]] * 3
    with pytest.raises(DepthFileError, match="line 1 holds 3 numbers instead of 4"):
        read_bounding_boxes(text(tmp_path / "d.txt", "a.png 1 2 3"), (640, 480))


def test_groups(tmp_path):
    path = text(tmp_path / "g.txt", "a seen", "b unseen")
    assert read_groups(path, ("seen", "unseen")) == {"a": "seen", "b": "unseen"}
    with pytest.raises(DepthFileError, match="line 1 names no group .'a new'; a name and one of seen, unseen"):
        read_groups(text(tmp_path / "g.txt", "a new"), ("seen", "unseen"))


def test_centers(tmp_path):
    path = text(tmp_path / "center.txt", "1 -2 300.5", "invalid", "invalid 0 0", "4 5 6", "")
    centers = read_centers(path, 4)
    np.testing.assert_array_equal(centers, [[1, -2, 300.5], [np.nan] * 3, [np.nan] * 3, [4, 5, 6]])
    with pytest.raises(DepthFileError, match="wrong number of centres .4 lines; the dataset has 5 frames"):
        read_centers(path, 5)
    assert read_centers(text(tmp_path / "m.txt", "0.1 -0.2 2.5"), 1, "m").tolist() == [[0.1, -0.2, 2.5]]


@pytest.mark.parametrize("line", ["1 2", "1 2 3 4", "a b c", "nan 1 300", "1 inf 300", "valid 1 2 300", "INVALID"])
def test_lines_that_are_no_centers(tmp_path, line):
    with pytest.raises(DepthFileError, match="line 2 is no centre .*x, y and z in mm are expected, or 'invalid'"):
        read_centers(text(tmp_path / "center.txt", "1 2 300", line))


@pytest.mark.parametrize("line, unit", [("1e9 2 300", "mm"), ("1 2 -3e5", "mm"), ("1 2 300", "m")])
def test_centers_in_another_unit(tmp_path, line, unit):
    with pytest.raises(DepthFileError, match=f"line 1 is no centre in {unit} .*numbers up to 20"):
        read_centers(text(tmp_path / "center.txt", line), unit=unit)


def test_centers_behind_the_camera(tmp_path):
    centers = read_centers(text(tmp_path / "center.txt", "1 2 300", "0 0 0", "1 2 300"))
    assert np.isnan(centers[1]).all() and np.isfinite(centers[[0, 2]]).all()
    with pytest.raises(DepthFileError, match="centres behind the camera .z is not above 0 in 2 of 3 lines"):
        read_centers(text(tmp_path / "center.txt", "1 2 300", "1 2 -300", "1 2 -300", "invalid"))


# ------------------------------------------------------------------------------------------------- MATLAB and HDF5


def test_nyu_joints(tmp_path):
    joints = np.random.default_rng(1).normal(size=(3, 5, 36, 3))
    scipy.io.savemat(tmp_path / "joint_data.mat", {"joint_xyz": joints, "joint_uvd": joints * 2}, do_compression=True)
    np.testing.assert_array_equal(read_nyu_joints(tmp_path / "joint_data.mat"), joints[0])
    np.testing.assert_array_equal(read_nyu_joints(tmp_path / "joint_data.mat", "joint_uvd"), joints[0] * 2)


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"joint_uvd": np.zeros((1, 5, 36, 3))}, "no array 'joint_xyz' but .'joint_uvd'."),
        ({"joint_xyz": np.zeros((1, 5, 14, 3))}, "'joint_xyz' of another shape ..1, 5, 14, 3.; .*36, 3"),
        ({"joint_xyz": np.zeros((5, 36, 3))}, "of another shape"),
        ({"joint_xyz": "text"}, "no array of numbers"),
        ({"joint_xyz": np.zeros((1, 5, 36, 3), complex)}, "complex numbers"),
    ],
)
def test_bad_nyu_joints(tmp_path, arrays, message):
    scipy.io.savemat(tmp_path / "joint_data.mat", arrays)
    with pytest.raises(DepthFileError, match=message):
        read_nyu_joints(tmp_path / "joint_data.mat")


@pytest.mark.parametrize("shape", [(1, 4_971_025, 36, 3), (3, 250_001, 36, 3), (1000, 9, 36, 3)])
def test_nyu_joints_without_end(tmp_path, shape):
    """A compressed array of zeros takes half a megabyte, and more memory than there is."""
    scipy.io.savemat(tmp_path / "joint_data.mat", {"joint_xyz": np.zeros((1, 1, 36, 3))})
    path = tmp_path / "joint_data.mat"
    path.write_bytes(path.read_bytes().replace(struct.pack("<4i", 1, 1, 36, 3), struct.pack("<4i", *shape)))
    with pytest.raises(DepthFileError, match="'joint_xyz' of an absurd size .*250000 frames are the most"):
        read_nyu_joints(path)


def test_matlab_files_that_are_none(tmp_path):
    path = text(tmp_path / "joint_data.mat", "no MATLAB")
    with pytest.raises(DepthFileError, match="joint_data.mat: not a usable MATLAB file .no MATLAB file of version 5"):
        read_nyu_joints(path)


def itop_depth(path, frames=3, **options):
    depth = (np.random.default_rng(2).random((frames, 240, 320)) * 4).astype(np.float16)
    with h5py.File(path, "w") as file:
        file.create_dataset("data", data=depth, **options)
    return depth


@pytest.mark.parametrize("options", [{}, {"chunks": (1, 240, 320)}, {"chunks": (1, 60, 80), "compression": "gzip"}])
def test_itop_pictures(tmp_path, options):
    depth = itop_depth(tmp_path / "depth.h5", **options)
    archive = DepthArchive(tmp_path / "depth.h5")
    assert len(archive) == 3 and archive[2].dtype == np.float32
    np.testing.assert_array_equal(archive[2], depth[2].astype(np.float32))
    archive.close()


def test_itop_labels(tmp_path):
    joints = np.random.default_rng(3).normal(size=(3, 15, 3)).astype(np.float32)
    with h5py.File(tmp_path / "labels.h5", "w") as file:
        file["real_world_coordinates"], file["is_valid"] = joints, np.array([1, 0, 1], np.uint8)
        file["id"] = np.array([b"00_00001", b"00_00002", b"01_00001"])
        file["segmentation"] = np.zeros((3, 240, 320), np.int8)
    labels = read_itop_labels(tmp_path / "labels.h5")
    np.testing.assert_array_equal(labels.joints, joints.astype(np.float64))
    assert labels.valid.tolist() == [True, False, True] and labels.names == ["00_00001", "00_00002", "01_00001"]
    for ids in (None, np.array([b"a", b"a", b"b"]), np.array([b"a b", b"c", b"d"])):
        with h5py.File(tmp_path / "labels.h5", "r+") as file:
            del file["id"]
            if ids is not None:
                file["id"] = ids
            else:
                file["id"] = np.array([b"a", b"", b"c"])
        assert read_itop_labels(tmp_path / "labels.h5").names == ["00000", "00001", "00002"]


def broken(name):
    """Function that writes an HDF5 file in which something is wrong with `data`."""

    def write(path):
        depth = np.ones((2, 240, 320), np.float16)
        with h5py.File(path, "w") as file:
            if name == "missing":
                file["date"] = depth
            elif name == "external link":
                file["data"] = h5py.ExternalLink("/etc/other.h5", "/data")
            elif name == "soft link":
                file["other"] = depth
                file["data"] = h5py.SoftLink("/other")
            elif name == "group":
                file.create_group("data")
            elif name == "shape":
                file["data"] = depth[:, :100]
            elif name == "integers":
                file["data"] = depth.astype(np.int16)
            elif name == "never written":
                file.create_dataset("data", (40_000, 240, 320), "f2")
            elif name == "never written, compressed":
                file.create_dataset("data", (40_000, 240, 320), "f2", chunks=(1, 240, 320), compression="gzip")
            elif name == "large pieces":
                file.create_dataset("data", (2, 240, 320), "f2", chunks=(2000, 240, 320), maxshape=(None, 240, 320))
                file["data"][:] = depth
            elif name == "external file":
                (path.parent / "raw").write_bytes(depth.tobytes())
                file.create_dataset("data", depth.shape, "f2", external=[(path.parent / "raw", 0, depth.nbytes)])
            elif name == "virtual":
                layout = h5py.VirtualLayout(depth.shape, "f2")
                layout[:] = h5py.VirtualSource(path.parent / "other.h5", "data", depth.shape)
                file.create_virtual_dataset("data", layout)

    return write


@pytest.mark.parametrize(
    "name, message",
    [
        ("missing", "no array 'data' in it .it has .'date'., links apart"),
        ("external link", "no array 'data' in it"),
        ("soft link", "no array 'data' in it"),
        ("group", "no array 'data' in it"),
        ("shape", "'data' of another shape .float16 .2, 100, 320.; floating .frames, 240, 320. is expected"),
        ("integers", "'data' of another shape"),
        ("never written", "'data' claims more than the file holds"),
        ("never written, compressed", "'data' claims more than the file holds"),
        ("large pieces", "'data' comes in too large pieces"),
        ("external file", "'data' lies in another file"),
        ("virtual", "'data' lies in another file"),
    ],
)
def test_bad_hdf5(tmp_path, name, message):
    broken(name)(tmp_path / "depth.h5")
    with pytest.raises(DepthFileError, match=f"depth.h5: {message}"):
        DepthArchive(tmp_path / "depth.h5")


def test_damaged_hdf5(tmp_path):
    path = text(tmp_path / "depth.h5", "no HDF5")
    with pytest.raises(DepthFileError, match="not a usable HDF5 file"):
        DepthArchive(path)
    with pytest.raises(DepthFileError, match="not a usable HDF5 file"):
        read_itop_labels(path)
    itop_depth(path)
    path.write_bytes(path.read_bytes()[:200_000])
    with pytest.raises(DepthFileError, match="not a usable HDF5 file"):
        DepthArchive(path)


def test_itop_labels_that_do_not_fit(tmp_path):
    path = tmp_path / "labels.h5"
    for joints, valid, message in (
        (np.zeros((3, 14, 3), "f4"), np.ones(3, "u1"), "'real_world_coordinates' of another shape"),
        (np.zeros((3, 15, 3), "f4"), np.ones(2, "u1"), "arrays of different lengths"),
        (np.zeros((3, 15, 3), "f4"), np.ones((3, 1), "u1"), "'is_valid' of another shape"),
    ):
        with h5py.File(path, "w") as file:
            file["real_world_coordinates"], file["is_valid"] = joints, valid
        with pytest.raises(DepthFileError, match=message):
            read_itop_labels(path)


def test_depth_that_is_no_number_in_hdf5(tmp_path):
    with h5py.File(tmp_path / "depth.h5", "w") as file:
        file["data"] = np.full((1, 240, 320), np.nan, np.float16)
    with pytest.raises(DepthFileError, match="values that are no depths"):
        DepthArchive(tmp_path / "depth.h5")[0]


def test_a_crop_makes_its_picture():
    crop = DepthCrop(np.array([[5.0, 0.0]], np.float32), (1, 2, 3, 3), (4, 4))
    assert full_picture(crop, 9.0)[2].tolist() == [9.0, 5.0, 9.0, 9.0]
