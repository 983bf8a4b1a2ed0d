"""Keras layers: bodies, kinematic chains, iterative regression, graphs of joints."""

from posekit.layers.fused import BitDropout, FusedBatchNormalization
from posekit.layers.kinematic_chain import KinematicChainSpace
from posekit.layers.locally_connected import LocallyConnectedGraph, NeighbourMask
from posekit.layers.smpl import SMPL
from posekit.layers.stages import CorrectionNetwork, IterativeRegressor, MeanParameters

__all__ = [
    "SMPL",
    "BitDropout",
    "CorrectionNetwork",
    "FusedBatchNormalization",
    "IterativeRegressor",
    "KinematicChainSpace",
    "LocallyConnectedGraph",
    "MeanParameters",
    "NeighbourMask",
]
