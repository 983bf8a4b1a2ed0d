"""Pictures of many people: limbs in the colours of the originals, heatmaps and part affinity fields over photographs.

Images are RGB, `[height, width, 3]`, uint8 or float 0 to 1, and come back as uint8. Nothing here opens a window.
"""

import colorsys
import math

import cv2
import numpy as np

from posekit.drawing import side_by_side, uint8_image
from posekit.skeletons import OPENPOSE18

_WIDTH, _OPACITY = 8.0, 0.6  # the original's
_RADIUS = 0.25  # of joints, in widths of the limbs, as the original's
_SHARE = 0.025  # of a person's size that limbs are wide
_NARROWEST = 1.5
_LONGEST = 3.0  # times as large as the longest limb is a person who is seen in part
_FACE, _FACE_SHARE = frozenset(("nose", "left_eye", "right_eye", "left_ear", "right_ear")), 0.35
_FARTHEST_PX = 1 << 14  # joints farther out are drawn as if there: OpenCV's coordinates are whole numbers
_BITS = 4
_ARROW_PX = 8  # between arrows, in pictures 46 cells of 8 pixels high
_WEAKEST_ARROW = 0.25
_LONGEST_ARROW = 4.0
_LARGEST_FIELD = 1e6
_FINEST, _FINEST_TILE = 1024, 480  # pixels along the longer side that maps are enlarged to


def limb_colors(count=OPENPOSE18.num_joints):
    """Colours round the colour wheel, from blue through green to red and back.

    Args:
        count: How many; the original has 18.

    Returns:
        List of RGB colours from 0 to 255.

    Follows: michalfaber/keras_Realtime_Multi-Person_Pose_Estimation:util.py (colors), which writes them as BGR.
    """
    wheel = (colorsys.hsv_to_rgb(index / count, 1.0, 1.0) for index in range(count))
    return [tuple(round(255 * value) for value in reversed(color)) for color in wheel]


def draw_people(
    image, people, skeleton=OPENPOSE18, peaks=None, opacity=_OPACITY, radius=None, width=None, antialiased=True
):
    """Draws the joints and limbs of all people.

    Args:
        image: Picture to draw on; it is not changed.
        people: `posekit.ops.Decoded` in pixels of this image, `posekit.results.People`, or `[people, joints, 2]` x, y
            in pixels; joints that are not finite are left out.
        skeleton: `Skeleton` of the joints; `People` bring theirs.
        peaks: `[peaks, 3 or more]` joint, x, y of further joints that are marked, such as `Decoded.peaks` of
            `mode="exact"`, among which are those of nobody.
        opacity: Of the limbs, 0 to 1; the less, the more of the people shows through.
        radius: Of the joints in pixels; by default a quarter of the limbs' width.
        width: Of the limbs in pixels; by default in proportion to every person's own size. Those of the face are
            thinner.
        antialiased: Draw smoothly, between pixels; false gives the original's picture: limbs of 8 pixels, joints of
            2, those of the face as wide as the others.

    Returns:
        uint8 `[height, width, 3]`.

    Raises:
        ValueError: If shapes do not fit.

    Example:
        >>> import numpy as np
        >>> person = np.random.default_rng(0).uniform(20, 180, (1, 18, 2))
        >>> draw_people(np.zeros((200, 200, 3), np.uint8), person).shape
        (200, 200, 3)

    Follows: michalfaber/keras_Realtime_Multi-Person_Pose_Estimation:processing.py (draw).
    Differs: RGB; blends only around a limb, to the same values; sizes as above.
    """
    skeleton = getattr(people, "skeleton", skeleton)
    for name in ("keypoints_px", "keypoints"):
        people = getattr(people, name, people)
    people = np.asarray(people, np.float64)
    if people.ndim != 3 or people.shape[1:] != (skeleton.num_joints, 2):
        raise ValueError(
            f"People of shape {people.shape}: skeleton {skeleton.name!r} needs [people, {skeleton.num_joints}, 2]; "
            "pass the skeleton of these joints."
        )
    canvas = uint8_image(image).copy()
    seen = np.isfinite(people).all(-1)
    people = np.clip(np.where(seen[..., None], people, 0), -_FARTHEST_PX, _FARTHEST_PX)
    widths = _widths(people, seen, skeleton, canvas.shape) if width is None and antialiased else None
    if widths is None:
        widths = np.full(len(people), _WIDTH if width is None else float(width))
    in_face = np.array([name in _FACE for name in skeleton.joints]) & antialiased
    colors = limb_colors(skeleton.num_joints)
    sizes = widths[:, None] * np.where(in_face, _FACE_SHARE, 1.0)
    marks = [(joint, *people[one, joint], sizes[one, joint]) for one, joint in np.argwhere(seen)]
    if peaks is not None:
        usual = np.median(widths) if len(widths) else _WIDTH
        marks += [(*peak[:3], usual) for peak in np.asarray(peaks, np.float64)]
    for joint, x, y, size in sorted(marks, key=lambda mark: mark[0]):
        _disc(canvas, (x, y), _RADIUS * size if radius is None else radius, colors[int(joint)], antialiased)
    shown = [limb for limb, opens in zip(skeleton.limb_grouping, skeleton.limb_opens) if opens]
    for color, limb in zip(colors, shown):
        start, end = skeleton.limbs[limb]
        for one in np.flatnonzero(seen[:, start] & seen[:, end]):
            # A limb is as wide as the thicker of its ends: the neck as the body, an eye as the face.
            half = max(sizes[one, start], sizes[one, end]) / 2
            _limb(canvas, people[one, start], people[one, end], half, color, opacity, antialiased)
    return canvas


