import types

import cv2
import numpy as np
import pytest

from posekit import playback
from posekit.data.sources import open_source

KEYS = {"s": "skeleton", "m": "mesh"}


class CountingPredictor:
    """Stands in for a predictor: remembers what it was given."""

    def __init__(self):
        self.images = []

    def __call__(self, image):
        self.images.append(image)
        return types.SimpleNamespace(number=len(self.images))


def draw(people, image, view):
    """Writes the number of the prediction and the view into the picture."""
    picture = image.copy()
    picture[0, 0] = (people.number, view == "mesh", 7)
    return picture


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "in.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10, (64, 48))
    for level in range(0, 200, 40):
        writer.write(np.full((48, 64, 3), level, np.uint8))
    writer.release()
    return path


def play(source, output="", **options):
    predictor = CountingPredictor()
    result = playback.play(predictor, source, str(output), view="mesh", keys=KEYS, draw=draw, **options)
    return predictor, result


def test_video_to_video(video, tmp_path):
    predictor, (count, rate, paths) = play(video, tmp_path / "out.mp4")
    assert (count, len(predictor.images), paths) == (5, 5, [tmp_path / "out.mp4"]) and rate > 0
    frames = list(open_source(tmp_path / "out.mp4"))
    assert len(frames) == 5 and frames[0].image.shape == (48, 64, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4", "out.mp4"]


def test_prediction_every_few_frames(video, tmp_path):
    predictor, _ = play(video, tmp_path / "out.mp4", every=2)
    assert len(predictor.images) == 3


def test_frame_limit(video, tmp_path):
    assert play(video, tmp_path / "out.mp4", max_frames=2)[1][0] == 2


def test_folder_to_numbered_pictures(tmp_path):
    (tmp_path / "in").mkdir()
    for name in "ab":
        cv2.imwrite(str(tmp_path / "in" / f"{name}.png"), np.zeros((20, 30, 3), np.uint8))
    _, (count, _, paths) = play(tmp_path / "in", tmp_path / "out.png")
    assert count == 2 and [path.name for path in paths] == ["out_000000.png", "out_000001.png"]
    assert cv2.imread(str(paths[1]))[0, 0].tolist() == [7, 1, 2]


def test_rotation_and_mirror_come_before_prediction(tmp_path):
    image = np.zeros((20, 30, 3), np.uint8)
    image[0, 0] = 255
    cv2.imwrite(str(tmp_path / "a.png"), image)
    predictor, (_, _, paths) = play(tmp_path / "a.png", tmp_path / "out.png", rotate=90, mirror=True)
    assert [path.name for path in paths] == ["out.png"]
    assert predictor.images[0].shape == (30, 20, 3)
    # Clockwise, the upper left pixel goes to the upper right; mirrored, it comes back.
    assert predictor.images[0][0, 0, 0] == 255


def test_pictures_of_other_sizes_fit_into_the_video(tmp_path):
    (tmp_path / "in").mkdir()
    for name, size in (("a", (40, 61, 3)), ("b", (60, 20, 3))):
        cv2.imwrite(str(tmp_path / "in" / f"{name}.png"), np.full(size, 200, np.uint8))
    play(tmp_path / "in", tmp_path / "out.mp4")
    frames = [frame.image for frame in open_source(tmp_path / "out.mp4")]
    assert frames[1].shape == (40, 60, 3) and frames[1][20, 2].max() < 60 < frames[1][20, 30].max()


def test_window_keys_change_the_view_and_escape_ends(video, monkeypatch):
    shown, keys = [], iter([ord("s"), 255, playback.ESCAPE])
    monkeypatch.setattr(playback, "has_display", lambda: True)
    monkeypatch.setattr(cv2, "imshow", lambda name, picture: shown.append(picture))
    monkeypatch.setattr(cv2, "waitKey", lambda wait: next(keys))
    monkeypatch.setattr(cv2, "destroyAllWindows", lambda: None)
    monkeypatch.setattr(playback, "draw_text", lambda picture, content: picture)
    _, (count, _, paths) = play(video)
    assert count == 3 and paths == []
    assert [int(picture[0, 0, 1]) for picture in shown] == [1, 0, 0]


def test_without_display_an_output_is_asked_for(video, monkeypatch):
    monkeypatch.setattr(playback, "has_display", lambda: False)
    with pytest.raises(ValueError, match="--output=out.mp4"):
        play(video)


def test_other_outputs_are_refused(video, tmp_path):
    with pytest.raises(ValueError, match=r"\.mp4, \.png or \.jpg"):
        play(video, tmp_path / "out.gif")


def test_a_failing_prediction_leaves_no_half_video(video, tmp_path):
    class Failing(CountingPredictor):
        def __call__(self, image):
            if len(self.images) == 2:
                raise RuntimeError("no")
            return super().__call__(image)

    with pytest.raises(RuntimeError):
        playback.play(Failing(), video, str(tmp_path / "out.mp4"), view="mesh", keys=KEYS, draw=draw)
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


def test_video_that_the_disk_cuts_short_does_not_take_its_name(video, tmp_path, monkeypatch):
    class FullDisk:
        """Writes like OpenCV on a full disk: without a word."""

        def __init__(self, path, *arguments):
            self.path = path

        def isOpened(self):
            return True

        def write(self, picture):
            pass

        def release(self):
            with open(self.path, "wb") as file:
                file.write(video.read_bytes()[:500])

    monkeypatch.setattr(cv2, "VideoWriter", FullDisk)
    with pytest.raises(OSError, match="could not be written whole"):
        play(video, tmp_path / "out.mp4")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4"]
