"""Human3.6M as the lifting network reads it: poses with their cameras, and streams of training batches.

`tools/create_dataset.py --h36m` writes one pose file a split (`posekit.data.hdf5` has the columns). From it come

* `Poses`, arrays with a row a pose, for evaluation and drawing;
* inputs float32 `[poses, 17, 2]` (with confidence `[poses, 17, 3]`) and labels float32 `[poses, 17, 3]`, both
  normalised by the size of each camera's picture, as `codecs.screen_pose` does;
* batches of both, whose order is a pure function of (seed, epoch, step), so that a resumed run sees the same ones.
"""

import contextlib
import dataclasses
import itertools
import pathlib

import numpy as np

from posekit.codecs import screen_pose
from posekit.data.hdf5 import CAMERA_COLUMNS, COLUMNS, NAME_LENGTH, PoseFile, PoseFileError, check_cameras
from posekit.skeletons import H36M17, Skeleton

SPLITS = ("train", "test")
MODES = ("gt", "dt_ft")
TRAIN_SUBJECTS = (1, 5, 6, 7, 8)
TEST_SUBJECTS = (9, 11)
ACTIONS = {
    2: "Directions",
    3: "Discussion",
    4: "Eating",
    5: "Greeting",
    6: "Phoning",
    7: "Posing",
    8: "Purchases",
    9: "Sitting",
    10: "SittingDown",
    11: "Smoking",
    12: "Photo",
    13: "Waiting",
    14: "Walking",
    15: "WalkDog",
    16: "WalkTogether",
}
# Name of a camera → (width, height) of its pictures. In this order they are the cameras 1 to 4.
CAMERA_SIZES = {
    "54138969": (1000, 1002),
    "55011271": (1000, 1000),
    "58860488": (1000, 1000),
    "60457274": (1000, 1002),
}
_BLOCK = 1 << 15
_PIECE = 1 << 11  # poses that a stream reads together
_FOREVER = 2**31 - 1


class UnknownCameraError(ValueError):
    """A camera whose pictures' size is not known."""


# ------------------------------------------------------------------------------------------------------- poses


@dataclasses.dataclass(frozen=True)
class Cameras:
    """A table of calibrated cameras, a row each.

    Args:
        name: Tuple of names.
        subject: Int32 `[cameras]`: who was recorded; each subject has calibrations of its own.
        index: Int32 `[cameras]`: 0 to 3 in Human3.6M.
        R: `[cameras, 3, 3]`, world to camera.
        T: `[cameras, 3]`: where it stands, millimetres.
        f: `[cameras, 2]` focal lengths in pixels.
        c: `[cameras, 2]` principal point in pixels.
        k: `[cameras, 3]` radial distortion.
        p: `[cameras, 2]` tangential distortion.
        image_size: `[cameras, 2]` width and height of its pictures in pixels.
    """

    name: tuple
    subject: np.ndarray
    index: np.ndarray
    R: np.ndarray
    T: np.ndarray
    f: np.ndarray
    c: np.ndarray
    k: np.ndarray
    p: np.ndarray
    image_size: np.ndarray

    def __post_init__(self):
        object.__setattr__(self, "name", tuple(self.name))

    def __len__(self):
        return len(self.name)

    def columns(self):
        """Dict of column name to array, as a pose file keeps them."""
        return {name: getattr(self, name) for name in CAMERA_COLUMNS}


