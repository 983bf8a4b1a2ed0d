"""Pictures of poses found in depth: the tinted depth with its skeleton, and the skeleton in the world beside it.

Hands and bodies of the depth datasets have the palette of the original's scripts: a colour a finger or limb, paler at
the root. Images are RGB uint8. Nothing here opens a window.
"""

import functools

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from posekit.drawing import joint_colors, uint8_image
from posekit.geometry.depth import DepthCamera, box_around, dataset_camera, depth_to_points, world_to_pixel
from posekit.results import People
from posekit.skeletons import DEPTH_SKELETONS

TINT = (255, 240, 204)
VIEWS = ("both", "depth", "3d")
BACKDROPS = ("points", "plane", "none")
# MATLAB's view(62, 7) of axes (-z, x, y): the viewer stands 28 degrees to the left of the sensor, a little higher.
AZIMUTH_DEG, ELEVATION_DEG = -28.0, 7.0
MARGIN_PX = 70.0
# Half the edge of the cubes that the datasets' scripts clip depths to, in millimetres.
REACH_MM = {"MSRA21": 100.0, "ICVL16": 100.0, "NYU14": 125.0, "HANDS21": 100.0, "ITOP15": 1000.0}

# Colours of fingers and limbs, from the root on.
_RAMPS = {
    "thumb": ((255, 153, 153), (255, 102, 102), (255, 51, 51), (255, 0, 0)),
    "index": ((153, 255, 153), (102, 255, 102), (51, 255, 51), (0, 255, 0)),
    "middle": ((255, 204, 153), (255, 178, 102), (255, 153, 51), (255, 128, 0)),
    "ring": ((153, 204, 255), (102, 178, 255), (51, 153, 255), (0, 128, 255)),
    "pinky": ((255, 153, 255), (255, 102, 255), (255, 51, 255), (255, 0, 255)),
}
_ROOT = (230, 230, 0)
# Place on its ramp of every part of a finger; NYU's fingertips lie between two colours.
_PARTS = {
    "MSRA21": {"mcp": 0, "pip": 1, "dip": 2, "tip": 3},
    "HANDS21": {"mcp": 0, "pip": 1, "dip": 2, "tip": 3},
    "ICVL16": {"root": 0, "mid": 1, "tip": 2},
    "NYU14": {"mid": 0, "tip": 1.5},
}
_NYU_OTHERS = {
    "thumb_root": _RAMPS["thumb"][0],
    "thumb_mid": _RAMPS["thumb"][1],
    "thumb_tip": _RAMPS["thumb"][2],
    "wrist": (153, 255, 204),
    "wrist_back": (153, 255, 204),
}
_LIMBS = {
    ("right", ("shoulder", "elbow", "hand")): "thumb",
    ("left", ("shoulder", "elbow", "hand")): "index",
    ("right", ("hip", "knee", "foot")): "pinky",
    ("left", ("hip", "knee", "foot")): "ring",
}
_HEAD = _RAMPS["middle"][1]
_BACKGROUND, _WALL, _GRID = (250, 251, 252), (243, 245, 248), (219, 224, 231)
_INK, _TRUTH = (70, 76, 84), (150, 154, 160)
_TRUTH_ON_DEPTH = (214, 217, 222)
_SHADOW = (20, 20, 40)
_BITS = 4
_FAR_PX = 1 << 14  # farther out is drawn as if there: OpenCV's coordinates are whole numbers
_FINE = 2  # 3-D views are drawn this much larger and averaged
_DISTANCE = 7.0  # of the viewer, in reaches
_PLANE = 1.5  # distance of the picture behind the skeleton, in reaches
# Reaches from the middle of a 3-D view to its border, and of its middle behind the skeleton's.
_WITHOUT_PLANE, _WITH_PLANE = (1.3, 0.0), (1.65, 0.45 * _PLANE)


