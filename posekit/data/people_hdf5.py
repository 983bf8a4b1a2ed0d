"""Pictures with many people in the HDF5 layout of michalfaber/keras_Realtime_Multi-Person_Pose_Estimation.

The group `datum` holds a dataset `%07d` a picture: uint8 `[6, H, W]`, in one piece. Its channels are blue, green, red,
the labels, the mask of what counts in the loss (255) and the mask of people (255); files without the last one are read
too. The channel of labels holds these bytes at the start of its rows; numbers are little-endian float32 unless noted:

| row | |
|---|---|
| 0 | name of the dataset, ASCII: `COCO` |
| 1 | height and width of the picture |
| 2 | uint8: 1 for validation, n = number of other people, 0; then number of the picture, of the sample, and of all |
| 3, 4 | main person: middle of the box x, y; height of the box / 368 |
| 5, 6, 7 | main person: 17 x, 17 y, 17 states: 1 visible, 0 hidden, 2 not labelled |
| 8 … 7 + n | other people: middle of the box x, y |
| 8 + n | other people: n heights of boxes / 368 |
| 9 + n + 3 p … | other person p: 17 x; 17 y; 17 states |

Pictures that are too small for their labels are padded with grey to the right and below; rows 1 has their own size.
Rows of files whose pictures are 64 to 67 pixels wide run over into the next row, and are read so.
"""

import contextlib
import dataclasses
import math
import os
import pathlib
import struct

import cv2
import h5py
import numpy as np

from posekit.data.hdf5 import Disk
from posekit.data.image_files import MAX_PIXELS
from posekit.data.people_records import FARTHEST, LONGEST, PeopleRecord, people_set
from posekit.data.tfrecord import DatasetNotFoundError, explain_write_errors
from posekit.files import replacing
from posekit.skeletons import COCO17

GROUP = "datum"
# The height at which a person's scale is 1.
BOX_HEIGHT = 368
MIN_WIDTH = 68
BORDER = 128
NUM_JOINTS = COCO17.num_joints
# Number of other people is one byte.
MAX_OTHERS = 255
_ROW_BYTES = 4 * NUM_JOINTS
_MAX_SAMPLES = 9_999_999
# State in the file -> state in records, and back.
_STATES = np.array([1, 2, 0])


class PeopleHdf5Error(ValueError):
    """A file that is not in this layout, or a damaged one."""


def label_rows(others):
    """Rows of labels that a picture with a number of other people needs.

    Args:
        others: Number of people but the main one.

    Returns:
        The count.
    """
    return 8 if not others else 9 + 4 * others


def encode_sample(record, number=0, annotation=0, total=0, validation=False):
    """Puts a picture and its labels into one array.

    Args:
        record: A `PeopleRecord` of COCO's joints with at least one label of training.
        number: Of the sample in its file.
        annotation: Number of the picture in its annotations.
        total: Samples in the file.
        validation: Whether it is one of the validation set.

    Returns:
        Uint8 `[6, H, W]`.

    Raises:
        ValueError: If the record does not fit the layout; the message is a short reason.

    Follows: michalfaber/keras_Realtime_Multi-Person_Pose_Estimation training/generate_hdf5.py:writeHDF5.
    Differs: pictures are padded to 68 columns, and to as many rows as the labels need, where the original stops; the
        totals of the two files are not swapped.
    """
    if record.names != COCO17.joints:
        raise ValueError("joints that are not COCO's")
    people = int(record.trained.sum())
    if not 1 <= people <= MAX_OTHERS + 1:
        raise ValueError(f"{people} people to train on; the layout has room for 1 to {MAX_OTHERS + 1}")
    others = people - 1
    # A line of scales has a float for every other person.
    width = max(record.width, MIN_WIDTH, 4 * others)
    height = max(record.height, label_rows(others))
    sample = np.zeros((6, height, width), np.uint8)
    sample[:3], sample[4] = BORDER, 255
    inside = np.s_[: record.height, : record.width]
    sample[:3][(slice(None), *inside)] = record.pixels()[..., ::-1].transpose(2, 0, 1)
    if record.mask is not None:
        sample[4][inside] = record.mask * np.uint8(255)
    if record.mask_all is not None:
        sample[5][inside] = record.mask_all * np.uint8(255)
    rows = sample[3]

    def put(row, data, start=0):
        rows[row, start : start + len(data)] = np.frombuffer(data, np.uint8)

    def floats(values):
        return np.asarray(values, "<f4").tobytes()

    centers, scales = (
        np.asarray(values, np.float32) for values in (record.centers[:people], record.boxes[:people, 3] / BOX_HEIGHT)
    )
    _check_people(centers, scales)
    put(0, b"COCO")
    put(1, floats([record.height, record.width]))
    put(2, struct.pack("<3B3f", validation, others, 0, annotation, number, total))
    put(3, floats(centers[0]))
    put(4, floats(scales[:1]))
    for person, joints in enumerate(record.joints[:people]):
        first = 5 if person == 0 else 9 + others + 3 * (person - 1)
        states = np.array([2, 0, 1])[joints[:, 2].astype(int)]
        for row, values in enumerate((joints[:, 0], joints[:, 1], states)):
            put(first + row, floats(values))
    for other in range(others):
        put(8 + other, floats(centers[1 + other]))
    if others:
        put(8 + others, floats(scales[1:]))
    return sample


