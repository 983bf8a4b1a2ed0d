"""Records of images with keypoints, and of motion capture: what stands in a TFRecord under which key.

The keys are those of maxpit/human-pose-estimation, and with the 3-D ones those of akanazawa/hmr. Files written here
are read by both of their readers, and files of theirs are read here.

| key | value | note |
|---|---|---|
| image/encoded | bytes | JPEG or PNG |
| image/seg_gt | bytes | one-channel JPEG or PNG of the image's size, above 0 on the person |
| image/height, image/width | int64 | pixels |
| image/filename | bytes | |
| image/center | int64 [2] | x, y: middle of the box around the visible points, pixels |
| image/x, image/y | float [14] | pixels, in the order of `LSP14` |
| image/visibility | int64 [14] | 1 = visible |
| image/face_pts | float [15] | x of five face points, then y, then visible; absent without them |
| image/format | bytes | `JPEG` or `PNG`; absent in the first original |
| mosh/pose, mosh/shape | float [72], [10] | axis angles and betas; absent without 3-D |
| mosh/gt3d | float [42] | 14 joints, metres; absent without 3-D |
| meta/has_3d | int64 | 1 if pose and shape are known |

An image without a silhouette is written with an all-black one: the original's reader insists on the key and decodes
it, and an empty or missing value would stop it. Reading turns this around: a record has a silhouette if the key is
there and at least one of its pixels is above 0.
"""

import dataclasses
import functools

import cv2
import numpy as np

from posekit.data.example import decode_example, encode_example
from posekit.data.image_files import ImageFileError, decode_image
from posekit.skeletons import COCO_PLUS19, LSP14

NUM_POSE = 72
NUM_SHAPE = 10
_BODY = LSP14.num_joints
_FACE = COCO_PLUS19.num_joints - LSP14.num_joints


