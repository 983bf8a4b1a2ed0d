"""Human3.6M's recordings in world coordinates, seen through its four cameras.

```
h36m/data_3d_h36m.npz                                  VideoPose3D's, with data_2d_h36m_*.npz for 2-D detections
h36m/S1/MyPoseFeatures/D3_Positions/Directions 1.cdf   Human3.6M's own (Poses_D3_Positions); S1/Poses_D3_Positions too
h36m/S1/MyPoses/3D_positions/Directions 1.h5           as una-dinosauria/3d-pose-baseline hands them out
h36m/cameras.h5, metadata.xml                          calibrations; what is built in if there is neither
```
"""

import atexit
import collections.abc
import dataclasses
import functools
import itertools
import json
import os
import pathlib
import re
import struct
import subprocess
import sys
import threading
import zlib

import h5py
import numpy as np

from converters.h36m_cameras import HDF5_DAMAGE, find_calibrations, own_dataset, read_metadata
from posekit.codecs import screen_pose
from posekit.data.h36m import ACTIONS, TEST_SUBJECTS, TRAIN_SUBJECTS, CameraTable, sound_rows
from posekit.data.npz_objects import read_npz_objects
from posekit.data.shards import NothingUsableError, Skip
from posekit.files import regular_file
from posekit.geometry import cameras
from posekit.skeletons import H36M17, H36M32

_SUBJECTS = {"train": TRAIN_SUBJECTS, "test": TEST_SUBJECTS}
_ACTION_OF = {name: number for number, name in ACTIONS.items()}
# What Human3.6M's own files call them.
_OTHER_NAMES = {"TakingPhoto": "Photo", "WalkingDog": "WalkDog", "WalkingTogether": "WalkTogether"}
# One camera's video of it is damaged; VideoPose3D and those who compare with it leave the recording out.
_DAMAGED = {(11, "Directions")}
_MAX_RECORDING_BYTES = 256 << 20
_MAX_CDF_BYTES = 64 << 20
_MAX_CDF_SECONDS = 30
_COMPRESSED_CDF = struct.Struct(">II")
_CDF_FOLDERS = ("MyPoseFeatures/D3_Positions", "Poses_D3_Positions")
_H5_FOLDERS = ("MyPoses/3D_positions",)


class UnusableRecordingError(ValueError):
    """What is wrong with one recording."""


@dataclasses.dataclass(frozen=True)
class Recording:
    """One recording of one subject.

    Args:
        subject: Its number.
        name: Such as `"Directions 1"`, with the names of `posekit.data.h36m.ACTIONS`.
        action: 2 to 16.
        subaction: 1 or 2, as a rule.
        read: Function without arguments that gives the joints, `[frames, 17 or 32, 3]` in millimetres.
    """

    subject: int
    name: str
    action: int
    subaction: int
    read: collections.abc.Callable

    @property
    def title(self):
        """What messages call it."""
        return f"S{self.subject} {self.name}"


