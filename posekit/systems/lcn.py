"""Locally connected network, as a whole: 2-D joints of one person are lifted to 3-D.

    python tools/create_dataset.py --h36m
    python -m posekit.train --model=lcn
    python -m posekit.validate --model=lcn --run_dir=logs/...

The original reports, trained on Human3.6M's subjects 1, 5, 6, 7, 8 and tested on 9 and 11, 32.5 mm from true 2-D joints
(`--mode=gt`) and 51.1 mm from stacked-hourglass detections (`--mode=dt_ft`).
"""

import contextlib
import dataclasses
import datetime
import functools
import itertools

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from posekit.codecs import screen_pose
from posekit.data import h36m
from posekit.data.hdf5 import PoseFile
from posekit.data.result_files import read_result, write_result
from posekit.drawing import draw_people
from posekit.drawing3d import draw_skeleton_3d, lifting_picture, lifting_turntable
from posekit.files import write_file
from posekit.geometry import graphs
from posekit.geometry.joints import infer_joints
from posekit.metrics.h36m import evaluate as score
from posekit.models import LCN
from posekit.plots import plot_errors_by_action
from posekit.results import People
from posekit.skeletons import H36M17
from posekit.systems.evaluation import Evaluation
from posekit.training.config import Options, option
from posekit.training.fused_adam import FusedAdam

_JOINTS = H36M17.num_joints
_ORIGINAL_GRAPH = "0"


