"""People made by code: plausible poses and shapes, and pictures of them with everything known.

Poses are put together from a trunk, a pair of legs and two arms that each do something (`TRUNKS`, `LEGS`, `ARMS`:
ranges of joint angles in degrees), kept within the limits of the joints. Pictures show a dressed body over a
procedural background under a weak-perspective camera, so that an exact fit exists for every picture.
Everything is a pure function of the `numpy.random.Generator` passed in.
"""

import dataclasses

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from posekit.geometry.rasterize import vertex_normals
from posekit.ops import rasterize
from posekit.skeletons import COCO_PLUS19, SMPL24

# Of the left arm in the T-pose; the right one mirrors it. swing: forward (-) and backward about the sideways axis;
# turn: forward (-) and backward about the upright axis; raise: up (+) and down; twist: inwards (+) and outwards;
# bend: of the elbow.
ARMS = {
    "down": {"swing": (-22, 18), "turn": (-8, 8), "raise": (-78, -62), "twist": (-20, 25), "bend": (4, 40)},
    "loose": {"swing": (-30, 10), "turn": (-20, 10), "raise": (-72, -45), "twist": (-20, 40), "bend": (20, 80)},
    "forward": {"swing": (-5, 5), "turn": (-95, -45), "raise": (-35, 25), "twist": (-30, 30), "bend": (0, 60)},
    "up": {"swing": (-5, 5), "turn": (-35, 10), "raise": (35, 80), "twist": (-30, 30), "bend": (0, 60)},
    "side": {"swing": (-5, 5), "turn": (-25, 15), "raise": (-35, 25), "twist": (-30, 30), "bend": (0, 45)},
    "wave": {"swing": (-5, 5), "turn": (-30, 0), "raise": (-10, 25), "twist": (-105, -70), "bend": (60, 110)},
    "hip": {"swing": (0, 8), "turn": (10, 22), "raise": (-52, -42), "twist": (45, 62), "bend": (75, 98)},
    "folded": {"swing": (-12, 0), "turn": (-45, -30), "raise": (-62, -48), "twist": (40, 65), "bend": (85, 112)},
    "head": {"swing": (-5, 5), "turn": (-30, -5), "raise": (20, 50), "twist": (-75, -40), "bend": (105, 130)},
    "back": {"swing": (15, 45), "turn": (-5, 10), "raise": (-75, -55), "twist": (-10, 30), "bend": (5, 50)},
}
# Of both legs, left first. flex: of the hip, backward (-) and forward; spread: outwards; bend: of the knee.
LEGS = {
    "stand": [{"flex": (-6, 8), "spread": (-2, 8), "bend": (0, 12)}] * 2,
    "wide": [{"flex": (-5, 12), "spread": (10, 28), "bend": (0, 20)}] * 2,
    "walk": [
        {"flex": (15, 38), "spread": (-3, 4), "bend": (4, 25)},
        {"flex": (-25, -8), "spread": (-3, 4), "bend": (8, 45)},
    ],
    "run": [
        {"flex": (40, 78), "spread": (-3, 5), "bend": (55, 105)},
        {"flex": (-28, -5), "spread": (-3, 5), "bend": (15, 85)},
    ],
    "lunge": [
        {"flex": (50, 88), "spread": (0, 8), "bend": (55, 95)},
        {"flex": (-25, -5), "spread": (0, 8), "bend": (15, 55)},
    ],
    "kick": [
        {"flex": (35, 95), "spread": (-5, 10), "bend": (0, 35)},
        {"flex": (-8, 12), "spread": (-2, 6), "bend": (0, 20)},
    ],
    "knee": [
        {"flex": (55, 100), "spread": (-5, 20), "bend": (65, 115)},
        {"flex": (-8, 8), "spread": (-2, 6), "bend": (0, 15)},
    ],
    "aside": [
        {"flex": (-5, 30), "spread": (25, 58), "bend": (0, 20)},
        {"flex": (-8, 8), "spread": (0, 10), "bend": (0, 25)},
    ],
    "sit": [{"flex": (72, 98), "spread": (2, 20), "bend": (65, 105)}] * 2,
    "squat": [{"flex": (55, 105), "spread": (8, 26), "bend": (65, 120)}] * 2,
}
# tip: the whole trunk forward, the hips making up for it; flex, side, turn: of the spine, forward, sideways, around.
TRUNKS = {
    "upright": {"tip": (-4, 6), "flex": (-6, 10), "side": (-8, 8), "turn": (-14, 14)},
    "lean": {"tip": (6, 22), "flex": (5, 26), "side": (-10, 10), "turn": (-18, 18)},
    "bow": {"tip": (25, 60), "flex": (12, 45), "side": (-8, 8), "turn": (-18, 18)},
    "arch": {"tip": (-12, 0), "flex": (-24, -8), "side": (-8, 8), "turn": (-12, 12)},
    "side": {"tip": (-4, 10), "flex": (-4, 14), "side": (14, 34), "turn": (-14, 14)},
    "twist": {"tip": (-4, 10), "flex": (-4, 14), "side": (-8, 8), "turn": (20, 45)},
}
_EVERYDAY = {
    "arms": {"down": 5, "loose": 4, "forward": 2, "up": 2, "side": 2, "wave": 1.5, "hip": 1.5, "folded": 1, "head": 1}
    | {"back": 1},
    "legs": {"stand": 5, "wide": 2.5, "walk": 4, "run": 2, "lunge": 1.5, "kick": 1, "knee": 1, "aside": 1}
    | {"sit": 1, "squat": 1},
    "trunks": {"upright": 6, "lean": 2, "bow": 0.7, "arch": 0.7, "side": 1, "twist": 1},
}
# Degrees within which joints stay, whatever was drawn; also what "limits" poses fill evenly.
_LIMITS = {
    "arm": {"swing": (-60, 60), "turn": (-115, 35), "raise": (-80, 85), "twist": (-105, 75), "bend": (0, 140)},
    "leg": {"flex": (-30, 112), "spread": (-12, 60), "bend": (0, 138)},
    "trunk": {"tip": (-20, 70), "flex": (-28, 60), "side": (-38, 38), "turn": (-50, 50)},
    "head": {"nod": (-35, 40), "side": (-25, 25), "turn": (-65, 65)},
}
_SPINE_SHARES = {"spine1": 0.40, "spine2": 0.35, "spine3": 0.25}
# Metres a joint may lie behind the surface in front of it and still count as seen.
_DEPTH = {"hip": 0.19, "shoulder": 0.14, "neck": 0.14, "knee": 0.11, "elbow": 0.09, "wrist": 0.08, "ankle": 0.09}
_DEPTH |= {"head_top": 0.11, "nose": 0.03, "eye": 0.03, "ear": 0.03}
# Metres of the virtual camera: far enough that its perspective stays below a tenth of a pixel.
_DISTANCE = 1000.0
_SUPERSAMPLE = 2


