"""V2V-PoseNet, as a whole: one depth map of a hand or a body to its 3-D joints.

    python tools/create_dataset.py --msra
    python -m posekit.train --model=v2v --dataset=msra --test_subject=3
    python -m posekit.validate --model=v2v --run_dir=logs/... --ensemble=10

The original reports mean errors of 6.28 mm (ICVL), 8.42 mm (NYU) and 7.59 mm (MSRA), and 88.74 % and 83.44 % mAP at
10 cm (ITOP's front and top view), each with the mean of ten epochs' predictions; the PyTorch port about 11 mm on
MSRA's subject 3 with one epoch's, and about 10 mm with the integral head.
"""

import contextlib
import dataclasses
import datetime
import functools
import itertools

import numpy as np
import tensorflow as tf

from posekit.codecs.voxel_heatmap import VoxelCodec
from posekit.data import depth_pipeline
from posekit.data.depth_files import PNG_LAYOUTS
from posekit.data.depth_records import DEPTH_STEP
from posekit.data.depth_results import read_results, write_results
from posekit.drawing_depth import AZIMUTH_DEG, depth_picture
from posekit.files import write_file
from posekit.geometry.depth import (
    DepthCamera,
    box_around,
    dataset_camera,
    depth_to_points,
    pixel_to_world,
    world_to_pixel,
)
from posekit.geometry.depth_centers import NoForegroundError
from posekit.geometry.depth_scenes import SCENES
from posekit.metrics import depth_pose
from posekit.models import V2VPoseNet
from posekit.plots import plot_joint_curves, plot_joint_errors, plot_success_curves
from posekit.results import People
from posekit.skeletons import Skeleton
from posekit.systems.evaluation import Evaluation
from posekit.training.config import Options, option
from posekit.training.torch_optimizers import TorchAdam, TorchRMSprop
from posekit.training.volumetric import VolumetricTrainer

DATASETS = tuple(SCENES)
# Batch, epochs, learning rate, optimizer of each original.
_RECIPES = {"pytorch": (12, 15, 1e-3, "adam"), "lua": (8, 10, 2.5e-4, "rmsprop")}
# What says that an option follows dataset and convention.
_FOLLOWING = {"batch_size": 0, "num_epochs": 0, "learning_rate": 0.0, "optimizer": "recipe", "cubic_size": 0.0}