@dataclasses.dataclass(frozen=True)
class Config(Options):
    """Options of the locally connected network; defaults are the original's."""

    num_epochs: int = option(200, "epochs to train", lower=1, training=True)
    batch_size: int = option(200, "poses per step", lower=1, upper=1_000_000, training=True)
    learning_rate: float = option(1e-3, "learning rate at the beginning", lower=0.0, training=True)
    decay_type: str = option("exp", "how the learning rate falls", choices=("exp", "step"), training=True)
    decay_steps: int = option(
        32000, "steps after which an exponential decay has multiplied by --decay_rate", lower=1, training=True
    )
    decay_rate: float = option(0.96, "factor of the exponential decay", lower=1e-6, upper=1.0, training=True)
    boundaries: tuple[str, ...] = option(
        ("250000", "500000", "1000000", "1350000"),
        "steps at which a step decay changes the learning rate",
        lower=0,
        upper=2**31 - 1,
        training=True,
    )
    lr_values: tuple[str, ...] = option(
        ("1e-3", "7e-4", "4e-4", "2e-4", "1e-4"),
        "learning rates between the boundaries of a step decay",
        lower=0,
        training=True,
    )
    dropout: float = option(
        0.25, "dropout of every hidden layer, share that is dropped", lower=0.0, upper=0.95, training=True
    )
    regularization: float = option(0.0, "weight of the L2 penalty on kernels and biases", lower=0.0, training=True)

    mode: str = option("gt", "2-D input: true joints, or fine-tuned detections", choices=("gt", "dt_ft"))
    data_type: str = option("scale", "accepted for the original's command lines", choices=("scale",))
    data_dir: str = option("data", "folder with h36m_train.h5 and h36m_test.h5")
    flip_data: bool = option(False, "train on mirrored poses too", training=True)
    flip_test: bool = option(False, "predict mirrored poses too, and average")
    use_validation: bool = option(True, "evaluate the test poses after every epoch", training=True)
    stream: bool = option(
        False, "read training poses from disk all the time, for sets larger than memory", training=True
    )

    num_layers: int = option(3, "blocks of two layers", lower=0, upper=64, aliases=("layers",), architecture=True)
    channels: int = option(64, "features of a joint", lower=1, upper=4096, architecture=True)
    in_features: int = option(
        2, "numbers of an input joint: 2, or 3 with the confidence", lower=2, upper=3, aliases=("in_F",),
        architecture=True,
    )  # fmt: skip
    in_joints: int = option(_JOINTS, "accepted for the original's command lines", lower=_JOINTS, upper=_JOINTS)
    out_joints: int = option(_JOINTS, "accepted for the original's command lines", lower=_JOINTS, upper=_JOINTS)
    graph: str = option(
        "skeleton", "who is whose neighbour (0: skeleton)", architecture=True,
        choices=("skeleton", "laplacian", "random", "full", _ORIGINAL_GRAPH),
    )  # fmt: skip
    knn: int = option(
        3, "hops within which joints are connected, for --graph=skeleton and random", lower=1, upper=16,
        architecture=True,
    )  # fmt: skip
    graph_norm: str = option(
        "none", "norm of the neighbour matrix: none, rows sum to one, or by both degrees", architecture=True,
        choices=("none", "row", "symmetric"),
    )  # fmt: skip
    laplacian_normalized: bool = option(True, "normalised Laplacian, for --graph=laplacian", architecture=True)
    laplacian_rescaled: bool = option(True, "Laplacian rescaled to [-1, 1]", architecture=True)
    random_edges: int = option(20, "edges of --graph=random", lower=_JOINTS - 1, upper=136, architecture=True)
    random_seed: int = option(146, "seed of --graph=random", lower=0, architecture=True)
    mask_type: str = option(
        "locally_connected", "fixed or learned weights of the neighbours", architecture=True,
        choices=("locally_connected", "locally_connected_learnable"),
    )  # fmt: skip
    mask_init: str = option(
        "random", "where a learned mask begins", choices=("same", "ones", "random"), aliases=("init_type",),
        training=True,
    )  # fmt: skip
    residual: bool = option(True, "add a block's input to its output", architecture=True)
    max_norm: bool = option(True, "clip the norm of every kernel to one", architecture=True)
    batch_norm: bool = option(True, "batch normalisation", architecture=True)
    batch_norm_momentum: float = option(
        0.99,
        "momentum of the running statistics; runs of under a thousand steps need 0.9",
        lower=0.0,
        upper=0.9999,
        training=True,
    )

    steps_per_execution: int = option(
        0,
        "steps in one call, at most; what divides an epoch is taken. 0: 10, and 100 with a GPU",
        lower=0,
        training=True,
    )
    jit_compile: bool = option(False, "compile the training step with XLA", training=True)
    mixed_precision: bool = option(False, "compute in half precision", training=True)
    strategy: str = option("none", "distribution over devices", choices=("none", "mirrored"), training=True)
    seed: int = option(0, "seed of everything random", lower=0)
    checkpoint_every: int = option(1, "epochs between checkpoints", lower=1, training=True)
    debug_numerics: bool = option(False, "stop at the first NaN or infinity and name the operation", training=True)
    run_eagerly: bool = option(False, "run step by step in Python, for a debugger", aliases=("debug",), training=True)

    limb_lengths: tuple[str, ...] = option(
        (), "mean screen lengths of the limbs, of which --graph=laplacian is made; empty: of the training poses",
        lower=0, architecture=True,
    )  # fmt: skip
    body_size_mm: float = option(
        0.0, "total length of the bones, mm, to which lifted people are scaled; 0: that of the training poses",
        lower=0.0, upper=1e5,
    )  # fmt: skip
    camera_pitch_deg: float = option(
        0.0, "how far the training cameras look down on average, which levels pictures; 0: by their calibration",
        lower=-90.0, upper=90.0,
    )  # fmt: skip
    screen_size: float = option(
        0.0, "total length of the bones in normalised screen units; 0: that of the training poses", lower=0.0, upper=1e3
    )

    def __post_init__(self):
        if self.graph == _ORIGINAL_GRAPH:
            object.__setattr__(self, "graph", "skeleton")
        super().__post_init__()
        rates, boundaries = len(self.lr_values), [float(step) for step in self.boundaries]
        if self.decay_type == "step" and (rates != len(boundaries) + 1 or not boundaries):
            raise ValueError(
                f"--lr_values has {rates} rates for {len(boundaries)} --boundaries; give at least one boundary, and "
                "one rate more than boundaries."
            )
        if any(step % 1 for step in boundaries):
            raise ValueError(f"--boundaries={','.join(self.boundaries)} must be whole numbers of steps.")
        if self.graph == "laplacian" and self.graph_norm != "none":
            raise ValueError(f"--graph_norm={self.graph_norm} does not go with --graph=laplacian; leave it out.")
        if self.jit_compile and self.debug_numerics:
            raise ValueError("--debug_numerics cannot look into --jit_compile; leave one of them out.")
        if any(later <= earlier for earlier, later in zip(boundaries, boundaries[1:])):
            raise ValueError(f"--boundaries={','.join(self.boundaries)} must rise.")


