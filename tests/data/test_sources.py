import os
import pathlib
import struct

import cv2
import numpy as np
import pytest
from PIL import Image

from posekit.data import sources
from posekit.data.image_files import announced_size
from posekit.data.sources import as_image, open_source, read_image
from posekit.data.video_files import ends_early, shown_seconds


def picture(seed=0, size=(40, 60)):
    return np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8)


def write(path, image):
    cv2.imwrite(str(path), image[..., ::-1])


def test_image_file_comes_back_as_rgb(tmp_path):
    write(tmp_path / "a.png", picture())
    source = open_source(tmp_path / "a.png")
    frames = list(source)
    assert source.kind == "image" and len(frames) == 1 and frames[0].name == "a.png"
    np.testing.assert_array_equal(frames[0].image, picture())


def test_folder_is_read_in_name_order_without_other_files(tmp_path):
    write(tmp_path / "b.png", picture(1))
    write(tmp_path / "a.png", picture(2))
    (tmp_path / "notes.txt").write_text("no image")
    source = open_source(str(tmp_path))
    assert source.length == 2 and [frame.name for frame in source] == ["a.png", "b.png"]


def test_video_gives_its_frames(tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "v.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10, (64, 48))
    for level in (0, 100, 200):
        writer.write(np.full((48, 64, 3), level, np.uint8))
    writer.release()
    source = open_source(tmp_path / "v.mp4")
    levels = [frame.image.mean() for frame in source]
    assert source.kind == "video" and source.fps == pytest.approx(10)
    np.testing.assert_allclose(levels, [0, 100, 200], atol=6)


def film(path, code, count=60):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*code), 25, (64, 48))
    for level in range(count):
        writer.write(np.full((48, 64, 3), 4 * level, np.uint8))
    writer.release()
    return path.read_bytes()


