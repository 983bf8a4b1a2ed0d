"""Joints from one skeleton to another: by name where both have them, by rules on names where they do not.

A rule writes a joint as a sum of others, with weights that add up to one, so that it holds for pixels, millimetres
and any camera. The weights were fitted to a thousand poses of the sample body, seen by a camera.
"""

import dataclasses

import numpy as np

from posekit.skeletons import SKELETONS, Skeleton

OBSERVED, DERIVED, GUESSED = 0, 1, 2
TRUNK = ("left_hip", "right_hip", "left_shoulder", "right_shoulder")

# What a skeleton means by a name, where it is not what the rules mean. "thorax" is the base of the neck; OpenPose's
# neck lies halfway between the shoulders, below it; SMPL's pelvis lies above the hips, which no other skeleton has.
_MEANINGS = {
    "OPENPOSE18": {"neck": "mid_shoulders"},
    "BODY25": {"neck": "mid_shoulders"},
    "SMPL24": {"neck": "thorax", "pelvis": "smpl_pelvis"},
}
# (joint, weights): what follows from other joints. Of several rules for a joint, the first whose joints are there
# counts; a rule comes after those that give what it needs.
_DERIVED = (
    ("pelvis", {"left_hip": 0.5, "right_hip": 0.5}),
    ("left_hip", {"pelvis": 2.0, "right_hip": -1.0}),
    ("right_hip", {"pelvis": 2.0, "left_hip": -1.0}),
    ("mid_shoulders", {"left_shoulder": 0.5, "right_shoulder": 0.5}),
    ("thorax", {"mid_shoulders": 1.07, "pelvis": -0.07}),
    ("mid_shoulders", {"thorax": 0.935, "pelvis": 0.065}),
    ("left_shoulder", {"mid_shoulders": 2.0, "right_shoulder": -1.0}),
    ("right_shoulder", {"mid_shoulders": 2.0, "left_shoulder": -1.0}),
    ("thorax", {"mid_shoulders": 1.0}),
    ("mid_eyes", {"left_eye": 0.5, "right_eye": 0.5}),
    ("mid_eyes", {"left_eye": 1.0}),
    ("mid_eyes", {"right_eye": 1.0}),
    ("mid_ears", {"left_ear": 0.5, "right_ear": 0.5}),
    ("head_top", {"mid_ears": 1.83, "thorax": -0.83}),
    ("head_top", {"mid_eyes": 0.55, "thorax": 0.80, "pelvis": -0.35}),
    ("head_top", {"nose": 0.40, "thorax": 1.00, "pelvis": -0.40}),
    ("head_top", {"head": 1.00, "thorax": 0.31, "pelvis": -0.31}),
    ("nose", {"mid_eyes": 1.18, "thorax": -0.28, "pelvis": 0.10}),
    ("nose", {"mid_ears": 2.12, "thorax": -1.48, "pelvis": 0.36}),
    ("nose", {"head_top": 1.41, "thorax": -0.90, "pelvis": 0.49}),
    ("upper_neck", {"thorax": 0.70, "head_top": 0.30}),
    ("spine", {"pelvis": 0.5, "thorax": 0.5}),
)
# Where a joint that nothing determines most likely is: limbs go on from what is there, a little towards hanging down.
_GUESSED = (
    ("left_shoulder", {"right_shoulder": 1.0, "left_hip": 1.6, "right_hip": -1.6}),
    ("right_shoulder", {"left_shoulder": 1.0, "right_hip": 1.6, "left_hip": -1.6}),
    ("left_hip", {"right_hip": 1.0, "left_shoulder": 0.57, "right_shoulder": -0.57}),
    ("right_hip", {"left_hip": 1.0, "right_shoulder": 0.57, "left_shoulder": -0.57}),
    *(
        rule
        for side in ("left", "right")
        for rule in (
            (f"{side}_elbow", {f"{side}_shoulder": 0.5, f"{side}_wrist": 0.5}),
            (f"{side}_elbow", {f"{side}_shoulder": 1.0, "pelvis": 0.4, "thorax": -0.4}),
            (f"{side}_wrist", {f"{side}_elbow": 1.6, f"{side}_shoulder": -0.6}),
            (f"{side}_knee", {f"{side}_hip": 0.5, f"{side}_ankle": 0.5}),
            (f"{side}_knee", {f"{side}_hip": 1.0, "pelvis": 0.65, "thorax": -0.65}),
            (f"{side}_ankle", {f"{side}_knee": 1.3, f"{side}_hip": -0.3, "pelvis": 0.45, "thorax": -0.45}),
        )
    ),
    ("head_top", {"left_ear": 0.20, "thorax": 1.24, "pelvis": -0.44}),
    ("head_top", {"right_ear": 0.20, "thorax": 1.24, "pelvis": -0.44}),
    ("head_top", {"thorax": 1.5, "pelvis": -0.5}),
    ("nose", {"left_ear": 0.35, "thorax": 0.75, "pelvis": -0.10}),
    ("nose", {"right_ear": 0.35, "thorax": 0.75, "pelvis": -0.10}),
    ("nose", {"thorax": 1.2, "pelvis": -0.2}),
)


