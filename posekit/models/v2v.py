"""V2V-PoseNet: from a cube of occupied voxels to the joints in it."""

import math
import numbers

import keras
from keras import ops

from posekit.layers.locally_connected import check_count
from posekit.layers.volumetric import (
    EPSILON,
    KERNEL_STDDEV,
    MOMENTUM,
    BasicBlock3D,
    ResidualBlock3D,
    UpsampleBlock3D,
    VolumetricSoftArgmax,
)

HEADS = ("heatmap", "integral")
# The cube is halved three times on its way through the network.
MULTIPLE = 8

# Layers and the modules of the original's state_dict, in its order.
_MODULES = {
    "front": "front_layers.0",
    "front_residual_1": "front_layers.2",
    "front_residual_2": "front_layers.3",
    "front_residual_3": "front_layers.4",
    "encoder_1": "encoder_decoder.encoder_res1",
    "encoder_2": "encoder_decoder.encoder_res2",
    "middle": "encoder_decoder.mid_res",
    "decoder_2": "encoder_decoder.decoder_res2",
    "upsample_2": "encoder_decoder.decoder_upsample2",
    "decoder_1": "encoder_decoder.decoder_res1",
    "upsample_1": "encoder_decoder.decoder_upsample1",
    "skip_1": "encoder_decoder.skip_res1",
    "skip_2": "encoder_decoder.skip_res2",
    "back_residual": "back_layers.0",
    "back_1": "back_layers.1",
    "back_2": "back_layers.2",
    "last": "output_layer",
}
# PyTorch: out, in, x, y, z, and in, out, x, y, z where transposed; Keras: x, y, z, in, out and x, y, z, out, in.
_KERNEL_AXES = (2, 3, 4, 1, 0)


