"""Frozen TensorFlow graphs (`.pb`): the weights of their convolutions, read without running anything.

Batch normalisation and scaling that stand behind a convolution are folded into its kernel and bias, so that graphs
come out the same whether or not that was done when they were frozen.

Whoever wants to run a graph from elsewhere takes it through `runnable_graph`: a graph is a program, whose operations
can read and write files.
"""

import dataclasses
import math
import os

import numpy as np

from posekit.files import regular_file

MAX_BYTES = 1 << 30
# Numbers that constants may claim beyond one for each byte of the file, and in all: a single number that is repeated
# takes no room in the file.
_SPARE_NUMBERS, _MAX_NUMBERS = 1 << 24, 1 << 28
_CONVOLUTIONS = {"Conv2D": False, "DepthwiseConv2dNative": True}
_FORWARDING = ("Identity", "StopGradient", "CheckNumerics")
_NORMS = ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")
_SUMS = ("BiasAdd", "BiasAddV1", "Add", "AddV2")
# Operations that only compute, whose results are no larger than what they are given says.
RUNNABLE = tuple(
    sorted(
        (
            *_CONVOLUTIONS, *_FORWARDING, *_NORMS, *_SUMS, "AvgPool", "ConcatV2", "Const", "Elu", "LeakyRelu",
            "MaxPool", "Mul", "Placeholder", "Relu", "Relu6", "ResizeBilinear", "ResizeNearestNeighbor", "Sigmoid",
            "Sub", "Tanh",
        )
    )
)  # fmt: skip
# Inputs whose values tell the size or the axis of the result: TensorFlow evaluates them while it imports a graph.
_PLAIN_INPUTS = {"ConcatV2": -1, "ResizeBilinear": 1, "ResizeNearestNeighbor": 1}
# Nodes one after another that only hand a tensor on, or that scale and shift it.
_MAX_CHAIN = 100


@dataclasses.dataclass(frozen=True)
class Convolution:
    """Weights of one convolution.

    Args:
        kernel: `[h, w, in, out]` float32, or `[h, w, in, multiplier]` of a depthwise one.
        bias: `[channels]` float32, zeros where the graph adds nothing.
        depthwise: Whether it convolves each channel for itself.
    """

    kernel: np.ndarray
    bias: np.ndarray
    depthwise: bool


def read_frozen_graph(path):
    """Reads the convolutions of a frozen graph.

    Args:
        path: File with a serialised `GraphDef`.

    Returns:
        Dict from the scope of a kernel, such as `"MobilenetV1/Conv2d_0"`, to `Convolution`, in the graph's order.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no graph, is too large, or its convolutions are not constants of floating-point numbers.
    """
    graph, spare = _read(path)
    nodes, readers = _Nodes({node.name: node for node in graph.node}, spare), {}
    for node in graph.node:
        for source in node.input:
            readers.setdefault(_plain(source), []).append(node)
    found = {}
    try:
        for node in graph.node:
            if node.op in _CONVOLUTIONS:
                scope, convolution = _convolution(node, nodes, readers)
                found[scope] = convolution
    except ValueError as error:
        raise ValueError(f"{path}: {error}; name a frozen graph with float weights.") from None
    if not found:
        raise ValueError(f"{path} holds no convolution; name a frozen graph of an OpenPose network.")
    return found


def runnable_graph(path, output):
    """Reads a frozen graph that does nothing but compute.

    Args:
        path: File with a serialised `GraphDef`.
        output: Name of the node whose value is wanted.

    Returns:
        `GraphDef` of the nodes that it needs, without devices, attributes for TensorFlow's inner workings and
        functions.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no graph, is too large, has no such node, or would do something else than `RUNNABLE`.
    """
    from tensorflow.core.framework import graph_pb2, types_pb2

    graph, spare = _read(path)
    nodes = _Nodes({node.name: node for node in graph.node}, spare)
    wanted, needed = [output], {}
    while wanted:
        name = _plain(wanted.pop())
        if name in needed:
            continue
        node = nodes.get(name)
        if node is None:
            raise ValueError(f"{path} has no node {name!r:.120}; it is a graph of another network.")
        if node.op not in RUNNABLE:
            raise ValueError(
                f"{path}: {node.name!r:.120} is an operation {node.op!r:.60}, and is not run; graphs from elsewhere "
                f"may hold {', '.join(RUNNABLE)}. Leave --check away to take the weights alone."
            )
        needed[name] = node
        wanted += node.input
    try:
        for node in needed.values():
            if node.op == "Const":
                if node.attr["value"].tensor.dtype not in (types_pb2.DT_FLOAT, types_pb2.DT_INT32):
                    raise ValueError(f"{node.name!r:.120} holds neither float32 nor int32")
                _claim(node, nodes)
            place = _PLAIN_INPUTS.get(node.op)
            if place is not None:
                source = _source(node.input[place], nodes) if len(node.input) > 1 else None
                if source is None or source.op != "Const":
                    raise ValueError(f"{node.name!r:.120} has a size or an axis that is no constant")
    except ValueError as error:
        raise ValueError(f"{path}: {error}; it is not run. Leave --check away to take the weights alone.") from None
    plain = graph_pb2.GraphDef(versions=graph.versions)
    for node in needed.values():
        added = plain.node.add()
        added.CopyFrom(node)
        added.device = ""
        for key in [key for key in added.attr if key.startswith("_")]:
            del added.attr[key]
    return plain


