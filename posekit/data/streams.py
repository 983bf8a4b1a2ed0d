"""What streams of records share: reading and shuffling them as a function of a seed, and naming the bad ones."""

import contextlib
import re

import tensorflow as tf

from posekit.data import tfrecord

# Files read at once: enough to mix shards, few enough to keep open.
_OPEN_FILES = 16


class BadRecordError(tfrecord.TFRecordError):
    """A record that cannot be used, with its file and number."""


def read_files(files):
    """The records of files, one file after the other.

    Args:
        files: Path or paths, also as a tensor.

    Returns:
        `tf.data.Dataset` of serialised records.
    """
    return tf.data.TFRecordDataset(files, buffer_size=1 << 20)


def interleave(sources, read, count):
    """Reads several sources at once, in turns and always in the same order.

    Args:
        sources: `tf.data.Dataset` of sources in the order in which they are opened.
        read: Function from a source to the dataset of its records.
        count: Number of sources.

    Returns:
        `tf.data.Dataset` of what `read` gives.
    """
    cycle_length = min(_OPEN_FILES, count)
    return sources.interleave(read, cycle_length, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def shuffle(records, shuffle_buffer, seed):
    """Shuffles a stream as a function of a stateless seed.

    Args:
        records: `tf.data.Dataset`.
        shuffle_buffer: Elements among which the next one is drawn.
        seed: Two words, as of `stream_seed`.

    Returns:
        `tf.data.Dataset`.
    """

    def shuffled(word):
        # TensorFlow mixes the program's global seed into the order, and stumbles over a global seed of 0. In here the
        # call sets the seed of this function's graph alone.
        tf.compat.v1.set_random_seed(1)
        return records.shuffle(shuffle_buffer, seed=word, reshuffle_each_iteration=False)

    word = tf.random.stateless_uniform([], seed, None, None, tf.int64, alg="philox")
    return tf.data.Dataset.from_tensors(word).flat_map(shuffled)


def ready(batches, count):
    """Makes a stream of batches ready for use: its length known, its work done ahead.

    Args:
        batches: `tf.data.Dataset`.
        count: Number of batches, or `tf.data.INFINITE_CARDINALITY`.

    Returns:
        `tf.data.Dataset`.
    """
    options = tf.data.Options()
    # Pictures are prepared side by side; splitting the small operations of one picture again only costs.
    options.threading.max_intra_op_parallelism = 1
    batches = batches.apply(tf.data.experimental.assert_cardinality(count))
    return batches.with_options(options).prefetch(tf.data.AUTOTUNE)


def check_positive(**values):
    """Refuses numbers below 1.

    Args:
        **values: Numbers by the names under which the caller knows them.

    Raises:
        ValueError: If one is below 1.
    """
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")


def epoch_starts(start_epoch, start_step, num_epochs, steps):
    """The epochs of a stream, and how many steps of each are done already.

    Args:
        start_epoch: First epoch.
        start_step: First step of the first epoch.
        num_epochs: Epoch at which the stream ends; None for an endless one.
        steps: Steps in an epoch.

    Returns:
        `(starts, count)`: a `tf.data.Dataset` of `(epoch, steps done)`, int64 scalars, and the steps that are left.

    Raises:
        ValueError: If nothing is left, or `start_step` is not a step of an epoch.
    """
    if num_epochs is not None and num_epochs <= start_epoch:
        raise ValueError(f"A stream from epoch {start_epoch} to num_epochs={num_epochs} is empty; raise num_epochs.")
    if not 0 <= start_step < steps:
        raise ValueError(f"start_step={start_step} is not a step of an epoch of {steps} steps; give 0 to {steps - 1}.")
    epochs = tf.data.Dataset.range(start_epoch, 2**31 - 1 if num_epochs is None else num_epochs)
    starts = epochs.map(lambda epoch: (epoch, tf.where(epoch == start_epoch, tf.cast(start_step, tf.int64), 0)))
    left = tf.data.INFINITE_CARDINALITY if num_epochs is None else (num_epochs - start_epoch) * steps - start_step
    return starts, left


@contextlib.contextmanager
def explain_bad_files(sources):
    """Turns TensorFlow's errors about unreadable data into ones that name the file and the record.

    Reads the files through, but only when an error of the input has occurred.

    Args:
        sources: List of `(find, parse, name)`: a function that gives the paths, and the two of `check_records`.

    Raises:
        BadRecordError: If an error in the block came from a bad record.
    """
    try:
        yield
    except (tf.errors.OpError, UnicodeDecodeError) as error:
        # Errors of the model itself are no reason to read hundreds of thousands of pictures. TensorFlow quotes the
        # bytes of a broken record in its message, and stumbles over them itself where they are not text.
        message = getattr(error, "message", "Dataset")
        of_input = isinstance(error, tf.errors.DataLossError) or re.search("Iterator|Dataset", message)
        if of_input and not _is_numeric(error):
            for find, parse, name in sources:
                # A set that is named but not there was not read either.
                with contextlib.suppress(tfrecord.DatasetNotFoundError):
                    check_records(find(), parse, name)
        raise


def check_records(files, parse, name=None):
    """Reads files through to find a record that cannot be used.

    Errors that do not say what is wrong with a record are no reason to call it bad.

    Args:
        files: Paths of TFRecord files.
        parse: Function that parses one serialised record.
        name: Function from a serialised record to the string tensor that names it, None if it has no name.

    Raises:
        BadRecordError: At the first bad record, with its file and number.
    """
    for path in files:
        number = 0
        try:
            for _ in tf.data.TFRecordDataset(path).map(parse):
                number += 1
        except (tf.errors.OpError, UnicodeDecodeError) as error:
            reason = _reason(error)
            if not reason or _is_numeric(error):
                continue
            raise BadRecordError(
                f"{path}: record {number} (counted from 0){_name(path, number, name)} cannot be read: {reason}. Make "
                "the file again with python tools/create_dataset.py, which skips and counts bad pictures."
            ) from error


def _is_numeric(error):
    """Whether an error is of `tf.debugging.enable_check_numerics`, which says nothing about the records."""
    return "Detected Infinity or NaN" in getattr(error, "message", "")


def _reason(error):
    if isinstance(error, UnicodeDecodeError):
        return "it is no tf.train.Example"
    first_line = (error.message or "unreadable").splitlines()[0].partition("[Op:")[0]
    # TensorFlow names the place in the pipeline before it says what is wrong.
    return re.sub(r"\{\{.*?\}\}|.*Iterator::\S+:", "", first_line).strip(" .")


def _name(path, number, name):
    """The record's name in brackets, if it can be parsed."""
    if name is None:
        return ""
    try:
        text = name(next(iter(tf.data.TFRecordDataset(path).skip(number)))).numpy().decode(errors="replace")
        return f" ({text})" if text else ""
    except (tf.errors.OpError, StopIteration, UnicodeDecodeError):
        return ""