@pytest.mark.parametrize(("name", "code"), [("v.avi", "MJPG"), ("v.mkv", "mp4v"), ("v.webm", "VP80")])
def test_a_video_that_is_cut_short_is_said(tmp_path, name, code, caplog):
    path, skipped = tmp_path / name, []
    data = film(path, code)
    assert len(list(open_source(path, skipped))) == 60 and skipped == []
    path.write_bytes(data[: len(data) // 2])
    frames = len(list(open_source(path, skipped)))
    assert 0 < frames < 50 and len(skipped) == 1
    assert skipped[0].startswith(f"the rest of {path}: {frames} of 60 frames could be read")
    assert len(list(open_source(path))) == frames and f"{frames} of 60 frames could be read" in caplog.text


def test_frames_that_an_edit_list_hides_are_not_missed(tmp_path):
    data = bytearray(film(tmp_path / "v.mp4", "mp4v"))
    place = data.find(b"elst") + 12
    (scale,) = struct.unpack_from(">I", data, data.find(b"mdhd") + 16)
    (length,) = struct.unpack_from(">I", data, place)
    struct.pack_into(">Ii", data, place, length // 2, 30 * scale // 25)
    (tmp_path / "v.mp4").write_bytes(data)
    source = open_source(tmp_path / "v.mp4", skipped := [])
    assert source.length == len(list(source)) == 30 and skipped == []


@pytest.mark.parametrize(
    ("name", "frames", "seconds", "length", "early"),
    [
        ("v.avi", 28, 1.08, 30, False),
        ("v.avi", 27, 1.04, 30, True),
        ("v.mp4", 980, 39.2, 1000, False),
        ("v.mp4", 979, 39.2, 1000, True),
        ("v.avi", 5, 0.2, None, False),
        ("v.mkv", 600, 39.9, 1000, False),  # frames that take longer than others
        ("v.mkv", 600, 23.0, 1000, True),
    ],
)
def test_announced_counts_have_some_slack(name, frames, seconds, length, early):
    assert ends_early(pathlib.Path(name), frames, seconds, length, 25.0) == early


def test_index_of_a_video_that_makes_no_sense_says_nothing(tmp_path):
    path = tmp_path / "v.mp4"
    data = film(path, "mp4v", 10)
    assert shown_seconds(path) == pytest.approx(0.4)
    first, place = data.find(b"moov"), data.find(b"elst")
    huge, none = b"\xff" * 8, b"\0" * 4
    for start, new in ((place + 4, huge), (first - 4, b"\0\0\0\1"), (first - 4, huge[:4]), (place - 4, none)):
        path.write_bytes(data[:start] + new + data[start + len(new) :])
        assert shown_seconds(path) is None
    for size in range(0, len(data), 37):
        path.write_bytes(data[:size])
        assert shown_seconds(path) in (None, pytest.approx(0.4))


@pytest.mark.parametrize("content", [b"", b"not an image", b"\xff\xd8\xff\xe0" + b"\0" * 50])
def test_files_that_are_no_images_are_named(tmp_path, content):
    (tmp_path / "bad.jpg").write_bytes(content)
    with pytest.raises(ValueError, match="bad.jpg is not an image"):
        read_image(tmp_path / "bad.jpg")


def test_broken_video_is_named(tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="bad.mp4"):
        list(open_source(tmp_path / "bad.mp4"))


def test_missing_and_empty(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        open_source(tmp_path / "none.jpg")
    with pytest.raises(FileNotFoundError, match="holds no image"):
        open_source(tmp_path)
    with pytest.raises(ValueError, match="Camera 97"):
        open_source(97)


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        (-1, ValueError, "Camera -1 cannot be opened; name an image.*0 to 99"),
        (10**20, ValueError, "Camera 100000000000000000000 cannot"),
        ("99999999999999999999", FileNotFoundError, "99999999999999999999 does not exist; name an image.*0 to 99"),
        ("\u00b2", FileNotFoundError, "does not exist"),
        (True, TypeError, "True is no source; name an image"),
        (np.True_, TypeError, "True.* is no source"),
        (None, TypeError, "None is no source"),
        (1.5, TypeError, "1.5 is no source"),
        ({}, TypeError, "{} is no source"),
        (b"a.png", TypeError, "a.png.* is no source"),
        ("", ValueError, "source is empty; name an image"),
        ("a" * 5000, FileNotFoundError, "^a{200} cannot be reached .File name too long.; name an image"),
        ("a\0b", FileNotFoundError, "does not exist"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_what_is_no_source_is_named(source, error, words):
    with pytest.raises(error, match=words):
        open_source(source)


def test_a_path_of_digits_is_no_camera(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("20240101", "0"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "a.png", picture())
        assert open_source(name).kind == "folder"
    with pytest.raises(ValueError, match="Camera 98 does not answer"):
        open_source("98")


def test_a_pipe_with_the_name_of_a_video_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(ValueError, match="pipe.mp4 is not a regular file"):
        open_source(tmp_path / "pipe.mp4")


def test_arrays_are_checked():
    assert as_image(np.ones((4, 5))).shape == (4, 5, 3)
    assert as_image(np.ones((4, 5, 3), np.float32)).max() == 255
    wrong = [np.zeros((4, 5, 4), np.uint8), np.zeros((0, 5, 3), np.uint8), np.zeros((4, 5, 3), np.int64)]
    for bad in [*wrong, np.full((4, 5, 3), 7.0), np.full((4, 5, 3), np.nan)]:
        with pytest.raises(ValueError):
            as_image(bad)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".tiff", ".webp"])
def test_announced_size_is_that_of_the_picture(suffix):
    assert announced_size(cv2.imencode(suffix, picture())[1].tobytes()) == (40, 60)


def test_lossless_webp_announces_its_size():
    data = cv2.imencode(".webp", picture(), [cv2.IMWRITE_WEBP_QUALITY, 101])[1].tobytes()
    assert data[12:16] == b"VP8L" and announced_size(data) == (40, 60)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".tiff"])
def test_pictures_that_announce_too_many_pixels_take_no_memory(tmp_path, suffix):
    """OpenCV itself would decode 20000 x 20000 pixels into 1.2 GB."""
    data = bytearray(cv2.imencode(suffix, picture())[1].tobytes())
    if suffix == ".jpg":
        place = data.find(b"\xff\xc0") + 5
        data[place : place + 4] = struct.pack(">HH", 20000, 20000)
    elif suffix == ".png":
        data[16:24] = struct.pack(">II", 20000, 20000)
    elif suffix == ".bmp":
        data[18:26] = struct.pack("<ii", 20000, -20000)
    else:
        directory = struct.unpack_from("<I", data, 4)[0] + 2
        for tag in range(directory, directory + 24, 12):
            struct.pack_into("<HII", data, tag + 2, 4, 1, 20000)
    path = tmp_path / f"bomb{suffix}"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="bomb.*20000 x 20000 pixels, more than 100 million"):
        read_image(path)


@pytest.mark.parametrize("size", [(1, 100_001), (100_001, 1)], ids=str)
def test_a_side_longer_than_results_hold_is_refused(tmp_path, size):
    write(tmp_path / "strip.png", np.zeros((*size, 3), np.uint8))
    write(tmp_path / "z.png", picture())
    words = f"strip.png.*{size[1]} x {size[0]} pixels; a side has 100000 at most"
    with pytest.raises(ValueError, match=words):
        read_image(tmp_path / "strip.png")
    for shape in (size, (*size, 3)):
        with pytest.raises(ValueError, match="a side has 100000 pixels at most"):
            as_image(np.zeros(shape, np.uint8))
    skipped = []
    assert [frame.name for frame in open_source(tmp_path, skipped)] == ["z.png"]
    assert len(skipped) == 1 and "strip.png" in skipped[0]


def test_pil_images_are_what_their_files_are(tmp_path):
    rgb = cv2.GaussianBlur(picture(), (0, 0), 9)
    image = Image.fromarray(rgb)
    turned = image.getexif()
    turned[0x0112] = 6  # turned by 90 degrees
    image.convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "palette.png")
    image.convert("LA").save(tmp_path / "grey.png")
    image.convert("RGBA").save(tmp_path / "alpha.png")
    image.convert("1").save(tmp_path / "bit.png")
    image.save(tmp_path / "turned.png", exif=turned)
    cv2.imwrite(str(tmp_path / "sixteen.png"), rgb[..., 0].astype(np.uint16) * 256 + 77)
    for path in sorted(tmp_path.iterdir()):
        with Image.open(path) as opened:
            (frame,) = open_source(opened)
            expected = read_image(path)
            assert expected.shape == ((60, 40, 3) if path.stem == "turned" else (40, 60, 3))
            np.testing.assert_allclose(frame.image, expected, atol=1, err_msg=path.name)
            np.testing.assert_array_equal(as_image(opened), frame.image)


