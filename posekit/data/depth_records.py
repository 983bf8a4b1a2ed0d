"""Records of depth crops with joints: what stands in a TFRecord under which key.

| key | value | note |
|---|---|---|
| depth/encoded | bytes | PNG of 16 bits: the crop, in steps of 0.1 mm; 0 where nothing was measured |
| depth/box | int64 [4] | left, top, right, bottom of the crop in its picture; right and bottom excluded |
| depth/picture | int64 [2] | width and height of the picture |
| depth/camera | float [4] | fx, fy (negative where the world's y points up), cx, cy |
| depth/unit | bytes | `mm` or `m`: of joints, centres and reach |
| depth/reach | float [3] | how far from the centres the crop holds all that was measured |
| depth/name | bytes | unique within the set |
| joints/xyz, joints/valid | float [3 J], [J] | world; 1 where the joint is labelled |
| centers/xyz | float [3 R] | world; NaN where a centre is known to be unusable, or there is no picture |
| centers/source | bytes | `file` or `estimated` |
| meta/subject, meta/group | int64, bytes | -1 and empty where there are none |

Nothing here imports TensorFlow before it parses: the converters write records without it.
"""

import dataclasses

import cv2
import numpy as np

from posekit.data.example import decode_example, encode_example
from posekit.data.image_files import MAX_PIXELS, ImageFileError, image_header
from posekit.geometry.depth import UNITS, DepthCamera

# What 1 in a stored crop is in the world's unit: a tenth of a millimetre.
DEPTH_STEP = {"mm": 0.1, "m": 0.0001}
CENTER_SOURCES = ("file", "estimated")
# Under which name a set's summary counts records that stand for frames without a usable picture.
WITHOUT_PICTURE = "without_picture"
_FARTHEST = np.iinfo(np.uint16).max


