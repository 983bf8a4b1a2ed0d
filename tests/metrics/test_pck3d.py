import numpy as np
import pytest

from posekit.metrics import auc3d, pck3d
from posekit.metrics.pck3d import AUC_THRESHOLDS_MM, shares_within


def test_by_hand():
    target = np.zeros((1, 4, 3))
    joints = target.copy()
    joints[0, :, 2] = [0, 149, 150, 400]
    assert pck3d(joints, target, root=None) == 0.5  # 150 mm itself is too far
    assert pck3d(joints + 1000, target) == 0.5
    assert pck3d(joints, target, root=3) == 0.25
    assert pck3d(joints, target, root=None, threshold=1000) == 1
    assert pck3d(joints, target, root=None, visible=[1, 1, 0, 0]) == 1
    assert np.isnan(pck3d(joints, target, visible=np.zeros((1, 4))))


def test_the_area_is_the_mean_over_31_thresholds():
    assert AUC_THRESHOLDS_MM.tolist() == list(range(0, 151, 5))
    target = np.zeros((1, 2, 3))
    assert auc3d(target, target) == 30 / 31
    joints = target.copy()
    joints[0, 1, 0] = 75  # right at 80, 85, … 150
    assert np.isclose(auc3d(joints, target), (30 + 15) / 2 / 31)
    assert auc3d(joints + 500, target, root=None) == 0


def test_equals_a_loop():
    rng = np.random.default_rng(0)
    target = rng.normal(0, 300, (50, 17, 3))
    joints = target + rng.normal(0, 60, target.shape)
    joints[3, 2] = np.nan
    joints[4, 5] = np.inf
    away = np.linalg.norm((joints - joints[:, :1]) - (target - target[:, :1]), axis=-1)
    shares = [np.mean([bool(value < threshold) for value in away.ravel()]) for threshold in range(0, 151, 5)]
    assert np.isclose(pck3d(joints, target), shares[-1]) and np.isclose(auc3d(joints, target), np.mean(shares))
    np.testing.assert_allclose(shares_within(away, AUC_THRESHOLDS_MM), shares)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="one joint order"):
        pck3d(np.zeros((2, 17, 3)), np.zeros((2, 16, 3)))
    with pytest.raises(ValueError, match="rising"):
        auc3d(np.zeros((2, 17, 3)), np.zeros((2, 17, 3)), thresholds=[5, 0])
