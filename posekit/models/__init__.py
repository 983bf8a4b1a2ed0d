"""Importable Keras models."""

from posekit.models.hmr import HMR, Critic
from posekit.models.lcn import LCN
from posekit.models.openpose import OpenPose
from posekit.models.v2v import V2VPoseNet

__all__ = ["HMR", "LCN", "Critic", "OpenPose", "V2VPoseNet"]
