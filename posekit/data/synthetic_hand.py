"""Hands made by code: shapes, gestures and their surface, for depth pictures with everything known.

A hand is a tree of bones whose joints bend within the limits of real ones; its flesh is made of round cones
(`posekit.data.synthetic_depth`). The seventeen gestures are MSRA's: fingers held up, and the thumb meeting a
fingertip. Everything is a pure function of the `numpy.random.Generator` passed in, and works on whole sequences.

Hands are right hands, in millimetres. A hand's own frame has the wrist at the origin, x towards the thumb, y towards
the fingers and z out of the palm; the camera's has x right, y down and z forward.
"""

import dataclasses

import numpy as np
from scipy.spatial.transform import Rotation

from posekit.data.synthetic_depth import RoundCones, draw_cones, join_cones, measure, sample_jitter
from posekit.geometry.depth import box_around, dataset_camera, depth_to_points
from posekit.skeletons import MSRA21

FINGERS = ("index", "middle", "ring", "pinky")
# Angles in degrees, with the limits within which they stay. aside: towards the thumb; mcp, pip, dip: how far the
# joints bend. Of the thumb, spread: away from the index finger within the palm's plane; lift: out of it; roll: what
# makes its pad face the fingers. Of the wrist, flex: towards the palm; aside: towards the thumb.
_LIMITS = {
    **{
        f"{finger}_{part}": limits
        for finger in FINGERS
        for part, limits in (("aside", (-22, 20)), ("mcp", (-15, 92)), ("pip", (0, 108)), ("dip", (0, 76)))
    },
    "thumb_spread": (-25, 64),
    "thumb_lift": (-5, 75),
    "thumb_roll": (-130, -30),
    "thumb_mcp": (-10, 62),
    "thumb_ip": (-15, 82),
    "wrist_flex": (-45, 45),
    "wrist_aside": (-25, 25),
}
ANGLES = tuple(_LIMITS)
_COLUMN = {name: column for column, name in enumerate(ANGLES)}

# Of a hand of 178 mm from the wrist to the tip of the middle finger. Where fingers begin:
_KNUCKLES = {"index": (25, 86, 2), "middle": (4, 88, -1), "ring": (-15, 82, 0), "pinky": (-32, 72, 4)}
# Lengths of bones from the knuckle on; the last ends a fingertip's radius before the skin does.
_BONES = {"index": (41, 24, 19), "middle": (45, 27, 19), "ring": (42, 26, 19), "pinky": (33, 19, 17)}
# Radii of the flesh at the knuckle, the two joints beyond and the tip.
_GIRTHS = {"index": (10.5, 9, 7.8, 6.6), "middle": (10.5, 9.2, 8, 6.8), "ring": (10, 8.6, 7.5, 6.4)}
_GIRTHS |= {"pinky": (9, 7.6, 6.6, 5.7)}
# Degrees by which fingers lean towards the thumb as they bend: fists close towards its root.
_LEANS = {"index": -5, "middle": 0, "ring": 7, "pinky": 15}
_THUMB_ROOT, _THUMB_BONES, _THUMB_GIRTHS = (20, 22, 7), (44, 33, 24), (13.5, 11.5, 9.5, 7.8)


# Degrees of a finger's three joints, and of the thumb's spread, lift, roll and two joints.
_FINGER = {"up": (4, 8, 5), "down": (80, 100, 62)}
_THUMB = {
    "out": (50, 12, -60, 0, -3),
    "palm": (22, 34, -88, 46, 44),
    "middle": (31, 56, -96, 43, 50),
    "index": (25, 47, -92, 37, 47),
    "ring": (14, 46, -91, 41, 45),
    "bent_index": (40, 48, -93, 36, 55),
    "both": (36, 48, -93, 37, 52),
}
# The thumb and a fingertip that meet: the thumb's five angles, then the finger's three.
_MEETINGS = {
    "index": ((27, 45, -96, 12, 21), (51, 55, 27)),
    "middle": ((16, 45, -94, 17, 16), (50, 63, 30)),
    "ring": ((12, 49, -94, 21, 21), (56, 56, 27)),
    "pinky": ((11, 50, -95, 36, 28), (56, 47, 27)),
}