@dataclasses.dataclass(frozen=True, eq=False)
class InferredJoints:
    """Joints in the skeleton asked for, and where each came from.

    Args:
        points: `[..., joints, coordinates]`; NaN where a joint is missing, and for whole people that are not usable.
        scores: `[..., joints]` confidences: a derived joint has the lowest one among its sources, a guessed or
            missing one 0.
        skeleton: Their `Skeleton`.
        origin: int8 `[..., joints]`: `OBSERVED`, `DERIVED`, `GUESSED`, or -1 where the joint is missing.
        usable: bool `[...]`: false for people without a trunk (both hips or both shoulders not there).
    """

    points: np.ndarray
    scores: np.ndarray
    skeleton: Skeleton
    origin: np.ndarray
    usable: np.ndarray

    @property
    def derived(self):
        """Names of joints that were derived from others for anyone, in the skeleton's order."""
        return self.names(self.origin == DERIVED)

    @property
    def guessed(self):
        """Names of joints that were guessed for anyone."""
        return self.names(self.origin == GUESSED)

    @property
    def missing(self):
        """Names of joints that a usable person lacks."""
        return self.names((self.origin < 0) & self.usable[..., None])

    def names(self, mask):
        """Names of the joints that a mask marks for anyone.

        Args:
            mask: bool `[..., joints]`.

        Returns:
            Tuple of names.
        """
        anyone = np.reshape(mask, (-1, self.skeleton.num_joints)).any(0)
        return tuple(name for name, there in zip(self.skeleton.joints, anyone) if there)


def infer_joints(points, scores, source, to, min_score=0.0):
    """Converts joints to another skeleton and fills in those that the source lacks or did not find.

    Joints go over by name. What the source lacks is derived (pelvis between the hips, base of the neck just above the
    middle of the shoulders, spine halfway between them, top of the head beyond the ears, …). What was not found and
    follows from nothing is guessed, for one side of the body at a time: an ankle goes on from the thigh and the
    trunk, a wrist goes on from the upper arm, an elbow or knee lies halfway between its neighbours or else hangs from
    the trunk, a hip or shoulder lies beside its twin as far as the other pair says, the head continues the trunk.

    Args:
        points: `[..., joints, coordinates]` in 2 or 3 dimensions, any unit. Joints that are not finite are missing.
        scores: `[..., joints]`; joints with 0 or less, or below `min_score`, are missing. None: all finite ones are
            there.
        source: `Skeleton` of the points.
        to: `Skeleton` wanted.
        min_score: Lowest score of a joint that counts as found.

    Returns:
        `InferredJoints`.

    Raises:
        ValueError: If the shapes do not fit the source skeleton.

    Example:
        >>> from posekit.skeletons import COCO17, H36M17
        >>> keypoints = np.random.default_rng(0).uniform(0, 500, (4, 17, 2))
        >>> joints = infer_joints(keypoints, None, COCO17, H36M17)
        >>> joints.points.shape, joints.derived
        ((4, 17, 2), ('pelvis', 'spine', 'thorax', 'head_top'))
    """
    points, scores = _checked(points, scores, source)
    batch = points.shape[:-2]
    known = np.isfinite(points).all(-1) & (scores > 0) & (scores >= min_score)
    table = _Table(batch, points.shape[-1])
    for index, name in enumerate(_meanings(source)):
        table.observe(name, points[..., index, :], scores[..., index], known[..., index])
    table.apply(_DERIVED, DERIVED)
    # What is guessed may be what another joint waited for, and the other way round.
    while table.apply(_GUESSED, GUESSED) | table.apply(_DERIVED, DERIVED):
        pass

    wanted = _meanings(to)
    columns = [table.columns.get(name) or table.empty() for name in wanted]
    result = np.stack([column[0] for column in columns], -2)
    result_scores = np.stack([column[1] for column in columns], -1)
    origin = np.stack([column[2] for column in columns], -1)
    trunk = [to.index(name) for name in TRUNK if name in to.joints]
    usable = (origin[..., trunk] >= 0).all(-1) & (origin >= 0).any(-1)
    origin = np.where(usable[..., None], origin, np.int8(-1))
    there = origin >= 0
    result = np.where(there[..., None], result, np.nan)
    return InferredJoints(result, np.where(there, result_scores, 0.0), to, origin, usable)


