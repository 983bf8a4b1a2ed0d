"""Voxels and volumes: a depth picture's points and joints as V2V-PoseNet reads and predicts them, and the way back.

Both directions stand side by side and speak of the same three spaces:

* world: millimetres or metres, as the dataset's camera says (`posekit.geometry.depth`);
* cube: the network's input of `cropped_size` voxels along an edge, after augmentation;
* grid: the network's output, coarser by `pool`.

Augmentation scales and turns the world about the middle of a somewhat larger cube of `original_size` voxels and crops
the network's cube out of it, anywhere. It is affine and undone exactly by the way back.

Conventions. With R the turn by the angle about z, s the scale, t the translation and w the size of a voxel in the
world, the place of a world point p near the reference point r is

* `"pytorch"`: `cube = s R (p - r) / w + original_size / 2 - t`. Voxel i reaches from i to i + 1, points are rounded
  towards zero, `grid = cube / pool`, and the middle of a grid's voxel i is at i + 1/2. s is new_size / 100. With
  `head="integral"`, s is 100 / new_size, the target holds the weights of the eight voxels around a joint, and voxel i
  of the grid stands at i.
* `"lua"`: first `v = floor((p - r) / w + cropped_size / 2)` plus half the margin of the larger cube, for points and
  joints alike; then the same about (original_size - 1) / 2, with the angle the other way round (this original flips y
  to turn) and with scale and shift rounded to whole voxels. Voxel i stands at i, points go to the nearest voxel,
  `grid = cube / pool`, and half a voxel is added on the way to the world. A joint comes back as the middle of its
  voxel: within half a voxel, not exactly.

A picture's first pixel has the number 1 with `"pytorch"` and 0 with `"lua"`, and crops lie where their boxes say. The
Lua original departs from that for MSRA alone (src/data/MSRA/data.lua:load_depthmap): it puts the part of a picture that
a file holds into the whole as if the file's box counted from 1, while it counts from 0. Its points lie one pixel to
the left of and above where they would by the reckoning of its other datasets: 1.5 mm at 350 mm, where a voxel has
2.3 mm. Here MSRA's pixels are where they were measured, as those of all datasets.

Joints outside the cube: in both conventions the cube cuts their Gaussian off, down to nothing, and what is decoded is
a voxel of the border (the first voxel where nothing is left); for the integral head, their coordinates are clipped to
[0, grid_size - 2]. Joints that are not numbers have empty volumes; the originals' are NaN throughout.
"""

import dataclasses
import math
import numbers
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from posekit.geometry import voxels as grids
from posekit.geometry.depth import DepthCamera, dataset_camera

CONVENTIONS = ("pytorch", "lua")
HEADS = ("heatmap", "integral")
ANGLES_DEG, NEW_SIZES = grids.ANGLES_DEG, grids.NEW_SIZES


# Pixels that measured nothing are put so many cubes behind the camera.
_FAR_CUBES = 1e4


class Augmentation(NamedTuple):
    """How a frame is augmented, or one entry for each frame of a batch.

    Args:
        new_size: `[...]` size in percent: 100 leaves it. Larger is larger, for the integral head smaller.
        angle: `[...]` angle about z in radians.
        translation: `[..., 3]` voxels from the larger cube's corner to the network's cube; the margin's half is the
            middle. The Lua original counts them from 1.
    """

    new_size: np.ndarray
    angle: np.ndarray
    translation: np.ndarray