def decode_sample(sample, name=""):
    """Reads one array of the layout.

    Args:
        sample: Uint8 `[5 or 6, H, W]`.
        name: For the record's file name.

    Returns:
        A `PeopleRecord`; its picture is a PNG. The layout has no widths of boxes: they are such that the boxes hold
        the labelled joints.

    Raises:
        ValueError: If it makes no sense; the message is a short reason.

    Follows: michalfaber/rmpe_dataset_server DataTransformer.cpp:ReadMetaData.
    """
    sample = np.asarray(sample)
    if sample.dtype != np.uint8 or sample.ndim != 3:
        raise ValueError(f"it is {sample.dtype} of shape {list(sample.shape)}, not uint8 [6, H, W]")
    check_shape(sample.shape)
    stored_height, stored_width = sample.shape[1:]
    labels = sample[3].tobytes()
    if not labels.startswith(b"COCO"):
        raise ValueError(f"its dataset is {labels[:8].split(bytes(1))[0]!r}, not COCO")
    others = labels[2 * stored_width + 1]
    if (label_rows(others) - 1) * stored_width + _ROW_BYTES > len(labels):
        raise ValueError(f"{stored_height} x {stored_width} pixels have no room for {others} other people")

    def floats(row, count):
        return np.frombuffer(labels, "<f4", count, row * stored_width).astype(np.float64)

    height, width = floats(1, 2)
    if not (1 <= height <= stored_height and 1 <= width <= stored_width):
        raise ValueError(f"it says {width:g} x {height:g} pixels, but has {stored_width} x {stored_height}")
    height, width = int(height), int(width)
    joints, centers, scales = [], [floats(3, 2)], [floats(4, 1)]
    centers += [floats(8 + other, 2) for other in range(others)]
    scales += [floats(8 + others, others)] if others else []
    for first in (5, *(9 + others + 3 * other for other in range(others))):
        x, y, states = (floats(first + row, NUM_JOINTS) for row in range(3))
        known = np.isin(states, (0, 1)) & (np.abs([x, y]) < FARTHEST).all(0)
        states = np.where(known, _STATES[np.where(known, states, 2).astype(int)], 0)
        joints.append(np.where(known[:, None], np.stack([x, y, states], -1), 0.0))
    joints, centers, scales = np.array(joints), np.array(centers), np.concatenate(scales)
    _check_people(centers, scales)
    heights = scales * BOX_HEIGHT
    reach = np.where(joints[..., 2] > 0, np.abs(joints[..., 0] - centers[:, :1]), 0).max(1)
    widths = np.maximum(2 * reach, 1.0)
    picture = np.ascontiguousarray(sample[:3, :height, :width].transpose(1, 2, 0))
    return PeopleRecord(
        image=cv2.imencode(".png", picture)[1].tobytes(),
        height=height,
        width=width,
        joints=joints,
        boxes=np.stack([centers[:, 0] - widths / 2, centers[:, 1] - heights / 2, widths, heights], -1),
        trained=np.ones(len(joints)),
        mask=sample[4, :height, :width] > 127,
        mask_all=sample[5, :height, :width] > 127 if len(sample) > 5 else None,
        filename=name,
    )