@dataclasses.dataclass(frozen=True)
class Poses:
    """Poses, a row each; `posekit.data.hdf5` describes the columns. Columns that were not read are `None`.

    Indexing with a slice or an array of rows gives `Poses` again.

    Args:
        cameras: The table that `camera` points into.
        skeleton: Of the joints.

    Example:
        >>> poses = read_poses("data", "test")  # doctest: +SKIP
        >>> screen_pose.image_to_camera(
        ...     poses.joints_image, poses.box_px, poses.intrinsics, poses.root_depth_mm
        ... )  # doctest: +SKIP
    """

    cameras: Cameras
    joints_image: np.ndarray | None = None
    joints_px: np.ndarray | None = None
    joints_cam_mm: np.ndarray | None = None
    box_px: np.ndarray | None = None
    root_depth_mm: np.ndarray | None = None
    subject: np.ndarray | None = None
    action: np.ndarray | None = None
    subaction: np.ndarray | None = None
    video: np.ndarray | None = None
    frame: np.ndarray | None = None
    camera: np.ndarray | None = None
    detections_px: np.ndarray | None = None
    detection_confidence: np.ndarray | None = None
    skeleton: Skeleton = H36M17

    def __post_init__(self):
        lengths = {name: len(values) for name, values in self.columns().items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"Columns of poses have different lengths: {lengths}.")

    def __len__(self):
        return next((len(values) for values in self.columns().values()), 0)

    def __getitem__(self, rows):
        rows = slice(rows, rows + 1 or None) if isinstance(rows, (int, np.integer)) else rows
        return dataclasses.replace(self, **{name: values[rows] for name, values in self.columns().items()})

    def columns(self):
        """Dict of the columns that were read."""
        return {name: getattr(self, name) for name in COLUMNS if getattr(self, name) is not None}

    @property
    def image_size(self):
        """`[poses, 2]` width and height in pixels of the picture that each pose is in."""
        return self.cameras.image_size[self.camera]

    @property
    def intrinsics(self):
        """`[poses, 4]`: fx, fy, cx, cy of each pose's camera in pixels."""
        return np.concatenate([self.cameras.f, self.cameras.c], 1)[self.camera]

    def names(self, rows=None):
        """What Human3.6M's pictures of the poses are called.

        Args:
            rows: One row, which gives a text, or several, which give a list of them; all of them if `None`.

        Returns:
            Such as `"s_09_act_02_subact_01_ca_01_000001"`.
        """
        if isinstance(rows, (int, np.integer)):
            camera = self.cameras.index[self.camera[rows]] + 1
            head = f"s_{self.subject[rows]:02d}_act_{self.action[rows]:02d}_subact_{self.subaction[rows]:02d}"
            return f"{head}_ca_{camera:02d}_{self.frame[rows] + 1:06d}"
        return [self.names(int(row)) for row in (range(len(self)) if rows is None else rows)]


class CameraTable:
    """Collects cameras; each different one gets a row.

    Args:
        image_size: `(width, height)` for cameras whose name is not one of Human3.6M's and that bring no size.
    """

    def __init__(self, image_size=None):
        self.default_size = image_size
        self._rows = {}

    def row(self, name, subject, index, R, T, f, c, k, p, image_size=None):
        """Row of a camera.

        Args:
            name: Its name.
            subject: Who was recorded.
            index: Number of the camera, from 0.
            R: Rotation, 9 numbers.
            T: Translation, 3 numbers.
            f: Focal lengths, 2.
            c: Principal point, 2.
            k: Radial distortion, 3.
            p: Tangential distortion, 2.
            image_size: `(width, height)` of its pictures if known.

        Returns:
            The row's number.

        Raises:
            UnknownCameraError: If the size of its pictures is not known.
            ValueError: If a parameter has the wrong length or a value out of range, or the name is too long.
        """
        numbers = {}
        for what, values, length in (("R", R, 9), ("T", T, 3), ("f", f, 2), ("c", c, 2), ("k", k, 3), ("p", p, 2)):
            numbers[what] = np.asarray(values, np.float64).ravel()
            if numbers[what].size != length:
                raise ValueError(
                    f"camera {name!r:.40} has {numbers[what].size} values in {what}, {length} numbers are needed"
                )
        if len(str(name).encode()) > NAME_LENGTH:
            raise ValueError(f"camera {name!r:.40}… has a name of more than {NAME_LENGTH} bytes")
        size = image_size if image_size is not None else CAMERA_SIZES.get(name, self.default_size)
        if size is None:
            raise UnknownCameraError(
                f"The camera {name!r:.40} is not one of Human3.6M's ({', '.join(CAMERA_SIZES)}), and the size of its "
                "pictures is not in the file; give it, such as --h36m_image_size=1000,1002."
            )
        size = float(size[0]), float(size[1])
        check_cameras({**numbers, "subject": subject, "index": index, "image_size": size}, f"camera {name!r:.40}")
        key = (str(name), int(subject), int(index), np.concatenate([*numbers.values()]).tobytes(), size)
        return self._rows.setdefault(key, len(self._rows))

    def cameras(self):
        """The `Cameras` so far."""
        numbers = np.array([np.frombuffer(key[3]) for key in self._rows]).reshape(-1, 21)
        split = np.split(numbers, [9, 12, 14, 16, 19], 1)
        return Cameras(
            tuple(key[0] for key in self._rows),
            np.array([key[1] for key in self._rows], np.int32),
            np.array([key[2] for key in self._rows], np.int32),
            split[0].reshape(-1, 3, 3),
            *split[1:],
            np.array([key[4] for key in self._rows]).reshape(-1, 2),
        )


