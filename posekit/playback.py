"""Plays predictions: in a window with keys, or into a video or pictures where there is no display."""

import os
import pathlib
import sys
import time

import cv2
import numpy as np

from posekit.data.sources import open_source
from posekit.drawing import draw_text, save_image

ESCAPE = 27
_TURNS = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}


def has_display():
    """Tells whether a window can be opened here."""
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False
    try:
        cv2.namedWindow("posekit", cv2.WINDOW_NORMAL)
        return True
    except cv2.error:
        return False


def play(predictor, source, output="", *, view, keys, draw, every=0, rotate=0, mirror=False, max_frames=0):
    """Predicts and shows a source until it ends or ESC is pressed.

    Args:
        predictor: `Predictor`.
        source: Image, folder, video or camera number.
        output: `.mp4` video, `.png` or `.jpg` picture (numbered where there are several), or empty for a window.
        view: View to begin with.
        keys: Dict from key to view.
        draw: Function `(people, image, view) -> picture`.
        every: Predict every so many frames and keep the result between; 0: every 5 for a camera, else every frame.
        rotate: Degrees clockwise to turn frames: 0, 90, 180 or 270.
        mirror: Whether to mirror frames.
        max_frames: Stop after so many frames, 0 for no limit.

    Returns:
        `(frames shown, frames per second, paths written)`.

    Raises:
        ValueError: If there is neither an output nor a display.
    """
    if not output and not has_display():
        raise ValueError("There is no display here; write a file instead: --output=out.mp4 or --output=out.png.")
    opened = open_source(source)
    every = every or (5 if opened.kind == "camera" else 1)
    sink = _sink(output, opened)
    people, count, started = None, 0, time.perf_counter()
    try:
        for frame in opened:
            image = cv2.rotate(frame.image, _TURNS[rotate]) if rotate else frame.image
            image = np.ascontiguousarray(image[:, ::-1]) if mirror else image
            if people is None or count % every == 0:
                people = predictor(image)
            picture = draw(people, image, view)
            count += 1
            rate = count / (time.perf_counter() - started)
            key = sink.show(picture, rate)
            if key == ESCAPE or count == max_frames:
                break
            view = keys.get(chr(key), view) if key > 0 else view
        paths = sink.finish()
    finally:
        sink.close()
    return count, count / (time.perf_counter() - started), paths


def _sink(output, opened):
    if not output:
        return _Window(wait=0 if opened.kind in ("image", "folder") else 1)
    path = pathlib.Path(output)
    if path.suffix.lower() == ".mp4":
        return _Video(path, opened.fps or 2.0)
    if path.suffix.lower() in (".png", ".jpg", ".jpeg"):
        return _Pictures(path, single=opened.length == 1)
    raise ValueError(f"--output={output} must end in .mp4, .png or .jpg.")


class _Window:
    """Shows frames; pictures wait for a key, moving sources do not."""

    def __init__(self, wait):
        self.wait = wait

    def show(self, picture, rate):
        cv2.imshow("posekit", draw_text(picture, {"fps": rate})[..., ::-1])
        return cv2.waitKey(self.wait) & 0xFF

    def finish(self):
        return []

    def close(self):
        cv2.destroyAllWindows()


class _Video:
    """Writes an MP4 beside its final name and renames it at the end."""

    def __init__(self, path, fps):
        self.path = path
        self.temporary = path.with_name(f".{path.stem}.{os.getpid()}.mp4")
        self.fps = fps
        self.size = None
        self.count = 0
        path.parent.mkdir(parents=True, exist_ok=True)

    def show(self, picture, rate):
        if self.size is None:
            height, width = picture.shape[:2]
            self.size = (max(2, width - width % 2), max(2, height - height % 2))
            self.writer = cv2.VideoWriter(str(self.temporary), cv2.VideoWriter_fourcc(*"mp4v"), self.fps, self.size)
            if not self.writer.isOpened():
                raise OSError(f"{self.path} cannot be written as a video; check the folder, or write --output=out.png.")
        self.writer.write(np.ascontiguousarray(_letterbox(picture, self.size)[..., ::-1]))
        self.count += 1
        return -1

    def finish(self):
        self.writer.release()
        # OpenCV says nothing when a disk is full; then the index at the end of the file is missing.
        written = cv2.VideoCapture(str(self.temporary))
        complete = written.isOpened() and written.get(cv2.CAP_PROP_FRAME_COUNT) >= self.count
        written.release()
        if not complete:
            raise OSError(f"{self.path} could not be written whole; free some space there, or name another --output.")
        os.replace(self.temporary, self.path)
        return [self.path]

    def close(self):
        if self.size is not None:
            self.writer.release()
        self.temporary.unlink(missing_ok=True)


class _Pictures:
    """Writes pictures, numbered unless the source is a single image."""

    def __init__(self, path, single):
        self.path = path
        self.single = single
        self.written = []

    def show(self, picture, rate):
        number = len(self.written)
        path = self.path if self.single else self.path.with_stem(f"{self.path.stem}_{number:06d}")
        save_image(path, picture)
        self.written.append(path)
        return -1

    def finish(self):
        return self.written

    def close(self):
        pass


def _letterbox(picture, size):
    """Fits a picture into a frame of another size, on black."""
    width, height = size
    scale = min(width / picture.shape[1], height / picture.shape[0])
    inner = cv2.resize(picture, (max(1, int(picture.shape[1] * scale)), max(1, int(picture.shape[0] * scale))))
    frame = np.zeros((height, width, 3), np.uint8)
    top, left = (height - inner.shape[0]) // 2, (width - inner.shape[1]) // 2
    frame[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    return frame