@dataclasses.dataclass(frozen=True)
class Config(Options):
    """Options of V2V-PoseNet; what is 0 or empty follows the recipe of the original that --convention names."""

    dataset: str = option("msra", "dataset", choices=DATASETS, architecture=True)
    data_dir: str = option("data", "folder with the records of create_dataset")
    test_subject: int = option(3, "subject of MSRA that is left out of training, to test on", lower=0, upper=8)
    convention: str = option(
        "pytorch", "whose axes, rounding and recipe: of the PyTorch port or of the Lua original", architecture=True,
        choices=("pytorch", "lua"),
    )  # fmt: skip
    head: str = option(
        "heatmap", "what is predicted: peaks of heatmaps, or means of volumes (integral pose)", architecture=True,
        choices=("heatmap", "integral"),
    )  # fmt: skip

    num_epochs: int = option(0, "epochs to train; 0: 15 (pytorch) or 10 (lua)", lower=0, upper=100_000, training=True)
    batch_size: int = option(0, "frames per step; 0: 12 (pytorch) or 8 (lua)", lower=0, upper=100_000)
    learning_rate: float = option(
        0.0, "learning rate; 0: 1e-3 (pytorch) or 2.5e-4 (lua)", lower=0.0, upper=1e3, training=True
    )
    optimizer: str = option(
        "recipe",
        "optimizer; recipe: adam (pytorch) or rmsprop (lua)",
        choices=("recipe", "adam", "rmsprop"),
        training=True,
    )
    augment: bool = option(True, "scale, turn and move the points of every frame in training", training=True)
    use_validation: bool = option(True, "evaluate the test frames after every epoch", training=True)
    shuffle_buffer: int = option(2000, "frames held in memory for shuffling", lower=1, upper=10_000_000, training=True)

    joints: tuple[str, ...] = option((), "names of the joints to train; empty: all of the dataset", architecture=True)
    width: int = option(16, "channels of the first layer", lower=1, upper=512, architecture=True)
    cubic_size: float = option(
        0.0, "edge of the cube around the centre, in mm (itop: m); 0: the dataset's", lower=0.0, upper=1e5,
        architecture=True,
    )  # fmt: skip
    original_size: int = option(
        96, "voxels along the cube from which augmentation crops", lower=8, upper=512, training=True
    )
    cropped_size: int = option(
        88, "voxels along the cube that the network reads, a multiple of 8", lower=8, upper=512, architecture=True
    )
    sigma: float = option(
        1.7, "standard deviation of the heatmaps, in voxels of the output", lower=0.05, upper=100.0, training=True
    )

    center_joint: str = option(
        "", "joint around which pictures are looked at again where their centre was estimated; none: they are not; "
        "empty: the joint that the training frames' centres lie on, if there is one"
    )  # fmt: skip

    steps_per_execution: int = option(
        1, "steps in one call; what divides an epoch is taken", lower=1, upper=1000, training=True
    )
    jit_compile: bool = option(False, "compile the training step with XLA (slower on a CPU)", training=True)
    mixed_precision: bool = option(False, "compute in half precision", training=True)
    remat: bool = option(
        False, "compute activations again instead of keeping them: less memory, more time", training=True
    )
    strategy: str = option("none", "distribution over devices", choices=("none", "mirrored"), training=True)
    seed: int = option(0, "seed of everything random", lower=0, upper=2**31 - 1)
    checkpoint_every: int = option(1, "epochs between checkpoints", lower=1, upper=100_000, training=True)
    keep_epochs: int = option(
        10, "epochs whose weights are kept, the last ones, for --ensemble", lower=0, upper=1000, training=True
    )
    debug_numerics: bool = option(False, "stop at the first NaN or infinity and name the operation", training=True)
    run_eagerly: bool = option(False, "run step by step in Python, for a debugger", aliases=("debug",), training=True)

    def __post_init__(self):
        super().__post_init__()
        for name, value in self._recipe().items():
            if getattr(self, name) == _FOLLOWING[name]:
                object.__setattr__(self, name, value)
        skeleton = depth_pose.dataset_protocol(self.dataset).skeleton
        if self.center_joint not in ("", "none", *skeleton.joints):
            raise ValueError(
                f"--center_joint={self.center_joint}: {self.dataset} has no such joint; give none or one of "
                f"{', '.join(skeleton.joints)}."
            )
        unknown = [name for name in self.joints if name not in skeleton.joints]
        if unknown or len(set(self.joints)) < len(self.joints):
            raise ValueError(
                f"--joints={','.join(self.joints):.200}: {', '.join(unknown) or 'a name twice':.200} is not right; the "
                "joints of "
                f"{self.dataset} are {', '.join(skeleton.joints)}."
            )
        if self.cropped_size % 8:
            raise ValueError(f"--cropped_size={self.cropped_size} is no multiple of 8, such as 32, 48 or 88.")
        if self.original_size < self.cropped_size:
            raise ValueError(
                f"--original_size={self.original_size} is smaller than --cropped_size={self.cropped_size}; the "
                "original has 96 for 88."
            )
        if self.jit_compile and self.debug_numerics:
            raise ValueError("--debug_numerics cannot look into --jit_compile; leave one of them out.")
        codec(self)

    def replace(self, **changes):
        """Returns a copy with some fields changed; what follows dataset and convention goes on following them."""
        following = {name: _FOLLOWING[name] for name, value in self._recipe().items() if getattr(self, name) == value}
        return super().replace(**{**following, **changes})

    def _recipe(self):
        names = ("batch_size", "num_epochs", "learning_rate", "optimizer")
        return {**dict(zip(names, _RECIPES[self.convention])), "cubic_size": SCENES[self.dataset].cubic_size}


@dataclasses.dataclass(frozen=True)
class Scoring(Options):
    """Further options of `validate`."""

    ensemble: int = option(
        0, "predict with the last so many epochs of the run and take the mean; 0: one checkpoint", lower=0, upper=1000
    )
    split: str = option("test", "frames to evaluate", choices=("test", "train"))
    ground_truth: str = option("", "file of the true joints, for --results; empty: those of the records")
    coordinates: str = option(
        "", "what result files hold, those that are read and the one written; empty: as the dataset's are published",
        choices=("", *depth_pose.COORDINATES),
    )  # fmt: skip
    all_subjects: bool = option(False, "msra: --results holds all nine subjects one after the other, as published")
    ground_truth_coordinates: str = option(
        "", "what --ground_truth holds; empty: what the dataset's published files hold",
        choices=("", *depth_pose.COORDINATES),
    )  # fmt: skip
    compare: tuple[str, ...] = option((), "result files of other methods for the same plots, as NAME=FILE or FILE")
    method: str = option("", "name of what is evaluated in tables and plots; empty: posekit, or the file's name")


@dataclasses.dataclass(frozen=True)
class Depths(Options):
    """Further options of `preview` and `predict`, which read depth pictures here."""

    intrinsics: tuple[str, ...] = option(
        (), "fx,fy,cx,cy of the depth camera, px; empty: the dataset's, for pictures of its size"
    )
    center: tuple[str, ...] = option(
        (), "x,y,z of about the middle of the hand or body, mm, y down; empty: estimated in every picture"
    )
    depth_scale: float = option(0.0, "millimetres of a value of 1; 0: 1, and 1000 in .h5", lower=0.0, upper=1e6)
    layout: str = option("mm16", "PNG files: 16 bits, or NYU's, green x 256 + blue", choices=PNG_LAYOUTS)
    size: tuple[str, ...] = option((), "width,height of .bin files without a header, px")
    left_hand: bool = option(False, "the hand is a left one; the datasets show right ones")


OPTIONS = {"validate": Scoring, "preview": Depths, "predict": Depths}


