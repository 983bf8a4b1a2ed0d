"""Pose files: many poses of one skeleton with their cameras, in HDF5, one dataset a quantity.

| column | type and shape | |
|---|---|---|
| joints_image | float64 `[poses, 17, 3]` | x, y in pixels as a pinhole camera sees them, z as in `codecs.screen_pose` |
| joints_px | float64 `[poses, 17, 2]` | where the joints are in the picture, the lens's distortion included if known |
| joints_cam_mm | float64 `[poses, 17, 3]` | camera frame, millimetres |
| box_px | float64 `[poses, 4]` | left, top, right, bottom of two metres around the root |
| root_depth_mm | float64 `[poses]` | |
| subject, action, subaction, video, frame, camera | int32 `[poses]` | `camera` is a row of the table of cameras |
| detections_px | float64 `[poses, 17, 2]` | what a 2-D detector found; need not be there |
| detection_confidence | float64 `[poses, 17]` | need not be there |

The group `cameras` holds, a row a camera: `name`, `subject`, `index` (0 to 3 in Human3.6M), `R` `[3, 3]`, `T` `[3]`,
`f` `[2]`, `c` `[2]`, `k` `[3]`, `p` `[2]` and `image_size` `[2]` (width, height). Attributes of the file: `format`,
`version`, `skeleton`, `source`, `fingerprint`. `COLUMNS` and `CAMERA_COLUMNS` have the range of each column's values.
"""

import contextlib
import dataclasses
import io
import math
import os
import pathlib

import h5py
import numpy as np

from posekit.data.tfrecord import DatasetNotFoundError, explain_write_errors
from posekit.files import printable, replacing
from posekit.skeletons import H36M17, SKELETONS

FORMAT = "posekit poses"
VERSION = 1
_TEXTS = ("format", "skeleton", "source", "fingerprint")
_MAX_TEXT = 4000
NAME_LENGTH = 64
_CHUNK_BYTES = 1 << 16
_MAX_CHUNK_BYTES = 64 << 20
# Pixels or millimetres; no pose is a kilometre away or a hundred pictures wide.
_LARGEST = 1_000_000
# Numbers of subjects, actions and cameras have two digits in the names of Human3.6M's pictures.
_LARGEST_LABEL = 99
_LARGEST_SIDE = 100_000


class PoseFileError(ValueError):
    """A file that is no pose file, or a damaged one."""


@dataclasses.dataclass(frozen=True)
class Column:
    """One quantity of a pose file.

    Args:
        dtype: As it is stored.
        shape: Of one row; `None` stands for the number of joints.
        required: Whether every pose file has it.
        low: Smallest value.
        high: Largest value.
    """

    dtype: str
    shape: tuple = ()
    required: bool = True
    low: float = -_LARGEST
    high: float = _LARGEST

    def row_shape(self, num_joints):
        """Shape of one row.

        Args:
            num_joints: Joints of the file's skeleton.

        Returns:
            Tuple of lengths.
        """
        return tuple(num_joints if length is None else length for length in self.shape)

    def beyond(self, values):
        """Tells values that are out of range or no number.

        Args:
            values: Array.

        Returns:
            Boolean array of its shape.
        """
        return ~((values >= self.low) & (values <= self.high))

    @property
    def span(self):
        """The range in words."""
        return f"{self.low:,} to {self.high:,}"


_LABEL = Column("<i4", low=0, high=_LARGEST_LABEL)
_NUMBER = Column("<i4", low=0, high=2**31 - 1)

COLUMNS = {
    "joints_image": Column("<f8", (None, 3)),
    "joints_px": Column("<f8", (None, 2)),
    "joints_cam_mm": Column("<f8", (None, 3)),
    "box_px": Column("<f8", (4,)),
    "root_depth_mm": Column("<f8"),
    "subject": _LABEL,
    "action": _LABEL,
    "subaction": _LABEL,
    "video": _NUMBER,
    "frame": _NUMBER,
    "camera": _NUMBER,
    "detections_px": Column("<f8", (None, 2), required=False),
    "detection_confidence": Column("<f8", (None,), required=False),
}
CAMERA_COLUMNS = {
    "name": Column(f"S{NAME_LENGTH}"),
    "subject": _LABEL,
    "index": _LABEL,
    "R": Column("<f8", (3, 3)),
    "T": Column("<f8", (3,)),
    "f": Column("<f8", (2,), low=1),
    "c": Column("<f8", (2,)),
    "k": Column("<f8", (3,)),
    "p": Column("<f8", (2,)),
    "image_size": Column("<f8", (2,), low=1, high=_LARGEST_SIDE),
}