def _pose(thumb, *fingers, spread=1.0, meets=None):
    """Angles of a gesture that holds these fingers up; the thumb is one of `_THUMB` or meets a fingertip."""
    angles = dict.fromkeys(_LIMITS, 0.0)
    for finger, aside in zip(FINGERS, (6, 1, -5, -12)):
        bends = _MEETINGS[finger][1] if finger == meets else _FINGER["up" if finger in fingers else "down"]
        angles |= {f"{finger}_{part}": float(bend) for part, bend in zip(("mcp", "pip", "dip"), bends)}
        angles[f"{finger}_aside"] = aside * spread if finger in fingers else 0.0
    bends = _MEETINGS[meets][0] if meets else _THUMB[thumb]
    return angles | {f"thumb_{part}": float(bend) for part, bend in zip(("spread", "lift", "roll", "mcp", "ip"), bends)}


# In the order of MSRA's folders. Letters name fingers that are up: thumb, index, middle, pinky and ring.
GESTURES = {
    "1": _pose("index", "index"),
    "2": _pose("ring", "index", "middle", spread=1.4),
    "3": _pose("out", "index", "middle", spread=1.2),
    "4": _pose("palm", *FINGERS),
    "5": _pose("out", *FINGERS, spread=1.3),
    "6": _pose(None, "index", "middle", "ring", meets="pinky"),
    "7": _pose(None, "index", "middle", "pinky", meets="ring"),
    "8": _pose(None, "index", "ring", "pinky", meets="middle"),
    "9": _pose(None, "middle", "ring", "pinky", meets="index"),
    "I": _pose("middle", "pinky"),
    "IP": _pose("index", "index", "pinky"),
    "L": _pose("out", "index"),
    "MP": _pose("bent_index", "middle", "pinky"),
    "RP": _pose("both", "ring", "pinky"),
    "T": _pose("out"),
    "TIP": _pose("out", "index", "pinky", spread=1.4),
    "Y": _pose("out", "pinky", spread=1.3),
}


@dataclasses.dataclass(frozen=True, eq=False)
class HandShape:
    """Sizes of somebody's hand, as factors of an average one.

    Args:
        palm: `(width, length)`.
        fingers: `[5]` lengths of thumb, index, middle, ring and pinky.
        girth: Thickness of everything.
    """

    palm: tuple = (1.0, 1.0)
    fingers: tuple = (1.0,) * 5
    girth: float = 1.0


def sample_hand_shape(rng):
    """A hand's shape.

    Args:
        rng: `numpy.random.Generator`.

    Returns:
        `HandShape` of a grown-up.
    """
    size = np.clip(rng.normal(0.93, 0.05), 0.83, 1.03)
    palm = size * np.clip(rng.normal(1, 0.035, 2), 0.92, 1.08)
    fingers = size * np.clip(rng.normal(1, 0.03) * rng.normal(1, 0.02, 5), 0.92, 1.08)
    return HandShape(tuple(palm), tuple(fingers), float(size * np.clip(rng.normal(1, 0.05), 0.88, 1.12)))


@dataclasses.dataclass(frozen=True, eq=False)
class PosedHand:
    """A hand in a sequence of poses, in the camera's frame (y down).

    Args:
        points: Name -> float64 `[frames, 3]` mm: `wrist`, `{finger}_{mcp,pip,dip,tip}` of five fingers (the thumb's
            are its root, its two joints and its tip), and the palm's `palm`, `palm_ulnar`, `palm_radial`,
            `wrist_ulnar`, `wrist_radial`.
        flesh: `RoundCones` `[frames, cones]`.
    """

    points: dict
    flesh: RoundCones