class SeenRecordings:
    """Recordings as the cameras see them, in the order of Human3.6M's videos.

    Args:
        recordings: List of `Recording`.
        first_video: Number of the first video.
        calibrations: Dict of (subject, camera from 0) to `Calibration`.
        detections: `Detections`, or `None`.
        distortion: Whether `joints_px` has the lens's distortion.
        image_size: `(width, height)` of pictures of cameras that are not Human3.6M's.
        skips: What was left out while listing, `Skip`s.
    """

    def __init__(self, recordings, first_video, calibrations, detections, distortion, image_size, skips=()):
        self._recordings, self._first_video = recordings, first_video
        self._calibrations, self._detections, self._distortion = calibrations, detections, distortion
        self._table = CameraTable(image_size)
        self.skips = skips

    def cameras(self):
        """The `posekit.data.h36m.Cameras` of the poses made so far."""
        return self._table.cameras()

    def blocks(self, stride=1):
        """Yields the poses of one camera and one recording after the other.

        Args:
            stride: Every how many frames one is taken.

        Yields:
            `(columns, skipped)` as `posekit.data.h36m_pickles.PickledPoses.blocks`.

        Raises:
            UnknownCameraError: If the size of a camera's pictures is not known.
        """
        video = self._first_video
        for recording in self._recordings:
            indices = sorted(index for subject, index in self._calibrations if subject == recording.subject)
            try:
                world = _in_order(recording.read())
                if not indices:
                    raise UnusableRecordingError(f"no calibration of a camera for S{recording.subject}")
                found = [self._detected(recording, index, len(world)) for index in indices]
            except UnusableRecordingError as problem:
                video += max(1, len(indices))
                yield None, [(recording.title, str(problem))]
                continue
            for index, detected in zip(indices, found):
                yield self._seen(recording, index, video, world, detected, stride)
                video += 1

    def _seen(self, recording, index, video, world, detected, stride):
        calibration = self._calibrations[recording.subject, index]
        row = self._table.row(subject=recording.subject, index=index, **vars(calibration))
        frames = np.arange(0, len(world), stride)
        joints = cameras.world_to_camera(world[frames], calibration.R, calibration.T)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            image, box = screen_pose.camera_to_image(joints, np.concatenate([calibration.f, calibration.c]))
            px = image[..., :2]
            if self._distortion:
                lens = calibration.f, calibration.c, calibration.k, calibration.p
                px = cameras.project(joints, *lens)
        numbers = {
            "subject": recording.subject,
            "action": recording.action,
            "subaction": recording.subaction,
            "video": video,
            "frame": frames,
            "camera": row,
        }
        columns = {
            "joints_image": image,
            "joints_px": px,
            "joints_cam_mm": joints,
            "box_px": box,
            "root_depth_mm": joints[:, 0, 2],
            **{name: np.broadcast_to(np.int32(value), frames.shape) for name, value in numbers.items()},
            **{name: values[frames] for name, values in detected.items()},
        }
        sound, problems = sound_rows(columns)
        title = f"{recording.title} camera {index + 1}"
        skipped = [(f"{title} frame {frames[place] + 1}", reason) for place, reason in problems]
        skipped += [(f"{title} frame 2", None)] * (len(world) - len(frames))
        return {name: values[sound] for name, values in columns.items()}, skipped

    def _detected(self, recording, index, count):
        return self._detections.of(recording, index, count) if self._detections else {}


def _in_order(joints):
    """Joints of a recording in the order of `H36M17`, chosen by name."""
    if joints.ndim != 3 or joints.shape[2] != 3 or joints.shape[1] not in (17, 32):
        raise UnusableRecordingError(f"joints of shape {list(joints.shape)} instead of [frames, 32 or 17, 3]")
    if not len(joints):
        raise UnusableRecordingError("no frames")
    joints = joints.astype(np.float64)
    return H36M32.convert(joints, to=H36M17)[0] if joints.shape[1] == 32 else joints


# ---------------------------------------------------------------------------------------------------- what is there


class VideoPose:
    """VideoPose3D's `data_3d_h36m.npz`.

    Args:
        folder: Where it is.
        split: `"train"` or `"test"`.
        options: `converters.h36m.Options`.
    """

    title = "VideoPose3D data_3d_h36m.npz"

    def __init__(self, folder, split, options):
        self.folder, self.split, self.options = pathlib.Path(folder), split, options
        self.path = self.folder / "data_3d_h36m.npz"

    @classmethod
    def is_in(cls, folder):
        """Whether a folder holds it."""
        return (pathlib.Path(folder) / "data_3d_h36m.npz").is_file()

    @property
    def files(self):
        """Files whose size and time tell whether poses made earlier are still valid."""
        return [self.path, *_side_files(self.folder, self.options)]

    def open(self):
        """Reads the files.

        Returns:
            A `SeenRecordings`.

        Raises:
            NothingUsableError: If they cannot be used.
        """
        content = _read_objects(self.path, ["positions_3d"], self.options.max_bytes).get("positions_3d")
        if not _is_nested(content):
            raise NothingUsableError(f"{self.path} has no positions_3d of subjects and their recordings.")
        there = [(subject, name) for subject, recordings in content.items() for name in recordings]
        wanted = {f"S{subject}" for subject in _SUBJECTS[self.split]}
        # Dicts of their own: a file may have one dict for several subjects.
        content = {subject: dict(recordings) for subject, recordings in content.items() if subject in wanted}

        def read(subject, name):
            # Forgotten once they are read, so that memory becomes free on the way.
            return _checked_numbers(content[subject].pop(name)) * 1000.0

        return _seen(self, there, read)