@dataclasses.dataclass(frozen=True)
class Naming(Options):
    """Further options of `train`."""

    test_indices: str = option("", "number of the experiment: names the run folder test<number>")


@dataclasses.dataclass(frozen=True)
class Scoring(Options):
    """Further options of `validate`."""

    flip_data: bool = option(False, "the original's name of --flip_test, at test time")
    per_joint: bool = option(False, "errors by joint instead of by action")
    protocol2: bool = option(False, "only the table after Procrustes alignment, as the original prints it")


@dataclasses.dataclass(frozen=True)
class Keypoints(Options):
    """Further options of `preview` and `predict`, which read 2-D keypoints here."""

    skeleton: str = option("", "joints of the keypoints, such as COCO17 or H36M17, where the file does not tell")
    image_size: tuple[str, ...] = option((), "width,height of the pictures in pixels, where the file does not tell")
    placement: str = option(
        "person", "move people to where training has them, or take them where they stand in the image (original)",
        choices=("person", "image"),
    )  # fmt: skip


OPTIONS = {"train": Naming, "validate": Scoring, "preview": Keypoints, "predict": Keypoints}


def run_name(config, test_indices=""):
    """Names a run folder after its options.

    Args:
        config: `Config`.
        test_indices: Number of the experiment.

    Returns:
        Folder name: `test<number>` as the original's where an experiment's number is given, otherwise ending in the
        date and time.
    """
    if test_indices:
        return f"test{test_indices}"
    graph = f"knn{config.knn}" if config.graph == "skeleton" else config.graph
    parts = ["LCN", config.mode, graph, f"L{config.num_layers}", f"F{config.channels}", f"{config.num_epochs}e"]
    if config.mask_type != "locally_connected":
        parts.append("learnable")
    if config.flip_data:
        parts.append("flip")
    return "_".join(parts) + datetime.datetime.now().strftime("_%b%d_%H%M%S")


def complete(config):
    """Fills in the measures of the training poses, so that the configuration alone describes the model.

    Args:
        config: `Config`.

    Returns:
        `Config` with `body_size_mm`, `screen_size` and `camera_pitch_deg`, and for a Laplacian graph `limb_lengths`.
    """
    needs_lengths = config.graph == "laplacian" and not config.limb_lengths
    if not needs_lengths and config.body_size_mm and config.screen_size and config.camera_pitch_deg:
        return config
    body_mm, screen, pitch_deg, limbs = _measures(config)
    changes = {
        "body_size_mm": config.body_size_mm or body_mm,
        "screen_size": config.screen_size or screen,
        "camera_pitch_deg": config.camera_pitch_deg or pitch_deg,
    }
    if needs_lengths:
        changes["limb_lengths"] = tuple(f"{length:.9g}" for length in limbs)
    try:
        return config.replace(**changes)
    except ValueError as error:
        raise ValueError(
            f"The poses in {h36m.pose_file(config.data_dir, 'train')} are not of people: measured on them, {error} "
            "Make the file again with `python tools/create_dataset.py --h36m --overwrite`."
        ) from None


def _measures(config):
    """Means over all training poses: length of all bones in mm and on the screen, pitch of the cameras, limbs."""
    sums, count = 0.0, 0
    with PoseFile(h36m.pose_file(config.data_dir, "train")) as file:
        total = len(file)
    for start in range(0, total, _MEASURED_TOGETHER):
        # Actions are read to be checked: nothing else in training looks at them.
        columns = ("joints_image", "joints_cam_mm", "camera", "action")
        poses = h36m.read_poses(config.data_dir, "train", columns, start, start + _MEASURED_TOGETHER)
        labels = h36m.network_labels(poses)
        limbs = graphs.limb_lengths(H36M17, labels)
        if config.flip_data:
            limbs = (limbs + graphs.limb_lengths(H36M17, screen_pose.flip(labels))) / 2
        sizes = [_total_bone_length(joints).mean() for joints in (poses.joints_cam_mm, labels)]
        # Human3.6M's world has z upwards; the camera's axes are y down and z forward.
        up = poses.cameras.R[poses.camera] @ [0.0, 0.0, 1.0]
        pitch_deg = np.degrees(np.arctan2(-up[:, 2], -up[:, 1])).mean()
        sums = sums + len(poses) * np.concatenate([sizes, [pitch_deg], limbs])
        count += len(poses)
    body_mm, screen, pitch_deg, *limbs = (sums / count).tolist()
    return body_mm, screen, pitch_deg, limbs