def _turn(axis, degrees):
    """Rotation matrices `[..., 3, 3]`."""
    angle = np.radians(np.asarray(degrees, np.float64))
    return Rotation.from_euler(axis, angle.reshape(-1, 1)).as_matrix().reshape(*angle.shape, 3, 3)


def pose_hand(shape, angles, rotation=None, wrist_mm=None, forearm_mm=60.0):
    """Bends a hand's joints and puts it somewhere.

    Args:
        shape: `HandShape`.
        angles: `[frames, 23]` degrees of `ANGLES`; see `sample_gesture`.
        rotation: `[frames, 3, 3]` from the hand's own frame to the camera's; the identity by default.
        wrist_mm: `[frames, 3]` where the wrist is in the camera's frame; the origin by default.
        forearm_mm: Length of the forearm that is part of the flesh.

    Returns:
        A `PosedHand`.
    """
    angles = np.asarray(angles, np.float64)
    angle = {name: angles[:, column] for name, column in _COLUMN.items()}
    width, length = shape.palm
    scale = np.array([width, length, shape.girth])
    points, radii = {"wrist": np.zeros((len(angles), 3))}, {}
    for number, finger in enumerate(FINGERS):
        frame = _turn("y", _LEANS[finger]) @ _turn("z", -angle[f"{finger}_aside"])
        bends = [angle[f"{finger}_{part}"] for part in ("mcp", "pip", "dip")]
        root = np.array(_KNUCKLES[finger]) * scale
        chain = _chain(root, frame, bends, np.array(_BONES[finger]) * shape.fingers[number + 1])
        for part, place, girth in zip(("mcp", "pip", "dip", "tip"), chain, _GIRTHS[finger]):
            points[f"{finger}_{part}"], radii[f"{finger}_{part}"] = place, girth * shape.girth
    frame = _turn("z", -angle["thumb_spread"]) @ _turn("x", angle["thumb_lift"]) @ _turn("y", angle["thumb_roll"])
    bends = [0 * angle["thumb_mcp"], angle["thumb_mcp"], angle["thumb_ip"]]
    chain = _chain(np.array(_THUMB_ROOT) * scale, frame, bends, np.array(_THUMB_BONES) * shape.fingers[0])
    for part, place, girth in zip(("mcp", "pip", "dip", "tip"), chain, _THUMB_GIRTHS):
        points[f"thumb_{part}"], radii[f"thumb_{part}"] = place, girth * shape.girth
    for name, place in _PALM_POINTS.items():
        points[name] = np.broadcast_to(np.array(place) * scale, (len(angles), 3))
    flesh = _flesh(points, radii, scale, angle, forearm_mm)
    return _placed(points, flesh, rotation, wrist_mm)


_PALM_POINTS = {
    "palm": (-2, 50, 0),
    "palm_radial": (17, 58, 0),
    "palm_ulnar": (-19, 48, 0),
    "wrist_radial": (15, -6, 0),
    "wrist_ulnar": (-17, -6, 0),
}


def _chain(root, frame, bends, lengths):
    """Points `[4]` of `[frames, 3]` along a finger that bends towards its pad."""
    places = [np.broadcast_to(root, (len(bends[0]), 3))]
    for bend, length in zip(bends, lengths):
        frame = frame @ _turn("x", bend)
        places.append(places[-1] + length * frame[..., 1])
    return places


