"""What the converters of numbered images with one labelled person each have in common."""

import dataclasses
import os
import pathlib
import re

import numpy as np
import scipy.io

from posekit.data.image_files import ImageFileError, decode_image, read_image_file
from posekit.data.schema import ImageRecord, encode_silhouette
from posekit.data.shards import NothingUsableError, Skip
from posekit.files import read_npz
from posekit.skeletons import LSP14

MAX_LABEL_BYTES = 1 << 30
# Annotators place joints a little beyond the edge; this share of the image's longer side is still believed.
_BEYOND_EDGE = 0.1
TRUTH_FILE = "sample_truth.npz"


@dataclasses.dataclass(frozen=True, eq=False)
class LabelledImage:
    """One image that is still to be read.

    Args:
        path: Image file.
        keypoints: Float `[3, 14]`, `LSP14`: x, y in pixels, and 1 where visible.
        silhouette: Path of the silhouette's file, `None` without one.
        truth: `None`, or pose `[72]`, shape `[10]` and joints3d `[14, 3]`.
    """

    path: str
    keypoints: np.ndarray
    silhouette: str | None = None
    truth: tuple | None = None


def convert_labelled_image(item, silhouette_format="png"):
    """Reads one image and its silhouette.

    Args:
        item: A `LabelledImage`.
        silhouette_format: `"png"` or `"jpeg"`.

    Yields:
        An `ImageRecord`, and a `Skip` for everything that cannot be used.

    Follows: maxpit/human-pose-estimation src/util/create_dataset.py:_add_to_tfrecord.
    Differs: images without a silhouette are kept; silhouettes are stored without loss unless `"jpeg"` is asked for.
    """
    name = os.path.basename(item.path)
    try:
        data, header = read_image_file(item.path)
        # Decoded once to be sure that training can; the file itself is stored unchanged.
        decode_image(data)
    except ImageFileError as error:
        yield Skip(name, str(error))
        return
    keypoints, defects = usable_keypoints(item.keypoints, header.height, header.width)
    if not keypoints[2].any():
        yield Skip(name, "no visible joint" if not defects else f"no visible joint left: {defects[0]}")
        return
    for defect in defects:
        yield Skip(name, f"{defect} (only that joint)")
    silhouette = None
    if item.silhouette is not None:
        try:
            silhouette = _read_silhouette(item.silhouette, header, silhouette_format)
        except ImageFileError as error:
            yield Skip(os.path.basename(item.silhouette), f"silhouette: {error} (image kept)")
    pose, shape, joints3d = item.truth or (None, None, None)
    yield ImageRecord(
        image=data,
        height=header.height,
        width=header.width,
        filename=name,
        keypoints=keypoints,
        silhouette=silhouette,
        image_format=header.image_format,
        pose=pose,
        shape=shape,
        joints3d=joints3d,
    )


def usable_keypoints(keypoints, height, width):
    """Keypoints with the ones that cannot be true made invisible.

    Args:
        keypoints: Float `[3, K]`: x, y in pixels, and 1 where visible.
        height: Of the image, pixels.
        width: Of the image, pixels.

    Returns:
        `(keypoints, defects)`: a finite copy, and the reasons why joints were made invisible.
    """
    keypoints = np.array(keypoints, np.float64)
    finite = np.isfinite(keypoints).all(0)
    visible = finite & (keypoints[2] > 0)
    margin = _BEYOND_EDGE * max(height, width)
    inside = np.zeros_like(visible)
    inside[finite] = np.logical_and.reduce(
        [keypoints[axis, finite] >= -margin for axis in (0, 1)]
        + [keypoints[0, finite] <= width - 1 + margin, keypoints[1, finite] <= height - 1 + margin]
    )
    defects = []
    # A joint that is marked invisible and has no position is no defect: that is how datasets leave joints out.
    if (~finite & ~(keypoints[2] == 0)).any():
        defects.append("joint that is not a number")
    if (visible & ~inside).any():
        defects.append("joint outside the image")
    keypoints[:, ~finite] = 0
    keypoints[2] = visible & inside
    return keypoints, defects