# ------------------------------------------------------------------------------------------------- poses, shapes


def sample_poses(rng, count, motion="everyday", upright="camera"):
    """Plausible poses.

    Args:
        rng: `numpy.random.Generator`.
        count: Number of poses.
        motion: `"everyday"` puts together what arms, legs and trunk often do; `"limits"` fills the joints' limits
            evenly.
        upright: Where up is in the pose's global rotation: `"camera"` for HMR's camera frame (y down; the mean is a
            rotation by pi about x, a person who faces the camera), `"y"` or `"z"` for a world whose y or z axis
            points up.

    Returns:
        Float32 `[count, 72]` axis angles of SMPL's 24 joints.

    Raises:
        ValueError: If `motion` or `upright` is another word.
    """
    if motion not in ("everyday", "limits"):
        raise ValueError(f"motion={motion!r} is not known; choose 'everyday' or 'limits'.")
    if upright not in ("camera", "y", "z"):
        raise ValueError(f"upright={upright!r} is not known; choose 'camera', 'y' or 'z'.")
    draw = _everyday_angles if motion == "everyday" else _limit_angles
    angles = np.zeros((count, SMPL24.num_joints, 4))
    for figure in angles:
        _fill_angles(figure, _complete(draw(rng), rng))
    rotations = _rotations(angles).as_rotvec().reshape(count, SMPL24.num_joints, 3)
    mirrored = rng.random(count) < 0.5
    rotations[mirrored] = _mirror(rotations[mirrored])
    rotations[:, 0] = _global_rotations(rng, rotations[:, 0], upright)
    return rotations.reshape(count, -1).astype(np.float32)


def sample_motion(rng, num_frames, frame_rate=60.0, upright="z"):
    """A motion from pose to pose, as a recording has it.

    Args:
        rng: `numpy.random.Generator`.
        num_frames: Frames.
        frame_rate: Frames per second; a pose is reached about every second.
        upright: As in `sample_poses`.

    Returns:
        Float32 `[num_frames, 72]` axis angles.
    """
    step = max(1.0, frame_rate * rng.uniform(0.7, 1.3))
    count = int(np.ceil(num_frames / step)) + 1
    keys = sample_poses(rng, count, upright=upright).reshape(count, -1, 3)
    # One person keeps facing about the same way; only the first pose's direction counts.
    facing = Rotation.from_rotvec(keys[:1, 0])
    keys[:, 0] = (facing * Rotation.from_rotvec(rng.normal(0, 0.15, (count, 3)))).as_rotvec()
    time = np.arange(num_frames) / step
    before = np.minimum(time.astype(int), count - 2)
    share = time - before
    share = share * share * (3 - 2 * share)
    start = Rotation.from_rotvec(keys[before].reshape(-1, 3))
    end = Rotation.from_rotvec(keys[before + 1].reshape(-1, 3))
    way = (start.inv() * end).as_rotvec().reshape(num_frames, -1, 3) * share[:, None, None]
    return (start * Rotation.from_rotvec(way.reshape(-1, 3))).as_rotvec().reshape(num_frames, -1).astype(np.float32)


