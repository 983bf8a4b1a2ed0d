"""Losses on volumes of joints: squared differences of heatmaps, cross entropy of a softmax over voxels."""

import tensorflow as tf

_VOXELS = (1, 2, 3)


def heatmap_mse(y_true, y_pred):
    """Mean squared difference of heatmaps.

    Args:
        y_true: `[batch, x, y, z, joints]`.
        y_pred: The same.

    Returns:
        `[batch, joints]`; its mean is the original's loss, its `labelled_mean` leaves joints out.

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> float(heatmap_mse(tf.zeros([1, 4, 4, 4, 2]), tf.ones([1, 4, 4, 4, 2]) * 3)[0, 0])
        9.0
    """
    y_true, y_pred = _volumes(y_true, y_pred)
    return tf.reduce_mean(tf.math.squared_difference(y_true, y_pred), axis=_VOXELS)


def volumetric_cross_entropy(y_true, y_pred):
    """Cross entropy between weights of the voxels and the softmax over them.

    A joint without weights counts 0 and moves nothing.

    Args:
        y_true: `[batch, x, y, z, joints]` weights of the voxels, of sum 1 for each joint.
        y_pred: The same shape: scores before the softmax.

    Returns:
        `[batch, joints]`; its mean is the original's loss.

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> loss = volumetric_cross_entropy(tf.ones([1, 2, 2, 2, 1]) / 8, tf.zeros([1, 2, 2, 2, 1]))
        >>> print(f"{float(loss[0, 0]):.4f}")  # log 8
        2.0794

    Follows: dragonbook/V2V-PoseNet-pytorch integral-pose/loss.py:SoftmaxCrossEntropyWithLogits.
    """
    y_true, y_pred = _volumes(y_true, y_pred)
    # TensorFlow's own operation takes it that the weights sum to 1 and pushes joints that have none.
    log_softmax = y_pred - tf.reduce_logsumexp(y_pred, axis=_VOXELS, keepdims=True)
    return -tf.reduce_sum(y_true * log_softmax, axis=_VOXELS)


def mixed_loss(y_true, y_pred, heatmap_weight=0.5, valid=None):
    """Loss of the integral head: cross entropy of its volumes and absolute difference of its coordinates.

    For `compile`, the same in two parts: `loss={"heatmaps": volumetric_cross_entropy, "coordinates": "mae"}` with
    `loss_weights={"heatmaps": 0.5, "coordinates": 0.5}`.

    Args:
        y_true: Dict of `"heatmaps"`, `[batch, x, y, z, joints]` weights of sum 1, and `"coordinates"`,
            `[batch, joints, 3]` in voxels.
        y_pred: Dict of the same shapes, as `V2VPoseNet(head="integral")` returns it.
        heatmap_weight: Weight of the cross entropy, 0 to 1; the coordinates have the rest.
        valid: Bool `[batch, joints]`: which joints count, all if None. The truth of the others may be NaN.

    Returns:
        Scalar.

    Raises:
        ValueError: If the shapes do not fit or the weight is out of range.

    Follows: dragonbook/V2V-PoseNet-pytorch integral-pose/loss.py:MixedLoss.
    """
    if not 0 <= heatmap_weight <= 1:
        raise ValueError(f"heatmap_weight is {heatmap_weight!r}; give 0 to 1.")
    entropy = volumetric_cross_entropy(y_true["heatmaps"], y_pred["heatmaps"])
    coordinates = tf.convert_to_tensor(y_pred["coordinates"])
    truth = tf.cast(y_true["coordinates"], coordinates.dtype)
    if not truth.shape.is_compatible_with(coordinates.shape):
        raise ValueError(
            f"Coordinates of shapes {truth.shape} and {coordinates.shape} do not fit; both are [batch, joints, 3]."
        )
    if valid is not None:
        truth = tf.where(valid[..., None], truth, 0)  # NaN would pass through the gradient of what is masked later
    distance = tf.reduce_mean(tf.abs(truth - coordinates), -1)
    return heatmap_weight * labelled_mean(entropy, valid) + (1 - heatmap_weight) * labelled_mean(distance, valid)


def labelled_mean(values, valid=None):
    """Mean over the joints that are labelled.

    Args:
        values: `[batch, joints]`, such as `heatmap_mse` and `volumetric_cross_entropy` return.
        valid: Bool `[batch, joints]`: which joints count; all if None.

    Returns:
        Scalar; 0 if no joint counts.

    Example:
        >>> float(labelled_mean(tf.constant([[1.0, np.nan, 3.0]]), tf.constant([[True, False, True]])))
        2.0
    """
    if valid is None:
        return tf.reduce_mean(values)
    count = tf.reduce_sum(tf.cast(valid, values.dtype))
    return tf.reduce_sum(tf.where(valid, values, 0)) / tf.maximum(count, 1)


def _volumes(y_true, y_pred):
    y_pred = tf.convert_to_tensor(y_pred)
    y_true = tf.cast(y_true, y_pred.dtype)
    if not y_true.shape.is_compatible_with(y_pred.shape) or y_pred.shape.rank not in (5, None):
        raise ValueError(
            f"Volumes of shapes {y_true.shape} and {y_pred.shape} do not fit; both are [batch, x, y, z, joints]."
        )
    return y_true, y_pred