def tint_depth(depth, reference, reach):
    """Colours a depth picture as the original's scripts do: black in front, cream behind.

    Args:
        depth: `[height, width]`; pixels of 0 or less, or not finite, measured nothing and lie behind everything.
        reference: Depth in the middle of the colours, in the unit of the depths.
        reach: How far before and behind it colours change.

    Returns:
        uint8 `[height, width, 3]`.

    Raises:
        ValueError: If the depth is no picture, the reference is not finite, or the reach is not a length above 0.

    Example:
        >>> tint_depth([[300.0, 400.0, 0.0]], reference=400.0, reach=100.0).tolist()
        [[[0, 0, 0], [128, 120, 102], [255, 240, 204]]]

    Follows: mks0601/V2V-PoseNet_RELEASE vis/nyu/draw_2Dskeleton_NYU.m.
    """
    depth = np.asarray(depth, np.float64)
    if depth.ndim != 2:
        raise ValueError(f"A depth picture of shape {depth.shape} is not [height, width].")
    if not np.isfinite(reference) or not 0 < reach < np.inf:
        raise ValueError(f"Depths around {reference} within {reach} have no tint; give a depth, and a length above 0.")
    share = np.clip((depth - reference) / reach, -1, 1) * 0.5 + 0.5
    share[~(np.isfinite(depth) & (depth > 0))] = 1.0
    return np.rint(share[..., None] * TINT).astype(np.uint8)


def depth_colors(skeleton):
    """Colours of joints and bones: the original's for hands and bodies of depth datasets, or parts of these.

    Args:
        skeleton: A `Skeleton`.

    Returns:
        List of `(joint, bone)` for every joint: its colour and that of the bone to its parent, RGB from 0 to 255.

    Follows: mks0601/V2V-PoseNet_RELEASE vis.
    """
    known = _dataset_skeleton(skeleton)
    if known is None:
        return joint_colors(skeleton)
    colors = (_color(name, known) for name in skeleton.joints)
    return [(color, color) for color in colors]


def draw_depth_skeleton(image, joints_px, skeleton, visibility=None, width=None, colors=None):
    """Draws bones and joints on a picture.

    Args:
        image: Picture to draw on, such as `tint_depth` makes; it is not changed.
        joints_px: `[joints, 2]` x, y in pixels, or `[joints, 3]` with the depth, by which nearer bones come to lie on
            top. Joints that are not finite, and their bones, are left out.
        skeleton: `Skeleton` of the joints.
        visibility: `[joints]`; joints with 0 are left out. All are drawn by default.
        width: Of the bones in pixels; by default 1.3 % of the picture's size, at least 2.
        colors: As of `depth_colors`, which is the default.

    Returns:
        uint8 `[height, width, 3]`.

    Raises:
        ValueError: If shapes do not fit the skeleton.
    """
    joints, seen = _joints_and_seen(joints_px, skeleton, visibility)
    canvas = uint8_image(image).copy()
    width = max(2.0, 0.013 * float(np.mean(canvas.shape[:2]))) if width is None else float(width)
    depth = joints[:, 2] if joints.shape[1] == 3 else np.zeros(len(joints))
    colors = colors or depth_colors(skeleton)
    bones = [bone for bone in skeleton.bones if seen[list(bone)].all()]
    for child, parent in sorted(bones, key=lambda bone: -depth[list(bone)].mean()):
        _line(canvas, joints[child, :2], joints[parent, :2], colors[child][1], width)
    for joint in sorted(np.flatnonzero(seen), key=lambda joint: -depth[joint]):
        _disc(canvas, joints[joint, :2], 1.2 * width, _mix(colors[joint][0], _SHADOW, 0.45))
        _disc(canvas, joints[joint, :2], 1.2 * width - max(0.8, 0.18 * width), colors[joint][0])
    return canvas


