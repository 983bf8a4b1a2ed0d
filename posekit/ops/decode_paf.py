"""Who is where in the maps of a multi-person network: peaks of joints, put together along part affinity fields.

A network gives a heatmap for every joint (and one of the background) and a field of vectors for every limb. Peaks of
the heatmaps are joints. A joint a and a joint b with the distance d and the direction u from a to b make a limb if the
field F along it points their way:

    score(a, b) = mean over 10 points p from a to b of F(p) . u  +  min(height / 2 d - 1, 0)

must be above 0, and 9 of the 10 products above a threshold (7 for tf-pose-estimation). Of the limbs that want the same
joint the best is taken, limbs that share a joint make a person, and a person has parts enough and a mean score high
enough.

Four steps, each a function of its own: `smooth_maps`, `find_peaks`, `connect_limbs`, `group_people`.

`decode_paf` takes NumPy arrays, `decode_paf_batch` tensors, also within `tf.function` and `tf.data`. Where there is a
compiled kernel (`posekit.ops.native`), it does all steps for a whole batch, on all cores and without Python's lock,
and gives the plain path's result: with `mode="exact"` to the last bit, in the other modes, where versions of OpenCV
round otherwise, to rounding. It takes float32; maps in double precision are decoded by the plain path.

Time, for P pixels (cells), J joints, L limbs, N peaks of a joint: all maps are read once; with `"exact"` only blocks of
pixels that may hold a peak are smoothed, at 25 + 25 products a pixel, in the other modes all cells, at 7 + 7 products
a place (4 or 16 places a cell); O(L N^2) looks at limbs, N being 500 at most; O(L N people) comparisons for assembly.
Memory of the kernel: `"exact"` P J / 64 numbers twice and one patch a thread, no smoothed and, with `upsampling`, no
enlarged maps; else 4 x 96 cells a thread, finely smoothed; and what is found.
"""

import ctypes
import dataclasses
import functools
import math
import typing

import cv2
import numpy as np
import scipy.ndimage
import scipy.special

from posekit.ops import native
from posekit.skeletons import OPENPOSE18, Skeleton

MODES = ("exact", "fast", "tf_pose")
PEAK_THRESHOLDS = {"exact": 0.1, "fast": 0.1, "tf_pose": 0.05}
MIN_SCORES = {"exact": 0.4, "fast": 0.4, "tf_pose": 0.3}
SIGMA_PX = 3.0

_POINTS = 10  # along a limb
_POINTS_NEEDED = {"exact": 9, "fast": 9, "tf_pose": 7}
_FIRST_POINTS = (4, 2, 7)  # looked at before the others: two of them must be good
_BLOCK = 8
_MOST_UPSAMPLING = 64
_RADIUS = 12  # of the smoothing: 4 standard deviations
_MANY = 3000  # candidates of one map beyond which it is smoothed as a whole
_PAIRS = 1 << 14  # of joints that are looked at together
_FEW = 200  # pairs that are looked at in one go
_MOST = 500  # peaks of a joint that limbs are sought for
_MOST_PEOPLE = 1 << 16  # that there may be room for; so many are never found
_CROSS = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))  # a pixel and its neighbours: y, x
_CROSS_SHAPE = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)
_FAST_UPSAMPLING = 2
_TF_POSE_UPSAMPLING = 4
_TF_POSE_KERNEL = 25


class _Options(typing.NamedTuple):
    mode: str
    skeleton: Skeleton
    peak_threshold: float
    paf_threshold: float
    min_parts: float
    min_score: float
    stride: float
    upsampling: int
    size: tuple


@dataclasses.dataclass(frozen=True, eq=False)
class Decoded:
    """People in a picture, and what they were put together from. `len(decoded)` is their number.

    Args:
        keypoints: Float32 `[people, joints, 2]` x, y in pixels, the centre of the upper left one at (0, 0); NaN where
            a joint was not found.
        scores: Float32 `[people, joints]` values of the heatmaps, 0 where a joint was not found.
        person_scores: Float32 `[people]` mean over the joints found of peak and limb scores.
        peaks: Float64 `[peaks, 5]`: joint, x, y, score, number. Not in pixels of the image, but of the maps that were
            searched: with `mode="fast"` cells and parts of them, with `mode="tf_pose"` quarters of cells.
        candidate: Float64 `[peaks, 4]`: the same without the joint.
        subset: Float64 `[people, joints + 2]`: numbers of the peaks, -1 where missing; sum of scores; joints found.
    """

    keypoints: np.ndarray
    scores: np.ndarray
    person_scores: np.ndarray
    peaks: np.ndarray
    candidate: np.ndarray
    subset: np.ndarray

    def __len__(self):
        return len(self.subset)


