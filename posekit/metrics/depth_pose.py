"""Figures of the depth datasets: errors by joint and by frame, success curves, mAP within 10 cm, and tables of them.

Joints are compared in the world's millimetres as they are, without alignment, in float64 and all frames at once.
"""

import dataclasses

import numpy as np

from posekit.geometry.depth import DepthCamera, dataset_camera, pixel_to_world
from posekit.metrics.mpjpe import joint_distances
from posekit.metrics.pck3d import shares_within
from posekit.skeletons import HANDS21, ICVL16, ITOP15, MSRA21, NYU14, Skeleton

# ITOP calls a joint found that lies within 10 cm; for hands, a joint that is off by 2 cm is on the next finger.
BODY_WITHIN_MM, HAND_WITHIN_MM = 100.0, 20.0
# 0 to 80 mm in steps of 1, as papers on hands draw them.
SUCCESS_THRESHOLDS_MM = np.arange(81.0)
SUCCESS_THRESHOLDS_MM.flags.writeable = False
FRAME_ERRORS = ("max", "mean")
COORDINATES = ("pixel", "world")


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How results on a dataset are published and scored.

    Args:
        skeleton: `Skeleton` of the joints.
        coordinates: What result files hold: `"pixel"` for x and y in pixels and the depth, or `"world"`.
        camera: `DepthCamera` that turns pixels of predictions and truth into the world for the published figures.
            ICVL's and NYU's differ a little from the cameras with which V2V-PoseNet makes its voxels.
        within_mm: Distance within which a joint counts as found.
    """

    skeleton: Skeleton
    coordinates: str
    camera: DepthCamera
    within_mm: float = HAND_WITHIN_MM


# Cameras follow xinghaochen/awesome-hand-pose-estimation evaluation/src/util.py:get_param, with which V2V-PoseNet's
# errors were measured; the form of the files follows mks0601/V2V-PoseNet_RELEASE README.md.
PROTOCOLS = {
    "msra": Protocol(MSRA21, "pixel", dataset_camera("msra")),
    "icvl": Protocol(ICVL16, "pixel", dataclasses.replace(dataset_camera("icvl"), fx=240.99, fy=240.96)),
    "nyu": Protocol(NYU14, "pixel", dataclasses.replace(dataset_camera("nyu"), fx=588.03, fy=587.07)),
    "hands2017": Protocol(HANDS21, "world", dataset_camera("hands2017")),
    "itop": Protocol(ITOP15, "world", dataset_camera("itop"), BODY_WITHIN_MM),
}


def dataset_protocol(dataset):
    """How results on a dataset are published and scored.

    Args:
        dataset: One of `PROTOCOLS`; ITOP's views `itop_front` (or `itop_side`) and `itop_top` share one.

    Returns:
        `Protocol`.

    Raises:
        ValueError: If there is no such dataset.
    """
    key = "itop" if dataset in ("itop_front", "itop_side", "itop_top") else dataset
    if key not in PROTOCOLS:
        raise ValueError(f"dataset is {dataset!r}; choose from {', '.join(PROTOCOLS)}.")
    return PROTOCOLS[key]


def mean_joint_errors(joints, target):
    """Mean distance from the truth of every joint.

    Args:
        joints: `[frames, joints, 3]`, in any unit.
        target: An array of the same shape and unit.

    Returns:
        Float64 `[joints]` in that unit; NaN if there are no frames or a prediction is no number.

    Raises:
        ValueError: If the shapes differ.

    Follows: dragonbook/V2V-PoseNet-pytorch lib/accuracy.py:compute_mean_err.
    """
    distances = _distances(joints, target)
    return distances.mean(0) if len(distances) else np.full(distances.shape[1], np.nan)


def accuracy_curves(joints, target, thresholds):
    """Share of frames in which a joint lies nearer to the truth than a threshold, for every joint.

    Args:
        joints: `[frames, joints, 3]`, in any unit.
        target: An array of the same shape and unit.
        thresholds: `[thresholds]`, rising, in that unit.

    Returns:
        Float64 `[joints, thresholds]`, from 0 to 1; NaN if there are no frames. A prediction that is no number is far.

    Raises:
        ValueError: If the shapes differ or the thresholds do not rise.

    Example:
        >>> truth = np.zeros((2, 1, 3))
        >>> print(accuracy_curves([[[0, 0, 3]], [[0, 0, 8]]], truth, [2, 5, 8, 9]))
        [[0.  0.5 0.5 1. ]]

    Follows: dragonbook/V2V-PoseNet-pytorch lib/accuracy.py:compute_dist_acc.
    """
    distances = _distances(joints, target)
    return _curves(distances, thresholds, np.ones(distances.shape, bool))


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
    """Errors of predicted joints, and the figures that papers make of them.

    Args:
        errors_mm: Float64 `[frames, joints]`, distances from the truth; NaN where a joint does not count.
        joints: Names of the joints.
        groups: Array `[frames]` that tells to which part of the test set a frame belongs, such as `"seen"` and
            `"unseen"`; None where it has no parts.
        bad: Boolean `[frames]`: predictions that hold numbers which are not finite; they count nowhere.
        within_mm: Distance within which a joint counts as found.
    """

    errors_mm: np.ndarray
    joints: tuple
    groups: np.ndarray | None
    bad: np.ndarray
    within_mm: float = HAND_WITHIN_MM

    @property
    def num_frames(self):
        """Frames of which at least one joint counts."""
        return int((~np.isnan(self.errors_mm)).any(1).sum())

    @property
    def mean_mm(self):
        """Mean error of all joints that count, in millimetres; NaN if none does."""
        return float(_mean_of_counted(self.errors_mm.ravel(), 0))

    def per_joint(self):
        """Mean error of every joint.

        Returns:
            Float64 `[joints]` in millimetres; NaN where a joint never counts.
        """
        return _mean_of_counted(self.errors_mm, 0)

    def per_frame(self, by="max"):
        """Error of every frame that counts.

        Args:
            by: `"max"` for the error of its worst joint, `"mean"` for the mean of its joints.

        Returns:
            Float64 `[num_frames]` in millimetres.

        Raises:
            ValueError: If `by` is another word.
        """
        if by not in FRAME_ERRORS:
            raise ValueError(f"by is {by!r}; choose from {list(FRAME_ERRORS)}.")
        counted = ~np.isnan(self.errors_mm)
        there = counted.any(1)
        if by == "mean":
            return _mean_of_counted(self.errors_mm[there], 1)
        return np.where(counted, self.errors_mm, 0.0)[there].max(1, initial=0.0)

    def success_curve(self, thresholds_mm=SUCCESS_THRESHOLDS_MM, by="max"):
        """Share of frames whose error is less than a threshold.

        Args:
            thresholds_mm: `[thresholds]`, rising; 0 to 80 mm by default.
            by: As in `per_frame`.

        Returns:
            Float64 `[thresholds]`, from 0 to 1; NaN if there are no frames.

        Raises:
            ValueError: If the thresholds do not rise or `by` is another word.
        """
        return shares_within(self.per_frame(by), thresholds_mm)

    def joint_curves(self, thresholds_mm=SUCCESS_THRESHOLDS_MM):
        """Share of frames in which a joint is nearer than a threshold, for every joint.

        Args:
            thresholds_mm: `[thresholds]`, rising; 0 to 80 mm by default.

        Returns:
            Float64 `[joints, thresholds]`, from 0 to 1; NaN where a joint never counts.

        Raises:
            ValueError: If the thresholds do not rise.
        """
        return _curves(self.errors_mm, thresholds_mm, ~np.isnan(self.errors_mm))

    def precision(self, within_mm=None):
        """Share of frames in which a joint is found, for every joint.

        Args:
            within_mm: Nearer than this is found; by default the scores' own distance.

        Returns:
            Float64 `[joints]`, from 0 to 1; NaN where a joint never counts.
        """
        return self.joint_curves([self.within_mm if within_mm is None else within_mm])[:, 0]

    def mean_average_precision(self, within_mm=BODY_WITHIN_MM):
        """Mean of the joints' shares of `precision`, "mAP at 10 cm" by default.

        Args:
            within_mm: Nearer than this is found.

        Returns:
            The mean, from 0 to 1, of the joints that count somewhere; NaN if none does.
        """
        return float(_mean_of_counted(self.precision(within_mm), 0))

    def parts(self):
        """Scores of each part of the test set.

        Returns:
            Dict of the groups' names to `Scores`, in alphabetical order; empty if there are no groups.
        """
        if self.groups is None:
            return {}
        chosen = {str(name): self.groups == name for name in np.unique(self.groups)}
        return {
            name: dataclasses.replace(self, errors_mm=self.errors_mm[rows], groups=None, bad=self.bad[rows])
            for name, rows in chosen.items()
        }

    def summary(self):
        """The figures of a data set.

        Returns:
            Dict of floats: `"mean_error_mm"`, and `"mean_error_mm/NAME"` for every group; `"frames_within_20mm"` and
            `"frames_within_40mm"`, shares of frames whose worst joint is nearer than that; `"map_10cm"`.
        """
        near, far = self.success_curve([20.0, 40.0])
        figures = {"mean_error_mm": self.mean_mm}
        figures |= {f"mean_error_mm/{name}": part.mean_mm for name, part in self.parts().items()}
        figures |= {"frames_within_20mm": near, "frames_within_40mm": far, "map_10cm": self.mean_average_precision()}
        return {name: float(value) for name, value in figures.items()}

    def notes(self):
        """What a reader of the figures must know.

        Returns:
            List of sentences: predictions left out, joints that do not count. Empty if all frames count in full.
        """
        lines = []
        if self.bad.any():
            lines.append(
                f"{int(self.bad.sum())} of {len(self.bad)} predictions hold NaN or infinity (first: number "
                f"{int(np.flatnonzero(self.bad)[0])}) and count nowhere."
            )
        left_out = int(np.isnan(self.errors_mm[~self.bad]).sum())
        if left_out:
            lines.append(f"{left_out} of {self.errors_mm[~self.bad].size} joints are not valid and do not count.")
        return lines

    def table(self, sides=True):
        """The figures as text: a line for every joint, then all of them together.

        Args:
            sides: Whether left and right joints have lines of their own, or one together as in ITOP's tables.

        Returns:
            Text of several lines: mean error of each joint in millimetres, the same within each group, and the share
            of frames in which it is found.

        Example:
            >>> from posekit.skeletons import Skeleton
            >>> pair = Skeleton("pair", ("wrist", "thumb"), (("thumb", "wrist"),))
            >>> truth = np.zeros((4, 2, 3))
            >>> scores = evaluate(truth + [3, 0, 4], truth, pair, groups=["a", "a", "b", "b"])
            >>> print(scores.table())
            +-------+------+------+------+-----------+
            | joint |   mm | a mm | b mm | < 20 mm % |
            +-------+------+------+------+-----------+
            | wrist | 5.00 | 5.00 | 5.00 |    100.00 |
            | thumb | 5.00 | 5.00 | 5.00 |    100.00 |
            | all   | 5.00 | 5.00 | 5.00 |    100.00 |
            +-------+------+------+------+-----------+
        """
        columns = {"mm": [*self.per_joint(), self.mean_mm]}
        columns |= {f"{name} mm": [*part.per_joint(), part.mean_mm] for name, part in self.parts().items()}
        found = self.precision()
        columns[f"< {self.within_mm:g} mm %"] = [*100 * found, 100 * self.mean_average_precision(self.within_mm)]
        return _table(self.joints, columns, sides)


def evaluate(
    predicted,
    truth,
    skeleton=None,
    valid=None,
    groups=None,
    within_mm=HAND_WITHIN_MM,
    unit_mm=1.0,
    skip_bad=False,
):
    """Scores predicted joints against the truth.

    Args:
        predicted: `[frames, joints, 3]`, in the world's coordinates.
        truth: An array of the same shape and unit.
        skeleton: `Skeleton` of the joints, which gives their names; None names them by their numbers.
        valid: Booleans `[frames]` or `[frames, joints]`, false where the truth is not known, as ITOP's `is_valid`;
            such joints count nowhere, and may be NaN. All are valid by default.
        groups: `[frames]` names of the parts of the test set that the frames belong to, such as HANDS2017's seen and
            unseen people; none by default.
        within_mm: Distance within which a joint counts as found.
        unit_mm: Millimetres of a unit of the coordinates: 1000 for metres.
        skip_bad: Whether predictions that hold NaN or infinity are left out and counted in `Scores.bad`, instead of
            being an error.

    Returns:
        `Scores`.

    Raises:
        ValueError: If the shapes, names, flags or groups do not fit each other or the skeleton, or a valid joint of
            the truth or (without `skip_bad`) a prediction is not finite.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> truth_mm = rng.normal(0, 50, (100, 21, 3)) + [0, 0, 400]
        >>> scores = evaluate(truth_mm + [0, 6, 8], truth_mm)
        >>> print(f"{scores.mean_mm:.1f} mm")
        10.0 mm
    """
    predicted, truth = (np.asarray(array, np.float64) for array in (predicted, truth))
    if predicted.shape != truth.shape or truth.ndim != 3 or truth.shape[-1] != 3 or not truth.shape[1]:
        raise ValueError(
            f"predicted has the shape {predicted.shape} and truth {truth.shape}; both must be [frames, joints, 3] of "
            "the same frames in the same order."
        )
    names = _checked_names(skeleton, truth.shape[1])
    valid = _checked_flags(valid, truth.shape[:2])
    groups = _checked_groups(groups, len(truth))
    _check_truth(truth, valid)
    bad = (~np.isfinite(predicted).all(-1) & valid).any(1)
    if bad.any() and not skip_bad:
        raise ValueError(
            f"{int(bad.sum())} of {len(predicted)} predicted frames hold NaN or infinity, the first of them number "
            f"{int(np.flatnonzero(bad)[0])}. Predict them again, or pass skip_bad=True to leave them out."
        )
    counted = valid & ~bad[:, None]
    errors = np.full(counted.shape, np.nan)
    errors[counted] = unit_mm * joint_distances(predicted[counted][:, None], truth[counted][:, None])[:, 0]
    return Scores(errors, names, groups, bad, float(within_mm))


def evaluate_results(
    predicted,
    truth,
    dataset,
    coordinates=None,
    truth_coordinates=None,
    camera=None,
    valid=None,
    groups=None,
    skip_bad=False,
):
    """Scores joints of a dataset as they stand in result files, the way the dataset's figures are published.

    Args:
        predicted: `[frames, joints, 3]`: pixels and depth, or the world's coordinates, in the dataset's unit.
        truth: An array of the same shape and unit.
        dataset: Name in `PROTOCOLS`, or one of ITOP's views.
        coordinates: `"pixel"` or `"world"`, what `predicted` holds; by default what the dataset's result files hold.
        truth_coordinates: The same for `truth`.
        camera: `DepthCamera` that turns pixels into the world; by default the one of `PROTOCOLS`, but the dataset's
            own where one of the two is in the world already, which that camera made.
        valid: As in `evaluate`.
        groups: As in `evaluate`.
        skip_bad: As in `evaluate`.

    Returns:
        `Scores`, in millimetres for every dataset.

    Raises:
        ValueError: If the dataset or the coordinates are unknown, or for what `evaluate` refuses.

    Follows: xinghaochen/awesome-hand-pose-estimation evaluation/src/util.py:get_errors.
    """
    protocol = dataset_protocol(dataset)
    kinds = [kind or protocol.coordinates for kind in (coordinates, truth_coordinates)]
    for kind in kinds:
        if kind not in COORDINATES:
            raise ValueError(f"coordinates are {kind!r}; choose from {list(COORDINATES)}.")
    camera = camera or (protocol.camera if len(set(kinds)) == 1 else dataset_camera(dataset))
    predicted, truth = (
        pixel_to_world(points, camera) if kind == "pixel" and np.shape(points)[-1:] == (3,) else points
        for points, kind in zip((predicted, truth), kinds)
    )
    unit_mm = {"mm": 1.0, "m": 1000.0}[protocol.camera.unit]
    return evaluate(predicted, truth, protocol.skeleton, valid, groups, protocol.within_mm, unit_mm, skip_bad)


def comparison_table(scores, sides=True):
    """Mean errors of several methods, joint by joint, as text.

    Args:
        scores: Dict of the methods' names to `Scores` of the same joints.
        sides: As in `Scores.table`.

    Returns:
        Text of several lines: a line for every joint and one for all, a column for every method, in millimetres.

    Raises:
        ValueError: If there are no scores or their joints differ.
    """
    sets = {score.joints for score in scores.values()}
    if len(sets) != 1:
        raise ValueError(f"The methods have {len(sets)} different sets of joints; compare methods of the same joints.")
    return _table(sets.pop(), {name: [*s.per_joint(), s.mean_mm] for name, s in scores.items()}, sides)


def _table(joints, columns, sides):
    names = [joint if sides else joint.removeprefix("left_").removeprefix("right_") for joint in joints]
    rows = {name: [index for index, other in enumerate(names) if other == name] for name in names} | {"all": [-1]}
    values = {title: np.asarray(column, np.float64) for title, column in columns.items()}
    cells = [["joint", *values]]
    for name, indices in rows.items():
        cells.append([name, *(f"{_mean_of_counted(column[indices], 0):.2f}" for column in values.values())])
    widths = [max(map(len, column)) for column in zip(*cells)]
    rule = "+" + "+".join("-" * (width + 2) for width in widths) + "+"
    aligned = [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in cells]
    lines = ["| " + " | ".join(row) + " |" for row in aligned]
    return "\n".join([rule, lines[0], rule, *lines[1:], rule])


def _distances(joints, target):
    if np.ndim(target) != 3:
        raise ValueError(f"target has the shape {np.shape(target)}; it must be [frames, joints, 3].")
    return joint_distances(joints, target)


def _curves(errors, thresholds, counted):
    return np.stack([shares_within(column, thresholds, there) for column, there in zip(errors.T, counted.T)])


def _mean_of_counted(values, axis):
    counted = ~np.isnan(values)
    number = counted.sum(axis)
    total = np.where(counted, values, 0.0).sum(axis)
    return np.divide(total, number, out=np.full(np.shape(total), np.nan), where=number > 0)


def _checked_names(skeleton, count):
    if skeleton is None:
        return tuple(map(str, range(count)))
    if skeleton.num_joints != count:
        raise ValueError(
            f"The arrays have {count} joints, skeleton {skeleton.name!r} has {skeleton.num_joints}; pass the skeleton "
            "of these joints."
        )
    return skeleton.joints


def _checked_flags(valid, shape):
    if valid is None:
        return np.ones(shape, bool)
    valid = np.asarray(valid)
    if valid.shape not in (shape, shape[:1]) or valid.dtype.kind not in "biu" or not np.isin(valid, (0, 1)).all():
        raise ValueError(
            f"valid has the shape {valid.shape} and the dtype {valid.dtype}; give booleans of the shape {shape[:1]} or "
            f"{shape}."
        )
    valid = valid.astype(bool)
    return valid if valid.ndim == 2 else np.broadcast_to(valid[:, None], shape)


def _checked_groups(groups, count):
    if groups is None:
        return None
    groups = np.asarray(groups)
    if groups.shape != (count,):
        raise ValueError(f"groups have the shape {groups.shape}; give one name for each of the {count} frames.")
    return groups


def _check_truth(truth, valid):
    wrong = (~np.isfinite(truth).all(-1) & valid).any(1)
    if wrong.any():
        raise ValueError(
            f"truth holds NaN or infinity in {int(wrong.sum())} frames, first in number "
            f"{int(np.flatnonzero(wrong)[0])}; mark joints that are not known as not valid."
        )
