import subprocess
import sys

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


# Calibrated cameras


@pytest.fixture(scope="module")
def lifting():
    return load_fixture("lcn_data_eval")


def test_lens_equals_the_original(lifting):
    rotation, translation = lifting["ppr_R"], lifting["ppr_T"]
    seen = cameras.world_to_camera(lifting["ppr_P"], rotation, translation)
    # The reference was made with these round numbers.
    focal, center = 1145.0, [512.0, 515.0]
    projected = cameras.project(seen, focal, center, lifting["ppr_k"], lifting["ppr_p"])
    np.testing.assert_allclose(projected, lifting["ppr_proj"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(seen[:, 2], lifting["ppr_depth"], rtol=0, atol=1e-6)
    # What the two parts of the distortion and the radius alone do, seen through a camera that only shows them.
    plain = cameras.project(seen, 1.0, [0, 0])
    np.testing.assert_allclose(np.sum(plain**2, -1), lifting["ppr_r2"], rtol=0, atol=1e-6)
    radial = cameras.project(seen, 1.0, [0, 0], lifting["ppr_k"])
    np.testing.assert_allclose(radial, plain * lifting["ppr_radial"][:, None], rtol=0, atol=1e-6)
    tangential = cameras.project(seen, 1.0, [0, 0], None, lifting["ppr_p"])
    shift = lifting["ppr_r2"][:, None] * lifting["ppr_p"][::-1, 0]
    np.testing.assert_allclose(tangential, plain * (1 + lifting["ppr_tan"][:, None]) + shift, rtol=0, atol=1e-6)


def test_camera_frames_equal_the_original(lifting):
    there = cameras.world_to_camera(lifting["ppr_P"], lifting["ppr_R"], lifting["ppr_T"])
    np.testing.assert_allclose(there, lifting["w2c"], rtol=0, atol=1e-6)
    back = cameras.camera_to_world(lifting["ppr_P"], lifting["ppr_R"], lifting["ppr_T"])
    np.testing.assert_allclose(back, lifting["c2w"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(
        cameras.camera_to_world(there, lifting["ppr_R"], lifting["ppr_T"]), lifting["ppr_P"], rtol=0, atol=1e-9
    )


def test_camera_by_hand():
    # A quarter turn about z: the camera's x is the world's y.
    rotation = np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])
    point = np.array([[1.0, 2, 9]])
    np.testing.assert_allclose(cameras.world_to_camera(point, rotation, [0, 0, 5]), [[2, -1, 4]])
    np.testing.assert_allclose(cameras.camera_to_world([[2, -1, 4]], rotation, [[0], [0], [5]]), point)
    # x, y = 0.5, -0.25; r² = 0.3125.
    np.testing.assert_allclose(cameras.project([[2, -1, 4]], [100, 200], [10, 20]), [[60, -30]])
    np.testing.assert_allclose(cameras.project([[2, -1, 4]], 100, [0, 0], [1, 0, 0]), [[65.625, -32.8125]])
    # factor = 1 + 0.1 y + 0.2 x = 1.075; shift = (0.2, 0.1) r².
    np.testing.assert_allclose(cameras.project([[2, -1, 4]], 1, [0, 0], None, [0.1, 0.2]), [[0.6, -0.2375]])


def test_cameras_in_batches():
    rng = np.random.default_rng(3)
    rotation = np.linalg.qr(rng.normal(size=(4, 3, 3)))[0]
    translation, k, p = (rng.normal(size=(4, n)) for n in (3, 3, 2))
    focal, center = rng.uniform(900, 1100, (4, 2)), rng.uniform(400, 600, (4, 2))
    points = rng.normal(size=(4, 7, 3)) + [0, 0, 9]
    seen = cameras.world_to_camera(points, rotation, translation)
    px = cameras.project(points, focal, center, 0.1 * k, 0.01 * p)
    for n in range(4):
        np.testing.assert_allclose(seen[n], (points[n] - translation[n]) @ rotation[n].T)
        one = cameras.project(points[n], focal[n], center[n], 0.1 * k[n][:, None], 0.01 * p[n])
        np.testing.assert_allclose(px[n], one, rtol=1e-12)
    assert cameras.project(np.zeros((0, 3)), 1.0, [0, 0], k[0], p[0]).shape == (0, 2)
    with pytest.raises(ValueError, match=r"must be \[..., 3\]"):
        cameras.project(points, focal, center, [0.1])


def test_calibrated_cameras_do_without_keras():
    code = "import sys; from posekit.geometry import cameras; cameras.project([[1, 1, 1]], 1, [0, 0]); "
    code += "print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert "numpy" in modules and "keras" not in modules and "tensorflow" not in modules
