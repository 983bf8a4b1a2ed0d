"""Operations behind losses: nearest neighbours, mesh reprojection, gradient penalty, rasterising."""

from posekit.ops import native
from posekit.ops.gradient_penalty import gradient_penalty
from posekit.ops.mesh_reprojection import mesh_reprojection
from posekit.ops.nearest_neighbors import nearest_neighbors

__all__ = ["gradient_penalty", "mesh_reprojection", "native", "nearest_neighbors"]
