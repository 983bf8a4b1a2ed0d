"""Plays predictions: in a window with keys, or into a video, an animation or pictures where there is no display.

Frames of videos and cameras are read and predicted in a thread of its own, a little ahead of those that are drawn and
shown or written meanwhile. A camera has a further thread, which empties it all the time: the newest frame is predicted.
"""

import contextlib
import os
import pathlib
import queue
import shlex
import sys
import threading
import time
from typing import NamedTuple

import cv2
import numpy as np
from absl import logging
from PIL import Image

from posekit.data.sources import Frame, Source, open_source
from posekit.drawing import draw_text, save_image
from posekit.files import check_place, replacing

ESCAPE = 27
OUTPUTS = (".mp4", ".gif", ".png", ".jpg")
ANIMATION_FPS = 20.0
PICTURES_FPS = 2.0
GIF_MAX_SIDE = 1000
GIF_MAX_PIXELS = 150_000_000  # of all pictures together; they are kept in memory, one byte a pixel
_AHEAD = 2  # frames predicted ahead of the one that is drawn
_LOOK = 0.2  # seconds
_TURNS = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}


class Played(NamedTuple):
    """What was played.

    Args:
        count: Frames shown.
        rate: Frames per second.
        paths: Paths written.
        latency_ms: Mean time from a frame's arrival until it was shown or written, in milliseconds.
    """

    count: int
    rate: float
    paths: list
    latency_ms: float


def has_display():
    """Tells whether a window can be opened here."""
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False
    try:
        cv2.namedWindow("posekit", cv2.WINDOW_NORMAL)
        return True
    except cv2.error:
        return False


def check_output(output, fps=0.0):
    """Checks before anything is predicted that what is asked for can be shown or written.

    Args:
        output: As for `play`.
        fps: As for `play`.

    Raises:
        ValueError: If there is neither an output nor a display, the output's ending is another, or a rate is given for
            pictures.
        OSError: If the output cannot be written, saying why and what to do.
    """
    if not output and not has_display():
        raise ValueError("There is no display here; write a file instead: --output=out.mp4, or .gif or .png.")
    if output:
        if _suffix(output) not in _SINKS:
            raise ValueError(f"--output={output!s:.200} must end in {', '.join(OUTPUTS[:-1])} or {OUTPUTS[-1]}.")
        if fps and _SINKS[_suffix(output)] is _Pictures:
            raise ValueError(f"--fps={fps:g} goes with a video, an animation or a window, not with {output!s:.200}.")
        check_place(output)


def play(
    predictor,
    source,
    output="",
    *,
    view,
    keys,
    draw,
    every=0,
    rotate=0,
    mirror=False,
    max_frames=0,
    fps=0.0,
    animate=None,
):
    """Predicts and shows a source until it ends or ESC is pressed.

    Args:
        predictor: `Predictor`, called with each picture; or what takes the frames of a source of keypoints, called
            with each frame.
        source: Image, folder, video or camera number; or a `Source` that is open already. Its frames are pictures
            (`Frame`) or carry one, or None, as `image`.
        output: `.mp4` video, `.gif` animation, `.png` or `.jpg` picture (numbered where there are several), or empty
            for a window.
        view: View to begin with.
        keys: Dict from key to view.
        draw: Function `(people, image, view) -> picture`.
        every: Predict every so many frames and keep the result between; 0: every 5 for a camera, else every frame.
        rotate: Degrees clockwise to turn frames: 0, 90, 180 or 270.
        mirror: Whether to mirror frames.
        max_frames: Stop after so many frames, 0 for no limit.
        fps: Frames a second of a video or animation, and of a window, which then waits for no key; 0: those of the
            source, 2 for pictures that say nothing of time.
        animate: Function `(people, image, view) -> pictures` that makes a moving picture of a single one, such as a
            walk around it; used where the source is one picture and the output a video or an animation.

    Returns:
        `Played`.

    Raises:
        ValueError: If there is neither an output nor a display, frames that bring keypoints are to be turned, or `fps`
            is given for pictures.
        OSError: If the output cannot be written.
    """
    check_output(output, fps)
    opened = source if isinstance(source, Source) else open_source(source)
    every = every or (5 if opened.kind == "camera" else 1)
    animated = animate is not None and opened.length == 1 and _suffix(output) in (".mp4", ".gif")
    sink = _sink(output, fps, ANIMATION_FPS if animated else opened.fps or PICTURES_FPS, opened)
    count, ended, waited, started = 0, False, 0.0, time.perf_counter()
    frames = _stamped(opened)
    if opened.kind == "camera":
        frames = _ahead(frames, live=True, depth=1)
    predicted = _predicted(frames, predictor, every, rotate, mirror)
    if opened.kind in ("video", "camera"):
        predicted = _ahead(predicted, opened.kind == "camera")
    try:
        with contextlib.closing(predicted):
            for image, people, read in predicted:
                for picture in animate(people, image, view) if animated else (draw(people, image, view),):
                    now = time.perf_counter()
                    key = sink.show(picture, {"fps": (count + 1) / (now - started), "ms": 1000 * (now - read)})
                    if not sink.full:
                        count, waited = count + 1, waited + time.perf_counter() - read
                    ended = key == ESCAPE or count == max_frames or sink.full
                    if ended:
                        break
                    view = keys.get(chr(key), view) if key > 0 else view
                if ended:
                    break
        paths = sink.finish()
    finally:
        sink.close()
    return Played(count, count / (time.perf_counter() - started), paths, 1000 * waited / max(count, 1))


