"""Mesh reprojection against a NumPy loop and the original's values."""

import sys

import numpy as np
import pytest
import tensorflow as tf

from posekit.ops.mesh_reprojection import mesh_reprojection
from posekit.testing import load_fixture


def loop(silhouettes, vertices):
    """Both sums of every image and the gradient of their total, in float64, one point after the other."""
    to_mesh, to_pixels = np.zeros(len(vertices)), np.zeros(len(vertices))
    gradient = np.zeros(vertices.shape)
    for image, (silhouette, points) in enumerate(zip(silhouettes[..., 0], vertices.astype(np.float64))):
        pixels = np.argwhere(silhouette > 0)[:, ::-1].astype(np.float64)
        if not len(pixels):
            continue
        for pixel in pixels:
            chosen = ((points - pixel) ** 2).sum(1).argmin()
            to_mesh[image] += abs(points[chosen] - pixel).sum()
            gradient[image, chosen] += np.sign(points[chosen] - pixel)
        for vertex, point in enumerate(points):
            apart = point - pixels[((pixels - point) ** 2).sum(1).argmin()]
            length = np.sqrt((apart**2).sum())
            to_pixels[image] += length
            gradient[image, vertex] += apart / length if length else 0
    return to_mesh, to_pixels, gradient


def value_and_gradient(silhouettes, vertices):
    vertices = tf.constant(vertices)
    with tf.GradientTape() as tape:
        tape.watch(vertices)
        to_mesh, to_pixels = mesh_reprojection(silhouettes, vertices)
        total = tf.reduce_sum(to_mesh + to_pixels)
    return to_mesh.numpy(), to_pixels.numpy(), tape.gradient(total, vertices).numpy()


def make_case(dtype, batch=3, size=24, vertices=70, seed=0):
    rng = np.random.default_rng(seed)
    silhouettes = (rng.random((batch, size, size, 1)) < [[[[0.3]]], [[[0.05]]], [[[0.9]]]]).astype(np.float32)
    return silhouettes, rng.uniform(-5, size + 5, (batch, vertices, 2)).astype(dtype)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dtype, rtol", [(np.float32, 1e-5), (np.float64, 1e-12)])
def test_equals_the_loop(dtype, rtol, compiled):
    silhouettes, vertices = make_case(dtype)
    call = tf.function(value_and_gradient_graph) if compiled else value_and_gradient
    for ours, truth in zip(call(silhouettes, vertices), loop(silhouettes, vertices)):
        np.testing.assert_allclose(ours, truth, rtol=rtol, atol=10 * rtol)


def value_and_gradient_graph(silhouettes, vertices):
    to_mesh, to_pixels = mesh_reprojection(silhouettes, vertices)
    return to_mesh, to_pixels, tf.gradients(to_mesh + to_pixels, vertices)[0]


def test_numerical_gradient():
    silhouettes, vertices = make_case(np.float64, size=12, vertices=9)
    theory, numeric = tf.test.compute_gradient(
        lambda v: sum(mesh_reprojection(silhouettes, v)), [tf.constant(vertices)], delta=1e-6
    )
    np.testing.assert_allclose(theory[0], numeric[0], atol=1e-4)


def test_exact_hits_have_finite_gradients():
    silhouettes = np.zeros((1, 8, 8, 1), np.float32)
    silhouettes[0, 2:5, 3:6] = 1
    vertices = np.array([[[3.0, 2.0], [4.0, 4.0], [5.25, 3.5]]], np.float32)
    to_mesh, to_pixels, gradient = value_and_gradient(silhouettes, vertices)
    expected = loop(silhouettes, vertices)
    np.testing.assert_allclose(to_mesh, expected[0], rtol=1e-6)
    np.testing.assert_allclose(to_pixels, expected[1], rtol=1e-6)
    np.testing.assert_allclose(gradient, expected[2], atol=1e-6)


@pytest.mark.parametrize("empty", [[0], [1, 2], [0, 1, 2]])
def test_empty_silhouettes_give_zero(empty):
    silhouettes, vertices = make_case(np.float32)
    silhouettes[empty] = 0
    to_mesh, to_pixels, gradient = value_and_gradient(silhouettes, vertices)
    for ours, truth in zip((to_mesh, to_pixels, gradient), loop(silhouettes, vertices)):
        np.testing.assert_allclose(ours, truth, rtol=1e-5, atol=1e-4)
        assert not ours[empty].any()


def test_full_silhouette_and_coincident_vertices():
    silhouettes = np.ones((1, 20, 20, 1), np.uint8)
    vertices = np.full((1, 50, 2), 9.25, np.float32)
    to_mesh, to_pixels, gradient = value_and_gradient(silhouettes, vertices)
    expected = loop(silhouettes, vertices)
    np.testing.assert_allclose([to_mesh[0], to_pixels[0]], [expected[0][0], expected[1][0]], rtol=1e-5)
    # Which of the coincident vertices takes the pixels is free; their sum is not.
    np.testing.assert_allclose(gradient.sum(1), expected[2].sum(1), rtol=1e-5, atol=1e-3)


