"""Plots of errors: success curves of several methods, curves of every joint, mean errors as bars, errors in training.

Plots are RGB uint8 pictures, written to a file where one is named. Nothing here opens a window.
"""

import numpy as np

from posekit.drawing import save_image

_HEIGHT = 4.2
_GRID = 0.3
_ENOUGH = 0.99
_SHORTEST = 20.0
_ALL = "0.15"


def plot_success_curves(
    curves, path=None, xlabel="allowed error of the worst joint, mm", ylabel="frames, %", title=None
):
    """Plots the share of frames, or of joints, whose error is less than a threshold, for several methods.

    The plot ends where all curves have come to 99 %. A single method needs no legend.

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
    _share_axes(axes, xlabel, ylabel, title, _end(curves.values()))
    if len(curves) > 1:
        axes.legend(frameon=False, loc="lower right", fontsize="small")
    return _drawn(canvas, path)


def plot_joint_curves(
    thresholds, shares, joints, path=None, xlabel="allowed error, mm", ylabel="frames, %", title=None
):
    """Plots the share of frames in which a joint is nearer than a threshold, a curve for every joint.

    Joints of one finger, or of both sides of the body, share a panel; the mean of all joints is dashed in each.

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
    groups = _groups(joints)
    canvas, panels = _panels(len(groups))
    curves = {joint: _curve(joint, thresholds, row) for joint, row in zip(joints, shares)}
    counted = ~np.isnan(shares).all(1)
    mean = _curve("mean", thresholds, shares[counted].mean(0)) if counted.any() else None
    end = _end([(thresholds, row) for row in shares])
    for axes, (group, members) in zip(panels, groups.items()):
        for joint, label in members.items():
            axes.plot(*curves[joint], label=label, linewidth=1.4)
        if mean:
            axes.plot(*mean, label="all joints", color=_ALL, linewidth=1.2, linestyle="--")
        _share_axes(axes, "", "", group, end)
        axes.set_yticks(range(0, 101, 20))
        axes.legend(frameon=False, loc="lower right", fontsize=7.5, handlelength=1.6)
    canvas.figure.supxlabel(xlabel, fontsize="medium")
    canvas.figure.supylabel(ylabel, fontsize="medium")
    canvas.figure.suptitle(title or "", x=0.02, ha="left", fontsize="large")
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
    values = {label: np.asarray(row, np.float64) for label, row in errors.items()}
    for label, row in values.items():
        if row.shape != (len(joints),):
            raise ValueError(f"The errors of {label!r} have the shape {row.shape}; there are {len(joints)} joints.")
    width = 1.4 + max(0.36, 0.2 * len(errors)) * (len(joints) + 1)
    return _bars(values, [joint.replace("_", " ") for joint in joints], width, "{:.1f}".format, path, ylabel, title)


def plot_learning_curves(curves, path=None, xlabel="epoch", ylabel="MPJPE, mm", title=None):
    """Plots how errors fall while networks learn.

    Args:
        curves: Dict of labels to `(x [n], y [n])`; the legend tells the lowest value of each.
        path: Picture to write; none by default.
        xlabel: Under the horizontal axis.
        ylabel: Beside the vertical axis, which is logarithmic where values differ by more than a factor of three.
        title: Above the plot; none by default.

    Returns:
        uint8 `[height, width, 3]`.
    """
    canvas, axes = _figure(6.4)
    seen = np.zeros(0)
    for label, (x, y) in curves.items():
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        finite = np.isfinite(x) & np.isfinite(y)
        seen = np.append(seen, y[finite])
        if finite.any():
            label = f"{label} ({_short(y[finite].min())})"
        marker = "o" if finite.sum() <= 30 else None
        axes.plot(x[finite], y[finite], label=label, linewidth=1.8, marker=marker, markersize=3.5)
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    axes.xaxis.get_major_locator().set_params(integer=True)
    if len(seen) and 0 < 3 * seen.min() < seen.max():
        _logarithmic(axes.yaxis)
    axes.grid(alpha=_GRID)
    if curves:
        axes.legend(frameon=False, loc="upper right", fontsize="small")
    return _drawn(canvas, path)


def plot_errors_by_action(errors, path=None, ylabel="MPJPE, mm", title=None):
    """Plots mean errors of each action as groups of bars, and the mean of the actions last.

    Args:
        errors: Dict of labels, such as protocols, to dicts of actions to errors; an action that one of them lacks
            (None or NaN) gets no bar there.
        path: Picture to write; none by default.
        ylabel: Beside the vertical axis.
        title: Above the plot; none by default.

    Returns:
        uint8 `[height, width, 3]`.
    """
    actions = list(dict.fromkeys(action for values in errors.values() for action in values))
    values = {label: np.array([row.get(action) for action in actions], np.float64) for label, row in errors.items()}
    return _bars(values, actions, 2.0 + 0.5 * (len(actions) + 1), _short, path, ylabel, title)


