"""Operations behind layers and losses: nearest neighbours, mesh reprojection, gradient penalty, graphs, rasterising."""

from posekit.ops import native
from posekit.ops.gradient_penalty import gradient_penalty
from posekit.ops.locally_connected import locally_connected
from posekit.ops.mesh_reprojection import mesh_reprojection
from posekit.ops.nearest_neighbors import nearest_neighbors

__all__ = ["gradient_penalty", "locally_connected", "mesh_reprojection", "native", "nearest_neighbors"]
