"""Measures of how good a pose is, in NumPy."""

from posekit.metrics.mpjpe import mpjpe, procrustes_mpjpe
from posekit.metrics.pck import distance_curve, pck, reference_size

__all__ = ["distance_curve", "mpjpe", "pck", "procrustes_mpjpe", "reference_size"]
