import cv2
import numpy as np
import pytest

from posekit.data.sources import as_image, open_source, read_image


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


def test_arrays_are_checked():
    assert as_image(np.ones((4, 5))).shape == (4, 5, 3)
    assert as_image(np.ones((4, 5, 3), np.float32)).max() == 255
    wrong = [np.zeros((4, 5, 4), np.uint8), np.zeros((0, 5, 3), np.uint8), np.zeros((4, 5, 3), np.int64)]
    for bad in [*wrong, np.full((4, 5, 3), 7.0), np.full((4, 5, 3), np.nan)]:
        with pytest.raises(ValueError):
            as_image(bad)
