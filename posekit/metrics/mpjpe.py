"""Joint position errors in 3-D: as they are, with roots aligned, and after Procrustes alignment."""

import numpy as np

from posekit.geometry.alignment import align_root, procrustes


def mpjpe(joints, target, root=None, visible=None):
    """Mean distance of predicted from true joints, for every sample ("protocol 1").

    Args:
        joints: `[..., joints, dimensions]`, in any unit.
        target: An array of the same shape, in the same unit.
        root: Index of a joint to lay on top of each other first, or several indices whose mean is the root; None
            compares the joints where they are.
        visible: `[..., joints]`, true where a joint counts; all by default.

    Returns:
        Float64 `[...]` in that unit: one error for every sample (its `.mean()` is the figure of a dataset); NaN where
        no joint counts.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> true_m = np.zeros((8, 14, 3))
        >>> predicted_m = true_m + [0.03, 0.0, 0.04]
        >>> print(mpjpe(1000 * predicted_m, 1000 * true_m).mean())
        50.0
        >>> print(mpjpe(1000 * predicted_m, 1000 * true_m, root=0).mean())
        0.0

    Follows: akanazawa/hmr/src/benchmark/eval_util.py:compute_errors.
    """
    return _mean_over_joints(joint_distances(joints, target, root), visible)


def procrustes_mpjpe(joints, target, visible=None, scale=True, reflection=False):
    """Mean distance of predicted from true joints after the best similarity transform ("protocol 2", PA-MPJPE).

    Args:
        joints: `[..., joints, dimensions]`, in any unit.
        target: An array of the same shape, in the same unit.
        visible: `[..., joints]`, true where a joint counts, for the alignment too; all by default.
        scale: Whether the alignment may scale.
        reflection: False, or `"best"` to allow mirroring; see `posekit.geometry.alignment.procrustes`.

    Returns:
        Float64 `[...]` in that unit: one error for every sample; NaN where no joint counts.

    Raises:
        ValueError: If the shapes differ.

    Follows: akanazawa/hmr/src/benchmark/eval_util.py:compute_errors.
    """
    joints, target = _same_shape(joints, target)
    if visible is None or np.all(visible):
        aligned, _ = procrustes(joints, target, scale, reflection)
        return joint_distances(aligned, target).mean(-1)
    visible = np.broadcast_to(np.asarray(visible, bool), joints.shape[:-1])
    errors = np.full(joints.shape[:-2], np.nan)
    for sample in zip(*np.nonzero(visible.any(-1))):
        there = visible[sample]
        aligned, _ = procrustes(joints[sample][there], target[sample][there], scale, reflection)
        errors[sample] = joint_distances(aligned, target[sample][there]).mean()
    return errors


def joint_distances(joints, target, root=None):
    """Distance of every predicted joint from the true one.

    Args:
        joints: `[..., joints, dimensions]`, in any unit.
        target: An array of the same shape, in the same unit.
        root: As in `mpjpe`.

    Returns:
        Float64 `[..., joints]` in that unit.

    Raises:
        ValueError: If the shapes differ.
    """
    joints, target = _same_shape(joints, target)
    if root is not None:
        joints, target = align_root(joints, root), align_root(target, root)
    away = joints - target
    return np.sqrt(np.einsum("...d,...d->...", away, away))


def _same_shape(joints, target):
    joints, target = np.asarray(joints, np.float64), np.asarray(target, np.float64)
    if joints.shape != target.shape or joints.ndim < 2:
        raise ValueError(
            f"joints have the shape {joints.shape} and the target {target.shape}; both must be "
            "[..., joints, dimensions] in one joint order."
        )
    return joints, target


def _mean_over_joints(distances, visible):
    if visible is None:
        return distances.mean(-1)
    visible = np.broadcast_to(np.asarray(visible, bool), distances.shape)
    counted = visible.sum(-1)
    total = np.where(visible, distances, 0.0).sum(-1)
    return np.divide(total, counted, out=np.full(total.shape, np.nan), where=counted > 0)
