"""HMR: a body mesh and a camera from one picture, and the critic that judges bodies."""

import contextlib
import importlib
import inspect
import pathlib

import keras
import numpy as np
from keras import ops

from posekit import bodies
from posekit.files import load_weights
from posekit.geometry.cameras import orthographic_projection
from posekit.layers.smpl import SMPL
from posekit.layers.stages import IterativeRegressor

PREPROCESSINGS = ("original", "imagenet")


@keras.saving.register_keras_serializable("posekit")
class HMR(keras.Model):
    """Regresses camera, pose and shape of the person in a square crop, in stages, and poses the body with them.

    A vector theta holds the camera `(s, tx, ty)`, the pose (axis-angle in radians, 3 for every joint of the body) and
    the shape coefficients, in this order: 85 numbers for SMPL. The backbone computes in its dtype policy, so in half
    precision under `mixed_float16` or `mixed_bfloat16`; everything behind it, in float32.

    Args:
        body: A `BodyModel`, the name or path of one (see `posekit.bodies.load_body`), or None for the first body on the
            search path.
        backbone: Name of a `keras.applications` model (see `backbone_names`), or a Keras model or layer that turns
            `[batch, image_size, image_size, 3]` into `[batch, features]`.
        backbone_weights: `"imagenet"`, None (random) or the path of a weights file of a named backbone.
        image_size: Height and width of the crops in pixels.
        num_stages: Number of corrections of theta.
        dropout: Rate of the dropout in the regressor; in training it is active in the last stage only.
        mean_theta: Where theta starts: `[parameters]` values, the path of a `.h5` or `.npz` file with mean pose and
            shape, or None for the rest pose seen upright. It is trained with the other weights.
        backbone_preprocessing: `"original"` hands the pictures in [-1, 1] to the backbone as they are; `"imagenet"`
            converts them to what the published weights were trained with. Where a network holds its own preprocessing,
            `"original"` leaves it out (MobileNetV3, EfficientNetV2, ConvNeXt) or, where it cannot be left out
            (EfficientNet B0 to B7), feeds it 0 to 255 as it expects.
        name: Name of the model.
        dtype: Type, or name of the dtype policy, of a named backbone; None for the global policy.

    Call arguments:
        images: `[batch, image_size, image_size, 3]` in [-1, 1].
        training: Whether dropout and batch normalisation are in training mode.

    Returns:
        A dict, all float32: `"theta"` `[batch, stages, parameters]`, `"camera"` `[batch, stages, 3]`, `"pose"`
        `[batch, stages, 3 * joints]`, `"shape"` `[batch, stages, num_shape]`, `"rotations"`
        `[batch, stages, joints, 3, 3]`, `"keypoints3d"` `[batch, stages, keypoints, 3]` in metres, `"keypoints_ndc"`
        `[batch, stages, keypoints, 2]` in the crop's normalised coordinates, and `"vertices"` `[batch, vertices, 3]` in
        metres for the last stage.

    Raises:
        ValueError: If the backbone, its weights or its preprocessing are unknown or do not fit.
        FileNotFoundError: If a weights or mean parameter file does not exist.
        ConnectionError: If weights cannot be downloaded.

    Example:
        >>> hmr = HMR(body="sample", backbone="mobilenetv2")
        >>> hmr(np.zeros((1, 224, 224, 3), "float32"))["keypoints_ndc"].shape
        TensorShape([1, 3, 19, 2])

    Reference:
        Kanazawa et al., "End-to-end Recovery of Human Shape and Pose", CVPR 2018.

    Follows: maxpit/human-pose-estimation/src/trainer.py:Trainer and src/models.py:RegressionNetwork.
    Differs: the mean theta is a weight of the model, saved with it.
    """

    def __init__(
        self,
        body=None,
        backbone="resnet50",
        backbone_weights=None,
        image_size=224,
        num_stages=3,
        dropout=0.5,
        mean_theta=None,
        backbone_preprocessing="original",
        name="hmr",
        dtype=None,
        **kwargs,
    ):
        if dtype is not None and not isinstance(backbone, str):
            raise ValueError(
                f"dtype is {dtype!r}, but a model passed as backbone brings its own; leave it out, or make the "
                "backbone with it."
            )
        # === Layers ===
        policy = keras.dtype_policies.get(dtype)
        decoder = ThetaDecoder(body, name="body")
        with _global_policy(policy):
            network, preprocessing = _backbone(backbone, backbone_weights, image_size, backbone_preprocessing)
        start = _mean_theta(mean_theta, decoder.smpl)
        stages = IterativeRegressor(start, num_stages, dropout=dropout, name="stages")

        # === Functional graph ===
        images = keras.Input((image_size, image_size, 3), name="images")
        features = network(preprocessing(images) if preprocessing else images)
        if len(features.shape) != 2:
            raise ValueError(
                f"The backbone {network.name!r} gives {features.shape}; [batch, features] is needed. End it with "
                "keras.layers.GlobalAveragePooling2D()."
            )
        theta = stages(features)
        super().__init__(inputs=images, outputs={"theta": theta, **decoder(theta)}, name=name, **kwargs)
        self.dtype_policy = policy

        # === Config ===
        self.decoder = decoder
        self.backbone = network
        self.stages = stages
        self.backbone_name = backbone if isinstance(backbone, str) else None
        self.backbone_weights = None if backbone_weights is None else str(backbone_weights)
        self.backbone_preprocessing = backbone_preprocessing
        self.image_size = image_size
        self.num_stages = num_stages
        self.dropout = dropout

    @property
    def smpl(self):
        """The `SMPL` layer."""
        return self.decoder.smpl

    @property
    def body(self):
        """The `BodyModel` that the model poses."""
        return self.smpl.body

    @property
    def regressor(self):
        """The `CorrectionNetwork` that corrects theta."""
        return self.stages.network

    @property
    def mean_theta(self):
        """The variable `[parameters]` from which theta starts."""
        return self.stages.start.value

    def vertices(self, theta):
        """Body meshes of given parameters.

        Args:
            theta: `[batch, parameters]`.

        Returns:
            `[batch, vertices, 3]` in metres.
        """
        _, pose, shape = self.decoder.split(ops.convert_to_tensor(theta, "float32"))
        return self.smpl(pose, shape, outputs=("vertices",))["vertices"]

    def get_config(self):
        """The constructor's arguments; a body is named, a backbone without a name is described."""
        return {
            "body": self.smpl.get_config()["body"],
            "backbone": self.backbone_name or keras.saving.serialize_keras_object(self.backbone),
            "backbone_weights": self.backbone_weights,
            "image_size": self.image_size,
            "num_stages": self.num_stages,
            "dropout": self.dropout,
            "mean_theta": self.stages.start.initial,
            "backbone_preprocessing": self.backbone_preprocessing,
            "name": self.name,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "trainable": self.trainable,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Rebuilds the model without its weights: those of the backbone are not fetched again."""
        config = dict(config)
        backbone_weights = config.pop("backbone_weights", None)
        policy, trainable = keras.dtype_policies.get(config.pop("dtype", None)), config.pop("trainable", True)
        if isinstance(config.get("backbone"), dict):
            config["backbone"] = keras.saving.deserialize_keras_object(config["backbone"], custom_objects)
            model = cls(**config)
            model.dtype_policy = policy
        else:
            model = cls(**config, dtype=policy)
        model.backbone_weights = backbone_weights
        if not trainable:
            # Set to True, it would thaw what a backbone of its own keeps frozen.
            model.trainable = False
        return model


@keras.saving.register_keras_serializable("posekit")
class Critic(keras.Model):
    """Scores how human a body is: its skeleton, its shape and its joint rotations (a Wasserstein critic).

    Computes in float32 under every dtype policy.

    Args:
        num_joints: Joints of the skeleton whose kinematic chain space is judged; it has one bone less.
        num_shape: Number of shape coefficients.
        num_rotations: Number of joint rotations, without the global one.
        name: Name of the model.

    Call arguments:
        inputs: A list: kinematic chain space `[batch, num_joints - 1, num_joints - 1]`, joints
            `[batch, num_joints, 3]` in metres, shapes `[batch, num_shape]`, rotations
            `[batch, num_rotations, 3, 3]`.

    Returns:
        `[batch, 3]`: scores of skeleton, shape and rotations, higher for real bodies.

    Example:
        >>> critic = Critic()
        >>> critic([tf.zeros((4, 13, 13)), tf.zeros((4, 14, 3)), tf.zeros((4, 10)), tf.zeros((4, 23, 3, 3))]).shape
        TensorShape([4, 3])

    Reference:
        Wandt and Rosenhahn, "RepNet: Weakly Supervised Training of an Adversarial Reprojection Network for 3D Human
        Pose Estimation", CVPR 2019.

    Follows: maxpit/human-pose-estimation/src/models.py:CriticNetwork.
    """

    def __init__(self, num_joints=14, num_shape=10, num_rotations=23, name="critic", **kwargs):
        def dense(units, layer_name, activation=None):
            return keras.layers.Dense(units, activation=activation, dtype="float32", name=layer_name)

        def leaky(inputs):
            return ops.leaky_relu(inputs, negative_slope=0.2)

        # === Functional graph ===
        bones = num_joints - 1
        kcs = keras.Input((bones, bones), dtype="float32", name="kcs")
        joints = keras.Input((num_joints, 3), dtype="float32", name="joints")
        shapes = keras.Input((num_shape,), dtype="float32", name="shapes")
        rotations = keras.Input((num_rotations, 3, 3), dtype="float32", name="rotations")
        kcs_features = leaky(dense(100, "kcs_dense")(ops.reshape(kcs, (-1, bones * bones))))
        joints_features = leaky(dense(100, "joints_dense")(ops.reshape(joints, (-1, num_joints * 3))))
        skeleton_score = dense(1, "combined_dense")(ops.concatenate([kcs_features, joints_features], axis=-1))
        shape_features = dense(10, "shapes_dense_1", "relu")(shapes)
        shape_features = dense(5, "shapes_dense_2", "relu")(shape_features)
        shape_score = dense(1, "shapes_dense_3")(shape_features)
        turns = leaky(dense(300, "rotation_dense_1")(ops.reshape(rotations, (-1, num_rotations * 9))))
        turns = leaky(dense(100, "rotation_dense_2")(turns))
        rotation_score = dense(1, "rotation_dense_3")(turns)
        super().__init__(
            inputs=[kcs, joints, shapes, rotations],
            outputs=ops.concatenate([skeleton_score, shape_score, rotation_score], axis=-1),
            name=name,
            **kwargs,
        )

        # === Config ===
        self.num_joints = num_joints
        self.num_shape = num_shape
        self.num_rotations = num_rotations

    def get_config(self):
        """The constructor's arguments."""
        return {
            "num_joints": self.num_joints,
            "num_shape": self.num_shape,
            "num_rotations": self.num_rotations,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Rebuilds the critic from `get_config`."""
        return cls(**config)


@keras.saving.register_keras_serializable("posekit")
class ThetaDecoder(keras.layers.Layer):
    """Poses a body with the theta of every stage and projects its keypoints; only the last stage gets a mesh.

    Args:
        body: As `HMR` takes it.
        name: Name of the layer.

    Call arguments:
        theta: `[batch, stages, parameters]`.

    Returns:
        The dict that `HMR` returns, but for theta itself.
    """

    def __init__(self, body=None, name=None, dtype="float32", **kwargs):
        super().__init__(name=name, dtype=dtype, **kwargs)
        self.smpl = SMPL(body, name="smpl")
        self.built = True

    def split(self, theta):
        """Takes theta apart.

        Args:
            theta: `[..., parameters]`.

        Returns:
            `(camera, pose, shape)`: `[..., 3]`, `[..., 3 * joints]`, `[..., num_shape]`.
        """
        end_of_pose = 3 + 3 * self.smpl.num_joints
        return theta[..., :3], theta[..., 3:end_of_pose], theta[..., end_of_pose:]

    def call(self, theta):
        """See the class."""
        camera, pose, shape = self.split(theta)
        stages = theta.shape[1]

        def every_stage(tensor):
            return ops.reshape(tensor, (-1, stages, *tensor.shape[1:]))

        posed = self.smpl.keypoints(
            ops.reshape(pose, (-1, pose.shape[-1])), ops.reshape(shape, (-1, shape.shape[-1]))
        )
        keypoints = every_stage(posed["keypoints"])
        return {
            "camera": camera,
            "pose": pose,
            "shape": shape,
            "rotations": every_stage(posed["rotations"]),
            "keypoints3d": keypoints,
            "keypoints_ndc": orthographic_projection(keypoints, camera),
            "vertices": self.smpl(pose[:, -1], shape[:, -1], outputs=("vertices",))["vertices"],
        }

    def compute_output_spec(self, theta):
        """Shapes of the result; needs the body's dimensions only."""
        smpl, (batch, stages, _) = self.smpl, theta.shape
        shapes = {
            "camera": (stages, 3),
            "pose": (stages, 3 * smpl.num_joints),
            "shape": (stages, smpl.num_shape),
            "rotations": (stages, smpl.num_joints, 3, 3),
            "keypoints3d": (stages, smpl.num_keypoints, 3),
            "keypoints_ndc": (stages, smpl.num_keypoints, 2),
            "vertices": (smpl.num_vertices, 3),
        }
        return {key: keras.KerasTensor((batch, *shape), dtype=self.compute_dtype) for key, shape in shapes.items()}

    def get_config(self):
        """The body's name and dimensions."""
        return {**super().get_config(), "body": self.smpl.get_config()["body"]}


@keras.saving.register_keras_serializable("posekit")
class BackbonePreprocessing(keras.layers.Layer):
    """Turns pictures in [-1, 1] into what a family of networks was trained with.

    Args:
        family: Module of `keras.applications`, such as `"resnet"`; its `preprocess_input` is applied.
        name: Name of the layer.

    Call arguments:
        images: `[batch, height, width, 3]` RGB in [-1, 1].

    Returns:
        A tensor of the same shape, float32.
    """

    def __init__(self, family, name=None, dtype="float32", **kwargs):
        super().__init__(name=name, dtype=dtype, **kwargs)
        self.family = family
        self._preprocess_input = importlib.import_module(f"keras.applications.{family}").preprocess_input
        self.built = True

    def call(self, images):
        """See the class."""
        return self._preprocess_input((images + 1.0) * 127.5)

    def compute_output_shape(self, images_shape):
        """The shape of the pictures."""
        return images_shape

    def get_config(self):
        """The family's name."""
        return {**super().get_config(), "family": self.family}


def backbone_names():
    """Names that `HMR` takes as a backbone.

    Returns:
        Sorted list of the models of `keras.applications`, in lower case.
    """
    return sorted(_applications())


@contextlib.contextmanager
def _global_policy(policy):
    """Makes a context with another global dtype policy: the only one that named backbones know."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _applications():
    """Constructors of `keras.applications` by name in lower case."""
    found = {}
    for name in dir(keras.applications):
        member = getattr(keras.applications, name)
        if inspect.isfunction(member) and "include_top" in inspect.signature(member).parameters:
            found[name.lower()] = member
    return found


def _backbone(backbone, weights, image_size, preprocessing):
    """The network that turns pictures into features, and the layer that prepares pictures for it, if any."""
    if preprocessing not in PREPROCESSINGS:
        raise ValueError(f"backbone_preprocessing is {preprocessing!r}; choose from {list(PREPROCESSINGS)}.")
    if not isinstance(backbone, str):
        if not isinstance(backbone, keras.layers.Layer):
            raise ValueError(f"backbone is {backbone!r}; give a Keras model or layer, or one of {backbone_names()}.")
        if weights is not None or preprocessing != "original":
            raise ValueError(
                "backbone_weights and backbone_preprocessing belong to named backbones; a model passed as backbone "
                "brings its own. Leave them out."
            )
        return backbone, None
    constructor = _applications().get(backbone.lower().replace("_", "").replace("-", ""))
    if constructor is None:
        raise ValueError(f"backbone is {backbone!r}; choose from {backbone_names()}, or pass a Keras model.")
    family = constructor.__module__.rpartition(".")[2]
    options = {}
    # These three families normalise inside the network unless told not to; EfficientNet B0 to B7 always do.
    if "include_preprocessing" in inspect.signature(constructor).parameters:
        options["include_preprocessing"] = preprocessing == "imagenet"
    prepare = preprocessing == "imagenet" or family == "efficientnet"

    def build(source):
        return constructor(
            include_top=False, weights=source, pooling="avg", input_shape=(image_size, image_size, 3), **options
        )

    layer = BackbonePreprocessing(family, name="preprocessing") if prepare else None
    return _with_weights(build, weights, backbone), layer


def _with_weights(build, weights, backbone):
    if weights is None:
        return build(None)
    if weights == "imagenet":
        try:
            return build("imagenet")
        except Exception as error:
            # Keras raises a bare Exception when a download fails.
            if not isinstance(error, OSError) and "URL fetch failure" not in str(error):
                raise
            raise ConnectionError(
                f"The ImageNet weights of {backbone!r} could not be downloaded ({error}). Download them on another "
                "machine and pass the file (--backbone_weights=PATH), or train from random weights "
                "(--backbone_weights=none)."
            ) from error
    path = pathlib.Path(weights)
    if not path.is_file():
        raise FileNotFoundError(
            f"backbone_weights is {str(weights)!r}, which is no file; give 'imagenet', None for random weights "
            f"(--backbone_weights=none), or a .weights.h5 or .h5 file of {backbone!r}."
        )
    network = build(None)
    load_weights(network, path)
    return network


def _mean_theta(mean_theta, smpl):
    """Where theta starts, as `[parameters]` float values."""
    size = 3 + 3 * smpl.num_joints + smpl.num_shape
    if mean_theta is None or isinstance(mean_theta, str | pathlib.PurePath):
        mean_theta = bodies.load_mean_theta(mean_theta, smpl.num_shape, smpl.num_joints)
    start = np.asarray(mean_theta, np.float32).reshape(-1)
    if start.shape != (size,):
        raise ValueError(
            f"mean_theta has {start.size} values; the body {smpl.get_config()['body']['name']!r} takes {size} "
            f"(3 for the camera, {3 * smpl.num_joints} for the pose, {smpl.num_shape} for the shape)."
        )
    return start