class Files:
    """Human3.6M's own files, one a recording.

    Args:
        folder: Human3.6M's folder.
        split: `"train"` or `"test"`.
        options: `converters.h36m.Options`.
    """

    title = ""
    suffix = ""
    folders = ()

    def __init__(self, folder, split, options):
        self.folder, self.split, self.options = pathlib.Path(folder), split, options

    @classmethod
    def is_in(cls, folder):
        """Whether a folder holds such files."""
        return bool(cls._paths(folder, "train") or cls._paths(folder, "test"))

    @classmethod
    def _paths(cls, folder, split):
        return [
            (subject, path)
            for subject in _SUBJECTS[split]
            for inner in cls.folders
            for path in sorted((pathlib.Path(folder) / f"S{subject}" / inner).glob(f"*.{cls.suffix}"))
        ]

    @property
    def files(self):
        """Files whose size and time tell whether poses made earlier are still valid."""
        paths = [path for split in _SUBJECTS for _, path in self._paths(self.folder, split)]
        return [*paths, *_side_files(self.folder, self.options)]

    def open(self):
        """Lists the files.

        Returns:
            A `SeenRecordings`, which reads one after the other.

        Raises:
            NothingUsableError: If there are none, or the files beside them cannot be used.
        """
        self.prepare()
        paths = {
            (f"S{subject}", path.stem): path for split in _SUBJECTS for subject, path in self._paths(self.folder, split)
        }
        if not paths:
            raise NothingUsableError(f"There is no {self.folder}/S*/{self.folders[0]}/*.{self.suffix}.")
        return _seen(self, list(paths), lambda subject, name: self.read(paths[subject, name]))

    def prepare(self):
        """Checks that the files can be read at all."""


class CdfFiles(Files):
    """Human3.6M's `Poses_D3_Positions`."""

    title = "Human3.6M Poses_D3_Positions (.cdf)"
    suffix = "cdf"
    folders = _CDF_FOLDERS

    def prepare(self):
        """Checks that cdflib is there.

        Raises:
            NothingUsableError: If it is not.
        """
        try:
            import cdflib  # noqa: F401
        except ImportError:
            raise NothingUsableError(
                "Reading Human3.6M's .cdf files takes the package cdflib; type `pip install cdflib`, or "
                '`pip install "posekit[h36m]"`.'
            ) from None

    def read(self, path):
        """Joints of one recording, `[frames, 32, 3]` in millimetres."""
        return read_cdf(path)


class Hdf5Files(Files):
    """The `.h5` files that una-dinosauria/3d-pose-baseline reads."""

    title = "3d-pose-baseline 3D_positions (.h5)"
    suffix = "h5"
    folders = _H5_FOLDERS

    def read(self, path):
        """Joints of one recording, `[frames, 32, 3]` in millimetres."""
        return read_h5(path)


def _seen(source, there, read):
    """`SeenRecordings` of one split, out of pairs of subject and recording in all splits, as the source names them."""
    calibrations, _ = find_calibrations(source.folder)
    recordings, skips, subactions = [], [], _official_subactions(source.folder)
    first_video = 0
    for split, subjects in _SUBJECTS.items():
        for subject in subjects:
            listed, left_out = _listed(subject, [name for key, name in there if key == f"S{subject}"], subactions)
            number = max(1, sum(1 for key, _ in calibrations if key == subject))
            if split == source.split:
                skips += left_out
                recordings += [
                    Recording(subject, name, action, subaction, functools.partial(read, f"S{subject}", raw))
                    for raw, name, action, subaction in listed
                ]
                if not listed:
                    skips.append(Skip(f"S{subject}", "subject without recordings", by_rule=True))
            elif split == "train":
                first_video += number * len(listed)
    if not recordings:
        names = ", ".join(f"S{subject}" for subject in _SUBJECTS[source.split])
        raise NothingUsableError(f"{source.title} in {source.folder} has no recordings of {names}.")
    detections = _find_detections(source.folder, source.options)
    return SeenRecordings(
        recordings, first_video, calibrations, detections, source.options.distortion, source.options.image_size, skips
    )