def codec(config):
    """Makes the representation of voxels and volumes.

    Args:
        config: `Config`.

    Returns:
        `VoxelCodec`.
    """
    return VoxelCodec(
        cubic_size=config.cubic_size,
        original_size=config.original_size,
        cropped_size=config.cropped_size,
        sigma=config.sigma,
        convention=config.convention,
        head=config.head,
    )


def skeleton(config):
    """The joints that are predicted.

    Args:
        config: `Config`.

    Returns:
        `Skeleton` of the dataset, or the part of it that `config.joints` names, in the dataset's order.
    """
    whole = depth_pose.dataset_protocol(config.dataset).skeleton
    if not config.joints:
        return whole
    kept = tuple(name for name in whole.joints if name in config.joints)
    bones = []
    for name in kept:
        # Across joints that are left out, a bone leads to the nearest one that is kept.
        parent = whole.parents[whole.index(name)]
        while parent >= 0 and whole.joints[parent] not in kept:
            parent = whole.parents[parent]
        if parent >= 0:
            bones.append((name, whole.joints[parent]))
    return Skeleton(f"{whole.name}_{len(kept)}", kept, tuple(bones))


def _rows(config):
    """Indices of the predicted joints among the dataset's; None for all."""
    whole = depth_pose.dataset_protocol(config.dataset).skeleton
    return [whole.index(name) for name in skeleton(config).joints] if config.joints else None


def _unit_mm(config):
    return {"mm": 1.0, "m": 1000.0}[dataset_camera(config.dataset).unit]


def run_name(config):
    """Names a run folder after its options.

    Args:
        config: `Config`.

    Returns:
        Folder name, ending in the date and time.
    """
    parts = ["V2V", config.dataset]
    if config.dataset == "msra":
        parts.append(f"S{config.test_subject}")
    parts += [config.head, config.convention, f"{config.cropped_size}v", f"W{config.width}", f"{config.num_epochs}e"]
    return "_".join(parts) + datetime.datetime.now().strftime("_%b%d_%H%M%S")


def complete(config):
    """Fills in what depends on the training data: the joint that the frames' centres lie on.

    Args:
        config: `Config`.

    Returns:
        `Config` whose `center_joint` is a name, or `"none"`.
    """
    return config if config.center_joint else config.replace(center_joint=_joint_in_the_middle(config))


def _joint_in_the_middle(config):
    frames = depth_pipeline.read_frames(
        config.data_dir, config.dataset, "train", config.test_subject, at_most=_FRAMES_LOOKED_AT
    )
    distance = np.linalg.norm(frames.joints - frames.refpoints[:, None], axis=-1)
    distance = np.where(frames.valid, distance, np.nan)[:, _rows(config) or slice(None)]
    known = np.isfinite(distance).any(0)
    if not known.any():
        return "none"
    typical = np.full(len(known), np.inf)
    typical[known] = np.nanmedian(distance[:, known], axis=0)
    nearest = int(typical.argmin())
    return skeleton(config).joints[nearest] if typical[nearest] <= _ON_A_JOINT * config.cubic_size else "none"


# Of each record set. Centres that a network found are about so far from the joint that it was trained to find.
_FRAMES_LOOKED_AT = 1024
_ON_A_JOINT = 0.05


def build_model(config, pretrained=True):
    """Builds the network.

    Args:
        config: `Config`.
        pretrained: Accepted for the sake of the other systems; the network always starts from random weights.

    Returns:
        `V2VPoseNet`.
    """
    return V2VPoseNet(
        num_joints=skeleton(config).num_joints,
        width=config.width,
        head=config.head,
        cube_size=config.cropped_size,
        remat=config.remat,
    )


def build_trainer(config, model):
    """Makes the model that `fit` trains.

    Args:
        config: `Config`.
        model: `V2VPoseNet` to train.

    Returns:
        `VolumetricTrainer`, compiled, with its optimizer built.
    """
    trainer = _encoder(config, model)
    if config.optimizer == "adam":
        optimizer = TorchAdam(config.learning_rate, epsilon=1e-8)
    else:
        optimizer = TorchRMSprop(config.learning_rate, rho=0.99, epsilon=1e-8)
    trainer.compile(
        optimizer=optimizer,
        run_eagerly=config.run_eagerly,
        jit_compile=config.jit_compile,
        steps_per_execution=1 if config.run_eagerly else config.steps_per_execution,
    )
    trainer.optimizer.build(model.trainable_variables)
    return trainer


def _encoder(config, model):
    return VolumetricTrainer(
        model,
        codec(config),
        depth_unit=DEPTH_STEP[dataset_camera(config.dataset).unit],
        background=_background(config),
        unit_mm=_unit_mm(config),
        augment=config.augment,
        seed=config.seed,
    )


def _background(config):
    """Depth of pixels that measured nothing: as far as hands are looked for; bodies stand in an open room."""
    scene = SCENES[config.dataset]
    return scene.depth_range[1] if scene.walled else None


def steps_per_epoch(config):
    """Number of training steps in an epoch: whole batches, at least one.

    Args:
        config: `Config`.

    Returns:
        The number.
    """
    return depth_pipeline.steps_per_epoch(config.data_dir, config.dataset, config.batch_size, config.test_subject)


