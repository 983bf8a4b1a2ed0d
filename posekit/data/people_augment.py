"""Augmentation of a picture with many people: scaled, turned, cropped and mirrored in one resampling.

The order is the original's: scale so that the main person has about a share of the crop's height, turn about the
middle of a canvas that grows with it, crop around the main person with a jitter, mirror. `plan_people` puts the steps
together into one map, which `warp_people` applies to picture and mask and `move_joints` to joints, so that they land
together; where the original rounds (the scaled size, the canvas, the crop's corner), the plan does too. `Stepwise`
does one step after the other in NumPy, as the original.

Random numbers are arguments; `draw_people` draws them as a pure function of (seed, epoch, index).
"""

import dataclasses
from typing import NamedTuple

import cv2
import numpy as np
import tensorflow as tf

from posekit.data.augment import stream_seed
from posekit.geometry.images import projective_transform

BORDER = 128
FLIPS = ("pixel", "original")
# Keeps these random numbers apart from those of one person's pictures.
_STREAM = 1 << 49
# Joints beyond this place in the crop, pixels, count as not there.
_FARTHEST = 2000.0


class PeopleDraws(NamedTuple):
    """The random numbers of one augmented picture.

    Args:
        scale: Float64 scalar, factor on the size that the main person should have.
        degrees: Float64 scalar, by which the picture is turned counter-clockwise.
        shift: Float64 `[2]` x, y in -0.5 to 0.5: jitter of the crop, in the largest one's double.
        flip: Boolean scalar.
    """

    scale: tf.Tensor
    degrees: tf.Tensor
    shift: tf.Tensor
    flip: tf.Tensor


@dataclasses.dataclass(frozen=True)
class PeopleAugmentation:
    """How far pictures are augmented; the defaults are the original's.

    Args:
        crop_size: Edge of the crop in pixels.
        scale_min: Smallest random scale.
        scale_max: Largest random scale.
        target_dist: Share of the crop's height that the main person's box has at scale 1.
        rotate_max: Largest turn, degrees.
        shift_max: Largest jitter of the crop's place, pixels.
        flip_prob: Share of pictures that are mirrored.
        flip: Where a mirrored joint lies: `"pixel"` at `width - 1 - x`, on its pixel; `"original"` at `width - x`.

    Raises:
        ValueError: If a value makes no sense.
    """

    crop_size: int = 368
    scale_min: float = 0.5
    scale_max: float = 1.1
    target_dist: float = 0.6
    rotate_max: float = 40.0
    shift_max: float = 40.0
    flip_prob: float = 0.5
    flip: str = "pixel"

    def __post_init__(self):
        if self.flip not in FLIPS:
            raise ValueError(f"flip is {self.flip!r}; choose from {', '.join(FLIPS)}.")
        if not 1 <= self.crop_size <= 1 << 13:
            raise ValueError(f"crop_size is {self.crop_size}; it must be 1 to {1 << 13} pixels.")
        if not (0 < self.scale_min <= self.scale_max and self.target_dist > 0):
            raise ValueError(
                f"scale_min={self.scale_min}, scale_max={self.scale_max} and target_dist={self.target_dist} must be "
                "above 0, in this order."
            )
        if self.rotate_max < 0 or self.shift_max < 0 or not 0 <= self.flip_prob <= 1:
            raise ValueError(
                f"rotate_max={self.rotate_max} and shift_max={self.shift_max} must not be negative, "
                f"flip_prob={self.flip_prob} must be 0 to 1."
            )


def still_people():
    """The `PeopleDraws` of a picture at the wanted size, upright, cropped right around the main person."""
    zero = tf.zeros([], tf.float64)
    return PeopleDraws(zero + 1, zero, tf.zeros([2], tf.float64), tf.constant(False))


