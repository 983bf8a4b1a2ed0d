"""Keypoint losses against the original's values and hand-worked numbers."""

import numpy as np
import pytest
import tensorflow as tf

from posekit.losses import keypoint_reprojection_loss, loss_3d
from posekit.testing import load_fixture


def value_and_gradient(truth, prediction):
    prediction = tf.constant(prediction)
    with tf.GradientTape() as tape:
        tape.watch(prediction)
        loss = keypoint_reprojection_loss(truth, prediction)
    return loss.numpy(), tape.gradient(loss, prediction).numpy()


@pytest.mark.parametrize("name", ["mixed", "allvis", "novis", "fracvis", "k14_vis2", "exact_zero_resid"])
def test_original_values(name):
    values = load_fixture("hmr_kp_loss")
    loss, gradient = value_and_gradient(values[f"{name}_gt"], values[f"{name}_pred"])
    np.testing.assert_allclose(loss, values[f"{name}_loss"], rtol=1e-6)
    np.testing.assert_allclose(gradient, values[f"{name}_grad"], atol=1e-7)


def test_unseen_keypoints_are_never_read():
    truth = np.array([[[0, 0, 1], [np.nan, np.inf, 0]]], np.float32)
    loss, gradient = value_and_gradient(truth, np.array([[[1, -2], [5, 5]]], np.float32))
    assert loss == 1.5
    np.testing.assert_array_equal(gradient, [[[0.5, -0.5], [0, 0]]])


def test_empty_batch_is_zero():
    loss, _ = value_and_gradient(np.zeros((0, 19, 3), np.float32), np.zeros((0, 19, 2), np.float32))
    assert loss == 0


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match="do not fit"):
        keypoint_reprojection_loss(np.zeros((2, 19, 3), np.float32), np.zeros((2, 14, 2), np.float32))


def make_3d(batch=3):
    rng = np.random.default_rng(0)
    shapes = {"rotations": (batch, 24, 3, 3), "shape": (batch, 10), "joints": (batch, 19, 3)}
    truth, prediction = ({k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()} for _ in range(2))
    truth["joints"] = truth["joints"][:, :14]
    return truth, prediction


def call_3d(truth, prediction, has_3d, has_joints3d):
    return loss_3d(
        truth["rotations"], tf.constant(prediction["rotations"]), truth["shape"], prediction["shape"], has_3d,
        truth["joints"], prediction["joints"], has_joints3d,
    ).numpy()  # fmt: skip


def test_3d_loss_counts_samples_with_truth_only():
    truth, prediction = make_3d()
    parameters = np.concatenate([(truth[k] - prediction[k])[[0, 2]].reshape(2, -1) for k in ("rotations", "shape")], 1)
    assert parameters.shape == (2, 226)
    joints = [side["joints"][1, :14] - side["joints"][1, 2:4].mean(0) for side in (truth, prediction)]
    expected = 0.5 * np.mean(parameters**2) + 0.5 * np.mean((joints[0] - joints[1]) ** 2)
    truth["rotations"][1] = np.nan
    truth["joints"][[0, 2]] = np.nan
    np.testing.assert_allclose(call_3d(truth, prediction, [1.0, 0, 1], [0.0, 1, 0]), expected, rtol=1e-5)


def test_3d_loss_without_truth_is_zero_and_ignores_translation():
    truth, prediction = make_3d()
    assert call_3d(truth, prediction, [0.0] * 3, [0.0] * 3) == 0
    moved = {**truth, "joints": np.concatenate([truth["joints"] + 5, np.ones((3, 5, 3))], 1).astype(np.float32)}
    np.testing.assert_allclose(call_3d(truth, moved, [1.0] * 3, [1.0] * 3), 0, atol=1e-10)
