"""Programs that XLA compiles have no compiled ops, in whatever thread and however often they are traced."""

import contextlib

import numpy as np
import pytest
import tensorflow as tf
from compiled import needs_compiled_ops, needs_compiler, run_python

from posekit.ops import (
    decode_paf_batch,
    gradient_penalty,
    locally_connected,
    mesh_reprojection,
    native,
    nearest_neighbors,
)

pytestmark = needs_compiler

SUPPORT = np.eye(3, dtype=bool)


def layer(inputs):
    kernel = tf.reshape(tf.range(54.0), [6, 9])
    return locally_connected(inputs, kernel, np.ones((3, 3)), None, 1.0, SUPPORT)


def op_types(function, *arguments):
    """Types of the operations of a `tf.function` and of all that it calls."""
    graph = function.get_concrete_function(*arguments).graph.as_graph_def()
    return {node.op for body in (graph.node, *(part.node_def for part in graph.library.function)) for node in body}


def test_other_shapes_are_traced_for_xla_too():
    compiled_by_xla = tf.function(layer, jit_compile=True)
    for batch in (2, 3, 5):
        inputs = tf.ones([batch, 3, 2])
        np.testing.assert_allclose(compiled_by_xla(inputs), layer(inputs), rtol=1e-5)


def test_loops_and_branches_belong_to_the_program():
    def program(inputs):
        found = tf.zeros([2, 3, 3])
        _, found = tf.while_loop(lambda i, _: i < 2, lambda i, old: (i + 1, old + layer(inputs)), (0, found))
        return tf.cond(inputs[0, 0, 0] > 0, lambda: found + tf.function(layer)(inputs), lambda: found)

    inputs = tf.ones([2, 3, 2])
    np.testing.assert_allclose(tf.function(program, jit_compile=True)(inputs), 3 * layer(inputs), rtol=1e-5)


def test_gradients_of_programs_for_xla():
    inputs = tf.Variable(tf.ones([2, 3, 2]))
    gradients = []
    for jit_compile in (True, False):
        program = tf.function(lambda: tf.reduce_sum(layer(inputs) ** 2), jit_compile=jit_compile)
        with tf.GradientTape() as tape:
            value = program()
        gradients.append(tape.gradient(value, inputs))
    np.testing.assert_allclose(*gradients, rtol=1e-5)


@needs_compiled_ops
def test_programs_beside_one_for_xla_keep_the_compiled_ops(monkeypatch):
    monkeypatch.setenv("POSEKIT_NATIVE", "1")
    inputs = tf.ones([2, 3, 2])
    tf.function(layer, jit_compile=True)(inputs)
    assert "PosekitLocallyConnected" in op_types(tf.function(layer), inputs)
    with native.disabled():
        assert not any(name.startswith("Posekit") for name in op_types(tf.function(layer), inputs))


@needs_compiled_ops
def test_saved_models_need_no_posekit_where_the_ops_are_switched_off(tmp_path, monkeypatch):
    monkeypatch.setenv("POSEKIT_NATIVE", "1")
    for name, context in (("compiled", contextlib.nullcontext()), ("plain", native.disabled())):
        module = tf.Module()
        module.layer = tf.function(layer)
        module.layer(tf.ones([2, 3, 2]))
        with context:
            tf.saved_model.save(module, str(tmp_path / name))
        assert (b"Posekit" in (tmp_path / name / "saved_model.pb").read_bytes()) == (name == "compiled")