def draw_depth_3d(
    joints,
    skeleton,
    camera,
    depth=None,
    *,
    start_px=(0, 0),
    truth=None,
    reach=None,
    size=480,
    azimuth_deg=AZIMUTH_DEG,
    elevation_deg=ELEVATION_DEG,
    backdrop="points",
    from_above=False,
):
    """Draws a skeleton in the world, seen from the side, with the surface that the depth camera measured.

    The view follows the skeleton; its scale depends on `reach` alone.

    Args:
        joints: `[joints, 3]` in the world, or `[people, joints, 3]`.
        skeleton: Their `Skeleton`.
        camera: `DepthCamera` or the name of a dataset.
        depth: `[height, width]` depth picture, or a crop of it, in the camera's unit; None for skeletons alone.
        start_px: (x, y) of the crop's first pixel in the picture.
        truth: What the joints should be, in grey: of the same shape.
        reach: How far from the middle of the joints the picture reaches, in the camera's unit; by default half the
            dataset's cube, or as far as the joints.
        size: Side of the picture in pixels.
        azimuth_deg: Where to look from: 0 is where the depth camera was, positive azimuths are to the right of it.
        elevation_deg: How far the viewer looks down.
        backdrop: `"points"`: the measured points within reach; `"plane"`: the tinted depth on a plane behind the
            skeleton, as the original has it; `"none"`.
        from_above: Whether the depth camera looks straight down, as ITOP's top view does: the world is turned upright.

    Returns:
        uint8 `[size, size, 3]`.

    Raises:
        ValueError: If a shape does not fit the skeleton, or the backdrop is not known.

    Follows: mks0601/V2V-PoseNet_RELEASE vis/nyu/draw_3Dskeleton_NYU.m.
    Differs: drawn in perspective; the measured points stand where the original has the tinted depth on a plane.
    """
    camera = camera if isinstance(camera, DepthCamera) else dataset_camera(camera)
    if backdrop not in BACKDROPS:
        raise ValueError(f"backdrop={backdrop!r}: choose one of {', '.join(BACKDROPS)}.")
    people, truth = _people(joints, skeleton), _people(truth, skeleton)
    center, reach = _middle_and_reach(people, truth, skeleton, camera, reach)
    framing = _WITH_PLANE if backdrop == "plane" else _WITHOUT_PLANE
    view = _View(center, reach, camera.y_up, int(size) * _FINE, azimuth_deg, elevation_deg, from_above, framing)
    canvas = np.full((view.size, view.size, 3), _BACKGROUND, np.uint8)
    if backdrop != "plane":
        view.draw_room(canvas)
    if depth is not None and backdrop != "none":
        draw = view.draw_points if backdrop == "points" else view.draw_plane
        draw(canvas, np.asarray(depth, np.float64), start_px, camera)
    for figure in truth:
        view.draw_skeleton(canvas, figure, skeleton, [(_TRUTH, _TRUTH)] * skeleton.num_joints, 0.6)
    for figure in people:
        view.draw_skeleton(canvas, figure, skeleton, depth_colors(skeleton), 1.0)
    return cv2.resize(canvas, (int(size), int(size)), interpolation=cv2.INTER_AREA)