def sound_rows(columns):
    """Tells poses that can be used from others.

    Args:
        columns: Dict of the columns of a pose file, all of one length.

    Returns:
        `(sound, problems)`: boolean `[poses]`, and a list of `(row, reason)` of the poses that are not.
    """
    reasons = {}

    def reject(wrong, reason):
        for row in np.flatnonzero(wrong).tolist():
            reasons.setdefault(row, reason)

    for name, values in columns.items():
        spec, what = COLUMNS[name], "detections" if name.startswith("detect") else "values"
        beyond = spec.beyond(values)
        if values.dtype.kind == "f":
            reject(~np.isfinite(values).all(tuple(range(1, values.ndim))), f"{what} that are not finite")
            reject(beyond.any(tuple(range(1, values.ndim))), f"{what} that are not in {spec.span} px or mm")
        elif name != "action":
            reject(beyond, f"a {name} that is not among {spec.low} to {spec.high}")
    with np.errstate(invalid="ignore"):
        behind = ~(columns["joints_cam_mm"][..., 2] > 0).all(1) | ~(columns["root_depth_mm"] > 0)
        reject(behind, "joints that are not in front of the camera")
        reject(~(columns["box_px"][:, 2] > columns["box_px"][:, 0]), "a box of no width")
    reject(~np.isin(columns["action"], list(ACTIONS)), f"an action that is not among {min(ACTIONS)} to {max(ACTIONS)}")
    sound = np.ones(len(columns["action"]), bool)
    sound[list(reasons)] = False
    return sound, sorted(reasons.items())


# ----------------------------------------------------------------------------------------------- reading poses


def pose_file(data_dir, split):
    """Path of a split's pose file.

    Args:
        data_dir: Folder of the datasets.
        split: `"train"` or `"test"`.

    Returns:
        `pathlib.Path` of `{data_dir}/h36m_{split}.h5`.

    Raises:
        ValueError: If there is no such split.
    """
    if split not in SPLITS:
        raise ValueError(f"There is no split {split!r}; Human3.6M has {' and '.join(SPLITS)}.")
    return pathlib.Path(data_dir) / f"h36m_{split}.h5"


def read_poses(data_dir, split, columns=None, start=0, stop=None):
    """Reads poses of a split.

    Args:
        data_dir: Folder of the datasets.
        split: `"train"` or `"test"`.
        columns: Names of the columns wanted; all if `None`. `camera` comes always.
        start: First pose.
        stop: Pose after the last; the end if `None`.

    Returns:
        `Poses`.

    Raises:
        DatasetNotFoundError: If there is no such file; the message says how to make it.
        PoseFileError: If it is damaged, lacks a column, or has another skeleton or other actions than Human3.6M.
    """
    with _human36m(pose_file(data_dir, split)) as file:
        poses = _read(file, columns, start, stop)
    unknown = [] if poses.action is None else sorted(set(np.unique(poses.action).tolist()) - set(ACTIONS))
    if unknown:
        raise PoseFileError(
            f"{file.path} has poses of action {unknown[0]}, which is not among {min(ACTIONS)} to {max(ACTIONS)}; make "
            "it again with `python tools/create_dataset.py --h36m --overwrite`."
        )
    return poses


def read_pose_file(path, columns=None, start=0, stop=None):
    """Reads poses of a file; see `read_poses`.

    Args:
        path: A pose file.
        columns: Names of the columns wanted; all if `None`. `camera` comes always.
        start: First pose.
        stop: Pose after the last; the end if `None`.

    Returns:
        `Poses`.

    Raises:
        DatasetNotFoundError: If there is no such file; the message says how to make it.
        PoseFileError: If it is damaged or lacks a column.
    """
    with PoseFile(path) as file:
        return _read(file, columns, start, stop)


