"""First and second derivatives of every op, wherever TensorFlow may be asked for them, against eager plain ones."""

import functools
import typing

import keras
import numpy as np
import pytest
import tensorflow as tf

from posekit.ops import gradient_penalty, locally_connected, mesh_reprojection, native, nearest_neighbors
from posekit.ops.gradient_penalty import BoneProducts

as_function = functools.partial(tf.function, autograph=False)  # nothing here is for AutoGraph, which takes its time


class Case(typing.NamedTuple):
    """A scalar of tensors and, beside them, of variables."""

    function: typing.Callable
    tensors: tuple
    variables: tuple = ()


def case_of_neighbours():
    rng = np.random.default_rng(0)
    points, references = rng.normal(size=(2, 6, 2)), rng.normal(size=(2, 5, 2))
    points[0, 0] = references[0, 0]  # coincide
    return Case(lambda *given: tf.reduce_sum(nearest_neighbors(*given)[1] ** 3), (points, references))


def case_of_meshes():
    rng = np.random.default_rng(1)
    silhouettes, vertices = rng.random((3, 8, 9)) > 0.5, rng.random((3, 6, 2)) * 12
    silhouettes[1] = False
    vertices[0, 0] = np.argwhere(silhouettes[0])[0, ::-1]

    def function(vertices):
        to_mesh, to_pixels = mesh_reprojection(silhouettes, vertices)
        return tf.reduce_sum(to_mesh**2) / 50 + tf.reduce_sum(to_pixels**3)

    return Case(function, (vertices,))


def case_of_layers(form=None):
    rng = np.random.default_rng(2)
    support = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]], bool)
    given = rng.normal(size=(4, 3, 2)), rng.normal(size=(6, 9)), rng.normal(size=(3, 3)), rng.normal(size=9)
    return Case(lambda *given: tf.reduce_sum(locally_connected(*given, 1.0, support, form) ** 3), given)


def make_critic(*sizes):
    layers, policy, rng = keras.layers, keras.dtype_policies.get("float64"), np.random.default_rng(3)
    inputs = [keras.Input(size, dtype="float64") for size in sizes]
    flat = [layers.Flatten(dtype=policy)(part) for part in inputs]
    joined = layers.Concatenate(dtype=policy)(flat) if len(flat) > 1 else flat[0]
    hidden = layers.Dense(6, "leaky_relu", dtype=policy)(joined)
    critic = keras.Model(inputs, layers.Dense(1, dtype=policy)(hidden))
    for weight in critic.weights:
        weight.assign(rng.normal(size=weight.shape))
    return critic, tuple(layer.kernel.value for layer in critic.layers[-2:])


def case_of_critics():
    rng, (critic, kernels) = np.random.default_rng(4), make_critic((3, 2))
    real, fake, factors = (tf.constant(part) for part in rng.random((3, 5, 3, 2)))
    return Case(lambda: gradient_penalty(critic, [real], [fake], coefficients=[factors]), (), kernels)


def case_of_bones():
    rng, (critic, kernels) = np.random.default_rng(5), make_critic((2, 2), (3, 2))
    bones, factors = BoneProducts(rng.normal(size=(3, 2))), tf.constant(rng.random((5, 1, 1)))

    def function(real, fake):
        return gradient_penalty(critic, [real], [fake], "per_sample", bones, [factors])

    return Case(function, tuple(rng.normal(size=(2, 5, 3, 2))), kernels)


CASES = {
    "nearest_neighbors": case_of_neighbours,
    "mesh_reprojection": case_of_meshes,
    "locally_connected": case_of_layers,
    "gradient_penalty": case_of_critics,
    # Other ways through the same ops.
    "by_joint": functools.partial(case_of_layers, "by_joint"),
    "bones": case_of_bones,
}
OPS = list(CASES)[:4]


@functools.cache
def case_of(name):
    case = CASES[name]()
    return case._replace(tensors=tuple(tf.constant(tensor) for tensor in case.tensors))


def derivatives(function, case, tensors, order):
    """Of the first order, or of the sum of the sines of these."""
    sources = [*tensors, *case.variables]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        if order == 1:
            value = function(*tensors)
        else:
            value = tf.add_n([tf.reduce_sum(tf.sin(one)) for one in derivatives(function, case, tensors, order - 1)])
    return tape.gradient(value, sources, unconnected_gradients=tf.UnconnectedGradients.ZERO)


@functools.cache
def expected(name, order, times):
    case = case_of(name)
    with native.disabled():
        return derivatives(lambda *given: times * case.function(*given), case, case.tensors, order)


def tapes_in_function(function, case, order):
    return as_function(lambda *tensors: derivatives(function, case, tensors, order))(*case.tensors)


def function_in_tapes(function, case, order):
    return derivatives(as_function(function), case, case.tensors, order)


def function_in_function(function, case, order):
    inner = as_function(function)
    middle = as_function(lambda *tensors: inner(*tensors))
    return tapes_in_function(middle, case, order)


def in_cond(function, case, order):
    def either(*tensors):
        zero = tf.constant(0.0, tf.float64)
        total = tf.reduce_sum([*tensors, *case.variables][0])
        return tf.cond(total > -1e9, lambda: function(*tensors), lambda: zero)

    return function_in_tapes(either, case, order)


def in_while_loop(function, case, order):
    def twice(*tensors):
        def add(step, total):
            return step + 1, total + function(*tensors)

        return tf.while_loop(lambda step, _: step < 2, add, (0, tf.constant(0.0, tf.float64)))[1]

    return function_in_tapes(twice, case, order)


PLACES = tapes_in_function, function_in_tapes, function_in_function, in_cond, in_while_loop
ALL = [(name, place, order) for name in OPS for place in PLACES for order in (1, 2)]


@pytest.mark.parametrize(
    "name, place, order", [*ALL, ("by_joint", in_cond, 1), ("bones", in_cond, 1), ("bones", function_in_tapes, 2)]
)
def test_wherever_they_are_asked_for(path, name, place, order):
    case = case_of(name)
    found = place(case.function, case, order)
    for one, other in zip(found, expected(name, order, 2 if place is in_while_loop else 1), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9 * max(1, np.abs(other).max()))


@pytest.mark.parametrize("name", CASES)
def test_forward_mode(path, name):
    case, rng = case_of(name), np.random.default_rng(6)
    sources = [*case.tensors, *case.variables]
    tangents = [tf.constant(rng.normal(size=source.shape)) for source in sources]
    with tf.autodiff.ForwardAccumulator(sources, tangents) as accumulator:
        value = case.function(*case.tensors)
    along = sum(tf.reduce_sum(a * b) for a, b in zip(tangents, expected(name, 1, 1)))
    np.testing.assert_allclose(accumulator.jvp(value), along, rtol=1e-9)


@pytest.mark.parametrize("name", OPS)
def test_gradients_where_compiled_ops_were_switched_off_since(compiled_ops, name):
    case = case_of(name)
    sources = [*case.tensors, *case.variables]
    with tf.GradientTape() as tape:
        tape.watch(case.tensors)
        value = case.function(*case.tensors)
    with native.disabled():
        found = tape.gradient(value, sources, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    for one, other in zip(found, expected(name, 1, 1), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9 * max(1, np.abs(other).max()))