def sample_shapes(rng, count, num_shape=10):
    """Shapes of plausible people.

    Args:
        rng: `numpy.random.Generator`.
        count: Number of people.
        num_shape: Shape coefficients of the body.

    Returns:
        Float32 `[count, num_shape]`: normal deviates, none beyond 2.2.
    """
    return np.clip(rng.normal(size=(count, num_shape)), -2.2, 2.2).astype(np.float32)


def _choose(rng, weights):
    names = list(weights)
    shares = np.array([weights[name] for name in names], np.float64)
    return names[rng.choice(len(names), p=shares / shares.sum())]


def _within(rng, ranges, limits, jitter=4.0):
    """One number for each range: even within it, a little noise, never beyond the limits."""
    return {
        key: float(np.clip(rng.uniform(low, high) + rng.normal(0, jitter), *limits[key]))
        for key, (low, high) in ranges.items()
    }


def _everyday_angles(rng):
    legs = _choose(rng, _EVERYDAY["legs"])
    left_arm = _choose(rng, _EVERYDAY["arms"])
    # Half of the time both arms do the same.
    right_arm = left_arm if rng.random() < 0.5 else _choose(rng, _EVERYDAY["arms"])
    trunk = "lean" if legs == "squat" else _choose(rng, _EVERYDAY["trunks"])
    figure = {
        "left_arm": _within(rng, ARMS[left_arm], _LIMITS["arm"]),
        "right_arm": _within(rng, ARMS[right_arm], _LIMITS["arm"]),
        "left_leg": _within(rng, LEGS[legs][0], _LIMITS["leg"]),
        "right_leg": _within(rng, LEGS[legs][1], _LIMITS["leg"]),
        "trunk": _within(rng, TRUNKS[trunk], _LIMITS["trunk"]),
        "head": {"nod": rng.normal(4, 9), "side": rng.normal(0, 6), "turn": rng.normal(0, 18)},
    }
    if legs in ("walk", "run"):
        # Arms swing against the legs: the left leg is in front, so the right arm is.
        for side, direction in (("left_arm", 1), ("right_arm", -1)):
            if figure[side]["raise"] < -40:
                figure[side]["swing"] = direction * rng.uniform(10, 38)
                figure[side]["bend"] = rng.uniform(55, 105) if legs == "run" else rng.uniform(5, 45)
    if legs in ("walk", "run", "lunge", "kick", "knee"):
        figure["trunk"]["tip"] = min(figure["trunk"]["tip"], 30.0)
    return figure


def _limit_angles(rng):
    groups = {"left_arm": "arm", "right_arm": "arm", "left_leg": "leg", "right_leg": "leg"}
    groups |= {"trunk": "trunk", "head": "head"}
    return {part: {k: rng.uniform(*r) for k, r in _LIMITS[group].items()} for part, group in groups.items()}


def _complete(figure, rng):
    """Adds to a figure's angles those of the small joints: drawn at random, the soles about level."""
    figure["head"] = {k: np.clip(v, *_LIMITS["head"][k]) for k, v in figure["head"].items()}
    for side in ("left", "right"):
        leg, arm = figure[f"{side}_leg"], figure[f"{side}_arm"]
        leg["turn"] = rng.normal(6, 7)
        level = np.clip(leg["flex"] - leg["bend"], -35, 25) * 0.5
        leg["ankle"], leg["toes"] = level + rng.normal(0, 5), rng.normal(3, 4)
        arm["wrist"] = rng.normal(0, 8), rng.normal(0, 8), rng.normal(-4, 12)
        arm["fingers"] = rng.uniform(0, 30)
    return figure


def figure_rotations(figure):
    """Joint rotations of figures whose parts are described by angles in degrees, as `ARMS`, `LEGS`, `TRUNKS` do.

    Args:
        figure: Dict of dicts of numbers, or of arrays of one shape `[...]`. `"left_arm"` and `"right_arm"` have swing,
            turn, raise, twist, bend, fingers (which curl the hand) and wrist, a triple about x, y and z;
            `"left_leg"` and `"right_leg"` have flex, turn (outwards), spread, bend, ankle (toes down) and toes
            (outwards); `"trunk"` has tip, flex, side, turn; `"head"` nod, side, turn.

    Returns:
        `scipy.spatial.transform.Rotation` of `[... * 24]` rotations of SMPL's joints, the last axis fastest.
    """
    angles = np.zeros((*np.shape(figure["trunk"]["tip"]), SMPL24.num_joints, 4))
    _fill_angles(angles, figure)
    return _rotations(angles)


def _rotations(angles):
    local = Rotation.from_euler("XYZ", angles[..., :3].reshape(-1, 3), degrees=True)
    return local * Rotation.from_rotvec(np.radians(angles[..., 3:].reshape(-1, 1)) * (1, 0, 0))


