"""LCN: from the joints of one person in a picture to their places in space."""

import keras
import numpy as np
from keras import ops

from posekit.layers.fused import BitDropout, FusedBatchNormalization
from posekit.layers.locally_connected import (
    LocallyConnectedGraph,
    NeighbourMask,
    check_count,
    find_skeleton,
    graph_adjacency,
    skeleton_config,
)
from posekit.skeletons import H36M17

MASK_TYPES = ("locally_connected", "locally_connected_learnable")
FOLDED_DTYPES = ("float32", "bfloat16")
# Numbers in all kernels together: 2 GiB, 75 times those of the published network.
LARGEST_SIZE = 2**29


@keras.saving.register_keras_serializable("posekit")
class LCN(keras.Model):
    """Locally connected network that lifts 2-D joints to 3-D joints.

    Args:
        skeleton: `Skeleton` or the name of one.
        adjacency: `[joints, joints]` (see `NeighbourMask`); None connects joints within `hops` in the skeleton.
        hops: Longest path between neighbours, in bones or links.
        channels: Features of every joint in the hidden layers.
        num_layers: Number of blocks of two layers each. Its kernels may have `LARGEST_SIZE` numbers together.
        in_features: 2, or 3 with the confidence of each joint.
        mask_type: `"locally_connected"`, or `"locally_connected_learnable"` for connections with learnt weights.
        mask_init: Where learnt weights start: `"random"`, `"ones"` or `"same"` (the adjacency).
        residual: Whether a block adds its input to its output.
        max_norm: Largest norm of a kernel as a whole, above 0; True for 1, False or None for no limit.
        batch_norm: Whether there is batch normalisation, over the features of all joints alike.
        dropout: Rate of dropout.
        regularization: Factor of the L2 loss `sum(w ** 2) / 2` of all kernels and biases.
        batch_norm_momentum: Share of the running statistics that stays in every training step, 0 to below 1.
        name: Name of the model.
        dtype: Type, or name of the dtype policy, of all layers; None for the global policy. What comes out is float32.
        trainable: Whether the weights are trained.

    Call arguments:
        joints: `[batch, joints, in_features]`: x and y of a normalised screen pose, and the confidence if there is one.
        training: Whether batch normalisation and dropout are in training mode.

    Returns:
        `[batch, joints, 3]` float32: the normalised screen pose; x and y are the input's with a correction.

    Raises:
        ValueError: If an option is unknown or does not fit the others.

    Example:
        >>> LCN()(np.zeros((4, 17, 2), "float32")).shape
        TensorShape([4, 17, 3])

    Reference:
        Ci et al., "Optimizing Network Structure for 3D Human Pose Estimation", ICCV 2019.

    Follows: CHUNYUWANG/lcn-pose/network/models_att.py:cgcnn.
    """

    def __init__(
        self,
        skeleton=H36M17,
        adjacency=None,
        hops=3,
        channels=64,
        num_layers=3,
        in_features=2,
        mask_type="locally_connected",
        mask_init="random",
        residual=True,
        max_norm=True,
        batch_norm=True,
        dropout=0.25,
        regularization=0.0,
        batch_norm_momentum=0.99,
        name="lcn",
        dtype=None,
        trainable=True,
    ):
        if mask_type not in MASK_TYPES:
            raise ValueError(f"mask_type is {mask_type!r}; choose from {list(MASK_TYPES)}.")
        if in_features not in (2, 3):
            raise ValueError(f"in_features is {in_features!r}; choose 2 (x, y) or 3 (x, y, confidence).")
        check_count("in_features", in_features, 2)
        check_count("channels", channels, 1)
        check_count("num_layers", num_layers, 0)
        limit = 1.0 if max_norm is True else None if max_norm is False else max_norm
        if limit is not None and not limit > 0:
            raise ValueError(f"max_norm is {max_norm!r}; give a positive number, True for 1 or False for no limit.")
        if not 0 <= batch_norm_momentum < 1:
            raise ValueError(f"batch_norm_momentum is {batch_norm_momentum!r}; give 0 to below 1.")
        policy = keras.dtype_policies.get(dtype)
        skeleton = find_skeleton(skeleton)
        matrix = graph_adjacency(adjacency, skeleton, hops)
        size = len(matrix) ** 2 * int(channels) * (in_features + 2 * int(num_layers) * int(channels) + 3)
        if size > LARGEST_SIZE:
            raise ValueError(
                f"channels={channels} and num_layers={num_layers} make kernels of {size:.2g} numbers; at most "
                f"{LARGEST_SIZE:.2g} are allowed. Give fewer channels or layers."
            )

        # === Layers ===
        learnt = mask_type == "locally_connected_learnable"
        mask = NeighbourMask(matrix, True, mask_init, name="mask", dtype=policy)
        options = {"max_norm": limit, "regularization": regularization, "dtype": policy}

        def linear(features, units, layer_name):
            layer = LocallyConnectedGraph(units, adjacency, skeleton, hops, name=layer_name, **options)
            return layer(features, connections)

        def hidden(features, layer_name):
            features = linear(features, channels, layer_name)
            if batch_norm:
                norm = FusedBatchNormalization(momentum=batch_norm_momentum, name=f"{layer_name}_norm", dtype=policy)
                features = norm(features)
            activation = keras.layers.LeakyReLU(negative_slope=0.2, name=f"{layer_name}_activation", dtype=policy)
            return BitDropout(dropout, name=f"{layer_name}_dropout", dtype=policy)(activation(features))

        # === Functional graph ===
        joints = keras.Input((len(matrix), in_features), name="joints")
        connections = mask(joints) if learnt else None
        features = hidden(joints, "first")
        for block in range(num_layers):
            after = hidden(hidden(features, f"block_{block}_a"), f"block_{block}_b")
            features = features + after if residual else after
        pose = _add_offset(joints, ops.cast(linear(features, 3, "last"), "float32"))
        super().__init__(inputs=joints, outputs=pose, name=name)
        self.dtype_policy = policy
        self.trainable = trainable

        # === Config ===
        self.skeleton = skeleton
        self.adjacency = None if adjacency is None else matrix
        self.hops = hops
        self.channels = channels
        self.num_layers = num_layers
        self.in_features = in_features
        self.mask_type = mask_type
        self.mask_init = mask_init
        self.residual = residual
        self.max_norm = max_norm
        self.batch_norm = batch_norm
        self.dropout = dropout
        self.regularization = regularization
        self.batch_norm_momentum = batch_norm_momentum

    @property
    def learnt_mask(self):
        """Whether the weights of the connections are learnt."""
        return self.mask_type == "locally_connected_learnable"

    def folded(self, dtype="float32"):
        """The network with its present weights for prediction: fewer operations, the same results.

        Masks, norms and batch normalisation are multiplied into the kernels once, instead of in every call; a layer is
        then one dense layer. The model that comes back does not follow later changes of this one.

        Args:
            dtype: Type in which it computes and keeps its weights: `"float32"`, or `"bfloat16"` on processors that
                compute in it (results then differ in the third digit). What comes out is float32.

        Returns:
            A `keras.Model`, `[batch, joints, in_features]` to `[batch, joints, 3]`, of Keras's own layers.

        Raises:
            ValueError: If there is no such type.

        Example:
            >>> fast = tf.function(LCN().folded())
            >>> fast(np.zeros((200, 17, 2), "float32")).shape
            TensorShape([200, 17, 3])
        """
        if dtype not in FOLDED_DTYPES:
            raise ValueError(f"dtype is {dtype!r}; choose from {list(FOLDED_DTYPES)}.")
        number = self.output_shape[1]
        connections = self.get_layer("mask").values() if self.learnt_mask else None

        def linear(features, layer_name):
            layer = self.get_layer(layer_name)
            kernel, bias = layer.folded_weights(connections)
            if self.batch_norm and layer_name != "last":
                scale, shift = _scale_and_shift(self.get_layer(f"{layer_name}_norm"))
                kernel, bias = kernel * np.tile(scale, number), bias * np.tile(scale, number) + np.tile(shift, number)
            dense = keras.layers.Dense(len(bias), dtype=dtype, name=layer_name)
            dense.build(features.shape)
            dense.set_weights([kernel, bias])
            return dense(features)

        def hidden(features, layer_name):
            return ops.leaky_relu(linear(features, layer_name), negative_slope=0.2)

        joints = keras.Input(self.input_shape[1:], name="joints")
        features = hidden(ops.cast(ops.reshape(joints, (-1, number * self.in_features)), dtype), "first")
        for block in range(self.num_layers):
            after = hidden(hidden(features, f"block_{block}_a"), f"block_{block}_b")
            features = features + after if self.residual else after
        offset = ops.cast(ops.reshape(linear(features, "last"), (-1, number, 3)), "float32")
        return keras.Model(joints, _add_offset(joints, offset), name=f"{self.name}_folded")

    def get_config(self):
        """The constructor's arguments."""
        return {
            "skeleton": skeleton_config(self.skeleton),
            "adjacency": None if self.adjacency is None else self.adjacency.tolist(),
            "hops": self.hops,
            "channels": self.channels,
            "num_layers": self.num_layers,
            "in_features": self.in_features,
            "mask_type": self.mask_type,
            "mask_init": self.mask_init,
            "residual": self.residual,
            "max_norm": self.max_norm,
            "batch_norm": self.batch_norm,
            "dropout": self.dropout,
            "regularization": self.regularization,
            "batch_norm_momentum": self.batch_norm_momentum,
            "name": self.name,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "trainable": self.trainable,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Rebuilds the model without its weights."""
        return cls(**config)


def original_variables(model):
    """The model's variables under the names of the original's checkpoints.

    Args:
        model: An `LCN`.

    Returns:
        List of pairs `(name, variable)` in the original's order, such as `("linear_model/two_linear_0/w2_0", kernel)`.
        Shapes are the same on both sides.

    Follows: CHUNYUWANG/lcn-pose/network/models_att.py:cgcnn._inference_lcn.
    """
    pairs = []
    if model.learnt_mask:
        pairs.append(("mask", model.get_layer("mask").weight))

    def add(layer_name, scope, number, norm):
        layer = model.get_layer(layer_name)
        pairs.extend([(f"{scope}/w{number}", layer.kernel), (f"{scope}/b{number}", layer.bias)])
        if norm and model.batch_norm:
            values = model.get_layer(f"{layer_name}_norm")
            for kind in ("gamma", "beta", "moving_mean", "moving_variance"):
                pairs.append((f"{scope}/{norm}/{kind}", getattr(values, kind)))

    add("first", "linear_model", "1", "batch_normalization")
    for block in range(model.num_layers):
        scope = f"linear_model/two_linear_{block}"
        add(f"block_{block}_a", scope, f"2_{block}", f"batch_normalization1{block}")
        add(f"block_{block}_b", scope, f"3_{block}", f"batch_normalization2{block}")
    add("last", "linear_model", "4", None)
    return pairs


def _add_offset(joints, offset):
    """X and y count from the input's, z from nothing."""
    moved = ops.cast(joints[..., :2], "float32") + offset[..., :2]
    return ops.concatenate([moved, offset[..., 2:]], axis=-1)


def _scale_and_shift(norm):
    """What batch normalisation does to a feature in prediction."""
    gamma, beta, mean, variance = (
        ops.convert_to_numpy(weight).astype(np.float64)
        for weight in (norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance)
    )
    scale = gamma / np.sqrt(variance + norm.epsilon)
    return scale, beta - mean * scale