def _listed(subject, raw_names, official):
    """A subject's recordings as (raw name, name, action, subaction) in order, and what is left out."""
    listed, skips = [], []
    for raw in raw_names:
        title = f"S{subject} {raw!s:.40}"
        name, number = parse_recording(raw)
        if re.match(r"_?ALL\b", str(raw)):
            skips.append(Skip(title, "not an action but a calibration recording", by_rule=True))
        elif name is None:
            skips.append(Skip(title, "no action of Human3.6M"))
        elif (subject, raw) in _DAMAGED:
            skips.append(Skip(title, "recording with a damaged video", by_rule=True))
        else:
            listed.append((raw, name, number))
    taken = {}
    for _, name, number in listed:
        taken.setdefault(name, set()).add(number)
    result = []
    for raw, name, number in listed:
        action, subaction = _ACTION_OF[name], number
        if official.get((subject, raw), (None,))[0] == action:
            subaction = official[subject, raw][1]
        elif number is None:
            subaction = next(free for free in itertools.count(1) if free not in taken[name])
        result.append((raw, f"{name} {number}" if number else name, action, subaction))
    return sorted(result, key=lambda entry: entry[2:]), skips


def parse_recording(raw):
    """Action and number of a recording's name.

    Args:
        raw: Such as `"WalkingDog 1"` or `"Directions"`.

    Returns:
        `(action, number)`, such as `("WalkDog", 1)` and `("Directions", None)`; `(None, None)` for no action.
    """
    match = isinstance(raw, str) and re.fullmatch(r"([A-Za-z]+)(?:[ _](\d{1,2}))?", raw)
    name = match and _OTHER_NAMES.get(match[1], match[1])
    if name not in _ACTION_OF:
        return None, None
    return name, int(match[2]) if match[2] else None


def _official_subactions(folder):
    path = pathlib.Path(folder) / "metadata.xml"
    return read_metadata(path)[1] if os.path.lexists(path) else {}


# -------------------------------------------------------------------------------------------------- 2-D detections


class Detections:
    """2-D joints that a detector found, in VideoPose3D's layout.

    Args:
        path: `data_2d_h36m_*.npz`.
        max_bytes: Most bytes that it may hold.

    Raises:
        NothingUsableError: If it makes no sense.
    """

    def __init__(self, path, max_bytes):
        self.path = path
        content = _read_objects(path, ["positions_2d", "metadata"], max_bytes)
        positions = content.get("positions_2d")
        if not _is_nested(positions):
            raise NothingUsableError(f"{path} has no positions_2d of subjects and their recordings.")
        _check_layout(path, content.get("metadata"))
        self._positions = {}
        for subject, recordings in positions.items():
            for raw, views in recordings.items():
                self._positions[subject, parse_recording(raw)] = views
        self._with_confidence = None

    def of(self, recording, index, count):
        """What was found in one camera's video.

        Args:
            recording: A `Recording`.
            index: Camera from 0.
            count: Frames of the recording; videos may go on for longer.

        Returns:
            Dict of the columns `detections_px`, and `detection_confidence` if there are confidences.

        Raises:
            UnusableRecordingError: If there is nothing that fits.
        """
        views = self._positions.get((f"S{recording.subject}", parse_recording(recording.name)))
        listed = isinstance(views, (list, tuple)) or (isinstance(views, np.ndarray) and views.ndim)
        if not listed or index >= len(views):
            raise UnusableRecordingError("no 2-D detections")
        found = _checked_numbers(views[index])
        if found.ndim != 3 or found.shape[1] not in (17, 32) or found.shape[2] not in (2, 3):
            raise UnusableRecordingError(f"2-D detections of shape {list(found.shape)}, not [frames, 17, 2 or 3]")
        if len(found) < count:
            raise UnusableRecordingError("fewer frames with 2-D detections than with poses")
        found = found[:count].astype(np.float64)
        found = H36M32.convert(found, to=H36M17)[0] if found.shape[1] == 32 else found
        if self._with_confidence is None:
            self._with_confidence = found.shape[2] == 3
        if self._with_confidence and found.shape[2] == 2:
            raise UnusableRecordingError("2-D detections without confidence, where others have it")
        columns = {"detections_px": found[..., :2]}
        if self._with_confidence:
            columns["detection_confidence"] = found[..., 2]
        return columns