def draw_people(seed, epoch, index, augmentation):
    """Draws the numbers of one augmented picture.

    Args:
        seed: Integer of up to 31 bits; equal arguments give equal numbers on every machine.
        epoch: Integer scalar.
        index: Integer scalar, place of the picture in the epoch.
        augmentation: A `PeopleAugmentation`.

    Returns:
        `PeopleDraws`.
    """
    key = stream_seed(seed, epoch, tf.cast(index, tf.int64) + _STREAM)
    numbers = tf.cast(tf.random.stateless_uniform([5], key, alg="philox"), tf.float64)
    return PeopleDraws(
        augmentation.scale_min + numbers[0] * (augmentation.scale_max - augmentation.scale_min),
        (2 * numbers[1] - 1) * augmentation.rotate_max,
        numbers[2:4] - 0.5,
        numbers[4] < augmentation.flip_prob,
    )


def plan_people(size, center, box_height, draws, augmentation):
    """Puts the steps of an augmentation together.

    Args:
        size: Int `[2]` (height, width) of the picture.
        center: Float `[2]` x, y, middle of the main person in pixels.
        box_height: Float scalar, of the main person's box, pixels.
        draws: `PeopleDraws`.
        augmentation: A `PeopleAugmentation`.

    Returns:
        Float64 `[2, 3]`: a place of the picture, `[x, y, 1]`, times its transpose is the place in the crop.

    Follows: michalfaber/keras_Realtime_Multi-Person_Pose_Estimation training/augmentors.py:ScaleAug, RotateAug,
    CropAug, FlipAug.
    """
    size, center = tf.cast(size, tf.float64), tf.cast(center, tf.float64)
    crop = tf.constant(augmentation.crop_size, tf.float64)
    wanted = augmentation.target_dist * crop * draws.scale / tf.cast(box_height, tf.float64)
    scaled = tf.maximum(tf.floor(wanted * size + 0.5), 1.0)
    factors = (scaled / size)[::-1]
    angle = draws.degrees * (np.pi / 180)
    cos, sin = tf.cos(angle), tf.sin(angle)
    height, width = scaled[0], scaled[1]
    middle = tf.stack([tf.floor(width / 2), tf.floor(height / 2)])
    canvas = tf.stack([height * tf.abs(sin) + width * tf.abs(cos), height * tf.abs(cos) + width * tf.abs(sin)])
    turn = tf.stack([tf.stack([cos, sin]), tf.stack([-sin, cos])])
    offset = tf.floor(canvas) / 2 - tf.linalg.matvec(turn, middle)
    linear = turn * factors
    moved = tf.linalg.matvec(linear, center) + offset
    jitter = _toward_zero(draws.shift * 2 * augmentation.shift_max)
    offset = offset - _toward_zero(moved + jitter - crop / 2)
    forward = tf.concat([linear, offset[:, None]], 1)
    mirrored = tf.stack([-forward[0] + tf.stack([tf.zeros_like(crop), tf.zeros_like(crop), crop - 1]), forward[1]])
    return tf.where(draws.flip, mirrored, forward)


def warp_people(image, mask, plan, crop_size, border=BORDER):
    """Cuts picture and mask out, bilinearly and both at once.

    Args:
        image: `[height, width, 3]`, 0 to 255.
        mask: `[height, width, 1]`, above 0 where the loss counts.
        plan: As of `plan_people`.
        crop_size: Edge of the crop in pixels.
        border: Value outside the picture; the loss counts there.

    Returns:
        `(image, mask)`: float32 `[crop_size, crop_size, 3]`, and float32 `[crop_size, crop_size, 1]` of 0 and 1.
    """
    layers = tf.concat([tf.cast(image, tf.float32) - border, tf.cast(mask <= 0, tf.float32)], -1)
    inverse = tf.linalg.inv(tf.concat([plan, tf.constant([[0.0, 0.0, 1.0]], tf.float64)], 0))
    transform = tf.cast(tf.reshape(inverse, [9])[:8], tf.float32)
    warped = projective_transform(layers, transform, "bilinear", "constant", (crop_size, crop_size))
    warped = tf.ensure_shape(warped, [crop_size, crop_size, 4])
    return warped[..., :3] + border, tf.cast(warped[..., 3:] < 0.5, tf.float32)


