"""Locally connected layer of a graph: every joint has weights of its own for each joint in its neighbourhood.

For inputs x `[batch, joints, in]`, a kernel W `[joints * in, joints * out]`, a mask M `[joints, joints]` (from, to) and
a bias c `[joints * out]`:

    y[b, j] = c[j] + s * sum over i of M[i, j] * x[b, i] @ W[i, j]
    s = max_norm / max(|W|, max_norm)

The norm is taken over the WHOLE kernel, blocks without a neighbour included. They do not reach the output, yet they
move in training: the gradient reaches them through the norm.

Three forms compute the product. "dense" multiplies by the masked kernel, zeros included. "by_joint" gathers, for every
joint, its neighbours and their blocks. "compiled" multiplies block by block in one op, with clip, mask and bias; two
more compute the gradients. Milliseconds of one layer of 17 joints, forward and backward, on two cores of a server
processor with AVX-512 (Human3.6M's skeleton; the better form is chosen):

    hops   blocks in use   in = out   batch   dense   by_joint   compiled
    1      20 %            64         200      8.2      3.8        2.5
    2      38 %            64         200      8.2      6.3        3.7
    3      61 %            64         200      8.3      8.7        5.3
    any    100 %           64         200      8.0     11.9        8.0
    1      20 %            64        1000     35       14         11
    3      61 %            64        1000     35       32         24
    any    100 %           64        1000     35       42         37
    1      20 %            128        200     37       18         12
    3      61 %            128        200     35       39         25
    any    100 %           128        200     34       53         37
    1      20 %            32         200      3.6      3.1        2.3
    3      61 %            32         200      3.5      5.7        3.0
    1      20 %            16         200      1.2      1.8        1.0
    any    100 %           16         200      1.2      2.4        1.4

So "compiled", where it exists, pays up to nine tenths of the blocks, and "by_joint", elsewhere, up to two fifths, if a
block is not tiny. The same holds of vectors of 32 bytes (AVX2; TensorFlow held to them, too). A library for any x86
processor (`--portable`) has 16, TensorFlow what the processor has; there "compiled" pays for tiny blocks alone, up to
two fifths of them, and else "by_joint" and "dense" are left:

    hops   blocks in use   in = out   vectors    dense   by_joint   compiled
    1      20 %            64         32 bytes    9.6      4.9        3.8
    3      61 %            64         32 bytes    9.6     10.1        6.9
    any    100 %           64         32 bytes    9.6     12.6       10.0
    1      20 %            128        16 bytes   37       17         22
    2      38 %            128        16 bytes   37       25         36
    1      20 %            32         16 bytes    3.0      1.6        1.9
    1      20 %            16         16 bytes    1.3      1.2        0.9
    2      38 %            16         16 bytes    1.3      1.4        1.2
    3      61 %            16         16 bytes    1.3      1.8        1.5

Beyond, one large matrix product runs near the processor's peak (206 of some 230 GFLOP/s here). On a GPU few large
products are better always. Tried and left out: one batched product of equally many neighbours a joint, padded (72
against 50 for 2 hops); a few large rectangles that cover the blocks (as fast as dense at 3 hops, for more code); XLA
(as fast or slower, and several times slower with dropout in the same program).

For N blocks in use, a pass takes N * batch * in * out multiplications and additions, three times that with the
gradients, and passes once over the kernel for its norm and once for its gradient. Beside its inputs and results, the
compiled form holds a copy of the inputs and, for every thread, the blocks of up to 32 columns of a joint; the others
hold the masked kernel or the gathered inputs until the gradients are computed.
"""

import numpy as np
import tensorflow as tf

from posekit.ops import native

FORMS = ("dense", "by_joint", "compiled")
# Where the other forms than "dense" win; see the table.
_MOST_BLOCKS, _SMALLEST_BLOCK = 0.4, 32 * 32
_MOST_BLOCKS_COMPILED = 0.9