@dataclasses.dataclass(frozen=True, eq=False)
class ImageRecord:
    """One image of one person.

    Args:
        image: JPEG or PNG file, as bytes.
        height: Pixels.
        width: Pixels.
        filename: Name without folder.
        keypoints: Float `[3, 14]` (`LSP14`) or `[3, 19]` (`COCO_PLUS19`): x and y in pixels, and 1 where visible.
        center: x and y of the person's middle, pixels; the middle of the box around the visible points if not given.
        silhouette: One-channel JPEG or PNG of the image's size, above 0 on the person; `None` if unknown.
        image_format: `"JPEG"` or `"PNG"`; the key is left out if `None`.
        pose: Float `[72]`, axis angles; with `shape` and `joints3d`.
        shape: Float `[10]`, betas; with `pose`.
        joints3d: Float `[14, 3]`, metres.

    Raises:
        ValueError: If an array has another shape or holds NaN, if no keypoint is visible and no center is given, or if
            only some of pose, shape and joints3d are given.
    """

    image: bytes
    height: int
    width: int
    filename: str
    keypoints: np.ndarray
    center: tuple | None = None
    silhouette: bytes | None = None
    image_format: str | None = None
    pose: np.ndarray | None = None
    shape: np.ndarray | None = None
    joints3d: np.ndarray | None = None

    def __post_init__(self):
        keypoints = _checked("keypoints", self.keypoints, (3, _BODY), (3, _BODY + _FACE))
        object.__setattr__(self, "keypoints", keypoints)
        if (self.pose is None) != (self.shape is None) or (self.pose is not None and self.joints3d is None):
            raise ValueError("Give pose, shape and joints3d together, joints3d alone, or none of them.")
        for name, expected in (("pose", (NUM_POSE,)), ("shape", (NUM_SHAPE,)), ("joints3d", (_BODY, 3))):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _checked(name, getattr(self, name), expected))
        if self.center is None:
            object.__setattr__(self, "center", box_center(keypoints))

    @property
    def has_3d(self):
        """Whether pose and shape are known."""
        return self.pose is not None

    def to_example(self):
        """Serialises the record.

        Returns:
            Bytes of a `tf.train.Example`.

        Follows: maxpit/human-pose-estimation src/util/create_dataset.py:_add_to_tfrecord,
            akanazawa/hmr src/datasets/common.py:convert_to_example_wmosh.
        Differs: a record without a silhouette gets an all-black one.
        """
        silhouette = self.silhouette
        features = {
            "image/encoded": self.image,
            "image/seg_gt": black_silhouette(self.height, self.width) if silhouette is None else silhouette,
            "image/height": int(self.height),
            "image/width": int(self.width),
            "image/filename": self.filename,
            "image/center": np.array([int(value) for value in self.center], np.int64),
            "image/x": self.keypoints[0, :_BODY],
            "image/y": self.keypoints[1, :_BODY],
            "image/visibility": self.keypoints[2, :_BODY].astype(np.int64),
        }
        if self.image_format is not None:
            features["image/format"] = self.image_format
        if self.keypoints.shape[1] > _BODY:
            features["image/face_pts"] = self.keypoints[:, _BODY:]
        if self.joints3d is not None:
            # Where only joints are known, akanazawa/hmr fills pose and shape with -1 and clears the flag.
            features["mosh/pose"] = self.pose if self.has_3d else np.full(NUM_POSE, -1.0)
            features["mosh/shape"] = self.shape if self.has_3d else np.full(NUM_SHAPE, -1.0)
            features["mosh/gt3d"] = self.joints3d
            features["meta/has_3d"] = int(self.has_3d)
        return encode_example(features)

    @classmethod
    def from_example(cls, serialized):
        """Reads a record of either original, or one of ours.

        Args:
            serialized: Bytes of a `tf.train.Example`.

        Returns:
            An `ImageRecord`; its `silhouette` is `None` if the stored one is empty, missing or all black.

        Raises:
            ValueError: If a key is missing or has another length.
        """
        features = decode_example(serialized)
        rows = [_numbers(features, key, _BODY) for key in ("image/x", "image/y", "image/visibility")]
        keypoints = np.stack(rows)
        if "image/face_pts" in features:
            face = _numbers(features, "image/face_pts", 3 * _FACE).reshape(3, _FACE)
            keypoints = np.concatenate([keypoints, face], 1)
        known = bool(_numbers(features, "meta/has_3d", 1)[0]) if "meta/has_3d" in features else False
        joints3d = _numbers(features, "mosh/gt3d", 3 * _BODY).reshape(_BODY, 3) if "mosh/gt3d" in features else None
        silhouette = _text(features, "image/seg_gt") if "image/seg_gt" in features else b""
        image_format = _text(features, "image/format") if "image/format" in features else None
        return cls(
            image=_text(features, "image/encoded"),
            height=int(_numbers(features, "image/height", 1)[0]),
            width=int(_numbers(features, "image/width", 1)[0]),
            filename=_text(features, "image/filename").decode(errors="replace"),
            keypoints=keypoints,
            center=tuple(int(value) for value in _numbers(features, "image/center", 2)),
            silhouette=silhouette if _shows_person(silhouette) else None,
            image_format=image_format and image_format.decode(errors="replace"),
            pose=_numbers(features, "mosh/pose", NUM_POSE) if known else None,
            shape=_numbers(features, "mosh/shape", NUM_SHAPE) if known else None,
            joints3d=joints3d,
        )


@dataclasses.dataclass(frozen=True, eq=False)
class MocapRecord:
    """One pose of motion capture.

    Args:
        pose: Float `[72]`, axis angles.
        shape: Float `[10]`, betas.

    Raises:
        ValueError: If an array has another shape or holds NaN.
    """

    pose: np.ndarray
    shape: np.ndarray

    def __post_init__(self):
        object.__setattr__(self, "pose", _checked("pose", self.pose, (NUM_POSE,)))
        object.__setattr__(self, "shape", _checked("shape", self.shape, (NUM_SHAPE,)))

    def to_example(self):
        """Serialises the record.

        Returns:
            Bytes of a `tf.train.Example`.

        Follows: akanazawa/hmr src/datasets/smpl_to_tfrecords.py:convert_to_example.
        """
        return encode_example({"pose": self.pose, "shape": self.shape})

    @classmethod
    def from_example(cls, serialized):
        """Reads a record.

        Args:
            serialized: Bytes of a `tf.train.Example`.

        Returns:
            A `MocapRecord`.

        Raises:
            ValueError: If a key is missing or has another length.
        """
        features = decode_example(serialized)
        return cls(_numbers(features, "pose", NUM_POSE), _numbers(features, "shape", NUM_SHAPE))


def box_center(keypoints):
    """Middle of the box around the visible keypoints.

    Args:
        keypoints: `[3, K]`: x, y in pixels, visible.

    Returns:
        Tuple x, y in pixels.

    Raises:
        ValueError: If none is visible.
    """
    visible = np.asarray(keypoints)[2] > 0
    if not visible.any():
        raise ValueError("No keypoint is visible, so the person has no middle; give a center.")
    points = np.asarray(keypoints)[:2, visible]
    return tuple((points.min(1) + points.max(1)) / 2)


