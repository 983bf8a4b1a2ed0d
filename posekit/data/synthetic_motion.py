"""Recordings made by code, in the manner of Human3.6M: people who do fifteen everyday things before four cameras.

A recording is a set of smooth tracks of joint angles. What legs, arms, trunk and head do comes from tables of ranges
(`ARMS`, `LEGS`, `TRUNKS` of `posekit.data.synthetic` and those below), from which poses are drawn every few seconds;
steps follow the course of a human gait; the lowest part of the body rests on the floor. Everything is a pure function
of the `numpy.random.Generator` passed in, and works on whole recordings at once.
"""

import dataclasses

import numpy as np
from scipy.spatial.transform import Rotation

from posekit.data.synthetic import ARMS, LEGS, TRUNKS, figure_rotations
from posekit.skeletons import COCO_PLUS19, H36M17, SMPL24

TRAIN_SUBJECTS = (1, 5, 6, 7, 8)
TEST_SUBJECTS = (9, 11)
FRAME_RATE = 50.0
# Seconds that a recording lasts at least: with few frames they lie farther apart, so that they still differ.
SHORTEST = 24.0

_ARM_KEYS = ("swing", "turn", "raise", "twist", "bend")
_LEG_KEYS = ("flex", "turn", "spread", "bend")
_TRUNK_KEYS = ("tip", "flex", "side", "turn")
_LIMITS = {
    "arm": {"swing": (-60, 60), "turn": (-115, 38), "raise": (-82, 85), "twist": (-105, 75), "bend": (0, 142)},
    "leg": {"flex": (-30, 136), "turn": (-15, 66), "spread": (-14, 60), "bend": (0, 140)},
    "trunk": {"tip": (-20, 70), "flex": (-28, 60), "side": (-38, 38), "turn": (-50, 50)},
    "head": {"nod": (-35, 40), "side": (-25, 25), "turn": (-65, 65)},
}


def _around(swing, turn, up, twist, bend, reach=7):
    centre = {"swing": swing, "turn": turn, "raise": up, "twist": twist, "bend": bend}
    return {key: (value - reach, value + reach) for key, value in centre.items()}


# Where the hand is, as angles of the left arm; see posekit.data.synthetic.ARMS.
_HANDS = ARMS | {
    "phone": _around(-29, -44, -29, -64, 136, 5),
    "mouth": _around(-25, -59, -42, -29, 121, 5),
    "chin": _around(-19, -48, -59, -10, 132, 5),
    "photo": _around(-24, -63, -29, -39, 84),
    "look": _around(-19, -37, -61, 7, 92, 9),
    "pocket": _around(16, 0, -77, 30, 45, 5),
    "lap": _around(-14, -31, -78, 15, 42, 9),
    "table": _around(-21, -35, -64, 14, 63, 9),
    "leash": _around(-16, -22, -70, 17, 42, 9),
    "shelf": _around(-5, -71, 20, -20, 34, 14),
    "counter": _around(-20, -56, -49, -2, 40, 12),
    "across": _around(-21, -61, -61, 23, 104, 6),
    "behind": _around(18, 30, -76, 11, 6, 7),
    "knees": _around(-19, -48, -58, 14, 62, 8),
    "offer": _around(-26, -74, -52, -3, 26, 8),
    "point": {"swing": (-5, 5), "turn": (-95, -15), "raise": (-30, 30), "twist": (-25, 25), "bend": (0, 20)},
}
_STANCES = LEGS | {
    "chair": [{"flex": (74, 94), "turn": (0, 12), "spread": (2, 18), "bend": (68, 98)}] * 2,
    "stretched": [{"flex": (70, 86), "turn": (0, 12), "spread": (0, 12), "bend": (22, 52)}] * 2,
    "crossed": [
        {"flex": (97, 109), "turn": (0, 10), "spread": (-13, -8), "bend": (68, 95)},
        {"flex": (78, 90), "turn": (0, 8), "spread": (0, 6), "bend": (72, 95)},
    ],
    "hug": [{"flex": (126, 136), "turn": (0, 10), "spread": (0, 12), "bend": (78, 96)}] * 2,
    "straight": [{"flex": (86, 98), "turn": (0, 15), "spread": (3, 16), "bend": (0, 16)}] * 2,
    "tailor": [{"flex": (116, 128), "turn": (54, 64), "spread": (20, 30), "bend": (116, 128)}] * 2,
    "aslant": [
        {"flex": (124, 136), "turn": (0, 15), "spread": (0, 12), "bend": (78, 96)},
        {"flex": (88, 98), "turn": (0, 15), "spread": (3, 16), "bend": (0, 14)},
    ],
    "kneel": [
        {"flex": (80, 96), "turn": (0, 10), "spread": (2, 12), "bend": (82, 102)},
        {"flex": (-8, 10), "turn": (0, 8), "spread": (0, 8), "bend": (82, 108)},
    ],
    "heels": [{"flex": (46, 58), "turn": (0, 10), "spread": (0, 10), "bend": (132, 140)}] * 2,
}
# How the stances of a posture share its time, and degrees by which each leans the trunk.
_POSTURES = {
    "stand": {"stand": 8, "wide": 2},
    "step": {"stand": 5, "wide": 2, "lunge": 0.7, "squat": 0.7, "kneel": 0.4},
    "chair": {"chair": 6, "stretched": 1.5, "crossed": 2, "stand": 0.5},
    "floor": {"hug": 2, "straight": 2, "tailor": 3, "aslant": 2, "kneel": 1.5, "heels": 1, "squat": 1, "stand": 0.7},
}
_LEANS = {"squat": 24.0, "lunge": 8.0, "heels": 6.0, "stretched": -6.0, "straight": -8.0, "tailor": -13.0}
_LEANS |= {"hug": -17.0, "aslant": -15.0}


