"""Files of the depth datasets as they are handed out: pictures, labels, centres. None of them is trusted.

| file | dataset | reader |
|---|---|---|
| `000000_depth.bin`: six numbers of 32 bits, then float32 | MSRA | `read_msra_bin` |
| `image_0000.bin`: float32 of the whole picture | ICVL, NYU, HANDS2017, converted | `read_depth_bin` |
| `image_0000.png`: 16 bits, or for NYU green and blue | ICVL, NYU, HANDS2017 | `read_depth_png` |
| `ITOP_side_train_depth_map.h5`, `…_labels.h5` | ITOP | `DepthArchive`, `read_itop_labels` |
| `joint.txt` | MSRA | `read_msra_joints` |
| `labels.txt`, `test_seq_1.txt`, `Training_Annotation.txt` | ICVL, HANDS2017 | `read_labels` |
| `BoundingBox.txt`, `groups.txt` | HANDS2017 | `read_bounding_boxes`, `read_groups` |
| `joint_data.mat` | NYU | `read_nyu_joints` |
| `center_train_refined.txt` and so on | all | `read_centers` |

Sizes are compared with what is there before memory is taken.
"""

import array
import contextlib
import itertools
import math
import os
import pathlib
import stat
import struct
from typing import NamedTuple

import cv2
import h5py
import numpy as np

from posekit.data.image_files import ImageFileError, read_image_file
from posekit.data.mat_files import MatFileError, read_mat_array
from posekit.files import write_file

PNG_LAYOUTS = ("mm16", "nyu")
# Depth cameras have up to some four million.
MAX_DEPTH_PIXELS = 1 << 24
NYU_JOINTS = 36
# HANDS2017's labels of a million frames take 0.6 GB as text.
MAX_TEXT_BYTES = 2 << 30
_MAX_LINE = 1 << 14
_MAX_FRAMES = 4_000_000
_MAX_SIDE = 1 << 14
_HEADER = struct.Struct("<6I")
_MAX_CHUNK_BYTES = 64 << 20
# NYU has 72,757 frames for training, seen by three cameras.
_MAX_NYU_CAMERAS, _MAX_NYU_FRAMES = 3, 250_000
_MAX_LABEL_BYTES = 1 << 30
_MAX_NAME = 64
# Deflate makes at most about 1032 bytes of one.
_MAX_EXPANSION = 1040
# Centres of a hand lie some 0.1 to 1.5 m from the camera, of a body up to some metres.
_FARTHEST = {"mm": 20_000.0, "m": 20.0}


class DepthFileError(ValueError):
    """A file of a depth dataset that cannot be used.

    Args:
        path: The file.
        reason: What is wrong, in a few words that are the same for the same defect.
        detail: What was found and what is expected.
    """

    def __init__(self, path, reason, detail=""):
        super().__init__(f"{path}: {reason}{f' ({detail})' if detail else ''}.")
        self.path, self.reason, self.detail = path, reason, detail

    def __reduce__(self):
        return type(self), (self.path, self.reason, self.detail)


class DepthCrop(NamedTuple):
    """A part of a depth picture.

    Args:
        depth: Float32 `[height, width]`; 0 where nothing was measured.
        box: `(left, top, right, bottom)` of the part, in pixels, right and bottom excluded.
        picture: `(width, height)` of the whole picture.
    """

    depth: np.ndarray
    box: tuple
    picture: tuple


# ------------------------------------------------------------------------------------------------------ pictures