def test_pil_images_that_cannot_be_used_are_named(tmp_path, monkeypatch):
    for mode in ("I", "F"):
        with pytest.raises(ValueError, match=f"mode {mode} cannot be used.*convert"):
            as_image(Image.new(mode, (5, 5)))
    with pytest.raises(ValueError, match="a side has 100000"):
        as_image(Image.new("1", (100_001, 1)))
    write(tmp_path / "cut.png", picture())
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:3000])
    with pytest.raises(ValueError, match="PIL image cannot be read"):
        as_image(Image.open(tmp_path / "cut.png"))
    monkeypatch.setattr(sources, "MAX_PIXELS", 2000)
    with pytest.raises(ValueError, match="60 x 40 pixels cannot be used; make it smaller"):
        as_image(Image.fromarray(picture()))


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    for name in ("pipe.jpg", "folder.jpg"):
        with pytest.raises(ValueError, match="not a regular file"):
            read_image(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="loop.jpg"):
        read_image(tmp_path / "loop.jpg")
    write(tmp_path / "a.png", picture())
    assert open_source(tmp_path).length == 3  # the subfolder is none of the pictures


def test_grey_alpha_and_16_bits_become_rgb(tmp_path):
    rgb = picture()
    for name, stored in (
        ("grey.png", rgb[..., 0]),
        ("alpha.png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGRA)),
        ("sixteen.png", rgb[..., ::-1].astype(np.uint16) * 257),
    ):
        cv2.imwrite(str(tmp_path / name), stored)
        expected = np.repeat(rgb[..., :1], 3, -1) if name == "grey.png" else rgb
        np.testing.assert_array_equal(read_image(tmp_path / name), expected)