def _check_people(centers, scales):
    """Refuses what cannot be read, where it is written as well as where it is read."""
    heights = np.float32(scales) * np.float32(BOX_HEIGHT)
    if not (np.abs(centers) < FARTHEST).all() or not ((heights > 0) & (heights < LONGEST)).all():
        raise ValueError("the place or the size of a person makes no sense")


def check_shape(shape):
    """Refuses arrays that cannot be a sample, by their shape.

    Args:
        shape: Three lengths.

    Raises:
        ValueError: With a short reason.
    """
    channels, height, width = shape
    if channels not in (5, 6) or not (label_rows(0) <= height and 64 <= width and height * width <= MAX_PIXELS):
        raise ValueError(f"its shape is {list(shape)}, not [6, 8 rows or more, 64 columns or more]")


class PeopleHdf5Writer:
    """Writes a file in this layout, which takes its name only when it is complete.

    Use it as a context manager.

    Args:
        path: The file's final path; its folder must exist.
        validation: Whether it is a validation set.

    Raises:
        OSError: If the file cannot be written, with the reason and what to do in the message.

    Example:
        >>> with PeopleHdf5Writer("train_dataset.h5") as writer:  # doctest: +SKIP
        ...     writer.append(record)
    """

    def __init__(self, path, validation=False):
        self.path = pathlib.Path(path)
        self.validation = validation
        self.count = 0

    def __enter__(self):
        with explain_write_errors(self.path), contextlib.ExitStack() as stack:
            temporary = stack.enter_context(replacing(self.path))
            self._disk = stack.enter_context(Disk(temporary))
            self._file = h5py.File(self._disk, "w")
            self._stack = stack.pop_all()
        self._group = self._file.create_group(GROUP)
        return self

    def append(self, record, annotation=0):
        """Adds a picture.

        Args:
            record: A `PeopleRecord`.
            annotation: Number of the picture in its annotations.

        Raises:
            ValueError: If the record does not fit the layout; the message is a short reason.
        """
        sample = encode_sample(record, self.count, annotation, 0, self.validation)
        with explain_write_errors(self.path):
            self._group.create_dataset(f"{self.count:07d}", data=sample)
            self._raise_disk_errors()
        self.count += 1

    def __exit__(self, kind, error, trace):
        if kind is not None:
            try:
                self._file.close()
            finally:
                self._stack.__exit__(kind, error, trace)
            return
        with explain_write_errors(self.path), self._stack:
            try:
                total = np.frombuffer(struct.pack("<f", self.count), np.uint8)
                for name in self._group:
                    self._group[name][3, 2, 11:15] = total
            finally:
                self._file.close()
            self._disk.flush()
            self._raise_disk_errors()

    def _raise_disk_errors(self):
        if self._disk.error:
            raise self._disk.error


@dataclasses.dataclass(frozen=True, eq=False)
class PeopleHdf5:
    """Where the samples of a file lie, so that they can be read without HDF5.

    Args:
        path: The file.
        size: Its bytes.
        names: List of the samples' names, sorted.
        offsets: Int64 `[N]`, first byte of each sample.
        shapes: Int64 `[N, 3]`.
        validation: Whether its first sample says that it is one of the validation set.
    """

    path: pathlib.Path
    size: int
    names: list
    offsets: np.ndarray
    shapes: np.ndarray
    validation: bool

    def __len__(self):
        return len(self.names)

    def record(self, index):
        """Reads one sample.

        Args:
            index: Its place in `names`.

        Returns:
            A `PeopleRecord`.

        Raises:
            PeopleHdf5Error: If it makes no sense; the message names file and sample.
        """
        shape = tuple(int(length) for length in self.shapes[index])
        with open(self.path, "rb") as file:
            file.seek(int(self.offsets[index]))
            data = file.read(math.prod(shape))
        try:
            if len(data) < math.prod(shape):
                raise ValueError("the file is cut short")
            return decode_sample(np.frombuffer(data, np.uint8).reshape(shape), self.names[index])
        except ValueError as error:
            raise PeopleHdf5Error(f"{self.path}: sample {self.names[index]}: {error}; make the file again.") from error