def _widths(people, seen, skeleton, shape):
    """Widths of the limbs `[people]` in pixels, which leave as much of a small person to be seen as of a large one."""
    low = people.min(1, where=seen[..., None], initial=np.inf)
    high = people.max(1, where=seen[..., None], initial=-np.inf)
    extent = np.linalg.norm(np.where(seen.any(-1, keepdims=True), high - low, 0.0), axis=-1)
    start, end = np.array(skeleton.limbs, int).reshape(-1, 2).T
    lengths = np.linalg.norm(people[:, start] - people[:, end], axis=-1)
    longest = lengths.max(-1, where=seen[:, start] & seen[:, end], initial=0.0)
    scale = max(1.0, min(shape[:2]) / 368)
    return np.clip(_SHARE * np.maximum(extent, _LONGEST * longest), _NARROWEST, _WIDTH * scale)


def draw_heatmaps(image, heatmaps, skeleton=OPENPOSE18, opacity=0.9, grid=False, columns=5):
    """Lays heatmaps over a photograph, each joint in its colour.

    Args:
        image: The photograph.
        heatmaps: Float `[height, width, joints]` or with the background as the last; of any size.
        skeleton: `Skeleton` of the joints.
        opacity: Of the value 1.
        grid: One picture a joint with its name, and the background, instead of all in one.
        columns: Pictures beside each other in the grid.

    Returns:
        uint8 `[height, width, 3]` as large as the image, or the grid.

    Raises:
        ValueError: If shapes do not fit, or values are not finite.
    """
    heatmaps = np.asarray(heatmaps, np.float32)
    joints = skeleton.num_joints
    if heatmaps.ndim != 3 or heatmaps.shape[-1] not in (joints, joints + 1) or not heatmaps.size:
        raise ValueError(
            f"Heatmaps of shape {heatmaps.shape}: skeleton {skeleton.name!r} needs [height, width, {joints + 1}]."
        )
    _check_values("Heatmaps", heatmaps, np.inf)
    photograph = _faded(image, _FINEST_TILE if grid else None)
    colors = np.array([*limb_colors(joints), (255, 255, 255)], np.float32)
    values = np.clip(_enlarged(heatmaps, photograph), 0, 1)
    if grid:
        pictures = [
            _blended(photograph, colors[index], values[..., index] * opacity) for index in range(values.shape[-1])
        ]
        return _tiled(pictures, [*skeleton.joints, "background"][: len(pictures)], columns)
    values = values[..., :joints]
    weights = values**2  # where several overlap, the higher one shows
    color = (weights @ colors[:joints]) / np.maximum(weights.sum(-1, keepdims=True), 1e-6)
    return _blended(photograph, color, values.max(-1) * opacity)


