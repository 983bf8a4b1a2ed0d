"""People in a room before two depth cameras, one in front and one above, in the manner of ITOP.

The body is a skinned mesh (`posekit.bodies`); floor and wall are planes. Everything is a pure function of the
`numpy.random.Generator` passed in.
"""

import dataclasses

import numpy as np

from posekit.data.synthetic import pose_body, sample_poses, sample_shapes
from posekit.data.synthetic_depth import measure
from posekit.geometry.depth import dataset_camera, world_to_pixel
from posekit.ops import rasterize
from posekit.skeletons import COCO_PLUS19, ITOP15, SMPL24

VIEWS = ("side", "top")
# Metres: how high the cameras are, how far the front one is from the middle of the room, and the wall from it.
_HEIGHTS, _AWAY, _WALL = {"side": 1.0, "top": 3.2}, 2.95, 4.3
# Metres by which detected centres are off.
_CENTER_NOISE = 0.03
# Metres that a joint may lie behind the surface before it and still count as seen.
_DEEP = 0.16

# Whose flesh moves with a joint of the body belongs to this part of ITOP.
_PARTS = {"pelvis": "torso", "spine1": "torso", "spine2": "torso", "spine3": "torso"}
_PARTS |= {f"{side}_collar": f"{side}_shoulder" for side in ("left", "right")}
_PARTS |= {f"{side}_wrist": f"{side}_hand" for side in ("left", "right")}
_PARTS |= {f"{side}_ankle": f"{side}_foot" for side in ("left", "right")}


@dataclasses.dataclass(frozen=True, eq=False)
class RoomFrame:
    """A depth picture of somebody in the room.

    Args:
        depth: Float32 `[240, 320]` metres as measured; 0 where nothing is.
        parts: Int8 `[240, 320]`: joint of `ITOP15` whose part of the body is seen, -1 where it is no body.
        joints: Float64 `[15, 3]` metres in the camera's world, y up, z positive.
        joints_px: Float64 `[15, 2]`.
        visible: Bool `[15]`.
        center: Float64 `[3]` metres: where a detector saw the body.
    """

    depth: np.ndarray
    parts: np.ndarray
    joints: np.ndarray
    joints_px: np.ndarray
    visible: np.ndarray
    center: np.ndarray


def itop_joints(posed):
    """Joints of ITOP.

    Args:
        posed: `posekit.data.synthetic.PosedBody`.

    Returns:
        Float64 `[15, 3]`, `ITOP15`.
    """
    points = dict(zip(SMPL24.joints, posed.joints))
    points["head"] = (points["head"] + posed.keypoints[COCO_PLUS19.index("head_top")]) / 2
    points["torso"] = points["spine2"]
    return np.stack([points[name] for name in ITOP15.joints])


def room_frames(rng, body, num_frames):
    """One person who takes various poses in the room.

    Args:
        rng: `numpy.random.Generator`.
        body: `posekit.bodies.BodyModel` with 24 joints and 19 keypoints.
        num_frames: Frames.

    Yields:
        Dict of `VIEWS` -> `RoomFrame`: the same moment before both cameras.
    """
    shape = 0.8 * sample_shapes(rng, 1, body.num_shape)[0]
    parts = body_parts(body)
    places = rng.normal(0, (0.2, 0.15), (num_frames, 2)).clip(-0.4, 0.4)
    for pose, (x, z) in zip(sample_poses(rng, num_frames, upright="y"), places):
        posed = pose_body(body, pose, shape)
        joints = itop_joints(posed)
        floor = posed.vertices[:, 1].min()
        middle = posed.joints[0] * (1, 0, 1)
        move = np.array([x, -floor, z]) - middle
        yield {view: _seen(rng, view, posed.vertices + move, joints + move, body.faces, parts) for view in VIEWS}


def body_parts(body):
    """The part of ITOP's body to which each vertex belongs.

    Args:
        body: `posekit.bodies.BodyModel` with 24 joints.

    Returns:
        Int8 `[V]` indices of `ITOP15`.
    """
    names = [_PARTS.get(name, name) for name in SMPL24.joints]
    return np.array([ITOP15.index(name) for name in names], np.int8)[np.argmax(body.weights, 1)]


def _seen(rng, view, vertices, joints, faces, parts):
    """What one camera sees of a person whose feet are at height 0."""
    camera = dataset_camera("itop")
    vertices, joints = _to_camera(view, vertices), _to_camera(view, joints)
    raster = rasterize(
        vertices * (1, -1, 1), faces, (camera.fx, camera.fy), (camera.cx, camera.cy), (camera.height, camera.width)
    )
    true = np.minimum(raster.depth, _room(view, camera))
    segments = np.full(true.shape, -1, np.int8)
    corner = raster.faces[raster.triangles, np.argmax(raster.weights, 1)]
    segments.ravel()[raster.pixels] = parts[corner]
    pixels = world_to_pixel(joints, camera)
    column, row = np.rint(pixels[:, :2]).astype(int).T
    inside = (column >= 0) & (column < camera.width) & (row >= 0) & (row < camera.height)
    before = true[np.clip(row, 0, camera.height - 1), np.clip(column, 0, camera.width - 1)]
    depth = measure(rng, true, noise=0.004, holes=0.002, edge=0.1).astype(np.float32)
    center = (joints.min(0) + joints.max(0)) / 2 + rng.normal(0, _CENTER_NOISE, 3)
    return RoomFrame(depth, segments, joints, pixels[:, :2], inside & (joints[:, 2] < before + _DEEP), center)


def _to_camera(view, points):
    """From the room (x right, y up, z towards the front camera, origin on the floor) to a camera's world."""
    x, y, z = np.moveaxis(points, -1, 0)
    if view == "side":
        return np.stack([x, y - _HEIGHTS[view], _AWAY - z], -1)
    return np.stack([x, -z, _HEIGHTS[view] - y], -1)


def _room(view, camera):
    """Depths of the empty room."""
    if view == "top":
        return np.full((camera.height, camera.width), _HEIGHTS[view])
    _, fy, _, cy = camera.signed_intrinsics
    down = (np.arange(camera.height) - cy) / fy
    floor = np.where(down < 0, -_HEIGHTS[view] / np.minimum(down, -1e-9), np.inf)
    return np.repeat(np.minimum(floor, _WALL)[:, None], camera.width, 1)
