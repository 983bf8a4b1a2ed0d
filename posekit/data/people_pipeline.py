"""Streams of pictures with many people, for OpenPose: training shuffled and resumable, validation in order.

A batch is a dict:

| key | value |
|---|---|
| image | uint8 `[batch, size, size, 3]`, RGB |
| mask | float32 `[batch, size / stride, size / stride, 1]`: 1 where the loss counts, 0 on people without labels |
| joints_px | float32 `[batch, people, J, 2]` x, y in pixels of the crop; zeros where not present |
| present | bool `[batch, people, J]` |

Batches are padded to the most people of any of their pictures, with nobody present. Heatmaps and part affinity fields
are made of this on the device.

The data are records, `coco_people_train.tfrecords` and so on, or a file in the original's HDF5 layout,
`coco_people_train.h5` or, as the original calls it, `train_dataset.h5`; a folder that holds a part in both forms is
refused. Both are read without Python, so that other processes can do it too. The order of training and its random
numbers are a pure function of (seed, epoch, step): a resumed run sees the same batches.
"""

import contextlib
import functools
import os
import pathlib

import tensorflow as tf

from posekit.data import tfrecord
from posekit.data.augment import stream_seed
from posekit.data.image_files import MAX_PIXELS
from posekit.data.people_augment import (
    PeopleAugmentation,
    draw_people,
    move_joints,
    plan_people,
    shrink_mask,
    still_people,
    warp_people,
)
from posekit.data.people_hdf5 import BOX_HEIGHT, NUM_JOINTS, find_people_file, open_people_hdf5
from posekit.data.people_records import FARTHEST, LONGEST, TRAINABLE, PeopleRecord, joint_sources, people_set
from posekit.data.server import explain_lost_server, served
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
from posekit.skeletons import COCO17, OPENPOSE18

_FILE_ORDER, _RECORD_ORDER = (n << 40 for n in range(5, 7))
_SAMPLES_TOGETHER = 16