def test_not_finite_vertices_spoil_their_image_only():
    silhouettes, vertices = make_case(np.float32)
    vertices[1, 4] = np.nan
    to_mesh, to_pixels, _ = value_and_gradient(silhouettes, vertices)
    expected = loop(silhouettes[[0, 2]], vertices[[0, 2]])
    np.testing.assert_allclose(to_mesh[[0, 2]], expected[0], rtol=1e-5)
    np.testing.assert_allclose(to_pixels[[0, 2]], expected[1], rtol=1e-5)
    assert np.isnan(to_pixels[1])


def test_nothing_infinite_on_the_way():
    """TensorFlow's search for the first NaN or infinity finds none in sound input."""
    search = sys.modules["posekit.ops.nearest_neighbors"]._compiled_search
    silhouettes, vertices = make_case(np.float32)
    silhouettes[1] = 0
    silhouettes[2] = 0
    silhouettes[2, 3, 4] = 1
    vertices[0] = 5.0
    search.cache_clear()
    tf.debugging.enable_check_numerics()
    try:
        _, _, gradient = value_and_gradient(silhouettes, vertices)
    finally:
        tf.debugging.disable_check_numerics()
        search.cache_clear()
    assert np.isfinite(gradient).all()


def test_no_image():
    to_mesh, to_pixels = mesh_reprojection(np.zeros((0, 8, 8, 1), np.float32), np.zeros((0, 5, 2), np.float32))
    assert to_mesh.shape == to_pixels.shape == (0,)


def unpack(values, name):
    shape = values[f"{name}seg_shape"]
    return np.unpackbits(values[f"{name}seg_bits"])[: np.prod(shape)].reshape(shape).astype(np.float32)


def assert_original(loss, gradient, expected_loss, expected_gradient, rtol, rows):
    np.testing.assert_allclose(loss, expected_loss, rtol=rtol)
    wrong = (np.abs(gradient - expected_gradient) > 1e-5).any(-1)
    known = np.isfinite(expected_gradient).all(-1)
    assert np.isfinite(gradient).all()
    assert (wrong & known).mean() <= rows, f"{(wrong & known).sum()} rows of {wrong.size} differ"


@pytest.mark.parametrize(
    "name", ["b1_24px", "b3_32px", "exact_hit_nan", "single_pixel", "soft_mask_gt0", "smpl6890_64px"]
)
def test_original_values(name):
    values = load_fixture("hmr_mesh_loss")
    silhouettes = unpack(values, f"{name}_") * (0.004 if name.startswith("soft") else 1)
    vertices = values[f"{name}_pred"]
    to_mesh, to_pixels, gradient = value_and_gradient(silhouettes, vertices)
    divisor = 3 + vertices.shape[1]
    assert_original(
        (to_mesh.sum() + to_pixels.sum()) / divisor,
        gradient / divisor,
        values[f"{name}_loss"],
        values[f"{name}_grad"],
        rtol=1e-5,
        rows=0.005,
    )


def test_original_empty_image_is_no_error():
    values = load_fixture("hmr_mesh_loss")
    to_mesh, to_pixels, gradient = value_and_gradient(unpack(values, "empty_image1_"), values["empty_image1_pred"])
    assert np.isfinite(to_mesh).all() and np.isfinite(to_pixels).all() and np.isfinite(gradient).all()


def test_original_values_at_full_size():
    values = load_fixture("hmr_mesh_loss_224")
    to_mesh, to_pixels, gradient = value_and_gradient(unpack(values, ""), values["pred"])
    per_image = (to_mesh + to_pixels) / 6893
    np.testing.assert_allclose(per_image, values["loss_float64"], rtol=2e-6)
    np.testing.assert_allclose(per_image, values["loss_per_image"], rtol=2e-5)
    assert_original(per_image.sum(), gradient / 6893, values["loss"], values["grad"], rtol=2e-5, rows=0.015)


@pytest.mark.parametrize(
    "silhouettes, vertices, message",
    [
        (np.zeros((2, 8, 8, 3), np.float32), np.zeros((2, 5, 2), np.float32), "silhouettes has shape"),
        (np.zeros((8, 8), np.float32), np.zeros((2, 5, 2), np.float32), "silhouettes has shape"),
        (np.zeros((2, 8, 8, 1), np.float32), np.zeros((2, 5, 3), np.float32), "vertices_px has shape"),
        (np.zeros((2, 8, 8, 1), np.float32), np.zeros((3, 5, 2), np.float32), "one per image"),
        (np.zeros((2, 8, 8, 1), np.float32), np.zeros((2, 5, 2), np.int32), "float32 and float64"),
    ],
)
def test_wrong_input_is_named(silhouettes, vertices, message):
    with pytest.raises(ValueError, match=message):
        mesh_reprojection(silhouettes, vertices)
