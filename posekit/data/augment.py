"""Augmentation of one person's picture, silhouette, keypoints and 3-D labels, all moved by the same numbers.

Every function takes its random numbers as arguments; `random_augmentation` draws them as a pure function of
(seed, epoch, index), so that training runs repeat exactly. The order is the original's: jitter the centre, resize,
repeat the edge, crop, flip, normalise. Resizing and padding happen only where the crop needs pixels.
"""

from typing import NamedTuple

import tensorflow as tf

from posekit.geometry.images import resized_crop
from posekit.skeletons import COCO_PLUS19, LSP14, SMPL24

# Keeps the random numbers of different purposes apart: each has its own range of the seed's second word.
_AUGMENTATION_STREAM = 1 << 48


class Augmentation(NamedTuple):
    """The random numbers of one augmented picture.

    Args:
        jitter_px: Int32 `[2]` x, y, added to the centre, in pixels of the picture.
        scale: Float32 scalar, factor by which the picture is resized.
        flip: Boolean scalar, whether the crop is mirrored.
    """

    jitter_px: tf.Tensor
    scale: tf.Tensor
    flip: tf.Tensor


class CropPlan(NamedTuple):
    """Where a crop lies in a picture; crop pixels are `picture pixels * scale - start`, before any flip.

    Args:
        resized_size: Int32 `[2]` (height, width) of the resized picture.
        start: Int32 `[2]` (y, x) of the crop's first pixel in the resized picture; may lie outside.
        scale: Float32 `[2]` (x, y), resized pixels per pixel of the picture.
        flip: Boolean scalar, whether the crop is mirrored.
    """

    resized_size: tf.Tensor
    start: tf.Tensor
    scale: tf.Tensor
    flip: tf.Tensor


def no_augmentation():
    """The `Augmentation` that leaves everything in place: a crop around the centre at the picture's own scale."""
    return Augmentation(tf.zeros([2], tf.int32), tf.constant(1.0), tf.constant(False))


def random_augmentation(seed, epoch, index, trans_max=20, scale_min=0.8, scale_max=1.23):
    """Draws the numbers of one augmented picture.

    Args:
        seed: Integer of up to 31 bits; equal arguments give equal numbers on every machine.
        epoch: Integer scalar.
        index: Integer scalar, place of the picture in the epoch.
        trans_max: Largest jitter of the centre in pixels; drawn from the whole numbers in [-trans_max, trans_max).
        scale_min: Smallest scale.
        scale_max: Largest scale.

    Returns:
        An `Augmentation`; half of all pictures are flipped.
    """
    key = stream_seed(seed, epoch, tf.cast(index, tf.int64) + _AUGMENTATION_STREAM)
    numbers = tf.random.stateless_uniform([4], key, alg="philox")
    jitter = tf.cast(tf.floor(numbers[:2] * (2.0 * trans_max)), tf.int32) - trans_max
    return Augmentation(jitter, scale_min + numbers[2] * (scale_max - scale_min), numbers[3] < 0.5)


def stream_seed(seed, epoch, index):
    """The two words of a stateless random seed, different for every (seed, epoch, index).

    Args:
        seed: Integer of up to 31 bits.
        epoch: Integer scalar of up to 31 bits.
        index: Integer scalar.

    Returns:
        Int64 `[2]`.
    """
    return tf.stack([tf.cast(seed, tf.int64) + tf.cast(epoch, tf.int64) * 2**32, tf.cast(index, tf.int64)])


def jitter_center(center_px, jitter_px):
    """Moves the centre of a person.

    Args:
        center_px: Int32 `[2]` x, y in pixels.
        jitter_px: Int32 `[2]` x, y in pixels.

    Returns:
        Int32 `[2]`.

    Follows: maxpit/human-pose-estimation src/util/data_utils.py:jitter_center.
    """
    return center_px + jitter_px


def jitter_scale(image_size, keypoints_px, center_px, scale):
    """Scales a picture's size, keypoints and centre; `resized_crop` or `tf.image.resize` scales its pixels.

    Args:
        image_size: Int32 `[2]` (height, width).
        keypoints_px: Float32 `[keypoints, 2 or more]`, x, y first, in pixels.
        center_px: Int32 `[2]` x, y in pixels.
        scale: Float32 scalar.

    Returns:
        `(resized_size, keypoints_px, center_px, factors)`: int32 (height, width), rounded down; the keypoints and the
        centre in the resized picture; and float32 `[2]` (x, y), the scale that the rounding left.

    Follows: maxpit/human-pose-estimation src/util/data_utils.py:jitter_scale.
    """
    size = tf.cast(image_size, tf.float32)
    resized_size = tf.maximum(tf.cast(size * scale, tf.int32), 1)
    factors = (tf.cast(resized_size, tf.float32) / size)[::-1]
    keypoints = tf.concat([keypoints_px[:, :2] * factors, keypoints_px[:, 2:]], axis=1)
    return resized_size, keypoints, tf.cast(tf.cast(center_px, tf.float32) * factors, tf.int32), factors