def train_data(config, epoch, step):
    """Makes the stream of training batches from any point of the run.

    Args:
        config: `Config`.
        epoch: First epoch.
        step: First step in it.

    Returns:
        `tf.data.Dataset` of dicts, see `VolumetricTrainer`; its order depends on seed, epoch and step alone.
    """
    return _frames(
        config, "train", num_epochs=config.num_epochs, start_epoch=epoch, start_step=step, seed=config.seed,
        shuffle_buffer=config.shuffle_buffer,
    )  # fmt: skip


def _frames(config, split, **options):
    batches = depth_pipeline.depth_batches(
        config.data_dir, config.dataset, split, config.batch_size, codec=codec(config),
        test_subject=config.test_subject, joints=_rows(config), **options,
    )  # fmt: skip
    return batches.map(_in_few_sizes)


def _in_few_sizes(batch):
    """Pads crops further, so that steps are compiled for few sizes."""
    rest = -tf.shape(batch["depth"])[1:] % _SIZE_STEP
    return batch | {"depth": tf.pad(batch["depth"], [[0, 0], [0, rest[0]], [0, rest[1]]])}


_SIZE_STEP = 64


def _filled_up(batch, batch_size):
    """Fills the last batch with frames that count nowhere, so that every device gets some."""
    count = tf.shape(batch["frame"])[0]
    rows = tf.minimum(tf.range(batch_size), count - 1)
    whole = {name: tf.gather(part, rows) for name, part in batch.items()}
    counted = tf.cast(tf.range(batch_size) < count, tf.float32)
    return whole | {"valid": whole["valid"] * counted[:, None]}


def validation_data(config, repeat=False):
    """Makes the validation batches.

    Args:
        config: `Config`.
        repeat: Whether to go round for ever.

    Returns:
        `tf.data.Dataset` with every test frame once, in order, or None without validation or where no joint of the
        first test frames is labelled, as in HANDS2017's.
    """
    if not config.use_validation:
        return None
    data = _frames(config, "test").map(lambda batch: {name: part for name, part in batch.items() if name != "name"})
    with reading(config):
        first = next(iter(data.take(1)))
    if not tf.reduce_any(first["valid"] > 0):
        print(f"Note: the test frames of {config.dataset} have no labels; there is no validation.")
        return None
    if config.strategy != "none":
        data = data.map(lambda batch: _filled_up(batch, config.batch_size))
    return data.repeat() if repeat else data


@contextlib.contextmanager
def reading(config):
    """Makes a context in which damaged records are explained.

    Args:
        config: `Config`.

    Returns:
        Context manager.
    """
    place = (config.data_dir, config.dataset)
    with (
        depth_pipeline.explain_bad_records(*place, "train", config.test_subject),
        depth_pipeline.explain_bad_records(*place, "test", config.test_subject),
    ):
        yield


def recording(config, model):
    """Tells the training loop what to record.

    Args:
        config: `Config`.
        model: `V2VPoseNet` in training.

    Returns:
        Keyword arguments of `RunRecorder`.
    """
    # The test frames must not choose the epoch: as in the originals, the last ones count, and no checkpoint is "best".
    return {"monitor": "", "keep_epochs": config.keep_epochs}


# ---------------------------------------------------------------------------------------------------- evaluation


def evaluate(config, model, keep=4, split="test", **scoring):
    """Evaluates a model on the frames of a dataset.

    Args:
        config: `Config`.
        model: `V2VPoseNet`, or a list of them whose predictions are averaged.
        keep: How many of the best and of the worst frames stay in memory, to be drawn.
        split: `"test"` or `"train"`.
        **scoring: Further fields of `Scoring`: `method`, `compare`, `coordinates`.

    Returns:
        `Evaluation`.

    Raises:
        ValueError: If options do not go together or files do not fit the records.
    """
    scoring = Scoring(split=split, **scoring)
    for name in ("ground_truth", "ground_truth_coordinates", "all_subjects"):
        if value := getattr(scoring, name):
            raise ValueError(f"--{name}={value} goes with --results=FILE; weights are scored against the records.")
    models = model if isinstance(model, list) else [model]
    truth = _truth(config, split)
    with reading(config):
        predicted, shown = _predict_frames(config, models, split, keep)
    default = "posekit" if len(models) == 1 else f"posekit, mean of {len(models)}"
    named = {scoring.method or default: predicted}
    return _evaluation(config, _with_others(config, named, scoring, truth), truth, shown, scoring)


def evaluate_results(config, path, keep=4, **scoring):
    """Scores a result file, such as those that the originals publish.

    Args:
        config: `Config`.
        path: The file.
        keep: Accepted for the sake of `evaluate`.
        **scoring: Fields of `Scoring`.

    Returns:
        `Evaluation`. Where predictions and truth are both files of pixels, the camera is the one with which the
        dataset's figures are published.

    Raises:
        ValueError: If options do not go together or files do not fit each other.
    """
    scoring = Scoring(**scoring)
    if scoring.ensemble:
        raise ValueError(f"--ensemble={scoring.ensemble}: a result file holds predictions already; leave it out.")
    camera = None
    if scoring.ground_truth:
        protocol = depth_pose.dataset_protocol(config.dataset)
        kinds = {scoring.coordinates or protocol.coordinates, scoring.ground_truth_coordinates or protocol.coordinates}
        camera = protocol.camera if len(kinds) == 1 else None
        truth = _truth_of_file(config, scoring, camera)
    elif scoring.ground_truth_coordinates:
        raise ValueError("--ground_truth_coordinates goes with --ground_truth=FILE.")
    elif scoring.all_subjects:
        truth = _truth_of_all_subjects(config, scoring)
    else:
        truth = _truth(config, scoring.split)
    named = {scoring.method or _stem(path): _read_method(config, path, scoring.coordinates, truth, camera)}
    return _evaluation(config, _with_others(config, named, scoring, truth, camera), truth, {})