def _figure(width):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, _HEIGHT), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return FigureCanvasAgg(figure), axes


def _panels(count):
    """A row of plots beside each other for every four of them, which share their axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = max(1, -(-count // 4))
    columns = -(-count // rows) or 1
    size = (0.6 + 2.3 * columns, 0.6 + 2.1 * rows)
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[count:]:
        axes.set_axis_off()
    for axes in panels[max(0, count - columns) : count]:
        axes.tick_params(labelbottom=True)
    return FigureCanvasAgg(figure), panels[:count]


def _bars(errors, names, width, text, path, ylabel, title):
    """Groups of bars, and the mean of each label's last: `errors` are labels to `[names]`, NaN for none."""
    canvas, axes = _figure(max(4.0, width))
    places = np.append(np.arange(len(names)), len(names) + 0.4)
    width = 0.8 / max(len(errors), 1)
    for index, (label, values) in enumerate(errors.items()):
        known = values[np.isfinite(values)]
        heights = np.append(values, known.mean() if len(known) else np.nan)
        there = np.isfinite(heights)
        shift = (index - (len(errors) - 1) / 2) * width
        bars = axes.bar(places + shift, np.where(there, heights, 0.0), 0.92 * width, label=label)
        texts = [text(height) if here else "" for height, here in zip(heights, there)]
        axes.bar_label(bars, texts, fontsize=6.5, padding=2, rotation=90 if len(errors) > 1 else 0)
    axes.set_xticks(places, [*names, "mean"], rotation=40, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set(ylabel=ylabel)
    axes.set_title(title or "", loc="left")
    axes.margins(x=0.01, y=0.12)
    axes.grid(axis="y", alpha=_GRID)
    axes.set_axisbelow(True)
    if len(errors) > 1:
        place = {"loc": "lower right", "bbox_to_anchor": (1.0, 1.0), "borderaxespad": 0.1}
        axes.legend(frameon=False, fontsize="small", ncols=min(len(errors), 4), **place)
    return _drawn(canvas, path)


def _drawn(canvas, path):
    canvas.draw()
    picture = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    if path is not None:
        save_image(path, picture)
    return picture


def _logarithmic(axis):
    """Gives an axis a logarithmic scale with plain numbers."""
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    axis.axes.set_yscale("log")
    axis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))


def _share_axes(axes, xlabel, ylabel, title, end):
    axes.set(xlabel=xlabel, ylabel=ylabel, ylim=(0, 101))
    axes.set_title(title or "", loc="left")
    axes.margins(x=0)
    if end:
        axes.set_xlim(0, end)
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


def _end(curves):
    """Threshold at which all curves of shares have come to 99 %, in tens; the last one where some have not."""
    ends = [_SHORTEST]
    for thresholds, shares in curves:
        thresholds, shares = np.asarray(thresholds, np.float64), np.asarray(shares, np.float64)
        if not len(thresholds) or np.isnan(shares).all():
            continue
        reached = thresholds[np.nan_to_num(shares) >= _ENOUGH]
        ends.append(min(10 * np.ceil(reached[0] / 10), thresholds[-1]) if len(reached) else thresholds[-1])
    return max(ends)


def _names(joints):
    return tuple(map(str, getattr(joints, "joints", joints)))


def _groups(joints):
    """Dict of fingers, or parts of the body, to a dict of their joints to short labels; lone joints are together."""
    parts = {}
    for joint in joints:
        parts.setdefault(_group(joint), []).append(joint)
    groups, lone = {}, {}
    for part, members in parts.items():
        if len(members) == 1:
            lone[members[0]] = members[0].replace("_", " ")
        else:
            groups[part] = {joint: _within(joint, part) for joint in members}
    if lone:
        groups[", ".join(lone.values()) if len(lone) < 4 else "others"] = lone
    return groups


def _within(joint, part):
    """What tells a joint from others of its part: `tip` of `thumb_tip`, `left` of `left_knee`."""
    rest = joint.removesuffix(f"_{part}") if joint.endswith(f"_{part}") else joint.removeprefix(f"{part}_")
    return rest.replace("_", " ")


def _group(joint):
    """Finger or part of the body: `thumb` of `thumb_tip`, `knee` of `left_knee`."""
    for side in ("left_", "right_"):
        if joint.startswith(side):
            return joint.removeprefix(side)
    return joint.partition("_")[0]


def _short(value):
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2g}"