def _flesh(points, radii, scale, angle, forearm_mm):
    """Round cones of the whole hand."""
    width, length, girth = scale
    cones = []
    for finger in (*FINGERS, "thumb"):
        joints = [f"{finger}_{part}" for part in ("mcp", "pip", "dip", "tip")]
        cones += [(points[a], points[b], radii[a], radii[b]) for a, b in zip(joints, joints[1:])]
    # The palm is a fan from the wrist to the knuckles, without gaps between its ribs.
    knuckles = np.stack([points[f"{finger}_mcp"][0] for finger in FINGERS])
    thick = np.array([radii[f"{finger}_mcp"] for finger in FINGERS])
    for share in np.linspace(0, 3, 13):
        whole, part = min(int(share), 2), share - min(int(share), 2)
        end = knuckles[whole] * (1 - part) + knuckles[whole + 1] * part
        end[1] -= 12 * length * part * (1 - part)
        radius = thick[whole] * (1 - part) + thick[whole + 1] * part
        start = np.array([17 - 34 * share / 3, 6, 0]) * scale
        cones.append((start, end, 14.5 * girth, radius))
    # Balls of the thumb and of the little finger, and the fold between thumb and index finger.
    root, joint = points["thumb_mcp"], points["thumb_pip"]
    cones.append((np.array([8, 26, 6]) * scale, joint, 14 * girth, radii["thumb_pip"] * 0.95))
    cones.append((np.array([16, 12, 3]) * scale, root, 14 * girth, radii["thumb_mcp"]))
    for thumb, index, radius in ((0.35, 0.45, 11), (0.6, 0.62, 10), (0.85, 0.8, 8)):
        web = root + thumb * (joint - root)
        cones.append((web, index * points["index_mcp"], radius * girth, radius * girth))
    cones.append((np.array([-17, 16, 5]) * scale, np.array([-27, 54, 5]) * scale, 13 * girth, 11.5 * girth))
    # The forearm is wider than thick.
    back = _turn("z", angle["wrist_aside"]) @ _turn("x", -angle["wrist_flex"])
    end = -back[..., 1] * forearm_mm
    swell = forearm_mm / 200
    for aside in np.linspace(-1, 1, 5):
        start = np.array([aside * 12.5 * width, 2, 0])
        side = aside * (12.5 + 9 * swell) * width * back[..., 0]
        cones.append((start, end + side, 15.5 * girth, (16 + 12 * swell) * girth))
    frames = len(angle["wrist_flex"])
    starts, ends = (np.stack([np.broadcast_to(cone[k], (frames, 3)) for cone in cones], 1) for k in (0, 1))
    radii = [np.broadcast_to(np.array([cone[k] for cone in cones], np.float64), (frames, len(cones))) for k in (2, 3)]
    return RoundCones(starts, ends, *radii)


def _placed(points, flesh, rotation, wrist_mm):
    if rotation is not None:
        points = {name: np.einsum("fij,fj->fi", rotation, place) for name, place in points.items()}
        starts, ends = (np.einsum("fij,fcj->fci", rotation, places) for places in (flesh.starts, flesh.ends))
        flesh = dataclasses.replace(flesh, starts=starts, ends=ends)
    if wrist_mm is not None:
        wrist_mm = np.asarray(wrist_mm, np.float64)
        points = {name: place + wrist_mm for name, place in points.items()}
        moved = {"starts": flesh.starts + wrist_mm[:, None], "ends": flesh.ends + wrist_mm[:, None]}
        flesh = dataclasses.replace(flesh, **moved)
    return PosedHand(points, flesh)


# ------------------------------------------------------------------------------------------------------- motion

# A palm that faces the camera with the fingers up.
FACING = np.diag([1.0, -1.0, -1.0])
FRAME_RATE = 25.0
# Seconds that a sequence lasts at least: with few frames they lie farther apart, so that they still differ.
SHORTEST = 20.0
# Degrees by which angles differ from a gesture's, and by which a hand turns about the camera's y, x and z axes:
# in a whole sequence, and from frame to frame of it.
_OFFSETS = {"aside": 2.0, "mcp": 4.0, "pip": 4.0, "dip": 2.5, "thumb": 2.5, "wrist": 6.0}
_SWINGS = {"aside": 2.0, "mcp": 5.0, "pip": 5.0, "dip": 3.0, "thumb": 2.5, "wrist": 7.0}
_TURNS, _TURN_SWINGS, _TURN_LIMITS = (14, 9, 8), (16, 11, 9), (55, 38, 35)


def _sizes(table):
    kinds = (name.split("_") for name in ANGLES)
    return np.array([table[first] if first in table else table[part] for first, part in kinds])