@contextlib.contextmanager
def _human36m(path):
    """Makes a context in which a pose file of Human3.6M's joints is open."""
    with PoseFile(path) as file:
        if file.skeleton is not H36M17:
            raise PoseFileError(
                f"{path} has the skeleton {file.skeleton.name}; the lifting network needs {H36M17.name}. Make it again "
                "with `python tools/create_dataset.py --h36m --overwrite`."
            )
        yield file


def _read(file, columns, start, stop):
    names = file.columns if columns is None else dict.fromkeys(("camera", *columns))
    arrays = {name: file.read(name, start, stop) for name in names}
    return Poses(cameras=Cameras(**file.cameras), skeleton=file.skeleton, **arrays)


def network_inputs(poses, mode="gt", confidence=False):
    """What the network reads.

    Args:
        poses: `Poses`.
        mode: `"gt"` for where the joints really are, `"dt_ft"` for what a detector found.
        confidence: Whether a third coordinate tells how sure the detector is; 1 for the truth.

    Returns:
        Float32 `[poses, joints, 2]`, or 3 with confidence, normalised.

    Raises:
        ValueError: If there is no such mode, or the poses have no detections or confidences.

    Follows: CHUNYUWANG/lcn-pose tools/data.py:DataReader.read_2d.
    """
    joints = getattr(poses, _input_columns(mode, confidence)[0])
    if joints is None:
        raise ValueError(_no_detections(mode))
    result = screen_pose.normalize(joints, poses.image_size).astype(np.float32)
    if not confidence:
        return result
    scores = np.ones(joints.shape[:2]) if mode == "gt" else poses.detection_confidence
    if scores is None:
        raise ValueError("The detections come without confidences; use in_F 2, which does without.")
    return np.concatenate([result, scores[..., None].astype(np.float32)], -1)


def network_labels(poses):
    """What the network is to predict.

    Args:
        poses: `Poses`.

    Returns:
        Float32 `[poses, joints, 3]`, normalised.

    Follows: CHUNYUWANG/lcn-pose tools/data.py:DataReader.read_3d.
    """
    return screen_pose.normalize(poses.joints_image, poses.image_size).astype(np.float32)


def read_network_data(path, mode="gt", confidence=False):
    """Inputs and labels of a whole pose file, read and converted block by block.

    Args:
        path: A pose file, as of `pose_file(data_dir, split)`.
        mode: `"gt"` or `"dt_ft"`.
        confidence: Whether the inputs have a third coordinate.

    Returns:
        `(inputs, labels)`: float32 `[poses, joints, 2 or 3]` and `[poses, joints, 3]`.

    Raises:
        DatasetNotFoundError: If there is no such file; the message says how to make it.
        PoseFileError: If it is damaged, or has no detections for a mode that needs them.
    """
    with _human36m(path) as file:
        joints = file.skeleton.num_joints
        inputs = np.empty((len(file), joints, 3 if confidence else 2), np.float32)
        labels = np.empty((len(file), joints, 3), np.float32)
        for start in range(0, len(file), _BLOCK):
            rows = slice(start, start + _BLOCK)
            inputs[rows], labels[rows] = _network_block(file, rows.start, rows.stop, mode, confidence)
    return inputs, labels


def _network_block(file, start, stop, mode, confidence):
    columns = _input_columns(mode, confidence)
    missing = [name for name in columns if name not in file.columns]
    if missing:
        raise PoseFileError(f"{file.path} has no column {missing[0]!r}: {_no_detections(mode)}")
    poses = _read(file, ("joints_image", *columns), start, stop)
    return network_inputs(poses, mode, confidence), network_labels(poses)


def _input_columns(mode, confidence):
    if mode not in MODES:
        raise ValueError(f"There is no mode {mode!r}; choose one of {', '.join(MODES)}.")
    if mode == "gt":
        return ("joints_px",)
    return ("detections_px", "detection_confidence") if confidence else ("detections_px",)


def _no_detections(mode):
    return (
        f"mode {mode} needs the joints, and for in_F 3 the confidences, of a 2-D detector. Give them to "
        "`python tools/create_dataset.py --h36m --h36m_detections=…`, or use mode gt."
    )


# ----------------------------------------------------------------------------------------------------- batches


