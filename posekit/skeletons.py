"""Skeletons: joint names and bones, and every index table derived from them.

A skeleton is data. Flip permutations, bone matrices, parents, neighbour masks and conversions between joint
orders all follow from the names, so that no table of indices stands anywhere else in posekit.
"""

import dataclasses
import functools

import numpy as np


@dataclasses.dataclass(frozen=True, repr=False)
class Skeleton:
    """Named joints and the bones between them.

    Args:
        name: What messages and files call the skeleton.
        joints: Joint names in order. Sides are written `left_…` and `right_…`.
        bone_names: Pairs `(child, parent)` of joint names, in the order in which bone tables list them. A joint has at
            most one parent.
        link_names: Pairs of joint names that are neighbours without a bone between them; `neighbours` follows them too.
        limb_names: Pairs `(from, to)` of joint names, the limbs along which part affinity fields point, in the order of
            the fields' channels. By default the bones, from parent to child.
        grouping_names: The same pairs in the order in which a decoder puts people together. By default limbs whose
            joints hang together with those before come first.

    Raises:
        ValueError: If a name occurs twice, a bone, link or limb names an unknown joint, a joint has two parents, a
            `left_` joint lacks its `right_` twin, or the grouping does not have the limbs.

    Example:
        >>> from posekit.skeletons import LSP14
        >>> LSP14.num_joints, LSP14.index("neck")
        (14, 12)
    """

    name: str
    joints: tuple[str, ...]
    bone_names: tuple[tuple[str, str], ...] = ()
    link_names: tuple[tuple[str, str], ...] = ()
    limb_names: tuple[tuple[str, str], ...] = ()
    grouping_names: tuple[tuple[str, str], ...] = ()

    def __post_init__(self):
        object.__setattr__(self, "joints", tuple(self.joints))
        for field in ("bone_names", "link_names", "limb_names", "grouping_names"):
            object.__setattr__(self, field, tuple(tuple(pair) for pair in getattr(self, field)))
        repeated = sorted({joint for joint in self.joints if self.joints.count(joint) > 1})
        if repeated:
            raise ValueError(f"Skeleton {self.name!r} names {repeated} more than once; give every joint its own name.")
        ends = [frozenset(limb) for limb in self.limb_names]
        if len(set(ends)) != len(ends) or any(len(pair) != 2 for pair in ends):
            raise ValueError(f"Skeleton {self.name!r} has a limb twice, or one from a joint to itself.")
        if not self.limb_names:
            object.__setattr__(self, "limb_names", tuple((parent, child) for child, parent in self.bone_names))
        pairs = self.bone_names + self.link_names + self.limb_names
        unknown = sorted({joint for pair in pairs for joint in pair} - set(self.joints))
        if unknown:
            joints = list(self.joints)
            raise ValueError(
                f"Bones, links or limbs of skeleton {self.name!r} name {unknown}; its joints are {joints}."
            )
        children = [child for child, _ in self.bone_names]
        twice = sorted({child for child in children if children.count(child) > 1})
        if twice:
            raise ValueError(f"Joints {twice} of skeleton {self.name!r} have several parents; give each one at most.")
        for joint in self.joints:
            if _mirror_name(joint) not in self.joints:
                raise ValueError(f"Skeleton {self.name!r} has {joint!r} without its twin {_mirror_name(joint)!r}.")
        if self.grouping_names and sorted(self.grouping_names) != sorted(self.limb_names):
            raise ValueError(
                f"grouping_names of skeleton {self.name!r} must be its limb_names in another order: {self.limb_names}."
            )

    def __repr__(self):
        # Short: it stands in the signatures of functions.
        return f"<Skeleton {self.name!r}, {self.num_joints} joints>"

    @property
    def num_joints(self):
        """Number of joints."""
        return len(self.joints)

    def index(self, joint):
        """Position of a joint.

        Args:
            joint: Joint name.

        Returns:
            Its index in `joints`.

        Raises:
            KeyError: If the skeleton has no such joint.
        """
        try:
            return self.joints.index(joint)
        except ValueError:
            raise KeyError(f"Skeleton {self.name!r} has no joint {joint!r}; it has {list(self.joints)}.") from None

    @functools.cached_property
    def bones(self):
        """Pairs `(child index, parent index)`, in the order of the bone tables."""
        return tuple((self.index(child), self.index(parent)) for child, parent in self.bone_names)

    @functools.cached_property
    def limbs(self):
        """Pairs `(from index, to index)` in the order of the fields: limb k has channels 2k and 2k + 1."""
        return tuple((self.index(start), self.index(end)) for start, end in self.limb_names)

    @functools.cached_property
    def limb_grouping(self):
        """Indices into `limbs`, in the order in which a decoder puts people together."""
        if self.grouping_names:
            return tuple(self.limb_names.index(pair) for pair in self.grouping_names)
        order, reached, waiting = [], set(), list(range(len(self.limbs)))
        while waiting:
            touching = [limb for limb in waiting if not reached.isdisjoint(self.limbs[limb])]
            order.append((touching or waiting)[0])
            reached.update(self.limbs[order[-1]])
            waiting.remove(order[-1])
        return tuple(order)

    @functools.cached_property
    def limb_opens(self):
        """For each of `limb_grouping`, whether it reaches a new joint; limbs that only close a loop open no person."""
        reached, opens = set(), []
        for limb in self.limb_grouping:
            opens.append(not reached.issuperset(self.limbs[limb]))
            reached.update(self.limbs[limb])
        return tuple(opens)

    @functools.cached_property
    def limb_flip(self):
        """`(permutation, signs)` of a mirrored figure's limbs.

        Int `[limbs]` and float32 `[limbs]`: field k of the mirrored picture is field `permutation[k]` mirrored, with
        its x turned round, times `signs[k]`, which is -1 where the twin points the other way.

        Raises:
            ValueError: If a limb has no twin.
        """
        permutation, signs = [], []
        for start, end in self.limb_names:
            twin = _mirror_name(start), _mirror_name(end)
            found = [pair in self.limb_names for pair in (twin, twin[::-1])]
            if not any(found):
                raise ValueError(f"Limb {start!r} to {end!r} of skeleton {self.name!r} lacks its twin.")
            permutation.append(self.limb_names.index(twin if found[0] else twin[::-1]))
            signs.append(1 if found[0] else -1)
        return np.array(permutation, np.int64), np.array(signs, np.float32)

    @functools.cached_property
    def parents(self):
        """Parent index of every joint, -1 where it has none."""
        table = dict(self.bones)
        return tuple(table.get(joint, -1) for joint in range(self.num_joints))

    @functools.cached_property
    def flip_permutation(self):
        """Indices that swap left and right: `points[..., flip_permutation, :]` relabels a mirrored figure."""
        permutation = np.array([self.index(_mirror_name(joint)) for joint in self.joints], np.int64)
        permutation.flags.writeable = False
        return permutation

    def bone_matrix(self):
        """Matrix that turns joints into bone vectors.

        Returns:
            Float32 `[joints, bones]`: +1 at the child and -1 at the parent of each bone, so that
            `points.T @ bone_matrix` holds child minus parent.
        """
        matrix = np.zeros((self.num_joints, len(self.bones)), np.float32)
        for column, (child, parent) in enumerate(self.bones):
            matrix[child, column] = 1.0
            matrix[parent, column] = -1.0
        return matrix

    def neighbours(self, hops=1):
        """Joints that lie within a number of bones (or links) of each other.

        Args:
            hops: Longest path, in bones or links; 0 gives the identity.

        Returns:
            Boolean `[joints, joints]`, true on the diagonal.
        """
        step = np.eye(self.num_joints, dtype=np.int64)
        for one, other in self.bone_names + self.link_names:
            step[self.index(one), self.index(other)] = step[self.index(other), self.index(one)] = 1
        return np.linalg.matrix_power(step, hops) > 0 if hops else np.eye(self.num_joints, dtype=bool)

    def convert(self, points, to):
        """Reorders joints into another skeleton, by name.

        Args:
            points: `[..., joints, coordinates]` array in this skeleton's order.
            to: The `Skeleton` wanted.

        Returns:
            `(converted, found)`: `[..., to.num_joints, coordinates]` with zeros where this skeleton lacks the
            joint, and a boolean `[to.num_joints]` that tells which joints were there.

        Raises:
            ValueError: If the joint axis of `points` does not have this skeleton's length.
        """
        points = np.asarray(points)
        if points.ndim < 2 or points.shape[-2] != self.num_joints:
            raise ValueError(
                f"Points of shape {points.shape} are not in skeleton {self.name!r}: it has {self.num_joints} joints, "
                f"so the shape must be [..., {self.num_joints}, coordinates]."
            )
        found = np.array([joint in self.joints for joint in to.joints])
        source = [self.index(joint) if there else 0 for joint, there in zip(to.joints, found)]
        converted = np.where(found[:, None], points[..., source, :], np.zeros((), points.dtype))
        return converted, found


