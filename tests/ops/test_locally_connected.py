"""Locally connected products in every form, against the definition and automatic gradients."""

import concurrent.futures

import numpy as np
import pytest
import tensorflow as tf

from posekit.ops import locally_connected, native
from posekit.ops.locally_connected import FORMS, _faster_form
from posekit.skeletons import H36M17

JOINTS, FEATURES, UNITS = 4, 3, 2
# The third joint is nobody's neighbour and has none; the mask is neither symmetric nor binary.
MASK = np.array([[1, 0.5, 0, 2], [0, 1, 0, 0], [0, 0, 0, 0], [-1, 0.25, 0, 1]])
SUPPORT = MASK != 0


@pytest.fixture(params=FORMS)
def form(request):
    """Every form of the product."""
    if request.param == "compiled":
        request.getfixturevalue("compiled_ops")
    return request.param


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


@pytest.mark.parametrize("max_norm", [None, 1.0])
def test_gradients_of_a_long_batch(form, max_norm):
    """Longer than what the compiled form packs at a time."""
    inputs = [tf.constant(part) for part in arguments(batch=2 * 16384 + 5)]
    upstream = np.random.default_rng(1).normal(size=(len(inputs[0]), JOINTS, UNITS))
    forms = lambda *args: locally_connected(*args, max_norm, SUPPORT, form), lambda *args: plain(*args, max_norm)
    found = []
    for function in forms:
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            output = function(*inputs)
        found.append(tape.gradient(output, inputs, output_gradients=upstream))
    for name, ours, expected in zip(("inputs", "kernel", "mask", "bias"), *found):
        if name == "mask":
            expected = np.where(SUPPORT, expected, 0)
        np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-9, err_msg=name)


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


def test_empty_batch_and_zero_kernel(form):
    inputs, kernel, mask, bias = (tf.constant(array) for array in arguments("float32"))
    assert locally_connected(inputs[:0], kernel, mask, bias, 1.0, SUPPORT, form).shape == (0, JOINTS, UNITS)
    zero = tf.zeros_like(kernel)
    with tf.GradientTape() as tape:
        tape.watch(zero)
        result = locally_connected(inputs, zero, mask, bias, 1.0, SUPPORT, form)
    np.testing.assert_allclose(result, np.tile(bias.numpy().reshape(1, JOINTS, UNITS), (5, 1, 1)))
    assert np.isfinite(tape.gradient(result, zero)).all()


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


def test_nan_stays_in_its_pose(form):
    inputs, kernel, mask, bias = arguments("float32")
    inputs[1, 0, 0] = np.nan
    result = locally_connected(inputs, kernel, mask, bias, 1.0, SUPPORT, form).numpy()
    assert np.isnan(result[1, 0]).all()
    assert np.isfinite(result[[0, 2, 3, 4]]).all()


def test_a_kernel_that_is_no_number_gives_none(form):
    inputs, kernel, mask, bias = arguments("float32")
    kernel[8, 0] = np.nan  # in a block without a neighbour: it is in the norm
    result = locally_connected(inputs, kernel, mask, bias, 1.0, SUPPORT, form).numpy()
    assert np.isnan(result[:, [0, 1, 3]]).all()