def move_joints(joints_px, present, plan, draws, skeleton, flip="pixel"):
    """Moves joints along with the picture, and swaps left and right where it is mirrored.

    Args:
        joints_px: `[people, joints, 2]` x, y in pixels of the picture.
        present: Boolean `[people, joints]`.
        plan: As of `plan_people`.
        draws: `PeopleDraws`.
        skeleton: The joints' `Skeleton`.
        flip: As in `PeopleAugmentation`.

    Returns:
        `(joints_px, present)`: float32 in pixels of the crop, zeros where not present. Joints left of or above the
        first pixel, or more than 2000 pixels away, are not.

    Follows: michalfaber/keras_Realtime_Multi-Person_Pose_Estimation training/augmentors.py:FlipAug, point8_to_joints.
    """
    moved = tf.einsum("pjc,dc->pjd", tf.cast(joints_px, tf.float64), plan[:, :2]) + plan[:, 2]
    if flip == "original":
        moved += tf.where(draws.flip, tf.constant([1.0, 0.0], tf.float64), tf.zeros([2], tf.float64))
    moved = tf.where(draws.flip, tf.gather(moved, skeleton.flip_permutation, axis=1), moved)
    present = tf.where(draws.flip, tf.gather(present, skeleton.flip_permutation, axis=1), present)
    present &= tf.reduce_all((moved > 0) & (moved <= _FARTHEST), -1)
    return tf.cast(tf.where(present[..., None], moved, 0.0), tf.float32), present


