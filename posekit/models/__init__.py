"""Importable Keras models."""

from posekit.models.hmr import HMR, Critic

__all__ = ["HMR", "Critic"]