def draw_pafs(image, pafs, skeleton=OPENPOSE18, opacity=0.8, grid=False, columns=5, arrows=True, legend=False):
    """Lays part affinity fields over a photograph: the colour tells where they point, arrows do too.

    To the right is red, down is green, to the left cyan and up violet.

    Args:
        image: The photograph.
        pafs: Float `[height, width, 2 limbs]`, of any size.
        skeleton: `Skeleton` of the limbs.
        opacity: Of vectors of length 1.
        grid: One picture a limb with its name, instead of the longest vector of all.
        columns: Pictures beside each other in the grid.
        arrows: Draw arrows too.
        legend: Draw the colours of all directions as a wheel in the lower right corner.

    Returns:
        uint8 `[height, width, 3]` as large as the image, or the grid.

    Raises:
        ValueError: If shapes do not fit, or values are not finite or far too large.
    """
    pafs, limbs = np.asarray(pafs, np.float32), len(skeleton.limbs)
    if pafs.ndim != 3 or pafs.shape[-1] != 2 * limbs or not pafs.size:
        raise ValueError(
            f"Fields of shape {pafs.shape}: skeleton {skeleton.name!r} needs [height, width, {2 * limbs}]."
        )
    _check_values("Fields", pafs, _LARGEST_FIELD)
    photograph = _faded(image, _FINEST_TILE if grid else None)
    fields = _enlarged(pafs, photograph)
    fields = fields.reshape(*fields.shape[:2], limbs, 2)
    lengths = np.hypot(fields[..., 0], fields[..., 1])
    if legend:
        photograph = _with_wheel(photograph)
    if grid:
        pictures = [
            _field(photograph, fields[:, :, limb], lengths[..., limb], opacity, arrows) for limb in range(limbs)
        ]
        return _tiled(pictures, [f"{start} - {end}" for start, end in skeleton.limb_names], columns)
    longest = lengths.argmax(-1)[..., None]
    field = np.take_along_axis(fields, longest[..., None], axis=2)[:, :, 0]
    return _field(photograph, field, np.take_along_axis(lengths, longest, axis=2)[..., 0], opacity, arrows)


def _check_values(name, maps, largest):
    wrong = np.count_nonzero(~(np.abs(maps) <= min(largest, np.finfo(np.float32).max)))
    if wrong:
        what = "that are not finite" if largest == np.inf else f"that are not finite or larger than {largest:g}"
        raise ValueError(
            f"{name} hold {wrong} values {what}, where 1 is about the largest; check the image and the weights of the "
            "network."
        )


def _disc(canvas, center, radius, color, antialiased):
    if not antialiased:
        cv2.circle(canvas, (int(center[0]), int(center[1])), int(radius), color, thickness=-1)
        return
    center, radius = [round(value * (1 << _BITS)) for value in center], round(radius * (1 << _BITS))
    cv2.circle(canvas, center, radius, color, thickness=-1, lineType=cv2.LINE_AA, shift=_BITS)


def _limb(canvas, one, other, width, color, opacity, antialiased):
    """An ellipse from joint to joint, blended into the part of the canvas where it lies."""
    center, (along, down) = (one + other) / 2, one - other
    length, angle = math.hypot(along, down), math.degrees(math.atan2(down, along))
    if antialiased:
        turn = np.linspace(0, 2 * np.pi, 72, endpoint=False)
        axis = np.array([along, down]) / max(length, 1e-9)
        ring = np.cos(turn)[:, None] * max(length / 2, width) * axis
        ring = center + ring + np.sin(turn)[:, None] * width * np.array([-axis[1], axis[0]])
        if length < 1e-9:
            ring = center + width * np.stack([np.cos(turn), np.sin(turn)], axis=-1)
    else:
        axes = int(length / 2), int(width)
        ring = cv2.ellipse2Poly((int(center[0]), int(center[1])), axes, int(angle), 0, 360, 1)
    low = np.maximum(np.floor(ring.min(0)).astype(int) - 2, 0)
    high = np.minimum(np.ceil(ring.max(0)).astype(int) + 3, canvas.shape[1::-1])
    if (low >= high).any():
        return
    part = canvas[low[1] : high[1], low[0] : high[0]]
    if antialiased:
        share = np.zeros(part.shape[:2], np.uint8)
        fixed = np.round((ring - low) * (1 << _BITS)).astype(np.int32)
        cv2.fillConvexPoly(share, fixed, 255, lineType=cv2.LINE_AA, shift=_BITS)
        share = share[..., None] * np.float32(opacity / 255)
        part[:] = np.rint(part * (1 - share) + np.array(color, np.float32) * share)
    else:
        filled = np.ascontiguousarray(part)
        before = filled.copy()
        cv2.fillConvexPoly(filled, (ring - low).astype(np.int32), color)
        part[:] = cv2.addWeighted(before, 1 - opacity, filled, opacity, 0)