def _fill_angles(angles, figure):
    """Writes a figure's angles as degrees `[..., 24, 4]` about x, y, z and, last, the bone's own axis."""

    def turn(name, x=0.0, y=0.0, z=0.0, twist=0.0):
        for axis, values in enumerate((x, y, z, twist)):
            angles[..., SMPL24.index(name), axis] = values

    trunk, head = figure["trunk"], figure["head"]
    turn("pelvis", trunk["tip"])
    for name, share in _SPINE_SHARES.items():
        turn(name, share * trunk["flex"], share * trunk["turn"], share * trunk["side"])
    for name in ("neck", "head"):
        turn(name, 0.5 * head["nod"], 0.5 * head["turn"], 0.5 * head["side"])
    for side, sign in (("left", 1), ("right", -1)):
        leg, arm = figure[f"{side}_leg"], figure[f"{side}_arm"]
        # A tipped trunk takes the hips along; they turn back, so that the legs stay where they are.
        flex = np.minimum(leg["flex"] + trunk["tip"], 118.0)
        turn(f"{side}_hip", -flex, sign * leg["turn"], sign * leg["spread"])
        turn(f"{side}_knee", leg["bend"])
        turn(f"{side}_ankle", leg["ankle"], sign * leg["toes"])
        shrug = 0.14 * (arm["raise"] + 10)
        turn(f"{side}_collar", 0, sign * 0.10 * arm["turn"], sign * shrug)
        turn(
            f"{side}_shoulder",
            arm["swing"],
            sign * 0.9 * arm["turn"],
            sign * (arm["raise"] - shrug),
            0.7 * arm["twist"],
        )
        turn(f"{side}_elbow", 0, -sign * arm["bend"], 0, 0.3 * arm["twist"])
        turn(f"{side}_wrist", arm["wrist"][0], sign * arm["wrist"][1], sign * arm["wrist"][2])
        turn(f"{side}_hand", 0, 0, -sign * arm["fingers"])


def _mirror(rotations):
    return rotations[:, SMPL24.flip_permutation] * (1, -1, -1)


def _global_rotations(rng, tips, upright):
    """Axis angles `[count, 3]` of the root: mostly facing the camera, a little tilted, after the trunk's own tip."""
    count = len(tips)
    spread = rng.choice(3, count, p=(0.75, 0.2, 0.05))
    yaw = np.choose(spread, [rng.normal(0, 30, count), rng.normal(0, 55, count), rng.uniform(-180, 180, count)])
    pitch = rng.normal(4, 6, count)
    roll = rng.normal(0, 4, count)
    turn = Rotation.from_euler("XZY", np.stack([pitch, roll, yaw], -1), degrees=True)
    base = Rotation.from_euler("x", {"camera": 180, "y": 0, "z": 90}[upright], degrees=True)
    vectors = (base * turn * Rotation.from_rotvec(tips)).as_rotvec()
    # Near pi the same rotation has two axis angles; the one along +x is next to the mean's (pi, 0, 0).
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    other = vectors * (1 - 2 * np.pi / np.maximum(length, 1e-9))
    return np.where((vectors[:, :1] < 0) & (length > np.pi / 2) & (upright == "camera"), other, vectors)


# ------------------------------------------------------------------------------------------------------- bodies


@dataclasses.dataclass(frozen=True, eq=False)
class PosedBody:
    """A body in a pose.

    Args:
        vertices: Float64 `[V, 3]` metres.
        joints: Float64 `[J, 3]` metres, skeleton joints.
        keypoints: Float64 `[K, 3]` metres, image keypoints.
    """

    vertices: np.ndarray
    joints: np.ndarray
    keypoints: np.ndarray


def pose_body(body, pose, shape):
    """Blend shapes and linear blend skinning in NumPy, for one person.

    Args:
        body: `posekit.bodies.BodyModel`.
        pose: `[3 * joints]` axis angles, the first the global rotation.
        shape: `[shapes]` coefficients.

    Returns:
        A `PosedBody`.
    """
    rotations = Rotation.from_rotvec(np.reshape(pose, (-1, 3))).as_matrix()
    rest = body.v_template + body.shapedirs @ np.asarray(shape, np.float64)
    rest_joints = body.J_regressor @ rest
    rest = rest + body.posedirs @ (rotations[1:] - np.eye(3)).ravel()
    turned, joints = rotations.copy(), rest_joints.copy()
    for joint, parent in enumerate(body.parents):
        if parent >= 0:
            turned[joint] = turned[parent] @ rotations[joint]
            joints[joint] = joints[parent] + turned[parent] @ (rest_joints[joint] - rest_joints[parent])
    moved = joints - np.einsum("jab,jb->ja", turned, rest_joints)
    blended = (body.weights @ np.concatenate([turned, moved[..., None]], -1).reshape(len(joints), 12)).reshape(-1, 3, 4)
    vertices = np.einsum("vab,vb->va", blended[..., :3], rest) + blended[..., 3]
    return PosedBody(vertices, joints, body.keypoint_regressor @ vertices)


# ------------------------------------------------------------------------------------------------------ clothes


