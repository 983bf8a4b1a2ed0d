"""Mesh reprojection loss: the original's value, weights and normalisations."""

import numpy as np
import pytest
import tensorflow as tf

from posekit.losses import mesh_reprojection_loss
from posekit.ops.mesh_reprojection import mesh_reprojection
from posekit.testing import load_fixture


def test_original_value():
    values = load_fixture("hmr_mesh_loss")
    shape = values["b3_32px_seg_shape"]
    silhouettes = np.unpackbits(values["b3_32px_seg_bits"])[: np.prod(shape)].reshape(shape)
    loss = mesh_reprojection_loss(silhouettes, values["b3_32px_pred"])
    np.testing.assert_allclose(loss, values["b3_32px_loss"], rtol=1e-5)


def make_case():
    rng = np.random.default_rng(0)
    silhouettes = (rng.random((3, 16, 16, 1)) > 0.7).astype(np.float32)
    return silhouettes, tf.constant(rng.uniform(0, 16, (3, 25, 2)).astype(np.float32))


def test_normalizations_and_weights():
    silhouettes, vertices = make_case()
    silhouettes[1] = 0
    per_image = sum(mesh_reprojection(silhouettes, vertices)).numpy()
    np.testing.assert_allclose(mesh_reprojection_loss(silhouettes, vertices), per_image.sum() / 28, rtol=1e-6)
    points = silhouettes.sum((1, 2, 3)) + 25
    np.testing.assert_allclose(
        mesh_reprojection_loss(silhouettes, vertices, normalization="points"),
        np.mean(per_image[[0, 2]] / points[[0, 2]]),
        rtol=1e-6,
    )
    weights = np.array([0, 1, 0.5], np.float32)
    np.testing.assert_allclose(
        mesh_reprojection_loss(silhouettes, vertices, weights=weights), 0.5 * per_image[2] / 28, rtol=1e-6
    )
    np.testing.assert_allclose(
        mesh_reprojection_loss(silhouettes, vertices, normalization="points", weights=weights),
        per_image[2] / points[2],
        rtol=1e-6,
    )


@pytest.mark.parametrize("normalization", ["original", "points"])
def test_no_image_counts(normalization):
    silhouettes, vertices = make_case()
    for masks, weights in ((silhouettes, np.zeros(3)), (np.zeros_like(silhouettes), None)):
        with tf.GradientTape() as tape:
            tape.watch(vertices)
            loss = mesh_reprojection_loss(masks, vertices, normalization=normalization, weights=weights)
        assert loss.numpy() == 0
        np.testing.assert_array_equal(tape.gradient(loss, vertices), np.zeros((3, 25, 2)))


def test_images_of_weight_zero_spoil_nothing():
    silhouettes, vertices = make_case()
    spoiled = tf.tensor_scatter_nd_update(vertices, [[1, 3, 0]], [np.nan])
    weights = [1.0, 0.0, 1.0]
    with tf.GradientTape() as tape:
        tape.watch(spoiled)
        loss = mesh_reprojection_loss(silhouettes, spoiled, weights=weights)
    np.testing.assert_allclose(loss, mesh_reprojection_loss(silhouettes, vertices, weights=weights))
    assert np.isfinite(tape.gradient(loss, spoiled)).all()


def test_unknown_normalization_is_named():
    with pytest.raises(ValueError, match="points"):
        mesh_reprojection_loss(*make_case(), normalization="mean")