def steps_per_epoch(num_poses, batch_size, flip=False):
    """Training steps in one pass over the poses.

    Args:
        num_poses: Poses of the dataset.
        batch_size: Poses in a step.
        flip: Whether every pose comes a second time, mirrored.

    Returns:
        Number of full batches; 1 if there are fewer poses than one holds, which then repeat to fill it.
    """
    return max(1, (2 if flip else 1) * num_poses // batch_size)


def pose_batches(
    inputs,
    labels,
    batch_size,
    *,
    num_epochs=None,
    start_epoch=0,
    start_step=0,
    seed=0,
    flip=False,
    skeleton=H36M17,
):
    """The stream of training batches, epoch after epoch, each a fresh order of all poses.

    The arrays stay in memory as they are: every batch works out which rows it needs and gathers them.

    Args:
        inputs: Float32 `[poses, joints, 2 or 3]` of `network_inputs`.
        labels: Float32 `[poses, joints, 3]` of `network_labels`.
        batch_size: Poses in a batch.
        num_epochs: Epoch at which the stream ends; None for an endless one.
        start_epoch: First epoch.
        start_step: First step of the first epoch.
        seed: Integer of up to 31 bits.
        flip: Whether every pose comes a second time in each epoch, mirrored.
        skeleton: Whose sides change places in mirror images.

    Returns:
        `tf.data.Dataset` of `(inputs [batch, joints, 2 or 3], labels [batch, joints, 3])`, `steps_per_epoch` an epoch.

    Raises:
        ValueError: If an argument makes no sense.

    Follows: CHUNYUWANG/lcn-pose network/models_att.py:fit.
    Differs: the original's batches run on from one order of all poses to the next and cannot be resumed.
    """
    import tensorflow as tf

    if len(inputs) != len(labels) or not len(inputs):
        raise ValueError(f"There are {len(inputs)} inputs and {len(labels)} labels; give as many, and at least one.")
    total, joints = inputs.shape[:2]
    with tf.device("/CPU:0"):
        inputs, labels = tf.convert_to_tensor(inputs), tf.convert_to_tensor(labels)
        if flip:
            # Mirroring takes the joints one by one, in the twin's order.
            inputs, labels = (tf.reshape(array, [-1, array.shape[2]]) for array in (inputs, labels))
            orders = tf.constant(np.stack([np.arange(joints), skeleton.flip_permutation]))
            signs = tf.constant([[[1.0, 1.0, 1.0]], [[-1.0, 1.0, 1.0]]])

    def batch(number):
        rows = _rows(number, total * (2 if flip else 1), batch_size, seed)
        if not flip:
            return tf.gather(inputs, rows), tf.gather(labels, rows)
        mirrored = rows // total
        places = (rows % total)[:, None] * joints + tf.gather(orders, mirrored)
        sign = tf.gather(signs, mirrored)
        return tf.gather(inputs, places) * sign[..., : inputs.shape[1]], tf.gather(labels, places) * sign

    span = _batch_span(total, batch_size, num_epochs, start_epoch, start_step, flip)
    return tf.data.Dataset.range(*span).map(batch, num_parallel_calls=2, deterministic=True).prefetch(tf.data.AUTOTUNE)


def file_batches(path, batch_size, *, mode="gt", confidence=False, stream=False, window=1 << 17, **options):
    """The stream of training batches of a pose file.

    With `stream=True` the file need not fit into memory: pieces of it are read in an order of their own each epoch, and
    shuffled within a window. The batches are again a pure function of (seed, epoch, step), but other ones, and poses
    that are far apart in the file meet less often than in the shuffle of all.

    Args:
        path: A pose file, as of `pose_file(data_dir, split)`.
        batch_size: Poses in a batch.
        mode: `"gt"` or `"dt_ft"`.
        confidence: Whether the inputs have a third coordinate.
        stream: Whether to read the file again each epoch, instead of once.
        window: Poses among which streamed ones are shuffled, of which at most about five times as many are in memory.
        **options: `num_epochs`, `start_epoch`, `start_step`, `seed`, `flip` and `skeleton` of `pose_batches`.

    Returns:
        `tf.data.Dataset` as of `pose_batches`.

    Raises:
        DatasetNotFoundError: If there is no such file; the message says how to make it.
        PoseFileError: If it is damaged, or has no detections for a mode that needs them.
        ValueError: If an argument makes no sense.
    """
    if not stream:
        return pose_batches(*read_network_data(path, mode, confidence), batch_size, **options)
    return _streamed_batches(path, batch_size, mode, confidence, window, **options)


def _streamed_batches(
    path,
    batch_size,
    mode,
    confidence,
    window,
    num_epochs=None,
    start_epoch=0,
    start_step=0,
    seed=0,
    flip=False,
    skeleton=H36M17,
):
    import tensorflow as tf

    with _human36m(path) as file:
        count = len(file)
        joints = file.skeleton.num_joints
        _network_block(file, 0, 1, mode, confidence)
    first, last = _batch_span(count, batch_size, num_epochs, start_epoch, start_step, flip)
    steps = steps_per_epoch(count, batch_size, flip)

    def windows():
        with PoseFile(path) as file:
            for epoch in range(start_epoch, last // steps):
                skipped = start_step * batch_size if epoch == start_epoch else 0
                pieces = _window_pieces(count, window, seed, epoch, flip)
                yield from _cut(pieces, skipped, steps * batch_size, lambda piece: read(file, piece))

    def read(file, piece):
        blocks, order = piece
        parts = []
        for block, mirrored in blocks:
            part = _network_block(file, block * _PIECE, (block + 1) * _PIECE, mode, confidence)
            parts.append([screen_pose.flip(values, skeleton) for values in part] if mirrored else part)
        return tuple(np.concatenate(arrays)[order] for arrays in zip(*parts))

    signature = tuple(tf.TensorSpec([None, joints, size], tf.float32) for size in (3 if confidence else 2, 3))
    streamed = tf.data.Dataset.from_generator(windows, output_signature=signature).prefetch(1)
    batches = streamed.rebatch(batch_size, drop_remainder=True)
    return batches.apply(tf.data.experimental.assert_cardinality(last - first)).prefetch(tf.data.AUTOTUNE)


def _window_pieces(count, window, seed, epoch, flip):
    """An epoch's windows: lists of (piece of the file, mirrored or not), and the order of their rows."""
    number = -(-count // _PIECE)
    entries = np.random.default_rng([seed, epoch]).permutation(number * (2 if flip else 1))
    width = max(1, window // _PIECE)
    for index, start in enumerate(range(0, len(entries), width)):
        blocks = [(int(entry) % number, entry >= number) for entry in entries[start : start + width]]
        rows = sum(min(_PIECE, count - block * _PIECE) for block, _ in blocks)
        yield blocks, np.random.default_rng([seed, epoch, index]).permutation(rows)


def _cut(pieces, start, stop, read):
    """Yields rows `start` to `stop` of the pieces one after the other, from the first again if there are not enough."""
    position = 0
    for piece in itertools.cycle(pieces):
        length = len(piece[1])
        if position + length > start:
            inside = slice(max(0, start - position), min(length, stop - position))
            yield tuple(array[inside] for array in read(piece))
        position += length
        if position >= stop:
            return


def _batch_span(total, batch_size, num_epochs, start_epoch, start_step, flip):
    """Numbers of the first batch and of the one after the last."""
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1.")
    steps = steps_per_epoch(total, batch_size, flip)
    if num_epochs is not None and num_epochs <= start_epoch:
        raise ValueError(f"A stream from epoch {start_epoch} to num_epochs={num_epochs} is empty; raise num_epochs.")
    if not 0 <= start_step < steps:
        raise ValueError(f"start_step={start_step} is not a step of an epoch of {steps} steps; give 0 to {steps - 1}.")
    return start_epoch * steps + start_step, (_FOREVER if num_epochs is None else num_epochs) * steps


def _rows(number, total, batch_size, seed):
    """Rows of a batch: a piece of the epoch's order of `total` rows."""
    import tensorflow as tf

    steps = max(1, total // batch_size)
    epoch, step = number // steps, number % steps
    places = (step * batch_size + tf.range(batch_size, dtype=tf.int64)) % total
    seeds = tf.stack([tf.constant(seed, tf.int64), epoch])
    return tf.random.experimental.index_shuffle(places, seeds, tf.constant(total - 1, tf.int64))
