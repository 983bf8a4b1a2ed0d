"""OpenPose networks: from a picture to part affinity fields and heatmaps, refined stage by stage."""

import dataclasses
import pathlib

import keras
import tensorflow as tf
from keras import ops

from posekit.files import load_weights
from posekit.layers.locally_connected import check_count

# Picture pixels along one pixel of the maps.
STRIDE = 8
CHANNEL_ORDERS = ("rgb", "bgr")
OUTPUTS = ("last", "all")
# Branches by the number in the layers' names, in the order in which later stages read them.
BRANCHES = {"L1": "pafs", "L2": "heatmaps"}
BATCH_NORM_EPSILON = 1e-3
_BATCH_NORM_MOMENTUM = 0.999
_VGG_STDDEV = 0.01
_CHANNELS_MULTIPLE = 8


@dataclasses.dataclass(frozen=True)
class _Backbone:
    family: str
    backbone_width: float
    stage_width: float


# Of the MobileNets, widths as the public trained networks have them.
BACKBONES = {
    "vgg19": _Backbone("vgg", 1.0, 1.0),
    "mobilenet_thin": _Backbone("mobilenet", 0.75, 0.5),
    "mobilenet_v2_large": _Backbone("mobilenet_v2", 1.4, 1.0),
    "mobilenet_v2_small": _Backbone("mobilenet_v2", 0.5, 0.5),
}

# Ten convolutions of VGG19 in four blocks: name of the block, channels, number; and Keras' names of the same.
_VGG_BLOCKS = ((1, 64, 2), (2, 128, 2), (3, 256, 4), (4, 512, 2))
VGG19_LAYERS = {
    f"conv{block}_{number}": f"block{block}_conv{number}"
    for block, _, count in _VGG_BLOCKS
    for number in range(1, count + 1)
}
# Channels and stride of the separable convolutions 1 to 11.
_MOBILENET_BLOCKS = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (512, 1),
)  # fmt: skip
# Expansion, channels and stride of the inverted residuals that are used.
_MOBILENET_V2_BLOCKS = (
    (1, 16, 1), (6, 24, 2), (6, 24, 1), (6, 32, 2), (6, 32, 1), (6, 32, 1), (6, 64, 2), (6, 64, 1), (6, 64, 1),
    (6, 64, 1), (6, 96, 1), (6, 96, 1), (6, 96, 1),
)  # fmt: skip
_MOBILENET_V2_SKIP = 5

# A picture's first stage reads the features alone; the later ones read maps too, and see far around each place.
# Channels and kernel size before the maps, of the stages of Caffe's network and of the separable ones.
_VGG_FIRST = ((128, 3), (128, 3), (128, 3), (512, 1))
_VGG_LATER = ((128, 7), (128, 7), (128, 7), (128, 7), (128, 7), (128, 1))
_SEPARABLE_FIRST = ((128, 3), (128, 3), (128, 3), (512, 1))
_SEPARABLE_LATER = ((128, 3), (128, 3), (128, 3), (128, 1))


@keras.saving.register_keras_serializable("posekit")
class UpsampleLike(keras.layers.Layer):
    """Bilinear resizing of maps to the height and width of others, with pixel corners on pixel corners.

    Pixel i of the result is read at i times the scale, as TensorFlow 1 did, not from pixel centre to pixel centre.

    Call arguments:
        inputs: `[maps, like]`, `[batch, h, w, channels]` and `[batch, height, width, any]`.

    Returns:
        `[batch, height, width, channels]`.
    """

    def call(self, inputs):
        """See the class."""
        maps, like = inputs
        resized = tf.raw_ops.ResizeBilinear(
            images=maps, size=ops.shape(like)[1:3], align_corners=False, half_pixel_centers=False
        )
        return ops.cast(resized, maps.dtype)

    def compute_output_shape(self, input_shape):
        """Shape of the result."""
        maps, like = input_shape
        return (maps[0], *like[1:3], maps[3])