_MEASURED_TOGETHER = 100_000


def _total_bone_length(joints):
    """`[..., 17, 3]` -> `[...]`."""
    children, parents = np.array(H36M17.bones).T
    return np.linalg.norm(joints[..., children, :] - joints[..., parents, :], axis=-1).sum(-1)


def adjacency(config):
    """Makes the neighbour matrix.

    Args:
        config: `Config`; for a Laplacian graph with its `limb_lengths`.

    Returns:
        Float32 `[17, 17]`.

    Raises:
        ValueError: If the lengths of a Laplacian graph are missing.
    """
    if config.graph == "laplacian":
        if not config.limb_lengths:
            raise ValueError("--graph=laplacian lacks --limb_lengths, which come from the training poses; train first.")
        lengths = [float(length) for length in config.limb_lengths]
        matrix = graphs.laplacian(H36M17, lengths, config.laplacian_normalized, config.laplacian_rescaled)
    elif config.graph == "random":
        edges = graphs.random_graph(_JOINTS, config.random_edges, config.random_seed)
        matrix = graphs.neighbours_from_edges(edges, _JOINTS, config.knn)
    elif config.graph == "full":
        matrix = graphs.full_graph(_JOINTS)
    else:
        matrix = H36M17.neighbours(config.knn)
    normalize = {"none": np.asarray, "row": graphs.row_normalized, "symmetric": graphs.symmetric_normalized}
    return normalize[config.graph_norm](np.asarray(matrix, np.float32))


def build_model(config, pretrained=True):
    """Builds the network.

    Args:
        config: `Config`.
        pretrained: Accepted for the sake of the other systems; the network always starts from random weights.

    Returns:
        `LCN`.
    """
    plain = config.graph == "skeleton" and config.graph_norm == "none"
    return LCN(
        skeleton=H36M17,
        adjacency=None if plain else adjacency(config),
        hops=config.knn,
        channels=config.channels,
        num_layers=config.num_layers,
        in_features=config.in_features,
        mask_type=config.mask_type,
        mask_init=config.mask_init,
        residual=config.residual,
        max_norm=config.max_norm,
        batch_norm=config.batch_norm,
        batch_norm_momentum=config.batch_norm_momentum,
        dropout=config.dropout,
        regularization=config.regularization,
    )


def learning_rate(config):
    """Makes the schedule of the learning rate.

    Args:
        config: `Config`.

    Returns:
        `keras.optimizers.schedules.LearningRateSchedule`.
    """
    if config.decay_type == "exp":
        return keras.optimizers.schedules.ExponentialDecay(
            config.learning_rate, config.decay_steps, config.decay_rate, staircase=False
        )
    boundaries, rates = [int(float(step)) for step in config.boundaries], [float(rate) for rate in config.lr_values]
    return keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, rates)


def build_trainer(config, model):
    """Compiles the network for `fit`.

    Args:
        config: `Config`.
        model: `LCN` to train.

    Returns:
        The same model, compiled, with its optimizer and metrics built.
    """
    steps = config.num_epochs * steps_per_epoch(config)
    if config.batch_norm and config.batch_norm_momentum > 0.98 and steps < _FEW_STEPS:
        print(
            f"Note: {steps} steps are few for --batch_norm_momentum={config.batch_norm_momentum:g}: the network will "
            "test far worse than it trains. Add --batch_norm_momentum=0.9."
        )
    model.compile(
        optimizer=FusedAdam(learning_rate(config), epsilon=1e-8),
        loss="mse",
        metrics=[joint_error_px],
        run_eagerly=config.run_eagerly,
        jit_compile=config.jit_compile,
        steps_per_execution=_steps_per_execution(config),
    )
    model.optimizer.build(model.trainable_variables)
    # Checkpoints hold the metrics, which Keras would not build before the first step.
    joints = ops.zeros((1, _JOINTS, 3))
    model.compute_metrics(None, joints, joints)
    model.reset_metrics()
    return model


