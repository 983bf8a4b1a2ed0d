"""Square crops around a person for prediction, and the exact way back to image pixels. NumPy and OpenCV only."""

import dataclasses

import cv2
import numpy as np


@dataclasses.dataclass(frozen=True)
class Crop:
    """The axis-aligned map between the pixels of an image and the pixels of a crop made from it.

    `crop_px = image_px * scale - offset_px` for x and y alike.

    Args:
        scale: Pair (x, y) of crop pixels per image pixel. The two differ slightly, because a scaled image has whole
            numbers of rows and columns.
        offset_px: Pair (x, y), place of the crop's first pixel in the scaled image, in pixels; negative where the crop
            starts outside.
        size: Edge of the square crop in pixels.

    Example:
        >>> crop = Crop(scale=(0.5, 0.5), offset_px=(10.0, 20.0), size=224)
        >>> crop.to_crop([[100.0, 100.0]])
        array([[40., 30.]])
        >>> crop.to_image([[40.0, 30.0]])
        array([[100., 100.]])
    """

    scale: tuple[float, float]
    offset_px: tuple[float, float]
    size: int

    def to_crop(self, points_px):
        """Moves points from the image into the crop.

        Args:
            points_px: `[..., 2]` x, y in image pixels.

        Returns:
            Float64 `[..., 2]` x, y in crop pixels.
        """
        return np.asarray(points_px, np.float64) * self.scale - self.offset_px

    def to_image(self, points_px):
        """Moves points from the crop back into the image; the inverse of `to_crop`.

        Args:
            points_px: `[..., 2]` x, y in crop pixels.

        Returns:
            Float64 `[..., 2]` x, y in image pixels.
        """
        return (np.asarray(points_px, np.float64) + self.offset_px) / self.scale


def resize_image(image, scale):
    """Scales an image, rounding its size down to whole pixels.

    Args:
        image: `[height, width]` or `[height, width, channels]` array, uint8 or float32.
        scale: Factor wanted.

    Returns:
        `(resized, factors)`: the scaled image, and the factors `(x, y)` that the rounding left, float64.

    Raises:
        ValueError: If the image is empty, the scale is not positive, or the result would have no pixels.

    Follows: maxpit/human-pose-estimation src/util/image.py:resize_img.
    Differs: factors are (x, y), not (y, x).
    """
    image = _checked_image(image)
    height, width = _scaled_size(image, scale)
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return resized.reshape((height, width) + image.shape[2:]), np.array(
        [width / image.shape[1], height / image.shape[0]]
    )


def scale_and_crop(image, scale, center, size):
    """Scales an image and cuts a square around a point, repeating the edge where the square leaves the image.

    The scaled image is never made: only the pixels of the crop are interpolated, so that the cost does not depend on
    the size of the image.

    Args:
        image: `[height, width]` or `[height, width, channels]` array, uint8 or float32.
        scale: Factor wanted.
        center: Pair (x, y) in image pixels that becomes the middle of the crop.
        size: Edge of the crop in pixels. An odd size gives one pixel less, as in the original.

    Returns:
        `(pixels, crop)`: `[size, size, …]` array of the image's dtype, and the `Crop` that made it. The original's
        `start_pt` is `crop.offset_px + size // 2` and its `end_pt` lies `crop.size` further.

    Raises:
        ValueError: If the image is empty, the scale is not positive, or the centre is not finite.

    Follows: maxpit/human-pose-estimation src/util/image.py:scale_and_crop.
    Differs: the edge is repeated as far as needed, so that any centre works.
    """
    image = _checked_image(image)
    center = np.asarray(center, np.float64)
    if center.shape != (2,) or not np.all(np.isfinite(center)):
        raise ValueError(f"The centre of a crop must be two finite numbers (x, y), got {center.tolist()}.")
    if int(size) < 2:
        raise ValueError(f"A crop of {size} pixels is too small; give a size of at least 2, such as 224.")
    height, width = _scaled_size(image, scale)
    factors = np.array([width / image.shape[1], height / image.shape[0]])
    margin = int(size) // 2
    # Far outside every pixel repeats the edge; the bound keeps the whole numbers below in range.
    middle = np.clip(np.round(center * factors), -(2**30), 2**30).astype(np.int64)
    offset = middle - margin
    top, bottom, down = _samples(offset[1], 2 * margin, height, image.shape[0])
    left, right, across = _samples(offset[0], 2 * margin, width, image.shape[1])
    trailing = (1,) * (image.ndim - 2)
    upper, lower = (
        _mix(rows[:, left], rows[:, right], across.reshape((-1, *trailing))) for rows in (image[top], image[bottom])
    )
    pixels = _mix(upper, lower, down.reshape((-1, 1, *trailing)))
    if image.dtype == np.uint8:
        pixels = np.rint(pixels).astype(np.uint8)
    crop = Crop(tuple(factors.tolist()), tuple(offset.astype(np.float64).tolist()), 2 * margin)
    return pixels, crop