@dataclasses.dataclass(frozen=True, eq=False)
class _Truth:
    """Names `[frames]` or None where files have none, joints `[frames, joints, 3]` in the world, valid, groups."""

    names: tuple | None
    joints: np.ndarray
    valid: np.ndarray | None = None
    groups: np.ndarray | None = None


def _truth(config, split):
    frames = depth_pipeline.read_frames(config.data_dir, config.dataset, split, config.test_subject)
    # Frames without a usable centre take no part in training.
    frames_used = np.isfinite(frames.refpoints).all(-1) | (split == "test")
    joints = slice(None) if _rows(config) is None else _rows(config)
    groups = np.asarray(frames.groups)[frames_used]
    return _Truth(
        tuple(name for name, used in zip(frames.names, frames_used) if used),
        frames.joints[frames_used][:, joints],
        frames.valid[frames_used][:, joints] > 0,
        groups if len(np.unique(groups)) > 1 else None,
    )


def _truth_of_file(config, scoring, camera):
    protocol = depth_pose.dataset_protocol(config.dataset)
    joints, names = read_results(scoring.ground_truth)
    joints = _chosen(config, scoring.ground_truth, joints)
    if (scoring.ground_truth_coordinates or protocol.coordinates) == "pixel":
        joints = pixel_to_world(joints, camera or dataset_camera(config.dataset))
    # Text files have zeros for joints without labels.
    return _Truth(names, joints, (joints != 0).any(-1))


def _truth_of_all_subjects(config, scoring):
    if config.dataset != "msra" or scoring.split != "test":
        raise ValueError(f"--all_subjects is for the test frames of msra, not for {config.dataset}'s {scoring.split}.")
    parts = [_truth(config.replace(test_subject=subject), "test") for subject in range(depth_pipeline.NUM_SUBJECTS)]
    return _Truth(
        tuple(itertools.chain.from_iterable(part.names for part in parts)),
        np.concatenate([part.joints for part in parts]),
        np.concatenate([part.valid for part in parts]),
    )


def _chosen(config, path, joints):
    """The joints that are scored, of a file that holds all of the dataset's or these alone."""
    whole, wanted = depth_pose.dataset_protocol(config.dataset).skeleton.num_joints, skeleton(config).num_joints
    if joints.shape[1] not in (whole, wanted):
        raise ValueError(
            f"{path} holds {joints.shape[1]} joints a frame; {config.dataset} has {whole}"
            f"{f', and --joints names {wanted}' if config.joints else ''}. Is it the result of another dataset?"
        )
    return joints if joints.shape[1] == wanted else joints[:, _rows(config)]


def _with_others(config, named, scoring, truth, camera=None):
    """The methods' names and joints, with those of `scoring.compare` added."""
    for entry in scoring.compare:
        name, found, path = entry.partition("=")
        name, path = (name, path) if found else (_stem(entry), entry)
        if name in named:
            raise ValueError(f"--compare={entry}: {name!r} is there already; name it otherwise, as NAME=FILE.")
        named[name] = _read_method(config, path, scoring.coordinates, truth, camera)
    return named


def _stem(path):
    return str(path).replace("\\", "/").rsplit("/", 1)[-1].removesuffix(".txt")


def _read_method(config, path, coordinates, truth, camera):
    """Joints of a result file in the world."""
    joints, _ = read_results(path, None, len(truth.joints), truth.names)
    joints = _chosen(config, path, joints)
    if (coordinates or depth_pose.dataset_protocol(config.dataset).coordinates) == "pixel":
        joints = pixel_to_world(joints, camera or dataset_camera(config.dataset))
    return joints


def _predict_frames(config, models, split, keep):
    """Joints of all frames in the world, float64 `[frames, joints, 3]`, and the crops of the best and worst ones."""
    run = _runner(config, models)
    predicted, errors, shown, first = [], {}, {}, 0
    for batch in _frames(config, split, ordered=True):
        joints = run(batch).numpy()
        batch = {name: part.numpy() for name, part in batch.items()}
        if split == "train":
            usable = np.isfinite(batch["refpoint"]).all(-1)
            joints, batch = joints[usable], {name: part[usable] for name, part in batch.items()}
        distance = np.where(batch["valid"] > 0, np.linalg.norm(joints - batch["joints"], axis=-1), np.nan)
        for index in np.flatnonzero(np.isfinite(distance).any(-1)) if keep else ():
            errors[first + index] = np.nanmean(distance[index])
            shown[first + index] = {name: part[index] for name, part in batch.items()}
        order = sorted(errors, key=errors.get)
        for index in order[keep : max(keep, len(order) - keep)]:
            del errors[index], shown[index]
        predicted.append(joints)
        first += len(joints)
    if not first:
        raise ValueError(f"{config.dataset} has no frames to evaluate in {config.data_dir}; make its records again.")
    return np.concatenate(predicted), shown


