import numpy as np
import pytest
import tensorflow as tf

from posekit.ops import locally_connected
from posekit.ops.locally_connected import FORMS, _faster_form
from posekit.skeletons import H36M17

JOINTS, FEATURES, UNITS = 4, 3, 2
# The third joint is nobody's neighbour and has none; the mask is neither symmetric nor binary.
MASK = np.array([[1, 0.5, 0, 2], [0, 1, 0, 0], [0, 0, 0, 0], [-1, 0.25, 0, 1]])
SUPPORT = MASK != 0


def by_hand(inputs, kernel, mask, bias, max_norm):
    """The definition, joint by joint."""
    scale = 1.0 if max_norm is None else min(1.0, max_norm / max(np.sqrt(np.sum(kernel**2)), 1e-30))
    result = np.zeros((len(inputs), JOINTS, UNITS))
    for pose, rows in enumerate(inputs):
        for to in range(JOINTS):
            result[pose, to] = bias[to * UNITS : (to + 1) * UNITS]
            for source in range(JOINTS):
                block = kernel[source * FEATURES : (source + 1) * FEATURES, to * UNITS : (to + 1) * UNITS]
                result[pose, to] += mask[source, to] * scale * (rows[source] @ block)
    return result


def plain(inputs, kernel, mask, bias, max_norm):
    """The original's formulation, for TensorFlow to differentiate."""
    if max_norm is not None:
        kernel = tf.clip_by_norm(kernel, max_norm)
    wide = tf.repeat(tf.repeat(mask, FEATURES, axis=0), UNITS, axis=1)
    rows = tf.reshape(inputs, [-1, JOINTS * FEATURES])
    return tf.reshape(rows @ (kernel * wide) + bias, [-1, JOINTS, UNITS])


def arguments(dtype="float64", size=1.0, batch=5, seed=0):
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(batch, JOINTS, FEATURES))
    kernel = size * rng.normal(size=(JOINTS * FEATURES, JOINTS * UNITS))
    bias = rng.normal(size=JOINTS * UNITS)
    return [array.astype(dtype) for array in (inputs, kernel, MASK, bias)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("float64", 1e-12)])
@pytest.mark.parametrize("max_norm", [None, 1.0, 1e3])
@pytest.mark.parametrize("graph", [False, True])
def test_equals_the_definition(form, dtype, tolerance, max_norm, graph):
    inputs, kernel, mask, bias = arguments(dtype)

    def call(inputs, kernel):
        return locally_connected(inputs, kernel, mask, bias, max_norm, SUPPORT, form)

    if graph:
        shapes = ([None, JOINTS, FEATURES], kernel.shape)
        call = tf.function(call, input_signature=[tf.TensorSpec(shape, dtype) for shape in shapes])
    result = call(inputs, kernel)
    assert result.dtype == dtype
    np.testing.assert_allclose(result, by_hand(inputs, kernel, mask, bias, max_norm), atol=tolerance)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("max_norm, size", [(None, 1.0), (1.0, 1.0), (1.0, 0.01), (0.5, 3.0)])
def test_gradients_equal_automatic_ones(form, max_norm, size):
    inputs = [tf.constant(array) for array in arguments(size=size)]
    direction = np.random.default_rng(1).normal(size=(5, JOINTS, UNITS))

    def gradients(function):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            value = tf.reduce_sum(function(*inputs) * direction)
        return tape.gradient(value, inputs)

    ours = gradients(lambda *args: locally_connected(*args, max_norm, SUPPORT, form))
    theirs = list(gradients(lambda *args: plain(*args, max_norm)))
    # Weights of connections that can never be are not learnt.
    theirs[2] = tf.where(SUPPORT, theirs[2], 0)
    for one, other in zip(ours, theirs):
        np.testing.assert_allclose(one, other, atol=1e-10)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_equal_numeric_ones(form):
    inputs = arguments(batch=2)
    function = tf.function(lambda *args: locally_connected(*args, 1.0, SUPPORT, form))
    theoretical, numerical = tf.test.compute_gradient(function, inputs)
    for one, other in zip(theoretical, numerical):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_unused_blocks_move_through_the_norm():
    inputs, kernel, mask, bias = (tf.constant(array) for array in arguments())
    far = np.repeat(np.repeat(~SUPPORT, FEATURES, 0), UNITS, 1)
    for max_norm, moves in ((1.0, True), (1e3, False), (None, False)):
        with tf.GradientTape() as tape:
            tape.watch(kernel)
            value = tf.reduce_sum(locally_connected(inputs, kernel, mask, bias, max_norm) ** 2)
        change = np.abs(tape.gradient(value, kernel).numpy()[far]).max()
        assert change > 1e-3 if moves else change == 0


