import threading
import types

import cv2
import numpy as np
import pytest
from PIL import Image, ImageSequence

from posekit import playback
from posekit.data.sources import Frame, Source, open_source

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
    assert result.latency_ms >= 0
    return predictor, result[:3]


def test_video_to_video(video, tmp_path):
    predictor, (count, rate, paths) = play(video, tmp_path / "out.mp4")
    assert (count, len(predictor.images), paths) == (5, 5, [tmp_path / "out.mp4"]) and rate > 0
    frames = list(open_source(tmp_path / "out.mp4"))
    assert len(frames) == 5 and frames[0].image.shape == (48, 64, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4", "out.mp4"]


def test_prediction_every_few_frames(video, tmp_path):
    predictor, _ = play(video, tmp_path / "out.mp4", every=2)
    assert len(predictor.images) == 3


def test_prediction_goes_on_while_pictures_are_drawn(tmp_path):
    """The next frame's prediction ends before this one's picture is drawn."""
    second, drawn = threading.Event(), []

    def predictor(image):
        predictor.count += 1
        if predictor.count == 2:
            second.set()

    def slow(people, image, view):
        drawn.append(second.wait(20))
        return image

    predictor.count = 0
    options = {"view": "mesh", "keys": KEYS, "draw": slow}
    assert playback.play(predictor, moving(10, 2), str(tmp_path / "out.gif"), **options).count == 2
    assert drawn == [True, True]


def test_cameras_leave_out_frames_that_cannot_be_shown_in_time(tmp_path):
    read = threading.Event()

    def frames():
        for index in range(50):
            yield Frame(np.full((40, 60, 3), index, np.uint8), "camera0", index)
        read.set()

    def slow(people, image, view):
        read.wait(20)
        shown.append(int(image[0, 0, 0]))
        return image

    shown = []
    source = Source("camera", frames(), None, 30.0)
    options = {"view": "mesh", "keys": KEYS, "draw": slow, "every": 1}
    played = playback.play(CountingPredictor(), source, str(tmp_path / "out.gif"), **options)
    assert played.count == len(shown) <= 4 and shown[-1] == 49


def test_the_newest_frame_of_a_camera_is_predicted(tmp_path):
    arrived = threading.Event()

    def frames():
        yield Frame(np.zeros((40, 60, 3), np.uint8), "camera0", 0)
        predicting.wait(20)
        for index in range(1, 50):
            yield Frame(np.full((40, 60, 3), index, np.uint8), "camera0", index)
        arrived.set()

    def slow(image):
        predicting.set()
        arrived.wait(20)
        predicted.append(int(image[0, 0, 0]))
        return image

    predicting, predicted = threading.Event(), []
    source = Source("camera", frames(), None, 30.0)
    options = {"view": "mesh", "keys": KEYS, "draw": lambda people, image, view: image, "every": 1}
    playback.play(slow, source, str(tmp_path / "out.gif"), **options)
    assert predicted == [0, 49]


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
    with pytest.raises(ValueError, match=r"\.mp4, \.gif, \.png or \.jpg"):
        play(video, tmp_path / "out.webm")


def frames_of(path):
    """Pictures and milliseconds of a GIF."""
    with Image.open(path) as animation:
        assert animation.info["loop"] == 0
        frames = list(ImageSequence.all_frames(animation))
        times = []
        for number in range(animation.n_frames):
            animation.seek(number)
            times.append(animation.info["duration"])
    return [np.asarray(frame.convert("RGB")) for frame in frames], times


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a.png"])
def test_a_place_that_takes_no_file_is_said_before_anything_is_predicted(video, tmp_path, name):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / name).mkdir()
    predictor = CountingPredictor()
    for output in (tmp_path / "file" / name, tmp_path / name, tmp_path / f"\0{name}", tmp_path / ("x" * 300 + name)):
        with pytest.raises(OSError, match="Cannot write .*Give a file"):
            playback.play(predictor, video, str(output), view="mesh", keys=KEYS, draw=draw)
    assert not predictor.images and {path.name for path in tmp_path.iterdir()} == {"file", name, "in.mp4"}


def test_video_to_animation(video, tmp_path):
    _, (count, _, paths) = play(video, tmp_path / "new" / "out.gif")
    frames, times = frames_of(paths[0])
    assert count == 5 and paths == [tmp_path / "new" / "out.gif"] and times == [100] * 5
    for level, frame in zip(range(0, 200, 40), frames):
        assert frame.shape == (48, 64, 3) and abs(int(frame[20, 20, 0]) - level) < 12
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out.gif"]


def moving(fps, count, size=(40, 60)):
    """A source of pictures that differ."""
    pictures = (np.full((*size, 3), 10 * index, np.uint8) for index in range(count))
    return Source("video", (Frame(picture, "a", index) for index, picture in enumerate(pictures)), count, fps)