def encode_silhouette(mask, image_format="png"):
    """Stores a mask as a one-channel image with 255 on the person.

    Args:
        mask: `[height, width]`, true or above 0 on the person.
        image_format: `"png"` keeps it exactly; `"jpeg"` is what the original writes, whose ringing leaves pixels
            slightly above 0 around the person.

    Returns:
        Bytes of the file.

    Raises:
        ValueError: If the format is another one.
    """
    pixels = np.where(np.asarray(mask) > 0, np.uint8(255), np.uint8(0))
    if image_format == "png":
        return cv2.imencode(".png", pixels)[1].tobytes()
    if image_format == "jpeg":
        return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    raise ValueError(f"Silhouettes are stored as 'png' or 'jpeg', not {image_format!r}.")


@functools.lru_cache(256)
def black_silhouette(height, width):
    """The silhouette of nobody, which stands for an unknown one.

    Args:
        height: Pixels.
        width: Pixels.

    Returns:
        Bytes of a one-channel PNG.
    """
    return encode_silhouette(np.zeros((height, width), np.uint8))


# --------------------------------------------------------------------------------------------- TensorFlow's side
# TensorFlow is imported where it is used: the converters write records without it.


def image_features():
    """Feature specification of an image record.

    Returns:
        Dict for `tf.io.parse_example`; keys that only some writers have come with defaults.
    """
    import tensorflow as tf

    def fixed(shape, dtype, default=None):
        return tf.io.FixedLenFeature(shape, dtype, default)

    return {
        "image/encoded": fixed([], tf.string),
        "image/seg_gt": fixed([], tf.string, ""),
        "image/filename": fixed([], tf.string, ""),
        "image/center": fixed([2, 1], tf.int64),
        "image/x": fixed([1, _BODY], tf.float32),
        "image/y": fixed([1, _BODY], tf.float32),
        "image/visibility": fixed([1, _BODY], tf.int64),
        "image/face_pts": fixed([1, 3 * _FACE], tf.float32, [0.0] * (3 * _FACE)),
        "mosh/pose": fixed([NUM_POSE], tf.float32, [0.0] * NUM_POSE),
        "mosh/shape": fixed([NUM_SHAPE], tf.float32, [0.0] * NUM_SHAPE),
        # NaN tells joints that are not there from joints at the origin.
        "mosh/gt3d": fixed([3 * _BODY], tf.float32, [float("nan")] * (3 * _BODY)),
        "meta/has_3d": fixed([1], tf.int64, [0]),
    }


def parse_image_labels(serialized):
    """Parses image records but leaves their pictures encoded; a whole batch is one operation.

    Args:
        serialized: String tensor, a scalar or a vector of any length; below, `…` is its shape.

    Returns:
        Dict of tensors:

        * `encoded_image`, `encoded_silhouette`, `filename`: string `[…]`;
        * `keypoints`: float32 `[…, 3, 19]`, x, y in pixels and visible, zeros for face points that are not there;
        * `center`: int32 `[…, 2, 1]`, pixels;
        * `has_3d`: float32 `[…]`, 1 where `pose` (float32 `[…, 72]`) and `shape` (`[…, 10]`) are known, which else are
          zeros;
        * `has_joints3d`: float32 `[…]`, 1 where `joints3d` (float32 `[…, 14, 3]`, metres) is known, else zeros.

    Follows: maxpit/human-pose-estimation src/util/data_utils.py:parse_example_proto.
    Differs: 3-D truth is read wherever a record has it, as akanazawa/hmr does with `has_3d=True`.
    """
    import tensorflow as tf

    features = tf.io.parse_example(serialized, image_features())
    leading = tf.shape(serialized)
    visible = tf.cast(features["image/visibility"], tf.float32)
    face = tf.reshape(features["image/face_pts"], tf.concat([leading, [3, _FACE]], 0))
    body = tf.concat([features["image/x"], features["image/y"], visible], -2)
    keypoints = tf.concat([body, face], -1)
    has_3d = tf.cast(features["meta/has_3d"][..., 0] > 0, tf.float32)

    def known_or_zero(values):
        # Where they are unknown, akanazawa/hmr stores -1.
        return tf.where(has_3d[..., None] > 0, values, tf.zeros_like(values))

    joints = tf.reshape(features["mosh/gt3d"], tf.concat([leading, [_BODY, 3]], 0))
    known = tf.reduce_all(tf.math.is_finite(joints), [-2, -1])
    keypoints.set_shape(serialized.shape + [3, _BODY + _FACE])
    joints.set_shape(serialized.shape + [_BODY, 3])
    return {
        "encoded_image": features["image/encoded"],
        "encoded_silhouette": features["image/seg_gt"],
        "filename": features["image/filename"],
        "keypoints": keypoints,
        "center": tf.cast(features["image/center"], tf.int32),
        "pose": known_or_zero(features["mosh/pose"]),
        "shape": known_or_zero(features["mosh/shape"]),
        "has_3d": has_3d,
        "joints3d": tf.where(known[..., None, None], joints, tf.zeros_like(joints)),
        "has_joints3d": tf.cast(known, tf.float32),
    }


