"""Where the hand or body is in a depth picture, found without a network: the middle of a cube that is put around it."""

import cv2
import numpy as np

from posekit.geometry.depth import DepthCamera, dataset_camera, pixel_to_world

# Lengths below are shares of the cube's edge.
# Walls, floors and tables: surfaces that are flat within a tolerance, and longer and wider than a hand or body.
_FLAT, _LONG, _WIDE = 0.02, 1.25, 0.6
_PLANES, _TRIES, _LEAST_SHARE = 4, 300, 0.05
# Neighbouring pixels whose depths differ by more than this belong to different things.
_JUMP = 0.1
# Edge of the square of the least surface that is a hand or body.
_EXTENT = 0.2
# What is longer than the first and reaches the border is an arm; its hand is what is so near to its other end.
_ARM, _HAND = 1.1, 0.75
# Edge of the cube whose centre of mass is taken: in the whole cube, the forearm would draw it away from the fingers.
_WINDOW = 0.8
# How much of the cube may be filled, what is a little too long for it, as a hand with its wrist, and the percentage of
# points on each side that may be noise.
_FILLED, _ALMOST, _NOISE = 0.95, 1.3, 0.1
_STILL = 1e-3
_MAX_ROUNDS = 30
# More points than this make no difference of a millimetre to a centre of mass.
_POINTS = 10_000


class NoForegroundError(ValueError):
    """A depth picture that shows nothing where something is looked for."""


def estimate_center(depth, camera, depth_range, cubic_size, start=None, box=None):
    """Middle of the hand or body: a depth-thresholded centre of mass, refined within the cube until it stands still.

    Without a start, what is looked at is the nearest thing of some size that is left when wide flat surfaces, such as
    walls and tables, are taken away; of an arm that comes in from the picture's border, its far end, of another arm its
    upper end.

    Args:
        depth: `[height, width]` in the camera's unit; 0 where nothing was measured.
        camera: `DepthCamera` or the name of a dataset.
        depth_range: `(nearest, farthest)` depth that counts, such as (100, 700) mm for MSRA.
        cubic_size: Edge of the cube, such as 200 mm.
        start: `[3]` point in the world at which the refinement begins instead.
        box: `(left, top, right, bottom)` where a crop lies in its picture, in pixels; the whole picture by default.

    Returns:
        Float64 `[3]` in the world.

    Raises:
        NoForegroundError: If nothing was measured within the range, or near the start.
        ValueError: If a shape or a value makes no sense, or the dataset is unknown.

    Example:
        >>> depth = np.zeros((240, 320))
        >>> depth[100:140, 150:170] = 400
        >>> estimate_center(depth, "msra", (100, 700), 200).round(2).tolist()
        [-0.83, 0.83, 400.0]

    Follows: the centre of mass that moberweger/deep-prior-pp src/util/handdetector.py begins with.
    Differs: takes walls and arms away, and finds bodies too.
    """
    camera = camera if isinstance(camera, DepthCamera) else dataset_camera(camera)
    depth = np.asarray(depth, np.float64)
    near, far = depth_range
    left, top, right, bottom = (0, 0, *depth.shape[::-1]) if box is None else box
    if depth.ndim != 2 or depth.shape != (bottom - top, right - left):
        raise ValueError(f"A depth picture of shape {depth.shape} is not [height, width] of the box {box}.")
    if not (0 <= near < far and 0 < cubic_size < np.inf):
        raise ValueError(f"Depths from {near} to {far} and a cube of {cubic_size} make no sense; give lengths above 0.")
    seen = (depth > 0) & (depth >= near) & (depth <= far)
    if not seen.any():
        raise NoForegroundError(
            f"Nothing was measured between {near:g} and {far:g} {camera.unit}; is the depth in {camera.unit}?"
        )
    rows, columns = np.nonzero(seen)
    pixels = np.stack([columns + left, rows + top, depth[seen]], -1)
    # Each axis in one piece, which is several times faster here.
    points = np.ascontiguousarray(pixel_to_world(pixels, camera).T)
    if start is None:
        region = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        kept = _nearest_thing(depth[region], seen[region], points, camera, cubic_size)
        points, pixels = points[:, kept], pixels[kept]
        center = points.mean(1)
        root, length = _root_of_arm(points, pixels, camera)
        distance = np.linalg.norm(points - root, axis=0)
        if distance.max() > length * cubic_size:
            points = _end_of_arm(points, distance, cubic_size)
            center = points.mean(1)
        return _held(points, _refined(points, center, cubic_size, camera.unit), cubic_size)
    center = np.asarray(start, np.float64)
    if center.shape != (3,) or not np.isfinite(center).all():
        raise ValueError(f"start {start} is not 3 finite numbers.")
    return _refined(points, center, cubic_size, camera.unit)


