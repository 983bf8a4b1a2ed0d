"""Loss functions: keypoints, silhouettes, critics."""

from posekit.losses.adversarial import critic_loss, generator_critic_loss, gradient_penalty
from posekit.losses.keypoint import keypoint_reprojection_loss, loss_3d
from posekit.losses.silhouette import mesh_reprojection_loss

__all__ = [
    "critic_loss",
    "generator_critic_loss",
    "gradient_penalty",
    "keypoint_reprojection_loss",
    "loss_3d",
    "mesh_reprojection_loss",
]
