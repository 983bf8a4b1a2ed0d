"""Importable Keras models."""

from posekit.models.hmr import HMR, Critic
from posekit.models.lcn import LCN

__all__ = ["HMR", "LCN", "Critic"]
