"""Training and evaluation streams of people in pictures, and of motion capture, for human mesh recovery.

A batch is a dict:

| key | value |
|---|---|
| image | float32 `[batch, size, size, 3]` in [-1, 1] |
| keypoints | float32 `[batch, 19, 3]`: x_ndc, y_ndc, visible 0 or 1, as `COCO_PLUS19`; zeros where hidden |
| silhouette | float32 `[batch, size, size, 1]`, 1 on the person; zeros where unknown |
| has_silhouette | float32 `[batch]` |
| pose, shape | float32 `[batch, 72]`, `[batch, 10]`; zeros where unknown |
| has_3d | float32 `[batch]`: are pose and shape known? |
| joints3d | float32 `[batch, 14, 3]`, metres; zeros where unknown |
| has_joints3d | float32 `[batch]` |

Training with a critic adds `mocap`, a dict of `pose` float32 `[poses, 72]` and `shape` float32 `[poses, 10]`.
Evaluation adds `filename`, a string `[batch]`; `scale` and `offset`, float32 `[batch, 2]` x, y, with
`crop px = image px * scale - offset`; and `image_size`, int32 `[batch, 2]` height, width.

Training is a pure function of (seed, epoch, step): the order of the files, of the records, the augmentation and the
motion capture of step k of epoch e do not depend on how the run got there, so a resumed run sees the same batches.
"""

import functools

import tensorflow as tf

from posekit.data import tfrecord
from posekit.data.augment import (
    crop_image,
    crop_keypoints,
    no_augmentation,
    normalize_keypoints,
    plan_crop,
    random_augmentation,
    reflect_joints3d,
    reflect_pose,
    stream_seed,
)
from posekit.data.schema import parse_image_labels, parse_image_record, parse_mocap_record
from posekit.data.streams import (
    check_positive,
    epoch_starts,
    explain_bad_files,
    interleave,
    read_files,
    ready,
    shuffle,
)
from posekit.geometry.images import crop_window

# The second word of a seed tells what it is for; augmentation takes the numbers from 2**48 on.
_FILE_ORDER, _RECORD_ORDER, _MOCAP_FILE_ORDER, _MOCAP_RECORD_ORDER, _MOCAP_START = (n << 40 for n in range(5))
# JPEG stores blocks of up to 16 pixels whose colour is interpolated from the neighbours; a window decoded with this
# margin has the same pixels as the whole picture.
_JPEG_MARGIN = 32
# Most passes over the motion capture in one epoch; each has random numbers of its own.
_PASSES = 1 << 20


