"""Keras layers: bodies, kinematic chains, iterative regression, graphs of joints, volumes."""

from posekit.layers.fused import BitDropout, FusedBatchNormalization
from posekit.layers.kinematic_chain import KinematicChainSpace
from posekit.layers.locally_connected import LocallyConnectedGraph, NeighbourMask
from posekit.layers.smpl import SMPL
from posekit.layers.stages import CorrectionNetwork, IterativeRegressor, MeanParameters
from posekit.layers.volumetric import (
    BasicBlock3D,
    ResidualBlock3D,
    UpsampleBlock3D,
    VolumeBatchNormalization,
    VolumetricSoftArgmax,
)

__all__ = [
    "SMPL",
    "BasicBlock3D",
    "BitDropout",
    "CorrectionNetwork",
    "FusedBatchNormalization",
    "IterativeRegressor",
    "KinematicChainSpace",
    "LocallyConnectedGraph",
    "MeanParameters",
    "NeighbourMask",
    "ResidualBlock3D",
    "UpsampleBlock3D",
    "VolumeBatchNormalization",
    "VolumetricSoftArgmax",
]
