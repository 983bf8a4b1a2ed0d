"""Pictures of 3-D skeletons: lit limbs over a floor in perspective, from any side.

Joints are in camera axes, millimetres: x to the right, y down, z away from the camera. Azimuth 0 looks where the
camera looked; positive azimuths walk around the people anticlockwise as seen from above, so that they turn to the
viewer's left. Images are RGB uint8. Nothing here opens a window.
"""

import dataclasses
import functools
import math

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from posekit.drawing import draw_skeleton, joint_colors, uint8_image
from posekit.skeletons import H36M17

BACKGROUND = (250, 251, 252)
_FLOOR, _GRID = (238, 241, 245), (212, 218, 226)
_INK = (70, 76, 84)
_TRUTH = ((150, 154, 160), (168, 172, 178))
_CELL_MM = 500.0
_BITS = 4
_FINE = 1 << _BITS
_FAR_PX = 1 << 14  # farther out is drawn as if there: OpenCV's coordinates are whole numbers
# Half thickness of bones in millimetres, by the joint in which they end; the rest have the last one.
_THICKNESS_MM = {"knee": 31, "hip": 30, "ankle": 25, "elbow": 24, "wrist": 20, "shoulder": 27, "spine": 31}
_THICKNESS_MM |= {"thorax": 31, "neck": 27, "nose": 24, "head_top": 26, "eye": 12, "ear": 12}
_OTHER_THICKNESS_MM = 20
# Where nothing is known of the people to come: radius and height of the space in which one moves.
_REACH_MM = (480.0, 1750.0)
_STEP_MM = 160.0
_SPACING_MM = 900.0
_FAR_MM = 1e7  # joints farther away are not there: no camera sees people at ten kilometres
_MOST_CELLS = 40


