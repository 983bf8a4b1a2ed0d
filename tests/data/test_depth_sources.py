"""Depth from anywhere comes as millimetres, frame by frame, and what is no depth is refused with what to do."""

import os
import struct
import tracemalloc
import zipfile

import cv2
import h5py
import numpy as np
import pytest

from posekit.data.depth_files import DepthCrop, full_picture, read_depth_bin
from posekit.data.depth_sources import DepthFrame, as_depth, open_depth


def picture(seed=0, shape=(24, 32), low=300, high=900):
    return np.random.default_rng(seed).integers(low, high, shape).astype(np.uint16)


def write_png(path, depth):
    cv2.imwrite(str(path), depth)
    return path


def write_msra(path, depth, box, size=(32, 24)):
    left, top, right, bottom = box
    path.write_bytes(struct.pack("<6i", *size, *box) + depth[top:bottom, left:right].astype("<f4").tobytes())
    return path


def only(source):
    frames = list(source)
    assert source.kind == "image" and source.length == len(frames) == 1
    return frames[0]


def test_every_kind_of_file_gives_the_same_depth(tmp_path):
    depth = picture(shape=(240, 320))
    blue_green_red = np.stack([depth & 255, depth >> 8, np.zeros_like(depth)], -1).astype(np.uint8)
    depth.astype("<f4").tofile(tmp_path / "c.bin")
    np.save(tmp_path / "d.npy", depth)
    np.savez(tmp_path / "e.npz", depth=depth, intrinsics=np.ones(4))
    cases = {
        write_png(tmp_path / "a.png", depth): {},
        write_png(tmp_path / "b.png", blue_green_red): {"layout": "nyu"},
        tmp_path / "c.bin": {},
        tmp_path / "d.npy": {},
        tmp_path / "e.npz": {},
    }
    for path, options in cases.items():
        frame = only(open_depth(path, **options))
        assert isinstance(frame, DepthFrame) and frame.name in (path.name, path.stem) and frame.image is frame.depth
        assert frame.depth.dtype == np.float32
        np.testing.assert_array_equal(frame.depth, depth, err_msg=path.name)
    np.testing.assert_array_equal(only(open_depth(depth)).depth, depth)
    np.testing.assert_array_equal(only(open_depth(depth[..., None])).depth, depth)


def test_msra_crops_come_in_their_place(tmp_path):
    depth = picture()
    frame = only(open_depth(write_msra(tmp_path / "000000_depth.bin", depth, (5, 3, 20, 18))))
    expected = np.zeros((24, 32))
    expected[3:18, 5:20] = depth[3:18, 5:20]
    np.testing.assert_array_equal(frame.depth, expected)


def test_float32_of_any_size_is_read_where_the_size_is_given(tmp_path):
    picture().astype("<f4").tofile(tmp_path / "x.bin")
    np.testing.assert_array_equal(only(open_depth(tmp_path / "x.bin", size=(32, 24))).depth, picture())
    with pytest.raises(ValueError, match="--size=640,480"):
        list(open_depth(tmp_path / "x.bin"))
    with pytest.raises(ValueError, match="wrong length"):
        list(open_depth(tmp_path / "x.bin", size=(31, 24)))
    for wrong in ((0, 5), (1.5, 2), ("a", "b"), (1, 2, 3)):
        with pytest.raises(ValueError, match="whole pixels"):
            open_depth(tmp_path / "x.bin", size=wrong)


def test_scale_says_what_a_step_is(tmp_path):
    path = write_png(tmp_path / "a.png", picture())
    np.testing.assert_allclose(only(open_depth(path, depth_scale=0.2)).depth, picture() * 0.2, rtol=1e-6)
    metres = picture() / 1000.0
    np.testing.assert_allclose(only(open_depth(metres, depth_scale=1000)).depth, picture(), rtol=1e-6)
    with pytest.raises(ValueError, match="depth_scale=1000"):
        list(open_depth(metres))
    with pytest.raises(ValueError, match="check depth_scale"):
        list(open_depth(path, depth_scale=1000))
    for wrong in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="depth_scale"):
            open_depth(path, depth_scale=wrong)