def decode_paf(
    heatmaps,
    pafs,
    *,
    mode="exact",
    skeleton=OPENPOSE18,
    peak_threshold=None,
    paf_threshold=0.05,
    min_parts=4,
    min_score=None,
    stride=8,
    upsampling=1,
    size=None,
):
    """Finds people in heatmaps and part affinity fields.

    Args:
        heatmaps: Float `[height, width, joints + 1]`; the last one, the background, is not looked at. Or a batch
            `[batch, height, width, joints + 1]`.
        pafs: Float `[height, width, 2 limbs]` x and y of each limb in turn; or a batch.
        mode: `"exact"`: the original's result, of maps as large as the image (`posekit.codecs.paf.average_maps`); in
            the network's own small maps it finds nobody unless `upsampling` enlarges them.
            `"fast"`: of the network's own small maps, with peaks between their cells. `"tf_pose"`: tf-pose-estimation's
            result, of the network's own maps too. `decode_paf_batch` has `"fast"` by default.
        skeleton: `Skeleton` with the joints of the heatmaps and the limbs of the fields.
        peak_threshold: Smallest value of a peak; by default 0.1, and 0.05 with `mode="tf_pose"`.
        paf_threshold: Smallest product of field and limb's direction that counts as good.
        min_parts: Joints that a person has at least.
        min_score: Mean score that a person has at least; by default 0.4, and 0.3 with `mode="tf_pose"`.
        stride: Pixels of the image per cell of the network's maps; unused with `mode="exact"`.
        upsampling: With `mode="exact"`: enlarge the maps so many times first, by cubic interpolation, as the original
            does with the network's own. The result is that of `cv2.resize` and `upsampling=1`; to the last bit with 5
            channels or more.
        size: With `upsampling`: `(height, width)` of the enlarged maps that are used, from the upper left; the rest is
            the image's padding. All by default.

    Returns:
        `Decoded`, or a list of them for a batch. Keypoints are in pixels of the maps with `mode="exact"`, otherwise
        in pixels of the network's input, `stride` times as large as the maps.

    Raises:
        ValueError: If shapes do not fit together, values are not finite, an argument is none of these, or a tensor has
            no value, within `tf.function` or `tf.data`: see `decode_paf_batch`.

    Example:
        >>> import numpy as np
        >>> people = decode_paf(np.zeros((46, 46, 19)), np.zeros((46, 46, 38)), mode="fast")
        >>> len(people), people.keypoints.shape
        (0, (0, 18, 2))

    Reference:
        Cao, Simon, Wei, Sheikh: Realtime Multi-Person 2D Pose Estimation using Part Affinity Fields. CVPR 2017.

        Follows: michalfaber/keras_Realtime_Multi-Person_Pose_Estimation:processing.py (extract_parts);
        ildoonet/tf-pose-estimation:tf_pose/pafprocess/pafprocess.cpp (process_paf) and tf_pose/estimator.py.
        Differs: a limb that more than two unfinished people share joins the first two, where the first original fails;
        of more than 500 peaks of a joint, which no trained network gives, the highest are looked at.
    """
    options = _options(mode, skeleton, peak_threshold, paf_threshold, min_parts, min_score, stride, upsampling)
    with native.arrays_only("decode_paf", f"call decode_paf_batch(..., mode={mode!r}, upsampling={upsampling})"):
        heatmaps, pafs = _floats(heatmaps), _floats(pafs)
    _check_shapes(heatmaps.shape, pafs.shape, skeleton, (3, 4))
    size = _used_size(heatmaps.shape[-3:-1], mode, upsampling, size)
    if upsampling == 1:
        heatmaps, pafs = (maps[..., : size[0], : size[1], :] for maps in (heatmaps, pafs))
    options = options._replace(size=size)
    single = heatmaps.ndim == 3
    if single:
        heatmaps, pafs = heatmaps[None], pafs[None]
    people = _decode_native(heatmaps, pafs, options)
    if people is None:
        people = [_decode_one(*maps, options) for maps in zip(heatmaps, pafs)]
    return people[0] if single else people


def decode_paf_batch(
    heatmaps,
    pafs,
    *,
    max_people=64,
    mode="fast",
    skeleton=OPENPOSE18,
    peak_threshold=None,
    paf_threshold=0.05,
    min_parts=4,
    min_score=None,
    stride=8,
    upsampling=1,
    size=None,
):
    """Finds people in a batch of maps, as `decode_paf` does, within a TensorFlow program.

    For `tf.data` pipelines and `tf.function`: of fixed shapes, without gradient. A saved program runs only where
    posekit has loaded its compiled ops.

    Args:
        heatmaps: `[batch, height, width, joints + 1]` tensor, read in single precision.
        pafs: `[batch, height, width, 2 limbs]` tensor.
        max_people: People that there is room for, at most 65536; of more, those with the highest scores are kept.
        mode: As for `decode_paf`, and so are all others; but `"fast"` by default: within a program there are the
            network's own maps, in which `"exact"` finds nobody without `upsampling=8`.
        skeleton: `Skeleton`.
        peak_threshold: As for `decode_paf`.
        paf_threshold: As for `decode_paf`.
        min_parts: As for `decode_paf`.
        min_score: As for `decode_paf`.
        stride: As for `decode_paf`.
        upsampling: As for `decode_paf`.
        size: As for `decode_paf`.

    Returns:
        Dict of tensors: `"keypoints"` float32 `[batch, max_people, joints, 2]` in pixels, NaN where there is none;
        `"scores"` float32 `[batch, max_people, joints]`; `"person_scores"` float32 `[batch, max_people]`; `"counts"`
        int32 `[batch]`.

    Raises:
        ValueError: As `decode_paf`; if `max_people` is out of range; or while a program for XLA is traced, which cannot
            compile this: use `jit_compile=False`. What shows only when the program runs is a
            `tf.errors.InvalidArgumentError`.

    Example:
        >>> import tensorflow as tf
        >>> people = decode_paf_batch(tf.zeros([2, 46, 46, 19]), tf.zeros([2, 46, 46, 38]), max_people=10)
        >>> people["keypoints"].shape.as_list(), people["counts"].numpy().tolist()
        ([2, 10, 18, 2], [0, 0])
    """
    import tensorflow as tf  # not for those who decode NumPy arrays

    native.refuse_xla("decode_paf_batch")
    native.refuse_export("decode_paf_batch")
    if not _is_whole(max_people, 0, _MOST_PEOPLE):
        allowed = f"a whole number from 0 to {_MOST_PEOPLE}, such as 64"
        raise ValueError(f"max_people is {max_people!r:.80}; it must be {allowed}.")
    options = _options(mode, skeleton, peak_threshold, paf_threshold, min_parts, min_score, stride, upsampling)
    heatmaps, pafs = (tf.stop_gradient(tf.cast(maps, tf.float32)) for maps in (heatmaps, pafs))
    if heatmaps.shape.rank is None or pafs.shape.rank is None:  # shows when the program runs
        heatmaps, pafs = (tf.ensure_shape(maps, 4 * [None]) for maps in (heatmaps, pafs))
    _check_shapes(heatmaps.shape, pafs.shape, skeleton, (4,))
    cells = heatmaps.shape[1:3]
    if size is not None or mode != "exact":
        used = _used_size([math.inf if side is None else side for side in cells], mode, upsampling, size)
        size = None if size is None else used
    joints, most = skeleton.num_joints, int(max_people)
    shapes = [most, joints, 2], [most, joints], [most], []
    library = native.ops() if upsampling in (1, _BLOCK) and hasattr(native.ops(), "posekit_decode_paf") else None
    if library is not None:
        _declare_without_gradient()
        if upsampling == 1 and size is not None:
            heatmaps, pafs = (maps[:, : size[0], : size[1]] for maps in (heatmaps, pafs))
            size = None
        ends, order, opens = _tables(skeleton)
        gaussian, profiles = _kernels()
        numbers = [MODES.index(mode), upsampling, *(size or (0, 0)), *options[2:7], most, joints]
        found = library.posekit_decode_paf(
            heatmaps, pafs, ends, order, opens.astype(bool), gaussian, profiles[mode], np.array(numbers, np.float64)
        )
    else:
        run = functools.partial(_decode_padded, options=options, size=size, most=most)
        types = [tf.float32, tf.float32, tf.float32, tf.int32]
        try:
            found = tf.numpy_function(run, [heatmaps, pafs], types, stateful=False)
        except ValueError as error:  # as in a graph, and by the compiled op
            raise tf.errors.InvalidArgumentError(None, None, str(error)) from None
    for part, shape in zip(found, shapes):
        part.set_shape([heatmaps.shape[0], *shape])
    return dict(zip(("keypoints", "scores", "person_scores", "counts"), found))