@dataclasses.dataclass(frozen=True)
class _Style:
    """How an action is done: weights of what arms, legs and trunk do, and how often they change.

    Args:
        main: Weights of the leading arm's `_HANDS`.
        other: Weights of the other arm's.
        together: Share of the time in which both do the same.
        postures: Weights of `_POSTURES`, one of which holds for a recording.
        trunks: Weights of `TRUNKS`.
        pace: Share of the time spent walking; the postures on chair and floor never walk.
        gap: Seconds between two poses of the arms.
        beat: Degrees by which gesturing arms swing to and fro.
        head: Mean of the nod, and standard deviations of nod, side and turn, in degrees.
    """

    main: dict
    other: dict
    together: float = 0.2
    postures: dict = dataclasses.field(default_factory=lambda: {"stand": 1})
    trunks: dict = dataclasses.field(default_factory=lambda: {"upright": 6, "lean": 1, "twist": 0.6, "side": 0.4})
    pace: float = 0.0
    gap: tuple = (1.0, 3.2)
    beat: float = 0.0
    head: tuple = (5, 8, 5, 16)


_TALK = {"down": 2, "loose": 4, "counter": 3, "offer": 1, "hip": 1, "look": 2, "across": 0.7, "chin": 0.7}
_REST = {"down": 4, "loose": 3, "hip": 1, "pocket": 1.5}
_SEATED = {"lap": 4, "table": 3, "knees": 1.5, "loose": 1, "chin": 0.6}
# In the order of their numbers in Human3.6M, which start at 2.
_STYLES = {
    "Directions": _Style(
        main={"point": 5, "loose": 2, "side": 1.5, "up": 1, "down": 1.5},
        other=_REST,
        pace=0.1,
        beat=4,
        head=(3, 8, 5, 28),
    ),
    "Discussion": _Style(main=_TALK, other=_TALK, together=0.45, pace=0.12, gap=(0.7, 2.4), beat=9),
    "Eating": _Style(
        main={"mouth": 5, "table": 4, "lap": 1},
        other={"table": 5, "lap": 3, "mouth": 0.7},
        postures={"chair": 1},
        gap=(0.8, 2.2),
        head=(14, 8, 4, 10),
    ),
    "Greeting": _Style(
        main={"wave": 4, "offer": 3, "up": 1.5, "down": 2, "side": 1},
        other={**_REST, "offer": 1},
        together=0.3,
        trunks={"upright": 5, "lean": 2, "bow": 1},
        pace=0.2,
        beat=10,
    ),
    "Phoning": _Style(
        main={"phone": 10, "look": 1},
        other={**_REST, "lap": 1, "counter": 1},
        together=0,
        postures={"stand": 2, "chair": 1},
        pace=0.25,
        gap=(1.5, 5),
        head=(6, 6, 8, 16),
    ),
    "Posing": _Style(
        main={"hip": 3, "up": 2, "head": 2, "side": 2, "folded": 1, "back": 1},
        other={"hip": 3, "up": 1, "side": 1},
        together=0.5,
        postures={"step": 1},
        trunks={"upright": 3, "side": 2, "twist": 2, "arch": 1.5, "lean": 1},
        gap=(1.5, 4),
        head=(2, 10, 9, 26),
    ),
    "Purchases": _Style(
        main={"shelf": 3, "counter": 3, "down": 2, "look": 2, "loose": 1},
        other={"down": 3, "leash": 3, "counter": 2},
        postures={"step": 1},
        trunks={"upright": 4, "lean": 3, "bow": 1.5, "twist": 1},
        pace=0.3,
        head=(12, 10, 5, 22),
    ),
    "Sitting": _Style(
        main={**_SEATED, "folded": 1, "head": 0.4},
        other=_SEATED,
        together=0.5,
        postures={"chair": 1},
        trunks={"upright": 4, "lean": 3, "side": 0.7, "twist": 1, "arch": 0.7},
        beat=4,
    ),
    "SittingDown": _Style(
        main={"behind": 2, "knees": 3, "lap": 3, "loose": 1, "side": 0.7},
        other={"behind": 2, "knees": 3, "lap": 3},
        together=0.6,
        postures={"floor": 1},
        trunks={"upright": 5, "side": 1, "twist": 1, "arch": 0.5},
        gap=(1.2, 4),
    ),
    "Smoking": _Style(
        main={"mouth": 4, "loose": 3, "down": 2, "look": 1},
        other={**_REST, "across": 1.5},
        together=0,
        postures={"stand": 2, "chair": 1},
        pace=0.12,
        gap=(1.2, 3.5),
    ),
    "Photo": _Style(
        main={"photo": 6, "look": 2, "down": 1},
        other={"photo": 3, "down": 1, "look": 1},
        together=0.8,
        postures={"step": 1},
        trunks={"upright": 4, "lean": 3, "arch": 1, "twist": 1},
        pace=0.15,
        gap=(1.5, 4.5),
        head=(3, 9, 5, 12),
    ),
    "Waiting": _Style(
        main={"folded": 2, "hip": 2, "pocket": 2, "down": 3, "look": 1.5, "back": 1},
        other={**_REST, "folded": 1},
        together=0.6,
        pace=0.25,
        gap=(2, 6),
        head=(4, 9, 5, 28),
    ),
    "Walking": _Style(main={"down": 1}, other={"down": 1}, together=1, pace=1, gap=(3, 8)),
    "WalkDog": _Style(
        main={"leash": 6, "counter": 1, "down": 0.5},
        other={"down": 4, "loose": 1, "pocket": 1},
        together=0,
        postures={"step": 1},
        trunks={"upright": 4, "lean": 3, "bow": 0.5},
        pace=0.75,
        head=(16, 9, 5, 18),
    ),
    "WalkTogether": _Style(
        main={"down": 4, "loose": 2, "counter": 1},
        other={"down": 4, "pocket": 1, "loose": 1},
        together=0.3,
        pace=0.92,
        beat=4,
        head=(4, 7, 5, 34),
    ),
}
ACTIONS = tuple(_STYLES)

