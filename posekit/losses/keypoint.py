"""Keypoint losses: reprojected 2-D keypoints, and 3-D truth where a sample has it."""

import tensorflow as tf

from posekit.skeletons import LSP14

# The 3-D joints of a sample are compared relative to the middle of the hips.
_HIPS = [LSP14.index("right_hip"), LSP14.index("left_hip")]


def keypoint_reprojection_loss(y_true, y_pred):
    """Mean absolute difference over the coordinates of visible keypoints.

    Args:
        y_true: `[batch, keypoints, 3]`: x, y and the weight of each keypoint, usually its visibility 0 or 1. What
            stands at keypoints of weight 0 is never read, so it may be anything.
        y_pred: `[batch, keypoints, 2]` predicted x, y in the unit of `y_true`.

    Returns:
        Scalar: `sum(weight * |difference|) / (2 * number of keypoints with weight other than 0)`, and 0 where no
        keypoint counts.

    Example:
        >>> truth = tf.constant([[[0.0, 0.0, 1.0], [9.0, 9.0, 0.0]]])
        >>> float(keypoint_reprojection_loss(truth, tf.constant([[[1.0, 2.0], [0.0, 0.0]]])))
        1.5

    Follows: maxpit/human-pose-estimation:kp_reprojection_loss (weights average over nonzero entries).
    Differs: unseen keypoints may be NaN.
    """
    y_pred = tf.convert_to_tensor(y_pred)
    y_true = tf.cast(y_true, y_pred.dtype)
    if y_true.shape[-1] != 3 or y_pred.shape[-1] != 2 or not y_true.shape[:-1].is_compatible_with(y_pred.shape[:-1]):
        raise ValueError(
            f"y_true of shape {y_true.shape} and y_pred of shape {y_pred.shape} do not fit; they must be "
            "[batch, keypoints, 3] with x, y, visible and [batch, keypoints, 2]."
        )
    return _mean_where_weighted(tf.abs, y_true[..., :2] - y_pred, y_true[..., 2:])


def loss_3d(rotations_true, rotations_pred, shape_true, shape_pred, has_3d, joints_true, joints_pred, has_joints3d):
    """Loss against 3-D truth, for the samples that have it.

    Half the mean squared difference of joint rotations and shape, taken together, plus half that of the joints,
    measured from the middle of the hips.

    Args:
        rotations_true: `[batch, joints, 3, 3]` rotation matrices.
        rotations_pred: The same.
        shape_true: `[batch, num_shape]` shape coefficients.
        shape_pred: The same.
        has_3d: `[batch]` 1 where rotations and shape are known, else 0.
        joints_true: `[batch, 14, 3]` metres, in the order of `LSP14`.
        joints_pred: `[batch, at least 14, 3]` metres; further keypoints are ignored.
        has_joints3d: `[batch]` 1 where the joints are known, else 0.

    Returns:
        Scalar, 0 where no sample has 3-D truth.

    Follows: akanazawa/hmr:src/trainer.py:get_3d_loss and src/ops.py:compute_3d_loss.
    """
    dtype = rotations_pred.dtype

    def flat(rotations, shape):
        rotations = tf.cast(rotations, dtype)
        rotations = tf.reshape(rotations, [tf.shape(rotations)[0], rotations.shape[1] * 9])
        return tf.concat([rotations, tf.cast(shape, dtype)], axis=1)

    def from_hips(joints):
        joints = tf.cast(joints, dtype)[:, : LSP14.num_joints]
        return joints - tf.reduce_mean(tf.gather(joints, _HIPS, axis=1), axis=1, keepdims=True)

    parameters = flat(rotations_true, shape_true) - flat(rotations_pred, shape_pred)
    joints = from_hips(joints_true) - from_hips(joints_pred)
    of_parameters = _mean_where_weighted(tf.square, parameters, tf.cast(has_3d, dtype)[:, tf.newaxis])
    of_joints = _mean_where_weighted(tf.square, joints, tf.cast(has_joints3d, dtype)[:, tf.newaxis, tf.newaxis])
    return 0.5 * of_parameters + 0.5 * of_joints


def _mean_where_weighted(measure, differences, weights):
    """Weighted sum of `measure(differences)` over the number of entries whose weight is not 0."""
    counted = tf.broadcast_to(tf.not_equal(weights, 0), tf.shape(differences))
    values = weights * measure(tf.where(counted, differences, tf.zeros_like(differences)))
    count = tf.math.count_nonzero(counted, dtype=tf.int32)
    return tf.math.divide_no_nan(tf.reduce_sum(values), tf.cast(count, values.dtype))
