"""Pictures from anywhere: arrays, image files, folders, videos, cameras, as one stream of RGB frames."""

import dataclasses
import math
import numbers
import os
import pathlib
import re

import cv2
import numpy as np
from absl import logging
from PIL import Image, ImageOps

from posekit.data.image_files import MAX_BYTES, ImageFileError, announced_size
from posekit.data.video_files import ends_early, shown_seconds
from posekit.results import MAX_SIDE

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")
MAX_PIXELS = 100_000_000
CAMERAS = 100
_ALLOWED = f"name an image, a folder with images, a video or a camera from 0 to {CAMERAS - 1}"
_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")  # what Pillow calls grey pictures of 16 bits


@dataclasses.dataclass(frozen=True)
class Frame:
    """One picture.

    Args:
        image: Uint8 `[height, width, 3]`, RGB.
        name: File name, or what stands for it.
        index: Position in the stream.
    """

    image: np.ndarray
    name: str
    index: int = 0


class Source:
    """A stream of frames.

    Args:
        kind: `"image"`, `"folder"`, `"video"` or `"camera"`.
        frames: Iterator of `Frame`.
        length: Number of frames, None where unknown.
        fps: Frames per second of a video or camera, None for pictures.
    """

    def __init__(self, kind, frames, length=None, fps=None):
        self.kind = kind
        self.length = length
        self.fps = fps
        self._frames = frames

    def __iter__(self):
        return iter(self._frames)


def open_source(source, skipped=None):
    """Opens an image, folder, video or camera.

    Args:
        source: Path of an image, of a folder with images or of a video; or the number of a camera, 0 to 99, where
            nothing of that name exists; or a picture as for `as_image`.
        skipped: List that takes what is wrong with pictures of a folder that cannot be read, and with a video that
            ends early; without it, the first of these pictures raises, and a warning tells of the video.

    Returns:
        A `Source`.

    Raises:
        FileNotFoundError: If the path does not exist or a folder holds no image.
        TypeError: If it is neither path nor number nor picture.
        ValueError: If a file is neither image nor video, a picture is none, or a camera does not answer.
    """
    if isinstance(source, numbers.Integral) and not isinstance(source, bool):
        return _open_camera(int(source))
    if isinstance(source, Image.Image) or (hasattr(source, "__array__") and not isinstance(source, np.generic)):
        return Source("image", (Frame(as_image(source), "image000000"),), 1)
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(f"{source!r:.60} is no source; {_ALLOWED}, or pass a picture: an array or PIL image.")
    if source == "":
        raise ValueError(f"The source is empty; {_ALLOWED}.")
    path = pathlib.Path(source)
    if isinstance(source, str) and re.fullmatch("[0-9]{1,2}", source) and not path.exists():
        return _open_camera(int(source))
    _check_there(path)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and not file.is_dir())
        if not files:
            raise FileNotFoundError(f"{path} holds no image; files with {', '.join(IMAGE_SUFFIXES)} are read.")
        return Source("folder", _pictures(files, skipped), len(files))
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return _open_video(path, skipped)
    return Source("image", (Frame(read_image(file), file.name) for file in (path,)), 1)