def encode_depth(depth, unit):
    """Turns depths into the steps that records hold.

    Args:
        depth: Array of depths in `unit`.
        unit: `"mm"` or `"m"`.

    Returns:
        Uint16 array: tenths of a millimetre, rounded. 0, for nothing measured, where the depth is 0, negative, no
        number, or beyond the 6.5535 m that fit.

    Raises:
        ValueError: If the unit is another one.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        steps = np.rint(np.asarray(depth, np.float64) / DEPTH_STEP[_unit(unit)])
        return np.where((steps > 0) & (steps <= _FARTHEST), steps, 0).astype(np.uint16)


def decode_depth(steps, unit):
    """The way back from `encode_depth`.

    Args:
        steps: Uint16 array.
        unit: `"mm"` or `"m"`.

    Returns:
        Float32 array of depths in `unit`.

    Raises:
        ValueError: If the unit is another one.
    """
    return (np.asarray(steps, np.float64) * DEPTH_STEP[_unit(unit)]).astype(np.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class DepthRecord:
    """One hand or body in one depth picture.

    Args:
        name: Of the frame, unique within its set.
        depth: Uint16 `[height, width]`, the crop as of `encode_depth`.
        box: `(left, top, right, bottom)` of the crop in its picture, in whole pixels.
        joints: Float `[J, 3]` in the world.
        valid: `[J]`, 1 where the joint is labelled; the other joints are stored as zeros.
        centers: Float `[R, 3]` reference points in the world; a row with NaN is one that is known to be unusable.
        center_source: `"file"` or `"estimated"`.
        camera: `[4]`, `DepthCamera.signed_intrinsics`.
        picture: `(width, height)` of the picture in pixels.
        unit: Of the world: `"mm"` or `"m"`.
        reach: `[3]`, how far from the centres the crop holds all that was measured; may be infinite.
        subject: Number of the person; -1 if unknown.
        group: Part of the set to which the frame belongs, such as `"seen"`.

    Raises:
        ValueError: If a shape or a value makes no sense.

    Example:
        >>> record = DepthRecord("P0/1/000000", np.full((2, 3), 5000, np.uint16), (10, 20, 13, 22), [[0, 0, 500.0]],
        ...                      [1], [[0, 0, 500.0]], "file", (240, -240, 160, 120), (320, 240), "mm", (100, 100, 100))
        >>> DepthRecord.from_example(record.to_example()).box
        (10, 20, 13, 22)
    """

    name: str
    depth: np.ndarray
    box: tuple
    joints: np.ndarray
    valid: np.ndarray
    centers: np.ndarray
    center_source: str
    camera: np.ndarray
    picture: tuple
    unit: str
    reach: np.ndarray
    subject: int = -1
    group: str = ""

    def __post_init__(self):
        def put(**values):
            for name, value in values.items():
                object.__setattr__(self, name, value)

        box, picture = _whole("box", self.box, 4), _whole("picture", self.picture, 2)
        left, top, right, bottom = box
        if not (0 <= left < right <= picture[0] and 0 <= top < bottom <= picture[1]):
            raise ValueError(
                f"box {box} (left, top, right, bottom) is not at least one pixel of a picture of {picture[0]} x "
                f"{picture[1]}."
            )
        if picture[0] * picture[1] > MAX_PIXELS:
            raise ValueError(f"picture is {picture[0]} x {picture[1]}; more than {MAX_PIXELS >> 20} megapixels.")
        depth = np.asarray(self.depth)
        if depth.dtype != np.uint16 or depth.shape != (bottom - top, right - left):
            raise ValueError(
                f"depth is {depth.dtype} of shape {list(depth.shape)}; the box {box} takes uint16 of shape "
                f"{[bottom - top, right - left]}, as encode_depth makes it."
            )
        joints, valid = np.asarray(self.joints, np.float32), np.asarray(self.valid, np.float32)
        if joints.ndim != 2 or joints.shape[1] != 3 or not len(joints) or valid.shape != joints.shape[:1]:
            raise ValueError(
                f"joints have shape {list(joints.shape)} and valid {list(valid.shape)}; they must be [J, 3] and [J]."
            )
        if not np.isin(valid, (0, 1)).all():
            raise ValueError(f"valid holds {np.unique(valid)}; give 1 where a joint is labelled, else 0.")
        joints = np.where(valid[:, None] > 0, joints, np.float32(0))
        if not np.isfinite(joints).all():
            raise ValueError("joints that are valid hold NaN or infinite values.")
        centers = np.asarray(self.centers, np.float32)
        if centers.ndim != 2 or centers.shape[1] != 3 or not len(centers) or np.isinf(centers).any():
            raise ValueError(f"centers of shape {list(centers.shape)} are not [R, 3] numbers, or NaN where unusable.")
        centers = np.where(np.isnan(centers).any(1, keepdims=True), np.float32(np.nan), centers)
        if self.center_source not in CENTER_SOURCES:
            raise ValueError(f"center_source is {self.center_source!r}; choose from {', '.join(CENTER_SOURCES)}.")
        camera, reach = np.asarray(self.camera, np.float32), np.asarray(self.reach, np.float32)
        if camera.shape != (4,) or reach.shape != (3,) or not (reach > 0).all():
            raise ValueError(f"camera {camera} must be 4 numbers (fx, ±fy, cx, cy), reach {reach} 3 lengths above 0.")
        fx, fy, cx, cy = camera.tolist()
        DepthCamera(fx, abs(fy), cx, cy, fy < 0, *picture, _unit(self.unit))
        put(box=box, picture=picture, depth=depth, joints=joints, valid=valid, centers=centers)
        put(camera=camera, reach=reach, name=str(self.name), group=str(self.group), subject=int(self.subject))

    @property
    def counts(self):
        """What a set's summary counts: usable centres of each row, estimated ones, and frames without a picture."""
        usable = ~np.isnan(self.centers[:, 0])
        return {
            "estimated_centers": int(self.center_source == "estimated"),
            WITHOUT_PICTURE: int(not usable.any() and not self.depth.any()),
            **{center_count(row): int(count) for row, count in enumerate(usable)},
        }

    @property
    def depth_camera(self):
        """The `DepthCamera` of the picture."""
        fx, fy, cx, cy = self.camera.tolist()
        return DepthCamera(fx, abs(fy), cx, cy, fy < 0, *self.picture, self.unit)

    def to_example(self):
        """Serialises the record.

        Returns:
            Bytes of a `tf.train.Example`.
        """
        return encode_example(
            {
                "depth/encoded": cv2.imencode(".png", self.depth)[1].tobytes(),
                "depth/box": np.array(self.box, np.int64),
                "depth/picture": np.array(self.picture, np.int64),
                "depth/camera": self.camera,
                "depth/unit": self.unit,
                "depth/reach": self.reach,
                "depth/name": self.name,
                "joints/xyz": self.joints,
                "joints/valid": self.valid,
                "centers/xyz": self.centers,
                "centers/source": self.center_source,
                "meta/subject": self.subject,
                "meta/group": self.group,
            }
        )

    @classmethod
    def from_example(cls, serialized):
        """Reads a record.

        Args:
            serialized: Bytes of a `tf.train.Example`.

        Returns:
            A `DepthRecord`.

        Raises:
            ValueError: If a key is missing, or a shape or a value makes no sense.
        """
        features = decode_example(serialized)
        box = _numbers(features, "depth/box", 4)
        return cls(
            name=_text(features, "depth/name"),
            depth=_decode_png(_bytes(features, "depth/encoded"), box),
            box=box,
            joints=_rows(features, "joints/xyz"),
            valid=_numbers(features, "joints/valid"),
            centers=_rows(features, "centers/xyz"),
            center_source=_text(features, "centers/source"),
            camera=_numbers(features, "depth/camera", 4),
            picture=_numbers(features, "depth/picture", 2),
            unit=_text(features, "depth/unit"),
            reach=_numbers(features, "depth/reach", 3),
            subject=int(_numbers(features, "meta/subject", 1)[0]),
            group=_text(features, "meta/group"),
        )


