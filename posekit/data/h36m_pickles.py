"""Human3.6M's poses in the pickles of CHUNYUWANG/lcn-pose, read without executing anything.

```
h36m_train.pkl, h36m_test.pkl   a list of dicts, one a pose: joint_3d_image, joint_3d_camera, box, root_depth, subject,
                                action, subaction, videoid, imageid, cameraid, camera_param, image_path, center, scale
h36m_sh_dt_ft.pkl               2-D detections in the same order: {"train" | "test": {"joint3d_image", "confidence"}}
```
"""

import itertools
import math
import pathlib

import numpy as np

from posekit.data.h36m import CameraTable, Poses, UnknownCameraError, sound_rows
from posekit.data.hdf5 import CAMERA_COLUMNS, COLUMNS
from posekit.data.pickles import DEFAULT_MAX_BYTES, as_numbers, iterate_pickle, load_pickle
from posekit.files import printable

_BLOCK = 1 << 13


class PickledPoses:
    """Poses in the original's pickles: a list of dicts, one a pose, which is never in memory as a whole.

    Args:
        path: `h36m_train.pkl` or `h36m_test.pkl`.
        detections: `h36m_sh_dt_ft.pkl`, or `None`.
        split: `"train"` or `"test"`: which part of the detections.
        max_bytes: Largest file that is read.
        image_size: `(width, height)` of pictures of cameras that are not Human3.6M's.

    Raises:
        ValueError: If the file of detections is not what it should be.
        pickle.UnpicklingError: If it is damaged or asks for more than plain data; nothing is executed.
        OSError: If it cannot be read.
    """

    def __init__(self, path, detections=None, split="train", max_bytes=DEFAULT_MAX_BYTES, image_size=None):
        self.path = pathlib.Path(path)
        self.detections = detections
        self.max_bytes = max_bytes
        self._table = CameraTable(image_size)
        self._rows_of_dicts = {}
        self._detected = _read_detections(detections, split, max_bytes) if detections is not None else {}

    def blocks(self, size=_BLOCK, stride=1):
        """Yields the poses in blocks.

        Args:
            size: Items in a block.
            stride: Only frames whose number is a multiple of this.

        Yields:
            `(columns, skipped)`: dict of the columns of the poses that are sound, and a list of `(name, reason)` of
            the others; the reason is `None` for frames between strides.

        Raises:
            UnknownCameraError: If the size of a camera's pictures is not known.
            ValueError: If the detections are not as many as the poses.
            pickle.UnpicklingError: If the file is no list, is damaged or asks for more than plain data; nothing is
                executed.
            OSError: If it cannot be read.
        """
        items = enumerate(iterate_pickle(self.path, self.max_bytes))
        count = 0
        while block := list(itertools.islice(items, size)):
            count += len(block)
            self._check_count(count, final=False)
            yield self._block(block, stride)
        self._check_count(count, final=True)

    def _block(self, items, stride):
        rows, taken, skipped = [], [], []
        for number, item in items:
            try:
                row = self._row(item)
            except _UnusableItem as problem:
                skipped.append((_item_name(item, number), str(problem)))
                continue
            if row[_FRAME] % stride:
                skipped.append((_item_name(item, number), None))
            else:
                rows.append(row)
                taken.append((number, item))
        columns = {
            name: np.array([row[place] for row in rows], spec.dtype).reshape(len(rows), *spec.row_shape(17))
            for place, (name, spec) in enumerate(_PICKLED.items())
        }
        columns["joints_px"] = columns["joints_image"][..., :2]
        for name, values in self._detected.items():
            columns[name] = values[[number for number, _ in taken]]
        sound, problems = sound_rows(columns)
        skipped += [(_item_name(taken[row][1], taken[row][0]), reason) for row, reason in problems]
        return {name: columns[name][sound] for name in COLUMNS if name in columns}, skipped

    def _check_count(self, count, final):
        for values in self._detected.values():
            if len(values) < count or final and len(values) > count:
                raise ValueError(
                    f"{self.detections} has detections of {len(values)} poses, but {self.path} has "
                    f"{count if final else f'{count} or more'} poses; detections must be made from the same list. Give "
                    "--h36m_detections=none to do without."
                )

    def cameras(self):
        """The `Cameras` of the items read so far."""
        return self._table.cameras()

    def _row(self, item):
        if type(item) is not dict:
            raise _UnusableItem("not a dict")
        missing = [key for key in _KEYS if key not in item]
        if missing:
            raise _UnusableItem(f"no key {missing[0]!r}")
        return (
            _numbers(item, "joint_3d_image", (17, 3)),
            _numbers(item, "joint_3d_camera", (17, 3)),
            _numbers(item, "box", (4,)),
            _numbers(item, "root_depth", ()),
            _integer(item, "subject", COLUMNS["subject"]),
            _integer(item, "action", COLUMNS["action"]),
            _integer(item, "subaction", COLUMNS["subaction"]),
            _integer(item, "videoid", COLUMNS["video"]),
            _integer(item, "imageid", COLUMNS["frame"]),
            self._camera(item),
        )

    def _camera(self, item):
        camera, subject = item["camera_param"], int(item["subject"])
        index = _integer(item, "cameraid", CAMERA_COLUMNS["index"])
        # All poses of a video share one dict. It is kept beside its row, so that no other can get its id.
        known = self._rows_of_dicts.get((id(camera), subject, index))
        if known is not None and known[1] is camera:
            return known[0]
        if type(camera) is not dict or any(key not in camera for key in _CAMERA_KEYS):
            raise _UnusableItem(f"a camera without {', '.join(_CAMERA_KEYS)}")
        try:
            numbers = {key: as_numbers(camera[key], 9).ravel() for key in _CAMERA_KEYS[1:]}
            row = self._table.row(
                _camera_name(camera),
                subject,
                index,
                numbers["R"],
                numbers["T"],
                np.concatenate([numbers["fx"], numbers["fy"]]),
                np.concatenate([numbers["cx"], numbers["cy"]]),
                numbers["k"],
                numbers["p"],
                _camera_size(camera),
            )
        except UnknownCameraError as error:
            raise UnknownCameraError(f"{self.path}: {error}") from None
        except ValueError:
            raise _UnusableItem("a camera whose name or parameters make no sense") from None
        self._rows_of_dicts[id(camera), subject, index] = (row, camera)
        return row