@pytest.mark.parametrize(
    ("op", "shapes"),
    [
        (nearest_neighbors, ([4, 2], [5, 2])),
        (mesh_reprojection, ([1, 4, 4], [1, 5, 2])),
        (decode_paf_batch, ([1, 4, 4, 19], [1, 4, 4, 38])),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_depends_on_values_is_refused_for_xla(path, op, shapes):
    inputs = [tf.ones(shape) for shape in shapes]
    for program in (op, lambda *inputs: tf.function(op)(*inputs)):
        with pytest.raises(ValueError, match=rf"{op.__name__} cannot be compiled by XLA.*jit_compile=False"):
            tf.function(program, jit_compile=True)(*inputs)
    tf.nest.map_structure(np.testing.assert_array_equal, tf.function(op)(*inputs), op(*inputs))


def test_the_gradient_penalty_is_compiled_by_xla(path):
    import keras

    # Slopes far from 1, where the penalty would be a small difference of large numbers.
    sizes = ((5, "leaky_relu"), (1, None))
    layers = [keras.layers.Dense(units, activation, kernel_initializer="ones") for units, activation in sizes]
    critic = keras.Sequential([keras.Input((4,)), *layers])
    real, fake = [tf.ones([3, 4])], [tf.zeros([3, 4])]
    coefficients = [tf.fill([3, 4], 0.25)]

    def penalty():
        return gradient_penalty(critic, real, fake, coefficients=coefficients)

    np.testing.assert_allclose(tf.function(penalty, jit_compile=True)(), penalty(), rtol=1e-5)


@needs_compiled_ops
def test_what_runs_in_python_is_not_exported(path, tmp_path):
    import keras

    class People(keras.Layer):
        def call(self, heatmaps, pafs):
            return decode_paf_batch(heatmaps, pafs)["counts"]

        def compute_output_spec(self, heatmaps, pafs):
            return keras.KerasTensor([None], "int32")

    inputs = [keras.Input((8, 8, channels)) for channels in (19, 38)]
    model = keras.Model(inputs, People()(*inputs))
    with pytest.raises(ValueError, match="decode_paf_batch cannot be exported.*tf.saved_model.save"):
        model.export(tmp_path / "exported", verbose=False)


def test_disabled_is_open_as_long_as_one_of_its_contexts():
    with native.disabled():
        with native.disabled():
            assert native.kernels() is None
        assert native.kernels() is None
        assert {row["reason"] for row in native.status()} == {"switched off here"}
    with contextlib.suppress(KeyError), native.disabled():
        raise KeyError
    assert {row["reason"] for row in native.status()} != {"switched off here"}


REPLICAS = """
import keras, numpy as np, tensorflow as tf
from posekit.layers import LocallyConnectedGraph
from posekit.ops import locally_connected, native

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, 2 * [tf.config.LogicalDeviceConfiguration()])
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
inputs, kernel, seen = tf.ones([2, 3, 2]), tf.ones([6, 9]), []


def layer():
    seen.append(native.ops() is not None)
    return locally_connected(inputs, kernel, np.ones((3, 3)), None, 1.0, np.eye(3, dtype=bool))


def check(run, compiled):
    seen.clear()
    for value in strategy.experimental_local_results(run()):
        np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert seen and set(seen) == {compiled}, seen


expected = layer()
compiled = seen[0]
assert compiled or tf.config.list_physical_devices("GPU")
check(lambda: strategy.run(layer), compiled)
check(tf.function(lambda: strategy.run(layer)), compiled)
check(lambda: strategy.run(tf.function(layer)), compiled)
check(tf.function(lambda: strategy.run(layer), jit_compile=True), False)
check(lambda: strategy.run(tf.function(layer, jit_compile=True)), False)
check(tf.function(lambda: strategy.run(tf.function(layer, jit_compile=True))), False)
with native.disabled():
    check(tf.function(lambda: strategy.run(layer)), False)
check(tf.function(lambda: strategy.run(layer)), compiled)

with strategy.scope():
    poses = keras.Input((17, 2))
    model = keras.Model(poses, LocallyConnectedGraph(4, skeleton="H36M17", hops=1)(poses))
    model.compile("sgd", "mse", jit_compile=False)
loss = model.fit(np.ones((6, 17, 2)), np.zeros((6, 17, 4)), batch_size=4, verbose=0).history["loss"]
assert np.isfinite(loss).all(), loss
print("done")
"""


def test_replicas_are_traced_in_threads_of_their_own():
    assert run_python(REPLICAS, POSEKIT_NATIVE=1).stdout.strip() == "done"