def center_count(row):
    """Under which name a set's summary counts the usable centres of a row.

    Args:
        row: Number of the row of `DepthRecord.centers`.

    Returns:
        Text.
    """
    return f"usable_centers_{row}"


# ------------------------------------------------------------------------------------------------------- checks


def _unit(unit):
    if unit not in UNITS:
        raise ValueError(f"unit is {unit!r}; choose from {', '.join(UNITS)}.")
    return unit


def _whole(name, values, count):
    numbers = np.asarray(values)
    if numbers.shape != (count,) or not np.isfinite(numbers).all() or (numbers != np.floor(numbers)).any():
        raise ValueError(f"{name} is {values}; it must be {count} whole numbers.")
    return tuple(int(number) for number in numbers)


def _decode_png(data, box):
    left, top, right, bottom = (int(edge) for edge in box)
    try:
        header = image_header(data)
    except ImageFileError as error:
        raise ValueError(f"The record's 'depth/encoded' is unusable: {error}.") from None
    if (header.height, header.width) != (bottom - top, right - left):
        raise ValueError(
            f"The record's depth is {header.width} x {header.height} pixels, its box {right - left} x {bottom - top}."
        )
    depth = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if depth is None or depth.ndim != 2 or depth.dtype != np.uint16:
        raise ValueError("The record's 'depth/encoded' is no PNG of one channel of 16 bits.")
    return depth


def _rows(features, key):
    values = _numbers(features, key)
    if len(values) % 3:
        raise ValueError(f"The record's {key!r} holds {len(values)} values; three for each row are expected.")
    return values.reshape(-1, 3)


def _numbers(features, key, length=None):
    values = features.get(key)
    if not isinstance(values, np.ndarray) or (length is not None and len(values) != length):
        found = "is missing" if values is None else f"holds {len(values)} values"
        raise ValueError(f"The record's {key!r} {found}; {length or 'numbers'} are expected.")
    return values


def _text(features, key):
    return _bytes(features, key).decode(errors="replace")


def _bytes(features, key):
    values = features.get(key)
    if not isinstance(values, list) or len(values) != 1:
        raise ValueError(f"The record's {key!r} must hold one string of bytes.")
    return values[0]