def person_crop(image, box=None, keypoints=None, size=224, person_height=150.0, min_score=0.2):
    """Cuts the square that a person-centred network expects.

    With a box or keypoints, the person is scaled so that the diagonal of the box (of the visible keypoints) measures
    `person_height` crop pixels, and centred. With neither, the whole image is scaled so that its longer side
    fills the crop, and centred.

    Args:
        image: `[height, width, 3]` uint8 or float32 array.
        box: Optional (x_min, y_min, x_max, y_max) in image pixels.
        keypoints: Optional `[joints, 2]` x, y or `[joints, 3]` x, y, score, in image pixels.
        size: Edge of the crop in pixels.
        person_height: Length in crop pixels given to the diagonal.
        min_score: Keypoints with a score up to this are ignored.

    Returns:
        `(pixels, crop)` as `scale_and_crop`.

    Raises:
        ValueError: If both a box and keypoints are given, or they have no extent.

    Example:
        >>> pixels, crop = person_crop(np.zeros((240, 160, 3), np.uint8), box=(40, 20, 120, 210))
        >>> pixels.shape
        (224, 224, 3)
        >>> joints_px = crop.to_image((np.zeros((19, 2)) + 1) * 0.5 * crop.size)  # from ndc, in pixels of the image

    Follows: akanazawa/hmr demo.py:preprocess_image, src/util/openpose.py:get_bbox.
    """
    image = _checked_image(image)
    if box is not None and keypoints is not None:
        raise ValueError("person_crop takes a box or keypoints, not both; leave one out.")
    if box is None and keypoints is None:
        height, width = image.shape[:2]
        return scale_and_crop(image, size / max(height, width), np.round(np.array([width, height]) / 2), size)
    low, high = _box_corners(box) if box is not None else _keypoint_corners(keypoints, min_score)
    return scale_and_crop(image, person_height / np.linalg.norm(high - low), (low + high) / 2, size)


def _box_corners(box):
    corners = np.asarray(box, np.float64)
    if corners.shape != (4,) or not np.all(np.isfinite(corners)) or np.any(corners[2:] <= corners[:2]):
        raise ValueError(
            f"A person's box must be four finite numbers x_min, y_min, x_max, y_max with x_min < x_max and "
            f"y_min < y_max, got {corners.tolist()}."
        )
    return corners[:2], corners[2:]


def _keypoint_corners(keypoints, min_score):
    keypoints = np.asarray(keypoints, np.float64)
    if keypoints.ndim != 2 or keypoints.shape[1] not in (2, 3):
        raise ValueError(f"Keypoints must have shape [joints, 2] or [joints, 3], got {list(keypoints.shape)}.")
    visible = np.all(np.isfinite(keypoints), axis=1)
    if keypoints.shape[1] == 3:
        visible &= keypoints[:, 2] > min_score
    points = keypoints[visible, :2]
    if len(points) < 2 or np.all(np.ptp(points, axis=0) == 0):
        raise ValueError(
            f"{len(points)} visible keypoints (score above {min_score}) do not span a person; pass a box instead, or "
            "neither for the whole image."
        )
    return points.min(axis=0), points.max(axis=0)


def _checked_image(image):
    image = np.asarray(image)
    if image.ndim not in (2, 3) or 0 in image.shape:
        raise ValueError(
            f"An image must have shape [height, width] or [height, width, channels] and at least one pixel, got "
            f"{list(image.shape)}."
        )
    if image.dtype == np.float64:
        return image.astype(np.float32)
    if image.dtype not in (np.uint8, np.float32):
        raise ValueError(f"An image must hold uint8 or float32 values, got {image.dtype}; convert it first.")
    return image


def _scaled_size(image, scale):
    if not (np.isfinite(scale) and scale > 0):
        raise ValueError(f"The scale of a crop must be a positive number, got {scale}.")
    size = np.floor(np.array(image.shape[:2]) * float(scale))
    if not 1 <= size.min() <= size.max() < 2**24:
        raise ValueError(
            f"Scale {scale} turns an image of {image.shape[1]}x{image.shape[0]} pixels into one of "
            f"{size[1]:.0f}x{size[0]:.0f}; choose a scale that leaves between 1 and {2**24 - 1} pixels a side."
        )
    return int(size[0]), int(size[1])


def _mix(first, second, weight):
    first = first.astype(np.float32)
    return first + (second - first) * weight


def _samples(start, count, scaled, length):
    """Rows between which each row of a crop lies: first, second, and the weight of the second.

    Pixel centres of the scaled image fall on pixel centres of the source (OpenCV's and TensorFlow's bilinear rule).
    The scaled row is clamped before it is mapped, because it is the scaled image whose edge is repeated.
    """
    row = np.clip(start + np.arange(count), 0, scaled - 1)
    source = (row + 0.5) * (length / scaled) - 0.5
    below = np.floor(source)
    first = below.astype(np.int64)
    return np.maximum(first, 0), np.minimum(first + 1, length - 1), (source - below).astype(np.float32)
