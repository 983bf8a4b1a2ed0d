"""Depth pictures from anywhere: arrays, files, folders, stacks, videos, as one stream of frames in millimetres.

| source | what is read |
|---|---|
| `.png` | one channel of 16 bits; with `layout="nyu"` NYU's, whose depth is green x 256 + blue |
| `.bin` | MSRA's, which tell their size; float32 row by row of 320 x 240, 640 x 480 or the `size` given |
| `.npy`, `.npz` | `[height, width]`, or a stack `[frames, height, width]` |
| `.h5` | ITOP's `data` `[frames, height, width]`, in metres |
| `.mkv`, `.avi` | lossless video with one channel of 16 bits, such as FFV1 makes |
| folder | all `.png`, `.bin` and `.npy` in it, in the order of their numbers |
| array, tensor | `[height, width]`, or `[frames, height, width]`; a list of these and of paths |

Values are millimetres, metres in `.h5`, unless `depth_scale` says how many millimetres one is. 0 means that nothing was
measured, and so does the mask of a masked array.
"""

import contextlib
import dataclasses
import os
import pathlib
import re
import tokenize
from functools import partial

import cv2
import h5py
import numpy as np

from posekit.data.depth_files import (
    MAX_DEPTH_PIXELS,
    PNG_LAYOUTS,
    DepthArchive,
    DepthFileError,
    full_picture,
    read_depth_bin,
    read_depth_png,
    read_msra_bin,
)
from posekit.data.sources import IMAGE_SUFFIXES, VIDEO_SUFFIXES, Source
from posekit.files import npz_entries, npz_entry, read_npz, reading_npz, regular_file
from posekit.geometry.depth import DepthCamera

PICTURE_SUFFIXES = (".png", ".bin", ".npy")
SUFFIXES = (*PICTURE_SUFFIXES, ".npz", ".h5")
VIDEO_FPS = 25.0
# Of folders, lists and stacks, which say nothing of time: slowly enough to look at every picture.
PICTURES_FPS = 5.0
BIN_SIZES = ((320, 240), (640, 480))
MAX_SIDE = 1 << 14
MAX_ARRAY_BYTES = 2 << 30
FARTHEST_MM = 100_000.0
_METRES_BELOW = 20.0  # a hand nearer than 2 cm has not been seen, rooms of 20 m hardly
_KEYS = ("depth", "depths", "data", "arr_0")
_MAX_NPY_HEADER = 10_000
_DAMAGE = (ValueError, OSError, EOFError, SyntaxError, TypeError, OverflowError, MemoryError, tokenize.TokenError)
_LOSSLESS = (
    "depth survives in lossless video of one channel of 16 bits only: ffmpeg -i %06d.png -c:v ffv1 -pix_fmt gray16le "
    "depth.mkv; or name a folder of 16-bit PNGs, or a .npy stack"
)


@dataclasses.dataclass(frozen=True, eq=False)
class DepthFrame:
    """One depth picture.

    Args:
        depth: Float32 `[height, width]` in millimetres; 0 where nothing was measured.
        name: File name, or what stands for it.
        index: Position in the stream.
        camera: `DepthCamera` that measured it, where it is known.
        center: `[3]` millimetres, camera axes (y down): about the middle of what is looked for, where it is known.
        left_hand: Whether the hand is a left one, for networks that were trained on right ones.
    """

    depth: np.ndarray
    name: str
    index: int = 0
    camera: DepthCamera | None = None
    center: np.ndarray | None = None
    left_hand: bool = False

    @property
    def image(self):
        """The depth: what predictions are drawn on."""
        return self.depth