def people_batches(
    data_dir,
    split,
    batch_size,
    *,
    dataset="coco_people",
    skeleton=OPENPOSE18,
    augmentation=None,
    stride=8,
    mask_image=False,
    augment=True,
    ordered=False,
    num_epochs=1,
    start_epoch=0,
    start_step=0,
    seed=0,
    shuffle_buffer=512,
    max_people=None,
    data_service=None,
):
    """The stream of batches: shuffled epochs of whole batches, or every picture once and in order.

    Args:
        data_dir: Folder of the records, or an HDF5 file of this split.
        split: `"train"` or `"val"`.
        batch_size: Pictures in a batch.
        dataset: Name of the dataset; its files are called after it.
        skeleton: `Skeleton` of the joints wanted; a neck that the records lack lies between the shoulders.
        augmentation: A `PeopleAugmentation`; the original's if None.
        stride: Pixels to a step of the mask.
        mask_image: Whether people without labels are blacked out in the picture too, as in the original's last form.
        augment: Whether to augment; else the main person stands upright in the middle at the wanted size.
        ordered: Whether the pictures come once and in order; the last batch may then be smaller.
        num_epochs: Epoch at which training ends; None for an endless stream.
        start_epoch: First epoch.
        start_step: First step of the first epoch.
        seed: Integer of up to 31 bits.
        shuffle_buffer: Records among which the next one is drawn. They are held as they are stored: about 150 KB each;
            samples of an HDF5 file are shuffled as a whole.
        max_people: Pad all batches to so many people; a picture with more is an error. None pads each batch for itself.
        data_service: `"host:port"` of `tools/dataset_server.py`, which then does the work; the batches are the same.

    Returns:
        `tf.data.Dataset` of the batches described in this module's docstring.

    Raises:
        DatasetNotFoundError: If the data are not there; the message says how to make them.
        ValueError: If an argument makes no sense, the data do not fit it, or hold no picture to train on.

    Example:
        >>> with explain_bad_people("data", "train"):  # doctest: +SKIP
        ...     batches = people_batches("data", "train", 10, num_epochs=20)
        ...     model.fit(batches.map(labels), steps_per_epoch=people_steps("data", "train", 10), epochs=20)

    Follows: michalfaber/keras_Realtime_Multi-Person_Pose_Estimation training/dataset.py:get_dataflow.
    Differs: one resampling in place of three; labels are made on the device; it can resume within an epoch.
    """
    check_positive(batch_size=batch_size, shuffle_buffer=shuffle_buffer, stride=stride)
    augmentation = augmentation or PeopleAugmentation()
    if augmentation.crop_size % stride:
        raise ValueError(f"crop_size={augmentation.crop_size} is no multiple of stride={stride}.")
    source = _source(data_dir, split, dataset)
    if not source.trainable:
        raise ValueError(f"{source.title} holds no person to train on; make it of other pictures.")
    sources = joint_sources(source.names, skeleton)

    def element(epoch, index, record, shape):
        labels = source.parse(record, shape)
        draws = draw_people(seed, epoch, index, augmentation) if augment else still_people()
        size = tf.shape(labels["image"])[:2]
        plan = plan_people(size, labels["center"], labels["box_height"], draws, augmentation)
        image, mask = warp_people(labels["image"], labels["mask"], plan, augmentation.crop_size)
        joints, present = _as_skeleton(labels["joints"], sources, size)
        joints, present = move_joints(joints, present, plan, draws, skeleton, augmentation.flip)
        if max_people is not None:
            few = tf.debugging.assert_less_equal(
                tf.shape(joints)[0], max_people, f"a picture has more people than max_people={max_people}"
            )
            with tf.control_dependencies([few]):
                joints = tf.identity(joints)
        image = image * mask if mask_image else image
        return {
            "image": tf.cast(tf.clip_by_value(tf.round(image), 0.0, 255.0), tf.uint8),
            "mask": shrink_mask(mask, stride),
            "joints_px": tf.ensure_shape(joints, [None, skeleton.num_joints, 2]),
            "present": tf.ensure_shape(present, [None, skeleton.num_joints]),
        }

    def batched(elements, drop_remainder):
        shapes = {"image": [augmentation.crop_size] * 2 + [3], "mask": [augmentation.crop_size // stride] * 2 + [1]}
        shapes |= {"joints_px": [max_people, skeleton.num_joints, 2], "present": [max_people, skeleton.num_joints]}
        return elements.map(element, tf.data.AUTOTUNE).padded_batch(batch_size, shapes, drop_remainder=drop_remainder)

    if ordered:
        zero = tf.constant(0, tf.int64)
        elements = source.ordered().enumerate().map(lambda index, record: (zero, index, *record))
        return ready(batched(elements, False), -(-source.trainable // batch_size))

    steps = max(source.trainable // batch_size, 1)
    starts, left = epoch_starts(start_epoch, start_step, num_epochs, steps)
    if data_service is not None:
        # Workers that take turns must never come to an end; what is too much is left in the end.
        starts, _ = epoch_starts(start_epoch, start_step, None, steps)

    def epoch_records(epoch, skipped):
        first = skipped * batch_size
        records = source.shuffled(seed, epoch, shuffle_buffer).repeat().take(steps * batch_size).skip(first)
        return records.enumerate(first).map(lambda index, record: (epoch, index, *record))

    elements = starts.flat_map(epoch_records)
    if data_service is None:
        return ready(batched(elements, True), left)
    made = served(elements, functools.partial(batched, drop_remainder=True), batch_size, data_service)
    return ready(made.take(left), left)


def people_steps(data_dir, split, batch_size, dataset="coco_people"):
    """Training steps in one pass over the pictures that have people to train on.

    Args:
        data_dir: Folder of the records, or an HDF5 file of this split.
        split: `"train"` or `"val"`.
        batch_size: Pictures in a step.
        dataset: Name of the dataset; its files are called after it.

    Returns:
        Number of full batches; 1 if there are fewer pictures than a batch takes, which then repeat to fill it.

    Raises:
        DatasetNotFoundError: If the data are not there; the message says how to make them.
        ValueError: If the data are damaged.
    """
    check_positive(batch_size=batch_size)
    return max(count_people_pictures(data_dir, split, dataset) // batch_size, 1)


def count_people_pictures(data_dir, split, dataset="coco_people"):
    """Number of pictures that a stream shows in an epoch: those with people to train on.

    Args:
        data_dir: Folder of the records, or an HDF5 file of this split.
        split: `"train"` or `"val"`.
        dataset: Name of the dataset; its files are called after it.

    Returns:
        The count.

    Raises:
        DatasetNotFoundError: If the data are not there; the message says how to make them.
        ValueError: If the data are damaged.
    """
    return _source(data_dir, split, dataset).trainable


def read_people(data_dir, split, dataset="coco_people"):
    """Yields all pictures with all their people, in order, for evaluation and inspection.

    Args:
        data_dir: Folder of the records, or an HDF5 file of this split.
        split: `"train"` or `"val"`.
        dataset: Name of the dataset; its files are called after it.

    Yields:
        `PeopleRecord`; those without people to train on too. HDF5 files know labels of training only.

    Raises:
        DatasetNotFoundError: If the data are not there; the message says how to make them.
        ValueError: If a record is damaged; the message names file and record.
    """
    yield from _source(data_dir, split, dataset).records()


@contextlib.contextmanager
def explain_bad_people(data_dir, split, dataset="coco_people"):
    """Makes a context that turns TensorFlow's errors about unreadable pictures into ones that name file and record.

    Reads through the data, but only when an error of the input has occurred.

    Args:
        data_dir: Folder of the records, or an HDF5 file of this split.
        split: `"train"` or `"val"`.
        dataset: Name of the dataset; its files are called after it.

    Raises:
        BadRecordError: If an error in the block came from a bad record.
        DataServerError: If it came from a dataset server that was lost.
    """
    with explain_lost_server(), _source(data_dir, split, dataset).explain():
        yield


def _source(data_dir, split, dataset):
    name, path = people_set(split, dataset), pathlib.Path(data_dir)
    file = find_people_file(path, split, dataset)
    if path.is_file():
        source = _Hdf5Source(file)
        if source.split != split:
            raise ValueError(_of_other_split(file, source.split, split))
        return source
    try:
        first = tfrecord.dataset_files(path, name)[0]
    except tfrecord.DatasetNotFoundError as error:
        if file is None and name == people_set("train"):
            hint = "Where COCO's training split is not there, name another: --coco_people_train=val2017"
            raise tfrecord.DatasetNotFoundError(f"{error} {hint}") from None
        if file is None:
            raise
        return _Hdf5Source(file)
    if file is not None:
        raise ValueError(
            f"{path} holds {name} twice, as {os.path.relpath(first, path)} and as {file.name}. Move the one that is "
            "not meant away, into a folder of its own."
        )
    return _RecordSource(path, name)


def _of_other_split(file, split, wanted):
    titles = {"train": "training", "val": "validation"}
    without = ", or train with --nouse_validation" if wanted == "val" else ""
    return (
        f"{file} holds the {titles[split]} set, as its first sample says, where the {titles[wanted]} set is wanted. "
        f"Name the folder that holds both, as train_dataset.h5 and val_dataset.h5{without}."
    )


def _size_and_time(path):
    stat = os.stat(path)
    return stat.st_size, stat.st_mtime_ns


def _as_skeleton(joints, sources, size):
    """Joints `[N, J, 3]` of records as `(joints_px, present)` of a skeleton, as `convert_joints` does it."""
    places, limits = joints[..., :2], tf.cast(size[::-1], tf.float32)
    there = (joints[..., 2] >= 1) & tf.reduce_all((places >= 0) & (places < limits), -1)
    return tf.reduce_mean(tf.gather(places, sources, axis=1), 2), tf.reduce_all(tf.gather(there, sources, axis=1), 2)


# ------------------------------------------------------------------------------------------------------- records


class _RecordSource:
    """A set of TFRecord files."""

    def __init__(self, data_dir, name):
        self._folder, self._name = data_dir, name
        self._files = tfrecord.dataset_files(data_dir, name)
        self.title = f"The set {name} in {data_dir}"
        first = _read_first(self._files[0], *_size_and_time(self._files[0]))
        self.names = first.names
        self._count = tfrecord.num_examples(data_dir, name)
        self.trainable = self._trainable()

    def ordered(self):
        return self._usable(read_files(tf.constant(self._files)))

    def shuffled(self, seed, epoch, shuffle_buffer):
        order = tf.random.experimental.stateless_shuffle(
            tf.constant(self._files), stream_seed(seed, epoch, _FILE_ORDER)
        )
        mixed = interleave(tf.data.Dataset.from_tensor_slices(order), read_files, len(self._files))
        return shuffle(self._usable(mixed), shuffle_buffer, stream_seed(seed, epoch, _RECORD_ORDER))

    def parse(self, serialized, _):
        return parse_people_record(serialized, self.names)

    def records(self):
        for path in self._files:
            for number, serialized in enumerate(tfrecord.read_records(path)):
                yield _record_of(path, number, serialized)

    def explain(self):
        def name_of(serialized):
            return _parse(serialized, {"image/name": tf.io.FixedLenFeature([], tf.string)})["image/name"]

        parse = functools.partial(parse_people_record, names=self.names, labels_needed=False)
        return explain_bad_files([(lambda: self._files, parse, name_of)])

    def _usable(self, records):
        if self.trainable < self._count:
            records = records.filter(_is_trainable)
        shape = tf.zeros([3], tf.int64)
        return records.map(lambda record: (record, shape))

    def _trainable(self):
        """Records with labels: as the set's summary says, or counted and then remembered there."""
        path = tfrecord.summary_path(self._folder, self._name)
        summary = tfrecord.read_summary(path)
        sizes = {os.path.relpath(file, self._folder): os.path.getsize(file) for file in self._files}
        remembered = {file: entry["bytes"] for file, entry in summary.get("files", {}).items()}
        counts = summary.get("counts")
        counts = counts if isinstance(counts, dict) else {}
        known = counts.get(TRAINABLE)
        if sizes != remembered or type(known) is not int or not 0 <= known <= self._count:
            with explain_bad_files([(lambda: self._files, _is_trainable, None)]):
                known = sum(1 for _ in read_files(tf.constant(self._files)).filter(_is_trainable))
            with contextlib.suppress(OSError):
                tfrecord.write_json(path, tfrecord.read_summary(path) | {"counts": counts | {TRAINABLE: known}})
        return known


def _parse(serialized, features):
    return tf.io.parse_single_example(serialized, features)


def _is_trainable(serialized):
    trained = _parse(serialized, {"people/trained": tf.io.VarLenFeature(tf.int64)})["people/trained"]
    return tf.reduce_any(trained.values > 0)


@functools.lru_cache(64)
def _read_first(path, size, time):
    """The first record of a file; size and time are what the answer holds for."""
    for serialized in tfrecord.read_records(path):
        return _record_of(path, 0, serialized)
    raise BadRecordError(f"{path} is empty; make it again with python tools/create_dataset.py --coco_people.")


def _record_of(path, number, serialized):
    try:
        return PeopleRecord.from_example(serialized)
    except ValueError as error:
        raise BadRecordError(
            f"{path}: record {number} (counted from 0) is no record of people in a picture: {error} Make the file "
            "again with python tools/create_dataset.py --coco_people."
        ) from error


def parse_people_record(serialized, names=COCO17.joints, labels_needed=True):
    """Parses and decodes one record.

    Args:
        serialized: Scalar string tensor, as of `PeopleRecord.to_example`.
        names: Names of the joints that the record must have.
        labels_needed: Whether a record without a label of training is an error.

    Returns:
        Dict of tensors: `image` uint8 `[H, W, 3]`, `mask` uint8 `[H, W, 1]`, above 0 where the loss counts; of the
        labels of training `joints` float32 `[N, J, 3]`; of the main person `center` float32 `[2]` and `box_height`.
    """
    fixed, many = tf.io.FixedLenFeature, tf.io.VarLenFeature
    features = _parse(
        serialized,
        {
            "image/encoded": fixed([], tf.string),
            "image/size": fixed([2], tf.int64),
            "mask/miss": fixed([], tf.string),
            "people/names": fixed([], tf.string),
            "people/joints": many(tf.float32),
            "people/boxes": many(tf.float32),
            "people/trained": many(tf.int64),
        },
    )
    size = tf.cast(features["image/size"], tf.int32)
    trained = features["people/trained"].values > 0
    joints, boxes = features["people/joints"].values, features["people/boxes"].values
    people = tf.size(trained)
    checks = [
        tf.debugging.assert_equal(features["people/names"], ",".join(names), "the joints have other names"),
        tf.debugging.assert_equal(tf.size(joints), people * (3 * len(names)), "joints of another number of people"),
        tf.debugging.assert_equal(tf.size(boxes), people * 4, "boxes of another number of people"),
        tf.debugging.Assert(
            tf.reduce_all(size > 0) & (tf.reduce_prod(features["image/size"]) <= MAX_PIXELS), ["picture of", size]
        ),
        tf.debugging.Assert(tf.reduce_all(tf.abs(joints) < FARTHEST), ["a joint is far outside, or no number"]),
    ]
    if labels_needed:
        checks.append(tf.debugging.Assert(tf.reduce_any(trained), ["no person to train on"]))
    with tf.control_dependencies(checks):
        joints, boxes = tf.reshape(joints, [-1, len(names), 3]), tf.reshape(boxes, [-1, 4])
    middles, sides = boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:]
    sound = tf.reduce_all(tf.abs(middles) < FARTHEST) & tf.reduce_all((sides >= 0) & (sides < LONGEST))
    with tf.control_dependencies([tf.debugging.Assert(sound, ["a box is far outside, too large, or no number"])]):
        boxes = tf.identity(boxes)
    joints, boxes = tf.boolean_mask(joints, trained), tf.boolean_mask(boxes, trained)
    if labels_needed:
        with tf.control_dependencies([tf.debugging.Assert(boxes[0, 3] > 0, ["box without height"])]):
            boxes = tf.identity(boxes)
        main = {"center": boxes[0, :2] + boxes[0, 2:] / 2, "box_height": boxes[0, 3]}
    else:
        main = {}
    nobody = tf.ones(tf.concat([size, [1]], 0), tf.uint8)
    encoded = features["mask/miss"]
    mask = tf.cond(tf.strings.length(encoded) > 0, lambda: _decoded(encoded, size, 1), lambda: nobody)
    image = _decoded(features["image/encoded"], size, 3)
    return {"image": image, "mask": tf.ensure_shape(mask, [None, None, 1]), "joints": joints, **main}


def _decoded(encoded, size, channels):
    if channels == 1:
        image = tf.io.decode_png(encoded, channels)
    else:
        # Whatever its name, it reads PNG too; so decoded, the pixels are those that OpenCV gives.
        image = tf.io.decode_jpeg(encoded, channels, dct_method="INTEGER_ACCURATE")
    image.set_shape([None, None, channels])
    fits = tf.debugging.assert_equal(tf.shape(image)[:2], size, "a picture of another size than the record says")
    with tf.control_dependencies([fits]):
        return tf.identity(image)


# ---------------------------------------------------------------------------------------------------------- HDF5


class _Hdf5Source:
    """A file in the original's layout; TensorFlow reads its samples where HDF5 says that they lie."""

    names = COCO17.joints

    def __init__(self, path):
        self._file = _opened(path, *_size_and_time(path))
        self._path = os.fspath(path)
        self.title = f"{path}"
        self.trainable = len(self._file)
        self.split = "val" if self._file.validation else "train"

    def ordered(self):
        return self._read(tf.range(len(self._file)))

    def shuffled(self, seed, epoch, _):
        order = tf.range(len(self._file))
        return self._read(tf.random.experimental.stateless_shuffle(order, stream_seed(seed, epoch, _RECORD_ORDER)))

    def parse(self, data, shape):
        return parse_people_sample(data, shape)

    def records(self):
        for index in range(len(self._file)):
            yield self._file.record(index)

    @contextlib.contextmanager
    def explain(self):
        try:
            yield
        except tf.errors.OpError as error:
            for index in range(len(self._file)):
                try:
                    self._file.record(index)
                except ValueError as reason:
                    raise BadRecordError(str(reason)) from error
            raise

    def _read(self, order):
        offsets, shapes = tf.constant(self._file.offsets), tf.constant(self._file.shapes)

        def read(offset, shape):
            length = tf.reduce_prod(shape)
            rest = self._file.size - offset - length
            data = tf.data.FixedLengthRecordDataset(self._path, length, offset, rest)
            return data.map(lambda record: (record, shape))

        places = tf.data.Dataset.from_tensor_slices((tf.gather(offsets, order), tf.gather(shapes, order)))
        return places.interleave(read, _SAMPLES_TOGETHER, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


@functools.lru_cache(8)
def _opened(path, size, time):
    """The samples of a file; size and time are what the answer holds for."""
    return open_people_hdf5(path)


def parse_people_sample(data, shape):
    """Parses one sample of the original's HDF5 layout.

    Args:
        data: Scalar string tensor, the sample's bytes.
        shape: Int64 `[3]`: 5 or 6, height and width.

    Returns:
        As `parse_people_record`.
    """
    shape = tf.cast(shape, tf.int32)
    width = shape[2]
    layers = tf.reshape(tf.io.decode_raw(data, tf.uint8), shape)
    labels = tf.reshape(layers[3], [-1])

    def floats(start, count):
        part = tf.reshape(labels[start : start + 4 * count], [-1, 4])
        return tf.bitcast(part, tf.float32)

    others = tf.cast(labels[2 * width + 1], tf.int32)
    rows = tf.where(others > 0, 9 + 4 * others, 8)
    needed = (rows - 1) * width + 4 * NUM_JOINTS
    fits = tf.debugging.Assert(needed <= tf.size(labels), ["no room for", others, "other people"])
    is_coco = tf.debugging.Assert(tf.reduce_all(labels[:4] == tf.constant(list(b"COCO"), tf.uint8)), ["not COCO's"])
    with tf.control_dependencies([fits, is_coco]):
        size = tf.cast(floats(width, 2), tf.int32)
    sound = tf.debugging.Assert(tf.reduce_all((size >= 1) & (size <= shape[1:])), ["picture of", size, "in", shape])
    with tf.control_dependencies([sound]):
        layers = tf.transpose(layers[:, : size[0], : size[1]], [1, 2, 0])
    first = tf.concat([[5], 9 + others + 3 * tf.range(others)], 0)
    starts = (first[:, None] + tf.range(3)) * width
    places = starts[..., None] + tf.range(4 * NUM_JOINTS)
    numbers = tf.bitcast(tf.reshape(tf.gather(labels, places), [-1, 3, NUM_JOINTS, 4]), tf.float32)
    x, y, states = tf.unstack(numbers, axis=1)
    known = ((states == 0) | (states == 1)) & (tf.abs(x) < FARTHEST) & (tf.abs(y) < FARTHEST)
    joints = tf.where(known[..., None], tf.stack([x, y, states + 1], -1), 0.0)
    center, box_height = floats(3 * width, 2), floats(4 * width, 1)[0] * BOX_HEIGHT
    sound = tf.debugging.Assert(
        tf.reduce_all(tf.abs(center) < FARTHEST) & (box_height > 0) & (box_height < LONGEST),
        ["person of", center, box_height],
    )
    with tf.control_dependencies([sound]):
        image = layers[..., 2::-1]
    return {
        "image": tf.ensure_shape(image, [None, None, 3]),
        "mask": layers[..., 4:5] // 128,
        "joints": joints,
        "center": center,
        "box_height": box_height,
    }
