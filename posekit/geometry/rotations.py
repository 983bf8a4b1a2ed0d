"""Rotations and articulated chains: axis-angle vectors, rotation matrices, and the transforms of a skeleton.

Everything is batched over the leading axes and differentiable. Rotation matrices act on column vectors.
"""

import numpy as np
from keras import ops

# Added to every component of an axis-angle vector before its norm is taken: the norm then has a gradient at zero.
_NORM_SHIFT = 1e-8
# Keeps the norm away from zero where a component is exactly -_NORM_SHIFT; far below the rounding of the square of any
# other vector's norm.
_NORM_FLOOR = 1e-30

# Maps (x, y, z) to the row-major entries of the matrix of the cross product with (x, y, z).
_SKEW = np.array(
    [[0, 0, 0, 0, 0, -1, 0, 1, 0], [0, 0, 1, 0, 0, 0, -1, 0, 0], [0, -1, 0, 1, 0, 0, 0, 0, 0]],
    np.float32,
)


def skew(vectors):
    """Matrices of the cross product: `skew(v) @ w` is `v x w`.

    Args:
        vectors: `[..., 3]`.

    Returns:
        `[..., 3, 3]`.

    Follows: maxpit/human-pose-estimation/src/tf_smpl/batch_lbs.py:batch_skew.
    """
    vectors = ops.convert_to_tensor(vectors)
    entries = ops.matmul(vectors, ops.cast(_SKEW, vectors.dtype))
    return ops.reshape(entries, (*ops.shape(vectors)[:-1], 3, 3))


def axis_angle_to_matrix(axis_angle):
    """Rotation matrices of axis-angle vectors (Rodrigues' formula), with finite gradients everywhere.

    Args:
        axis_angle: `[..., 3]`, the rotation axis times the angle in radians.

    Returns:
        `[..., 3, 3]`.

    Example:
        >>> half_turn = axis_angle_to_matrix([0.0, 0.0, np.pi])
        >>> np.round(half_turn @ np.array([[1.0], [0.0], [5.0]], "float32"), 3).ravel()
        array([-1., -0.,  5.], dtype=float32)

    Follows: maxpit/human-pose-estimation/src/tf_smpl/batch_lbs.py:batch_rodrigues (the angle is the norm of the vector
    plus 1e-8).
    Differs: finite too where every component is exactly -1e-8.
    """
    axis_angle = ops.convert_to_tensor(axis_angle)
    squared = ops.sum(ops.square(axis_angle + _NORM_SHIFT), axis=-1, keepdims=True)
    angle = ops.sqrt(squared + _NORM_FLOOR)
    axis = axis_angle / angle
    angle = angle[..., None]
    cos = ops.cos(angle)
    outer = axis[..., :, None] * axis[..., None, :]
    identity = ops.eye(3, dtype=axis_angle.dtype)
    return cos * identity + (1.0 - cos) * outer + ops.sin(angle) * skew(axis)


def matrix_to_axis_angle(matrices):
    """Axis-angle vectors of rotation matrices; the inverse of `axis_angle_to_matrix`.

    Args:
        matrices: `[..., 3, 3]` rotation matrices.

    Returns:
        `[..., 3]` with an angle between 0 and pi radians. At pi the sign of the axis is arbitrary, and the gradient
        with respect to the matrix is that of one of the two signs.
    """
    matrices = ops.convert_to_tensor(matrices)
    m = [[matrices[..., row, column] for column in range(3)] for row in range(3)]
    # Row k of this symmetric table is the quaternion (w, x, y, z) times 4 times its k-th entry: the row with the
    # largest diagonal is the one that rounding harms least.
    w = (m[2][1] - m[1][2], m[0][2] - m[2][0], m[1][0] - m[0][1])
    xy, xz, yz = m[1][0] + m[0][1], m[0][2] + m[2][0], m[2][1] + m[1][2]
    diagonal = (
        1.0 + m[0][0] + m[1][1] + m[2][2],
        1.0 + m[0][0] - m[1][1] - m[2][2],
        1.0 - m[0][0] + m[1][1] - m[2][2],
        1.0 - m[0][0] - m[1][1] + m[2][2],
    )
    table = ops.stack(
        [
            ops.stack([diagonal[0], w[0], w[1], w[2]], axis=-1),
            ops.stack([w[0], diagonal[1], xy, xz], axis=-1),
            ops.stack([w[1], xy, diagonal[2], yz], axis=-1),
            ops.stack([w[2], xz, yz, diagonal[3]], axis=-1),
        ],
        axis=-2,
    )
    best = ops.one_hot(ops.argmax(ops.stack(diagonal, axis=-1), axis=-1), 4, dtype=table.dtype)
    quaternion = ops.sum(table * best[..., :, None], axis=-2)
    quaternion = ops.where(quaternion[..., :1] < 0, -quaternion, quaternion)
    real, vector = quaternion[..., :1], quaternion[..., 1:]
    # The norm of a zero vector part has no gradient: leave the identity to its series, angle = 2 |vector| / real.
    squared = ops.sum(ops.square(vector), axis=-1, keepdims=True)
    tiny = squared <= 1e-12 * ops.square(real)
    norm = ops.sqrt(ops.where(tiny, ops.ones_like(squared), squared))
    ratio = ops.where(tiny, 2.0 / ops.where(tiny, real, ops.ones_like(real)), 2.0 * ops.arctan2(norm, real) / norm)
    return ratio * vector


