import numpy as np
import pytest
import tensorflow as tf

from posekit.geometry import cameras
from posekit.testing import load_fixture


@pytest.fixture(scope="module")
def original():
    return load_fixture("hmr_smpl")


def test_orthographic_projection_equals_the_original(original):
    projected = cameras.orthographic_projection(original["joints"], original["cam"])
    np.testing.assert_allclose(projected, original["proj_joints"], atol=1e-5)


def test_reprojected_vertices_equal_the_original(original):
    ndc = cameras.orthographic_projection(original["verts_sub"], original["cam"])
    np.testing.assert_allclose(cameras.ndc_to_px(ndc, 224), original["reproj_verts_sub"], atol=2e-3)
    # The original multiplies x by the first number of [64, 48] and y by the second.
    np.testing.assert_allclose(cameras.ndc_to_px(ndc, (48, 64)), original["reproj_verts_nonsq_sub"], atol=2e-3)


def test_by_hand():
    points = np.array([[[1.0, 2.0, 9.0]]])
    np.testing.assert_allclose(cameras.orthographic_projection(points, np.array([[0.5, 0.1, -1.0]])), [[[0.55, 0.5]]])
    np.testing.assert_allclose(cameras.ndc_to_px(np.array([-1.0, 0.0]), (100, 200)), [0, 50])
    np.testing.assert_allclose(cameras.px_to_ndc(np.array([200.0, 50.0]), (100, 200)), [1, 0])


def test_px_to_ndc_inverts():
    points = np.random.default_rng(0).uniform(-2, 2, (3, 5, 2))
    back = cameras.px_to_ndc(cameras.ndc_to_px(points, (48, 64)), (48, 64))
    np.testing.assert_allclose(back, points, atol=1e-12)


def test_stages_share_leading_axes():
    points, camera = np.ones((2, 3, 19, 3), np.float32), np.ones((2, 3, 3), np.float32)
    assert cameras.orthographic_projection(points, camera).shape == (2, 3, 19, 2)
    assert cameras.orthographic_projection(tf.zeros((0, 19, 3)), tf.zeros((0, 3))).shape == (0, 19, 2)


def test_pinhole_camera_sees_what_the_weak_one_sees():
    rng = np.random.default_rng(1)
    points = rng.uniform(-0.8, 0.8, (19, 3)) * [1, 1, 0]
    weak = np.array([0.9, 0.1, -0.2])
    translation = np.asarray(cameras.perspective_camera_from_weak(weak, 224, focal_length=500.0))
    np.testing.assert_allclose(translation[:2], weak[1:])
    np.testing.assert_allclose(translation[2], 500 / (0.5 * 224 * 0.9))
    seen = points + translation
    pinhole_px = 500 * seen[:, :2] / seen[:, 2:] + 112
    weak_px = cameras.ndc_to_px(cameras.orthographic_projection(points, weak), 224)
    np.testing.assert_allclose(pinhole_px, weak_px, atol=1e-9)