def open_depth(source, skipped=None, *, layout="mm16", size=None, depth_scale=None):
    """Opens depth pictures; they are read one at a time.

    Args:
        source: Path of a file or folder, an array, or a list of these; see the module.
        skipped: List that takes what is wrong with pictures that cannot be used; without it, the first of them raises.
        layout: Of PNG files: `"mm16"` or `"nyu"`.
        size: `(width, height)` of `.bin` files without a header.
        depth_scale: Millimetres that a value of 1 stands for, such as 1000 for metres; by default 1, in `.h5` 1000.

    Returns:
        `Source` of `DepthFrame`: kind `"image"` for one picture, `"folder"` for a folder or list, `"video"` for stacks
        and videos.

    Raises:
        FileNotFoundError: If there is no such file, or a folder holds no depth picture.
        ValueError: If the file is of another kind, or damaged; or, while the frames are read, if a picture is none of
            depths: RGB, of 8 bits, too large, with values that are not finite or negative, or, where it is the only
            one, nothing but zeros. Among several, a camera may have measured nothing in one.

    Example:
        >>> for frame in open_depth("recording/"):  # doctest: +SKIP
        ...     print(frame.name, frame.depth.max())
    """
    if layout not in PNG_LAYOUTS:
        raise ValueError(f"layout={layout!r}: choose one of {', '.join(PNG_LAYOUTS)}.")
    reader = _Reader(layout, _checked_size(size), _checked_scale(depth_scale))
    if isinstance(source, (list, tuple)):
        return Source("folder", reader.stream(reader.items(source), skipped), len(source), PICTURES_FPS)
    if not isinstance(source, (str, os.PathLike)):
        if isinstance(source, (int, np.integer)):
            raise ValueError(_no_camera(source))
        return reader.array(_unmasked(source), "depth", skipped)
    if str(source).isdigit() and not os.path.exists(source):
        raise ValueError(_no_camera(source))
    path = pathlib.Path(source)
    if path.is_dir():
        files = [file for file in path.iterdir() if file.suffix.lower() in PICTURE_SUFFIXES and not file.is_dir()]
        if not files:
            raise FileNotFoundError(
                f"{path} holds no depth picture; files with {', '.join(PICTURE_SUFFIXES)} are read from a folder."
            )
        files.sort(key=_natural)
        return Source("folder", reader.stream(reader.items(files), skipped), len(files), PICTURES_FPS)
    suffix = regular_file(path).suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        return Source("video", *reader.video(path, skipped))
    if suffix not in SUFFIXES:
        kind = " is a picture of colours;" if suffix in IMAGE_SUFFIXES else ":"
        raise ValueError(f"{path}{kind} depth is read from {', '.join(SUFFIXES)}, .mkv, .avi and folders.")
    if suffix == ".h5":
        return reader.archive(path, skipped)
    if suffix in (".npy", ".npz"):
        return reader.array(_mapped(path) if suffix == ".npy" else _npz_array(path), path.stem, skipped, path.name)
    return Source("image", reader.stream(reader.items([path], empty=False), skipped), 1)


def as_depth(array, depth_scale=None, what="The depth picture", empty=False):
    """Checks a depth picture given as an array.

    Args:
        array: `[height, width]` of integers of 16 bits or more, or floating; a last axis of length 1 is dropped. What
            a masked array masks is 0.
        depth_scale: Millimetres that a value of 1 stands for; 1 by default.
        what: What messages call it.
        empty: Whether it may be 0 everywhere.

    Returns:
        Float32 `[height, width]` in millimetres.

    Raises:
        ValueError: If it is no depth picture; see `open_depth`.

    Example:
        >>> as_depth(np.full((2, 2), 0.5), depth_scale=1000)
        array([[500., 500.],
               [500., 500.]], dtype=float32)
    """
    depth_scale, array = _checked_scale(depth_scale), _unmasked(array)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim == 3 and array.shape[-1] in (3, 4):
        raise ValueError(
            f"{what} has the shape {array.shape}, as colours have; depths are [height, width]. NYU's PNG files are "
            "read with layout='nyu'."
        )
    if array.ndim != 2 or 0 in array.shape or max(array.shape) > MAX_SIDE:
        raise ValueError(f"{what} has the shape {array.shape}; depths are [height, width], up to {MAX_SIDE} pixels.")
    _check_pixels(what, array.shape)
    if array.dtype.kind not in "uif" or array.dtype.itemsize < 2:
        raise ValueError(
            f"{what} is of type {array.dtype}, which holds no depths; give uint16 in millimetres, or float32. Depth "
            "that was written with 8 bits is lost: record it again."
        )
    with np.errstate(invalid="ignore", over="ignore"):
        depth = array.astype(np.float32)
        broken = int((~np.isfinite(depth)).sum())
    if broken:
        raise ValueError(
            f"{what} holds NaN or infinity in {broken} of {depth.size} pixels; write 0 where nothing was measured: "
            "np.nan_to_num(depth, posinf=0, neginf=0)."
        )
    low, high = float(depth.min()), float(depth.max())
    if low < 0:
        raise ValueError(f"{what} holds negative values, down to {low:g}; depths grow away from the camera, from 0 on.")
    if high == 0:
        if empty:
            return depth
        raise ValueError(f"{what} is 0 everywhere: nothing was measured.")
    if depth_scale is None and high < _METRES_BELOW:
        raise ValueError(
            f"{what} holds values up to {high:g}, which seem to be metres; pass depth_scale=1000 (--depth_scale=1000), "
            "or depth_scale=1 if they are millimetres."
        )
    farthest = high * (depth_scale or 1.0)
    if farthest > FARTHEST_MM:
        raise ValueError(f"{what} holds depths up to {farthest / 1000:g} m; check depth_scale, the mm of a value of 1.")
    return depth if depth_scale is None else depth * np.float32(depth_scale)