class _Table:
    """Joints by name, one column each: points, scores, and where they came from, -1 where they are not there yet."""

    def __init__(self, batch, dimensions):
        self.batch, self.dimensions = batch, dimensions
        self.columns = {}

    def empty(self):
        return (
            np.zeros((*self.batch, self.dimensions)),
            np.zeros(self.batch),
            np.full(self.batch, -1, np.int8),
        )

    def observe(self, name, points, scores, known):
        points = np.where(known[..., None], points, 0.0)
        self.columns[name] = points, np.where(known, scores, 0.0), np.where(known, OBSERVED, -1).astype(np.int8)

    def apply(self, rules, kind):
        """Applies rules in their order where a joint is not there and what it needs is; tells whether any was."""
        any_new = False
        for name, weights in rules:
            sources = [self.columns.get(other) for other in weights]
            if any(column is None for column in sources):
                continue
            points, scores, origin = self.columns.get(name) or self.empty()
            new = (origin < 0) & np.all([column[2] >= 0 for column in sources], 0)
            if not new.any():
                continue
            any_new = True
            rank = np.max([column[2] for column in sources] + [np.full(self.batch, kind, np.int8)], 0)
            sums = sum(weight * column[0] for weight, column in zip(weights.values(), sources))
            lowest = np.where(rank == GUESSED, 0.0, np.min([column[1] for column in sources], 0))
            self.columns[name] = (
                np.where(new[..., None], sums, points),
                np.where(new, lowest, scores),
                np.where(new, rank, origin).astype(np.int8),
            )
        return any_new


def _meanings(skeleton):
    """The skeleton's joints in the words of the rules."""
    special = dict(_MEANINGS.get(skeleton.name, {}))
    # Beside a thorax, the neck is the upper one; without, it is the base of the neck.
    special.setdefault("neck", "upper_neck" if "thorax" in skeleton.joints else "thorax")
    return [special.get(name, name) for name in skeleton.joints]


def _checked(points, scores, source):
    points = np.asarray(points, np.float64)
    if points.ndim < 2 or points.shape[-2] != source.num_joints or points.shape[-1] not in (2, 3):
        count = points.shape[-2] if points.ndim >= 2 else points.size
        raise ValueError(
            f"Points of shape {points.shape} are not in skeleton {source.name!r}: it has {source.num_joints} joints, "
            f"so the shape must be [..., {source.num_joints}, 2 or 3]. {_with_joints(count)}"
        )
    if scores is None:
        return points, np.ones(points.shape[:-1])
    scores = np.asarray(scores, np.float64)
    if scores.shape != points.shape[:-1]:
        raise ValueError(f"scores have the shape {scores.shape}; with these points it must be {points.shape[:-1]}.")
    return points, scores


def _with_joints(count):
    names = [name for name, skeleton in SKELETONS.items() if skeleton.num_joints == count]
    if not names:
        known = ", ".join(f"{name} ({skeleton.num_joints})" for name, skeleton in SKELETONS.items())
        return f"No known skeleton has {count} joints; known are {known}."
    return f"{' and '.join(names)} {'has' if len(names) == 1 else 'have'} {count}."