def smooth_maps(maps, mode="exact"):
    """Smooths heatmaps before their peaks are searched.

    Args:
        maps: Float `[height, width, joints]`.
        mode: One of `MODES`. `"exact"`: a Gaussian of 3 pixels, mirrored at the borders. `"fast"`: cubic interpolation
            to twice the size and the same Gaussian, for maps with a stride of 8. `"tf_pose"`: each cell becomes 4 x 4,
            then 25 x 25 pixels are averaged, zeros beyond the borders.

    Returns:
        `[height, width, joints]`, twice as high and wide with `mode="fast"`, 4 times with `mode="tf_pose"`; float64
        with `mode="exact"`, else float32.

    Follows: michalfaber/keras_Realtime_Multi-Person_Pose_Estimation:processing.py (extract_parts);
    ildoonet/tf-pose-estimation:tf_pose/tensblur/smoother.py (Smoother) and tf_pose/estimator.py.
    """
    if mode == "exact":
        kernel = _gaussian(SIGMA_PX, _RADIUS)
        once = scipy.ndimage.correlate1d(np.asarray(maps, np.float64), kernel, axis=0)
        return scipy.ndimage.correlate1d(once, kernel, axis=1)
    height, width, joints = maps.shape
    maps = np.asarray(maps, np.float32)
    if width * joints % 4:  # OpenCV rounds otherwise what is left of a row when four at a time are taken
        maps = np.pad(maps, ((0, 0), (0, 0), (0, -joints % 4)))
    profiles = _profiles(mode)
    times, border = len(profiles), cv2.BORDER_REFLECT if mode == "fast" else cv2.BORDER_CONSTANT
    fine = np.empty((height, times, width, times, joints), np.float32)
    for row, down in enumerate(profiles):
        for column, across in enumerate(profiles):
            fine[:, row, :, column] = _filtered(maps, down, border, across)[..., :joints]
    return fine.reshape(height * times, width * times, joints)


def smoothing_kernel():
    """Kernel with which tf-pose-estimation smooths heatmaps.

    The square root of the outer product of a profile with itself, the profile being the normal distribution's mass in
    25 steps from -3 to 3 standard deviations.

    Returns:
        Float32 `[25, 25]` of sum 1.

    Follows: ildoonet/tf-pose-estimation:tf_pose/tensblur/smoother.py (Smoother.gauss_kernel).
    """
    profile = _tf_pose_mass()
    kernel = np.sqrt(np.outer(profile, profile))
    return (kernel / kernel.sum()).astype(np.float32)