def film_command(system, options, source):
    """The command that makes one film of a video.

    Args:
        system: System name.
        options: Options of a command, with the weights.
        source: The video.

    Returns:
        What to type in a shell.
    """
    flags = {"model": system, "run_dir": options.run_dir, "weights": options.weights, "source": source}
    flags = [shlex.quote(f"--{flag}={value}") for flag, value in flags.items() if value]
    return " ".join(["python -m posekit.preview", *flags, "--output=people.mp4"])


def _stamped(opened):
    """Yields every frame and the time at which it was read."""
    for frame in opened:
        yield frame, time.perf_counter()


def _predicted(frames, predictor, every, rotate, mirror):
    """Yields every frame's picture, the people in it and the time at which it was read."""
    people = None
    with contextlib.closing(frames):
        for index, (frame, read) in enumerate(frames):
            image = _turned(frame, rotate, mirror)
            if people is None or index % every == 0:
                people = predictor(image if isinstance(frame, Frame) else frame)
            yield image, people, read


def _ahead(items, live, depth=_AHEAD):
    """Takes items from an iterator in a thread; `live` ones are left out where they are not taken in time."""
    waiting, stop, end = queue.Queue(depth), threading.Event(), object()

    def put(item):
        while not stop.is_set():
            try:
                return waiting.put(item, timeout=_LOOK)
            except queue.Full:
                continue

    def work():
        try:
            for item in items:
                if live and waiting.full():
                    with contextlib.suppress(queue.Empty):
                        waiting.get_nowait()
                put((item, None))
                if stop.is_set():
                    return
            put((end, None))
        except BaseException as error:  # raised where the items are taken
            put((end, error))
        finally:
            items.close()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            item, error = waiting.get()
            if error is not None:
                raise error
            if item is end:
                return
            yield item
    finally:
        stop.set()
        thread.join()


def _turned(frame, rotate, mirror):
    if (rotate or mirror) and not isinstance(frame, Frame):
        raise ValueError("Keypoints and depth cannot be turned or mirrored; leave out --rotate and --mirror.")
    image = cv2.rotate(frame.image, _TURNS[rotate]) if rotate else frame.image
    return np.ascontiguousarray(image[:, ::-1]) if mirror else image


def _suffix(output):
    return pathlib.Path(output).suffix.lower()


def _sink(output, fps, usual_fps, opened):
    if not output:
        still = opened.kind in ("image", "folder")
        return _Window(wait=max(1, round(1000 / fps)) if fps else 0 if still else 1)
    kind = _SINKS[_suffix(output)]
    return kind(pathlib.Path(output), opened.length == 1 if kind is _Pictures else fps or usual_fps)


class _Window:
    """Shows frames; pictures wait for a key, moving sources do not."""

    full = False

    def __init__(self, wait):
        self.wait = wait

    def show(self, picture, timing):
        cv2.imshow("posekit", draw_text(picture, timing)[..., ::-1])
        return cv2.waitKey(self.wait) & 0xFF

    def finish(self):
        return []

    def close(self):
        cv2.destroyAllWindows()


class _Video:
    """Writes an MP4 beside its final name and renames it at the end."""

    full = False

    def __init__(self, path, fps):
        self.path = path
        self.temporary = path.with_name(f".{path.stem}.{os.getpid()}.mp4")
        self.fps = fps
        self.size = None
        self.count = 0
        path.parent.mkdir(parents=True, exist_ok=True)

    def show(self, picture, timing):
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