class _Reader:
    """How files are to be read."""

    def __init__(self, layout, size, depth_scale):
        self.layout, self.size, self.depth_scale = layout, size, depth_scale

    def stream(self, pictures, skipped):
        """Frames of a sequence of functions that read one each, and their names."""
        for index, (name, read) in enumerate(pictures):
            try:
                depth = read()
            except (ValueError, OSError) as error:
                if skipped is None:
                    raise
                skipped.append(str(error))
                continue
            yield DepthFrame(depth, name, index)

    def checked(self, array, what, empty=True):
        return as_depth(array, self.depth_scale, str(what), empty)

    def items(self, items, empty=True):
        """Names of files and arrays, and functions that read them."""
        for index, item in enumerate(items):
            if isinstance(item, (str, os.PathLike)):
                yield pathlib.Path(item).name, partial(self.file, item, empty)
            else:
                yield f"depth{index:06d}", partial(self.checked, item, f"Item {index}", empty)

    def file(self, path, empty):
        """One picture."""
        path = regular_file(path)
        suffix = path.suffix.lower()
        if suffix == ".png":
            return self.checked(self._png(path), path, empty)
        if suffix == ".bin":
            return self.checked(self._bin(path), path, empty)
        if suffix == ".npy":
            return self.checked(_mapped(path), path, empty)
        raise ValueError(f"{path}: single depth pictures are {', '.join(PICTURE_SUFFIXES)} files.")

    def _png(self, path):
        try:
            return read_depth_png(path, self.layout)
        except DepthFileError as error:
            if self.layout != "nyu" and "three channels of 8 bits" in error.detail:
                raise ValueError(f"{error} NYU's pictures are read with layout='nyu', --layout=nyu.") from None
            raise

    def _bin(self, path):
        length = path.stat().st_size
        if self.size is not None:
            return read_depth_bin(path, self.size)
        fitting = [size for size in BIN_SIZES if length == 4 * size[0] * size[1]]
        try:
            return full_picture(read_msra_bin(path))
        except ValueError as error:
            if fitting:
                return read_depth_bin(path, fitting[0])
            raise ValueError(
                f"{str(error).removesuffix('.')}. If it is none of MSRA's but holds float32 row by row, give its width "
                "and height: size=(640, 480), --size=640,480."
            ) from None

    def array(self, array, stem, skipped, what="The depth array"):
        """A picture, or a stack of them that is read lazily."""
        if array.ndim == 2 or (array.ndim == 3 and array.shape[-1] == 1):
            return Source("image", self.stream([(stem, partial(self.checked, array, what, False))], skipped), 1)
        if array.ndim != 3 or 0 in array.shape or array.shape[-1] in (3, 4):
            raise ValueError(
                f"{what} has the shape {array.shape}; depths are [height, width] or [frames, height, width]. "
                "Colours are no depths."
            )
        _check_pixels(what, array.shape[1:])

        def pictures():
            for index in range(len(array)):
                yield f"{stem}_{index:06d}", partial(self.checked, array[index], f"{what}, frame {index}")

        return Source("video", self.stream(pictures(), skipped), len(array), PICTURES_FPS)

    def archive(self, path, skipped):
        """ITOP's pictures."""
        archive = DepthArchive(path, _archive_size(path))
        if not len(archive):
            archive.close()
            raise ValueError(f"{path} holds no depth picture: its 'data' has no frames. Write or download it again.")
        scale = 1000.0 if self.depth_scale is None else self.depth_scale

        def pictures():
            with contextlib.closing(archive):
                for index in range(len(archive)):
                    yield f"{path.stem}_{index:06d}", partial(_from_archive, archive, index, scale)

        return Source("video", self.stream(pictures(), skipped), len(archive), PICTURES_FPS)

    def video(self, path, skipped):
        """Frames, their number and their rate; the first is looked at before."""
        capture, first = _open_video(path)
        if first is None:
            raise ValueError(f"{path} is no video that can be read (damaged, or its codec is missing); {_LOSSLESS}.")
        if first.dtype != np.uint16 or first.ndim != 2:
            kind = "colours" if first.ndim == 3 else "8 bits a pixel"
            raise ValueError(f"{path} holds {kind}, not depth; {_LOSSLESS}.")
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        rate = capture.get(cv2.CAP_PROP_FPS) or VIDEO_FPS

        def pictures(frame=first):
            index = 0
            try:
                while frame is not None:
                    yield f"{path.name}#{index:06d}", partial(self.checked, frame, f"{path}, frame {index}")
                    index += 1
                    frame = capture.read()[1]
            finally:
                capture.release()

        return self.stream(pictures(), skipped), count if count > 0 else None, rate