def find_peaks(heatmaps, mode="exact", threshold=0.1):
    """Finds the local maxima of smoothed heatmaps.

    Args:
        heatmaps: Finite float `[height, width, joints + 1]`; the last one is not looked at.
        mode: One of `MODES`: what a peak is. `"exact"`: not below its 4 neighbours. `"fast"`: the largest of 3 x 3
            half cells, moved to the top of a parabola through them. `"tf_pose"`: the largest of 3 x 3.
        threshold: Peaks are higher than this, smoothed.

    Returns:
        Float64 `[peaks, 5]`: joint, x, y, score (the value that was not smoothed; with `mode="fast"` the parabola's
        top), number. Sorted by joint, y, x.

    Follows: michalfaber/keras_Realtime_Multi-Person_Pose_Estimation:processing.py (extract_parts);
    ildoonet/tf-pose-estimation:tf_pose/estimator.py, tf_pose/pafprocess/pafprocess.cpp (process_paf).
    """
    if mode == "exact":
        joint, y, x = _exact_peaks(heatmaps, threshold)
        score = heatmaps[y, x, joint]
    elif mode == "fast":
        joint, y, x, score = _fast_peaks(heatmaps[..., :-1], threshold)
    else:
        joint, y, x = _largest_of_nine(smooth_maps(heatmaps[..., :-1], mode), threshold)
        score = heatmaps[y // _TF_POSE_UPSAMPLING, x // _TF_POSE_UPSAMPLING, joint]
    return np.stack([joint, x, y, score, np.arange(len(joint))], axis=-1).astype(np.float64)


def connect_limbs(pafs, peaks, skeleton=OPENPOSE18, mode="exact", threshold=0.05):
    """Chooses for every limb which joints it connects.

    Args:
        pafs: Finite float `[height, width, 2 limbs]`.
        peaks: `[peaks, 5]` of `find_peaks`.
        skeleton: `Skeleton` whose limbs these are.
        mode: One of `MODES`: where along a limb the field is looked at.
        threshold: Smallest product of field and direction that counts as good.

    Returns:
        One float64 `[connections, 3]` per limb, in the order of `skeleton.limb_grouping`: numbers of both peaks, and
        the score; best first.

    Follows: michalfaber/keras_Realtime_Multi-Person_Pose_Estimation:processing.py (extract_parts);
    ildoonet/tf-pose-estimation:tf_pose/pafprocess/pafprocess.cpp (process_paf).
    """
    height, width = pafs.shape[:2]
    fields = np.ascontiguousarray(pafs).reshape(height * width, -1)
    ends = np.searchsorted(peaks[:, 0], np.arange(skeleton.num_joints + 1))
    measure = {"exact": _exact_scores, "fast": _fast_scores, "tf_pose": _tf_pose_scores}[mode]
    connections = []
    for limb in skeleton.limb_grouping:
        start, end = (_highest(peaks[ends[joint] : ends[joint + 1]]) for joint in skeleton.limbs[limb])
        field = fields[:, 2 * limb : 2 * limb + 2]
        found = []
        rows = max(1, _PAIRS // max(1, len(end)))
        for first in range(0, len(start) if len(end) else 0, rows):
            one, other = np.divmod(np.arange(first * len(end), min(first + rows, len(start)) * len(end)), len(end))
            one, other, score = measure(field, (height, width), start, end, one, other, threshold)
            found.append(np.stack([one, other, score]))
        found = np.concatenate(found, axis=1) if found else np.empty((3, 0))
        best = _best_first(*found[:, np.argsort(-found[2], kind="stable")].tolist(), min(len(start), len(end)))
        connections.append(
            np.array([(start[one, 4], end[other, 4], score) for one, other, score in best]).reshape(-1, 3)
        )
    return connections


def group_people(connections, peaks, skeleton=OPENPOSE18, min_parts=4, min_score=0.4):
    """Puts connected joints together.

    Args:
        connections: Of `connect_limbs`.
        peaks: `[peaks, 5]` of `find_peaks`.
        skeleton: `Skeleton` whose limbs were connected.
        min_parts: Joints that a person has at least.
        min_score: Mean score that a person has at least.

    Returns:
        Float64 `[people, joints + 2]`: numbers of the peaks, -1 where missing; sum of scores; number of joints.

    Follows: michalfaber/keras_Realtime_Multi-Person_Pose_Estimation:processing.py (extract_parts).
    """
    joints = skeleton.num_joints
    heights = peaks[:, 3]
    subset, count = np.empty((sum(map(len, connections)), joints + 2)), 0
    for limb, opens, found in zip(skeleton.limb_grouping, skeleton.limb_opens, connections):
        start, end = skeleton.limbs[limb]
        for one, other, score in found:
            rows = np.flatnonzero((subset[:count, start] == one) | (subset[:count, end] == other))
            if len(rows) >= 2:
                first, second = subset[rows[0]], subset[rows[1]]
                if not ((first[:joints] >= 0) & (second[:joints] >= 0)).any():
                    first[:joints] += second[:joints] + 1
                    first[joints:] += second[joints:]
                    first[joints] += score
                    subset[rows[1] : count - 1] = subset[rows[1] + 1 : count]
                    count -= 1
                    continue
            if len(rows):
                person = subset[rows[0]]
                if len(rows) >= 2 or person[end] != other:
                    person[end] = other
                    person[joints] += heights[int(other)] + score
                    person[joints + 1] += 1
            elif opens:
                person = subset[count]
                person[:] = -1
                person[start], person[end] = one, other
                person[joints:] = heights[int(one)] + heights[int(other)] + score, 2
                count += 1
    subset = subset[:count]
    return subset[(subset[:, -1] >= min_parts) & (subset[:, -2] / subset[:, -1] >= min_score)]


def _floats(maps):
    maps = np.asarray(maps)
    if maps.dtype.kind not in "fiub":
        raise ValueError(f"Maps are {maps.dtype.name}; give real numbers, such as float32.")
    return maps if maps.dtype in (np.float32, np.float64) else maps.astype(np.float32)


def _options(mode, skeleton, peak_threshold, paf_threshold, min_parts, min_score, stride, upsampling):
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}; choose from {', '.join(MODES)}.")
    if not isinstance(skeleton, Skeleton):
        raise ValueError(f"skeleton is {skeleton!r:.80}; give a Skeleton, such as posekit.skeletons.OPENPOSE18.")
    if peak_threshold is None:
        peak_threshold = PEAK_THRESHOLDS[mode]
    if min_score is None:
        min_score = MIN_SCORES[mode]
    for name, value in (("peak_threshold", peak_threshold), ("paf_threshold", paf_threshold), ("min_parts", min_parts),
                        ("min_score", min_score), ("stride", stride), ("upsampling", upsampling)):  # fmt: skip
        if not _is_number(value):
            raise ValueError(f"{name} is {value!r:.80}; it must be a number.")
    if not 0 < stride < math.inf:
        raise ValueError(f"stride is {stride}; it must be above 0 and finite, such as 8.")
    if not _is_whole(upsampling, 1, _MOST_UPSAMPLING):
        raise ValueError(f"upsampling is {upsampling}; it must be a whole number from 1 to {_MOST_UPSAMPLING}.")
    numbers = *map(float, (peak_threshold, paf_threshold)), min_parts, *map(float, (min_score, stride))
    return _Options(mode, skeleton, *numbers, int(upsampling), None)


def _is_number(value):
    try:
        return not math.isnan(value)
    except (TypeError, ValueError, OverflowError):
        return False


def _is_whole(value, least, most):
    return _is_number(value) and least <= value <= most and value == int(value)


def _check_shapes(heatmaps, pafs, skeleton, ranks):
    """Refuses shapes that do not fit; dimensions that are None are not known yet."""
    wanted = skeleton.num_joints + 1, 2 * len(skeleton.limbs)
    heatmaps, pafs = tuple(heatmaps), tuple(pafs)
    if (
        len(heatmaps) not in ranks
        or len(heatmaps) != len(pafs)
        or any(None not in sides and sides[0] != sides[1] for sides in zip(heatmaps[:-1], pafs[:-1]))
        or any(side not in (None, want) for side, want in zip((heatmaps[-1], pafs[-1]), wanted))
        or 0 in heatmaps[-3:-1]
    ):
        batch = "batch, " if ranks == (4,) else ""
        raise ValueError(
            f"Heatmaps of shape {heatmaps} and fields of shape {pafs}: skeleton {skeleton.name!r} needs "
            f"[{batch}height, width, {wanted[0]}] and [{batch}height, width, {wanted[1]}] of the same sizes."
        )


def _used_size(cells, mode, upsampling, size):
    if mode != "exact" and (upsampling != 1 or size is not None):
        raise ValueError(f"upsampling and size are for mode='exact'; mode={mode!r} takes the network's own maps.")
    whole = tuple(side * int(upsampling) for side in cells)
    if size is None:
        return whole
    sides = tuple(size) if np.iterable(size) else (size,)
    if len(sides) != 2 or not all(_is_whole(side, 1, most) for side, most in zip(sides, whole)):
        raise ValueError(f"size is {size}; the enlarged maps are {whole}, and 1 to so many pixels of them can be used.")
    return tuple(map(int, sides))


def _check_finite(name, maps):
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(maps.sum(dtype=maps.dtype)):
            return
    bad = np.count_nonzero(~np.isfinite(maps))
    if bad:
        raise ValueError(
            f"{name} hold {bad} values that are not finite; check the image and the weights of the network."
        )


def _decode_one(heatmaps, pafs, options):
    mode, skeleton = options.mode, options.skeleton
    _check_finite("Heatmaps", heatmaps)
    _check_finite("Fields", pafs)
    if options.upsampling > 1:
        heatmaps, pafs = (_enlarged(maps, options) for maps in (heatmaps, pafs))
    peaks = find_peaks(heatmaps, mode, options.peak_threshold)
    connections = connect_limbs(pafs, peaks, skeleton, mode, options.paf_threshold)
    subset = group_people(connections, peaks, skeleton, options.min_parts, options.min_score)
    return _decoded(peaks, subset, skeleton.num_joints, mode, options.stride)


def _enlarged(maps, options):
    times, (height, width) = options.upsampling, options.size
    channels = maps.shape[-1]
    # Fewer channels than five OpenCV may resize by another library, which rounds otherwise.
    maps = np.pad(np.asarray(maps, np.float32), ((0, 0), (0, 0), (0, max(0, 5 - channels))))
    maps = cv2.resize(maps, None, fx=times, fy=times, interpolation=cv2.INTER_CUBIC)
    return maps[:height, :width, :channels]


def _decode_native(heatmaps, pafs, options):
    """People of a batch by the compiled kernel; None where there is none, or none for such maps."""
    if options.upsampling not in (1, _BLOCK):
        return None
    if options.upsampling == 1 and (heatmaps.dtype, pafs.dtype) != (np.float32, np.float32):
        return None
    decode, take = _kernel(native.kernels())
    if decode is None:
        return None
    heatmaps, pafs = _addressable(heatmaps), _addressable(pafs)
    (ends, order, opens), (gaussian, profiles), joints = (
        _tables(options.skeleton),
        _kernels(),
        options.skeleton.num_joints,
    )
    batch = len(heatmaps)
    profiles = profiles[options.mode]
    whole = np.array(
        [*heatmaps.shape[:3], joints, len(ends), len(order), MODES.index(options.mode),
         options.upsampling if options.mode == "exact" else len(profiles), *options.size,
         *(stride // 4 for stride in heatmaps.strides), *(stride // 4 for stride in pafs.strides)],
        np.int64,
    )  # fmt: skip
    numbers = np.array(options[2:7], np.float64)
    sizes, result = np.empty((batch, 2), np.int64), ctypes.c_void_p()
    arrays = heatmaps, pafs, whole, numbers, ends, order, opens, gaussian, profiles, sizes
    native.check(decode(*(array.ctypes.data for array in arrays), ctypes.byref(result)))
    try:
        num_peaks, num_people = sizes.sum(axis=0).tolist()
        peaks, subset = np.empty((num_peaks, 5)), np.empty((num_people, joints + 2))
        keypoints = np.empty((num_people, joints, 2), np.float32)
        scores, person_scores = np.empty((num_people, joints), np.float32), np.empty(num_people, np.float32)
        taken = [array.ctypes.data for array in (peaks, subset, keypoints, scores, person_scores)]
    except MemoryError:
        take(result, *(5 * [None]))
        raise
    take(result, *taken)
    if batch == 1:
        return [Decoded(keypoints, scores, person_scores, peaks, peaks[:, 1:], subset)]
    decoded, first_peak, first = [], 0, 0
    for more_peaks, more in sizes.tolist():
        own, some = peaks[first_peak : first_peak + more_peaks], slice(first, first + more)
        decoded.append(Decoded(keypoints[some], scores[some], person_scores[some], own, own[:, 1:], subset[some]))
        first_peak, first = first_peak + more_peaks, first + more
    return decoded


def _decode_padded(heatmaps, pafs, options, size, most):
    """People of a batch in arrays with room for `most` in each picture."""
    options = options._asdict() | {"size": size}
    batch, joints = len(heatmaps), options["skeleton"].num_joints
    keypoints = np.full((batch, most, joints, 2), np.nan, np.float32)
    scores, person_scores = np.zeros((batch, most, joints), np.float32), np.zeros((batch, most), np.float32)
    counts = np.zeros(batch, np.int32)
    for image, people in enumerate(decode_paf(heatmaps, pafs, **options)):
        kept = np.sort(np.argsort(-people.person_scores, kind="stable")[:most])
        counts[image] = count = len(kept)
        keypoints[image, :count], scores[image, :count] = people.keypoints[kept], people.scores[kept]
        person_scores[image, :count] = people.person_scores[kept]
    return keypoints, scores, person_scores, counts


@functools.lru_cache
def _declare_without_gradient():
    import tensorflow as tf

    tf.no_gradient("PosekitDecodePaf")


@functools.lru_cache
def _kernel(library):
    """Functions of the compiled library that decode and hand over what was found."""
    decode = getattr(library, "posekit_decode_paf", None)
    if decode is None:
        return None, None
    take = library.posekit_decode_paf_take
    decode.argtypes, take.argtypes, take.restype = 11 * [ctypes.c_void_p], 6 * [ctypes.c_void_p], None
    return decode, take


def _addressable(maps):
    """Float32 maps whose numbers lie whole steps of their size apart."""
    maps = np.asarray(maps, np.float32)
    return maps if maps.flags.aligned and not any(stride % 4 for stride in maps.strides) else np.ascontiguousarray(maps)


@functools.lru_cache
def _tables(skeleton):
    """What the compiled kernel knows of a skeleton: limbs, their order, and which of them begin a person."""
    ends = np.array(skeleton.limbs, np.int32).reshape(-1, 2)
    return ends, np.array(skeleton.limb_grouping, np.int32), np.array(skeleton.limb_opens, np.uint8)


@functools.lru_cache
def _kernels():
    profiles = {mode: _profiles(mode) for mode in ("fast", "tf_pose")}
    return _gaussian(SIGMA_PX, _RADIUS), {"exact": np.empty((0, 7), np.float32), **profiles}


def _decoded(peaks, subset, joints, mode, stride):
    numbers = subset[:, :joints].astype(np.int64)
    there = numbers >= 0
    found = np.full((*numbers.shape, 3), np.nan)
    found[there] = peaks[numbers[there], 1:4]
    keypoints, scores = found[..., :2], np.where(there, found[..., 2], 0.0)
    if mode == "fast":
        keypoints = (keypoints + 0.5) * stride - 0.5
    elif mode == "tf_pose":
        keypoints = keypoints * (stride / _TF_POSE_UPSAMPLING)
    person_scores = subset[:, -2] / subset[:, -1]
    return Decoded(
        keypoints.astype(np.float32),
        scores.astype(np.float32),
        person_scores.astype(np.float32),
        peaks,
        peaks[:, 1:],
        subset,
    )


@functools.lru_cache
def _gaussian(sigma, radius):
    kernel = np.exp(-0.5 / sigma**2 * np.arange(-radius, radius + 1) ** 2)
    return kernel / kernel.sum()


def _tf_pose_mass():
    reach = SIGMA_PX * (1 + 1 / _TF_POSE_KERNEL) + 0.5 / _TF_POSE_KERNEL
    return np.diff(scipy.special.ndtr(np.linspace(-reach, reach, _TF_POSE_KERNEL + 1)))


def _filtered(maps, down, border, across=None):
    down, across = (kernel.astype(np.float32) for kernel in (down, down if across is None else across))
    return cv2.sepFilter2D(maps, cv2.CV_32F, across, down, borderType=border).reshape(maps.shape)


def _exact_peaks(heatmaps, threshold):
    """Joint, y and x of the original's peaks, of which most of the maps need not be smoothed.

    Where all values around are low, no peak can be; elsewhere, a quick smoothing finds all that may be one, and only
    these are smoothed again in double precision as the original does.
    """
    height, width = heatmaps.shape[:2]
    active = _may_exceed(heatmaps, threshold)
    found = [np.empty((3, 0), np.int64)]
    for joint in np.flatnonzero(active[..., :-1].any(axis=(0, 1))):
        boxes = _boxes(active[..., joint], height, width)
        pixels = [_quick_peaks(heatmaps[..., joint], box, threshold) for box in boxes]
        pixels = np.unique(np.concatenate(pixels)) if len(pixels) > 1 else pixels[0]
        found.append(np.stack([np.full(len(pixels), joint), *np.divmod(pixels, width)]))
    found = np.concatenate(found, axis=1)
    many = np.flatnonzero(np.bincount(found[0]) > _MANY)  # as of a map without a slope: smoothed as a whole
    found = found[:, ~np.isin(found[0], many)]
    for first in range(0, found.shape[1], _MANY):
        some = found[:, first : first + _MANY]
        some[:, ~_is_peak(_smoothed_crosses(heatmaps, *some), threshold)] = -1
    found = [found[:, found[0] >= 0]]
    for joint in many:
        smoothed = np.pad(smooth_maps(heatmaps[..., joint : joint + 1])[..., 0], 1)
        around = [smoothed[1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width] for dy, dx in _CROSS]
        y, x = np.nonzero(_is_peak(around, threshold))
        found.append(np.stack([np.full(len(y), joint), y, x]))
    found = np.concatenate(found, axis=1)
    return found[:, np.argsort(found[0], kind="stable")] if len(many) else found


def _is_peak(around, threshold):
    middle, *others = around
    peak = middle > threshold
    for other in others:
        peak &= middle >= other
    return peak


def _may_exceed(heatmaps, threshold):
    """Blocks of 8 x 8 pixels in which a smoothed map may exceed the threshold: bool `[blocks, blocks, channels]`."""
    height, width, channels = heatmaps.shape
    largest = _largest_of_blocks(np.ascontiguousarray(heatmaps).reshape(height, -1))
    largest = _largest_of_blocks(largest.reshape(-1, width, channels).transpose(1, 0, 2)).transpose(1, 0, 2)
    largest = np.maximum(largest, 0, dtype=np.float32)
    # The mirrored borders of an image that ends within a block hold pixels of the last three.
    if height % _BLOCK:
        largest[-1] = largest[-3:].max(axis=0)
    if width % _BLOCK:
        largest[:, -1] = largest[:, -3:].max(axis=1)
    bound = _filtered(largest, _block_weights(), cv2.BORDER_REFLECT)
    around = cv2.dilate(largest, np.ones((5, 5), np.uint8)).reshape(largest.shape)
    return np.minimum(bound, around) > threshold - 1e-5 * max(1.0, threshold)


def _largest_of_blocks(values):
    largest = values[::_BLOCK].copy()
    for offset in range(1, _BLOCK):
        part = values[offset::_BLOCK]
        np.maximum(largest[: len(part)], part, out=largest[: len(part)])
    return largest


@functools.lru_cache
def _block_weights():
    """What a block weighs at most in the smoothed value of a pixel 2, 1, 0, 1, 2 blocks away, along one axis."""
    sums = np.concatenate([[0.0], np.cumsum(_gaussian(SIGMA_PX, _RADIUS))])
    far, near = sums[_RADIUS - _BLOCK], sums[_RADIUS] - sums[_RADIUS - _BLOCK]
    return np.array([far, near, (sums[_BLOCK:] - sums[:-_BLOCK]).max(), near, far])


def _boxes(active, height, width):
    """Boxes `(top, bottom, left, right)` in pixels around the active blocks: one for each island, or one for all."""
    _, _, islands, _ = cv2.connectedComponentsWithStats(active.astype(np.uint8), connectivity=8)
    left, top, wide, high = islands[1:, :4].T
    boxes = np.stack([top, top + high, left, left + wide], axis=-1)
    if len(boxes) > 1:
        whole = np.array([[top.min(), (top + high).max(), left.min(), (left + wide).max()]])
        cost, cost_whole = (
            ((box[:, 1] - box[:, 0] + 4) * (box[:, 3] - box[:, 2] + 4)).sum() + 40 * len(box) for box in (boxes, whole)
        )
        boxes = whole if cost_whole < cost else boxes
    return np.minimum(boxes * _BLOCK, [height, height, width, width]).tolist()


def _quick_peaks(view, box, threshold):
    """Flat indices of pixels in a box that may be peaks, by a smoothing in single precision; sorted."""
    (height, width), (top, bottom, left, right) = view.shape, box
    up, down = max(0, top - _RADIUS - 1), min(height, bottom + _RADIUS + 1)
    west, east = max(0, left - _RADIUS - 1), min(width, right + _RADIUS + 1)
    part = np.ascontiguousarray(view[up:down, west:east], np.float32)
    smoothed = _filtered(part, _gaussian(SIGMA_PX, _RADIUS), cv2.BORDER_REFLECT)
    slack = np.float32(1e-5 * max(part.max(), -part.min(), threshold))
    needed = np.maximum(cv2.dilate(smoothed, _CROSS_SHAPE), np.float32(threshold)) - slack
    inside = slice(top - up, bottom - up), slice(left - west, right - west)
    y, x = np.nonzero(smoothed[inside] >= needed[inside])
    return (y + top) * width + x + left


def _smoothed_crosses(heatmaps, joint, y, x):
    """Smoothed values of pixels and their 4 neighbours: float64 `[5, pixels]`, 0 outside of the image.

    The sums are taken in the order of `scipy.ndimage.correlate1d`, and so equal its results to the last bit.
    """
    height, width = heatmaps.shape[:2]
    kernel = _gaussian(SIGMA_PX, _RADIUS)
    reach = np.arange(-_RADIUS - 1, _RADIUS + 2)[:, None]
    rows, columns = _mirrored(y + reach, height), _mirrored(x + reach, width)
    patches = heatmaps[rows[:, None], columns, joint].astype(np.float64)  # [rows, columns, pixels]
    three = _correlated(patches, kernel)  # above, here, below
    nine = _correlated(three.transpose(1, 0, 2), kernel)  # [columns, rows, pixels]
    around = np.stack([nine[1 + dx, 1 + dy] for dy, dx in _CROSS])
    for index, outside in enumerate((y == 0, y == height - 1, x == 0, x == width - 1), start=1):
        around[index, outside] = 0
    return around


def _correlated(lines, kernel):
    """Three neighbouring values of a symmetric correlation along the first axis, whose length is the kernel's + 2."""
    middle = len(kernel) // 2
    total = lines[middle : middle + 3] * kernel[middle]
    for away in range(middle, 0, -1):
        pair = lines[middle - away : middle - away + 3] + lines[middle + away : middle + away + 3]
        total += pair * kernel[middle - away]
    return total


def _mirrored(index, size):
    index = index % (2 * size)
    return np.minimum(index, 2 * size - 1 - index)


def _fast_peaks(maps, threshold):
    """Joint, y, x in cells and the height of the parabola of peaks in small maps."""
    fine = smooth_maps(maps, "fast")
    joint, y, x = _largest_of_nine(fine, 0.6 * threshold)  # a peak between cells is higher than they are
    padded = np.pad(fine, ((1, 1), (1, 1), (0, 0)), mode="reflect")  # no slope at the border
    # Of neighbours that are equally high, the first is the peak; beyond the border nobody is.
    twin = [(padded[y + dy, x + dx, joint] == fine[y, x, joint]) & inside for dy, dx, inside in (
        (0, 0, (y > 0) & (x > 0)), (0, 1, y > 0), (0, 2, (y > 0) & (x < fine.shape[1] - 1)), (1, 0, x > 0),
    )]  # fmt: skip
    joint, y, x = (values[~np.any(twin, axis=0)] for values in (joint, y, x))
    middle = fine[y, x, joint]
    top = middle.astype(np.float64)
    place = []
    for here, dy, dx in ((y, 1, 0), (x, 0, 1)):
        before, after = padded[y + 1 - dy, x + 1 - dx, joint], padded[y + 1 + dy, x + 1 + dx, joint]
        slope, bend = (after - before) / 2, 2 * middle - before - after
        shift = np.where(bend > 0, np.clip(slope / np.where(bend > 0, bend, 1), -0.5, 0.5), 0)
        top += slope * shift - bend * shift**2 / 2
        place.append((here + shift + 0.5) / _FAST_UPSAMPLING - 0.5)
    kept = top > threshold
    return joint[kept], place[0][kept], place[1][kept], top[kept]


def _largest_of_nine(maps, threshold):
    """Joint, y and x of the local maxima above a threshold, sorted."""
    largest = cv2.dilate(maps, np.ones((3, 3), np.uint8)).reshape(maps.shape)
    found = np.flatnonzero((maps == largest) & (maps > np.float32(threshold)))
    pixel, joint = np.divmod(found, maps.shape[-1])
    order = np.argsort(joint, kind="stable")
    return joint[order], *np.divmod(pixel[order], maps.shape[1])


@functools.lru_cache
def _profiles(mode):
    """What the cells around weigh in each of the places that a cell is divided into along an axis.

    Returns:
        Float32 `[places, 7]`, for the cells -3 to 3 from it.
    """
    cells = np.arange(-3, 4)
    if mode == "fast":  # cubic interpolation, then a Gaussian
        radius, places = 2, _FAST_UPSAMPLING
        weights = _gaussian(SIGMA_PX / _BLOCK * places, radius)
    else:  # repeated cells
        radius, places = _TF_POSE_KERNEL // 2, _TF_POSE_UPSAMPLING
        weights = np.sqrt(_tf_pose_mass())
        weights = weights / weights.sum()
    profiles = []
    for place in range(places):
        steps = place + np.arange(-radius, radius + 1)
        if mode == "fast":
            away = np.abs((steps + 0.5) / places - 0.5 - cells[:, None])
            near = 1.25 * away**3 - 2.25 * away**2 + 1  # the cubic kernel of OpenCV
            far = -0.75 * (away**3 - 5 * away**2 + 8 * away - 4)
            shares = np.where(away <= 1, near, np.where(away < 2, far, 0.0))
        else:
            shares = (steps // places == cells[:, None]).astype(np.float64)
        profiles.append(shares @ weights)
    return np.array(profiles, np.float32)


def _exact_scores(field, size, start, end, one, other, threshold):
    """Pairs of joints that the field connects, and how well: `(one, other, score)`."""
    height, width = size
    begin, step = start[one, 1:3], (end[other, 1:3] - start[one, 1:3])
    norm = np.sqrt(step[:, 0] * step[:, 0] + step[:, 1] * step[:, 1])
    kept = norm > 0
    one, other, begin, step, norm = one[kept], other[kept], begin[kept], step[kept], norm[kept]
    direction, last = step / norm[:, None], begin + step
    step = step / (_POINTS - 1)

    def product(point, begin, step, direction, last):
        place = last if point == _POINTS - 1 else begin + point * step
        x, y = np.rint(place).astype(np.int64).T
        value = field[y * width + x]
        return value[:, 0] * direction[:, 0] + value[:, 1] * direction[:, 1]

    lines = begin, step, direction, last
    good = sum((product(point, *lines) > threshold).astype(np.int64) for point in _FIRST_POINTS)
    kept = np.flatnonzero(good >= len(_FIRST_POINTS) - (_POINTS - _POINTS_NEEDED["exact"]))
    one, other, norm, lines = one[kept], other[kept], norm[kept], [values[kept] for values in lines]
    good, total = 0, 0.0
    for point in range(_POINTS):  # summed in the original's order: equal scores stay equal
        value = product(point, *lines)
        good, total = good + (value > threshold), total + value
    score = total / _POINTS + np.minimum(0.5 * height / norm - 1, 0)
    kept = (good >= _POINTS_NEEDED["exact"]) & (score > 0)
    return one[kept], other[kept], score[kept]


def _fast_scores(field, size, start, end, one, other, threshold):
    """`_exact_scores` between cells: fields are interpolated."""
    begin, step = start[one, 1:3], end[other, 1:3] - start[one, 1:3]
    norm = np.sqrt((step * step).sum(-1))
    kept = norm > 0
    if len(one) > _FEW:  # few points tell most pairs that are no limbs
        points = np.array(_FIRST_POINTS)
        good = _fast_products(field, size, begin[kept], step[kept], norm[kept], points) > threshold
        kept[kept] = good.sum(-1) >= len(points) - (_POINTS - _POINTS_NEEDED["fast"])
    one, other, begin, step, norm = one[kept], other[kept], begin[kept], step[kept], norm[kept]
    value = _fast_products(field, size, begin, step, norm, np.arange(_POINTS))
    score = value.mean(-1, dtype=np.float64) + np.minimum(0.5 * size[0] / norm - 1, 0)
    kept = ((value > threshold).sum(-1) >= _POINTS_NEEDED["fast"]) & (score > 0)
    return one[kept], other[kept], score[kept]


def _fast_products(field, size, begin, step, norm, points):
    """Products of the interpolated field and the direction: float32 `[pairs, points]`."""
    height, width = size
    place = begin[:, None] + step[:, None] * (points / (_POINTS - 1))[:, None]
    x, y = np.clip(place[..., 0], 0, width - 1), np.clip(place[..., 1], 0, height - 1)
    left, top = np.minimum(x.astype(np.int64), max(width - 2, 0)), np.minimum(y.astype(np.int64), max(height - 2, 0))
    across, down = (x - left).astype(np.float32)[..., None], (y - top).astype(np.float32)[..., None]
    corner, right, below = top * width + left, min(1, width - 1), width * min(1, height - 1)
    upper, lower = field[corner], field[corner + below]
    upper = upper + (field[corner + right] - upper) * across
    lower = lower + (field[corner + below + right] - lower) * across
    value = upper + (lower - upper) * down
    direction = (step / norm[:, None]).astype(np.float32)[:, None]
    return value[..., 0] * direction[..., 0] + value[..., 1] * direction[..., 1]


def _tf_pose_scores(field, size, start, end, one, other, threshold):
    """`_exact_scores` in single precision, without the limb's end, on fields enlarged by repeating their cells."""
    height, width = size
    begin, step = start[one, 1:3].astype(np.float32), (end[other, 1:3] - start[one, 1:3]).astype(np.float32)
    norm = np.sqrt(step[:, 0] * step[:, 0] + step[:, 1] * step[:, 1])
    kept = norm > 0
    one, other, begin, step, norm = one[kept], other[kept], begin[kept], step[kept], norm[kept]
    direction, step = step / norm[:, None], step / np.float32(_POINTS)
    good, total = 0, np.zeros(len(one), np.float32)
    for point in range(_POINTS):
        place = (begin + np.float32(point) * step).astype(np.float64) + 0.5
        x, y = (place.astype(np.int64) // _TF_POSE_UPSAMPLING).T
        value = field[y * width + x].astype(np.float32) * direction
        value = value[:, 0] + value[:, 1]
        good, total = good + (value > np.float32(threshold)), total + value
    height *= _TF_POSE_UPSAMPLING
    score = total / np.float32(_POINTS) + np.minimum(0.5 * height / norm.astype(np.float64) - 1, 0)
    score = score.astype(np.float32)
    kept = (good >= _POINTS_NEEDED["tf_pose"]) & (score > 0)
    return one[kept], other[kept], score[kept]


def _highest(peaks):
    """The highest peaks of a joint, in their order, where there are too many to look at all pairs."""
    if len(peaks) <= _MOST:
        return peaks
    return peaks[np.sort(np.argsort(-peaks[:, 3], kind="stable")[:_MOST])]


def _best_first(one, other, score, quota):
    """Pairs, best first, no joint in two of them."""
    taken_one, taken_other, chosen = set(), set(), []
    for first, second, value in zip(one, other, score):
        if first not in taken_one and second not in taken_other:
            taken_one.add(first)
            taken_other.add(second)
            chosen.append((int(first), int(second), value))
            if len(chosen) == quota:
                break
    return chosen