def _runner(config, models):
    """Compiled function from a batch of crops to the mean of what the models predict, joints in the world."""
    encoder = _encoder(config, models[0])
    sizes = {"depth": (None, None, None), "box": (None, 4), "camera": (None, 4), "refpoint": (None, 3)}
    types = {"depth": tf.uint16, "box": tf.int32}
    crops = {name: tf.TensorSpec(size, types.get(name, tf.float32)) for name, size in sizes.items()}
    make = tf.function(lambda batch: encoder.voxels(batch), input_signature=[crops])

    def compiled(model):
        def predict(voxels, refpoint):
            return encoder.decode(model(voxels, training=False), refpoint)

        return tf.function(predict, reduce_retracing=True)

    members = [compiled(model) for model in models]

    def run(batch):
        voxels = make({name: batch[name] for name in crops})
        return tf.add_n([member(voxels, batch["refpoint"]) for member in members]) / len(members)

    return run


def _evaluation(config, named, truth, shown, written=None):
    """Scores and all that is made of them; `written` is the `Scoring` of a result file to write, if any."""
    protocol, joints = depth_pose.dataset_protocol(config.dataset), skeleton(config)
    scores = {
        name: depth_pose.evaluate(
            predicted, truth.joints, joints, truth.valid, truth.groups, protocol.within_mm, _unit_mm(config),
            skip_bad=True,
        )
        for name, predicted in named.items()
    }  # fmt: skip
    predicted, score = next(iter(named.values())), next(iter(scores.values()))
    sides = not config.dataset.startswith("itop")
    text = [score.table(sides), *score.notes()]
    if len(scores) > 1:
        text.append(depth_pose.comparison_table(scores, sides))
    metrics = score.summary()
    labels = {"mean_error_mm": "mean error, mm"}
    labels |= {key: f"mean error, mm: {key.partition('/')[2]}" for key in metrics if "/" in key}
    if config.dataset.startswith("itop"):
        labels["map_10cm"] = "mAP at 10 cm"
    else:
        labels |= {f"frames_within_{mm}mm": f"frames whose worst joint is within {mm} mm" for mm in (20, 40)}
    names = truth.names or tuple(f"line {number + 1}" for number in range(len(truth.joints)))
    frame_errors = np.full(len(predicted), np.nan)
    frame_errors[~np.isnan(score.errors_mm).all(1)] = score.per_frame("mean")

    files = _files(config, predicted, truth, text, written)

    def picture(index):
        return _picture(config, shown.get(index), predicted[index], truth.joints[index])

    return Evaluation(
        metrics={key: None if np.isnan(value) else value for key, value in metrics.items()},
        labels=labels,
        ranking={"frames": (frame_errors, "mm")},
        filenames=list(names),
        picture=picture,
        plots=files | _plots(scores, joints, protocol.within_mm),
        text="\n".join(text),
        unit="frames",
    )


def _plots(scores, joints, within_mm):
    thresholds = np.arange(2.5 * within_mm + 1 if within_mm > 50 else 81.0)
    score = next(iter(scores.values()))

    def success(by, xlabel):
        curves = {name: (thresholds, one.success_curve(thresholds, by)) for name, one in scores.items()}
        return lambda path: plot_success_curves(curves, path, xlabel=xlabel)

    return {
        "success_max.png": success("max", "allowed error of the worst joint, mm"),
        "success_mean.png": success("mean", "allowed mean error of the joints, mm"),
        "joint_accuracy.png": lambda path: plot_joint_curves(thresholds, score.joint_curves(thresholds), joints, path),
        "joint_errors.png": lambda path: plot_joint_errors(
            {name: one.per_joint() for name, one in scores.items()}, joints, path
        ),
    }


def _files(config, predicted, truth, text, written):
    """The tables, and for `written` the result file as the originals write it, with the truth beside it."""
    files = {}
    if written is not None:
        kind = written.coordinates or depth_pose.dataset_protocol(config.dataset).coordinates
        decimals = 4 if config.convention == "pytorch" else 3
        for name, joints in (("result.txt", predicted), ("ground_truth.txt", truth.joints)):
            if kind == "pixel":
                joints = world_to_pixel(joints, dataset_camera(config.dataset))
            # Joints without labels, which lie at the origin.
            joints = np.where(truth.valid[..., None], joints, 0) if name == "ground_truth.txt" else joints
            lost = ~np.isfinite(joints).all((1, 2))
            if lost.any():
                first = truth.names[np.flatnonzero(lost)[0]]
                text.append(f"{name} is not written: {int(lost.sum())} frames have no prediction (first: {first}).")
            else:
                files[name] = functools.partial(write_results, joints=joints, decimals=decimals)
    files["tables.txt"] = lambda path: write_file(path, ("\n".join(text) + "\n").encode())
    return files