# Metres of flesh below joints that touch the floor.
_SOLES = {"foot": 0.028, "ankle": 0.085, "knee": 0.055, "hip": 0.100}
_BODY_TO_WORLD = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])


# ---------------------------------------------------------------------------------------------------------- actors


class Actor:
    """A body of one shape that gives Human3.6M's joints for any number of poses at once.

    Args:
        body: `posekit.bodies.BodyModel` with 24 joints and 19 keypoints.
        shape: `[shapes]` coefficients.
    """

    def __init__(self, body, shape):
        surface = body.v_template + body.shapedirs @ np.asarray(shape, np.float64)
        keypoints = dict(zip(COCO_PLUS19.joints, body.keypoint_regressor @ surface))
        self.parents = body.parents
        self.rest = body.J_regressor @ surface
        # The thighs turn where annotators see the hips, farther out than the body's own joints and nearer to where
        # Human3.6M has them.
        self.rest[_rows("left_hip", "right_hip")] = keypoints["left_hip"], keypoints["right_hip"]
        legs = np.diff(self.rest[_rows("left_hip", "left_knee", "left_ankle")], axis=0)
        self.leg_length = float(np.linalg.norm(legs, axis=-1).sum())
        self._on_head = {name: keypoints[name] - self.rest[SMPL24.index("head")] for name in ("nose", "head_top")}

    def pose(self, rotations):
        """Joints of poses.

        Args:
            rotations: `[frames, 24, 3, 3]`, of every joint relative to its parent.

        Returns:
            `(joints, lowest)`: float64 `[frames, 17, 3]` metres, `H36M17`, in the body's frame (y up) with the pelvis
            joint of the body at the origin, and `[frames]`, the height of the floor that carries it.
        """
        turned, joints = np.array(rotations), np.zeros((len(rotations), SMPL24.num_joints, 3))
        for joint, parent in enumerate(self.parents):
            if parent >= 0:
                joints[:, joint] = joints[:, parent] + turned[:, parent] @ (self.rest[joint] - self.rest[parent])
                turned[:, joint] = turned[:, parent] @ rotations[:, joint]
        points = dict(zip(SMPL24.joints, joints.swapaxes(0, 1)))
        for name, offset in self._on_head.items():
            points[name] = points["head"] + turned[:, SMPL24.index("head")] @ offset
        lowest = np.min(
            [points[f"{side}_{part}"][:, 1] - depth for part, depth in _SOLES.items() for side in ("left", "right")], 0
        )
        # As Human3.6M has it: the pelvis between the hips, the thorax at the base of the neck, the spine between.
        points["pelvis"] = (points["left_hip"] + points["right_hip"]) / 2
        points["spine"] = (points["spine1"] + points["spine2"]) / 2
        points["thorax"] = (points["left_shoulder"] + points["right_shoulder"]) / 4 + points["neck"] / 2
        return np.stack([points[name] for name in H36M17.joints], 1), lowest