def test_folders_come_in_the_order_of_their_numbers(tmp_path):
    for number in (10, 9, 1):
        write_png(tmp_path / f"frame{number}.png", picture(number))
    np.save(tmp_path / "frame2.npy", picture(2))
    (tmp_path / "joint.txt").write_text("1")
    (tmp_path / "folder.png").mkdir()
    source = open_depth(tmp_path)
    assert (source.kind, source.length) == ("folder", 4) and source.fps == 5
    frames = list(source)
    assert [frame.name for frame in frames] == ["frame1.png", "frame2.npy", "frame9.png", "frame10.png"]
    assert [frame.index for frame in frames] == [0, 1, 2, 3]
    np.testing.assert_array_equal(frames[3].depth, picture(10))


def test_stacks_are_read_lazily(tmp_path):
    stack = np.stack([picture(seed) for seed in range(12)])
    np.save(tmp_path / "s.npy", stack)
    np.savez_compressed(tmp_path / "s.npz", stack)
    for given in (stack, tmp_path / "s.npy", tmp_path / "s.npz"):
        source = open_depth(given)
        assert (source.kind, source.length, source.fps) == ("video", 12, 5)
        frames = list(source)
        np.testing.assert_array_equal([frame.depth for frame in frames], stack)
        assert frames[11].name.endswith("_000011")
    # A terabyte on paper costs nothing until a frame is asked for.
    path = tmp_path / "large.npy"
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<u2", "fortran_order": False, "shape": (10**6, 480, 640)}
        )
        start = file.tell()
        file.write(picture(shape=(480, 640)).tobytes())
        file.truncate(start + 2 * 480 * 640 * 10**6)
    first = next(iter(open_depth(path)))
    np.testing.assert_array_equal(first.depth, picture(shape=(480, 640)))


def test_itops_archives_are_metres(tmp_path):
    depth = (picture(shape=(3, 24, 32)) / 1000).astype(np.float16)
    with h5py.File(tmp_path / "ITOP_side_test_depth_map.h5", "w") as file:
        file["data"] = depth
    source = open_depth(tmp_path / "ITOP_side_test_depth_map.h5")
    assert (source.kind, source.length) == ("video", 3)
    np.testing.assert_allclose([frame.depth for frame in source], depth.astype(np.float32) * 1000, rtol=1e-6)
    with h5py.File(tmp_path / "empty.h5", "w") as file:
        file["data"] = np.zeros((0, 240, 320), np.float16)
    with pytest.raises(ValueError, match="empty.h5 holds no depth picture"):
        open_depth(tmp_path / "empty.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["pixels"] = depth
    with pytest.raises(ValueError, match="no array 'data'"):
        open_depth(tmp_path / "other.h5")


def test_lists_mix_paths_and_arrays(tmp_path):
    path = write_png(tmp_path / "a.png", picture(1))
    source = open_depth([path, picture(2), str(path)])
    assert (source.kind, source.length) == ("folder", 3)
    assert [frame.depth.max() for frame in source] == [picture(seed).max() for seed in (1, 2, 1)]


def lossless_video(path, frames):
    is_depth = [cv2.VIDEOWRITER_PROP_DEPTH, cv2.CV_16U, cv2.VIDEOWRITER_PROP_IS_COLOR, 0]
    codec = cv2.VideoWriter_fourcc(*"FFV1")
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, codec, 30.0, frames[0].shape[::-1], is_depth)
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no FFV1 of 16 bits")
    for frame in frames:
        writer.write(frame)
    writer.release()


def test_lossless_videos_come_unchanged(tmp_path):
    frames = [picture(seed, (48, 64)) for seed in range(4)]
    lossless_video(tmp_path / "depth.mkv", frames)
    source = open_depth(tmp_path / "depth.mkv")
    assert (source.kind, source.length, source.fps) == ("video", 4, 30.0)
    found = list(source)
    np.testing.assert_array_equal([frame.depth for frame in found], frames)
    assert found[2].name == "depth.mkv#000002"


