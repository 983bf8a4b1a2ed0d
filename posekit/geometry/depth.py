"""Depth cameras: pixels with a depth to points in the world and back, as each depth dataset measures them.

The world has the camera's frame: x right, z away from the camera, and y down or, in some datasets, up. Depths are
distances along z. MSRA's label files hold -z; its reader turns the sign, so that z is positive everywhere here.
"""

import dataclasses

import numpy as np

_UNIT_MM = {"mm": 1.0, "m": 1000.0}
UNITS = tuple(_UNIT_MM)


@dataclasses.dataclass(frozen=True)
class DepthCamera:
    """A pinhole camera that measures depths.

    Args:
        fx: Focal length along x in pixels.
        fy: Focal length along y in pixels.
        cx: Principal point's x in pixels.
        cy: Principal point's y in pixels.
        y_up: Whether the world's y points up; down otherwise, as pixels do.
        width: Of the picture in pixels.
        height: Of the picture in pixels.
        unit: Of the world's coordinates and of depths: `"mm"` or `"m"`.

    Raises:
        ValueError: If a focal length is not positive, a size is not a positive whole number, or the unit is unknown.

    Example:
        >>> camera = DepthCamera(240.0, 240.0, 160.0, 120.0, y_up=True, width=320, height=240)
        >>> pixel_to_world([[184.0, 108.0, 500.0]], camera)
        array([[ 50.,  25., 500.]])
    """

    fx: float
    fy: float
    cx: float
    cy: float
    y_up: bool = False
    width: int = 640
    height: int = 480
    unit: str = "mm"

    def __post_init__(self):
        if not (0 < self.fx < np.inf and 0 < self.fy < np.inf and np.isfinite(self.cx) and np.isfinite(self.cy)):
            raise ValueError(
                f"Intrinsics fx, fy, cx, cy = {self.fx}, {self.fy}, {self.cx}, {self.cy} are not those of a camera; "
                "focal lengths are above 0 and all four are finite, in pixels."
            )
        if self.width < 1 or self.height < 1 or self.width != int(self.width) or self.height != int(self.height):
            raise ValueError(f"A picture of {self.width} x {self.height} pixels has no pixels; give whole numbers.")
        if self.unit not in UNITS:
            raise ValueError(f"Unit {self.unit!r} is not one of {', '.join(UNITS)}.")

    @property
    def signed_intrinsics(self):
        """`(fx, ±fy, cx, cy)`: four numbers that say all about the projection; fy is negative where y points up."""
        return self.fx, -self.fy if self.y_up else self.fy, self.cx, self.cy

    @property
    def unit_mm(self):
        """Millimetres of the unit: 1.0 or 1000.0."""
        return _UNIT_MM[self.unit]


# ITOP gives the reciprocal: world = (pixel - center) * depth * 0.0035.
DATASET_CAMERAS = {
    "msra": DepthCamera(241.42, 241.42, 160.0, 120.0, y_up=True, width=320, height=240),
    "icvl": DepthCamera(241.42, 241.42, 160.0, 120.0, y_up=False, width=320, height=240),
    "nyu": DepthCamera(588.036865, 587.075073, 320.0, 240.0, y_up=True, width=640, height=480),
    "hands2017": DepthCamera(475.065948, 475.065857, 315.944855, 245.287079, y_up=False, width=640, height=480),
    "itop": DepthCamera(1 / 0.0035, 1 / 0.0035, 160.0, 120.0, y_up=True, width=320, height=240, unit="m"),
}


def dataset_camera(name):
    """The camera of a depth dataset.

    Args:
        name: One of `DATASET_CAMERAS`; ITOP's two views, `itop_front` and `itop_top` among them, share one.

    Returns:
        `DepthCamera`.

    Raises:
        ValueError: If there is no such dataset.

    Follows: mks0601/V2V-PoseNet_RELEASE src/data.
    """
    key = "itop" if name in ("itop_front", "itop_side", "itop_top") else name
    if key not in DATASET_CAMERAS:
        raise ValueError(
            f"No depth camera of the dataset {name!r}; known are {', '.join(DATASET_CAMERAS)}. "
            "For a camera of your own, make a posekit.geometry.depth.DepthCamera."
        )
    return DATASET_CAMERAS[key]


def pixel_to_world(pixels, camera):
    """Pixels with depths to points in the world.

    Args:
        pixels: `[..., 3]`: x and y in pixels, depth in the camera's unit.
        camera: `DepthCamera` or the name of a dataset.

    Returns:
        `[..., 3]` in the camera's unit, of the type of `pixels` if that is a floating type, else float64.

    Raises:
        ValueError: If the last axis has not 3 entries, or the dataset is unknown.

    Follows: mks0601/V2V-PoseNet_RELEASE src/data/*/data.lua:pixel2world, vis/*/pixel2world.py;
    dragonbook/V2V-PoseNet-pytorch datasets/msra_hand.py:pixel2world.
    """
    pixels = _triples(pixels)
    fx, fy, cx, cy = _camera(camera).signed_intrinsics
    z = pixels[..., 2]
    return np.stack([(pixels[..., 0] - cx) * z / fx, (pixels[..., 1] - cy) * z / fy, z], -1)