def pose_feature(rotations):
    """Input of the pose blend shapes: how far every joint but the root is turned from rest.

    Args:
        rotations: `[..., joints, 3, 3]`.

    Returns:
        `[..., 9 * (joints - 1)]`, the row-major entries of rotation minus identity.

    Follows: maxpit/human-pose-estimation/src/tf_smpl/batch_lbs.py:batch_lrotmin (which starts from axis-angle).
    """
    rotations = ops.convert_to_tensor(rotations)
    turned = rotations[..., 1:, :, :] - ops.eye(3, dtype=rotations.dtype)
    return ops.reshape(turned, (*ops.shape(rotations)[:-3], 9 * (rotations.shape[-3] - 1)))


def forward_kinematics(rotations, joints, parents):
    """Walks a skeleton from its root and turns every joint in its parent's frame.

    Joints of the same depth are handled together: the number of operations grows with the depth of the skeleton only.

    Args:
        rotations: `[batch, joints, 3, 3]`, of every joint relative to its parent.
        joints: `[batch, joints, 3]` rest positions.
        parents: Parent index of every joint, -1 for the root, which comes first.

    Returns:
        `[batch, joints, 3, 4]`: the rotation and, in the last column, the position of every posed joint.

    Raises:
        ValueError: If the parents do not form a tree rooted at joint 0.
    """
    levels, back = _levels(parents)
    rotations = ops.convert_to_tensor(rotations)
    joints = ops.cast(joints, rotations.dtype)
    walk = np.concatenate([children for children, _ in levels])
    above = np.maximum(np.asarray(parents, np.int32), 0)[walk]
    from_parent = ops.take(joints, walk, axis=1) - ops.take(joints, above, axis=1)
    # The root is measured from the origin, not from itself.
    from_parent = ops.concatenate([joints[:, :1], from_parent[:, 1:]], axis=1)
    local = ops.concatenate([ops.take(rotations, walk, axis=1), from_parent[..., None]], axis=-1)
    starts = np.cumsum([len(children) for children, _ in levels])
    frames = [local[:, :1]]
    if len(levels) > 1:
        homogeneous = _with_last_row(local)
        for step, (_, slots) in zip(ops.split(homogeneous, starts[:-1].tolist(), axis=1)[1:], levels[1:]):
            frame = frames[-1]
            if frame.shape[1] > 1 and not np.array_equal(slots, np.arange(frame.shape[1])):
                frame = ops.take(frame, slots, axis=1)
            frames.append(ops.matmul(frame, step))
    return ops.take(ops.concatenate(frames, axis=1), back, axis=1)


def rigid_transform_chain(rotations, joints, parents, rotate_base=False):
    """Posed joints, and the transforms that carry points from the rest pose into the pose.

    Args:
        rotations: `[batch, joints, 3, 3]`, of every joint relative to its parent.
        joints: `[batch, joints, 3]` rest positions.
        parents: Parent index of every joint, -1 for the root, which comes first.
        rotate_base: Turn the root half a turn about x as well, from y up to y down.

    Returns:
        `(new_joints, transforms)`: `[batch, joints, 3]` posed joints, and `[batch, joints, 4, 4]` homogeneous
        transforms relative to the rest pose.

    Raises:
        ValueError: If the parents do not form a tree rooted at joint 0.

    Follows: maxpit/human-pose-estimation/src/tf_smpl/batch_lbs.py:batch_global_rigid_transformation.
    """
    rotations = ops.convert_to_tensor(rotations)
    joints = ops.cast(joints, rotations.dtype)
    if rotate_base:
        flipped = rotations[:, :1] * ops.cast([1.0, -1.0, -1.0], rotations.dtype)
        rotations = ops.concatenate([flipped, rotations[:, 1:]], axis=1)
    frames = forward_kinematics(rotations, joints, parents)
    return frames[..., 3], _with_last_row(from_rest(frames, joints))


def from_rest(frames, joints):
    """Transforms that carry points from the rest pose into the frames of posed joints.

    Args:
        frames: `[batch, joints, 3, 4]`, as `forward_kinematics` gives them.
        joints: `[batch, joints, 3]` rest positions.

    Returns:
        `[batch, joints, 3, 4]`: rotation, and the translation left when the joint's rest position is taken off.
    """
    world = frames[..., :3]
    return ops.concatenate([world, frames[..., 3:] - ops.matmul(world, joints[..., None])], axis=-1)


def _with_last_row(transforms):
    """Completes `[..., 3, 4]` to `[..., 4, 4]`."""
    row = ops.cast([[0.0, 0.0, 0.0, 1.0]], transforms.dtype)
    return ops.concatenate([transforms, ops.broadcast_to(row, (*ops.shape(transforms)[:-2], 1, 4))], axis=-2)


def _levels(parents):
    """Joints by depth, each level as `(joints, slots of their parents in the level above)`, and the order back."""
    parents = [int(parent) for parent in parents]
    if not parents or parents[0] >= 0 or any(not 0 <= parent < child for child, parent in enumerate(parents) if child):
        raise ValueError(
            f"parents {parents} do not form a tree rooted at joint 0: give -1 for joint 0 and, for every other joint, "
            "the index of an earlier joint."
        )
    levels = [(np.zeros(1, np.int32), np.zeros(1, np.int32))]
    while True:
        above = levels[-1][0].tolist()
        children = [child for child, parent in enumerate(parents) if child and parent in above]
        if not children:
            break
        slots = [above.index(parents[child]) for child in children]
        levels.append((np.array(children, np.int32), np.array(slots, np.int32)))
    return levels, np.argsort(np.concatenate([children for children, _ in levels])).astype(np.int32)