@pytest.mark.parametrize("max_norm", [float("inf"), np.inf, 1e39, 1e30])
def test_a_limit_beyond_all_norms_is_none(form, max_norm):
    given, direction = arguments("float32"), np.ones((5, JOINTS, UNITS), "float32")
    ours = value_and_gradients(given, direction, max_norm, SUPPORT, form)
    for one, other in zip(ours, value_and_gradients(given, direction, None, SUPPORT, form), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(ours[0], by_hand(*given, None), atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_kernels_whose_norm_overflows(form, dtype):
    inputs, kernel, mask, bias = arguments(dtype, size=1e20)
    direction = np.ones((5, JOINTS, UNITS), dtype)
    result, *gradients = value_and_gradients((inputs, kernel, mask, bias), direction, 1.0, SUPPORT, form)
    expected = by_hand(inputs, kernel.astype("float64"), mask, bias, 1.0)
    np.testing.assert_allclose(result, expected, atol=1e-5)
    wide = [tf.constant(array, tf.float64) for array in (inputs, kernel, np.where(SUPPORT, mask, 0), bias)]
    with tf.GradientTape() as tape:
        tape.watch(wide)
        value = plain(*wide, 1.0)
    theirs = tape.gradient(value, wide, output_gradients=tf.constant(direction, tf.float64))
    theirs[2] = tf.where(SUPPORT, theirs[2], 0)
    for one, other in zip(gradients, theirs):
        np.testing.assert_allclose(one, other, atol=1e-5 * np.abs(other).max())


def test_an_infinite_weight_does_not_vanish_in_the_norm(form):
    inputs, kernel, mask, bias = arguments("float32")
    kernel[0, 0] = np.inf
    result = locally_connected(inputs, kernel, mask, bias, 1.0, SUPPORT, form).numpy()
    assert np.isnan(result[:, [0, 1, 3]]).all()


@pytest.mark.parametrize("max_norm", [1e-310, 1e-40])
def test_a_limit_that_is_no_normal_number_is_refused(max_norm):
    with pytest.raises(ValueError, match=f"max_norm is {max_norm}; give a positive number, 1.17.*e-38 or more"):
        locally_connected(*arguments("float32"), max_norm)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_outside_of_the_support_does_not_count(form, value):
    given, direction = arguments("float32"), np.ones((5, JOINTS, UNITS), "float32")
    expected = value_and_gradients(given, direction, None, SUPPORT, form)
    given[1] = np.where(np.repeat(np.repeat(SUPPORT, FEATURES, 0), UNITS, 1), given[1], np.float32(value))
    for one, other in zip(value_and_gradients(given, direction, None, SUPPORT, form), expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_the_mask_hides_does_not_count(form, value):
    """Nor within the support; the mask's own gradient alone tells of it."""
    *given, direction = *arguments("float32"), np.ones((5, JOINTS, UNITS), "float32")
    everywhere = np.ones_like(SUPPORT)
    expected = value_and_gradients(given, direction, None, everywhere, form)
    given[1] = np.where(np.repeat(np.repeat(SUPPORT, FEATURES, 0), UNITS, 1), given[1], np.float32(value))
    *found, of_mask, of_bias = value_and_gradients(given, direction, None, everywhere, form)
    for one, other in zip([*found, of_bias], [*expected[:-2], expected[-1]], strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(np.isfinite(of_mask), SUPPORT)


def test_a_pose_that_is_no_number_stays_out_of_blocks_without_a_neighbour(form):
    given, direction = arguments("float32"), np.ones((5, JOINTS, UNITS), "float32")
    given[0][1] = np.nan
    of_kernel = value_and_gradients(given, direction, None, SUPPORT, form)[2].numpy()
    used = np.repeat(np.repeat(SUPPORT, FEATURES, 0), UNITS, 1)
    assert np.isnan(of_kernel[used]).all() and (of_kernel[~used] == 0).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("form", [None, "dense", "by_joint"])
def test_half_precision_keeps_the_norm_exact(form, dtype):
    inputs, kernel, mask, bias = arguments("float32", size=1e3)  # the squares overflow float16
    expected = by_hand(inputs, kernel, mask, bias, 1.0)
    kernel = tf.constant(kernel)
    with tf.GradientTape() as tape:
        tape.watch(kernel)
        result = locally_connected(tf.cast(inputs, dtype), kernel, mask, bias, 1.0, SUPPORT, form)
    assert result.dtype == dtype
    np.testing.assert_allclose(tf.cast(result, "float32"), expected, atol=0.05)
    gradient = tape.gradient(result, kernel)
    assert gradient.dtype == "float32" and np.isfinite(gradient).all()


def value_and_gradients(arguments, direction, *options):
    arguments = [tf.constant(array) for array in arguments]
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        value = locally_connected(*arguments, *options)
    return [value, *tape.gradient(value, arguments, output_gradients=tf.constant(direction))]


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("float64", 1e-12)])
@pytest.mark.parametrize("batch, features, units", [(1, 1, 1), (3, 2, 64), (30, 40, 33), (57, 64, 3), (1100, 9, 17)])
@pytest.mark.parametrize("hops, max_norm", [(1, None), (3, 1.0), (16, 5.0)])
def test_sizes_and_graphs(form, dtype, tolerance, batch, features, units, hops, max_norm):
    rng = np.random.default_rng(batch)
    sizes = (batch, 17, features), (17 * features, 17 * units), (17, 17), (17 * units,), (batch, 17, units)
    inputs, kernel, mask, bias, direction = (rng.normal(size=size) for size in sizes)
    support = H36M17.neighbours(hops)
    norm = np.linalg.norm(kernel)
    scale = 1.0 if max_norm is None else max_norm / max(norm, max_norm)
    weights = kernel.reshape(17, features, 17, units)
    factors = np.where(support, mask, 0) * scale
    used = weights * factors[:, None, :, None]
    of_used = np.einsum("bif,bju->ifju", inputs, direction, optimize=True)
    clipped = 0.0 if scale == 1 else np.sum(of_used * used) / norm**2
    expected = [
        np.einsum("bif,ifju->bju", inputs, used, optimize=True) + bias.reshape(17, units),
        np.einsum("bju,ifju->bif", direction, used, optimize=True),
        (of_used * factors[:, None, :, None] - clipped * weights).reshape(kernel.shape),
        np.einsum("ifju,ifju->ij", of_used, weights) * np.where(support, scale, 0),
        direction.sum(axis=0).ravel(),
    ]
    given = [array.astype(dtype) for array in (inputs, kernel, mask, bias)]
    ours = value_and_gradients(given, direction.astype(dtype), max_norm, support, form)
    for one, other in zip(ours, expected):
        assert one.dtype == dtype
        np.testing.assert_allclose(one, other, atol=tolerance * max(np.abs(other).max(), 1))


def test_second_derivatives(form):
    inputs = [tf.constant(array) for array in arguments(batch=2)]

    def of_second_order(function):
        with tf.GradientTape() as outer:
            outer.watch(inputs)
            with tf.GradientTape() as inner:
                inner.watch(inputs)
                value = tf.reduce_sum(function(*inputs) ** 3)
            first = inner.gradient(value, inputs)
            total = tf.add_n([tf.reduce_sum(tf.sin(gradient)) for gradient in first])
        return outer.gradient(total, inputs)

    ours = of_second_order(lambda *given: locally_connected(*given, 1.0, SUPPORT, form))
    theirs = of_second_order(lambda a, b, c, d: plain(a, b, tf.where(SUPPORT, c, 0), d, 1.0))
    for one, other in zip(ours, theirs):
        np.testing.assert_allclose(one, other, atol=1e-9 * np.abs(other).max())


@pytest.mark.parametrize("narrow", [False, True])
def test_the_compiled_form_is_chosen_where_it_pays(compiled_ops, monkeypatch, narrow):
    monkeypatch.setattr(native, "narrow_vectors", lambda: narrow)

    def is_compiled(support, width):
        inputs, kernel = tf.zeros([5, 17, width]), tf.zeros([17 * width, 17 * width])
        function = tf.function(lambda given: locally_connected(given, kernel, np.ones((17, 17)), None, 1.0, support))
        graph = function.get_concrete_function(inputs).graph
        return "PosekitLocallyConnected" in {op.type for op in graph.get_operations()}

    near, far, everything = (H36M17.neighbours(hops) for hops in (1, 3, 16))
    assert is_compiled(near, 8)
    assert [is_compiled(far, 8), is_compiled(near, 32), is_compiled(far, 32)] == 3 * [not narrow]
    assert not is_compiled(None, 8) and not is_compiled(everything, 8) and not is_compiled(everything, 32)
    monkeypatch.setenv("POSEKIT_NATIVE", "0")
    assert not is_compiled(near, 8)


def test_any_number_of_threads_computes_the_same(compiled_ops):
    rng = np.random.default_rng(0)
    sizes = (600, 17, 20), (17 * 20, 17 * 40), (17, 17), (17 * 40,), (600, 17, 40)
    *given, direction = (rng.normal(size=size).astype("float32") for size in sizes)
    results = []
    for threads in (1, 2, 7):
        native.kernels().posekit_set_num_threads(threads)
        results.append(value_and_gradients(given, direction, 1.0, H36M17.neighbours(2), "compiled"))
    for result in results[1:]:
        for one, other in zip(result, results[0]):
            np.testing.assert_array_equal(one, other)


def test_calls_from_several_threads_do_not_disturb_each_other(compiled_ops):
    cases = [arguments("float32", batch=50 + seed, seed=seed) for seed in range(8)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda case: locally_connected(*case, 1.0, SUPPORT, "compiled").numpy(), cases * 5))
    for result, case in zip(results, cases * 5):
        np.testing.assert_allclose(result, by_hand(*case, 1.0), atol=1e-5)


def test_compiled_ops_name_shapes_that_disagree(compiled_ops):
    inputs, kernel, mask, bias = arguments()
    rows = inputs.reshape(5, -1)
    for name, change in (("input", rows[:, 1:]), ("bias", bias[1:]), ("mask", mask[1:]), ("support", SUPPORT[:, 1:])):
        given = {"rows": rows, "bias": bias, "kernel": kernel, "mask": mask, "support": SUPPORT, "max_norm": 1.0}
        given["rows" if name == "input" else name] = change
        shape = ", ".join(map(str, np.shape(change)))
        with pytest.raises(tf.errors.InvalidArgumentError, match=rf"{name} has the shape \[{shape}\].*\[12, 8\]"):
            compiled_ops.posekit_locally_connected(**given)


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
        ({"inputs": np.zeros((5, 4, 0)), "kernel": np.zeros((0, 8))}, r"\(5, 4, 0\).*a feature and a unit at least"),
        ({"inputs": np.zeros((5, 0, 3))}, r"\(5, 0, 3\).*there must be a joint"),
        ({"kernel": np.zeros((12, 0))}, r"\(12, 0\) leave nothing to compute"),
        ({"inputs": np.zeros((5, 3, 3))}, r"inputs of 3 joints need \(3, 3\)"),
        ({"inputs": np.zeros((5, 4, 2))}, r"\(12, 8\); inputs of 4 joints with 2 features need \(8, "),
        ({"kernel": np.zeros((12, 9))}, r"\(12, 9\)"),
        ({"bias": np.zeros(7)}, r"The bias has the shape \(7,\)"),
        ({"support": np.ones((3, 4), bool)}, r"The support has the shape \(3, 4\)"),
        ({"max_norm": 0.0}, "max_norm is 0.0"),
        ({"max_norm": float("nan")}, "max_norm is nan"),
        ({"form": "sparse"}, "'sparse'; choose from .*'dense', 'by_joint'"),
        ({"form": "compiled", "inputs": np.zeros((5, 4, 3), "float16")}, "not for float16 inputs and float64 weights"),
    ],
)
def test_wrong_arguments_are_refused(change, message):
    inputs, kernel, mask, bias = arguments()
    given = {"inputs": inputs, "kernel": kernel, "mask": mask, "bias": bias, **change}
    with pytest.raises(ValueError, match=message):
        locally_connected(**given)


@pytest.mark.parametrize(("inputs", "kernel"), [("int64", "float32"), ("float32", "int32"), ("bool", "float32")])
def test_whole_numbers_are_refused(inputs, kernel):
    with pytest.raises(ValueError, match=f"inputs are {inputs}, the kernel is {kernel}; cast both to float32"):
        locally_connected(np.ones((2, 3, 1), inputs), np.ones((3, 3), kernel), np.eye(3))
