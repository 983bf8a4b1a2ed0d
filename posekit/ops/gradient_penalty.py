"""Gradient penalty of a Wasserstein critic (WGAN-GP), in the original's form and as published.

With interpolates x = c * real + (1 - c) * fake and g = gradient of the summed critic outputs with respect to x:

    mode="batch_mean"   sum over the critic's inputs i of (1 - |mean over the batch of g_i|_2)^2, c drawn per element
    mode="per_sample"   mean over the batch of (1 - |g of all inputs of the sample|_2)^2, c drawn per sample

`gradient_penalty` does everything. `interpolate` and `penalty_of_gradients` are its two halves, for training steps that
score real, fake and interpolated samples in one call of the critic.

A critic of dense layers and leaky rectifiers, h = x W + c and max(h, slope * h), is piecewise linear: which pieces x is
on, D, is known after one pass forward, and g = W1 D1 W2 D2 ... is a product of matrices. Its derivative by W1 is an
outer product of what comes from behind, D1 W2 D2 ..., and of the penalty's derivative by g, which goes through the same
layers forward. Biases only move the borders of the pieces: they have no gradient. Keras models of such layers are
recognised (`piecewise_linear.py`) and need no tape within a tape.

The compiled form is two ops: a pass forward and one backward give the value, another one forward and the outer products
the gradients, each of one multiplication and addition for every sample and weight. Not all of it is done sample by
sample: behind the last rectifiers gradients are the same for all, and so is, in "batch_mean", what comes through the
first layers, which are the widest. From the first op to the second two numbers are kept for each sample and unit of the
critic. Milliseconds for value and weight gradients of HMR's critic, within a `tf.function`, on two cores of a server
processor with AVX-512:

    samples   mode         nested tapes   closed form   compiled
    24        batch_mean   1.2            1.2           0.26
    24        per_sample   1.2            1.1           0.36
    128       batch_mean   2.9            2.4           0.75
    128       per_sample   2.8            2.3           1.3
"""

import numpy as np
import tensorflow as tf

from posekit.ops import native
from posekit.ops.nearest_neighbors import safe_sqrt
from posekit.ops.piecewise_linear import PiecewiseLinear, read_model

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
            it. In mode `"per_sample"` the norm runs over the independent inputs. `BoneProducts` is one that the
            compiled form knows.
        coefficients: List of interpolation coefficients that broadcast against `real`; drawn uniformly from [0, 1)
            where None.
        seed: `[2]` integer seed of the drawn coefficients; None draws from TensorFlow's global generator.

    Returns:
        Scalar penalty, without weight. Biases move the borders between a critic's pieces alone: where it is recognised
        as piecewise linear, their gradients are None, else zeros.

    Raises:
        ValueError: If `mode` is unknown, the lists differ in length, or tensors do not fit or are not of real numbers.
        tf.errors.InvalidArgumentError: If shapes do not fit that are known only when a graph runs.

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
    real, fake = _pairs(real, fake, coefficients)
    coefficients = _fitting(_draw(real, mode, seed) if coefficients is None else coefficients, real)
    model = read_model(critic, real[0].dtype)
    if model is None or not _fits(model, real, derive):
        return _nested_penalty(critic, real, fake, mode, derive, coefficients)
    if derive is not None and type(derive) is not BoneProducts:
        return _derived_penalty(model, real, fake, mode, derive, coefficients)
    terms = list(range(len(real)))
    if derive is not None:
        model = model.with_gram(tf.constant(derive.for_points(real[0].shape[1]), real[0].dtype))
        terms = [len(real), *terms] if mode == "batch_mean" else terms
    model.check([part.shape for part in real])
    compiled = native.ops() if real[0].dtype in (tf.float32, tf.float64) else None
    if compiled is None:
        points = _between(real, fake, coefficients)
        return penalty_of_gradients(model.gradients(points, terms), mode)
    weights = [[tf.convert_to_tensor(part) for part in parts] for parts in (model.kernels, model.biases, model.grams)]
    plan = model.encode(mode == "batch_mean", terms)
    penalty, _ = compiled.posekit_gradient_penalty(real, fake, coefficients, *weights, plan, model.slopes)
    penalty.set_shape([])
    return penalty