def read_image(path):
    """Reads an image file.

    Args:
        path: JPEG, PNG, BMP, TIFF or WebP file. Rotation tags are followed; grey and transparency become plain RGB.

    Returns:
        Uint8 `[height, width, 3]`, RGB.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not an image, is damaged, or announces more than `MAX_PIXELS` pixels or `MAX_SIDE`
            along a side, which is looked up before memory is taken.
    """
    path = pathlib.Path(path)
    _check_there(path)
    if not path.is_file():
        raise ValueError(f"{path} is not a regular file; name an image file.")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path} is larger than {MAX_BYTES >> 20} MiB; save the image smaller.")
    data = path.read_bytes()
    try:
        height, width = announced_size(data)
        if height * width > MAX_PIXELS:
            raise ImageFileError(f"{width} x {height} pixels, more than {MAX_PIXELS // 10**6} million")
        if max(height, width) > MAX_SIDE:
            raise ImageFileError(f"{width} x {height} pixels; a side has {MAX_SIDE} at most, so cut it into parts")
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except (ImageFileError, cv2.error) as error:
        reason = error if isinstance(error, ImageFileError) else "damaged"
        raise ValueError(f"{path} is not an image that can be read ({reason}).") from None
    if image is None:
        raise ValueError(f"{path} is not an image that can be read (damaged or cut short).")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def as_image(array):
    """Checks a picture that was read already.

    Args:
        array: `[height, width, 3]` RGB or `[height, width]` grey; uint8 in 0..255, or float in 0..1. Or a PIL image,
            whose rotation tag is followed; palettes, grey and transparency become plain RGB.

    Returns:
        Uint8 `[height, width, 3]`.

    Raises:
        ValueError: If shape, type or range are others.
    """
    if isinstance(array, Image.Image):
        return _of_pil(array)
    array = np.asarray(array)
    if array.ndim in (2, 3):
        _check_sides(array.shape)
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, axis=-1)
    if array.ndim != 3 or array.shape[-1] != 3 or 0 in array.shape:
        raise ValueError(f"An image of shape {array.shape} cannot be used; give RGB [height, width, 3] or grey.")
    if np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
            raise ValueError("A float image must hold finite values in 0..1; give uint8 for values in 0..255.")
        return np.round(array * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise ValueError(f"An image of type {array.dtype} cannot be used; give uint8 in 0..255 or float in 0..1.")
    return np.ascontiguousarray(array)


def _of_pil(image):
    _check_sides(image.size[::-1])
    if image.width * image.height > MAX_PIXELS:  # it may not have been decoded yet
        raise ValueError(
            f"An image of {image.width} x {image.height} pixels cannot be used; make it smaller: {MAX_PIXELS // 10**6} "
            "million pixels are read at most."
        )
    if image.mode in ("I", "F"):
        raise ValueError(
            f"A PIL image of mode {image.mode} cannot be used, as its range is not known; scale it to 0..255 and give "
            "image.convert('L')."
        )
    try:
        image = ImageOps.exif_transpose(image)
        if image.mode in _SIXTEEN_BITS:
            return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., None], 3, axis=-1)
        return np.array(image.convert("RGB"))
    except (OSError, SyntaxError) as error:  # Pillow reads only now what the file holds
        raise ValueError(f"The PIL image cannot be read ({error}).") from None


def _check_sides(shape):
    if max(shape) > MAX_SIDE:
        raise ValueError(
            f"An image of shape {tuple(shape)} cannot be used; a side has {MAX_SIDE} pixels at most. Cut it into parts."
        )


def _check_there(path):
    try:
        path.stat()
    except (OSError, ValueError) as error:  # ValueError: the name holds a zero byte
        gone = isinstance(error, (FileNotFoundError, NotADirectoryError, ValueError))
        reason = "does not exist" if gone else f"cannot be reached ({error.strerror})"
        raise FileNotFoundError(f"{path!s:.200} {reason}; {_ALLOWED}.") from None


def _pictures(files, skipped):
    for index, file in enumerate(files):
        try:
            image = read_image(file)
        except (ValueError, OSError) as error:
            if skipped is None:
                raise
            skipped.append(str(error))
            continue
        yield Frame(image, file.name, index)


def _open_video(path, skipped):
    if not path.is_file():  # opening a pipe would wait for whoever writes into it
        raise ValueError(f"{path} is not a regular file; name a video file.")
    capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        raise ValueError(f"{path} is not a video that can be read (damaged, or its codec is missing).")
    fps = capture.get(cv2.CAP_PROP_FPS) or 25.0
    length = int(min(capture.get(cv2.CAP_PROP_FRAME_COUNT), (shown_seconds(path) or math.inf) * fps + 0.5))
    length = length if length > 0 else None

    def frames():
        count = seconds = 0
        for frame in _captured(capture, path.name):
            count, seconds = frame.index + 1, capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            yield frame
        if ends_early(path, count, seconds, length, fps):
            reason = f"the rest of {path}: {count} of {length} frames could be read; it is damaged or cut short."
            if skipped is None:
                logging.warning("Skipped %s", reason)
            else:
                skipped.append(reason)

    return Source("video", frames(), length, fps)


def _open_camera(number):
    if not 0 <= number < CAMERAS:
        raise ValueError(f"Camera {number} cannot be opened; {_ALLOWED}.")
    capture = cv2.VideoCapture(number)
    if not capture.isOpened():
        raise ValueError(f"Camera {number} does not answer; connect it, or name an image, a folder or a video.")
    return Source("camera", _captured(capture, f"camera{number}"), None, capture.get(cv2.CAP_PROP_FPS) or 30.0)


def _captured(capture, name):
    index = 0
    try:
        while True:
            there, image = capture.read()
            if not there:
                if index == 0:
                    raise ValueError(f"{name} gave no frame; the file is damaged or its codec is missing.")
                return
            yield Frame(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), f"{name}#{index:06d}", index)
            index += 1
    finally:
        capture.release()
