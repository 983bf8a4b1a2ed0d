"""Grids of voxels: points to occupied voxels, places to volumes that peak there, and volumes back to places.

A grid is `[..., x, y, z]`: the first index is x. The Lua original stores z, y, x; `grid.transpose(2, 1, 0)` turns one
into the other. Places are `[..., 3]` (x, y, z) in voxels; what a whole number means, a voxel's corner or its middle, is
the codec's to say. All NumPy, in float64.
"""

import math

import numpy as np

# What V2V-PoseNet's augmentation draws from: size in percent, and angle about z.
NEW_SIZES = (80.0, 120.0)
ANGLES_DEG = (-40.0, 40.0)
# Added before rounding to the nearest voxel: whole voxels that are scaled often end halfway between two, and belong to
# the upper one whatever the last bits are.
TIE_MARGIN = 1e-4


def occupancy(coords, size, rounding="truncate"):
    """Marks the voxels that points fall into.

    Args:
        coords: `[points, 3]` in voxels. Points outside the grid and points that are not finite mark nothing.
        size: Voxels along an edge.
        rounding: `"truncate"`: voxel i has its lower corner at i, and points less than one voxel below the grid count
            as within the first, because the PyTorch port rounds towards zero; `"nearest"`: voxel i has its middle at i,
            and points halfway between two belong to the upper one, as in the Lua original.

    Returns:
        Uint8 `[size, size, size]` of 0 and 1.

    Raises:
        ValueError: If the shape or the rounding is another.

    Follows: dragonbook/V2V-PoseNet-pytorch src/v2v_util.py:scattering; mks0601/V2V-PoseNet_RELEASE
    src/util.lua:scattering.
    """
    coords = np.asarray(coords, np.float64)
    if coords.ndim != 2 or coords.shape[1] != 3:
        raise ValueError(f"Points of shape {coords.shape} are not [points, 3].")
    if rounding == "nearest":
        coords = np.floor(coords + (0.5 + TIE_MARGIN))
        kept = np.all((coords >= 0) & (coords < size), -1)
    elif rounding == "truncate":
        kept = np.all((coords > -1) & (coords < size), -1)
    else:
        raise ValueError(f"Rounding {rounding!r} is not truncate or nearest.")
    grid = np.zeros((size, size, size), np.uint8)
    grid[tuple(coords[kept].astype(np.int64).T)] = 1
    return grid


def gaussian_profiles(coords, size, sigma, voxel_middle=0.5):
    """Values of Gaussians along the three axes; their outer product is the Gaussian in space.

    Args:
        coords: `[..., 3]` places in voxels.
        size: Voxels along an edge.
        sigma: Standard deviation in voxels.
        voxel_middle: Where the middle of voxel 0 is: 0.5 or 0.

    Returns:
        Float64 `[..., 3, size]`, 1 at the place itself; all 0 for places that are not numbers.
    """
    distance = np.arange(size) + voxel_middle - np.asarray(coords, np.float64)[..., None]
    return _known(np.exp(-((distance / sigma) ** 2) / 2))


def hat_profiles(coords, size):
    """Weights of linear interpolation along the three axes; their outer product are those of the eight corners.

    Args:
        coords: `[..., 3]` places in voxels, in [0, size - 1].
        size: Voxels along an edge.

    Returns:
        Float64 `[..., 3, size]`, of sum 1 over the last axis; all 0 for places that are not numbers.

    Follows: dragonbook/V2V-PoseNet-pytorch integral-pose/v2v_util.py:containing_box_coord, box_coord_prob.
    """
    distance = np.arange(size) - np.asarray(coords, np.float64)[..., None]
    return _known(np.maximum(0, 1 - np.abs(distance)))


def outer_product(profiles):
    """Volumes from their profiles along the axes.

    Args:
        profiles: `[..., 3, size]`.

    Returns:
        `[..., size, size, size]`.
    """
    x, y, z = profiles[..., 0, :], profiles[..., 1, :], profiles[..., 2, :]
    return x[..., :, None, None] * (y[..., :, None] * z[..., None, :])[..., None, :, :]


def peaks(volumes):
    """Voxels of the largest values.

    Args:
        volumes: `[..., x, y, z]`, the three sizes of any length above 0.

    Returns:
        Int64 `[..., 3]`. Of equal values the one of the smallest x counts, then of the smallest y, then of the smallest
        z; a value that is not a number counts as the largest.

    Raises:
        ValueError: If there are fewer than 3 axes, or no voxels.

    Follows: dragonbook/V2V-PoseNet-pytorch src/v2v_util.py:extract_coord_from_output; mks0601/V2V-PoseNet_RELEASE
    src/util.lua:extract_coord_from_output (z, y and x in turn, which comes to the same).
    """
    volumes = np.asarray(volumes)
    if volumes.ndim < 3 or 0 in volumes.shape[-3:]:
        raise ValueError(f"Volumes of shape {volumes.shape} are not [..., x, y, z] with voxels.")
    size = volumes.shape[-3:]
    flat = volumes.reshape(*volumes.shape[:-3], int(np.prod(size)))
    return np.stack(np.unravel_index(flat.argmax(-1), size), -1)


def expectations(volumes):
    """Mean places of volumes of weights.

    Args:
        volumes: `[..., x, y, z]` of weights not below 0.

    Returns:
        Float64 `[..., 3]` in voxels, voxel i at i; NaN where there is no weight.

    Follows: dragonbook/V2V-PoseNet-pytorch integral-pose/model.py:VolumetricSoftmax (after its softmax).
    """
    volumes = np.asarray(volumes, np.float64)
    if volumes.ndim < 3:
        raise ValueError(f"Volumes of shape {volumes.shape} are not [..., x, y, z].")
    totals = volumes.sum((-3, -2, -1))
    totals = np.where(totals > 0, totals, np.nan)
    means = []
    for axis in (-3, -2, -1):
        others = tuple({-3, -2, -1} - {axis})
        means.append((volumes.sum(others) * np.arange(volumes.shape[axis])).sum(-1) / totals)
    return np.stack(means, -1)


def _known(profiles):
    return np.where(np.isnan(profiles), 0.0, profiles)


def augmented_reach(voxel_size, original_size, smallest_scale):
    """How far from the reference point augmented cubes look.

    Args:
        voxel_size: Edge of a voxel in the world.
        original_size: Voxels along the edge of the larger cube, from which the network's cube is cropped.
        smallest_scale: Scale at which the cube shows most of the world, such as 0.8.

    Returns:
        `(x, y, z)` in the world.
    """
    # A voxel more for what the conventions round: points, and Lua's scale and shift.
    half = (original_size / 2 + 2) / smallest_scale * voxel_size
    corner = sum(math.cos(math.radians(angle)) for angle in (ANGLES_DEG[1], 90 - ANGLES_DEG[1])) * half
    return corner, corner, half