def _wander(rng, times, count):
    """Slow movements `[frames, count]` of standard deviation 1, by sums of sines."""
    rates, phases = rng.uniform(0.4, 3.0, (3, count)), rng.uniform(0, 2 * np.pi, (3, count))
    return np.sin(times[:, None, None] * rates + phases).sum(1) / np.sqrt(1.5)


def _times(rng, num_frames):
    duration = max(SHORTEST, num_frames / FRAME_RATE)
    return (np.arange(num_frames) + rng.random()) * duration / max(num_frames, 1)


def sample_gesture(rng, gesture, num_frames):
    """Somebody who holds a gesture for a while, not quite still.

    Args:
        rng: `numpy.random.Generator`.
        gesture: One of `GESTURES`, or None for hands that go from one to the next.
        num_frames: Frames. They are 1 / 25 s apart, more where there are too few for `SHORTEST` seconds.

    Returns:
        `(angles, rotations)`: float64 `[num_frames, 23]` degrees of `ANGLES` within their limits, and
        `[num_frames, 3, 3]` from the hand's own frame to the camera's; the palm roughly faces the camera.

    Raises:
        ValueError: If the gesture is not known.
    """
    if gesture is not None and gesture not in GESTURES:
        raise ValueError(f"gesture={gesture!r} is not known; choose from {list(GESTURES)}.")
    times = _times(rng, num_frames)
    if gesture is None:
        angles = _changing(rng, times)
    else:
        angles = np.array([[GESTURES[gesture][name] for name in ANGLES]])
    angles = angles + _sizes(_OFFSETS) * rng.standard_normal(len(ANGLES))
    angles = angles + _sizes(_SWINGS) * _wander(rng, times, len(ANGLES))
    angles = np.clip(angles, *np.array(list(_LIMITS.values()), np.float64).T)
    turns = np.array(_TURNS) * rng.standard_normal(3) + np.array(_TURN_SWINGS) * _wander(rng, times, 3)
    turns = np.clip(turns, -np.array(_TURN_LIMITS), _TURN_LIMITS)
    return angles, Rotation.from_euler("yxz", turns, degrees=True).as_matrix() @ FACING


def _changing(rng, times):
    """Angles of gestures one after the other, each held for a moment."""
    count = int(times[-1] / 1.5) + 3 if len(times) else 2
    names = list(GESTURES)
    keys = np.array([[GESTURES[names[pick]][name] for name in ANGLES] for pick in rng.integers(len(names), size=count)])
    place = times / 1.5 + rng.random()
    before = place.astype(int)
    share = np.clip((place - before - 0.3) / 0.4, 0, 1)
    share = (share * share * (3 - 2 * share))[:, None]
    return keys[before] + share * (keys[before + 1] - keys[before])


# --------------------------------------------------------------------------------------------------- the datasets


@dataclasses.dataclass(frozen=True, eq=False)
class HandFrame:
    """A depth picture of a hand.

    Args:
        depth: Float32 `[bottom - top, right - left]` mm as measured; 0 where nothing is.
        box: `(left, top, right, bottom)` of that part of the picture.
        joints: Float64 `[joints, 3]` mm in the dataset's world, z positive.
        center: Float64 `[3]` mm: where a detector saw the hand, as the refined centres of V2V-PoseNet say it.
    """

    depth: np.ndarray
    box: tuple
    joints: np.ndarray
    center: np.ndarray


# Millimetres by which detected centres are off.
_CENTER_NOISE = 4.0


def _in_world(hand, camera):
    """The hand in the world of a dataset; its y may point up."""
    if not camera.y_up:
        return hand
    flip = np.array([1.0, -1.0, 1.0])
    flesh = dataclasses.replace(hand.flesh, starts=hand.flesh.starts * flip, ends=hand.flesh.ends * flip)
    return PosedHand({name: place * flip for name, place in hand.points.items()}, flesh)