class BoneProducts:
    """Puts the inner products of all pairs of bones before the points: the `derive` of critics that judge both.

    Args:
        matrix: `[points, bones]`, what every bone takes of every point: see `Skeleton.bone_matrix`. Where there are
            more points, the others are in no bone.

    Example:
        >>> BoneProducts([[1.0], [-1.0]])([tf.constant([[[3.0, 0.0], [0.0, 4.0]]])])[0].numpy()
        array([[[25.]]], dtype=float32)
    """

    def __init__(self, matrix):
        self.matrix = np.asarray(matrix, np.float64).T

    def for_points(self, count):
        """The matrix `[bones, count]`."""
        if self.matrix.shape[1] > count:
            raise ValueError(f"There are {count} points; the bones are between {self.matrix.shape[1]}.")
        return np.pad(self.matrix, ((0, 0), (0, count - self.matrix.shape[1])))

    def __call__(self, inputs):
        """Inner products `[batch, bones, bones]` for `[batch, points, axes]`, and the inputs themselves."""
        points = tf.convert_to_tensor(inputs[0])
        bones = tf.matmul(tf.constant(self.for_points(points.shape[1]), points.dtype), points)
        return [tf.matmul(bones, bones, transpose_b=True), *inputs]


def _nested_penalty(critic, real, fake, mode, derive, coefficients):
    """The penalty of any critic, by differentiating it."""
    points = _between(real, fake, coefficients)
    with tf.GradientTape() as tape:
        tape.watch(points)
        inputs = list(derive(points)) if derive else points
        total = tf.reduce_sum(critic(inputs))
    sources = inputs if mode == "batch_mean" else points
    gradients = tape.gradient(total, sources, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return penalty_of_gradients(gradients, mode)


def _derived_penalty(model, real, fake, mode, derive, coefficients):
    """The penalty of a piecewise linear critic whose inputs are computed from others in some way."""
    points = _between(real, fake, coefficients)
    with tf.GradientTape() as tape:
        tape.watch(points)
        inputs = list(derive(points))
    model.check([part.shape for part in inputs])
    slopes = model.gradients(inputs, range(len(inputs)))
    slopes = [tf.reshape(slope, tf.shape(part)) for slope, part in zip(slopes, inputs)]
    sources = inputs if mode == "batch_mean" else points
    gradients = tape.gradient(
        inputs, sources, output_gradients=slopes, unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
    return penalty_of_gradients(gradients, mode)


class _Given:
    """What the compiled ops compute with, sorted.

    Args:
        op: One of them.
        inputs: Its inputs, from the points on.
    """

    def __init__(self, op, inputs):
        self.plan, self.slopes = list(op.get_attr("plan")), list(op.get_attr("slopes"))
        count, kernels, biases, _ = self.plan[:4]
        self.points, given = list(inputs[: 3 * count]), list(inputs[3 * count :])
        self.weights, self.biases, self.grams = given[:kernels], given[kernels:][:biases], given[kernels + biases :]
        self.rest = [None] * (len(self.biases) + len(self.grams))

    def sides(self):
        """Real points, fake ones and coefficients."""
        third = len(self.points) // 3
        return self.points[:third], self.points[third : 2 * third], self.points[2 * third :]

    def gradients(self, upstream):
        """The plain form: gradients of the points and of the weights, and what they were computed from."""
        # A tape follows only what was made where it stands, which inputs of an op in a branch or a loop are not.
        points, weights = ([tf.identity(part) for part in parts] for parts in (self.points, self.weights))
        known = tuple(self.biases), tuple(self.slopes), tuple(self.grams)
        model, batch_mean, terms = PiecewiseLinear.decode(self.plan, tuple(weights), *known)
        third = len(points) // 3
        with tf.GradientTape() as tape:
            tape.watch([points, weights])
            between = _between(points[:third], points[third : 2 * third], points[2 * third :])
            penalty = penalty_of_gradients(model.gradients(between, terms), MODES[0] if batch_mean else MODES[1])
        return tape.gradient(penalty, [points, weights], output_gradients=upstream)


@tf.RegisterGradient("PosekitGradientPenalty")
def _compiled_gradient(op, upstream, _):
    given, compiled = _Given(op, op.inputs), native.ops()
    of_points, of_weights = [None] * len(given.points), None
    skipped = getattr(op, "skip_input_indices", None) or ()  # in a graph, what nobody asks for is not computed
    points_too = given.grams and not set(range(len(given.points))) <= set(skipped)
    if points_too or compiled is None:  # switched off since
        of_points, of_weights = given.gradients(upstream)
    if compiled is not None:
        state = op.outputs[1]
        weights = given.weights, given.biases, given.grams
        with tf.device(state.device):  # a GPU keeps another state than the CPU
            of_weights = compiled.posekit_gradient_penalty_grad(
                upstream, state, *given.sides(), *weights, given.plan, given.slopes
            )
        for gradient, weight in zip(of_weights, given.weights):
            gradient.set_shape(weight.shape)
    return [*of_points, *of_weights, *given.rest]


# What compiled gradients compute is differentiated in the plain form.
@tf.RegisterGradient("PosekitGradientPenaltyGrad")
def _second_gradient(op, *changes):
    given = _Given(op, op.inputs[2:])
    upstream = tf.identity(op.inputs[0])
    given.points, given.weights = ([tf.identity(part) for part in parts] for parts in (given.points, given.weights))
    with tf.GradientTape() as tape:
        tape.watch([upstream, given.points, given.weights])
        _, found = given.gradients(upstream)
    of_upstream, of_points, of_weights = tape.gradient(
        found, [upstream, given.points, given.weights], output_gradients=changes
    )
    return [of_upstream, None, *of_points, *of_weights, *given.rest]


def _fits(model, real, derive):
    """Whether the inputs are as many as the model takes, and of known shapes and one type."""
    known = all(part.shape[1:].is_fully_defined() and part.dtype == real[0].dtype for part in real)
    if type(derive) is BoneProducts:
        return known and model.num_inputs == len(real) + 1 and real[0].shape.rank == 3
    return known and (derive is not None or model.num_inputs == len(real))


def _fitting(coefficients, real):
    """Coefficients for each number of the inputs, or for each sample: they are broadcast, and the inputs are not."""
    return [_for_each(tf.convert_to_tensor(factor, part.dtype), part) for factor, part in zip(coefficients, real)]


def _for_each(coefficients, points):
    shape, full = coefficients.shape, points.shape
    if shape.is_fully_defined() and full.is_fully_defined():
        if shape in (full, full[:1] + [1] * (full.rank - 1)):
            return coefficients
        try:
            fits = tf.broadcast_static_shape(shape, full) == full
        except ValueError:
            fits = False
        if not fits:
            raise ValueError(f"Coefficients of shape {shape} do not fit inputs of shape {full}.")
    return tf.broadcast_to(coefficients, tf.shape(points))


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
        ValueError: If `mode` is unknown, the lists differ in length, or tensors do not fit or are not of real numbers.
        tf.errors.InvalidArgumentError: If shapes do not fit that are known only when a graph runs.
    """
    check_mode(mode)
    real, fake = _pairs(real, fake, coefficients)
    coefficients = _fitting(_draw(real, mode, seed) if coefficients is None else coefficients, real)
    return _between(real, fake, coefficients)


def _between(real, fake, coefficients):
    return [b + c * (a - b) for a, b, c in zip(real, fake, coefficients)]


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


def _pairs(real, fake, coefficients):
    """Real and fake inputs as tensors of the same shapes and types."""
    _check_lengths(real, fake, coefficients)
    real, fake = ([tf.convert_to_tensor(part) for part in side] for side in (real, fake))
    for one, other in zip(real, fake):
        if not one.dtype.is_floating or one.dtype != other.dtype:
            types = one.dtype.name, other.dtype.name
            raise ValueError(f"A real input is {types[0]}, the fake one {types[1]}; cast both to float32.")
        if one.shape.rank == 0 or not one.shape.is_compatible_with(other.shape):
            raise ValueError(
                f"A real input has the shape {one.shape}, the fake one {other.shape}; both must be [batch, ...] of the "
                "same sizes."
            )
        if not one.shape[:1].is_compatible_with(real[0].shape[:1]):
            raise ValueError(f"Inputs have the shapes {real[0].shape} and {one.shape}; all must be of the same batch.")
    if all(part.shape.is_fully_defined() for part in (*real, *fake)):
        return real, fake
    # What only the running graph knows must not be broadcast there.
    checks = []
    for one, other in zip(real, fake):
        sizes = tf.shape(one), tf.shape(other)
        told = ["A real input has the shape", sizes[0], "the fake one", sizes[1], "both must be the same"]
        checks.append(tf.debugging.Assert(_are_equal(*sizes), told))
        told = ["Inputs have the shapes", tf.shape(real[0]), "and", sizes[0], "all must be of the same batch"]
        checks.append(tf.debugging.Assert(_are_equal(tf.shape(real[0])[:1], sizes[0][:1]), told))
    with tf.control_dependencies(checks):
        return [tf.identity(part) for part in real], [tf.identity(part) for part in fake]


def _are_equal(sizes, others):
    """Whether two shapes, which may be of different lengths, are the same."""
    longest = tf.maximum(tf.size(sizes), tf.size(others))
    # Lengths that differ leave a -1 on one side alone, which is no size.
    sizes, others = (tf.pad(one, [[0, longest - tf.size(one)]], constant_values=-1) for one in (sizes, others))
    return tf.reduce_all(tf.equal(sizes, others))


def _check_lengths(real, fake, coefficients):
    for name, given in (("real", real), ("fake", fake), ("coefficients", coefficients)):
        if not isinstance(given, (list, tuple)) and (given is not None or name != "coefficients"):
            raise ValueError(f"{name} is a {type(given).__name__}; give a list with a tensor for each input.")
    if len(real) != len(fake) or not real or (coefficients is not None and len(coefficients) != len(real)):
        raise ValueError(
            f"{len(real)} real inputs, {len(fake)} fake inputs and "
            f"{'no' if coefficients is None else len(coefficients)} coefficients do not fit; give as many of each."
        )


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