class _Animation:
    """Writes a GIF: 256 colours chosen from the first picture, and anew where later ones look different."""

    def __init__(self, path, fps):
        self.path = path
        self.fps = fps
        self.pictures, self.durations_ms = [], []
        self.palette, self.error = None, None
        self.count = self.pixels = self.shown_cs = 0
        self.size = None
        self.full = False

    def show(self, picture, timing):
        # Players take whole hundredths of a second and play anything below two of them slowly: frames that come
        # faster are left out, and rounding never adds up.
        until_cs = round(100.0 * (self.count + 1) / self.fps)
        if not self.pictures or until_cs - self.shown_cs >= 2:
            picture = self._fitted(picture)
            self.full = bool(self.pictures) and self.pixels + picture.size // 3 > GIF_MAX_PIXELS
            if self.full:
                return -1
            self.durations_ms.append(10 * max(until_cs - self.shown_cs, 2))
            self.pictures.append(self._with_palette(picture))
            self.pixels += picture.size // 3
            self.shown_cs = until_cs
        self.count += 1
        return -1

    def _fitted(self, picture):
        if self.size is None:
            height, width = picture.shape[:2]
            scale = min(1.0, GIF_MAX_SIDE / max(height, width))
            self.size = max(1, round(width * scale)), max(1, round(height * scale))
        if picture.shape[1::-1] == self.size:
            return picture
        return _letterbox(picture, self.size)

    def _with_palette(self, picture):
        # Dithering would make still parts flicker, and the file three times as large.
        image, plain = Image.fromarray(picture), Image.Dither.NONE
        if self.palette is not None:
            result = image.quantize(palette=self.palette, dither=plain)
            mean, far = _difference(result, picture)
            if mean <= 1.3 * self.error[0] + 0.5 and far <= self.error[1] + 0.002:
                return result
        self.palette = _palette(picture)
        result = image.quantize(palette=self.palette, dither=plain)
        self.error = _difference(result, picture)
        return result

    def finish(self):
        if not self.pictures:
            return []
        if self.full:
            logging.warning(
                "%s holds the first %d pictures, as many as go into an animation of this size; write --output=%s for "
                "all of them.",
                self.path,
                self.count,
                self.path.with_suffix(".mp4"),
            )
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self.path) as temporary:
                first, *rest = self.pictures
                times = {"duration": self.durations_ms, "loop": 0}
                first.save(temporary, "GIF", save_all=True, append_images=rest, optimize=False, **times)
        except OSError as error:
            reason = error.strerror or str(error)
            raise type(error)(f"Cannot write {self.path}: {reason}. Free some space, or name another file.") from error
        return [self.path]

    def close(self):
        self.pictures = []


class _Pictures:
    """Writes pictures, numbered unless the source is a single image."""

    full = False

    def __init__(self, path, single):
        self.path = path
        self.single = single
        self.written = []

    def show(self, picture, timing):
        number = len(self.written)
        path = self.path if self.single else self.path.with_stem(f"{self.path.stem}_{number:06d}")
        save_image(path, picture)
        self.written.append(path)
        return -1

    def finish(self):
        return self.written

    def close(self):
        pass


_SINKS = {".mp4": _Video, ".gif": _Animation, **dict.fromkeys((".png", ".jpg", ".jpeg"), _Pictures)}


def _palette(picture):
    """256 colours that suit a picture; thin lines in a colour of their own keep it."""
    channels = picture.reshape(-1, 3).astype(np.int64)
    cells = (channels >> 2) @ [1 << 12, 1 << 6, 1]
    counts = np.bincount(cells, minlength=1 << 18)
    there = np.flatnonzero(counts)
    sums = np.stack([np.bincount(cells, channels[:, channel], 1 << 18)[there] for channel in range(3)], -1)
    colors = np.rint(sums / counts[there, None]).astype(np.uint8)
    # A colour counts by the root of its pixels, so that large plain areas do not take the palette for themselves.
    colors = np.repeat(colors, np.ceil(np.sqrt(counts[there])).astype(int), axis=0)
    return Image.fromarray(colors[None]).quantize(256, Image.Quantize.MEDIANCUT, kmeans=1, dither=Image.Dither.NONE)


def _difference(quantized, picture):
    """Mean difference between a picture and what its palette makes of it, and the share of pixels that are far off."""
    shown = np.asarray(quantized.convert("RGB"))[::4, ::4]
    difference = np.abs(shown.astype(np.int16) - picture[::4, ::4])
    return float(difference.mean()), float((difference.max(-1) > 32).mean())


def _letterbox(picture, size):
    """Fits a picture into a frame of another size, on black."""
    width, height = size
    scale = min(width / picture.shape[1], height / picture.shape[0])
    inner = max(1, int(picture.shape[1] * scale)), max(1, int(picture.shape[0] * scale))
    inner = cv2.resize(picture, inner, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    frame = np.zeros((height, width, 3), np.uint8)
    top, left = (height - inner.shape[0]) // 2, (width - inner.shape[1]) // 2
    frame[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    return frame