@pytest.mark.parametrize("fps, count, kept", [(30, 15, 15), (25, 10, 10), (60, 12, 12), (100, 20, 10), (3, 2, 2)])
def test_an_animation_takes_the_time_of_its_source(tmp_path, fps, count, kept):
    _, (shown, _, paths) = play(moving(fps, count), tmp_path / "out.gif")
    frames, times = frames_of(paths[0])
    assert shown == count and sum(times) == pytest.approx(1000 * count / fps, abs=25) and min(times) >= 20
    assert len(frames) <= kept and (fps > 50 or len(frames) == kept)


def test_an_animation_takes_the_time_that_is_asked_for(tmp_path):
    _, (shown, _, paths) = play(moving(25, 4), tmp_path / "out.gif", fps=5.0)
    assert shown == 4 and frames_of(paths[0])[1] == [200] * 4
    with pytest.raises(ValueError, match="--fps=5 goes with a video, an animation or a window, not with .*out.png"):
        play(moving(25, 4), tmp_path / "out.png", fps=5.0)


def test_animations_get_new_colours_where_the_scene_changes(tmp_path):
    rng = np.random.default_rng(0)
    scenes = [np.uint8(rng.uniform(0, 90, (40, 60, 3)) + low) for low in ((0, 100, 160), (160, 0, 20))]
    frames = (Frame(scenes[index // 2], "a", index) for index in range(4))
    _, (_, _, paths) = play(Source("video", frames, 4, 10.0), tmp_path / "out.gif")
    for frame, scene in zip(frames_of(paths[0])[0], scenes):
        assert np.abs(frame.astype(int) - scene).mean() < 12


def test_large_pictures_are_scaled_down_for_animations(tmp_path, monkeypatch):
    monkeypatch.setattr(playback, "GIF_MAX_SIDE", 30)
    frames, _ = frames_of(play(moving(10, 2), tmp_path / "out.gif")[1][2][0])
    assert frames[0].shape == (20, 30, 3)


def test_long_animations_end_with_a_word(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(playback, "GIF_MAX_PIXELS", 3 * 40 * 60)
    predictor, (count, _, paths) = play(moving(10, 9), tmp_path / "out.gif")
    assert count == 3 and len(frames_of(paths[0])[0]) == 3 and len(predictor.images) < 9
    assert "first 3 pictures" in caplog.text and "out.mp4" in caplog.text
    caplog.clear()
    play(moving(10, 3), tmp_path / "whole.gif")
    assert not caplog.text


def test_a_failing_prediction_leaves_no_half_animation(tmp_path):
    def failing(image):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        playback.play(failing, moving(10, 3), str(tmp_path / "out.gif"), view="mesh", keys=KEYS, draw=draw)
    assert not list(tmp_path.iterdir())


def test_an_animation_that_cannot_be_written_is_said(tmp_path, monkeypatch):
    (tmp_path / "out.gif").write_bytes(b"old")

    def full_disk(image, path, *_, **__):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        play(moving(10, 3), tmp_path / "out.gif")
    assert [path.name for path in tmp_path.iterdir()] == ["out.gif"] and (tmp_path / "out.gif").read_bytes() == b"old"


def walk_around(people, image, view):
    """Five pictures of one."""
    return (np.full_like(image, 50 * number + people.number) for number in range(5))


@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
def test_one_picture_moves_where_the_output_can(tmp_path, suffix):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((32, 48, 3), np.uint8))
    predictor, (count, _, paths) = play(tmp_path / "a.png", tmp_path / f"out{suffix}", animate=walk_around)
    assert count == 5 and len(predictor.images) == 1
    if suffix == ".gif":
        frames, times = frames_of(paths[0])
        assert len(frames) == 5 and times == [50] * 5 and frames[4][0, 0, 0] == 201
    else:
        opened = open_source(paths[0])
        assert opened.fps == playback.ANIMATION_FPS and len(list(opened)) == 5
    assert play(tmp_path / "a.png", tmp_path / f"b{suffix}", animate=walk_around, max_frames=2)[1][0] == 2


def test_one_picture_stands_still_otherwise(video, tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((32, 48, 3), np.uint8))
    assert play(tmp_path / "a.png", tmp_path / "out.png", animate=walk_around)[1][0] == 1
    assert play(tmp_path / "a.png", tmp_path / "out.gif")[1][0] == 1
    assert play(video, tmp_path / "out.mp4", animate=walk_around)[1][0] == 5


def test_frames_of_keypoints_reach_the_predictor_whole(tmp_path):
    frames = [types.SimpleNamespace(image=None, number=3), types.SimpleNamespace(image=None, number=4)]
    given = []

    def predictor(frame):
        given.append(frame)
        return frame

    def number_of(people, image, view):
        return np.full((8, 8, 3), people.number, np.uint8)

    options = {"view": "both", "keys": {}, "draw": number_of}
    playback.play(predictor, Source("folder", iter(frames), 2), str(tmp_path / "out.png"), **options)
    assert given == frames and cv2.imread(str(tmp_path / "out_000001.png"))[0, 0, 0] == 4
    with pytest.raises(ValueError, match="--mirror"):
        playback.play(predictor, Source("folder", iter(frames), 2), str(tmp_path / "o.png"), mirror=True, **options)


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