def _rows(*names):
    return [SMPL24.index(name) for name in names]


# ---------------------------------------------------------------------------------------------------------- motion


def sample_recording(rng, actor, action, num_frames):
    """A person doing something for a while.

    Args:
        rng: `numpy.random.Generator`.
        actor: An `Actor`.
        action: One of `ACTIONS`.
        num_frames: Frames. They are 1 / 50 s apart, more where there are too few for `SHORTEST` seconds.

    Returns:
        Float64 `[num_frames, 17, 3]` metres: joints of `H36M17` in a world whose z axis points up; the floor is at
        z = 0 and the middle of the room at the origin.

    Raises:
        ValueError: If the action is not known.
    """
    if action not in _STYLES:
        raise ValueError(f"action={action!r} is not known; choose from {list(ACTIONS)}.")
    duration = max(SHORTEST, num_frames / FRAME_RATE)
    times = (np.arange(num_frames) + rng.random()) * duration / max(num_frames, 1)
    figure, heading, roll, place = _tracks(rng, times, duration, _STYLES[action], actor.leg_length)
    joints = np.empty((num_frames, H36M17.num_joints, 3))
    for start in range(0, num_frames, _BLOCK):
        part = slice(start, start + _BLOCK)
        rotations = figure_rotations(_sliced(figure, part)).as_matrix().reshape(-1, SMPL24.num_joints, 3, 3)
        whole = Rotation.from_euler("YZ", np.stack([heading[part], np.radians(roll[part])], -1)).as_matrix()
        rotations[:, 0] = whole @ rotations[:, 0]
        posed, lowest = actor.pose(rotations)
        posed[..., 1] -= lowest[:, None]
        # Where the person stands is where the pelvis is, so that the trunk does not swing about the body's origin.
        posed[..., ::2] -= posed[:, :1, ::2]
        joints[part] = posed @ _BODY_TO_WORLD.T
        joints[part, :, :2] += place[part, None]
    return joints


# Frames that are worked on at a time: few enough for the cache.
_BLOCK = 2048


def _sliced(figure, part):
    if isinstance(figure, dict):
        return {key: _sliced(value, part) for key, value in figure.items()}
    return tuple(value[part] for value in figure) if isinstance(figure, tuple) else figure[part]