def _check_layout(path, metadata):
    """Refuses keypoints of other skeletons, such as COCO's, which also has 17."""
    if not isinstance(metadata, dict):
        return
    layout = metadata.get("layout_name", "h36m")
    symmetry, count = metadata.get("keypoints_symmetry"), metadata.get("num_joints")
    left = {index for index, joint in enumerate(H36M17.joints) if joint.startswith("left_")}
    if isinstance(count, (int, np.integer)) and count == 17 and symmetry is not None:
        try:
            sides = [{int(index) for index in side} for side in symmetry]
        except (TypeError, ValueError, OverflowError):
            sides = []
        if len(sides) != 2:
            raise NothingUsableError(
                f"{path}: keypoints_symmetry of its metadata is not two lists of joints' numbers; give other "
                "detections, or --h36m_detections=none."
            )
        if sides[0] != left:
            layout = f"one whose left joints are {sorted(sides[0])[:20]}"
    if not isinstance(layout, str) or layout != "h36m":
        layout = f"{layout:.80}" if isinstance(layout, str) else f"layout_name is no text but {type(layout).__name__}"
        raise NothingUsableError(
            f"{path} has keypoints of another skeleton ({layout}); give detections of Human3.6M's joints, or "
            "--h36m_detections=none."
        )


def _detection_file(folder, options):
    """Path of the detections, `None` if there are none."""
    if options.detections:
        return None if options.detections == "none" else pathlib.Path(options.detections)
    there = [path for path in sorted(folder.glob("data_2d_h36m_*.npz")) if path.stem != "data_2d_h36m_gt"]
    if len(there) > 1:
        raise NothingUsableError(
            f"There are several files of 2-D detections in {folder}: {', '.join(path.name for path in there)}; choose "
            "one with --h36m_detections=PATH, or none with --h36m_detections=none."
        )
    return there[0] if there else None


def _find_detections(folder, options):
    path = _detection_file(folder, options)
    return Detections(path, options.max_bytes) if path else None


def _side_files(folder, options):
    paths = [folder / "cameras.h5", folder / "metadata.xml"]
    return [path for path in (*paths, _detection_file(folder, options)) if path and path.is_file()]


# -------------------------------------------------------------------------------------------------------- files


def _read_objects(path, keys, max_bytes):
    try:
        return read_npz_objects(path, keys, max_bytes)
    except (FileNotFoundError, ValueError) as error:
        hint = " If you trust its size, raise --h36m_max_gib." if f"more than {max_bytes} bytes" in str(error) else ""
        raise NothingUsableError(f"{error}{hint}") from error


def read_cdf(path):
    """Joints of one of Human3.6M's `.cdf` files.

    Args:
        path: The file.

    Returns:
        `[frames, 32, 3]` in millimetres.

    Raises:
        UnusableRecordingError: If it cannot be read.
    """
    try:
        _check_cdf_size(regular_file(path))
        values = _cdf_reader().read(path)
    except (OSError, ValueError, MemoryError, zlib.error) as error:
        raise UnusableRecordingError(f"unreadable file ({_one_line(error, path)})") from error
    return _of_96_columns(values)


@functools.cache
def _cdf_reader():
    return _CdfReader()


