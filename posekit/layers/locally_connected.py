"""Layers on graphs of joints: each joint looks at its neighbours, with weights of its own for each of them."""

import numbers

import keras
import numpy as np
from keras import ops

from posekit.ops.locally_connected import locally_connected
from posekit.skeletons import SKELETONS, Skeleton

MASK_INITS = ("random", "ones", "same")


@keras.saving.register_keras_serializable("posekit")
class NeighbourMask(keras.layers.Layer):
    """Weights of the connections between joints: constant, or learnt where joints are neighbours.

    Every `LocallyConnectedGraph` has one of its own, unless it is called with the result of this one, to share it.

    Args:
        adjacency: `[joints, joints]`: row j tells how much joint j takes from every joint, 0 for nothing. It need not
            be binary or symmetric.
        learnable: Whether the weights are learnt: for every joint that gives, a softmax over the givers of each taker,
            0 where `adjacency` is 0.
        initial: Where learnt weights start: `"random"` (uniform in [0, 1)), `"ones"` or `"same"` (the adjacency).
        name: Name of the layer.

    Call arguments:
        inputs: Any tensor; it is not read.

    Returns:
        `[joints, joints]`, from the joint of the row to the joint of the column.

    Raises:
        ValueError: If the adjacency is not square and finite, or `initial` is unknown.

    Example:
        >>> from posekit.skeletons import H36M17
        >>> joints = tf.zeros([8, 17, 2])
        >>> mask = NeighbourMask(H36M17.neighbours(3), learnable=True)(joints)
        >>> first = LocallyConnectedGraph(64, skeleton=H36M17, hops=3)(joints, mask)
        >>> second = LocallyConnectedGraph(64, skeleton=H36M17, hops=3)(first, mask)

    Follows: CHUNYUWANG/lcn-pose/network/models_att.py:cgcnn._initialize_mask.
    """

    def __init__(self, adjacency, learnable=False, initial="random", name=None, dtype="float32", **kwargs):
        super().__init__(name=name, dtype=dtype, **kwargs)
        if initial not in MASK_INITS:
            raise ValueError(f"The mask's init is {initial!r}; choose from {list(MASK_INITS)}.")
        self.adjacency = check_adjacency(adjacency)
        self.learnable, self.initial = bool(learnable), initial
        self.num_joints = len(self.adjacency)
        self.support = self.adjacency.T != 0

    def build(self, input_shape=None):
        """Makes the learnt weights, if any."""
        if self.learnable:
            start = {
                "random": keras.initializers.RandomUniform(0.0, 1.0),
                "ones": "ones",
                "same": lambda shape, dtype: ops.convert_to_tensor(self.adjacency.T, dtype),
            }[self.initial]
            shape = (self.num_joints, self.num_joints)
            self.weight = self.add_weight(name="mask", shape=shape, initializer=start, autocast=False)
        self.built = True

    def call(self, inputs=None):
        """See the class."""
        return self.values()

    def values(self):
        """The weights of the connections, as calling the layer gives them."""
        if not self.learnable:
            return ops.convert_to_tensor(self.adjacency.T, self.variable_dtype)
        return ops.softmax(self.weight, axis=0) * ops.convert_to_tensor(self.support, self.variable_dtype)

    def compute_output_spec(self, inputs=None):
        """`[joints, joints]`."""
        return keras.KerasTensor((self.num_joints, self.num_joints), dtype=self.variable_dtype)

    def get_config(self):
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "adjacency": self.adjacency.tolist(),
            "learnable": self.learnable,
            "initial": self.initial,
        }