def _from_archive(archive, index, scale):
    return as_depth(archive[index], scale, f"{archive.path}, frame {index}", empty=True)


def _unmasked(array):
    """Any array, with 0 where it is masked."""
    return np.ma.filled(array, 0) if np.ma.isMaskedArray(array) else np.asarray(array)


def _check_pixels(what, shape):
    if shape[0] * shape[1] > MAX_DEPTH_PIXELS:
        raise ValueError(
            f"{what} has {shape[1]} x {shape[0]} pixels; pictures of more than {MAX_DEPTH_PIXELS >> 20} megapixels are "
            "no depth camera's. Crop them."
        )


def _checked_scale(depth_scale):
    if depth_scale is None:
        return None
    try:
        scale = float(depth_scale)
    except (TypeError, ValueError, OverflowError):
        scale = 0.0
    if not 0 < scale < np.inf:
        raise ValueError(f"depth_scale={depth_scale!r:.60}: give the millimetres of a value of 1, such as 1 or 1000.")
    return scale


def _checked_size(size):
    if size is None or len(np.ravel(size)) == 0:
        return None
    try:
        width, height = (float(value) for value in np.ravel(size).tolist())
    except (TypeError, ValueError):
        width = height = 0.0
    if not all(1 <= value <= MAX_SIDE and value == int(value) for value in (width, height)):
        raise ValueError(f"size={size!r:.60}: give width and height in whole pixels, such as (640, 480).")
    return int(width), int(height)


def _mapped(path):
    """An array of a `.npy` file, of which only what is asked for is read."""
    try:
        with open(path, "rb") as file:
            start = file.read(12)
        # NumPy refuses long headers too, but only after it has taken the memory for them.
        claimed = int.from_bytes(start[8:12] if start[6:7] > b"\x01" else start[8:10], "little")
        if start[:6] == b"\x93NUMPY" and claimed > _MAX_NPY_HEADER:
            raise ValueError(f"its header claims {claimed} bytes")
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except _DAMAGE as error:
        reason = " ".join(f"{error!s:.200}".split()) or type(error).__name__
        raise ValueError(f"{path} cannot be read as an array: {reason}; write it again with np.save.") from None
    if not isinstance(array, np.ndarray):
        array.close()
        raise ValueError(f"{path} is a .npz file; name it so.")
    return array


def _npz_array(path):
    names = npz_entries(path)
    known = [key for key in _KEYS if key in names]
    if not known and len(names) != 1:
        found = ", ".join(names[:8]) or "no arrays"
        raise ValueError(f"{path} holds {found:.200}; name the array of depths {_KEYS[0]!r}, or write a .npy.")
    key = (known or names)[0]
    with reading_npz(path) as archive, npz_entry(archive, key) as (_, shape, _):
        picture = shape[1:] if len(shape) == 3 and shape[2] != 1 else shape[:2]
    if len(picture) == 2:  # zeros take next to nothing in the file; only stacks may be large
        _check_pixels(path, picture)
    return read_npz(path, [key], MAX_ARRAY_BYTES)[key]


def _archive_size(path):
    """Width and height of what an HDF5 file holds; whether it holds them is checked by its reader."""
    size = BIN_SIZES[0]
    try:
        with h5py.File(path, "r", locking=False) as file:
            if isinstance(file.get("data", getlink=True), h5py.HardLink) and isinstance(file["data"], h5py.Dataset):
                shape = file["data"].shape
                if len(shape) == 3 and all(0 < side <= MAX_SIDE for side in shape[1:]):
                    size = shape[2], shape[1]
    except (OSError, RuntimeError, KeyError, TypeError, ValueError):
        pass  # the reader says what is wrong
    _check_pixels(path, size[::-1])
    return size


def _open_video(path):
    """A video that is not turned into colours, and its first frame, None where there is none."""
    level = cv2.utils.logging.getLogLevel()
    # OpenCV has much to say about frames of eight bits.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    try:
        capture = cv2.VideoCapture(str(path))
        capture.set(cv2.CAP_PROP_CONVERT_RGB, 0)
        _check_pixels(path, [int(capture.get(side)) for side in (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH)])
        return capture, capture.read()[1]
    finally:
        cv2.utils.logging.setLogLevel(level)


def _natural(path):
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def _no_camera(number):
    return (
        f"{number} would be a camera; depth cameras are not opened here. Record its frames as 16-bit PNGs in a folder, "
        "or pass arrays: posekit.load('v2v')(depth, intrinsics=(fx, fy, cx, cy))."
    )