def world_to_pixel(points, camera):
    """Points in the world to pixels with depths; the inverse of `pixel_to_world`.

    Args:
        points: `[..., 3]` in the camera's unit.
        camera: `DepthCamera` or the name of a dataset.

    Returns:
        `[..., 3]`: x and y in pixels, depth; of the type of `points` if that is a floating type, else float64. A point
        of depth 0, which no pixel shows, has NaN for x and y.

    Raises:
        ValueError: If the last axis has not 3 entries, or the dataset is unknown.

    Follows: mks0601/V2V-PoseNet_RELEASE src/data/*/data.lua:world2pixel, vis/*/world2pixel.py;
    dragonbook/V2V-PoseNet-pytorch datasets/msra_hand.py:world2pixel, points2pixels.
    """
    points = _triples(points)
    fx, fy, cx, cy = _camera(camera).signed_intrinsics
    z = np.where(points[..., 2] == 0, np.nan, points[..., 2])
    return np.stack([points[..., 0] * fx / z + cx, points[..., 1] * fy / z + cy, points[..., 2]], -1)


def depth_to_points(depth, camera, start_px=(0, 0), first_pixel=0):
    """All pixels of a depth picture, or of a crop of one, as points in the world.

    Args:
        depth: `[..., height, width]` in the camera's unit.
        camera: `DepthCamera` or the name of a dataset.
        start_px: (x, y) of the crop's first pixel in the picture.
        first_pixel: Number of the picture's first pixel: 0, or 1 as the PyTorch port counts.

    Returns:
        Float64 `[..., height, width, 3]`. Pixels that measured nothing (depth 0) come out as the origin.

    Raises:
        ValueError: If the depth is no picture, as RGB is none, or the dataset is unknown.

    Follows: dragonbook/V2V-PoseNet-pytorch datasets/msra_hand.py:depthmap2points (with `first_pixel=1`);
    mks0601/V2V-PoseNet_RELEASE src/util.lua:generate_cubic_input.
    """
    depth = np.asarray(depth, np.float64)
    if depth.ndim < 2:
        raise ValueError(f"A depth picture of shape {depth.shape} is not [..., height, width].")
    x = start_px[0] + first_pixel + np.arange(depth.shape[-1])
    y = start_px[1] + first_pixel + np.arange(depth.shape[-2])
    x, y = np.broadcast_to(x, depth.shape), np.broadcast_to(y[:, None], depth.shape)
    return pixel_to_world(np.stack([x, y, depth], -1), camera)


def box_around(center, reach, camera):
    """The part of a picture that shows a box in the world.

    Args:
        center: `[3]` middle of the box in the world.
        reach: Half the box's edges: one number or `[3]`, in the camera's unit.
        camera: `DepthCamera` or the name of a dataset.

    Returns:
        `(left, top, right, bottom)` in whole pixels, right and bottom excluded, within the picture; empty (right equal
        to left, or bottom to top) where the picture does not show the box. A box that reaches to the camera or behind
        it may be anywhere: the whole picture.

    Raises:
        ValueError: If the center or the reach is not finite, a reach is not positive, or the dataset is unknown.
    """
    camera = _camera(camera)
    center = _triples(center)
    reach = np.broadcast_to(np.asarray(reach, np.float64), (3,))
    if center.shape != (3,) or not np.isfinite(center).all() or not np.all((reach > 0) & np.isfinite(reach)):
        raise ValueError(f"No box around {center} that reaches {reach}: give 3 finite numbers, and lengths above 0.")
    if center[2] - reach[2] <= 0:
        return 0, 0, camera.width, camera.height
    corners = center + reach * (np.stack(np.meshgrid(*[[-1, 1]] * 3, indexing="ij"), -1).reshape(8, 3))
    seen = world_to_pixel(corners, camera)[:, :2]
    size = (camera.width, camera.height)
    left, top = np.clip(np.floor(seen.min(0)), 0, size).astype(int)
    right, bottom = np.clip(np.ceil(seen.max(0)) + 1, 0, size).astype(int)
    return int(left), int(top), int(right), int(bottom)


def _camera(camera):
    return camera if isinstance(camera, DepthCamera) else dataset_camera(camera)


def _triples(values):
    values = np.asarray(values)
    values = values if np.issubdtype(values.dtype, np.floating) else values.astype(np.float64)
    if values.shape[-1:] != (3,):
        raise ValueError(f"An array of shape {values.shape} is not [..., 3]: x, y and depth.")
    return values