@keras.saving.register_keras_serializable("posekit")
class LocallyConnectedGraph(keras.layers.Layer):
    """Linear layer between joints and their neighbours (locally connected network): no weights are shared.

    Args:
        units: Features of every joint in the output.
        adjacency: `[joints, joints]` (see `NeighbourMask`), or None for `skeleton` and `hops`.
        skeleton: `Skeleton`, the name or the configuration (see `skeleton_config`) of one, whose joints are connected
            where they lie within `hops`.
        hops: Longest path between neighbours, in bones or links.
        learnable: Whether the weights of the connections are learnt.
        mask_init: Where learnt ones start: `"random"`, `"ones"` or `"same"`.
        max_norm: Largest norm of the whole kernel; a longer one is scaled down when it is used. None leaves it.
        regularization: Factor of the L2 loss `sum(w ** 2) / 2` of kernel and bias.
        kernel_initializer: Initializer of the kernel; None draws from a normal distribution of variance 2 / rows
            (`joints * features`), cut at two sigma.
        bias_initializer: Initializer of the bias; None draws likewise, with 2 / its own length.
        use_bias: Whether there is a bias.
        name: Name of the layer.

    Call arguments:
        inputs: `[batch, joints, features]`.
        connections: `[joints, joints]`, the result of a `NeighbourMask`, for several layers to share; None for the
            layer's own. Connections that this layer's adjacency lacks count as 0.

    Returns:
        `[batch, joints, units]`.

    Raises:
        ValueError: If the graph or the inputs do not fit, or an option is unknown.

    Example:
        >>> layer = LocallyConnectedGraph(64, skeleton="H36M17", hops=3)
        >>> layer(np.zeros((8, 17, 2), "float32")).shape
        TensorShape([8, 17, 64])

    Reference:
        Ci et al., "Optimizing Network Structure for 3D Human Pose Estimation", ICCV 2019.

    Follows: CHUNYUWANG/lcn-pose/network/models_att.py:cgcnn.two_linear.
    """

    def __init__(
        self,
        units,
        adjacency=None,
        skeleton=None,
        hops=1,
        learnable=False,
        mask_init="random",
        max_norm=1.0,
        regularization=0.0,
        kernel_initializer=None,
        bias_initializer=None,
        use_bias=True,
        name=None,
        **kwargs,
    ):
        super().__init__(name=name, **kwargs)
        if max_norm is not None and not max_norm > 0:
            raise ValueError(f"max_norm is {max_norm!r}; give a positive number, or None for no limit.")
        check_count("units", units, 1)
        if not regularization >= 0:
            raise ValueError(f"regularization is {regularization!r}; give 0 (none) or a positive factor.")
        matrix = graph_adjacency(adjacency, skeleton, hops)
        self.mask_layer = NeighbourMask(matrix, learnable, mask_init, name="mask", dtype=self.dtype_policy)
        self.adjacency, self.skeleton = None if adjacency is None else matrix, find_skeleton(skeleton)
        self.hops, self.learnable, self.mask_init = int(hops), bool(learnable), mask_init
        self.units, self.use_bias = int(units), use_bias
        self.max_norm, self.regularization = max_norm, float(regularization)
        self.kernel_initializer = keras.initializers.get(kernel_initializer or _original_initializer())
        self.bias_initializer = keras.initializers.get(bias_initializer or _original_initializer())

    def build(self, inputs_shape, connections_shape=None):
        """Makes the weights for `[batch, joints, features]`."""
        joints = self.mask_layer.num_joints
        if len(inputs_shape) != 3 or inputs_shape[1] != joints or inputs_shape[2] is None:
            raise ValueError(f"{self.name} takes [batch, {joints}, features], not {tuple(inputs_shape)}.")
        if connections_shape is None or not self.mask_layer.learnable:
            self.mask_layer.build()
        if connections_shape is not None and tuple(connections_shape) != (joints, joints):
            raise ValueError(f"{self.name} takes connections [{joints}, {joints}], not {tuple(connections_shape)}.")
        regularizer = keras.regularizers.L2(self.regularization / 2) if self.regularization else None
        self.kernel = self.add_weight(
            name="kernel",
            shape=(joints * inputs_shape[2], joints * self.units),
            initializer=self.kernel_initializer,
            regularizer=regularizer,
            autocast=False,
        )
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias",
                shape=(joints * self.units,),
                initializer=self.bias_initializer,
                regularizer=regularizer,
                autocast=False,
            )
        self.input_spec = keras.layers.InputSpec(shape=(None, *inputs_shape[1:]))
        self.built = True

    def call(self, inputs, connections=None):
        """See the class."""
        mask, support = self._mask(connections), self.mask_layer.support
        return locally_connected(inputs, self.kernel, mask, self.bias, self.max_norm, support)

    def _mask(self, connections):
        if connections is not None:
            return connections
        if not self.mask_layer.built:
            raise ValueError(
                f"{self.name} was built with shared connections, so it has learnt none of its own; pass connections "
                "in every call."
            )
        return self.mask_layer.values()

    def folded_weights(self, connections=None):
        """The weights as they are used: clipped and masked.

        Args:
            connections: As in a call.

        Returns:
            `(kernel [joints * features, joints * units], bias [joints * units])`, float64 NumPy arrays: the layer
            computes `inputs @ kernel + bias` on `[batch, joints * features]`.

        Raises:
            ValueError: If the layer has no connections of its own.
        """
        mask = ops.convert_to_numpy(self._mask(connections)).astype(np.float64)
        mask = np.where(self.mask_layer.support, mask, 0)
        kernel = ops.convert_to_numpy(self.kernel).astype(np.float64)
        bias = np.zeros(kernel.shape[1]) if self.bias is None else ops.convert_to_numpy(self.bias).astype(np.float64)
        if self.max_norm is not None:
            kernel = kernel * (self.max_norm / max(np.linalg.norm(kernel), self.max_norm))
        blocks = kernel.reshape(len(mask), -1, len(mask), self.units) * mask[:, None, :, None]
        return blocks.reshape(kernel.shape), bias

    def compute_output_shape(self, inputs_shape, connections_shape=None):
        """`[batch, joints, units]`."""
        return (inputs_shape[0], self.mask_layer.num_joints, self.units)

    def get_config(self):
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "units": self.units,
            "adjacency": None if self.adjacency is None else self.adjacency.tolist(),
            "skeleton": skeleton_config(self.skeleton),
            "hops": self.hops,
            "learnable": self.learnable,
            "mask_init": self.mask_init,
            "max_norm": self.max_norm,
            "regularization": self.regularization,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "use_bias": self.use_bias,
        }


