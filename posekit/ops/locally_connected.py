"""Locally connected layer of a graph: every joint has weights of its own for each joint in its neighbourhood.

For inputs x `[batch, joints, in]`, a kernel W `[joints * in, joints * out]`, a mask M `[joints, joints]` (from, to) and
a bias c `[joints * out]`:

    y[b, j] = c[j] + s * sum over i of M[i, j] * x[b, i] @ W[i, j]
    s = max_norm / max(|W|, max_norm)

The norm is taken over the WHOLE kernel, blocks without a neighbour included. They do not reach the output, yet they
move in training: the gradient reaches them through the norm.

Two forms compute the product. "dense" multiplies by the masked kernel, zeros included. "by_joint" gathers, for every
joint, its neighbours and their blocks. Milliseconds of 6 layers of 17 joints, forward and backward, on two cores of a
server processor with AVX-512 (Human3.6M's skeleton; the better form is chosen):

    hops   blocks in use   in = out   batch   dense   by_joint
    1      20 %            64         200      46       21
    1      20 %            64          32      15       10
    1      20 %            128        200     184       79
    1      20 %            32         200      13.7      9.4
    1      20 %            16         200       3.2      3.5
    2      38 %            64         200      50       36
    2      38 %            64        1000     204      127
    2      38 %            32         200      12.1     11.2
    3      61 %            64         200      50       65

So "by_joint" pays up to two fifths of the blocks, if a block is not tiny. Beyond, one large matrix product, which runs
near the processor's peak (206 of some 230 GFLOP/s here), beats many small ones and the copies of their operands. Tried
and left out: one batched product of equally many neighbours a joint, padded (72 against 50 for 2
hops); a few large rectangles that cover the blocks (as fast as dense at 3 hops, for more code); XLA (as fast or
slower, and several times slower with dropout in the same program).
"""

import numpy as np
import tensorflow as tf

FORMS = ("dense", "by_joint")
# Where "by_joint" wins; see the table.
_MOST_BLOCKS, _SMALLEST_BLOCK = 0.4, 32 * 32


