"""Gradient penalty of a Wasserstein critic (WGAN-GP), in the original's form and as published.

With interpolates x = c * real + (1 - c) * fake and g = gradient of the summed critic outputs with respect to x:

    mode="batch_mean"   sum over the critic's inputs i of (1 - |mean over the batch of g_i|_2)^2, c drawn per element
    mode="per_sample"   mean over the batch of (1 - |g of all inputs of the sample|_2)^2, c drawn per sample

`gradient_penalty` does everything. `interpolate` and `penalty_of_gradients` are its two halves, for training steps that
score real, fake and interpolated samples in one call of the critic.
"""

import tensorflow as tf

from posekit.ops.nearest_neighbors import safe_sqrt

MODES = ("batch_mean", "per_sample")


def gradient_penalty(critic, real, fake, mode="batch_mean", derive=None, coefficients=None, seed=None):
    """Penalty on critics whose gradient norm between real and fake samples differs from 1.

    Differentiable with respect to whatever the critic is made of: use it inside an outer `tf.GradientTape`.

    Args:
        critic: Callable from a list of tensors `[batch, ...]` to scores `[batch, outputs]` (or `[batch]`).
        real: List of tensors `[batch, ...]`, the independent inputs of real samples.
        fake: List of tensors of the same shapes.
        mode: `"batch_mean"` (the original) or `"per_sample"` (as published).
        derive: Callable from the list of interpolated tensors to the list that the critic takes, for inputs that are
            computed from others; without it the critic takes the interpolates themselves. In mode `"batch_mean"` each
            tensor of that list has a term, and the gradient of a tensor includes the way through what is derived from
            it. In mode `"per_sample"` the norm runs over the independent inputs.
        coefficients: List of interpolation coefficients that broadcast against `real`; drawn uniformly from [0, 1)
            where None.
        seed: `[2]` integer seed of the drawn coefficients; None draws from TensorFlow's global generator.

    Returns:
        Scalar penalty, without weight.

    Raises:
        ValueError: If `mode` is unknown or the lists differ in length.

    Example:
        >>> points = [tf.constant([[3.0, 4.0]])]
        >>> float(gradient_penalty(lambda x: 2.0 * x[0], points, points))   # |(2, 2)| = 2.83
        3.3431458

    Reference:
        Gulrajani et al., Improved Training of Wasserstein GANs, 2017.
        Follows: maxpit/human-pose-estimation:compute_gradient_penalty.
        Differs: gradient zero (not NaN) where a gradient vanishes.
    """
    check_mode(mode)
    points = interpolate(real, fake, mode, coefficients, seed)
    with tf.GradientTape() as tape:
        tape.watch(points)
        inputs = list(derive(points)) if derive else points
        total = tf.reduce_sum(critic(inputs))
    sources = inputs if mode == "batch_mean" else points
    gradients = tape.gradient(total, sources, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return penalty_of_gradients(gradients, mode)


def interpolate(real, fake, mode="batch_mean", coefficients=None, seed=None):
    """Draws points between real and fake samples.

    Args:
        real: List of tensors `[batch, ...]`; the coefficient 1 gives these.
        fake: List of tensors of the same shapes; the coefficient 0 gives these.
        mode: `"batch_mean"` draws a coefficient per element, `"per_sample"` one per sample, shared by all inputs.
        coefficients: List of coefficients that broadcast against `real`, instead of drawing.
        seed: `[2]` integer seed; None draws from TensorFlow's global generator.

    Returns:
        List of tensors shaped as `real`.

    Raises:
        ValueError: If `mode` is unknown or the lists differ in length.
    """
    check_mode(mode)
    if len(real) != len(fake) or not real or (coefficients is not None and len(coefficients) != len(real)):
        raise ValueError(
            f"{len(real)} real inputs, {len(fake)} fake inputs and "
            f"{'no' if coefficients is None else len(coefficients)} coefficients do not fit; give as many of each."
        )
    if coefficients is None:
        coefficients = _draw(real, mode, seed)
    return [tf.convert_to_tensor(b) + c * (tf.convert_to_tensor(a) - b) for a, b, c in zip(real, fake, coefficients)]


def penalty_of_gradients(gradients, mode="batch_mean"):
    """Turns the critic's gradients at interpolated samples into the penalty.

    Args:
        gradients: List of tensors `[batch, ...]`.
        mode: `"batch_mean"` or `"per_sample"`.

    Returns:
        Scalar. Its own gradient is zero, not NaN, where a norm is zero.

    Raises:
        ValueError: If `mode` is unknown.
    """
    check_mode(mode)
    if mode == "batch_mean":
        squares = [tf.reduce_sum(tf.square(tf.reduce_mean(gradient, axis=0))) for gradient in gradients]
        # All norms at once: as small as they are, each operation costs more than its numbers.
        return tf.reduce_sum(tf.square(1 - safe_sqrt(tf.stack(squares))))
    batch = tf.shape(gradients[0])[0]
    together = tf.concat([tf.reshape(gradient, [batch, -1]) for gradient in gradients], axis=1)
    return tf.reduce_mean(tf.square(1 - safe_sqrt(tf.reduce_sum(tf.square(together), axis=1))))


def check_mode(mode):
    """Refuses unknown modes.

    Args:
        mode: What was asked for.

    Raises:
        ValueError: If it is not one of `MODES`.
    """
    if mode not in MODES:
        raise ValueError(f"Gradient penalty mode {mode!r} is unknown; allowed are {list(MODES)}.")


def _draw(real, mode, seed):
    if seed is None:
        seed = tf.random.uniform([2], maxval=tf.int32.max, dtype=tf.int32)
    tensors = [tf.convert_to_tensor(tensor) for tensor in real]
    batch, dtype = tf.shape(tensors[0])[0], tensors[0].dtype
    if mode == "per_sample":
        drawn = tf.random.stateless_uniform([batch], seed, dtype=dtype)
        return [tf.reshape(drawn, [-1] + [1] * (tensor.shape.rank - 1)) for tensor in tensors]
    # One stream cut in pieces, so that no two inputs share their numbers.
    sizes = [tf.reduce_prod(tf.shape(tensor)[1:]) for tensor in tensors]
    drawn = tf.random.stateless_uniform([batch, tf.add_n(sizes)], seed, dtype=dtype)
    return [tf.reshape(part, tf.shape(tensor)) for part, tensor in zip(tf.split(drawn, sizes, axis=1), tensors)]