class _CdfReader:
    """cdflib in a process of its own, which is ended where it takes too long.

    cdflib follows the positions and counts that a file states without comparing them with its size: one wrong byte can
    make it read in circles for ever or take any amount of memory. To check them beforehand would take a second reader
    of the format; the process bounds whatever it does. It reads one file after the other, and is started anew after
    one that ended it.
    """

    def __init__(self):
        self._process = None
        atexit.register(self._end)

    def read(self, path):
        """The numbers of a file's variable `Pose`.

        Args:
            path: The file.

        Returns:
            Array.

        Raises:
            ValueError: If it cannot be read, or not within time and memory.
        """
        process = self._running()
        timer = threading.Timer(_MAX_CDF_SECONDS, process.kill)
        timer.start()
        try:
            process.stdin.write(json.dumps(os.path.abspath(path)).encode() + b"\n")
            process.stdin.flush()
            answer = json.loads(process.stdout.readline())
            data = process.stdout.read(answer.get("bytes", 0))
            if len(data) != answer.get("bytes", 0):
                raise EOFError
        except BaseException as error:
            self._end()
            if isinstance(error, (OSError, ValueError, EOFError)):
                raise ValueError(f"damaged: reading it takes over {_MAX_CDF_SECONDS} s, or ends the reader") from None
            raise
        finally:
            timer.cancel()
        if "error" in answer:
            raise ValueError(answer["error"])
        return np.frombuffer(data, answer["dtype"]).reshape(answer["shape"])

    def _running(self):
        if self._process is None or self._process.poll() is not None:
            script = pathlib.Path(__file__).with_name("cdf_process.py")
            self._process = subprocess.Popen(
                [sys.executable, str(script), str(_MAX_RECORDING_BYTES)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                # Every thread of this library takes address space.
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            )
        return self._process

    def _end(self):
        """Ends the process, if there is one."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


def _check_cdf_size(path):
    """Looks how much a file that is compressed as a whole really holds, which cdflib does not before it takes it."""
    if path.stat().st_size > _MAX_CDF_BYTES:
        raise ValueError(f"it has {path.stat().st_size} bytes, a recording has fewer than {_MAX_CDF_BYTES}")
    data = path.read_bytes()
    if len(data) < 40 or _COMPRESSED_CDF.unpack_from(data)[1] != 0xCCCC0001:
        return
    inflating = zlib.decompressobj(wbits=47)
    inflating.decompress(data[40:], _MAX_RECORDING_BYTES)
    if inflating.unconsumed_tail:
        raise ValueError(f"it holds more than {_MAX_RECORDING_BYTES} bytes")


def read_h5(path):
    """Joints of one of the `.h5` files, which hold 96 rows and a column a frame.

    Args:
        path: The file.

    Returns:
        `[frames, 32, 3]` in millimetres.

    Raises:
        UnusableRecordingError: If it cannot be read.
    """
    try:
        with h5py.File(regular_file(path), "r") as file:
            values = own_dataset(file, "3D_positions", _MAX_RECORDING_BYTES)[()]
    except HDF5_DAMAGE as error:
        raise UnusableRecordingError(f"unreadable file ({_one_line(error, path)})") from error
    return _of_96_columns(values.T)


def _of_96_columns(values):
    values = _checked_numbers(values)
    values = values[0] if values.ndim == 3 and len(values) == 1 else values
    if values.ndim != 2 or values.shape[1] != 3 * H36M32.num_joints:
        raise UnusableRecordingError(f"numbers of shape {list(values.shape)} instead of [frames, 96]")
    return values.reshape(-1, H36M32.num_joints, 3)


def _checked_numbers(values):
    # Lists might stand for far more than a file holds: of one list many times, or of texts of different lengths.
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu":
        raise UnusableRecordingError("something else than an array of numbers")
    return values


def _is_nested(content):
    return isinstance(content, dict) and bool(content) and all(isinstance(part, dict) for part in content.values())


def _one_line(error, path):
    # Without the folder, which may be longer than all that is worth showing.
    return " ".join(str(error).replace(str(path), pathlib.Path(path).name).split())[:120]
