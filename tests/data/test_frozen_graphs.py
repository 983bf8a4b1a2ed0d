"""Frozen graphs: kernels and biases read and folded without running them, compared with running them."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import graph_pb2

from posekit.data.frozen_graphs import read_frozen_graph, runnable_graph

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(1, 6, 7, 3)).astype(np.float32)


def constant(*shape, low=None):
    values = RNG.normal(size=shape) if low is None else RNG.uniform(low, low + 1, shape)
    return values.astype(np.float32)


@pytest.fixture(scope="module")
def graph():
    """A graph with all that may stand behind a convolution, its serialised form and what its parts give."""
    v1 = tf.compat.v1
    kernels = {"A/Conv": constant(3, 3, 3, 4), "A/sep_depthwise": constant(3, 3, 4, 1), "B/last": constant(1, 1, 4, 2)}
    with tf.Graph().as_default() as plain:
        image = v1.placeholder(tf.float32, [None, None, None, 3], "image")
        norm = [tf.constant(constant(4, low=0.5), name=f"A/bn/{kind}") for kind in "gbmv"]
        kernel = tf.identity(tf.constant(kernels["A/Conv"], name="A/Conv/weights"), name="A/Conv/weights/read")
        x = tf.nn.conv2d(image, kernel, 2, "SAME", name="A/Conv/Conv2D")
        first = v1.nn.fused_batch_norm(x, *norm, epsilon=0.01, is_training=False)[0]
        x = tf.nn.relu(tf.identity(first), name="A/Conv/Relu")
        kernel = tf.constant(kernels["A/sep_depthwise"], name="A/sep_depthwise/depthwise_weights")
        second = tf.nn.depthwise_conv2d(x, kernel, [1, 1, 1, 1], "SAME", name="A/sep_depthwise/depthwise")
        second = tf.constant(constant(4), name="A/scale") * second
        kernel = tf.constant(kernels["B/last"], name="B/last/weights")
        third = tf.nn.bias_add(tf.nn.conv2d(second, kernel, 1, "SAME", name="B/last/Conv2D"), constant(2))
        third = tf.add(third, second[..., :2])  # no constant: not of the convolution
        with v1.Session(graph=plain) as session:
            outputs = session.run([first, x, second, third], {image: IMAGES})
        definition = plain.as_graph_def()
    return definition, outputs


def test_what_stands_behind_a_convolution_is_folded_into_it(graph, tmp_path):
    definition, (first, active, second, third) = graph
    (tmp_path / "graph.pb").write_bytes(definition.SerializeToString())
    found = read_frozen_graph(tmp_path / "graph.pb")
    assert list(found) == ["A/Conv", "A/sep_depthwise", "B/last"]
    assert [part.depthwise for part in found.values()] == [False, True, False]
    front, middle, last = found.values()
    close = {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(tf.nn.conv2d(IMAGES, front.kernel, 2, "SAME") + front.bias, first, **close)
    depthwise = tf.nn.depthwise_conv2d(active, middle.kernel, [1, 1, 1, 1], "SAME") + middle.bias
    np.testing.assert_allclose(depthwise, second, **close)
    alone = tf.nn.conv2d(second, last.kernel, 1, "SAME") + last.bias
    np.testing.assert_allclose(alone, third - second[..., :2], **close)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "graph.pb"
    with pytest.raises(FileNotFoundError):
        read_frozen_graph(path)
    for content in (b"", b"<html>404</html>", bytes(range(256)), graph_pb2.GraphDef().SerializeToString()):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="no frozen graph"):
            read_frozen_graph(path)
    definition = graph_pb2.GraphDef()
    definition.node.add(name="x", op="Placeholder")
    path.write_bytes(definition.SerializeToString())
    with pytest.raises(ValueError, match="no convolution"):
        read_frozen_graph(path)


def damaged(graph, change):
    definition = graph_pb2.GraphDef()
    definition.CopyFrom(graph[0])
    change({node.name: node for node in definition.node})
    return definition.SerializeToString()


def claim_much(nodes):
    tensor = nodes["B/last/weights"].attr["value"].tensor
    tensor.tensor_content = b""
    tensor.float_val.append(1)
    for place, size in enumerate((1 << 20, 1 << 20, 4, 2)):
        tensor.tensor_shape.dim[place].size = size


def hold_integers(nodes):
    nodes["B/last/weights"].attr["value"].tensor.CopyFrom(tf.make_tensor_proto(np.ones((1, 1, 4, 2), np.int32)))


def hold_too_little(nodes):
    nodes["B/last/weights"].attr["value"].tensor.tensor_content = b"1234"


def take_the_kernel_away(nodes):
    nodes["B/last/Conv2D"].input[1] = "image"


def turn_round(nodes):
    nodes["A/Conv/weights/read"].input[0] = "A/Conv/weights/read"


def widen_the_scale(nodes):
    nodes["A/scale"].attr["value"].tensor.CopyFrom(tf.make_tensor_proto(np.ones((6, 7, 4), np.float32)))


@pytest.mark.parametrize(
    ("change", "message"),
    [(claim_much, "claims the shape"), (hold_integers, "int32"), (hold_too_little, "no array"),
     (take_the_kernel_away, "no constant"), (turn_round, "no constant"), (widen_the_scale, "for 4 channels")],
)  # fmt: skip
def test_damaged_graphs_are_refused(graph, tmp_path, change, message):
    (tmp_path / "graph.pb").write_bytes(damaged(graph, change))
    with pytest.raises(ValueError, match=message):
        read_frozen_graph(tmp_path / "graph.pb")


def test_constants_of_one_number_repeated_fill_no_memory(tmp_path):
    definition = graph_pb2.GraphDef()
    for number in range(8):
        kernel = definition.node.add(name=f"{number}/weights", op="Const")
        value = kernel.attr["value"].tensor
        value.dtype = tf.float32.as_datatype_enum
        value.float_val.append(1)
        for length in (1, 1, 1 << 11, 1 << 11):
            value.tensor_shape.dim.add(size=length)
        definition.node.add(name=f"{number}/conv", op="Conv2D", input=["image", kernel.name])
    (tmp_path / "graph.pb").write_bytes(definition.SerializeToString())
    # Four of them are allowed; the fifth is one too many.
    with pytest.raises(ValueError, match="'4/weights' claims the shape .* room for"):
        read_frozen_graph(tmp_path / "graph.pb")


def written(path, change=lambda definition: None):
    """A graph that can be run, changed in one place."""
    with tf.Graph().as_default() as plain:
        image = tf.compat.v1.placeholder(tf.float32, [None, None, None, 3], "image")
        x = tf.nn.conv2d(image, tf.constant(constant(1, 1, 3, 2), name="c/weights"), 1, "SAME", name="c/conv")
        tf.concat([tf.nn.relu(x), x], 3, name="out")
        tf.io.write_file(tf.constant(str(path.with_name("written"))), "by the graph", name="evil")
        definition = plain.as_graph_def()
    change({node.name: node for node in definition.node})
    path.write_bytes(definition.SerializeToString())
    return path


def test_a_graph_that_only_computes_can_be_run(tmp_path):
    found = runnable_graph(written(tmp_path / "graph.pb"), "out")
    assert {node.op for node in found.node} == {"Placeholder", "Const", "Conv2D", "Relu", "ConcatV2"}


def depend(nodes):
    nodes["out"].input.append("^evil")


def concatenate_along_a_computed_axis(nodes):
    nodes["out"].input[-1] = "c/conv"


def fill_memory(nodes):
    tensor = nodes["c/weights"].attr["value"].tensor
    tensor.tensor_shape.dim[0].size = 1 << 40


def hold_texts(nodes):
    nodes["c/weights"].attr["value"].tensor.CopyFrom(tf.make_tensor_proto("text"))


@pytest.mark.parametrize(
    ("change", "message"),
    [(depend, "'evil' is an operation 'WriteFile', and is not run.*Conv2D.*--check"), (fill_memory, "claims the shape"),
     (concatenate_along_a_computed_axis, "axis that is no constant"), (hold_texts, "neither float32")],
)  # fmt: skip
def test_graphs_that_do_anything_else_are_not_run(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        runnable_graph(written(tmp_path / "graph.pb", change), "out")
    with pytest.raises(ValueError, match="no node 'other'"):
        runnable_graph(tmp_path / "graph.pb", "other")


def test_long_chains_take_no_time(tmp_path):
    """Each of many convolutions behind a long chain of nodes that only hand on."""
    definition, count = graph_pb2.GraphDef(), 3000
    first = definition.node.add(name="0", op="Const")
    first.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(np.ones((1, 1, 1, 1), np.float32)))
    for number in range(count):
        definition.node.add(name=f"{number + 1}", op="Identity", input=[f"{number}"])
    path = tmp_path / "graph.pb"
    path.write_bytes(definition.SerializeToString())
    definition.node.add(name="conv", op="Conv2D", input=["image", f"{count}"])
    path.write_bytes(definition.SerializeToString())
    with pytest.raises(ValueError, match="no constant of four"):
        read_frozen_graph(path)
    definition.node[-1].input[1] = "0"
    definition.node[1].input[0] = "conv"
    path.write_bytes(definition.SerializeToString())
    with pytest.raises(ValueError, match="more than 100 nodes"):
        read_frozen_graph(path)
