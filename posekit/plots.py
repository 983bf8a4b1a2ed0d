"""Plots of errors: success curves of several methods, curves of every joint, mean errors as bars.

Plots are RGB uint8 pictures, written to a file where one is named. Nothing here opens a window.
"""

import numpy as np

from posekit.drawing import save_image

_HEIGHT = 4.2
_GRID = 0.3
_STYLES = ("-", "--", "-.", ":")
_ALL = "0.15"


def plot_success_curves(
    curves, path=None, xlabel="allowed error of the worst joint, mm", ylabel="frames, %", title=None
):
    """Plots the share of frames, or of joints, whose error is less than a threshold, for several methods.

    Args:
        curves: Dict of labels, such as methods, to `(thresholds [n], shares [n])`, shares from 0 to 1. Where a share is
            NaN the curve has a gap.
        path: Picture to write; none by default.
        xlabel: Under the horizontal axis.
        ylabel: Beside the vertical axis.
        title: Above the plot; none by default.

    Returns:
        uint8 `[height, width, 3]`.

    Raises:
        ValueError: If thresholds and shares have different lengths.

    Example:
        >>> thresholds = np.arange(81)
        >>> plot_success_curves({"ours": (thresholds, np.minimum(1, thresholds / 40))}).shape
        (462, 704, 3)
    """
    canvas, axes = _figure(6.4)
    for label, (thresholds, shares) in curves.items():
        axes.plot(*_curve(label, thresholds, shares), label=label, linewidth=1.8)
    _share_axes(axes, xlabel, ylabel, title)
    if curves:
        axes.legend(frameon=False, loc="lower right", fontsize="small")
    return _drawn(canvas, path)


def plot_joint_curves(
    thresholds, shares, joints, path=None, xlabel="allowed error, mm", ylabel="frames, %", title=None
):
    """Plots the share of frames in which a joint is nearer than a threshold, a curve for every joint.

    Joints of one finger, or of both sides of the body, share a colour and differ by the kind of line; the mean of the
    joints is black.

    Args:
        thresholds: `[n]`.
        shares: `[joints, n]`, from 0 to 1, as `posekit.metrics.depth_pose.Scores.joint_curves` gives them.
        joints: Names of the joints, or a `Skeleton`.
        path: Picture to write; none by default.
        xlabel: Under the horizontal axis.
        ylabel: Beside the vertical axis.
        title: Above the plot; none by default.

    Returns:
        uint8 `[height, width, 3]`.

    Raises:
        ValueError: If the shapes do not fit each other or the joints.
    """
    joints, shares = _names(joints), np.asarray(shares, np.float64)
    if shares.ndim != 2 or len(shares) != len(joints):
        raise ValueError(f"shares have the shape {shares.shape}; with {len(joints)} joints give [{len(joints)}, n].")
    canvas, axes = _figure(8.2)
    groups, seen = {}, {}
    for joint, row in zip(joints, shares):
        group = _group(joint)
        color, style = groups.setdefault(group, len(groups)), seen.get(group, 0)
        seen[group] = style + 1
        look = {"color": f"C{color % 10}", "linestyle": _STYLES[style % len(_STYLES)], "linewidth": 1.3}
        axes.plot(*_curve(joint, thresholds, row), label=joint.replace("_", " "), **look)
    counted = ~np.isnan(shares).all(1)
    if counted.any():
        axes.plot(*_curve("mean", thresholds, shares[counted].mean(0)), label="mean", color=_ALL, linewidth=2.4)
    _share_axes(axes, xlabel, ylabel, title)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=7.5, handlelength=2.8)
    return _drawn(canvas, path)


def plot_joint_errors(errors, joints, path=None, ylabel="mean error, mm", title=None):
    """Plots the mean error of every joint as bars, of several methods beside each other, and the mean of the joints.

    Args:
        errors: Dict of labels, such as methods, to `[joints]` errors; NaN gets no bar.
        joints: Names of the joints, or a `Skeleton`.
        path: Picture to write; none by default.
        ylabel: Beside the vertical axis.
        title: Above the plot; none by default.

    Returns:
        uint8 `[height, width, 3]`.

    Raises:
        ValueError: If there are not as many errors as joints.
    """
    joints = _names(joints)
    places = np.append(np.arange(len(joints)), len(joints) + 0.4)
    per_joint = max(0.36, 0.2 * len(errors))
    canvas, axes = _figure(max(4.0, 1.4 + per_joint * len(places)))
    width = 0.8 / max(len(errors), 1)
    for index, (label, values) in enumerate(errors.items()):
        values = np.asarray(values, np.float64)
        if values.shape != (len(joints),):
            raise ValueError(f"The errors of {label!r} have the shape {values.shape}; there are {len(joints)} joints.")
        known = values[~np.isnan(values)]
        heights = np.append(values, known.mean() if len(known) else np.nan)
        shift = (index - (len(errors) - 1) / 2) * width
        bars = axes.bar(places + shift, np.nan_to_num(heights), 0.92 * width, label=label)
        texts = ["" if np.isnan(height) else f"{height:.1f}" for height in heights]
        axes.bar_label(bars, texts, fontsize=6.5, padding=2, rotation=90 if len(errors) > 1 else 0)
    names = [joint.replace("_", " ") for joint in joints]
    axes.set_xticks(places, [*names, "mean"], rotation=40, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set(ylabel=ylabel)
    axes.set_title(title or "", loc="left")
    axes.margins(x=0.01, y=0.12)
    axes.grid(axis="y", alpha=_GRID)
    axes.set_axisbelow(True)
    if errors:
        place = {"loc": "lower right", "bbox_to_anchor": (1.0, 1.0), "borderaxespad": 0.1}
        axes.legend(frameon=False, fontsize="small", ncols=min(len(errors), 4), **place)
    return _drawn(canvas, path)


def _figure(width):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, _HEIGHT), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return FigureCanvasAgg(figure), axes


def _drawn(canvas, path):
    canvas.draw()
    picture = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    if path is not None:
        save_image(path, picture)
    return picture


def _share_axes(axes, xlabel, ylabel, title):
    axes.set(xlabel=xlabel, ylabel=ylabel, ylim=(0, 101))
    axes.set_title(title or "", loc="left")
    axes.margins(x=0)
    axes.set_yticks(range(0, 101, 10))
    axes.grid(alpha=_GRID)


def _curve(label, thresholds, shares):
    thresholds, shares = np.asarray(thresholds, np.float64), np.asarray(shares, np.float64)
    if thresholds.ndim != 1 or thresholds.shape != shares.shape:
        raise ValueError(
            f"The curve of {label!r} has thresholds of the shape {thresholds.shape} and shares of {shares.shape}; give "
            "as many of one as of the other."
        )
    return thresholds, 100.0 * shares


def _names(joints):
    return tuple(map(str, getattr(joints, "joints", joints)))


def _group(joint):
    """Finger or part of the body: `thumb` of `thumb_tip`, `knee` of `left_knee`."""
    for side in ("left_", "right_"):
        if joint.startswith(side):
            return joint.removeprefix(side)
    return joint.partition("_")[0]