def read_msra_bin(path):
    """Reads one of MSRA's pictures, which holds the part around the hand.

    Args:
        path: `000000_depth.bin`.

    Returns:
        `DepthCrop` in millimetres.

    Raises:
        DepthFileError: If there is no such file, its box is no part of its picture, or it has another length than its
            header says.

    Follows: dragonbook/V2V-PoseNet-pytorch datasets/msra_hand.py:load_depthmap.
    Differs: gives the part, not the whole picture; `full_picture` makes the picture of it.
    """
    with _regular_file(path) as (file, size):
        header = file.read(_HEADER.size)
        if len(header) < _HEADER.size:
            raise DepthFileError(path, "shorter than its header", f"{size} bytes; the header alone takes 24")
        # Read without a sign, a negative edge is far outside.
        width, height, left, top, right, bottom = _HEADER.unpack(header)
        if not (0 < width <= _MAX_SIDE and 0 < height <= _MAX_SIDE):
            raise DepthFileError(path, "picture of an absurd size", f"{width} x {height}; MSRA's are 320 x 240")
        _check_pixels(path, width, height)
        if not (left < right <= width and top < bottom <= height):
            box = struct.unpack("<4i", header[8:])
            raise DepthFileError(
                path, "box that is no part of its picture", f"left, top, right, bottom {box} of {width} x {height}"
            )
        shape = (bottom - top, right - left)
        wanted = _HEADER.size + 4 * shape[0] * shape[1]
        if size != wanted:
            reason = "header promises more than the file holds" if size < wanted else "more in it than the header says"
            raise DepthFileError(path, reason, f"{size} bytes; {shape[1]} x {shape[0]} pixels take {wanted}")
        depth = np.frombuffer(file.read(wanted - _HEADER.size), "<f4").reshape(shape)
    return DepthCrop(_checked_depth(path, depth), (left, top, right, bottom), (width, height))


def read_depth_bin(path, size):
    """Reads a whole picture of float32, row by row, as the originals' converters write it.

    Args:
        path: The file.
        size: `(width, height)` of the picture.

    Returns:
        Float32 `[height, width]` in the unit of the file, millimetres for all of these datasets.

    Raises:
        DepthFileError: If there is no such file, it has another length, or holds what no depth is.

    Follows: mks0601/V2V-PoseNet_RELEASE src/data/ICVL/data.lua, src/data/NYU/data.lua:load_depthmap.
    Differs: where nothing was measured, 0 is left as it is.
    """
    width, height = size
    _check_pixels(path, width, height)
    with _regular_file(path) as (file, length):
        if length != 4 * width * height:
            raise DepthFileError(
                path,
                "wrong length for a picture of float32",
                f"{length} bytes; {width} x {height} pixels take {4 * width * height}",
            )
        depth = np.frombuffer(file.read(length), "<f4").reshape(height, width)
    return _checked_depth(path, depth)


def read_depth_png(path, layout="mm16", size=None):
    """Reads a depth picture in millimetres.

    Args:
        path: PNG file.
        layout: `"mm16"`: one channel of 16 bits; `"nyu"`: three of 8 bits, green the upper and blue the lower half.
        size: `(width, height)` that it must have; any by default.

    Returns:
        Float32 `[height, width]` in millimetres; 0 where nothing was measured.

    Raises:
        DepthFileError: If it is no such picture, damaged, or of another size.
        ValueError: If the layout is unknown.

    Follows: mks0601/V2V-PoseNet_RELEASE data/NYU/PNG2BIN.m, data/ICVL/PNG2BIN.m.
    """
    if layout not in PNG_LAYOUTS:
        raise ValueError(f"layout is {layout!r}; choose from {', '.join(PNG_LAYOUTS)}.")
    try:
        data, header = read_image_file(path)
    except ImageFileError as error:
        raise DepthFileError(path, str(error), "a PNG of depths is expected") from None
    if header.image_format != "PNG":
        raise DepthFileError(path, "a JPEG instead of a PNG", "depths do not survive JPEG")
    if size is not None and (header.width, header.height) != tuple(size):
        raise DepthFileError(
            path, "picture of another size", f"{header.width} x {header.height} instead of {size[0]} x {size[1]}"
        )
    _check_pixels(path, header.width, header.height)
    bits, colour = data[24], data[25]
    if layout == "mm16" and (bits, colour) != (16, 0):
        raise DepthFileError(
            path, "not a PNG of one channel of 16 bits", f"it has {_png_kind(bits, colour)}; depths in mm need 16 bits"
        )
    if layout == "nyu" and (bits != 8 or colour not in (2, 6)):
        raise DepthFileError(
            path, "not a PNG of three channels of 8 bits", f"it has {_png_kind(bits, colour)}; NYU packs depths in RGB"
        )
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        pixels = None
    if pixels is None or pixels.shape[:2] != (header.height, header.width):
        raise DepthFileError(path, "damaged image", "it cannot be decoded")
    if layout == "mm16":
        return pixels.astype(np.float32)
    return pixels[..., 1].astype(np.float32) * 256 + pixels[..., 0]  # OpenCV has blue first