def _mirror_name(joint):
    if joint.startswith("left_"):
        return "right_" + joint[len("left_") :]
    if joint.startswith("right_"):
        return "left_" + joint[len("right_") :]
    return joint


_LSP_JOINTS = (
    "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle",
    "right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist",
    "neck", "head_top",
)  # fmt: skip
_FACE_JOINTS = ("nose", "left_eye", "right_eye", "left_ear", "right_ear")

# The bones along which the kinematic-chain critic measures, in its column order: the trunk runs hip to shoulder.
_LSP_BONES = (
    ("right_ankle", "right_knee"), ("right_knee", "right_hip"), ("right_hip", "right_shoulder"),
    ("left_hip", "left_shoulder"), ("left_knee", "left_hip"), ("left_ankle", "left_knee"),
    ("right_wrist", "right_elbow"), ("right_elbow", "right_shoulder"), ("right_shoulder", "neck"),
    ("left_shoulder", "neck"), ("left_elbow", "left_shoulder"), ("left_wrist", "left_elbow"),
    ("neck", "head_top"),
)  # fmt: skip

LSP14 = Skeleton("LSP14", _LSP_JOINTS, _LSP_BONES)

COCO_PLUS19 = Skeleton(
    "COCO_PLUS19",
    _LSP_JOINTS + _FACE_JOINTS,
    _LSP_BONES[:-1]
    + (
        ("neck", "nose"), ("nose", "head_top"), ("left_ear", "left_eye"), ("right_ear", "right_eye"),
    ),
)  # fmt: skip

