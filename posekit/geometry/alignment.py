"""Alignment of point sets, in NumPy and float64: similarity transforms (Procrustes) and shared roots."""

import numpy as np


def procrustes(points, target, scale=True, reflection=False):
    """Moves, turns and scales point sets so that they lie as near as possible to their targets.

    Args:
        points: `[..., points, dimensions]`.
        target: An array of the same shape.
        scale: Whether the points may be scaled.
        reflection: False keeps left and right apart; `"best"` also allows mirroring, where that fits better; True
            mirrors always.

    Returns:
        `(aligned, transform)`: float64 `[..., points, dimensions]`, and a dict of `"rotation"`
        `[..., dimensions, dimensions]`, `"scale"` `[...]` and `"translation"` `[..., dimensions]` with
        `aligned = scale * points @ rotation + translation`, and of `"residual"` `[...]`: the sum of the squared
        distances that remain, relative to that of the target's points from their mean.

        Every input has a defined result, and no sample disturbs another. Points that all coincide, up to rounding,
        cannot be turned or scaled: they land on the target's mean with rotation identity, scale 1 and residual 1. A
        target whose points all coincide has the residual NaN, and with `scale` all points land on it. A sample with
        numbers that are not finite comes back as NaN, with rotation identity and scale 1. Where several rotations fit
        equally well, as for points on a line, one of them is taken.

    Raises:
        ValueError: If the shapes differ or `reflection` is neither a boolean nor "best".

    Example:
        >>> truth = np.random.default_rng(0).normal(size=(8, 14, 3))
        >>> aligned, transform = procrustes(2 * truth + 1, truth)
        >>> np.allclose(aligned, truth), np.allclose(transform["scale"], 0.5)
        (True, True)

    Reference:
        Gower, "Generalized Procrustes Analysis", Psychometrika 1975.

    Follows: akanazawa/hmr/src/benchmark/eval_util.py:compute_similarity_transform,
    CHUNYUWANG/lcn-pose tools/tools.py:procrustes.
    Differs: the latter divides by zero where the points coincide.
    """
    points, target = np.asarray(points, np.float64), np.asarray(target, np.float64)
    if points.shape != target.shape or points.ndim < 2:
        raise ValueError(
            f"points have the shape {points.shape} and the target {target.shape}; both must be "
            "[..., points, dimensions] of one size."
        )
    if not (isinstance(reflection, (bool, np.bool_)) or (isinstance(reflection, str) and reflection == "best")):
        raise ValueError(f"reflection is {reflection!r}; choose False, True or 'best'.")
    dimensions = points.shape[-1]
    points_mean, target_mean = points.mean(-2, keepdims=True), target.mean(-2, keepdims=True)
    centred, target_centred = points - points_mean, target - target_mean
    spread, target_spread = (np.square(array).sum((-2, -1)) for array in (centred, target_centred))
    correlation = np.swapaxes(centred, -1, -2) @ target_centred
    unknown = ~(np.isfinite(correlation).all((-2, -1)) & np.isfinite(spread))
    # Where there is nothing to turn, or no number to do it with, the SVD gets a zero matrix.
    degenerate = unknown | (spread <= _rounding(points_mean, points.shape[-2]))
    left, singular, right = np.linalg.svd(np.where(degenerate[..., None, None], 0.0, correlation))
    signs = np.ones_like(singular)
    if not isinstance(reflection, str):
        mirrors = np.linalg.det(left @ right) < 0
        signs[..., -1] = np.where(mirrors == bool(reflection), 1.0, -1.0)
    rotation = (left * signs[..., None, :]) @ right
    rotation = np.where(degenerate[..., None, None], np.eye(dimensions), rotation)
    trace = (singular * signs).sum(-1)
    factor = np.ones_like(spread)
    if scale:
        np.divide(trace, spread, out=factor, where=~degenerate)
    translation = target_mean - factor[..., None, None] * (points_mean @ rotation)
    aligned = factor[..., None, None] * (points @ rotation) + translation
    aligned = np.where(unknown[..., None, None], np.nan, aligned)
    remaining = target_spread + factor * (factor * spread - 2 * trace)
    flat = unknown | (target_spread <= _rounding(target_mean, points.shape[-2]))
    residual = np.divide(np.maximum(remaining, 0), target_spread, out=np.full(spread.shape, np.nan), where=~flat)
    return aligned, {
        "rotation": rotation,
        "scale": factor,
        "translation": translation[..., 0, :],
        "residual": residual,
    }


def _rounding(mean, count):
    """Squared spread `[...]` that `count` equal points around a mean `[..., 1, dimensions]` have by rounding alone."""
    with np.errstate(invalid="ignore", over="ignore"):
        return count * np.square(4 * np.finfo(np.float64).eps * mean).sum((-2, -1))


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