@keras.saving.register_keras_serializable("posekit")
class OpenPose(keras.Model):
    """Fully convolutional network with one map for each joint, one for the background, and two for each limb.

    The layers of `"vgg19"` carry the names of Caffe's model (its first stage as the Keras port names it,
    `Mconv1_stage1_L1`), those of the MobileNets the names in the public frozen graphs without their scopes, such as
    `MConv_Stage1_L1_1_pointwise`. Branch L1 are the part affinity fields, L2 the heatmaps.

    Pictures come with values 0 to 255; each backbone prepares them inside the network as its weights expect: VGG19
    divides by 256 and subtracts 0.5, the MobileNets take the values as they are, and all of them read blue, green, red.

    Args:
        backbone: `"vgg19"`, `"mobilenet_thin"`, `"mobilenet_v2_large"` or `"mobilenet_v2_small"`.
        num_stages: Stages, 1 or more.
        num_joints: Joints; there is one heatmap more than that.
        num_limbs: Limbs; there are twice as many part affinity fields.
        backbone_width: Factor of the backbone's channels; None for the backbone's own.
        stage_width: Factor of the stages' channels; None for the backbone's own.
        batch_norm: Whether convolutions are followed by batch normalisation. Public weights have it folded into the
            convolutions (False); to train a MobileNet from the start, give True.
        channel_order: Order of the channels of the pictures: `"rgb"` or `"bgr"`.
        outputs: `"last"`: maps of the last stage; `"all"`: of every stage, to train with.
        weight_decay: Factor of the sum of the squares of all kernels, which is added to the loss.
        kernel_initializer: Start of the kernels; None for a normal distribution of standard deviation 0.01 (vgg19) or
            Glorot's uniform one.
        name: Name of the model.
        dtype: Type, or name of the dtype policy, of all layers; None for the global policy. What comes out is float32.
        trainable: Whether the weights are trained.

    Call arguments:
        images: `[batch, height, width, 3]`, 0 to 255.
        training: Whether batch normalisation is in training mode.

    Returns:
        Dict of float32: `"pafs"`, `[batch, height / 8, width / 8, 2 * num_limbs]`, channel 2k the x and 2k + 1 the y of
        limb k, and `"heatmaps"`, `[batch, height / 8, width / 8, num_joints + 1]`, the background last. With
        `outputs="all"` the same maps of each stage as `"stage1_L1"`, `"stage1_L2"`, `"stage2_L1"`, …. Sizes that are no
        multiple of 8 are rounded down by vgg19 and up by the MobileNets.

    Raises:
        ValueError: If an option is unknown or out of range.

    Example:
        >>> model = OpenPose("mobilenet_thin", num_stages=2)
        >>> model(np.zeros((1, 64, 96, 3), "uint8"))["heatmaps"].shape
        TensorShape([1, 8, 12, 19])

    Reference:
        Cao et al., "Realtime Multi-Person 2D Pose Estimation using Part Affinity Fields", CVPR 2017.

    Follows: michalfaber/keras_Realtime_Multi-Person_Pose_Estimation model/cmu_model.py:get_testing_model,
    get_training_model; ildoonet/tf-pose-estimation tf_pose/network_mobilenet_thin.py, tf_pose/network_mobilenet_v2.py.
    """

    def __init__(
        self,
        backbone="vgg19",
        num_stages=6,
        num_joints=18,
        num_limbs=19,
        backbone_width=None,
        stage_width=None,
        batch_norm=False,
        channel_order="rgb",
        outputs="last",
        weight_decay=0.0,
        kernel_initializer=None,
        name="openpose",
        dtype=None,
        trainable=True,
    ):
        for option, value, choices in (
            ("backbone", backbone, tuple(BACKBONES)),
            ("channel_order", channel_order, CHANNEL_ORDERS),
            ("outputs", outputs, OUTPUTS),
        ):
            if value not in choices:
                raise ValueError(f"{option} is {value!r}; choose from {list(choices)}.")
        for option, value in (("num_stages", num_stages), ("num_joints", num_joints), ("num_limbs", num_limbs)):
            check_count(option, value, 1)
        for option, value in (("backbone_width", backbone_width), ("stage_width", stage_width)):
            if value is not None and not 0 < value <= 8:
                raise ValueError(f"{option} is {value!r}; give a number above 0, up to 8, or None.")
        if not 0 <= weight_decay < float("inf"):
            raise ValueError(f"weight_decay is {weight_decay!r}; give 0 or more.")
        own = BACKBONES[backbone]
        vgg = own.family == "vgg"
        if kernel_initializer is None:
            kernel_initializer = keras.initializers.RandomNormal(stddev=_VGG_STDDEV) if vgg else "glorot_uniform"
        kernel_initializer = keras.initializers.get(kernel_initializer)
        policy = keras.dtype_policies.get(dtype)
        parts = _Parts(batch_norm, weight_decay, kernel_initializer, policy)
        widths = (backbone_width or own.backbone_width, stage_width or own.stage_width)

        # === Functional graph ===
        images = keras.Input((None, None, 3), name="images")
        pixels = images if channel_order == "bgr" else ops.flip(images, axis=-1)
        features = _FAMILIES[own.family](parts, pixels, widths[0])
        stage = _vgg_stage if vgg else _separable_stage
        channels = {"L1": 2 * num_limbs, "L2": num_joints + 1}
        maps, stages = {}, {}
        for number in range(1, num_stages + 1):
            seen = features
            if maps:
                join = keras.layers.Concatenate(name=f"stage{number}_concat", dtype=policy)
                seen = join([maps["L1"], maps["L2"], features])
            maps = {branch: stage(parts, seen, count, number, branch, widths[1]) for branch, count in channels.items()}
            stages.update({f"stage{number}_{branch}": ops.cast(value, "float32") for branch, value in maps.items()})
        # The graph has all outputs in any case: its layers, and with them the weights in a file, keep their order.
        super().__init__(inputs=images, outputs=stages, name=name)
        self.dtype_policy = policy
        self.trainable = trainable

        # === Config ===
        self.backbone = backbone
        self.num_stages = num_stages
        self.num_joints = num_joints
        self.num_limbs = num_limbs
        self.backbone_width = backbone_width
        self.stage_width = stage_width
        self.batch_norm = bool(batch_norm)
        self.channel_order = channel_order
        self.outputs_kind = outputs
        self._stages = stages
        self.weight_decay = weight_decay
        self.kernel_initializer = kernel_initializer

    def call(self, inputs, training=None, mask=None):
        """See the class."""
        return self._chosen(super().call(inputs, training=training, mask=mask))

    def compute_output_spec(self, inputs, training=None, mask=None):
        """Symbolic outputs."""
        return self._chosen(super().compute_output_spec(inputs, training=training, mask=mask))

    def compute_output_shape(self, input_shape):
        """Shapes of the outputs."""
        return self._chosen(super().compute_output_shape(input_shape))

    def stages_model(self):
        """The same network, weights shared, whose outputs are the maps of all stages.

        Returns:
            A Keras model that gives what `outputs="all"` does.
        """
        return keras.Model(self.inputs[0], dict(self._stages), name=self.name)

    def _chosen(self, stages):
        if self.outputs_kind == "all":
            return stages
        return {kind: stages[f"stage{self.num_stages}_{branch}"] for branch, kind in BRANCHES.items()}

    def get_config(self):
        """The constructor's arguments."""
        return {
            "backbone": self.backbone,
            "num_stages": self.num_stages,
            "num_joints": self.num_joints,
            "num_limbs": self.num_limbs,
            "backbone_width": self.backbone_width,
            "stage_width": self.stage_width,
            "batch_norm": self.batch_norm,
            "channel_order": self.channel_order,
            "outputs": self.outputs_kind,
            "weight_decay": self.weight_decay,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "name": self.name,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "trainable": self.trainable,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Rebuilds the model without its weights."""
        return cls(**config)


def rate_multipliers(model):
    """Factors of the learning rate with which the original trains each variable, for `multi_rate`.

    Biases learn twice as fast as kernels, and all stages but the first four times as fast as the rest.

    Args:
        model: An `OpenPose`.

    Returns:
        Dict of regular expression to factor; empty for the MobileNets, whose variables all learn alike.

    Example:
        >>> rate_multipliers(OpenPose("vgg19", num_stages=1))
        {'/bias$': 2.0}

    Follows: michalfaber/keras_Realtime_Multi-Person_Pose_Estimation training/train_pose.py:get_lr_multipliers.
    """
    if BACKBONES[model.backbone].family != "vgg":
        return {}
    later = r"_stage([2-9]|\d\d+)_L\d"
    stages = {f"{later}/kernel$": 4.0, f"{later}/bias$": 8.0} if model.num_stages > 1 else {}
    return {**stages, "/bias$": 2.0}


def initialize_from_vgg19(model, weights="imagenet"):
    """Puts the first ten convolutions of a trained VGG19 into an OpenPose network.

    Args:
        model: `OpenPose("vgg19")` of full width, without batch normalisation.
        weights: `"imagenet"`, which Keras downloads once, or a weights file of Keras' VGG19 without its top.

    Raises:
        ValueError: If the model has other layers, or the file does not fit.
        FileNotFoundError: If there is no such file.
        ConnectionError: If the weights cannot be downloaded.

    Follows: michalfaber/keras_Realtime_Multi-Person_Pose_Estimation training/train_pose.py:restore_weights.
    """
    if model.backbone != "vgg19" or model.backbone_width not in (None, 1) or model.batch_norm:
        raise ValueError(
            f"VGG19's weights fit backbone='vgg19' of full width without batch normalisation, not {model.backbone!r} "
            f"with backbone_width={model.backbone_width} and batch_norm={model.batch_norm}; begin without them "
            "(--backbone_weights=none)."
        )
    source = _vgg19(weights)
    for mine, theirs in VGG19_LAYERS.items():
        model.get_layer(mine).set_weights(source.get_layer(theirs).get_weights())


def _vgg19(weights):
    build = keras.applications.VGG19
    if weights != "imagenet":
        path = pathlib.Path(weights)
        if not path.is_file():
            raise FileNotFoundError(
                f"VGG19's weights are {str(weights)!r}, which is no file; give 'imagenet', or a .h5 or .weights.h5 "
                "file of Keras' VGG19 without its top."
            )
        network = build(include_top=False, weights=None)
        load_weights(network, path)
        return network
    try:
        return build(include_top=False, weights="imagenet")
    except Exception as error:
        # Keras raises a bare Exception when a download fails.
        if not isinstance(error, OSError) and "URL fetch failure" not in str(error):
            raise
        raise ConnectionError(
            f"VGG19's ImageNet weights could not be downloaded ({error}). Download them on another machine and pass "
            "the file (--backbone_weights=PATH), or begin with random weights (--backbone_weights=none)."
        ) from error


@dataclasses.dataclass(frozen=True)
class _Parts:
    """Convolutions by name, with the options that all of them share."""

    batch_norm: bool
    weight_decay: float
    kernel_initializer: object
    policy: object

    def convolution(self, inputs, filters, size, name, stride=1, activation="relu"):
        """A convolution with bias or batch normalisation, and its activation."""
        layer = keras.layers.Conv2D(
            filters, size, strides=stride, padding="same", use_bias=not self.batch_norm, name=name,
            kernel_initializer=self._start(), kernel_regularizer=self._decay(), dtype=self.policy,
        )  # fmt: skip
        return self._finished(layer(inputs), name, activation)

    def depthwise(self, inputs, size, name, stride=1, bare=True, activation=None):
        """A convolution of each channel for itself; a bare one has neither bias nor batch normalisation."""
        layer = keras.layers.DepthwiseConv2D(
            size, strides=stride, padding="same", use_bias=not (bare or self.batch_norm), name=name,
            depthwise_initializer=self._start(), depthwise_regularizer=self._decay(), dtype=self.policy,
        )  # fmt: skip
        features = layer(inputs)
        return features if bare else self._finished(features, name, activation)

    def separable(self, inputs, filters, size, name, stride=1, activation="relu"):
        """A bare depthwise convolution, and one of single pixels."""
        features = self.depthwise(inputs, size, f"{name}_depthwise", stride)
        return self.convolution(features, filters, 1, f"{name}_pointwise", activation=activation)

    def pool(self, inputs, name, padding="valid"):
        """The largest of every 2 x 2 pixels."""
        return keras.layers.MaxPooling2D(2, padding=padding, name=name, dtype=self.policy)(inputs)

    def _finished(self, features, name, activation):
        if self.batch_norm:
            features = keras.layers.BatchNormalization(
                momentum=_BATCH_NORM_MOMENTUM, epsilon=BATCH_NORM_EPSILON, name=f"{name}_bn", dtype=self.policy
            )(features)
        if activation is None:
            return features
        return keras.layers.Activation(activation, name=f"{name}_{activation}", dtype=self.policy)(features)

    def _start(self):
        # A copy for each layer: one initializer would give layers of the same shape the same numbers.
        config = keras.initializers.serialize(self.kernel_initializer)
        return keras.initializers.deserialize(config)

    def _decay(self):
        return keras.regularizers.L2(self.weight_decay) if self.weight_decay else None


def _vgg(parts, pixels, width):
    """The first ten convolutions of VGG19 and two that follow them, named as in Caffe."""
    features = keras.layers.Rescaling(1 / 256, -0.5, name="preprocessing", dtype=parts.policy)(pixels)
    for block, filters, count in _VGG_BLOCKS:
        for number in range(1, count + 1):
            features = parts.convolution(features, _scaled(filters, width), 3, f"conv{block}_{number}")
        if block < len(_VGG_BLOCKS):
            features = parts.pool(features, f"pool{block}_1")
    features = parts.convolution(features, _scaled(256, width), 3, "conv4_3_CPM")
    return parts.convolution(features, _scaled(128, width), 3, "conv4_4_CPM")


def _mobilenet(parts, pixels, width):
    """The first twelve convolutions of MobileNet; features of three depths."""
    features = parts.convolution(pixels, _scaled(32, width), 3, "Conv2d_0", stride=2)
    kept = []
    for number, (filters, stride) in enumerate(_MOBILENET_BLOCKS, 1):
        features = parts.separable(features, _scaled(filters, width), 3, f"Conv2d_{number}", stride)
        if number in (3, 7, 11):
            kept.append(features)
    kept[0] = parts.pool(kept[0], "Conv2d_3_pool", padding="same")
    return keras.layers.Concatenate(name="feat_concat", dtype=parts.policy)(kept)


def _mobilenet_v2(parts, pixels, width):
    """The first inverted residuals of MobileNetV2; features of two depths."""
    features = parts.convolution(pixels, _divisible(32 * width), 3, "Conv", stride=2, activation="relu6")
    for number, (expansion, filters, stride) in enumerate(_MOBILENET_V2_BLOCKS):
        scope = f"expanded_conv_{number}" if number else "expanded_conv"
        features = _inverted_residual(parts, features, expansion, _divisible(filters * width), stride, scope)
        if number == _MOBILENET_V2_SKIP:
            fine = features
    coarse = UpsampleLike(name="upsample", dtype=parts.policy)([features, fine])
    return keras.layers.Concatenate(name="feat_concat", dtype=parts.policy)([fine, coarse])


def _inverted_residual(parts, inputs, expansion, filters, stride, scope):
    channels, features = inputs.shape[-1], inputs
    if expansion > 1:
        wide = _divisible(channels * expansion)
        features = parts.convolution(features, wide, 1, f"{scope}_expand", activation="relu6")
    features = parts.depthwise(features, 3, f"{scope}_depthwise", stride, bare=False, activation="relu6")
    features = parts.convolution(features, filters, 1, f"{scope}_project", activation=None)
    if stride == 1 and channels == filters:
        features = keras.layers.Add(name=f"{scope}_add", dtype=parts.policy)([features, inputs])
    return features


_FAMILIES = {"vgg": _vgg, "mobilenet": _mobilenet, "mobilenet_v2": _mobilenet_v2}


def _vgg_stage(parts, inputs, channels, number, branch, width):
    features = inputs
    for place, (filters, size) in enumerate(_VGG_FIRST if number == 1 else _VGG_LATER, 1):
        name = f"Mconv{place}_stage{number}_{branch}"
        features = parts.convolution(features, _scaled(filters, width), size, name)
    return parts.convolution(features, channels, 1, _map_layer("vgg19", number, branch), activation=None)


def _separable_stage(parts, inputs, channels, number, branch, width):
    features, scope = inputs, f"MConv_Stage{number}_{branch}"
    for place, (filters, size) in enumerate(_SEPARABLE_FIRST if number == 1 else _SEPARABLE_LATER, 1):
        features = parts.separable(features, _scaled(filters, width), size, f"{scope}_{place}")
    return parts.separable(features, channels, 1, f"{scope}_5", activation=None)


def _map_layer(backbone, number, branch):
    """Name of the convolution that gives the maps of a stage."""
    if BACKBONES[backbone].family == "vgg":
        return f"Mconv{5 if number == 1 else 7}_stage{number}_{branch}"
    return f"MConv_Stage{number}_{branch}_5_pointwise"


def _scaled(channels, width):
    return max(int(channels * width), _CHANNELS_MULTIPLE)


def _divisible(channels):
    """The nearest multiple of 8, at most a tenth below, as MobileNetV2 counts its channels."""
    rounded = max(_CHANNELS_MULTIPLE, int(channels + _CHANNELS_MULTIPLE / 2) // _CHANNELS_MULTIPLE * _CHANNELS_MULTIPLE)
    return rounded + _CHANNELS_MULTIPLE if rounded < 0.9 * channels else rounded