COCO17 = Skeleton(
    "COCO17",
    (
        "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
        "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee",
        "left_ankle", "right_ankle",
    ),
    (
        ("left_eye", "nose"), ("right_eye", "nose"), ("left_ear", "left_eye"), ("right_ear", "right_eye"),
        ("left_elbow", "left_shoulder"), ("right_elbow", "right_shoulder"), ("left_wrist", "left_elbow"),
        ("right_wrist", "right_elbow"), ("left_hip", "left_shoulder"), ("right_hip", "right_shoulder"),
        ("left_knee", "left_hip"), ("right_knee", "right_hip"), ("left_ankle", "left_knee"),
        ("right_ankle", "right_knee"), ("right_shoulder", "left_shoulder"),
    ),
)  # fmt: skip

MPII16 = Skeleton(
    "MPII16",
    (
        "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle", "pelvis", "thorax", "neck",
        "head_top", "right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist",
    ),
    (
        ("right_ankle", "right_knee"), ("right_knee", "right_hip"), ("right_hip", "pelvis"), ("left_hip", "pelvis"),
        ("left_knee", "left_hip"), ("left_ankle", "left_knee"), ("thorax", "pelvis"), ("neck", "thorax"),
        ("head_top", "neck"), ("right_wrist", "right_elbow"), ("right_elbow", "right_shoulder"),
        ("right_shoulder", "thorax"), ("left_shoulder", "thorax"), ("left_elbow", "left_shoulder"),
        ("left_wrist", "left_elbow"),
    ),
)  # fmt: skip

SMPL24 = Skeleton(
    "SMPL24",
    (
        "pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee", "spine2", "left_ankle", "right_ankle",
        "spine3", "left_foot", "right_foot", "neck", "left_collar", "right_collar", "head", "left_shoulder",
        "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hand", "right_hand",
    ),
    (
        ("left_hip", "pelvis"), ("right_hip", "pelvis"), ("spine1", "pelvis"), ("left_knee", "left_hip"),
        ("right_knee", "right_hip"), ("spine2", "spine1"), ("left_ankle", "left_knee"), ("right_ankle", "right_knee"),
        ("spine3", "spine2"), ("left_foot", "left_ankle"), ("right_foot", "right_ankle"), ("neck", "spine3"),
        ("left_collar", "spine3"), ("right_collar", "spine3"), ("head", "neck"), ("left_shoulder", "left_collar"),
        ("right_shoulder", "right_collar"), ("left_elbow", "left_shoulder"), ("right_elbow", "right_shoulder"),
        ("left_wrist", "left_elbow"), ("right_wrist", "right_elbow"), ("left_hand", "left_wrist"),
        ("right_hand", "right_wrist"),
    ),
)  # fmt: skip