def read_depth_picture(stem, size, layout="mm16"):
    """Reads `{stem}.bin` or, where there is none, `{stem}.png`.

    Args:
        stem: Path without suffix; or a list of them, of which the first that is there counts.
        size: `(width, height)` of the picture.
        layout: As in `read_depth_png`.

    Returns:
        Float32 `[height, width]` in millimetres.

    Raises:
        DepthFileError: If there is neither, or the file cannot be used.
    """
    stems = [stem] if isinstance(stem, (str, os.PathLike)) else list(stem)
    for candidate in stems:
        if os.path.lexists(f"{candidate}.bin"):
            return read_depth_bin(f"{candidate}.bin", size)
        if os.path.lexists(f"{candidate}.png"):
            return read_depth_png(f"{candidate}.png", layout, size)
    raise DepthFileError(f"{stems[0]}.bin", "missing depth picture", "there is no .png of that name either")


def full_picture(crop, background=0.0):
    """The whole picture of which a part is known.

    Args:
        crop: `DepthCrop`.
        background: Depth where nothing was measured; the originals take 700 mm for MSRA.

    Returns:
        Float32 `[height, width]`.

    Raises:
        ValueError: If the picture has more than `MAX_DEPTH_PIXELS` pixels.

    Follows: dragonbook/V2V-PoseNet-pytorch datasets/msra_hand.py:load_depthmap.
    """
    width, height = crop.picture
    _check_pixels("The depth picture", width, height)
    left, top, right, bottom = crop.box
    depth = np.zeros((height, width), np.float32)
    depth[top:bottom, left:right] = crop.depth
    depth[depth == 0] = background
    return depth


def write_depth_bin(path, depth):
    """Writes a whole picture as `read_depth_bin` reads it; the file takes its name when it is complete.

    Args:
        path: File to write; its folder is made where needed.
        depth: `[height, width]`.

    Raises:
        ValueError: If the depth is no picture.
        OSError: If the file cannot be written.

    Follows: mks0601/V2V-PoseNet_RELEASE data/ICVL/PNG2BIN.m.
    """
    depth = np.asarray(depth)
    if depth.ndim != 2:
        raise ValueError(f"A depth picture of shape {depth.shape} is not [height, width].")
    write_file(path, np.ascontiguousarray(depth, "<f4").tobytes())


# --------------------------------------------------------------------------------------------------------- texts


def read_msra_joints(path, num_joints=21):
    """Reads the joints of one of MSRA's gestures.

    Args:
        path: `joint.txt`: a line with the number of frames, then a line for each.
        num_joints: Joints of a frame.

    Returns:
        Float64 `[frames, num_joints, 3]` in millimetres, z turned to be positive. What is written as `nan` is NaN.

    Raises:
        DepthFileError: If it is no such text, or holds another number of lines or numbers.

    Follows: dragonbook/V2V-PoseNet-pytorch datasets/msra_hand.py:MARAHandDataset.
    """
    lines = _text_lines(path)
    number, words = next(lines, (1, []))
    if len(words) != 1 or not words[0].isdecimal():
        raise DepthFileError(path, "no number of frames in line 1", f"{' '.join(words)[:60]!r}")
    count = int(words[0]) if len(words[0]) < 10 else _MAX_FRAMES + 1
    _, joints, numbers = _read_rows(path, lines, 3 * num_joints, named=False, what=f"x, y, z of {num_joints} joints")
    if len(joints) != count:
        raise DepthFileError(
            path, "wrong number of lines", f"line 1 says {words[0]} frames, {len(joints)} lines of joints follow"
        )
    return joints.reshape(count, num_joints, 3) * [1.0, 1.0, -1.0]