_FEW_STEPS = 1500


@keras.saving.register_keras_serializable("posekit")
def joint_error_px(y_true, y_pred):
    """Mean distance of predicted from true joints, in thousandths of the picture's width: pixels in Human3.6M.

    Args:
        y_true: `[batch, joints, 3]`, normalised.
        y_pred: A tensor of the same shape.

    Returns:
        `[batch, joints]`.
    """
    return 500.0 * ops.norm(y_true - y_pred, axis=-1)


def _steps_per_execution(config):
    # Of several steps on several devices in one call, Keras makes a graph that does not run.
    if config.run_eagerly or config.strategy != "none":
        return 1
    return config.steps_per_execution or (100 if tf.config.list_physical_devices("GPU") else 10)


def steps_per_epoch(config):
    """Number of training steps in an epoch: whole batches, at least one.

    Long epochs are cut by at most a hundredth, to a number of steps that many calls of equally many steps make up; as
    every epoch draws another order, other poses are left out each time.

    Args:
        config: `Config`.

    Returns:
        The number.
    """
    steps = _batches(config)
    for round_number in (100, 10):
        if steps % round_number <= steps // 100:
            return steps - steps % round_number
    return steps


def _batches(config):
    with PoseFile(h36m.pose_file(config.data_dir, "train")) as file:
        return h36m.steps_per_epoch(len(file), config.batch_size, config.flip_data)


def train_data(config, epoch, step):
    """Makes the stream of training batches from any point of the run.

    Args:
        config: `Config`.
        epoch: First epoch.
        step: First step in it.

    Returns:
        `tf.data.Dataset` of `(joints [batch, 17, 2 or 3], labels [batch, 17, 3])`; its order depends on seed, epoch
        and step alone.
    """
    options = {
        "num_epochs": config.num_epochs,
        "start_epoch": epoch,
        "start_step": step,
        "seed": config.seed,
        "flip": config.flip_data,
    }
    if config.stream:
        path, confidence = h36m.pose_file(config.data_dir, "train"), config.in_features == 3
        data = h36m.file_batches(
            path, config.batch_size, mode=config.mode, confidence=confidence, stream=True, **options
        )
    else:
        data = h36m.pose_batches(*_network_data(config, "train"), config.batch_size, **options)
    steps, batches = steps_per_epoch(config), _batches(config)
    if steps == batches:
        return data
    numbered = data.enumerate(epoch * batches + step)
    return numbered.filter(lambda number, _: number % batches < steps).map(lambda _, batch: batch)


def _network_data(config, split):
    path = h36m.pose_file(config.data_dir, split)
    stamp = path.stat().st_mtime_ns if path.exists() else None
    return _read_network_data(path, stamp, config.mode, config.in_features == 3)


@functools.lru_cache(maxsize=2)
def _read_network_data(path, stamp, mode, confidence):
    # As tensors, which the streams of batches share instead of making copies.
    with tf.device("/CPU:0"):
        return tuple(tf.convert_to_tensor(array) for array in h36m.read_network_data(path, mode, confidence))


def validation_data(config, repeat=False):
    """Makes the validation batches.

    Args:
        config: `Config`.
        repeat: Whether to go round for ever.

    Returns:
        `tf.data.Dataset` with every test pose once, in order, or None without validation.
    """
    if not config.use_validation:
        return None
    joints, labels = _network_data(config, "test")
    size = _EVALUATION_BATCH
    starts = tf.data.Dataset.range(0, len(joints), size)
    data = starts.map(lambda start: (joints[start : start + size], labels[start : start + size]))
    return data.repeat() if repeat else data


_EVALUATION_BATCH = 1000


def reading(config):
    """Makes a context for reading data; pose files are checked when they are opened, so there is nothing to add.

    Args:
        config: `Config`.

    Returns:
        Context manager.
    """
    return contextlib.nullcontext()