def decode_pictures(labels):
    """Decodes the image and the silhouette of one record that `parse_image_labels` has parsed.

    Args:
        labels: Dict of one record's tensors, without batch dimension.

    Returns:
        The dict with, in place of the encoded ones:

        * `image`: uint8 `[H, W, 3]`, RGB;
        * `silhouette`: uint8 `[H, W, 1]`, above 0 on the person, zeros where there is none;
        * `has_silhouette`: float32 scalar, 1 if any of its pixels is above 0;
        * `image_size`: int32 `[2]`, H and W.
    """
    import tensorflow as tf

    labels = dict(labels)
    image = tf.io.decode_image(labels.pop("encoded_image"), channels=3, expand_animations=False)
    image.set_shape([None, None, 3])
    size = tf.shape(image)[:2]
    nobody = tf.zeros(tf.concat([size, [1]], 0), tf.uint8)
    encoded = labels.pop("encoded_silhouette")

    def stored():
        pixels = tf.io.decode_image(encoded, channels=1, expand_animations=False)
        return tf.cond(tf.reduce_all(tf.shape(pixels)[:2] == size), lambda: pixels, lambda: nobody)

    silhouette = tf.cond(tf.strings.length(encoded) > 0, stored, lambda: nobody)
    silhouette.set_shape([None, None, 1])
    has_silhouette = tf.cast(tf.reduce_any(silhouette > 0), tf.float32)
    return labels | {"image": image, "silhouette": silhouette, "has_silhouette": has_silhouette, "image_size": size}


def parse_image_record(serialized):
    """Parses and decodes one image record, of either original or ours.

    Args:
        serialized: Scalar string tensor.

    Returns:
        Dict of tensors: `image`, `silhouette`, `has_silhouette` and `image_size` as `decode_pictures` gives them;
        `keypoints`, `center`, `filename`, `pose`, `shape`, `has_3d`, `joints3d` and `has_joints3d` as
        `parse_image_labels` gives them.

    Example:
        >>> dataset = tf.data.TFRecordDataset(files).map(parse_image_record)  # doctest: +SKIP
    """
    return decode_pictures(parse_image_labels(serialized))


def parse_mocap_record(serialized):
    """Parses motion-capture records; a whole batch is one operation.

    Args:
        serialized: String tensor, a scalar or a vector of any length; below, `…` is its shape.

    Returns:
        Dict of `pose` float32 `[…, 72]` and `shape` float32 `[…, 10]`.

    Follows: maxpit/human-pose-estimation src/util/data_utils.py:parse_mocap_example.
    """
    import tensorflow as tf

    spec = {
        "pose": tf.io.FixedLenFeature([NUM_POSE], tf.float32),
        "shape": tf.io.FixedLenFeature([NUM_SHAPE], tf.float32),
    }
    return tf.io.parse_example(serialized, spec)


# ------------------------------------------------------------------------------------------------------- checks


def _checked(name, value, *shapes):
    array = np.asarray(value, np.float64)
    if array.shape not in shapes:
        allowed = " or ".join(str(list(shape)) for shape in shapes)
        raise ValueError(f"{name} has shape {list(array.shape)}; it must be {allowed}.")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds NaN or infinite values.")
    return array


def _numbers(features, key, length):
    values = features.get(key)
    if not isinstance(values, np.ndarray) or values.shape != (length,):
        found = "is missing" if values is None else f"holds {len(values)} values"
        raise ValueError(f"The record's {key!r} {found}; {length} are expected.")
    return values.astype(np.float64)


def _text(features, key):
    values = features.get(key)
    if not isinstance(values, list) or len(values) != 1:
        raise ValueError(f"The record's {key!r} must hold one string of bytes.")
    return values[0]


def _shows_person(encoded):
    try:
        return bool(decode_image(encoded, cv2.IMREAD_GRAYSCALE).any())
    except ImageFileError:
        return False