def _faded(image, longest=None):
    """A photograph in grey and darker, over which colours are legible; no larger than `longest` pixels."""
    image = uint8_image(image)
    if longest and max(image.shape) > longest:
        image = cv2.resize(image, _within(image.shape, longest)[::-1], interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return cv2.cvtColor(cv2.convertScaleAbs(grey, alpha=0.5), cv2.COLOR_GRAY2RGB)


def _within(size, longest):
    scale = min(1.0, longest / max(size[:2]))
    return tuple(max(1, round(side * scale)) for side in size[:2])


def _enlarged(maps, photograph):
    """Maps as large as the photograph, or as fine as they need to be."""
    size = _within(photograph.shape, _FINEST)
    return cv2.resize(maps, size[::-1], interpolation=cv2.INTER_LINEAR).reshape(*size, maps.shape[-1])


def _blended(photograph, color, share):
    size = photograph.shape[1::-1]
    share = cv2.resize(np.clip(share, 0, 1).astype(np.float32), size, interpolation=cv2.INTER_LINEAR)[..., None]
    if color.ndim > 1:
        color = cv2.resize(color.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    return np.rint(photograph * (1 - share) + color * share).clip(0, 255).astype(np.uint8)


def _direction_colors(x, y):
    hue = (np.degrees(np.arctan2(y, x)) % 360).astype(np.float32)
    return cv2.cvtColor(np.stack([hue, np.ones_like(hue), np.ones_like(hue)], axis=-1), cv2.COLOR_HSV2RGB) * 255


def _with_wheel(photograph):
    """A disc of the colours of all directions, seen from its middle, in the lower right corner."""
    radius = min(photograph.shape[:2]) // 14
    if not radius:
        return photograph
    across = np.arange(-radius, radius + 1, dtype=np.float32)
    x, y = np.meshgrid(across, across)
    photograph = photograph.copy()
    part = photograph[-3 * radius - 1 : -radius, -3 * radius - 1 : -radius]
    share = np.clip(radius + 0.5 - np.hypot(x, y), 0, 1)[..., None]
    part[:] = np.rint(part * (1 - share) + _direction_colors(x, y) * share)
    return photograph


def _field(photograph, field, length, opacity, arrows):
    picture = _blended(photograph, _direction_colors(field[..., 0], field[..., 1]), length * opacity)
    if not arrows:
        return picture
    scale = np.array(photograph.shape[1::-1]) / length.shape[::-1]
    step = max(2, round(_ARROW_PX * max(1.0, min(length.shape) / 368)))
    half = step // 2
    for y, x in np.argwhere(length[half::step, half::step] > _WEAKEST_ARROW) * step + half:
        way = field[y, x] * min(1.0, _LONGEST_ARROW / length[y, x]) * 0.45 * step
        ends = [[round(float(value) * 16) for value in ([x, y] + sign * way) * scale] for sign in (-1, 1)]
        cv2.arrowedLine(picture, *ends, (255, 255, 255), max(1, round(scale[0])), cv2.LINE_AA, _BITS, tipLength=0.4)
    return picture


def _tiled(pictures, titles, columns):
    rows = [
        side_by_side(pictures[first : first + columns], titles[first : first + columns])
        for first in range(0, len(pictures), columns)
    ]
    widest = max(row.shape[1] for row in rows)
    white = {"borderType": cv2.BORDER_CONSTANT, "value": (255, 255, 255)}
    return np.concatenate([cv2.copyMakeBorder(row, 0, 8, 0, widest - row.shape[1], **white) for row in rows])
