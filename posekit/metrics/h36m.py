"""Human3.6M's figures: errors by action and by joint, as they are and after alignment, and the tables of them.

Protocol 1 compares joints in the camera's frame as they are, protocol 2 after the best similarity transform of every
pose, mirroring included; both as CHUNYUWANG/lcn-pose prints them. Errors after laying the roots on top of each other,
which other papers call protocol 1, and MPI-INF-3DHP's shares stand beside them. All in float64, poses at once.
"""

import dataclasses

import numpy as np

from posekit.codecs.screen_pose import image_to_camera
from posekit.geometry.alignment import procrustes
from posekit.metrics.mpjpe import joint_distances
from posekit.metrics.pck3d import AUC_THRESHOLDS_MM, PCK3D_MM, shares_within

ACTIONS = tuple(range(2, 17))
PROTOCOLS = (1, 2, "root")
# Poses that are worked on at a time: few enough for the processor's cache.
_BLOCK = 4096


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
    """Errors of predicted poses; rows of `bad` poses are NaN and count in no mean.

    Args:
        errors_mm: Float64 `[poses, joints]`, protocol 1: in the camera's frame, as they are.
        aligned_errors_mm: Float64 `[poses, joints]`, protocol 2: after Procrustes alignment.
        root_errors_mm: Float64 `[poses, joints]`: with the roots on top of each other.
        actions: Int64 `[poses]`, 2 to 16.
        bad: Boolean `[poses]`: predictions that hold numbers which are not finite.
    """

    errors_mm: np.ndarray
    aligned_errors_mm: np.ndarray
    root_errors_mm: np.ndarray
    actions: np.ndarray
    bad: np.ndarray

    @property
    def missing_actions(self):
        """Actions, of 2 to 16, of which there is no sound pose."""
        there = set(np.unique(self.actions[~self.bad]).tolist())
        return [action for action in ACTIONS if action not in there]

    def errors(self, protocol=1):
        """Errors of joints under a protocol.

        Args:
            protocol: 1, 2, or `"root"` for laying roots on top of each other.

        Returns:
            Float64 `[poses, joints]` in millimetres.

        Raises:
            ValueError: If there is no such protocol.
        """
        if protocol not in PROTOCOLS:
            raise ValueError(f"protocol is {protocol!r}; choose from {list(PROTOCOLS)}.")
        return {1: self.errors_mm, 2: self.aligned_errors_mm, "root": self.root_errors_mm}[protocol]

    def per_action(self, protocol=1, average="all"):
        """Mean error of every action, and the mean of these means.

        Args:
            protocol: As in `errors`.
            average: `"all"` as the original has it: NaN as soon as an action is missing; `"present"`: the mean of the
                actions that are there.

        Returns:
            Float64 `[16]` in millimetres: actions 2 to 16, NaN where an action has no pose, then the average.

        Raises:
            ValueError: If `average` is another word.

        Follows: CHUNYUWANG/lcn-pose evaluate.py:_eval.
        """
        if average not in ("all", "present"):
            raise ValueError(f"average is {average!r}; choose 'all' or 'present'.")
        of_poses = self.errors(protocol).mean(-1)[~self.bad]
        place = self.actions[~self.bad] - ACTIONS[0]
        counts = np.bincount(place, minlength=len(ACTIONS))
        sums = np.bincount(place, of_poses, minlength=len(ACTIONS))
        means = np.divide(sums, counts, out=np.full(len(ACTIONS), np.nan), where=counts > 0)
        there = means[counts > 0] if average == "present" else means
        return np.append(means, there.mean() if len(there) else np.nan)

    def per_joint(self, protocol=1):
        """Mean error of every joint, and the mean of these means.

        Args:
            protocol: As in `errors`.

        Returns:
            Float64 `[joints + 1]` in millimetres; NaN where there is no pose.

        Follows: CHUNYUWANG/lcn-pose evaluate.py:_eval.
        """
        sound = self.errors(protocol)[~self.bad]
        means = sound.mean(0) if len(sound) else np.full(sound.shape[1], np.nan)
        return np.append(means, means.mean())

    def summary(self, average="present"):
        """The figures of a data set.

        Args:
            average: As in `per_action`, for the three means.

        Returns:
            Dict of floats: `"mpjpe"`, `"p_mpjpe"` and `"root_mpjpe"` in millimetres, means over actions under protocol
            1, protocol 2 and with roots laid on top of each other; `"pck3d"` and `"auc3d"`, shares from 0 to 1 of the
            joints with roots laid on top of each other, see `posekit.metrics.pck3d`.
        """
        means = {
            name: self.per_action(protocol, average)[-1]
            for name, protocol in (("mpjpe", 1), ("p_mpjpe", 2), ("root_mpjpe", "root"))
        }
        sound = self.root_errors_mm[~self.bad]
        means["pck3d"] = shares_within(sound, [PCK3D_MM])[0]
        means["auc3d"] = shares_within(sound, AUC_THRESHOLDS_MM).mean()
        return {name: float(value) for name, value in means.items()}

    def notes(self):
        """What a reader of the figures must know.

        Returns:
            List of sentences: predictions left out, actions without a pose. Empty if nothing is wrong.
        """
        lines = []
        if self.bad.any():
            first = int(np.flatnonzero(self.bad)[0])
            lines.append(
                f"{int(self.bad.sum())} of {len(self.bad)} predictions hold NaN or infinity (first: number {first}) "
                "and count nowhere."
            )
        if self.missing_actions:
            actions = ", ".join(map(str, self.missing_actions))
            lines.append(
                f"No pose of action {actions}: nan in the table, and so is its avg, which is the mean of all "
                f"{len(ACTIONS)} actions; other means take the actions that are there."
            )
        return lines

    def table(self, name="test1", protocol=1, per_joint=False):
        """The original's table of these scores.

        Args:
            name: Title of the row.
            protocol: As in `errors`.
            per_joint: Whether by joint instead of by action.

        Returns:
            Text of several lines, as `error_table` makes it.
        """
        row = self.per_joint(protocol) if per_joint else self.per_action(protocol)
        return error_table({name: row}, per_joint)