def read_labels(path, num_joints):
    """Reads labels of one text for all frames: the name of the picture, then three numbers for each joint.

    Args:
        path: ICVL's `labels.txt`, `test_seq_1.txt` (pixels and depth), HANDS2017's `Training_Annotation.txt` (world).
        num_joints: Joints of a frame.

    Returns:
        `(names, joints)`: list of texts and float64 `[frames, num_joints, 3]`. What is written as `nan` is NaN.

    Raises:
        DepthFileError: If it is no such text, is empty, or a line holds another number of numbers.

    Follows: mks0601/V2V-PoseNet_RELEASE src/data/ICVL/data.lua, src/data/HANDS2017/data.lua:load_data.
    """
    what = f"a name and x, y, z of {num_joints} joints"
    names, values, _ = _read_rows(path, _text_lines(path), 3 * num_joints, named=True, what=what)
    if not names:
        raise DepthFileError(path, "empty label file", f"each line must hold {what}")
    return names, values.reshape(len(names), num_joints, 3)


def read_label_names(path):
    """Reads only the names of the pictures from a text of labels or boxes.

    Args:
        path: Text whose lines begin with a name.

    Returns:
        List of texts.

    Raises:
        DepthFileError: If it is no text or has too many lines.
    """
    names = [words[0] for _, words in itertools.islice(_text_lines(path), _MAX_FRAMES + 1)]
    if len(names) > _MAX_FRAMES:
        raise DepthFileError(path, f"more than {_MAX_FRAMES} lines", "a line for every frame is expected")
    return names


def read_bounding_boxes(path, picture):
    """Reads the boxes around the hands of HANDS2017's test frames.

    The last two of the four numbers are the right and bottom edge if in all lines they are beyond the left and top
    edge, and the width and height otherwise.

    Args:
        path: `BoundingBox.txt`: a name and four numbers a line.
        picture: `(width, height)` of the pictures.

    Returns:
        `(names, boxes)`: list of texts, and int64 `[frames, 4]` left, top, right, bottom, cut by the border of the
        picture; all zeros where nothing of it is left, or there is no sense in the numbers.

    Raises:
        DepthFileError: If it is no such text.
    """
    what = "a name and four numbers"
    names, values, _ = _read_rows(path, _text_lines(path), 4, named=True, what=what)
    if not names:
        raise DepthFileError(path, "empty list of boxes", f"each line must hold {what}")
    values = np.where(np.isfinite(values).all(1, keepdims=True), values, 0)
    # Corners, or the upper left one and a size: what most lines can be that say anything.
    corners = (values[:, 2:] > values[:, :2]).all(1)[values.any(1)]
    if 2 * np.count_nonzero(corners) <= len(corners):
        values = np.concatenate([values[:, :2], values[:, :2] + values[:, 2:]], 1)
    limits = np.tile(picture, 2)
    boxes = np.concatenate([np.floor(values[:, :2]), np.ceil(values[:, 2:])], 1)
    boxes = np.clip(boxes, 0, limits).astype(np.int64)
    boxes[(boxes[:, 2:] <= boxes[:, :2]).any(1)] = 0
    return names, boxes


def read_groups(path, groups):
    """Reads to which part of a set frames belong.

    Args:
        path: Text with a name and a group a line.
        groups: Names of the groups.

    Returns:
        Dict of the frames' names to their groups.

    Raises:
        DepthFileError: If it is no such text.
    """
    result = {}
    for number, words in _text_lines(path):
        if len(words) != 2 or words[1] not in groups:
            raise DepthFileError(
                path,
                f"line {number} names no group",
                f"{' '.join(words)[:60]!r}; a name and one of {', '.join(groups)} are expected",
            )
        result[words[0]] = words[1]
    return result