def find_people_file(data_dir, split, dataset="coco_people"):
    """Finds an HDF5 file of people.

    Args:
        data_dir: A folder, or the file itself.
        split: `"train"` or `"val"`.
        dataset: Name of the dataset; its files are called after it.

    Returns:
        `pathlib.Path`, `None` if there is none.
    """
    data_dir = pathlib.Path(data_dir)
    if data_dir.is_file():
        return data_dir
    names = (f"{people_set(split, dataset)}.h5", f"{split}_dataset.h5", f"{split}_pre_dataset.h5")
    return next((data_dir / name for name in names if (data_dir / name).is_file()), None)


def open_people_hdf5(path):
    """Lists the samples of a file, and believes nothing that it says before it is compared with what is there.

    Args:
        path: A file in this layout.

    Returns:
        A `PeopleHdf5`.

    Raises:
        DatasetNotFoundError: If there is no such file.
        PeopleHdf5Error: If it is in another layout, or damaged.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise DatasetNotFoundError(
            f"There is no file {path}; make it with `python tools/create_dataset.py --coco_people --format=hdf5`."
        )
    size = os.path.getsize(path)
    names, offsets, shapes = [], [], []
    try:
        with h5py.File(path, "r", locking=False) as file:
            if not isinstance(file.get(GROUP, getlink=True), h5py.HardLink) or not isinstance(file[GROUP], h5py.Group):
                raise ValueError(f"it has no group {GROUP!r} but {sorted(file)[:5]}")
            group = file[GROUP]
            if not 1 <= len(group) <= _MAX_SAMPLES:
                raise ValueError(f"its group {GROUP!r} holds {len(group)} samples")
            for name in group:
                offset, shape = _contiguous(group, name, size)
                names.append(name)
                offsets.append(offset)
                shapes.append(shape)
            validation = bool(group[names[0]][3, 2, 0])
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:  # HDF5 has all of them
        raise PeopleHdf5Error(
            f"{path} cannot be read as pictures of people: {error!s:.300}. Make it again with "
            "`python tools/create_dataset.py --coco_people --format=hdf5 --overwrite`."
        ) from error
    shapes = np.array(shapes, np.int64).reshape(-1, 3)
    return PeopleHdf5(path, size, names, np.array(offsets, np.int64), shapes, validation)


def _contiguous(group, name, size):
    """First byte and shape of a dataset whose bytes lie in one piece, within the file."""
    if not isinstance(group.get(name, getlink=True), h5py.HardLink) or not isinstance(group[name], h5py.Dataset):
        raise ValueError(f"{name!r:.80} is no dataset")
    dataset = group[name]
    if dataset.dtype != np.uint8 or len(dataset.shape or ()) != 3:
        raise ValueError(f"{name!r:.80} is {dataset.dtype} of shape {dataset.shape}, not uint8 of three dimensions")
    try:
        check_shape(dataset.shape)
    except ValueError as error:
        raise ValueError(f"{name!r:.80}: {error}") from None
    offset = None if dataset.is_virtual or dataset.external or dataset.chunks else dataset.id.get_offset()
    if offset is None:
        raise ValueError(f"{name!r:.80} does not lie in one piece in this file; write it without chunks or compression")
    if offset + math.prod(dataset.shape) > size:
        raise ValueError(f"{name!r:.80} claims {math.prod(dataset.shape)} bytes, more than the file has")
    return offset, dataset.shape