def recording(config, model):
    """Tells the training loop what to record.

    Args:
        config: `Config`.
        model: `LCN` in training.

    Returns:
        Keyword arguments of `RunRecorder`.
    """
    return {"monitor": "val_loss" if config.use_validation else "loss"}


# ---------------------------------------------------------------------------------------------------- evaluation


def lift(config, model, joints):
    """Runs the network, over mirrored poses too where the options say so.

    Args:
        config: `Config`.
        model: `LCN`, or what `network` makes of it.
        joints: Float32 `[poses, 17, 2 or 3]` normalised joints, at least one pose.

    Returns:
        Float32 `[poses, 17, 3]`, normalised.
    """
    predicted = _run(model, joints)
    if not config.flip_test:
        return predicted
    return screen_pose.average_flipped(predicted, _run(model, screen_pose.flip(joints)))


def network(model):
    """Makes the fastest form of a network: norms and masks folded into its kernels, with the weights of this moment.

    Args:
        model: `LCN`.

    Returns:
        Function from float32 `[poses, 17, 2 or 3]` to a tensor `[poses, 17, 3]`.
    """
    spec = tf.TensorSpec((None, *model.inputs[0].shape[1:]), tf.float32)
    return tf.function(model.folded(), input_signature=[spec])


def _run(model, joints):
    run = network(model) if isinstance(model, LCN) else model
    starts = range(0, len(joints), _EVALUATION_BATCH)
    return np.concatenate([run(joints[start : start + _EVALUATION_BATCH]).numpy() for start in starts])


def evaluate(config, model, keep=4, per_joint=False, protocol2=False, flip_data=False):
    """Evaluates a model on the test poses.

    Args:
        config: `Config`.
        model: `LCN`.
        keep: Accepted for the sake of the other systems; poses are small, and all stay in memory.
        per_joint: Whether the tables are by joint instead of by action.
        protocol2: Whether to print the table of protocol 2 only.
        flip_data: Whether to predict mirrored poses too, and average, whatever the options say.

    Returns:
        `Evaluation`.
    """
    config = config.replace(flip_test=config.flip_test or flip_data)
    poses = h36m.read_poses(config.data_dir, "test")
    inputs = h36m.network_inputs(poses, config.mode, config.in_features == 3)
    predicted = screen_pose.denormalize(lift(config, model, inputs).astype(np.float64), poses.image_size)
    return _evaluation(config, poses, predicted, per_joint, protocol2)


def evaluate_results(config, path, keep=4, per_joint=False, protocol2=False, flip_data=False):
    """Scores a result file, such as the original's `result_gt.pkl`.

    Args:
        config: `Config`.
        path: The file.
        keep: As in `evaluate`.
        per_joint: As in `evaluate`.
        protocol2: As in `evaluate`.
        flip_data: Must be false.

    Returns:
        `Evaluation`.
    """
    poses = h36m.read_poses(config.data_dir, "test")
    if flip_data:
        raise ValueError("--flip_data: a result file holds predictions already; leave it out.")
    return _evaluation(config, poses, read_result(path, len(poses)), per_joint, protocol2)


