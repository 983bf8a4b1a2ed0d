"""Streams of depth crops with joints, for V2V-PoseNet: training shuffled and resumable, tests in order.

A batch is a dict:

| key | value |
|---|---|
| depth | uint16 `[batch, height, width]`, steps of `DEPTH_STEP[unit]`; smaller crops stand in the upper left corner |
| box | int32 `[batch, 4]` left, top, right, bottom of the crop in its picture |
| joints | float32 `[batch, J, 3]`, world; zeros where not labelled |
| valid | float32 `[batch, J]`, 1 where labelled |
| refpoint | float32 `[batch, 3]`, world; in tests NaN where the centre is known to be unusable |
| camera | float32 `[batch, 4]` fx, fy (negative where y points up), cx, cy |
| frame | int64 `[batch]`, number of the frame in the sets' order, the same in every epoch |
| epoch | int64 `[batch]`; 0 in tests |

Tests add `name`, a string `[batch]`. Voxels and heatmaps are made of this on the device, where they are needed.

The order of training is a pure function of (seed, epoch, step): a resumed run sees the same batches.
"""

import contextlib
import dataclasses
import functools
import os

import numpy as np
import tensorflow as tf

from posekit.data import tfrecord
from posekit.data.augment import stream_seed
from posekit.data.depth_records import DepthRecord, center_count
from posekit.data.image_files import MAX_PIXELS
from posekit.data.streams import (
    BadRecordError,
    check_positive,
    epoch_starts,
    explain_bad_files,
    interleave,
    read_files,
    ready,
    shuffle,
)
from posekit.geometry.depth_scenes import SCENES

DEPTH_DATASETS = tuple(SCENES)
SPLITS = ("train", "test")
NUM_SUBJECTS = 9
_FILE_ORDER, _RECORD_ORDER = (n << 40 for n in range(2))
_READ_TOGETHER = 256


def depth_sets(dataset, split, test_subject=3):
    """The record sets that make up a part of a dataset.

    Args:
        dataset: One of `DEPTH_DATASETS`.
        split: `"train"` or `"test"`.
        test_subject: The person of MSRA who is left out of training, 0 to 8; the other datasets have fixed parts.

    Returns:
        List of names, such as `["nyu_train"]`.

    Raises:
        ValueError: If an argument is none of these.

    Example:
        >>> depth_sets("msra", "test", test_subject=3)
        ['msra_p3']
    """
    if dataset not in DEPTH_DATASETS:
        raise ValueError(f"dataset is {dataset!r}; choose from {', '.join(DEPTH_DATASETS)}.")
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; choose from {', '.join(SPLITS)}.")
    if dataset != "msra":
        return [f"{dataset}_{split}"]
    if test_subject not in range(NUM_SUBJECTS):
        raise ValueError(f"test_subject is {test_subject!r}; MSRA has the subjects 0 to {NUM_SUBJECTS - 1}.")
    return [f"msra_p{number}" for number in range(NUM_SUBJECTS) if (number == test_subject) == (split == "test")]


def count_frames(data_dir, dataset, split, test_subject=3):
    """Frames that a stream gives: in training those whose centre is usable, in tests all.

    Args:
        data_dir: Folder of the record sets.
        dataset: One of `DEPTH_DATASETS`.
        split: `"train"` or `"test"`.
        test_subject: As for `depth_sets`.

    Returns:
        The count; it is remembered beside the files, and taken anew where they changed.

    Raises:
        DatasetNotFoundError: If a set is not there; the message says how to make it.
        ValueError: If a set is damaged or is not one of this dataset.
    """
    sets = depth_sets(dataset, split, test_subject)
    if split == "test":
        return sum(tfrecord.num_examples(data_dir, name) for name in sets)
    return sum(_usable(data_dir, name, _center_row(data_dir, dataset, name, test_subject)) for name in sets)