@pytest.mark.parametrize("form", FORMS)
def test_empty_batch_and_zero_kernel(form):
    inputs, kernel, mask, bias = (tf.constant(array) for array in arguments("float32"))
    assert locally_connected(inputs[:0], kernel, mask, bias, 1.0, SUPPORT, form).shape == (0, JOINTS, UNITS)
    zero = tf.zeros_like(kernel)
    with tf.GradientTape() as tape:
        tape.watch(zero)
        result = locally_connected(inputs, zero, mask, bias, 1.0, SUPPORT, form)
    np.testing.assert_allclose(result, np.tile(bias.numpy().reshape(1, JOINTS, UNITS), (5, 1, 1)))
    assert np.isfinite(tape.gradient(result, zero)).all()


@pytest.mark.parametrize("form", FORMS)
def test_the_mask_counts_within_the_support(form):
    inputs, kernel, mask, bias = arguments()
    everywhere = np.where(SUPPORT, mask, 3.0)
    everywhere[2, 2] = np.nan
    result = locally_connected(inputs, kernel, everywhere, bias, 1.0, SUPPORT, form)
    np.testing.assert_allclose(result, by_hand(inputs, kernel, mask, bias, 1.0), atol=1e-12)


def test_without_bias():
    inputs, kernel, mask, bias = arguments()
    ours = locally_connected(inputs, kernel, mask, max_norm=1.0)
    np.testing.assert_allclose(ours, by_hand(inputs, kernel, mask, 0 * bias, 1.0), atol=1e-12)


def test_nan_stays_in_its_pose():
    inputs, kernel, mask, bias = arguments("float32")
    inputs[1, 0, 0] = np.nan
    for form in FORMS:
        result = locally_connected(inputs, kernel, mask, bias, 1.0, SUPPORT, form).numpy()
        assert np.isnan(result[1, 0]).all()
        assert np.isfinite(result[[0, 2, 3, 4]]).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_keeps_the_norm_exact(dtype):
    inputs, kernel, mask, bias = arguments("float32", size=1e3)  # the squares overflow float16
    expected = by_hand(inputs, kernel, mask, bias, 1.0)
    kernel = tf.constant(kernel)
    for form in FORMS:
        with tf.GradientTape() as tape:
            tape.watch(kernel)
            result = locally_connected(tf.cast(inputs, dtype), kernel, mask, bias, 1.0, SUPPORT, form)
        assert result.dtype == dtype
        np.testing.assert_allclose(tf.cast(result, "float32"), expected, atol=0.05)
        gradient = tape.gradient(result, kernel)
        assert gradient.dtype == "float32" and np.isfinite(gradient).all()


def test_the_form_follows_the_crossover():
    near, far, everything = (H36M17.neighbours(hops) for hops in (1, 3, 16))
    gpu = bool(tf.config.list_physical_devices("GPU"))
    assert _faster_form(near, [17, 64, 17, 64]) == ("dense" if gpu else "by_joint")
    assert _faster_form(near, [17, 2, 17, 64]) == "dense"
    assert _faster_form(far, [17, 64, 17, 64]) == "dense"
    assert _faster_form(everything, [17, 64, 17, 64]) == "dense"
    assert _faster_form(None, [17, 64, 17, 64]) == "dense"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"inputs": np.zeros((5, 12))}, r"\(5, 12\) are not \[batch, joints, in\]"),
        ({"inputs": np.zeros((5, 3, 3))}, r"inputs of 3 joints need \(3, 3\)"),
        ({"inputs": np.zeros((5, 4, 2))}, r"\(12, 8\); inputs of 4 joints with 2 features need \(8, "),
        ({"kernel": np.zeros((12, 9))}, r"\(12, 9\)"),
        ({"bias": np.zeros(7)}, r"The bias has the shape \(7,\)"),
        ({"support": np.ones((3, 4), bool)}, r"The support has the shape \(3, 4\)"),
        ({"max_norm": 0.0}, "max_norm is 0.0"),
        ({"max_norm": float("nan")}, "max_norm is nan"),
        ({"form": "sparse"}, "'sparse'; choose from .*'dense', 'by_joint'"),
    ],
)
def test_wrong_arguments_are_refused(change, message):
    inputs, kernel, mask, bias = arguments()
    given = {"inputs": inputs, "kernel": kernel, "mask": mask, "bias": bias, **change}
    with pytest.raises(ValueError, match=message):
        locally_connected(**given)