def depth_picture(
    depth,
    joints,
    camera,
    skeleton=None,
    *,
    truth=None,
    start_px=(0, 0),
    reference=None,
    reach=None,
    height=480,
    view="both",
    azimuth_deg=AZIMUTH_DEG,
    elevation_deg=ELEVATION_DEG,
    backdrop="points",
    from_above=False,
    captions=None,
):
    """Shows joints on the part of the tinted depth around them, enlarged, and in the world beside it.

    Args:
        depth: `[height, width]` depth picture, or a crop of it, in the camera's unit.
        joints: `People` with `joints3d`; or `[joints, 3]` or `[people, joints, 3]` in the world, in the camera's unit
            and with its direction of y. Joints that are not finite are left out.
        camera: `DepthCamera` or the name of a dataset.
        skeleton: `Skeleton` of the joints; people bring their own.
        truth: What the joints should be, as an array of the same shape: drawn in grey, and the mean distance is told.
        start_px: (x, y) of the crop's first pixel in the picture.
        reference: Depth in the middle of the colours; by default between the nearest and the farthest (true) joint.
        reach: Half of the depths that have colours, and how far the 3-D view reaches, in the camera's unit; by default
            half the dataset's cube.
        height: Of each of the two pictures in pixels.
        view: `"both"`, `"depth"` for the depth alone, or `"3d"`.
        azimuth_deg: As for `draw_depth_3d`, and so are the next three.
        elevation_deg: See there.
        backdrop: See there.
        from_above: See there.
        captions: Two texts; by default what is seen. `()` leaves the captions out.

    Returns:
        uint8 `[height + caption, width, 3]`.

    Raises:
        ValueError: If shapes do not fit, there is no skeleton, or an option is not known.

    Example:
        >>> depth_picture(depth, joints, "msra", MSRA21).shape  # doctest: +SKIP
        (512, 960, 3)

    Follows: mks0601/V2V-PoseNet_RELEASE vis/msra/draw_MSRA.m.
    """
    camera = camera if isinstance(camera, DepthCamera) else dataset_camera(camera)
    if view not in VIEWS:
        raise ValueError(f"view={view!r}: choose one of {', '.join(VIEWS)}.")
    if isinstance(joints, People):
        skeleton, joints = joints.skeleton, world_joints(joints, camera)
    if skeleton is None:
        raise ValueError("Joints given as an array need their skeleton: depth_picture(…, skeleton=MSRA21).")
    people, true = _people(joints, skeleton), _people(truth, skeleton)
    tinted = reach or _usual_reach(skeleton, camera)
    reach = _middle_and_reach(people, true, skeleton, camera, reach)[1]
    captions = _captions(people, true, camera, azimuth_deg) if captions is None else tuple(captions)
    panels = []
    if view != "3d":
        colors = _reference(depth, true if len(true) else people, reference, tinted or reach)
        panels.append(_depth_panel(depth, people, true, camera, skeleton, start_px, colors, height))
    if view != "depth":
        options = {"azimuth_deg": azimuth_deg, "elevation_deg": elevation_deg, "from_above": from_above}
        options |= {"backdrop": backdrop, "start_px": start_px, "truth": truth, "reach": reach, "size": height}
        panels.append(draw_depth_3d(people, skeleton, camera, depth, **options))
    if captions:
        texts = captions if len(panels) == 2 else (captions[view == "3d"],)
        panels = [_captioned(panel, text) for panel, text in zip(panels, texts)]
    return np.concatenate(panels, 1)


def world_joints(people, camera):
    """3-D joints of people in a depth camera's world.

    Args:
        people: `People` with `joints3d`: metres, y down.
        camera: `DepthCamera` or the name of a dataset.

    Returns:
        Float64 `[people, joints, 3]` in the camera's unit and with its direction of y.

    Raises:
        ValueError: If there are no 3-D joints, or not those of the skeleton.
    """
    camera = camera if isinstance(camera, DepthCamera) else dataset_camera(camera)
    if people.joints3d is None or people.joints3d.shape[1] != people.skeleton.num_joints:
        raise ValueError(f"{people!r} has no 3-D joints of its skeleton; pass what posekit.load('v2v') finds.")
    scale = 1000.0 if camera.unit == "mm" else 1.0
    return people.joints3d.astype(np.float64) * [scale, -scale if camera.y_up else scale, scale]