def numbered_images(folder, pattern):
    """Images of a folder by their number.

    Args:
        folder: Path.
        pattern: Regular expression of the whole file name whose first group is the number.

    Returns:
        Dict of number to path, in the order of the numbers.

    Raises:
        NothingUsableError: If there is no such folder or it holds no such image.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise NothingUsableError(f"There is no folder {folder}.")
    matches = ((re.fullmatch(pattern, entry.name), entry.path) for entry in os.scandir(folder))
    images = {int(match[1]): path for match, path in matches if match}
    if not images:
        raise NothingUsableError(f"{folder} holds no image whose name matches {pattern!r}.")
    return dict(sorted(images.items()))


def load_mat(path, key="joints"):
    """Reads one array of a MATLAB file.

    Args:
        path: The `.mat` file.
        key: Name of the array.

    Returns:
        Float64 array.

    Raises:
        NothingUsableError: If the file is missing or damaged, lacks the array, or the array is too large.
    """
    path = pathlib.Path(path)
    _check_label_file(path)
    try:
        shapes = {name: (shape, kind) for name, shape, kind in scipy.io.whosmat(path)}
        if key not in shapes:
            raise NothingUsableError(f"{path} has no array {key!r}; it has {sorted(shapes) or 'none'}.")
        shape, kind = shapes[key]
        if kind in ("cell", "struct", "object", "char", "function", "opaque") or _size(shape) * 8 > MAX_LABEL_BYTES:
            raise NothingUsableError(f"{path}: {key!r} is a {kind} of shape {shape}; an array of numbers is expected.")
        array = scipy.io.loadmat(path, variable_names=[key])[key]
        if np.iscomplexobj(array):
            raise NothingUsableError(f"{path}: {key!r} holds complex numbers; real ones are expected.")
        return np.asarray(array, np.float64)
    except NothingUsableError:
        raise
    except Exception as error:  # SciPy raises errors of many types for damaged files.
        raise NothingUsableError(f"{path} cannot be read as a MATLAB file ({error}); download it again.") from error


def load_npz(path, keys):
    """Reads arrays of a `.npz` file; nothing in it is executed, and sizes are checked before memory is taken.

    Args:
        path: The file.
        keys: Names of the arrays.

    Returns:
        Dict of name to float64 array.

    Raises:
        NothingUsableError: If the file is missing or damaged, lacks an array, or an array is too large.
    """
    path = pathlib.Path(path)
    _check_label_file(path)
    try:
        arrays = read_npz(path, keys, max_bytes=MAX_LABEL_BYTES)
    except ValueError as error:
        raise NothingUsableError(str(error)) from error
    for key in keys:
        if key not in arrays or arrays[key].dtype.kind not in "fiub":
            raise NothingUsableError(f"{path} has no array of numbers {key!r}; it is another file than expected.")
    return {key: arrays[key].astype(np.float64) for key in keys}


def joints_last(array, num_joints, path):
    """Brings labels into one order of axes.

    Args:
        array: `[3, joints, N]` or `[joints, 3, N]`, or without the last axis if there is one image only.
        num_joints: How many joints the dataset has.
        path: Named in errors.

    Returns:
        `[N, 3, joints]`.

    Raises:
        NothingUsableError: If the shape is another one.
    """
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim == 3 and array.shape[:2] == (num_joints, 3):
        array = array.transpose(1, 0, 2)
    if array.ndim != 3 or array.shape[:2] != (3, num_joints) or not array.shape[2]:
        raise NothingUsableError(
            f"{path} holds labels of shape {list(array.shape)}; [3, {num_joints}, N] or [{num_joints}, 3, N] is "
            "expected."
        )
    return array.transpose(2, 0, 1)


def load_truth(folder, count):
    """Reads the 3-D truth that sample data has beside its labels.

    Args:
        folder: The dataset's folder.
        count: Number of labels.

    Returns:
        Function from an index to `(pose, shape, joints3d)`, or to `None` where there is no such file.

    Raises:
        NothingUsableError: If the file is there but does not fit.
    """
    path = pathlib.Path(folder) / TRUTH_FILE
    if not path.exists():
        return lambda index: None
    expected = {"pose": (count, 72), "shape": (count, 10), "joints3d": (count, LSP14.num_joints, 3)}
    arrays = load_npz(path, list(expected))
    for key, shape in expected.items():
        if arrays[key].shape != shape or not np.isfinite(arrays[key]).all():
            raise NothingUsableError(
                f"{path}: {key!r} has shape {arrays[key].shape}; finite values of shape {shape} are expected, one row "
                "a label."
            )
    return lambda index: tuple(arrays[key][index] for key in expected)


def existing(path):
    """A path, or `None` if there is no such file.

    Args:
        path: Path.

    Returns:
        Text or `None`.
    """
    return os.fspath(path) if os.path.exists(path) else None


def _read_silhouette(path, header, image_format):
    data, own = read_image_file(path)
    if (own.height, own.width) != (header.height, header.width):
        raise ImageFileError("not of the image's size")
    pixels = decode_image(data)
    # Of the three channels that some files have the original takes the red one; OpenCV has it last.
    mask = pixels[..., 2] > 0
    return encode_silhouette(mask, image_format) if mask.any() else None


def _check_label_file(path):
    if not path.is_file():
        raise NothingUsableError(f"There is no file {path}.")
    if path.stat().st_size > MAX_LABEL_BYTES:
        raise NothingUsableError(f"{path} is larger than {MAX_LABEL_BYTES >> 20} MiB; that is no label file.")


def _size(shape):
    size = 1
    for extent in shape:  # Python integers do not overflow, whatever the header says.
        size *= int(extent)
    return size