def steps_per_epoch(data_dir, dataset, batch_size, test_subject=3):
    """Training steps in one pass over the usable frames.

    Args:
        data_dir: Folder of the record sets.
        dataset: One of `DEPTH_DATASETS`.
        batch_size: Frames in a step.
        test_subject: As for `depth_sets`.

    Returns:
        Number of full batches; 1 if there are fewer frames than a batch takes, which then repeat to fill it.

    Raises:
        DatasetNotFoundError: If a set is not there; the message says how to make it.
        ValueError: If no frame is usable, or a set is damaged.
    """
    check_positive(batch_size=batch_size)
    count = count_frames(data_dir, dataset, "train", test_subject)
    if not count:
        raise ValueError(
            f"The training frames of {dataset} in {data_dir} have no usable centre; give better centre files, or none "
            f"to have them estimated, and make the records again with python tools/create_dataset.py --{dataset}."
        )
    return max(count // batch_size, 1)


def depth_batches(
    data_dir,
    dataset,
    split,
    batch_size,
    *,
    codec,
    test_subject=3,
    joints=None,
    num_epochs=1,
    start_epoch=0,
    start_step=0,
    seed=0,
    shuffle_buffer=4096,
    ordered=False,
):
    """The stream of batches: of training, epoch after epoch, or of the test frames, once and in order.

    Args:
        data_dir: Folder of the record sets.
        dataset: One of `DEPTH_DATASETS`.
        split: `"train"`: shuffled, in whole batches, without frames whose centre is unusable; `"test"`: every frame,
            the last batch may be smaller.
        batch_size: Frames in a batch.
        codec: `VoxelCodec` that will read the crops, which must hold all that it looks at.
        test_subject: As for `depth_sets`; of several centres of a frame it chooses the one made for this test.
        joints: Numbers of the joints to keep; None for all.
        num_epochs: Epoch at which training ends; None for an endless stream.
        start_epoch: First epoch.
        start_step: First step of the first epoch.
        seed: Integer of up to 31 bits.
        shuffle_buffer: Records among which the next one is drawn. They are held as they are stored: about 15 KB each.
        ordered: Whether the frames of training, too, come once, in order and all, as those of a test do.

    Returns:
        `tf.data.Dataset` of the batches described in this module's docstring.

    Raises:
        DatasetNotFoundError: If a set is not there; the message says how to make it.
        ValueError: If an argument makes no sense, or the records do not fit the dataset or the codec.

    Example:
        >>> with explain_bad_records("data", "msra", "train"):  # doctest: +SKIP
        ...     batches = depth_batches("data", "msra", "train", 8, codec=VoxelCodec(200.0), num_epochs=10)
        ...     model.fit(batches.map(prepare), steps_per_epoch=steps_per_epoch("data", "msra", 8), epochs=10)

    Follows: dragonbook/V2V-PoseNet-pytorch datasets/msra_hand.py:MARAHandDataset; mks0601/V2V-PoseNet_RELEASE
    src/util.lua:DataLoad.
    Differs: the originals make voxels and heatmaps here, and cannot resume within an epoch.
    """
    sets = depth_sets(dataset, split, test_subject)
    check_positive(batch_size=batch_size, shuffle_buffer=shuffle_buffer)
    num_joints = SCENES[dataset].num_joints
    kept = None if joints is None else _checked_joints(joints, num_joints)
    in_order = ordered or split == "test"
    for name in sets:
        _check_fit(data_dir, name, dataset, split, codec)
    rows = [_center_row(data_dir, dataset, name, test_subject) for name in sets]
    files = {name: tfrecord.dataset_files(data_dir, name) for name in sets}
    paths = [path for name in sets for path in files[name]]
    path_rows = [row for name, row in zip(sets, rows) for _ in files[name]]
    counts = [count for name in sets for count in _file_counts(data_dir, name)]
    starts = np.cumsum([0, *counts])[:-1]
    sources = (tf.constant(paths), tf.constant(starts, tf.int64), tf.constant(path_rows, tf.int64))

    def records(path, start, row):
        return read_files(path).enumerate(start).map(lambda frame, serialized: (frame, row, serialized))

    def is_usable(serialized, row):
        return tf.math.is_finite(_chosen(_parse_centers(serialized[None])[0], row)[0])

    def element(epoch, frame, row, serialized):
        made = parse_depth_record(serialized, num_joints, row)
        if kept is not None:
            made |= {key: tf.gather(made[key], kept) for key in ("joints", "valid")}
        if not in_order:
            del made["name"]
        return made | {"frame": frame, "epoch": epoch}

    if in_order:
        stream = tf.data.Dataset.from_tensor_slices(sources).flat_map(records)
        stream = stream.map(functools.partial(element, tf.constant(0, tf.int64)), tf.data.AUTOTUNE)
        return ready(_padded(stream, batch_size, False), -(-sum(counts) // batch_size))

    steps = steps_per_epoch(data_dir, dataset, batch_size, test_subject)
    all_usable = count_frames(data_dir, dataset, split, test_subject) == sum(counts)
    epochs, left = epoch_starts(start_epoch, start_step, num_epochs, steps)

    def epoch_records(epoch, skipped):
        order = tf.random.experimental.stateless_shuffle(tf.range(len(paths)), stream_seed(seed, epoch, _FILE_ORDER))
        opened = tf.data.Dataset.from_tensor_slices(tuple(tf.gather(part, order) for part in sources))
        mixed = interleave(opened, records, len(paths))
        if not all_usable:
            mixed = mixed.filter(lambda frame, row, serialized: is_usable(serialized, row))
        mixed = shuffle(mixed, shuffle_buffer, stream_seed(seed, epoch, _RECORD_ORDER)).repeat()
        mixed = mixed.take(steps * batch_size).skip(skipped * batch_size)
        return mixed.map(lambda frame, row, serialized: (epoch, frame, row, serialized))

    stream = epochs.flat_map(epoch_records).map(element, tf.data.AUTOTUNE)
    return ready(_padded(stream, batch_size, True), left)


@dataclasses.dataclass(frozen=True, eq=False)
class DepthFrames:
    """Everything about the frames of a part of a dataset but the depth, in order.

    Args:
        names: List of text.
        joints: Float32 `[frames, J, 3]`, world; zeros where not labelled.
        valid: Float32 `[frames, J]`, 1 where labelled.
        centers: Float32 `[frames, R, 3]`, world; NaN where unusable.
        refpoints: Float32 `[frames, 3]`, the centres among them that a test uses.
        groups: Text array `[frames]`, empty where there are no groups.
        subjects: Int64 `[frames]`; -1 where unknown.
        estimated: Boolean `[frames]`: whether the centres were estimated.
        cameras: Float32 `[frames, 4]` fx, fy (negative where y points up), cx, cy.
        boxes: Int64 `[frames, 4]` left, top, right, bottom.
        pictures: Int64 `[frames, 2]` width, height.
        unit: `"mm"` or `"m"`.
    """

    names: list
    joints: np.ndarray
    valid: np.ndarray
    centers: np.ndarray
    refpoints: np.ndarray
    groups: np.ndarray
    subjects: np.ndarray
    estimated: np.ndarray
    cameras: np.ndarray
    boxes: np.ndarray
    pictures: np.ndarray
    unit: str

    def __len__(self):
        return len(self.names)


def read_frames(data_dir, dataset, split, test_subject=3, at_most=None):
    """Reads all about the frames but the depth, for figures and result files.

    Args:
        data_dir: Folder of the record sets.
        dataset: One of `DEPTH_DATASETS`.
        split: `"train"` or `"test"`; in training, too, frames with unusable centres are among them.
        test_subject: As for `depth_sets`.
        at_most: Frames of each record set, the first ones; None for all.

    Returns:
        `DepthFrames`, in the order of the numbers `frame` of `depth_batches`.

    Raises:
        DatasetNotFoundError: If a set is not there; the message says how to make it.
        ValueError: If a record is damaged or is not one of this dataset.
    """
    num_joints = SCENES[dataset].num_joints
    sets = depth_sets(dataset, split, test_subject)
    parts, rows = [], []
    with explain_bad_records(data_dir, dataset, split, test_subject):
        for name in sets:
            _check_fit(data_dir, name, dataset, split, None)
            files, row = tfrecord.dataset_files(data_dir, name), _center_row(data_dir, dataset, name, test_subject)
            batches = read_files(files).take(-1 if at_most is None else at_most).batch(_READ_TOGETHER)
            batches = batches.map(lambda batch: _parse_labels(batch, num_joints))
            for part in batches.as_numpy_iterator():
                parts.append(part)
                rows.append(np.full(len(part["name"]), row))
    widest = max(part["centers"].shape[1] for part in parts)
    for part in parts:
        spare = widest - part["centers"].shape[1]
        part["centers"] = np.pad(part["centers"], [(0, 0), (0, spare), (0, 0)], constant_values=np.nan)
    whole = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    units = set(whole["unit"].tolist())
    if len(units) > 1:
        raise ValueError(f"The frames of {', '.join(sets)} are in different units; make the records again.")
    return DepthFrames(
        names=[name.decode(errors="replace") for name in whole["name"]],
        joints=whole["joints"],
        valid=whole["valid"],
        centers=whole["centers"],
        refpoints=whole["centers"][np.arange(len(whole["name"])), np.concatenate(rows)],
        groups=np.array([group.decode(errors="replace") for group in whole["group"]]),
        subjects=whole["subject"],
        estimated=whole["center_source"] == b"estimated",
        cameras=whole["camera"],
        boxes=whole["box"],
        pictures=whole["picture"],
        unit=units.pop().decode(),
    )


def explain_bad_records(data_dir, dataset, split, test_subject=3):
    """Makes a context that turns TensorFlow's errors about unreadable records into ones that name file and record.

    Reads through the sets, but only when an error of the input has occurred.

    Args:
        data_dir: Folder of the record sets.
        dataset: One of `DEPTH_DATASETS`.
        split: `"train"` or `"test"`.
        test_subject: As for `depth_sets`.

    Raises:
        BadRecordError: If an error in the block came from a bad record.
    """
    num_joints = SCENES[dataset].num_joints
    sets = depth_sets(dataset, split, test_subject)

    def parse(serialized):
        return parse_depth_record(serialized, num_joints)

    def name_of(serialized):
        feature = {"depth/name": tf.io.FixedLenFeature([], tf.string)}
        return tf.io.parse_single_example(serialized, feature)["depth/name"]

    find = functools.partial(tfrecord.dataset_files, data_dir)
    return explain_bad_files([(functools.partial(find, name), parse, name_of) for name in sets])


# ------------------------------------------------------------------------------------------------------- parsing


def parse_depth_record(serialized, num_joints, center_row=0):
    """Parses and decodes one record.

    Args:
        serialized: Scalar string tensor, as of `DepthRecord.to_example`.
        num_joints: Joints that a record must have.
        center_row: Number of the centre that becomes the reference point.

    Returns:
        Dict of tensors: `depth` uint16 `[height, width]`, `box` int32 `[4]`, `joints` float32 `[J, 3]`, `valid`
        float32 `[J]`, `refpoint` float32 `[3]` (NaN where unusable or missing), `camera` float32 `[4]`, and `name`.
    """
    labels = _parse_labels(serialized[None], num_joints)
    labels = {key: value[0] for key, value in labels.items()}
    encoded = tf.io.parse_single_example(serialized, {"depth/encoded": tf.io.FixedLenFeature([], tf.string)})
    encoded, box = encoded["depth/encoded"], tf.cast(labels["box"], tf.int32)
    size = tf.stack([box[3] - box[1], box[2] - box[0]])
    # The size that the PNG announces is compared before anything of that size is made.
    header = tf.strings.substr(tf.strings.join([encoded, "\0" * 24]), 16, 8)
    announced = tf.reverse(tf.cast(tf.io.decode_raw(header, tf.uint8), tf.int32), [0])
    announced = tf.linalg.matvec(tf.reshape(announced, [2, 4]), [1, 1 << 8, 1 << 16, 1 << 24])
    fits = tf.reduce_all(announced == size) & tf.reduce_all(size > 0) & (tf.reduce_prod(size) <= MAX_PIXELS)
    with tf.control_dependencies([tf.debugging.Assert(fits, ["the depth has not the size of its box", size])]):
        depth = tf.io.decode_png(encoded, 1, tf.uint16)[..., 0]
    return {
        "depth": depth,
        "box": box,
        "joints": labels["joints"],
        "valid": labels["valid"],
        "refpoint": _chosen(labels["centers"], center_row),
        "camera": labels["camera"],
        "name": labels["name"],
    }


def _parse_labels(serialized, num_joints):
    """Parses a vector of records without their depth."""
    fixed = tf.io.FixedLenFeature
    features = tf.io.parse_example(
        serialized,
        {
            "depth/name": fixed([], tf.string),
            "depth/box": fixed([4], tf.int64),
            "depth/picture": fixed([2], tf.int64),
            "depth/camera": fixed([4], tf.float32),
            "depth/unit": fixed([], tf.string),
            "joints/xyz": fixed([num_joints, 3], tf.float32),
            "joints/valid": fixed([num_joints], tf.float32),
            "centers/xyz": _CENTERS,
            "centers/source": fixed([], tf.string),
            "meta/subject": fixed([], tf.int64),
            "meta/group": fixed([], tf.string),
        },
    )
    with tf.control_dependencies(_assertions(features)):
        features = {key: tf.identity(value) for key, value in features.items()}
    return {
        "name": features["depth/name"],
        "box": features["depth/box"],
        "picture": features["depth/picture"],
        "camera": features["depth/camera"],
        "unit": features["depth/unit"],
        "joints": features["joints/xyz"],
        "valid": features["joints/valid"],
        "centers": features["centers/xyz"],
        "center_source": features["centers/source"],
        "subject": features["meta/subject"],
        "group": features["meta/group"],
    }


def _assertions(features):
    """That the numbers of a vector of records are such as a conversion writes."""
    box, picture = features["depth/box"], features["depth/picture"]
    camera, centers = features["depth/camera"], features["centers/xyz"]
    near = functools.partial(_within, limit=_FARTHEST)
    inside = (box[:, :2] >= 0) & (box[:, :2] < box[:, 2:]) & (box[:, 2:] <= picture)
    sound = {
        "the picture is larger than any depth camera gives, or has no pixels": (picture > 0) & (picture <= _MAX_SIDE),
        "the box does not lie in the picture": inside,
        "the camera is none": near(camera) & (tf.abs(camera) * [1, 1, 0, 0] >= [1, 1, 0, 0]) & (camera[:, :1] > 0),
        "joints are no places": near(features["joints/xyz"]),
        "joints are neither valid nor not": (features["joints/valid"] == 0) | (features["joints/valid"] == 1),
        "centres are no places": near(centers) | tf.math.is_nan(centers),
    }
    return [tf.debugging.Assert(tf.reduce_all(good), [reason]) for reason, good in sound.items()]


def _within(values, limit):
    return tf.math.is_finite(values) & (tf.abs(values) <= limit)


# No depth camera sees farther, in millimetres, or has more pixels along a side.
_FARTHEST, _MAX_SIDE = 1e6, 1 << 12


# Records of fewer centres than others are filled up: what is missing is as unusable as what is NaN.
_CENTERS = tf.io.FixedLenSequenceFeature([3], tf.float32, allow_missing=True, default_value=float("nan"))


def _parse_centers(serialized):
    """Centres `[records, R, 3]` of a vector of records."""
    return tf.io.parse_example(serialized, {"centers/xyz": _CENTERS})["centers/xyz"]


def _chosen(centers, row):
    """One of the centres `[R, 3]`; NaN if there is none of that number."""
    padded = tf.concat([centers, tf.fill([1, 3], np.float32(np.nan))], 0)
    return padded[tf.minimum(tf.cast(row, tf.int32), tf.shape(centers)[0])]


def _padded(stream, batch_size, drop_remainder):
    shapes = {key: spec.shape for key, spec in stream.element_spec.items()}
    return stream.padded_batch(batch_size, shapes, drop_remainder=drop_remainder)


# ----------------------------------------------------------------------------------------------- counts and checks


def _file_counts(data_dir, name):
    files = tfrecord.dataset_files(data_dir, name)
    return tfrecord.counted_files(files, tfrecord.summary_path(data_dir, name)).values()


def _usable(data_dir, name, row):
    """Records of a set whose centre in a row is usable: as its summary says, or counted and then remembered there."""
    path = tfrecord.summary_path(data_dir, name)
    summary = tfrecord.read_summary(path)
    files = tfrecord.dataset_files(data_dir, name)
    sizes = {os.path.relpath(file, data_dir): os.path.getsize(file) for file in files}
    remembered = {file: entry["bytes"] for file, entry in summary.get("files", {}).items()}
    counts = summary.get("counts", {})
    known = counts.get(center_count(row)) if isinstance(counts, dict) else None
    if sizes != remembered or type(known) is not int or not 0 <= known <= sum(_file_counts(data_dir, name)):
        usable = np.zeros(row + 1, np.int64)
        for centers in read_files(files).batch(_READ_TOGETHER).map(_parse_centers).as_numpy_iterator():
            sound = np.isfinite(centers[:, :, 0]).sum(0)
            usable = np.pad(usable, (0, max(0, len(sound) - len(usable))))
            usable[: len(sound)] += sound
        counts = {center_count(number): int(count) for number, count in enumerate(usable)}
        _file_counts(data_dir, name)
        with contextlib.suppress(OSError):
            tfrecord.write_json(path, tfrecord.read_summary(path) | {"counts": counts})
    return counts[center_count(row)]


def _first_record(data_dir, name):
    path = tfrecord.dataset_files(data_dir, name)[0]
    stat = os.stat(path)
    return _read_first(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(64)
def _read_first(path, size, time):
    """The first record of a file; size and time are what the answer holds for."""
    try:
        return DepthRecord.from_example(next(tfrecord.read_records(path)))
    except StopIteration:
        raise BadRecordError(f"{path} is empty; make it again with python tools/create_dataset.py.") from None
    except tfrecord.TFRecordError:
        raise
    except ValueError as error:
        raise BadRecordError(
            f"{path}: record 0 (counted from 0) is no record of a depth crop: {error} Make the file again with "
            "python tools/create_dataset.py."
        ) from error


def _center_row(data_dir, dataset, name, test_subject):
    """Which of its centres the frames of a set use."""
    count = len(_first_record(data_dir, name).centers)
    if dataset != "msra" or count == 1:
        return 0
    return test_subject


def _check_fit(data_dir, name, dataset, split, codec):
    """Refuses a set whose joints are not the dataset's, or whose crops are too small for the codec."""
    record = _first_record(data_dir, name)
    expected = SCENES[dataset].num_joints
    command = f"python tools/create_dataset.py --{dataset} --data_dir={data_dir} --overwrite"
    if len(record.joints) != expected:
        raise ValueError(
            f"The records of {name} in {data_dir} have {len(record.joints)} joints, {dataset} has {expected}. Make "
            f"them again with {command}"
        )
    if codec is None:
        return
    # Without augmentation the cube is not turned, scaled or moved; two voxels more for what the conventions round.
    needed = np.array(codec.reach)
    if split == "test":
        needed = np.minimum(needed, (codec.cropped_size / 2 + 2) * codec.voxel_size)
    if (needed > record.reach * (1 + 1e-4)).any():
        raise ValueError(
            f"The crops of {name} in {data_dir} reach {_lengths(record.reach)} {record.unit} from the centres in x, y "
            f"and z, but a cube of {codec.cubic_size:g} {record.unit} and {codec.cropped_size} voxels, cut out of "
            f"{codec.original_size}, looks {_lengths(needed)} far. Make the records again with {command} "
            f"--cubic_size={codec.cubic_size:g} --original_size={codec.original_size} "
            f"--cropped_size={codec.cropped_size}, or take a smaller cube."
        )


def _lengths(values):
    return ", ".join(f"{value:.4g}" for value in values)


def _checked_joints(joints, num_joints):
    kept = [int(joint) for joint in joints]
    if not kept or len(set(kept)) < len(kept) or not all(0 <= joint < num_joints for joint in kept):
        raise ValueError(f"joints is {joints}; give different numbers from 0 to {num_joints - 1}.")
    return kept