def steps_per_epoch(data_dir, datasets, batch_size):
    """Training steps in one pass over the datasets.

    Args:
        data_dir: Folder of the datasets.
        datasets: Names of image datasets.
        batch_size: Pictures in a step.

    Returns:
        Number of full batches; 1 if the datasets hold less than one, which then repeat to fill it.

    Raises:
        DatasetNotFoundError: If a dataset is not there.
        ValueError: If the datasets hold no picture.
    """
    return max(_count(data_dir, datasets) // batch_size, 1)


def hmr_batches(
    data_dir,
    datasets,
    batch_size,
    *,
    image_size=224,
    mocap_datasets=(),
    mocap_batch_size=0,
    seed=0,
    num_epochs=None,
    start_epoch=0,
    start_step=0,
    scale_min=0.8,
    scale_max=1.23,
    trans_max=20,
    shuffle_buffer=10000,
    augment=True,
    silhouettes=True,
    silhouette_threshold=0.5,
):
    """The stream of training batches, epoch after epoch.

    Args:
        data_dir: Folder of the datasets.
        datasets: Names of image datasets, pooled.
        batch_size: Pictures in a batch.
        image_size: Edge of the crops in pixels.
        mocap_datasets: Names of motion-capture datasets for the critic, pooled; none leaves `mocap` out.
        mocap_batch_size: Poses in a batch: batch size times number of stages.
        seed: Integer of up to 31 bits.
        num_epochs: Epoch at which the stream ends; None for an endless one.
        start_epoch: First epoch.
        start_step: First step of the first epoch.
        scale_min: Smallest random scale.
        scale_max: Largest random scale.
        trans_max: Largest random jitter of the centre in pixels.
        shuffle_buffer: Records among which the next one is drawn.
        augment: Whether to augment; else crops are centred and at the picture's scale.
        silhouettes: Whether to decode silhouettes; if not, they are zeros and `has_silhouette` is 0.
        silhouette_threshold: A pixel is on the person if its resized silhouette, in [0, 1], is above this. The
            original's 0 also takes in the faint ringing that its JPEG silhouettes have around the person.

    Returns:
        `tf.data.Dataset` of the batches described in this module's docstring, `steps_per_epoch` of them an epoch.

    Raises:
        DatasetNotFoundError: If a dataset is not there; the message says how to make it.
        ValueError: If an argument makes no sense.

    Example:
        >>> with explain_bad_records("data", ["lsp_train"]):  # doctest: +SKIP
        ...     batches = hmr_batches("data", ["lsp_train"], 8, mocap_datasets=["CMU"], mocap_batch_size=24)
        ...     trainer.fit(batches, steps_per_epoch=steps_per_epoch("data", ["lsp_train"], 8), epochs=120)

    Follows: maxpit/human-pose-estimation src/data_loader.py:DataLoader.
    Differs: the original repeats one shuffled stream without end and cannot resume.
    """
    steps = steps_per_epoch(data_dir, datasets, batch_size)
    check_positive(batch_size=batch_size, image_size=image_size, shuffle_buffer=shuffle_buffer)
    starts, left = epoch_starts(start_epoch, start_step, num_epochs, steps)
    files = tf.constant(_files(data_dir, datasets))

    def epoch_records(epoch, skipped):
        first = skipped * batch_size
        records = _shuffled_records(files, seed, epoch, shuffle_buffer).repeat().take(steps * batch_size).skip(first)
        return tf.data.Dataset.zip((tf.data.Dataset.from_tensors(epoch).repeat(), records.enumerate(first)))

    def element(epoch, indexed):
        index, serialized = indexed
        numbers = no_augmentation()
        if augment:
            numbers = random_augmentation(seed, epoch, index, trans_max, scale_min, scale_max)
        made = _person(serialized, numbers, image_size, silhouettes, silhouette_threshold)
        return {key: made[key] for key in _TRAIN_KEYS}

    batches = starts.flat_map(epoch_records).map(element, tf.data.AUTOTUNE).batch(batch_size, drop_remainder=True)
    if mocap_datasets:
        check_positive(mocap_batch_size=mocap_batch_size)
        sources = _mocap_files(data_dir, mocap_datasets)
        poses = starts.flat_map(
            lambda epoch, skipped: _mocap_records(sources, seed, epoch, shuffle_buffer)
            .take(steps * mocap_batch_size)
            .skip(skipped * mocap_batch_size)
        )
        mocap = poses.batch(mocap_batch_size, drop_remainder=True).map(parse_mocap_record)
        batches = tf.data.Dataset.zip((batches, mocap)).map(lambda batch, poses: {**batch, "mocap": poses})
    return ready(batches, left)


def train_dataset(data_dir, datasets, batch_size, *, epoch=0, **options):
    """One epoch of training batches.

    Args:
        data_dir: Folder of the datasets.
        datasets: Names of image datasets, pooled.
        batch_size: Pictures in a batch.
        epoch: Number of the epoch.
        **options: As for `hmr_batches`.

    Returns:
        `tf.data.Dataset` of `steps_per_epoch` batches.
    """
    return hmr_batches(data_dir, datasets, batch_size, start_epoch=epoch, num_epochs=epoch + 1, **options)


def eval_dataset(
    data_dir,
    datasets,
    batch_size,
    *,
    image_size=224,
    augment_validation=False,
    seed=0,
    scale_min=0.8,
    scale_max=1.23,
    trans_max=20,
    shuffle_buffer=10000,
    silhouettes=True,
    silhouette_threshold=0.5,
):
    """Every picture once: centred, at its own scale, in a fixed order; the last batch may be smaller.

    Args:
        data_dir: Folder of the datasets.
        datasets: Names of image datasets, one after the other.
        batch_size: Pictures in a batch.
        image_size: Edge of the crops in pixels.
        augment_validation: Shuffle and augment like training, as the original does; the numbers are the same on
            every pass.
        seed: Integer of up to 31 bits, for `augment_validation`.
        scale_min: Smallest random scale, for `augment_validation`.
        scale_max: Largest random scale, for `augment_validation`.
        trans_max: Largest random jitter of the centre in pixels, for `augment_validation`.
        shuffle_buffer: Records among which the next one is drawn, for `augment_validation`.
        silhouettes: As for `hmr_batches`.
        silhouette_threshold: As for `hmr_batches`.

    Returns:
        `tf.data.Dataset` of the batches described in this module's docstring, with the evaluation keys. Where a crop
        is mirrored, its x scale is negative.

    Raises:
        DatasetNotFoundError: If a dataset is not there; the message says how to make it.
        ValueError: If the datasets hold no picture.
    """
    check_positive(batch_size=batch_size, image_size=image_size, shuffle_buffer=shuffle_buffer)
    count = _count(data_dir, datasets)
    files = tf.constant(_files(data_dir, datasets))
    records = _shuffled_records(files, seed, 0, shuffle_buffer) if augment_validation else read_files(files)

    def element(index, serialized):
        numbers = no_augmentation()
        if augment_validation:
            numbers = random_augmentation(seed, 0, index, trans_max, scale_min, scale_max)
        return _person(serialized, numbers, image_size, silhouettes, silhouette_threshold)

    batches = records.enumerate().map(element, tf.data.AUTOTUNE).batch(batch_size)
    return ready(batches, -(-count // batch_size))


def mocap_dataset(data_dir, names, batch_size, *, seed=0, epoch=0, shuffle_buffer=10000):
    """An endless stream of batches of motion capture.

    Args:
        data_dir: Folder of the datasets.
        names: Names of motion-capture datasets, pooled.
        batch_size: Poses in a batch.
        seed: Integer of up to 31 bits.
        epoch: Integer; each begins at other places in other files.
        shuffle_buffer: Records among which the next one is drawn.

    Returns:
        `tf.data.Dataset` of dicts `pose` float32 `[batch, 72]` and `shape` float32 `[batch, 10]`.

    Raises:
        DatasetNotFoundError: If a dataset is not there; the message says how to make it.
        ValueError: If the datasets hold no pose.
    """
    check_positive(batch_size=batch_size, shuffle_buffer=shuffle_buffer)
    records = _mocap_records(_mocap_files(data_dir, names), seed, epoch, shuffle_buffer)
    return ready(records.batch(batch_size).map(parse_mocap_record), tf.data.INFINITE_CARDINALITY)


def explain_bad_records(data_dir, datasets, mocap_datasets=()):
    """Turns TensorFlow's errors about unreadable data into ones that name the file and the record.

    Reads through the datasets, but only when an error of the input has occurred.

    Args:
        data_dir: Folder of the datasets.
        datasets: Names of the image datasets that the block reads.
        mocap_datasets: Names of the motion-capture datasets that the block reads.

    Raises:
        BadRecordError: If an error in the block came from a bad record.

    Example:
        >>> with explain_bad_records("data", ["lsp_val"]):  # doctest: +SKIP
        ...     for batch in eval_dataset("data", ["lsp_val"], 8):
        ...         evaluate(batch)
    """
    images = [
        (functools.partial(tfrecord.dataset_files, data_dir, name), parse_image_record, _filename) for name in datasets
    ]
    poses = [
        (functools.partial(tfrecord.mocap_files, data_dir, name), parse_mocap_record, None) for name in mocap_datasets
    ]
    return explain_bad_files(images + poses)


_TRAIN_KEYS = (
    "image",
    "keypoints",
    "silhouette",
    "has_silhouette",
    "pose",
    "shape",
    "has_3d",
    "joints3d",
    "has_joints3d",
)


def _person(serialized, augmentation, size, silhouettes, threshold):
    """Turns one serialised record into one element of an evaluation batch."""
    labels = parse_image_labels(serialized)
    center = labels["center"][:, 0]
    image, window_start, image_size = _decode_under_crop(labels["encoded_image"], center, augmentation, size)
    plan = plan_crop(image_size, center, augmentation, size)
    keypoints = crop_keypoints(tf.transpose(labels["keypoints"]), plan, size)
    silhouette, has_silhouette = tf.zeros([size, size, 1]), tf.zeros([])
    if silhouettes:
        silhouette, has_silhouette = _silhouette(labels["encoded_silhouette"], image_size, plan, size, threshold)
    offset = tf.cast(plan.start[::-1], tf.float32)
    mirrored = tf.stack([-(offset[0] + size - 1), offset[1]])
    return {
        "image": crop_image(image, plan, size, window_start, image_size) / 127.5 - 1.0,
        "keypoints": normalize_keypoints(keypoints, size),
        "silhouette": silhouette,
        "has_silhouette": has_silhouette,
        "pose": tf.where(plan.flip, reflect_pose(labels["pose"]), labels["pose"]),
        "shape": labels["shape"],
        "has_3d": labels["has_3d"],
        "joints3d": tf.where(plan.flip, reflect_joints3d(labels["joints3d"]), labels["joints3d"]),
        "has_joints3d": labels["has_joints3d"],
        "filename": labels["filename"],
        "scale": tf.where(plan.flip, plan.scale * [-1.0, 1.0], plan.scale),
        "offset": tf.where(plan.flip, mirrored, offset),
        "image_size": image_size,
    }


def _decode_under_crop(encoded, center, augmentation, size):
    """Decodes a picture, of a JPEG only the part under the crop.

    Returns uint8 `[h, w, 3]`, the (y, x) of its first pixel in the picture, and the (height, width) of the picture.
    """

    def window():
        image_size = tf.io.extract_jpeg_shape(encoded)[:2]
        plan = plan_crop(image_size, center, augmentation, size)
        box = crop_window(image_size, plan.resized_size, plan.start, (size, size), _JPEG_MARGIN)
        return tf.io.decode_and_crop_jpeg(encoded, box, channels=3), box[:2], image_size

    def whole():
        image = tf.ensure_shape(tf.io.decode_image(encoded, 3, expand_animations=False), [None, None, 3])
        return image, tf.zeros([2], tf.int32), tf.shape(image)[:2]

    image, window_start, image_size = tf.cond(tf.io.is_jpeg(encoded), window, whole)
    return tf.ensure_shape(image, [None, None, 3]), window_start, image_size


def _silhouette(encoded, image_size, plan, size, threshold):
    """Crops a silhouette; one that is not there, has another size than the picture, or is empty counts as unknown."""
    unknown = tf.zeros([size, size, 1]), tf.zeros([])

    def stored():
        pixels = tf.ensure_shape(tf.io.decode_image(encoded, 1, expand_animations=False), [None, None, 1])
        usable = tf.reduce_all(tf.shape(pixels)[:2] == image_size) & tf.reduce_any(pixels > 0)
        return tf.cond(usable, lambda: crop(pixels), lambda: unknown)

    def crop(pixels):
        return tf.cast(crop_image(pixels, plan, size) / 255.0 > threshold, tf.float32), tf.ones([])

    return tf.cond(tf.strings.length(encoded) > 0, stored, lambda: unknown)


def _shuffled_records(files, seed, epoch, shuffle_buffer):
    order = tf.random.experimental.stateless_shuffle(files, stream_seed(seed, epoch, _FILE_ORDER))
    records = interleave(tf.data.Dataset.from_tensor_slices(order), read_files, len(files))
    return shuffle(records, shuffle_buffer, stream_seed(seed, epoch, _RECORD_ORDER))


def _mocap_records(sources, seed, epoch, shuffle_buffer):
    """An endless stream of serialised poses.

    An epoch of pictures uses a small part of a large collection, so every file begins at a random place; else the
    ends of the files would hardly ever be seen.
    """
    paths, counts = tf.constant([path for path, _ in sources]), tf.constant([n for _, n in sources], tf.int64)

    def one_pass(repetition):
        # Repetitions of a small collection differ in order, too.
        number = tf.cast(epoch, tf.int64) * _PASSES + repetition
        order = tf.random.experimental.stateless_shuffle(
            tf.range(len(sources)), stream_seed(seed, 0, number + _MOCAP_FILE_ORDER)
        )
        places = tf.random.stateless_uniform([len(sources)], stream_seed(seed, 0, number + _MOCAP_START))
        starts = tf.cast(places * tf.cast(counts, tf.float32), tf.int64)
        files = tf.data.Dataset.from_tensor_slices((tf.gather(paths, order), tf.gather(starts, order)))
        records = interleave(
            files,
            lambda path, start: read_files(path).skip(start).concatenate(read_files(path).take(start)),
            len(sources),
        )
        return shuffle(records, shuffle_buffer, stream_seed(seed, 0, number + _MOCAP_RECORD_ORDER))

    return tf.data.Dataset.range(_PASSES).flat_map(one_pass)


def _files(data_dir, datasets):
    return [path for name in datasets for path in tfrecord.dataset_files(data_dir, name)]


def _count(data_dir, datasets):
    if not datasets:
        raise ValueError("No dataset is named; give at least one, such as lsp_train.")
    count = sum(tfrecord.num_examples(data_dir, name) for name in datasets)
    if not count:
        raise ValueError(f"The datasets {', '.join(datasets)} in {data_dir} hold no picture; make them again.")
    return count


def _mocap_files(data_dir, names):
    """Pairs of path and number of poses, of the files that hold any."""
    sources = []
    for name in names:
        files = tfrecord.mocap_files(data_dir, name)
        summary = tfrecord.mocap_summary_path(data_dir, name)
        counts = tfrecord.counted_files(files, summary)
        sources += [(str(summary.parent / file), count) for file, count in counts.items() if count]
    if not sources:
        raise ValueError(f"The motion capture {', '.join(names)} in {data_dir} holds no pose; make it again.")
    return sources


def _filename(serialized):
    return parse_image_labels(serialized)["filename"]