@dataclasses.dataclass(frozen=True)
class Outfit:
    """What a person wears; lengths are shares of a limb.

    Args:
        skin, hair, shirt, trousers, shoes, second: Colours `[3]`, RGB from 0 to 1; `second` is that of the pattern.
        sleeve: Where sleeves end: 0 shoulder, 1 wrist.
        leg: Where trousers end: 0 hip, 1 ankle.
        neckline: Metres by which the collar dips in front.
        hair_length: Metres by which the hair reaches lower than a crew cut; below -0.2, none.
        pattern: `"plain"`, `"stripes"`, `"columns"`, `"checks"` or `"block"`, of the shirt.
        period: Metres of the pattern.
    """

    skin: tuple
    hair: tuple
    shirt: tuple
    trousers: tuple
    shoes: tuple
    second: tuple
    sleeve: float
    leg: float
    neckline: float
    hair_length: float
    pattern: str
    period: float


_SKINS = (
    (0.98, 0.84, 0.74),
    (0.93, 0.74, 0.61),
    (0.82, 0.60, 0.45),
    (0.64, 0.43, 0.30),
    (0.46, 0.30, 0.21),
    (0.32, 0.20, 0.14),
)
_HAIRS = (
    (0.10, 0.08, 0.07),
    (0.22, 0.14, 0.09),
    (0.38, 0.24, 0.13),
    (0.66, 0.50, 0.28),
    (0.55, 0.22, 0.10),
    (0.60, 0.60, 0.60),
)


def sample_outfit(rng):
    """Draws clothes, skin and hair.

    Args:
        rng: `numpy.random.Generator`.

    Returns:
        An `Outfit`.
    """

    def near(palette):
        colour = np.array(palette[rng.integers(len(palette))]) * rng.uniform(0.88, 1.08) + rng.normal(0, 0.012, 3)
        return tuple(np.clip(colour, 0.02, 1))

    def cloth():
        return tuple(_hue(rng.random(), rng.beta(1.3, 1.3), rng.uniform(0.15, 0.95)))

    return Outfit(
        skin=near(_SKINS),
        hair=near(_HAIRS),
        shirt=cloth(),
        trousers=tuple(_hue(rng.choice([0.6, 0.62, 0.08, rng.random()]), rng.beta(1.2, 2), rng.uniform(0.1, 0.75))),
        shoes=tuple(_hue(rng.random(), rng.beta(1, 3), rng.choice([0.12, 0.25, 0.9]))),
        second=cloth(),
        sleeve=float(rng.choice([-0.15, 0.25, 0.3, 0.55, 0.97])),
        leg=float(rng.choice([0.3, 0.42, 0.55, 0.97, 0.97, 0.97])),
        neckline=float(rng.choice([0.0, 0.0, 0.03, 0.08])),
        hair_length=float(rng.choice([-0.3, 0.0, 0.0, 0.02, 0.05, 0.10])),
        pattern=str(rng.choice(["plain", "plain", "plain", "stripes", "columns", "checks", "block"])),
        period=float(rng.uniform(0.03, 0.10)),
    )


def _hue(hue, saturation, value):
    """RGB of a hue, saturation and value, all from 0 to 1."""
    wheel = np.clip(np.abs((hue + np.array([0, 2 / 3, 1 / 3])) % 1 * 6 - 3) - 1, 0, 1)
    return value * (1 - saturation * (1 - wheel))


def _dress(outfit, rest, landmarks):
    """Colours `[P, 3]` of surface points given in rest-pose coordinates `[P, 3]`."""
    x, y, z = np.abs(rest[:, 0]), rest[:, 1], rest[:, 2]
    hip, ankle = landmarks["left_hip"][1], landmarks["left_ankle"][1]
    shoulder, wrist = landmarks["left_shoulder"][0], landmarks["left_wrist"][0]
    along_leg = (hip - y) / (hip - ankle)
    along_arm = (x - shoulder) / (wrist - shoulder)
    collar = landmarks["neck"][1] - 0.015 + 0.25 * x
    colours = np.tile(outfit.skin, (len(rest), 1))
    collar = collar - np.where(z > 0, outfit.neckline * np.clip(1 - x / 0.07, 0, 1), 0)
    belt = landmarks["pelvis"][1] + 0.075
    shirt = (y >= belt) & (along_arm < outfit.sleeve) & ((y < collar) | (x > 0.10))
    colours[shirt] = _patterned(outfit, rest[shirt], belt)
    trousers = (y < belt) & (along_leg < outfit.leg) & (x < shoulder + 0.1)
    colours[trousers] = outfit.trousers
    colours[trousers & (y > belt - 0.028)] = np.array(outfit.trousers) * 0.45
    colours[(along_leg > 0.985 - 0.25 * (z - landmarks["left_ankle"][2])) & (along_leg > 0.9)] = outfit.shoes
    _face(outfit, colours, x, y, z, landmarks)
    return colours