def _placed_at(shape, angles, rotations, name, places, forearm_mm):
    """The hand with a named point of it at given places."""
    offset = pose_hand(shape, angles, rotations, forearm_mm=forearm_mm).points[name]
    return pose_hand(shape, angles, rotations, places - offset, forearm_mm)


def msra_joints(points):
    """Joints of MSRA.

    Args:
        points: `PosedHand.points`.

    Returns:
        Float64 `[frames, 21, 3]`, `MSRA21`.
    """
    return np.stack([points[name] for name in MSRA21.joints], 1)


def msra_frames(rng, shape, gesture, num_frames):
    """Frames of a gesture as MSRA has them: the hand without what is around it, 30 to 50 cm before the camera.

    Args:
        rng: `numpy.random.Generator`.
        shape: `HandShape`.
        gesture: One of `GESTURES`.
        num_frames: Frames.

    Yields:
        `HandFrame` of 21 joints.
    """
    camera = dataset_camera("msra")
    angles, rotations = sample_gesture(rng, gesture, num_frames)
    times = _times(rng, num_frames)
    middle = (*rng.normal(0, (22, 10)), rng.uniform(345, 430))
    places = middle + np.array([12, 7, 22]) * _wander(rng, times, 3)
    places[:, 2] = np.clip(places[:, 2], 315, 480)
    hand = _in_world(_placed_at(shape, angles, rotations, "middle_mcp", places, 100), camera)
    joints = msra_joints(hand.points)
    centers = hand.points["middle_mcp"] + rng.normal(0, _CENTER_NOISE, (num_frames, 3))
    for frame in range(num_frames):
        # The hand was cut out of the picture by its distance from the knuckles; a part of the forearm stays.
        palm = hand.points["middle_mcp"][frame]
        reach = 14 + 1.22 * np.linalg.norm(palm - joints[frame, 0])
        box = box_around(palm, reach, camera)
        part = _part(camera, box)
        true = draw_cones(hand.flesh[frame], part, sample_jitter(rng, part))
        away = depth_to_points(np.where(np.isfinite(true), true, 0.0), part) - palm
        true = np.where((away**2).sum(-1) < reach**2, true, np.inf)
        depth = measure(rng, true, noise=1.0).astype(np.float32)
        yield HandFrame(*_trimmed(depth, box), joints[frame], centers[frame])


def _part(camera, box):
    """The camera of a part of its picture."""
    left, top, right, bottom = box
    size = {"width": right - left, "height": bottom - top}
    return dataclasses.replace(camera, cx=camera.cx - left, cy=camera.cy - top, **size)


def _trimmed(depth, box, margin=3):
    """A part of a picture without most of the nothing around what is seen, and its box."""
    seen = depth > 0
    spans = []
    for axis in (0, 1):
        places = np.flatnonzero(seen.any(1 - axis))
        first, last = (places[0], places[-1]) if len(places) else (0, depth.shape[axis] - 1)
        spans.append((max(int(first) - margin, 0), min(int(last) + 1 + margin, depth.shape[axis])))
    (top, bottom), (left, right) = spans
    return depth[top:bottom, left:right], (box[0] + left, box[1] + top, box[0] + right, box[1] + bottom)


NYU_NAMES = (
    *(f"{finger}_{part}" for finger in ("F1", "F2", "F3", "F4", "TH") for part in
      ("KNU3_A", "KNU3_B", "KNU2_A", "KNU2_B", "KNU1_A", "KNU1_B")),
    *(f"PALM_{number}" for number in range(1, 7)),
)  # fmt: skip


def nyu_joints(points):
    """Joints of NYU's label files.

    Args:
        points: `PosedHand.points`.

    Returns:
        Float64 `[frames, 36, 3]` in the order of `NYU_NAMES`: of every finger, from the pinky to the thumb, the tip,
        the joints and the middles of the bones between; then the palm.
    """
    joints = []
    for finger in ("pinky", "ring", "middle", "index", "thumb"):
        tip, dip, pip, mcp = (points[f"{finger}_{part}"] for part in ("tip", "dip", "pip", "mcp"))
        joints += [tip, dip, (dip + pip) / 2, pip, (pip + mcp) / 2, mcp]
    palm = ("wrist_ulnar", "wrist_radial", "palm", "palm_radial", "palm_ulnar", "wrist")
    return np.stack([*joints, *(points[name] for name in palm)], 1)


