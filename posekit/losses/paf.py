"""Losses of maps that several stages predict, part affinity fields and heatmaps, with a mask of places that count."""

import tensorflow as tf

# Branches of a stage, by the ends of its outputs' names, and the labels that belong to them.
_BRANCHES = {"L1": "pafs", "L2": "heatmaps"}


def masked_map_loss(y_true, y_pred, mask=None, mask_labels=True):
    """Half the sum of squared differences of maps, where a mask lets them count.

    Args:
        y_true: `[batch, height, width, channels]` labels.
        y_pred: The same shape.
        mask: `[batch, height, width, 1]`, 1 where maps count, 0 where people are that nobody labelled; None for all.
        mask_labels: Whether labels are masked too. The original's training graph masks predictions alone, and then
            labels in masked places add what no prediction can change, unless they are masked beforehand.

    Returns:
        `[batch]`; its mean is the original's loss.

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> loss = masked_map_loss(tf.zeros([1, 2, 2, 3]), tf.ones([1, 2, 2, 3]), tf.constant([[[[1.0], [0]]] * 2]))
        >>> float(loss[0])  # six values of four places count
        3.0

    Follows: michalfaber/keras_Realtime_Multi-Person_Pose_Estimation training/train_pose.py:get_loss_funcs,
    model/cmu_model.py:apply_mask.
    """
    y_pred = tf.convert_to_tensor(y_pred)
    y_true = tf.cast(y_true, y_pred.dtype)
    if not y_true.shape.is_compatible_with(y_pred.shape) or y_pred.shape.rank not in (4, None):
        raise ValueError(
            f"Maps of shapes {y_true.shape} and {y_pred.shape} do not fit; both are [batch, height, width, channels]."
        )
    if mask is not None:
        mask = tf.cast(mask, y_pred.dtype)
        if not mask.shape.is_compatible_with([*y_pred.shape[:3], 1]):
            raise ValueError(
                f"A mask of shape {mask.shape} does not fit maps of shape {y_pred.shape}; it has one channel."
            )
        y_pred = y_pred * mask
        y_true = y_true * mask if mask_labels else y_true
    return 0.5 * tf.reduce_sum(tf.math.squared_difference(y_true, y_pred), axis=(1, 2, 3))


def stage_losses(labels, stages, mask=None, mask_labels=True, batch_size=None):
    """The losses of all maps of all stages.

    Args:
        labels: Dict of `"pafs"` and `"heatmaps"`, `[batch, height, width, channels]`.
        stages: Dict of `"stage1_L1"` (part affinity fields), `"stage1_L2"` (heatmaps) and so on, as `OpenPose` gives
            with `outputs="all"`.
        mask: As of `masked_map_loss`.
        mask_labels: As of `masked_map_loss`.
        batch_size: What sums over the batch are divided by; None for the batch's own size. The original always divides
            by the 10 that it trains with.

    Returns:
        Dict of scalars by the same names; their sum, and that of `model.losses`, is what the original minimises.

    Raises:
        ValueError: If the shapes do not fit.

    Follows: michalfaber/keras_Realtime_Multi-Person_Pose_Estimation training/train_pose.py.
    """
    losses = {}
    for name, maps in stages.items():
        kind = _BRANCHES[name.rpartition("_")[2]]
        each = masked_map_loss(labels[kind], maps, mask, mask_labels)
        losses[name] = tf.reduce_sum(each) / batch_size if batch_size else tf.reduce_mean(each)
    return losses