def _refined(points, center, cubic_size, unit):
    points = points[:, :: max(1, points.shape[1] // _POINTS)]
    for _ in range(_MAX_ROUNDS):
        inside = np.logical_and.reduce(np.abs(points - center[:, None]) <= _WINDOW * cubic_size / 2)
        if not inside.any():
            raise NoForegroundError(
                f"Nothing was measured near {np.round(center, 3).tolist()}, within {_WINDOW * cubic_size / 2:g} {unit}."
            )
        moved = points[:, inside].mean(1)
        still = np.abs(moved - center).max() <= _STILL * cubic_size
        center = moved
        if still:
            break
    return center


def _root_of_arm(points, pixels, camera):
    """Where an arm would come in, `[3, 1]`, and how long it must be, in cubes, to be one."""
    at_border = ((pixels[:, :2] <= 0) | (pixels[:, :2] >= (camera.width - 1, camera.height - 1))).any(1)
    if at_border.any():
        return points[:, at_border].mean(1, keepdims=True), _ARM
    # One whose elbow is in the picture: hands are held up.
    lowest = pixels[:, 1] >= np.percentile(pixels[:, 1], 98)
    return points[:, lowest].mean(1, keepdims=True), _ALMOST


def _end_of_arm(points, distance, cubic_size):
    """Points near the one that is farthest from where the arm comes in."""
    # The mean of some points, as a single one may be noise.
    tip = points[:, distance >= np.partition(distance, -20)[-20:].min()].mean(1, keepdims=True)
    distance = np.linalg.norm(points - tip, axis=0)
    return points[:, distance <= max(_HAND * cubic_size, distance.min())]


def _held(points, center, cubic_size):
    """The center, moved as little as possible for the cube to hold all points, or both ends of almost all."""
    least, most = np.percentile(points, (_NOISE, 100 - _NOISE), axis=1)
    half = _FILLED * cubic_size / 2
    fits, almost = most - least <= 2 * half, most - least <= _ALMOST * cubic_size
    moved = np.clip(center, np.minimum(most - half, least + half), np.maximum(most - half, least + half))
    return np.where(fits, moved, np.where(almost, (least + most) / 2, center))


def _nearest_thing(depth, seen, points, camera, cubic_size):
    """Which of the points belong to the nearest thing that is large enough, or to the largest."""
    standing = seen.copy()
    standing[seen] = ~_on_wide_planes(points, cubic_size)
    if not standing.any():
        standing = seen.copy()
    jump = _JUMP * cubic_size
    apart = standing.copy()
    apart[:, :-1] &= ~(standing[:, 1:] & (np.abs(np.diff(depth, axis=1)) > jump))
    apart[:-1] &= ~(standing[1:] & (np.abs(np.diff(depth, axis=0)) > jump))
    count, labels = cv2.connectedComponents(apart.astype(np.uint8), connectivity=4)
    area = np.where(apart, depth**2 / (camera.fx * camera.fy), 0)  # of a pixel's square in the world
    areas = np.bincount(labels.ravel(), area.ravel(), count)
    areas[0] = 0  # what belongs to nothing
    if not areas.any():
        return np.ones(points.shape[1], bool)
    large = np.flatnonzero(areas >= min((_EXTENT * cubic_size) ** 2, areas.max()))
    depths = np.bincount(labels.ravel(), (area * np.where(apart, depth, 0)).ravel(), count)[large] / areas[large]
    return (labels == large[depths.argmin()])[seen]


def _on_wide_planes(points, cubic_size):
    """Which points lie on surfaces that are flat and wide."""
    found = np.zeros(points.shape[1], bool)
    rng = np.random.default_rng(0)
    for _ in range(_PLANES):
        left = np.flatnonzero(~found)
        few = points[:, left[:: max(1, len(left) // (_POINTS // 4))]]
        if few.shape[1] < 50:
            break
        corners = few[:, rng.integers(few.shape[1], size=(3, _TRIES))]
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0], axis=0)
        lengths = np.linalg.norm(normals, axis=0)
        good = lengths > 1e-9 * cubic_size**2
        if not good.any():
            break
        normals, offsets = (normals / np.where(good, lengths, 1))[:, good], corners[:, 0, good]
        offsets = (normals * offsets).sum(0)
        flat = np.abs(normals.T @ few - offsets[:, None]) <= _FLAT * cubic_size
        best = flat.sum(1).argmax()
        surface = few[:, flat[best]]
        surface = surface - surface.mean(1, keepdims=True)
        if surface.shape[1] < _LEAST_SHARE * points.shape[1] / max(1, points.shape[1] // (_POINTS // 4)):
            break
        axes = np.linalg.eigh(surface @ surface.T)[1][:, 1:]
        spans = np.ptp(np.percentile(axes.T @ surface, (5, 95), axis=1), axis=0)
        if spans.max() < _LONG * cubic_size or spans.min() < _WIDE * cubic_size:
            break
        found |= np.abs(normals[:, best] @ points - offsets[best]) <= 2 * _FLAT * cubic_size
    return found