def _read(path):
    """A graph, and how many numbers its constants may hold."""
    path = regular_file(path)
    size = os.path.getsize(path)
    if size > MAX_BYTES:
        raise ValueError(f"{path} has {size} bytes; a frozen graph has {MAX_BYTES} at most.")
    return _parse(path), min(size + _SPARE_NUMBERS, _MAX_NUMBERS)


def _parse(path):
    # TensorFlow is slow to import, and its protobuf classes are all that is needed.
    from google.protobuf.message import DecodeError
    from tensorflow.core.framework import graph_pb2

    graph = graph_pb2.GraphDef()
    try:
        graph.ParseFromString(path.read_bytes())
    except (DecodeError, RecursionError) as error:
        raise ValueError(f"{path} is no frozen graph ({error}); name a .pb file with a GraphDef.") from None
    if not graph.node:
        raise ValueError(f"{path} is no frozen graph: it has no nodes; name a .pb file with a GraphDef.")
    return graph


class _Nodes(dict):
    """Nodes by their names, and how many more numbers their constants may hold."""

    def __init__(self, nodes, numbers_left):
        super().__init__(nodes)
        self.numbers_left = numbers_left


def _plain(name):
    """Name of the node that gives a tensor."""
    return name.removeprefix("^").partition(":")[0]


def _source(name, nodes):
    """The node that a tensor comes from, past nodes that only hand it on; None if there is none, or far away."""
    for _ in range(_MAX_CHAIN):
        node = nodes.get(_plain(name))
        if node is None or node.op not in _FORWARDING or not node.input:
            return node
        name = node.input[0]
    return None


def _constant(name, nodes):
    """Array of a constant, None for any other node."""
    node = _source(name, nodes)
    if node is None or node.op != "Const":
        return None
    from tensorflow.python.framework import tensor_util

    _claim(node, nodes)
    try:
        value = np.asarray(tensor_util.MakeNdarray(node.attr["value"].tensor))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{node.name!r:.120} is no array ({error!s:.200})") from None
    if value.dtype.kind != "f":
        raise ValueError(f"{node.name!r:.120} holds {value.dtype}, not floating-point numbers")
    return value.astype(np.float32)


def _claim(node, nodes):
    """Refuses a constant that takes more memory than is left for constants."""
    shape = [dimension.size for dimension in node.attr["value"].tensor.tensor_shape.dim]
    if min(shape, default=0) < 0 or math.prod(shape) > nodes.numbers_left:
        raise ValueError(f"{node.name!r:.120} claims the shape {shape!s:.100}, more than such a file has room for")
    nodes.numbers_left -= math.prod(shape)


def _convolution(node, nodes, readers):
    depthwise = _CONVOLUTIONS[node.op]
    if len(node.input) < 2:
        raise ValueError(f"{node.name!r:.120} has no kernel")
    kernel, holder = _constant(node.input[1], nodes), _source(node.input[1], nodes)
    if kernel is None or kernel.ndim != 4:
        raise ValueError(f"the kernel of {node.name!r:.120} is no constant of four dimensions")
    scope = holder.name.rpartition("/")[0] or holder.name
    channels = kernel.shape[2] * kernel.shape[3] if depthwise else kernel.shape[3]
    scale, bias = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    for step in _affine_steps(node, nodes, readers):
        factor, offset = step
        for value in (factor, offset):
            if value.shape not in ((), (channels,)):
                raise ValueError(f"behind {node.name!r:.120} stands {value.shape} for {channels} channels")
        scale, bias = scale * factor, bias * factor + offset
    shape = (1, 1, kernel.shape[2], kernel.shape[3]) if depthwise else (1, 1, 1, channels)
    return scope, Convolution(kernel * scale.reshape(shape), bias, depthwise)


def _affine_steps(node, nodes, readers):
    """Factor and offset of each operation with constants that alone reads the one before it."""
    name = node.name
    for _ in range(_MAX_CHAIN):
        following = readers.get(name, [])
        step = _affine_step(following[0], name, nodes) if len(following) == 1 else None
        if step is None:
            return
        yield step
        name = following[0].name
    raise ValueError(f"behind {node.name!r:.120} stand more than {_MAX_CHAIN} nodes that scale or shift")


def _affine_step(node, name, nodes):
    one, zero = np.float32(1), np.float32(0)
    if node.op in _FORWARDING:
        return one, zero
    if node.op in _NORMS and len(node.input) >= 5 and _plain(node.input[0]) == name:
        gamma, beta, mean, variance = (_constant(source, nodes) for source in node.input[1:5])
        if any(value is None for value in (gamma, beta, mean, variance)):
            raise ValueError(f"{node.name!r:.120} has statistics that are no constants")
        factor = gamma / np.sqrt(variance + np.float32(node.attr["epsilon"].f))
        return factor, beta - mean * factor
    if node.op in (*_SUMS, "Mul") and len(node.input) == 2:
        other = node.input[1] if _plain(node.input[0]) == name else node.input[0]
        value = _constant(other, nodes)
        if value is None:
            return None
        return (value, zero) if node.op == "Mul" else (one, value)
    return None