@dataclasses.dataclass(frozen=True)
class VoxelCodec:
    """The representation: sizes, convention and head, with both ways, in NumPy and float64.

    Wherever `[...]` is said, any number of leading axes may stand, the same for all arguments. `batched()` gives the
    same for batches of tensors.

    Args:
        cubic_size: Edge of the network's cube in the world's unit: 200 mm for MSRA and ICVL, 250 mm for NYU and
            HANDS2017, 2 m for ITOP.
        original_size: Voxels along the edge of the larger cube.
        cropped_size: Voxels along the edge of the network's cube.
        pool: Voxels of the cube per voxel of the grid.
        sigma: Standard deviation of the Gaussians, in voxels of the grid.
        convention: `"pytorch"` or `"lua"`.
        head: `"heatmap"`: Gaussians, decoded by their peak; `"integral"`: weights of eight voxels, decoded by their
            mean; of the PyTorch port only.

    Raises:
        ValueError: If an argument is none of these.

    Example:
        >>> codec = VoxelCodec(cubic_size=200.0)
        >>> joints = np.array([[10.0, -20.0, 330.0]])
        >>> voxels, grid, target = codec.encode(joints, joints, refpoint=[0.0, 0.0, 320.0])
        >>> voxels.shape, target.shape
        ((88, 88, 88), (1, 44, 44, 44))
        >>> bool(np.abs(codec.decode(target, refpoint=[0.0, 0.0, 320.0]) - joints).max() <= 200 / 88)
        True

    Reference:
        Moon, Chang, Lee: V2V-PoseNet: Voxel-to-Voxel Prediction Network for Accurate 3D Hand and Human Pose
        Estimation from a Single Depth Map. CVPR 2018.
    """

    cubic_size: float
    original_size: int = 96
    cropped_size: int = 88
    pool: int = 2
    sigma: float = 1.7
    convention: str = "pytorch"
    head: str = "heatmap"

    def __post_init__(self):
        for name in ("cubic_size", "sigma"):
            value = getattr(self, name)
            if not isinstance(value, numbers.Real) or not 0 < value < math.inf:
                raise ValueError(
                    f"{name} {value!r} is not a length above 0, such as cubic_size=200 (mm) or sigma=1.7."
                )
        for name in ("original_size", "cropped_size", "pool"):
            value = getattr(self, name)
            if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} {value!r} is not a whole number of voxels above 0, such as 96, 88 and 2.")
        if self.original_size < self.cropped_size:
            raise ValueError(
                f"A cube of {self.cropped_size} voxels cannot be cropped out of one of {self.original_size}; give "
                "an original_size that is not smaller, such as 96 for 88."
            )
        if self.cropped_size % self.pool or self.grid_size < 2:
            raise ValueError(
                f"A cube of {self.cropped_size} voxels pooled by {self.pool} has no whole grid of 2 voxels or more; "
                "give a multiple, such as 88 and 2."
            )
        if self.convention not in CONVENTIONS:
            raise ValueError(f"Convention {self.convention!r} is not one of {', '.join(CONVENTIONS)}.")
        if self.head not in HEADS:
            raise ValueError(f"Head {self.head!r} is not one of {', '.join(HEADS)}.")
        if self.head == "integral" and self.convention == "lua":
            raise ValueError(
                "The Lua original has no integral head; take head='heatmap' with convention='lua', or "
                "convention='pytorch' with head='integral'."
            )

    @property
    def grid_size(self):
        """Voxels along the edge of the network's output."""
        return self.cropped_size // self.pool

    @property
    def voxel_size(self):
        """Edge of a voxel of the cube in the world."""
        return self.cubic_size / self.cropped_size

    @property
    def first_pixel(self):
        """Number of a picture's first pixel: the PyTorch port counts from 1, the Lua original from 0."""
        return 1 if self.convention == "pytorch" else 0

    @property
    def reach(self):
        """`(x, y, z)`: how far from the reference point any augmentation looks, in the world; for crops of pictures."""
        smallest = 100 / NEW_SIZES[1] if self.head == "integral" else NEW_SIZES[0] / 100
        return grids.augmented_reach(self.voxel_size, self.original_size, smallest)

    @property
    def identity(self):
        """The `Augmentation` that changes nothing, as in tests and predictions."""
        return Augmentation(np.float64(100), np.float64(0), np.full(3, (self.original_size - self.cropped_size) / 2))

    def batched(self):
        """The same for batches of tensors: a `BatchedVoxelCodec`."""
        return BatchedVoxelCodec(self)

    def augmentation(self, uniform):
        """The augmentation that numbers between 0 and 1 stand for.

        Args:
            uniform: `[..., 5]` uniform random numbers in [0, 1): size, angle, translation.

        Returns:
            `Augmentation`: sizes from 80 to 120, angles within 40°, translations anywhere in the margin, by whole
            voxels in the Lua convention.

        Follows: dragonbook/V2V-PoseNet-pytorch src/v2v_util.py, integral-pose/v2v_util.py:V2VVoxelization (the order
        of its random numbers too); mks0601/V2V-PoseNet_RELEASE src/util.lua:DataLoad.
        """
        return self._augmentation(np, np.asarray(uniform, np.float64))

    def draw(self, rng, shape=()):
        """Draws augmentations.

        Args:
            rng: A seed or a `numpy.random.Generator`.
            shape: Leading axes.

        Returns:
            `Augmentation` with the leading axes `shape`.
        """
        return self.augmentation(np.random.default_rng(rng).random((*shape, 5)))

    def world_to_cube(self, points, refpoint, augmentation=None):
        """World to cube.

        Args:
            points: `[..., points, 3]`.
            refpoint: `[..., 3]` the reference point, in the middle of the cube.
            augmentation: `Augmentation`; none if None.

        Returns:
            Float64 `[..., points, 3]` in voxels, inside and outside the cube.

        Raises:
            ValueError: If a shape does not match, the reference point is not finite, or a size is not positive.

        Follows: dragonbook/V2V-PoseNet-pytorch src/v2v_util.py, integral-pose/v2v_util.py:generate_coord;
        mks0601/V2V-PoseNet_RELEASE src/util.lua:generate_cubic_input.
        """
        points, refpoint, augmentation = self._checked(points, refpoint, augmentation)
        with np.errstate(invalid="ignore"):  # infinite points end as NaN
            return self._world_to_cube(np, points, refpoint, augmentation)

    def cube_to_world(self, coords, refpoint, augmentation=None):
        """Cube to world; the inverse of `world_to_cube`, in the Lua convention to the middle of the voxel.

        Args:
            coords: `[..., points, 3]` in voxels.
            refpoint: `[..., 3]`.
            augmentation: `Augmentation`; none if None.

        Returns:
            Float64 `[..., points, 3]` in the world.

        Raises:
            ValueError: As `world_to_cube`.

        Follows: dragonbook/V2V-PoseNet-pytorch src/v2v_util.py:warp2continuous; mks0601/V2V-PoseNet_RELEASE
        src/util.lua:warp2continuous.
        Differs: undoes an augmentation too.
        """
        coords, refpoint, augmentation = self._checked(coords, refpoint, augmentation)
        return self._cube_to_world(np, coords, refpoint, augmentation)

    def voxels(self, points, refpoint, augmentation=None):
        """Points of one frame to the network's input.

        Args:
            points: `[points, 3]` in the world; there may be none. Points outside the cube and points that are not
                finite mark nothing.
            refpoint: `[3]`.
            augmentation: `Augmentation`; none if None.

        Returns:
            Uint8 `[cropped_size, cropped_size, cropped_size]` (x, y, z): 1 where there are points.

        Raises:
            ValueError: As `world_to_cube`.

        Follows: dragonbook/V2V-PoseNet-pytorch src/v2v_util.py:generate_cubic_input; mks0601/V2V-PoseNet_RELEASE
        src/util.lua:generate_cubic_input.
        """
        coords = self.world_to_cube(points, refpoint, augmentation)
        return grids.occupancy(coords, self.cropped_size, "truncate" if self.convention == "pytorch" else "nearest")

    def joints_to_grid(self, joints, refpoint, augmentation=None):
        """World to grid, with what the head does to joints outside.

        Args:
            joints: `[..., joints, 3]` in the world.
            refpoint: `[..., 3]`.
            augmentation: `Augmentation`; none if None.

        Returns:
            Float64 `[..., joints, 3]` in voxels of the grid; for the integral head clipped to [0, grid_size - 2].

        Raises:
            ValueError: As `world_to_cube`.

        Follows: dragonbook/V2V-PoseNet-pytorch integral-pose/v2v_util.py:generate_volume_coord_gt, and the beginning
        of both originals' generate_heatmap_gt.
        """
        grid = self.world_to_cube(joints, refpoint, augmentation) / self.pool
        return np.clip(grid, 0, self.grid_size - 2) if self.head == "integral" else grid

    def to_world(self, grid, refpoint, augmentation=None):
        """Grid to world; the inverse of `joints_to_grid`.

        Args:
            grid: `[..., joints, 3]` in voxels of the grid, as of `extract` or the integral head.
            refpoint: `[..., 3]`.
            augmentation: The `Augmentation` to undo; none if None.

        Returns:
            Float64 `[..., joints, 3]` in the world.

        Raises:
            ValueError: As `world_to_cube`.

        Follows: dragonbook/V2V-PoseNet-pytorch src/v2v_util.py:V2VVoxelization.evaluate,
        integral-pose/v2v_util.py:V2VVoxelization.warp2continuous_raw; mks0601/V2V-PoseNet_RELEASE src/test.lua.
        """
        return self.cube_to_world(np.asarray(grid, np.float64) * self.pool, refpoint, augmentation)

    def heatmaps(self, grid):
        """Gaussians around joints.

        Args:
            grid: `[..., joints, 3]` in voxels of the grid.

        Returns:
            Float64 `[..., joints, grid_size, grid_size, grid_size]`.

        Follows: dragonbook/V2V-PoseNet-pytorch src/v2v_util.py:generate_heatmap_gt; mks0601/V2V-PoseNet_RELEASE
        src/util.lua:generate_heatmap_gt.
        Differs: made of three profiles each.
        """
        profiles = grids.gaussian_profiles(_triples(grid), self.grid_size, self.sigma, self._voxel_middle)
        return grids.outer_product(profiles)

    def one_hot(self, grid):
        """Weights of the eight voxels around joints, whose mean is the joint.

        Args:
            grid: `[..., joints, 3]` in voxels of the grid, within [0, grid_size - 1].

        Returns:
            Float64 `[..., joints, grid_size, grid_size, grid_size]`, each of sum 1.

        Follows: dragonbook/V2V-PoseNet-pytorch integral-pose/v2v_util.py:generate_onehot_heatmap_gt.
        """
        return grids.outer_product(grids.hat_profiles(_triples(grid), self.grid_size))

    def target(self, grid):
        """What the head is trained to predict: `heatmaps(grid)`, or `one_hot(grid)` for the integral head."""
        return self.one_hot(grid) if self.head == "integral" else self.heatmaps(grid)

    def extract(self, volumes):
        """Volumes to grid: the middle of the voxel of the largest value, or the mean place for the integral head.

        Args:
            volumes: `[..., joints, x, y, z]`: heatmaps; for the integral head weights (after its softmax).

        Returns:
            Float64 `[..., joints, 3]` in voxels of the grid. Of equal values the one of the smallest x, y and z, in
            this order, counts. NaN for heatmaps that hold NaN and for weights of sum 0.

        Raises:
            ValueError: If the shape is another.

        Follows: dragonbook/V2V-PoseNet-pytorch src/v2v_util.py:extract_coord_from_output; mks0601/V2V-PoseNet_RELEASE
        src/util.lua:extract_coord_from_output.
        """
        if self.head == "integral":
            return grids.expectations(volumes)
        volumes = np.asarray(volumes)
        coords = grids.peaks(volumes) + self._voxel_middle
        return np.where(np.isnan(volumes.max((-3, -2, -1)))[..., None], np.nan, coords)

    def encode(self, points, joints, refpoint, augmentation=None):
        """One frame to what the network reads and is trained with.

        Args:
            points: `[points, 3]` in the world.
            joints: `[joints, 3]` in the world.
            refpoint: `[3]`.
            augmentation: `Augmentation`; none if None.

        Returns:
            `(voxels, grid, target)` of `voxels`, `joints_to_grid` and `target`.

        Raises:
            ValueError: As `world_to_cube`.
        """
        grid = self.joints_to_grid(joints, refpoint, augmentation)
        return self.voxels(points, refpoint, augmentation), grid, self.target(grid)

    def decode(self, volumes, refpoint, augmentation=None):
        """Volumes of the grid's size to joints in the world: `to_world(extract(volumes), refpoint, augmentation)`."""
        volumes = np.asarray(volumes)
        self._check_grid(volumes.shape, volumes.shape[-3:], "[..., joints, x, y, z]", 4)
        return self.to_world(self.extract(volumes), refpoint, augmentation)

    @property
    def _voxel_middle(self):
        return 0.5 if self.convention == "pytorch" and self.head == "heatmap" else 0.0

    def _check_grid(self, shape, edges, form, least_rank):
        size = self.grid_size
        if len(shape) < least_rank or any(edge not in (None, size) for edge in edges):
            raise ValueError(
                f"Volumes of shape {tuple(shape)} are not {form} of {size} voxels along each edge "
                f"(cropped_size {self.cropped_size} / pool {self.pool})."
            )

    def _checked(self, points, refpoint, augmentation):
        points, refpoint = _triples(points), np.asarray(refpoint, np.float64)
        if points.ndim < 2:
            raise ValueError(f"Points of shape {points.shape} are not [..., points, 3].")
        if refpoint.shape[-1:] != (3,) or not np.isfinite(refpoint).all():
            raise ValueError(f"Reference point {refpoint} is not [..., 3] finite numbers in the world.")
        augmentation = self.identity if augmentation is None else augmentation
        augmentation = Augmentation(*(np.asarray(part, np.float64) for part in augmentation))
        if not np.all((augmentation.new_size > 0) & (augmentation.new_size < math.inf)):
            raise ValueError(f"Size {augmentation.new_size} is not a percentage above 0; 100 leaves the size.")
        # One number moves all axes alike.
        translation = augmentation.translation
        return points, refpoint, augmentation._replace(
            translation=np.broadcast_to(translation, (3,)) if translation.ndim == 0 else translation
        )

    # NumPy and TensorFlow have what these need under the same names.

    def _augmentation(self, xp, uniform):
        new_size = NEW_SIZES[0] + (NEW_SIZES[1] - NEW_SIZES[0]) * uniform[..., 0]
        angle = math.radians(ANGLES_DEG[1] - ANGLES_DEG[0]) * uniform[..., 1] + math.radians(ANGLES_DEG[0])
        margin = self.original_size - self.cropped_size
        if self.convention == "lua":
            return Augmentation(new_size, angle, xp.floor(uniform[..., 2:] * (margin + 1)))
        return Augmentation(new_size, angle, uniform[..., 2:] * margin)

    def _world_to_cube(self, xp, points, refpoint, augmentation):
        return xp.stack(self._axes_in_cube(xp, points, refpoint, augmentation), -1)

    def _axes_in_cube(self, xp, points, refpoint, augmentation):
        """`[..., points, 3]` to three times `[..., points]`: x, y and z in the cube."""
        offset = (points - refpoint[..., None, :]) / self.voxel_size
        if self.convention == "lua":
            offset = xp.floor(offset + self.cropped_size / 2) - self.cropped_size / 2
        x, y, z = offset[..., 0], offset[..., 1], offset[..., 2]
        scale, cosine, sine, (start_x, start_y, start_z) = self._map(xp, augmentation)
        return x * cosine - y * sine + start_x, x * sine + y * cosine + start_y, z * scale + start_z

    def _cube_to_world(self, xp, coords, refpoint, augmentation):
        scale, cosine, sine, (start_x, start_y, start_z) = self._map(xp, augmentation)
        x, y, z = coords[..., 0] - start_x, coords[..., 1] - start_y, coords[..., 2] - start_z
        squared = scale * scale
        offset = xp.stack([(x * cosine + y * sine) / squared, (y * cosine - x * sine) / squared, z / scale], -1)
        if self.convention == "lua":
            offset += 0.5
        return offset * self.voxel_size + refpoint[..., None, :]

    def _map(self, xp, augmentation):
        """Scale, scale times cosine and sine, and where the reference point goes, all `[..., 1]` to go with points."""
        new_size, angle = augmentation.new_size[..., None], augmentation.angle[..., None]
        if self.convention == "pytorch":
            scale = 100 / new_size if self.head == "integral" else new_size / 100
            middle, moved = self.original_size / 2, 0.0
        else:
            # The larger cube is scaled about its corner to whole voxels and moved back by half of what it gained,
            # rounded towards zero. The reference point is the corner of a voxel, half a voxel from the middle.
            size, middle, angle = self.original_size, (self.original_size - 1) / 2, -angle
            scale = xp.floor(size * new_size / 100) / size
            gained = size / 2 - size / 2 * new_size / 100
            moved = size / 2 * scale + xp.sign(gained) * xp.floor(xp.abs(gained)) - middle
        cosine, sine = xp.cos(angle), xp.sin(angle)
        start = [moved * (cosine - sine), moved * (sine + cosine), moved]
        start = [part + middle - augmentation.translation[..., axis, None] for axis, part in enumerate(start)]
        return scale, scale * cosine, scale * sine, start