def plan_crop(image_size, center_px, augmentation, size=224):
    """Finds where an augmented crop lies, without touching pixels.

    Args:
        image_size: Int32 `[2]` (height, width) of the picture.
        center_px: Int32 `[2]` x, y, middle of the person in pixels.
        augmentation: An `Augmentation`.
        size: Edge of the crop in pixels.

    Returns:
        A `CropPlan`.
    """
    center = jitter_center(center_px, augmentation.jitter_px)
    resized_size, _, center, factors = jitter_scale(image_size, tf.zeros([0, 2]), center, augmentation.scale)
    return CropPlan(resized_size, center[::-1] - size // 2, factors, augmentation.flip)


def crop_image(image, plan, size=224, window_start=(0, 0), image_size=None):
    """Cuts a planned crop.

    Args:
        image: `[height, width, channels]`: the picture, or the window of it under the crop.
        plan: A `CropPlan`.
        size: Edge of the crop in pixels.
        window_start: Int32 (y, x) in the picture of the first pixel of `image`.
        image_size: Int32 (height, width) of the picture; that of `image` if None.

    Returns:
        Float32 `[size, size, channels]` on the scale of the input values.
    """
    crop = resized_crop(image, plan.resized_size, plan.start, (size, size), window_start, image_size, plan.flip)
    return tf.ensure_shape(crop, [size, size, image.shape[-1]])


def crop_keypoints(keypoints_px, plan, size=224):
    """Moves keypoints of a picture into a planned crop.

    Args:
        keypoints_px: Float32 `[keypoints, 3]` x, y, visible in pixels; 14 or 19 keypoints.
        plan: A `CropPlan`.
        size: Edge of the crop in pixels.

    Returns:
        Float32 `[keypoints, 3]` in crop pixels.
    """
    xy = keypoints_px[:, :2] * plan.scale - tf.cast(plan.start[::-1], tf.float32)
    moved = tf.concat([xy, keypoints_px[:, 2:]], axis=1)
    return tf.where(plan.flip, flip_keypoints(moved, size), moved)


def flip_keypoints(keypoints_px, width):
    """Mirrors keypoints and swaps the names of left and right.

    Args:
        keypoints_px: Float32 `[..., keypoints, 2 or 3]` x, y(, visible) in pixels, ordered as LSP14 or COCO_PLUS19.
        width: Width of the picture in pixels.

    Returns:
        Keypoints of the mirrored picture.
    """
    swapped = tf.gather(keypoints_px, _keypoint_swap(keypoints_px.shape[-2]), axis=-2)
    x = tf.cast(width, swapped.dtype) - swapped[..., :1] - 1.0
    return tf.concat([x, swapped[..., 1:]], axis=-1)


def flip_person(image, keypoints_px, silhouette=None, mirror_by="width"):
    """Mirrors a picture, its keypoints and its silhouette.

    Args:
        image: `[height, width, channels]`.
        keypoints_px: Float32 `[keypoints, 3]` x, y, visible in pixels, in the order of LSP14 or COCO_PLUS19.
        silhouette: Optional `[height, width, 1]`.
        mirror_by: `"width"` mirrors x about the middle column. `"height"` is the original's formula, which takes the
            number of rows; the same for square pictures, the only ones that training flips.

    Returns:
        `(image, keypoints_px, silhouette)`.

    Raises:
        ValueError: If `mirror_by` is neither.

    Follows: maxpit/human-pose-estimation src/util/data_utils.py:flip_image.
    """
    if mirror_by not in ("width", "height"):
        raise ValueError(f"mirror_by must be 'width' or 'height', got {mirror_by!r}.")
    extent = tf.shape(image)[1 if mirror_by == "width" else 0]
    mirrored = None if silhouette is None else tf.reverse(silhouette, [1])
    return tf.reverse(image, [1]), flip_keypoints(keypoints_px, extent), mirrored


def reflect_pose(pose):
    """Mirrors a body pose about the plane between left and right.

    Args:
        pose: Float32 `[..., 72]`, axis-angle of 24 joints, radians.

    Returns:
        Float32 `[..., 72]`.

    Follows: akanazawa/hmr src/util/data_utils.py:reflect_pose.
    """
    joints = tf.reshape(pose, tf.concat([tf.shape(pose)[:-1], [SMPL24.num_joints, 3]], axis=0))
    mirrored = tf.gather(joints, SMPL24.flip_permutation, axis=-2) * tf.constant([1.0, -1.0, -1.0], pose.dtype)
    return tf.ensure_shape(tf.reshape(mirrored, tf.shape(pose)), pose.shape)


def reflect_joints3d(joints):
    """Mirrors 3-D joints about the plane x = 0.

    Args:
        joints: Float32 `[..., 14, 3]`, LSP order, metres.

    Returns:
        Float32 `[..., 14, 3]`.

    Follows: akanazawa/hmr src/util/data_utils.py:reflect_joints3d.
    Differs: the original then subtracts the mean, assuming that it is zero already; here joints that are not centred
        keep their place, so that reflecting twice changes nothing.
    """
    swapped = tf.gather(joints, LSP14.flip_permutation, axis=-2)
    return swapped * tf.constant([-1.0, 1.0, 1.0], joints.dtype)


def rescale_image(image):
    """Brings values from [0, 1] to [-1, 1].

    Args:
        image: Float tensor.

    Returns:
        The same shape.

    Follows: maxpit/human-pose-estimation src/util/data_utils.py:rescale_image.
    """
    return (image - 0.5) * 2.0


def normalize_keypoints(keypoints_px, size=224):
    """Brings keypoints of a crop to [-1, 1]; those that are not visible become zeros.

    Args:
        keypoints_px: Float32 `[..., keypoints, 3]` x, y, visible in crop pixels. A keypoint that is not finite counts
            as not visible.
        size: Edge of the crop in pixels.

    Returns:
        Float32 `[..., keypoints, 3]` x_ndc, y_ndc, visible 0 or 1.
    """
    visible = tf.reduce_all(tf.math.is_finite(keypoints_px), axis=-1, keepdims=True) & (keypoints_px[..., 2:] > 0)
    ndc = tf.where(visible, 2.0 * keypoints_px[..., :2] / size - 1.0, 0.0)
    return tf.concat([ndc, tf.cast(visible, ndc.dtype)], axis=-1)


def augment_person(image, keypoints_px, center_px, augmentation, size=224, silhouette=None):
    """The whole chain on a decoded picture.

    Args:
        image: Float32 `[height, width, 3]` in [0, 1].
        keypoints_px: Float32 `[keypoints, 3]` x, y, visible in pixels, in the order of LSP14 or COCO_PLUS19.
        center_px: Int32 `[2]` x, y, middle of the person in pixels.
        augmentation: An `Augmentation`; `no_augmentation()` for a plain centred crop.
        size: Edge of the crop in pixels.
        silhouette: Optional float32 `[height, width, 1]`.

    Returns:
        `(image, keypoints, silhouette)`: `[size, size, 3]` in [-1, 1]; `[keypoints, 3]` x_ndc, y_ndc, visible;
        `[size, size, 1]` or None.

    Example:
        >>> augmentation = random_augmentation(seed=0, epoch=3, index=17)
        >>> crop, keypoints, _ = augment_person(tf.zeros((300, 200, 3)), tf.zeros((19, 3)), [100, 150], augmentation)
        >>> crop.shape, keypoints.shape
        (TensorShape([224, 224, 3]), TensorShape([19, 3]))

    Follows: maxpit/human-pose-estimation src/data_loader.py:image_preprocessing.
    Differs: a centre far outside the picture gives a crop of repeated edge pixels, where the original fails.
    """
    plan = plan_crop(tf.shape(image)[:2], center_px, augmentation, size)
    crop = rescale_image(crop_image(image, plan, size))
    keypoints = normalize_keypoints(crop_keypoints(keypoints_px, plan, size), size)
    return crop, keypoints, None if silhouette is None else crop_image(silhouette, plan, size)


def _keypoint_swap(count):
    for skeleton in (LSP14, COCO_PLUS19):
        if count == skeleton.num_joints:
            return skeleton.flip_permutation
    raise ValueError(
        f"Keypoints must be the {LSP14.num_joints} of {LSP14.name} or the {COCO_PLUS19.num_joints} of "
        f"{COCO_PLUS19.name}, got {count}."
    )
