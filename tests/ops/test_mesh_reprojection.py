"""Mesh reprojection against a NumPy loop and the original's values."""

import sys

import numpy as np
import pytest
import tensorflow as tf

from posekit.ops import native
from posekit.ops.mesh_reprojection import mesh_reprojection
from posekit.testing import load_fixture

pytestmark = pytest.mark.usefixtures("path")


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


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("dtype, rtol", [(np.float32, 1e-5), (np.float64, 1e-12)])
def test_equals_the_loop(dtype, rtol, graph):
    silhouettes, vertices = make_case(dtype)
    call = tf.function(value_and_gradient_graph) if graph else value_and_gradient
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


@pytest.mark.parametrize("far, dtype", [(1e17, "float32"), (1e20, "float32"), (1e30, "float32"), (1e150, "float64")])
def test_vertices_whose_squares_overflow(path, far, dtype):
    silhouettes = np.zeros((2, 5, 6), bool)
    silhouettes[0, 1:3, 2:4] = silhouettes[1, 2, 2] = True
    vertices = np.array([[[far, 1], [2, 3], [-far, far]], [[far, 1], [far, 3], [-far, far]]], dtype)
    vertices_px = tf.constant(vertices)
    with tf.GradientTape() as tape:
        tape.watch(vertices_px)
        to_mesh, to_pixels = mesh_reprojection(silhouettes, vertices_px)
    units = np.array([[[1, 0], [0, 1], [-(0.5**0.5), 0.5**0.5]], [[1, 0], [1, 0], [-(0.5**0.5), 0.5**0.5]]])
    np.testing.assert_allclose(to_pixels / far, [1 + 2**0.5, 2 + 2**0.5], rtol=1e-6)
    np.testing.assert_allclose(tape.gradient(to_pixels, vertices_px), units, atol=1e-6)
    assert float(to_mesh[0]) == 2 + 3 + 1 + 2 and to_mesh[1] > far / 2


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


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (37, 3), (29, 43), (64, 16)])
@pytest.mark.parametrize("density", [0.02, 0.4, 1.0])
def test_images_of_any_form(size, density):
    rng = np.random.default_rng(1)
    silhouettes = (rng.random((2, *size, 1)) < density).astype(np.uint8)
    silhouettes[:, 0, -1] = 1
    vertices = rng.uniform(-8, max(size) + 8, (2, 150, 2))
    for ours, truth in zip(value_and_gradient(silhouettes, vertices), loop(silhouettes, vertices)):
        np.testing.assert_allclose(ours, truth, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size, density", [((3, 4000), 0.01), ((4000, 3), 0.01), ((2, 1500), 1.0), ((190, 180), 0.6)])
def test_outlines_of_noise(size, density):
    """Few pixels far from one another, and so many that several threads sort them."""
    rng = np.random.default_rng(4)
    silhouettes = (rng.random((1, *size, 1)) < density).astype(np.uint8)
    vertices = rng.uniform(-30, np.array(size[::-1]) + 30, (1, 60, 2))
    for ours, truth in zip(value_and_gradient(silhouettes, vertices), loop(silhouettes, vertices)):
        np.testing.assert_allclose(ours, truth, rtol=1e-12, atol=1e-12)


def test_shapes_with_holes_and_vertices_far_away():
    y, x = np.mgrid[:48, :48]
    radius = np.hypot(x - 20, y - 25)
    silhouettes = np.stack([(radius < 18) & (radius > 9), (x + y) % 2 == 0, x == 0])
    rng = np.random.default_rng(2)
    vertices = np.concatenate([rng.uniform(0, 48, (3, 200, 2)), rng.normal(0, 3000, (3, 200, 2))], axis=1)
    for ours, truth in zip(value_and_gradient(silhouettes, vertices), loop(silhouettes[..., None], vertices)):
        np.testing.assert_allclose(ours, truth, rtol=1e-12, atol=1e-12)


def test_vertices_between_pixels():
    """Equally near pixels and vertices: which is chosen is free, how far it is is not."""
    rng = np.random.default_rng(3)
    silhouettes = (rng.random((2, 20, 20, 1)) < 0.5).astype(np.float32)
    vertices = rng.integers(-4, 44, (2, 300, 2)) / 2
    ours, truth = value_and_gradient(silhouettes, vertices), loop(silhouettes, vertices)
    to_pixels = [sum(np.linalg.norm(np.argwhere(s)[:, ::-1] - p, axis=1).min() for p in v)
                 for s, v in zip(silhouettes[..., 0], vertices)]  # fmt: skip
    np.testing.assert_allclose(ours[1], to_pixels)
    np.testing.assert_allclose(ours[1], truth[1])
    assert np.isfinite(ours[2]).all()


def test_no_vertices():
    vertices = tf.zeros([2, 0, 2])
    with tf.GradientTape() as tape:
        tape.watch(vertices)
        sums = mesh_reprojection(np.ones((2, 8, 8), bool), vertices)
    np.testing.assert_array_equal(sums, np.zeros((2, 2)))
    assert tape.gradient(sums, vertices).shape == (2, 0, 2)


def test_unknown_sizes_in_a_graph():
    call = tf.function(mesh_reprojection, input_signature=[tf.TensorSpec([None, None, None, 1]),
                                                           tf.TensorSpec([None, None, 2])])  # fmt: skip
    silhouettes, vertices = make_case(np.float32)
    for ours, expected in zip(call(silhouettes, vertices), loop(silhouettes, vertices)):
        np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_batches_that_disagree_when_the_graph_runs_are_named():
    call = tf.function(mesh_reprojection, input_signature=[tf.TensorSpec([None, 4, 4]), tf.TensorSpec([None, 5, 2])])
    for images, meshes in ((2, 3), (3, 2), (0, 1)):
        with pytest.raises(tf.errors.InvalidArgumentError, match=rf"\[{images},? 4,? 4\].*\[{meshes},? 5,? 2\]"):
            call(np.ones((images, 4, 4), np.float32), np.ones((meshes, 5, 2), np.float32))


def test_second_derivatives():
    silhouettes, vertices = make_case(np.float64, size=12, vertices=6)

    def gradient(vertices, factors):
        with tf.GradientTape() as tape:
            tape.watch(vertices)
            to_mesh, to_pixels = mesh_reprojection(silhouettes, vertices)
            total = tf.reduce_sum(to_mesh * factors[0] + to_pixels * factors[1])
        return tape.gradient(total, vertices)

    factors = tf.constant([[1.0, 0.5, 2.0], [3.0, 1.0, 0.25]], tf.float64)
    theory, numeric = tf.test.compute_gradient(gradient, [tf.constant(vertices), factors], delta=1e-6)
    for ours, expected in zip(theory, numeric):
        np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_any_number_of_threads_gives_the_same(compiled_ops):
    silhouettes, vertices = make_case(np.float32, size=97, vertices=3000)
    found = []
    for threads in (1, 2, 7):
        native.kernels().posekit_set_num_threads(threads)
        found.append(value_and_gradient(silhouettes, vertices))
    for other in found[1:]:
        for one, another in zip(found[0], other):
            np.testing.assert_array_equal(one, another)


def test_input_that_does_not_fit_is_named(compiled_ops):
    masks, vertices = np.ones((2, 4, 4), bool), np.zeros((3, 5, 2), np.float32)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[2, 4, 4\].*\[3, 5, 2\]"):
        compiled_ops.posekit_mesh_reprojection(masks, vertices)
    vertices, factors = vertices[:2], np.ones(2, np.float32)
    pixels, outside = np.zeros((2, 5), np.int32), np.full(32, 5, np.int32)
    for arguments, message in [
        ((outside, pixels, factors, factors), r"nearest_vertex of shape \[32\].*below 5"),
        ((outside - 1, pixels + 16, factors, factors), r"nearest_pixel of shape \[2, 5\].*below 16"),
        ((outside[:-1], pixels, factors, factors), r"shape \[31\] must be 32"),
        ((outside - 1, pixels, factors, factors[:1]), r"\[2\] and \[1\]"),
    ]:
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            compiled_ops.posekit_mesh_reprojection_gradient(masks, vertices, *arguments)
