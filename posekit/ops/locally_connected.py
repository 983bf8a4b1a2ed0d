"""Locally connected layer of a graph: every joint has weights of its own for each joint in its neighbourhood.

For inputs x `[batch, joints, in]`, a kernel W `[joints * in, joints * out]` and a mask M `[joints, joints]` (from, to):

    y[b, j, :] = bias[j, :] + sum over i of M[i, j] * x[b, i, :] @ C[i, :, j, :]
    C = W * max_norm / max(|W|, max_norm)

The norm is taken over the WHOLE kernel, blocks without a neighbour included. They do not reach the output, yet they
move in training: the gradient reaches them through the norm.
"""

import tensorflow as tf


def locally_connected(inputs, kernel, mask, bias=None, max_norm=None):
    """Locally connected product.

    Args:
        inputs: `[batch, joints, in]`.
        kernel: `[joints * in, joints * out]`.
        mask: `[joints, joints]`: the weight of a block, from the joint of the row to the joint of the column.
        bias: `[joints * out]` or None.
        max_norm: Largest norm of the kernel as a whole; None leaves it.

    Returns:
        `[batch, joints, out]`.

    Follows: CHUNYUWANG/lcn-pose/network/models_att.py:cgcnn.mask_weights.
    """
    inputs, kernel = tf.convert_to_tensor(inputs), tf.convert_to_tensor(kernel)
    joints = inputs.shape[1]
    features, units = kernel.shape[0] // joints, kernel.shape[1] // joints
    if max_norm is not None:
        kernel = tf.clip_by_norm(kernel, max_norm)
    masked = tf.reshape(kernel, [joints, features, joints, units]) * tf.reshape(mask, [joints, 1, joints, 1])
    product = tf.matmul(tf.reshape(inputs, [-1, joints * features]), tf.reshape(masked, [joints * features, -1]))
    if bias is not None:
        product += bias
    return tf.reshape(product, [-1, joints, units])