def read_centers(path, count=None, unit="mm"):
    """Reads reference points, a line for every frame.

    Args:
        path: `center_train_refined.txt` and so on: x, y and z in the world, or `invalid` and perhaps more words.
        count: How many lines there must be; any number by default.
        unit: Of the dataset: `"mm"` or `"m"`.

    Returns:
        Float64 `[frames, 3]`; NaN where the centre is invalid, or z is not above 0.

    Raises:
        DepthFileError: If it is no such text, has another number of lines, or most points lie behind the camera or one
            is far away, as if in another unit.

    Follows: mks0601/V2V-PoseNet_RELEASE src/data/*/data.lua:load_data.
    """
    farthest = _FARTHEST[unit]
    centers, ahead, behind = array.array("d"), 0, 0
    for number, words in _text_lines(path):
        if words[0] == "invalid":
            centers.extend((math.nan,) * 3)
            continue
        try:
            point = [float(word) for word in words]
        except ValueError:
            point = []
        if len(point) != 3 or not all(map(math.isfinite, point)):
            raise DepthFileError(
                path,
                f"line {number} is no centre",
                f"{' '.join(words)[:60]!r}; x, y and z in {unit} are expected, or 'invalid'",
            )
        if max(map(abs, point)) > farthest:
            raise DepthFileError(
                path,
                f"line {number} is no centre in {unit}",
                f"{' '.join(words)[:60]!r}; numbers up to {farthest:g} {unit} are expected",
            )
        ahead += point[2] > 0
        behind += point[2] <= 0
        centers.extend(point if point[2] > 0 else (math.nan,) * 3)
        if len(centers) > 3 * _MAX_FRAMES:
            raise DepthFileError(path, f"more than {_MAX_FRAMES} lines", "a line for every frame is expected")
    if behind > ahead:
        raise DepthFileError(
            path, "centres behind the camera", f"z is not above 0 in {behind} of {ahead + behind} lines; turn its sign"
        )
    result = np.array(centers, np.float64).reshape(-1, 3)
    if count is not None and len(result) != count:
        raise DepthFileError(
            path, "wrong number of centres", f"{len(result)} lines; the dataset has {count} frames, a line for each"
        )
    return result


# --------------------------------------------------------------------------------------------------------- MATLAB


def read_nyu_joints(path, key="joint_xyz"):
    """Reads the joints of NYU's first camera.

    Args:
        path: `joint_data.mat`.
        key: `"joint_xyz"` (world, mm) or `"joint_uvd"` (pixels and depth).

    Returns:
        Float64 `[frames, 36, 3]`.

    Raises:
        DepthFileError: If the file is missing or damaged, lacks the array, or the array has another shape or is too
            large.

    Follows: mks0601/V2V-PoseNet_RELEASE src/data/NYU/data.lua:load_data.
    """

    def check(shape):
        if len(shape) != 4 or shape[0] < 1 or tuple(shape[2:]) != (NYU_JOINTS, 3):
            raise DepthFileError(
                path, f"{key!r} of another shape", f"{list(shape)}; [cameras, frames, {NYU_JOINTS}, 3] is expected"
            )
        if shape[0] > _MAX_NYU_CAMERAS or shape[1] > _MAX_NYU_FRAMES:
            limits = f"{_MAX_NYU_CAMERAS} cameras and {_MAX_NYU_FRAMES} frames are the most"
            raise DepthFileError(path, f"{key!r} of an absurd size", f"{list(shape)}; {limits}")

    with _regular_file(path):
        pass
    try:
        return read_mat_array(path, key, check)[0].astype(np.float64)
    except MatFileError as error:
        raise DepthFileError(path, "not a usable MATLAB file", str(error)) from None


# ----------------------------------------------------------------------------------------------------------- HDF5