def _patterned(outfit, rest, belt):
    colours = np.tile(outfit.shirt, (len(rest), 1))
    rows, columns = (np.floor(rest[:, axis] / outfit.period).astype(int) % 2 == 0 for axis in (1, 0))
    second = {
        "plain": np.zeros(len(rest), bool),
        "stripes": rows,
        "columns": columns,
        "checks": rows ^ columns,
        "block": rest[:, 1] > belt + 0.22,
    }[outfit.pattern]
    colours[second] = outfit.second
    return colours


def _face(outfit, colours, x, y, z, landmarks):
    """Paints hair, brows, eyes and mouth."""
    head = landmarks["head"]
    up, out = y - head[1], z - head[2]
    on_head = (up > -0.05) & (x < 0.12)
    hair = on_head & (up > 0.075 - outfit.hair_length + 0.72 * out) & (out < 0.085)
    if outfit.hair_length > 0.04:
        hair |= (up > -0.05 - outfit.hair_length) & (out < -0.035 + 0.2 * x) & (x < 0.11)
    if outfit.hair_length > -0.2:
        colours[hair] = outfit.hair
    front = on_head & (out > 0.045)
    eye_x, eye_up = landmarks["left_eye"][0] - 0.003, landmarks["left_eye"][1] - head[1]
    eyes = ((x - eye_x) / 0.013) ** 2 + ((up - eye_up) / 0.0075) ** 2
    colours[front & (eyes < 1)] = (0.93, 0.92, 0.90)
    colours[front & (eyes < 0.32)] = (0.10, 0.08, 0.07)
    brows = (np.abs(x - eye_x) < 0.017) & (np.abs(up - eye_up - 0.019) < 0.0042)
    colours[front & brows] = 0.6 * np.array(outfit.hair)
    mouth_up = landmarks["nose"][1] - head[1] - 0.034
    mouth = (x / 0.024) ** 2 + ((up - mouth_up) / 0.0065) ** 2 < 1
    colours[front & mouth] = np.array(outfit.skin) * (0.82, 0.52, 0.52)


# ------------------------------------------------------------------------------------------------------ pictures


@dataclasses.dataclass(frozen=True, eq=False)
class Person:
    """A person in a picture, with everything that is known.

    Args:
        pose: Float32 `[72]` axis angles in the camera's frame.
        shape: Float32 `[shapes]`.
        scale: Pixels per metre.
        offset_px: `[2]` pixel of the body's origin: a point `(x, y, z)` shows at `scale * (x, y) + offset_px`.
        keypoints_px: Float64 `[19, 2]` pixels, `COCO_PLUS19`.
        visible: Boolean `[19]`, false where something lies in front or the keypoint is outside the picture.
        joints3d: Float32 `[14, 3]` metres, the first 14 keypoints in the camera's frame.
        mask: Boolean `[H, W]`, where the person is seen.
    """

    pose: np.ndarray
    shape: np.ndarray
    scale: float
    offset_px: np.ndarray
    keypoints_px: np.ndarray
    visible: np.ndarray
    joints3d: np.ndarray
    mask: np.ndarray


def sample_picture(rng, body, size=None, num_people=1):
    """Draws a picture of people, nearest last.

    Args:
        rng: `numpy.random.Generator`.
        body: `posekit.bodies.BodyModel` with 24 joints and 19 keypoints.
        size: `(height, width)`; by default each side is drawn between 224 and 280 pixels.
        num_people: How many people to draw.

    Returns:
        `(image, people)`: uint8 `[H, W, 3]` RGB and a list of `Person`. One person alone stands about 120 to 190
        pixels tall and lies wholly within the picture.
    """
    height, width = size or rng.integers(224, 281, 2)
    image = sample_background(rng, (int(height), int(width)))
    light = sample_light(rng)
    people = []
    for number in range(num_people):
        pose = sample_poses(rng, 1)[0]
        shape = sample_shapes(rng, 1, body.num_shape)[0]
        posed = pose_body(body, pose, shape)
        scale, offset = _place(rng, posed.vertices, (height, width), number, num_people)
        image, person = draw_person(image, body, pose, shape, scale, offset, sample_outfit(rng), light, posed)
        people = [behind(earlier, person.mask) for earlier in people] + [person]
    return photograph(rng, image), people