def check_cameras(cameras, title="a camera"):
    """Refuses a table of cameras with values out of range.

    Args:
        cameras: Dict of columns of `CAMERA_COLUMNS`.
        title: What messages call one.

    Raises:
        ValueError: If there is one.
    """
    for name, values in cameras.items():
        spec = CAMERA_COLUMNS[name]
        wrong = np.asarray(values)[spec.beyond(np.asarray(values))] if name != "name" else ()
        if len(wrong):
            raise ValueError(f"{name!r} of {title} is {wrong[0]:.6g}; it must be in {spec.span}")


class PoseWriter:
    """Writes a pose file block by block; it takes its final name only when it is complete.

    Use it as a context manager. If the body raises, the unfinished file is removed and an earlier file of the same
    name stays as it was.

    Args:
        path: The file's final path; its folder must exist.
        skeleton: Of the joints.
        source: What the poses were made from, kept as an attribute.
        fingerprint: Digest of everything that the poses depend on, kept as an attribute.

    Raises:
        OSError: If the file cannot be written, with the reason and what to do in the message.

    Example:
        >>> with PoseWriter("h36m_train.h5") as writer:  # doctest: +SKIP
        ...     writer.append({"joints_image": …, …})
        ...     writer.set_cameras({"name": …, …})
    """

    def __init__(self, path, skeleton=H36M17, source="", fingerprint=""):
        self.path = pathlib.Path(path)
        self.skeleton = skeleton
        self.source = source
        self.fingerprint = fingerprint
        self.count = 0
        self._cameras = None
        self._columns = None

    def __enter__(self):
        with explain_write_errors(self.path), contextlib.ExitStack() as stack:
            temporary = stack.enter_context(replacing(self.path))
            self._disk = stack.enter_context(Disk(temporary))
            # Since this version of the format HDF5 notices damage to what describes the data.
            self._file = h5py.File(self._disk, "w", libver=("v110", "v110"))
            self._stack = stack.pop_all()
        return self

    def append(self, columns):
        """Adds poses.

        Args:
            columns: Dict of column to array, all of one length. Every block must have the columns of the first.

        Raises:
            ValueError: If a column is missing, unknown or of the wrong shape.
        """
        self._check_names(columns)
        arrays = {}
        for name, values in columns.items():
            spec, values = COLUMNS[name], np.asarray(values)
            wanted = spec.row_shape(self.skeleton.num_joints)
            if values.shape[1:] != wanted or not np.can_cast(values.dtype, spec.dtype, "same_kind"):
                raise ValueError(
                    f"Column {name!r} has the shape {values.shape} of {values.dtype}; it must be [poses, "
                    f"{', '.join(map(str, wanted))}] of {np.dtype(spec.dtype)}."
                )
            arrays[name] = values
        lengths = {len(values) for values in arrays.values()}
        if len(lengths) != 1:
            raise ValueError(f"The columns have different lengths: {({n: len(a) for n, a in arrays.items()})}.")
        (length,) = lengths
        with self._written():
            for name, values in arrays.items():
                dataset = self._dataset(name)
                dataset.resize(self.count + length, axis=0)
                dataset[self.count :] = values
        self.count += length

    def set_cameras(self, cameras):
        """Writes the table of cameras; it may be given at any time, the last one counts.

        Args:
            cameras: Dict of the columns of `CAMERA_COLUMNS`, all of one length.

        Raises:
            ValueError: If a column is missing, unknown, of the wrong shape or has a value out of range.
        """
        if set(cameras) != set(CAMERA_COLUMNS):
            raise ValueError(f"The cameras have {sorted(cameras)}; needed are {sorted(CAMERA_COLUMNS)}.")
        names = np.asarray([name.encode() for name in cameras["name"]], bytes).reshape(-1)
        if names.dtype.itemsize > NAME_LENGTH:
            raise ValueError(f"A camera's name has {names.dtype.itemsize} bytes; at most {NAME_LENGTH} are kept.")
        arrays = {"name": names}
        for name, spec in CAMERA_COLUMNS.items():
            values = arrays.get(name, cameras[name])
            arrays[name] = np.asarray(values, spec.dtype).reshape(len(names), *spec.shape)
        check_cameras(arrays)
        self._cameras = arrays

    def __exit__(self, kind, error, trace):
        if kind is not None:
            try:
                self._file.close()
            finally:
                self._stack.__exit__(kind, error, trace)
            return
        with explain_write_errors(self.path), self._stack:
            try:
                self._finish()
            finally:
                # Whatever went wrong, HDF5 must not keep anything that it would still write when Python ends.
                self._file.close()
            with self._written():
                self._disk.flush()

    @contextlib.contextmanager
    def _written(self):
        """Makes a context that raises the first error of the disk, if any."""
        with explain_write_errors(self.path):
            yield
            if self._disk.error:
                raise self._disk.error

    def _finish(self):
        if self._columns is None or self._cameras is None:
            raise ValueError(f"{self.path} got no {'cameras' if self._columns else 'poses'}.")
        group = self._file.create_group("cameras")
        for name, values in self._cameras.items():
            group.create_dataset(name, data=values)
        self._file.attrs["version"] = VERSION
        for name in _TEXTS:
            text = {"format": FORMAT, "skeleton": self.skeleton.name}.get(name) or getattr(self, name)
            self._file.attrs[name] = np.bytes_(text.encode()[:_MAX_TEXT] or b" ")

    def _check_names(self, columns):
        if self._columns is None:
            missing = [name for name, spec in COLUMNS.items() if spec.required and name not in columns]
            unknown = sorted(set(columns) - set(COLUMNS))
            if missing or unknown:
                raise ValueError(f"Columns are missing: {missing}; or unknown: {unknown}. Known: {list(COLUMNS)}.")
            self._columns = set(columns)
        if set(columns) != self._columns:
            raise ValueError(f"This block has the columns {sorted(columns)}, the first had {sorted(self._columns)}.")

    def _dataset(self, name):
        if name in self._file:
            return self._file[name]
        spec = COLUMNS[name]
        shape = spec.row_shape(self.skeleton.num_joints)
        rows = max(1, _CHUNK_BYTES // (np.dtype(spec.dtype).itemsize * math.prod(shape)))
        return self._file.create_dataset(
            name, shape=(0, *shape), maxshape=(None, *shape), chunks=(rows, *shape), dtype=spec.dtype
        )


class PoseFile:
    """A pose file, open for reading; nothing of it is believed before it is compared with what is there.

    Use it as a context manager.

    Args:
        path: The file.

    Raises:
        DatasetNotFoundError: If there is no such file.
        PoseFileError: If it is no pose file, or a damaged one.

    Example:
        >>> with PoseFile("data/h36m_test.h5") as file:  # doctest: +SKIP
        ...     joints = file.read("joints_image", 0, 1000)
    """

    def __init__(self, path):
        self.path = pathlib.Path(path)
        if not self.path.is_file():
            raise DatasetNotFoundError(
                f"There is no pose file {self.path}; make it with `python tools/create_dataset.py --h36m`."
            )
        with self._damage():
            # Nobody writes to a finished file, and some network drives cannot lock.
            self._file = h5py.File(self.path, "r", locking=False)
        try:
            with self._damage():
                self._check()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.close()

    def close(self):
        """Closes the file."""
        self._file.close()

    def __len__(self):
        return self.count

    def read(self, name, start=0, stop=None):
        """Reads rows of a column.

        Args:
            name: A column that the file has (`columns`).
            start: First row.
            stop: Row after the last; the end if `None`.

        Returns:
            Array `[stop - start, ...]`.

        Raises:
            PoseFileError: If the file lacks the column, or a value is no number or names no camera.
        """
        if name not in self.columns:
            raise PoseFileError(f"{self.path} has no column {name!r}; it has {list(self.columns)}.")
        start, stop, _ = slice(start, stop).indices(self.count)
        with self._damage():
            values = self._file[name][start : max(start, stop)]
        self._check_values(name, values, start)
        return values

    def _check_values(self, name, values, start):
        spec = COLUMNS[name]
        wrong, what = spec.beyond(values), f"a value that is not finite or not in {spec.span}"
        if name == "camera":
            wrong, what = wrong | (values >= len(self.cameras["name"])), "a camera that is not in the table"
        if wrong.any():
            row = start + np.argwhere(wrong)[0][0]
            raise PoseFileError(f"{self.path}: row {row} of {name!r} has {what}; make the file again.")

    def _check(self):
        texts = {name: self._text(name) for name in _TEXTS}
        if texts["format"] != FORMAT:
            raise ValueError(f"its format is {texts['format']!r}, not {FORMAT!r}")
        version = self._file.attrs.get_id("version")
        if version.shape != () or version.dtype.kind != "i" or self._file.attrs["version"] != VERSION:
            raise ValueError(f"it is of another version than {VERSION}, which this posekit reads")
        if texts["skeleton"] not in SKELETONS:
            raise ValueError(f"its skeleton is {texts['skeleton']!r}; known are {sorted(SKELETONS)}")
        self.skeleton = SKELETONS[texts["skeleton"]]
        self.source, self.fingerprint = texts["source"], texts["fingerprint"]
        self._stored = 0
        names = [name for name, spec in COLUMNS.items() if spec.required or name in self._file]
        counts = {name: self._checked(self._file, name, COLUMNS[name]) for name in names}
        if len(set(counts.values())) != 1:
            raise ValueError(f"its columns have different lengths: {counts}")
        self.columns = tuple(names)
        self.count = counts["joints_image"]
        if not self.count:
            raise ValueError("it holds no poses")
        self.cameras = self._read_cameras()

    def _text(self, name):
        attribute = self._file.attrs.get_id(name)
        # Texts of any length lie elsewhere in the file, and HDF5 may follow damaged references for ever.
        if attribute.shape != () or attribute.dtype.kind != "S" or attribute.dtype.itemsize > _MAX_TEXT:
            raise ValueError(f"its attribute {name!r} is no short text")
        return printable(self._file.attrs[name].decode("utf-8", "replace").strip())

    def _read_cameras(self):
        link = self._file.get("cameras", getlink=True)
        if not isinstance(link, h5py.HardLink) or not isinstance(self._file["cameras"], h5py.Group):
            raise ValueError("it has no group of cameras")
        group = self._file["cameras"]
        counts = {name: self._checked(group, name, spec) for name, spec in CAMERA_COLUMNS.items()}
        if len(set(counts.values())) != 1:
            raise ValueError(f"its cameras' columns have different lengths: {counts}")
        cameras = {name: group[name][()] for name in CAMERA_COLUMNS}
        check_cameras(cameras)
        cameras["name"] = [printable(name.decode("utf-8", "replace")) for name in cameras["name"].tolist()]
        return cameras

    def _checked(self, group, name, spec):
        """Number of rows of a dataset that is really all there, with the type and shape it should have."""
        if not isinstance(group.get(name, getlink=True), h5py.HardLink) or not isinstance(group[name], h5py.Dataset):
            raise ValueError(f"it has no column {name!r} in {group.name!r} but {sorted(group)[:20]}")
        dataset = group[name]
        wanted = spec.row_shape(self.skeleton.num_joints)
        if dataset.shape[1:] != wanted or len(dataset.shape) != 1 + len(wanted) or dataset.dtype != spec.dtype:
            raise ValueError(
                f"its column {name!r} has the shape {dataset.shape} of {dataset.dtype}; it must be [rows, "
                f"{', '.join(map(str, wanted))}] of {np.dtype(spec.dtype)}"
            )
        if dataset.external or dataset.is_virtual:
            raise ValueError(f"its column {name!r} lies in another file")
        claimed = math.prod(dataset.shape) * dataset.dtype.itemsize
        there = dataset.id.get_storage_size()
        if dataset.compression or there < claimed:
            raise ValueError(
                f"its column {name!r} claims {claimed} bytes, of which {there} are there; write it without compression"
            )
        self._stored += there
        if self._stored > os.path.getsize(self.path):
            raise ValueError("its columns share room, so that they claim more bytes than the file has")
        if math.prod(dataset.chunks or ()) * dataset.dtype.itemsize > max(_MAX_CHUNK_BYTES, claimed):
            raise ValueError(f"its column {name!r} comes in pieces of {dataset.chunks}")
        return dataset.shape[0]

    @contextlib.contextmanager
    def _damage(self):
        try:
            yield
        except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:  # HDF5 has all of them
            raise PoseFileError(
                f"{self.path} cannot be read as a pose file: {error!s:.400}. Make it again with "
                "`python tools/create_dataset.py --h36m --overwrite`."
            ) from error


class Disk(io.RawIOBase):
    """The file that HDF5 writes to. HDF5 crashes when writing fails, so it is told that all is well and asked to stop.

    Args:
        path: The file.
    """

    def __init__(self, path):
        self.error = None
        self._file = open(path, "w+b", buffering=0)

    def readable(self):
        """True."""
        return True

    def writable(self):
        """True."""
        return True

    def seekable(self):
        """True."""
        return True

    def seek(self, *arguments):
        """As of any file."""
        return self._file.seek(*arguments)

    def tell(self):
        """As of any file."""
        return self._file.tell()

    def readinto(self, buffer):
        """Fills the whole buffer, with zeros where nothing was written."""
        view = memoryview(buffer).cast("B")
        count = self._file.readinto(view) or 0
        view[count:] = bytes(len(view) - count)
        return len(view)

    def write(self, data):
        """Writes all of the data, or keeps the error."""
        view = memoryview(data).cast("B")
        written = 0
        while written < len(view) and not self.error:
            written += self._attempt(self._file.write, view[written:]) or 0
        return len(view)

    def truncate(self, size=None):
        """Changes the length, or keeps the error."""
        self._attempt(self._file.truncate, size)
        return size

    def flush(self):
        """Waits until all is on the disk, or keeps the error."""
        if not self._file.closed:
            self._attempt(os.fsync, self._file.fileno())

    def close(self):
        """Closes the file."""
        self._file.close()
        super().close()

    def _attempt(self, function, *arguments):
        if self.error is None:
            try:
                return function(*arguments)
            except OSError as error:
                self.error = error
        return None
