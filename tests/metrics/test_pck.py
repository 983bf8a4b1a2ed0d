import numpy as np
import pytest

from posekit.metrics import distance_curve, pck, reference_size
from posekit.skeletons import COCO_PLUS19, LSP14


def test_by_hand():
    target = np.zeros((2, 3, 2))
    points = np.zeros((2, 3, 2))
    points[0, :, 0] = [1, 2, 3]
    points[1, :, 1] = [4, 20, 0]
    # Allowed: 2 in the first picture, 4 in the second; the border counts as right.
    mean, joints = pck(points, target, reference=np.array([10.0, 20.0]), fraction=0.2)
    assert mean == pytest.approx(4 / 6)
    np.testing.assert_allclose(joints, [1, 0.5, 0.5])


def test_only_visible_joints_count():
    points, target = np.full((1, 3, 2), 100.0), np.zeros((1, 3, 2))
    points[0, 0] = 0
    mean, joints = pck(points, target, 10, visible=np.array([[1, 1, 0]]))
    assert mean == 0.5
    np.testing.assert_allclose(joints, [1, 0, np.nan])


def test_what_is_no_number():
    target = np.zeros((3, 2, 2))
    points = target.copy()
    points[0, 0] = np.nan
    mean, _ = pck(points, target, np.array([10.0, np.nan, 0.0]))
    assert mean == 0.5
    nothing, joints = pck(points[:0], target[:0], 10)
    assert np.isnan(nothing)
    assert np.isnan(joints).all()


def test_torso_and_head_by_hand():
    target = np.zeros((1, 14, 2))
    target[0, LSP14.index("left_shoulder")] = [3, 4]
    target[0, LSP14.index("right_shoulder")] = [6, 8]
    target[0, LSP14.index("head_top")] = [0, -2]
    visible = np.ones((1, 14))
    assert reference_size(target, visible, "torso") == 5
    assert reference_size(target, visible, "head") == 2
    visible[0, LSP14.index("left_shoulder")] = 0
    assert reference_size(target, visible, "torso") == 10
    visible[0, LSP14.index("left_hip")] = 0
    assert np.isnan(reference_size(target, visible, "torso"))
    assert reference_size(target, visible, "box") == 10
    assert np.isnan(reference_size(target, np.zeros((1, 14)), "box"))


def test_nineteen_keypoints_start_with_the_fourteen():
    target = np.random.default_rng(0).normal(size=(4, 19, 2))
    np.testing.assert_allclose(
        reference_size(target, kind="torso"), reference_size(target, kind="torso", skeleton=COCO_PLUS19)
    )


def test_curve_by_hand():
    target = np.zeros((1, 4, 2))
    points = np.zeros((1, 4, 2))
    points[0, :, 0] = [0, 1, 2, 3]
    thresholds, shares, area = distance_curve(points, target, thresholds=[0, 1, 2])
    np.testing.assert_allclose(shares, [0.25, 0.5, 0.75])
    assert area == pytest.approx(0.5)
    assert distance_curve(target, target)[2] == 1
    np.testing.assert_allclose(distance_curve(points, target, reference=10)[1][[0, 10, 20, 30]], [0.25, 0.5, 0.75, 1])
    assert len(thresholds) == 3


def test_curve_equals_pck():
    rng = np.random.default_rng(1)
    points, target = rng.normal(size=(2, 6, 14, 2))
    reference = rng.uniform(1, 5, 6)
    visible = rng.random((6, 14)) > 0.3
    thresholds, shares, _ = distance_curve(points, target, reference, visible)
    for threshold, share in zip(thresholds, shares):
        assert share == pck(points, target, reference, visible, fraction=threshold)[0]


def test_wrong_arguments_are_refused():
    points = np.zeros((2, 14, 2))
    with pytest.raises(ValueError, match="one joint order"):
        pck(points, points[:, :13], 1)
    with pytest.raises(ValueError, match="one number or"):
        pck(points, points, np.ones(3))
    with pytest.raises(ValueError, match="'torso', 'head', 'box'"):
        reference_size(points, kind="shoe")
    with pytest.raises(ValueError, match="rising"):
        distance_curve(points, points, thresholds=[1, 1])