def evaluate(predicted_image, joints_cam_mm, box_px, intrinsics, root_depth_mm, actions, root=0, skip_bad=False):
    """Scores predicted poses.

    Args:
        predicted_image: `[poses, joints, 3]` in the picture's frame: x and y in pixels, z relative to the root in the
            pixels of the person's box; see `posekit.codecs.screen_pose`.
        joints_cam_mm: `[poses, joints, 3]`, the true joints in the camera's frame.
        box_px: `[poses, 4]`, left, top, right and bottom of the true box.
        intrinsics: `[poses, 4]`, or `[4]` for all: `(fx, fy, cx, cy)` in pixels.
        root_depth_mm: `[poses]`, the true distance of the root.
        actions: `[poses]` integers, 2 to 16.
        root: Index of the root joint.
        skip_bad: Whether predictions that hold NaN or infinity are left out and counted in `Scores.bad`, instead of
            being an error.

    Returns:
        `Scores`.

    Raises:
        ValueError: If shapes do not fit, a true value or (without `skip_bad`) a prediction is not finite, a box has no
            width, or an action is not among 2 to 16.

    Example:
        >>> from posekit.codecs.screen_pose import camera_to_image
        >>> rng = np.random.default_rng(0)
        >>> truth_mm = rng.normal(0, 300, (150, 17, 3)) + [0, 0, 4500]
        >>> lens = 1145.0, 1145.0, 512.0, 512.0
        >>> image, box = camera_to_image(truth_mm, lens)
        >>> actions = np.arange(150) % 15 + 2
        >>> scores = evaluate(image + [1, 0, 0], truth_mm, box, lens, truth_mm[:, 0, 2], actions)
        >>> print(f"{scores.summary()['mpjpe']:.1f} mm")
        3.9 mm

    Follows: CHUNYUWANG/lcn-pose evaluate.py:_eval.
    """
    predicted, truth = (np.asarray(array, np.float64) for array in (predicted_image, joints_cam_mm))
    if predicted.shape != truth.shape or predicted.ndim != 3 or predicted.shape[-1] != 3:
        raise ValueError(
            f"predicted_image has the shape {predicted.shape} and joints_cam_mm {truth.shape}; both must be "
            "[poses, joints, 3] of the same poses."
        )
    count = len(truth)
    boxes, depths = _rows("box_px", box_px, (count, 4)), _rows("root_depth_mm", root_depth_mm, (count,))
    lenses = (
        np.broadcast_to(np.asarray(intrinsics, np.float64), (count, 4)) if np.shape(intrinsics) == (4,) else intrinsics
    )
    lenses = _rows("intrinsics", lenses, (count, 4))
    actions = _checked_actions(actions, count)
    _all_finite("joints_cam_mm", truth)
    if count and not (boxes[:, 2] > boxes[:, 0]).all():
        number = int(np.flatnonzero(boxes[:, 2] <= boxes[:, 0])[0])
        raise ValueError(f"box_px: number {number} is {boxes[number]}; its right edge must lie right of its left edge.")
    bad = ~np.isfinite(predicted).all((1, 2))
    if bad.any() and not skip_bad:
        raise ValueError(
            f"{int(bad.sum())} of {count} predicted poses hold NaN or infinity, the first of them number "
            f"{int(np.flatnonzero(bad)[0])}. Predict them again, or pass skip_bad=True to leave them out."
        )
    errors = np.empty((3, *truth.shape[:2]))
    for start in range(0, count, _BLOCK):
        part = slice(start, start + _BLOCK)
        in_camera = image_to_camera(predicted[part], boxes[part], lenses[part], depths[part])
        in_camera[bad[part]] = np.nan
        aligned, _ = procrustes(in_camera, truth[part], reflection="best")
        errors[0, part] = joint_distances(in_camera, truth[part])
        errors[1, part] = joint_distances(aligned, truth[part])
        errors[2, part] = joint_distances(in_camera, truth[part], root)
    return Scores(*errors, actions, bad)


