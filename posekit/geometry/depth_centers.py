"""Where the hand or body is in a depth picture, found without a network: the middle of a cube that is put around it."""

import cv2
import numpy as np

from posekit.geometry.depth import DepthCamera, dataset_camera, pixel_to_world

# Shares of the cube's edge: how thick the slices of the picture are that are looked at, from near to far, how far apart
# they begin, and how large, as a square's edge, what is seen in one must be to be a hand or a body.
_SLICE, _STEP, _EXTENT = 0.5, 0.125, 0.2
# Share of the cube whose centre of mass is taken: in the whole cube, the forearm would draw it away from the fingers.
_WINDOW = 0.8
_STILL = 1e-3
_MAX_ROUNDS = 30
# More points than this make no difference of a millimetre to a centre of mass.
_POINTS = 10_000


class NoForegroundError(ValueError):
    """A depth picture that shows nothing where something is looked for."""


def estimate_center(depth, camera, depth_range, cubic_size, start=None, box=None):
    """Middle of the hand or body: a depth-thresholded centre of mass, refined within the cube until it stands still.

    The refinement begins at the nearest thing that is large enough to be one: the first slice of the depths, from near
    to far, that shows a connected surface of a fifth of the cube's edge squared, or the largest surface of all where
    there is no such slice.

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
        >>> estimate_center(depth, "msra", (100, 700), 200)
        array([-0.82843178,  0.82843178, 400.        ])

    Follows: the centre of mass that moberweger/deep-prior-pp src/util/handdetector.py begins with.
    Differs: looks for connected surfaces by their size in the world, and for bodies too.
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
    points = pixel_to_world(np.stack([columns + left, rows + top, depth[seen]], -1), camera)
    points = np.ascontiguousarray(points.T)  # each axis in one piece, which is several times faster here
    few = points[:, :: max(1, points.shape[1] // _POINTS)]
    if start is None:
        region = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        part = _nearest_surface(depth[region], seen[region], camera, cubic_size)
        center = points[:, part[seen[region]]].mean(1)
    else:
        center = np.asarray(start, np.float64)
        if center.shape != (3,) or not np.isfinite(center).all():
            raise ValueError(f"start {start} is not 3 finite numbers.")
    for _ in range(_MAX_ROUNDS):
        inside = np.logical_and.reduce(np.abs(few - center[:, None]) <= _WINDOW * cubic_size / 2)
        if not inside.any():
            raise NoForegroundError(
                f"Nothing was measured near {np.round(center, 3).tolist()}, within {_WINDOW * cubic_size / 2:g} "
                f"{camera.unit}."
            )
        moved = few[:, inside].mean(1)
        still = np.abs(moved - center).max() <= _STILL * cubic_size
        center = moved
        if still:
            break
    return center


def _nearest_surface(depth, seen, camera, cubic_size):
    """Mask of the nearest connected surface that is large enough, or of the largest."""
    area = np.where(seen, depth**2 / (camera.fx * camera.fy), 0)  # of a pixel's square in the world
    enough = (_EXTENT * cubic_size) ** 2
    nearest = depth[seen].min()
    steps = ((np.where(seen, depth, nearest) - nearest) / (_STEP * cubic_size)).astype(np.int64)
    shown = np.bincount(steps[seen], area[seen])
    # What a slice shows in all is a sum over the steps that it covers.
    width = round(_SLICE / _STEP)
    shown = np.convolve(shown, np.ones(width))[width - 1 :]
    best, found = 0.0, None
    for first in np.flatnonzero(shown >= enough):
        part, size = _largest_part(seen & (steps >= first) & (steps < first + width), area)
        if size >= enough:
            return part
        if size > best:
            best, found = size, part
    return _largest_part(seen, area)[0] if found is None else found


def _largest_part(mask, area):
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    sizes = np.bincount(labels.ravel(), area.ravel(), count)
    sizes[0] = 0  # what is not in the mask
    part = int(sizes.argmax())
    return labels == part, sizes[part]