def test_videos_of_colours_are_refused(tmp_path, capfd):
    path = tmp_path / "colours.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 25, (64, 48))
    for seed in range(3):
        writer.write(np.random.default_rng(seed).integers(0, 255, (48, 64, 3)).astype(np.uint8))
    writer.release()
    with pytest.raises(ValueError, match="gray16le"):
        open_depth(path)
    (tmp_path / "broken.mkv").write_bytes(b"nothing" * 100)
    with pytest.raises(ValueError, match="no video that can be read"):
        open_depth(tmp_path / "broken.mkv")
    assert "unsupported picture format" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("array", "word"),
    [
        (np.zeros((24, 32), np.uint16), "nothing was measured"),
        (picture().astype(np.uint8), "8 bits"),
        (np.zeros((24, 32, 3), np.uint16), "layout='nyu'"),
        (np.full((24, 32), np.nan, np.float32), "np.nan_to_num"),
        (np.full((24, 32), np.inf), "np.nan_to_num"),
        (-picture().astype(np.float32), "negative"),
        (np.zeros(5, np.uint16), "height, width"),
        (np.zeros((0, 32), np.uint16), "height, width"),
        (np.zeros((24, 32), complex), "complex"),
        (np.zeros((24, 32), bool), "bool"),
        (np.full((24, 32), "a"), "<U1"),
        (np.full((24, 32), None), "object"),
    ],
)
def test_arrays_that_are_no_depth_are_refused(array, word):
    with pytest.raises(ValueError, match=word):
        as_depth(array)
    with pytest.raises(ValueError):
        list(open_depth(array))


def test_files_that_are_no_depth_are_refused(tmp_path):
    rgb = np.zeros((24, 32, 3), np.uint8)
    hostile = b"\x93NUMPY\x02\x00" + struct.pack("<I", 0xFFFFFFF0) + b"{'descr'"
    (tmp_path / "long.npy").write_bytes(hostile)
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    with open(tmp_path / "short.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<u2", "fortran_order": False, "shape": (10**6, 480, 640)})
    np.savez(tmp_path / "two.npz", left=picture(), right=picture())
    np.savez(tmp_path / "zip.npz", picture())
    os.rename(tmp_path / "zip.npz", tmp_path / "zip.npy")
    (tmp_path / "a.tif").write_bytes(b"II*\0")
    (tmp_path / "a.ply").write_bytes(b"ply")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "text.h5").write_text("no HDF5")
    cases = {
        write_png(tmp_path / "rgb.png", rgb): "16 bits.*--layout=nyu",
        write_png(tmp_path / "8.png", rgb[..., 0]): "16 bits",
        write_png(tmp_path / "zero.png", np.zeros((24, 32), np.uint16)): "nothing was measured",
        write_msra(tmp_path / "cut.bin", picture(), (5, 3, 500, 18)): "no part of its picture",
        tmp_path / "long.npy": "claims 4294967280 bytes",
        tmp_path / "objects.npy": "cannot be read as an array",
        tmp_path / "short.npy": "cannot be read as an array",
        tmp_path / "zip.npy": "name it so",
        tmp_path / "two.npz": "left, right",
        tmp_path / "a.tif": "picture of colours",
        tmp_path / "a.ply": "16-bit|is read from",
        tmp_path / "pipe.png": "regular file",
        tmp_path / "text.h5": "HDF5",
    }
    for path, word in cases.items():
        with pytest.raises(ValueError, match=word):
            list(open_depth(path))
    with pytest.raises(ValueError, match="three channels of 8 bits"):
        list(open_depth(write_png(tmp_path / "16.png", picture()), layout="nyu"))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        open_depth(tmp_path / "nowhere.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no depth picture"):
        open_depth(tmp_path / "empty")
    for camera in (0, "0"):
        with pytest.raises(ValueError, match="camera"):
            open_depth(camera)
    with pytest.raises(ValueError, match="mm16, nyu"):
        open_depth(tmp_path, layout="rgb")