def read_pickles(path, detections=None, split="train", max_bytes=DEFAULT_MAX_BYTES, image_size=None):
    """Reads poses from the original's pickles, without executing anything.

    Args:
        path: `h36m_train.pkl` or `h36m_test.pkl`.
        detections: `h36m_sh_dt_ft.pkl`, or `None`.
        split: `"train"` or `"test"`: which part of the detections.
        max_bytes: Largest file that is read.
        image_size: `(width, height)` of pictures of cameras that are not Human3.6M's.

    Returns:
        `Poses`, in the file's order.

    Raises:
        ValueError: If a file is not what it should be, or a pose cannot be used.
        pickle.UnpicklingError: If a file is damaged or asks for more than plain data; nothing is executed.
        OSError: If a file cannot be read.
    """
    pickled = PickledPoses(path, detections, split, max_bytes, image_size)
    blocks = []
    for columns, skipped in pickled.blocks():
        if skipped:
            raise ValueError(f"{path}: {skipped[0][0]} cannot be used: {skipped[0][1]}.")
        blocks.append(columns)
    if not blocks:
        raise ValueError(f"{path} holds no poses.")
    columns = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    return Poses(cameras=pickled.cameras(), **columns)


_PICKLED = {
    name: COLUMNS[name]
    for name in (
        "joints_image",
        "joints_cam_mm",
        "box_px",
        "root_depth_mm",
        "subject",
        "action",
        "subaction",
        "video",
        "frame",
        "camera",
    )
}
_FRAME = list(_PICKLED).index("frame")
_KEYS = (
    "joint_3d_image",
    "joint_3d_camera",
    "box",
    "root_depth",
    "subject",
    "action",
    "subaction",
    "videoid",
    "imageid",
    "cameraid",
    "camera_param",
)
_CAMERA_KEYS = ("name", "R", "T", "fx", "fy", "cx", "cy", "k", "p")


class _UnusableItem(ValueError):
    """What is wrong with one item of a pickle."""


def _numbers(item, key, shape):
    value = item[key]
    try:
        value = value if isinstance(value, np.ndarray) else as_numbers(value, math.prod(shape))
    except ValueError:
        value = np.empty(0)
    # The original's cameras come from a file in which every number is a column of its own.
    value = value.squeeze() if value.shape != shape else value
    if value.shape != shape or value.dtype.kind not in "fiu":
        raise _UnusableItem(f"{key!r} is not {list(shape) or 'a number'}" + (" numbers" if shape else ""))
    return value


def _integer(item, key, spec):
    value = item[key]
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or not spec.low <= value <= spec.high:
        raise _UnusableItem(f"{key!r} is not a whole number in {spec.span}")
    return int(value)


def _camera_size(camera):
    """`(width, height)` where a camera brings it."""
    size = camera.get("image_size")
    if size is None and "res_w" in camera and "res_h" in camera:
        size = camera["res_w"], camera["res_h"]
    if size is None:
        return None
    size = as_numbers(size, 2).ravel()
    if size.size != 2:
        raise ValueError("the size of its pictures is not two lengths")
    return size


def _camera_name(camera):
    name = camera["name"]
    if not isinstance(name, (str, int, np.integer)):
        raise ValueError("its name is no text")
    return str(name)


def _item_name(item, number):
    path = item.get("image_path") if isinstance(item, dict) else None
    name = pathlib.PurePath(path).stem[:80] if isinstance(path, str) else ""
    return printable(name) or f"item {number}"


def _read_detections(path, split, max_bytes):
    """Dict of the columns of one split's detections, in the order of the poses."""
    content = load_pickle(path, max_bytes)
    part = content.get(split) if isinstance(content, dict) else None
    if not isinstance(part, dict) or "joint3d_image" not in part:
        raise ValueError(f"{path} has no {split!r} with 'joint3d_image'; it is not a file of detections.")
    joints, confidence = part["joint3d_image"], part.get("confidence")
    ndarray = isinstance(joints, np.ndarray) and joints.dtype.kind in "fiu"
    if not ndarray or joints.ndim != 3 or joints.shape[1] != 17 or joints.shape[2] < 2:
        raise ValueError(f"{path}: 'joint3d_image' of {split!r} must be [poses, 17, 2 or more] numbers.")
    detections = {"detections_px": joints[..., :2]}
    if confidence is not None:
        ndarray = isinstance(confidence, np.ndarray) and confidence.dtype.kind in "fiu"
        if not ndarray or confidence.shape not in ((len(joints), 17), (len(joints), 17, 1)):
            raise ValueError(f"{path}: 'confidence' of {split!r} must be [poses, 17, 1] numbers, as many poses.")
        detections["detection_confidence"] = confidence.reshape(-1, 17)
    return detections