def draw_person(image, body, pose, shape, scale, offset_px, outfit, light=None, posed=None):
    """Draws one dressed person over an image.

    Args:
        image: Float `[H, W, 3]` RGB from 0 to 1.
        body: `posekit.bodies.BodyModel`.
        pose: `[72]` axis angles in the camera's frame (y down).
        shape: `[shapes]`.
        scale: Pixels per metre.
        offset_px: `[2]` pixel of the body's origin.
        outfit: An `Outfit`.
        light: `(direction [3] towards the light, its strength, the surroundings' strength)`; from above by default.
        posed: The body's `pose_body`, if it is at hand.

    Returns:
        `(image, person)`: the new image, float `[H, W, 3]`, and a `Person`.
    """
    posed = posed or pose_body(body, pose, shape)
    height, width = image.shape[:2]
    keypoints = posed.keypoints[:, :2] * scale + offset_px
    # Half pixels: the centres of the four small pixels lie around that of the large one.
    fine = rasterize(
        posed.vertices + (0, 0, _DISTANCE),
        body.faces,
        focal=_DISTANCE * scale * _SUPERSAMPLE,
        center=np.asarray(offset_px) * _SUPERSAMPLE + (_SUPERSAMPLE - 1) / 2,
        size=(height * _SUPERSAMPLE, width * _SUPERSAMPLE),
    )
    colours = _shade(fine, body, posed, outfit, light or ((-0.3, -0.8, -0.6), 0.75, 0.45))
    layer = np.zeros((height * _SUPERSAMPLE * width * _SUPERSAMPLE, 4))
    layer[fine.pixels, :3] = colours
    layer[fine.pixels, 3] = 1
    layer = layer.reshape(height, _SUPERSAMPLE, width, _SUPERSAMPLE, 4).mean((1, 3))
    drawn = _shadow(image, posed.vertices[:, :2] * scale + offset_px) * (1 - layer[..., 3:]) + layer[..., :3]
    visible = _visible(fine, posed.keypoints, keypoints)
    person = Person(
        pose=np.asarray(pose, np.float32),
        shape=np.asarray(shape, np.float32),
        scale=float(scale),
        offset_px=np.asarray(offset_px, np.float64),
        keypoints_px=keypoints,
        visible=visible,
        joints3d=posed.keypoints[:14].astype(np.float32),
        mask=layer[..., 3] >= 0.5,
    )
    return drawn, person


def sample_light(rng):
    """Draws where light comes from.

    Args:
        rng: `numpy.random.Generator`.

    Returns:
        `(direction [3] towards the light, its strength, the surroundings' strength)`.
    """
    direction = np.array([rng.uniform(-1, 1), rng.uniform(-1.1, -0.2), rng.uniform(-1, -0.3)])
    return tuple(direction), rng.uniform(0.5, 0.8), rng.uniform(0.35, 0.6)


def _shade(fine, body, posed, outfit, light):
    """Lit colours `[covered, 3]` of a raster's pixels."""
    direction, strength, surroundings = light
    direction = np.asarray(direction) / np.linalg.norm(direction)
    normals = vertex_normals(posed.vertices, body.faces)
    values = fine.interpolate(np.concatenate([body.v_template, normals], -1))
    normals = values[:, 3:] / np.maximum(np.linalg.norm(values[:, 3:], axis=-1, keepdims=True), 1e-9)
    rest_joints = body.J_regressor @ body.v_template
    landmarks = dict(zip(SMPL24.joints, rest_joints))
    rest_keypoints = body.keypoint_regressor @ body.v_template
    landmarks |= {name: rest_keypoints[COCO_PLUS19.index(name)] for name in ("nose", "left_eye")}
    lit = surroundings * (0.75 - 0.25 * normals[:, 1]) + strength * np.maximum(normals @ direction, 0)
    # Cloth and skin darken towards the outline less than the cosine says; a little light from the camera does that.
    lit += 0.12 * np.maximum(-normals[:, 2], 0)
    return np.clip(_dress(outfit, values[:, :3], landmarks) * lit[:, None], 0, 1)


def _shadow(image, outline):
    """Darkens the ground beneath a person whose vertices show at `outline`, `[V, 2]` pixels."""
    height, width = image.shape[:2]
    bottom = outline[:, 1].max()
    feet = outline[outline[:, 1] > bottom - 0.06 * np.ptp(outline[:, 1])]
    middle = (feet[:, 0].min() + feet[:, 0].max()) / 2
    reach = max(0.6 * np.ptp(feet[:, 0]), 0.10 * np.ptp(outline[:, 1]))
    rows, columns = np.mgrid[:height, :width]
    distance = ((columns - middle) / reach) ** 2 + ((rows - bottom + 1) / (0.22 * reach)) ** 2
    return image * (1 - 0.45 * np.exp(-1.5 * distance))[..., None]


def _visible(fine, keypoints, keypoints_px):
    """Which keypoints are inside the picture and not hidden by a part of the body that lies well in front."""
    height, width = fine.size[0] // _SUPERSAMPLE, fine.size[1] // _SUPERSAMPLE
    columns, rows = np.rint(keypoints_px * _SUPERSAMPLE + (_SUPERSAMPLE - 1) / 2).astype(int).T
    inside = (keypoints_px >= -0.5).all(-1) & (keypoints_px[:, 0] < width - 0.5) & (keypoints_px[:, 1] < height - 0.5)
    rows, columns = np.clip(rows, 0, fine.size[0] - 1), np.clip(columns, 0, fine.size[1] - 1)
    surface = fine.depth[rows, columns] - _DISTANCE
    allowed = np.array([_DEPTH[name.removeprefix("left_").removeprefix("right_")] for name in COCO_PLUS19.joints])
    return inside & (keypoints[:, 2] - surface < allowed)