class DepthArchive:
    """ITOP's pictures, read one at a time.

    Args:
        path: `ITOP_side_train_depth_map.h5`: `data` `[frames, height, width]` in metres.
        size: `(width, height)` that the pictures must have.

    Raises:
        DepthFileError: If it is no such file, or claims what it does not hold.
    """

    def __init__(self, path, size=(320, 240)):
        self.path = pathlib.Path(path)
        with _regular_file(path):
            pass
        with _hdf5_damage(path):
            self._file = h5py.File(path, "r", locking=False)
        try:
            with _hdf5_damage(path):
                self._data = _plain_dataset(path, self._file, "data", (size[1], size[0]), "f")
        except BaseException:
            self.close()
            raise

    def __len__(self):
        return self._data.shape[0]

    def __getitem__(self, index):
        """Float32 `[height, width]` picture of a frame, in metres."""
        with _hdf5_damage(self.path), np.errstate(invalid="ignore", over="ignore"):
            return _checked_depth(self.path, self._data[index].astype(np.float32))

    def close(self):
        """Closes the file."""
        self._file.close()


class ItopLabels(NamedTuple):
    """Labels of ITOP.

    Args:
        names: List of texts: the frames' `id`, or their numbers where they have none.
        joints: Float64 `[frames, 15, 3]` in the world, metres.
        valid: Bool `[frames]`: whether people have checked the labels.
    """

    names: list
    joints: np.ndarray
    valid: np.ndarray


def read_itop_labels(path, num_joints=15):
    """Reads ITOP's labels.

    Args:
        path: `ITOP_side_train_labels.h5`: `real_world_coordinates`, `is_valid`, perhaps `id`.
        num_joints: Joints of a frame.

    Returns:
        `ItopLabels`.

    Raises:
        DepthFileError: If it is no such file, lacks an array, or claims what it does not hold.

    Follows: mks0601/V2V-PoseNet_RELEASE src/data/ITOP/data.lua:load_data.
    """
    with _regular_file(path):
        pass
    with _hdf5_damage(path), h5py.File(path, "r", locking=False) as file:
        joints = _plain_dataset(path, file, "real_world_coordinates", (num_joints, 3), "f")
        valid = _plain_dataset(path, file, "is_valid", (), "iub")
        if len(joints) != len(valid):
            raise DepthFileError(path, "arrays of different lengths", f"{len(joints)} joints, {len(valid)} is_valid")
        if joints.size * 8 > _MAX_LABEL_BYTES:
            raise DepthFileError(path, "too many labels", f"{len(joints)} frames")
        names = [f"{index:05d}" for index in range(len(joints))]
        if "id" in file:
            ids = _plain_dataset(path, file, "id", (), "S")
            if len(ids) != len(joints) or ids.dtype.itemsize > _MAX_NAME:
                raise DepthFileError(path, "'id' of another shape", f"{ids.dtype} {list(ids.shape)}; one a frame")
            texts = [text.decode("ascii", "replace") for text in ids[()].tolist()]
            # They name the records, so that no two may be the same, and none may break a line.
            if len(set(texts)) == len(names) and all(len(text.split()) == 1 for text in texts):
                names = texts
        with np.errstate(invalid="ignore"):  # damaged numbers are found where they are used
            return ItopLabels(names, joints[()].astype(np.float64), valid[()] != 0)


# --------------------------------------------------------------------------------------------------------- checks


