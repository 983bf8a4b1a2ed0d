"""Measures of how good a pose is, in NumPy."""

from posekit.metrics.mpjpe import joint_distances, mpjpe, procrustes_mpjpe
from posekit.metrics.pck import distance_curve, pck, reference_size
from posekit.metrics.pck3d import auc3d, pck3d

__all__ = [
    "auc3d",
    "distance_curve",
    "joint_distances",
    "mpjpe",
    "pck",
    "pck3d",
    "procrustes_mpjpe",
    "reference_size",
]