def _evaluation(config, poses, predicted, per_joint, protocol2):
    scores = score(
        predicted, poses.joints_cam_mm, poses.box_px, poses.intrinsics, poses.root_depth_mm, poses.action, skip_bad=True
    )
    in_camera = screen_pose.image_to_camera(predicted, poses.box_px, poses.intrinsics, poses.root_depth_mm)
    names, values = poses.names(), scores.summary()
    tables = [
        f"protocol {protocol}, mm:\n{scores.table('lcn', protocol, per_joint)}"
        for protocol in ((2,) if protocol2 else (1, 2))
    ]

    def picture(index):
        people = People(
            keypoints_px=poses.joints_px[index][None],
            scores=np.ones((1, _JOINTS)),
            skeleton=H36M17,
            image_size=poses.image_size[index][::-1],
            joints3d=in_camera[index][None] / 1000,
        )
        captions = ("2-D joints", "3-D joints (grey: the truth)")
        return lifting_picture(None, people, truth_mm=poses.joints_cam_mm[index][None], captions=captions)

    by_action = {
        f"protocol {protocol}": dict(zip(h36m.ACTIONS.values(), scores.per_action(protocol))) for protocol in (1, 2)
    }
    command = f"scale_{'joint' if per_joint else 'action'}{'_protocol2' if protocol2 else ''}"
    return Evaluation(
        metrics={
            "mpjpe_mm": values["mpjpe"],
            "pa_mpjpe_mm": values["p_mpjpe"],
            "root_mpjpe_mm": values["root_mpjpe"],
            "pck3d_150": values["pck3d"],
            "auc3d": values["auc3d"],
        },
        labels={
            "mpjpe_mm": "MPJPE, mm (protocol 1: roots not aligned)",
            "pa_mpjpe_mm": "PA-MPJPE, mm (protocol 2: Procrustes)",
            "root_mpjpe_mm": "MPJPE, mm (roots aligned)",
            "pck3d_150": "3DPCK at 150 mm (roots aligned)",
            "auc3d": "AUC to 150 mm (roots aligned)",
        },
        ranking={"poses": (scores.errors_mm.mean(-1), "mm MPJPE")},
        filenames=names,
        picture=picture,
        plots={
            "errors_by_action.png": lambda path: plot_errors_by_action(by_action, path),
            f"result_{config.mode}.pkl": lambda path: write_result(path, predicted),
            f"err_{command}_{config.mode}.log": lambda path: write_file(path, ("\n".join(tables) + "\n").encode()),
        },
        text="\n".join(tables + scores.notes()),
        unit="poses",
    )


# ---------------------------------------------------------------------------------------------------- prediction

# Of Human3.6M, for weights whose configuration does not tell: bones of 4.15 m, seen from 5 m away.
_BODY_SIZE_MM, _SCREEN_SIZE = 4150.0, 1.9


def predict(config, model, people, placements):
    """Lifts people to 3-D.

    Args:
        config: `Config`.
        model: `LCN`, or what `network` makes of it.
        people: List of 2-D `People`, one a picture.
        placements: For each of them `"person"` or `"image"`; see `posekit.predictor.Lifter`.

    Returns:
        List of `People` in the order of `H36M17`, with `joints3d` in metres relative to the pelvis.
    """
    found = [infer_joints(one.keypoints_px, one.scores, one.skeleton, H36M17) for one in people]
    if not any(len(one) for one in people):
        return [_lifted(config, one, joints, np.zeros((0, _JOINTS, 3))) for one, joints in zip(people, found)]
    joints_px = np.concatenate([joints.points for joints in found])
    confidence = np.concatenate([joints.scores for joints in found])
    sizes = np.concatenate([np.tile(one.image_size[::-1], (len(one), 1)) for one in people])
    by_person = np.repeat([placement == "person" for placement in placements], [len(one) for one in people])
    usable = np.concatenate([joints.usable for joints in found])
    usable &= (joints_px.max(1) > joints_px.min(1)).any(-1)  # a pose on one point is none

    lifted = np.full((len(joints_px), _JOINTS, 3), np.nan)
    if usable.any():
        joints = screen_pose.normalize(joints_px[usable], sizes[usable])
        lifted[usable] = _lift_placed(config, model, joints, confidence[usable], by_person[usable])
    lifted *= (config.body_size_mm or _BODY_SIZE_MM) / 1000 / _total_bone_length(lifted)[:, None, None]
    lifted -= lifted[:, :1]
    parts = np.split(lifted, np.cumsum([len(one) for one in people])[:-1])
    return [_lifted(config, one, joints, part) for one, joints, part in zip(people, found, parts)]


def _lift_placed(config, model, joints, confidence, by_person):
    """Lifts normalised joints; those of people in any picture after moving them to where training has people.

    How large a person is can only be told once the pose is known: each lifting tells the size of the body, and the
    next one sees the person from the distance from which training sees people on average.
    """
    wanted = config.screen_size or _SCREEN_SIZE
    middle = joints.mean(-2, keepdims=True)
    spread = np.sqrt(np.square(joints - middle).sum(-1).mean(-1))[:, None, None]
    # A standing person's joints lie a tenth of the length of all bones from their middle.
    placed = np.where(by_person[:, None, None], (joints - middle) * (0.1 * wanted / np.maximum(spread, 1e-9)), joints)
    for _ in range(_SIZINGS if by_person.any() else 0):
        lifted = _lift_with_confidence(config, model, placed, confidence)
        scale = np.where(by_person, wanted / np.maximum(_total_bone_length(lifted), 1e-9), 1.0)
        placed = placed * scale[:, None, None]
    return _lift_with_confidence(config, model, placed, confidence)