def _tracks(rng, times, duration, style, leg_length):
    """Angles of a figure over time, its heading in radians, its roll in degrees and its place `[frames, 2]`."""
    posture = _choose(rng, style.postures)
    mobile = posture in ("stand", "step")
    pace, phase, way = _progress(rng, times, duration, style.pace if mobile else 0.0, leg_length)
    left_leads = rng.random() < 0.3
    figure = _legs(rng, times, _POSTURES[posture], pace, phase)
    lean = figure.pop("lean")
    figure |= _arms(rng, times, style, left_leads, pace, phase)
    trunk = _keyed(
        rng,
        times,
        (2.0, 6.0),
        lambda count: _drawn(rng, TRUNKS, _TRUNK_KEYS, "trunk", *_picks(rng, style.trunks, count)),
    )
    trunk = dict(zip(_TRUNK_KEYS, (trunk + _wander(rng, times, 1.5, 4)).T))
    trunk["side"] *= rng.choice([-1, 1])
    trunk["tip"] = np.clip((trunk["tip"] + lean) * (1 - 0.6 * pace), *_LIMITS["trunk"]["tip"])
    trunk["flex"] *= 1 - 0.5 * pace
    trunk["turn"] = trunk["turn"] * (1 - 0.5 * pace) + 9 * pace * np.cos(phase)
    nod, nods, sides, turns = style.head
    head = _keyed(rng, times, (1.0, 4.0), lambda count: rng.normal((nod, 0, 0), (nods, sides, turns), (count, 3)))
    head = {key: np.clip(values, *_LIMITS["head"][key]) for key, values in zip(("nod", "side", "turn"), head.T)}
    place, along = _path(rng, way)
    facing = _keyed(rng, times, (4.0, 9.0), lambda count: rng.normal(0, 0.7 if mobile else 0.12, (count, 1)))[:, 0]
    heading = along + facing * (1 - pace) - np.radians(5) * pace * np.cos(phase)
    roll = 3 * pace * np.sin(phase) + _wander(rng, times, 1.0, 1)[:, 0]
    return figure | {"trunk": trunk, "head": head}, heading, roll, place + 0.02 * _wander(rng, times, 1.0, 2)


def _choose(rng, weights):
    return list(weights)[_picks(rng, weights, 1)[1][0]]


def _picks(rng, weights, count):
    """Names and `[count]` indices drawn from them."""
    shares = np.array(list(weights.values()), np.float64)
    return list(weights), rng.choice(len(shares), count, p=shares / shares.sum())


def _drawn(rng, table, keys, limb, names, picks):
    """Angles `[count, keys]` drawn from the ranges of the entries picked, within the limits of the joints."""
    ranges = np.array([[table[name].get(key, (0, 0)) for key in keys] for name in names], np.float64)[picks]
    low, high = np.array([_LIMITS[limb][key] for key in keys], np.float64).T
    angles = rng.uniform(ranges[..., 0], ranges[..., 1]) + rng.normal(0, 2.5, ranges.shape[:2])
    return np.clip(angles, low, high)


def _keyed(rng, times, gap, draw):
    """A smooth track `[frames, values]` through values that `draw(count)` gives every few seconds, and rests at."""
    length = times[-1] if len(times) else 0.0
    most = int(np.ceil((length + 2 * gap[1]) / gap[0])) + 2
    knots = np.cumsum(rng.uniform(*gap, most)) - gap[1]
    knots[0] = min(knots[0], 0.0)
    count = min(np.searchsorted(knots, length, side="right") + 1, most)
    values, knots = np.asarray(draw(count), np.float64), knots[:count]
    before = np.clip(np.searchsorted(knots, times, side="right") - 1, 0, count - 2)
    share = (times - knots[before]) / (knots[before + 1] - knots[before])
    share = np.clip((share - rng.uniform(0, 0.45, count)[before]) / 0.55, 0, 1)
    share = (share**3 * (share * (6 * share - 15) + 10))[:, None]
    return values[before] + share * (values[before + 1] - values[before])


