"""Shares of joints within some distance of the truth in 3-D, as MPI-INF-3DHP's tables give them."""

import numpy as np

from posekit.metrics.mpjpe import joint_distances

PCK3D_MM = 150.0
# 0 to 150 mm in steps of 5.
AUC_THRESHOLDS_MM = np.linspace(0.0, 150.0, 31)
AUC_THRESHOLDS_MM.flags.writeable = False


def pck3d(joints, target, root=0, threshold=PCK3D_MM, visible=None):
    """Share of joints that lie less than a distance from the truth.

    Args:
        joints: `[..., joints, 3]`, in millimetres unless `threshold` says otherwise.
        target: An array of the same shape and unit.
        root: Index of a joint to lay on top of each other first, or several whose mean is the root; None compares the
            joints where they are. The root itself counts too.
        threshold: The distance.
        visible: `[..., joints]`, true where a joint counts; all by default.

    Returns:
        The share, from 0 to 1; NaN where no joint counts. A prediction that is no number is wrong.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> truth = np.random.default_rng(0).normal(0, 300, (8, 17, 3))
        >>> pck3d(truth + 1000, truth), pck3d(truth + 1000, truth, root=None)
        (1.0, 0.0)

    Reference:
        Mehta et al., "Monocular 3D Human Pose Estimation In The Wild Using Improved CNN Supervision", 3DV 2017.
    """
    return float(shares_within(joint_distances(joints, target, root), [threshold], visible)[0])


def auc3d(joints, target, root=0, thresholds=AUC_THRESHOLDS_MM, visible=None):
    """Area under the curve of `pck3d` over the threshold.

    Args:
        joints: As in `pck3d`.
        target: As in `pck3d`.
        root: As in `pck3d`.
        thresholds: `[thresholds]` rising distances; by default the 31 from 0 to 150 mm that MPI-INF-3DHP uses.
        visible: As in `pck3d`.

    Returns:
        Mean of the shares at the thresholds, which is how MPI-INF-3DHP takes the area; NaN where no joint counts. As
        nothing lies nearer than 0, even a perfect prediction has 30/31.

    Raises:
        ValueError: If the shapes differ or the thresholds do not rise.

    Reference:
        Mehta et al., "Monocular 3D Human Pose Estimation In The Wild Using Improved CNN Supervision", 3DV 2017.
    """
    return float(shares_within(joint_distances(joints, target, root), thresholds, visible).mean())


def shares_within(distances, thresholds, visible=None):
    """Shares of distances that are less than thresholds.

    Args:
        distances: Array of any shape.
        thresholds: `[thresholds]`, rising.
        visible: Array of the same shape, true where a distance counts; all by default.

    Returns:
        Float64 `[thresholds]`; NaN where nothing counts. A distance that is no number is far.

    Raises:
        ValueError: If the thresholds do not rise.
    """
    distances, thresholds = np.asarray(distances, np.float64), np.asarray(thresholds, np.float64)
    if thresholds.ndim != 1 or not len(thresholds) or not (np.diff(thresholds) > 0).all():
        raise ValueError(f"thresholds are {thresholds}; give rising distances.")
    if visible is not None:
        distances = distances[np.broadcast_to(np.asarray(visible, bool), distances.shape)]
    # A distance is too far for as many thresholds as are not greater than it; NaN sorts behind all of them.
    too_far = np.searchsorted(thresholds, distances.ravel(), side="right")
    near = np.cumsum(np.bincount(too_far, minlength=len(thresholds) + 1))[:-1]
    return near / distances.size if distances.size else np.full(len(thresholds), np.nan)
