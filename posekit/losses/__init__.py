"""Loss functions: keypoints, silhouettes, critics, heatmaps, part affinity fields."""

from posekit.losses.adversarial import critic_loss, generator_critic_loss, gradient_penalty
from posekit.losses.heatmap import heatmap_mse, labelled_mean, mixed_loss, volumetric_cross_entropy
from posekit.losses.keypoint import keypoint_reprojection_loss, loss_3d
from posekit.losses.paf import masked_map_loss, stage_losses
from posekit.losses.silhouette import mesh_reprojection_loss

__all__ = [
    "critic_loss",
    "generator_critic_loss",
    "gradient_penalty",
    "heatmap_mse",
    "keypoint_reprojection_loss",
    "labelled_mean",
    "loss_3d",
    "masked_map_loss",
    "mesh_reprojection_loss",
    "mixed_loss",
    "stage_losses",
    "volumetric_cross_entropy",
]