_LIMBS = tuple(
    (f"{side}_{end}", f"{side}_{start}")
    for side in ("right", "left")
    for end, start in (("knee", "hip"), ("ankle", "knee"), ("elbow", "shoulder"), ("wrist", "elbow"))
)

# Human3.6M's joints as the lifting networks use them. Its own names differ for three: the ankles are its "feet", the
# nose its "neck/nose" and the head's top its "head". Beside the bones, the hips and shoulders know the spine.
H36M17 = Skeleton(
    "H36M17",
    (
        "pelvis", "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "spine", "thorax",
        "nose", "head_top", "left_shoulder", "left_elbow", "left_wrist", "right_shoulder", "right_elbow", "right_wrist",
    ),
    (
        ("right_hip", "pelvis"), ("right_knee", "right_hip"), ("right_ankle", "right_knee"), ("left_hip", "pelvis"),
        ("left_knee", "left_hip"), ("left_ankle", "left_knee"), ("spine", "pelvis"), ("thorax", "spine"),
        ("nose", "thorax"), ("head_top", "nose"), ("left_shoulder", "thorax"), ("left_elbow", "left_shoulder"),
        ("left_wrist", "left_elbow"), ("right_shoulder", "thorax"), ("right_elbow", "right_shoulder"),
        ("right_wrist", "right_elbow"),
    ),
    (
        ("right_hip", "spine"), ("left_hip", "spine"), ("left_shoulder", "spine"), ("right_shoulder", "spine"),
    ),
)  # fmt: skip

# All rows of Human3.6M's own files; several lie on top of each other.
H36M32 = Skeleton(
    "H36M32",
    (
        "pelvis", "right_hip", "right_knee", "right_ankle", "right_foot", "right_toe", "left_hip", "left_knee",
        "left_ankle", "left_foot", "left_toe", "spine_base", "spine", "thorax", "nose", "head_top", "left_collar",
        "left_shoulder", "left_elbow", "left_wrist", "left_hand", "left_thumb", "left_finger", "left_fingertip",
        "right_collar", "right_shoulder", "right_elbow", "right_wrist", "right_hand", "right_thumb", "right_finger",
        "right_fingertip",
    ),
    H36M17.bone_names,
)  # fmt: skip


def _of_side(side, *pairs):
    """Pairs of joints, those of an arm, a leg or the head with their side."""
    middle = ("nose", "neck")
    return tuple(tuple(end if end in middle else f"{side}_{end}" for end in pair) for pair in pairs)


_LEG = (("neck", "hip"), ("hip", "knee"), ("knee", "ankle"))
_ARM = (("neck", "shoulder"), ("shoulder", "elbow"), ("elbow", "wrist"))
_HEAD = (("nose", "eye"), ("eye", "ear"))
_SHOULDER_TO_EAR = ("shoulder", "ear")

OPENPOSE18 = Skeleton(
    "OPENPOSE18",
    (
        "nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist",
        "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "right_eye", "left_eye",
        "right_ear", "left_ear",
    ),
    (
        ("right_shoulder", "neck"), ("left_shoulder", "neck"), ("right_hip", "neck"), ("left_hip", "neck"), *_LIMBS,
        ("nose", "neck"), ("right_eye", "nose"), ("left_eye", "nose"), ("right_ear", "right_eye"),
        ("left_ear", "left_eye"),
    ),
    limb_names=(
        *_of_side("right", *_LEG), *_of_side("left", *_LEG), *_of_side("right", *_ARM, _SHOULDER_TO_EAR),
        *_of_side("left", *_ARM, _SHOULDER_TO_EAR), ("neck", "nose"), ("nose", "right_eye"), ("nose", "left_eye"),
        ("right_eye", "right_ear"), ("left_eye", "left_ear"),
    ),
    grouping_names=(
        *_of_side("right", _ARM[0]), *_of_side("left", _ARM[0]), *_of_side("right", *_ARM[1:]),
        *_of_side("left", *_ARM[1:]), *_of_side("right", *_LEG), *_of_side("left", *_LEG), ("neck", "nose"),
        *_of_side("right", *_HEAD), *_of_side("left", *_HEAD), *_of_side("right", _SHOULDER_TO_EAR),
        *_of_side("left", _SHOULDER_TO_EAR),
    ),
)  # fmt: skip