def locally_connected(inputs, kernel, mask, bias=None, max_norm=None, support=None, form=None):
    """Locally connected product.

    Computes in the type of `inputs`; the norm, in that of the kernel.

    Args:
        inputs: `[batch, joints, in]`.
        kernel: `[joints * in, joints * out]`.
        mask: `[joints, joints]`: the weight of a block, from the joint of the row to the joint of the column.
        bias: `[joints * out]` or None.
        max_norm: Largest norm of the kernel as a whole: a longer one is scaled down. None leaves it, and so does
            infinity. At least the smallest normal number of the kernel's type. The compiled form knows norms up to
            1e154: of a kernel beyond, and in every form of an infinite one, the result is not a number.
        support: Boolean `[joints, joints]` NumPy array, false where the mask counts as 0 whatever it holds; None for
            true everywhere. Without `max_norm` these blocks of the kernel may hold anything, NaN too, and so may those
            where the mask itself is 0.
        form: `"dense"`, `"by_joint"` or `"compiled"` (float32 and float64 only, see `posekit.ops.native`); None for
            the fastest one.

    Returns:
        `[batch, joints, out]`. A feature that is not finite makes the joints that its joint is a neighbour of not
        finite; in the form `"dense"`, one large product, all joints of its pose.

    Raises:
        ValueError: If the shapes do not fit, `max_norm` is not positive or there is no such form here.

    Example:
        >>> x, kernel = tf.ones([1, 2, 1]), tf.constant([[3.0, 4.0], [5.0, 6.0]])
        >>> locally_connected(x, kernel, mask=[[1, 1], [0, 1]])[0, :, 0].numpy()
        array([ 3., 10.], dtype=float32)

    Follows: CHUNYUWANG/lcn-pose/network/models_att.py:cgcnn.mask_weights.
    """
    inputs, kernel = tf.convert_to_tensor(inputs), tf.convert_to_tensor(kernel)
    if not (inputs.dtype.is_floating and kernel.dtype.is_floating):
        raise ValueError(f"inputs are {inputs.dtype.name}, the kernel is {kernel.dtype.name}; cast both to float32.")
    with native.arrays_only("locally_connected", "give its support as an array"):
        support = None if support is None else np.asarray(support, bool)
    mask = tf.cast(mask, kernel.dtype)
    bias = tf.zeros(kernel.shape[1:], kernel.dtype) if bias is None else tf.cast(bias, kernel.dtype)
    _check(inputs.shape, kernel.shape, mask.shape, bias.shape, support, form)
    _check_max_norm(max_norm, kernel.dtype)
    if support is not None:
        mask = tf.where(support, mask, tf.zeros_like(mask))
    if max_norm is not None and max_norm >= float(kernel.dtype.max):
        max_norm = None
    joints, features = inputs.shape[1:]
    blocks = [joints, features, joints, kernel.shape[1] // joints]
    rows = tf.reshape(inputs, [-1, joints * features])
    compiled = _compiled_ops(inputs.dtype, kernel.dtype, support, blocks, form)
    if compiled is not None:
        product = _compiled_product(compiled, rows, kernel, mask, bias, max_norm, support)
        return tf.reshape(product, [-1, joints, blocks[3]])
    if (form or _faster_form(support, blocks)) == "by_joint":
        multiply = _by_joint(np.ones((joints, joints), bool) if support is None else support)
    else:
        multiply = _dense
    product = _product(rows, kernel, mask, bias, max_norm, blocks, multiply)
    return tf.reshape(product, [-1, joints, blocks[3]])


def _compiled_product(compiled, rows, kernel, mask, bias, max_norm, support):
    """The layer on `[batch, joints * in]`, by compiled ops."""
    support = np.ones(mask.shape, bool) if support is None else support
    limit = 0.0 if max_norm is None else float(max_norm)
    output, _ = compiled.posekit_locally_connected(rows, bias, kernel, mask, support, limit)
    output.set_shape([rows.shape[0], kernel.shape[1]])
    return output


@tf.RegisterGradient("PosekitLocallyConnected")
def _compiled_gradient(op, upstream, _):
    rows, bias, kernel, mask, support, limit = op.inputs
    compiled = native.ops()
    if compiled is None:  # switched off since
        of_rows, of_kernel, of_mask, of_bias = _plain_gradients(upstream, rows, kernel, mask, bias, limit)
    else:
        output, square = op.outputs
        layer = kernel, mask, support, limit
        of_rows = compiled.posekit_locally_connected_rows_grad(upstream, square, *layer)
        of_kernel, of_mask, of_bias = compiled.posekit_locally_connected_kernel_grad(
            upstream, square, rows, bias, output, *layer
        )
    results = of_rows, of_bias, of_kernel, of_mask
    for result, source in zip(results, op.inputs):
        result.set_shape(source.shape)
    return [*results, None, None]


# What compiled gradients compute is differentiated in the plain form. Its derivative by the kernel includes the way
# through the norm and the output, so none is left for those. A tape follows only what was made where it stands, which
# inputs of an op in a tf.cond or a loop are not: hence the identities.
@tf.RegisterGradient("PosekitLocallyConnectedRowsGrad")
def _second_gradient_of_rows(op, change):
    upstream, _, kernel, mask, _, limit = map(tf.identity, op.inputs)
    rows = tf.zeros([tf.shape(upstream)[0], kernel.shape[0]], kernel.dtype)
    with tf.GradientTape() as tape:
        tape.watch([upstream, kernel, mask])
        of_rows = _plain_gradients(upstream, rows, kernel, mask, tf.zeros_like(kernel[0]), limit)[0]
    of_upstream, of_kernel, of_mask = tape.gradient(of_rows, [upstream, kernel, mask], output_gradients=change)
    return [of_upstream, None, of_kernel, of_mask, None, None]


@tf.RegisterGradient("PosekitLocallyConnectedKernelGrad")
def _second_gradient_of_kernel(op, *changes):
    upstream, _, rows, bias, _, kernel, mask, _, limit = map(tf.identity, op.inputs)
    sources = [upstream, rows, kernel, mask, bias]
    with tf.GradientTape() as tape:
        tape.watch(sources)
        _, *found = _plain_gradients(*sources, limit)
    of_upstream, of_rows, of_kernel, of_mask, of_bias = tape.gradient(found, sources, output_gradients=changes)
    return [of_upstream, None, of_rows, of_bias, None, of_kernel, of_mask, None, None]


def _plain_gradients(upstream, rows, kernel, mask, bias, limit):
    """Gradients of rows, kernel, mask and bias; a `limit` of 0 is none."""
    joints, sources = mask.shape[0], [tf.identity(part) for part in (rows, kernel, mask, bias)]
    max_norm = tf.where(limit > 0, tf.cast(limit, kernel.dtype), kernel.dtype.max)
    with tf.GradientTape() as tape:
        tape.watch(sources)
        blocks = [joints, kernel.shape[0] // joints, joints, kernel.shape[1] // joints]
        output = _product(*sources, max_norm, blocks, _dense)
    return tape.gradient(output, sources, output_gradients=upstream)


def _compiled_ops(dtype, kernel_dtype, support, blocks, form):
    """The compiled ops, or None if another form is to be used."""
    if form not in (None, "compiled") or (form is None and (support is None or support.mean() > _MOST_BLOCKS_COMPILED)):
        return None
    fitting = dtype == kernel_dtype and dtype in (tf.float32, tf.float64)
    compiled = native.ops() if fitting else None
    if form == "compiled" and compiled is None:
        why = native.why_plain() if fitting else f"not for {dtype.name} inputs and {kernel_dtype.name} weights"
        raise ValueError(f"There is no compiled form here: {why}.")
    tiny_and_few = support is not None and _tiny(blocks) and support.mean() <= _MOST_BLOCKS
    if compiled is not None and form is None and not tiny_and_few and native.narrow_vectors():
        return None
    return compiled


def _product(rows, kernel, mask, bias, max_norm, blocks, multiply):
    """The layer on `[batch, joints * in]`, with its gradient in closed form.

    The scale s is one number, so its gradient is the sum of dy * (y - c) / s: a pass over the small output instead of
    passes over the large kernel. With n = |W| above the limit, ds/dW = -s * W / n ** 2. Beside the products, a training
    step passes over the kernel four times: for the norm, the mask, the gradient's mask and the shrinking.
    """
    # The gradient may be asked for outside of a tf.cond, where only what was made within is at hand.
    kernel, mask, bias = (tf.identity(part) for part in (kernel, mask, bias))

    @tf.custom_gradient
    def product(rows, kernel, mask, bias):
        scale, norm, square = _scale(kernel, max_norm)
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
                of_kernel -= tf.cond(
                    tf.math.is_inf(square),
                    lambda: (kernel / norm) * (along / norm),
                    lambda: kernel * tf.where(clipped, along / tf.where(clipped, square, 1), 0),
                )
                of_mask *= scale
            return of_rows, of_kernel, of_mask, of_bias

        return output, gradient

    return product(rows, kernel, mask, bias)


def _scale(kernel, max_norm):
    """The factor that clips the kernel's norm, the norm, and its square, which may be infinite where it is not."""
    if max_norm is None:
        return None, None, None
    square = 2 * tf.nn.l2_loss(kernel)
    norm = tf.cond(tf.math.is_inf(square), lambda: _norm_of_large(kernel), lambda: tf.sqrt(square))
    return max_norm / tf.maximum(norm, max_norm), norm, square


def _norm_of_large(kernel):
    """Of numbers whose squares overflow; not a number, if one of them is infinite."""
    largest = tf.reduce_max(tf.abs(kernel))
    norm = largest * tf.sqrt(2 * tf.nn.l2_loss(kernel / largest))
    return tf.where(tf.math.is_finite(largest), norm, np.nan)


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
    # What is not finite where there is no neighbour must not get in, nor out in the gradient.
    masked = tf.math.multiply_no_nan(blocks, factors)
    masked = tf.cast(tf.reshape(masked, [joints * features, joints * units]), rows.dtype)

    def backward(upstream):
        of_rows = tf.matmul(upstream, masked, transpose_b=True)
        of_masked = tf.reshape(tf.cast(tf.matmul(rows, upstream, transpose_a=True), blocks.dtype), blocks.shape)
        of_blocks = tf.math.multiply_no_nan(of_masked, factors)
        return of_rows, of_blocks, tf.reduce_sum(of_masked * blocks, axis=[1, 3])

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
            kernel = tf.cast(tf.math.multiply_no_nan(weights[joint], factor), rows.dtype)
            kernel = tf.reshape(kernel, [len(sources[joint]) * features, units])
            outputs.append(tf.matmul(seen[joint], kernel))

        def backward(upstream):
            changes, of_blocks, of_factors = tf.reshape(upstream, [-1, joints, units]), [], []
            for joint, change in enumerate(tf.unstack(changes, axis=1)):
                where = sources[joint][:, None]
                of_kernel = tf.cast(tf.matmul(seen[joint], change, transpose_a=True), blocks.dtype)
                of_kernel = tf.reshape(of_kernel, [len(where), features, units])
                factor = tf.gather(factors[:, joint], sources[joint])[:, tf.newaxis, tf.newaxis]
                of_block = tf.math.multiply_no_nan(of_kernel, factor)
                of_blocks.append(tf.scatter_nd(where, of_block, [joints, features, units]))
                of_factor = tf.reduce_sum(of_kernel * weights[joint], axis=[1, 2])
                of_factors.append(tf.scatter_nd(where, of_factor, [joints]))
            of_points = []
            for joint, out_of in enumerate(tf.unstack(blocks)):
                factor = tf.gather(factors[joint], targets[joint])[:, tf.newaxis]
                kernel = tf.math.multiply_no_nan(tf.gather(out_of, targets[joint], axis=1), factor)
                kernel = tf.cast(kernel, rows.dtype)
                kernel = tf.reshape(kernel, [features, len(targets[joint]) * units])
                of_points.append(tf.matmul(_side_by_side(changes, targets[joint]), kernel, transpose_b=True))
            return tf.concat(of_points, axis=1), tf.stack(of_blocks, axis=2), tf.stack(of_factors, axis=1)

        return tf.concat(outputs, axis=1), backward

    return multiply


def _side_by_side(points, joints):
    """Some joints of `[batch, joints, features]`, as `[batch, joints * features]`."""
    return tf.reshape(tf.gather(points, joints, axis=1), [tf.shape(points)[0], len(joints) * points.shape[2]])


def _tiny(blocks):
    return blocks[1] * blocks[3] < _SMALLEST_BLOCK


def _faster_form(support, blocks):
    # A GPU prefers few large products.
    if support is None or _tiny(blocks) or support.mean() > _MOST_BLOCKS or tf.config.list_physical_devices("GPU"):
        return "dense"
    return "by_joint"


def _check_max_norm(max_norm, dtype):
    smallest = float(np.finfo(dtype.as_numpy_dtype).tiny)
    if max_norm is not None and not max_norm >= smallest:
        raise ValueError(f"max_norm is {max_norm!r}; give a positive number, {smallest} or more, or None for no limit.")


def _check(inputs, kernel, mask, bias, support, form):
    if inputs.rank != 3 or inputs[1] is None or inputs[2] is None:
        raise ValueError(f"Inputs of shape {inputs} are not [batch, joints, in] with known joints and features.")
    joints, features = inputs[1:]
    if not joints or not features or (kernel.rank == 2 and kernel[1] == 0):
        raise ValueError(
            f"Inputs of shape {inputs} and a kernel of shape {kernel} leave nothing to compute; there must be a joint, "
            "a feature and a unit at least."
        )
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
    if form not in (None, *FORMS):
        raise ValueError(f"form is {form!r}; choose from {list(FORMS)}, or None for the faster one.")