class _View:
    """A perspective view of a cube in the world; places are in reaches from its middle, y down."""

    def __init__(self, center, reach, y_up, size, azimuth_deg, elevation_deg, from_above, framing):
        self.center, self.reach, self.size = center, reach, size
        filled, self.behind = framing
        self.axes = np.diag([1.0, -1.0 if y_up else 1.0, 1.0])
        if from_above:
            self.axes = np.array([[1.0, 0, 0], [0, 0, 1.0], [0, -1.0, 0]]) @ self.axes
        azimuth, tilt = np.radians([azimuth_deg, elevation_deg])
        turn = np.array([[np.cos(azimuth), 0, np.sin(azimuth)], [0, 1, 0], [-np.sin(azimuth), 0, np.cos(azimuth)]])
        tilt = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
        self.turn = tilt @ turn
        self.scale = size / 2 / filled

    def place(self, points):
        """World -> reaches from the middle, before the view is turned."""
        return (points - self.center) / self.reach @ self.axes.T

    def project(self, places):
        """Pixels `[..., 2]` and distances from the viewer `[...]`."""
        seen = (places - [0.0, 0.0, self.behind]) @ self.turn.T
        distance = np.maximum(seen[..., 2] + _DISTANCE, 0.2 * _DISTANCE)
        return seen[..., :2] / distance[..., None] * _DISTANCE * self.scale + self.size / 2 - 0.5, distance

    def draw_room(self, canvas):
        """The walls behind the cube, with a grid."""
        facing = self.turn[2]  # how an axis runs away from the viewer
        for axis in range(3):
            side = 1.0 if facing[axis] >= 0 else -1.0
            others = [other for other in range(3) if other != axis]
            corners = np.full((4, 3), side)
            corners[:, others] = [[-1, -1], [1, -1], [1, 1], [-1, 1]]
            cv2.fillConvexPoly(canvas, _fixed(self.project(corners)[0]), _WALL, cv2.LINE_AA, _BITS)
            for along, across in (others, others[::-1]):
                for step in np.linspace(-1, 1, 5):
                    ends = np.full((2, 3), side)
                    ends[:, along], ends[:, across] = [-1, 1], step
                    pixels = self.project(ends)[0]
                    _line(canvas, *pixels, _GRID, max(1, self.size // 480))

    def draw_points(self, canvas, depth, start_px, camera):
        """Splats the measured points, lit by the direction of the surface, far ones first."""
        depth, start_px = _near(depth, start_px, self.center, self.reach, camera)
        if min(depth.shape, default=0) < 2:
            return
        places = self.place(depth_to_points(depth, camera, start_px))
        inside = (depth > 0) & (np.abs(places) <= 1).all(-1)
        if not inside.any():
            return
        pixels, distance = self.project(places[inside])
        shade = _lit(places, inside)[inside]
        near = np.clip((_DISTANCE - distance) / 2 + 0.5, 0, 1)
        colors = np.array([196.0, 186.0, 166.0]) * (0.72 + 0.28 * shade + 0.10 * (near - 0.5))[:, None]
        colors = np.clip(colors + 30, 0, 255).astype(np.uint8)
        # A pixel of the depth picture covers this much here, seen from the front.
        footprint = self.center[2] / min(camera.fx, camera.fy) / self.reach * self.scale
        side = int(np.clip(np.ceil(1.2 * footprint), 1, self.size // 24))
        order = np.argsort(-distance)
        corner = np.floor(pixels[order] - (side - 1) / 2 + 0.5).astype(np.int64)
        colors = colors[order]
        padded = np.empty((self.size + 2 * side, self.size + 2 * side, 3), np.uint8)
        padded[side:-side, side:-side] = canvas
        corner = np.clip(corner, -side, self.size) + side
        # One assignment for all pixels of the splats, so that near points cover far ones: the last one stays.
        rows, columns = np.divmod(np.arange(side * side), side)
        flat = (corner[:, 1:] + rows) * padded.shape[1] + corner[:, :1] + columns
        flat = np.minimum(flat, padded.shape[0] * padded.shape[1] - 1)
        padded.reshape(-1, 3)[flat.ravel()] = np.repeat(colors, side * side, axis=0)
        canvas[:] = padded[side:-side, side:-side]

    def draw_plane(self, canvas, depth, start_px, camera):
        """The tinted depth on a plane behind the cube, as large as what it shows at the middle's depth."""
        depth, start_px = _near(depth, start_px, self.center, self.reach, camera)
        if min(depth.shape, default=0) < 2:
            return
        height, width = depth.shape
        tinted = tint_depth(depth, self.center[2], self.reach)
        ends = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64) - 0.5
        flat = np.concatenate([ends + start_px, np.full((4, 1), self.center[2])], 1)
        fx, fy, cx, cy = camera.signed_intrinsics
        corners = np.stack([(flat[:, 0] - cx) * flat[:, 2] / fx, (flat[:, 1] - cy) * flat[:, 2] / fy, flat[:, 2]], -1)
        corners[:, 2] += _PLANE * self.reach
        pixels = self.project(self.place(corners))[0]
        warp = cv2.getPerspectiveTransform(np.float32(ends + 0.5), np.float32(pixels))
        size = (self.size, self.size)
        drawn = cv2.warpPerspective(tinted, warp, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        mask = np.zeros(size, np.uint8)
        cv2.fillConvexPoly(mask, _fixed(pixels), 255, cv2.LINE_AA, _BITS)
        share = mask[..., None] / 255.0
        canvas[:] = np.rint(canvas * (1 - share) + drawn * share).astype(np.uint8)
        for one, other in zip(pixels, np.roll(pixels, -1, 0)):
            _line(canvas, one, other, (150, 150, 150), max(1, self.size // 480))

    def draw_skeleton(self, canvas, joints, skeleton, colors, thickness):
        """Bones and joints, far ones first; every bone with a rim that sets it apart from what is behind it."""
        pixels, distance = self.project(self.place(joints))
        seen = np.isfinite(pixels).all(-1)
        radii = np.where(seen, thickness * 0.0125 * self.size * _DISTANCE / np.where(seen, distance, 1.0), 0)
        parts = [
            (distance[[child, parent]].mean(), child, parent)
            for child, parent in skeleton.bones
            if seen[child] and seen[parent]
        ]
        # A joint lies just before its bones, so that these do not cover half of it.
        parts += [(distance[joint] - 0.03, joint, None) for joint in np.flatnonzero(seen)]
        for _, joint, parent in sorted(parts, key=lambda part: -part[0]):
            if parent is None:
                color, radius = colors[joint][0], radii[joint]
                _disc(canvas, pixels[joint], radius, _mix(color, _SHADOW, 0.5))
                _disc(canvas, pixels[joint], 0.8 * radius, color)
                _disc(canvas, pixels[joint] - 0.28 * radius, 0.28 * radius, _mix(color, (255, 255, 255), 0.65))
                continue
            color, width = colors[joint][1], 1.3 * radii[[joint, parent]].mean()
            for share, ink in ((1.0, _mix(color, _SHADOW, 0.5)), (0.72, color)):
                _line(canvas, pixels[joint], pixels[parent], ink, share * width)


def _lit(places, inside):
    """How much a surface turns to a lamp over the depth camera's left shoulder, 0 to 1; 1/2 where it breaks off."""
    across, down = np.zeros_like(places), np.zeros_like(places)
    across[:, 1:-1] = places[:, 2:] - places[:, :-2]
    down[1:-1] = places[2:] - places[:-2]
    whole = inside.copy()
    whole[:, 1:-1] &= inside[:, 2:] & inside[:, :-2]
    whole[1:-1] &= inside[2:] & inside[:-2]
    whole &= (np.abs(across[..., 2]) < 0.15) & (np.abs(down[..., 2]) < 0.15)
    normal = np.cross(across, down)
    length = np.linalg.norm(normal, axis=-1)
    lamp = np.array([-0.45, -0.55, -0.7])
    lit = np.abs(normal @ (lamp / np.linalg.norm(lamp))) / np.where(length > 0, length, 1)
    return np.where(whole & (length > 0), lit, 0.5)


def _near(depth, start_px, center, reach, camera):
    """The part of a depth picture that shows a cube, and where it begins."""
    if depth.ndim != 2:
        raise ValueError(f"A depth picture of shape {depth.shape} is not [height, width].")
    first = np.asarray(start_px, int)
    if not np.isfinite(center).all() or center[2] <= 0:
        return depth[:0], first
    left, top, right, bottom = box_around(center, reach, camera)
    columns = slice(max(left - first[0], 0), max(right - first[0], 0))
    rows = slice(max(top - first[1], 0), max(bottom - first[1], 0))
    # A picture larger than the camera says is taken whole.
    if depth.shape[1] + first[0] > camera.width or depth.shape[0] + first[1] > camera.height:
        rows, columns = slice(0, None), slice(0, None)
    return depth[rows, columns], first + [columns.start, rows.start]


def _depth_panel(depth, people, truth, camera, skeleton, start_px, colors, height):
    """The square of the tinted depth around all joints, enlarged, with skeletons."""
    depth = np.asarray(depth)
    tinted = tint_depth(depth, *colors)
    shown = np.concatenate([people, truth])
    pixels = world_to_pixel(shown, camera)
    pixels[..., :2] -= start_px
    left, top, side = _square(pixels[..., :2], depth.shape)
    # Beyond the border lies what was not measured.
    warp = np.array([[height / side, 0, 0], [0, height / side, 0]])
    warp[:, 2] = -np.array([left, top]) * height / side
    centred = _centred(warp)
    how = cv2.INTER_LINEAR if height >= side else cv2.INTER_AREA
    panel = cv2.warpAffine(tinted, centred, (height, height), flags=how, borderValue=TINT)
    drawn = pixels[..., :2] @ centred[:, :2].T + centred[:, 2]
    drawn = np.concatenate([drawn, pixels[..., 2:]], -1)
    width = max(2.0, 0.013 * height)
    for figure in drawn[len(people) :]:
        # Light with a dark rim: hands are of all greys in between.
        for color, share in ((_SHADOW, 1.15), (_TRUTH_ON_DEPTH, 0.7)):
            colors = [(color, color)] * skeleton.num_joints
            panel = draw_depth_skeleton(panel, figure, skeleton, width=share * width, colors=colors)
    for figure in drawn[: len(people)]:
        panel = draw_depth_skeleton(panel, figure, skeleton, width=width)
    return panel


def _centred(warp):
    """The warp of pixel corners as one of pixel centres."""
    centred = warp.copy()
    centred[:, 2] += warp[:, :2] @ [0.5, 0.5] - 0.5
    return centred


def _square(pixels, shape):
    """Left, top and side of what to show: joints and a margin, or the whole picture where there are none."""
    points = pixels[np.isfinite(pixels).all(-1)]
    points = points[((points > -np.array(shape[::-1])) & (points < 2 * np.array(shape[::-1]))).all(-1)]
    if not len(points):
        side = float(max(shape))
        return (shape[1] - side) / 2, (shape[0] - side) / 2, side
    low, high = points.min(0), points.max(0)
    side = float((high - low).max() + 1 + MARGIN_PX)
    left, top = (low + high) / 2 + 0.5 - side / 2
    return left, top, side


def _middle_and_reach(people, truth, skeleton, camera, reach):
    """Middle of the joints in the world, and the reach in the camera's unit."""
    points = np.concatenate([people, truth]).reshape(-1, 3)
    points = points[np.isfinite(points).all(-1)]
    if not len(points):
        return np.full(3, np.nan), reach or 1.0
    low, high = points.min(0), points.max(0)
    if reach is None:
        usual = _usual_reach(skeleton, camera)
        # Long fingers, other skeletons and several people: as far as they go.
        whole = 0.75 * float((high - low).max())
        reach = max(usual, whole) if usual else max(1.2 * whole, 1e-6)
    if not 0 < reach < np.inf:
        raise ValueError(f"reach={reach} is not a length above 0.")
    return (low + high) / 2, float(reach)


def _reference(depth, people, reference, reach):
    """Depth in the middle of the colours and their reach; without joints, those of the whole picture."""
    joints = people[..., 2][np.isfinite(people).all(-1)]
    if reference is not None or len(joints):
        return (joints.min() + joints.max()) / 2 if reference is None else reference, reach
    depth = np.asarray(depth)
    measured = depth[np.isfinite(depth) & (depth > 0)]
    if not len(measured):
        return 0.0, reach
    low, high = np.percentile(measured, [1, 99])
    return (low + high) / 2, max((high - low) / 2, 1e-3 * high)


def _captions(people, truth, camera, azimuth_deg):
    found = np.isfinite(people).all(-1).any()
    first = "depth and joints" if found else "depth: no joints"
    second = f"3-D joints from {_side(azimuth_deg)}" if found or np.isfinite(truth).all(-1).any() else ""
    if len(truth):
        second += " (grey: truth)"
        if truth.shape == people.shape:
            error = np.linalg.norm(people - truth, axis=-1) * (1.0 if camera.unit == "mm" else 1000.0)
            error = error[np.isfinite(error)]
            first += f", mean error {error.mean():.1f} mm" if len(error) else ""
    return first, second


def _side(azimuth_deg):
    """Where the viewer stands, in words."""
    turn = round((azimuth_deg + 180) % 360 - 180)
    if turn == 0:
        return "the front"
    if abs(turn) == 180:
        return "behind"
    return f"{abs(turn)}\N{DEGREE SIGN} to the {'left' if turn < 0 else 'right'}"


def _captioned(picture, text):
    size = int(np.clip(picture.shape[0] / 30, 11, 30))
    strip = np.full((2 * size, picture.shape[1], 3), _BACKGROUND, np.uint8)
    letters = Image.fromarray(strip)
    ImageDraw.Draw(letters).text((0.7 * size, 0.95 * size), text, fill=_INK, font=_font(size), anchor="lm")
    return np.concatenate([picture, np.asarray(letters)])


@functools.cache
def _font(size):
    return ImageFont.load_default(size=size)


def _dataset_skeleton(skeleton):
    """The depth dataset's skeleton that this is, or is a part of; None for others."""
    first = [known for name, known in DEPTH_SKELETONS.items() if skeleton.name.startswith(name)]
    fitting = (known for known in (*first, *DEPTH_SKELETONS.values()) if set(skeleton.joints) <= set(known.joints))
    return next(fitting, None)


def _usual_reach(skeleton, camera):
    """Half the cube of the dataset, in the camera's unit; None for other skeletons."""
    known = _dataset_skeleton(skeleton)
    return known and REACH_MM[known.name] * (1.0 if camera.unit == "mm" else 1e-3)


def _color(name, skeleton):
    """A joint's colour in the palette of its dataset."""
    if skeleton.name == "ITOP15":
        side, _, part = name.partition("_")
        for (limb_side, parts), ramp in _LIMBS.items():
            if side == limb_side and part in parts:
                return _RAMPS[ramp][parts.index(part)]
        return _HEAD if name == "head" else _ROOT
    if skeleton.name == "NYU14" and name in _NYU_OTHERS:
        return _NYU_OTHERS[name]
    finger, _, part = name.partition("_")
    if finger not in _RAMPS:
        return _ROOT
    place = _PARTS[skeleton.name][part]
    one, other = (np.array(_RAMPS[finger][int(end(place))]) for end in (np.floor, np.ceil))
    return tuple(int(value) for value in (one + other) // 2)


def _people(joints, skeleton):
    """`[people, joints, 3]`, none for None."""
    if joints is None:
        return np.zeros((0, skeleton.num_joints, 3))
    joints = np.asarray(joints, np.float64)
    if joints.ndim not in (2, 3) or joints.shape[-2:] != (skeleton.num_joints, 3):
        raise ValueError(
            f"joints have the shape {joints.shape}, but skeleton {skeleton.name!r} needs [{skeleton.num_joints}, 3] or "
            f"[people, {skeleton.num_joints}, 3]; pass the skeleton of these joints."
        )
    return joints.reshape(-1, skeleton.num_joints, 3)


def _joints_and_seen(joints_px, skeleton, visibility):
    joints = np.asarray(joints_px, np.float64)
    if joints.ndim != 2 or joints.shape[0] != skeleton.num_joints or joints.shape[1] not in (2, 3):
        raise ValueError(
            f"joints_px has shape {joints.shape}, but skeleton {skeleton.name!r} needs [{skeleton.num_joints}, 2 or "
            "3]; pass the skeleton of these joints."
        )
    seen = np.isfinite(joints).all(-1)
    if visibility is not None:
        visibility = np.asarray(visibility)
        if visibility.shape != (skeleton.num_joints,):
            raise ValueError(f"visibility has shape {visibility.shape}; it must be [{skeleton.num_joints}].")
        seen &= visibility != 0
    return joints, seen


def _mix(color, other, share):
    return tuple(round(one * (1.0 - share) + two * share) for one, two in zip(color, other))


def _fixed(pixels):
    return np.rint(np.clip(pixels, -_FAR_PX, _FAR_PX) * (1 << _BITS)).astype(np.int32)


def _line(canvas, one, other, color, width):
    ends = (tuple(map(int, end)) for end in _fixed(np.stack([one, other])))
    cv2.line(canvas, *ends, color, max(1, round(width)), cv2.LINE_AA, _BITS)


def _disc(canvas, center, radius, color):
    place = tuple(map(int, _fixed(np.asarray(center))))
    cv2.circle(canvas, place, max(1, round(radius * (1 << _BITS))), color, -1, cv2.LINE_AA, _BITS)
