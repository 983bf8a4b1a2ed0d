"""Alignment of point sets, in NumPy and float64: similarity transforms (Procrustes) and shared roots."""

import numpy as np


def procrustes(points, target, scale=True, reflection=False):
    """Moves, turns and scales point sets so that they lie as near as possible to their targets.

    Args:
        points: `[..., points, dimensions]`.
        target: An array of the same shape.
        scale: Whether the points may be scaled.
        reflection: False keeps left and right apart; `"best"` also allows mirroring, where that fits better.

    Returns:
        `(aligned, transform)`: float64 `[..., points, dimensions]`, and a dict of `"rotation"`
        `[..., dimensions, dimensions]`, `"scale"` `[...]` and `"translation"` `[..., dimensions]` with
        `aligned = scale * points @ rotation + translation`. Points that all coincide cannot be turned or scaled: they
        land on the target's mean with rotation identity and scale 1.

    Raises:
        ValueError: If the shapes differ or `reflection` is neither False nor "best".

    Example:
        >>> truth = np.random.default_rng(0).normal(size=(8, 14, 3))
        >>> aligned, transform = procrustes(2 * truth + 1, truth)
        >>> np.allclose(aligned, truth), np.allclose(transform["scale"], 0.5)
        (True, True)

    Reference:
        Gower, "Generalized Procrustes Analysis", Psychometrika 1975.

    Follows: akanazawa/hmr/src/benchmark/eval_util.py:compute_similarity_transform.
    """
    points, target = np.asarray(points, np.float64), np.asarray(target, np.float64)
    if points.shape != target.shape or points.ndim < 2:
        raise ValueError(
            f"points have the shape {points.shape} and the target {target.shape}; both must be "
            "[..., points, dimensions] of one size."
        )
    if reflection not in (False, "best"):
        raise ValueError(f"reflection is {reflection!r}; choose False or 'best'.")
    dimensions = points.shape[-1]
    points_mean, target_mean = points.mean(-2, keepdims=True), target.mean(-2, keepdims=True)
    centred, target_centred = points - points_mean, target - target_mean
    spread = np.square(centred).sum((-2, -1))
    # Where there is nothing to turn, or no number to do it with, the SVD gets a zero matrix.
    correlation = np.swapaxes(centred, -1, -2) @ target_centred
    degenerate = ~np.isfinite(correlation).all((-2, -1)) | (spread <= 0)
    left, singular, right = np.linalg.svd(np.where(degenerate[..., None, None], 0.0, correlation))
    signs = np.ones_like(singular)
    if reflection is False:
        signs[..., -1] = np.where(np.linalg.det(left @ right) < 0, -1.0, 1.0)
    rotation = (left * signs[..., None, :]) @ right
    rotation = np.where(degenerate[..., None, None], np.eye(dimensions), rotation)
    factor = np.ones_like(spread)
    if scale:
        np.divide((singular * signs).sum(-1), spread, out=factor, where=~degenerate)
    translation = target_mean - factor[..., None, None] * (points_mean @ rotation)
    aligned = factor[..., None, None] * (points @ rotation) + translation
    return aligned, {"rotation": rotation, "scale": factor, "translation": translation[..., 0, :]}


def align_root(points, root):
    """Moves point sets so that their root lies at the origin.

    Args:
        points: `[..., joints, dimensions]`.
        root: Index of the root joint, or several indices whose mean is the root (both hips, for instance).

    Returns:
        Float64 array of the same shape.
    """
    points = np.asarray(points, np.float64)
    return points - points[..., np.atleast_1d(root), :].mean(-2, keepdims=True)