_SIZINGS = 2


def _lift_with_confidence(config, model, joints, confidence):
    if config.in_features == 3:
        joints = np.concatenate([joints, confidence[..., None]], -1)
    return lift(config, model, joints.astype(np.float32)).astype(np.float64)


def _lifted(config, people, joints, joints3d):
    pitch = np.radians(config.camera_pitch_deg)
    return People(
        keypoints_px=joints.points,
        scores=joints.scores,
        skeleton=H36M17,
        image_size=people.image_size,
        person_scores=people.person_scores,
        boxes=people.boxes,
        joints3d=joints3d,
        source=people.source,
        image=people.image,
        up=(0.0, -np.cos(pitch), -np.sin(pitch)),
    )


INPUT = "keypoints"
VIEWS = ("both", "skeleton", "rotated")
KEYS = {view[0]: view for view in VIEWS}


def drawer():
    """Makes the function with which one source is drawn; the 3-D view turns from picture to picture.

    Returns:
        Function `(people, image, view) -> picture`.
    """
    turned_deg = itertools.count(_FROM_DEG, _TURN_DEG)
    return lambda people, image, view="both": draw(people, image, view, next(turned_deg))


_FROM_DEG, _TURN_DEG = 30, 1


def draw(people, image, view="both", turned_deg=_FROM_DEG):
    """Draws lifted people in one of the preview's views.

    Args:
        people: `People` of `predict`.
        image: Uint8 `[height, width, 3]` RGB, or None for a light canvas.
        view: `"both"` (2-D joints and the 3-D skeletons beside them), `"skeleton"` (2-D) or `"rotated"` (3-D).
        turned_deg: Where to look at the 3-D skeletons from; 0 is where the camera was.

    Returns:
        Uint8 `[height, width, 3]`.
    """
    if view not in VIEWS:
        raise ValueError(f"view={view!r}: choose one of {', '.join(VIEWS)}.")
    if view == "rotated":
        return draw_skeleton_3d(1000.0 * level(people).joints3d, H36M17, azimuth_deg=turned_deg, turning=True)
    if view == "skeleton":
        people, image = (people, image) if image is not None else _on_canvas(people)
        return draw_people(people, image, mesh=False, skeleton=True)
    return lifting_picture(image, level(people), turned_deg)


def _on_canvas(people):
    """People on a light canvas of the picture's size, or smaller where that is huge."""
    scale = min(1.0, _CANVAS_SIDE / max(people.image_size))
    size = tuple(max(1, round(scale * side)) for side in people.image_size)
    people = dataclasses.replace(people, keypoints_px=scale * people.keypoints_px, image_size=size)
    return people, np.full((*size, 3), 245, np.uint8)


_CANVAS_SIDE = 4000


def level(people):
    """Turns people as a camera would see them that looks straight ahead, so that they stand on a level floor.

    Args:
        people: `People` with `joints3d`, and `up` where it is known.

    Returns:
        `People`; the same ones where `up` is not known.
    """
    if people.up is None:
        return people
    _, down, ahead = -np.asarray(people.up)
    turn = np.array([[1, 0, 0], [0, down, ahead], [0, -ahead, down]])
    return dataclasses.replace(people, joints3d=people.joints3d @ turn.T)


def animate(people, image, view="both"):
    """Walks once around lifted people, for a moving picture of a single one.

    Args:
        people: `People` of `predict`.
        image: As for `draw`.
        view: As for `draw`.

    Returns:
        Iterator of uint8 `[height, width, 3]`.
    """
    if view == "both":
        return lifting_turntable(image, level(people), _TURN_FRAMES, _FROM_DEG)
    return (draw(people, image, view, _FROM_DEG + 360 * frame / _TURN_FRAMES) for frame in range(_TURN_FRAMES))


_TURN_FRAMES = 60
