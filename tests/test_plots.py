"""Plots of errors: written as they are returned, showing what they are given, and refusing what does not fit."""

import cv2
import numpy as np
import pytest

from posekit import plots
from posekit.plots import (
    plot_errors_by_action,
    plot_joint_curves,
    plot_joint_errors,
    plot_learning_curves,
    plot_success_curves,
)
from posekit.skeletons import ICVL16, ITOP15, MSRA21

THRESHOLDS = np.arange(81.0)
BLUE, ORANGE, BLACK = (31, 119, 180), (255, 127, 14), (38, 38, 38)


def where(picture, color):
    """Rows and columns of the pixels of a colour."""
    return np.nonzero((np.abs(picture.astype(int) - color) <= 2).all(-1))


def share(scale):
    return 1 - np.exp(-THRESHOLDS / scale)


def test_success_curves_of_several_methods(tmp_path):
    path = tmp_path / "success.png"
    curves = {"better": (THRESHOLDS, share(5)), "worse": (THRESHOLDS, share(30))}
    picture = plot_success_curves(curves, path, title="ICVL")
    np.testing.assert_array_equal(cv2.imread(str(path))[..., ::-1], picture)
    assert picture.dtype == np.uint8 and picture.shape == (462, 704, 3)
    middle = slice(150, 250)
    better, worse = (where(picture[:, middle], color)[0].mean() for color in (BLUE, ORANGE))
    assert better + 50 < worse  # higher up
    gap = share(5)
    gap[20:60] = np.nan
    holes = plot_success_curves({"better": (THRESHOLDS, gap)})
    assert 0 < len(where(holes, BLUE)[0]) < len(where(picture, BLUE)[0])
    assert plot_success_curves({}).shape == picture.shape
    with pytest.raises(ValueError, match=r"'better' has thresholds of the shape \(81,\) and shares of \(80,\)"):
        plot_success_curves({"better": (THRESHOLDS, share(5)[1:])})


@pytest.mark.parametrize("skeleton", [ICVL16, MSRA21, ITOP15])
def test_every_joint_has_a_curve(skeleton, monkeypatch):
    from matplotlib.axes import Axes

    drawn, plot = {}, Axes.plot

    def spy(axes, x, y, **kwargs):
        drawn.setdefault(axes, {})[kwargs["label"]] = y
        return plot(axes, x, y, **kwargs)

    monkeypatch.setattr(Axes, "plot", spy)
    shares = np.stack([share(5 + joint) for joint in range(skeleton.num_joints)])
    picture = plot_joint_curves(THRESHOLDS, shares, skeleton)
    assert len(where(picture, BLACK)[0]) > 300  # the mean of the joints
    panels = {axes.get_title(loc="left"): curves for axes, curves in drawn.items()}
    # A panel of at most five curves for every finger, and all joints somewhere.
    assert len(panels) == len(drawn) and max(map(len, panels.values())) <= 5
    assert sum(map(len, panels.values())) == skeleton.num_joints + len(panels)
    part, side = {"ITOP15": ("knee", "left"), "MSRA21": ("thumb", "tip"), "ICVL16": ("thumb", "tip")}[skeleton.name]
    joint = "left_knee" if part == "knee" else "thumb_tip"
    np.testing.assert_allclose(panels[part][side], 100 * shares[skeleton.index(joint)])


@pytest.mark.parametrize("scale, end", [(2, 20), (5, 30), (30, 80)])
def test_plots_of_shares_end_where_all_have_come_to_99_percent(scale, end, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "_drawn", lambda canvas, path: drawn.extend(canvas.figure.axes))
    plot_success_curves({"fast": (THRESHOLDS, share(2)), "slow": (THRESHOLDS, share(scale))})
    plot_joint_curves(THRESHOLDS, np.stack([share(2), share(scale)]), ("wrist", "palm"))
    assert [axes.get_xlim() for axes in drawn] == [(0, end)] * 2


def test_a_single_method_needs_no_legend(monkeypatch):
    from matplotlib.axes import Axes

    legends = []
    monkeypatch.setattr(Axes, "legend", lambda axes, **options: legends.append(axes))
    plot_success_curves({"posekit": (THRESHOLDS, share(5))})
    plot_joint_errors({"posekit": np.full(16, 5.0)}, ICVL16)
    assert not legends


def test_joint_curves_without_some_joints(tmp_path):
    shares = np.stack([share(5), np.full(81, np.nan)])
    picture = plot_joint_curves(THRESHOLDS, shares, ("wrist", "thumb_tip"), tmp_path / "joints.png")
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "joints.png"))[..., ::-1], picture)
    assert plot_joint_curves(THRESHOLDS, shares * np.nan, ("wrist", "thumb_tip")).shape[2] == 3
    with pytest.raises(ValueError, match=r"shape \(2, 81\); with 16 joints give \[16, n\]"):
        plot_joint_curves(THRESHOLDS, shares, ICVL16)
    with pytest.raises(ValueError, match="'wrist' has thresholds"):
        plot_joint_curves(THRESHOLDS[1:], shares, ("wrist", "thumb_tip"))


def test_bars_of_several_methods(tmp_path):
    errors = {"better": np.full(16, 5.0), "worse": np.full(16, 10.0)}
    path = tmp_path / "bars.png"
    picture = plot_joint_errors(errors, ICVL16, path, title="ICVL")
    np.testing.assert_array_equal(cv2.imread(str(path))[..., ::-1], picture)
    below = picture[60:]  # the legend
    better, worse = where(below, BLUE), where(below, ORANGE)
    assert 1.8 < np.ptp(worse[0]) / np.ptp(better[0]) < 2.2
    bars = 1 + (np.diff(np.unique(better[1])) > 1).sum()
    assert bars == 17  # sixteen joints and their mean
    alone = plot_joint_errors({"better": errors["better"]}, MSRA21.joints[:16])
    assert 1 + (np.diff(np.unique(where(alone[60:], BLUE)[1])) > 1).sum() == 17
    unknown = np.full(16, np.nan)
    assert plot_joint_errors({"better": unknown}, ICVL16).shape[0] == picture.shape[0]
    assert plot_joint_errors({}, ICVL16).shape[0] == picture.shape[0]
    with pytest.raises(ValueError, match=r"'better' have the shape \(16,\); there are 21 joints"):
        plot_joint_errors(errors, MSRA21)


def test_curves_and_bars_are_plotted(tmp_path):
    epochs = np.arange(20)
    curves = {f"{hops} hops": (epochs, 60 + 200 / (epochs + hops)) for hops in (1, 2, 3)}
    curves["broken"] = (epochs, np.full(20, np.nan))
    picture = plot_learning_curves(curves, tmp_path / "curves.png", title="Neighbours")
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "curves.png"))[..., ::-1], picture)
    assert picture.shape[2] == 3 and np.ptp(picture.astype(int), axis=-1).max() > 60
    assert plot_learning_curves({}).shape == picture.shape
    errors = {"protocol 1": {"Walking": 40.0, "Sitting": None}, "protocol 2": {"Walking": 30.0, "Eating": 33.0}}
    bars = plot_errors_by_action(errors, tmp_path / "bars.png")
    assert bars.shape[0] == picture.shape[0] and (tmp_path / "bars.png").exists()
    assert plot_errors_by_action({}).shape[2] == 3