def locally_connected(inputs, kernel, mask, bias=None, max_norm=None, support=None, form=None):
    """Locally connected product.

    Computes in the type of `inputs`; the norm, in that of the kernel.

    Args:
        inputs: `[batch, joints, in]`.
        kernel: `[joints * in, joints * out]`.
        mask: `[joints, joints]`: the weight of a block, from the joint of the row to the joint of the column.
        bias: `[joints * out]` or None.
        max_norm: Largest norm of the kernel as a whole: a longer one is scaled down. None leaves it.
        support: Boolean `[joints, joints]` NumPy array, false where the mask counts as 0 whatever it holds; None for
            true everywhere.
        form: `"dense"` or `"by_joint"`; None for the faster one.

    Returns:
        `[batch, joints, out]`.

    Raises:
        ValueError: If the shapes do not fit, `max_norm` is not positive or there is no such form.

    Example:
        >>> x, kernel = tf.ones([1, 2, 1]), tf.constant([[3.0, 4.0], [5.0, 6.0]])
        >>> locally_connected(x, kernel, mask=[[1, 1], [0, 1]])[0, :, 0].numpy()
        array([ 3., 10.], dtype=float32)

    Follows: CHUNYUWANG/lcn-pose/network/models_att.py:cgcnn.mask_weights.
    """
    inputs, kernel = tf.convert_to_tensor(inputs), tf.convert_to_tensor(kernel)
    mask = tf.cast(mask, kernel.dtype)
    bias = tf.zeros(kernel.shape[1:], kernel.dtype) if bias is None else tf.cast(bias, kernel.dtype)
    _check(inputs.shape, kernel.shape, mask.shape, bias.shape, support, max_norm, form)
    if support is not None:
        mask = tf.where(support, mask, tf.zeros_like(mask))
    joints, features = inputs.shape[1:]
    blocks = [joints, features, joints, kernel.shape[1] // joints]
    if (form or _faster_form(support, blocks)) == "by_joint":
        multiply = _by_joint(np.ones((joints, joints), bool) if support is None else support)
    else:
        multiply = _dense
    product = _product(tf.reshape(inputs, [-1, joints * features]), kernel, mask, bias, max_norm, blocks, multiply)
    return tf.reshape(product, [-1, joints, blocks[3]])


def _product(rows, kernel, mask, bias, max_norm, blocks, multiply):
    """The layer on `[batch, joints * in]`, with its gradient in closed form.

    The scale s is one number, so its gradient is the sum of dy * (y - c) / s: a pass over the small output instead of
    passes over the large kernel. With n = |W| above the limit, ds/dW = -s * W / n ** 2. Beside the products, a training
    step passes over the kernel four times: for the norm, the mask, the gradient's mask and the shrinking.
    """

    @tf.custom_gradient
    def product(rows, kernel, mask, bias):
        scale, square = _scale(kernel, max_norm)
        factors = mask if scale is None else mask * scale
        output, backward = multiply(rows, tf.reshape(kernel, blocks), factors)
        output = tf.nn.bias_add(output, tf.cast(bias, rows.dtype))

        def gradient(upstream):
            of_rows, of_blocks, of_factors = backward(upstream)
            of_kernel, of_mask = tf.reshape(of_blocks, kernel.shape), of_factors
            upstream = tf.cast(upstream, kernel.dtype)
            of_bias = tf.reduce_sum(upstream, axis=0)
            if scale is not None:
                along = tf.reduce_sum(upstream * tf.cast(output, kernel.dtype)) - tf.reduce_sum(of_bias * bias)
                clipped = square > max_norm**2
                of_kernel -= kernel * tf.where(clipped, along / tf.where(clipped, square, 1), 0)
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


def _dense(rows, blocks, factors):
    """One product with the whole kernel.

    Args:
        rows: `[batch, joints * in]`.
        blocks: `[joints, in, joints, out]`.
        factors: `[joints, joints]`, what blocks are multiplied by.

    Returns:
        The product `[batch, joints * out]`, and a function from its gradient to those of the three arguments; what
        comes for `blocks` is complete, with `factors`.
    """
    joints, features, _, units = blocks.shape
    factors = factors[:, tf.newaxis, :, tf.newaxis]
    masked = tf.cast(tf.reshape(blocks * factors, [joints * features, joints * units]), rows.dtype)

    def backward(upstream):
        of_rows = tf.matmul(upstream, masked, transpose_b=True)
        of_masked = tf.reshape(tf.cast(tf.matmul(rows, upstream, transpose_a=True), blocks.dtype), blocks.shape)
        return of_rows, of_masked * factors, tf.reduce_sum(of_masked * blocks, axis=[1, 3])

    return tf.matmul(rows, masked), backward


def _by_joint(support):
    """One product a joint, with its neighbours alone; see `_dense` for what comes back."""
    sources = [column.nonzero()[0] for column in support.T]
    targets = [row.nonzero()[0] for row in support]

    def multiply(rows, blocks, factors):
        joints, features, _, units = blocks.shape
        points = tf.reshape(rows, [-1, joints, features])
        seen, weights, outputs = [], [], []
        for joint, into in enumerate(tf.unstack(blocks, axis=2)):
            seen.append(_side_by_side(points, sources[joint]))
            weights.append(tf.gather(into, sources[joint]))
            factor = tf.gather(factors[:, joint], sources[joint])[:, tf.newaxis, tf.newaxis]
            kernel = tf.cast(weights[joint] * factor, rows.dtype)
            kernel = tf.reshape(kernel, [len(sources[joint]) * features, units])
            outputs.append(tf.matmul(seen[joint], kernel))

        def backward(upstream):
            changes, of_blocks, of_factors = tf.reshape(upstream, [-1, joints, units]), [], []
            for joint, change in enumerate(tf.unstack(changes, axis=1)):
                where = sources[joint][:, None]
                of_kernel = tf.cast(tf.matmul(seen[joint], change, transpose_a=True), blocks.dtype)
                of_kernel = tf.reshape(of_kernel, [len(where), features, units])
                factor = tf.gather(factors[:, joint], sources[joint])[:, tf.newaxis, tf.newaxis]
                of_blocks.append(tf.scatter_nd(where, of_kernel * factor, [joints, features, units]))
                of_factor = tf.reduce_sum(of_kernel * weights[joint], axis=[1, 2])
                of_factors.append(tf.scatter_nd(where, of_factor, [joints]))
            of_points = []
            for joint, out_of in enumerate(tf.unstack(blocks)):
                factor = tf.gather(factors[joint], targets[joint])[:, tf.newaxis]
                kernel = tf.cast(tf.gather(out_of, targets[joint], axis=1) * factor, rows.dtype)
                kernel = tf.reshape(kernel, [features, len(targets[joint]) * units])
                of_points.append(tf.matmul(_side_by_side(changes, targets[joint]), kernel, transpose_b=True))
            return tf.concat(of_points, axis=1), tf.stack(of_blocks, axis=2), tf.stack(of_factors, axis=1)

        return tf.concat(outputs, axis=1), backward

    return multiply


def _side_by_side(points, joints):
    """Some joints of `[batch, joints, features]`, as `[batch, joints * features]`."""
    return tf.reshape(tf.gather(points, joints, axis=1), [tf.shape(points)[0], len(joints) * points.shape[2]])


def _faster_form(support, blocks):
    tiny = blocks[1] * blocks[3] < _SMALLEST_BLOCK
    # A GPU prefers few large products.
    if support is None or tiny or support.mean() > _MOST_BLOCKS or tf.config.list_physical_devices("GPU"):
        return "dense"
    return "by_joint"


def _check(inputs, kernel, mask, bias, support, max_norm, form):
    if inputs.rank != 3 or inputs[1] is None or inputs[2] is None:
        raise ValueError(f"Inputs of shape {inputs} are not [batch, joints, in] with known joints and features.")
    joints, features = inputs[1:]
    for name, shape in (("mask", mask), ("support", mask if support is None else support.shape)):
        if tuple(shape) != (joints, joints):
            raise ValueError(f"The {name} has the shape {shape}; inputs of {joints} joints need ({joints}, {joints}).")
    if kernel.rank != 2 or kernel[0] != joints * features or kernel[1] % joints:
        raise ValueError(
            f"The kernel has the shape {kernel}; inputs of {joints} joints with {features} features need "
            f"({joints * features}, a multiple of {joints})."
        )
    if tuple(bias) != (kernel[1],):
        raise ValueError(f"The bias has the shape {bias}; the kernel needs ({kernel[1]},).")
    if max_norm is not None and not max_norm > 0:
        raise ValueError(f"max_norm is {max_norm!r}; give a positive number, or None for no limit.")
    if form not in (None, *FORMS):
        raise ValueError(f"form is {form!r}; choose from {list(FORMS)}, or None for the faster one.")