def _wander(rng, times, size, count):
    """Slow small movements `[frames, count]` of about `size`, by sums of sines."""
    rates, phases = rng.uniform(0.5, 3.5, (3, count)), rng.uniform(0, 2 * np.pi, (3, count))
    return size * np.sin(times[:, None, None] * rates + phases).sum(1) / np.sqrt(1.5)


def _progress(rng, times, duration, share, leg_length):
    """How much of a walk it is (0 to 1), the phase of the gait in radians and the metres walked, `[frames]` each."""
    grid = np.linspace(0, duration, int(duration * 20) + 2)

    def walks(count):
        return (rng.random((count, 1)) < share) * rng.uniform(0.75, 1.0, (count, 1))

    pace = _keyed(rng, grid, (2.5, 6.0), walks)[:, 0]
    rate = rng.uniform(0.78, 1.0) * np.sqrt(pace)
    # Two steps a cycle; the hips swing by about 24 degrees to both sides.
    speed = rate * 2 * leg_length * 2 * np.sin(np.radians(22)) * pace
    step = grid[1] - grid[0]
    phase = rng.uniform(0, 2 * np.pi) + 2 * np.pi * step * np.cumsum(rate)
    way = step * np.cumsum(speed)
    return tuple(np.interp(times, grid, values) for values in (pace, phase, way))


