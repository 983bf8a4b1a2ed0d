"""Locally connected layer of a graph: every joint has weights of its own for each joint in its neighbourhood.

For inputs x `[batch, joints, in]`, a kernel W `[joints * in, joints * out]`, a mask M `[joints, joints]` (from, to) and
a bias c `[joints * out]`:

    y[b, j] = c[j] + s * sum over i of M[i, j] * x[b, i] @ W[i, j]
    s = max_norm / max(|W|, max_norm)

The norm is taken over the WHOLE kernel, blocks without a neighbour included. They do not reach the output, yet they
move in training: the gradient reaches them through the norm.
"""

import tensorflow as tf


def locally_connected(inputs, kernel, mask, bias=None, max_norm=None):
    """Locally connected product.

    Computes in the type of `inputs`; the norm, in that of the kernel.

    Args:
        inputs: `[batch, joints, in]`.
        kernel: `[joints * in, joints * out]`.
        mask: `[joints, joints]`: the weight of a block, from the joint of the row to the joint of the column.
        bias: `[joints * out]` or None.
        max_norm: Largest norm of the kernel as a whole: a longer one is scaled down. None leaves it.

    Returns:
        `[batch, joints, out]`.

    Raises:
        ValueError: If the shapes do not fit, or `max_norm` is not positive.

    Follows: CHUNYUWANG/lcn-pose/network/models_att.py:cgcnn.mask_weights.
    """
    inputs, kernel = tf.convert_to_tensor(inputs), tf.convert_to_tensor(kernel)
    mask = tf.cast(mask, kernel.dtype)
    bias = tf.zeros(kernel.shape[1:], kernel.dtype) if bias is None else tf.cast(bias, kernel.dtype)
    _check(inputs.shape, kernel.shape, mask.shape, bias.shape, max_norm)
    joints, features = inputs.shape[1:]
    product = _masked_product(tf.reshape(inputs, [-1, joints * features]), kernel, mask, bias, max_norm)
    return tf.reshape(product, [-1, joints, kernel.shape[1] // joints])


def _masked_product(rows, kernel, mask, bias, max_norm):
    """The layer on `[batch, joints * in]`, with its gradient in closed form.

    The scale s is one number, so its gradient is the sum of dy * (y - c) / s: a pass over the small output instead of
    passes over the large kernel. With n = |W| above the limit, ds/dW = -s * W / n ** 2.
    """
    joints = mask.shape[0]
    blocks = [joints, kernel.shape[0] // joints, joints, kernel.shape[1] // joints]

    @tf.custom_gradient
    def product(rows, kernel, mask, bias):
        scale, square = _scale(kernel, max_norm)
        factors = tf.reshape(mask if scale is None else mask * scale, [joints, 1, joints, 1])
        masked = tf.cast(tf.reshape(tf.reshape(kernel, blocks) * factors, kernel.shape), rows.dtype)
        output = tf.nn.bias_add(tf.matmul(rows, masked), tf.cast(bias, rows.dtype))

        def gradient(upstream):
            of_rows = tf.matmul(upstream, masked, transpose_b=True)
            of_blocks = tf.reshape(tf.cast(tf.matmul(rows, upstream, transpose_a=True), kernel.dtype), blocks)
            of_kernel = tf.reshape(of_blocks * factors, kernel.shape)
            of_bias = tf.reduce_sum(tf.cast(upstream, kernel.dtype), axis=0)
            of_mask = tf.reduce_sum(of_blocks * tf.reshape(kernel, blocks), axis=[1, 3])
            if scale is not None:
                along = tf.reduce_sum(tf.cast(upstream, kernel.dtype) * (tf.cast(output, kernel.dtype) - bias))
                clipped = square > max_norm**2
                shrink = tf.where(clipped, along / tf.where(clipped, square, 1), 0)
                of_kernel -= kernel * shrink
                of_mask *= scale
            return of_rows, of_kernel, of_mask, of_bias

        return output, gradient

    return product(rows, kernel, mask, bias)


def _scale(kernel, max_norm):
    """The factor that clips the kernel's norm, and the squared norm."""
    if max_norm is None:
        return None, None
    square = 2 * tf.nn.l2_loss(kernel)
    return max_norm / tf.maximum(tf.sqrt(square), max_norm), square


def _check(inputs, kernel, mask, bias, max_norm):
    if inputs.rank != 3 or inputs[1] is None or inputs[2] is None:
        raise ValueError(f"Inputs of shape {inputs} are not [batch, joints, in] with known joints and features.")
    joints, features = inputs[1:]
    if tuple(mask) != (joints, joints):
        raise ValueError(f"The mask has the shape {mask}; inputs of {joints} joints need ({joints}, {joints}).")
    if kernel.rank != 2 or kernel[0] != joints * features or kernel[1] % joints:
        raise ValueError(
            f"The kernel has the shape {kernel}; inputs of {joints} joints with {features} features need "
            f"({joints * features}, a multiple of {joints})."
        )
    if tuple(bias) != (kernel[1],):
        raise ValueError(f"The bias has the shape {bias}; the kernel needs ({kernel[1]},).")
    if max_norm is not None and not max_norm > 0:
        raise ValueError(f"max_norm is {max_norm!r}; give a positive number, or None for no limit.")