@keras.saving.register_keras_serializable("posekit")
class V2VPoseNet(keras.Model):
    """Voxel-to-voxel network: a cube of voxels to a volume of half its size for each joint.

    It is fully convolutional: one network reads cubes, and boxes, of any size that is a multiple of 8 voxels.

    Args:
        num_joints: Joints.
        width: Channels of the first layer; the deeper layers have twice, four times and eight times as many.
        head: `"heatmap"`: volumes whose peaks are the joints; `"integral"`: also the mean places of their softmax.
        cube_size: Voxels along the edge of the cube, a multiple of 8, if it is always the same; None for any.
        in_channels: Channels of the input.
        batch_norm_momentum: Share of the running statistics that stays in every training step, 0 to below 1.
        batch_norm_epsilon: Added to the variance, above 0.
        kernel_initializer: Start of the kernels; None for a normal distribution of standard deviation 0.001.
        remat: Whether training computes the inside of every block anew on the way back instead of keeping it: less
            memory, more time, the same gradients.
        name: Name of the model.
        dtype: Type, or name of the dtype policy, of all layers; None for the global policy. What comes out is float32,
            as are values while they are pooled, unless the type is bfloat16.
        trainable: Whether the weights are trained.

    Call arguments:
        voxels: `[batch, x, y, z, in_channels]`, 1 where a voxel is occupied, else 0.
        training: Whether batch normalisation is in training mode.

    Returns:
        `[batch, x / 2, y / 2, z / 2, num_joints]` float32. For the integral head a dict: `"heatmaps"`, the same, and
        `"coordinates"`, `[batch, num_joints, 3]` float32 in their voxels; voxel i stands at i.

    Raises:
        ValueError: If an option is unknown, or a cube's size is no multiple of 8.

    Example:
        >>> V2VPoseNet(width=4)(np.zeros((2, 24, 24, 24, 1), "float32")).shape
        TensorShape([2, 12, 12, 12, 21])

    Reference:
        Moon et al., "V2V-PoseNet: Voxel-to-Voxel Prediction Network for Accurate 3D Hand and Human Pose Estimation
        from a Single Depth Map", CVPR 2018.

    Follows: dragonbook/V2V-PoseNet-pytorch src/v2v_model.py:V2VModel, integral-pose/model.py:Model.
    """

    def __init__(
        self,
        num_joints=21,
        width=16,
        head="heatmap",
        cube_size=None,
        in_channels=1,
        batch_norm_momentum=MOMENTUM,
        batch_norm_epsilon=EPSILON,
        kernel_initializer=None,
        remat=False,
        name="v2v",
        dtype=None,
        trainable=True,
    ):
        if head not in HEADS:
            raise ValueError(f"head is {head!r}; choose from {list(HEADS)}.")
        check_count("num_joints", num_joints, 1)
        check_count("width", width, 1)
        check_count("in_channels", in_channels, 1)
        if cube_size is not None:
            check_count("cube_size", cube_size, MULTIPLE)
            _check_size((cube_size,))
        if not (isinstance(batch_norm_momentum, numbers.Real) and 0 <= batch_norm_momentum < 1):
            raise ValueError(f"batch_norm_momentum is {batch_norm_momentum!r}; give 0 to below 1.")
        if not (isinstance(batch_norm_epsilon, numbers.Real) and 0 < batch_norm_epsilon < math.inf):
            raise ValueError(f"batch_norm_epsilon is {batch_norm_epsilon!r}; give a number above 0, such as 1e-5.")
        policy = keras.dtype_policies.get(dtype)
        if kernel_initializer is None:
            kernel_initializer = keras.initializers.RandomNormal(stddev=KERNEL_STDDEV)
        kernel_initializer = keras.initializers.get(kernel_initializer)

        # === Layers ===
        options = {
            "momentum": batch_norm_momentum,
            "epsilon": batch_norm_epsilon,
            "kernel_initializer": kernel_initializer,
            "remat": remat,
            "dtype": policy,
        }

        def basic(features, filters, kernel_size, layer_name):
            return BasicBlock3D(filters, kernel_size, name=layer_name, **options)(features)

        def residual(features, filters, layer_name):
            return ResidualBlock3D(filters, name=layer_name, **options)(features)

        def upsample(features, filters, layer_name):
            return UpsampleBlock3D(filters, name=layer_name, **options)(features)

        # Processors have no pooling of volumes in other types.
        pooling = policy if policy.compute_dtype in ("float32", "bfloat16") else "float32"

        def pool(features, layer_name):
            return keras.layers.MaxPooling3D(2, name=layer_name, dtype=pooling)(features)

        # === Functional graph ===
        voxels = keras.Input((cube_size, cube_size, cube_size, in_channels), name="voxels")
        features = pool(basic(voxels, width, 7, "front"), "front_pool")
        for number in (1, 2, 3):
            features = residual(features, 2 * width, f"front_residual_{number}")
        skip_1 = residual(features, 2 * width, "skip_1")
        features = residual(pool(features, "encoder_pool_1"), 4 * width, "encoder_1")
        skip_2 = residual(features, 4 * width, "skip_2")
        features = residual(pool(features, "encoder_pool_2"), 8 * width, "encoder_2")
        features = residual(residual(features, 8 * width, "middle"), 8 * width, "decoder_2")
        features = upsample(features, 4 * width, "upsample_2")
        features = keras.layers.Add(name="add_2", dtype=policy)([features, skip_2])
        features = upsample(residual(features, 4 * width, "decoder_1"), 2 * width, "upsample_1")
        features = keras.layers.Add(name="add_1", dtype=policy)([features, skip_1])
        features = residual(features, 2 * width, "back_residual")
        features = basic(basic(features, 2 * width, 1, "back_1"), 2 * width, 1, "back_2")
        start = keras.initializers.serialize(kernel_initializer)
        last = keras.layers.Conv3D(num_joints, 1, kernel_initializer=start, name="last", dtype=policy)
        heatmaps = ops.cast(last(features), "float32")
        outputs = heatmaps
        if head == "integral":
            outputs = {"heatmaps": heatmaps, "coordinates": VolumetricSoftArgmax(name="coordinates")(heatmaps)}
        super().__init__(inputs=voxels, outputs=outputs, name=name)
        self.dtype_policy = policy
        self.trainable = trainable

        # === Config ===
        self.num_joints = num_joints
        self.width = width
        self.head = head
        self.cube_size = cube_size
        self.in_channels = in_channels
        self.batch_norm_momentum = batch_norm_momentum
        self.batch_norm_epsilon = batch_norm_epsilon
        self.kernel_initializer = kernel_initializer
        self.remat = bool(remat)

    def call(self, inputs, training=None, mask=None):
        """See the class."""
        if len(inputs.shape) == 5:
            _check_size(inputs.shape[1:4])
        return super().call(inputs, training=training, mask=mask)

    def get_config(self):
        """The constructor's arguments."""
        return {
            "num_joints": self.num_joints,
            "width": self.width,
            "head": self.head,
            "cube_size": self.cube_size,
            "in_channels": self.in_channels,
            "batch_norm_momentum": self.batch_norm_momentum,
            "batch_norm_epsilon": self.batch_norm_epsilon,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "remat": self.remat,
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

    The checkpoints' counters `num_batches_tracked` have no counterpart.

    Args:
        model: A `V2VPoseNet`.

    Returns:
        List of `(name, variable, axes)` in the order of the original's `state_dict`, such as
        `("front_layers.0.block.0.weight", kernel, (2, 3, 4, 1, 0))`; `np.transpose(array, axes)` brings the original's
        array into the variable's layout. The integral variant puts `basic_model.` before every name.

    Follows: dragonbook/V2V-PoseNet-pytorch src/v2v_model.py:V2VModel.
    """
    rows = []

    def convolution(module, layer):
        rows.extend([(f"{module}.weight", layer.kernel, _KERNEL_AXES), (f"{module}.bias", layer.bias, (0,))])

    def norm(module, layer):
        kinds = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
        rows.extend((f"{module}.{name}", getattr(layer, kind), (0,)) for name, kind in kinds.items())

    for layer_name, module in _MODULES.items():
        layer = model.get_layer(layer_name)
        if isinstance(layer, ResidualBlock3D):
            convolution(f"{module}.res_branch.0", layer.first_convolution)
            norm(f"{module}.res_branch.1", layer.first_norm)
            convolution(f"{module}.res_branch.3", layer.second_convolution)
            norm(f"{module}.res_branch.4", layer.second_norm)
            if layer.skip_convolution is not None:
                convolution(f"{module}.skip_con.0", layer.skip_convolution)
                norm(f"{module}.skip_con.1", layer.skip_norm)
        elif layer_name == "last":
            convolution(module, layer)
        else:
            convolution(f"{module}.block.0", layer.convolution)
            norm(f"{module}.block.1", layer.norm)
    return rows


def _check_size(edges):
    for edge in edges:
        if edge is not None and (edge % MULTIPLE or edge == 0):
            below = edge // MULTIPLE * MULTIPLE
            fitting = f"{below} or {below + MULTIPLE}" if below else f"{MULTIPLE}"
            raise ValueError(
                f"A cube's edge has {edge} voxels; it must be a multiple of {MULTIPLE}, such as {fitting}."
            )