def _path(rng, way):
    """Places `[frames, 2]` and headings `[frames]` in radians along a closed curve through the room."""
    turn = np.linspace(0, 2 * np.pi, 721)
    # No bend is tighter than about 0.45 m.
    wide, deep = rng.uniform(0.75, 1.1) * np.array([rng.uniform(0.8, 1.2), 1.0])
    curve = np.stack([wide * np.cos(turn), deep * np.sin(turn)], -1)
    if rng.random() < 0.35:  # an eight: left turns and right turns
        curve = rng.uniform(1.2, 1.45) * np.stack([np.sin(turn), 0.3 * np.sin(2 * turn)], -1)
    tilt = rng.uniform(0, 2 * np.pi)
    curve = curve @ np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]]) + rng.uniform(-0.2, 0.2, 2)
    curve = curve[:: rng.choice([-1, 1])]
    lengths = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(curve, axis=0), axis=-1))])
    at = rng.uniform(0, lengths[-1]) + way
    where = at % lengths[-1]
    place = np.stack([np.interp(where, lengths, curve[:, axis]) for axis in (0, 1)], -1)
    ways = np.gradient(np.concatenate([curve[-2:-1], curve, curve[1:2]]), axis=0)[1:-1]
    angles = np.unwrap(np.arctan2(ways[:, 0], -ways[:, 1]))
    round_trip = angles[-1] - angles[0]
    return place, np.interp(where, lengths, angles) + round_trip * (at // lengths[-1])


def _legs(rng, times, stances, pace, phase):
    """Angles of both legs, and the degrees by which their stance leans the trunk."""

    def draw(count):
        names, picks = _picks(rng, stances, count)
        swap = rng.random(count) < 0.5
        sides = [
            _drawn(rng, {name: _STANCES[name][side] for name in names}, _LEG_KEYS, "leg", names, picks)
            for side in (0, 1)
        ]
        lean = np.array([_LEANS.get(name, 0.0) for name in names])[picks, None]
        left, right = (np.where(swap[:, None], one, other) for one, other in (sides, sides[::-1]))
        return np.concatenate([left, right, lean], -1)

    track = _keyed(rng, times, (2.5, 7.0), draw)
    figure = {"lean": track[:, -1]}
    for side, angles, here in (("left", track[:, :4], phase), ("right", track[:, 4:8], phase + np.pi)):
        standing = dict(zip(_LEG_KEYS, (angles + _wander(rng, times, 0.8, 4)).T))
        # The soles are level, as far as ankles bend; where the shin lies on the floor, the foot points backwards.
        level = standing["flex"] - standing["bend"]
        standing["ankle"] = np.clip(level, -38, 28) + 75 * np.clip((-level - 50) / 25, 0, 1)
        gait = _gait(here) | {"turn": 5.0, "spread": 1.5}
        leg = {key: (1 - pace) * standing[key] + pace * gait[key] for key in (*_LEG_KEYS, "ankle")}
        for key in _LEG_KEYS:
            leg[key] = np.clip(leg[key], *_LIMITS["leg"][key])
        figure[f"{side}_leg"] = leg | {"toes": np.full(len(times), 4.0)}
    return figure


def _gait(phase):
    """A leg's angles in degrees over the cycle of a walk, which starts when the heel touches the ground.

    After the course of hip, knee and ankle that gait laboratories measure: hip nearly a cosine; knee with a small bend
    under the load and a large one while the leg swings; the foot pushes off at six tenths of the cycle.
    """
    share = phase / (2 * np.pi) % 1.0

    def bump(centre, width):
        away = np.abs(share - centre)
        return np.exp(-((np.minimum(away, 1 - away) / width) ** 2))

    return {
        "flex": 8 + 22 * np.cos(phase),
        "bend": 5 + 13 * bump(0.14, 0.08) + 56 * bump(0.73, 0.12),
        "ankle": -9 * bump(0.42, 0.16) + 18 * bump(0.63, 0.07) + 4 * bump(0.06, 0.05),
    }


def _arms(rng, times, style, left_leads, pace, phase):
    """Angles of both arms."""
    names, picks = [], {}

    def draw(count):
        shares = {**style.other, **style.main}
        names[:] = list(shares)
        lead, follow = (_picks(rng, weights, count) for weights in (style.main, style.other))
        lead, follow = (np.array([names.index(known[pick]) for pick in chosen]) for known, chosen in (lead, follow))
        picks["follow"] = np.where(rng.random(count) < style.together, lead, follow)
        return np.concatenate(
            [_drawn(rng, _HANDS, _ARM_KEYS, "arm", names, which) for which in (lead, picks["follow"])], -1
        )

    track = _keyed(rng, times, style.gap, draw)
    figure = {}
    for side, angles, lifted in (
        ("left" if left_leads else "right", track[:, :5], True),
        ("right" if left_leads else "left", track[:, 5:], False),
    ):
        arm = dict(zip(_ARM_KEYS, (angles + _wander(rng, times, 1.5, 5)).T))
        # A hand that talks beats time, as long as the arm is up.
        beat = style.beat * np.clip((arm["raise"] + 70) / 25, 0, 1) * _wander(rng, 2.5 * times, 0.6, 1)[:, 0]
        for key, amount in (("bend", 1.0), ("twist", 1.2), ("raise", 0.5)):
            arm[key] = arm[key] + amount * (beat if lifted else 0.6 * beat)
        # Hanging arms swing against the legs: forward with the other side's.
        hanging = np.clip((-50 - arm["raise"]) / 12, 0, 1) * pace
        arm["swing"] = arm["swing"] * (1 - 0.7 * hanging) + 20 * hanging * np.cos(
            phase + (np.pi if side == "right" else 0)
        )
        arm = {key: np.clip(values, *_LIMITS["arm"][key]) for key, values in arm.items()}
        wrist = _wander(rng, times, 5.0, 3).T
        figure[f"{side}_arm"] = arm | {"wrist": tuple(wrist), "fingers": np.full(len(times), 15.0)}
    return figure


# --------------------------------------------------------------------------------------------------------- cameras


@dataclasses.dataclass(frozen=True, eq=False)
class Camera:
    """A camera as Human3.6M describes one; a world point `P` lies at `R @ (P - T)` before it.

    Args:
        name: Serial number.
        size: `(width, height)` in pixels.
        R: `[3, 3]` rotation from the world (z up) into the camera's frame (x right, y down, z forward).
        T: `[3, 1]` place in the world, mm.
        f: `[2]` focal lengths in pixels.
        c: `[2]` centre in pixels.
        k: `[3, 1]` radial distortion.
        p: `[2, 1]` tangential distortion.
    """

    name: str
    size: tuple
    R: np.ndarray
    T: np.ndarray
    f: np.ndarray
    c: np.ndarray
    k: np.ndarray
    p: np.ndarray

    def see(self, joints_mm):
        """World points `[..., 3]` in mm in the camera's frame."""
        return (np.asarray(joints_mm) - self.T[:, 0]) @ self.R.T


# name: width, height, focal lengths, centre, corner of the room in metres.
_LENSES = {
    "54138969": (1000, 1002, (1145.1, 1143.8), (512.5, 515.5), (1.9, 4.1)),
    "55011271": (1000, 1000, (1149.7, 1147.6), (508.8, 508.1), (-1.8, 4.3)),
    "58860488": (1000, 1000, (1149.2, 1148.7), (519.8, 501.4), (2.0, -4.2)),
    "60457274": (1000, 1002, (1145.5, 1144.8), (514.9, 501.9), (-2.1, -4.0)),
}


def sample_cameras(rng):
    """Four cameras in the corners of the room, as they stood for one subject.

    Args:
        rng: `numpy.random.Generator`; it moves and turns the cameras a little.

    Returns:
        List of 4 `Camera`, in Human3.6M's order: 4 to 5.5 m from the middle, 1.5 to 1.9 m high, looking at it.
    """
    cameras = []
    for number, (name, (width, height, focal, centre, corner)) in enumerate(_LENSES.items()):
        place = np.array([*(corner + rng.normal(0, 0.12, 2)), rng.uniform(1.5, 1.9)])
        aim = np.array([*rng.normal(0, 0.08, 2), rng.uniform(0.8, 0.95)])
        forward = (aim - place) / np.linalg.norm(aim - place)
        right = np.cross(forward, (0, 0, 1))
        right /= np.linalg.norm(right)
        level = np.stack([right, np.cross(forward, right), forward])
        tilt = Rotation.from_euler("z", rng.normal(0, 0.6), degrees=True).as_matrix()
        cameras.append(
            Camera(
                name=name,
                size=(width, height),
                R=tilt @ level,
                T=1000 * place[:, None],
                f=np.array(focal),
                c=np.array(centre),
                k=np.array([[-0.20], [0.24], [-0.003]]) + 0.002 * number,
                p=np.array([[-0.0010], [-0.0014]]) + 0.0004 * number,
            )
        )
    return cameras


# ------------------------------------------------------------------------------------------------------- detections

# Standard deviation of a detector's errors, and share of joints that it misses altogether; errors are in widths of the
# box of two metres around the person.
_NOISE = {"hip": 0.007, "knee": 0.010, "ankle": 0.015, "elbow": 0.011, "wrist": 0.016, "shoulder": 0.007}
_MISSES = {"knee": 0.008, "ankle": 0.016, "elbow": 0.012, "wrist": 0.028}
_SWAPS = {"legs": (0.015, ("hip", "knee", "ankle")), "arms": (0.010, ("elbow", "wrist"))}


def sample_detections(rng, joints_px, box_width):
    """What a detector would say about joints: noise, heavier at hands and feet, swapped sides, gross misses.

    Args:
        rng: `numpy.random.Generator`.
        joints_px: `[poses, 17, 2]` true pixels, `H36M17`.
        box_width: `[poses]`, width in pixels of the box of two metres around the person.

    Returns:
        `(detections, confidence)`: float64 `[poses, 17, 2]` pixels and `[poses, 17, 1]` from 0 to 1; far detections
        tend to be less sure, but not all of them are.
    """
    parts = [name.removeprefix("left_").removeprefix("right_") for name in H36M17.joints]
    noise, misses = (
        np.array([table.get(part, rest) for part in parts]) for table, rest in ((_NOISE, 0.006), (_MISSES, 0.003))
    )
    width = np.asarray(box_width, np.float64)[:, None]
    found, sure = np.array(joints_px, np.float64), rng.beta(9, 2, joints_px.shape[:2])
    for share, swapped in _SWAPS.values():
        wrong = np.flatnonzero(rng.random(len(found)) < share)[:, None]
        joints = [joint for joint, part in enumerate(parts) if part in swapped]
        found[wrong, joints] = found[wrong, H36M17.flip_permutation[joints]]
        sure[wrong, joints] *= rng.uniform(0.3, 0.9, wrong.shape)
    error = noise[:, None] * rng.standard_t(4, found.shape) / np.sqrt(2)
    sure = sure * np.exp(-((np.linalg.norm(error, axis=-1) / 0.05) ** 2))
    missed = rng.random(sure.shape) < misses
    error = np.where(missed[..., None], rng.normal(0, 0.16, found.shape), error)
    sure = np.where(missed, rng.uniform(0.02, 0.35, sure.shape), sure)
    return found + error * width[..., None], np.clip(sure, 0.01, 1.0)[..., None]