# OpenPose's newer model; its pelvis is what it calls the mid hip.
BODY25 = Skeleton(
    "BODY25",
    (
        *OPENPOSE18.joints[:8], "pelvis", *OPENPOSE18.joints[8:], "left_big_toe", "left_small_toe", "left_heel",
        "right_big_toe", "right_small_toe", "right_heel",
    ),
    (
        ("pelvis", "neck"), ("right_hip", "pelvis"), ("left_hip", "pelvis"), ("right_shoulder", "neck"),
        ("left_shoulder", "neck"), *_LIMBS, ("nose", "neck"), ("right_eye", "nose"), ("left_eye", "nose"),
        ("right_ear", "right_eye"), ("left_ear", "left_eye"), ("left_big_toe", "left_ankle"),
        ("left_small_toe", "left_big_toe"), ("left_heel", "left_ankle"), ("right_big_toe", "right_ankle"),
        ("right_small_toe", "right_big_toe"), ("right_heel", "right_ankle"),
    ),
)  # fmt: skip

def _chains(root, fingers, parts):
    """Bones of fingers that begin at a root, each `finger_part` after the other."""
    return tuple(
        (f"{finger}_{part}", f"{finger}_{parts[index - 1]}" if index else root)
        for finger in fingers
        for index, part in enumerate(parts)
    )


_FINGERS = ("thumb", "index", "middle", "ring", "pinky")
_MSRA_BONES = _chains("wrist", (*_FINGERS[1:], "thumb"), ("mcp", "pip", "dip", "tip"))
_ICVL_BONES = _chains("palm", _FINGERS, ("root", "mid", "tip"))

MSRA21 = Skeleton("MSRA21", ("wrist", *(child for child, _ in _MSRA_BONES)), _MSRA_BONES)

ICVL16 = Skeleton("ICVL16", ("palm", *(child for child, _ in _ICVL_BONES)), _ICVL_BONES)

HANDS21 = Skeleton(
    "HANDS21",
    (
        "wrist", *(f"{finger}_mcp" for finger in _FINGERS),
        *(f"{finger}_{part}" for finger in _FINGERS for part in ("pip", "dip", "tip")),
    ),
    _chains("wrist", _FINGERS, ("mcp", "pip", "dip", "tip")),
)  # fmt: skip

# The 14 of NYU's 36 joints that are evaluated.
NYU14 = Skeleton(
    "NYU14",
    (
        *(f"{finger}_{part}" for finger in ("pinky", "ring", "middle", "index") for part in ("tip", "mid")),
        "thumb_tip", "thumb_mid", "thumb_root", "wrist_back", "wrist", "palm",
    ),
    (
        ("wrist", "palm"), ("wrist_back", "palm"), *_chains("palm", ("thumb",), ("root", "mid", "tip")),
        *_chains("palm", ("index", "middle", "ring", "pinky"), ("mid", "tip")),
    ),
)  # fmt: skip

ITOP15 = Skeleton(
    "ITOP15",
    (
        "head", "neck", "right_shoulder", "left_shoulder", "right_elbow", "left_elbow", "right_hand", "left_hand",
        "torso", "right_hip", "left_hip", "right_knee", "left_knee", "right_foot", "left_foot",
    ),
    (
        ("head", "neck"), ("right_shoulder", "neck"), ("right_elbow", "right_shoulder"), ("right_hand", "right_elbow"),
        ("left_shoulder", "neck"), ("left_elbow", "left_shoulder"), ("left_hand", "left_elbow"), ("torso", "neck"),
        ("right_hip", "torso"), ("right_knee", "right_hip"), ("right_foot", "right_knee"), ("left_hip", "torso"),
        ("left_knee", "left_hip"), ("left_foot", "left_knee"),
    ),
)  # fmt: skip

# Whole people, and what depth cameras are asked for: a number of joints tells a skeleton within each only.
DEPTH_SKELETONS = {skeleton.name: skeleton for skeleton in (MSRA21, ICVL16, NYU14, HANDS21, ITOP15)}
SKELETONS = {
    skeleton.name: skeleton
    for skeleton in (LSP14, COCO_PLUS19, COCO17, MPII16, SMPL24, H36M17, H36M32, OPENPOSE18, BODY25)
}
