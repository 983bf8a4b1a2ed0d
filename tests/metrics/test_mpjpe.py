import numpy as np
import pytest

from posekit.metrics import mpjpe, procrustes_mpjpe


def test_by_hand():
    target = np.zeros((2, 2, 3))
    joints = np.array([[[3.0, 4, 0], [0, 0, 1]], [[0, 0, 0], [2, 0, 0]]])
    np.testing.assert_allclose(mpjpe(joints, target), [3, 1])
    assert mpjpe(joints, target).mean() == 2


def test_root_alignment_by_hand():
    target = np.array([[[1.0, 1, 1], [2, 1, 1]]])
    joints = np.array([[[10.0, 0, 0], [12, 0, 0]]])
    np.testing.assert_allclose(mpjpe(joints, target, root=0), [0.5])
    np.testing.assert_allclose(mpjpe(joints, target, root=(0, 1)), [0.5])


def test_only_visible_joints_count():
    target = np.zeros((2, 3, 3))
    joints = np.zeros((2, 3, 3))
    joints[0, :, 0] = [1, 2, 30]
    visible = np.array([[1, 1, 0], [0, 0, 0]])
    errors = mpjpe(joints, target, visible=visible)
    assert errors[0] == 1.5
    assert np.isnan(errors[1])


def test_procrustes_ignores_place_turn_and_size():
    rng = np.random.default_rng(0)
    target = rng.normal(size=(4, 14, 3))
    moved = 3 * target[..., [1, 2, 0]] + [1, 2, 3]
    np.testing.assert_allclose(procrustes_mpjpe(moved, target), np.zeros(4), atol=1e-12)
    assert (procrustes_mpjpe(moved, target, scale=False) > 0.1).all()
    np.testing.assert_allclose(procrustes_mpjpe(-moved, target, reflection="best"), np.zeros(4), atol=1e-12)
    assert (procrustes_mpjpe(-moved, target) > 0.1).all()


def test_procrustes_by_hand():
    # A unit segment against one of twice its length: equal after scaling, half a unit off at both ends without.
    target, joints = np.array([[[-1.0, 0, 0], [1, 0, 0]]]), np.array([[[0.0, 4, 0], [0, 5, 0]]])
    np.testing.assert_allclose(procrustes_mpjpe(joints, target), [0], atol=1e-12)
    np.testing.assert_allclose(procrustes_mpjpe(joints, target, scale=False), [0.5])


def test_procrustes_aligns_visible_joints_only():
    rng = np.random.default_rng(1)
    target = rng.normal(size=(3, 14, 3))
    joints = 2 * target + 1
    joints[:, 5] = 1e6
    visible = np.ones((3, 14), bool)
    visible[:, 5] = False
    visible[2] = False
    errors = procrustes_mpjpe(joints, target, visible=visible)
    np.testing.assert_allclose(errors[:2], [0, 0], atol=1e-12)
    assert np.isnan(errors[2])


def test_batch_equals_single_samples():
    joints, target = np.random.default_rng(2).normal(size=(2, 5, 14, 3)).astype(np.float32)
    for measure in (mpjpe, procrustes_mpjpe):
        np.testing.assert_allclose(measure(joints, target), [measure(j, t) for j, t in zip(joints, target)])
        assert measure(joints, target).dtype == np.float64
        assert measure(joints[:0], target[:0]).shape == (0,)


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match="one joint order"):
        mpjpe(np.zeros((1, 14, 3)), np.zeros((1, 19, 3)))