class Skeleton3DView:
    """Draws 3-D skeletons, always framed the same.

    The frame holds every joint of the poses given, so that it does not move while a sequence plays. Poses relative
    to their pelvis (it lies at the origin throughout) are stood on the floor, frame by frame; others keep their places
    and the floor lies under the lowest joint of all.

    Args:
        skeleton: `Skeleton` of the joints.
        joints_mm: `[joints, 3]`, `[people, joints, 3]` or `[frames, people, joints, 3]`: all poses to come. None for
            people one at a time, relative to their pelvis, as they come from a camera.
        size: Side of the picture in pixels, or `(height, width)`.
        azimuth_deg: Where to look from by default.
        elevation_deg: How far the viewer looks down.
        turning: Whether the frame must hold the people from all sides, or only from the default azimuth.
        reach_mm: Radius and height of the space that the frame holds where no poses are given.

    Example:
        >>> view = Skeleton3DView(H36M17, size=240)
        >>> view(np.random.default_rng(0).normal(0, 300, (17, 3)), azimuth_deg=30).shape
        (240, 240, 3)
    """

    def __init__(
        self,
        skeleton=H36M17,
        joints_mm=None,
        size=480,
        azimuth_deg=0.0,
        elevation_deg=12.0,
        turning=True,
        reach_mm=_REACH_MM,
    ):
        self.skeleton = skeleton
        self.height, self.width = (int(value) for value in np.broadcast_to(size, 2))
        if min(self.height, self.width) < 16:
            raise ValueError(f"size={size}: pass at least 16 pixels, such as 480.")
        if not -80 <= elevation_deg <= 80:
            raise ValueError(f"elevation_deg={elevation_deg}: pass an angle from -80 to 80, such as 12.")
        self.azimuth_deg, self.elevation_deg = float(azimuth_deg), float(elevation_deg)
        self._colors = joint_colors(skeleton)
        self._radii = np.array([_thickness(name) for name in skeleton.joints])
        poses = None if joints_mm is None else _poses(joints_mm, skeleton)
        self.grounded = poses is None or _all_relative(poses, skeleton)
        self._frame(self._bounds(poses, reach_mm), turning)
        self._drawn_floor = None

    def __call__(self, joints_mm, azimuth_deg=None, truth_mm=None):
        """Draws people.

        Args:
            joints_mm: `[joints, 3]` or `[people, joints, 3]`; joints that are not finite, or ten kilometres away, are
                left out.
            azimuth_deg: Where to look from.
            truth_mm: What they should be, in grey beside them: `[joints, 3]` or `[people, joints, 3]`.

        Returns:
            uint8 `[height, width, 3]`.

        Raises:
            ValueError: If a shape does not fit the skeleton.
        """
        azimuth = np.radians(self.azimuth_deg if azimuth_deg is None else azimuth_deg)
        people = _people(joints_mm, self.skeleton)
        truth = _people(truth_mm, self.skeleton) if truth_mm is not None else people[:0]
        absent = int((np.isfinite(people).all(-1).sum(-1) < 2).sum())
        if self.grounded:
            people, truth = _stood(people, self._floor), _stood(truth, self._floor)
        canvas = self._empty_floor(azimuth)
        self._cast_shadows(canvas, people, azimuth)
        parts = [part for figure in people for part in self._parts(figure, self._colors, azimuth)]
        # Thinner and a little behind, so that what was predicted stays in view where both agree.
        truth_colors = [_TRUTH] * self.skeleton.num_joints
        parts += [part for figure in truth for part in self._parts(figure, truth_colors, azimuth, 0.65, 80.0)]
        for part in sorted(parts, key=lambda part: -part.depth):
            part.draw(canvas)
        if absent:
            note = "1 person without a 3-D pose" if absent == 1 else f"{absent} people without a 3-D pose"
            _write(canvas, note, (0.03 * self.width, self.height - 0.03 * self.height), self.height / 34)
        return canvas

    def _bounds(self, poses, reach_mm):
        """Points that the frame must hold; sets the floor and the middle."""
        points = np.zeros((0, 3))
        if poses is not None:
            self._floor = 0.0
            points = (_stood(poses, 0.0) if self.grounded else poses).reshape(-1, 3)
            points = points[np.isfinite(points).all(-1)]
        if not len(points):
            around = np.linspace(0, 2 * np.pi, 12, endpoint=False)
            ring = np.stack([np.sin(around), np.zeros(12), np.cos(around)], -1) * reach_mm[0]
            points = np.concatenate([ring - [0, reach_mm[1], 0], ring])
        low, high = points.min(0), points.max(0)
        # One who lies flat must not fill the picture with a limb's thickness.
        grow = np.maximum(300.0 - (high - low), 0.0) / 2
        self._floor = 0.0 if self.grounded else float(high[1] + 40.0)
        self._middle = (low + high) / 2
        points = np.concatenate([points, self._middle + np.array([-0.5, 0.5])[:, None] * (high - low + 2 * grow)])
        return points if len(points) < 20_000 else points[:: len(points) // 10_000]

    def _frame(self, points, turning):
        """Chooses distance, scale and place so that the points fit."""
        offsets = points - self._middle
        reach = np.linalg.norm(offsets, axis=-1).max() + 1.0
        self._reach = reach
        self._floor_reach = max(1.25 * np.linalg.norm(offsets[:, [0, 2]], axis=-1).max(), 900.0)
        self._distance = 3.6 * reach
        self._scale, self._center = 1.0, np.zeros(2)
        azimuths = np.radians(np.arange(0, 360, 15) if turning else [self.azimuth_deg])
        seen = np.concatenate([self._project(points, azimuth)[0] for azimuth in azimuths])
        low, high = seen.min(0), seen.max(0)
        room = np.array([self.width, self.height]) * (1.0 - 2 * 0.09)
        self._scale = float((room / np.maximum(high - low, 1e-9)).min())
        self._center = np.array([self.width, self.height]) / 2 - 0.5 - (low + high) / 2 * self._scale

    def _project(self, points, azimuth):
        """Pixels `[..., 2]` and depths `[...]` of points, seen from an azimuth."""
        offsets = points - self._middle
        sine, cosine = np.sin(azimuth), np.cos(azimuth)
        x = cosine * offsets[..., 0] + sine * offsets[..., 2]
        z = -sine * offsets[..., 0] + cosine * offsets[..., 2]
        tilt = np.radians(self.elevation_deg)
        y = np.cos(tilt) * offsets[..., 1] - np.sin(tilt) * z
        z = np.sin(tilt) * offsets[..., 1] + np.cos(tilt) * z
        depth = np.maximum(z + self._distance, 0.05 * self._distance)
        return np.stack([x, y], -1) / depth[..., None] * self._scale + self._center, depth

    def _empty_floor(self, azimuth):
        if self._drawn_floor is None or self._drawn_floor[0] != azimuth:
            self._drawn_floor = azimuth, self._draw_floor(azimuth)
        return self._drawn_floor[1].copy()

    def _draw_floor(self, azimuth):
        canvas = np.full((self.height, self.width, 3), BACKGROUND, np.uint8)
        turn = np.linspace(0, 2 * np.pi, 96, endpoint=False)
        for share in np.linspace(1.0, 0.55, 12):  # fades out towards the rim
            ring = np.stack([np.sin(turn), np.zeros_like(turn), np.cos(turn)], -1) * self._floor_reach * share
            pixels = self._project(self._on_floor(ring), azimuth)[0]
            color = _mix(BACKGROUND, _FLOOR, (1.0 - share) / 0.45)
            cv2.fillConvexPoly(canvas, _fixed(pixels), color, cv2.LINE_AA, _BITS)
        cell = _CELL_MM * 2 ** max(0, math.ceil(math.log2(self._floor_reach / (_CELL_MM * _MOST_CELLS))))
        cells = np.arange(1, int(self._floor_reach / cell) + 1) * cell
        width = 1 if self.height < 700 else 2
        for along in (0, 2):
            for place in np.concatenate([-cells[::-1], [0.0], cells]):
                half = np.sqrt(max(self._floor_reach**2 - place**2, 0.0))
                steps = np.linspace(-half, half, 25)
                line = np.zeros((25, 3))
                line[:, along], line[:, 2 - along] = steps, place
                pixels = self._project(self._on_floor(line), azimuth)[0]
                far = np.hypot((steps[1:] + steps[:-1]) / 2, place) / self._floor_reach
                for one, other, share in zip(pixels[:-1], pixels[1:], np.clip((1.0 - far) / 0.45, 0, 1)):
                    color = _mix(_mix(BACKGROUND, _FLOOR, share), _GRID, share)
                    _line(canvas, one, other, color, width)
        return canvas

    def _on_floor(self, offsets):
        return offsets + [self._middle[0], self._floor, self._middle[2]]

    def _cast_shadows(self, canvas, figures, azimuth):
        if self.elevation_deg <= 2:
            return
        mask = np.zeros(canvas.shape[:2], np.uint8)
        for figure in figures:
            below = np.where([False, True, False], self._floor, figure)
            pixels, depth = self._project(np.where(np.isfinite(figure), below, np.nan), azimuth)
            for child, parent in self.skeleton.bones:
                if np.isfinite(pixels[[child, parent]]).all():
                    width = max(1, round(2 * self._radii[child] * self._scale / depth[child]))
                    _line(mask, pixels[child], pixels[parent], 255, width)
        blur = max(3, round(self.height / 50)) | 1
        left, top, width, height = cv2.boundingRect(mask)
        if not width:
            return
        rows = slice(max(top - blur, 0), top + height + blur)
        columns = slice(max(left - blur, 0), left + width + blur)
        soft = cv2.GaussianBlur(mask[rows, columns], (blur, blur), 0).astype(np.float32) * (0.17 / 255)
        canvas[rows, columns] = canvas[rows, columns] * (1.0 - soft[..., None]) + 0.5

    def _parts(self, figure, colors, azimuth, thickness=1.0, behind_mm=0.0):
        """Bones and joints of one person."""
        pixels, depth = self._project(figure, azimuth)
        seen = np.isfinite(pixels).all(-1)
        # From 1 in front to -1 behind: nearer parts are thicker than perspective makes them, farther ones paler.
        near = np.clip((self._distance - depth) / self._reach, -1, 1)
        radii = np.maximum(thickness * self._radii * self._scale / depth * (1.0 + 0.15 * near), 1.1)
        pale = 0.17 - 0.17 * near
        depth = depth + behind_mm
        for child, parent in self.skeleton.bones:
            if seen[child] and seen[parent]:
                color = _mix(colors[child][1], BACKGROUND, pale[[child, parent]].mean())
                widths = 0.92 * radii[child], 0.92 * min(radii[parent], 1.35 * radii[child])
                yield _Bone(depth[[child, parent]].mean(), pixels[[child, parent]], widths, color)
        for joint in np.flatnonzero(seen):
            color = _mix(colors[joint][0], BACKGROUND, pale[joint])
            # Just before the bones that meet there, so that these do not cover half of it.
            yield _Joint(depth[joint] - 1.5 * self._radii[joint], pixels[joint], radii[joint], color)


@dataclasses.dataclass
class _Bone:
    depth: float
    ends: np.ndarray
    radii: tuple
    color: tuple

    def draw(self, canvas):
        along = self.ends[1] - self.ends[0]
        length = float(np.hypot(*along))
        if length > 2.5 * max(self.radii):
            # A pale rim sets the bone apart from what lies behind it; not at the ends, where its neighbours begin.
            inner = self.ends + np.array([[0.2], [-0.2]]) * along
            _capsule(canvas, inner, [radius + 1.6 for radius in self.radii], BACKGROUND)
        _capsule(canvas, self.ends, self.radii, _mix(self.color, (20, 20, 40), 0.16))
        if max(self.radii) >= 2:
            lit = self.ends + np.array([-0.22, -0.26]) * np.array(self.radii)[:, None]
            _capsule(canvas, lit, [0.66 * radius for radius in self.radii], self.color)
            lit = self.ends + np.array([-0.34, -0.40]) * np.array(self.radii)[:, None]
            _capsule(canvas, lit, [0.22 * radius for radius in self.radii], _mix(self.color, (255, 255, 255), 0.45))


@dataclasses.dataclass
class _Joint:
    depth: float
    center: np.ndarray
    radius: float
    color: tuple

    def draw(self, canvas):
        for size, shift, color in (
            (1.12, 0.0, _mix(self.color, (20, 20, 40), 0.22)),
            (0.84, 0.20, self.color),
            (0.30, 0.42, _mix(self.color, (255, 255, 255), 0.6)),
        ):
            if size * self.radius >= 0.6:
                _disc(canvas, self.center - shift * self.radius, size * self.radius, color)


def draw_skeleton_3d(
    joints_mm, skeleton=H36M17, size=480, azimuth_deg=0.0, elevation_deg=12.0, truth_mm=None, turning=False
):
    """Draws 3-D skeletons once; for sequences keep a `Skeleton3DView`, whose frame never changes.

    People relative to their pelvis stand beside each other, in a frame that holds them from all sides and hardly ever
    changes from picture to picture.

    Args:
        joints_mm: `[joints, 3]` or `[people, joints, 3]` in camera axes.
        skeleton: Their `Skeleton`.
        size: Side of the picture in pixels, or `(height, width)`.
        azimuth_deg: Where to look from; 0 is where the camera was.
        elevation_deg: How far the viewer looks down.
        truth_mm: What they should be, in grey.
        turning: Frame people that have a place so that they fit from all sides, too.

    Returns:
        uint8 `[height, width, 3]`.
    """
    people, truth, view = _framed(joints_mm, truth_mm, skeleton, size, elevation_deg, None, turning, azimuth_deg)
    return view(people, azimuth_deg, truth)


def turntable(joints_mm, skeleton=H36M17, num_frames=60, size=480, start_deg=0.0, elevation_deg=12.0, truth_mm=None):
    """Walks once around 3-D skeletons.

    Args:
        joints_mm: `[joints, 3]` or `[people, joints, 3]` in camera axes; see `draw_skeleton_3d`.
        skeleton: Their `Skeleton`.
        num_frames: Pictures for the whole turn.
        size: Side of the pictures in pixels, or `(height, width)`.
        start_deg: Azimuth of the first picture.
        elevation_deg: How far the viewer looks down.
        truth_mm: What they should be, in grey.

    Yields:
        uint8 `[height, width, 3]`.
    """
    people, truth, view = _framed(joints_mm, truth_mm, skeleton, size, elevation_deg)
    for frame in range(num_frames):
        yield view(people, start_deg + 360.0 * frame / num_frames, truth)


def lifting_picture(
    image, people, azimuth_deg=30.0, *, height=480, view=None, truth_mm=None, elevation_deg=12.0, captions=None
):
    """Shows what a lifting network took and gave: 2-D joints on the picture, and the 3-D skeletons beside it.

    Of a picture in which people are small, the part around them is shown.

    People relative to their pelvis stand beside each other, in the order in which the picture has them, in a frame
    that holds them from all sides and hardly ever changes from picture to picture.

    Args:
        image: `[height, width, 3]` picture, or None for a light canvas of the picture's shape.
        people: `posekit.results.People` with `joints3d` (metres, camera axes, joints in the order of their skeleton).
            2-D joints with the score 0 are drawn as rings: they were guessed.
        azimuth_deg: Where to look from; 0 is where the camera was.
        height: Of the two pictures in pixels, captions apart.
        view: `Skeleton3DView` of a whole sequence, whose frame never changes.
        truth_mm: `[people, joints, 3]` true joints in millimetres, drawn in grey.
        elevation_deg: How far the viewer looks down, where no view is given.
        captions: Two texts; by default what is seen. `()` leaves the captions out.

    Returns:
        uint8 `[height + caption, width, 3]`.

    Raises:
        ValueError: If the people have no 3-D joints, or these are not those of their skeleton.
    """
    return _Lifting(image, people, height, view, truth_mm, elevation_deg, captions).seen_from(azimuth_deg)


def lifting_turntable(
    image,
    people,
    num_frames=60,
    start_deg=0.0,
    *,
    height=480,
    view=None,
    truth_mm=None,
    elevation_deg=12.0,
    captions=None,
):
    """Shows 2-D joints on the picture and walks once around the 3-D skeletons beside it.

    Args:
        image: As for `lifting_picture`.
        people: As for `lifting_picture`.
        num_frames: Pictures for the whole turn.
        start_deg: Azimuth of the first picture.
        height: As for `lifting_picture`, and so are the rest.
        view: See there.
        truth_mm: See there.
        elevation_deg: See there.
        captions: See there.

    Yields:
        uint8 `[height + caption, width, 3]`.
    """
    lifting = _Lifting(image, people, height, view, truth_mm, elevation_deg, captions)
    for frame in range(num_frames):
        yield lifting.seen_from(start_deg + 360.0 * frame / num_frames)


class _Lifting:
    """Keeps what stays the same while the viewer walks around."""

    def __init__(self, image, people, height, view, truth_mm, elevation_deg, captions):
        framed = _framed(_joints_mm(people), truth_mm, people.skeleton, height, elevation_deg, people.keypoints_px)
        self.joints_mm, self.truth_mm, own_view = framed
        self.view = view or own_view
        guessed = (people.scores <= 0) & np.isfinite(people.keypoints_px).all(-1)
        self.input, detail = _input_panel(image, people, guessed, self.view.height)
        if captions is None:
            first = "2-D joints, enlarged" if detail else "2-D joints"
            captions = (f"{first} (rings: guessed)" if guessed.any() else first, None)
        self.captions = tuple(captions)
        self.has_truth = truth_mm is not None

    def seen_from(self, azimuth_deg):
        right = self.view(self.joints_mm, azimuth_deg, self.truth_mm)
        if not self.captions:
            return np.concatenate([self.input, right], 1)
        first, second = self.captions
        if second is None:
            second = f"3-D joints, seen from {round(azimuth_deg) % 360}\N{DEGREE SIGN}"
            second += " (grey: truth)" if self.has_truth else ""
        return np.concatenate([_captioned(self.input, first), _captioned(right, second)], 1)


def _joints_mm(people):
    if people.joints3d is None:
        raise ValueError("These people have no 3-D joints; lift them first: people = posekit.load('lcn')(people).")
    if people.joints3d.shape[1] != people.skeleton.num_joints:
        raise ValueError(
            f"joints3d has shape {people.joints3d.shape}, but skeleton {people.skeleton.name!r} has "
            f"{people.skeleton.num_joints} joints; give people whose 2-D and 3-D joints are the same."
        )
    return people.joints3d.astype(np.float64) * 1000.0


def _framed(joints_mm, truth_mm, skeleton, size, elevation_deg, keypoints_px=None, turning=True, azimuth_deg=0.0):
    """People and truth where they are to be drawn, and a view that holds them."""
    people = _people(joints_mm, skeleton)
    truth = people[:0] if truth_mm is None else _people(truth_mm, skeleton)
    if not _all_relative(people, skeleton):
        shown = np.concatenate([people, truth])
        return people, truth, Skeleton3DView(skeleton, shown, size, azimuth_deg, elevation_deg, turning)
    places = _places(len(people), keypoints_px)
    people, truth = people + places, truth + (places if len(truth) == len(people) else 0.0)
    reach = _reach(np.concatenate([people, truth]))
    return people, truth, Skeleton3DView(skeleton, None, size, azimuth_deg, elevation_deg, reach_mm=reach)


def _places(count, keypoints_px):
    """Where people without a place stand: beside each other, in the order of their 2-D joints. `[people, 1, 3]`."""
    rank = np.arange(count)
    if keypoints_px is not None:
        finite = np.isfinite(keypoints_px).all(-1)
        x = np.where(finite, keypoints_px[..., 0], 0.0).sum(-1) / np.maximum(finite.sum(-1), 1)
        rank = np.argsort(np.argsort(x))
    return ((rank - (count - 1) / 2) * _SPACING_MM)[:, None, None] * np.array([1.0, 0.0, 0.0])


def _reach(joints_mm):
    """Radius and height of the space that people standing on the floor take, in coarse steps."""
    joints = joints_mm[np.isfinite(joints_mm).all((-2, -1))]
    radius, height = _REACH_MM
    if len(joints):
        radius = max(radius, np.hypot(joints[..., 0], joints[..., 2]).max())
        height = max(height, np.ptp(joints[..., 1], axis=-1).max())
    taken = zip(_REACH_MM, (radius, height))
    return tuple(least + float(np.ceil((now - least) / _STEP_MM)) * _STEP_MM for least, now in taken)


def _input_panel(image, people, guessed, height):
    """The picture, or a light canvas, with 2-D joints, on a panel of the given height; and whether it is a detail."""
    rows, columns = people.image_size if image is None else np.shape(image)[:2]
    width = int(np.clip(round(height * columns / rows), height // 2, 2 * height))
    (left, top), (right, bottom) = _shown_part(people.keypoints_px, columns, rows)
    detail = (right - left, bottom - top) != (columns, rows)
    rows, columns = bottom - top, right - left
    scale = min(height / rows, width / columns)
    inner = max(1, round(rows * scale)), max(1, round(columns * scale))
    panel = np.full((height, width, 3), BACKGROUND, np.uint8)
    above, before = (height - inner[0]) // 2, (width - inner[1]) // 2
    place = panel[above : above + inner[0], before : before + inner[1]]
    if image is None:
        place[:] = (243, 245, 247)
    else:
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        place[:] = cv2.resize(uint8_image(image)[top:bottom, left:right], inner[::-1], interpolation=how)
    scales = np.array(inner[::-1]) / [columns, rows]
    radius = max(3, round(height / 110))
    for points, ring in zip((people.keypoints_px.astype(np.float64) - [left, top] + 0.5) * scales - 0.5, guessed):
        place[:] = draw_skeleton(place, points, people.skeleton, ~ring, radius=radius)
        if ring.any():
            place[:] = draw_skeleton(place, points, people.skeleton, ring, draw_edges=False, radius=radius + 1)
    return panel, detail


def _shown_part(points_px, columns, rows):
    """Upper left and lower right corner of the part to show: where the people are, if they are small, or everything.

    It has the shape of the picture, and size and place in coarse steps, so that it stands still while people move a
    little.
    """
    whole = np.array([columns, rows])
    points = points_px[np.isfinite(points_px).all(-1)]
    if not len(points):
        return (0, 0), (columns, rows)
    low, high = points.min(0).astype(np.float64), points.max(0).astype(np.float64)
    larger = (whole / np.maximum(1.4 * (high - low), 16.0)).min()
    larger = 2.0 ** (np.floor(2.0 * np.log2(larger)) / 2)
    if larger < 1.4:
        return (0, 0), (columns, rows)
    size = np.ceil(whole / larger)
    step = size / 12
    corner = np.clip(np.rint(np.rint(((low + high - size) / 2) / step) * step), 0, whole - size)
    return tuple(corner.astype(int).tolist()), tuple((corner + size).astype(int).tolist())


def _captioned(picture, text):
    size = int(np.clip(picture.shape[0] / 30, 11, 30))
    strip = np.full((2 * size, picture.shape[1], 3), BACKGROUND, np.uint8)
    _write(strip, text, (0.7 * size, 0.95 * size), size)
    return np.concatenate([picture, strip])


def _write(canvas, text, place, size):
    """Writes text whose left end's middle is at a place."""
    letters = Image.fromarray(canvas)
    ImageDraw.Draw(letters).text(place, text, fill=_INK, font=_font(int(size)), anchor="lm")
    canvas[:] = letters


@functools.cache
def _font(size):
    return ImageFont.load_default(size=size)


def _thickness(name):
    stem = name.removeprefix("left_").removeprefix("right_")
    return float(_THICKNESS_MM.get(stem, _OTHER_THICKNESS_MM))


def _poses(joints_mm, skeleton):
    """`[frames, people, joints, 3]`."""
    joints = np.asarray(joints_mm, np.float64)
    if joints.ndim not in (2, 3, 4) or joints.shape[-2:] != (skeleton.num_joints, 3):
        raise ValueError(
            f"joints_mm has shape {joints.shape}, but skeleton {skeleton.name!r} needs [frames, people, "
            f"{skeleton.num_joints}, 3]; pass the skeleton of these joints."
        )
    joints = np.where((np.abs(joints) < _FAR_MM).all(-1, keepdims=True), joints, np.nan)
    return joints[(None,) * (4 - joints.ndim)]


def _people(joints_mm, skeleton):
    joints = _poses(joints_mm, skeleton)
    if len(joints) > 1:
        raise ValueError(f"joints_mm has shape {np.shape(joints_mm)}; draw one frame, [people, joints, 3], at a time.")
    return joints[0]


def _all_relative(joints_mm, skeleton):
    """Tells whether every person's root lies at the origin."""
    roots = joints_mm[..., skeleton.index("pelvis") if "pelvis" in skeleton.joints else 0, :]
    roots = roots[np.isfinite(roots).all(-1)]
    return len(roots) > 0 and bool((np.abs(roots) < 1.0).all())


def _stood(joints, floor):
    """Lifts or lowers each person so that its lowest joint is just above the floor."""
    finite = np.isfinite(joints).all(-1)
    lowest = np.where(finite, joints[..., 1], -np.inf).max(-1, initial=-np.inf)
    shift = np.where(np.isfinite(lowest), floor - 40.0 - lowest, 0.0)
    return joints + shift[..., None, None] * np.array([0.0, 1.0, 0.0])


def _mix(color, other, share):
    share = float(np.clip(share, 0.0, 1.0))
    return tuple(round(one * (1.0 - share) + two * share) for one, two in zip(color, other))


def _fixed(pixels):
    return np.rint(np.clip(pixels, -_FAR_PX, _FAR_PX) * _FINE).astype(np.int32)


def _line(canvas, one, other, color, width):
    ends = (tuple(map(int, end)) for end in _fixed(np.stack([one, other])))
    cv2.line(canvas, *ends, color, width, cv2.LINE_AA, _BITS)


def _disc(canvas, center, radius, color):
    cv2.circle(canvas, tuple(map(int, _fixed(center))), max(1, round(radius * _FINE)), color, -1, cv2.LINE_AA, _BITS)


def _capsule(canvas, ends, radii, color):
    """Two discs and what lies between them."""
    along = ends[1] - ends[0]
    length = float(np.hypot(*along))
    for end, radius in zip(ends, radii):
        _disc(canvas, end, radius, color)
    if length > abs(radii[0] - radii[1]):
        aside = np.array([-along[1], along[0]]) / length
        corners = [ends[0] + aside * radii[0], ends[1] + aside * radii[1]]
        corners += [ends[1] - aside * radii[1], ends[0] - aside * radii[0]]
        cv2.fillConvexPoly(canvas, _fixed(np.array(corners)), color, cv2.LINE_AA, _BITS)