def test_bad_pictures_of_a_sequence_can_be_skipped(tmp_path):
    for number in range(3):
        write_png(tmp_path / f"{number}.png", picture(number))
    write_png(tmp_path / "1.png", np.zeros((24, 32), np.uint8))
    skipped = []
    assert [frame.name for frame in open_depth(tmp_path, skipped)] == ["0.png", "2.png"]
    assert len(skipped) == 1 and "1.png" in skipped[0]
    with pytest.raises(ValueError, match="1.png"):
        list(open_depth(tmp_path))
    stack = np.stack([picture(0), np.full((24, 32), -1), picture(2)])
    assert [frame.index for frame in open_depth(stack, skipped)] == [0, 2]


def test_several_pictures_may_hold_empty_ones(tmp_path):
    nothing = np.zeros((24, 32), np.uint16)
    for number, depth in enumerate((picture(0), nothing, picture(2))):
        write_png(tmp_path / f"{number}.png", depth)
    stack = np.stack([picture(0), nothing, picture(2)])
    np.savez(tmp_path / "stack.npz", stack)
    with h5py.File(tmp_path / "itop.h5", "w") as file:
        file["data"] = stack / np.float32(1000)
    for source in (tmp_path, stack, list(stack), tmp_path / "stack.npz", tmp_path / "itop.h5"):
        assert [bool(frame.depth.any()) for frame in open_depth(source)] == [True, False, True]
    for alone in (tmp_path / "1.png", nothing):
        with pytest.raises(ValueError, match="nothing was measured"):
            list(open_depth(alone))


def sparse(path, shape):
    """A `.npy` file that takes no room on the disk."""
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<u2", "fortran_order": False, "shape": shape})
        file.truncate(file.tell() + 2 * int(np.prod(shape)))


def test_huge_pictures_are_refused_before_memory_is_taken(tmp_path):
    side = 1 << 14
    bomb = struct.pack("<6I", side, side, 100, 100, 101, 101) + struct.pack("<f", 500)
    (tmp_path / "a.bin").write_bytes(bomb)
    sparse(tmp_path / "b.npy", (side, side))
    sparse(tmp_path / "c.npy", (2, side, side))
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file.create_dataset("data", (3, side, side), "<f2", chunks=(1, 16, 16), compression="gzip")
    with zipfile.ZipFile(tmp_path / "e.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        sparse(tmp_path / "depth.npy", (1 << 13, 1 << 12))
        archive.write(tmp_path / "depth.npy", "depth.npy")
    tracemalloc.start()
    for name in ("a.bin", "b.npy", "c.npy", "d.h5", "e.npz"):
        with pytest.raises(ValueError, match=f"{name}.*megapixels"):
            list(open_depth(tmp_path / name))
    with pytest.raises(ValueError, match="megapixels"):
        as_depth(np.broadcast_to(np.float32(1), (side, side)))
    with pytest.raises(ValueError, match="megapixels"):
        full_picture(DepthCrop(np.ones((1, 1), np.float32), (0, 0, 1, 1), (side, side)))
    with pytest.raises(ValueError, match="megapixels"):
        read_depth_bin(tmp_path / "a.bin", (side, side))
    assert tracemalloc.get_traced_memory()[1] < 32 << 20
    tracemalloc.stop()


def test_masked_pixels_measured_nothing():
    depth = np.ma.masked_equal(picture(), picture()[3, 4])
    for source in (depth, [depth], depth[None]):
        (frame,) = open_depth(source)
        np.testing.assert_array_equal(frame.depth, np.where(depth.mask, 0, depth.data))


@pytest.mark.parametrize("scale", ["x", [1, 2], {}, 0, -1, np.nan, np.inf, 10**400])
def test_scales_that_are_none(scale):
    with pytest.raises(ValueError, match="depth_scale="):
        open_depth(picture(), depth_scale=scale)
    with pytest.raises(ValueError, match="depth_scale="):
        as_depth(picture(), scale)