@contextlib.contextmanager
def _regular_file(path):
    """An open file and its size; pipes and devices, which may never end, are not opened at all."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise DepthFileError(path, "not a regular file", "a folder, pipe or device")
        with open(path, "rb") as file:
            yield file, os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        raise DepthFileError(path, "missing file") from None
    except OSError as error:
        raise DepthFileError(path, "unreadable file", error.strerror or str(error)) from None


def _check_pixels(path, width, height):
    if width * height > MAX_DEPTH_PIXELS:
        raise DepthFileError(
            path, f"picture of more than {MAX_DEPTH_PIXELS >> 20} megapixels", f"{width} x {height}; no depth camera's"
        )


def _checked_depth(path, depth):
    with np.errstate(invalid="ignore"):
        wrong = ~(np.isfinite(depth) & (depth >= 0))
    if wrong.any():
        raise DepthFileError(path, "values that are no depths", f"{int(wrong.sum())} are negative or not finite")
    return np.array(depth, np.float32)


def _png_kind(bits, colour):
    channels = {0: "one channel", 2: "three channels", 3: "a palette", 4: "two channels", 6: "four channels"}
    return f"{channels.get(colour, 'unknown channels')} of {bits} bits"


def _text_lines(path):
    """Numbers and words of the lines that are not empty."""
    with _regular_file(path) as (file, size):
        if size > MAX_TEXT_BYTES:
            raise DepthFileError(path, "too large for a text", f"{size} bytes")
        for number, line in enumerate(iter(lambda: file.readline(_MAX_LINE), b""), 1):
            if len(line) == _MAX_LINE:
                raise DepthFileError(path, f"line {number} has no end", f"more than {_MAX_LINE} characters")
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                text = "\0"
            if "\0" in text:
                raise DepthFileError(path, "not a text", f"line {number} holds bytes that are no characters")
            words = text.split()
            if words:
                yield number, words


def _read_rows(path, lines, count, named, what):
    """Names, float64 `[rows, count]` and line numbers of rows that all have `count` numbers."""
    names, values, numbers = [], array.array("d"), array.array("q")
    for number, words in lines:
        if named:
            names.append(words[0])
            words = words[1:]
        if len(words) != count:
            raise DepthFileError(
                path, f"line {number} holds {len(words)} numbers instead of {count}", f"{what} are expected"
            )
        try:
            values.extend(map(float, words))
        except ValueError as error:
            raise DepthFileError(path, f"line {number} holds something else than numbers", _one_line(error)) from None
        numbers.append(number)
        if len(numbers) > _MAX_FRAMES:
            raise DepthFileError(path, f"more than {_MAX_FRAMES} lines", "a line for every frame is expected")
    rows = np.frombuffer(values, np.float64) if len(values) else np.zeros(0)  # without a copy of half a gigabyte
    return names, rows.reshape(-1, count), numbers


@contextlib.contextmanager
def _hdf5_damage(path):
    try:
        yield
    except DepthFileError:
        raise
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:  # HDF5 has all of them
        raise DepthFileError(path, "not a usable HDF5 file", _one_line(error)) from None


def _plain_dataset(path, file, key, row, kinds):
    """A dataset of an HDF5 file that lies in this file and holds as much as it claims."""
    if not isinstance(file.get(key, getlink=True), h5py.HardLink) or not isinstance(file[key], h5py.Dataset):
        raise DepthFileError(path, f"no array {key!r} in it", f"it has {sorted(file)[:10] or 'nothing'}, links apart")
    data = file[key]
    if data.dtype.kind not in kinds or len(data.shape) != 1 + len(row) or data.shape[1:] != row:
        wanted = ", ".join(["frames", *map(str, row)])
        kind = {"f": "floating", "S": "text"}.get(kinds, "whole")
        found = f"{data.dtype} {list(data.shape)}"
        raise DepthFileError(path, f"{key!r} of another shape", f"{found}; {kind} [{wanted}] is expected")
    if data.external or data.is_virtual:
        raise DepthFileError(path, f"{key!r} lies in another file", "one file that holds everything is expected")
    claimed, there = data.size * data.dtype.itemsize, data.id.get_storage_size()
    if claimed > there * (_MAX_EXPANSION if data.compression else 1):
        raise DepthFileError(path, f"{key!r} claims more than the file holds", f"{claimed} bytes, {there} are there")
    if math.prod(data.chunks or ()) * data.dtype.itemsize > _MAX_CHUNK_BYTES:
        raise DepthFileError(path, f"{key!r} comes in too large pieces", f"of {list(data.chunks)}")
    return data


def _one_line(error):
    return " ".join(str(error).split())[:160]