def nyu_frames(rng, shape, num_frames):
    """Frames as NYU has them: whole pictures of somebody who holds a hand up, 50 to 90 cm before the camera.

    Args:
        rng: `numpy.random.Generator`.
        shape: `HandShape`.
        num_frames: Frames.

    Yields:
        `HandFrame` of 36 joints, depths in whole millimetres; where the sensor sees no end of the room it says 2001.
    """
    camera = dataset_camera("nyu")
    angles, rotations = sample_gesture(rng, None, num_frames)
    times = _times(rng, num_frames)
    places = np.array([-60, 0, 690]) + np.array([45, 30, 60]) * _wander(rng, times, 3)
    places[:, 2] = np.clip(places[:, 2], 540, 850)
    hand = _placed_at(shape, angles, rotations, "palm", places, 235)
    people = _in_world(dataclasses.replace(hand, flesh=join_cones(hand.flesh, _person(rng, hand))), camera)
    joints = nyu_joints(people.points)
    centers = people.points["palm"] + rng.normal(0, _CENTER_NOISE, (num_frames, 3))
    for frame in range(num_frames):
        true = draw_cones(people.flesh[frame], camera, sample_jitter(rng, camera))
        depth = measure(rng, true, noise=0.8, edge=25.0)
        # A Kinect tells depths by eighths of a pixel between its two views.
        with np.errstate(divide="ignore"):
            depth = np.where(depth > 0, np.round(_KINECT / np.round(_KINECT / depth)), 0)
        depth = np.where(depth > 0, depth, np.where(np.isfinite(true), 0, _NO_END))
        yield HandFrame(depth.astype(np.float32), (0, 0, camera.width, camera.height), joints[frame], centers[frame])


_KINECT, _NO_END = 8 * 588.0 * 75.0, 2001.0


def _person(rng, hand):
    """Upper arm, trunk and head of whoever holds the hand up, as `RoundCones` `[frames, cones]`."""
    elbow = hand.flesh.ends[:, -3]
    # People stand still while a hand moves about.
    chest = elbow.mean(0) + (195, 40, 290) + rng.normal(0, 15, 3)
    chest[2] = max(chest[2], hand.points["palm"][:, 2].max() + 260)
    shoulder = chest + (-170, -120, 20)
    head = chest + (5, -300, 10)
    still = [
        (chest + (-120, -70, 30), chest + (120, -70, 30), 95, 95),
        (chest + (-90, 60, 20), chest + (90, 60, 20), 115, 115),
        (chest + (-80, 330, 30), chest + (80, 330, 30), 125, 125),
        (chest + (-90, 60, 20), chest + (-80, 330, 30), 115, 125),
        (chest + (90, 60, 20), chest + (80, 330, 30), 115, 125),
        (shoulder, chest + (-60, -140, 30), 62, 62),
        (chest + (170, -120, 20), chest + (60, -140, 30), 62, 62),
        (chest + (190, -100, 25), chest + (215, 170, 40), 58, 48),
        (chest + (0, -150, 30), head, 58, 58),
        (head + (0, -35, 0), head + (0, 45, -15), 88, 68),
    ]
    frames = len(elbow)
    starts, ends = (np.stack([np.broadcast_to(cone[k], (frames, 3)) for cone in still], 1) for k in (0, 1))
    radii = [np.tile(np.array([cone[k] for cone in still], np.float64), (frames, 1)) for k in (2, 3)]
    girths = np.full((frames, 1), 42.0), np.full((frames, 1), 58.0)
    arm = RoundCones(elbow[:, None], np.tile(shoulder, (frames, 1, 1)), *girths)
    return join_cones(RoundCones(starts, ends, *radii), arm)