class BatchedVoxelCodec:
    """`VoxelCodec` for batches of tensors: the same methods, with a leading batch axis and channels last.

    Only TensorFlow operations on whole batches, on any device and within `tf.function` or `tf.data`: what has to travel
    there are points or crops of depth pictures, joints, and five random numbers for each frame. Values are not checked.

    Args:
        codec: The `VoxelCodec`.

    Example:
        >>> batched = VoxelCodec(cubic_size=200.0).batched()
        >>> augmentation = batched.draw(seed=[1, 2], batch_size=8)
        >>> refpoints = tf.constant([[0.0, 0.0, 320.0]] * 8)
        >>> points = refpoints[:, None] + tf.random.normal([8, 500, 3], stddev=40.0)
        >>> batched.voxels(points, refpoints, augmentation).shape
        TensorShape([8, 88, 88, 88, 1])
        >>> grid = batched.joints_to_grid(points[:, :21], refpoints, augmentation)
        >>> batched.target(grid).shape
        TensorShape([8, 44, 44, 44, 21])
    """

    def __init__(self, codec):
        self.codec = codec

    def identity(self, batch_size):
        """Augmentation that changes nothing: float64 `[batch]`, `[batch]` and `[batch, 3]`."""
        parts = (tf.constant(part, tf.float64) for part in self.codec.identity)
        return Augmentation(*(tf.broadcast_to(part, [batch_size, *part.shape]) for part in parts))

    def augmentation(self, uniform):
        """`VoxelCodec.augmentation` of `[batch, 5]` random numbers."""
        return self.codec._augmentation(tf, tf.convert_to_tensor(uniform))

    def draw(self, seed, batch_size):
        """Draws augmentations as a function of the seed only.

        Args:
            seed: `[2]` whole numbers.
            batch_size: Number of frames.

        Returns:
            `Augmentation` of float64 tensors.
        """
        return self.augmentation(tf.random.stateless_uniform([batch_size, 5], seed, dtype=tf.float64))

    def points(self, depth, boxes, camera, unit=1.0, background=None):
        """Crops of depth pictures to points in the world.

        Args:
            depth: `[batch, height, width]`, such as uint16; crops smaller than that stand in the upper left corner.
            boxes: `[batch, 4]` left, top, right, bottom of the crops in their pictures, in pixels, right and bottom
                excluded. What lies beyond is no point.
            camera: `DepthCamera`, the name of a dataset, or `[batch, 4]` `DepthCamera.signed_intrinsics` of each frame.
            unit: What 1 in `depth` is in the world's unit: 0.001 where millimetres are stored and the world is in
                metres.
            background: Depth, in the world's unit, to take pixels for that measured nothing (depth 0), as the originals
                do (MSRA: 700 mm); None for no points there, which is the same while that is out of reach.

        Returns:
            Float32 `[batch, height * width, 3]`. Where there is no point, z is negative and so far away that no cube
            holds it: a number rather than NaN, for `tf.debugging.enable_check_numerics`.
        """
        depth = tf.cast(depth, tf.float32) * unit
        boxes = tf.cast(boxes, tf.float32)
        shape = tf.shape(depth)
        intrinsics = self._intrinsics(camera)
        rows, columns = tf.range(shape[1], dtype=tf.float32), tf.range(shape[2], dtype=tf.float32)
        inside = (rows < (boxes[:, 3] - boxes[:, 1])[:, None])[:, :, None]
        inside &= (columns < (boxes[:, 2] - boxes[:, 0])[:, None])[:, None, :]
        if background is None:
            inside &= depth > 0
        else:
            depth = tf.where(depth > 0, depth, tf.cast(background, tf.float32))
        depth = tf.where(inside, depth, -_FAR_CUBES * self.codec.cubic_size)
        x = (columns + boxes[:, :1] + (self.codec.first_pixel - intrinsics[:, 2:3])) / intrinsics[:, :1]
        y = (rows + boxes[:, 1:2] + (self.codec.first_pixel - intrinsics[:, 3:])) / intrinsics[:, 1:2]
        points = tf.stack([x[:, None, :] * depth, y[:, :, None] * depth, depth], -1)
        return tf.reshape(points, [shape[0], shape[1] * shape[2], 3])

    def voxels(self, points, refpoints, augmentation=None, dtype=tf.float32):
        """Points to the network's input.

        Args:
            points: `[batch, points, 3]`, padded with NaN or as `points` does, or a `tf.RaggedTensor` of that shape.
                Points outside the cube and points that are not finite mark nothing. The work is done in their type.
            refpoints: `[batch, 3]`.
            augmentation: `Augmentation` of tensors with a batch axis; none if None.
            dtype: Of the result.

        Returns:
            `[batch, cropped_size, cropped_size, cropped_size, 1]`: 1 where there are points, 0 elsewhere.
        """
        if isinstance(points, tf.RaggedTensor):
            points = points.to_tensor(math.nan)
        points = tf.convert_to_tensor(points)
        if not points.dtype.is_floating:
            points = tf.cast(points, tf.float32)
        size = self.codec.cropped_size
        frame = self._frame(refpoints, augmentation, points.dtype)
        x, y, z = self.codec._axes_in_cube(tf, points, *frame)
        if self.codec.convention == "lua":
            x, y, z = (tf.floor(part + (0.5 + grids.TIE_MARGIN)) for part in (x, y, z))
        least = -1  # above -1 rounds towards zero to 0; of the Lua convention's whole numbers it lets only 0 pass
        kept = (x > least) & (x < size) & (y > least) & (y < size) & (z > least) & (z < size)
        x, y, z = tf.cast(x, tf.int32), tf.cast(y, tf.int32), tf.cast(z, tf.int32)
        voxel = tf.where(kept, (x * size + y) * size + z, size**3)  # numbers past the end are not counted
        counts = tf.raw_ops.DenseBincount(
            input=voxel, size=size**3, weights=tf.zeros([0], tf.float32), binary_output=True
        )
        voxels = tf.reshape(counts, [-1, size, size, size, 1])
        return tf.cast(tf.ensure_shape(voxels, [points.shape[0], size, size, size, 1]), dtype)

    def joints_to_grid(self, joints, refpoints, augmentation=None):
        """`VoxelCodec.joints_to_grid`: `[batch, joints, 3]` to float64 `[batch, joints, 3]`."""
        frame = self._frame(refpoints, augmentation, tf.float64)
        grid = self.codec._world_to_cube(tf, tf.cast(joints, tf.float64), *frame) / self.codec.pool
        if self.codec.head == "integral":
            grid = tf.clip_by_value(grid, 0, self.codec.grid_size - 2)
        return grid

    def to_world(self, grid, refpoints, augmentation=None):
        """`VoxelCodec.to_world`: `[batch, joints, 3]` to float64 `[batch, joints, 3]`."""
        refpoints, augmentation = self._frame(refpoints, augmentation, tf.float64)
        coords = tf.cast(grid, tf.float64) * self.codec.pool
        return self.codec._cube_to_world(tf, coords, refpoints, augmentation)

    def heatmaps(self, grid, dtype=tf.float32):
        """Gaussians around joints.

        Args:
            grid: `[batch, joints, 3]` in voxels of the grid, best in float64.
            dtype: Of the result.

        Returns:
            `[batch, grid_size, grid_size, grid_size, joints]`; 0 for joints that are not numbers.
        """
        grid = tf.convert_to_tensor(grid)
        middles = tf.range(self.codec.grid_size, dtype=grid.dtype) + self.codec._voxel_middle
        distance = (middles - grid[..., None]) / self.codec.sigma
        return _outer_product(tf.exp(-tf.square(distance) / 2), dtype)

    def one_hot(self, grid, dtype=tf.float32):
        """Weights of the eight voxels around joints; shapes as of `heatmaps`."""
        grid = tf.convert_to_tensor(grid)
        distance = tf.range(self.codec.grid_size, dtype=grid.dtype) - grid[..., None]
        return _outer_product(tf.maximum(1 - tf.abs(distance), 0), dtype)

    def target(self, grid, dtype=tf.float32):
        """What the head is trained to predict: `heatmaps(grid)`, or `one_hot(grid)` for the integral head."""
        return self.one_hot(grid, dtype) if self.codec.head == "integral" else self.heatmaps(grid, dtype)

    def extract(self, volumes):
        """`VoxelCodec.extract`: `[batch, x, y, z, joints]` to float64 `[batch, joints, 3]`."""
        volumes = tf.convert_to_tensor(volumes)
        if self.codec.head == "integral":
            weights = tf.cast(volumes, tf.float64)
            total = tf.reduce_sum(weights, [1, 2, 3])
            total = tf.where(total > 0, total, math.nan)
            means = []
            for axis in (1, 2, 3):
                marginal = tf.reduce_sum(weights, [other for other in (1, 2, 3) if other != axis])
                places = tf.range(tf.shape(volumes)[axis])
                means.append(tf.einsum("bpj,p->bj", marginal, tf.cast(places, tf.float64)) / total)
            return tf.stack(means, -1)
        shape = tf.shape(volumes)
        rows = tf.reshape(volumes, [shape[0], shape[1] * shape[2] * shape[3], shape[4]])
        best = tf.argmax(tf.transpose(rows, [0, 2, 1]), -1, output_type=tf.int32)
        coords = tf.stack([best // (shape[2] * shape[3]), best // shape[3] % shape[2], best % shape[3]], -1)
        # NaN, or 0 where there is none: without NaN as a constant, which would stop tf.debugging's checks.
        broken = tf.reduce_sum(tf.where(tf.math.is_nan(rows), rows, tf.zeros_like(rows)), 1)
        return tf.cast(coords, tf.float64) + (self.codec._voxel_middle + tf.cast(broken, tf.float64)[..., None])

    def decode(self, volumes, refpoints, augmentation=None):
        """Volumes of the grid's size to joints in the world: `to_world(extract(volumes), refpoints, augmentation)`."""
        volumes = tf.convert_to_tensor(volumes)
        if volumes.shape.rank is not None:
            self.codec._check_grid(volumes.shape, volumes.shape[1:4], "[batch, x, y, z, joints]", 5)
        return self.to_world(self.extract(volumes), refpoints, augmentation)

    def _frame(self, refpoints, augmentation, dtype):
        refpoints = tf.cast(refpoints, dtype)
        if augmentation is None:
            augmentation = self.identity(tf.shape(refpoints)[0])
        return refpoints, Augmentation(*(tf.cast(part, dtype) for part in augmentation))

    def _intrinsics(self, camera):
        if isinstance(camera, str):
            camera = dataset_camera(camera)
        if isinstance(camera, DepthCamera):
            camera = [camera.signed_intrinsics]
        return tf.cast(camera, tf.float32)


def _triples(values):
    values = np.asarray(values, np.float64)
    if values.shape[-1:] != (3,):
        raise ValueError(f"An array of shape {values.shape} is not [..., 3] (x, y, z).")
    return values


def _outer_product(profiles, dtype):
    """`[batch, joints, 3, size]` to `[batch, size, size, size, joints]`."""
    profiles = tf.cast(tf.where(tf.math.is_nan(profiles), tf.zeros_like(profiles), profiles), dtype)
    shape = tf.shape(profiles)
    batch, joints, size = shape[0], shape[1], profiles.shape[-1]
    x, y, z = tf.unstack(tf.transpose(profiles, [2, 0, 3, 1]))
    # Long rows of z and joints together: broadcasting whole rows costs little, single numbers a multiple of it.
    xz = tf.reshape(x[:, :, None, :] * z[:, None, :, :], [batch, size, 1, size * joints])
    y = tf.reshape(tf.tile(y[:, :, None, :], [1, 1, size, 1]), [batch, 1, size, size * joints])
    volumes = tf.reshape(xz * y, [batch, size, size, size, joints])
    return tf.ensure_shape(volumes, [profiles.shape[0], size, size, size, profiles.shape[1]])
