"""What the depth datasets show: how far away hands and bodies are, how large their cubes, where their middles lie."""

import dataclasses

import numpy as np

from posekit.geometry.depth import dataset_camera
from posekit.geometry.depth_centers import estimate_center
from posekit.geometry.voxels import NEW_SIZES, augmented_reach
from posekit.skeletons import HANDS21, ICVL16, ITOP15, MSRA21, NYU14, Skeleton

# Voxels of the larger and of the network's cube: the originals', and small ones, whose coarser rounding reaches
# somewhat farther, for networks that fit a small machine.
_CUBES = ((96, 88), (40, 32), (18, 16))
# Record sets hold the reach in float32.
_ROUNDING = 1 + 1e-5


@dataclasses.dataclass(frozen=True)
class Scene:
    """What all frames of a dataset share.

    Args:
        dataset: Such as `"msra"` or `"itop_front"`.
        skeleton: `Skeleton` of its joints.
        depth_range: `(nearest, farthest)` depth of a hand or body, in the dataset's unit.
        cubic_size: Edge of the cube around the centre, in the dataset's unit.
        walled: Whether the farthest depth is where the originals put pixels that measured nothing.
        behind: How far behind the middle of what is seen an estimated centre lies, in the dataset's unit.
    """

    dataset: str
    skeleton: Skeleton
    depth_range: tuple
    cubic_size: float
    walled: bool = True
    behind: float = 0.0

    @property
    def camera(self):
        """`DepthCamera`."""
        return dataset_camera(self.dataset)

    @property
    def size(self):
        """`(width, height)` of the pictures."""
        return self.camera.width, self.camera.height

    @property
    def num_joints(self):
        """Joints of a frame."""
        return self.skeleton.num_joints

    def estimate_center(self, depth, camera=None, box=None):
        """Middle of the hand or body in a picture.

        Args:
            depth: `[height, width]` in the dataset's unit; 0 where nothing was measured.
            camera: `DepthCamera` in that unit; the dataset's own by default.
            box: `(left, top, right, bottom)` where a crop lies in its picture, in pixels.

        Returns:
            Float64 `[3]` in the world.

        Raises:
            NoForegroundError: If nothing is there.
        """
        center = estimate_center(depth, camera or self.camera, self.depth_range, self.cubic_size, box=box)
        return center + [0, 0, self.behind]

    def reach(self, cube=None):
        """How far from a centre the networks' cubes look.

        Args:
            cube: `(original, cropped)`: voxels along the larger and along the network's cube of one network more.

        Returns:
            Tuple of 3 lengths in the dataset's unit.
        """
        smallest = min(NEW_SIZES[0], 100 / NEW_SIZES[1] * 100) / 100  # the integral head scales by the reciprocal
        cubes = _CUBES if cube is None else (*_CUBES, cube)
        reaches = [augmented_reach(self.cubic_size / cropped, original, smallest) for original, cropped in cubes]
        return tuple((np.max(reaches, 0) * _ROUNDING).tolist())


# Depths between which the originals look for hands; for ITOP, whose background the cube alone keeps out, the length of
# a room.
SCENES = {
    "msra": Scene("msra", MSRA21, (100.0, 700.0), 200.0),
    "icvl": Scene("icvl", ICVL16, (100.0, 600.0), 200.0),
    "nyu": Scene("nyu", NYU14, (300.0, 1200.0), 250.0),
    "hands2017": Scene("hands2017", HANDS21, (100.0, 1500.0), 250.0),
    "itop_front": Scene("itop_front", ITOP15, (0.5, 5.0), 2.0, walled=False),
    # From above, the camera sees head and shoulders of somebody who stands.
    "itop_top": Scene("itop_top", ITOP15, (0.3, 5.0), 2.0, walled=False, behind=0.35),
}