def _original_initializer():
    # Keras divides by the deviation that a normal distribution cut at two sigma has left; the original does not.
    return keras.initializers.VarianceScaling(2.0 * 0.87962566103423978**2, "fan_in", "truncated_normal")


def graph_adjacency(adjacency=None, skeleton=None, hops=1):
    """Adjacency of a layer or model, given as a matrix or by skeleton and hops.

    Args:
        adjacency: `[joints, joints]` or None.
        skeleton: What `find_skeleton` takes.
        hops: Longest path between neighbours.

    Returns:
        Float32 `[joints, joints]`.

    Raises:
        ValueError: If neither is given, or they disagree.
    """
    check_count("hops", hops, 0)
    skeleton = find_skeleton(skeleton)
    if adjacency is None:
        if skeleton is None:
            raise ValueError("skeleton is None; pass an adjacency matrix, a Skeleton or a name of one.")
        return skeleton.neighbours(hops).astype(np.float32)
    adjacency = check_adjacency(adjacency)
    if skeleton is not None and skeleton.num_joints != len(adjacency):
        raise ValueError(
            f"The adjacency has {len(adjacency)} joints and the skeleton {skeleton.name!r} {skeleton.num_joints}."
        )
    return adjacency


def find_skeleton(skeleton):
    """The skeleton that an argument means.

    Args:
        skeleton: `Skeleton`, the name of one, what `skeleton_config` gave for one, or None.

    Returns:
        `Skeleton` or None.

    Raises:
        ValueError: If there is no such skeleton.
    """
    if isinstance(skeleton, dict):
        return Skeleton(**skeleton)
    if isinstance(skeleton, str) and skeleton in SKELETONS:
        return SKELETONS[skeleton]
    if skeleton is not None and not isinstance(skeleton, Skeleton):
        raise ValueError(f"skeleton is {skeleton!r}; choose from {list(SKELETONS)}, or pass a Skeleton.")
    return skeleton


def skeleton_config(skeleton):
    """A skeleton for the configuration of a layer or model, without objects.

    Args:
        skeleton: `Skeleton` or None.

    Returns:
        Its name if posekit knows it, else a dict of its fields; None for None.
    """
    if skeleton is None or SKELETONS.get(skeleton.name) == skeleton:
        return skeleton and skeleton.name
    return {
        "name": skeleton.name,
        "joints": list(skeleton.joints),
        "bone_names": [list(pair) for pair in skeleton.bone_names],
        "link_names": [list(pair) for pair in skeleton.link_names],
        "limb_names": [list(pair) for pair in skeleton.limb_names],
        "grouping_names": [list(pair) for pair in skeleton.grouping_names],
    }


def check_count(name, value, least):
    """Refuses what is no whole number or too small.

    Args:
        name: Name of the argument.
        value: What was given.
        least: Smallest number allowed.

    Raises:
        ValueError: If the value is not one.
    """
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} is {value!r}; give a whole number, {least} or more.")


def check_adjacency(adjacency):
    """Refuses what is no square matrix of finite numbers.

    Args:
        adjacency: What was given.

    Returns:
        Float32 `[joints, joints]`.

    Raises:
        ValueError: If it is not square, empty or not finite.
    """
    matrix = np.asarray(adjacency, np.float32)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:
        raise ValueError(f"The adjacency has the shape {matrix.shape}; it must be square, [joints, joints].")
    if not np.isfinite(matrix).all():
        raise ValueError("The adjacency holds values that are not finite.")
    return matrix