def _picture(config, crop, predicted, true):
    """Prediction and truth of one frame; on its depth where that is at hand."""
    camera, options = dataset_camera(config.dataset), {}
    if crop is None:
        depth = np.zeros((camera.height, camera.width), np.float32)
    else:
        left, top, right, bottom = crop["box"]
        depth = crop["depth"][: bottom - top, : right - left] * np.float32(DEPTH_STEP[camera.unit])
        options = {"start_px": (left, top)}
    # The error is in the title of every picture.
    captions = ("depth and joints (grey: truth)", "3-D joints from the side (grey: truth)")
    return depth_picture(
        depth, predicted, camera, skeleton(config), truth=true, reach=config.cubic_size / 2, height=400,
        from_above=config.dataset == "itop_top", captions=captions, **options,
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------- prediction


def predict(config, model, depths, cameras, centers=None, left_hands=None):
    """Predicts the joints of one hand or body in each of some depth pictures.

    Args:
        config: `Config`.
        model: `V2VPoseNet`.
        depths: List of float `[height, width]` depths in millimetres; 0 where nothing was measured.
        cameras: List of `DepthCamera`, one a picture; their unit and direction of y do not matter.
        centers: For each picture `[3]` millimetres, camera axes (x right, y down, z away): about the middle of the
            hand or body; or None to estimate it.
        left_hands: For each picture whether the hand is a left one, which the network, trained on right ones, sees
            in a mirror; none by default.

    Returns:
        List of `People`, of one hand or body each, or of none where no centre was found or nothing is near it:
        `joints3d` in metres, camera axes; scores are the peaks of the heatmaps, for the integral head the share of a
        joint's volume that is near it.
    """
    home = dataset_camera(config.dataset)
    signs = np.array([1.0, -1.0 if home.y_up else 1.0, 1.0])
    scale = 1.0 if home.unit == "mm" else 0.001
    centers, left_hands = centers or [None] * len(depths), left_hands or [False] * len(depths)
    cameras = [
        dataclasses.replace(camera, y_up=home.y_up, unit=home.unit, width=depth.shape[1], height=depth.shape[0])
        for depth, camera in zip(depths, cameras)
    ]
    views = []
    for depth, camera, center, left in zip(depths, cameras, centers, left_hands):
        depth = np.asarray(depth, np.float32) * np.float32(scale)
        center = None if center is None else np.asarray(center, np.float64) * signs * scale
        if left:
            depth, camera, center = _mirrored(config, depth, camera, center)
        views.append((depth, camera, _estimated_center(config, depth, camera) if center is None else center))
    results = _joints_in_views(config, model, views)
    for _ in range(_TIMES_AGAIN if config.center_joint in skeleton(config).joints else 0):
        # Estimates lie on the surface and towards the wrist; the network was trained around a joint.
        middle = skeleton(config).index(config.center_joint)
        again = [index for index, result in enumerate(results) if centers[index] is None and result is not None]
        nearer = [(*views[index][:2], results[index][0][middle]) for index in again]
        for index, result in zip(again, _joints_in_views(config, model, nearer)):
            results[index] = results[index] if result is None else result
    for joints, _ in (result for result, left in zip(results, left_hands) if left and result is not None):
        joints[:, 0] *= -1
    return [
        _people(config, depth.shape, camera, result, signs / scale / 1000)
        for depth, camera, result in zip(depths, cameras, results)
    ]


# The second time still mends what was half outside the cube the first time.
_TIMES_AGAIN = 2


def _mirrored(config, depth, camera, center):
    """Picture, camera and centre as a mirror shows them: x changes its sign."""
    last = depth.shape[1] - 1 + 2 * codec(config).first_pixel
    center = None if center is None else center * [-1, 1, 1]
    return depth[:, ::-1], dataclasses.replace(camera, cx=last - camera.cx), center


def _joints_in_views(config, model, views):
    """For each `(depth, camera, center)` the joints in the world and their scores; None where nothing is to be seen."""
    cubes = [None if view[2] is None else _voxels_around(config, *view) for view in views]
    shown = [index for index, cube in enumerate(cubes) if cube is not None and cube.any()]
    results = [None] * len(views)
    if shown:
        centers = np.stack([views[index][2] for index in shown])
        joints, scores = _joints_in(config, model, np.stack([cubes[index] for index in shown]), centers)
        for index, *result in zip(shown, joints, scores):
            results[index] = result
    return results


def _estimated_center(config, depth, camera):
    try:
        scene = dataclasses.replace(SCENES[config.dataset], cubic_size=config.cubic_size)
        return scene.estimate_center(depth, camera)
    except NoForegroundError:
        return None


def _voxels_around(config, depth, camera, center):
    """The cube around a centre, uint8 `[size, size, size]`."""
    representation, home = codec(config), dataset_camera(config.dataset)
    reach = (config.cropped_size / 2 + 1) * representation.voxel_size
    left, top, right, bottom = box_around(center, reach, camera)
    crop = depth[top:bottom, left:right]
    if not (crop > 0).any():
        return np.zeros([config.cropped_size] * 3, np.uint8)
    # The wall that the originals put behind their hands; in other cameras' pictures there is none.
    if _background(config) is not None and camera.signed_intrinsics == home.signed_intrinsics:
        crop = np.where(crop > 0, crop, _background(config))
    points = depth_to_points(crop, camera, (left, top), representation.first_pixel)[crop > 0]
    return representation.voxels(points, center)


def _joints_in(config, model, cubes, centers):
    """`[frames, joints, 3]` joints in the world and `[frames, joints]` scores."""
    representation = codec(config)
    outputs = model.predict_on_batch(cubes[..., None].astype(np.float32))
    if config.head == "integral":
        joints = representation.to_world(outputs["coordinates"], centers)
        return joints, _mass_around(outputs["heatmaps"], outputs["coordinates"])
    heatmaps = np.moveaxis(np.asarray(outputs), -1, 1)
    return representation.decode(heatmaps, centers), np.clip(heatmaps.max((2, 3, 4)), 0, 1)


def _mass_around(volumes, coordinates):
    """Share of a softmax that lies within a voxel and a half of its mean, along every axis: `[frames, joints]`."""
    volumes, coordinates = np.asarray(volumes, np.float64), np.asarray(coordinates, np.float64)
    weights = np.exp(volumes - volumes.max((1, 2, 3), keepdims=True))
    weights /= weights.sum((1, 2, 3), keepdims=True)
    near = np.abs(np.arange(volumes.shape[1]) - coordinates[..., None]) <= _NEAR
    return np.einsum("nxyzj,njx,njy,njz->nj", weights, *np.moveaxis(near.astype(np.float64), 2, 0), optimize=True)


_NEAR = 1.5


def _people(config, shape, camera, result, to_metres):
    joints3d, scores = (np.zeros((0, skeleton(config).num_joints, n)) for n in (3, 1)) if result is None else (
        result[0][None], result[1][None, :, None]
    )  # fmt: skip
    return People(
        keypoints_px=world_to_pixel(joints3d, camera)[..., :2],
        scores=scores[..., 0],
        skeleton=skeleton(config),
        image_size=shape,
        camera=np.tile([camera.fx, camera.cx, camera.cy], (len(joints3d), 1)),
        joints3d=joints3d * to_metres,
        up=_UP_FROM_ABOVE if config.dataset == "itop_top" else None,
    )


_UP_FROM_ABOVE = (0.0, 0.0, -1.0)


INPUT = "depth"
VIEWS = ("both", "depth", "3d")
KEYS = {view[0]: view for view in VIEWS}


def drawer():
    """Makes the function with which one source is drawn; the 3-D view swings from picture to picture.

    Returns:
        Function `(people, image, view) -> picture`.
    """
    frames = itertools.count()
    return lambda people, image, view="both": draw(people, image, view, _swing_deg(next(frames)))


def _swing_deg(frame):
    return AZIMUTH_DEG + 30 * np.sin(2 * np.pi * frame / _SWING_FRAMES)


_SWING_FRAMES = 120


def draw(people, image, view="both", azimuth_deg=AZIMUTH_DEG):
    """Draws predictions in one of the preview's views.

    Args:
        people: `People` of `predict`.
        image: Float `[height, width]` depths in millimetres.
        view: `"both"` (the tinted depth and the 3-D view beside it), `"depth"` or `"3d"`.
        azimuth_deg: From where the 3-D view looks, around the vertical.

    Returns:
        Uint8 `[height, width, 3]`.
    """
    if view not in VIEWS:
        raise ValueError(f"view={view!r}: choose one of {', '.join(VIEWS)}.")
    from_above = people.up is not None and people.up[2] < -0.5
    return depth_picture(
        image, people, _camera_of(people), view=view, azimuth_deg=azimuth_deg, from_above=from_above
    )


def _camera_of(people):
    """The camera in which people were found; its focal length along y is that of their joints."""
    height, width = people.image_size
    if not len(people):  # then any camera will do
        return DepthCamera(width, width, width / 2, height / 2, False, width, height, "mm")
    focal, cx, cy = people.camera[0].astype(np.float64)
    slopes = people.joints3d[..., 1].astype(np.float64) / people.joints3d[..., 2]
    offsets = people.keypoints_px[..., 1] - cy
    seen = np.isfinite(slopes) & np.isfinite(offsets) & (np.abs(slopes) > 1e-3)
    if seen.any():
        focal_y = np.sum(offsets[seen] * slopes[seen]) / np.sum(slopes[seen] ** 2)
        return DepthCamera(focal, focal_y, cx, cy, False, width, height, "mm")
    return DepthCamera(focal, focal, cx, cy, False, width, height, "mm")


def animate(people, image, view="both"):
    """Walks around one hand or body, for a moving picture of a single frame.

    Args:
        people: `People` of `predict`.
        image: As for `draw`.
        view: As for `draw`.

    Returns:
        Iterator of uint8 `[height, width, 3]`.
    """
    return (draw(people, image, view, AZIMUTH_DEG + 360 * frame / _TURN_FRAMES) for frame in range(_TURN_FRAMES))


_TURN_FRAMES = 60
