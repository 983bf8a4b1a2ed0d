"""Keras layers."""

from posekit.layers.smpl import SMPL

__all__ = ["SMPL"]