def shrink_mask(mask, stride=8):
    """Makes a mask as coarse as the network's maps, as bicubic scaling does.

    Args:
        mask: Float32 `[height, width, 1]` of 0 and 1.
        stride: Pixels to a step.

    Returns:
        Float32 `[height // stride, width // stride, 1]` of 0 and 1.

    Follows: michalfaber/keras_Realtime_Multi-Person_Pose_Estimation training/dataset.py:create_all_mask.
    """
    for axis in (0, 1):
        length = mask.shape[axis]
        places = (np.arange(length // stride) + 0.5) * stride - 0.5
        first = np.floor(places).astype(int)
        taps = np.clip(first[:, None] + np.arange(-1, 3), 0, length - 1)
        weights = _cubic(places[:, None] - (first[:, None] + np.arange(-1, 3)))
        matrix = np.zeros((len(places), length), np.float32)
        np.add.at(matrix, (np.arange(len(places))[:, None], taps), weights)
        mask = tf.tensordot(tf.constant(matrix), mask, [[1], [axis]])
        mask = mask if axis == 0 else tf.transpose(mask, [1, 0, 2])
    return tf.cast(mask >= 0.5, tf.float32)


def _toward_zero(values):
    return tf.sign(values) * tf.floor(tf.abs(values))


def _cubic(distance):
    """OpenCV's cubic kernel."""
    a, d = -0.75, np.abs(distance)
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


def _fixed_point_places(inverse, canvas):
    """Where the pixels of a canvas come from, float32 x and y, in steps of 1/32 as OpenCV 4's warpAffine took them."""
    columns, rows = np.arange(canvas[0]), np.arange(canvas[1])
    places = []
    for along, down, start in inverse:
        steps = np.rint(along * columns * 1024)[None] + np.rint((down * rows + start) * 1024)[:, None] + 16
        places.append((np.floor(steps / 32) / 32).astype(np.float32))
    return places


@dataclasses.dataclass(frozen=True, eq=False)
class Stepwise:
    """A picture to which one step of the augmentation after the other is applied, as the original does it.

    Every step resamples, so that the picture gets softer each time; training uses `plan_people`.

    Args:
        image: Uint8 `[height, width, 3]`.
        mask: Uint8 `[height, width]` of 0 and 1; `None` if the loss counts everywhere.
        points: Float64 `[N, 2]` x, y in pixels.
        center: Float64 `[2]` x, y, middle of the main person.
    """

    image: np.ndarray
    mask: np.ndarray | None
    points: np.ndarray
    center: np.ndarray

    def scaled(self, scale, scale_provided, target_dist=0.6):
        """Scales.

        Args:
            scale: The random factor.
            scale_provided: Height of the main person's box as a share of the crop's.
            target_dist: As in `PeopleAugmentation`.

        Returns:
            A `Stepwise`.

        Follows: michalfaber/keras_Realtime_Multi-Person_Pose_Estimation training/augmentors.py:ScaleAug.
        """
        height, width = self.image.shape[:2]
        factor = target_dist / scale_provided * scale
        size = (int(factor * width + 0.5), int(factor * height + 0.5))
        factors = np.array(size) / (width, height)
        return self._with(lambda layer, _: cv2.resize(layer, size, interpolation=cv2.INTER_CUBIC), np.diag(factors), 0)

    def rotated(self, degrees):
        """Turns about the middle, on a canvas that holds all of the picture.

        Args:
            degrees: Counter-clockwise.

        Returns:
            A `Stepwise`.

        Follows: michalfaber/keras_Realtime_Multi-Person_Pose_Estimation training/augmentors.py:RotateAug.
        """
        height, width = self.image.shape[:2]
        middle = (width // 2, height // 2)
        matrix = cv2.getRotationMatrix2D(middle, degrees, 1.0)
        cos, sin = np.abs(matrix[0, :2])
        canvas = (int(height * sin + width * cos), int(height * cos + width * sin))
        matrix[:, 2] += np.array(canvas) / 2 - middle

        places = _fixed_point_places(cv2.invertAffineTransform(matrix), canvas)

        def turn(layer, border):
            return cv2.remap(layer, *places, cv2.INTER_CUBIC, borderMode=cv2.BORDER_CONSTANT, borderValue=border)

        return self._with(turn, matrix[:, :2], matrix[:, 2])

    def cropped(self, shift, size=(368, 368), shift_max=40):
        """Cuts out what lies around the main person.

        Args:
            shift: `[2]` x, y in -0.5 to 0.5, the random jitter.
            size: (width, height) of the crop.
            shift_max: As in `PeopleAugmentation`.

        Returns:
            A `Stepwise`.

        Follows: michalfaber/keras_Realtime_Multi-Person_Pose_Estimation training/augmentors.py:CropAug.
        """
        jitter = np.trunc(np.asarray(shift) * 2 * shift_max)
        left, top = (int(value) for value in np.trunc(self.center + jitter - np.array(size) / 2))

        def cut(layer, border):
            height, width = layer.shape[:2]
            result = np.empty((size[1], size[0], *layer.shape[2:]), layer.dtype)
            result[:] = np.asarray(border, layer.dtype)[: result.shape[-1]] if layer.ndim == 3 else border
            rows, columns = slice(max(top, 0), max(top + size[1], 0)), slice(max(left, 0), max(left + size[0], 0))
            part = layer[rows, columns]
            down, right = max(-top, 0), max(-left, 0)
            result[down : down + part.shape[0], right : right + part.shape[1]] = part
            return result

        return self._with(cut, np.eye(2), -np.array([left, top], np.float64))

    def flipped(self, skeleton, flip="pixel"):
        """Mirrors.

        Args:
            skeleton: `Skeleton` of the points, which are those of one person after the other.
            flip: As in `PeopleAugmentation`.

        Returns:
            A `Stepwise`.

        Follows: michalfaber/keras_Realtime_Multi-Person_Pose_Estimation training/augmentors.py:FlipAug.
        """
        width = self.image.shape[1]
        edge = width if flip == "original" else width - 1
        made = self._with(lambda layer, _: cv2.flip(layer, 1), np.diag([-1.0, 1.0]), np.array([edge, 0.0]))
        people = made.points.reshape(-1, skeleton.num_joints, 2)
        return dataclasses.replace(made, points=people[:, skeleton.flip_permutation].reshape(-1, 2))

    def _with(self, move, linear, offset):
        return Stepwise(
            move(self.image, (BORDER,) * 3),
            None if self.mask is None else move(self.mask, 1),
            self.points @ linear.T + offset,
            self.center @ linear.T + offset,
        )