def behind(person, mask):
    """A person after someone else was drawn in front.

    Args:
        person: A `Person`.
        mask: Boolean `[H, W]`, true on the other one.

    Returns:
        A `Person` of whom less is seen.
    """
    columns, rows = np.rint(person.keypoints_px).astype(int).T
    height, width = mask.shape
    covered = mask[np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)]
    return dataclasses.replace(person, mask=person.mask & ~mask, visible=person.visible & ~covered)


def _place(rng, vertices, size, number, num_people):
    """Scale and offset that put a body into its share of a picture."""
    height, width = size
    low, high = vertices[:, :2].min(0), vertices[:, :2].max(0)
    room = np.array([width if num_people == 1 else 0.8 * width, height]) - 8
    scale = rng.uniform(130, 195) / 1.72 * height / 252 * (1 if num_people == 1 else rng.uniform(0.65, 0.95))
    scale = min(scale, *(room / (high - low)))
    free = np.array([width, height]) - 8 - scale * (high - low)
    share = (number + rng.uniform(0.2, 0.8)) / num_people if num_people > 1 else np.clip(rng.normal(0.5, 0.2), 0, 1)
    # Nearer people, drawn later, stand lower in the picture.
    down = np.clip(rng.normal(0.55, 0.2), 0, 1) if num_people == 1 else 0.5 + 0.4 * number / num_people
    return scale, 4 + free * (share, down) - scale * low


# --------------------------------------------------------------------------------------------------- backgrounds


def sample_background(rng, size):
    """Draws a procedural scene: sky or wall, ground, things in front of it, texture.

    Args:
        rng: `numpy.random.Generator`.
        size: `(height, width)`.

    Returns:
        Float64 `[H, W, 3]` RGB from 0 to 1.
    """
    height, width = size
    palette = [_hue(rng.random(), rng.beta(1, 3.5), rng.uniform(0.2, 0.95)) for _ in range(5)]
    horizon = int(height * rng.uniform(0.35, 0.9))
    image = np.empty((height, width, 3))
    image[:horizon] = _gradient(horizon, palette[0], palette[1])
    image[horizon:] = _gradient(height - horizon, palette[2], 0.7 * np.asarray(palette[3]))
    for _ in range(rng.integers(2, 12)):
        _draw_thing(rng, image, palette[rng.integers(len(palette))])
    image = cv2.GaussianBlur(image, (0, 0), float(rng.choice([0.6, 1.2, 2.5])))
    image += rng.uniform(0.05, 0.3) * _cloud(rng, size)[..., None] * rng.uniform(0.6, 1, 3)
    image[horizon:] += rng.uniform(0, 0.2) * _cloud(rng, (height - horizon, width), first=16)[..., None]
    return np.clip(image, 0, 1)


def _gradient(rows, top, bottom):
    return np.linspace(top, bottom, max(rows, 1))[:rows, None]


def _draw_thing(rng, image, colour):
    height, width = image.shape[:2]
    colour = tuple(np.clip(np.asarray(colour) + rng.normal(0, 0.1, 3), 0, 1))
    x, y = int(rng.integers(width)), int(rng.integers(height))
    w, h = int(rng.integers(4, width // 2)), int(rng.integers(4, height // 2))
    kind = rng.choice(["box", "post", "disc", "patch", "line"])
    if kind == "box":
        cv2.rectangle(image, (x - w // 2, y - h // 2), (x + w // 2, y + h // 2), colour, -1)
    elif kind == "post":
        cv2.rectangle(image, (x, y - h), (x + max(2, w // 12), height), colour, -1)
    elif kind == "disc":
        turn = float(rng.uniform(0, 180))
        cv2.ellipse(image, (x, y), (w // 2 + 1, h // 2 + 1), turn, 0, 360, colour, -1, cv2.LINE_AA)
    elif kind == "patch":
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 8)))
        corners = np.stack([x + w / 2 * np.cos(angles), y + h / 2 * np.sin(angles)], -1)
        cv2.fillPoly(image, [corners.astype(np.int32)], colour, cv2.LINE_AA)
    else:
        end = (int(rng.integers(width)), int(rng.integers(height)))
        cv2.line(image, (x, y), end, colour, int(rng.integers(1, 7)), cv2.LINE_AA)


def _cloud(rng, size, first=3):
    """Smooth noise of several scales, about -1 to 1, `[H, W]`."""
    height, width = size
    total = np.zeros(size)
    for octave in range(5):
        cells = first * 2**octave
        if cells > 2 * max(size):
            break
        coarse = rng.normal(size=(max(2, cells * height // max(size)), max(2, cells * width // max(size))))
        total += 0.6**octave * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return total / 2.5


def photograph(rng, image):
    """What a camera adds: a soft lens, exposure, noise.

    Args:
        rng: `numpy.random.Generator`.
        image: Float `[H, W, 3]` RGB from 0 to 1.

    Returns:
        Uint8 `[H, W, 3]` RGB.
    """
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 0.7))
    image = np.clip(image * rng.uniform(0.85, 1.15), 0, 1) ** rng.uniform(0.85, 1.2)
    image = image + rng.normal(0, rng.uniform(0.004, 0.02), image.shape)
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