def error_table(rows, per_joint=False):
    """Formats errors as the original prints them.

    Args:
        rows: Dict from the name of a test to its errors: those of `Scores.per_action`, or of `Scores.per_joint`.
        per_joint: Which of the two.

    Returns:
        Text of several lines: a column for the name, one for every action (2 to 16) or joint (from 0), and "avg", with
        two decimals.

    Raises:
        ValueError: If there are no rows, or one has another number of errors.

    Example:
        >>> print(error_table({"test1": [10.0, 12.5, 11.25]}, per_joint=True))
        +-----------+-------+-------+-------+
        | test_name |   0   |   1   |  avg  |
        +-----------+-------+-------+-------+
        |   test1   | 10.00 | 12.50 | 11.25 |
        +-----------+-------+-------+-------+

    Follows: CHUNYUWANG/lcn-pose evaluate.py:eval.
    Differs: without the lines about progress before the table, which told how far a loop over poses had come.
    """
    lengths = {len(row) for row in rows.values()}
    columns = range(max(lengths, default=1) - 1) if per_joint else ACTIONS
    if lengths != {len(columns) + 1}:
        raise ValueError(f"rows have {sorted(lengths)} errors; give every row {len(columns)} and their mean.")
    cells = [["test_name", *map(str, columns), "avg"]]
    cells += [[name, *(f"{value:.2f}" for value in row)] for name, row in rows.items()]
    widths = [max(map(len, column)) for column in zip(*cells)]
    rule = "+" + "+".join("-" * (width + 2) for width in widths) + "+"
    lines = ["|" + "|".join(f" {_centred(text, width)} " for text, width in zip(row, widths)) + "|" for row in cells]
    return "\n".join([rule, lines[0], rule, *lines[1:], rule])


def _centred(text, width):
    """PrettyTable's centring: of an odd rest, the larger half comes after texts of odd length, before those of even."""
    rest = width - len(text)
    left = rest // 2 + (rest % 2) * (1 - len(text) % 2)
    return " " * left + text + " " * (rest - left)


def _rows(name, values, shape):
    values = np.asarray(values, np.float64)
    if values.shape != shape:
        raise ValueError(f"{name} has the shape {values.shape}; with {shape[0]} poses it must be {shape}.")
    _all_finite(name, values)
    return values


def _all_finite(name, values):
    sound = np.isfinite(values).all(tuple(range(1, values.ndim)))
    if not sound.all():
        number = int(np.flatnonzero(~sound)[0])
        raise ValueError(f"{name} holds NaN or infinity, first at pose number {number}; the truth must be finite.")


def _checked_actions(actions, count):
    actions = np.asarray(actions)
    if actions.shape != (count,) or actions.dtype.kind not in "iu":
        raise ValueError(
            f"actions have the shape {actions.shape} and the dtype {actions.dtype}; give {count} integers."
        )
    actions = actions.astype(np.int64)
    unknown = np.setdiff1d(actions, ACTIONS)
    if len(unknown):
        raise ValueError(f"actions hold {unknown[:5].tolist()}; Human3.6M's are {ACTIONS[0]} to {ACTIONS[-1]}.")
    return actions
