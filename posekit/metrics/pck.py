"""Percentage of correct keypoints, and curves over the allowed distance."""

import numpy as np

from posekit.skeletons import LSP14

REFERENCES = ("torso", "head", "box")


def pck(points, target, reference, visible=None, fraction=0.2):
    """Share of the visible keypoints that lie within a fraction of a reference size of the truth.

    Args:
        points: `[..., joints, dimensions]`, in pixels for instance.
        target: An array of the same shape and unit.
        reference: Reference size in the same unit: `[...]`, one for every sample (see `reference_size`), or one number
            for all, such as the size of the crop.
        visible: `[..., joints]`, true where a keypoint counts; all by default.
        fraction: Fraction of the reference size that is allowed.

    Returns:
        `(mean, joints)`: the share of all keypoints that are right, and float64 `[joints]`, the same for every joint.
        NaN where nothing counts. A prediction that is no number is wrong; samples whose reference size is no positive
        number do not count.

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> truth = np.random.default_rng(0).uniform(0, 224, (8, 14, 2))
        >>> mean, of_joints = pck(truth, truth, reference_size(truth, kind="torso"), fraction=0.2)
        >>> mean, of_joints.shape
        (1.0, (14,))

    Reference:
        Yang and Ramanan, "Articulated Human Detection with Flexible Mixtures of Parts", PAMI 2013.
    """
    distances, counted = _relative_distances(points, target, reference, visible)
    right = counted & (distances <= fraction)
    over_samples = tuple(range(counted.ndim - 1))
    return float(_share(right.sum(), counted.sum())), _share(right.sum(over_samples), counted.sum(over_samples))


def distance_curve(points, target, reference=1.0, visible=None, thresholds=None):
    """Share of right keypoints over the allowed distance.

    Args:
        points: `[..., joints, dimensions]`.
        target: An array of the same shape and unit.
        reference: As in `pck`; 1 leaves the thresholds in the unit of the points.
        visible: As in `pck`.
        thresholds: `[thresholds]` allowed distances in reference sizes, rising; 0 to 0.5 in 51 steps by default.

    Returns:
        `(thresholds, shares, area)`: float64 `[thresholds]`, float64 `[thresholds]`, and the area under the curve
        divided by the span of the thresholds, so that always right is 1.

    Raises:
        ValueError: If the shapes do not fit or the thresholds do not rise.
    """
    thresholds = np.linspace(0, 0.5, 51) if thresholds is None else np.asarray(thresholds, np.float64)
    if thresholds.ndim != 1 or len(thresholds) < 2 or (np.diff(thresholds) <= 0).any():
        raise ValueError(f"thresholds are {thresholds}; give at least two rising distances.")
    distances, counted = _relative_distances(points, target, reference, visible)
    ordered = np.sort(distances[counted])
    shares = _share(np.searchsorted(ordered, thresholds, side="right"), np.full(len(thresholds), counted.sum()))
    area = np.sum(np.diff(thresholds) * (shares[1:] + shares[:-1]) / 2) / (thresholds[-1] - thresholds[0])
    return thresholds, shares, float(area)


def reference_size(target, visible=None, kind="torso", skeleton=LSP14):
    """Size of every person, for `pck`.

    Args:
        target: `[..., joints, dimensions]` true keypoints; the first ones in the skeleton's order.
        visible: `[..., joints]`, true where a keypoint is known; all by default.
        kind: `"torso"`, from a shoulder to the opposite hip (left shoulder first); `"head"`, from the neck to the top
            of the head; `"box"`, the longer side of the box around the visible keypoints.
        skeleton: The `Skeleton` that names the joints.

    Returns:
        Float64 `[...]` in the unit of the keypoints; NaN where the joints needed are not visible.

    Raises:
        ValueError: If the kind is unknown.
        KeyError: If the skeleton lacks a joint that the kind needs.
    """
    target = np.asarray(target, np.float64)
    visible = np.ones(target.shape[:-1], bool) if visible is None else np.asarray(visible).astype(bool)
    visible = np.broadcast_to(visible, target.shape[:-1]) & np.isfinite(target).all(-1)
    if kind == "torso":
        first = _distance(target, visible, skeleton, "left_shoulder", "right_hip")
        second = _distance(target, visible, skeleton, "right_shoulder", "left_hip")
        return np.where(np.isnan(first), second, first)
    if kind == "head":
        return _distance(target, visible, skeleton, "neck", "head_top")
    if kind == "box":
        low = np.where(visible[..., None], target, np.inf).min(-2)
        high = np.where(visible[..., None], target, -np.inf).max(-2)
        side = (high - low).max(-1)
        return np.where(np.isfinite(side), side, np.nan)
    raise ValueError(f"kind is {kind!r}; choose from {list(REFERENCES)}, or give pck a number.")


def _distance(target, visible, skeleton, start, end):
    start, end = skeleton.index(start), skeleton.index(end)
    distance = np.linalg.norm(target[..., start, :] - target[..., end, :], axis=-1)
    return np.where(visible[..., start] & visible[..., end], distance, np.nan)


def _relative_distances(points, target, reference, visible):
    """Distances in reference sizes, infinite where the prediction is no number, and which of them count."""
    points, target = np.asarray(points, np.float64), np.asarray(target, np.float64)
    if points.shape != target.shape or points.ndim < 2:
        raise ValueError(
            f"points have the shape {points.shape} and the target {target.shape}; both must be "
            "[..., joints, dimensions] in one joint order."
        )
    reference = np.asarray(reference, np.float64)
    if reference.shape not in ((), points.shape[:-2]):
        raise ValueError(f"reference has the shape {reference.shape}; give one number or {points.shape[:-2]} of them.")
    known = (np.isfinite(reference) & (reference > 0))[..., None]
    distances = np.linalg.norm(points - target, axis=-1) / np.where(known, reference[..., None], 1.0)
    visible = np.ones(distances.shape, bool) if visible is None else np.asarray(visible).astype(bool)
    counted = np.broadcast_to(visible & known, distances.shape) & np.isfinite(target).all(-1)
    return np.where(np.isnan(distances), np.inf, distances), counted


def _share(right, counted):
    right, counted = np.asarray(right, np.float64), np.asarray(counted, np.float64)
    return np.divide(right, counted, out=np.full(right.shape, np.nan), where=counted > 0)
